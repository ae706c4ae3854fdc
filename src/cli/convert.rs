//! The arguments of `convert`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::bytes;

/// Brings a model from one form into another, on disk.
#[derive(Clone, Debug, Parser)]
#[command(name = "convert", version)]
pub struct Convert {
    /// Which conversion.
    #[command(subcommand)]
    pub what: Conversion,
}

/// What `convert` can do.
#[derive(Clone, Debug, Subcommand)]
pub enum Conversion {
    /// A model folder to 4 bits (NF4), once: a quarter of the size, and nothing is left to quantise when it is loaded.
    Quantize(Quantize),
}

/// Quantises a Llama folder into a new one in bitsandbytes' layout, which transformers, vLLM and `finetune` read.
#[derive(Clone, Debug, Args)]
pub struct Quantize {
    /// The model: a Hugging Face Llama folder with F32, F16 or BF16 weights in safetensors.
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// The new folder; it must not exist yet.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// Keep the scales of NF4 blocks in 32 bits.
    #[arg(long = "no-double-quant", action = clap::ArgAction::SetFalse)]
    pub double_quant: bool,
    /// The most that one file of weights holds.
    #[arg(long = "shard-size", value_name = "SIZE", default_value = "4GiB", value_parser = size)]
    pub shard_bytes: usize,
    /// CPU threads; 0: one per core.
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
    /// No progress, only the result.
    #[arg(long)]
    pub quiet: bool,
}

fn size(text: &str) -> Result<usize, String> {
    bytes::parse("--shard-size", text).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(args: &str) -> Result<Quantize, clap::Error> {
        let args = ["convert", "quantize"].into_iter().chain(args.split_whitespace());
        Convert::try_parse_from(args).map(|c| match c.what {
            Conversion::Quantize(job) => job,
        })
    }

    #[test]
    fn defaults_are_double_quantisation_and_four_gibibytes() {
        let job = parse("--model a --out b").unwrap();
        assert!(job.double_quant && !job.quiet);
        assert_eq!((job.shard_bytes, job.device.as_str(), job.threads), (4 << 30, "auto", 0));
        let job =
            parse("--model a --out b --no-double-quant --shard-size 100MB --device cpu --quiet --threads 2").unwrap();
        assert!(!job.double_quant && job.quiet);
        assert_eq!((job.shard_bytes, job.device.as_str(), job.threads), (100_000_000, "cpu", 2));
        Convert::command().debug_assert();
    }

    #[test]
    fn a_size_without_a_unit_is_refused() {
        let error = parse("--model a --out b --shard-size 4").unwrap_err();
        assert!(error.to_string().contains("expected an amount of memory with its unit"), "{error}");
        assert_eq!(error.exit_code(), 2);
        assert!(parse("--model a").is_err());
    }
}
