//! A table over settings: every combination of what is named is trained, tested on the same questions, and put in one row.
//!
//! An axis is a key of the configuration with its values, so that whatever can be set can be compared: prompts, kinds of head
//! and their pooling, the loss weight, the adapter's rank and layers (`eci.kind=none`: text alone), the base (`model.path`), seeds.
//! One run of each says little: name several seeds, and read the intervals.

use std::path::PathBuf;

use crate::cli::config::RunConfig;
use crate::cli::evaluate::Evaluate;
use crate::cli::nearest::nearest;
use crate::cli::options::{EciKind, Options};
use crate::cli::which::Which;
use crate::cli::{Start, file};
use crate::eval::metrics::wilson;
use crate::eval::{Evaluation, Reading, Scores, score};
use crate::evaluate::TEMPLATE;
use crate::evaluate::ask::{evaluate, write_answers};
use crate::evaluate::put_typed;
use crate::evaluate::questions::Asked;
use crate::subject::Subject;
use crate::table::Table;
use crate::train::prepare::open_device;
use crate::{Error, Result, bail_input};

/// A setting and the values it takes in turn.
#[derive(Clone, Debug, PartialEq)]
struct Axis {
    key: String,
    values: Vec<String>,
}

/// The table for programs; its folder is taken when it is there.
const RESULT_FILE: &str = "ablation.json";

/// Prompts, kinds of head with their pooling, loss weights: what the paper leaves open.
const USUAL: [(&str, &str); 3] =
    [("prompt.template", "direct,one_step,three_step"), ("eci.kind", "paper,mean,last,max"), ("eci.weight", "0.1,0.3")];

impl Axis {
    fn parse(text: &str) -> Result<Axis> {
        let Some((key, values)) = text.split_once('=') else {
            bail_input!(
                "--ablate {text}: expected KEY=VALUE,VALUE,.. with a key of the configuration, such as eci.kind=last,mean"
            );
        };
        let values: Vec<String> = values.split(',').map(|value| value.trim().to_string()).collect();
        if !file::KEYS.iter().any(|known| known == key) {
            match nearest(key, file::KEYS.iter().map(String::as_str)) {
                Some(known) => bail_input!("--ablate {key}: unknown key; did you mean {known}?"),
                None => bail_input!("--ablate {key}: unknown key; assets/configs/demo.toml names them all"),
            }
        }
        match values.iter().any(String::is_empty) {
            true => bail_input!("--ablate {text}: a value is missing"),
            false => Ok(Axis { key: key.to_string(), values }),
        }
    }

    /// The line of a configuration file that sets it. A value that is no number, truth or list of its own is text.
    fn line(&self, value: &str) -> String {
        let (_, field) = self.key.split_once('.').expect("section.field");
        let list = ["labels", "targets", "heads", "train", "dims"].contains(&field);
        let plain = value.parse::<f64>().is_ok() || ["true", "false"].contains(&value);
        let text = |value: &str| toml::Value::from(value).to_string();
        let value = match (list, plain) {
            // The values of an axis are divided by commas, those of a list within one by plus signs.
            (true, _) if field == "dims" => format!("[{}]", value.replace('+', ",")),
            (true, _) => format!("[{}]", value.split('+').map(text).collect::<Vec<_>>().join(",")),
            (false, true) => value.to_string(),
            (false, false) => text(value),
        };
        format!("{field} = {value}")
    }
}

/// Every combination, the last axis fastest.
fn combinations(axes: &[Axis]) -> Vec<Vec<(&Axis, &String)>> {
    axes.iter().fold(vec![vec![]], |all, axis| {
        let with = |some: &Vec<(_, _)>| {
            axis.values.iter().map(|value| [some.clone(), vec![(axis, value)]].concat()).collect::<Vec<_>>()
        };
        all.iter().flat_map(with).collect()
    })
}

