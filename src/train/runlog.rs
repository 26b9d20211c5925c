//! The run's folder and everything that is written into it while it goes: resolved options, metrics
//! averaged over the logging interval, samples for the report, the report itself. What comes every few
//! steps is written by a thread of its own ([`Writer`]); a failure of it is told at the next step.

use crate::base::Result;
use crate::io::atomic;
use crate::train::checkpoint::{Exact, Figures, Loaded};
use crate::train::options::Options;
use crate::train::report::{SampleLog, write_report};
use crate::train::run_dir::{RESOLVED, clear, cut_back, holds_run, remove_run};
use crate::train::run_file::{LOG_FILE, RunFileSink};
use crate::train::settings::LoggingSettings;
use crate::train::sinks::{ConsoleOptions, ConsoleSink, JsonlSink, TensorBoardSink};
use crate::train::sinks::{MetricRow, Sink, Sinks};
use crate::train::writer::{Entry, Targets, Writer};
use std::path::{Path, PathBuf};

/// Where metrics go.
pub struct RunLog {
    dir: PathBuf,
    writer: Writer,
    interval: usize,
    pending: Figures,
    /// Every row logged so far, former sessions of the run included.
    pub history: Vec<MetricRow>,
}

impl RunLog {
    /// Opens the sinks. A run that goes on from a checkpoint (`resumed`) has the files as they were
    /// then; where `anew`, what a former session or run left goes first.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn open(
        options: &Options,
        dir: &Path,
        logging: &LoggingSettings,
        total_steps: usize,
        resumed: Option<&Loaded>,
        anew: bool,
    ) -> Result<Self> {
        clear(dir)?;
        if anew || resumed.is_none() && options.flag("overwrite_output_dir") && holds_run(dir)? {
            remove_run(dir)?;
        }
        atomic::write_atomic(dir.join(RESOLVED), options.to_yaml().as_bytes())?;
        let life = RunFileSink::begin(options, dir, total_steps, resumed.map(|l| l.state.step))?;
        let mut sinks: Vec<Box<dyn Sink>> = vec![Box::new(life)];
        let samples = SampleLog::new(dir);
        if let Some(loaded) = resumed {
            cut_back(dir, loaded.state.recorded())?;
        }
        if logging.jsonl {
            let mut sink = JsonlSink::open(dir.join("metrics.jsonl"))?;
            if let Some(loaded) = resumed {
                sink.restore(&loaded.history)?;
            }
            sinks.push(Box::new(sink));
        }
        let (history, pending) = match resumed {
            Some(loaded) => (loaded.history.clone(), loaded.state.pending.clone()),
            None => Default::default(),
        };
        let resumed = resumed.map(|loaded| loaded.state.step as u64);
        if let Some(events) = &logging.tensorboard_dir {
            let mut sink = TensorBoardSink::create(events, resumed)?;
            let settings: Vec<(String, String)> = options
                .to_yaml()
                .lines()
                .filter(|l| !l.starts_with('#'))
                .filter_map(|l| l.split_once(": "))
                .map(|(k, v)| (k.to_string(), v.to_string()))
                .collect();
            sink.settings(&settings)?;
            sinks.push(Box::new(sink));
        }
        let console = ConsoleOptions::detect(total_steps as u64, logging.quiet);
        let console = ConsoleSink::new(console).copied_to(&dir.join(LOG_FILE))?;
        Ok(RunLog {
            dir: dir.to_path_buf(),
            writer: Writer::start(Targets { sinks: Sinks(sinks), console, samples })?,
            interval: logging.steps,
            pending,
            history,
        })
    }

    /// Prints a line to the person who watches.
    ///
    /// # Errors
    /// If the console is gone, or something before could not be written.
    pub fn say(&self, text: &str) -> Result<()> {
        self.write(Entry::Line(text.into()))
    }

    /// Has something written.
    ///
    /// # Errors
    /// If something before could not be written.
    pub fn write(&self, entry: Entry) -> Result<()> {
        self.writer.write(entry)
    }

    /// Returns when everything so far is written: before a checkpoint, which promises it.
    ///
    /// # Errors
    /// If something could not be written.
    pub fn flush(&self) -> Result<()> {
        self.writer.flush()
    }

    /// Takes the figures of one optimizer step; logs their means at the interval's end, or `last`.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn step(
        &mut self,
        step: usize,
        epoch: f64,
        values: Vec<(String, f64)>,
        last: bool,
    ) -> Result<bool> {
        for (name, value) in values {
            match self.pending.iter_mut().find(|(n, _)| *n == name) {
                Some((_, list)) => list.push(Exact(value)),
                None => self.pending.push((name, vec![Exact(value)])),
            }
        }
        if !last && !step.is_multiple_of(self.interval) {
            return Ok(false);
        }
        let mut row = MetricRow::new(step as u64, epoch);
        for (name, list) in std::mem::take(&mut self.pending) {
            row.push(name.clone(), summary(&name, &list));
        }
        self.log(row)?;
        Ok(true)
    }

    /// Figures of the steps since the last line of metrics, for a checkpoint.
    pub fn pending(&self) -> Figures {
        self.pending.clone()
    }

    /// Whether an evaluation was logged at a step.
    pub fn evaluated(&self, step: usize) -> bool {
        let late = self.history.iter().rev().take_while(|r| r.step >= step as u64);
        late.into_iter().any(|r| r.step == step as u64 && r.is_eval())
    }

    /// Logs a finished row.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn log(&mut self, row: MetricRow) -> Result<()> {
        self.writer.write(Entry::Row(row.clone()))?;
        self.history.push(row);
        Ok(())
    }

    /// Closes the sinks and writes the report.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn finish(self) -> Result<Option<PathBuf>> {
        let mut written = self.writer.finish()?;
        written.sinks.close()?;
        written.console.close()?;
        if !self.dir.join("metrics.jsonl").is_file() {
            return Ok(None);
        }
        write_report(&self.dir).map(Some)
    }
}

/// What one figure of several steps becomes: extremes stay extremes, running totals stay totals,
/// everything else is averaged over the values that are numbers.
fn summary(name: &str, values: &[Exact]) -> f64 {
    let known: Vec<f64> = values.iter().map(|v| v.0).filter(|v| !v.is_nan()).collect();
    let Some(&last) = known.last() else { return f64::NAN };
    if matches!(name, "num_tokens" | "learning_rate") || name.starts_with("data/") {
        return last;
    }
    if name.ends_with("_max") || name.starts_with("memory/") || name == "device/memory_used" {
        return known.iter().copied().fold(last, f64::max);
    }
    known.iter().sum::<f64>() / known.len() as f64
}
