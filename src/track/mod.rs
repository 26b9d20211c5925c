//! Floor 9: what a run tells, and who is told. Rows of metrics, samples and alerts are made into [`Event`]s;
//! every [`Sink`] is given every event and shows what it knows; the report is made of the files afterwards.
//! Nothing here computes a metric of training, and nothing here stops a run.

mod event; // what a run tells
pub mod health; // what goes wrong in a run
pub mod report; // report.html
mod row; // metrics of a step
mod samples; // groups of completions kept for people
mod sinks; // console, dashboard, files, TensorBoard, Weights & Biases
mod step_log; // JSON lines of steps
pub mod terminal; // the one terminal, and who may write on it
pub mod writer; // the thread on which sinks are told

pub use event::{CompletionTable, Event, Picture, Png};
pub use row::{MetricRow, json_row, parse_row, read_metrics, row_of_json};
pub use samples::{SampleCompletion, SampleGroup, SampleLog};
pub use sinks::{
    CompletionsSink, ConsoleOptions, ConsoleSink, DashboardSink, DashboardState, JsonlSink, Key,
    Sink, Sinks, TensorBoardSink, WandbLimits, WandbSettings, WandbSink,
};
pub use step_log::StepLog;
