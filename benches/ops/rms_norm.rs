//! RMSNorm with the residual sum: bound by memory. Forward x and the branch read, their sum and y
//! written; backward dy and the sum read, its gradient written.

use crate::harness::{Bench, Work};
use llamacare::ops::rms_norm::rms_norm;
use llamacare::tape::Tape;

pub fn run(bench: &mut Bench) {
    let device = bench.device.clone();
    for (t, c) in [(512, 128), (512, 1024), (2048, 5120)] {
        let tensor =
            |shape: &[usize]| device.upload("x", device.act(), shape, &vec![0.5; shape.iter().product()]).unwrap();
        let (x, residual, w) = (tensor(&[t, c]), tensor(&[t, c]), tensor(&[c]));
        let work = Work { bytes: (4 * t * c * device.act().bytes()) as f64, ..Work::default() };
        bench.line("rms_norm forward", &format!("T={t} C={c}"), work, || {
            let mut tape = Tape::inference(&device);
            let (x, residual) = (tape.var(x.clone(), false), tape.var(residual.clone(), false));
            rms_norm(&mut tape, &x, Some(&residual), &w, 1e-5).unwrap();
        });
        let dy = tensor(&[t, c]);
        let work = Work { bytes: (7 * t * c * device.act().bytes()) as f64, ..Work::default() };
        bench.line("rms_norm fwd + bwd", &format!("T={t} C={c}"), work, || {
            let mut tape = Tape::new(&device);
            let (x, residual) = (tape.var(x.clone(), true), tape.var(residual.clone(), true));
            let (_, y) = rms_norm(&mut tape, &x, Some(&residual), &w, 1e-5).unwrap();
            tape.backward(vec![(y.id(), dy.clone())]).unwrap();
        });
    }
}
