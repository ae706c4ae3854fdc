//! Files to rows of named fields, before any format is known to them.
//!
//! | container  | known by                      | a row is                                       |
//! |------------|-------------------------------|------------------------------------------------|
//! | Parquet    | its first bytes, `PAR1`       | a row; lists and structs as they are nested    |
//! | JSON lines | `{`, a whole object on a line | a line                                         |
//! | JSON       | `{` or `[`                    | an entry of the list or map, in file order     |
//! | CSV        | whatever else is text         | a record below the header, every cell a string |
//!
//! The file's name decides nothing: downloads are renamed more often than they are converted.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;

use serde_json::{Map, Value};

use crate::{Error, Result, bail_input};

mod csv;
mod json;
mod parquet;
#[cfg(test)]
pub(super) mod testing;

/// One row of a data file, and how to call it in a sentence.
#[derive(Debug)]
pub(super) struct Row {
    /// "train.jsonl, line 7" or "ori_pqal.json, row 12 (key \"21645374\")".
    pub(super) place: String,
    /// "line 7" or "row 12".
    pub(super) name: String,
    /// The number in its name.
    pub(super) number: usize,
    /// Its key, if the file is a map from ids to rows.
    pub(super) key: Option<String>,
    fields: Map<String, Value>,
}

/// All rows of a file, in file order, at least one. `headless`: it is a table of MMLU's, which has no header.
pub(super) fn read(path: &Path, headless: bool) -> Result<Vec<Row>> {
    let mut file = open(path)?;
    let mut magic = Vec::new();
    file.by_ref().take(4).read_to_end(&mut magic).map_err(Error::io(path))?;
    file.rewind().map_err(Error::io(path))?;
    match magic == b"PAR1" {
        true => some(path, parquet::rows(path, file)?),
        false => of_text(path, &text_of(path, file)?, headless),
    }
}

/// As [`read`], of a text; `path` is its name in sentences.
pub(super) fn of_text(path: &Path, text: &str, headless: bool) -> Result<Vec<Row>> {
    let rows = match text.trim_start().chars().next() {
        None => bail_input!("{} is empty, expected at least one row", path.display()),
        Some('{' | '[') if !headless => json::rows(path, text)?,
        Some(_) => csv::rows(path, text, headless)?,
    };
    some(path, rows)
}

fn some(path: &Path, rows: Vec<Row>) -> Result<Vec<Row>> {
    if rows.is_empty() {
        bail_input!("{} holds no rows, expected at least one", path.display());
    }
    Ok(rows)
}

/// The file as text; a byte order mark is taken off.
pub(super) fn read_text(path: &Path) -> Result<String> {
    text_of(path, open(path)?)
}

fn open(path: &Path) -> Result<File> {
    if path.is_dir() {
        bail_input!("{} is a folder, not a file; name the file in it", path.display());
    }
    File::open(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::Input(format!("{}: no such file; check the path", path.display())),
        _ => Error::io(path)(e),
    })
}

fn text_of(path: &Path, mut file: File) -> Result<String> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(Error::io(path))?;
    let text = String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        let line = 1 + e.as_bytes()[..at].iter().filter(|&&b| b == b'\n').count();
        let byte = e.as_bytes()[at];
        let path = path.display();
        Error::Input(format!("{path}, line {line}: byte 0x{byte:02x} is not UTF-8; save the file as UTF-8"))
    })?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_string).unwrap_or(text))
}

impl Row {
    fn new(place: String, name: String, number: usize, key: Option<String>, value: Value) -> Result<Row> {
        match value {
            Value::Object(fields) => Ok(Row { place, name, number, key, fields }),
            other => bail_input!("{place}: found {}, expected an object with named fields", kind(&other)),
        }
    }

    /// The first of the fields `names` that is there and not blank, as text: a string, or a number written out.
    pub(super) fn text(&self, names: &[&str]) -> Result<Option<String>> {
        for name in names {
            match self.value(name) {
                None => {}
                Some(Value::String(text)) if text.trim().is_empty() => {}
                Some(Value::String(text)) => return Ok(Some(text.clone())),
                Some(Value::Number(number)) => return Ok(Some(number.to_string())),
                Some(other) => bail_input!("{}: field {name:?} is {}, expected a string", self.place, kind(other)),
            }
        }
        Ok(None)
    }

    /// As [`text`](Row::text), where a row without it cannot be used.
    pub(super) fn needed(&self, names: &[&str]) -> Result<String> {
        match self.text(names)? {
            Some(text) => Ok(text),
            None => {
                let fields = names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(" or ");
                bail_input!("{}: no text in field {fields}; the row has: {}", self.place, self.field_names())
            }
        }
    }

    /// The first of the fields `names` that is there, as a list of strings; one string is a list of one.
    pub(super) fn texts(&self, names: &[&str]) -> Result<Vec<String>> {
        let Some((name, value)) = self.first(names) else { return Ok(Vec::new()) };
        let item = |item: &Value| match item {
            Value::String(text) => Ok(text.clone()),
            other => bail_input!("{}: field {name:?} holds {}, expected strings only", self.place, kind(other)),
        };
        match value {
            Value::Array(items) => items.iter().map(item).collect(),
            Value::String(text) if text.trim().is_empty() => Ok(Vec::new()),
            Value::String(text) => Ok(vec![text.clone()]),
            other => bail_input!("{}: field {name:?} is {}, expected a list of strings", self.place, kind(other)),
        }
    }

    /// An object in field `name`, to be read like a row; its place says where it stands.
    pub(super) fn object(&self, name: &str) -> Result<Option<Row>> {
        let Some((_, value)) = self.first(&[name]) else { return Ok(None) };
        let place = format!("{}, field {name:?}", self.place);
        Row::new(place, self.name.clone(), self.number, None, value.clone()).map(Some)
    }

    /// The objects of the list in field `name`, each to be read like a row.
    pub(super) fn objects(&self, name: &str) -> Result<Vec<Row>> {
        let items = match self.first(&[name]) {
            None => return Ok(Vec::new()),
            Some((_, Value::Array(items))) => items,
            Some((_, other)) => {
                bail_input!("{}: field {name:?} is {}, expected a list of objects", self.place, kind(other))
            }
        };
        let item = |(i, item): (usize, &Value)| {
            let place = format!("{}, entry {} of field {name:?}", self.place, i + 1);
            Row::new(place, self.name.clone(), self.number, None, item.clone())
        };
        items.iter().enumerate().map(item).collect()
    }

    /// What stands in field `name`; null is as good as nothing.
    pub(super) fn value(&self, name: &str) -> Option<&Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    /// Puts a text into a field, as if the file had it.
    pub(super) fn set(&mut self, name: &str, text: String) {
        self.fields.insert(name.into(), Value::String(text));
    }

    /// The names of the fields, in file order.
    pub(super) fn fields(&self) -> impl Iterator<Item = &str> {
        self.fields.keys().map(String::as_str)
    }

    /// The names of the fields, for a sentence: a misspelt one is seen at once.
    pub(super) fn field_names(&self) -> String {
        self.fields().collect::<Vec<_>>().join(", ")
    }

    /// The first of the fields `names` that is there and not null, with its name.
    pub(super) fn first<'a>(&self, names: &[&'a str]) -> Option<(&'a str, &Value)> {
        names.iter().find_map(|name| self.value(name).map(|value| (*name, value)))
    }
}

/// What a value is, for a sentence.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
