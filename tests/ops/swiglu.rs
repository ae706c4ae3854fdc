//! SwiGLU against tools/golden/swiglu.py.

use crate::common::{Golden, for_each_device};
use llamacare::ops::swiglu::swiglu;
use llamacare::tape::Tape;

#[test]
fn swiglu_matches_torch() {
    let golden = Golden::load("swiglu");
    for_each_device(|device| {
        for case in golden.cases() {
            for added in [false, true] {
                let input = |name| golden.act(device, &case, name);
                let mut tape = Tape::new(device);
                let (gate, up) = (tape.var(input("gate"), true), tape.var(input("up"), true));
                let y = swiglu(&mut tape, &gate, &up).unwrap();
                golden.check(device, &case, "y", y.value(), 2.0);
                let mut seeds = vec![(y.id(), input("dy"))];
                if added {
                    seeds.extend([(gate.id(), input("above")), (up.id(), input("above"))]);
                }
                let mut grads = tape.backward(seeds).unwrap();
                let (dgate, dup) = (grads.take(gate.id()).unwrap(), grads.take(up.id()).unwrap());
                golden.check(device, &case, if added { "dgate_added" } else { "dgate" }, &dgate, 3.0);
                golden.check(device, &case, if added { "dup_added" } else { "dup" }, &dup, 3.0);
            }
        }
    });
}

#[test]
fn swiglu_writes_no_gradient_of_a_frozen_side() {
    for_each_device(|device| {
        let mut tape = Tape::new(device);
        let ones = || device.upload("x", device.act(), &[3, 8], &[1.0; 24]).unwrap();
        let (gate, up) = (tape.var(ones(), false), tape.var(ones(), true));
        let y = swiglu(&mut tape, &gate, &up).unwrap();
        let mut grads = tape.backward(vec![(y.id(), ones())]).unwrap();
        assert!(grads.take(gate.id()).is_none());
        assert!((grads.take(up.id()).unwrap().read_f32().unwrap()[23] - 0.731).abs() < 2e-3);
    });
}
