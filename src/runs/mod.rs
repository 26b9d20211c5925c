//! Floor 13: runs as they lie on disk: which there are, in which state, how they compare. Trains nothing
//! and speaks no HTTP.

mod as_trained; // options with what a run was trained with
pub mod checkpoints; // what of a run can be continued, tried out or copied
pub mod compare; // several runs side by side
pub mod curves; // figures as columns, thinned
pub mod delete; // what a run wrote, removed
pub mod fetch; // copies of models
pub mod parts; // what in a folder is the run's
pub mod registry; // the runs below a folder, and one of them by name
pub mod summary; // step and reward of a run without reading every figure
pub mod view; // what is told of a run, as data

pub use as_trained::as_trained;
pub use registry::{find, list};

use crate::base::{Error, Result, utc};
use crate::io::safetensors::{ADAPTER_FILE, Checkpoint, INDEX_FILE, SINGLE_FILE};
use crate::track::{MetricRow, read_metrics};
use crate::train::run_file::{self, Life, RunFile, Stage};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Every option of a run with its value, as it was used.
pub const SETTINGS: &str = "config.resolved.yaml";
/// The figures of a run.
pub const METRICS: &str = "metrics.jsonl";

/// What a run is doing, true after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Its process is there.
    Running,
    /// Finished, with its model.
    Done,
    /// Ended by an error, or without a word.
    Failed,
    /// Ended by its user.
    Stopped,
}

impl State {
    /// Every state, in the order of lists.
    pub const ALL: [State; 4] = [State::Running, State::Done, State::Failed, State::Stopped];

    /// One word.
    pub fn name(self) -> &'static str {
        match self {
            State::Running => "running",
            State::Done => "done",
            State::Failed => "failed",
            State::Stopped => "stopped",
        }
    }
}

/// A run on disk.
#[derive(Debug, Clone)]
pub struct Run {
    /// Its folder.
    pub dir: PathBuf,
    /// Its name: `--run_id`, or that of the folder.
    pub run_id: String,
    /// What it is doing.
    pub state: State,
    /// Why it is in that state, where that is worth a word.
    pub note: Option<String>,
    /// What it says about itself; for runs of before there were such files, what others tell.
    pub file: RunFile,
    /// The command that made it: `train` or `sft`; empty if it does not say.
    pub command: String,
    /// Its options as they were used; empty if they cannot be read.
    pub settings: Map<String, Value>,
}

impl Run {
    /// The run of a folder; `None` if the folder is none. Nothing in a damaged file is an error here: the
    /// run is listed with what can be read, and a note.
    pub fn open(dir: &Path) -> Option<Run> {
        let file = RunFile::read(dir);
        if matches!(file, Ok(None)) && !dir.join(SETTINGS).is_file() {
            return None;
        }
        let (command, settings, broken) = read_settings(dir);
        let mut run = Run {
            dir: dir.to_path_buf(),
            run_id: String::new(),
            state: State::Stopped,
            note: broken,
            file: RunFile::default(),
            command,
            settings,
        };
        match file {
            Ok(Some(file)) => run.adopt(file),
            Ok(None) => run.guess(),
            Err(e) => {
                run.guess();
                run.note = Some(e.one_line());
            }
        }
        Some(run)
    }

    /// State and name as the run's own file tells them, held against its lock.
    fn adopt(&mut self, file: RunFile) {
        self.state = match file.state {
            Stage::Done => State::Done,
            Stage::Failed => State::Failed,
            Stage::Stopped => State::Stopped,
            Stage::Running => match run_file::life(&self.dir, &file) {
                Life::Alive => State::Running,
                Life::Gone => {
                    self.note = Some("the process ended without a word".into());
                    State::Failed
                }
                Life::Elsewhere => {
                    self.note = Some(format!(
                        "running on {} since {}, last sign of life {}",
                        file.host, file.session_started, file.updated
                    ));
                    State::Running
                }
            },
        };
        if self.state == State::Failed && file.error.is_some() {
            self.note = file.error.clone();
        }
        self.run_id =
            if file.run_id.is_empty() { folder_name(&self.dir) } else { file.run_id.clone() };
        self.file = file;
    }

    /// The same for a run without a file of its own.
    fn guess(&mut self) {
        self.run_id = match self.settings.get("run_id").and_then(Value::as_str) {
            Some(id) => id.to_string(),
            None => folder_name(&self.dir),
        };
        let finished = final_model(&self.dir).is_some();
        self.state = if finished { State::Done } else { State::Stopped };
        let time = |name: &str| {
            let made = std::fs::metadata(self.dir.join(name)).and_then(|m| m.modified()).ok()?;
            Some(made.duration_since(std::time::UNIX_EPOCH).ok()?.as_secs())
        };
        let started = time(SETTINGS).map(utc::text).unwrap_or_default();
        let updated = time(METRICS).map_or_else(|| started.clone(), utc::text);
        let most = self.settings.get("max_steps").and_then(Value::as_u64).unwrap_or(0);
        self.file = RunFile {
            run_id: self.run_id.clone(),
            run_name: self.settings.get("run_name").and_then(Value::as_str).map(str::to_string),
            session_started: started.clone(),
            started,
            finished: Some(updated.clone()),
            updated,
            step: summary::last_step(&self.dir).unwrap_or(0),
            max_steps: most,
            ..RunFile::default()
        };
    }

