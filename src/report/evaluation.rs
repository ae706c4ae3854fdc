//! An evaluation for its readers: `evaluation.json` for programs, `evaluation.md` for a repository, `evaluation.html` to look
//! at. All three show the same tables, and say beside every accuracy what always giving the commonest label would get.

use std::fmt::Write as _;
use std::path::Path;

use minijinja::Environment;
use minijinja::value::Serde;
use serde::{Deserialize, Serialize};

use super::page::{Matrix, matrix};
use super::reliability::diagram;
use super::score_tables::{Section, of_label_set, of_metrics, of_signatures, percent};
use crate::checkpoint::save_files;
use crate::energy::Asking;
use crate::eval::bootstrap::{RESAMPLES, SEED};
use crate::eval::score::LabelSet;
use crate::eval::signatures::{Example, Outcome};
use crate::eval::{Quantisation, Scores, Signature};
use crate::{Error, Result};

/// The files of an evaluation; the last one stands only beside the others.
pub const EVALUATION_FILES: [&str; 3] = ["evaluation.md", "evaluation.html", "evaluation.json"];

const TEMPLATE: &str = include_str!("../../assets/evaluation.html.jinja");

/// Everything that is known about one evaluation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EvaluationReport {
    /// Its heading.
    pub title: String,
    /// The base model.
    pub base: String,
    /// The adapter; none where the base was asked alone.
    pub adapter: Option<String>,
    /// The device's own name.
    pub device: String,
    /// The files of the questions.
    pub data: String,
    /// The prompt template.
    pub template: String,
    /// `section.field` and value.
    pub settings: Vec<(String, String)>,
    /// What was measured.
    pub scores: Scores,
    /// The failures looked for.
    pub signatures: Vec<Signature>,
    /// What quantisation changed, where it was checked.
    pub quantisation: Option<Quantisation>,
    /// What the questions took.
    #[serde(default)]
    pub energy: Asking,
    /// What a reader must know to read the numbers rightly.
    pub notes: Vec<String>,
}

/// What the template fills in.
#[derive(Serialize)]
struct Filled<'a> {
    report: &'a EvaluationReport,
    facts: Vec<(&'static str, String)>,
    label_sets: Vec<FilledSet>,
    sections: Vec<Section>,
    shown: Vec<&'a Signature>,
    method: String,
    version: &'static str,
}

/// A label set with its tables and figures.
#[derive(Serialize)]
struct FilledSet {
    /// "ECI head: 83.3 %", and the majority.
    cards: Vec<(String, String)>,
    sections: Vec<Section>,
    matrices: Vec<Matrix>,
    diagrams: Vec<Diagram>,
}

#[derive(Serialize)]
struct Diagram {
    title: &'static str,
    svg: String,
    /// Said to who cannot see it.
    label: String,
    bins: Vec<[String; 4]>,
}

impl EvaluationReport {
    /// Every table, in reading order; those with `detail` are for who wants to know more.
    pub fn sections(&self) -> Vec<Section> {
        let sets = self.scores.label_sets.iter().flat_map(of_label_set);
        sets.chain(self.further()).collect()
    }

    fn further(&self) -> Vec<Section> {
        of_metrics(&self.scores.metrics).into_iter().chain(of_signatures(&self.signatures)).collect()
    }

