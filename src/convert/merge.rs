//! An adapter summed into its base: a dense Hugging Face folder that needs no PEFT, and a report of what the sum cost.
//!
//! Never into 4 bits: the step of NF4 is larger than most of an adapter's delta, and next to nothing of it would be left. A base in 4
//! bits is dequantised first; an adapter that was trained on NF4 can be given the values it saw (`--base dequantized`).

use super::survival::{Report, Sums, Survival, table};
use super::weights::{Weight, Weights, expect_in_range};
use super::{Progress, file_dtype, logits, refuse_out_within};
use crate::checkpoint::{
    HostDType, ModelFolder, Shards, TensorSpec, Unit, check_room, new_folder, write_dense_extras, write_report,
};
use crate::cli::convert::{Merge, WeightType};
use crate::cli::options::Quant;
use crate::device::Device;
use crate::subject::Adapter;
use crate::{Error, Result, bytes};
use half::{bf16, f16};
use rayon::prelude::*;
use serde::Serialize;
use std::path::Path;

/// What was merged and what it cost; merge_report.json.
#[derive(Debug, Serialize)]
pub struct MergeReport {
    /// The base's folder.
    pub model: String,
    /// The adapter's.
    pub adapter: String,
    /// Into which values it was summed.
    pub base: &'static str,
    /// The scale of the low-rank product, and how it came about.
    pub scale: String,
    /// The type of the linear layers now.
    pub dtype: &'static str,
    /// Tensors with an adapter.
    pub n_adapted: usize,
    /// A line a kind of layer, and all.
    pub totals: Vec<Survival>,
    /// A line a weight.
    pub weights: Vec<Survival>,
    /// The logits of base with adapter against those of the merged model.
    pub logits: Option<logits::Difference>,
    /// Where they were computed, or why they were not.
    pub logits_from: String,
    /// What a reader should know.
    pub notes: Vec<String>,
    /// Bytes of all files.
    pub n_bytes: u64,
}

/// Merges into the new folder `job.out`, which appears when all of it was written, flushed, read back and found equal.
/// An error from `progress`, which is asked before every tensor, stops it.
pub fn merge(device: &Device, job: &Merge, mut progress: impl FnMut(Progress) -> Result<()>) -> Result<MergeReport> {
    let folder = ModelFolder::open(&job.model)?;
    let adapter = Adapter::open(&job.adapter)?;
    let weights = Weights::new(device, &folder, Some(&adapter), job.base)?;
    refuse_out_within(&job.model, &job.out)?;
    refuse_out_within(&job.adapter, &job.out)?;
    let all = weights.all()?;
    let dtype_of = |weight: &Weight| job.dtype.map_or(weight.dtype, host_dtype);
    let unit = |weight: &Weight| Unit {
        specs: vec![TensorSpec::new(&weight.name, file_dtype(dtype_of(weight)), &weight.shape)],
        texts: Vec::new(),
    };
    let shards = Shards::plan(all.iter().map(unit).collect(), job.shard_bytes);
    check_room(&job.out, shards.n_bytes())?;
    new_folder(&job.out, |staging| {
        let (n_weights, survival) = write(&weights, &all, &shards, dtype_of, staging, &mut progress)?;
        let dtype = dtype_of(all.iter().find(|w| w.lora().is_some()).unwrap_or(&all[0]));
        let n_extras = write_dense_extras(&job.model, staging, python_name(dtype))?;
        let total_bytes = all.iter().map(Weight::n_bytes).sum();
        let mut at = |what| progress(Progress { bytes: total_bytes, total_bytes, tensor: what });
        at("logits")?;
        let (compared, logits_from) = compare(device, job, &weights, staging)?;
        at("report")?;
        let mut report = MergeReport {
            model: job.model.display().to_string(),
            adapter: job.adapter.display().to_string(),
            base: weights.base_in_words(),
            scale: scale_in_words(&adapter),
            dtype: type_name(dtype),
            n_adapted: survival.lines().len(),
            totals: survival.totals(),
            weights: survival.lines(),
            logits: compared,
            logits_from,
            notes: notes(&folder, &adapter, &weights, dtype, survival.worst()),
            n_bytes: n_weights + n_extras,
        };
        report.n_bytes += write_report(staging, "merge_report", &report, &report.markdown())?;
        Ok(report)
    })
}

