//! Where the checkpoints of a run lie, as the Hugging Face trainer names them: `checkpoint-<step>`. Looks
//! at names alone.

use crate::base::{Error, Result};
use std::path::{Path, PathBuf};

/// Folders `checkpoint-<step>` of a run, oldest first, whole or not.
///
/// # Errors
/// If the folder cannot be read; a folder that does not exist has none.
pub fn list_checkpoints(run_dir: &Path) -> Result<Vec<(usize, PathBuf)>> {
    if !run_dir.is_dir() {
        return Ok(Vec::new());
    }
    let entries = std::fs::read_dir(run_dir).map_err(|e| Error::io("cannot read", run_dir, &e))?;
    let mut all: Vec<(usize, PathBuf)> = entries
        .flatten()
        .filter_map(|e| {
            let name = e.file_name().into_string().ok()?;
            let step = name.strip_prefix("checkpoint-")?.parse().ok()?;
            e.path().is_dir().then(|| (step, e.path()))
        })
        .collect();
    all.sort_unstable();
    Ok(all)
}
