//! What a user sees of a run while it goes: a bar with losses and time left in a terminal, now and then a plain line where
//! the output goes to a file or a pipe, nothing with `--quiet`. All on stderr; stdout is for results.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

use super::log::StepLog;

/// How to show progress.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// A bar that is drawn over itself.
    Bar,
    /// A line every so many steps, and for the first, the last and every validation.
    Lines(usize),
    /// Nothing.
    Silent,
}

impl Mode {
    /// Nothing when `quiet`; a bar in a terminal; elsewhere about twenty lines for the run.
    pub fn choose(quiet: bool, total_steps: usize) -> Mode {
        match (quiet, std::io::stderr().is_terminal()) {
            (true, _) => Mode::Silent,
            (false, true) => Mode::Bar,
            (false, false) => Mode::Lines(total_steps.div_ceil(20).max(1)),
        }
    }
}

/// The progress of one run.
#[derive(Debug)]
pub struct Progress {
    mode: Mode,
    total_steps: usize,
    first_step: usize,
    seconds: f64,
    bar: ProgressBar,
}

impl Progress {
    /// Of a run of `total_steps`, of which `done` were done before (a resumed run).
    pub fn new(mode: Mode, total_steps: usize, done: usize) -> Progress {
        let bar = match mode {
            Mode::Bar => ProgressBar::new(total_steps as u64).with_position(done as u64),
            _ => ProgressBar::hidden(),
        };
        let style = ProgressStyle::with_template("{bar:24} {pos}/{len} {msg} | {prefix} left");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸─"));
        bar.reset_eta();
        Progress { mode, total_steps, first_step: done, seconds: 0.0, bar }
    }

    /// Shows a step that is done.
    pub fn step(&mut self, step: &StepLog) {
        self.seconds += step.seconds;
        let left = self.time_left(step.step);
        match self.mode {
            Mode::Silent => {}
            Mode::Bar => {
                self.bar.set_position(step.step as u64);
                self.bar.set_prefix(HumanDuration(left).to_string());
                self.bar.set_message(losses(step));
                if let Some(text) = validation(step) {
                    self.bar.println(format!("step {}: {text}", step.step));
                }
            }
            Mode::Lines(every) => {
                let news =
                    step.step == self.first_step + 1 || step.step == self.total_steps || step.validation.is_some();
                if news || step.step.is_multiple_of(every) {
                    eprintln!("{}", self.line(step, left));
                }
            }
        }
    }

    /// Takes the bar off the screen, so that what is printed next stands alone.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    /// By the mean time of the steps of this process, validations not counted.
    fn time_left(&self, step: usize) -> Duration {
        let done = step.saturating_sub(self.first_step).max(1);
        let left = self.total_steps.saturating_sub(step);
        Duration::try_from_secs_f64(self.seconds / done as f64 * left as f64).unwrap_or_default()
    }

    fn line(&self, step: &StepLog, left: Duration) -> String {
        let validation = validation(step).map_or(String::new(), |text| format!(" | {text}"));
        let (n, total) = (step.step, self.total_steps);
        format!("step {n}/{total} | {} | {} left{validation}", losses(step), HumanDuration(left))
    }
}

fn losses(step: &StepLog) -> String {
    let ce = step.ce_loss.map_or(String::new(), |ce| format!(" eci {ce:.3}"));
    format!("loss {:.3} (lm {:.3}{ce}) | {:.0} tokens/s", step.joint_loss, step.lm_loss, step.tokens_per_second)
}

fn validation(step: &StepLog) -> Option<String> {
    let v = step.validation.as_ref()?;
    let ce = v.ce_loss.map_or(String::new(), |ce| format!(" eci {ce:.3}"));
    let accuracy = v.eci_accuracy.map_or(String::new(), |a| format!(", eci accuracy {:.1} %", 100.0 * a));
    Some(format!("validation loss {:.3} (lm {:.3}{ce}){accuracy}", v.joint_loss, v.lm_loss))
}

#[cfg(test)]
mod tests {
    use super::super::log::Validation;
    use super::*;

    #[test]
    fn a_line_tells_losses_speed_and_time_left() {
        let mut progress = Progress::new(Mode::Silent, 100, 40);
        let step = |step| StepLog {
            step,
            lm_loss: 2.0,
            ce_loss: Some(1.0),
            joint_loss: 1.8,
            tokens_per_second: 1234.4,
            seconds: 2.0,
            ..StepLog::default()
        };
        progress.step(&step(41));
        progress.step(&step(42));
        let last = step(42);
        assert_eq!(progress.time_left(42), Duration::from_secs(116));
        assert_eq!(
            progress.line(&last, Duration::from_secs(116)),
            "step 42/100 | loss 1.800 (lm 2.000 eci 1.000) | 1234 tokens/s | 2 minutes left"
        );
        let validation = Validation { lm_loss: 1.5, ce_loss: None, joint_loss: 1.5, eci_accuracy: Some(0.875) };
        let with = StepLog { validation: Some(validation), ..last };
        assert!(
            progress.line(&with, Duration::ZERO).ends_with("| validation loss 1.500 (lm 1.500), eci accuracy 87.5 %")
        );
    }

    #[test]
    fn quiet_is_silent_and_a_file_gets_about_twenty_lines() {
        assert_eq!(Mode::choose(true, 1000), Mode::Silent);
        if !std::io::stderr().is_terminal() {
            assert_eq!(Mode::choose(false, 1000), Mode::Lines(50));
            assert_eq!(Mode::choose(false, 3), Mode::Lines(1));
        }
    }
}