/// The files of weights, and what was left of each delta.
fn write(
    weights: &Weights,
    all: &[Weight],
    shards: &Shards,
    dtype_of: impl Fn(&Weight) -> HostDType,
    staging: &Path,
    mut progress: impl FnMut(Progress) -> Result<()>,
) -> Result<(u64, Report)> {
    let total_bytes = all.iter().map(Weight::n_bytes).sum();
    let (mut done, mut report, mut next) = (0, Report::default(), all.iter());
    let n_bytes = shards.write(staging, |_, file| {
        let weight = next.next().expect("a unit was planned for each tensor");
        progress(Progress { bytes: done, total_bytes, tensor: &weight.name })?;
        done += weight.n_bytes();
        let (dtype, mut sums) = (dtype_of(weight), Sums::default());
        weights.for_each_rows(weight, |rows| {
            let (stored, rounded) = round(rows.sum, dtype);
            expect_in_range(&weight.name, rounded.iter().copied(), rows.sum, type_name(dtype))?;
            if weight.lora().is_some() {
                sums.add(&rows, &rounded);
            }
            file.append(&weight.name, &stored)
        })?;
        if let Some(lora) = weight.lora() {
            report.add(lora, sums);
        }
        Ok(())
    })?;
    Ok((n_bytes, report))
}

/// The values in `dtype`, rounded once to nearest even: as bytes, and in fp32 again.
fn round(values: &[f32], dtype: HostDType) -> (Vec<u8>, Vec<f32>) {
    match dtype {
        HostDType::F32 => (bytemuck::cast_slice(values).to_vec(), values.to_vec()),
        HostDType::F16 => {
            let rounded: Vec<f16> = values.par_iter().with_min_len(1 << 12).map(|&x| f16::from_f32(x)).collect();
            let bits: Vec<u16> = rounded.iter().map(|x| x.to_bits()).collect();
            (bytemuck::cast_slice(&bits).to_vec(), rounded.iter().map(|x| x.to_f32()).collect())
        }
        HostDType::BF16 => {
            let rounded: Vec<bf16> = values.par_iter().with_min_len(1 << 12).map(|&x| bf16::from_f32(x)).collect();
            let bits: Vec<u16> = rounded.iter().map(|x| x.to_bits()).collect();
            (bytemuck::cast_slice(&bits).to_vec(), rounded.iter().map(|x| x.to_f32()).collect())
        }
    }
}

/// Base with adapter against the merged folder, as far as memory allows.
fn compare(
    device: &Device,
    job: &Merge,
    weights: &Weights,
    merged: &Path,
) -> Result<(Option<logits::Difference>, String)> {
    if job.no_logits {
        return Ok((None, "not computed: --no-logits".into()));
    }
    let device = logits::device_for(device)?;
    let both = || {
        logits::expect_room(&device, weights.folder.config())?;
        let prompts = logits::prompts(weights.folder)?;
        let adapted = logits::of(&device, weights.folder, weights.through_nf4(), weights.adapter, &prompts)?;
        let merged = logits::of(&device, &ModelFolder::open(merged)?, None, None, &prompts)?;
        let with_text = prompts.iter().all(|asked| asked.text.is_some());
        let what = if with_text { "prompts of ours" } else { "list of ids, since the folder has no tokenizer.json" };
        let from = format!("{} {what}, on {}", prompts.len(), device.name());
        Ok((Some(logits::difference(&adapted, &merged, weights.folder.config().vocab)), from))
    };
    match both() {
        // The merge itself is done and right; that a model of this size cannot also be run here is no reason to lose it.
        Err(Error::Device(why) | Error::Input(why)) => Ok((None, format!("not computed: {why}"))),
        done => done,
    }
}

fn scale_in_words(adapter: &Adapter) -> String {
    let c = &adapter.config;
    let root = if c.rslora { "sqrt(r)" } else { "r" };
    format!("{} (alpha / {root}, alpha {}, r {})", c.scale(), c.alpha, c.r)
}

