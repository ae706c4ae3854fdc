//! The usual evaluation: questions asked of a model, read three ways, scored, and written down.

use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};

use crate::checkpoint::save_files;
use crate::cli::evaluate::{Evaluate as Typed, ReadingName};
use crate::cli::options::{ComputeType, Quant};
use crate::data::{Room, pack};
use crate::device::Device;
use crate::energy::{Asking, Meter};
use crate::eval::{self, Answer, Limits, Metric, Quantisation, Questions, Reading, Scores, signatures};
use crate::eval::{Evaluate, Evaluation};
use crate::evaluate::TEMPLATE;
use crate::evaluate::harness;
use crate::evaluate::questions::Asked;
use crate::generate::{Capacity, Engine};
use crate::model::Batch;
use crate::report::EvaluationReport;
use crate::subject::{Loaded, Subject};
use crate::train::prepare::{compute, open_device};
use crate::{Error, Result, bail_input, bytes};

/// One line for each question; what scores are made from.
pub(super) const ANSWERS_FILE: &str = "answers.jsonl";

/// Asks, scores, prints, and writes where a folder was named.
pub(super) fn run(typed: &Typed) -> Result<()> {
    // Refused in a second, not after the model has answered.
    if let Some(dir) = typed.out.as_ref().filter(|dir| dir.join(ANSWERS_FILE).exists() && !typed.overwrite) {
        bail_input!(
            "{}: this folder already holds an evaluation; choose another with --out, or say --overwrite",
            dir.display()
        );
    }
    let subject = Subject::open(&typed.which, TEMPLATE)?;
    if typed.harness {
        return harness::run(typed, &subject);
    }
    let asked = Asked::prepare(typed, &subject)?;
    let device = open_device(&typed.which.device, typed.which.compute)?;
    let (evaluation, quantisation) = match typed.quantisation_check {
        false => (evaluate(typed, &subject, &asked, &device, subject.quant())?, None),
        true => {
            let (evaluation, check) = quantisation_check(typed, &subject, &asked, &device)?;
            (evaluation, Some(check))
        }
    };
    let report = report(typed, &subject, &asked, &device, &evaluation, quantisation)?;
    for section in report.sections().iter().filter(|section| !section.detail) {
        println!("{}\n{}", section.title, section.table);
    }
    report.notes.iter().for_each(|note| println!("note: {note}"));
    println!("energy: {}", report.energy.sentence());
    if let Some(dir) = &typed.out {
        std::fs::create_dir_all(dir).map_err(Error::io(dir))?;
        write_answers(dir, &evaluation.answers)?;
        report.write(dir)?;
        println!("files in {0}: evaluation.html, evaluation.md, evaluation.json, {ANSWERS_FILE}", dir.display());
    }
    if typed.strict && report.failures() > 0 {
        return Err(Error::Unmet(format!("{} failure signatures were found", report.failures())));
    }
    Ok(())
}

fn report(
    typed: &Typed,
    subject: &Subject,
    asked: &Asked,
    device: &Device,
    evaluation: &Evaluation,
    quantisation: Option<Quantisation>,
) -> Result<EvaluationReport> {
    let mut scores = Scores::of(&evaluation.answers)?;
    if evaluation.n_targets > 0 {
        let (name, value) = ("perplexity of the given answers".into(), evaluation.lm_loss.exp());
        scores.metrics.push(Metric { name, value, stderr: None });
    }
    let answered = asked.rows.iter().filter(|row| row.ids.len() > row.n_prompt);
    let completions = answered.map(|row| row.ids.len() - row.n_prompt - 1);
    let as_asked =
        eval::Asked { label_only: asked.prompt.template.is_decision_alone(), reference_tokens: completions.collect() };
    let signatures = signatures(&evaluation.answers, &as_asked, quantisation.as_ref(), &Limits::default())?;
    let name = |path: &Path| path.display().to_string();
    let adapter = subject.adapter.as_ref().map(|adapter| name(&adapter.dir));
    let generated = evaluation.answers.iter().filter_map(|answer| answer.text.as_ref()).map(|text| text.n_tokens).sum();
    let mut notes = asked.notes.clone();
    let n = asked.records.len();
    if n < 100 {
        notes.push(format!("{n} questions are few: the intervals say how little they tell"));
    }
    Ok(EvaluationReport {
        title: format!("{} on {}", adapter.clone().unwrap_or_else(|| name(subject.folder.dir())), asked.files),
        base: name(subject.folder.dir()),
        adapter,
        device: device.name(),
        data: asked.files.clone(),
        template: format!(
            "{} ({:?}, {} label sets with examples)",
            asked.prompt.template.name(),
            asked.prompt.layout,
            asked.prompt.shots.len()
        ),
        settings: settings(typed, subject, device),
        scores,
        signatures,
        quantisation,
        energy: Asking::of(Meter::open(device).what(), evaluation.joules, asked.rows.len(), generated),
        notes,
    })
}

