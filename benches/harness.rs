//! The timer: the best of a few samples, each long enough to be measured, after one warm-up.

use llamacare::device::Device;
use std::time::Instant;

/// Times operations on one device.
pub struct Bench {
    /// Where.
    pub device: Device,
    only: Vec<String>,
}

/// What one call moves and computes; 0: not meaningful.
#[derive(Default, Clone, Copy)]
pub struct Work {
    /// Floating-point operations.
    pub flops: f64,
    /// Bytes read and written at least.
    pub bytes: f64,
}

impl Bench {
    /// `only`: names to run, matched as substrings; empty: all.
    pub fn new(device: Device, only: Vec<String>) -> Bench {
        Bench { device, only }
    }

    /// Whether the command line asks for this name.
    pub fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|o| name.contains(o.as_str()))
    }

    /// Times `call` and prints its line.
    pub fn line(&mut self, name: &str, shape: &str, work: Work, mut call: impl FnMut()) {
        if !self.wants(name) {
            return;
        }
        call();
        self.device.synchronize().expect("a healthy device");
        let mut best = f64::INFINITY;
        for _ in 0..5 {
            let start = Instant::now();
            let mut calls = 0;
            while start.elapsed().as_secs_f64() < 0.1 {
                call();
                calls += 1;
                if self.device.is_cuda() && calls % 16 == 0 {
                    self.device.synchronize().expect("a healthy device");
                }
            }
            self.device.synchronize().expect("a healthy device");
            best = best.min(start.elapsed().as_secs_f64() / f64::from(calls));
        }
        let rate = |amount: f64, unit: &str| match amount > 0.0 {
            true => format!("{:9.2} {unit}", amount / best / 1e9),
            false => String::new(),
        };
        println!(
            "{name:<24} {shape:<34} {:>10.1} us {} {}",
            best * 1e6,
            rate(work.flops, "GFLOP/s"),
            rate(work.bytes, "GB/s")
        );
    }
}
