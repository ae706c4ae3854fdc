//! From one form of a model to another, on disk: what the `convert` command does.
//!
//! Whatever is written appears under its name when all of it was written, flushed, read back and found equal to what was meant; before,
//! and after any fault, there is nothing of that name.

mod fold;
mod gguf;
mod gguf_names;
mod logits;
mod merge;
mod quantize;
mod survival;
mod verify_adapter;
mod vocabulary;
mod weights;

pub use fold::fold;
pub use gguf::gguf;
pub use logits::Difference;
pub use merge::{MergeReport, merge};
pub use quantize::{Summary, quantize};
pub use survival::Survival;
pub use verify_adapter::verify_adapter;

use crate::checkpoint::HostDType;
use crate::cli::convert::{Conversion, Convert};
use crate::device::{Compute, Device};
use crate::{Error, Result, bail_input};
use indicatif::{ProgressBar, ProgressStyle};
use safetensors::tensor::Dtype;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Whether Ctrl-C came. A process has one, like its handler.
static STOP: AtomicBool = AtomicBool::new(false);

/// 128 + SIGINT, as shells report a program that Ctrl-C ended.
const STOPPED: i32 = 130;

/// How far a conversion is.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// Bytes of the source that are done.
    pub bytes: u64,
    /// Of so many.
    pub total_bytes: u64,
    /// The tensor that comes next.
    pub tensor: &'a str,
}

/// Runs the command; what came of it goes to stdout, progress to stderr. Ctrl-C stops it before the next tensor and leaves
/// nothing.
pub fn run(command: &Convert) -> Result<()> {
    let start = Instant::now();
    let seconds = || start.elapsed().as_secs_f64();
    let said = match &command.what {
        Conversion::Quantize(job) => {
            let device = Device::open(&job.device, Compute::Bf16)?;
            let summary = stoppable(job.quiet, &job.out, |progress| quantize(&device, job, progress))?;
            summary.sentence(&job.out, &device.name(), seconds())
        }
        Conversion::Merge(job) => {
            let device = Device::open(&job.machine.device, Compute::Bf16)?;
            let report = stoppable(job.machine.quiet, &job.out, |progress| merge(&device, job, progress))?;
            report.text(&job.out, seconds())
        }
        Conversion::Gguf(job) => {
            let device = Device::open(&job.machine.device, Compute::Bf16)?;
            let summary = stoppable(job.machine.quiet, &job.out, |progress| gguf(&device, job, progress))?;
            summary.text(&job.out, seconds())
        }
        Conversion::Fold(job) => fold(job)?,
        Conversion::VerifyAdapter(job) => return verify_adapter(job, |line| println!("{line}")),
    };
    println!("{said}");
    Ok(())
}

/// Runs a conversion under a progress bar, until it ends or Ctrl-C comes.
fn stoppable<T>(
    quiet: bool,
    out: &Path,
    convert: impl FnOnce(&mut dyn FnMut(Progress) -> Result<()>) -> Result<T>,
) -> Result<T> {
    let bar = if quiet { ProgressBar::hidden() } else { ProgressBar::new(0) };
    let style = ProgressStyle::with_template("{bar:24} {bytes}/{total_bytes} {bytes_per_sec} | {eta} left | {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸─"));
    ctrlc::set_handler(|| STOP.store(true, Ordering::SeqCst))
        .map_err(|e| Error::Device(format!("Ctrl-C cannot be caught: {e}")))?;
    let done = convert(&mut |done| {
        bar.set_length(done.total_bytes);
        bar.set_position(done.bytes);
        bar.set_message(done.tensor.to_string());
        if STOP.load(Ordering::SeqCst) { Err(Error::Input("stopped by Ctrl-C".into())) } else { Ok(()) }
    });
    bar.finish_and_clear();
    if done.is_err() && STOP.load(Ordering::SeqCst) {
        eprintln!("Stopped; {} was not made.", out.display());
        std::process::exit(STOPPED);
    }
    done
}

/// A folder that is read from must not change while it is read.
fn refuse_out_within(source: &Path, out: &Path) -> Result<()> {
    let source_path = source.canonicalize().map_err(Error::io(source))?;
    let out_path = std::path::absolute(out).map_err(Error::io(out))?;
    let inside = out_path.ancestors().filter_map(|path| path.canonicalize().ok()).any(|path| path == source_path);
    if inside {
        bail_input!("--out {}: this lies inside the model's own folder; choose a place beside it", out.display());
    }
    Ok(())
}

fn file_dtype(dtype: HostDType) -> Dtype {
    match dtype {
        HostDType::F32 => Dtype::F32,
        HostDType::F16 => Dtype::F16,
        HostDType::BF16 => Dtype::BF16,
    }
}