    /// Writes [`EVALUATION_FILES`] into the folder `dir`: all of them, or none.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(self)
            .map_err(|e| Error::Input(format!("{}: the evaluation is no JSON: {e}", dir.display())))?;
        let texts = [self.markdown(), self.html()?, json + "\n"];
        save_files(dir, &EVALUATION_FILES, |folder| {
            for (name, text) in EVALUATION_FILES.iter().zip(&texts) {
                let path = folder.join(name);
                std::fs::write(&path, text).map_err(Error::io(&path))?;
            }
            Ok(())
        })
    }

    /// The evaluation as Markdown.
    pub fn markdown(&self) -> String {
        let mut text = format!("# {}\n\n", plain(&self.title));
        self.facts().iter().for_each(|(name, value)| writeln!(text, "- {name}: {}", plain(value)).unwrap_or_default());
        for section in self.sections() {
            write!(text, "\n## {}\n\n", plain(&section.title)).unwrap_or_default();
            let row =
                |cells: &[String]| format!("| {} |\n", cells.iter().map(|c| plain(c)).collect::<Vec<_>>().join(" | "));
            text += &row(&section.table.head);
            let wide = section.table.head.len();
            let rule = (0..wide).map(|i| if i == 0 || (wide > 3 && i + 1 == wide) { "---" } else { "---:" });
            text += &format!("| {} |\n", rule.collect::<Vec<_>>().join(" | "));
            section.table.rows.iter().for_each(|cells| text += &row(cells));
        }
        for signature in self.signatures.iter().filter(|s| !s.examples.is_empty()) {
            write!(text, "\n### {}: examples\n\n", plain(&signature.name)).unwrap_or_default();
            signature.examples.iter().for_each(|example| text += &format!("- {}\n", plain(&sentence(example))));
        }
        if !self.notes.is_empty() {
            text += "\n## Notes\n\n";
            self.notes.iter().for_each(|note| text += &format!("- {}\n", plain(note)));
        }
        if !self.settings.is_empty() {
            text += "\n## Settings\n\n| setting | value |\n| --- | --- |\n";
            self.settings.iter().for_each(|(key, value)| text += &format!("| {} | {} |\n", plain(key), plain(value)));
        }
        text + "\n" + &method() + "\n"
    }

    /// The evaluation as a page that needs no other file.
    pub fn html(&self) -> Result<String> {
        let broken = |e: minijinja::Error| Error::Input(format!("assets/evaluation.html.jinja: {e:#}"));
        let mut environment = Environment::new();
        // Under this name minijinja escapes what it fills in.
        environment.add_template("evaluation.html", TEMPLATE).map_err(broken)?;
        let filled = Filled {
            report: self,
            facts: self.facts(),
            label_sets: self.scores.label_sets.iter().map(filled_set).collect::<Result<_>>()?,
            sections: self.further(),
            shown: self.signatures.iter().filter(|s| !s.examples.is_empty()).collect(),
            method: method(),
            version: env!("CARGO_PKG_VERSION"),
        };
        environment.get_template("evaluation.html").and_then(|template| template.render(Serde(filled))).map_err(broken)
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let adapter = self.adapter.as_deref().unwrap_or("none: the base alone");
        let all = [
            ("base", self.base.clone()),
            ("adapter", adapter.into()),
            ("device", self.device.clone()),
            ("data", self.data.clone()),
            ("template", self.template.clone()),
            ("energy", self.energy.sentence()),
        ];
        all.into_iter().filter(|(_, value)| !value.is_empty()).collect()
    }

    /// Signatures that were found.
    pub fn failures(&self) -> usize {
        self.signatures.iter().filter(|s| s.outcome == Outcome::Failed).count()
    }
}

fn filled_set(set: &LabelSet) -> Result<FilledSet> {
    let readings = &set.all.readings;
    let mut cards: Vec<(String, String)> =
        readings.iter().map(|r| (percent(Some(r.accuracy)), r.reading.title().to_string())).collect();
    cards.push((percent(Some(set.all.majority.accuracy)), format!("always \"{}\"", set.all.majority.label)));
    let mut diagrams = Vec::new();
    for reading in readings {
        let Some(calibration) = &reading.calibration else { continue };
        let bins = calibration.bins.iter().filter_map(|bin| {
            let range = format!("{:.2} to {:.2}", bin.low, bin.high);
            Some([range, bin.n.to_string(), percent(Some(bin.confidence?)), percent(Some(bin.accuracy?))])
        });
        diagrams.push(Diagram {
            title: reading.reading.title(),
            svg: diagram(calibration)?,
            label: format!(
                "Reliability diagram of the {}: expected calibration error {:.3}; its numbers are in the table below",
                reading.reading.title(),
                calibration.ece
            ),
            bins: bins.collect(),
        });
    }
    Ok(FilledSet {
        cards,
        sections: of_label_set(set),
        matrices: readings.iter().map(|r| matrix(r.reading.title(), &r.confusion)).collect(),
        diagrams,
    })
}

/// How the numbers were made.
fn method() -> String {
    format!(
        "Intervals hold the true value with 95 % confidence: Wilson's for shares, and the percentile bootstrap over questions \
         ({RESAMPLES} draws, seed {SEED}). An answer without a clear label counts as wrong. Macro-F1 is the mean over all \
         classes, one that never came up with 0. ECE: 15 bins of equal width."
    )
}

fn sentence(example: &Example) -> String {
    let said: Vec<String> =
        example.said.iter().map(|s| format!("{}: {}", s.by, s.label.as_deref().unwrap_or("no class"))).collect();
    let text = example.text.as_ref().map_or(String::new(), |text| format!(" – “{text}”"));
    format!("{} (right: {}; {}){text}", example.id, example.right, said.join("; "))
}

