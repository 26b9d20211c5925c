//! The run's folder and everything that is written into it while it goes: resolved options, metrics
//! averaged over the logging interval, samples for the report, the report itself. What comes every few
//! steps is written by a thread of its own ([`Writer`]); a failure of it is told at the next step.

use crate::base::{Error, Result};
use crate::io::atomic;
use crate::train::checkpoint;
use crate::train::options::Options;
use crate::train::report::{SampleLog, write_report};
use crate::train::run_file::{LOG_FILE, RUN_FILE, RunFileSink};
use crate::train::settings::{LoggingSettings, OutputSettings, Resume};
use crate::train::sinks::{ConsoleOptions, ConsoleSink, JsonlSink, TensorBoardSink, read_metrics};
use crate::train::sinks::{MetricRow, Sink, Sinks};
use crate::train::writer::{Entry, Targets, Writer};
use std::path::{Path, PathBuf};

/// Makes or checks the folder of a run and finds the checkpoint it continues from. Removes nothing:
/// a former run goes when [`RunLog::open`] is reached, after model and data have been read.
///
/// # Errors
/// If the folder holds another run and may not be overwritten, or there is nothing to continue.
pub fn open_run_dir(output: &OutputSettings) -> Result<Option<PathBuf>> {
    let dir = &output.run_dir;
    let from = match &output.resume {
        Resume::No => None,
        Resume::From(path) => Some(path.clone()),
        Resume::Latest => {
            let last = checkpoint::list(dir)?.pop();
            Some(last.map(|(_, path)| path).ok_or_else(|| {
                Error::usage("there is no checkpoint to continue from")
                    .file(dir)
                    .key("resume_from_checkpoint")
                    .expected("a folder checkpoint-<step> in the run's folder")
                    .hint("start without --resume_from_checkpoint, or name the checkpoint's folder")
            })?)
        }
    };
    // A checkpoint of this very folder is continued; one of elsewhere starts a run of its own.
    let own = from.as_deref().is_some_and(|f| same_folder(f.parent(), dir));
    if !own && !output.overwrite && holds_run(dir)? {
        return Err(Error::usage("the output folder holds a run already")
            .file(dir)
            .key("output_dir")
            .hint("continue it with --resume_from_checkpoint true, replace it with --overwrite_output_dir, or name another folder"));
    }
    std::fs::create_dir_all(dir).map_err(|e| {
        Error::io("cannot create the run's folder", dir, &e)
            .key("output_dir")
            .hint("give an --output_dir that can be written")
    })?;
    Ok(from)
}

/// Whether the folder has metrics or checkpoints of a run.
fn holds_run(dir: &Path) -> Result<bool> {
    Ok(dir.join("metrics.jsonl").exists() || !checkpoint::list(dir)?.is_empty())
}

/// Whether two paths lead to one folder that exists.
fn same_folder(a: Option<&Path>, b: &Path) -> bool {
    // The parent of a bare name is the current folder.
    let full =
        |p: &Path| std::fs::canonicalize(if p == Path::new("") { Path::new(".") } else { p });
    a.is_some_and(|a| full(a).is_ok_and(|a| full(b).is_ok_and(|b| a == b)))
}

/// Removes what a former run left, and nothing else.
fn remove_run(dir: &Path) -> Result<()> {
    let remove = |path: PathBuf| -> Result<()> {
        let gone = if path.is_dir() {
            std::fs::remove_dir_all(&path)
        } else if path.exists() {
            std::fs::remove_file(&path)
        } else {
            Ok(())
        };
        gone.map_err(|e| Error::io("cannot remove what a former run left", &path, &e))
    };
    for name in [
        "metrics.jsonl",
        "samples.jsonl",
        "report.html",
        "config.resolved.yaml",
        "completions",
        "runs",
        RUN_FILE,
        LOG_FILE,
    ] {
        remove(dir.join(name))?;
    }
    for (_, path) in checkpoint::list(dir)? {
        remove(path)?;
    }
    Ok(())
}

/// Where metrics go.
pub struct RunLog {
    dir: PathBuf,
    writer: Writer,
    interval: usize,
    pending: Vec<(String, Vec<f64>)>,
    /// Every row logged so far, former sessions of the run included.
    pub history: Vec<MetricRow>,
}

impl RunLog {
    /// Opens the sinks. After a resume at step `resumed`, later lines of a former session go;
    /// without one, what a former run left goes if `overwrite_output_dir` says so.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn open(
        options: &Options,
        dir: &Path,
        logging: &LoggingSettings,
        total_steps: usize,
        resumed: Option<usize>,
    ) -> Result<Self> {
        if resumed.is_none() && options.flag("overwrite_output_dir") && holds_run(dir)? {
            remove_run(dir)?;
        }
        atomic::write_atomic(dir.join("config.resolved.yaml"), options.to_yaml().as_bytes())?;
        let life = RunFileSink::begin(options, dir, total_steps, resumed)?;
        let mut sinks: Vec<Box<dyn Sink>> = vec![Box::new(life)];
        let mut history = Vec::new();
        let samples = SampleLog::new(dir);
        if let Some(step) = resumed {
            samples.truncate_after(step as u64)?;
        }
        if logging.jsonl {
            let path = dir.join("metrics.jsonl");
            let mut sink = JsonlSink::open(&path)?;
            if let Some(step) = resumed {
                sink.truncate_after(step as u64)?;
                history = read_metrics(&path)?;
            }
            sinks.push(Box::new(sink));
        }
        if let Some(events) = &logging.tensorboard_dir {
            let mut sink = TensorBoardSink::create(events, resumed.map(|s| s as u64))?;
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
            pending: Vec::new(),
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
                Some((_, list)) => list.push(value),
                None => self.pending.push((name, vec![value])),
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
fn summary(name: &str, values: &[f64]) -> f64 {
    let known: Vec<f64> = values.iter().copied().filter(|v| !v.is_nan()).collect();
    let Some(&last) = known.last() else { return f64::NAN };
    if matches!(name, "num_tokens" | "learning_rate") || name.starts_with("data/") {
        return last;
    }
    if name.ends_with("_max") || name.starts_with("memory/") || name == "device/memory_used" {
        return known.iter().copied().fold(last, f64::max);
    }
    known.iter().sum::<f64>() / known.len() as f64
}
