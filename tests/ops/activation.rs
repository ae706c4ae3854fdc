//! The head's pointwise functions against tools/golden/activation.py.

use crate::common::{Golden, for_each_device};
use llamacare::device::DType;
use llamacare::ops::activation::{Activation, activation};
use llamacare::tape::Tape;

#[test]
fn activations_match_torch() {
    let golden = Golden::load("activation");
    let kinds = [
        ("identity", Activation::Identity),
        ("relu", Activation::Relu),
        ("leaky_relu", Activation::LeakyRelu(0.01)),
        ("gelu", Activation::Gelu),
        ("tanh", Activation::Tanh),
        ("silu", Activation::Silu),
    ];
    for_each_device(|device| {
        for case in golden.cases() {
            for (kind, f) in kinds {
                for added in [false, true] {
                    let input = |name| golden.upload(device, &case, name, DType::F32);
                    let mut tape = Tape::new(device);
                    let x = tape.var(input("x"), true);
                    let y = activation(&mut tape, &x, f).unwrap();
                    golden.check(device, &case, &format!("{kind}.y"), y.value(), 2.0);
                    let mut seeds = vec![(y.id(), input("dy"))];
                    if added {
                        seeds.push((x.id(), input("above")));
                    }
                    let dx = tape.backward(seeds).unwrap().take(x.id()).unwrap();
                    let name = format!("{kind}.dx{}", if added { "_added" } else { "" });
                    golden.check(device, &case, &name, &dx, 3.0);
                }
            }
        }
    });
}
