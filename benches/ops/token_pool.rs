//! Pooling over tokens, forward and backward: bound by memory.

use crate::harness::{Bench, Work};
use llamacare::device::DType;
use llamacare::ops::token_pool::{TokenPool, token_pool};
use llamacare::tape::Tape;

pub fn run(bench: &mut Bench) {
    let device = bench.device.clone();
    for (t, c) in [(512, 128), (2048, 5120)] {
        let h = device.upload("h", device.act(), &[t, c], &vec![0.5; t * c]).unwrap();
        let dy = device.zeros("dy", DType::F32, &[2, c]).unwrap();
        let half = t as i32 / 2;
        for pool in [TokenPool::Mean, TokenPool::Max] {
            let work = Work { bytes: (2 * t * c * device.act().bytes()) as f64, ..Work::default() };
            bench.line("token_pool fwd + bwd", &format!("{pool:?} T={t} C={c}"), work, || {
                let mut tape = Tape::new(&device);
                let h = tape.var(h.clone(), true);
                let y = token_pool(&mut tape, &h, &[0, half, 2 * half], &[half, half], pool).unwrap();
                tape.backward(vec![(y.id(), dy.clone())]).unwrap();
            });
        }
    }
}