    /// The model that the run has made: its base, and the adapter if it trained one. The final model, or
    /// that of the newest whole checkpoint if there is no final one yet.
    ///
    /// # Errors
    /// If there is neither, or the final model is damaged.
    pub fn model(&self) -> Result<(PathBuf, Option<PathBuf>)> {
        if let Some(kind) = final_model(&self.dir) {
            return self.model_in(&self.dir, kind);
        }
        let mut kept = self.checkpoints()?;
        kept.retain(|c| c.health.is_none());
        match kept.last() {
            Some(newest) => self.model_in(&newest.path, newest.kind),
            None => Err(Error::data("the run has no model yet")
                .file(&self.dir)
                .expected("a final model, or a whole checkpoint-<step> folder")
                .hint("wait for its first checkpoint; --save_steps says when it comes")),
        }
    }

    /// Base and adapter of a folder of this run.
    pub fn model_in(&self, dir: &Path, kind: Kind) -> Result<(PathBuf, Option<PathBuf>)> {
        match kind {
            Kind::Full => {
                Checkpoint::open(dir)?;
                Ok((dir.to_path_buf(), None))
            }
            Kind::Adapter => {
                Checkpoint::open(dir.join(ADAPTER_FILE))?;
                Ok((self.base_model(dir)?, Some(dir.to_path_buf())))
            }
        }
    }

    /// The model that the run began with. The folder is not looked for.
    ///
    /// # Errors
    /// If nothing names it.
    pub fn base_model(&self, adapter: &Path) -> Result<PathBuf> {
        let told = std::fs::read(adapter.join("adapter_config.json")).ok();
        let told = told.and_then(|b| serde_json::from_slice::<Value>(&b).ok());
        let told = told.as_ref().and_then(|v| v.get("base_model_name_or_path")?.as_str());
        if let Some(path) = told.filter(|p| Path::new(p).is_dir()) {
            return Ok(path.into());
        }
        let Some(named) = self.setting("model_name_or_path").or(told) else {
            return Err(Error::data("the run does not say what model it began with")
                .file(self.dir.join(SETTINGS))
                .key("model_name_or_path")
                .hint("give --model_name_or_path and --adapter_path"));
        };
        // Paths of a run start from the folder it was started in.
        let there = Path::new(&self.file.folder).join(named);
        Ok(if there.is_dir() { there } else { PathBuf::from(named) })
    }

    /// A setting of text.
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.settings.get(name).and_then(Value::as_str)
    }

    /// Its checkpoints, oldest first.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn checkpoints(&self) -> Result<Vec<checkpoints::Kept>> {
        checkpoints::list(&self.dir)
    }

    /// Every row of figures; none if nothing was logged.
    ///
    /// # Errors
    /// If the file is there and cannot be read.
    pub fn metrics(&self) -> Result<Vec<MetricRow>> {
        let path = self.dir.join(METRICS);
        if path.is_file() { read_metrics(path) } else { Ok(Vec::new()) }
    }

    /// Troubles that the run was told of, in their order; empty if none were.
    pub fn alerts(&self) -> Vec<Alert> {
        let bytes = std::fs::read(self.dir.join("health.jsonl")).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect()
    }

    /// Seconds that it has run, sessions together.
    pub fn seconds(&self) -> u64 {
        let gone = self.state != State::Running && self.file.finished.is_none();
        let end = gone.then(|| utc::seconds(&self.file.updated)).flatten();
        self.file.seconds(end.unwrap_or_else(run_file::now))
    }
}

/// A line of `health.jsonl`: a trouble that began or ended.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Alert {
    /// Optimizer step.
    pub step: u64,
    /// Which trouble.
    pub name: String,
    /// Whether it began or ended.
    pub state: String,
    /// What happened.
    pub message: String,
    /// What to do.
    pub advice: String,
}

/// What files of a model a folder has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An adapter in PEFT's files.
    Adapter,
    /// All weights.
    Full,
}

impl Kind {
    /// One word.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Adapter => "adapter",
            Kind::Full => "full",
        }
    }
}

/// The kind of model whose weight files lie in `dir` itself; they are not opened.
pub fn final_model(dir: &Path) -> Option<Kind> {
    let has = |name: &str| dir.join(name).is_file();
    if has(ADAPTER_FILE) {
        return Some(Kind::Adapter);
    }
    (has(SINGLE_FILE) || has(INDEX_FILE)).then_some(Kind::Full)
}

fn folder_name(dir: &Path) -> String {
    let full = std::path::absolute(dir).unwrap_or_else(|_| dir.to_path_buf());
    full.file_name().map_or("run".into(), |n| n.to_string_lossy().into_owned())
}

/// The command, the options, and what is wrong with the file.
fn read_settings(dir: &Path) -> (String, Map<String, Value>, Option<String>) {
    let path = dir.join(SETTINGS);
    let Ok(bytes) = std::fs::read(&path) else { return Default::default() };
    let text = String::from_utf8_lossy(&bytes);
    let first = text.lines().next().unwrap_or_default();
    let command = first.strip_prefix("# grpo-rt ").and_then(|r| r.split_once(':'));
    let command = command.map_or(String::new(), |(c, _)| c.to_string());
    match serde_saphyr::from_str::<Value>(&text) {
        Ok(Value::Object(map)) => (command, map, None),
        _ => (command, Map::new(), Some(format!("{SETTINGS} is damaged"))),
    }
}
