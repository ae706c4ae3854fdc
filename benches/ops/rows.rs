//! Gathering target rows and scattering their gradient: bound by memory.

use crate::harness::{Bench, Work};
use llamacare::ops::rows::gather_rows;
use llamacare::tape::Tape;

pub fn run(bench: &mut Bench) {
    let device = bench.device.clone();
    for (t, c) in [(512, 128), (2048, 5120)] {
        let rows: Vec<i32> = (0..t as i32).step_by(4).collect();
        let n = rows.len();
        let tensor = |rows: usize| device.upload("x", device.act(), &[rows, c], &vec![0.5; rows * c]).unwrap();
        let (x, dy) = (tensor(t), tensor(n));
        let work = Work { bytes: ((3 * n + t) * c * device.act().bytes()) as f64, ..Work::default() };
        bench.line("rows gather + scatter", &format!("{n} of T={t} C={c}"), work, || {
            let mut tape = Tape::new(&device);
            let x = tape.var(x.clone(), true);
            let y = gather_rows(&mut tape, &x, &rows).unwrap();
            tape.backward(vec![(y.id(), dy.clone())]).unwrap();
        });
    }
}
