//! `verify --oracle DIR`: this engine's numbers against PyTorch's. Exit code 1 when any quantity is too far off.

use clap::Parser;
use llamacare::device::{Compute, Device};
use llamacare::{Result, bail_input, ffi, verify};
use std::path::PathBuf;
use std::process::ExitCode;

/// Holds this engine to an oracle case: logits, losses, gradients, five optimiser steps, heads.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// A case folder, or a folder of them.
    #[arg(long)]
    oracle: PathBuf,
    /// bf16, held to multiples of PyTorch's own bf16 error; or fp32 (CPU), held to the golden values.
    #[arg(long, default_value = "bf16", value_parser = ["bf16", "fp32"])]
    compute: String,
    /// auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    device: String,
    /// Print only what fails, and the sum.
    #[arg(long)]
    quiet: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match ffi::set_threads(0, || run(&arguments)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::from(e.exit_code())
        }
    }
}

fn run(a: &Arguments) -> Result<bool> {
    let compute = if a.compute == "fp32" { Compute::Fp32 } else { Compute::Bf16 };
    let device = Device::open(&a.device, compute)?;
    println!("{}; error, PyTorch's bf16 error, ratio", device.name());
    let summary = verify::run(&device, &a.oracle, |line| {
        if !a.quiet || !line.passes() {
            println!("{line}");
        }
    })?;
    for reason in &summary.refused {
        println!("refused  {reason}");
    }
    println!("{} quantities, {} failed; {} cases refused", summary.lines, summary.failed, summary.refused.len());
    if summary.lines == 0 {
        bail_input!("{}: nothing was compared: every case was refused", a.oracle.display());
    }
    Ok(summary.failed == 0)
}
