//! Rows of the embedding table: bound by memory.

use crate::harness::{Bench, Work};
use llamacare::ops::embedding::embedding;
use llamacare::tape::Tape;

pub fn run(bench: &mut Bench) {
    let device = bench.device.clone();
    for (t, c, v) in [(512, 128, 4096), (2048, 5120, 32000)] {
        let table = device.zeros("table", device.act(), &[v, c]).unwrap();
        let ids: Vec<i32> = (0..t).map(|i| (i * 7919 % v) as i32).collect();
        let work = Work { bytes: (2 * t * c * device.act().bytes()) as f64, ..Work::default() };
        bench.line("embedding", &format!("T={t} C={c} V={v}"), work, || {
            embedding(&mut Tape::inference(&device), &table, &ids).unwrap();
        });
    }
}
