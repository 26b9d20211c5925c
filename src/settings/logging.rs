//! What a run reports, and where. Opens nothing.

use crate::track::WandbSettings;
use std::path::PathBuf;

/// What is reported, and where.
#[derive(Debug, Clone, PartialEq)]
pub struct LoggingSettings {
    /// Steps between two lines of metrics, at least 1.
    pub steps: usize,
    /// Log the first step, too.
    pub first_step: bool,
    /// Name of the run in the trackers; `None` is that of its folder.
    pub run_name: Option<String>,
    /// Folder of the TensorBoard events; `None` writes none.
    pub tensorboard_dir: Option<PathBuf>,
    /// Whether metrics.jsonl is written.
    pub jsonl: bool,
    /// Weights & Biases; `None` is not asked.
    pub wandb: Option<WandbSettings>,
    /// Completions printed at every logged step; `None` is all of them, `Some(0)` is none.
    pub print_completions: Option<usize>,
    /// Completions of every logged step that trackers show.
    pub track_completions: usize,
    /// Only the first completion of each prompt is printed and sent.
    pub unique_prompts: bool,
    /// Whether trackers show images.
    pub multimodal: bool,
    /// Whether alerts are raised.
    pub health_alerts: bool,
    /// Alerts that stop the run; `all` among them is every one.
    pub stop_on_alert: Vec<String>,
    /// Show the run on the whole terminal.
    pub tui: bool,
    /// Say what is trained before the first step.
    pub print_trainable: bool,
    /// Print warnings, errors and results only.
    pub quiet: bool,
}

impl LoggingSettings {
    /// Whether an alert of this name stops the run.
    pub fn stops_at(&self, alert: &str) -> bool {
        self.stop_on_alert.iter().any(|name| name == "all" || name == alert)
    }
}