fn notes(
    folder: &ModelFolder,
    adapter: &Adapter,
    weights: &Weights,
    dtype: HostDType,
    worst: Option<Survival>,
) -> Vec<String> {
    let mut notes = Vec::new();
    let trained_on_nf4 = adapter.run.as_ref().is_some_and(|run| run.model.quant == Quant::Nf4);
    if folder.config().nf4.is_some() {
        notes.push(
            "The base is in 4 bits; the adapter was added to what training multiplied, the dequantised values.".into(),
        );
    } else if weights.through_nf4().is_some() {
        notes.push("Every linear layer was quantised to NF4 and dequantised before the adapter was added: the values it was trained on, with their error.".into());
    } else if trained_on_nf4 {
        notes.push("The adapter was trained on this base in NF4 and is merged into the unquantised one: what it learned to make up for in NF4 is not there. --base dequantized merges into what it saw; evaluate both.".into());
    }
    if dtype == HostDType::BF16 {
        notes.push("bf16 keeps 8 bits of a number, f16 keeps 11: --dtype f16 keeps more of the delta where no weight exceeds 65504.".into());
    }
    if let Some(worst) = worst.filter(|worst| worst.error > 0.5 || (worst.kept - 1.0).abs() > 0.05) {
        let name = format!("{}.{}", worst.layer.unwrap_or_default(), worst.linear);
        notes.push(format!(
            "In {name} rounding leaves noise of {:.0} % of the delta: use f16 or f32, or keep the adapter separate.",
            100.0 * worst.error
        ));
    }
    let beside: Vec<&str> = ["eci_head.safetensors", "eci_config.json", "template.jinja", "prompt.json"]
        .into_iter()
        .filter(|name| adapter.dir.join(name).is_file())
        .collect();
    if !beside.is_empty() {
        notes.push(format!(
            "Not part of a merged model, and not copied: {}. Classification needs the adapter's folder; ask the merged model with the same prompt.",
            beside.join(", ")
        ));
    }
    notes
}

impl MergeReport {
    /// For the terminal.
    pub fn text(&self, out: &Path, seconds: f64) -> String {
        let head = format!(
            "{}: {} weights with the adapter in {}, {}, in {seconds:.1} s",
            out.display(),
            self.n_adapted,
            self.dtype,
            bytes::readable(self.n_bytes as usize)
        );
        format!("{head}\n{}\n{}\n{}", self.facts().join("\n"), table(&self.totals), self.notes.join("\n")).trim().into()
    }

    fn facts(&self) -> Vec<String> {
        let logits = match &self.logits {
            Some(difference) => {
                format!("logits, adapter on its base against merged ({}): {difference}", self.logits_from)
            }
            None => format!("logits: {}", self.logits_from),
        };
        vec![format!("base: {}", self.base), format!("scale: {}", self.scale), logits]
    }

    fn markdown(&self) -> String {
        let list = |lines: &[String]| lines.iter().map(|line| format!("- {line}\n")).collect::<String>();
        format!(
            "# Merged model\n\n{} with the adapter {}\n\n{}\n{}\n## What is left of the adapter after rounding\n\n\
             d: what the adapter adds to W. got: what the stored weight adds. kept = <got, d> / <d, d>; error = |got - d| / |d|.\n\n\
             {}\n## Every weight\n\n{}",
            self.model,
            self.adapter,
            list(&self.facts()),
            list(&self.notes),
            table(&self.totals).markdown(),
            table(&self.weights).markdown()
        )
    }
}

fn host_dtype(dtype: WeightType) -> HostDType {
    match dtype {
        WeightType::F32 => HostDType::F32,
        WeightType::F16 => HostDType::F16,
        WeightType::Bf16 => HostDType::BF16,
    }
}

fn python_name(dtype: HostDType) -> &'static str {
    match dtype {
        HostDType::F32 => "float32",
        HostDType::F16 => "float16",
        HostDType::BF16 => "bfloat16",
    }
}

fn type_name(dtype: HostDType) -> &'static str {
    match dtype {
        HostDType::F32 => "f32",
        HostDType::F16 => "f16",
        HostDType::BF16 => "bf16",
    }
}
