//! One AdamW update: bound by memory, 30 bytes a weight.

use crate::harness::{Bench, Work};
use llamacare::device::DType;
use llamacare::ops::adamw::{AdamwConfig, Weights, adamw};
use llamacare::tape::Gradient;

pub fn run(bench: &mut Bench) {
    let device = bench.device.clone();
    let n = if device.is_cuda() { 62_000_000 } else { 2_000_000 };
    let zeros = || device.zeros("adamw", DType::F32, &[n]).unwrap();
    let copy = Some(device.zeros("copy", device.act(), &[n]).unwrap());
    let (w, m, v) = (Weights { master: zeros(), grad: Gradient::Stored(zeros()), copy }, zeros(), zeros());
    let config = AdamwConfig { lr: 1e-4, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 };
    let work = Work { bytes: (n * (28 + device.act().bytes())) as f64, ..Work::default() };
    bench.line("adamw", &format!("n={n}"), work, || adamw(&w, [&m, &v], &config, None, 1).unwrap());
}
