//! What is told of a run, as data: the lists and tables of the commands, their JSON and the answers of the
//! web page are made of this. Formats nothing.

use super::compare::shown;
use super::curves::Curves;
use super::summary::{Course, course};
use super::{Alert, Run};
use crate::base::Result;
use crate::options::{Command, Options};
use serde::Serialize;
use serde_json::{Map, Value};
use std::path::Path;

/// A run in a list.
#[derive(Debug, Clone, Serialize)]
pub struct Entry {
    /// Its name.
    pub run_id: String,
    /// `--run_name`.
    pub run_name: Option<String>,
    /// running, done, failed, stopped.
    pub state: &'static str,
    /// Why, where that is worth a word.
    pub note: Option<String>,
    /// Optimizer steps done.
    pub step: u64,
    /// Of so many; 0 if that is not known.
    pub max_steps: u64,
    /// The last reward; of supervised runs the last loss.
    pub last: Option<f64>,
    /// The best.
    pub best: Option<f64>,
    /// `reward` or `loss`.
    pub figure: &'static str,
    /// It from first to last, as a few means.
    pub line: Vec<f64>,
    /// First start, RFC 3339 in UTC.
    pub started: String,
    /// Last sign of life.
    pub updated: String,
    /// Seconds that it has run.
    pub seconds: u64,
    /// The model that it began with.
    pub model: String,
    /// `train` or `sft`.
    pub command: String,
    /// Its folder.
    pub dir: String,
    /// Process and machine.
    pub pid: u32,
    /// The machine.
    pub host: String,
}

/// [`Entry`] of a run, its course read from its figures.
pub fn entry(run: &Run) -> Entry {
    entry_with(run, course(&run.dir))
}

/// [`Entry`] of a run whose course is known.
pub fn entry_with(run: &Run, course: Course) -> Entry {
    let f = &run.file;
    Entry {
        run_id: run.run_id.clone(),
        run_name: f.run_name.clone(),
        state: run.state.name(),
        note: run.note.clone(),
        step: course.step.max(f.step),
        max_steps: f.max_steps,
        last: course.last,
        best: course.best,
        figure: if course.is_loss { "loss" } else { "reward" },
        line: course.line,
        started: f.started.clone(),
        updated: f.updated.clone(),
        seconds: run.seconds(),
        model: run.setting("model_name_or_path").unwrap_or_default().to_string(),
        command: run.command.clone(),
        dir: shown_path(&run.dir),
        pid: f.pid,
        host: f.host.clone(),
    }
}

/// Everything of one run.
#[derive(Debug, Clone, Serialize)]
pub struct Details {
    /// As in a list.
    pub entry: Entry,
    /// The command line that started it.
    pub command_line: Vec<String>,
    /// Settings that are not the default: name, value, default.
    pub changed: Vec<(String, Option<String>, Option<String>)>,
    /// Every setting.
    pub settings: Map<String, Value>,
    /// Last, lowest and highest of every figure.
    pub figures: Vec<FigureOf>,
    /// Models of the run.
    pub checkpoints: Vec<CheckpointOf>,
    /// Troubles.
    pub alerts: Vec<Alert>,
    /// Files and folders in the run's folder, with their bytes.
    pub files: Vec<(String, u64)>,
}

/// A figure of a run.
#[derive(Debug, Clone, Serialize)]
pub struct FigureOf {
    /// Its name.
    pub name: String,
    /// The last value.
    pub last: f64,
    /// The lowest.
    pub low: f64,
    /// The highest.
    pub high: f64,
}

/// A checkpoint of a run.
#[derive(Debug, Clone, Serialize)]
pub struct CheckpointOf {
    /// Optimizer step.
    pub step: u64,
    /// adapter or full.
    pub kind: &'static str,
    /// Bytes.
    pub bytes: u64,
    /// What is wrong with it; None if nothing was seen.
    pub damaged: Option<String>,
    /// The best by the run's metric.
    pub best: bool,
    /// Its folder.
    pub path: String,
}

/// [`Details`] of a run, with what stands in the list and its figures.
///
/// # Errors
/// If a file of the run cannot be read.
pub fn details(run: &Run, entry: Entry, curves: &Curves) -> Result<Details> {
    let figures = curves.names().iter().filter_map(|name| {
        let values = curves.values(name);
        Some(FigureOf {
            name: name.clone(),
            last: *values.last()?,
            low: values.iter().copied().fold(f64::INFINITY, f64::min),
            high: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        })
    });
    Ok(Details {
        entry,
        command_line: run.file.command.clone(),
        changed: changed(run),
        settings: run.settings.clone(),
        figures: figures.collect(),
        checkpoints: run.checkpoints()?.into_iter().map(checkpoint).collect(),
        alerts: run.alerts(),
        files: files(&run.dir),
    })
}

/// A checkpoint as it is told.
pub fn checkpoint(kept: super::checkpoints::Kept) -> CheckpointOf {
    CheckpointOf {
        step: kept.step,
        kind: kept.kind.name(),
        bytes: kept.bytes,
        damaged: kept.health,
        best: kept.best,
        path: shown_path(&kept.path),
    }
}

/// A path without the folder one is in.
fn shown_path(path: &Path) -> String {
    let short = path.strip_prefix(".").ok().filter(|p| p.components().next().is_some());
    short.unwrap_or(path).display().to_string()
}

/// Settings of a run that are not the defaults of its command.
fn changed(run: &Run) -> Vec<(String, Option<String>, Option<String>)> {
    let Some(command) = Command::ALL.iter().find(|c| c.name() == run.command) else {
        return Vec::new();
    };
    let text = Options::defaults(*command).to_yaml();
    let Ok(Value::Object(defaults)) = serde_saphyr::from_str::<Value>(&text) else {
        return Vec::new();
    };
    let pairs = run
        .settings
        .iter()
        .map(|(name, value)| (name.clone(), shown(Some(value)), shown(defaults.get(name))));
    pairs.filter(|(_, value, default)| value != default).collect()
}

fn files(dir: &Path) -> Vec<(String, u64)> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut all: Vec<(String, u64)> = entries
        .map(|e| {
            let name = e.file_name().to_string_lossy().into_owned();
            match e.file_type() {
                Ok(t) if t.is_dir() => (name + "/", super::checkpoints::size(&e.path())),
                _ => (name, e.metadata().map_or(0, |m| m.len())),
            }
        })
        .collect();
    all.sort();
    all
}
