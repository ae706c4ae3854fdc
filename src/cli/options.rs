//! Every setting of a fine-tune, as typed: from flags by clap, from a file by TOML, the same struct for both.
//!
//! A field's doc comment is its `--help`. Its clap id is its key in a file, `section.field`; ranges and defaults of numbers
//! are added to the help from [`numbers`](super::numbers). An empty text or list, and 0 where the help says so, mean "not
//! set": a file can name every key.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::data::{Layout, OverLong};
use crate::train::schedule::Shape;

/// All sections, every field optional.
#[derive(Args, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// `[model]`
    #[command(flatten)]
    pub model: ModelOptions,
    /// `[data]`
    #[command(flatten)]
    pub data: DataOptions,
    /// `[prompt]`
    #[command(flatten)]
    pub prompt: PromptOptions,
    /// `[lora]`
    #[command(flatten)]
    pub lora: LoraOptions,
    /// `[eci]`
    #[command(flatten)]
    pub eci: EciOptions,
    /// `[train]`
    #[command(flatten)]
    pub train: TrainOptions,
    /// `[eval]`
    #[command(flatten)]
    pub eval: EvalOptions,
    /// `[machine]`
    #[command(flatten)]
    pub machine: MachineOptions,
    /// `[output]`
    #[command(flatten)]
    pub output: OutputOptions,
}

/// The base model.
#[derive(Args, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Model")]
pub struct ModelOptions {
    /// Folder of the base model, as Hugging Face lays it out: config.json, *.safetensors, tokenizer.json
    #[arg(id = "model.path", long = "model", value_name = "DIR")]
    pub path: Option<PathBuf>,
    /// How the base's linear layers are stored: nf4 takes 4 bits a weight, none keeps the file's [default: nf4]
    #[arg(id = "model.quant", long = "quant", value_name = "KIND")]
    pub quant: Option<Quant>,
    /// Store the scales of NF4 blocks in 8 bits too: 0.37 bits a weight less; --no-double-quant to turn it off [default: true]
    #[arg(id = "model.double_quant", long = "double-quant", value_name = "BOOL", num_args = 0..=1,
          default_missing_value = "true", require_equals = true)]
    pub double_quant: Option<bool>,
}

/// The rows.
#[derive(Args, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Data")]
pub struct DataOptions {
    /// File of rows to train on: PubMedQA's JSON, Alpaca JSON or JSON lines, or our JSON lines with a label; may be given
    /// more than once. Typed as a flag it sets aside the file's whole choice of data: validation, test, test_ids, labels
    #[arg(id = "data.train", long = "data", value_name = "FILE")]
    pub train: Option<Vec<PathBuf>>,
    /// File of rows to validate on while training; without one, validation_share of the training rows is kept back
    #[arg(id = "data.validation", long = "validation", value_name = "FILE")]
    pub validation: Option<Vec<PathBuf>>,
    /// File of rows to test on before and after, beside those of test_ids; without either, test_share of the training rows is kept
    /// back
    #[arg(id = "data.test", long = "test", value_name = "FILE")]
    pub test: Option<Vec<PathBuf>>,
    /// JSON file whose keys (or items) are the ids of the test rows, such as PubMedQA's test_ground_truth.json
    #[arg(id = "data.test_ids", long = "test-ids", value_name = "FILE")]
    pub test_ids: Option<PathBuf>,
    /// Share of the training rows kept back for validation, where no file gives them
    #[arg(id = "data.validation_share", long = "validation-share", value_name = "SHARE")]
    pub validation_share: Option<f64>,
    /// Share of the rows kept back for the test, where neither a file nor ids give them
    #[arg(id = "data.test_share", long = "test-share", value_name = "SHARE")]
    pub test_share: Option<f64>,
    /// The classes, in the order of the head's outputs [default: the labels of the training rows, sorted]
    #[arg(id = "data.labels", long = "labels", value_name = "A,B,..", value_delimiter = ',')]
    pub labels: Option<Vec<String>>,
    /// The format of each data file, in their order, or one for all; "auto" looks at the rows [default: auto]
    #[arg(id = "data.formats", long = "format", value_name = "FORMAT")]
    pub formats: Option<Vec<String>>,
    /// How often a row of each data file counts in an epoch, in their order; 0.5: half of its rows, drawn anew [default: 1 each]
    #[arg(id = "data.weights", long = "weights", value_name = "W,W,..", value_delimiter = ',')]
    pub weights: Option<Vec<f64>>,
    /// What the check of the rows is to let pass, by the names that it gives (--check-data), such as leak,duplicate-row
    #[arg(id = "data.allow", long = "allow", value_name = "NAME,..", value_delimiter = ',')]
    pub allow: Option<Vec<String>>,
    /// What to do with a row of more than max_length tokens: stop, leave it out, or shorten its context [default: error]
    #[arg(id = "data.over_long", long = "over-long", value_name = "RULE")]
    pub over_long: Option<OverLong>,
    /// The most tokens of a row, prompt and answer; 0: as many as a micro-batch holds
    #[arg(id = "data.max_length", long = "max-length", value_name = "TOKENS")]
    pub max_length: Option<usize>,
}

