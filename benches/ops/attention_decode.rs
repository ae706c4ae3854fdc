//! One new token a sequence over a cache: bound by the keys and values it reads.

use crate::harness::{Bench, Work, operand};
use llamacare::ops::attention::{PAGE, Paged, SequenceLayout};
use llamacare::ops::attention_decode::attention_decode;

pub fn run(bench: &mut Bench) {
    let device = bench.device.clone();
    // sequences, tokens of each, H, KV, D: a share of 13B's; on a GPU all of 13B's, alone and sixteen at once.
    let mut shapes = vec![(1, 512, 8, 8, 16), (4, 1024, 8, 8, 128), (1, 1024, 8, 1, 128)];
    if device.is_cuda() {
        shapes = vec![(1, 512, 40, 40, 128), (1, 2048, 40, 40, 128), (16, 1024, 40, 40, 128), (1, 4096, 32, 8, 128)];
    }
    for (n, length, h, kv, d) in shapes {
        let per_sequence: usize = length / PAGE;
        let cache = || operand(&device, [n * length, kv * d]);
        let (q, k, v) = (operand(&device, [n, h * d]), cache(), cache());
        let pages: Vec<i32> = (0..(n * per_sequence) as i32).rev().collect();
        let entries: Vec<Paged> =
            pages.chunks(per_sequence).map(|pages| Paged { pages, past: length - 1, new: 1 }).collect();
        let layout = SequenceLayout::paged(&device, &entries).unwrap();
        let bytes = (2 * n * length * kv * d * device.act().bytes()) as f64;
        let flops = (4 * n * length * h * d) as f64;
        let shape = format!("{n}x{length} H={h} KV={kv} D={d}");
        bench.line("attention, a new token", &shape, Work { bytes, flops }, || {
            attention_decode(&q, &k, &v, &layout, h, kv, d).unwrap();
        });
    }
}