/// Text of the data as Markdown that shows it as it is, on one line.
fn plain(text: &str) -> String {
    let mut found = String::new();
    for c in text.split_whitespace().collect::<Vec<_>>().join(" ").chars() {
        if r"\`*_{}[]<>#|~&$".contains(c) {
            found.push('\\');
        }
        found.push(c);
    }
    found
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::eval::score::made_answers;
    use crate::eval::{Asked, Limits, Metric, signatures};

    pub(crate) fn report() -> EvaluationReport {
        let mut answers = made_answers();
        answers[3].id = "<script>q3</script>".into();
        let mut scores = Scores::of(&answers).unwrap();
        scores.metrics.push(Metric { name: "lm-eval acc".into(), value: 0.552, stderr: Some(0.0222) });
        let asked = Asked { label_only: true, reference_tokens: vec![4; 30] };
        EvaluationReport {
            title: "PubMedQA | demo".into(),
            base: "assets/tiny_base".into(),
            device: "CPU".into(),
            data: "test.jsonl".into(),
            template: "demo".into(),
            settings: vec![("eci.kind".into(), "paper".into())],
            energy: Asking::of("made up", Some(60.0), 30, 120),
            signatures: signatures(&answers, &asked, None, &Limits::default()).unwrap(),
            notes: vec!["A <tiny> base *knows* nothing.".into()],
            scores,
            ..EvaluationReport::default()
        }
    }

    #[test]
    fn the_page_shows_every_part_and_needs_no_other_file() {
        let html = report().html().unwrap();
        // To look at it: LLAMACARE_REPORT_SAMPLE=page.html cargo test evaluation::tests::the_page_shows
        if let Some(path) = std::env::var_os("LLAMACARE_REPORT_SAMPLE") {
            std::fs::write(path, &html).unwrap();
        }
        let parts = [
            "ECI head",
            "(the majority)",
            "By domain: written answer",
            "heart",
            "Failure signatures",
            "label_text_disagreement",
            "lm-eval acc",
            "expected calibration error 0.033",
            "eci.kind",
            "none: the base alone",
            "2.00 J a question, 0.500 J a generated token, all readings together (made up)",
        ];
        for part in parts {
            assert!(html.contains(part), "{part} is missing");
        }
        assert_eq!(html.matches("<svg").count(), 1, "the head has probabilities, the text has none");
        assert!(html.contains("&lt;tiny&gt;") && !html.contains("<tiny>"), "text of the data is escaped");
        assert!(!html.contains("<script") && !html.contains("src=") && !html.contains("href="));
        assert!(html.contains("prefers-color-scheme: dark") && html.contains("@media print"));
    }

    #[test]
    fn markdown_shows_the_same_tables_and_escapes_what_comes_from_data() {
        let report = report();
        let text = report.markdown();
        assert!(text.starts_with("# PubMedQA \\| demo\n\n- base: assets/tiny\\_base\n"), "{text}");
        assert!(text.contains("\n- energy: 2.00 J a question, 0.500 J a generated token"), "{text}");
        assert!(text.contains("| ECI head | 30 | 83.3 % | 66.4 to 92.7 |"), "{text}");
        assert!(text.contains("A \\<tiny\\> base \\*knows\\* nothing."));
        assert!(text.contains("\\<script\\>q3") && !text.replace("\\<", "").contains('<'), "{text}");
        assert_eq!(text.matches("\n## ").count(), report.sections().len() + 2);
        // Every row of a table is as wide as its head.
        for table in text.split("\n\n").filter(|part| part.starts_with("| ")) {
            let bars = |line: &str| line.replace("\\|", "").matches('|').count();
            assert!(table.lines().all(|line| bars(line) == bars(table.lines().next().unwrap())), "{table}");
        }
        assert_eq!(plain("a\n| b"), "a \\| b");
    }

    #[test]
    fn the_files_are_written_together_and_the_json_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let report = report();
        report.write(folder.path()).unwrap();
        let mut names: Vec<String> =
            std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, ["evaluation.html", "evaluation.json", "evaluation.md"]);
        let text = std::fs::read_to_string(folder.path().join("evaluation.json")).unwrap();
        // Not compared as such: reading a number back may change its last bit.
        assert_eq!(serde_json::from_str::<EvaluationReport>(&text).unwrap().markdown(), report.markdown());
        assert_eq!(report.failures(), 3);
    }

    #[test]
    fn an_evaluation_of_nothing_has_its_documents_too() {
        let nothing = EvaluationReport::default();
        assert!(nothing.html().unwrap().contains("No question was evaluated"));
        assert!(nothing.markdown().starts_with("# "));
    }
}
