//! Matrix products: the shapes of the tiny model on a CPU, those of Llama-2-13B on a GPU.

use crate::harness::{Bench, Work};
use llamacare::device::{DType, Tensor};
use llamacare::ops::matmul::{Layout, Product, matmul, matmul_each};
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
    let tensor = |rows: usize, columns: usize| -> Tensor {
        let values: Vec<f32> = (0..rows * columns).map(|e| (e * 37 % 64) as f32 / 32.0 - 1.0).collect();
        device.upload("x", device.act(), &[rows, columns], &values).unwrap()
    };
    for (name, layout, m, n, k) in shapes {
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
    // q, k and v, or gate and up: one launch, and one each. So also their x A^T.
    for (what, n_outputs, n) in [("q, k, v", 3, c), ("gate, up", 2, f), ("x A^T of q, k, v", 3, r)] {
        let x = tensor(t, c);
        let (w, y): (Vec<Tensor>, Vec<Tensor>) =
            (0..n_outputs).map(|_| (tensor(n, c), device.empty("y", device.act(), &[t, n]).unwrap())).unzip();
        let product = |(w, y)| Product { segments: vec![(&x, w)], y, alpha: 1.0, write: Write::Set };
        let products: Vec<Product> = w.iter().zip(&y).map(product).collect();
        let bytes = x.n_bytes() + n_outputs * (w[0].n_bytes() + y[0].n_bytes());
        let work = Work { flops: 2.0 * (t * n * c * n_outputs) as f64, bytes: bytes as f64 };
        let shape = format!("M={t} N={n_outputs}x{n} K={c}");
        bench.line(&format!("matmul NT, {what} in one launch"), &shape, work, || {
            matmul_each(Layout::NT, &products).unwrap()
        });
        bench.line(&format!("matmul NT, {what} one by one"), &shape, work, || {
            products.iter().for_each(|p| matmul_each(Layout::NT, std::slice::from_ref(p)).unwrap())
        });
    }
}