/// The prompt.
#[derive(Args, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Prompt")]
pub struct PromptOptions {
    /// The prompt's template: a file, or the name of a built-in one: direct, one_step, three_step, conversation, alpaca
    /// [default: three_step, which retrieves, summarises, decides]
    #[arg(id = "prompt.template", long = "template", value_name = "FILE")]
    pub template: Option<String>,
    /// How turns are laid out: as plain text, or in the marks of Llama-2's chat models [default: plain]
    #[arg(id = "prompt.layout", long = "layout", value_name = "LAYOUT")]
    pub layout: Option<Layout>,
    /// What the assistant is told to be, before everything else [default: nothing]
    #[arg(id = "prompt.system", long = "system", value_name = "TEXT")]
    pub system: Option<String>,
    /// Training rows shown with their answers before each question: 0, 1 or a few. They are taken out of the training rows
    #[arg(id = "prompt.shots", long = "shots", value_name = "N")]
    pub shots: Option<usize>,
}

/// The adapter.
#[derive(Args, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "LoRA")]
pub struct LoraOptions {
    /// Rank of the adapter
    #[arg(id = "lora.rank", long = "rank", value_name = "R")]
    pub rank: Option<usize>,
    /// Its strength: what is added is (alpha / rank) B A x
    #[arg(id = "lora.alpha", long = "alpha", value_name = "ALPHA")]
    pub alpha: Option<f64>,
    /// Share of the adapter's inputs that are dropped in training
    #[arg(id = "lora.dropout", long = "dropout", value_name = "SHARE")]
    pub dropout: Option<f64>,
    /// The linear layers that get an adapter [default: q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj]
    #[arg(id = "lora.targets", long = "targets", value_name = "A,B,..", value_delimiter = ',')]
    pub targets: Option<Vec<String>>,
}

/// The classification head (Extended Classification Integration).
#[derive(Args, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "ECI head")]
pub struct EciOptions {
    /// What the head reads of the prompt's last hidden states: paper pools them 8 x 8 and lays positions side by side; mean,
    /// last and max make one vector; none trains no head [default: paper]
    #[arg(id = "eci.kind", long = "eci", value_name = "KIND")]
    pub kind: Option<EciKind>,
    /// Weight w of the heads, all together, in the joint loss (1 - w) LM + w CE
    #[arg(id = "eci.weight", long = "eci-weight", value_name = "W")]
    pub weight: Option<f64>,
    /// A head: NAME=LABEL,LABEL,.. or NAME:WEIGHT=LABEL,LABEL,..; again for another. A row goes to the head that has its options,
    /// or its label [default: one for each list of options, and one for all other labels]
    #[arg(id = "eci.heads", long = "head", value_name = "HEAD")]
    pub heads: Option<Vec<String>>,
    /// Positions (tokens of the prompt) that the paper's head has room for
    #[arg(id = "eci.positions", long = "eci-positions", value_name = "TOKENS")]
    pub positions: Option<usize>,
    /// Widths of the head's hidden layers [default: 1024,256,64,16,4]
    #[arg(id = "eci.dims", long = "eci-dims", value_name = "N,N,..", value_delimiter = ',')]
    pub dims: Option<Vec<usize>>,
}

