//! `report.json`: the result of a run under names that do not change, for programs that read it.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::bytes;
use crate::energy::Energy;
use crate::eval::metrics::wilson;
use crate::table::Table;
use crate::{Error, Result};

/// Its name in a run's folder.
pub const REPORT_FILE: &str = "report.json";

/// The result of a run. What was not measured (no head, no labels) is null.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Report {
    /// The device's own name.
    pub device: String,
    /// As set: `bf16`, `fp32`, or `fp8`, where frozen weights were multiplied in 8 bits and all else in bf16.
    pub compute: String,
    /// The base model's folder.
    pub model: String,
    /// Rows.
    pub data: Rows,
    /// Of the whole run, evaluations included.
    pub seconds: f64,
    /// Tokens trained on in a second of training.
    pub tokens_per_second: f64,
    /// Device memory at its peak: how far the arena reached.
    pub peak_device_bytes: usize,
    /// The peak that the plan promised.
    pub planned_device_bytes: usize,
    /// What the layers kept for the backward, from the first on, such as `host:12,outputs:28`.
    pub layers_keep: String,
    /// The language model on the test rows.
    pub lm: LmScores,
    /// Answers written as text, on the test rows.
    pub text: TextScores,
    /// The head on the test rows.
    pub eci: EciScores,
    /// Each set of labels alone, where there are several: `text` and `eci` are over all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sets: Vec<SetScores>,
    /// What it took from the wall, as far as that is measured.
    #[serde(default)]
    pub energy: Energy,
    /// Of adapter_model.safetensors.
    pub adapter_sha256: String,
}

/// How many rows.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Rows {
    /// Trained on.
    pub train: usize,
    /// Tested on.
    pub test: usize,
}

/// The language model's loss on the target tokens.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct LmScores {
    /// Before training.
    pub loss_before: Option<f64>,
    /// After.
    pub loss_after: Option<f64>,
}

/// Share of written answers whose decision is right.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct TextScores {
    /// Before training.
    pub accuracy_before: Option<f64>,
    /// After.
    pub accuracy_after: Option<f64>,
}

/// The head's labels.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct EciScores {
    /// Before training.
    pub accuracy_before: Option<f64>,
    /// After.
    pub accuracy_after: Option<f64>,
    /// Mean F1 over all classes, after.
    pub macro_f1_after: Option<f64>,
    /// Accuracy of always saying the commonest class.
    pub majority: Option<f64>,
}

/// What can be decided by one head, on the test rows, after training.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct SetScores {
    /// The head's name.
    pub name: String,
    /// Rows with these labels.
    pub test_rows: usize,
    /// Share of written answers whose decision is right.
    pub text_accuracy: Option<f64>,
    /// Share of the head's labels that are right.
    pub eci_accuracy: Option<f64>,
    /// Mean F1 over all classes.
    pub eci_macro_f1: Option<f64>,
    /// Accuracy of always saying the commonest class.
    pub majority: Option<f64>,
}

impl Report {
    /// Writes `report.json` into the folder `dir`.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(REPORT_FILE);
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::Input(format!("{}: {e}", path.display())))?;
        std::fs::write(&path, text + "\n").map_err(Error::io(&path))
    }

    /// Reads the `report.json` that [`write`](Report::write) left in the folder `dir`.
    pub fn load(dir: &Path) -> Result<Report> {
        let path = dir.join(REPORT_FILE);
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
        serde_json::from_str(&text).map_err(|e| Error::Input(format!("{}: not a run's report: {e}", path.display())))
    }

    /// The before/after table, for the terminal and for the page.
    pub fn table(&self) -> Table {
        let percent = |x: Option<f64>| x.map_or("–".to_string(), |x| format!("{:.1} %", 100.0 * x));
        let number = |x: Option<f64>, digits: usize| x.map_or("–".to_string(), |x| format!("{x:.digits$}"));
        let title = format!("{} test rows", self.data.test);
        let mut table = Table::new([title.as_str(), "before", "after", ""]);
        table.row(["LM loss", &number(self.lm.loss_before, 3), &number(self.lm.loss_after, 3), ""]);
        let (text, eci) = (&self.text, &self.eci);
        let between = self.interval(text.accuracy_after);
        table.row(["answer accuracy, text", &percent(text.accuracy_before), &percent(text.accuracy_after), &between]);
        if eci.accuracy_after.is_some() {
            let between = self.interval(eci.accuracy_after);
            table.row(["ECI accuracy", &percent(eci.accuracy_before), &percent(eci.accuracy_after), &between]);
            table.row(["ECI macro-F1", "", &number(eci.macro_f1_after, 3), ""]);
        }
        table.row(["always the commonest class", "", &percent(eci.majority), ""]);
        for set in &self.sets {
            let shares = format!("text {}, ECI {}", percent(set.text_accuracy), percent(set.eci_accuracy));
            let against = format!("{} rows, commonest class {}", set.test_rows, percent(set.majority));
            table.row([&format!("  {}", set.name), "", &shares, &against]);
        }
        table
    }

    /// The 95 % interval of an accuracy on the test rows, in words.
    fn interval(&self, accuracy: Option<f64>) -> String {
        let n = self.data.test;
        let bounds = accuracy.and_then(|a| wilson((a * n as f64).round() as usize, n));
        bounds.map_or(String::new(), |(low, high)| format!("95 %: {:.1} to {:.1}", 100.0 * low, 100.0 * high))
    }

    /// Time, speed, memory, files and what to type next: the lines under the table.
    pub fn closing(&self, dir: &Path) -> String {
        let dir = dir.display();
        format!(
            "trained on {} rows in {}, {:.0} tokens/s, peak memory {} on {}{}\n\
             {}\n\
             files in {dir}: adapter_model.safetensors, config.toml, log.jsonl, report.json, report.html\n\
             next: open {dir}/report.html",
            self.data.train,
            duration(self.seconds),
            self.tokens_per_second,
            bytes::readable(self.peak_device_bytes),
            self.device,
            if self.compute == "fp8" { ", frozen weights multiplied in 8 bits (--compute fp8)" } else { "" },
            self.energy.sentence(),
        )
    }
}

