//! One AdamW update with 8-bit moments: bound by memory, 18 bytes a weight.

use crate::harness::{Bench, Work};
use llamacare::device::DType;
use llamacare::ops::adamw::{AdamwConfig, Weights};
use llamacare::ops::adamw8::{Moment8, adamw8, maps_on};
use llamacare::tape::Gradient;

pub fn run(bench: &mut Bench) {
    let device = bench.device.clone();
    let n = if device.is_cuda() { 62_000_000 } else { 2_000_000 };
    let zeros = || device.zeros("adamw", DType::F32, &[n]).unwrap();
    let copy = Some(device.zeros("copy", device.act(), &[n]).unwrap());
    let w = Weights { master: zeros(), grad: Gradient::Stored(zeros()), copy };
    let [m, v] = ["m", "v"].map(|name| Moment8::zeros(&device, name, n).unwrap());
    let maps = maps_on(&device).unwrap();
    let config = AdamwConfig { lr: 1e-4, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 };
    let work = Work { bytes: (n * (16 + device.act().bytes())) as f64, ..Work::default() };
    bench.line("adamw8", &format!("n={n}"), work, || adamw8(&w, [&m, &v], &maps, &config, None, 1).unwrap());
}
