//! NF4: decode, quantise, and the two roads of a product whose crossing src/ops/linear.rs names.

use crate::harness::{Bench, Work};
use llamacare::device::DType;
use llamacare::ops::matmul::{Layout, matmul};
use llamacare::ops::nf4::{Nf4Weight, nested_map_on};
use llamacare::tape::Write;

pub fn run(bench: &mut Bench) {
    let device = bench.device.clone();
    let (n, k) = if device.is_cuda() { (13824, 5120) } else { (704, 256) };
    let values: Vec<f32> = (0..n * k).map(|e| ((e * 37 % 8191) as f32 / 4096.0 - 1.0) * 0.05).collect();
    let dense = device.upload("w", DType::F32, &[n, k], &values).unwrap();
    let map = nested_map_on(&device).unwrap();
    let w = Nf4Weight::quantize(&dense, Some(&map)).unwrap();
    let shape = format!("N={n} K={k}");
    let y = device.empty("y", device.act(), &[n, k]).unwrap();
    let work = Work { bytes: (w.n_bytes() + y.n_bytes()) as f64, ..Work::default() };
    bench.line("nf4 decode", &shape, work, || w.dequantize_into(&y).unwrap());
    let work = Work { bytes: (w.n_bytes() + dense.n_bytes()) as f64, ..Work::default() };
    bench.line("nf4 quantise", &shape, work, || drop(Nf4Weight::quantize(&dense, Some(&map)).unwrap()));
    for m in [1, 2, 4, 8, 16, 32] {
        let x = device.upload("x", device.act(), &[m, k], &vec![0.5; m * k]).unwrap();
        let y = device.empty("y", device.act(), &[m, n]).unwrap();
        let work = Work { flops: 2.0 * (m * n * k) as f64, bytes: w.n_bytes() as f64 };
        let shape = format!("M={m} N={n} K={k}");
        bench.line("nf4 product, decoding", &shape, work, || w.matmul(&x, &y, Write::Set).unwrap());
        bench.line("nf4 decode, product", &shape, work, || {
            let dense = w.dequantize("w").unwrap();
            matmul(Layout::NT, &[(&x, &dense)], &y, 1.0, Write::Set).unwrap();
        });
    }
}
