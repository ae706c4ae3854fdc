//! One file per operation.

use crate::harness::Bench;

mod rms_norm;

/// Every operation's lines.
pub fn run(bench: &mut Bench) {
    rms_norm::run(bench);
}
