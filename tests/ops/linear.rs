//! Linear layers with LoRA over NF4 against tools/golden/linear.py; dropout, writes and roads against each other.

use crate::common::{Golden, for_each_device};
use llamacare::device::{Compute, DType, Device, Tensor};
use llamacare::ops::decoder::Decoder;
use llamacare::ops::dropout::Dropout;
use llamacare::ops::linear::{Linear, Lora, Through, Weight, linear, padded_rank};
use llamacare::ops::nf4::{Nf4Weight, nested_map_on};
use llamacare::tape::{Param, Tape, Var};
use std::cell::RefCell;
use std::rc::Rc;

const N_LAYERS: usize = 3;

/// [r, n] with zero rows below, or [n, r] with zero columns to the right: up to the padded rank.
fn padded(values: &[f32], rows: usize, columns: usize, to_rows: usize, to_columns: usize) -> Vec<f32> {
    let mut out = vec![0.0; to_rows * to_columns];
    for r in 0..rows {
        out[r * to_columns..][..columns].copy_from_slice(&values[r * columns..][..columns]);
    }
    out
}

fn param(device: &Device, name: &str, shape: &[usize], values: &[f32]) -> Param {
    let value = device.upload(name, device.act(), shape, values).unwrap();
    // NaN: a gradient that is added to before it was ever set shows.
    let grad = device.upload("gradient", DType::F32, shape, &vec![f32::NAN; values.len()]).unwrap();
    Param::new(name, value, grad)
}

/// LoRA of the golden's layer i, its rank padded.
pub(super) fn lora(device: &Device, golden: &Golden, case: &str, i: usize) -> Lora {
    let (a, b) = (format!("a{i}"), format!("b{i}"));
    let ([rank, n_in], [n_out, _]) = (golden.shape(case, &a), golden.shape(case, &b)) else { panic!("two axes") };
    let r = padded_rank(*rank);
    Lora {
        a: param(device, &a, &[r, *n_in], &padded(&golden.floats(case, &a), *rank, *n_in, r, *n_in)),
        b: param(device, &b, &[*n_out, r], &padded(&golden.floats(case, &b), *n_out, *rank, *n_out, r)),
        rank: *rank,
        scale: golden.floats(case, "scale")[0],
    }
}

/// The golden's layers; the base in NF4 or, decoded, dense.
fn layers(device: &Device, golden: &Golden, case: &str, dense: bool) -> Vec<Linear> {
    let map = nested_map_on(device).unwrap();
    let decoder = Rc::new(RefCell::new(Decoder::new(device, 1 << 20).unwrap()));
    let layer = |i: usize| {
        let w = golden.upload(device, case, &format!("w{i}"), DType::F32);
        let w = Nf4Weight::quantize(&w, Some(&map)).unwrap();
        let w = if dense { Weight::Dense(w.dequantize("w").unwrap()) } else { Weight::Nf4(w, decoder.clone()) };
        Linear::new(format!("layer{i}"), w, Some(lora(device, golden, case, i))).unwrap()
    };
    (0..N_LAYERS).map(layer).collect()
}

/// The part of a padded gradient that is not padding; the padding must be zero.
pub(super) fn unpadded(device: &Device, grad: &Tensor, rows: usize, columns: usize) -> Tensor {
    let to_columns = grad.shape()[1];
    let values = grad.read_f32().unwrap();
    let mut inside = Vec::new();
    for (at, v) in values.into_iter().enumerate() {
        if at / to_columns < rows && at % to_columns < columns {
            inside.push(v);
        } else {
            assert_eq!(v, 0.0, "padding of {} at {at}", grad.name());
        }
    }
    device.upload(grad.name(), DType::F32, &[rows, columns], &inside).unwrap()
}

pub(super) fn run(
    device: &Device,
    layers: &[Linear],
    x: &Tensor,
    dys: &[Tensor],
    dropout: Option<Dropout>,
) -> (Vec<Var>, Tensor) {
    let mut tape = Tape::new(device);
    let x = tape.var(x.clone(), true);
    let ys =
        linear(&mut tape, &x, &layers.iter().collect::<Vec<_>>(), Through { dropout, ..Through::plain("y") }).unwrap();
    let seeds = ys.iter().zip(dys).map(|(y, dy)| (y.id(), dy.clone())).collect();
    let dx = tape.backward(seeds).unwrap().take(x.id()).unwrap();
    (ys, dx)
}

