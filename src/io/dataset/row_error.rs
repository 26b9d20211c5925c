//! What is wrong with a row of a data set. No row is read here.

use std::path::Path;

use serde_json::Value;

use crate::base::Error;

/// What reading a row, or a part of one, gives.
pub(super) type RowResult<T> = std::result::Result<T, RowError>;

/// What is wrong with a row, before its place is known: places are printed from general to special,
/// so file and row come before the key.
pub(super) struct RowError {
    /// The column, where it is known.
    pub(super) key: Option<String>,
    /// The rest.
    pub(super) error: Error,
}

impl RowError {
    /// The error of what is no row.
    pub(super) fn without_row(self) -> Error {
        match self.key {
            Some(key) => self.error.key(key),
            None => self.error,
        }
    }
    /// The error of row `number` (from 1) of a file.
    pub(super) fn in_row(self, file: &Path, number: usize) -> Error {
        let e = self.error.file(file).row(number);
        match self.key {
            Some(key) => e.key(key),
            None => e,
        }
    }
    /// The key, if the error has none of its own.
    pub(super) fn or_key(self, key: &str) -> Self {
        RowError { key: self.key.or_else(|| Some(key.to_owned())), ..self }
    }
    pub(super) fn expected(self, text: impl Into<String>) -> Self {
        RowError { error: self.error.expected(text), ..self }
    }
    pub(super) fn found(self, text: impl Into<String>) -> Self {
        RowError { error: self.error.found(text), ..self }
    }
    pub(super) fn hint(self, text: impl Into<String>) -> Self {
        RowError { error: self.error.hint(text), ..self }
    }
}

impl From<Error> for RowError {
    fn from(error: Error) -> Self {
        RowError { key: None, error }
    }
}

/// An error at a column.
pub(super) fn bad(what: &str, key: impl Into<String>) -> RowError {
    RowError { key: Some(key.into()), error: Error::data(what) }
}

/// What a JSON value is, in words.
pub(super) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
