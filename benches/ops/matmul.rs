//! Matrix products: the shapes of the tiny model on a CPU, those of Llama-2-13B on a GPU.

use crate::harness::{Bench, Work};
use llamacare::device::{DType, Tensor};
use llamacare::ops::matmul::{Layout, matmul};
use llamacare::tape::Write;

pub fn run(bench: &mut Bench) {
    let device = bench.device.clone();
    let (t, c, f, r) = if device.is_cuda() { (2048, 5120, 13824, 16) } else { (512, 256, 704, 16) };
    let shapes = [
        ("matmul NT", Layout::NT, t, c, c),
        ("matmul NT", Layout::NT, t, f, c),
        ("matmul NT", Layout::NT, t, c, f),
        ("matmul NN", Layout::NN, t, c, f),
        ("matmul NN", Layout::NN, t, f, c),
        ("matmul NT, x A^T", Layout::NT, t, r, c),
        ("matmul NN, dy B", Layout::NN, t, r, c),
        ("matmul TN, dA", Layout::TN, r, c, t),
        ("matmul TN, dB", Layout::TN, c, r, t),
        ("matmul NT, one token", Layout::NT, 1, c, c),
    ];
    for (name, layout, m, n, k) in shapes {
        let tensor = |rows: usize, columns: usize| -> Tensor {
            let values: Vec<f32> = (0..rows * columns).map(|e| (e * 37 % 64) as f32 / 32.0 - 1.0).collect();
            device.upload("x", device.act(), &[rows, columns], &values).unwrap()
        };
        let a = if layout == Layout::TN { tensor(k, m) } else { tensor(m, k) };
        let b = if layout == Layout::NT { tensor(n, k) } else { tensor(k, n) };
        let dtype = if layout == Layout::TN { DType::F32 } else { device.act() };
        let y = device.empty("y", dtype, &[m, n]).unwrap();
        let bytes = (a.n_bytes() + b.n_bytes() + y.n_bytes()) as f64;
        let work = Work { flops: 2.0 * (m * n * k) as f64, bytes };
        bench.line(name, &format!("M={m} N={n} K={k}"), work, || {
            matmul(layout, &[(&a, &b)], &y, 1.0, Write::Set).unwrap()
        });
    }
}
