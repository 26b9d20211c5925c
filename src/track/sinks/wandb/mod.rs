//! Weights & Biases through the client that the user has installed: a small Python program
//! (`worker.py`) is told what happens, line by line. It may be missing before the first step, which is an
//! error; afterwards it may hang, fail or die, which costs what it was to be told and never the run.

mod client; // the process and the thread that speaks to it
mod message; // events as requests

pub use client::Limits;

use super::Sink;
use crate::base::{Error, Result};
use crate::io::atomic;
use crate::track::Event;
use client::Client;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// File of the run's folder that keeps which run of the client's it is.
const IDENTITY: &str = "wandb_run.json";
/// Variables that the Hugging Face trainer acts on and this program does not.
const UNUSED: &[&str] = &["WANDB_LOG_MODEL", "WANDB_WATCH"];

/// What the client is told besides its own variables (`WANDB_*`).
#[derive(Debug, Clone, PartialEq)]
pub struct WandbSettings {
    /// Name of the run; `None` is `WANDB_NAME`, or that of the folder.
    pub run_name: Option<String>,
    /// Project; `None` is `WANDB_PROJECT`, or `grpo-rt`.
    pub project: Option<String>,
    /// The Python that has the client.
    pub python: PathBuf,
    /// Whether a missing client is an error.
    pub required: bool,
    /// Send the completions of every logged step.
    pub completions: bool,
    /// Of those, only the first of each prompt.
    pub unique_prompts: bool,
    /// Send images.
    pub multimodal: bool,
}

/// Sends events to the client.
pub struct WandbSink {
    settings: WandbSettings,
    client: Client,
    identity: Option<Value>,
}

impl WandbSink {
    /// Starts the client and its run. `config` are the settings of the run; `resumed`: go on with the run
    /// whose identity is in the folder.
    ///
    /// # Errors
    /// A usage error if the client is missing or refuses, with what to type.
    pub fn start(
        settings: &WandbSettings,
        run_dir: &Path,
        config: &Map<String, Value>,
        resumed: bool,
    ) -> Result<WandbSink> {
        Self::start_within(settings, run_dir, config, resumed, Limits::default())
    }

    /// [`WandbSink::start`] with other limits of time.
    ///
    /// # Errors
    /// As [`WandbSink::start`].
    pub fn start_within(
        settings: &WandbSettings,
        run_dir: &Path,
        config: &Map<String, Value>,
        resumed: bool,
        limits: Limits,
    ) -> Result<WandbSink> {
        let sink = |client, identity| WandbSink { settings: settings.clone(), client, identity };
        let mut client = match Client::start(&settings.python, limits) {
            Ok(client) => client,
            Err(e) if settings.required => return Err(e),
            Err(e) => {
                let why = format!("Weights & Biases is left out: {}", e.one_line());
                return Ok(sink(Client::none(why), None));
            }
        };
        let init = init_request(settings, run_dir, resumed)?;
        let init = json!({"init": with_config(init, config)});
        let identity = client.begin(init).map_err(|e| e.key("report_to"))?;
        for name in UNUSED.iter().filter(|n| std::env::var_os(n).is_some()) {
            client.notice(format!("warning: {name} is set; grpo-rt does not act on it"));
        }
        if let Some(url) = identity["url"].as_str() {
            client.notice(format!("wandb: {url}"));
        }
        Ok(sink(client, Some(identity)))
    }

    /// Writes down which run it is, for a session that resumes.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn keep_identity(&mut self, run_dir: &Path) -> Result<()> {
        let Some(identity) = &self.identity else { return Ok(()) };
        let text = serde_json::to_string_pretty(identity).expect("a JSON value prints");
        atomic::write_atomic(run_dir.join(IDENTITY), text.as_bytes())
    }

    /// How many things the client was not told.
    pub fn lost(&self) -> Arc<AtomicU64> {
        self.client.lost()
    }
}

impl Sink for WandbSink {
    fn take(&mut self, event: &Event) -> Result<()> {
        for request in message::requests(event, &self.settings) {
            self.client.tell(request);
        }
        Ok(())
    }
    fn close(&mut self) -> Result<()> {
        self.client.finish(0);
        Ok(())
    }
    fn notices(&mut self) -> Vec<String> {
        self.client.notices()
    }
}

/// What `wandb.init` is called with, besides the configuration. What a variable says is left to it.
fn init_request(
    settings: &WandbSettings,
    run_dir: &Path,
    resumed: bool,
) -> Result<Map<String, Value>> {
    let unset = |name: &str| std::env::var_os(name).is_none_or(|v| v.is_empty());
    let full = std::path::absolute(run_dir)
        .map_err(|e| Error::io("cannot say where the run's folder is", run_dir, &e))?;
    let folder = || full.file_name().map(|n| n.to_string_lossy().into_owned());
    let mut init = Map::new();
    if unset("WANDB_DIR") {
        init.insert("dir".into(), json!(full));
    }
    if let Some(known) = resumed.then(|| read_identity(run_dir)).flatten() {
        for key in ["id", "project", "entity", "name"] {
            if let Some(value) = known.get(key) {
                init.insert(key.into(), value.clone());
            }
        }
        init.insert("resume".into(), json!("allow"));
        return Ok(init);
    }
    let project = settings.project.clone();
    let project = project.or_else(|| unset("WANDB_PROJECT").then(|| "grpo-rt".into()));
    let name = settings.run_name.clone();
    let name = name.or_else(|| unset("WANDB_NAME").then(folder).flatten());
    for (key, value) in [("project", project), ("name", name)] {
        if let Some(value) = value {
            init.insert(key.into(), value.into());
        }
    }
    Ok(init)
}

fn with_config(mut init: Map<String, Value>, config: &Map<String, Value>) -> Map<String, Value> {
    init.insert("config".into(), Value::Object(config.clone()));
    init
}

/// The run of the client's that this folder belongs to.
fn read_identity(run_dir: &Path) -> Option<Map<String, Value>> {
    let text = std::fs::read(run_dir.join(IDENTITY)).ok()?;
    serde_json::from_slice(&text).ok()
}
