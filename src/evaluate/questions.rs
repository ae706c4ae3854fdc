//! Which questions are asked: those of the files given, or the test rows of the run that made the adapter; none of them trained on.

use std::collections::{BTreeSet, HashSet};

use crate::cli::RunConfig;
use crate::cli::evaluate::Evaluate;
use crate::data::lint::{Kind, LintOptions, Linted, lint};
use crate::data::{Format, LabelSet, OverLong, Prompt, Record, Tokenized, Tokenizing};
use crate::data::{class_of, label_sets, leaked, load, read, row_hash, split_by_ids};
use crate::subject::Subject;
use crate::train::prepare;
use crate::{Result, bail_input};

/// Questions as they were read.
pub(super) struct Found {
    pub records: Vec<Record>,
    /// The files, for the report.
    pub files: String,
    /// The format of each file that was typed.
    pub formats: Vec<Format>,
    /// What was left out of the files, and why.
    pub notes: Vec<String>,
}

/// Questions as they were read and as ids, in the prompt they are asked in, and what can be decided.
pub(super) struct Asked {
    pub prompt: Prompt,
    pub records: Vec<Record>,
    pub rows: Vec<Tokenized>,
    /// The heads' label sets first, in their order; behind them those of questions that no head knows.
    pub sets: Vec<LabelSet>,
    /// The files, for the report.
    pub files: String,
    /// What a reader of the numbers must know.
    pub notes: Vec<String>,
}

/// Reads the questions: those of the files typed, else the test rows of the adapter's run.
pub(super) fn find(typed: &Evaluate, run: Option<&RunConfig>) -> Result<Found> {
    let (mut formats, mut notes) = (Vec::new(), Vec::new());
    let (mut records, files) = match (typed.data.is_empty(), run) {
        (false, _) => {
            let names: Vec<String> = typed.data.iter().map(|path| path.display().to_string()).collect();
            let named = crate::cli::config::formats("--format", &typed.formats, typed.data.len())?;
            let mut records = Vec::new();
            for (path, format) in typed.data.iter().zip(named) {
                let loaded = read(path, format)?;
                records.extend(loaded.records);
                formats.push(loaded.format);
                notes.extend(loaded.left_out);
            }
            match &typed.test_ids {
                None => (records, names.join(", ")),
                Some(ids) => (split_by_ids(records, ids)?.1, format!("{}, ids of {}", names.join(", "), ids.display())),
            }
        }
        (true, Some(run)) => (prepare::splits(run)?.test, "the test rows of the adapter's own run".to_string()),
        (true, None) => bail_input!("which questions? Give a file of them with --data FILE"),
    };
    if records.is_empty() {
        bail_input!("{files}: there is no question to ask; give a file of questions with --data FILE");
    }
    if typed.rows > 0 {
        records.truncate(typed.rows);
    }
    let mut ids = BTreeSet::new();
    if let Some(twice) = records.iter().find(|record| !ids.insert(record.id.as_str())) {
        bail_input!("row {}: its id stands in two of the files given; ids must be unique", twice.id);
    }
    Ok(Found { records, files, formats, notes })
}

