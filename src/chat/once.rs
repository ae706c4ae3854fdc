//! A file of questions at once: every row goes to the one engine, which works on many of them in each pass, and comes back as a JSON
//! line, in the order of the rows.
//!
//! Rows are read as data is (docs/data.md): what they hold of answers is not looked at, fields of no format are passed over. A file
//! that cannot be read stops before anything is asked; a row that cannot be asked gets its reason in its line, and the others
//! are answered.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::{Answerer, Decide, Decision, NOTICE, Question, Said, input};
use crate::checkpoint::save_files;
use crate::cli::chat::Chat;
use crate::data::{Record, read, read_text};
use crate::energy::{Meter, three_digits};
use crate::generate::{Finish, Sampling, Ticket};
use crate::subject::Subject;
use crate::train::prepare::open_device;
use crate::{Error, Result, bail_input};

/// Rows that are asked and not yet answered, at most: enough for the engine to fill its passes from.
const IN_FLIGHT: usize = 256;

/// One line of output.
#[derive(Debug, Default, Serialize)]
struct Line {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(flatten)]
    answer: Option<Answer>,
    notice: &'static str,
}

#[derive(Debug, Default, Serialize)]
struct Answer {
    /// As the model wrote it, without its end.
    answer: String,
    /// Ids of the answer, without the one that ended it.
    tokens: Vec<u32>,
    n_tokens: usize,
    /// Tokens of the prompt.
    n_prompt: usize,
    /// "eos": the model ended it; "length": no more tokens were allowed.
    finish: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    decision: Option<Decision>,
}

/// A row that is asked.
struct Open {
    row: usize,
    set: Option<usize>,
    answer: Answer,
}

/// Reads, asks, writes. Exit code 1 where a row could not be asked.
pub(super) fn run(typed: &Chat, subject: &Subject, decide: Decide, sampling: Sampling) -> Result<()> {
    if let Some(out) = typed.out.as_deref() {
        check_place(out, typed.overwrite)?;
    }
    let read = match &typed.input {
        Some(path) => read(path, typed.format)?,
        None => read_text("stdin", &input::all()?, typed.format)?,
    };
    let device = open_device(&typed.which.device, typed.which.compute)?;
    let capacity = subject.capacity(&device, &typed.which, typed.at_once)?;
    let loaded = subject.load(&device, subject.quant())?;
    let mut answerer = Answerer::new(subject, &loaded, &device, capacity)?;
    if !typed.quiet {
        read.left_out.iter().for_each(|sentence| eprintln!("{sentence}"));
        eprintln!("{NOTICE}");
    }
    let n = read.records.len();
    let bar = if typed.quiet { ProgressBar::hidden() } else { ProgressBar::new(n as u64) };
    let style = ProgressStyle::with_template("answering  {bar:40} {pos}/{len} questions  {eta} left");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let meter = Meter::open(&device);
    let (begun, before) = (Instant::now(), meter.read());
    let (mut text, mut n_tokens, mut n_failed) = (String::new(), 0, 0);
    let ask = Ask { records: &read.records, decide, max_new: typed.new_tokens, sampling };
    let done = ask.run(&mut answerer, |line| {
        bar.inc(1);
        n_tokens += line.answer.as_ref().map_or(0, |answer| answer.n_tokens);
        n_failed += usize::from(line.error.is_some());
        let json = serde_json::to_string(&line).map_err(|e| Error::Input(format!("row {:?}: {e}", line.id)))?;
        match typed.out {
            Some(_) => text.extend([json.as_str(), "\n"]),
            None => bar.suspend(|| println!("{json}")),
        }
        Ok(())
    });
    let (seconds, joules) = (begun.elapsed().as_secs_f64(), meter.since(before));
    bar.finish_and_clear();
    done?;
    if let Some(out) = typed.out.as_deref() {
        write(out, &text)?;
    }
    if !typed.quiet {
        let speed = n_tokens as f64 / seconds;
        let n_done = n - n_failed;
        eprintln!(
            "{n_done} of {n} questions: {n_tokens} tokens in {seconds:.2} s ({speed:.1} tokens/s) on {}",
            device.name()
        );
        match joules.filter(|_| n_tokens > 0) {
            Some(joules) => {
                let each = three_digits(joules / n_tokens as f64);
                eprintln!("energy {each} J a token written, prompts included ({})", meter.what());
            }
            None => eprintln!("energy {}", meter.what()),
        }
    }
    match n_failed {
        0 => Ok(()),
        _ => Err(Error::Unmet(format!(
            "{n_failed} of {n} questions could not be asked; \"error\" in their lines says why"
        ))),
    }
}

