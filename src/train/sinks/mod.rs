//! Where metrics go: console, `metrics.jsonl`, TensorBoard. A sink never computes a metric and
//! never changes one; it gets a finished row.

mod console;
mod jsonl;
mod tensorboard;

pub use console::{ConsoleOptions, ConsoleSink};
pub use jsonl::{JsonlSink, parse_row, read_metrics};
pub use tensorboard::TensorBoardSink;

use crate::base::Result;

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

/// Takes metric rows.
pub trait Sink: Send {
    /// Takes one row; returns after it is as safe as this sink makes it.
    fn log(&mut self, row: &MetricRow) -> Result<()>;
    /// The run is over. Logging afterwards is allowed and may lose rows.
    fn close(&mut self) -> Result<()>;
}

/// Hands every row to several sinks in order.
#[derive(Default)]
pub struct Sinks(pub Vec<Box<dyn Sink>>);

impl Sink for Sinks {
    fn log(&mut self, row: &MetricRow) -> Result<()> {
        self.0.iter_mut().try_for_each(|s| s.log(row))
    }
    fn close(&mut self) -> Result<()> {
        // Every sink is closed even if one fails; the first failure is reported.
        let results: Vec<Result<()>> = self.0.iter_mut().map(|s| s.close()).collect();
        results.into_iter().collect()
    }
}
