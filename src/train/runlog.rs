//! The run's folder and everything that is written into it while it goes: resolved options, metrics
//! averaged over the logging interval, samples for the report, the report itself. What comes every few
//! steps is written by a thread of its own ([`Writer`]); a failure of it is told at the next step. Which
//! sinks there are is said here and nowhere else.

use crate::base::{Error, Result};
use crate::io::atomic;
use crate::options::Options;
use crate::settings::LoggingSettings;
use crate::track::health::{Alert, AlertLog, Health, NON_FINITE, Turn};
use crate::track::report::write_report;
use crate::track::writer::Writer;
use crate::track::{
    CompletionsSink, ConsoleOptions, ConsoleSink, DashboardSink, Event, JsonlSink, TensorBoardSink,
    WandbSink,
};
use crate::track::{MetricRow, SampleLog, Sink, Sinks};
use crate::train::checkpoint::{Exact, Figures, Loaded};
use crate::train::interrupt;
use crate::train::run_dir::{RESOLVED, clear, cut_back, holds_run, remove_run};
use crate::train::run_file::{LOG_FILE, RunFileSink};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Where metrics go.
pub struct RunLog {
    dir: PathBuf,
    writer: Writer,
    settings: LoggingSettings,
    pending: Figures,
    health: Option<Health>,
    /// The trouble that the run is to stop at.
    stop: Option<Alert>,
    /// Figures that Weights & Biases did not get.
    lost: Option<Arc<AtomicU64>>,
    started: Instant,
    resumed: usize,
    /// Every row logged so far, former sessions of the run included.
    pub history: Vec<MetricRow>,
}

impl RunLog {
    /// Opens the sinks. A run that goes on from a checkpoint (`resumed`) has the files as they were
    /// then; where `anew`, what a former session or run left goes first.
    ///
    /// # Errors
    /// If a file cannot be written, or a tracker that was asked for is not there.
    pub fn open(
        options: &Options,
        dir: &Path,
        logging: &LoggingSettings,
        total_steps: usize,
        resumed: Option<&Loaded>,
        anew: bool,
    ) -> Result<Self> {
        let args = resolved(options)?;
        // The client may be missing: that is found out before anything of a former run is removed.
        let wandb = logging.wandb.as_ref();
        let wandb =
            wandb.map(|w| WandbSink::start(w, dir, &args, resumed.is_some())).transpose()?;
        clear(dir)?;
        if anew || resumed.is_none() && options.flag("overwrite_output_dir") && holds_run(dir)? {
            remove_run(dir)?;
        }
        atomic::write_atomic(dir.join(RESOLVED), options.to_yaml().as_bytes())?;
        let mut sinks = file_sinks(dir, logging, resumed)?;
        let step = resumed.map(|l| l.state.step);
        sinks.insert(0, Box::new(RunFileSink::begin(options, dir, total_steps, step)?));
        let (history, pending) = match resumed {
            Some(loaded) => (loaded.history.clone(), loaded.state.pending.clone()),
            None => Default::default(),
        };
        let lost = wandb.as_ref().map(WandbSink::lost);
        if let Some(mut sink) = wandb {
            sink.keep_identity(dir)?;
            sinks.push(Box::new(sink));
        }
        if logging.tui {
            let title = logging.run_name.clone().unwrap_or_else(|| name_of(dir));
            let shown = DashboardSink::open(&title, total_steps as u64, &history, interrupt::ask)?;
            sinks.extend(shown.map(|s| Box::new(s) as Box<dyn Sink>));
        }
        let console = ConsoleOptions::detect(total_steps as u64, logging.quiet);
        sinks.push(Box::new(ConsoleSink::new(console)));
        sinks.push(Box::new(ConsoleSink::to_log(console, &dir.join(LOG_FILE))?));
        let log = RunLog {
            dir: dir.to_path_buf(),
            writer: Writer::start(Sinks(sinks))?,
            settings: logging.clone(),
            pending,
            health: logging.health_alerts.then(|| Health::after(&history)),
            stop: None,
            lost,
            started: Instant::now(),
            resumed: resumed.map_or(0, |loaded| loaded.state.step),
            history,
        };
        log.write(Event::Settings { name: "args", values: args })?;
        Ok(log)
    }

