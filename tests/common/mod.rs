//! What all tests share: the devices to run on, golden files, and a tiny model with rows for whole runs.

pub mod fixture;
mod golden;

pub use golden::Golden;

use llamacare::device::{Compute, Device};

/// Runs `test` on every device and storage type there is: the CPU in bf16 and fp32, and a GPU if one can be used.
pub fn for_each_device(test: impl Fn(&Device)) {
    for compute in [Compute::Bf16, Compute::Fp32] {
        test(&Device::cpu(compute).expect("the CPU device"));
    }
    match Device::cuda(0) {
        Ok(gpu) => test(&gpu),
        Err(reason) => eprintln!("not on a GPU: {reason}"),
    }
}
