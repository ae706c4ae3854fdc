//! Kernel benchmarks.

fn main() {}
