//! Text files to rows of JSON fields, before any format is known to them.
//!
//! serde_json's maps forget the order of a file and keep only the last of two equal keys; a data set must do neither.
//! So the outermost map or list is visited entry by entry, in file order, and a fault is reported with its row.

use std::fmt;
use std::path::Path;

use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::{Error, Result, bail_input};

/// One row of a data file, and how to call it in a sentence.
pub(super) struct Row {
    /// "train.jsonl, line 7" or "ori_pqal.json, row 12 (key \"21645374\")".
    pub(super) place: String,
    /// The name of a row without an id: "line 7" or "row 12".
    pub(super) name: String,
    /// Its key, if the file is a map from ids to rows.
    pub(super) key: Option<String>,
    fields: Map<String, Value>,
}

/// The file as text; a byte order mark is taken off.
pub(super) fn read_text(path: &Path) -> Result<String> {
    if path.is_dir() {
        bail_input!("{} is a folder, not a file; name the file in it", path.display());
    }
    let bytes = std::fs::read(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::Input(format!("{}: no such file; check the path", path.display())),
        _ => Error::io(path)(e),
    })?;
    let text = String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        let line = 1 + e.as_bytes()[..at].iter().filter(|&&b| b == b'\n').count();
        let byte = e.as_bytes()[at];
        let path = path.display();
        Error::Input(format!("{path}, line {line}: byte 0x{byte:02x} is not UTF-8; save the file as UTF-8"))
    })?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_string).unwrap_or(text))
}

/// All rows of one JSON document, a list of objects or a map from keys to objects, in file order.
pub(super) fn rows_of_document(path: &Path, text: &str) -> Result<Vec<Row>> {
    let mut found = Vec::new();
    let mut json = serde_json::Deserializer::from_str(text);
    if let Err(e) = json.deserialize_any(Entries(&mut found)).and_then(|()| json.end()) {
        let (line, column) = (e.line(), e.column());
        let row = found.len() + 1;
        bail_input!("{}, row {row} (line {line}, column {column}): broken JSON: {}", path.display(), reason(&e));
    }
    let file = path.display();
    let row = |(index, (key, value)): (usize, (Option<String>, Value))| {
        let name = format!("row {}", index + 1);
        let place = match &key {
            Some(key) => format!("{file}, {name} (key {key:?})"),
            None => format!("{file}, {name}"),
        };
        Row::new(place, name, key, value)
    };
    found.into_iter().enumerate().map(row).collect()
}

/// All rows of JSON lines; blank lines are passed over.
pub(super) fn rows_of_lines(path: &Path, text: &str) -> Result<Vec<Row>> {
    let line = |(index, line): (usize, &str)| {
        let name = format!("line {}", index + 1);
        let place = format!("{}, {name}", path.display());
        let value = serde_json::from_str(line)
            .map_err(|e| Error::Input(format!("{place}, column {}: broken JSON: {}", e.column(), reason(&e))))?;
        Row::new(place, name, None, value)
    };
    text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).map(line).collect()
}

/// serde_json's words without the position, which the sentence already has.
fn reason(e: &serde_json::Error) -> String {
    let text = e.to_string();
    text.rfind(" at line ").map_or(text.clone(), |end| text[..end].to_string())
}

impl Row {
    fn new(place: String, name: String, key: Option<String>, value: Value) -> Result<Row> {
        match value {
            Value::Object(fields) => Ok(Row { place, name, key, fields }),
            other => bail_input!("{place}: found {}, expected an object with named fields", kind(&other)),
        }
    }

    /// The first of the fields `names` that is there, as text: a string, or a number written out. Blank is `None`.
    pub(super) fn text(&self, names: &[&str]) -> Result<Option<String>> {
        let Some((name, value)) = self.first(names) else { return Ok(None) };
        match value {
            Value::String(text) if text.trim().is_empty() => Ok(None),
            Value::String(text) => Ok(Some(text.clone())),
            Value::Number(number) => Ok(Some(number.to_string())),
            other => bail_input!("{}: field {name:?} is {}, expected a string", self.place, kind(other)),
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
            Value::String(text) => Ok(vec![text.clone()]),
            other => bail_input!("{}: field {name:?} is {}, expected a list of strings", self.place, kind(other)),
        }
    }

    /// The names of the fields, for a sentence: a misspelt one is seen at once.
    pub(super) fn field_names(&self) -> String {
        self.fields.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
    }

    fn first<'a>(&self, names: &[&'a str]) -> Option<(&'a str, &Value)> {
        let present =
            |&name: &&'a str| self.fields.get(name).filter(|value| !value.is_null()).map(|value| (name, value));
        names.iter().find_map(present)
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Collects the entries of the outermost map or list; what was collected before a fault stays, and counts the rows.
struct Entries<'a>(&'a mut Vec<(Option<String>, Value)>);

impl<'de> Visitor<'de> for Entries<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list of rows or a map from ids to rows")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        while let Some((key, value)) = map.next_entry::<String, Value>()? {
            self.0.push((Some(key), value));
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<(), A::Error> {
        while let Some(value) = list.next_element::<Value>()? {
            self.0.push((None, value));
        }
        Ok(())
    }
}
