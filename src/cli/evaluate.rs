//! The arguments of `evaluate`.

use std::path::PathBuf;

use clap::{ArgGroup, Parser, ValueEnum};

use super::which::Which;

/// Says how good a model is: on the same questions the written answer, the labels' log-probability and the ECI head, side by side.
///
/// With --adapter alone it asks the test rows of the run that made the adapter. Other ways: a table over settings (--ablate), the paper's
/// experiments (--experiment), other people's predictions (--score), and ratings by people (--human-sheet, --human-read).
#[derive(Clone, Debug, Parser)]
#[command(name = "evaluate", version, group = ArgGroup::new("what").multiple(false))]
pub struct Evaluate {
    /// The model.
    #[command(flatten)]
    pub which: Which,
    /// File of questions with their labels; again for another [default: the test rows of the adapter's run]
    #[arg(long, value_name = "FILE")]
    pub data: Vec<PathBuf>,
    /// The format of each data file, or one for all; "auto" looks at the rows
    #[arg(long = "format", value_name = "FORMAT", requires = "data")]
    pub formats: Vec<String>,
    /// File with the ids of the rows to ask, such as PubMedQA's test_ground_truth.json
    #[arg(long, value_name = "FILE", requires = "data")]
    pub test_ids: Option<PathBuf>,
    /// File of rows that were trained on: no question may be among them; near copies are noted
    #[arg(long, value_name = "FILE")]
    pub train_data: Vec<PathBuf>,
    /// Let questions pass that were trained on
    #[arg(long)]
    pub allow_leak: bool,
    /// The most questions; 0: all
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub rows: usize,
    /// Folder for evaluation.json, .md, .html and answers.jsonl; it must not exist yet
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Replace the folder
    #[arg(long, requires = "out")]
    pub overwrite: bool,
    /// What to read of each question [default: all there are]
    #[arg(long, value_name = "A,B,..", value_delimiter = ',')]
    pub readings: Vec<ReadingName>,
    /// The most tokens of a written answer
    #[arg(long, value_name = "TOKENS", default_value_t = 256, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=4096))]
    pub new_tokens: usize,
    /// Score as lm-evaluation-harness does (tasks pubmedqa, medqa_4options, medmcqa): its prompt, its metric, nothing of ours
    #[arg(long)]
    pub harness: bool,
    /// Ask once with the base in its own type and once in NF4: perplexity, and how many labels flip
    #[arg(long, conflicts_with = "quant")]
    pub quantisation_check: bool,

    /// Rows shown with their answers before each question
    #[arg(long, value_name = "N", help_heading = "Prompt", requires = "shots_from")]
    pub shots: Option<usize>,
    /// File that those rows are taken from
    #[arg(long, value_name = "FILE", help_heading = "Prompt", requires = "shots")]
    pub shots_from: Option<PathBuf>,

    /// Train and test over all combinations of these settings: KEY=VALUE,VALUE,.. as in a configuration file, such as
    /// eci.kind=last,mean; again for another. Without a value: prompts x ECI kinds x loss weights
    #[arg(long, value_name = "KEY=V,V", num_args = 0..=1, default_missing_value = "", group = "what", help_heading = "Tables")]
    pub ablate: Option<Vec<String>>,
    /// The settings that --ablate varies: a file, or the name of a shipped one
    #[arg(long, value_name = "FILE", default_value = "demo", help_heading = "Tables")]
    pub config: String,
    /// Optimiser steps of each run of --ablate and of the experiments that train [default: the configuration's]
    #[arg(long, value_name = "N", help_heading = "Tables")]
    pub steps: Option<usize>,
    /// One of the paper's experiments: eci-alone, readings or cost
    #[arg(long, value_name = "NAME", group = "what", help_heading = "Tables")]
    pub experiment: Option<String>,
    /// Fewer rows and steps: to see that it runs
    #[arg(long, help_heading = "Tables")]
    pub quick: bool,
    /// Score predictions against the labels of --data: a JSON or CSV file of ids and labels, field:NAME for a field of the data, or
    /// always:LABEL; as PubMedQA's own scorer does
    #[arg(long, value_name = "WHAT", group = "what", help_heading = "Tables")]
    pub score: Option<String>,

    /// Make a blinded rating sheet of these answers: NAME=answers.jsonl (or the folder of an evaluation); again for another model
    #[arg(long, value_name = "NAME=FILE", group = "what", help_heading = "Rating by people")]
    pub human_sheet: Vec<String>,
    /// Scale of the ratings, a TOML file [default: the shipped one]
    #[arg(long, value_name = "FILE", help_heading = "Rating by people")]
    pub scale: Option<PathBuf>,
    /// Read filled sheets back; again for another rater
    #[arg(long, value_name = "CSV", group = "what", requires = "key", help_heading = "Rating by people")]
    pub human_read: Vec<PathBuf>,
    /// The key that was written beside the sheet
    #[arg(long, value_name = "FILE", help_heading = "Rating by people")]
    pub key: Option<PathBuf>,
    /// Let rows without a rating pass
    #[arg(long, help_heading = "Rating by people")]
    pub allow_missing: bool,

    /// Seed of everything random: shots, resampling, sheets
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Machine")]
    pub seed: u64,
    /// No progress, only the result
    #[arg(long, help_heading = "Machine")]
    pub quiet: bool,
    /// Exit with 1 where a failure signature is found
    #[arg(long)]
    pub strict: bool,
}

/// A reading, as typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReadingName {
    /// The written answer
    Text,
    /// The labels' log-probability
    Logprob,
    /// The ECI head
    Eci,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(args: &str) -> Result<Evaluate, clap::Error> {
        Evaluate::try_parse_from(["evaluate"].into_iter().chain(args.split_whitespace()))
    }

    #[test]
    fn defaults_read_everything() {
        let typed = parse("--adapter a").unwrap();
        assert_eq!((typed.rows, typed.new_tokens, typed.which.tokens, typed.which.budget), (0, 256, 2816, 24 << 30));
        assert!(typed.readings.is_empty() && typed.ablate.is_none() && !typed.strict);
        Evaluate::command().debug_assert();
    }

    #[test]
    fn tables_have_values_or_none() {
        assert_eq!(parse("--ablate").unwrap().ablate.unwrap(), [""]);
        let some = parse("--ablate eci.kind=last,mean --ablate eci.weight=0.1,0.2 --steps 3").unwrap();
        assert_eq!(some.ablate.unwrap().len(), 2);
        assert_eq!(parse("--readings eci,text").unwrap().readings, [ReadingName::Eci, ReadingName::Text]);
    }

    #[test]
    fn what_excludes_each_other_is_refused() {
        for args in [
            "--ablate --experiment cost",
            "--human-read a.csv",
            "--shots 2",
            "--test-ids a",
            "--new-tokens 0",
            "--budget 24",
        ] {
            let error = parse(args).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{args}");
        }
    }
}
