//! Activations to 8-bit blocks and back: bound by memory.

use crate::harness::{Bench, Work};
use llamacare::ops::blocks8::quantize;

pub fn run(bench: &mut Bench) {
    let device = bench.device.clone();
    for (t, f) in [(512, 2816), (2048, 13824)] {
        let x = device.upload("x", device.act(), &[t, f], &vec![0.5; t * f]).unwrap();
        let blocks = quantize("blocks", &x).unwrap();
        let work = Work { bytes: (x.n_bytes() + blocks.n_bytes()) as f64, ..Work::default() };
        let shape = format!("T={t} F={f}");
        bench.line("blocks8 quantise", &shape, work, || drop(quantize("blocks", &x).unwrap()));
        bench.line("blocks8 dequantise", &shape, work, || drop(blocks.dequantize("x").unwrap()));
    }
}
