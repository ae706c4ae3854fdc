//! The arguments of `chat`.

use std::path::PathBuf;

use clap::Parser;

use super::which::{AtOnce, Which};
use crate::data::Format;

/// Talks with a model in the terminal, or answers a file of questions (--once).
///
/// With --adapter alone it speaks to the base and in the prompt that the adapter was trained with; where there is an ECI head, its label
/// stands beside each answer. Research software: what it says may be wrong and is no medical advice.
#[derive(Clone, Debug, Parser)]
#[command(name = "chat", version)]
pub struct Chat {
    /// The model.
    #[command(flatten)]
    pub which: Which,
    /// What it holds.
    #[command(flatten)]
    pub at_once: AtOnce,
    /// What is decided about a question: a label set by its name or by its labels, joined by commas, or none [default: the set that a
    /// question's options or label belong to, else the first]
    #[arg(long, value_name = "SET")]
    pub label: Option<String>,
    /// File with a text that may be read to answer
    #[arg(long, value_name = "FILE", conflicts_with = "once")]
    pub context: Option<PathBuf>,
    /// Only answers
    #[arg(long)]
    pub quiet: bool,

    /// Answer a file of questions and leave: a JSON line for each, in its order
    #[arg(long, help_heading = "Questions from a file")]
    pub once: bool,
    /// The questions, in any format that finetune reads, such as lines of {"id", "question", "context", "options"} or of {"messages"}
    /// [default: standard input]
    #[arg(long = "in", value_name = "FILE", requires = "once", help_heading = "Questions from a file")]
    pub input: Option<PathBuf>,
    /// Their format [default: by their fields]
    #[arg(long, value_name = "FORMAT", requires = "once", help_heading = "Questions from a file")]
    pub format: Option<Format>,
    /// File for the answers, which appears when all are there [default: standard output, as they come]
    #[arg(long, value_name = "FILE", requires = "once", help_heading = "Questions from a file")]
    pub out: Option<PathBuf>,
    /// Replace that file
    #[arg(long, requires = "out", help_heading = "Questions from a file")]
    pub overwrite: bool,

    /// Tokens of an answer at most; fewer where the model's context ends; 0: only the label
    #[arg(long, value_name = "N", default_value_t = 256, help_heading = "Choice of tokens")]
    pub new_tokens: usize,
    /// Divides the logits before a token is drawn; 0: always the likeliest token
    #[arg(
        long,
        value_name = "T",
        default_value_t = 0.0,
        allow_negative_numbers = true,
        help_heading = "Choice of tokens"
    )]
    pub temperature: f32,
    /// Draw from the likeliest tokens that together reach this share
    #[arg(
        long,
        value_name = "SHARE",
        default_value_t = 1.0,
        allow_negative_numbers = true,
        help_heading = "Choice of tokens"
    )]
    pub top_p: f32,
    /// Draw from so many likeliest tokens; 0: from all
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Choice of tokens")]
    pub top_k: usize,
    /// Makes tokens less likely that were read or written before; 1: does nothing
    #[arg(
        long,
        value_name = "FACTOR",
        default_value_t = 1.0,
        allow_negative_numbers = true,
        help_heading = "Choice of tokens"
    )]
    pub repetition_penalty: f32,
    /// Seed of the draws: the same again gives the same
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Choice of tokens")]
    pub seed: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(args: &str) -> Result<Chat, clap::Error> {
        Chat::try_parse_from(["chat"].into_iter().chain(args.split_whitespace()))
    }

    #[test]
    fn a_conversation_is_greedy_unless_said_otherwise() {
        let typed = parse("--adapter a").unwrap();
        assert_eq!((typed.temperature, typed.top_k, typed.top_p, typed.repetition_penalty), (0.0, 0, 1.0, 1.0));
        assert!(!typed.once && typed.new_tokens == 256 && typed.label.is_none());
        Chat::command().debug_assert();
    }

    #[test]
    fn what_belongs_to_a_file_of_questions_is_refused_without_it() {
        for args in ["--in a", "--out a", "--format alpaca", "--once --overwrite", "--once --context a", "--top-k -1"] {
            assert_eq!(parse(args).unwrap_err().exit_code(), 2, "{args}");
        }
        let typed = parse("--once --in a --out b --overwrite --format messages").unwrap();
        assert_eq!(typed.format, Some(Format::Messages));
    }
}
