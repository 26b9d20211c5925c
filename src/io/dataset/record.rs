//! A row as a file has it, before anybody asks what its columns mean: JSON values, and beside them the places
//! of its bytes. Renames columns and takes texts apart that are pictures. No row is judged here.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::DatasetOptions;
use super::images::Blob;
use super::row_error::{RowResult, bad};
use crate::base::{Error, Result};
use crate::io::data_url::{data_of, decode_base64};

/// The key of the object that stands for bytes, with their number among the row's. A JSON file cannot forge
/// one: a number that the row has no bytes for is an error.
const BYTES: &str = "\u{0}bytes";
/// What rewards read in place of bytes.
const LEFT_OUT: &str = "(bytes left out)";

/// A row as a file has it.
pub(super) struct Record {
    /// Columns by name, in the file's order.
    pub(super) columns: Map<String, Value>,
    /// Bytes of the row, by the numbers that stand in the columns.
    pub(super) blobs: Vec<Blob>,
    /// Columns that the table says are pictures.
    pub(super) pictures: Arc<[String]>,
}

/// Takes the records of a file with their numbers (from 1) and says whether it wants more.
pub(super) type Sink<'a> = &'a mut dyn FnMut(usize, RowResult<Record>) -> Result<ControlFlow<()>>;

impl Record {
    /// A record without bytes.
    pub(super) fn of(columns: Map<String, Value>) -> Self {
        Record { columns, blobs: Vec::new(), pictures: Arc::new([]) }
    }

    /// Puts `blob` beside the record; what is returned stands for it.
    pub(super) fn stand_in(blobs: &mut Vec<Blob>, blob: Blob) -> Value {
        blobs.push(blob);
        let mut object = Map::new();
        object.insert(BYTES.to_owned(), Value::from(blobs.len() - 1));
        Value::Object(object)
    }

    /// The bytes that a value stands for.
    pub(super) fn blob<'a>(blobs: &'a [Blob], value: &Value) -> Option<&'a Blob> {
        let number = value.as_object()?.get(BYTES)?.as_u64()?;
        blobs.get(usize::try_from(number).ok()?)
    }

    /// Takes the data URLs out of the columns; `place` says what is kept of number n.
    pub(super) fn take_data_urls(
        &mut self,
        place: &mut dyn FnMut(usize, &str) -> RowResult<Blob>,
    ) -> RowResult<()> {
        let mut count = 0;
        let Record { columns, blobs, .. } = self;
        for (key, value) in columns.iter_mut() {
            walk_urls(value, &mut |url| {
                let blob = place(count, url).map_err(|e| e.or_key(key))?;
                count += 1;
                Ok(Record::stand_in(blobs, blob))
            })?;
        }
        Ok(())
    }

    /// Gives columns their other names: the value of `theirs` also stands under `ours`.
    pub(super) fn rename(&mut self, mapping: &[(String, String)]) {
        let values: Vec<(String, Value)> = mapping
            .iter()
            .filter_map(|(ours, theirs)| Some((ours.clone(), self.columns.get(theirs)?.clone())))
            .collect();
        self.columns.extend(values);
    }
}

/// Calls `replace` with every data URL in a value, depth first.
fn walk_urls(
    value: &mut Value,
    replace: &mut dyn FnMut(&str) -> RowResult<Value>,
) -> RowResult<()> {
    match value {
        Value::String(text) if data_of(text).is_some() => {
            *value = replace(text)?;
            Ok(())
        }
        Value::Array(list) => list.iter_mut().try_for_each(|v| walk_urls(v, replace)),
        Value::Object(object) => object.values_mut().try_for_each(|v| walk_urls(v, replace)),
        _ => Ok(()),
    }
}

/// The bytes of a data URL.
pub(super) fn bytes_of_url(text: &str) -> RowResult<Vec<u8>> {
    let data = data_of(text).unwrap_or(text);
    decode_base64(data).map_err(|e| {
        Error::data("an image is not base64")
            .expected("data:image/png;base64, and base64 without spaces")
            .found(format!("{} characters: {e}", data.len()))
            .into()
    })
}

/// The bytes of data URL number `nth` of a line of JSON, in the order of [`Record::take_data_urls`].
pub(super) fn nth_url(line: &[u8], nth: usize) -> Result<Vec<u8>> {
    let changed = || Error::data("the line is no longer what it was when the rows were read");
    let value: Value = serde_json::from_slice(line).map_err(|_| changed())?;
    let Value::Object(columns) = value else { return Err(changed()) };
    let mut found = None;
    let mut record = Record::of(columns);
    let mut take = |n: usize, url: &str| {
        if n == nth {
            found = Some(bytes_of_url(url)?);
        }
        Ok(Blob::Inline(Arc::new([])))
    };
    record.take_data_urls(&mut take).map_err(|e| e.without_row())?;
    found.ok_or_else(changed)
}

/// Puts words in the place of bytes, for rewards and files.
pub(super) fn without_bytes(value: &mut Value) {
    match value {
        Value::Object(object) if object.contains_key(BYTES) => *value = LEFT_OUT.into(),
        Value::Object(object) => object.values_mut().for_each(without_bytes),
        Value::Array(list) => list.iter_mut().for_each(without_bytes),
        _ => {}
    }
}

/// Sees that columns which options name are among those of a table.
pub(super) fn check_columns<'a>(
    file: &Path,
    names: impl Iterator<Item = &'a str> + Clone,
    options: &DatasetOptions,
) -> Result<()> {
    let has = |name: &str| names.clone().any(|n| n == name);
    let missing = |key: &str, name: &str| {
        let all: Vec<&str> = names.clone().collect();
        Err(Error::usage(format!("there is no column `{name}`"))
            .file(file)
            .key(key)
            .expected(format!("one of: {}", all.join(", ")))
            .found(name))
    };
    if let Some((_, theirs)) = options.columns.iter().find(|(_, theirs)| !has(theirs)) {
        return missing("column", theirs);
    }
    let known = |name: &str| {
        let first = name.split('.').next().unwrap_or(name);
        has(name) || has(first) || options.columns.iter().any(|(ours, _)| ours == name)
    };
    match options.filter.columns().find(|name| !known(name)) {
        Some(name) => missing("filter", name),
        None => Ok(()),
    }
}

/// The error of a cell.
pub(super) fn bad_cell(found: String, column: &str) -> super::row_error::RowError {
    bad("a value cannot be read", column).expected("a value of its column's type").found(found)
}
