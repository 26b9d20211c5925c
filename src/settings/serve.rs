//! What the chat endpoint is told. Data, no logic.

use super::{MachineSettings, ModelSettings, SamplingSettings};
use std::path::PathBuf;
use std::time::Duration;

/// What `serve` needs.
#[derive(Debug, Clone, PartialEq)]
pub struct ServeSettings {
    /// The model; its path is empty where a run names it.
    pub model: ModelSettings,
    /// The run whose model is served, and the folder that it is looked for in.
    pub run: Option<(String, PathBuf)>,
    /// Name of the model for clients; `None` is that of the run or of the model's folder.
    pub name: Option<String>,
    /// Interface to listen on.
    pub host: String,
    /// Port; 0 takes a free one.
    pub port: u16,
    /// What requests must show.
    pub token: Option<String>,
    /// Bytes of a request's body.
    pub max_body: usize,
    /// Connections at a time.
    pub max_connections: usize,
    /// Requests that wait or are answered at a time, at least 1.
    pub max_queue: usize,
    /// Most tokens of a prompt and its completion; `None` is what the model and 32768 allow.
    pub max_model_len: Option<usize>,
    /// Time that answers under way have at the end.
    pub drain: Duration,
    /// Pictures by address are fetched.
    pub allow_image_urls: bool,
    /// Also from this machine and private networks.
    pub allow_private_urls: bool,
    /// Limits of the engine, and what holds for requests that do not say.
    pub sampling: SamplingSettings,
    /// Root of everything random.
    pub seed: u64,
    /// Threads and memory.
    pub machine: MachineSettings,
}
