//! Rows of tables (Arrow, Parquet): what the columns are, which of them are pictures and which are labels, and
//! a record of each row. Knows no file format.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use arrow_schema::{DataType, Schema};
use serde_json::{Map, Value};

use super::DatasetOptions;
use super::cells::{BytesAt, Cells};
use super::images::Blob;
use super::parquet::{Cell, ParquetTable};
use super::record::{Record, Sink, bad_cell, bytes_of_url, check_columns};
use super::row_error::{RowResult, bad};
use crate::base::{Error, Result};

/// Most bytes that data URLs of one table, or JSON list, may have in memory together.
pub(super) const MAX_INLINE: usize = 256 << 20;

/// What the rows of a small table may take in memory, and how many times the size of its file the rest.
const MAX_UNPACKED: u64 = 1 << 30;
const MAX_GROWTH: u64 = 64;

/// Rows that were read together.
pub(super) struct Batch {
    /// In the order of the schema.
    pub(super) columns: Vec<Cells>,
    /// Rows.
    pub(super) len: usize,
    /// Where the first of them is.
    pub(super) at: RowAt,
}

/// Where a batch begins.
pub(super) enum RowAt {
    /// Row of the file.
    Arrow { first: usize },
    /// Row of the file, and row of a group.
    Parquet { table: Arc<ParquetTable>, group: usize, in_group: usize, first: usize },
}

/// Makes records of batches.
pub(super) struct TableRows<'a, 'b> {
    file: Arc<Path>,
    options: &'a DatasetOptions,
    sink: Sink<'b>,
    names: Vec<String>,
    /// Names of a column's classes.
    labels: Vec<Option<Vec<String>>>,
    pictures: Arc<[String]>,
    /// Features of `dataset_info.json`, for tables that do not bring their own.
    features: Option<Value>,
    inline: usize,
    /// Bytes of the rows so far, as they are in memory.
    unpacked: u64,
}

impl<'a, 'b> TableRows<'a, 'b> {
    pub(super) fn new(
        file: Arc<Path>,
        features: Option<Value>,
        options: &'a DatasetOptions,
        sink: Sink<'b>,
    ) -> Self {
        let (names, labels, pictures) = (Vec::new(), Vec::new(), Arc::new([]));
        TableRows { file, options, sink, names, labels, pictures, features, inline: 0, unpacked: 0 }
    }

    /// Takes the table's columns.
    ///
    /// # Errors
    /// If two have one name, or one that the options name is missing.
    pub(super) fn begin(&mut self, schema: &Schema) -> Result<()> {
        self.names = schema.fields().iter().map(|f| f.name().clone()).collect();
        let twice = self.names.iter().enumerate().find(|(i, n)| self.names[..*i].contains(n));
        if let Some((_, name)) = twice {
            return Err(Error::data("two columns have one name").found(format!("`{name}`, twice")));
        }
        check_columns(&self.file, self.names.iter().map(String::as_str), self.options)?;
        let own = schema.metadata().get("huggingface");
        let own = own.and_then(|text| serde_json::from_str::<Value>(text).ok());
        let own = own.and_then(|v| v.pointer("/info/features").cloned());
        let features = own.or_else(|| self.features.clone()).unwrap_or(Value::Null);
        self.labels = self.names.iter().map(|n| class_names(features.get(n)?)).collect();
        let picture = |field: &&arrow_schema::FieldRef| {
            features.get(field.name()).is_some_and(is_picture)
                || looks_like_picture(field.data_type())
        };
        self.pictures = schema.fields().iter().filter(picture).map(|f| f.name().clone()).collect();
        Ok(())
    }

