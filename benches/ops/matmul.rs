//! Matrix products: the shapes of the tiny model on a CPU, those of Llama-2-13B on a GPU, at the tokens of a packed row (2,048)
//! and of the recipe's micro-batch (2,816). Products that share an input share a launch, q, k and v forward, gate and up, and
//! beside it stands what they take one by one; their gradients are one product over the K of all of them.

use crate::harness::{Bench, Work, operand};
use llamacare::device::{DType, Tensor};
use llamacare::ops::matmul::{Layout, Product, matmul, matmul_each};
use llamacare::tape::Write;

pub fn run(bench: &mut Bench) {
    let gpu = bench.device.is_cuda();
    let (tokens, c, f, v, r): (&[usize], _, _, _, _) =
        if gpu { (&[2048, 2816], 5120, 13824, 32000, 16) } else { (&[512], 256, 704, 4096, 16) };
    for &t in tokens {
        for (name, layout, m, n, k) in [
            ("matmul q, o", Layout::NT, t, c, c),
            ("matmul gate", Layout::NT, t, f, c),
            ("matmul down", Layout::NT, t, c, f),
            ("matmul dX of o", Layout::NN, t, c, c),
            ("matmul dX of down", Layout::NN, t, f, c),
            ("matmul logits", Layout::NT, t.min(1024), v, c),
            ("matmul dX of logits", Layout::NN, t.min(1024), c, v),
            ("matmul x A^T", Layout::NT, t, r, c),
            ("matmul dy B", Layout::NN, t, r, c),
            ("matmul dA", Layout::TN, r, c, t),
            ("matmul dB", Layout::TN, c, r, t),
        ] {
            line(bench, name, layout, [m, n], &[k]);
        }
        together(bench, "matmul q,k,v", 3, [t, c, c]);
        together(bench, "matmul gate,up", 2, [t, f, c]);
        together(bench, "matmul x A^T of q,k,v", 3, [t, r, c]);
        line(bench, "matmul dX of q,k,v", Layout::NN, [t, c], &[c; 3]);
        line(bench, "matmul dX of gate,up", Layout::NN, [t, c], &[f; 2]);
        line(bench, "matmul q with LoRA", Layout::NT, [t, c], &[c, r]);
        line(bench, "matmul dX q,k,v LoRA", Layout::NN, [t, c], &[c, c, c, r, r, r]);
    }
    line(bench, "matmul, one token", Layout::NT, [1, c], &[c]);
}

/// One launch over segments of these K; beside it the library's product over all of them laid together.
fn line(bench: &mut Bench, name: &str, layout: Layout, [m, n]: [usize; 2], ks: &[usize]) {
    if !bench.wants(name) {
        return;
    }
    let device = bench.device.clone();
    let pair = |k: usize| -> (Tensor, Tensor) {
        let a = operand(&device, if layout == Layout::TN { [k, m] } else { [m, k] });
        (a, operand(&device, if layout == Layout::NT { [n, k] } else { [k, n] }))
    };
    let pairs: Vec<(Tensor, Tensor)> = ks.iter().map(|&k| pair(k)).collect();
    let segments: Vec<(&Tensor, &Tensor)> = pairs.iter().map(|(a, b)| (a, b)).collect();
    let dtype = if layout == Layout::TN { DType::F32 } else { device.act() };
    let y = device.empty("y", dtype, &[m, n]).unwrap();
    let read: usize = pairs.iter().map(|(a, b)| a.n_bytes() + b.n_bytes()).sum();
    let k: usize = ks.iter().sum();
    let work = Work { flops: 2.0 * (m * n * k) as f64, bytes: (read + y.n_bytes()) as f64 };
    let shape = format!("{layout:?} M={m} N={n} K={}", ks.iter().map(usize::to_string).collect::<Vec<_>>().join("+"));
    bench.product(name, &shape, work, (layout, m, n, k), || matmul(layout, &segments, &y, 1.0, Write::Set).unwrap());
}

/// Several products of one x, in as few launches as hold them and one by one; beside them the library's product with all
/// weights laid together.
fn together(bench: &mut Bench, name: &str, n_outputs: usize, [m, n, k]: [usize; 3]) {
    let apart = format!("{name}, apart");
    if !bench.wants(name) && !bench.wants(&apart) {
        return;
    }
    let device = bench.device.clone();
    let x = operand(&device, [m, k]);
    let w: Vec<Tensor> = (0..n_outputs).map(|_| operand(&device, [n, k])).collect();
    let y: Vec<Tensor> = (0..n_outputs).map(|_| device.empty("y", device.act(), &[m, n]).unwrap()).collect();
    let product = |(w, y)| Product { segments: vec![(&x, w)], y, alpha: 1.0, write: Write::Set };
    let products: Vec<Product> = w.iter().zip(&y).map(product).collect();
    let bytes = x.n_bytes() + n_outputs * (w[0].n_bytes() + y[0].n_bytes());
    let work = Work { flops: 2.0 * (m * n * k * n_outputs) as f64, bytes: bytes as f64 };
    let shape = format!("NT M={m} N={n_outputs}x{n} K={k}");
    let all = (Layout::NT, m, n_outputs * n, k);
    bench.product(name, &shape, work, all, || matmul_each(Layout::NT, &products).unwrap());
    bench.product(&apart, &shape, work, all, || {
        products.iter().for_each(|p| matmul_each(Layout::NT, std::slice::from_ref(p)).unwrap());
    });
}
