//! New tokens into the cache: bound by memory, at a few tokens by the launch.

use crate::harness::{Bench, Work, operand};
use llamacare::ops::attention::{Paged, SequenceLayout};
use llamacare::ops::kv_append::kv_append;
use llamacare::ops::rotary::RotaryTable;

pub fn run(bench: &mut Bench) {
    let device = bench.device.clone();
    for (t, h, d) in [(1, 40, 128), (1024, 40, 128)] {
        let x = || operand(&device, [t, h * d]);
        let cache = || operand(&device, [1024, h * d]);
        let (q, k, v, k_cache, v_cache) = (x(), x(), x(), cache(), cache());
        let pages: Vec<i32> = (0..16).rev().collect();
        let layout = SequenceLayout::paged(&device, &[Paged { pages: &pages, past: 0, new: t }]).unwrap();
        let table = RotaryTable::new(&device, t, d, 10_000.0).unwrap();
        let work = Work { bytes: (6 * t * h * d * device.act().bytes()) as f64, ..Work::default() };
        bench.line("kv_append", &format!("T={t} heads={h} D={d}"), work, || {
            kv_append([&q, &k, &v], &table, &layout, [&k_cache, &v_cache]).unwrap();
        });
    }
}
