//! NF4: decode, quantise, and the two roads of a product whose crossing src/ops/linear.rs names.

use crate::harness::{Bench, Work, operand};
use llamacare::device::{DType, Device};
use llamacare::ops::matmul::{Layout, matmul};
use llamacare::ops::nf4::{Nf4Weight, Orientation, nested_map_on};
use llamacare::tape::Write;

pub fn run(bench: &mut Bench) {
    // q, k, v, o; gate, up; down.
    let shapes: &[[usize; 2]] =
        if bench.device.is_cuda() { &[[5120, 5120], [13824, 5120], [5120, 13824]] } else { &[[704, 256]] };
    for &[n, k] in shapes {
        weight(bench, n, k);
    }
}

fn quantised(device: &Device, n: usize, k: usize) -> Nf4Weight {
    let dense = operand(device, [n, k]).read_f32().unwrap();
    let dense = device.upload("w", DType::F32, &[n, k], &dense).unwrap();
    Nf4Weight::quantize(&dense, Some(&nested_map_on(device).unwrap())).unwrap()
}

fn weight(bench: &mut Bench, n: usize, k: usize) {
    const NAMES: [&str; 5] =
        ["nf4 decode", "nf4 decode, transposed", "nf4 quantise", "nf4 product, decoding", "nf4 decode, product"];
    if !NAMES.iter().any(|name| bench.wants(name)) {
        return;
    }
    let device = bench.device.clone();
    let w = quantised(&device, n, k);
    let shape = format!("N={n} K={k}");
    let y = device.empty("y", device.act(), &[n, k]).unwrap();
    let work = Work { bytes: (w.n_bytes() + y.n_bytes()) as f64, ..Work::default() };
    bench.line("nf4 decode", &shape, work, || w.dequantize_into(&y, Orientation::Rows).unwrap());
    let turned = y.view(&[k, n]);
    bench.line("nf4 decode, transposed", &shape, work, || w.dequantize_into(&turned, Orientation::Transposed).unwrap());
    let dense = device.zeros("w", DType::F32, &[n, k]).unwrap();
    let map = nested_map_on(&device).unwrap();
    let work = Work { bytes: (w.n_bytes() + dense.n_bytes()) as f64, ..Work::default() };
    bench.line("nf4 quantise", &shape, work, || drop(Nf4Weight::quantize(&dense, Some(&map)).unwrap()));
    for m in [1, 2, 4, 8, 16, 32, 64] {
        let x = operand(&device, [m, k]);
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
