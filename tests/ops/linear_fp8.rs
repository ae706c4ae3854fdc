//! Linears whose frozen products are in e4m3 against tools/golden/linear_fp8.py, and against themselves in another order.

use super::linear::{lora, run, unpadded};
use crate::common::{Golden, for_each_device};
use llamacare::device::{DType, Device, Tensor};
use llamacare::ops::decoder::Decoder;
use llamacare::ops::dropout::Dropout;
use llamacare::ops::fp8::Fp8Scales;
use llamacare::ops::linear::{Linear, Lora, Outputs, Through, Weight, linear};
use llamacare::ops::nf4::{Nf4Weight, nested_map_on};
use llamacare::tape::Tape;
use std::cell::RefCell;
use std::rc::Rc;

const N_LAYERS: usize = 3;

/// The golden's layers; those of `dense` multiplied in the storage type.
fn layers(device: &Device, golden: &Golden, case: &str, dense: &[usize]) -> Vec<Linear> {
    let map = nested_map_on(device).unwrap();
    let decoder = Rc::new(RefCell::new(Decoder::of(device, DType::U8, 1 << 20).unwrap()));
    let layer = |i: usize| {
        let w = Nf4Weight::quantize(&golden.upload(device, case, &format!("w{i}"), DType::F32), Some(&map)).unwrap();
        let weight = match dense.contains(&i) {
            true => Weight::Dense(w.dequantize("w").unwrap()),
            false => Weight::Fp8(w.clone(), Fp8Scales::of(&w).unwrap(), decoder.clone()),
        };
        Linear::new(format!("layer{i}"), weight, Some(lora(device, golden, case, i))).unwrap()
    };
    (0..N_LAYERS).map(layer).collect()
}

fn inputs(device: &Device, golden: &Golden, case: &str) -> (Tensor, Vec<Tensor>) {
    let dys = (0..N_LAYERS).map(|i| golden.act(device, case, &format!("dy{i}"))).collect();
    (golden.act(device, case, "x"), dys)
}

fn for_each_fp8_device(test: impl Fn(&Device)) {
    for_each_device(|device| match device.expect_fp8() {
        Ok(()) => test(device),
        Err(reason) => println!("not on {}: {reason}", device.name()),
    });
}

#[test]
fn linears_in_8_bits_match_torchs_e4m3() {
    let golden = Golden::load("linear_fp8");
    for_each_fp8_device(|device| {
        for case in golden.cases() {
            let layers = layers(device, &golden, &case, &[]);
            let (x, dys) = inputs(device, &golden, &case);
            let (ys, dx) = run(device, &layers, &x, &dys, None);
            golden.check(device, &case, "dx", &dx, 3.0);
            golden.check(device, &case, "dx_as8", &dx, 3.0);
            for (i, (layer, y)) in layers.iter().zip(&ys).enumerate() {
                golden.check(device, &case, &format!("y{i}"), y.value(), 2.0);
                golden.check(device, &case, &format!("y{i}_as8"), y.value(), 2.0);
                // What trains is not in 8 bits.
                let Lora { a, b, rank, .. } = layer.lora.as_ref().unwrap();
                let da = unpadded(device, a.grad.stored().unwrap(), *rank, layer.n_in);
                let db = unpadded(device, b.grad.stored().unwrap(), layer.n_out, *rank);
                golden.check(device, &case, &format!("da{i}"), &da, 3.0);
                golden.check(device, &case, &format!("db{i}"), &db, 3.0);
            }
            let of = |name: &str| golden.torch_error(&case, name);
            println!("{case}: e4m3 moves y0 by {:.1e}, dx by {:.1e}; bf16 {:.1e}", of("y0"), of("dx"), of("dx_as8"));
            // The two truths are apart: a build that forgot about e4m3 would meet the first and miss the second.
            assert!(of("y0") > 5.0 * of("y0_as8") && of("dx") > 5.0 * of("dx_as8"));
        }
    });
}