/// Settings of one combination.
fn options(base: &Options, chosen: &[(&Axis, &String)]) -> Result<Options> {
    let broken = |e: toml::ser::Error| Error::Input(format!("the configuration cannot be written as TOML: {e}"));
    let mut table = toml::Table::try_from(base).map_err(broken)?;
    for (axis, value) in chosen {
        let (section, _) = axis.key.split_once('.').expect("section.field");
        let place = format!("--ablate {}={value}", axis.key);
        // Parsed as a file of this one setting: its name, type and sentence are those of a configuration file.
        let one = file::parse(&place, &format!("[{section}]\n{}\n", axis.line(value)))?;
        let one = toml::Table::try_from(&one).map_err(broken)?;
        for (section, fields) in one {
            let fields = fields.as_table().cloned().unwrap_or_default();
            table
                .entry(section)
                .or_insert_with(|| toml::Value::Table(toml::Table::new()))
                .as_table_mut()
                .expect("sections are tables")
                .extend(fields);
        }
    }
    let text = toml::to_string(&table).map_err(broken)?;
    file::parse("--ablate", &text)
}

/// Trains and asks every combination, and prints one table.
pub(super) fn run(typed: &Evaluate, axes: &[String]) -> Result<()> {
    let axes: Vec<Axis> = match axes.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [""] => USUAL.iter().map(|(key, values)| Axis::parse(&format!("{key}={values}"))).collect::<Result<_>>()?,
        named => named.iter().map(|text| Axis::parse(text)).collect::<Result<_>>()?,
    };
    let dir = typed.out.clone().unwrap_or_else(|| PathBuf::from("runs/ablation"));
    let (base, name) = file::load(&typed.config)?;
    // All of them are checked before the first is trained.
    let mut runs = Vec::new();
    for (i, chosen) in combinations(&axes).into_iter().enumerate() {
        let mut options = options(&base, &chosen)?;
        options.output.dir = Some(dir.join(format!("{}", i + 1)));
        put_typed(typed, &mut options, typed.steps);
        if options.eci.kind == Some(EciKind::None) {
            options.eci.weight = None;
        }
        let config = RunConfig::resolve(&Options::default(), &options, &name)?;
        runs.push((config, chosen.iter().map(|(_, value)| value.to_string()).collect::<Vec<_>>()));
    }
    if dir.join(RESULT_FILE).exists() && !typed.overwrite {
        bail_input!(
            "{}: this folder already holds a table of runs; choose another with --out, or say --overwrite",
            dir.display()
        );
    }
    std::fs::create_dir_all(&dir).map_err(Error::io(&dir))?;
    let mut head: Vec<String> = axes.iter().map(|axis| axis.key.clone()).collect();
    let measures = ["LM loss", "text", "log-probability", "ECI", "95 % of ECI", "majority", "seconds"];
    head.extend(measures.map(String::from));
    let mut table = Table { head, rows: Vec::new() };
    let n = runs.len();
    for (i, (config, mut cells)) in runs.into_iter().enumerate() {
        if !typed.quiet {
            println!("run {} of {n}: {}", i + 1, cells.join(", "));
        }
        cells.extend(one(typed, &config, &name)?);
        table.rows.push(cells);
    }
    println!("{table}");
    let text = format!("# Ablation\n\n{n} runs of {name}, each tested on the same questions.\n\n{}", table.markdown());
    let json = serde_json::to_string_pretty(&table).map_err(|e| Error::Input(format!("ablation.json: {e}")))?;
    for (file, text) in [("ablation.md", text), (RESULT_FILE, json + "\n")] {
        std::fs::write(dir.join(file), text).map_err(Error::io(dir.join(file)))?;
    }
    println!("files in {}: ablation.md, ablation.json, and a folder for each run", dir.display());
    Ok(())
}

/// Trains with these settings and asks the run's test questions; what it leaves lies in the run's folder.
pub(super) fn train_and_ask(typed: &Evaluate, config: &RunConfig, name: &str) -> Result<Evaluation> {
    let start = Start {
        config: config.clone(),
        config_name: name.to_string(),
        resume: false,
        overwrite: typed.overwrite,
        plan: false,
        check_data: false,
        quiet: true,
    };
    crate::train::finetune(&start)?;
    let which = Which { adapter: Some(config.output.dir.clone()), ..typed.which.clone() };
    let asked_of = Evaluate { which, data: Vec::new(), quiet: true, ..typed.clone() };
    let subject = Subject::open(&asked_of.which, TEMPLATE)?;
    let asked = Asked::prepare(&asked_of, &subject)?;
    let device = open_device(&typed.which.device, typed.which.compute)?;
    let which = Which { tokens: config.train.tokens, ..asked_of.which.clone() };
    let limits = Evaluate { which, new_tokens: config.eval.new_tokens, ..asked_of };
    let evaluation = evaluate(&limits, &subject, &asked, &device, subject.quant())?;
    write_answers(&config.output.dir, &evaluation.answers)?;
    Ok(evaluation)
}

