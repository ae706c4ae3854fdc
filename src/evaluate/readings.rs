//! The paper's second experiment: **is the head a better reader of the model than the model's own words?** The same questions, one
//! trained model, three readings of it; and the text of a model trained without a head, to see what joint training does to it.
//!
//! What must come out is said here, before any run: after joint training the written answer and the head are each above always
//! saying the commonest class, the head is not worse than the text, and the text not worse than without a head. Each is judged by
//! the 95 % interval of the bootstrap over questions.
//!
//! Answers of several seeds to one question are not independent: the question may be an easy one. So what is pooled is the mean over
//! seeds of each question, and questions are drawn; Wilson and McNemar, which count answers as independent, are given for each seed alone.

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::cli::config::RunConfig;
use crate::cli::evaluate::Evaluate as Typed;
use crate::cli::file;
use crate::cli::options::{EciKind, Options};
use crate::eval::bootstrap::{Interval, mean, mean_interval};
use crate::eval::score::{Group, ReadingScores};
use crate::eval::{Answer, Paired, Reading, Scores};
use crate::evaluate::ablate::train_and_ask;
use crate::evaluate::put_typed;
use crate::experiment::report::TitledTable;
use crate::experiment::{ExperimentReport, Verdict};
use crate::table::Table;
use crate::train::prepare::open_device;
use crate::{Result, bail_input};

/// On the command line.
pub(super) const NAME: &str = "readings";
/// Seeds of joint training, and of training the text alone: the first ones of the same. Five runs of the demo fit into ten minutes.
const SEEDS: (u64, u64) = (3, 2);
/// For a first look.
const QUICK_SEEDS: (u64, u64) = (2, 1);
const QUICK_STEPS: usize = 8;
const QUICK_QUESTIONS: usize = 24;
/// Finetune asks the test rows too, before and after; here they are asked again in another way, so few of them do.
const ROWS_OF_FINETUNE: usize = 2;

/// A trained model, asked.
struct Run {
    seed: u64,
    answers: Vec<Answer>,
}

/// Where the runs go: beside the report, or a folder that is removed in the end.
struct Place {
    dir: PathBuf,
    temporary: bool,
}

