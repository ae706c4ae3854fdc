//! Attention: bound by the tensor cores. Flops are those of the visible half: 4 D a pair forward, 10 D backward (what has
//! to be multiplied; our two kernels multiply 14 D). Where a device has two kernels, both are timed.

use crate::harness::{Bench, Work, operand};
use llamacare::device::DType;
use llamacare::ffi::{LC_ATTENTION_164K, LC_ATTENTION_AUTO, LC_ATTENTION_SM90};
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
        let pairs = (n * length * (length + 1) / 2 * h * d) as f64;
        let shape = format!("{n}x{length} H={h} KV={kv} D={d}");
        let other = match device.is_cuda() {
            true => ("attention, mma.sync,", LC_ATTENTION_164K),
            false => ("attention, as on sm_90,", LC_ATTENTION_SM90),
        };
        for (what, blocks) in [("attention", LC_ATTENTION_AUTO), other] {
            if blocks == LC_ATTENTION_SM90 && (d < 64 || device.act() != DType::Bf16) {
                continue;
            }
            let layout = Arc::new(SequenceLayout::packed(&device, &ends).unwrap().with_blocks(blocks));
            let work = |flops: f64| Work { flops: flops * pairs, ..Work::default() };
            bench.line(&format!("{what} forward"), &shape, work(4.0), || {
                let mut tape = Tape::inference(&device);
                let [q, k, v] = [&q, &k, &v].map(|x| tape.var(x.clone(), false));
                attention(&mut tape, &q, &k, &v, &layout, h, kv, d).unwrap();
            });
            bench.line(&format!("{what} fwd + bwd"), &shape, work(14.0), || {
                let mut tape = Tape::new(&device);
                let [q, k, v] = [&q, &k, &v].map(|x| tape.var(x.clone(), true));
                let o = attention(&mut tape, &q, &k, &v, &layout, h, kv, d).unwrap();
                tape.backward(vec![(o.id(), d_o.clone())]).unwrap();
            });
        }
    }
}
