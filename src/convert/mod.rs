//! From one form of a model to another, on disk: what the `convert` command does.

mod quantize;

pub use quantize::{Summary, quantize};

use crate::Result;
use crate::cli::convert::{Conversion, Convert};
use crate::device::{Compute, Device};
use indicatif::{ProgressBar, ProgressStyle};
use std::time::Instant;

/// Runs the command; its closing line goes to stdout, progress to stderr.
pub fn run(command: &Convert) -> Result<()> {
    let Conversion::Quantize(job) = &command.what;
    let device = Device::open(&job.device, Compute::Bf16)?;
    let bar = if job.quiet { ProgressBar::hidden() } else { ProgressBar::new(0) };
    let style = ProgressStyle::with_template("{bar:24} {bytes}/{total_bytes} {bytes_per_sec} | {eta} left | {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸─"));
    let start = Instant::now();
    let summary = quantize(&device, job, |done| {
        bar.set_length(done.total_bytes);
        bar.set_position(done.bytes);
        bar.set_message(done.tensor.to_string());
    });
    bar.finish_and_clear();
    println!("{}", summary?.sentence(&job.out, &device.name(), start.elapsed().as_secs_f64()));
    Ok(())
}
