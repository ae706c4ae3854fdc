//! `--experiment`: one of the paper's, by name; its tables on stdout, and as files where a folder was named.
//!
//! What needs no question asked lives in the room `experiment`, which knows no command: the head alone, and costs, for which this file
//! prepares the demo's model and questions. [`readings`] lives beside this file, because it asks as `evaluate` does, with the
//! same code: a reading that was measured another way would be another reading.

use std::path::Path;

use crate::checkpoint::{ModelFolder, check_room, save_files};
use crate::cli::evaluate::Evaluate as Typed;
use crate::cli::options::{ComputeType, Options};
use crate::cli::{RunConfig, file};
use crate::evaluate::{put_typed, readings};
use crate::experiment::{ExperimentOptions, ExperimentReport, cost, eci_alone};
use crate::train::prepare::{self, Data, open_device};
use crate::{Error, Result, bail_input};

/// In the order of the help text.
const NAMES: [&str; 3] = [eci_alone::NAME, readings::NAME, cost::NAME];
/// Questions whose cost is measured.
const QUESTIONS: usize = 64;

/// Runs it. A verdict that does not hold is a finding, and a failure only with `--strict`.
pub(super) fn run(typed: &Typed, name: &str) -> Result<()> {
    if !NAMES.contains(&name) {
        bail_input!("--experiment {name}: expected one of {}", NAMES.join(", "));
    }
    let files = [format!("{name}.json"), format!("{name}.md")];
    if let Some(dir) = &typed.out {
        refuse(dir, &files, typed.overwrite)?;
    }
    let report = match name {
        readings::NAME => readings::run(typed)?,
        cost::NAME => cost(typed)?,
        _ => eci_alone::run(&options(typed)?)?,
    };
    print(&report);
    if let Some(dir) = &typed.out {
        write(dir, &files, &report)?;
        println!("files in {}: {}", dir.display(), files.join(", "));
    }
    let missed = report.verdicts.iter().filter(|verdict| !verdict.holds).count();
    match typed.strict && missed > 0 {
        true => Err(Error::Unmet(format!("{missed} of {} verdicts do not hold", report.verdicts.len()))),
        false => Ok(()),
    }
}

fn options(typed: &Typed) -> Result<ExperimentOptions> {
    if typed.which.compute == ComputeType::Fp8 {
        bail_input!("--compute fp8: this experiment has no frozen base; say bf16 or fp32");
    }
    Ok(ExperimentOptions {
        device: open_device(&typed.which.device, typed.which.compute)?,
        seed: typed.seed,
        quick: typed.quick,
        say: say(typed),
    })
}

fn say(typed: &Typed) -> fn(&str) {
    if typed.quiet { |_| () } else { |line| println!("{line}") }
}

/// Of the configuration's base, adapter and head as they are before training, on its test questions.
fn cost(typed: &Typed) -> Result<ExperimentReport> {
    let (mut options, name) = file::load(&typed.config)?;
    put_typed(typed, &mut options, None);
    let config = RunConfig::resolve(&Options::default(), &options, &name)?;
    let folder = ModelFolder::open(&config.model.path)?;
    folder.config().supported()?;
    let data = Data::prepare(&config, folder.config(), true)?;
    let Some(head) = prepare::heads(&config, folder.config(), &data.sets)?.into_iter().next() else {
        bail_input!("{name}: eci.kind is none, so there is no head whose cost could be measured; name a kind");
    };
    let n = if typed.rows == 0 { QUESTIONS } else { typed.rows };
    let prompts = data.test.iter().take(n).map(|row| row.ids[..row.n_prompt].to_vec()).collect();
    cost::run(&cost::Given {
        folder: &folder,
        frozen: prepare::frozen(config.model.quant, config.model.double_quant, config.machine.compute),
        lora: prepare::lora(&config),
        head,
        prompts,
        open: &|| open_device(&typed.which.device, typed.which.compute),
        quick: typed.quick,
        say: say(typed),
    })
}

/// Refused in a second, not after ten minutes.
fn refuse(dir: &Path, files: &[String; 2], overwrite: bool) -> Result<()> {
    if dir.exists() && !dir.is_dir() {
        bail_input!("{}: the output must be a folder, but this is a file", dir.display());
    }
    match files.iter().find(|file| dir.join(file).exists()) {
        Some(file) if !overwrite => {
            bail_input!("{}: {file} is there already; name another folder, or say --overwrite", dir.display())
        }
        _ => Ok(()),
    }
}

fn print(report: &ExperimentReport) {
    println!("{}\n", report.question);
    report.method.iter().for_each(|line| println!("{line}\n"));
    report.tables.iter().for_each(|part| println!("{}\n{}", part.title, part.table));
    for verdict in &report.verdicts {
        let mark = if verdict.holds { "holds" } else { "DOES NOT HOLD" };
        println!("{mark}: {}. {}", verdict.expected, verdict.found);
    }
    println!("{:.0} seconds on {}", report.seconds, report.device);
}

/// Both files or none.
fn write(dir: &Path, files: &[String; 2], report: &ExperimentReport) -> Result<()> {
    let json = serde_json::to_string_pretty(report).map_err(|e| Error::Input(format!("{}: {e}", files[0])))? + "\n";
    let texts = [json, report.to_markdown()];
    // The folder may not be there yet; its disk is that of the nearest folder that is.
    check_room(dir, texts.iter().map(|text| text.len() as u64).sum())?;
    let names = files.each_ref().map(String::as_str);
    save_files(dir, &names, |staging| {
        names.iter().zip(&texts).try_for_each(|(name, text)| {
            let path = staging.join(name);
            std::fs::write(&path, text).map_err(Error::io(&path))
        })
    })
}
