//! Checkpoints and final models of a run: which there are, how large, whole or damaged. Reads headers and
//! sums, never weights as numbers, and changes nothing.

use super::{Kind, final_model};
use crate::base::{Error, Result};
use crate::io::safetensors::{ADAPTER_FILE, Checkpoint};
use crate::train::checkpoint::{self, SUMS};
use std::path::{Path, PathBuf};

/// The trainer's state: without it a folder is no checkpoint.
const STATE: &str = "trainer_state.json";

/// A folder with a model of a run.
#[derive(Debug, Clone)]
pub struct Kept {
    /// Optimizer step.
    pub step: u64,
    /// The folder.
    pub path: PathBuf,
    /// What it holds.
    pub kind: Kind,
    /// Size of its files in bytes.
    pub bytes: u64,
    /// What is wrong with it; `None` if nothing was seen.
    pub health: Option<String>,
    /// The best by the metric that the run chose.
    pub best: bool,
}

/// Checkpoints in a run's folder, oldest first; damaged ones are among them.
///
/// # Errors
/// If the folder cannot be read.
pub fn list(run_dir: &Path) -> Result<Vec<Kept>> {
    let entries = std::fs::read_dir(run_dir).map_err(|e| Error::io("cannot read", run_dir, &e))?;
    let steps = entries.flatten().filter_map(|e| {
        let name = e.file_name().into_string().ok()?;
        let step: u64 = name.strip_prefix("checkpoint-")?.parse().ok()?;
        e.path().is_dir().then(|| (step, e.path()))
    });
    let mut steps: Vec<(u64, PathBuf)> = steps.collect();
    steps.sort_unstable();
    let best = best_of(steps.last().map(|(_, path)| path.as_path()));
    let kept = steps.into_iter().map(|(step, path)| {
        let health = quick_look(&path).err().map(|e| e.one_line());
        let kind = final_model(&path).unwrap_or(Kind::Full);
        let best = best.as_deref().is_some_and(|b| path.file_name() == Path::new(b).file_name());
        Kept { step, bytes: size(&path), kind, health, best, path }
    });
    Ok(kept.collect())
}

/// The checkpoint that the newest trainer's state calls the best.
fn best_of(newest: Option<&Path>) -> Option<String> {
    let bytes = std::fs::read(newest?.join(STATE)).ok()?;
    let state: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
    state.get("best_model_checkpoint")?.as_str().map(str::to_string)
}

/// Whether everything that must be there is, without reading it all: state, weights by their headers,
/// and of files with sums that they are there.
///
/// # Errors
/// What is missing or damaged.
pub fn quick_look(dir: &Path) -> Result<()> {
    if dir.join(SUMS).is_file() {
        let names = checkpoint::summed(dir)?;
        if let Some(name) = names.iter().find(|name| !dir.join(name).is_file()) {
            return Err(missing(dir, name));
        }
    }
    if !dir.join(STATE).is_file() {
        return Err(missing(dir, STATE));
    }
    match final_model(dir) {
        Some(Kind::Adapter) => Checkpoint::open(dir.join(ADAPTER_FILE)).map(|_| ()),
        Some(Kind::Full) => Checkpoint::open(dir).map(|_| ()),
        None => Err(missing(dir, "weights")),
    }
}

/// [`quick_look`], and every file held against its sum. False if there are no sums to hold against.
///
/// # Errors
/// What is missing or damaged.
pub fn verify(dir: &Path) -> Result<bool> {
    quick_look(dir)?;
    let summed = dir.join(SUMS).is_file();
    if summed {
        checkpoint::verify(dir)?;
    }
    Ok(summed)
}

fn missing(dir: &Path, name: &str) -> Error {
    Error::data(format!("{name} is missing"))
        .file(dir)
        .hint("the checkpoint is not whole: use another one")
}

/// Bytes of the files below a folder.
pub fn size(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let sizes = entries.map(|e| match e.file_type() {
        Ok(t) if t.is_dir() => size(&e.path()),
        _ => e.metadata().map_or(0, |m| m.len()),
    });
    sizes.sum()
}
