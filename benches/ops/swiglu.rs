//! silu(gate) * up: bound by memory.

use crate::harness::{Bench, Work};
use llamacare::ops::swiglu::swiglu;
use llamacare::tape::Tape;

pub fn run(bench: &mut Bench) {
    let device = bench.device.clone();
    for (t, f) in [(512, 352), (512, 2816), (2048, 13824)] {
        let tensor = || device.upload("x", device.act(), &[t, f], &vec![0.5; t * f]).unwrap();
        let (gate, up, dy) = (tensor(), tensor(), tensor());
        let work =
            |accesses: usize| Work { bytes: (accesses * t * f * device.act().bytes()) as f64, ..Work::default() };
        let shape = format!("T={t} F={f}");
        bench.line("swiglu forward", &shape, work(3), || {
            let mut tape = Tape::inference(&device);
            let (gate, up) = (tape.var(gate.clone(), false), tape.var(up.clone(), false));
            swiglu(&mut tape, &gate, &up).unwrap();
        });
        bench.line("swiglu fwd + bwd", &shape, work(8), || {
            let mut tape = Tape::new(&device);
            let (gate, up) = (tape.var(gate.clone(), true), tape.var(up.clone(), true));
            let y = swiglu(&mut tape, &gate, &up).unwrap();
            tape.backward(vec![(y.id(), dy.clone())]).unwrap();
        });
    }
}
