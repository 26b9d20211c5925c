//! TensorBoard scalars under the names that the Hugging Face trainer gives them: `train/<name>`,
//! and `eval/<name>` for `eval_<name>`. Values that are NaN are left out, never drawn as zero.

use super::{MetricRow, Sink};
use crate::base::Result;
use crate::io::tfevents::EventWriter;
use std::path::Path;

/// Writes rows to an event file.
pub struct TensorBoardSink {
    writer: EventWriter,
}

impl TensorBoardSink {
    /// Opens a new event file in `dir`. `resume_after`: the step of the checkpoint that the run
    /// resumes from; TensorBoard then forgets what earlier files of `dir` say about later steps.
    pub fn create(dir: impl AsRef<Path>, resume_after: Option<u64>) -> Result<Self> {
        let mut writer = EventWriter::create(dir)?;
        if let Some(step) = resume_after {
            writer.purge_from(step + 1)?;
        }
        writer.flush()?;
        Ok(TensorBoardSink { writer })
    }

    /// The writer, for text, histograms and images.
    pub fn writer(&mut self) -> &mut EventWriter {
        &mut self.writer
    }

    /// Shows settings as a table in the Text tab, under `args`.
    pub fn settings(&mut self, settings: &[(String, String)]) -> Result<()> {
        let mut table = String::from("| option | value |\n|---|---|\n");
        for (name, value) in settings {
            let value = value.replace('|', "\\|").replace('\n', " ");
            table += &format!("| {name} | `{value}` |\n");
        }
        self.writer.text("args", 0, &table)?;
        self.writer.flush()
    }
}

impl Sink for TensorBoardSink {
    fn log(&mut self, row: &MetricRow) -> Result<()> {
        let epoch = if row.is_eval() { "eval_epoch" } else { "epoch" };
        let values = row.values.iter().map(|(n, v)| (n.as_str(), *v));
        for (name, value) in values.chain([(epoch, row.epoch)]).filter(|(_, v)| !v.is_nan()) {
            let tag = match name.strip_prefix("eval_") {
                Some(rest) => format!("eval/{rest}"),
                None => format!("train/{name}"),
            };
            self.writer.scalar(&tag, row.step, value)?;
        }
        // Rows are seconds apart; whoever watches wants to see the last one.
        self.writer.flush()
    }
    fn close(&mut self) -> Result<()> {
        self.writer.flush()
    }
}
