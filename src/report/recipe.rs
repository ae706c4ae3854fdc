//! The report of a recipe: what each of its stages came to, as JSON with stable names and as a page that leads to theirs.

use std::path::Path;

use minijinja::Environment;
use minijinja::value::Serde;
use serde::{Deserialize, Serialize};

use super::page::PAGE_FILE;
use super::summary::{REPORT_FILE, Report, duration};
use crate::energy::three_digits;
use crate::table::Table;
use crate::{Error, Result, bytes};

const TEMPLATE: &str = include_str!("../../assets/recipe.html.jinja");

/// The result of a recipe.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct RecipeReport {
    /// The base model's folder.
    pub base: String,
    /// Of all stages together.
    pub seconds: f64,
    /// In their order.
    pub stages: Vec<StageReport>,
}

/// The result of one stage: its own report, and where it lies.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct StageReport {
    /// As the recipe calls it.
    pub name: String,
    /// Its folder in that of the recipe.
    pub folder: String,
    /// What its own report.json says.
    #[serde(flatten)]
    pub report: Report,
}

/// What the template fills in.
#[derive(Serialize)]
struct Filled<'a> {
    title: String,
    report: &'a RecipeReport,
    time: String,
    table: Table,
    tables: Vec<Table>,
    version: &'static str,
}

impl RecipeReport {
    /// Of these stages, trained on this base.
    pub fn of(base: String, stages: Vec<StageReport>) -> RecipeReport {
        RecipeReport { base, seconds: stages.iter().map(|stage| stage.report.seconds).sum(), stages }
    }

    /// Writes the page, then `report.json`, by which the recipe is finished, into the folder `dir`.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let page = dir.join(PAGE_FILE);
        std::fs::write(&page, self.page(dir)?).map_err(Error::io(&page))?;
        let path = dir.join(REPORT_FILE);
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::Input(format!("{}: {e}", path.display())))?;
        std::fs::write(&path, text + "\n").map_err(Error::io(&path))
    }

    fn page(&self, dir: &Path) -> Result<String> {
        let broken = |e: minijinja::Error| Error::Input(format!("assets/recipe.html.jinja: {e:#}"));
        let mut environment = Environment::new();
        // Under this name minijinja escapes what it fills in.
        environment.add_template(PAGE_FILE, TEMPLATE).map_err(broken)?;
        let filled = Filled {
            title: dir.display().to_string(),
            report: self,
            time: duration(self.seconds),
            table: self.table(),
            tables: self.stages.iter().map(|stage| stage.report.table()).collect(),
            version: env!("CARGO_PKG_VERSION"),
        };
        environment.get_template(PAGE_FILE).and_then(|template| template.render(Serde(filled))).map_err(broken)
    }

    /// A line for each stage.
    pub fn table(&self) -> Table {
        let mut table = Table::new(["stage", "rows", "LM loss", "text", "ECI", "majority", "time", "peak", ""]);
        let percent = |x: Option<f64>| x.map_or("–".to_string(), |x| format!("{:.1} %", 100.0 * x));
        for StageReport { name, report, .. } in &self.stages {
            let loss = report.lm.loss_after.map_or("–".to_string(), |loss| format!("{loss:.3}"));
            let sets: Vec<String> =
                report.sets.iter().map(|set| format!("{}: ECI {}", set.name, percent(set.eci_accuracy))).collect();
            table.row([
                name,
                &report.data.train.to_string(),
                &loss,
                &percent(report.text.accuracy_after),
                &percent(report.eci.accuracy_after),
                &percent(report.eci.majority),
                &duration(report.seconds),
                &bytes::readable(report.peak_device_bytes),
                &sets.join(", "),
            ]);
        }
        table
    }

    /// Where everything lies and what to type next: the lines under the table.
    pub fn closing(&self, dir: &Path) -> String {
        let (shown, result) = (dir.display(), dir.join(self.result()));
        format!(
            "{} stages in {}{}; the adapter to use is that of the last stage, in {}\n\
             files in {shown}: recipe.toml, report.json, report.html, and a folder for each stage\n\
             next: open {shown}/report.html",
            self.stages.len(),
            duration(self.seconds),
            self.kwh().map_or(String::new(), |kwh| format!(" with {} kWh", three_digits(kwh))),
            result.display()
        )
    }

    /// Energy of all stages; none where one was not measured.
    fn kwh(&self) -> Option<f64> {
        self.stages.iter().map(|stage| stage.report.energy.kwh).sum()
    }

    /// The folder of the last stage.
    fn result(&self) -> &str {
        self.stages.last().map_or("", |stage| &stage.folder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::summary::example;

    fn two() -> RecipeReport {
        let stage =
            |name: &str, folder: &str| StageReport { name: name.into(), folder: folder.into(), report: example() };
        RecipeReport::of("assets/tiny_base".into(), vec![stage("talk", "1-talk"), stage("ask <b>", "2-ask")])
    }

    #[test]
    fn a_report_reads_back_with_each_stage_under_its_own_names() {
        let dir = tempfile::tempdir().unwrap();
        two().write(dir.path()).unwrap();
        let text = std::fs::read_to_string(dir.path().join(REPORT_FILE)).unwrap();
        assert_eq!(serde_json::from_str::<RecipeReport>(&text).unwrap(), two());
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["seconds"], 2.0 * 93.4);
        for pointer in ["/base", "/stages/0/name", "/stages/1/folder", "/stages/1/eci/accuracy_after"] {
            assert!(value.pointer(pointer).is_some_and(|v| !v.is_null()), "{pointer}");
        }
    }

    #[test]
    fn the_page_leads_to_each_stage_and_to_the_result() {
        let page = two().page("runs/x".as_ref()).unwrap();
        for part in
            ["href=\"1-talk/report.html\"", "href=\"2-ask/report.html\"", "ask &lt;b&gt;", "85.0 %", "3 min 7 s"]
        {
            assert!(page.contains(part), "{part} is not in {page}");
        }
        assert!(two().closing("runs/x".as_ref()).contains("that of the last stage, in runs/x/2-ask\n"));
        assert!(two().closing("runs/x".as_ref()).starts_with("2 stages in 3 min 7 s with 0.0100 kWh; "));
        let mut part = two();
        part.stages[0].report.energy.kwh = None;
        assert!(part.closing("runs/x".as_ref()).starts_with("2 stages in 3 min 7 s; "));
    }
}
