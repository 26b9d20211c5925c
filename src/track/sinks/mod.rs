//! Where the things go that a run has to tell: console, dashboard, `metrics.jsonl`, TensorBoard, Weights &
//! Biases, parquet files. All of them are one mechanism, a [`Sink`] that is given every [`Event`]. A sink
//! never computes a metric and never changes one; it gets a finished row.

mod console; // lines
mod dashboard; // a terminal full of curves
mod files; // completions, samples, alerts
mod jsonl; // metrics.jsonl
mod tensorboard; // event files
mod wandb; // the user's own client

pub use console::{ConsoleOptions, ConsoleSink};
pub use dashboard::{DashboardSink, DashboardState, Key};
pub use files::CompletionsSink;
pub use jsonl::JsonlSink;
pub use tensorboard::TensorBoardSink;
pub use wandb::{Limits as WandbLimits, WandbSettings, WandbSink};

use super::{Event, MetricRow};
use crate::base::Result;

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
