//! Files of any format to [`Record`]s: container, then format, then the checks that hold for all of them.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::formats::{Format, expected, self_assessment};
use super::record::Record;
use super::rows::{self, Row};
use crate::{Error, Result, bail_input};

/// What a file holds.
#[derive(Debug)]
pub struct Loaded {
    /// The format that was named, or recognised.
    pub format: Format,
    /// In file order, at least one, every id once.
    pub records: Vec<Record>,
    /// A sentence for each reason for which rows were left out, with their number; mostly empty.
    pub left_out: Vec<String>,
}

/// Reads all records of a file, in file order. Without `format` it is recognised by the fields of its rows.
///
/// # Errors
/// [`Error::Input`] with file, row and field where the file is missing, broken, of no known format, or a row cannot be
/// used; where two rows have one id.
pub fn read(path: &Path, format: Option<Format>) -> Result<Loaded> {
    records(path, rows::read(path, format.is_some_and(Format::is_headless))?, format)
}

/// As [`read`], of a text that is not in a file; sentences and ids call it `name`.
pub fn read_text(name: &str, text: &str, format: Option<Format>) -> Result<Loaded> {
    let name = Path::new(name);
    records(name, rows::of_text(name, text, format.is_some_and(Format::is_headless))?, format)
}

fn records(path: &Path, rows: Vec<Row>, format: Option<Format>) -> Result<Loaded> {
    let file = path.display();
    let format = match format {
        Some(format) => format,
        None => Format::recognise(path, &rows)?.ok_or_else(|| {
            Error::Input(format!(
                "{file}: format not recognised; its first row has the fields {}; expected {}; rename the fields, or \
                 name the format with --format",
                rows[0].field_names(),
                expected()
            ))
        })?,
    };
    let (rows, left_out) = match format {
        Format::SelfAssessment => self_assessment::with_solutions(path, rows)?,
        _ => (rows, Vec::new()),
    };
    let stem = stem(path);
    let mut place_of = HashMap::new();
    let mut records = Vec::with_capacity(rows.len());
    for row in rows {
        let record = Record { id: id(Some(format), &row, &stem)?, ..format.record(&row, &stem)? };
        if let Some(first) = place_of.insert(record.id.clone(), row.name.clone()) {
            bail_input!("{file}: {first} and {} have the same id {:?}; ids must be unique", row.name, record.id);
        }
        records.push(record);
    }
    Ok(Loaded { format, records, left_out })
}

/// The records of [`read`]. What was left out is said on standard error.
pub fn load(path: &Path, format: Option<Format>) -> Result<Vec<Record>> {
    let loaded = read(path, format)?;
    loaded.left_out.iter().for_each(|sentence| eprintln!("{sentence}"));
    Ok(loaded.records)
}

/// One field of every row, as it stands: id and text, `None` where the row's field is missing, null or blank.
///
/// For columns that are no part of a record, such as other people's predictions (`reasoning_required_pred` of
/// `ori_pqal.json`). The rows need not be of a known format; ids are those of [`read`].
///
/// # Errors
/// As [`read`]; a field that no row has is answered with the fields there are.
pub fn read_column(path: &Path, format: Option<Format>, field: &str) -> Result<Vec<(String, Option<String>)>> {
    let file = path.display();
    let rows = rows::read(path, format.is_some_and(Format::is_headless))?;
    let format = match format {
        Some(format) => Some(format),
        None => Format::recognise(path, &rows)?,
    };
    if rows.iter().all(|row| row.value(field).is_none()) {
        bail_input!("{file}: no row has a field {field:?}; the first row has: {}", rows[0].field_names());
    }
    let stem = stem(path);
    let mut ids = HashSet::new();
    let column = |row: &Row| {
        let id = id(format, row, &stem)?;
        if !ids.insert(id.clone()) {
            bail_input!("{}: the id {id:?} stands in an earlier row too; ids must be unique", row.place);
        }
        Ok((id, row.text(&[field])?))
    };
    rows.iter().map(column).collect()
}