#[test]
fn a_layer_in_the_storage_type_shares_the_node() {
    let golden = Golden::load("linear_fp8");
    for_each_fp8_device(|device| {
        for dense in [[0], [1], [2]] {
            let layers = layers(device, &golden, "T33_r8", &dense);
            let (x, dys) = inputs(device, &golden, "T33_r8");
            let (ys, dx) = run(device, &layers, &x, &dys, None);
            golden.check(device, "T33_r8", "dx", &dx, 3.0);
            for (i, y) in ys.iter().enumerate() {
                golden.check(device, "T33_r8", &format!("y{i}"), y.value(), 2.0);
            }
        }
    });
}

#[test]
fn together_or_alone_kept_or_made_again_not_a_bit_changes() {
    let golden = Golden::load("linear_fp8");
    for_each_fp8_device(|device| {
        for case in golden.cases() {
            let (x, dys) = inputs(device, &golden, &case);
            for dropout in [None, Some(Dropout { p: 0.3, seed: 77, step: 5, tensor: 20 })] {
                let (together, alone) = (layers(device, &golden, &case, &[]), layers(device, &golden, &case, &[]));
                let (ys, dx) = run(device, &together, &x, &dys, dropout);
                let (_, again) = run(device, &together, &x, &dys, dropout);
                assert_eq!(dx.read_bytes().unwrap(), again.read_bytes().unwrap(), "{case} twice");
                for (i, layer) in alone.iter().enumerate() {
                    let (y, _) = run(device, std::slice::from_ref(layer), &x, &dys[i..=i], dropout.map(|d| d.nth(i)));
                    assert_eq!(y[0].value().read_bytes().unwrap(), ys[i].value().read_bytes().unwrap(), "{case} {i}");
                    let mut tape = Tape::new(device);
                    let x = tape.var(x.clone(), true);
                    let through =
                        Through { dropout: dropout.map(|d| d.nth(i)), outputs: Outputs::MadeAgain, name: "y" };
                    let y = linear(&mut tape, &x, &[layer], through).unwrap();
                    let made = y[0].save().value().unwrap();
                    assert_eq!(
                        made.read_bytes().unwrap(),
                        ys[i].value().read_bytes().unwrap(),
                        "{case} {i}, made again"
                    );
                }
            }
        }
    });
}

#[test]
fn the_gradient_of_an_input_read_twice_is_a_sum() {
    let golden = Golden::load("linear_fp8");
    for_each_fp8_device(|device| {
        let layers = layers(device, &golden, "T33_r8", &[]);
        let (x, dys) = inputs(device, &golden, "T33_r8");
        let mut tape = Tape::new(device);
        let x = tape.var(x, true);
        let mut ys = linear(&mut tape, &x, &[&layers[0], &layers[1]], Through::plain("y")).unwrap();
        ys.extend(linear(&mut tape, &x, &[&layers[2]], Through::plain("y")).unwrap());
        let seeds = ys.iter().zip(&dys).map(|(y, dy)| (y.id(), dy.clone())).collect();
        let dx = tape.backward(seeds).unwrap().take(x.id()).unwrap();
        golden.check(device, "T33_r8", "dx_as8", &dx, 3.0);
    });
}

#[test]
fn a_few_tokens_are_multiplied_as_without_fp8() {
    let golden = Golden::load("linear_fp8");
    for_each_fp8_device(|device| {
        let (x, _) = inputs(device, &golden, "T33_r8");
        let x = x.rows(0, 5);
        let eight = layers(device, &golden, "T33_r8", &[]);
        let y = |weight: Weight| {
            let layer = Linear::new("one", weight, None).unwrap();
            let mut tape = Tape::inference(device);
            let x = tape.var(x.clone(), false);
            linear(&mut tape, &x, &[&layer], Through::plain("y")).unwrap()[0].value().read_bytes().unwrap()
        };
        let Weight::Fp8(w, ..) = &eight[0].weight else { panic!("8 bits") };
        let plain = Rc::new(RefCell::new(Decoder::new(device, 1 << 20).unwrap()));
        assert_eq!(y(eight[0].weight.clone()), y(Weight::Nf4(w.clone(), plain)));
    });
}
