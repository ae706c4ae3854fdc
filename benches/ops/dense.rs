//! The head's linear layers: bound by reading W, and by writing dW.

use crate::harness::{Bench, Work};
use llamacare::device::DType;
use llamacare::ops::dense::dense;
use llamacare::tape::{Param, Tape};

pub fn run(bench: &mut Bench) {
    let device = bench.device.clone();
    let mut shapes = vec![(4, 256, 1024), (4, 1024, 256)];
    if device.is_cuda() {
        shapes.extend([(4, 96_000, 1024), (8, 96_000, 1024)]); // the paper's first layer at 1200 positions: 393 MB
    }
    for (b, n_in, n_out) in shapes {
        let zeros = |shape: &[usize]| device.zeros("x", DType::F32, shape).unwrap();
        let (x, dy) = (zeros(&[b, n_in]), zeros(&[b, n_out]));
        let weight = Param::new("W", zeros(&[n_out, n_in]), zeros(&[n_out, n_in]));
        let bias = Param::new("b", zeros(&[n_out]), zeros(&[n_out]));
        let work = |passes: usize| Work { bytes: (passes * 4 * n_in * n_out) as f64, ..Work::default() };
        let shape = format!("B={b} {n_in} -> {n_out}");
        bench.line("dense forward", &shape, work(1), || {
            let mut tape = Tape::inference(&device);
            let x = tape.var(x.clone(), false);
            dense(&mut tape, &x, &weight, &bias).unwrap();
        });
        bench.line("dense fwd + bwd", &shape, work(3), || {
            let mut tape = Tape::new(&device);
            let x = tape.var(x.clone(), true);
            let y = dense(&mut tape, &x, &weight, &bias).unwrap();
            weight.reset();
            bias.reset();
            tape.backward(vec![(y.id(), dy.clone())]).unwrap();
        });
    }
}
