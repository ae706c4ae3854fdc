//! Attention: bound by the tensor cores. Flops are those of the visible half: 4 D a pair forward, 10 D backward (what has
//! to be multiplied; our two kernels multiply 14 D).

use crate::harness::{Bench, Work, operand};
use llamacare::ops::attention::{SequenceLayout, attention};
use llamacare::tape::Tape;
use std::sync::Arc;

pub fn run(bench: &mut Bench) {
    let device = bench.device.clone();
    // n sequences of this length, H, KV, D: the demo's, a small model's with grouped heads, and a share of 13B's; on a GPU all
    // of 13B's, 4,096 tokens a line.
    let mut shapes = vec![(4, 128, 8, 8, 16), (2, 512, 8, 2, 64), (1, 1024, 4, 4, 128)];
    if device.is_cuda() {
        shapes = vec![(8, 512, 40, 40, 128), (4, 1024, 40, 40, 128), (2, 2048, 40, 40, 128), (1, 4096, 40, 40, 128)];
    }
    for (n, length, h, kv, d) in shapes {
        let t = n * length;
        let tensor = |width: usize| operand(&device, [t, width]);
        let (q, k, v, d_o) = (tensor(h * d), tensor(kv * d), tensor(kv * d), tensor(h * d));
        let ends: Vec<i32> = (0..=n).map(|s| (s * length) as i32).collect();
        let layout = Arc::new(SequenceLayout::packed(&device, &ends).unwrap());
        let pairs = (n * length * (length + 1) / 2 * h * d) as f64;
        let shape = format!("{n}x{length} H={h} KV={kv} D={d}");
        bench.line("attention forward", &shape, Work { flops: 4.0 * pairs, ..Work::default() }, || {
            let mut tape = Tape::inference(&device);
            let [q, k, v] = [&q, &k, &v].map(|x| tape.var(x.clone(), false));
            attention(&mut tape, &q, &k, &v, &layout, h, kv, d).unwrap();
        });
        bench.line("attention fwd + bwd", &shape, Work { flops: 14.0 * pairs, ..Work::default() }, || {
            let mut tape = Tape::new(&device);
            let [q, k, v] = [&q, &k, &v].map(|x| tape.var(x.clone(), true));
            let o = attention(&mut tape, &q, &k, &v, &layout, h, kv, d).unwrap();
            tape.backward(vec![(o.id(), d_o.clone())]).unwrap();
        });
    }
}
