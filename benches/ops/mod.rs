//! One file per operation.

use crate::harness::Bench;

mod attention;
mod rms_norm;
mod rotary;

/// Every operation's lines.
pub fn run(bench: &mut Bench) {
    attention::run(bench);
    rms_norm::run(bench);
    rotary::run(bench);
}
