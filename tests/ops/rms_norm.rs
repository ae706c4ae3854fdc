//! RMSNorm against tools/golden/rms_norm.py.

use crate::common::{Golden, for_each_device};
use llamacare::device::Device;
use llamacare::ops::rms_norm::rms_norm;
use llamacare::tape::Tape;

const EPS: f32 = 1e-5;

#[test]
fn rms_norm_matches_torch() {
    let golden = Golden::load("rms_norm");
    for_each_device(|device| {
        for case in golden.cases() {
            forward_and_backward(device, &golden, &case);
        }
    });
}

fn forward_and_backward(device: &Device, golden: &Golden, case: &str) {
    let input = |name| golden.act(device, case, name);
    for with_gradient_from_above in [false, true] {
        let mut tape = Tape::new(device);
        let (x, residual) = (tape.var(input("x"), true), tape.var(input("residual"), true));
        let (h, y) = rms_norm(&mut tape, &x, Some(&residual), &input("w"), EPS).unwrap();
        golden.check(device, case, "h", h.value(), 2.0);
        golden.check(device, case, "y", y.value(), 2.0);
        let mut seeds = vec![(y.id(), input("dy"))];
        if with_gradient_from_above {
            seeds.push((h.id(), input("dh_above")));
        }
        let mut grads = tape.backward(seeds).unwrap();
        let name = if with_gradient_from_above { "dh_added" } else { "dh" };
        golden.check(device, case, name, &grads.take(x.id()).unwrap(), 3.0);
        golden.check(device, case, name, &grads.take(residual.id()).unwrap(), 3.0);
    }
}

#[test]
fn without_a_residual_the_input_itself_is_normalised() {
    let golden = Golden::load("rms_norm");
    for_each_device(|device| {
        let case = "7x72";
        let mut tape = Tape::new(device);
        // The golden's sum as input: the same y must come out.
        let x = tape.var(golden.act(device, case, "x"), true);
        let residual = tape.var(golden.act(device, case, "residual"), true);
        let w = golden.act(device, case, "w");
        let (h, y) = rms_norm(&mut tape, &x, Some(&residual), &w, EPS).unwrap();
        let (same, again) = rms_norm(&mut tape, &h, None, &w, EPS).unwrap();
        assert_eq!(same.id(), h.id());
        assert_eq!(again.value().read_bytes().unwrap(), y.value().read_bytes().unwrap());
    });
}

#[test]
fn a_wrong_shape_is_refused_with_its_name() {
    let device = Device::cpu(llamacare::device::Compute::Bf16).unwrap();
    let mut tape = Tape::new(&device);
    let x = tape.var(device.zeros("x", device.act(), &[3, 16]).unwrap(), true);
    let w = device.zeros("w", device.act(), &[8]).unwrap();
    let error = rms_norm(&mut tape, &x, None, &w, EPS).unwrap_err().to_string();
    assert_eq!(error, "rms_norm w: expected Bf16 [16], `w` is Bf16 [8]");
    let x = tape.var(device.zeros("x", device.act(), &[3, 12]).unwrap(), true);
    let w = device.zeros("w", device.act(), &[12]).unwrap();
    let error = rms_norm(&mut tape, &x, None, &w, EPS).unwrap_err().to_string();
    assert!(error.starts_with("rms_norm_fwd: does not take these sizes"), "{error}");
    assert!(error.contains("C % 8 == 0") && error.contains("x [3, 12]"), "{error}");
}
