//! What commands need that let models leave: merging, model cards, the hub.

use crate::base::DType;
use crate::io::hub::RepoId;
use std::path::PathBuf;

/// What `merge` needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergeSettings {
    /// Folder of the base model; `None` is the one that the adapter names.
    pub model: Option<PathBuf>,
    /// Folder of the adapter.
    pub adapter: PathBuf,
    /// Folder of the new model.
    pub output_dir: PathBuf,
    /// Write into a folder that is not empty.
    pub overwrite: bool,
    /// Type of the new weights; `None` keeps theirs.
    pub dtype: Option<DType>,
    /// Most bytes of a file of weights.
    pub max_shard_bytes: usize,
    /// What the card says beside what is known.
    pub card: CardSettings,
    /// Print results only.
    pub quiet: bool,
}

/// What a user adds to a model card.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CardSettings {
    /// Identifier of the licence.
    pub license: Option<String>,
    /// `results.json` of an evaluation, or its folder.
    pub results: Option<PathBuf>,
}

/// Where a run's model goes at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubSettings {
    /// The repository; `None` is the name of the run's folder under the user who is logged in.
    pub repo: Option<RepoId>,
    /// Make a new repository private.
    pub private: bool,
}

/// What `push` needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushSettings {
    /// What is uploaded.
    pub folder: PathBuf,
    /// Where to.
    pub repo: RepoId,
    /// Make a new repository private.
    pub private: bool,
    /// Title of the commit.
    pub commit_message: String,
    /// Only show what would be done.
    pub dry_run: bool,
    /// What the card says beside what is known.
    pub card: CardSettings,
}