fn inputs(device: &Device, golden: &Golden, case: &str) -> (Tensor, Vec<Tensor>) {
    let dys = (0..N_LAYERS).map(|i| golden.act(device, case, &format!("dy{i}"))).collect();
    (golden.act(device, case, "x"), dys)
}

#[test]
fn linear_with_lora_matches_torch() {
    let golden = Golden::load("linear");
    for_each_device(|device| {
        for case in golden.cases() {
            for dense in [false, true] {
                let layers = layers(device, &golden, &case, dense);
                let (x, dys) = inputs(device, &golden, &case);
                let (ys, dx) = run(device, &layers, &x, &dys, None);
                golden.check(device, &case, "dx", &dx, 3.0);
                for (i, (layer, y)) in layers.iter().zip(&ys).enumerate() {
                    golden.check(device, &case, &format!("y{i}"), y.value(), 2.0);
                    let Lora { a, b, rank, .. } = layer.lora.as_ref().unwrap();
                    let (da, db) = (
                        unpadded(device, a.grad.stored().unwrap(), *rank, layer.n_in),
                        unpadded(device, b.grad.stored().unwrap(), layer.n_out, *rank),
                    );
                    golden.check(device, &case, &format!("da{i}"), &da, 3.0);
                    golden.check(device, &case, &format!("db{i}"), &db, 3.0);
                }
            }
        }
    });
}

#[test]
fn a_second_backward_adds_and_a_reset_sets_again() {
    let golden = Golden::load("linear");
    for_each_device(|device| {
        let case = "T7_r16";
        let layers = layers(device, &golden, case, false);
        let (x, dys) = inputs(device, &golden, case);
        let Lora { a, b, .. } = layers[1].lora.as_ref().unwrap();
        let gradients = || [a, b].map(|p| p.grad.read_f32().unwrap());
        run(device, &layers, &x, &dys, None);
        let once = gradients();
        run(device, &layers, &x, &dys, None);
        let twice = once.clone().map(|g| g.iter().map(|v| v + v).collect::<Vec<f32>>());
        assert_eq!(gradients(), twice);
        a.reset();
        b.reset();
        run(device, &layers, &x, &dys, None);
        assert_eq!(gradients(), once);
    });
}

#[test]
fn layers_that_share_an_input_share_launches_and_a_decoding_and_not_a_bit_changes() {
    let golden = Golden::load("linear");
    for_each_device(|device| {
        for case in ["T33_r8", "T7_r16"] {
            let (x, dys) = inputs(device, &golden, case);
            for dropout in [None, Some(Dropout { p: 0.3, seed: 77, step: 5, tensor: 20 })] {
                // One node, and a node for each.
                let (together, alone) = (layers(device, &golden, case, false), layers(device, &golden, case, false));
                let gradients = |l: &Linear| {
                    let Lora { a, b, .. } = l.lora.as_ref().unwrap();
                    [a, b].map(|p| p.grad.read_f32().unwrap())
                };
                let (ys, _) = run(device, &together, &x, &dys, dropout);
                let Weight::Nf4(_, decoder) = &together[0].weight else { panic!("NF4") };
                // Forward, unless so few tokens are multiplied without decoding, and backward.
                let few = case.starts_with("T7");
                assert_eq!(decoder.borrow().late().0, if few { 1 } else { 2 }, "{case}");
                for (i, layer) in alone.into_iter().enumerate() {
                    let mask = dropout.map(|d| d.nth(i));
                    let (y, _) = run(device, std::slice::from_ref(&layer), &x, &dys[i..=i], mask);
                    let what = format!("{case} layer {i} on {}", device.name());
                    assert_eq!(y[0].value().read_bytes().unwrap(), ys[i].value().read_bytes().unwrap(), "{what}");
                    assert_eq!(gradients(&layer), gradients(&together[i]), "{what}");
                }
            }
        }
    });
}