/// All questions of a file, and how they are asked.
struct Ask<'a> {
    records: &'a [Record],
    decide: Decide,
    max_new: usize,
    sampling: Sampling,
}

impl Ask<'_> {
    /// Gives `write` a line for each row, in their order, as soon as it and all before it are there.
    fn run(&self, answerer: &mut Answerer, mut write: impl FnMut(Line) -> Result<()>) -> Result<()> {
        let mut open: HashMap<Ticket, Open> = HashMap::new();
        let mut lines: HashMap<usize, Line> = HashMap::new();
        let (mut next, mut written) = (0, 0);
        while written < self.records.len() {
            while next < self.records.len() && open.len() < IN_FLIGHT {
                match self.ask(answerer, next) {
                    Ok((ticket, asked)) => drop(open.insert(ticket, asked)),
                    Err(Error::Input(reason)) => {
                        lines.insert(next, self.line(next, Err(reason)));
                    }
                    Err(other) => return Err(other),
                }
                next += 1;
            }
            let said = answerer.step_with(|ticket, id| {
                if let Some(open) = open.get_mut(&ticket) {
                    open.answer.tokens.push(id);
                }
            })?;
            for (ticket, said) in said {
                let Some(asked) = open.get_mut(&ticket) else { continue };
                match said {
                    Said::Label(probabilities) => {
                        let set = asked.set.map(|set| &answerer.sets()[set]);
                        asked.answer.decision = set.map(|set| Decision::new(set, &probabilities));
                    }
                    Said::Text(piece) => asked.answer.answer.push_str(&piece),
                    Said::Done(finish, n_tokens) => {
                        let Some(Open { row, answer, .. }) = open.remove(&ticket) else { continue };
                        let answer = Answer { finish: name(finish), n_tokens, ..answer };
                        lines.insert(row, self.line(row, Ok(answer)));
                    }
                }
            }
            while let Some(line) = lines.remove(&written) {
                write(line)?;
                written += 1;
            }
        }
        Ok(())
    }

    fn ask(&self, answerer: &mut Answerer, row: usize) -> Result<(Ticket, Open)> {
        let record = &self.records[row];
        let set = self.decide.of(record, answerer.sets())?;
        let mut question =
            Question { record: record.clone(), set, max_new: self.max_new, sampling: self.sampling.clone() };
        let prompt = answerer.prompt(&question)?;
        let n_prompt = prompt.len();
        question.max_new = answerer.room(n_prompt, question.max_new)?;
        let ticket = answerer.ask(&question, prompt)?;
        Ok((ticket, Open { row, set, answer: Answer { n_prompt, ..Answer::default() } }))
    }

    fn line(&self, row: usize, answer: std::result::Result<Answer, String>) -> Line {
        let id = self.records[row].id.clone();
        let (answer, error) = match answer {
            Ok(answer) => (Some(answer), None),
            Err(reason) => (None, Some(reason)),
        };
        Line { id, error, answer, notice: NOTICE }
    }
}

fn name(finish: Finish) -> &'static str {
    match finish {
        Finish::Eos => "eos",
        Finish::Length => "length",
    }
}

/// Refused in a second, not after the model has answered.
fn check_place(out: &Path, overwrite: bool) -> Result<()> {
    let name = out.display();
    if out.is_dir() || out.file_name().is_none() {
        bail_input!("{name}: --out names the file for the answers, and this is a folder");
    }
    if out.exists() && !overwrite {
        bail_input!("{name}: this file already exists; choose another with --out, or say --overwrite");
    }
    Ok(())
}

/// The whole file or none of it.
fn write(out: &Path, text: &str) -> Result<()> {
    let dir = out.parent().filter(|dir| *dir != Path::new("")).unwrap_or(Path::new("."));
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    save_files(dir, &[&name], |staging| {
        let path = staging.join(name.as_ref());
        let mut file = File::create(&path).map_err(Error::io(&path))?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(Error::io(&path))
    })
}
