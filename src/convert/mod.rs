//! From one form of a model to another, on disk: what the `convert` command does.

mod quantize;

pub use quantize::{Summary, quantize};

use crate::cli::convert::{Conversion, Convert};
use crate::device::{Compute, Device};
use crate::{Error, Result};
use indicatif::{ProgressBar, ProgressStyle};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Whether Ctrl-C came. A process has one, like its handler.
static STOP: AtomicBool = AtomicBool::new(false);

/// 128 + SIGINT, as shells report a program that Ctrl-C ended.
const STOPPED: i32 = 130;

/// Runs the command; its closing line goes to stdout, progress to stderr. Ctrl-C stops it before the next tensor and leaves
/// nothing.
pub fn run(command: &Convert) -> Result<()> {
    let Conversion::Quantize(job) = &command.what;
    let device = Device::open(&job.device, Compute::Bf16)?;
    let bar = if job.quiet { ProgressBar::hidden() } else { ProgressBar::new(0) };
    let style = ProgressStyle::with_template("{bar:24} {bytes}/{total_bytes} {bytes_per_sec} | {eta} left | {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸─"));
    ctrlc::set_handler(|| STOP.store(true, Ordering::SeqCst))
        .map_err(|e| Error::Device(format!("Ctrl-C cannot be caught: {e}")))?;
    let start = Instant::now();
    let summary = quantize(&device, job, |done| {
        bar.set_length(done.total_bytes);
        bar.set_position(done.bytes);
        bar.set_message(done.tensor.to_string());
        if STOP.load(Ordering::SeqCst) { Err(Error::Input("stopped by Ctrl-C".into())) } else { Ok(()) }
    });
    bar.finish_and_clear();
    if summary.is_err() && STOP.load(Ordering::SeqCst) {
        eprintln!("Stopped; {} was not made.", job.out.display());
        std::process::exit(STOPPED);
    }
    println!("{}", summary?.sentence(&job.out, &device.name(), start.elapsed().as_secs_f64()));
    Ok(())
}
