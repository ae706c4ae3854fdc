//! The sections of a validated configuration: every field has a value within its range. How they come about stands in config.rs.

use std::path::PathBuf;

use clap::ValueEnum;
use serde::Serialize;

use super::options::{ComputeType, EciKind, OptimizerStates, Quant};
use crate::data::{Format, LabelSet, Layout, OverLong};
use crate::train::schedule::Shape;
use crate::{Error, Result, bail_input, bytes};

/// The base model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelConfig {
    /// Its folder.
    pub path: PathBuf,
    /// How its linear layers are stored.
    pub quant: Quant,
    /// Whether the scales of NF4 blocks are stored in 8 bits.
    pub double_quant: bool,
}

/// The rows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DataConfig {
    /// At least one file.
    pub train: Vec<PathBuf>,
    /// Empty: `validation_share` of the training rows.
    pub validation: Vec<PathBuf>,
    /// Beside those that `test_ids` choose; without either, `test_share` of the training rows.
    pub test: Vec<PathBuf>,
    /// The file with the ids of the test rows; empty where there is none.
    pub test_ids: PathBuf,
    /// Share of the training rows kept back for validation.
    pub validation_share: f64,
    /// Share of the rows kept back for the test.
    pub test_share: f64,
    /// The classes in order; empty: the labels of the training rows, sorted.
    pub labels: Vec<String>,
    /// The format of each training file, or one for all; "auto" and none at all look at the rows.
    pub formats: Vec<String>,
    /// How often a row of each training file counts in an epoch; none at all: once.
    pub weights: Vec<f64>,
    /// What the check of the rows lets pass.
    pub allow: Vec<String>,
    /// What to do with a row that is too long.
    pub over_long: OverLong,
    /// The most tokens of a row, at most those of a micro-batch; never 0.
    pub max_length: usize,
}

/// The prompt.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PromptConfig {
    /// A file with the template, or the name of a built-in one.
    pub template: String,
    /// How turns are laid out.
    pub layout: Layout,
    /// What the assistant is told to be; empty: nothing.
    pub system: String,
    /// Examples shown before each question.
    pub shots: usize,
}

/// The adapter.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LoraConfig {
    /// R.
    pub rank: usize,
    /// The scale is `alpha / rank`.
    pub alpha: f64,
    /// Share of inputs dropped.
    pub dropout: f64,
    /// Names of linear layers, in the model's order, none twice.
    pub targets: Vec<String>,
}

/// The classification head.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EciConfig {
    /// What it reads; `None` for no head.
    pub kind: EciKind,
    /// w of `(1 - w) LM + w CE`, of all heads together; 0 without any.
    pub weight: f64,
    /// The heads, as [`LabelSet::parse`] reads them; empty: as the rows have labels.
    pub heads: Vec<String>,
    /// Positions that the paper's head has room for.
    pub positions: usize,
    /// Widths of the hidden layers.
    pub dims: Vec<usize>,
}

/// The training. Exactly one of `steps` and `epochs` is not 0.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrainConfig {
    /// The folder of the adapter to go on from; empty: a new one.
    pub from: PathBuf,
    /// Optimiser steps, or 0.
    pub steps: usize,
    /// Passes over the rows, or 0.
    pub epochs: f64,
    /// Peak learning rate of the adapter.
    pub lr: f64,
    /// Peak learning rate of the head; never 0.
    pub head_lr: f64,
    /// AdamW's weight decay.
    pub weight_decay: f64,
    /// The gradient's norm is clipped to this; 0: never.
    pub clip: f64,
    /// How the learning rate falls.
    pub schedule: Shape,
    /// Share of the steps that warm up.
    pub warmup: f64,
    /// What the learning rate falls to, as a share of the peak.
    pub min_ratio: f64,
    /// Tokens of a micro-batch.
    pub tokens: usize,
    /// Rows of a micro-batch at most.
    pub rows: usize,
    /// Micro-batches of a step.
    pub accumulate: usize,
    /// Storage of AdamW's moments.
    pub optimizer_states: OptimizerStates,
    /// Of everything random.
    pub seed: u64,
    /// Validations without a better loss before it stops; 0: never.
    pub patience: usize,
}

impl DataConfig {
    /// The format of each training file; none: to be recognised.
    pub fn formats(&self) -> Result<Vec<Option<Format>>> {
        formats("data.formats", &self.formats, self.train.len())
    }
}

/// The format of each of `n_files` files; none: to be recognised. `names`: one for each, or one for all, or none at all.
pub fn formats(key: &str, names: &[String], n_files: usize) -> Result<Vec<Option<Format>>> {
    if names.len() > 1 && names.len() != n_files {
        bail_input!("{key} has {} formats for {n_files} data files; give one for each", names.len());
    }
    let format = |name: &String| match name.as_str() {
        "auto" => Ok(None),
        name => Format::from_str(name, false).map(Some).map_err(|_| {
            let known = Format::value_variants().iter().filter_map(|format| format.to_possible_value());
            let known: Vec<String> = known.map(|value| value.get_name().to_string()).collect();
            Error::Input(format!("{key} has {name:?}; expected auto, {}", known.join(", ")))
        }),
    };
    let named = names.iter().map(format).collect::<Result<Vec<_>>>()?;
    Ok(match named.as_slice() {
        [] => vec![None; n_files],
        [one] => vec![*one; n_files],
        _ => named,
    })
}

impl EciConfig {
    /// The classes of each head that is named.
    pub fn sets(&self) -> Result<Vec<LabelSet>> {
        self.heads.iter().map(|head| LabelSet::parse(head)).collect()
    }
}

impl TrainConfig {
    /// Optimiser steps of the whole run, where an epoch makes `steps_per_epoch`. At least one.
    pub fn total_steps(&self, steps_per_epoch: usize) -> usize {
        if self.steps > 0 { self.steps } else { ((self.epochs * steps_per_epoch as f64).round() as usize).max(1) }
    }
}

/// Validation and the test.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EvalConfig {
    /// Steps between validations; 0: only at the end.
    pub every: usize,
    /// The most rows tested; 0: all.
    pub rows: usize,
    /// The most tokens of a written answer.
    pub new_tokens: usize,
}

/// Where and how it runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MachineConfig {
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    pub device: String,
    /// Storage of activations, and how frozen weights are multiplied.
    pub compute: ComputeType,
    /// 0: one for each core.
    pub threads: usize,
    /// What layers keep for the backward: `auto`, a policy, or a list of them.
    pub keep: String,
    /// Bytes of device memory the run may use.
    #[serde(serialize_with = "as_memory")]
    pub budget: usize,
    /// Bytes of pinned host memory the run may use.
    #[serde(serialize_with = "as_memory")]
    pub host_budget: usize,
    /// Grams of CO2 equivalent of a kilowatt-hour.
    pub grid_factor: f64,
}

/// What is written.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OutputConfig {
    /// The folder.
    pub dir: PathBuf,
    /// Steps between saved states; 0: only at the end.
    pub save_every: usize,
}

fn as_memory<S: serde::Serializer>(n_bytes: &usize, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_str(&bytes::exact(*n_bytes))
}