/// The training.
#[derive(Args, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Training")]
pub struct TrainOptions {
    /// Folder of an adapter to go on from, with new data or another head; its rank and layers must be these
    #[arg(id = "train.from", long = "from", value_name = "DIR")]
    pub from: Option<PathBuf>,
    /// Optimiser steps; 0: as many as the epochs make. Typed as a flag it sets aside the file's epochs
    #[arg(id = "train.steps", long = "steps", value_name = "N", conflicts_with = "train.epochs")]
    pub steps: Option<usize>,
    /// Passes over the training rows; 0: as the steps say. Typed as a flag it sets aside the file's steps
    #[arg(id = "train.epochs", long = "epochs", value_name = "N")]
    pub epochs: Option<f64>,
    /// Peak learning rate of the adapter
    #[arg(id = "train.lr", long = "lr", value_name = "RATE")]
    pub lr: Option<f64>,
    /// Peak learning rate of the ECI head; 0: that of the adapter
    #[arg(id = "train.head_lr", long = "head-lr", value_name = "RATE")]
    pub head_lr: Option<f64>,
    /// AdamW's weight decay
    #[arg(id = "train.weight_decay", long = "weight-decay", value_name = "RATE")]
    pub weight_decay: Option<f64>,
    /// The gradient's norm (adapter and head together) is clipped to this; 0: never
    #[arg(id = "train.clip", long = "clip", value_name = "NORM")]
    pub clip: Option<f64>,
    /// How the learning rate falls after the warm-up [default: cosine]
    #[arg(id = "train.schedule", long = "schedule", value_name = "SHAPE")]
    pub schedule: Option<Shape>,
    /// Share of the steps in which the learning rate rises to its peak
    #[arg(id = "train.warmup", long = "warmup", value_name = "SHARE")]
    pub warmup: Option<f64>,
    /// What the learning rate falls to, as a share of the peak
    #[arg(id = "train.min_ratio", long = "min-ratio", value_name = "SHARE")]
    pub min_ratio: Option<f64>,
    /// Tokens of a micro-batch; whole rows are laid end to end until no other fits
    #[arg(id = "train.tokens", long = "tokens", value_name = "TOKENS")]
    pub tokens: Option<usize>,
    /// Rows of a micro-batch at most: short rows are not packed beyond it
    #[arg(id = "train.rows", long = "rows", value_name = "ROWS")]
    pub rows: Option<usize>,
    /// Micro-batches of an optimiser step
    #[arg(id = "train.accumulate", long = "accumulate", value_name = "N")]
    pub accumulate: Option<usize>,
    /// Storage of AdamW's two moments: fp32, or eight, blocks of 8 bits that save six of eight bytes a number [default: fp32]
    #[arg(id = "train.optimizer_states", long = "optimizer-states", value_name = "TYPE")]
    pub optimizer_states: Option<OptimizerStates>,
    /// Seed of everything random: adapter, head, order of rows, dropout, split
    #[arg(id = "train.seed", long = "seed", value_name = "N")]
    pub seed: Option<u64>,
    /// Stop after this many validations in a row without a better joint loss; 0: never
    #[arg(id = "train.patience", long = "patience", value_name = "N")]
    pub patience: Option<usize>,
}

/// Validation and the test before and after.
#[derive(Args, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Evaluation")]
pub struct EvalOptions {
    /// Validate every so many steps; 0: only at the end
    #[arg(id = "eval.every", long = "eval-every", value_name = "STEPS")]
    pub every: Option<usize>,
    /// The most rows to test on; 0: all
    #[arg(id = "eval.rows", long = "eval-rows", value_name = "ROWS")]
    pub rows: Option<usize>,
    /// The most tokens the model may write for an answer
    #[arg(id = "eval.new_tokens", long = "new-tokens", value_name = "TOKENS")]
    pub new_tokens: Option<usize>,
}