/// rows x columns by a plain loop in fp64: out[i][j] = sum_k a(i, k) b(k, j).
fn product(m: usize, n: usize, k: usize, a: impl Fn(usize, usize) -> f64, b: impl Fn(usize, usize) -> f64) -> Vec<f64> {
    (0..m * n).map(|e| (0..k).map(|j| a(e / n, j) * b(j, e % n)).sum()).collect()
}

fn assert_near(got: &Tensor, want: &[f64], what: &str) {
    // fp32: accumulation order. bf16: the roundings of U, V and the result, measured 0.3 to 0.5 %.
    let limit = if matches!(got.device().act(), DType::F32) { 1e-5 } else { 1e-2 };
    let values = got.read_f32().unwrap();
    assert_eq!(values.len(), want.len(), "{what}");
    let off: f64 = values.iter().zip(want).map(|(&g, w)| (f64::from(g) - w).powi(2)).sum();
    let error = (off / want.iter().map(|w| w * w).sum::<f64>()).sqrt();
    assert!(error <= limit, "{what} on {}: {error:.2e}", got.device().name());
}

#[test]
fn dropout_acts_on_what_lora_reads_with_a_mask_for_each_layer() {
    let golden = Golden::load("linear");
    for_each_device(|device| {
        let case = "T33_r8";
        let layers = layers(device, &golden, case, true);
        let (x, dys) = inputs(device, &golden, case);
        let [t, c] = x.dims("x").unwrap();
        let d = Dropout { p: 0.3, seed: 77, step: 5, tensor: 20 };
        let (ys, dx) = run(device, &layers, &x, &dys, Some(d));
        let ones = device.upload("ones", device.act(), &[t, c], &vec![1.0; t * c]).unwrap();
        let xs: Vec<f64> = x.read_f32().unwrap().into_iter().map(f64::from).collect();
        let mut want_dx = vec![0.0; t * c];
        for (i, layer) in layers.iter().enumerate() {
            let read = |t: &Tensor| -> Vec<f64> { t.read_f32().unwrap().into_iter().map(f64::from).collect() };
            let Weight::Dense(w) = &layer.weight else { panic!("dense") };
            let Lora { a, b, scale, .. } = layer.lora.as_ref().unwrap();
            let (w, av, bv, dy, s) = (read(w), read(&a.value), read(&b.value), read(&dys[i]), f64::from(*scale));
            let (n, r) = (layer.n_out, padded_rank(8));
            // The mask as numbers 0 and 1; in bf16 1 / (1 - p) would be rounded.
            let mask: Vec<f64> = d
                .nth(i)
                .of(&ones)
                .unwrap()
                .read_f32()
                .unwrap()
                .iter()
                .map(|&v| if v > 0.0 { 1.0 / 0.7 } else { 0.0 })
                .collect();
            let xd = |row: usize, k: usize| xs[row * c + k] * mask[row * c + k];
            let u = product(t, r, c, xd, |k, j| s * av[j * c + k]);
            let base = product(t, n, c, |i, k| xs[i * c + k], |k, j| w[j * c + k]);
            let lora = product(t, n, r, |i, k| u[i * r + k], |k, j| bv[j * r + k]);
            let y: Vec<f64> = base.iter().zip(&lora).map(|(p, q)| p + q).collect();
            assert_near(ys[i].value(), &y, &format!("y{i}"));
            let v = product(t, r, n, |i, k| dy[i * n + k], |k, j| s * bv[k * r + j]);
            assert_near(a.grad.stored().unwrap(), &product(r, c, t, |i, k| v[k * r + i], xd), &format!("da{i}"));
            assert_near(
                b.grad.stored().unwrap(),
                &product(n, r, t, |i, k| dy[k * n + i], |k, j| u[k * r + j]),
                &format!("db{i}"),
            );
            let through_w = product(t, c, n, |i, k| dy[i * n + k], |k, j| w[k * c + j]);
            let through_lora = product(t, c, r, |i, k| v[i * r + k], |k, j| av[k * c + j]);
            for e in 0..t * c {
                want_dx[e] += through_w[e] + through_lora[e] * mask[e];
            }
        }
        assert_near(&dx, &want_dx, "dx");
        // Recompute: the same bytes; another step: other bytes.
        let (again, _) = run(device, &layers, &x, &dys, Some(d));
        let (other, _) = run(device, &layers, &x, &dys, Some(Dropout { step: 6, ..d }));
        let bytes = |ys: &[Var]| ys[0].value().read_bytes().unwrap();
        assert_eq!(bytes(&again), bytes(&ys));
        assert_ne!(bytes(&other), bytes(&ys));
    });
}

