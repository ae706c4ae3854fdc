//! The norm of all gradients: bound by memory.

use crate::harness::{Bench, Work};
use llamacare::device::DType;
use llamacare::ops::grad_norm::grad_norm;
use llamacare::tape::Gradient;

pub fn run(bench: &mut Bench) {
    let device = bench.device.clone();
    let n = if device.is_cuda() { 160_000_000 } else { 4_000_000 };
    let grad = Gradient::Stored(device.zeros("grad", DType::F32, &[n]).unwrap());
    bench.line("grad_norm", &format!("n={n}"), Work { bytes: (4 * n) as f64, ..Work::default() }, || {
        grad_norm(&[&grad], 1.0).unwrap();
    });
}
