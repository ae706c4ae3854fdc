//! The head's linear layer against tools/golden/dense.py.

use crate::common::{Golden, for_each_device};
use llamacare::device::{DType, Device};
use llamacare::ops::dense::dense;
use llamacare::tape::{Param, Tape};

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
