//! One file per operation.

use crate::harness::Bench;

mod dropout;
mod matmul;
mod nf4;
mod rms_norm;

/// Every operation's lines.
pub fn run(bench: &mut Bench) {
    matmul::run(bench);
    nf4::run(bench);
    dropout::run(bench);
    rms_norm::run(bench);
}
