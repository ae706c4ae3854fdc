//! Which model is asked, with what prompt, and where: the arguments that `evaluate`, `chat` and `serve` share.

use std::path::PathBuf;

use clap::Args;

use super::options::{ComputeType, Quant};
use crate::bytes;
use crate::data::Layout;

/// A base, an adapter on it, the prompt, the machine.
#[derive(Clone, Debug, Args)]
pub struct Which {
    /// Folder of an adapter, as finetune or PEFT writes it
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Folder of the base model [default: the base of the adapter's run]
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,

    /// Template of a base, or of an adapter that was not made by finetune [default: three_step, in chat and serve conversation]
    #[arg(long, value_name = "FILE", help_heading = "Prompt")]
    pub template: Option<String>,
    /// How turns are laid out [default: plain]
    #[arg(long, value_name = "LAYOUT", help_heading = "Prompt")]
    pub layout: Option<Layout>,
    /// What the assistant is told to be [default: nothing]
    #[arg(long, value_name = "TEXT", help_heading = "Prompt")]
    pub system: Option<String>,

    /// How the base's linear layers are stored [default: as in the adapter's run, else nf4]
    #[arg(long, value_name = "KIND", help_heading = "Machine")]
    pub quant: Option<Quant>,
    /// auto, cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto", help_heading = "Machine")]
    pub device: String,
    /// bf16, fp32 (on the CPU) or fp8
    #[arg(long, value_name = "TYPE", default_value = "bf16", help_heading = "Machine")]
    pub compute: ComputeType,
    /// Tokens of a pass
    #[arg(long, value_name = "TOKENS", default_value_t = 2816, help_heading = "Machine", value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(16..=65536))]
    pub tokens: usize,
    /// Device memory that may be used
    #[arg(long, value_name = "MEMORY", default_value = "24GiB", value_parser = memory, help_heading = "Machine")]
    pub budget: usize,
    /// CPU threads; 0: one per core
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Machine")]
    pub threads: usize,
}

/// How much is under way at once, where questions come as they will.
#[derive(Clone, Copy, Debug, Args)]
pub struct AtOnce {
    /// Tokens of a conversation at most, its answer included [default: the model's context]
    #[arg(long, value_name = "TOKENS", help_heading = "Machine", value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=1_000_000))]
    pub max_length: Option<usize>,
    /// Questions answered side by side at most. The default is what one reading of NF4 weights serves on a GPU
    #[arg(long, value_name = "N", default_value_t = 16, help_heading = "Machine", value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=1024))]
    pub at_once: usize,
}

fn memory(text: &str) -> Result<usize, String> {
    bytes::parse("--budget", text).map_err(|e| e.to_string())
}