    /// Shows the model's `config.json` in the trackers, if it has one.
    ///
    /// # Errors
    /// If something before could not be written.
    pub fn describe_model(&self, model: &Path) -> Result<()> {
        let text = std::fs::read(model.join("config.json")).unwrap_or_default();
        match serde_json::from_slice(&text) {
            Ok(values) => self.write(Event::Settings { name: "model_config", values }),
            Err(_) => Ok(()),
        }
    }

    /// Whether the step is one whose figures are logged.
    pub fn is_due(&self, step: usize) -> bool {
        step.is_multiple_of(self.settings.steps) || (step == 1 && self.settings.first_step)
    }

    /// Whether anybody shows distributions.
    pub fn wants_histograms(&self) -> bool {
        self.settings.tensorboard_dir.is_some() || self.settings.wandb.is_some()
    }

    /// Between two steps: an error of kind `Interrupted` if the user or an alert wants the run to stop.
    ///
    /// # Errors
    /// That one.
    pub fn check(&self) -> Result<()> {
        interrupt::check()?;
        match &self.stop {
            Some(alert) => Err(interrupt::alarmed(alert, &self.dir)),
            None => Ok(()),
        }
    }

    /// The trouble that the run was told to stop at, if it was not the user who stopped it.
    pub fn stop_reason(&self) -> Option<&Alert> {
        self.stop.as_ref().filter(|_| !interrupt::asked())
    }

    /// Prints a line to the person who watches.
    ///
    /// # Errors
    /// If the console is gone, or something before could not be written.
    pub fn say(&self, text: &str) -> Result<()> {
        self.write(Event::Line(text.into()))
    }

    /// Has something written.
    ///
    /// # Errors
    /// If something before could not be written.
    pub fn write(&self, event: Event) -> Result<()> {
        self.writer.write(event)
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
        let broken =
            |(n, v): &(String, f64)| matches!(n.as_str(), "loss" | "grad_norm") && !v.is_finite();
        let marks = values.iter().any(broken).then(|| (NON_FINITE.to_string(), 1.0));
        for (name, value) in values.into_iter().chain(marks) {
            match self.pending.iter_mut().find(|(n, _)| *n == name) {
                Some((_, list)) => list.push(Exact(value)),
                None => self.pending.push((name, vec![Exact(value)])),
            }
        }
        if !last && !self.is_due(step) {
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

    /// Logs a finished row, with what the health of the run is after it.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn log(&mut self, mut row: MetricRow) -> Result<()> {
        let mut alerts = Vec::new();
        if !row.is_eval() {
            if let Some(health) = &mut self.health {
                alerts = health.look(&row);
                row.values.extend(health.figures());
            }
            if let Some(lost) = &self.lost {
                row.push("trackers/wandb_lost", lost.load(Ordering::Relaxed) as f64);
            }
        }
        self.writer.write(Event::Row(row.clone()))?;
        self.history.push(row);
        for alert in alerts {
            if alert.state == Turn::Begun && self.settings.stops_at(&alert.name) {
                self.stop.get_or_insert_with(|| alert.clone());
            }
            self.writer.write(Event::Alert(alert))?;
        }
        Ok(())
    }

    /// The end of training: figures of the whole run under the names of the Hugging Face trainer, for
    /// the trackers and `train_results.json`. Times are those of this session, as there.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn summarise(&self, steps: usize, samples_per_step: usize) -> Result<()> {
        let seconds = self.started.elapsed().as_secs_f64();
        let taken = steps.saturating_sub(self.resumed) as f64;
        let figures = [
            ("train_runtime", seconds),
            ("train_samples_per_second", taken * samples_per_step as f64 / seconds),
            ("train_steps_per_second", taken / seconds),
            // Counted by nobody: TRL's trainer reports 0, too.
            ("total_flos", 0.0),
            ("train_loss", mean_loss(&self.history)),
        ];
        let number = |(n, v): &(&str, f64)| (n.to_string(), Value::from(*v));
        let kept: Map<String, Value> = figures.iter().map(number).collect();
        let text = serde_json::to_string_pretty(&kept).expect("a JSON value prints");
        atomic::write_atomic(self.dir.join("train_results.json"), text.as_bytes())?;
        let figures = figures.map(|(n, v)| (n.to_string(), v)).into();
        self.write(Event::Summary { step: steps as u64, figures })
    }

