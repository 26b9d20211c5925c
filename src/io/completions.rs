//! The completions file: parquet with the columns that TRL writes, so notebooks made for TRL read
//! it. A file is there whole or not at all; images are never stored, only their place in the prompt.

use crate::base::{Error, Result};
use arrow_array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, ListArray, RecordBatch, StringArray,
    StructArray,
};
use arrow_buffer::OffsetBuffer;
use arrow_schema::{Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use serde_json::Value;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One part of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PromptPart {
    /// `{type: "text", text}`.
    Text(String),
    /// `{type: "image", text: null}`.
    Image,
    /// `{type: "video", text: null}`.
    Video,
}

/// One message of a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptMessage {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// Parts in order.
    pub content: Vec<PromptPart>,
}

impl std::fmt::Display for PromptMessage {
    /// `user: [image] How many?`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:", self.role)?;
        for part in &self.content {
            match part {
                PromptPart::Text(text) => write!(f, " {text}")?,
                PromptPart::Image => f.write_str(" [image]")?,
                PromptPart::Video => f.write_str(" [video]")?,
            }
        }
        Ok(())
    }
}

/// One completion, one row.
#[derive(Debug, Clone, PartialEq)]
pub struct CompletionRecord {
    /// Optimizer step that the completion was drawn for.
    pub step: i64,
    /// Messages of the prompt.
    pub prompt: Vec<PromptMessage>,
    /// Text of the completion.
    pub completion: String,
    /// One score per reward name; None where a reward did not judge it.
    pub rewards: Vec<Option<f64>>,
    /// What rewards logged of it (TRL's `log_extra`), by column.
    pub extra: Vec<(String, Value)>,
    /// Advantage that its tokens were trained with.
    pub advantage: f64,
}

/// `<output_dir>/completions/completions_00001.parquet` for step 1.
pub fn completions_path(output_dir: impl AsRef<Path>, step: u64) -> PathBuf {
    output_dir.as_ref().join("completions").join(format!("completions_{step:05}.parquet"))
}

/// Writes `records` to `path` with one column per name in `reward_names`; replaces an existing
/// file in one move and makes missing folders. Columns: `step`, `prompt`, `completion`, the
/// rewards, extra columns, `advantage`.
pub fn write(
    path: impl AsRef<Path>,
    reward_names: &[String],
    records: &[CompletionRecord],
) -> Result<()> {
    let path = path.as_ref();
    let batch = to_batch(reward_names, records)
        .map_err(|e| Error::internal(format!("completions table: {e}")).file(path))??;
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)
            .map_err(|e| Error::io("cannot create the folder of completions", dir, &e))?;
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let part = path.with_file_name(format!(".{name}.{}.part", std::process::id()));
    let result = write_file(&part, &batch).and_then(|()| {
        std::fs::rename(&part, path)
            .map_err(|e| Error::io("cannot put the completions file in place", path, &e))
    });
    if result.is_err() {
        // The error that matters is the first one; a part that cannot be removed is only litter.
        let _ = std::fs::remove_file(&part);
    }
    result
}

fn write_file(part: &Path, batch: &RecordBatch) -> Result<()> {
    let io = |e: &std::io::Error| Error::io("cannot write completions", part, e);
    let file = File::create(part).map_err(|e| io(&e))?;
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let written = ArrowWriter::try_new(&file, batch.schema(), Some(properties))
        .and_then(|mut w| w.write(batch).and_then(|()| w.close()));
    written.map_err(|e| match system_error(&e) {
        Some(system) => io(system),
        None => io(&std::io::Error::other(e.to_string())),
    })?;
    file.sync_all().map_err(|e| io(&e))
}

