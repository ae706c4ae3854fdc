//! The ECI reduction, forward and backward: bound by memory.

use crate::harness::{Bench, Work};
use llamacare::device::DType;
use llamacare::ops::eci_pool::eci_pool;
use llamacare::tape::Tape;

pub fn run(bench: &mut Bench) {
    let device = bench.device.clone();
    for (t, c, s) in [(512, 128, 128), (2048, 5120, 1200)] {
        let h = device.upload("h", device.act(), &[t, c], &vec![0.5; t * c]).unwrap();
        let half = t as i32 / 2;
        let keep = half.min(s as i32);
        let d = device.zeros("d", DType::F32, &[2, s * (c / 64)]).unwrap();
        let work = Work { bytes: (3 * t * c * device.act().bytes()) as f64, ..Work::default() };
        bench.line("eci_pool fwd + bwd", &format!("T={t} C={c} s={s}"), work, || {
            let mut tape = Tape::new(&device);
            let h = tape.var(h.clone(), true);
            let f = eci_pool(&mut tape, &h, &[0, half, 2 * half], &[keep, keep], s).unwrap();
            tape.backward(vec![(f.id(), d.clone())]).unwrap();
        });
    }
}
