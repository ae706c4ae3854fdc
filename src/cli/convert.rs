//! The arguments of `convert`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

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
    /// An adapter summed into its base: a dense folder that needs no PEFT, with a report of what rounding cost.
    Merge(Merge),
    /// A model, an adapter in it or beside it, as one GGUF file for llama.cpp.
    Gguf(Gguf),
    /// An adapter without rsLoRA that computes the same: for programs that scale by alpha / r whatever the adapter says.
    Fold(Fold),
    /// Proves what an adapter's folder holds: its keys, that it acts, and that PEFT computes what we compute.
    VerifyAdapter(VerifyAdapter),
}

impl Conversion {
    /// CPU threads; 0: one per core.
    pub fn threads(&self) -> usize {
        match self {
            Conversion::Quantize(job) => job.threads,
            Conversion::Merge(job) => job.machine.threads,
            Conversion::Gguf(job) => job.machine.threads,
            Conversion::Fold(_) => 0,
            Conversion::VerifyAdapter(job) => job.threads,
        }
    }
}

/// Where a conversion runs, and what it says.
#[derive(Clone, Debug, Args)]
pub struct Machine {
    /// auto, cpu, cuda or cuda:N; what is in 4 bits is decoded there.
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// CPU threads; 0: one per core.
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
    /// No progress, only the result.
    #[arg(long)]
    pub quiet: bool,
}

/// Into which values of the base an adapter is summed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum MergeBase {
    /// As the folder holds them; a folder in 4 bits is dequantised.
    #[default]
    Original,
    /// Linear layers quantised to NF4 and dequantised, as training on NF4 saw them.
    Dequantized,
}

/// The type of a folder's weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WeightType {
    /// The range of f32, 8 bits of a number.
    Bf16,
    /// 11 bits of a number, none beyond 65504.
    F16,
    /// Nothing is rounded.
    F32,
}

/// Sums an adapter into its base, in fp32 and rounded once.
#[derive(Clone, Debug, Args)]
pub struct Merge {
    /// The base: a Hugging Face Llama folder, dense or in 4 bits.
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// The adapter's folder, as finetune or PEFT writes it.
    #[arg(long, value_name = "DIR")]
    pub adapter: PathBuf,
    /// The new folder; it must not exist yet.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// The type of the new weights [default: that of the base]
    #[arg(long, value_name = "TYPE")]
    pub dtype: Option<WeightType>,
    /// Into which values: the base's own, or what training on NF4 saw.
    #[arg(long, value_name = "BASE", default_value = "original")]
    pub base: MergeBase,
    /// The most that one file of weights holds.
    #[arg(long = "shard-size", value_name = "SIZE", default_value = "4GiB", value_parser = size)]
    pub shard_bytes: usize,
    /// Leave out the comparison of logits, which loads both models, one after the other.
    #[arg(long)]
    pub no_logits: bool,
    /// Where.
    #[command(flatten)]
    pub machine: Machine,
}

/// How the matrices of a GGUF file are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GgufKind {
    /// 16-bit IEEE.
    F16,
    /// 8 bits, a scale per 32 numbers; rows that are no multiple of 32 in F16.
    #[value(name = "q8_0")]
    Q8,
    /// The upper half of an F32.
    Bf16,
    /// As exact as it gets.
    F32,
}

/// Writes a GGUF file for llama.cpp and what is built on it.
#[derive(Clone, Debug, Args)]
pub struct Gguf {
    /// The model: a Hugging Face Llama folder with its tokenizer.json.
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// An adapter to sum into it on the way, as `merge` does.
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Write the adapter alone, for llama.cpp's --lora on a GGUF of its base.
    #[arg(long, requires = "adapter")]
    pub adapter_only: bool,
    /// The new file; it must not exist yet.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// How matrices are stored [default: f16; of an adapter alone f32]
    #[arg(long = "type", value_name = "TYPE")]
    pub kind: Option<GgufKind>,
    /// Into which values an adapter is summed: the base's own, or what training on NF4 saw.
    #[arg(long, value_name = "BASE", default_value = "original")]
    pub base: MergeBase,
    /// Where.
    #[command(flatten)]
    pub machine: Machine,
}

/// Writes the same adapter with alpha scaled by sqrt(r) and use_rslora false; what lies beside it comes along.
#[derive(Clone, Debug, Args)]
pub struct Fold {
    /// The adapter's folder.
    #[arg(long, value_name = "DIR")]
    pub adapter: PathBuf,
    /// The new folder; it must not exist yet.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// Checks an adapter on its base. Exit code 1 where something does not hold.
#[derive(Clone, Debug, Args)]
pub struct VerifyAdapter {
    /// The base: a Hugging Face Llama folder.
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// The adapter's folder.
    #[arg(long, value_name = "DIR")]
    pub adapter: PathBuf,
    /// A Python with torch, transformers and peft, whose logits are compared with ours [default: LLAMACARE_PYTHON]
    #[arg(long, value_name = "FILE")]
    pub python: Option<PathBuf>,
    /// CPU threads; 0: one per core.
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
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
            other => panic!("{other:?}"),
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
    fn an_adapter_alone_needs_an_adapter_and_types_have_their_names() {
        let parse = |args: &str| Convert::try_parse_from(["convert"].into_iter().chain(args.split_whitespace()));
        assert!(parse("gguf --model a --out b --adapter-only").is_err());
        let Conversion::Gguf(job) = parse("gguf --model a --out b --type q8_0").unwrap().what else { panic!() };
        assert_eq!((job.kind, job.base), (Some(GgufKind::Q8), MergeBase::Original));
        let merge = "merge --model a --adapter b --out c --dtype f16 --base dequantized";
        let Conversion::Merge(job) = parse(merge).unwrap().what else { panic!() };
        assert_eq!((job.dtype, job.base, job.shard_bytes), (Some(WeightType::F16), MergeBase::Dequantized, 4 << 30));
        assert!(parse("merge --model a --adapter b --out c --dtype nf4").is_err(), "never into 4 bits");
        assert!(parse("verify-adapter --model a --adapter b").is_ok());
    }

    #[test]
    fn a_size_without_a_unit_is_refused() {
        let error = parse("--model a --out b --shard-size 4").unwrap_err();
        assert!(error.to_string().contains("expected an amount of memory with its unit"), "{error}");
        assert_eq!(error.exit_code(), 2);
        assert!(parse("--model a").is_err());
    }
}