/// The operating system's error behind one of parquet's: a full disk has its own remedy.
fn system_error(e: &parquet::errors::ParquetError) -> Option<&std::io::Error> {
    let mut at: Option<&(dyn std::error::Error + 'static)> = Some(e);
    while let Some(error) = at {
        if let Some(system) = error.downcast_ref::<std::io::Error>() {
            return Some(system);
        }
        at = error.source();
    }
    None
}

type ArrowResult<T> = std::result::Result<T, arrow_schema::ArrowError>;

/// The table; the inner error is a caller's mistake, the outer one arrow's.
fn to_batch(names: &[String], records: &[CompletionRecord]) -> ArrowResult<Result<RecordBatch>> {
    if let Some((i, r)) = records.iter().enumerate().find(|(_, r)| r.rewards.len() != names.len()) {
        return Ok(Err(Error::internal("a completion has another number of rewards")
            .row(i + 1)
            .expected(names.len().to_string())
            .found(r.rewards.len().to_string())));
    }
    let mut fields = Vec::new();
    let mut columns: Vec<ArrayRef> = Vec::new();
    let mut push = |name: &str, column: ArrayRef| {
        fields.push(Field::new(name, column.data_type().clone(), true));
        columns.push(column);
    };
    push("step", Arc::new(Int64Array::from_iter_values(records.iter().map(|r| r.step))));
    push("prompt", prompt_column(records)?);
    push("completion", completion_column(records)?);
    for (i, name) in names.iter().enumerate() {
        push(name, Arc::new(Float64Array::from_iter(records.iter().map(|r| r.rewards[i]))));
    }
    for name in extra_names(records) {
        let values: Vec<&Value> = records.iter().map(|r| extra_value(r, name)).collect();
        let ours = ["step", "prompt", "completion", "advantage"].contains(&name.as_str());
        let taken = ours || names.contains(name);
        let column = if taken { format!("extra_{name}") } else { name.clone() };
        push(&column, value_column(&values));
    }
    let advantages = records.iter().map(|r| r.advantage);
    push("advantage", Arc::new(Float64Array::from_iter_values(advantages)));
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map(Ok)
}

/// Names of extra columns, in the order of their first appearance.
fn extra_names(records: &[CompletionRecord]) -> Vec<&String> {
    let mut names: Vec<&String> = Vec::new();
    for (name, _) in records.iter().flat_map(|r| &r.extra) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn extra_value<'a>(record: &'a CompletionRecord, name: &str) -> &'a Value {
    record.extra.iter().find(|(n, _)| n == name).map_or(&Value::Null, |(_, v)| v)
}

/// A column of the narrowest type that has all values: booleans, whole numbers, numbers, and else texts,
/// in which lists and objects are JSON.
fn value_column(values: &[&Value]) -> ArrayRef {
    let all = |is: fn(&Value) -> bool| values.iter().all(|v| v.is_null() || is(v));
    if all(Value::is_boolean) {
        return Arc::new(BooleanArray::from_iter(values.iter().map(|v| v.as_bool())));
    }
    if all(Value::is_i64) {
        return Arc::new(Int64Array::from_iter(values.iter().map(|v| v.as_i64())));
    }
    if all(Value::is_number) {
        return Arc::new(Float64Array::from_iter(values.iter().map(|v| v.as_f64())));
    }
    let text = |v: &&Value| match v {
        Value::Null => None,
        Value::String(s) => Some(s.clone()),
        other => Some(other.to_string()),
    };
    Arc::new(StringArray::from_iter(values.iter().map(text)))
}

/// A struct column; every field may be null, as pandas writes it.
fn struct_of(fields: Vec<(&str, ArrayRef)>) -> ArrowResult<ArrayRef> {
    let (fields, columns): (Vec<Field>, Vec<ArrayRef>) = fields
        .into_iter()
        .map(|(name, c)| (Field::new(name, c.data_type().clone(), true), c))
        .unzip();
    Ok(Arc::new(StructArray::try_new(fields.into(), columns, None)?))
}

/// A list column of `lengths` items each; items are called `element`, parquet's own word.
fn list_of(items: ArrayRef, lengths: Vec<usize>) -> ArrowResult<ArrayRef> {
    let field = Arc::new(Field::new("element", items.data_type().clone(), true));
    Ok(Arc::new(ListArray::try_new(field, OffsetBuffer::from_lengths(lengths), items, None)?))
}