impl Asked {
    pub fn prepare(typed: &Evaluate, subject: &Subject) -> Result<Asked> {
        let Found { records, files, mut notes, .. } = find(typed, subject.run())?;
        let mut prompt = subject.prompt.clone();
        if let Some(bare) = records.iter().find(|record| record.label.is_none()) {
            bail_input!(
                "row {:?} has no label, so no answer to it can be called right; add it, or leave the row out",
                bare.id
            );
        }
        let sets = sets(subject.sets(), &records)?;
        leaks(typed, subject, &records, &mut notes)?;
        if let (Some(n), Some(path)) = (typed.shots, &typed.shots_from) {
            if subject.brings_its_prompt() {
                bail_input!("--shots: the adapter brings the prompt it was trained with; leave out --shots");
            }
            let mut pool = load(path, None)?;
            let asked: HashSet<u64> = records.iter().map(row_hash).collect();
            pool.retain(|record| !asked.contains(&row_hash(record)));
            for set in &sets {
                prompt.take_shots(n, set, &mut pool, typed.seed)?;
            }
        }
        let how = Tokenizing {
            prompt: &prompt,
            tokenizer: &subject.tokenizer,
            sets: &sets,
            max_tokens: typed.which.tokens.min(subject.folder.config().max_positions),
            // As in training, but that no question is left out.
            over_long: match subject.run().map(|run| run.data.over_long) {
                Some(OverLong::Shorten) => OverLong::Shorten,
                _ => OverLong::Error,
            },
            unanswered: true,
            progress: !typed.quiet,
        };
        let (rows, dropped) = how.run(&records)?;
        if !dropped.is_none() {
            notes.push(dropped.to_string());
        }
        for (set, (head, _)) in subject.heads().enumerate().filter(|(_, (head, _))| head.kind == "paper") {
            let mut of_set = rows.iter().filter(|row| row.label.is_some_and(|class| class.set == set));
            if let Some(row) = of_set.find(|row| row.n_prompt > head.positions) {
                bail_input!(
                    "row {:?}: its prompt has {} tokens, the adapter's head {} has room for {}; shorten the row, or leave it out",
                    row.id,
                    row.n_prompt,
                    head.name,
                    head.positions
                );
            }
        }
        Ok(Asked { prompt, records, rows, sets, files, notes })
    }
}

/// The heads' sets, and one for each kind of question that no head is for. A label that a head for such questions does not have
/// is a fault of the row.
fn sets(mut sets: Vec<LabelSet>, records: &[Record]) -> Result<Vec<LabelSet>> {
    let known = sets.clone();
    let fits = |record: &Record| class_of(record, &known).is_ok_and(|class| class.is_some());
    let plain_are_known = records.iter().any(|record| record.options.is_empty() && fits(record));
    let foreign = |record: &&Record| !(fits(record) || record.options.is_empty() && plain_are_known);
    let others: Vec<Record> = records.iter().filter(foreign).cloned().collect();
    for set in label_sets(&others) {
        // "A, B, C, D" of a head and of foreign questions alike would be ambiguous; those are not foreign.
        if !sets.iter().any(|s| s.labels == set.labels) {
            sets.push(set);
        }
    }
    Ok(sets)
}

/// A question that was trained on tests nothing.
fn leaks(typed: &Evaluate, subject: &Subject, records: &[Record], notes: &mut Vec<String>) -> Result<()> {
    let seen = subject.adapter.as_ref().and_then(|adapter| adapter.provenance.as_ref());
    let among = seen.map_or(Vec::new(), |seen| leaked(records, &seen.rows));
    if let Some(first) = among.first() {
        let found = format!(
            "{} of {} questions are among the rows that the adapter was trained on",
            among.len(),
            records.len()
        );
        if !typed.allow_leak {
            bail_input!("{found}, {:?} first; ask others, or say --allow-leak", first.id);
        }
        notes.push(format!("{found}: their answers say little about others"));
    }
    if !typed.train_data.is_empty() {
        let parts = typed.train_data.iter().map(|path| load(path, None)).collect::<Result<Vec<_>>>()?;
        let train: Vec<Record> = parts.into_iter().flatten().collect();
        let split = |split, records| Linted { split, records, examples: &[], rows: &[] };
        let report = lint(&[split("train", &train), split("test", records)], &LintOptions::default());
        for finding in report.findings.iter().filter(|f| [Kind::Leak, Kind::NearDuplicate].contains(&f.kind)) {
            let places: Vec<String> =
                finding.places.iter().map(|place| format!("{} ({})", place.id, place.detail)).collect();
            let said = format!("{} questions, {}: {}", finding.n, finding.kind, places.join("; "));
            if finding.kind == Kind::Leak && !typed.allow_leak {
                bail_input!("{said}; ask others, or say --allow-leak");
            }
            notes.push(said);
        }
    }
    Ok(())
}
