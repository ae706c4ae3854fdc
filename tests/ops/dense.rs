//! The head's linear layer against tools/golden/dense.py.

use crate::common::{Golden, for_each_device};
use llamacare::device::{DType, Device};
use llamacare::ops::adamw::{AdamwConfig, Weights, adamw};
use llamacare::ops::adamw8::{Moment8, adamw8, maps_on};
use llamacare::ops::dense::dense;
use llamacare::ops::grad_norm::grad_norm;
use llamacare::tape::{Factors, Gradient, Param, Tape};
use std::rc::Rc;

/// A parameter of the golden's; `before`, if given, is the gradient already there.
fn param(device: &Device, golden: &Golden, case: &str, name: &str, before: Option<&str>) -> Param {
    let value = golden.upload(device, case, name, DType::F32);
    let grad = match before {
        Some(before) => golden.upload(device, case, before, DType::F32),
        None => device.upload("grad", DType::F32, value.shape(), &vec![f32::NAN; value.n_elems()]).unwrap(),
    };
    let param = Param::new(name, value, grad);
    if before.is_some() {
        param.next_write();
    }
    param
}

#[test]
fn dense_matches_torch() {
    let golden = Golden::load("dense");
    for_each_device(|device| {
        for case in golden.cases() {
            for added in [false, true] {
                let input = |name| golden.upload(device, &case, name, DType::F32);
                let weight = param(device, &golden, &case, "W", added.then_some("dW0"));
                let bias = param(device, &golden, &case, "bias", added.then_some("dbias0"));
                let mut tape = Tape::new(device);
                let x = tape.var(input("x"), true);
                let y = dense(&mut tape, &x, &weight, &bias).unwrap();
                golden.check(device, &case, "y", y.value(), 2.0);
                let mut seeds = vec![(y.id(), input("dy"))];
                if added {
                    seeds.push((x.id(), input("dx0")));
                }
                let dx = tape.backward(seeds).unwrap().take(x.id()).unwrap();
                let name = |plain: &str| format!("{plain}{}", if added { "_added" } else { "" });
                golden.check(device, &case, &name("dx"), &dx, 3.0);
                golden.check(device, &case, &name("dW"), weight.grad.stored().unwrap(), 3.0);
                golden.check(device, &case, &name("dbias"), bias.grad.stored().unwrap(), 3.0);
            }
        }
    });
}

#[test]
fn dense_over_fixed_features_makes_the_gradients_of_its_parameters_alone() {
    let golden = Golden::load("dense");
    for_each_device(|device| {
        let case = "5x1201x13";
        let (weight, bias) = (param(device, &golden, case, "W", None), param(device, &golden, case, "bias", None));
        let mut tape = Tape::new(device);
        let x = tape.var(golden.upload(device, case, "x", DType::F32), false);
        let y = dense(&mut tape, &x, &weight, &bias).unwrap();
        let mut grads = tape.backward(vec![(y.id(), golden.upload(device, case, "dy", DType::F32))]).unwrap();
        assert!(grads.take(x.id()).is_none());
        golden.check(device, case, "dW", weight.grad.stored().unwrap(), 3.0);
        golden.check(device, case, "dbias", bias.grad.stored().unwrap(), 3.0);
    });
}

/// A layer wide enough for several spans of the norm: [13, 1201], and nine rows through it.
const SHAPE: [usize; 2] = [13, 1201];
const ROWS: usize = 9;

fn wave(n: usize, pace: f32) -> Vec<f32> {
    (0..n).map(|i| (i as f32 * pace).sin() * (1 + i % 7) as f32).collect()
}

fn stored(device: &Device) -> Gradient {
    Gradient::Stored(device.upload("grad", DType::F32, &SHAPE, &vec![f32::NAN; SHAPE[0] * SHAPE[1]]).unwrap())
}

fn factors(device: &Device, rows: usize) -> Gradient {
    Gradient::Factors(Rc::new(Factors::new(device, "factors", rows, SHAPE).unwrap()))
}

/// Sends the nine rows through a layer with this gradient, in micro-batches of these sizes; `dy[at]` is replaced by `bad`.
fn backward(
    device: &Device,
    grad: Gradient,
    cuts: &[usize],
    bad: Option<(usize, f32)>,
) -> llamacare::Result<[Param; 2]> {
    let [n_out, n_in] = SHAPE;
    let value = device.upload("W", DType::F32, &SHAPE, &wave(n_out * n_in, 0.7)).unwrap();
    let weight = Param::with("W", value, grad);
    let zeros = |name| device.zeros(name, DType::F32, &[n_out]).unwrap();
    let bias = Param::new("bias", zeros("bias"), zeros("dbias"));
    let (xs, mut dys) = (wave(ROWS * n_in, 1.3), wave(ROWS * n_out, 2.1));
    if let Some((at, value)) = bad {
        dys[at] = value;
    }
    let mut at = 0;
    for &rows in cuts {
        let part = |values: &[f32], n: usize| {
            device.upload("rows", DType::F32, &[rows, n], &values[at * n..(at + rows) * n]).unwrap()
        };
        let mut tape = Tape::new(device);
        let x = tape.var(part(&xs, n_in), true);
        let y = dense(&mut tape, &x, &weight, &bias)?;
        tape.backward(vec![(y.id(), part(&dys, n_out))])?;
        at += rows;
    }
    Ok([weight, bias])
}

