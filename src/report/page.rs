//! `report.html`: a run to look at, one file that needs no other.

use std::path::Path;

use minijinja::Environment;
use minijinja::value::Serde;
use plotters::style::RGBColor;
use serde::Serialize;

use super::charts::{Series, Style, lines};
use super::summary::{Report, duration};
use crate::eval::Confusion;
use crate::table::Table;
use crate::train::log::{StepLog, Validation};
use crate::{Error, Result, bytes};

/// Its name in a run's folder.
pub const PAGE_FILE: &str = "report.html";

const TEMPLATE: &str = include_str!("../../assets/report.html.jinja");
/// Buffers beyond this many are added up in one line.
const MAX_BUFFERS: usize = 24;

/// All that the page shows.
#[derive(Clone, Debug)]
pub struct Page<'a> {
    /// Its heading, such as the run's folder.
    pub title: &'a str,
    /// The result.
    pub report: &'a Report,
    /// The log.
    pub steps: &'a [StepLog],
    /// What heads and written answers said of the test rows, after training, each under its title.
    pub matrices: &'a [(String, Confusion)],
    /// Bytes by buffer name, at the peak.
    pub memory: &'a [(String, usize)],
    /// `section.field` and value.
    pub settings: &'a [(String, String)],
}

/// What the template fills in.
#[derive(Serialize)]
struct Filled<'a> {
    title: &'a str,
    report: &'a Report,
    table: Table,
    time: String,
    speed: String,
    peak: String,
    energy: Vec<(&'static str, String)>,
    charts: Vec<Chart>,
    matrices: Vec<Matrix>,
    buffers: Vec<Buffer>,
    settings: Vec<Section>,
    version: &'static str,
}

/// A section's name and its fields with their values.
type Section = (String, Vec<(String, String)>);