    /// Hands the rows on.
    ///
    /// # Errors
    /// Those of whoever takes them.
    pub(super) fn batch(&mut self, batch: &Batch) -> Result<ControlFlow<()>> {
        let len = std::fs::metadata(&self.file).map_or(0, |m| m.len());
        let most = len.saturating_mul(MAX_GROWTH).saturating_add(MAX_UNPACKED);
        for i in 0..batch.len {
            if self.unpacked > most {
                return Err(Error::data("the rows of the table are far larger than its file")
                    .file(&self.file)
                    .expected(format!("at most {most} bytes from a file of {len}"))
                    .found("more")
                    .hint("leave out the columns that a run does not need"));
            }
            let number = 1
                + i
                + match &batch.at {
                    RowAt::Arrow { first } | RowAt::Parquet { first, .. } => *first,
                };
            let record = self.record(batch, i);
            if (self.sink)(number, record)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn record(&mut self, batch: &Batch, i: usize) -> RowResult<Record> {
        let (mut columns, mut blobs) = (Map::new(), Vec::new());
        for (c, (cells, name)) in batch.columns.iter().zip(&self.names).enumerate() {
            let mut nth = 0;
            let mut take = |bytes: BytesAt| {
                let blob = match (&batch.at, bytes) {
                    (RowAt::Parquet { table, group, in_group, .. }, _) => {
                        let cell = Cell { group: *group, row: in_group + i, column: c, nth };
                        Blob::Cell { table: table.clone(), cell }
                    }
                    (_, BytesAt::InFile(at, len)) => Blob::Slice { at, len },
                    (_, BytesAt::Here(bytes)) => Blob::Inline(bytes.into()),
                    (_, BytesAt::Unread) => Blob::Inline(Arc::new([])),
                };
                nth += 1;
                Record::stand_in(&mut blobs, blob)
            };
            let cell = cells.value(i, &mut take).map_err(|found| bad_cell(found, name))?;
            let (value, size) = cell;
            self.unpacked = self.unpacked.saturating_add(size as u64);
            let value = match &self.labels[c] {
                Some(names) => label(value, names),
                None => value,
            };
            columns.insert(name.clone(), value);
        }
        let mut record = Record { columns, blobs, pictures: self.pictures.clone() };
        let inline = &mut self.inline;
        record.take_data_urls(&mut |_, url| inline_blob(url, inline))?;
        Ok(record)
    }
}

/// A data URL that has no other place than memory.
pub(super) fn inline_blob(url: &str, spent: &mut usize) -> RowResult<Blob> {
    let bytes = bytes_of_url(url)?;
    *spent = spent.saturating_add(bytes.len());
    match *spent <= MAX_INLINE {
        true => Ok(Blob::Inline(bytes.into())),
        false => Err(bad("the data file holds too many images as base64 text", "image")
            .expected(format!("at most {} MiB of them", MAX_INLINE >> 20))
            .hint("write them as files, as a column of bytes, or as JSON Lines")),
    }
}

/// The class names of a `ClassLabel` feature.
fn class_names(feature: &Value) -> Option<Vec<String>> {
    if feature.get("_type")?.as_str()? != "ClassLabel" {
        return None;
    }
    let names = feature.get("names")?.as_array()?;
    names.iter().map(|n| n.as_str().map(str::to_owned)).collect()
}

/// The name of a class; a number without one (-1: none) stays.
fn label(value: Value, names: &[String]) -> Value {
    let name = value.as_u64().and_then(|i| names.get(usize::try_from(i).ok()?));
    name.map_or(value.clone(), |n| Value::from(n.as_str()))
}

/// Whether a feature is an `Image`, or a list of them.
fn is_picture(feature: &Value) -> bool {
    match feature {
        Value::Array(list) => list.first().is_some_and(is_picture),
        _ => match feature.get("_type").and_then(Value::as_str) {
            Some("Image") => true,
            Some("List" | "LargeList" | "Sequence") => {
                feature.get("feature").is_some_and(is_picture)
            }
            _ => false,
        },
    }
}

/// Whether a column without a feature is what an `Image` becomes: a struct of bytes and path.
fn looks_like_picture(data_type: &DataType) -> bool {
    match data_type {
        DataType::Struct(fields) => {
            let binary = |t: &DataType| matches!(t, DataType::Binary | DataType::LargeBinary);
            fields.iter().any(|f| f.name() == "bytes" && binary(f.data_type()))
                && fields.iter().any(|f| f.name() == "path")
        }
        DataType::List(f) | DataType::LargeList(f) => looks_like_picture(f.data_type()),
        _ => false,
    }
}

/// Runs a reader of a table format: one that gives up on a damaged file unwinds no further than here.
///
/// # Errors
/// Those of the reader.
pub(super) fn quiet<T>(read: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no reason given");
        Err(Error::data("the table is damaged")
            .found(text.chars().take(200).collect::<String>())
            .hint("write it again, or copy it again if it ended early"))
    })
}
