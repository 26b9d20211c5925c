//! Contents of the files of a tokenizer or template: bytes, text, JSON. What they mean is read elsewhere.

use std::path::Path;

use serde_json::Value;

use crate::base::{Error, Result};

/// A file's bytes.
///
/// # Errors
/// A file that cannot be read.
pub(super) fn read_bytes(file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).map_err(|e| Error::io("cannot read the tokenizer", file, &e))
}

/// A file's text; `None` if there is no such file.
///
/// # Errors
/// A file that cannot be read or is not UTF-8.
pub(super) fn read_text(file: &Path) -> Result<Option<String>> {
    match std::fs::read(file) {
        Ok(bytes) => utf8(file, bytes).map(Some),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("cannot read the file", file, &e)),
    }
}

/// The text of a file that must be there.
///
/// # Errors
/// A file that cannot be read or is not UTF-8.
pub(super) fn read_required_text(file: &Path) -> Result<String> {
    utf8(file, read_bytes(file)?)
}

fn utf8(file: &Path, bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes)
        .map_err(|e| Error::data("the file is not UTF-8").file(file).found(e.to_string()))
}

/// A file's JSON; `None` if there is no such file.
///
/// # Errors
/// As [`read_text`], or a text that is not JSON (with its line).
pub(super) fn read_json(file: &Path) -> Result<Option<Value>> {
    read_text(file)?.map(|text| parse_json(&text).map_err(|e| e.file(file))).transpose()
}

/// The JSON of a text.
///
/// # Errors
/// A text that is not JSON (with its line).
pub(super) fn parse_json(text: &str) -> Result<Value> {
    serde_json::from_str(text)
        .map_err(|e| Error::data("the file is not JSON").line(e.line()).found(e.to_string()))
}