/// "48 s", "12 min 5 s", "3 h 20 min".
pub fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        _ if seconds < 9.95 => format!("{seconds:.1} s"),
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

#[cfg(test)]
pub(super) fn example() -> Report {
    let step = crate::energy::Step { joules: Some(75.0), tokens: 1500, targets: 300, seconds: 0.4 };
    Report {
        device: "CPU device (x86_64, bf16)".into(),
        compute: "bf16".into(),
        model: "assets/tiny_base".into(),
        data: Rows { train: 600, test: 120 },
        seconds: 93.4,
        tokens_per_second: 4321.0,
        peak_device_bytes: 50 << 20,
        planned_device_bytes: 50 << 20,
        layers_keep: "outputs:2".into(),
        lm: LmScores { loss_before: Some(1.234), loss_after: Some(0.321) },
        text: TextScores { accuracy_before: Some(0.35), accuracy_after: Some(0.8) },
        eci: EciScores {
            accuracy_before: Some(0.325),
            accuracy_after: Some(0.85),
            macro_f1_after: Some(0.84),
            majority: Some(1.0 / 3.0),
        },
        energy: Energy::of("made up", [step].into_iter(), Some(18e3), 458.0),
        adapter_sha256: "ab".repeat(32),
        sets: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_those_that_were_promised() {
        let value = serde_json::to_value(example()).unwrap();
        for pointer in [
            "/device",
            "/compute",
            "/model",
            "/data/train",
            "/data/test",
            "/seconds",
            "/tokens_per_second",
            "/peak_device_bytes",
            "/planned_device_bytes",
            "/layers_keep",
            "/lm/loss_before",
            "/lm/loss_after",
            "/text/accuracy_before",
            "/text/accuracy_after",
            "/eci/accuracy_before",
            "/eci/accuracy_after",
            "/eci/macro_f1_after",
            "/eci/majority",
            "/energy/measured",
            "/energy/steps",
            "/energy/joules_per_step",
            "/energy/joules_per_token",
            "/energy/joules_per_target_token",
            "/energy/watts",
            "/energy/kwh",
            "/energy/grid_factor",
            "/energy/co2_grams",
            "/adapter_sha256",
        ] {
            assert!(value.pointer(pointer).is_some_and(|v| !v.is_null()), "{pointer}");
        }
        assert_eq!(value.as_object().unwrap().len(), 14);
    }

    #[test]
    fn a_report_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let report = Report { eci: EciScores::default(), ..example() };
        report.write(dir.path()).unwrap();
        let text = std::fs::read_to_string(dir.path().join(REPORT_FILE)).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
    }

    #[test]
    fn the_table_shows_before_and_after_beside_the_majority() {
        let shown = example().table().to_string();
        let expected = "\
120 test rows               before   after
──────────────────────────  ──────  ──────  ──────────────────
LM loss                      1.234   0.321
answer accuracy, text       35.0 %  80.0 %  95 %: 72.0 to 86.2
ECI accuracy                32.5 %  85.0 %  95 %: 77.5 to 90.3
ECI macro-F1                         0.840
always the commonest class          33.3 %
";
        assert_eq!(shown, expected, "\n{shown}");
        let no_head = Report { eci: EciScores::default(), ..example() }.table().to_string();
        assert!(!no_head.contains("ECI"), "{no_head}");
    }

    #[test]
    fn durations_are_short() {
        let shown = [3.25, 59.6, 93.4, 3600.0 * 3.5].map(duration);
        assert_eq!(shown, ["3.2 s", "1 min 0 s", "1 min 33 s", "3 h 30 min"]);
    }
}