impl Place {
    fn of(typed: &Typed) -> Result<Place> {
        let Some(out) = &typed.out else {
            let dir = std::env::temp_dir().join(format!("llamacare-{NAME}-{}", std::process::id()));
            return Ok(Place { dir, temporary: true });
        };
        let dir = out.join(NAME);
        match dir.exists() && !typed.overwrite {
            true => bail_input!("{}: this folder is there already; name another, or say --overwrite", dir.display()),
            false => Ok(Place { dir, temporary: false }),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.temporary {
            // What cannot be removed lies in the system's folder for such things, which empties itself.
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

/// Trains, asks, compares.
pub(super) fn run(typed: &Typed) -> Result<ExperimentReport> {
    let clock = Instant::now();
    let (base, name) = file::load(&typed.config)?;
    let place = Place::of(typed)?;
    let (n_joint, n_alone) = if typed.quick { QUICK_SEEDS } else { SEEDS };
    // All of them are checked before the first is trained.
    let configs = |n: u64, alone: bool| -> Result<Vec<RunConfig>> {
        (typed.seed..).take(n as usize).map(|seed| settings(typed, &base, &name, &place.dir, seed, alone)).collect()
    };
    let (joint, alone) = (configs(n_joint, false)?, configs(n_alone, true)?);
    let (method, device) =
        (method(&joint[0], joint.len(), alone.len()), open_device(&typed.which.device, typed.which.compute)?);
    let rows = if typed.rows == 0 && typed.quick { QUICK_QUESTIONS } else { typed.rows };
    let typed = &Typed { rows, ..typed.clone() };
    let ask = |configs: Vec<RunConfig>| -> Result<Vec<Run>> {
        let one = |config: RunConfig| {
            let answers = train_and_ask(typed, &config, &name)?.answers;
            Ok(Run { seed: config.train.seed, answers })
        };
        configs.into_iter().map(one).collect()
    };
    let (joint, alone) = (ask(joint)?, ask(alone)?);
    let (tables, verdicts) = compare(&joint, &alone)?;
    Ok(ExperimentReport {
        name: NAME.into(),
        question: "On the same questions: is the ECI head a better reading of a trained model than its written answer?"
            .into(),
        method,
        tables,
        verdicts,
        seconds: clock.elapsed().as_secs_f64(),
        device: device.name(),
    })
}

/// The configuration's own settings, but for seed, folder, machine and, `alone`, the head.
fn settings(typed: &Typed, base: &Options, name: &str, dir: &Path, seed: u64, alone: bool) -> Result<RunConfig> {
    let mut options = base.clone();
    options.train.seed = Some(seed);
    options.output.dir = Some(dir.join(format!("{}-{seed}", if alone { "alone" } else { "joint" })));
    options.output.save_every = Some(0);
    (options.eval.rows, options.eval.every) = (Some(ROWS_OF_FINETUNE), Some(0));
    put_typed(typed, &mut options, typed.steps.or(typed.quick.then_some(QUICK_STEPS)));
    if alone {
        (options.eci.kind, options.eci.weight) = (Some(EciKind::None), None);
    }
    let config = RunConfig::resolve(&Options::default(), &options, name)?;
    if config.data.test.is_empty() && config.data.test_ids.as_os_str().is_empty() {
        bail_input!("{name}: every seed must be asked the same questions; give them a file of their own, data.test");
    }
    if !alone && config.eci.kind == EciKind::None {
        bail_input!("{name}: eci.kind is none, so there is no head to compare the text with; name a kind");
    }
    Ok(config)
}

fn method(config: &RunConfig, n_joint: usize, n_alone: usize) -> Vec<String> {
    let steps = match config.train.steps {
        0 => format!("{} epochs", config.train.epochs),
        n => format!("{n} steps"),
    };
    vec![
        format!(
            "{} is trained for {steps} with text and head together (kind {:?}, weight {}), seeds {} to {}; and with the text alone, the first \
             {n_alone} of these seeds, everything else as it was. Then each is asked the same test questions, none of which it has seen: the \
             written answer (greedy, {} new tokens at most), the log-probability of the labels, the head.",
            config.model.path.file_name().unwrap_or_default().display(),
            config.eci.kind,
            config.eci.weight,
            config.train.seed,
            config.train.seed + n_joint as u64 - 1,
            config.eval.new_tokens
        ),
        "An answer that names no class clearly is wrong. Pooled: the mean over seeds for each question; its interval is the bootstrap's over \
         questions, which says how well these trained models are known, not what other seeds would give. Wilson and McNemar count answers \
         as independent, which those of several seeds to one question are not: they are given for each seed alone."
            .into(),
    ]
}

/// Tables and verdicts of finished runs.
fn compare(joint: &[Run], alone: &[Run]) -> Result<(Vec<TitledTable>, Vec<Verdict>)> {
    let asked = |run: &Run| run.answers.iter().map(|a| (a.id.clone(), a.labels.clone())).collect::<Vec<_>>();
    let first = asked(&joint[0]);
    if joint.iter().chain(alone).any(|run| asked(run) != first) {
        bail_input!("the seeds were not asked the same questions; give these a file of their own, data.test");
    }
    let right = |runs: &[Run], reading| -> Vec<Vec<bool>> {
        let of_run = |run: &Run| run.answers.iter().map(|a| a.said(reading) == Some(a.right)).collect();
        runs.iter().map(of_run).collect()
    };
    let (text, eci) = (right(joint, Reading::Text), right(joint, Reading::Eci));
    // The commonest class is that of the questions, so the same for every run.
    let majority = group(&joint[0].answers)?.majority.accuracy;
    let of_seeds: Vec<u64> = joint.iter().map(|run| run.seed).collect();
    let pairs = |a: &[Vec<bool>], b: &[Vec<bool>]| -> Vec<Vec<(bool, bool)>> {
        a.iter().zip(b).map(|(a, b)| a.iter().copied().zip(b.iter().copied()).collect()).collect()
    };
    let eci_text = pairs(&eci, &text);
    let joint_alone = pairs(&text, &right(alone, Reading::Text));
    let tables = vec![
        titled("Text and head trained together", readings_table(joint)?),
        titled(
            "ECI head less written answer, on the same questions",
            paired_table(&of_seeds, &eci_text, ["only ECI right", "only text right"]),
        ),
        titled("The text alone, trained without a head", readings_table(alone)?),
        titled(
            "Written answer after joint training less the same trained alone",
            paired_table(&of_seeds, &joint_alone, ["only joint right", "only alone right"]),
        ),
    ];
    let verdicts = vec![
        above("after joint training the written answer is above the majority baseline", &text, majority),
        above("after joint training the ECI head is above the majority baseline", &eci, majority),
        not_below("after joint training the ECI head is not shown to be worse than the written answer", &eci_text),
        not_below("joint training is not shown to make the written answer worse than training it alone", &joint_alone),
    ];
    Ok((tables, verdicts))
}

fn titled(title: &str, table: Table) -> TitledTable {
    TitledTable { title: title.into(), table }
}

/// The scores of questions that all have the same classes.
fn group(answers: &[Answer]) -> Result<Group> {
    let sets = Scores::of(answers)?.label_sets;
    match <[_; 1]>::try_from(sets) {
        Ok([set]) => Ok(set.all),
        Err(sets) => bail_input!("the questions have {} different lists of labels, one is expected", sets.len()),
    }
}

fn readings_table(runs: &[Run]) -> Result<Table> {
    let head = ["seed", "reading", "accuracy", "Wilson 95 %", "bootstrap 95 %", "macro-F1", "ECE", "no clear label"];
    let mut table = Table::new(head);
    let dash = || "–".to_string();
    let mut row = |seed: &str, scores: &ReadingScores, wilson: Option<Interval>, drawn: Option<Interval>| {
        let ece = scores.calibration.as_ref().map_or_else(dash, |c| format!("{:.3}", c.ece));
        let unclear = scores.written.as_ref().map_or_else(dash, |w| percent(w.no_clear_label));
        let (wilson, drawn) = (span(wilson), span(drawn));
        let f1 = format!("{:.3}", scores.macro_f1);
        table.row([seed, scores.reading.title(), &percent(scores.accuracy), &wilson, &drawn, &f1, &ece, &unclear]);
    };
    for run in runs {
        for scores in &group(&run.answers)?.readings {
            row(&run.seed.to_string(), scores, Some(scores.accuracy_wilson), scores.accuracy_bootstrap);
        }
    }
    let all: Vec<Answer> = runs.iter().flat_map(|run| run.answers.clone()).collect();
    let pooled = group(&all)?;
    for scores in pooled.readings.iter().filter(|_| runs.len() > 1) {
        let right = runs.iter().map(|run| {
            run.answers.iter().map(|a| f64::from(a.said(scores.reading) == Some(a.right))).collect::<Vec<f64>>()
        });
        row("pooled", scores, None, mean_interval(&over_seeds(&right.collect::<Vec<_>>())));
    }
    let always = format!("always {:?}", pooled.majority.label);
    table.row(["any", &always, &percent(pooled.majority.accuracy), "–", "–", "–", "–", "–"]);
    Ok(table)
}

fn paired_table(seeds: &[u64], runs: &[Vec<(bool, bool)>], [only_first, only_second]: [&str; 2]) -> Table {
    let mut table =
        Table::new(["seed", "questions", "points", "bootstrap 95 %", only_first, only_second, "McNemar's exact p"]);
    for (seed, pairs) in seeds.iter().zip(runs) {
        let Some(paired) = Paired::of(pairs) else { continue };
        let counts = [paired.n, paired.only_first, paired.only_second].map(|n| n.to_string());
        let p = if paired.p < 0.0001 { "< 0.0001".into() } else { format!("{:.4}", paired.p) };
        let points = points(paired.difference);
        table.row([&seed.to_string(), &counts[0], &points, &span(paired.interval), &counts[1], &counts[2], &p]);
    }
    if runs.len() > 1 {
        let gain = gains(runs);
        let difference = mean(gain.iter().copied()).map_or("–".into(), points);
        table.row(["pooled", &gain.len().to_string(), &difference, &span(mean_interval(&gain)), "–", "–", "–"]);
    }
    table
}

/// What a question gives on average over the seeds.
fn over_seeds(runs: &[Vec<f64>]) -> Vec<f64> {
    let n = runs.first().map_or(0, Vec::len);
    (0..n).map(|question| runs.iter().map(|run| run[question]).sum::<f64>() / runs.len() as f64).collect()
}

fn gains(runs: &[Vec<(bool, bool)>]) -> Vec<f64> {
    let of_run = |run: &Vec<(bool, bool)>| run.iter().map(|&(a, b)| f64::from(a) - f64::from(b)).collect();
    over_seeds(&runs.iter().map(of_run).collect::<Vec<_>>())
}

/// Whether the whole interval of an accuracy lies above the baseline.
fn above(expected: &str, right: &[Vec<bool>], majority: f64) -> Verdict {
    let of_run = |run: &Vec<bool>| run.iter().map(|&right| f64::from(right)).collect();
    let shares = over_seeds(&right.iter().map(of_run).collect::<Vec<_>>());
    let (accuracy, interval) = (mean(shares.iter().copied()).unwrap_or(0.0), mean_interval(&shares));
    let holds = interval.is_some_and(|interval| interval.low > majority);
    let found = format!("{} ({}) against {}, over all seeds.", percent(accuracy), span(interval), percent(majority));
    Verdict { expected: expected.into(), holds, found }
}

/// Whether the interval of a difference reaches 0 at least.
fn not_below(expected: &str, runs: &[Vec<(bool, bool)>]) -> Verdict {
    let gain = gains(runs);
    let (difference, interval) = (mean(gain.iter().copied()).unwrap_or(0.0), mean_interval(&gain));
    let holds = interval.is_some_and(|interval| interval.high >= 0.0);
    let seeds = if runs.len() == 1 { "one seed".into() } else { format!("{} seeds", runs.len()) };
    let found = format!("{} points ({}), over {seeds}.", points(difference), span(interval));
    Verdict { expected: expected.into(), holds, found }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

fn points(share: f64) -> String {
    format!("{:+.1}", 100.0 * share)
}

fn span(interval: Option<Interval>) -> String {
    interval.map_or("–".into(), |i| format!("{:.1} to {:.1}", 100.0 * i.low, 100.0 * i.high))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::score::made_answers;

    /// The made-up answers and, of another seed, the same with these questions' texts made wrong.
    fn runs(spoilt: std::ops::Range<usize>) -> Vec<Run> {
        let mut other = made_answers();
        for answer in &mut other[spoilt] {
            answer.text.as_mut().expect("written").class = None;
        }
        vec![Run { seed: 1, answers: made_answers() }, Run { seed: 2, answers: other }]
    }

    #[test]
    fn pooled_rows_are_means_over_seeds_and_the_majority_stands_below() {
        // Of 30 texts 18 are right (60 %), of heads 25; the second seed's first 15 texts name no class: of the rest 9 are right.
        let (tables, verdicts) = compare(&runs(0..15), &runs(0..15)).unwrap();
        let rows: Vec<_> = tables[0].table.rows.iter().map(|row| [0, 1, 2, 3].map(|i| row[i].as_str())).collect();
        assert_eq!(rows.len(), 7);
        assert_eq!(rows[0][..3], ["1", "written answer", "60.0 %"]);
        assert_eq!(rows[2][..3], ["2", "written answer", "30.0 %"]);
        assert_eq!(rows[4], ["pooled", "written answer", "45.0 %", "–"]);
        assert_eq!(rows[5], ["pooled", "ECI head", "83.3 %", "–"]);
        assert_eq!(rows[6][..3], ["any", "always \"yes\"", "50.0 %"]);
        let paired = &tables[1].table.rows;
        assert_eq!([&paired[0][2], &paired[1][2], &paired[2][2]], ["+23.3", "+53.3", "+38.3"]);
        let holds: Vec<bool> = verdicts.iter().map(|verdict| verdict.holds).collect();
        // 45 % is not above 50 %, 83 % is; the head is better; and the text is as good as itself.
        assert_eq!(holds, [false, true, true, true]);
    }

    #[test]
    fn what_is_pooled_is_as_uncertain_as_its_questions_not_as_its_answers() {
        // Three seeds that all know the same half of 40 questions know no more than one does.
        let one: Vec<bool> = (0..40).map(|i| i % 2 == 0).collect();
        let found = |runs: Vec<Vec<bool>>| above("it is", &runs, 0.3).found;
        assert_eq!(found(vec![one.clone()]), found(vec![one.clone(), one.clone(), one]));
    }

    #[test]
    fn a_text_that_joint_training_spoilt_is_found_out() {
        let (_, verdicts) = compare(&runs(0..30)[1..], &runs(0..0)[..1]).unwrap();
        assert!(!verdicts[3].holds && verdicts[3].found.starts_with("-60.0 points"), "{}", verdicts[3].found);
        let worse: Vec<(bool, bool)> = (0..40).map(|i| (false, i % 2 == 0)).collect();
        assert!(!not_below("it is", std::slice::from_ref(&worse)).holds);
        let better = worse.into_iter().map(|(a, b)| (b, a)).collect();
        assert!(not_below("it is", &[better]).holds);
    }

    #[test]
    fn seeds_that_were_asked_other_questions_are_not_compared() {
        let mut other = runs(0..0);
        other[1].answers.swap(0, 1);
        let said = compare(&other, &runs(0..0)).unwrap_err().to_string();
        assert!(said.contains("not asked the same questions"), "{said}");
    }
}