#[test]
fn factors_are_the_stored_gradient_bit_for_bit_however_the_rows_are_cut() {
    for_each_device(|device| {
        let [one, bias] = backward(device, stored(device), &[ROWS], None).unwrap();
        let (one, bias) = (one.grad.read_f32().unwrap(), bias.grad.read_f32().unwrap());
        assert!(one.iter().all(|g| g.is_finite()) && one.iter().any(|g| *g != 0.0));
        for cuts in [&[ROWS][..], &[3, 1, 5], &[1; ROWS]] {
            for grad in [stored(device), factors(device, ROWS)] {
                let [weight, b] = backward(device, grad, cuts, None).unwrap();
                assert_eq!(weight.grad.read_f32().unwrap(), one, "{cuts:?}");
                assert_eq!(b.grad.read_f32().unwrap(), bias, "{cuts:?}");
            }
        }
    });
}

/// Norm, weights, moments and copy: the optimiser does not see how a gradient is kept.
#[test]
fn the_optimiser_takes_the_same_step_from_factors() {
    let config = AdamwConfig { lr: 1e-2, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1 };
    let n = SHAPE[0] * SHAPE[1];
    for_each_device(|device| {
        let after = |grad: Gradient, eight: bool| -> Vec<Vec<u8>> {
            let [weight, _] = backward(device, grad, &[4, 5], None).unwrap();
            let grad = match weight.grad {
                Gradient::Stored(dw) => Gradient::Stored(dw.view(&[n])),
                factors => factors,
            };
            let norm = grad_norm(&[&grad], 1.0).unwrap();
            assert!(norm.read().unwrap().clip < 1.0);
            let copy = device.zeros("copy", device.act(), &[n]).unwrap();
            let w = Weights { master: weight.value.view(&[n]), grad, copy: Some(copy.clone()) };
            let mut all = vec![norm.clip(), w.master.clone(), copy];
            if eight {
                let [m, v] = [(); 2].map(|()| Moment8::zeros(device, "moment", n).unwrap());
                adamw8(&w, [&m, &v], &maps_on(device).unwrap(), &config, Some(&norm.clip()), 1).unwrap();
                all.extend([m.codes, m.scales, v.codes, v.scales]);
            } else {
                let [m, v] = [(); 2].map(|()| device.zeros("moment", DType::F32, &[n]).unwrap());
                adamw(&w, [&m, &v], &config, Some(&norm.clip()), 1).unwrap();
                all.extend([m, v]);
            }
            all.iter().map(|t| t.read_bytes().unwrap()).collect()
        };
        for eight in [false, true] {
            assert_eq!(after(stored(device), eight), after(factors(device, ROWS), eight), "8 bits: {eight}");
        }
    });
}

#[test]
fn a_value_that_is_no_number_is_found_in_factors_where_it_is_found_in_a_gradient() {
    for_each_device(|device| {
        // The eighth output of the third row: it spoils that output's weights, 1201 of them.
        for bad in [f32::NAN, f32::INFINITY] {
            let report = |grad| {
                let [weight, _] = backward(device, grad, &[4, 5], Some((2 * SHAPE[0] + 7, bad))).unwrap();
                let r = grad_norm(&[&weight.grad], 1.0).unwrap().read().unwrap();
                (r.n_bad, r.first_bad, r.clip, r.norm.to_bits())
            };
            let found = report(factors(device, ROWS));
            assert_eq!((found.0, found.1, found.2), (SHAPE[1], Some((0, 7 * SHAPE[1])), 0.0));
            assert_eq!(found, report(stored(device)));
        }
    });
}

#[test]
fn more_rows_than_factors_have_room_for_are_refused() {
    let device = Device::cpu(llamacare::device::Compute::Bf16).unwrap();
    let error = backward(&device, factors(&device, 8), &[4, 4, 1], None).unwrap_err().to_string();
    assert!(error.contains("room for 8 sequences an optimiser step, and this step has at least 9"), "{error}");
}

#[test]
fn a_new_step_forgets_the_rows_of_the_last() {
    let device = Device::cpu(llamacare::device::Compute::Bf16).unwrap();
    let [weight, _] = backward(&device, factors(&device, ROWS), &[ROWS], None).unwrap();
    weight.reset();
    assert!(weight.grad.read_f32().unwrap().iter().all(|g| *g == 0.0));
    assert_eq!(grad_norm(&[&weight.grad], 1.0).unwrap().read().unwrap().norm, 0.0);
}

#[test]
fn factors_are_kept_where_they_are_smaller() {
    // The paper's first layer at s = 1200: 393 MB, or 388 KB a row.
    assert!(Factors::are_smaller(1, [1024, 96_000]) && Factors::are_smaller(1013, [1024, 96_000]));
    assert!(!Factors::are_smaller(1014, [1024, 96_000]));
    assert!(!Factors::are_smaller(2, [4, 4]) && Factors::are_smaller(1, [4, 4]));
}