#[derive(Serialize)]
struct Chart {
    title: &'static str,
    svg: String,
    legend: Vec<(String, &'static str)>,
}

#[derive(Serialize)]
pub(super) struct Matrix {
    title: String,
    labels: Vec<String>,
    rows: Vec<MatrixRow>,
    /// Whether some answers named no class: only then is their column shown.
    unreadable: bool,
    scores: String,
}

#[derive(Serialize)]
struct MatrixRow {
    label: String,
    cells: Vec<MatrixCell>,
}

#[derive(Serialize)]
struct MatrixCell {
    n: usize,
    /// Share of the row, 0 to 1, for the shade.
    shade: f64,
    right: bool,
}

#[derive(Serialize)]
struct Buffer {
    name: String,
    size: String,
    percent: f64,
    /// Length of its bar, in percent of the longest.
    bar: f64,
}

impl Page<'_> {
    /// Writes `report.html` into the folder `dir`.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(PAGE_FILE);
        std::fs::write(&path, self.render()?).map_err(Error::io(&path))
    }

    /// The page as text.
    pub fn render(&self) -> Result<String> {
        let broken = |e: minijinja::Error| Error::Input(format!("assets/report.html.jinja: {e:#}"));
        let mut environment = Environment::new();
        // Under this name minijinja escapes what it fills in.
        environment.add_template(PAGE_FILE, TEMPLATE).map_err(broken)?;
        let charts = self.charts()?;
        let matrices = self.matrices.iter().map(|(title, confusion)| matrix(title, confusion)).collect();
        let report = self.report;
        let filled = Filled {
            title: self.title,
            report,
            table: report.table(),
            time: duration(report.seconds),
            speed: format!("{:.0}", report.tokens_per_second),
            peak: bytes::readable(report.peak_device_bytes),
            energy: report.energy.lines(),
            charts,
            matrices,
            buffers: self.buffers(),
            settings: self.sections(),
            version: env!("CARGO_PKG_VERSION"),
        };
        environment.get_template(PAGE_FILE).and_then(|template| template.render(Serde(filled))).map_err(broken)
    }

    fn charts(&self) -> Result<Vec<Chart>> {
        let (blue, orange, green, grey) =
            (RGBColor(31, 99, 181), RGBColor(201, 100, 22), RGBColor(34, 134, 88), RGBColor(90, 98, 110));
        let of = |name, colour, style, value: &dyn Fn(&StepLog) -> Option<f64>| Series {
            name,
            colour,
            style,
            points: self.steps.iter().filter_map(|s| Some((s.step as f64, value(s)?))).collect(),
        };
        let validation =
            |value: &dyn Fn(&Validation) -> Option<f64>, s: &StepLog| s.validation.as_ref().and_then(value);
        let all = [
            (
                "Loss in training",
                "loss",
                vec![
                    of("joint", grey, Style::Smoothed, &|s| Some(s.joint_loss)),
                    of("language model", blue, Style::Smoothed, &|s| Some(s.lm_loss)),
                    of("ECI head", orange, Style::Smoothed, &|s| s.ce_loss),
                ],
            ),
            (
                "Loss on validation rows",
                "loss",
                vec![
                    of("joint", grey, Style::Marked, &|s| validation(&|v| Some(v.joint_loss), s)),
                    of("language model", blue, Style::Marked, &|s| validation(&|v| Some(v.lm_loss), s)),
                    of("ECI head", orange, Style::Marked, &|s| validation(&|v| v.ce_loss, s)),
                ],
            ),
            (
                "ECI accuracy on validation rows",
                "share right",
                vec![of("ECI head", green, Style::Marked, &|s| validation(&|v| v.eci_accuracy, s))],
            ),
            (
                "Learning rate",
                "rate",
                vec![
                    of("adapter", blue, Style::Plain, &|s| Some(s.lr)),
                    of("head", orange, Style::Plain, &|s| s.ce_loss.map(|_| s.head_lr)),
                ],
            ),
            ("Gradient norm before clipping", "norm", vec![of("norm", grey, Style::Smoothed, &|s| Some(s.grad_norm))]),
            ("Energy of a step", "J", vec![of("energy", green, Style::Smoothed, &|s| s.joules)]),
        ];
        let mut charts = Vec::new();
        for (title, y_name, series) in all {
            if let Some(svg) = lines(y_name, &series)? {
                let shown = series.iter().filter(|s| !s.points.is_empty());
                charts.push(Chart { title, svg, legend: shown.map(|s| (s.css(), s.name)).collect() });
            }
        }
        Ok(charts)
    }

    /// The largest first; the many small ones as one line.
    fn buffers(&self) -> Vec<Buffer> {
        let total: usize = self.memory.iter().map(|(_, n)| n).sum();
        let mut sorted: Vec<(String, usize)> = self.memory.to_vec();
        sorted.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
        if sorted.len() > MAX_BUFFERS {
            let rest = sorted.split_off(MAX_BUFFERS - 1);
            sorted.push((format!("{} smaller buffers", rest.len()), rest.iter().map(|(_, n)| n).sum()));
        }
        let most = sorted.iter().map(|(_, n)| *n).max().unwrap_or(0);
        let percent = |n: usize, of: usize| 100.0 * n as f64 / of.max(1) as f64;
        let buffer =
            |(name, n)| Buffer { name, size: bytes::readable(n), percent: percent(n, total), bar: percent(n, most) };
        sorted.into_iter().map(buffer).collect()
    }

    /// Settings by section.
    fn sections(&self) -> Vec<Section> {
        let mut sections: Vec<Section> = Vec::new();
        for (key, value) in self.settings {
            let (section, field) = key.split_once('.').unwrap_or(("", key));
            match sections.last_mut().filter(|(name, _)| name == section) {
                Some((_, fields)) => fields.push((field.into(), value.clone())),
                None => sections.push((section.into(), vec![(field.into(), value.clone())])),
            }
        }
        sections
    }
}

