//! `log.jsonl`: one line for each step, on disk before the next step begins.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Error, Result, bail_input};

/// The log's name in a run's folder.
pub const LOG_FILE: &str = "log.jsonl";

/// What is written down of a step.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct StepLog {
    /// The optimiser step, from 1.
    pub step: usize,
    /// Passes over the training rows so far, with a fraction.
    pub epoch: f64,
    /// Mean loss of the target tokens.
    pub lm_loss: f64,
    /// Mean loss of the labelled examples; null where no head is trained.
    pub ce_loss: Option<f64>,
    /// Of each head by its name, where there are several and rows of theirs were in this step.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub head_losses: BTreeMap<String, f64>,
    /// `(1 - w) lm_loss + w ce_loss`.
    pub joint_loss: f64,
    /// Learning rate of the adapter.
    pub lr: f64,
    /// Learning rate of the head.
    pub head_lr: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Tokens of the step, prompts included.
    pub tokens: usize,
    /// Of these, those with a target.
    #[serde(default)]
    pub targets: usize,
    /// Of this step alone.
    pub tokens_per_second: f64,
    /// The step's arithmetic as a share of the most this device was measured to do; null where that was not measured.
    pub ceiling_fraction: Option<f64>,
    /// Device memory at its peak so far.
    pub peak_device_bytes: usize,
    /// Time of the step.
    pub seconds: f64,
    /// Energy of the step; not there where it was not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joules: Option<f64>,
    /// Only on lines of steps after which the validation rows were looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Validation>,
}

/// Losses on the validation rows.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Validation {
    /// Mean loss of the target tokens.
    pub lm_loss: f64,
    /// Mean loss of the labelled examples; null without a head.
    pub ce_loss: Option<f64>,
    /// `(1 - w) lm_loss + w ce_loss`.
    pub joint_loss: f64,
    /// Share of the rows whose label the head finds; null without a head.
    pub eci_accuracy: Option<f64>,
}

/// A log being written.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// A new log in the folder `dir`; one that is there is replaced.
    pub fn create(dir: &Path) -> Result<Log> {
        let path = dir.join(LOG_FILE);
        let file = File::create(&path).map_err(Error::io(&path))?;
        Ok(Log { path, file })
    }

    /// Goes on with the log in `dir` after `step`: what was logged of later steps, which were not saved, is taken off.
    /// Also gives back the lines kept.
    pub fn resume(dir: &Path, step: usize) -> Result<(Log, Vec<StepLog>)> {
        let path = dir.join(LOG_FILE);
        let kept: Vec<StepLog> = read(&path)?.into_iter().filter(|line| line.step <= step).collect();
        let text = kept.iter().map(line_of).collect::<Result<String>>()?;
        // Written beside it and renamed: an interruption leaves the old log or the new one, not a part.
        let new = path.with_extension("jsonl.new");
        std::fs::write(&new, text).map_err(Error::io(&new))?;
        std::fs::rename(&new, &path).map_err(Error::io(&path))?;
        let file = OpenOptions::new().append(true).open(&path).map_err(Error::io(&path))?;
        Ok((Log { path, file }, kept))
    }

    /// Adds a line. When this returns, the line is the system's: it survives the end of this process.
    pub fn write(&mut self, step: &StepLog) -> Result<()> {
        // One write call for the whole line, and a File has no buffer of its own.
        self.file.write_all(line_of(step)?.as_bytes()).map_err(Error::io(&self.path))
    }
}

fn line_of(step: &StepLog) -> Result<String> {
    let line = serde_json::to_string(step).map_err(|e| Error::Input(format!("step {}: {e}", step.step)))?;
    Ok(line + "\n")
}

/// Reads a log. A last line without its end, which an interruption leaves, is passed over; anything else that is not a step is
/// refused with its line.
pub fn read(path: &Path) -> Result<Vec<StepLog>> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    let mut steps = Vec::new();
    for (i, line) in text.split_inclusive('\n').enumerate() {
        match serde_json::from_str(line) {
            Ok(step) => steps.push(step),
            Err(_) if !line.ends_with('\n') => break,
            Err(e) => bail_input!("{}:{}: not a line of a training log: {e}", path.display(), i + 1),
        }
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: usize) -> StepLog {
        StepLog { step, epoch: 0.5, lm_loss: 2.25, joint_loss: 2.0, tokens: 100, seconds: 0.25, ..StepLog::default() }
    }

    #[test]
    fn what_is_written_reads_back_and_has_the_promised_names() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::create(dir.path()).unwrap();
        let validation =
            Some(Validation { lm_loss: 1.0, ce_loss: Some(0.5), joint_loss: 0.9, eci_accuracy: Some(0.75) });
        let steps = [
            step(1),
            StepLog { joules: Some(12.5), ce_loss: Some(1.5), ceiling_fraction: Some(0.4), validation, ..step(2) },
        ];
        for s in &steps {
            log.write(s).unwrap();
            // On disk at once, while the log is still open.
            assert_eq!(read(&dir.path().join(LOG_FILE)).unwrap().last(), Some(s));
        }
        let text = std::fs::read_to_string(dir.path().join(LOG_FILE)).unwrap();
        assert_eq!(
            text.lines().next().unwrap(),
            r#"{"step":1,"epoch":0.5,"lm_loss":2.25,"ce_loss":null,"joint_loss":2.0,"lr":0.0,"head_lr":0.0,"grad_norm":0.0,"tokens":100,"targets":0,"tokens_per_second":0.0,"ceiling_fraction":null,"peak_device_bytes":0,"seconds":0.25}"#
        );
        assert!(text.lines().nth(1).unwrap().contains(r#""joules":12.5"#), "{text}");
        assert_eq!(read(&dir.path().join(LOG_FILE)).unwrap(), steps);
    }

    #[test]
    fn a_line_cut_short_is_passed_over_and_a_broken_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(LOG_FILE);
        let line = line_of(&step(1)).unwrap();
        std::fs::write(&path, format!("{line}{}", &line[..20])).unwrap();
        assert_eq!(read(&path).unwrap(), [step(1)]);
        std::fs::write(&path, format!("{line}{}\n{line}", &line[..20])).unwrap();
        let error = read(&path).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("log.jsonl:2: not a line of a training log"), "{error}");
    }

    #[test]
    fn resuming_takes_off_the_steps_that_were_not_saved() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::create(dir.path()).unwrap();
        (1..=5).for_each(|n| log.write(&step(n)).unwrap());
        let (mut log, kept) = Log::resume(dir.path(), 3).unwrap();
        assert_eq!(kept.len(), 3);
        log.write(&step(4)).unwrap();
        let steps: Vec<usize> = read(&dir.path().join(LOG_FILE)).unwrap().iter().map(|s| s.step).collect();
        assert_eq!(steps, [1, 2, 3, 4]);
    }
}