/// A row's own id, or "STEM:N", so that files can be mixed. A number that counts the rows of one file is no id of its
/// own: step1 and step2 both have a question 1.
fn id(format: Option<Format>, row: &Row, stem: &str) -> Result<String> {
    if let Some(key) = &row.key {
        return Ok(key.clone());
    }
    match format.and_then(Format::counter) {
        Some(counter) => {
            let number = row.text(&[counter])?.unwrap_or_else(|| row.number.to_string());
            Ok(format!("{stem}:{}", number.trim()))
        }
        None => {
            let own = row.text(&["id", "ID", "pubid"])?;
            Ok(own.map_or_else(|| format!("{stem}:{}", row.number), |id| id.trim().to_string()))
        }
    }
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::testing::{file, sentence, shared};

    #[test]
    fn a_format_that_is_named_is_not_guessed() {
        let (_folder, path) = file("both.jsonl", r#"{"instruction": "I", "question": "Q", "output": "O"}"#);
        assert_eq!(load(&path, None).unwrap()[0].question, "I");
        assert_eq!(load(&path, Some(Format::Labelled)).unwrap()[0].question, "Q");
    }

    #[test]
    fn broken_json_is_found_with_its_row_and_line() {
        let document = "{\n\"1\": {\"QUESTION\": \"a\"},\n\"2\": {\"QUESTION\": \"b\",}\n}";
        let said = sentence(|path| load(path, None), document);
        assert_eq!(said, "FILE, row 2 (line 3, column 23): broken JSON: trailing comma");
        let lines = "{\"question\": \"a\"}\n\n{\"question\": \"b\"";
        let said = sentence(|path| load(path, None), lines);
        assert_eq!(said, "FILE, line 3, column 16: broken JSON: EOF while parsing an object");
    }

    #[test]
    fn a_row_without_text_is_found() {
        let said = sentence(|path| load(path, None), "{\"question\": \"a\"}\n{\"quesion\": \"b\", \"label\": \"yes\"}");
        assert_eq!(said, "FILE, line 2: no text in field \"question\" or \"prompt\"; the row has: quesion, label");
        let said = sentence(|path| load(path, None), r#"{"1": {"QUESTION": " ", "CONTEXTS": []}}"#);
        assert_eq!(said, "FILE, row 1 (key \"1\"): no text in field \"QUESTION\"; the row has: QUESTION, CONTEXTS");
    }

    #[test]
    fn a_field_of_the_wrong_kind_is_found() {
        let said = sentence(|path| load(path, None), r#"{"1": {"QUESTION": "q", "CONTEXTS": 3}}"#);
        assert_eq!(said, "FILE, row 1 (key \"1\"): field \"CONTEXTS\" is a number, expected a list of strings");
        let said = sentence(|path| load(path, None), r#"[{"question": "q", "label": ["yes"]}]"#);
        assert_eq!(said, "FILE, row 1: field \"label\" is a list, expected a string");
        let said = sentence(|path| load(path, None), r#"["question", {"question": "q"}]"#);
        assert_eq!(said, "FILE, row 1: found a string, expected an object with named fields");
    }

    #[test]
    fn duplicate_ids_are_found_even_as_keys_of_one_map() {
        let said = sentence(|path| load(path, None), r#"{"1": {"QUESTION": "a"}, "1": {"QUESTION": "b"}}"#);
        assert_eq!(said, "FILE: row 1 and row 2 have the same id \"1\"; ids must be unique");
        let lines = "{\"id\": 1, \"question\": \"a\"}\n{\"id\": \"1\", \"question\": \"b\"}";
        let said = sentence(|path| load(path, None), lines);
        assert_eq!(said, "FILE: line 1 and line 2 have the same id \"1\"; ids must be unique");
        let said = sentence(|path| read_column(path, None, "question"), lines);
        assert_eq!(said, "FILE, line 2: the id \"1\" stands in an earlier row too; ids must be unique");
    }

    #[test]
    fn an_unknown_format_an_empty_file_and_a_missing_file_are_found() {
        let said = sentence(|path| load(path, None), "id,title,colour\n1,a,red");
        let start = "FILE: format not recognised; its first row has the fields id, title, colour; expected pubmedqa (QUESTION), ";
        assert!(said.starts_with(start), "{said}");
        assert!(said.ends_with("rename the fields, or name the format with --format"), "{said}");
        assert_eq!(sentence(|path| load(path, None), " \n"), "FILE is empty, expected at least one row");
        let none = |path: &Path| load(path, Some(Format::Alpaca));
        assert_eq!(sentence(none, "[]"), "FILE holds no rows, expected at least one");
        let missing = load(Path::new("no/such.json"), None).unwrap_err();
        assert_eq!(missing.to_string(), "no/such.json: no such file; check the path");
        assert_eq!(missing.exit_code(), 2);
    }

    #[test]
    fn text_that_is_not_utf8_is_found_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("latin1.jsonl");
        std::fs::write(&path, b"{\"question\": \"a\"}\n{\"question\": \"na\xefve\"}").unwrap();
        let said = load(&path, None).unwrap_err().to_string();
        assert!(said.ends_with("latin1.jsonl, line 2: byte 0xef is not UTF-8; save the file as UTF-8"), "{said}");
    }

    #[test]
    fn every_format_has_one_name_for_the_flag_and_for_the_settings_file() {
        for format in <Format as clap::ValueEnum>::value_variants() {
            let name = serde_json::to_string(format).unwrap();
            assert_eq!(name, format!("\"{}\"", format.name()));
            let from_flag = <Format as clap::ValueEnum>::from_str(&format.name(), false);
            assert_eq!(from_flag.unwrap(), *format);
            assert!(include_str!("../../docs/data.md").contains(&format!("`{}`", format.name())), "{name}");
        }
        assert_eq!(Format::MtsDialog.name(), "mts-dialog");
    }

    #[test]
    fn a_column_is_read_by_id_from_rows_of_any_format() {
        let text =
            r#"{"7": {"QUESTION": "q", "pred": "yes"}, "8": {"QUESTION": "r", "pred": null}, "9": {"QUESTION": "s"}}"#;
        let (_folder, path) = file("p.json", text);
        let column = read_column(&path, None, "pred").unwrap();
        assert_eq!(column, [("7".into(), Some("yes".into())), ("8".into(), None), ("9".into(), None)]);
        let (_folder, path) = file("p.csv", "pred,n\nno,1\n,2\n");
        let column = read_column(&path, None, "pred").unwrap();
        assert_eq!(column, [("p:2".into(), Some("no".into())), ("p:3".into(), None)]);
        let said = sentence(|path| read_column(path, None, "prod"), text);
        assert_eq!(said, "FILE: no row has a field \"prod\"; the first row has: QUESTION, pred");
    }

    fn labels(records: &[Record]) -> HashMap<&str, usize> {
        let mut counts = HashMap::new();
        records.iter().filter_map(|r| r.label.as_deref()).for_each(|label| *counts.entry(label).or_default() += 1);
        counts
    }

    #[test]
    fn pubmedqa_as_published_and_its_human_columns() {
        let Some(path) = shared("pubmedqa/ori_pqal.json") else { return };
        let loaded = read(&path, None).unwrap();
        assert_eq!((loaded.format, loaded.records.len()), (Format::Pubmedqa, 1000));
        assert_eq!(labels(&loaded.records), HashMap::from([("yes", 552), ("no", 338), ("maybe", 110)]));
        assert_eq!((loaded.records[0].id.as_str(), loaded.left_out.len()), ("21645374", 0));
        for column in ["reasoning_required_pred", "reasoning_free_pred"] {
            let read = read_column(&path, None, column).unwrap();
            assert!(read.iter().zip(&loaded.records).all(|((id, text), record)| *id == record.id && text.is_some()));
        }
    }

    #[test]
    fn chatdoctor_medquad_and_mts_dialog_as_published() {
        for (name, n, format, last) in [
            ("chatdoctor/chatdoctor5k.json", 5452, Format::Alpaca, "chatdoctor5k:5452"),
            ("medquad/medquad.jsonl", 16407, Format::QuestionAnswer, "medquad:16407"),
            ("mts_dialog/MTS-Dialog-TrainingSet.csv", 1201, Format::MtsDialog, "MTS-Dialog-TrainingSet:1200"),
            ("mts_dialog/MTS-Dialog-ValidationSet.csv", 100, Format::MtsDialog, "MTS-Dialog-ValidationSet:99"),
        ] {
            let Some(path) = shared(name) else { return };
            let started = std::time::Instant::now();
            let loaded = read(&path, None).unwrap();
            println!("{name}: {:.3} s", started.elapsed().as_secs_f64());
            assert_eq!((loaded.format, loaded.records.len()), (format, n), "{name}");
            assert_eq!(loaded.records[n - 1].id, last);
            assert!(loaded.records.iter().all(|record| record.long_answer.is_some()), "{name}");
            assert!(format == Format::QuestionAnswer || loaded.records.iter().all(|r| r.contexts.len() == 1), "{name}");
            assert!(format == Format::Alpaca || loaded.records.iter().all(|r| r.domain.is_some()), "{name}");
        }
    }

    #[test]
    fn mediq_as_published() {
        let Some(path) = shared("mediq_medqa_dev/all_dev_good.jsonl") else { return };
        let loaded = read(&path, None).unwrap();
        assert_eq!((loaded.format, loaded.records.len()), (Format::Medqa, 1272));
        assert_eq!(labels(&loaded.records), HashMap::from([("A", 330), ("B", 316), ("C", 352), ("D", 274)]));
        assert!(loaded.records.iter().all(|r| r.options.len() == 4 && r.options[3].key == "D"));
        let without: Vec<&str> =
            loaded.records.iter().filter(|r| r.contexts.is_empty()).map(|r| r.id.as_str()).collect();
        assert_eq!(without, ["224", "298", "779"]);
        assert_eq!(loaded.records.iter().filter(|r| r.facts.is_empty()).count(), 3);
        assert!(loaded.records[0].facts[0].starts_with("Patient is a 21-year-old"));
    }
}
