//! The fields of a request's JSON object, each read as what it must be, or refused by its name.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::refusal::Refusal;
use crate::data::kind_of_value as kind;

/// A request's object.
pub(super) struct Fields(Map<String, Value>);

type Read<T> = Result<T, Refusal>;

impl Fields {
    /// Of a body. `expected`: what it is to hold, for the sentence.
    pub(super) fn parse(body: &[u8], expected: &str) -> Read<Fields> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Fields(fields)),
            Ok(other) => Err(Refusal::bad(format!("the body is {}, expected an object with {expected}", kind(&other)))),
            Err(e) => Err(Refusal::bad(format!("the body is not JSON: {e}; expected an object with {expected}"))),
        }
    }

    /// The names of all fields that hold something.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter(|(_, value)| !value.is_null()).map(|(name, _)| name.as_str())
    }

    /// A field as it stands; null is as good as nothing.
    pub(super) fn value(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// An object in a field, read like the request's.
    pub(super) fn object(&self, name: &str) -> Read<Option<Fields>> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Object(fields)) => Ok(Some(Fields(fields.clone()))),
            Some(other) => Err(self.wrong(name, other, "an object")),
        }
    }

    /// A text.
    pub(super) fn text(&self, name: &str) -> Read<Option<&str>> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(name, other, "a string")),
        }
    }

    /// True or false; false where it is missing.
    pub(super) fn switch(&self, name: &str) -> Read<bool> {
        match self.value(name) {
            None => Ok(false),
            Some(Value::Bool(on)) => Ok(*on),
            Some(other) => Err(self.wrong(name, other, "true or false")),
        }
    }

    /// A number within `range`.
    pub(super) fn number(&self, name: &str, range: RangeInclusive<f64>) -> Read<Option<f64>> {
        let Some(value) = self.value(name) else { return Ok(None) };
        let (least, most) = (range.start(), range.end());
        match value.as_f64().filter(|number| range.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong(name, value, &format!("a number from {least} to {most}"))),
        }
    }

    /// A whole number within `range`.
    pub(super) fn whole(&self, name: &str, range: RangeInclusive<i64>) -> Read<Option<i64>> {
        let Some(value) = self.value(name) else { return Ok(None) };
        let (least, most) = (range.start(), range.end());
        match value.as_i64().filter(|number| range.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong(name, value, &format!("a whole number from {least} to {most}"))),
        }
    }

    /// A list of texts, none of them empty; one text is a list of one.
    pub(super) fn texts(&self, name: &str, most: usize) -> Read<Vec<String>> {
        let Some(value) = self.value(name) else { return Ok(Vec::new()) };
        let wrong = || self.wrong(name, value, &format!("a string or a list of at most {most}, none of them empty"));
        let items = match value {
            Value::Array(items) if items.len() <= most => items.as_slice(),
            Value::String(_) => std::slice::from_ref(value),
            _ => return Err(wrong()),
        };
        let text = |item: &Value| item.as_str().filter(|text| !text.is_empty()).map(str::to_string).ok_or_else(wrong);
        items.iter().map(text).collect()
    }

    fn wrong(&self, name: &str, found: &Value, expected: &str) -> Refusal {
        let found = match found {
            Value::Number(number) => number.to_string(),
            other => kind(other).to_string(),
        };
        Refusal::bad(format!("field {name:?} is {found}, expected {expected}")).param(name)
    }
}
