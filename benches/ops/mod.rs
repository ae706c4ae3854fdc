//! One file per operation.

use crate::harness::Bench;

mod dropout;
mod matmul;
mod nf4;
mod attention;
mod rms_norm;
mod rotary;

/// Every operation's lines.
pub fn run(bench: &mut Bench) {
    matmul::run(bench);
    nf4::run(bench);
    dropout::run(bench);
    attention::run(bench);
    rms_norm::run(bench);
    rotary::run(bench);
}