/// Where and how it runs: changes speed and memory, never the result (but for compute).
#[derive(Args, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Machine")]
pub struct MachineOptions {
    /// auto (a GPU if one can be used, else the CPU), cpu, cuda or cuda:N [default: auto]
    #[arg(id = "machine.device", long = "device", value_name = "DEVICE")]
    pub device: Option<String>,
    /// bf16 everywhere; fp32 on the CPU only; fp8: as bf16, but frozen weights in NF4 are multiplied in 8 bits (e4m3), on the CPU
    /// and on GPUs of compute capability 8.9, 9.0 and 12.x; changes what is computed [default: bf16]
    #[arg(id = "machine.compute", long = "compute", value_name = "TYPE")]
    pub compute: Option<ComputeType>,
    /// Threads of the CPU device and of tokenising; 0: one for each core
    #[arg(id = "machine.threads", long = "threads", value_name = "N")]
    pub threads: Option<usize>,
    /// What layers keep for the backward pass: outputs (of all products), eight (gate and up in 8 bits), host (gate and up
    /// moved to host memory), gateup (those two computed again), input (all computed again); or a list from the first
    /// layer on, such as host:12,outputs [default: auto, the fastest that the budget allows, layer by layer]
    #[arg(id = "machine.keep", long = "keep", value_name = "POLICY")]
    pub keep: Option<String>,
    /// Device memory the run may use, such as 24GiB [default: 24GiB]
    #[arg(id = "machine.budget", long = "budget", value_name = "MEMORY")]
    pub budget: Option<String>,
    /// Pinned host memory the run may use to keep activations in [default: 16GiB]
    #[arg(id = "machine.host_budget", long = "host-budget", value_name = "MEMORY")]
    pub host_budget: Option<String>,
    /// Grams of CO2 equivalent that a kilowatt-hour stands for here, for the report's energy lines; the default is the world's
    /// average of 2025 (Ember)
    #[arg(id = "machine.grid_factor", long = "grid-factor", value_name = "GRAMS")]
    pub grid_factor: Option<f64>,
}

/// What is written.
#[derive(Args, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Output")]
pub struct OutputOptions {
    /// Folder for the adapter, the head, the log and the report
    #[arg(id = "output.dir", long = "out", value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Save the state of the run every so many steps; 0: only at the end and on Ctrl-C
    #[arg(id = "output.save_every", long = "save-every", value_name = "STEPS")]
    pub save_every: Option<usize>,
}

/// Declares an enum whose values have the same lower-case names in flags, files and reports.
macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($(#[$value_doc:meta])* $value:ident),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ValueEnum)]
        #[serde(rename_all = "lowercase")]
        pub enum $name { $($(#[$value_doc])* $value),+ }
    };
}

choice! {
    /// How the base's linear layers are stored.
    Quant {
        /// 4 bits a weight
        #[default] Nf4,
        /// As in the file
        None,
    }
}
choice! {
    /// What the ECI head reads.
    EciKind {
        /// The paper's head
        #[default] Paper,
        /// The mean over the prompt
        Mean,
        /// The prompt's last token
        Last,
        /// The maximum over the prompt
        Max,
        /// No head: the language model alone
        None,
    }
}
choice! {
    /// Storage of activations, and how frozen weights are multiplied.
    ComputeType {
        /// 16 bits, as on a GPU
        #[default] Bf16,
        /// 32 bits, on the CPU only
        Fp32,
        /// 16 bits; frozen weights multiplied in 8 (e4m3)
        Fp8,
    }
}
impl ComputeType {
    /// As typed.
    pub fn name(self) -> &'static str {
        match self {
            ComputeType::Bf16 => "bf16",
            ComputeType::Fp32 => "fp32",
            ComputeType::Fp8 => "fp8",
        }
    }
}
choice! {
    /// Storage of AdamW's moments.
    OptimizerStates {
        /// 32 bits
        #[default] Fp32,
        /// Blocks of 8 bits
        Eight,
    }
}
