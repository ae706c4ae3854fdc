//! Logits of stated prompts, and how far two models' lie apart.
//!
//! On the CPU in fp32, so that what is seen is the files and not the arithmetic; on a GPU in bf16, whose own noise is part of the figure.
//! One model at a time is on the device.

use crate::bytes;
use crate::checkpoint::{LlamaConfig, ModelFolder};
use crate::device::{Compute, Device};
use crate::generate::logits;
use crate::model::{Batch, LoraSpec, OptimiserStates, Quantise, RunOptions, Source, load, put_adapter, tokenizer};
use crate::subject::Adapter;
use crate::tape::Tape;
use crate::{Result, bail_input};
use serde::Serialize;

/// What is asked where nothing else is said.
const TEXTS: [&str; 3] = [
    "Question: Does aspirin lower the risk of a second stroke?\nAnswer:",
    "We randomised 212 patients with type 2 diabetes to metformin or placebo. After 24 weeks HbA1c had fallen by 1.1 % and",
    "The most common adverse events were nausea (12 %), headache (9 %) and dizziness;",
];

/// A prompt as ids.
pub struct Asked {
    /// What it says, where the folder has a tokenizer.
    pub text: Option<String>,
    /// Its ids, BOS first.
    pub ids: Vec<u32>,
}

/// How far a model's logits lie from another's.
#[derive(Debug, Clone, Serialize)]
pub struct Difference {
    /// Positions compared.
    pub n_positions: usize,
    /// Mean |a - b|.
    pub mean_abs: f64,
    /// Largest |a - b|.
    pub max_abs: f64,
    /// Largest |a - b| beside the largest |a|.
    pub max_relative: f64,
    /// Mean Kullback-Leibler divergence of b's distribution from a's, in nats.
    pub kl: f64,
    /// Share of positions where both have the same likeliest token.
    pub same_top: f64,
}

/// The prompts asked of a model: ours as its tokenizer cuts them, or without one a list of ids.
pub fn prompts(folder: &ModelFolder) -> Result<Vec<Asked>> {
    let config = folder.config();
    let made_up = |n: u32| (0..n).map(|i| (config.bos + 7 * i * (i + 1)) % config.vocab as u32).collect();
    let most = config.max_positions.min(48);
    if !folder.dir().join("tokenizer.json").is_file() {
        return Ok(vec![Asked { text: None, ids: made_up(most as u32) }]);
    }
    let tokenizer = tokenizer(folder.dir(), config)?;
    let asked = TEXTS.iter().map(|text| {
        let mut ids = tokenizer.encode_prompt(text)?;
        ids.truncate(config.max_positions);
        Ok(Asked { text: Some(text.to_string()), ids })
    });
    asked.collect()
}

/// The device on which logits are compared: that of the job, in fp32 where it is the CPU.
pub fn device_for(device: &Device) -> Result<Device> {
    if device.is_cuda() { Ok(device.clone()) } else { Device::cpu(Compute::Fp32) }
}

/// Refuses a model that the host's memory would not hold on the CPU device; on a GPU its own allocator says so.
pub fn expect_room(device: &Device, config: &LlamaConfig) -> Result<()> {
    let Some(free) = available_memory().filter(|_| !device.is_cuda()) else { return Ok(()) };
    let layer: usize = config.linears().iter().map(|(_, [n_out, n_in])| n_out * n_in).sum();
    let needed = 4 * (config.n_layers * layer + 2 * config.vocab * config.hidden);
    if needed > free {
        bail_input!("the model in fp32 takes {} and {} are free", bytes::readable(needed), bytes::readable(free));
    }
    Ok(())
}

/// What Linux says can still be had.
fn available_memory() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<usize>().ok().map(|kilobytes| kilobytes << 10)
}

