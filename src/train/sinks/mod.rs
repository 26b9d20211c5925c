//! Where the things go that a run has to tell: console, dashboard, `metrics.jsonl`, TensorBoard, Weights &
//! Biases, parquet files. All of them are one mechanism, a [`Sink`] that is given every [`Event`]. A sink
//! never computes a metric and never changes one; it gets a finished row.

mod console; // lines
mod dashboard; // a terminal full of curves
mod event; // what a run tells
mod files; // completions, samples, alerts
mod jsonl; // metrics.jsonl
mod tensorboard; // event files
mod wandb; // the user's own client

pub use console::{ConsoleOptions, ConsoleSink};
pub use dashboard::{DashboardSink, DashboardState, Key, restore_terminal, tell};
pub use event::{CompletionTable, Event, Picture, Png};
pub use files::{CompletionsSink, HealthSink, read_alerts};
pub use jsonl::{JsonlSink, json_row, parse_row, read_metrics, row_of_json};
pub use tensorboard::TensorBoardSink;
pub use wandb::{Limits as WandbLimits, WandbSettings, WandbSink};

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

/// Takes events.
pub trait Sink: Send {
    /// Takes one event; returns after it is as safe as this sink makes it. What it does not show, it
    /// ignores.
    ///
    /// # Errors
    /// What ends the run: a file of the run that cannot be written.
    fn take(&mut self, event: &Event) -> Result<()>;
    /// The run is over. Events afterwards are allowed and may be lost.
    ///
    /// # Errors
    /// As [`Sink::take`].
    fn close(&mut self) -> Result<()>;
    /// Lines that it wants the person who watches to see; asked for after every event.
    fn notices(&mut self) -> Vec<String> {
        Vec::new()
    }
    /// Takes a row of metrics.
    ///
    /// # Errors
    /// As [`Sink::take`].
    fn log(&mut self, row: &MetricRow) -> Result<()> {
        self.take(&Event::Row(row.clone()))
    }
}

/// Hands every event to several sinks in order. What one of them has to say goes to all of them.
#[derive(Default)]
pub struct Sinks(pub Vec<Box<dyn Sink>>);

impl Sink for Sinks {
    fn take(&mut self, event: &Event) -> Result<()> {
        self.0.iter_mut().try_for_each(|s| s.take(event))?;
        let said: Vec<String> = self.0.iter_mut().flat_map(|s| s.notices()).collect();
        for line in said.into_iter().map(Event::Line) {
            self.0.iter_mut().try_for_each(|s| s.take(&line))?;
        }
        Ok(())
    }
    fn close(&mut self) -> Result<()> {
        // Every sink is closed even if one fails; the first failure is reported.
        let mut first = Ok(());
        for i in 0..self.0.len() {
            let mut done = self.0[i].close();
            for line in self.0[i].notices().into_iter().map(Event::Line) {
                let told = self.0[i + 1..].iter_mut().try_for_each(|s| s.take(&line));
                done = done.and(told);
            }
            first = first.and(done);
        }
        first
    }
}
