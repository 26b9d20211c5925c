//! Which rows a command reads and what is put around their questions. Reads no row.

use std::path::{Path, PathBuf};

use crate::io::dataset::{Filter, Share};
use crate::settings::tasks::Task;

/// Rows of data files.
#[derive(Debug, Clone, PartialEq)]
pub struct DataSettings {
    /// Data files, joined in this order; at least one.
    pub files: Vec<PathBuf>,
    /// Folders that paths of images and videos start from: none (beside the file), one for all, or one per file.
    pub image_folders: Vec<PathBuf>,
    /// Split of folders that have several.
    pub split: Option<String>,
    /// The rows are measured, not trained on: another split is taken without `split`.
    pub measures: bool,
    /// Every data file must be a folder of `save_to_disk`.
    pub saved_by_datasets: bool,
    /// Other names of columns: (ours, the file's).
    pub columns: Vec<(String, String)>,
    /// Which rows are taken.
    pub filter: Filter,
    /// Of those, a share: none (all of them), one for all files, or one per file.
    pub shares: Vec<Share>,
    /// Decides which rows a share draws.
    pub seed: u64,
    /// Whose prompts are used where the two below are unset.
    pub task: Option<&'static Task>,
    /// Share of the rows that is measured and not trained on, below 1.
    pub val_split_ratio: f64,
    /// Text around every question, with `{Question}` in it, or its file.
    pub question_template: Option<String>,
    /// System message before every prompt, or its file.
    pub system_prompt: Option<String>,
    /// Whether the first bad row ends the run.
    pub strict: bool,
    /// Use only this many rows.
    pub max_rows: Option<usize>,
    /// Whether rows are drawn in an order of the seed.
    pub shuffle: bool,
    /// Most tokens of a prompt, image tokens included; a longer one is a bad row.
    pub max_prompt_length: Option<usize>,
}

impl DataSettings {
    /// The folder that image paths of data file number `file` start from.
    pub fn image_folder(&self, file: usize) -> PathBuf {
        match self.image_folders.as_slice() {
            [] => self.files[file].parent().unwrap_or(Path::new("")).to_path_buf(),
            [one] => one.clone(),
            many => many[file].clone(),
        }
    }
}
