//! The classifier's loss: a handful of values, bound by the launch and by reading the loss back.

use crate::harness::{Bench, Work};
use llamacare::device::DType;
use llamacare::ops::softmax_ce::softmax_ce;
use llamacare::tape::Tape;

pub fn run(bench: &mut Bench) {
    let device = bench.device.clone();
    let logits = device.zeros("logits", DType::F32, &[8, 3]).unwrap();
    bench.line("softmax_ce", "B=8 n_class=3", Work::default(), || {
        let mut tape = Tape::new(&device);
        let logits = tape.var(logits.clone(), true);
        softmax_ce(&mut tape, &logits, &[0, 1, 2, 0, 1, 2, 0, -1], 0.1).unwrap();
    });
}
