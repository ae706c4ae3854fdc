//! Cross entropy over the vocabulary with its gradient: bound by memory (the second reading of a row hits the cache).

use crate::harness::{Bench, Work};
use llamacare::device::DType;
use llamacare::ops::cross_entropy::cross_entropy;

pub fn run(bench: &mut Bench) {
    let device = bench.device.clone();
    // A chunk of the LM loss at 13B is 1,024 rows.
    for (n, v) in [(256, 4096), (1024, 32000)] {
        let logits = device.upload("logits", DType::F32, &[n, v], &vec![0.5; n * v]).unwrap();
        let targets = device.upload_i32("targets", &[n], &vec![3; n]).unwrap();
        let loss = device.zeros("loss", DType::F32, &[n]).unwrap();
        let dlogits = device.zeros("dlogits", device.act(), &[n, v]).unwrap();
        let work = Work { bytes: (n * v * (4 + device.act().bytes())) as f64, ..Work::default() };
        bench.line("cross_entropy", &format!("n={n} V={v}"), work, || {
            cross_entropy(&logits, v, &targets, 0.1, &loss, Some(&dlogits)).unwrap();
        });
    }
}