fn settings(typed: &Typed, subject: &Subject, device: &Device) -> Vec<(String, String)> {
    [
        ("base stored as", format!("{:?}", subject.quant()).to_lowercase()),
        ("compute", typed.which.compute.name().to_string()),
        ("new tokens at most", typed.new_tokens.to_string()),
        ("tokens of a pass", typed.which.tokens.to_string()),
        ("seed", typed.seed.to_string()),
        ("peak memory", bytes::readable(device.peak_bytes())),
    ]
    .map(|(name, value)| (name.to_string(), value))
    .into()
}

/// What is read, in the order of tables; refuses a head that is not there.
fn readings(typed: &Typed, subject: &Subject) -> Result<Vec<Reading>> {
    let has_heads = subject.heads().next().is_some();
    let wanted = |name: &ReadingName| match name {
        ReadingName::Text => Reading::Text,
        ReadingName::Logprob => Reading::LogProb,
        ReadingName::Eci => Reading::Eci,
    };
    let named: Vec<Reading> = typed.readings.iter().map(wanted).collect();
    if named.contains(&Reading::Eci) && !has_heads {
        let whose = subject.adapter.as_ref().map_or(subject.folder.dir(), |adapter| &adapter.dir);
        bail_input!("{}: there is no ECI head to read; leave eci out of --readings", whose.display());
    }
    let all = Reading::ALL.into_iter().filter(|reading| has_heads || *reading != Reading::Eci);
    Ok(if named.is_empty() { all.collect() } else { named })
}

/// Loads the model with its base stored so, and asks.
pub(super) fn evaluate(
    typed: &Typed,
    subject: &Subject,
    asked: &Asked,
    device: &Device,
    quant: Quant,
) -> Result<Evaluation> {
    let readings = readings(typed, subject)?;
    let max_new = if readings.contains(&Reading::Text) { typed.new_tokens } else { 0 };
    let room = Room::of_tokens(typed.which.tokens);
    let cached_tokens = cached_tokens(typed, subject, asked, device, quant, max_new)?;
    let Loaded { model, heads, .. } = &subject.load(device, quant)?;
    let heads = if readings.contains(&Reading::Eci) { heads.as_slice() } else { &[] };
    let bar =
        if typed.quiet || max_new == 0 { ProgressBar::hidden() } else { ProgressBar::new(asked.rows.len() as u64) };
    bar.set_style(
        ProgressStyle::with_template("answering  {bar:40} {pos}/{len} questions  {eta} left").expect("constant"),
    );
    let evaluate = Evaluate {
        tokenizer: &subject.tokenizer,
        prompt: &asked.prompt,
        room,
        cached_tokens,
        max_new,
        logprob: readings.contains(&Reading::LogProb),
    };
    let questions = Questions { rows: &asked.rows, records: &asked.records, sets: &asked.sets };
    let meter = Meter::open(device);
    let energy = meter.read();
    let evaluation = evaluate.run(eval::Subject { model, heads, device }, questions, |n| bar.set_position(n as u64));
    bar.finish_and_clear();
    let mut evaluation = evaluation?;
    evaluation.joules = meter.since(energy);
    match evaluation.lm_loss.is_finite() {
        true => Ok(evaluation),
        false => Err(Error::NotFinite(format!("the LM loss of the questions is {}", evaluation.lm_loss))),
    }
}

