//! Metrics of a step, and their form as a line of JSON. Computes no metric.

use crate::base::{Error, Result};
use serde_json::{Map, Number, Value};
use std::path::Path;

/// Metrics of one step.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MetricRow {
    /// Optimizer step, 1 for the first.
    pub step: u64,
    /// Passes over the data set so far.
    pub epoch: f64,
    /// Names and values in the order in which they were added. NaN means "nothing to report".
    /// Names starting with `eval_` belong to an evaluation.
    pub values: Vec<(String, f64)>,
}

impl MetricRow {
    /// An empty row.
    pub fn new(step: u64, epoch: f64) -> Self {
        MetricRow { step, epoch, values: Vec::new() }
    }
    /// Adds a value.
    pub fn push(&mut self, name: impl Into<String>, value: f64) {
        self.values.push((name.into(), value));
    }
    /// The value called `name`, unless it is absent or NaN.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.values.iter().find(|(n, _)| n == name).map(|(_, v)| *v).filter(|v| !v.is_nan())
    }
    /// Whether the row is an evaluation's: it has values and all of them are `eval_*`.
    pub fn is_eval(&self) -> bool {
        !self.values.is_empty() && self.values.iter().all(|(n, _)| n.starts_with("eval_"))
    }
}

/// JSON has no NaN and no infinity: they become null.
fn number(v: f64) -> Value {
    Number::from_f64(v).map_or(Value::Null, Value::Number)
}

/// A row as a JSON object: `step`, `epoch`, then the values in their order.
pub fn json_row(row: &MetricRow) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert("step".into(), row.step.into());
    object.insert("epoch".into(), number(row.epoch));
    for (name, value) in &row.values {
        object.insert(name.clone(), number(*value));
    }
    object
}

/// A line of the file; `None` if it is no row.
pub fn parse_row(line: &str) -> Option<MetricRow> {
    row_of_json(serde_json::from_str(line).ok()?)
}

/// The row of an object that [`json_row`] made; `None` of another one. null becomes NaN.
pub fn row_of_json(object: Map<String, Value>) -> Option<MetricRow> {
    let mut row = MetricRow::new(object.get("step")?.as_u64()?, 0.0);
    for (name, value) in object {
        match (name.as_str(), value) {
            ("step", _) => {}
            ("epoch", v) => row.epoch = v.as_f64().unwrap_or(0.0),
            (_, Value::Null) => row.push(name, f64::NAN),
            (_, v) => {
                if let Some(v) = v.as_f64() {
                    row.push(name, v);
                }
            }
        }
    }
    Some(row)
}

/// Reads a metrics file. Lines that are no rows (the last one of a killed run) are skipped; null
/// becomes NaN.
pub fn read_metrics(path: impl AsRef<Path>) -> Result<Vec<MetricRow>> {
    let path = path.as_ref();
    let bytes = std::fs::read(path).map_err(|e| Error::io("cannot read the metrics", path, &e))?;
    Ok(String::from_utf8_lossy(&bytes).lines().filter_map(parse_row).collect())
}
