//! `verify`: holds this engine to an oracle case made by PyTorch, transformers, PEFT and bitsandbytes.
//!
//! In bf16 every quantity may be a small multiple of PyTorch's own bf16 error away from the golden value; in fp32 it must
//! agree with the golden value itself. One line per quantity, and a failure of any is a failure of the whole.

mod base;
mod case;
mod heads;

use crate::device::{Compute, Device, Kind};
use crate::{Error, Result, bail_input};
use case::Case;
use std::path::{Path, PathBuf};

/// One quantity, compared.
pub struct Line {
    /// Case, file and quantity.
    pub name: String,
    /// Our error: relative norm, or absolute where the limit is absolute.
    pub error: f64,
    /// PyTorch's own bf16 error of the same quantity; none in fp32.
    pub torch: Option<f64>,
    /// The most that passes.
    pub limit: f64,
}

impl Line {
    /// NaN does not pass.
    pub fn passes(&self) -> bool {
        self.error <= self.limit
    }
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let verdict = if self.passes() { "pass" } else { "FAIL" };
        let torch =
            self.torch.map_or("      -       -".into(), |t| format!("{t:9.2e} {:5.2}", self.error / t.max(1e-300)));
        write!(f, "{verdict}  {:<64} {:9.2e} {torch}  limit {:.2e}", self.name, self.error, self.limit)
    }
}

/// What [`run`] found.
#[derive(Default)]
pub struct Summary {
    /// Quantities compared.
    pub lines: usize,
    /// Those too far off.
    pub failed: usize,
    /// Cases this engine has no kernels for, each with the reason: a width no model has, say.
    pub refused: Vec<String>,
}

/// Runs every case under `oracle` (one case folder, or a folder of them). `show` receives each line as it is known.
pub fn run(device: &Device, oracle: &Path, mut show: impl FnMut(&Line)) -> Result<Summary> {
    let mut summary = Summary::default();
    for folder in cases(oracle)? {
        let case = Case::open(&folder)?;
        if let Err(Error::Input(reason)) = case.supported() {
            summary.refused.push(format!("{}: {reason}", case.name));
            continue;
        }
        let mut out = Vec::new();
        base::check(device, &case, &mut out)?;
        heads::check(device, &case, &mut out)?;
        for line in &out {
            summary.lines += 1;
            summary.failed += usize::from(!line.passes());
            show(line);
        }
    }
    Ok(summary)
}

/// `oracle` itself, or the case folders in it or in its `tiny_llama`.
fn cases(oracle: &Path) -> Result<Vec<PathBuf>> {
    let is_case = |p: &Path| p.join("config.json").is_file() && p.join("batches.safetensors").is_file();
    if is_case(oracle) {
        return Ok(vec![oracle.to_path_buf()]);
    }
    let mut found = Vec::new();
    for folder in [oracle.to_path_buf(), oracle.join("tiny_llama")] {
        let Ok(entries) = std::fs::read_dir(folder) else { continue };
        found.extend(entries.flatten().map(|e| e.path()).filter(|p| is_case(p)));
    }
    found.sort();
    if found.is_empty() {
        bail_input!("{}: no oracle case here (a folder with config.json and batches.safetensors)", oracle.display());
    }
    Ok(found)
}

/// Collects lines under a common prefix, with the limits of the compute type.
struct Check<'a> {
    case: &'a Case,
    file: &'a str,
    fp32: bool,
    out: &'a mut Vec<Line>,
}

impl<'a> Check<'a> {
    fn new(device: &Device, case: &'a Case, file: &'a str, out: &'a mut Vec<Line>) -> Check<'a> {
        Check { case, file, fp32: matches!(device.kind(), Kind::Cpu(Compute::Fp32)), out }
    }

    fn push(&mut self, key: &str, error: f64, torch: Option<f64>, limit: f64) {
        let file = self.file.trim_start_matches("golden_");
        self.out.push(Line { name: format!("{} {file} {key}", self.case.name), error, torch, limit });
    }

    /// bf16: at most `factor` times PyTorch's bf16 error under `key`. fp32: relative error at most `fp32_limit`.
    fn relative(&mut self, key: &str, got: &[f32], want: &[f32], factor: f64, fp32_limit: f64) {
        let error = relative(got, want);
        if self.fp32 {
            self.push(key, error, None, fp32_limit);
        } else if let Some(torch) = self.case.torch_error(self.file, key) {
            self.push(key, error, Some(torch), factor * torch);
        }
    }

    /// bf16 as above; fp32: largest absolute difference at most `fp32_limit`.
    fn absolute(&mut self, key: &str, got: &[f32], want: &[f32], factor: f64, fp32_limit: f64) {
        if self.fp32 {
            let worst = got.iter().zip(want).map(|(g, w)| f64::from((g - w).abs()));
            let error = if got.iter().any(|g| g.is_nan()) { f64::NAN } else { worst.fold(0.0, f64::max) };
            self.push(key, error, None, fp32_limit);
        } else {
            self.relative(key, got, want, factor, fp32_limit);
        }
    }

    /// A loss. bf16: its relative error at most twice `loss_scale`, for a single scalar's error can be small by luck.
    fn loss(&mut self, key: &str, got: f64, want: f64) {
        if self.fp32 {
            self.push(key, (got - want).abs(), None, 1e-5 * want.abs().max(1.0));
        } else {
            let scale = self.case.loss_scale;
            self.push(key, ((got - want) / want).abs(), Some(scale), 2.0 * scale);
        }
    }
}

/// norm(got - want) / norm(want)
fn relative(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len(), "a quantity of the golden file has another size");
    let difference: f64 = got.iter().zip(want).map(|(&g, &w)| (f64::from(g) - f64::from(w)).powi(2)).sum();
    let size: f64 = want.iter().map(|&w| f64::from(w).powi(2)).sum();
    difference.sqrt() / size.sqrt().max(1e-30)
}
