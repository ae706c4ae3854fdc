//! The LM loss from hidden states: two products a chunk, bound by the tensor cores.

use crate::harness::{Bench, Work};
use llamacare::ops::lm_loss::{CHUNK, lm_loss};
use llamacare::tape::Tape;

pub fn run(bench: &mut Bench) {
    let device = bench.device.clone();
    let mut shapes = vec![(256, 128, 4096)];
    if device.is_cuda() {
        shapes.push((1024, 5120, 32000));
    }
    for (n, c, v) in shapes {
        let h = device.upload("h", device.act(), &[n, c], &vec![0.01; n * c]).unwrap();
        let head = device.upload("head", device.act(), &[v, c], &vec![0.01; v * c]).unwrap();
        let targets = vec![3; n];
        let work = Work { flops: (4 * n * c * v) as f64, ..Work::default() };
        bench.line("lm_loss with gradient", &format!("n={n} C={c} V={v}"), work, || {
            let mut tape = Tape::new(&device);
            let h = tape.var(h.clone(), true);
            lm_loss(&mut tape, &h, &head, v, &targets, 0.1, CHUNK).unwrap();
        });
    }
}
