//! Rotary embedding in place: bound by memory.

use crate::harness::{Bench, Work};
use llamacare::ops::rotary::{RotaryTable, rotary};
use llamacare::ops::sequences::SequenceLayout;
use llamacare::tape::Tape;
use std::sync::Arc;

pub fn run(bench: &mut Bench) {
    let device = bench.device.clone();
    for (t, n_heads, d) in [(512, 8, 16), (2048, 40, 128)] {
        let x = device.upload("x", device.act(), &[t, n_heads * d], &vec![0.5; t * n_heads * d]).unwrap();
        let layout = Arc::new(SequenceLayout::packed(&device, &[0, t as i32]).unwrap());
        let table = Arc::new(RotaryTable::new(&device, t, d, 10000.0).unwrap());
        let work = Work { bytes: (2 * t * n_heads * d * device.act().bytes()) as f64, ..Work::default() };
        bench.line("rotary", &format!("T={t} heads={n_heads} D={d}"), work, || {
            let mut tape = Tape::inference(&device);
            let x = tape.var(x.clone(), false);
            rotary(&mut tape, x, &table, &layout, n_heads, d).unwrap();
        });
    }
}
