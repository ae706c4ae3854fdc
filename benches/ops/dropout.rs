//! Dropout: bound by memory on a GPU, by Philox on a CPU.

use crate::harness::{Bench, Work};
use llamacare::ops::dropout::Dropout;
use llamacare::tape::Write;

pub fn run(bench: &mut Bench) {
    let device = bench.device.clone();
    let mask = Dropout { p: 0.05, seed: 1, step: 2, tensor: 3 };
    for (t, c) in [(512, 256), (2048, 5120)] {
        let x = device.zeros("x", device.act(), &[t, c]).unwrap();
        let work = Work { bytes: 2.0 * x.n_bytes() as f64, ..Work::default() };
        bench.line("dropout", &format!("T={t} C={c}"), work, || mask.apply(&x, &x, Write::Set).unwrap());
    }
}