/// Trains, asks, and gives the cells behind the settings.
fn one(typed: &Evaluate, config: &RunConfig, name: &str) -> Result<Vec<String>> {
    let clock = std::time::Instant::now();
    let evaluation = train_and_ask(typed, config, name)?;
    let answers = &evaluation.answers;
    // Within each list of labels.
    let majority = |set: &score::LabelSet| set.all.majority.accuracy * set.all.n as f64;
    let majority = Scores::of(answers)?.label_sets.iter().map(majority).sum::<f64>() / answers.len() as f64;
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let n_right = |reading: Reading| answers.iter().filter(|a| a.said(reading) == Some(a.right)).count();
    let share = |reading: Reading| match answers.iter().all(|answer| answer.has(reading)) {
        true => percent(n_right(reading) as f64 / answers.len() as f64),
        false => "–".to_string(),
    };
    let between = match answers.iter().all(|answer| answer.has(Reading::Eci)) {
        true => wilson(n_right(Reading::Eci), answers.len()),
        false => None,
    };
    let mut cells = vec![format!("{:.3}", evaluation.lm_loss)];
    cells.extend(Reading::ALL.map(share));
    cells.push(between.map_or("–".into(), |(low, high)| format!("{:.1} to {:.1}", 100.0 * low, 100.0 * high)));
    cells.extend([percent(majority), format!("{:.0}", clock.elapsed().as_secs_f64())]);
    Ok(cells)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_are_keys_of_a_configuration_with_values() {
        let axis = Axis::parse("eci.kind=last, mean").unwrap();
        assert_eq!(axis, Axis { key: "eci.kind".into(), values: vec!["last".into(), "mean".into()] });
        let said = |text: &str| Axis::parse(text).unwrap_err().to_string();
        assert_eq!(said("eci.knid=last"), "--ablate eci.knid: unknown key; did you mean eci.kind?");
        assert!(said("eci.kind").contains("expected KEY=VALUE"));
        assert!(said("eci.kind=last,").contains("a value is missing"));
    }

    #[test]
    fn every_combination_comes_once_and_its_settings_are_those_of_a_file() {
        let axes = ["eci.kind=last,mean", "train.lr=1e-3,2e-3,3e-3"].map(|text| Axis::parse(text).unwrap());
        let all = combinations(&axes);
        let names: Vec<String> = all.iter().map(|c| format!("{} {}", c[0].1, c[1].1)).collect();
        assert_eq!(names, ["last 1e-3", "last 2e-3", "last 3e-3", "mean 1e-3", "mean 2e-3", "mean 3e-3"]);
        let demo = file::load("demo").unwrap().0;
        let chosen = options(&demo, &all[4]).unwrap();
        assert_eq!((chosen.eci.kind, chosen.train.lr), (Some(EciKind::Mean), Some(2e-3)));
        assert_eq!((chosen.eci.dims, chosen.train.seed), (demo.eci.dims.clone(), demo.train.seed));
        let lists = ["lora.targets=q_proj+v_proj", "eci.dims=8+4", "model.double_quant=false"];
        let axes = lists.map(|text| Axis::parse(text).unwrap());
        let chosen = options(&demo, &combinations(&axes)[0]).unwrap();
        assert_eq!(chosen.lora.targets, Some(vec!["q_proj".into(), "v_proj".into()]));
        assert_eq!((chosen.eci.dims, chosen.model.double_quant), (Some(vec![8, 4]), Some(false)));
        let axis = Axis::parse("eci.kind=medain").unwrap();
        let said = options(&demo, &combinations(&[axis])[0]).unwrap_err().to_string();
        assert!(said.starts_with("--ablate eci.kind=medain:2: kind: ") && said.contains("medain"), "{said}");
    }
}
