//! What the commands about data need: which rows are looked at, which files are converted. Opens no file.

use super::{DataSettings, ModelSettings};
use std::path::PathBuf;

/// What `data inspect` needs.
#[derive(Debug, Clone, PartialEq)]
pub struct InspectSettings {
    /// The rows; with `strict`, the first broken one is an error.
    pub data: DataSettings,
    /// The model whose tokens are counted; `None` counts none.
    pub model: Option<ModelSettings>,
    /// Tokens of a completion, for which the model's context must have room too.
    pub max_completion_length: usize,
    /// Sample prompts on the page, at least 1.
    pub num_samples: usize,
    /// HTML file that is written; `None` writes none.
    pub page: Option<PathBuf>,
    /// Print one JSON object instead of text.
    pub json: bool,
}

/// What `data convert vivqa-x` needs.
#[derive(Debug, Clone, PartialEq)]
pub struct ConvertSettings {
    /// Published files with the file that each becomes, in the order given.
    pub files: Vec<(PathBuf, PathBuf)>,
    /// Folder of the images of each of them.
    pub image_folders: Vec<PathBuf>,
    /// System turn of every row; `None` leaves it out.
    pub system_prompt: Option<String>,
    /// The first bad row, or missing image, is an error.
    pub strict: bool,
    /// Replace files that are there.
    pub overwrite: bool,
    /// Print results only.
    pub quiet: bool,
}
