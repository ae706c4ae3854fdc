//! 8-bit operands: rows of activations, NF4 in both orientations, and the product beside the same one in bf16.

use crate::harness::{Bench, Work};
use llamacare::device::DType;
use llamacare::ops::fp8::{Fp8, Fp8Product, Fp8Scales, matmul_fp8};
use llamacare::ops::matmul::{Layout, matmul};
use llamacare::ops::nf4::{Nf4Weight, Orientation, nested_map_on};
use llamacare::tape::Write;

pub fn run(bench: &mut Bench) {
    let device = bench.device.clone();
    if let Err(reason) = device.expect_fp8() {
        return println!("fp8: {reason}");
    }
    let (t, n, k) = if device.is_cuda() { (2816, 13824, 5120) } else { (256, 704, 256) };
    let values = |n: usize| -> Vec<f32> { (0..n).map(|e| ((e * 37 % 8191) as f32 / 4096.0 - 1.0) * 0.05).collect() };
    let x = device.upload("x", device.act(), &[t, k], &values(t * k)).unwrap();
    let shape = format!("T={t} K={k}");
    let work = Work { bytes: (x.n_bytes() + t * k) as f64, ..Work::default() };
    bench.line("fp8 rows", &shape, work, || drop(Fp8::of(&x, "x8").unwrap()));

    let dense = device.upload("w", DType::F32, &[n, k], &values(n * k)).unwrap();
    let map = nested_map_on(&device).unwrap();
    let w = Nf4Weight::quantize(&dense, Some(&map)).unwrap();
    let scales = Fp8Scales::of(&w).unwrap();
    let shape = format!("N={n} K={k}");
    let work = Work { bytes: w.n_bytes() as f64, ..Work::default() };
    bench.line("fp8 scales of nf4", &shape, work, || drop(Fp8Scales::of(&w).unwrap()));
    let codes = device.empty("codes", DType::U8, &[n, k]).unwrap();
    let work = Work { bytes: (w.n_bytes() + n * k) as f64, ..Work::default() };
    bench.line("fp8 of nf4", &shape, work, || scales.decode_into(&w, &codes, Orientation::Rows).unwrap());
    let turned = codes.view(&[k, n]);
    bench.line("fp8 of nf4, transposed", &shape, work, || {
        scales.decode_into(&w, &turned, Orientation::Transposed).unwrap();
    });

    let (x8, w8) = (Fp8::of(&x, "x8").unwrap(), Fp8 { codes, scales: scales.rows.clone() });
    scales.decode_into(&w, &w8.codes, Orientation::Rows).unwrap();
    let y = device.empty("y", device.act(), &[t, n]).unwrap();
    let work = Work { flops: 2.0 * (t * n * k) as f64, ..Work::default() };
    let shape = format!("M={t} N={n} K={k}");
    bench.line("fp8 product", &shape, work, || {
        matmul_fp8(Layout::NT, &[Fp8Product { eight: vec![(&x8, &w8)], wide: vec![], y: &y }], Write::Set).unwrap();
    });
    let dense = w.dequantize("w").unwrap();
    bench.line("fp8 product, in bf16", &shape, work, || {
        matmul(Layout::NT, &[(&x, &dense)], &y, 1.0, Write::Set).unwrap();
    });
}
