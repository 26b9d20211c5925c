//! Copies of models out of runs: a checkpoint as it is, or the final model without the run's records. A
//! copy is there in full or not at all; nothing is overwritten.

use super::checkpoints::{Kept, verify};
use super::parts::{collect, is_of_model};
use super::{Kind, Run, final_model};
use crate::base::{Error, Result};
use crate::io::atomic::commit_dir;
use std::path::{Path, PathBuf};

/// What was copied.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// The folder it came from.
    pub from: PathBuf,
    /// Adapter or all weights.
    pub kind: Kind,
    /// Files.
    pub files: usize,
    /// Bytes.
    pub bytes: u64,
    /// Whether the files were held against sums.
    pub verified: bool,
}

/// Copies the final model of `run`, or its checkpoint of `step`, to the new folder `to`.
///
/// # Errors
/// If there is no such model, it is damaged, `to` has something in it, or a file cannot be copied.
pub fn fetch(run: &Run, step: Option<&str>, to: &Path) -> Result<Fetched> {
    let (from, kind) = match step {
        Some(step) => {
            let kept = chosen(run, step)?;
            (kept.path, kept.kind)
        }
        None => match final_model(&run.dir) {
            Some(kind) => (run.dir.clone(), kind),
            None => return Err(no_final(run)),
        },
    };
    if std::fs::read_dir(to).is_ok_and(|mut d| d.next().is_some()) || to.is_file() {
        return Err(Error::usage("the folder for the copy is not empty")
            .file(to)
            .key("to")
            .hint("name a new folder"));
    }
    let whole = step.is_some();
    let verified = if whole { verify(&from)? } else { run.model_in(&from, kind).map(|_| false)? };
    let mut files = Vec::new();
    collect(&from, &mut files);
    let name = |f: &PathBuf| f.file_name().map(|n| n.to_string_lossy().into_owned());
    files.retain(|f| {
        let direct = f.parent() == Some(&from);
        whole || (direct && name(f).is_some_and(|n| is_of_model(&n)))
    });
    let part = beside(to);
    let copied = copy(&from, &files, &part).and_then(|bytes| commit_dir(&part, to).map(|()| bytes));
    if copied.is_err() {
        // The error that matters is the first one.
        let _ = std::fs::remove_dir_all(&part);
    }
    Ok(Fetched { from, kind, files: files.len(), bytes: copied?, verified })
}

/// A hidden folder beside the one that will be.
fn beside(to: &Path) -> PathBuf {
    let name = to.file_name().map_or("copy".into(), |n| n.to_string_lossy().into_owned());
    to.with_file_name(format!(".{name}.{}.part", std::process::id()))
}

fn copy(from: &Path, files: &[PathBuf], part: &Path) -> Result<u64> {
    let mut bytes = 0;
    for file in files {
        let inner = file.strip_prefix(from).unwrap_or(file);
        let target = part.join(inner);
        if let Some(dir) = target.parent() {
            std::fs::create_dir_all(dir).map_err(|e| Error::io("cannot make a folder", dir, &e))?;
        }
        bytes += std::fs::copy(file, &target).map_err(|e| {
            Error::io("cannot copy", file, &e).at(format!("to {}", target.display()))
        })?;
    }
    Ok(bytes)
}

/// The checkpoint that `step` names: a number, `latest` or `best`.
fn chosen(run: &Run, step: &str) -> Result<Kept> {
    let all = run.checkpoints()?;
    let found = match step {
        "latest" | "last" => all.iter().rev().find(|c| c.health.is_none()),
        "best" => all.iter().find(|c| c.best),
        _ => {
            all.iter().find(|c| Some(c.step) == step.trim_start_matches("checkpoint-").parse().ok())
        }
    };
    let Some(found) = found else {
        let steps: Vec<String> = all.iter().map(|c| c.step.to_string()).collect();
        return Err(Error::usage(format!("the run has no checkpoint `{step}`"))
            .file(&run.dir)
            .expected(if steps.is_empty() {
                "none are there".into()
            } else {
                format!("one of: {}, latest, best", steps.join(", "))
            })
            .hint("grpo-rt runs checkpoints RUN lists them"));
    };
    match &found.health {
        None => Ok(found.clone()),
        Some(why) => Err(Error::data("the checkpoint is damaged")
            .file(&found.path)
            .found(why.clone())
            .hint("take another one: grpo-rt runs checkpoints RUN lists them")),
    }
}

fn no_final(run: &Run) -> Error {
    let error = Error::data("the run has no final model").file(&run.dir);
    match run.checkpoints().ok().and_then(|all| all.last().map(|c| c.step)) {
        Some(step) => error.hint(format!("it has checkpoints: fetch {}:{step}", run.run_id)),
        None => error.hint("it has no checkpoints either; --save_steps says when they are written"),
    }
}