/// The logits [T, V] of each prompt. A folder in 4 bits stays so; a dense one is quantised where `nf4` says with which scales.
pub fn of(
    device: &Device,
    folder: &ModelFolder,
    nf4: Option<bool>,
    adapter: Option<&Adapter>,
    prompts: &[Asked],
) -> Result<Vec<Vec<f32>>> {
    let quantise = match nf4.or(folder.config().nf4.as_ref().map(|stored| stored.double)) {
        None => Quantise::None,
        Some(false) => Quantise::Nf4,
        Some(true) => Quantise::Nf4Double,
    };
    let spec = adapter.map(|adapter| {
        let config = &adapter.config;
        LoraSpec { rank: config.r, scale: config.scale(), targets: config.targets.clone() }
    });
    let (model, params, ()) = load(device, Source::Folder(folder), quantise, spec.as_ref(), 0, |builder| {
        // Nothing is trained; the states that take the least room are allocated.
        builder.optimiser_states(OptimiserStates::Eight);
        Ok(())
    })?;
    if let Some(adapter) = adapter {
        put_adapter(&params, adapter.config.r, &adapter.tensors)?;
    }
    let ask = |asked: &Asked| {
        let mut tape = Tape::inference(device);
        let batch = Batch::of_prompts([asked.ids.as_slice()]);
        let hidden = model.forward(&mut tape, &batch, &RunOptions::default())?;
        let padded = logits(&model, hidden.value())?;
        let (width, vocab) = (padded.shape()[1], model.config.vocab);
        let values = padded.read_f32()?.chunks(width).flat_map(|row| row[..vocab].to_vec()).collect();
        model.rest()?;
        Ok(values)
    };
    prompts.iter().map(ask).collect()
}

/// How far `b` lies from `a`, over all positions of all prompts; rows of `vocab`.
pub fn difference(a: &[Vec<f32>], b: &[Vec<f32>], vocab: usize) -> Difference {
    let rows = |x: &'_ [Vec<f32>]| x.iter().flat_map(|x| x.chunks(vocab).map(<[f32]>::to_vec)).collect::<Vec<_>>();
    let (a, b) = (rows(a), rows(b));
    let n_positions = a.len();
    let (mut sum, mut most, mut largest, mut kl, mut same) = (0.0, 0.0f64, 0.0f64, 0.0, 0usize);
    for (a, b) in a.iter().zip(&b) {
        for (&a, &b) in a.iter().zip(b) {
            let off = (f64::from(a) - f64::from(b)).abs();
            sum += off;
            // max() would drop a NaN; this keeps it.
            most = if off <= most { most } else { off };
            largest = largest.max(f64::from(a.abs()));
        }
        let (log_a, log_b) = (log_softmax(a), log_softmax(b));
        kl += log_a.iter().zip(&log_b).map(|(a, b)| a.exp() * (a - b)).sum::<f64>();
        same += usize::from(top(a) == top(b));
    }
    let n = n_positions as f64;
    Difference {
        n_positions,
        mean_abs: sum / (n * vocab as f64),
        max_abs: most,
        max_relative: most / largest,
        kl: kl / n,
        same_top: same as f64 / n,
    }
}

fn log_softmax(row: &[f32]) -> Vec<f64> {
    let most = row.iter().fold(f64::NEG_INFINITY, |most, &x| most.max(f64::from(x)));
    let log_sum = row.iter().map(|&x| (f64::from(x) - most).exp()).sum::<f64>().ln() + most;
    row.iter().map(|&x| f64::from(x) - log_sum).collect()
}

fn top(row: &[f32]) -> usize {
    (0..row.len()).max_by(|&i, &j| row[i].total_cmp(&row[j]).then(j.cmp(&i))).unwrap_or(0)
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(
            f,
            "mean |difference| {:.3e}, largest {:.3e} ({:.2e} of the largest logit), KL {:.3e} nats, same likeliest token at {:.1} % of {} positions",
            self.mean_abs,
            self.max_abs,
            self.max_relative,
            self.kl,
            100.0 * self.same_top,
            self.n_positions
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_what_its_formulas_say() {
        let same = difference(&[vec![0.0, 1.0]], &[vec![0.0, 1.0]], 2);
        assert_eq!((same.max_abs, same.kl, same.same_top, same.n_positions), (0.0, 0.0, 1.0, 1));
        // Two even odds against 3 : 1 at the second of two positions.
        let ln3 = 3f32.ln();
        let d = difference(&[vec![0.0, 0.0], vec![0.0, 0.0]], &[vec![0.0, 0.0], vec![0.0, ln3]], 2);
        let kl = 0.5 * (0.5f64 / 0.25).ln() + 0.5 * (0.5f64 / 0.75).ln();
        assert!((d.kl - kl / 2.0).abs() < 1e-6, "{d:?}");
        assert!((d.mean_abs - f64::from(ln3) / 4.0).abs() < 1e-6 && d.same_top == 0.5);
        assert!(difference(&[vec![f32::NAN, 0.0]], &[vec![0.0, 0.0]], 2).max_abs.is_nan());
    }
}