#[test]
fn without_lora_only_the_input_gets_a_gradient() {
    let golden = Golden::load("linear");
    for_each_device(|device| {
        let case = "T7_r1";
        let (x, dys) = inputs(device, &golden, case);
        let frozen: Vec<Linear> = layers(device, &golden, case, true)
            .into_iter()
            .map(|l| Linear::new(l.name, l.weight, None).unwrap())
            .collect();
        let (_, dx) = run(device, &frozen, &x, &dys, None);
        let [t, c] = x.dims("x").unwrap();
        let mut want = vec![0.0; t * c];
        for (layer, dy) in frozen.iter().zip(&dys) {
            let Weight::Dense(w) = &layer.weight else { panic!("dense") };
            let (w, dy, n) = (w.read_f32().unwrap(), dy.read_f32().unwrap(), layer.n_out);
            let part = product(t, c, n, |i, k| f64::from(dy[i * n + k]), |k, j| f64::from(w[k * c + j]));
            want.iter_mut().zip(part).for_each(|(w, p)| *w += p);
        }
        assert_near(&dx, &want, "dx");
        // And with nothing trainable anywhere, nothing is recorded.
        let mut tape = Tape::new(device);
        let x = tape.var(x, false);
        let ys = linear(&mut tape, &x, &frozen.iter().collect::<Vec<_>>(), Through::plain("y")).unwrap();
        assert!(ys.iter().all(|y| !y.needs_grad()) && tape.n_nodes() == 0);
    });
}

#[test]
fn the_first_layer_of_a_model_trains_without_a_gradient_of_its_input() {
    let golden = Golden::load("linear");
    for_each_device(|device| {
        let case = "T7_r16";
        let layers = layers(device, &golden, case, false);
        let (x, dys) = inputs(device, &golden, case);
        let mut tape = Tape::new(device);
        let x = tape.var(x, false);
        let ys = linear(&mut tape, &x, &layers.iter().collect::<Vec<_>>(), Through::plain("y")).unwrap();
        let seeds = ys.iter().zip(dys).map(|(y, dy)| (y.id(), dy)).collect();
        assert!(tape.backward(seeds).unwrap().take(x.id()).is_none());
        let Lora { a, .. } = layers[0].lora.as_ref().unwrap();
        golden.check(device, case, "da0", a.grad.stored().unwrap(), 3.0);
    });
}

#[test]
fn what_does_not_fit_is_refused_with_the_name_of_the_layer() {
    let device = Device::cpu(Compute::Bf16).unwrap();
    let w = || Weight::Dense(device.zeros("q_proj", device.act(), &[24, 16]).unwrap());
    let lora = |r| Lora {
        a: param(&device, "A", &[r, 16], &vec![0.0; r * 16]),
        b: param(&device, "B", &[24, r], &vec![0.0; r * 24]),
        rank: 8,
        scale: 2.0,
    };
    let error = Linear::new("q_proj", w(), Some(lora(8))).unwrap_err().to_string();
    assert_eq!(error, "q_proj lora_A: expected Bf16 [16, 16], `A` is Bf16 [8, 16]");
    let layer = Linear::new("q_proj", w(), Some(lora(16))).unwrap();
    let mut tape = Tape::new(&device);
    let x = tape.var(device.zeros("x", device.act(), &[3, 32]).unwrap(), true);
    let error = linear(&mut tape, &x, &[&layer], Through::plain("y")).unwrap_err().to_string();
    assert_eq!(error, "q_proj: expected an input of 16 features, found 32");
}
