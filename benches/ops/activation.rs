//! The head's pointwise functions: a few thousand values, bound by the launch.

use crate::harness::{Bench, Work};
use llamacare::device::DType;
use llamacare::ops::activation::{Activation, activation};
use llamacare::tape::Tape;

pub fn run(bench: &mut Bench) {
    let device = bench.device.clone();
    let x = device.zeros("x", DType::F32, &[8, 1024]).unwrap();
    for f in [Activation::LeakyRelu(0.01), Activation::Gelu] {
        bench.line(
            "activation forward",
            &format!("{f:?} B=8 n=1024"),
            Work { bytes: 65536.0, ..Work::default() },
            || {
                let mut tape = Tape::inference(&device);
                let x = tape.var(x.clone(), false);
                activation(&mut tape, &x, f).unwrap();
            },
        );
    }
}