/// `list<struct<role, content: list<struct<type, text>>>>`.
fn prompt_column(records: &[CompletionRecord]) -> ArrowResult<ArrayRef> {
    let messages = || records.iter().flat_map(|r| &r.prompt);
    let parts = || messages().flat_map(|m| &m.content);
    let kinds = parts().map(|p| match p {
        PromptPart::Text(_) => "text",
        PromptPart::Image => "image",
        PromptPart::Video => "video",
    });
    let texts = parts().map(|p| match p {
        PromptPart::Text(t) => Some(t.as_str()),
        PromptPart::Image | PromptPart::Video => None,
    });
    let part = struct_of(vec![
        ("type", Arc::new(StringArray::from_iter_values(kinds))),
        ("text", Arc::new(StringArray::from_iter(texts))),
    ])?;
    let content = list_of(part, messages().map(|m| m.content.len()).collect())?;
    let roles = StringArray::from_iter_values(messages().map(|m| &m.role));
    let message = struct_of(vec![("role", Arc::new(roles)), ("content", content)])?;
    list_of(message, records.iter().map(|r| r.prompt.len()).collect())
}

/// `list<struct<role, content>>` with one message of the assistant.
fn completion_column(records: &[CompletionRecord]) -> ArrowResult<ArrayRef> {
    let roles = StringArray::from_iter_values(records.iter().map(|_| "assistant"));
    let texts = StringArray::from_iter_values(records.iter().map(|r| &r.completion));
    let message = struct_of(vec![("role", Arc::new(roles)), ("content", Arc::new(texts))])?;
    list_of(message, vec![1; records.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_number_of_rewards_writes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = completions_path(dir.path(), 7);
        assert!(path.ends_with("completions/completions_00007.parquet"));
        let record = CompletionRecord {
            step: 7,
            prompt: vec![],
            completion: String::new(),
            rewards: vec![None],
            extra: vec![],
            advantage: 0.0,
        };
        assert!(write(&path, &[], std::slice::from_ref(&record)).is_err());
        assert!(!path.exists());
        write(&path, &["accuracy".to_string()], &[record]).unwrap();
        write(&path, &["accuracy".to_string()], &[]).unwrap();
        let left: Vec<_> = std::fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(left.len(), 1, "no part file stays behind");
    }

    #[test]
    fn extra_columns_have_the_type_of_their_values() {
        use serde_json::json;
        let row = |values: [Value; 4]| CompletionRecord {
            step: 1,
            prompt: vec![],
            completion: String::new(),
            rewards: vec![Some(1.0)],
            extra: ["flag", "step", "length", "said"]
                .map(String::from)
                .into_iter()
                .zip(values)
                .collect(),
            advantage: 0.0,
        };
        let mut records = vec![
            row([json!(true), json!(3), json!(1), json!("a")]),
            row([Value::Null, json!(4), json!(0.5), json!([1])]),
        ];
        records.push(CompletionRecord { extra: vec![], ..records[0].clone() });
        let batch = to_batch(&["r".to_string()], &records).unwrap().unwrap();
        let schema = batch.schema();
        let found: Vec<String> = schema
            .fields()
            .iter()
            .skip(4)
            .map(|f| format!("{} {}", f.name(), f.data_type()))
            .collect();
        let expected = [
            "flag Boolean",
            "extra_step Int64",
            "length Float64",
            "said Utf8",
            "advantage Float64",
        ];
        assert_eq!(found, expected);
        assert_eq!(batch.column(4).null_count(), 2);
    }

    #[test]
    fn folder_in_the_way_is_an_io_error_without_litter() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.parquet");
        std::fs::create_dir(&path).unwrap();
        assert_eq!(write(&path, &[], &[]).unwrap_err().exit_code(), 4);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