/// How many tokens of prompts and answers the cache holds, so that the device's memory stays within the budget: tried on paper, where
/// every buffer has a size and none has memory.
fn cached_tokens(
    typed: &Typed,
    subject: &Subject,
    asked: &Asked,
    device: &Device,
    quant: Quant,
    max_new: usize,
) -> Result<usize> {
    let prompts: Vec<&[u32]> = asked.rows.iter().map(|row| &row.ids[..row.n_prompt]).collect();
    let longest = prompts.iter().map(|prompt| prompt.len() + max_new).max().unwrap_or(0);
    let mut tokens = (typed.which.tokens * 64).max(longest);
    let largest = pack(&asked.rows, Room::of_tokens(typed.which.tokens), 0, 0)?.into_iter().max_by_key(|m| m.ids.len());
    let largest = largest.as_ref().map(Batch::new);
    loop {
        let paper = Device::paper(compute(typed.which.compute), device.is_cuda());
        let loaded = subject.load(&paper, quant)?;
        let whole = eval::Subject { model: &loaded.model, heads: &loaded.heads, device: &paper };
        if let Some(batch) = &largest {
            eval::forward(whole, batch)?;
        }
        if max_new > 0 {
            let capacity = Capacity::for_prompts(prompts.iter().copied(), max_new, typed.which.tokens, tokens);
            Engine::new(&loaded.model, &[], &paper, capacity)?.rehearse()?;
        }
        let peak = paper.peak_bytes();
        if peak <= typed.which.budget {
            return Ok(tokens);
        }
        if tokens == longest {
            bail_input!(
                "asking needs {} of device memory even question by question, the budget is {}; lower --tokens or --new-tokens, or \
                 raise --budget",
                bytes::readable(peak),
                bytes::readable(typed.which.budget)
            );
        }
        tokens = (tokens / 2).max(longest);
    }
}

/// The same questions with the base as it is in its files and in NF4.
fn quantisation_check(
    typed: &Typed,
    subject: &Subject,
    asked: &Asked,
    device: &Device,
) -> Result<(Evaluation, Quantisation)> {
    if subject.folder.config().nf4.is_some() {
        bail_input!(
            "{}: this base is in 4 bits already, so there is nothing to compare it with; give the original with --model",
            subject.folder.dir().display()
        );
    }
    let full_name = if typed.which.compute == ComputeType::Fp32 { "fp32" } else { "bf16" };
    let full = evaluate(typed, subject, asked, device, Quant::None)?;
    let quantised = evaluate(typed, subject, asked, device, Quant::Nf4)?;
    // Of the readings the one that is always there and never unclear.
    let reading = *[Reading::LogProb, Reading::Eci, Reading::Text]
        .iter()
        .find(|reading| full.answers.iter().all(|answer| answer.has(**reading)))
        .ok_or_else(|| Error::Input("nothing was read that quantisation could change".into()))?;
    let check = Quantisation::compare((full_name, &full.answers), ("NF4", &quantised.answers), reading)?;
    let check = Quantisation {
        perplexity_full: (full.n_targets > 0).then(|| full.lm_loss.exp()),
        perplexity_quantised: (full.n_targets > 0).then(|| quantised.lm_loss.exp()),
        n_tokens: full.n_targets,
        ..check
    };
    Ok((quantised, check))
}

/// Writes `answers.jsonl`.
pub(super) fn write_answers(dir: &Path, answers: &[Answer]) -> Result<()> {
    let line = |answer: &Answer| serde_json::to_string(answer).map(|line| line + "\n");
    let text = answers.iter().map(line).collect::<std::result::Result<String, _>>();
    let text = text.map_err(|e| Error::Input(format!("{ANSWERS_FILE}: {e}")))?;
    save_files(dir, &[ANSWERS_FILE], |staging| {
        let path = staging.join(ANSWERS_FILE);
        std::fs::write(&path, text).map_err(Error::io(&path))
    })
}

/// Reads an `answers.jsonl`, or the one in the folder of an evaluation.
pub(super) fn read_answers(path: &Path) -> Result<Vec<Answer>> {
    let path = if path.is_dir() { path.join(ANSWERS_FILE) } else { path.to_path_buf() };
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let answer = |(i, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|e| {
            Error::Input(format!("{}, line {}: not an answer of an evaluation: {e}", path.display(), i + 1))
        })
    };
    lines.map(answer).collect()
}