pub(super) fn matrix(title: &str, confusion: &Confusion) -> Matrix {
    let labels = confusion.labels().to_vec();
    let unreadable = confusion.n_unreadable() > 0;
    let shown = labels.len() + usize::from(unreadable);
    let row = |(right, counts): (usize, &Vec<usize>)| {
        let total: usize = counts.iter().sum();
        let cell =
            |(said, &n): (usize, &usize)| MatrixCell { n, shade: n as f64 / total.max(1) as f64, right: said == right };
        MatrixRow { label: labels[right].clone(), cells: counts[..shown].iter().enumerate().map(cell).collect() }
    };
    let rows = confusion.counts().iter().enumerate().map(row).collect();
    let scores = format!(
        "{} of {} right, macro-F1 {:.3}",
        confusion.n_right(),
        confusion.total(),
        confusion.macro_f1().unwrap_or(0.0)
    );
    Matrix { title: title.to_string(), labels: labels.clone(), rows, unreadable, scores }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::energy::Energy;
    use crate::report::summary::example;

    fn steps() -> Vec<StepLog> {
        let step = |n: usize| {
            let t = n as f64 / 200.0;
            let noise = 0.12 * ((n * 2654435761) % 1000) as f64 / 1000.0;
            let lm_loss = 0.3 + 1.1 * (-5.0 * t).exp() + noise;
            let ce_loss = 0.4 + 0.7 * (1.0 - t).powi(2) + noise;
            let joint_loss = 0.7 * lm_loss + 0.3 * ce_loss;
            let validation = n.is_multiple_of(50).then_some(Validation {
                lm_loss,
                ce_loss: Some(ce_loss),
                joint_loss,
                eci_accuracy: Some(0.35 + 0.5 * t),
            });
            let lr = crate::train::Schedule::new(Default::default(), 200, 0.05, 0.05).ratio(n) * 3e-3;
            let (ce_loss, grad_norm) = (Some(ce_loss), 1.0 / (t + 0.4) + noise);
            StepLog {
                step: n,
                lm_loss,
                ce_loss,
                joint_loss,
                lr,
                head_lr: 2.0 * lr,
                grad_norm,
                validation,
                joules: Some(75.0 + 10.0 * noise),
                ..StepLog::default()
            }
        };
        (1..=200).map(step).collect()
    }

    fn page() -> String {
        let mut eci = Confusion::new(&["yes", "no", "<maybe>"].map(String::from));
        for (i, n) in [31, 5, 4, 3, 35, 2, 2, 2, 36].into_iter().enumerate() {
            (0..n).for_each(|_| eci.count(i / 3, Some(i % 3)));
        }
        let mut text = eci.clone();
        text.count(2, None);
        let memory: Vec<(String, usize)> = (0..30).map(|i| (format!("layer{i}.q_proj"), (1 << 22) / (i + 1))).collect();
        let settings = crate::cli::file::load("demo").unwrap().0;
        let settings =
            crate::cli::RunConfig::resolve(&Default::default(), &settings, "demo").unwrap().settings().unwrap();
        let (report, steps) = (example(), steps());
        let page = Page {
            title: "runs/demo",
            report: &report,
            steps: &steps,
            matrices: &[("ECI head".to_string(), eci), ("Written answers".to_string(), text)],
            memory: &memory,
            settings: &settings,
        };
        page.render().unwrap()
    }

    #[test]
    fn the_page_shows_every_part_and_needs_no_other_file() {
        let html = page();
        // To look at it: LLAMACARE_REPORT_SAMPLE=page.html cargo test the_page_shows
        if let Some(path) = std::env::var_os("LLAMACARE_REPORT_SAMPLE") {
            std::fs::write(path, &html).unwrap();
        }
        for part in
            ["ECI macro-F1", "Loss in training", "Confusion", "7 smaller buffers", "lr</td>", "always the commonest"]
        {
            assert!(html.contains(part), "{part} is missing");
        }
        assert_eq!(html.matches("<svg").count(), 6);
        for energy in ["75.0 J", "0.0500 J", "0.00500 kWh", "2.29 g, at 458 g CO2e", "made up"] {
            assert!(html.contains(energy), "{energy} is missing");
        }
        assert!(html.contains("&lt;maybe&gt;") && !html.contains("<maybe>"), "labels are escaped");
        assert!(!html.contains("<script") && !html.contains("src=") && !html.contains("href="));
    }

    #[test]
    fn a_run_without_steps_or_head_has_a_page_too() {
        let report = Report::default();
        let page = Page { title: "t", report: &report, steps: &[], matrices: &[], memory: &[], settings: &[] };
        let html = page.render().unwrap();
        assert!(!html.contains("<svg") && !html.contains("Confusion"));
    }

    #[test]
    fn where_energy_is_not_measured_the_page_says_why() {
        let energy = Energy { measured: "not measured: no <counter>".into(), ..Energy::default() };
        let report = Report { energy, ..example() };
        let page = Page { title: "t", report: &report, steps: &[], matrices: &[], memory: &[], settings: &[] };
        let html = page.render().unwrap();
        assert!(html.contains("not measured: no &lt;counter&gt;") && !html.contains("CO2"), "{html}");
    }
}