    /// Closes the sinks and writes the report.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn finish(self) -> Result<Option<PathBuf>> {
        self.writer.finish()?.close()?;
        if !self.dir.join("metrics.jsonl").is_file() {
            return Ok(None);
        }
        write_report(&self.dir).map(Some)
    }
}

/// The sinks that are files. What was written after the checkpoint that a
/// session resumes from goes.
fn file_sinks(
    dir: &Path,
    logging: &LoggingSettings,
    resumed: Option<&Loaded>,
) -> Result<Vec<Box<dyn Sink>>> {
    let mut sinks: Vec<Box<dyn Sink>> = Vec::new();
    let alerts = AlertLog::new(dir);
    let step = resumed.map(|loaded| loaded.state.step as u64);
    if let Some(loaded) = resumed {
        cut_back(dir, loaded.state.recorded())?;
        // Alerts are of rows of metrics, not of completions.
        alerts.cut_after(loaded.state.step as u64)?;
    }
    if logging.jsonl {
        let mut sink = JsonlSink::open(dir.join("metrics.jsonl"))?;
        if let Some(loaded) = resumed {
            sink.restore(&loaded.history)?;
        }
        sinks.push(Box::new(sink));
    }
    sinks.push(Box::new(CompletionsSink));
    sinks.push(Box::new(SampleLog::new(dir)));
    sinks.push(Box::new(alerts));
    if let Some(events) = &logging.tensorboard_dir {
        let sink = TensorBoardSink::create(events, step)?;
        let sink = sink.with_completions(logging.track_completions, logging.multimodal);
        sinks.push(Box::new(sink));
    }
    Ok(sinks)
}

/// What one figure of several steps becomes: extremes stay extremes, running totals stay totals,
/// everything else is averaged over the values that are numbers.
fn summary(name: &str, values: &[Exact]) -> f64 {
    let known: Vec<f64> = values.iter().map(|v| v.0).filter(|v| !v.is_nan()).collect();
    let Some(&last) = known.last() else { return f64::NAN };
    if matches!(name, "num_tokens" | "learning_rate") || name.starts_with("data/") {
        return last;
    }
    if name == NON_FINITE {
        return known.iter().sum();
    }
    if name.ends_with("_max") || name.starts_with("memory/") || name == "device/memory_used" {
        return known.iter().copied().fold(last, f64::max);
    }
    known.iter().sum::<f64>() / known.len() as f64
}

/// The loss over all steps: each row stands for the steps since the one before it. NaN if there is none.
fn mean_loss(history: &[MetricRow]) -> f64 {
    let (mut sum, mut steps, mut before) = (0.0, 0.0, 0);
    for row in history.iter().filter(|r| !r.is_eval()) {
        if let Some(loss) = row.get("loss") {
            let weight = row.step.saturating_sub(before) as f64;
            (sum, steps) = (sum + weight * loss, steps + weight);
        }
        before = row.step;
    }
    sum / steps
}

/// Every option with its value, as JSON.
fn resolved(options: &Options) -> Result<Map<String, Value>> {
    serde_saphyr::from_str(&options.to_yaml())
        .map_err(|e| Error::internal(format!("the options are no YAML: {e}")))
}

/// The last part of a folder's full path.
fn name_of(dir: &Path) -> String {
    let full = std::path::absolute(dir).unwrap_or_else(|_| dir.to_path_buf());
    full.file_name().map_or("run".into(), |n| n.to_string_lossy().into_owned())
}
