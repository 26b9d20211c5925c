//! The checkpoints of a run's folder: which there are, which of them are whole, which go when there
//! are too many. Loads none of them.

use super::load::read_state;
use super::sums::verify;
use super::{STATE, SUMS, TRAINER};
use crate::base::{Error, Result};
use crate::io::checkpoints::list_checkpoints;
use std::path::{Path, PathBuf};

/// What was found out about a checkpoint that can be continued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Every file is what it was when it was saved.
    Whole,
    /// It was saved by a version that wrote no checksums.
    Unsummed,
}

/// Whether a folder was written by this program, so that it may be removed.
pub fn ours(dir: &Path) -> bool {
    dir.join(STATE).is_file() || dir.join(SUMS).is_file()
}

/// Looks whether a run can be continued from a checkpoint: all files there, none of them changed.
///
/// # Errors
/// What is wrong with which file, with what was expected and what was found.
pub fn inspect(dir: &Path) -> Result<Found> {
    let has = |name: &str| dir.join(name).is_file();
    let damaged = |name: &str| {
        Error::data("the checkpoint is damaged").file(dir.join(name)).found("the file is missing")
    };
    if !has(SUMS) {
        return match (has(STATE), has(TRAINER)) {
            (true, _) if read_state(dir)?.files.is_empty() => Ok(Found::Unsummed),
            (true, _) => Err(damaged(SUMS)),
            (false, _) => read_state(dir).map(|_| Found::Unsummed),
        };
    }
    let summed = verify(dir)?;
    if !has(STATE) {
        return Err(match has(TRAINER) {
            true => Error::data("this checkpoint has the model alone and cannot be continued")
                .file(dir)
                .expected(format!("{STATE}, and the optimizer's state"))
                .hint("it was saved with --save_only_model: start a new run with it as the model or --adapter, and leave that option out if a run is to be resumed"),
            false => damaged(STATE),
        });
    }
    let needed = read_state(dir)?.files;
    match needed.iter().find(|name| !summed.contains(name)) {
        Some(name) => Err(Error::data("the checkpoint's list of checksums is damaged")
            .file(dir.join(SUMS))
            .expected(format!("{} files, {name} among them", needed.len()))
            .found(format!("{} files", summed.len()))),
        None => Ok(Found::Whole),
    }
}

/// The latest checkpoint of a run that can be continued; `warn` hears of those that were passed over.
///
/// # Errors
/// If there are checkpoints, but none that can be continued.
pub fn latest(run_dir: &Path, mut warn: impl FnMut(String)) -> Result<Option<(PathBuf, Found)>> {
    let mut first = None;
    for (_, path) in list_checkpoints(run_dir)?.into_iter().rev() {
        match inspect(&path) {
            Ok(found) => return Ok(Some((path, found))),
            Err(e) => {
                warn(format!("{} is passed over: {}", path.display(), e.one_line()));
                first = first.or(Some(e));
            }
        }
    }
    match first {
        None => Ok(None),
        Some(e) if e.hint_text().is_some() => Err(e),
        Some(e) => Err(e.hint(
            "no checkpoint of this run can be continued: start it again with --overwrite_output_dir",
        )),
    }
}

/// Removes the oldest checkpoints beyond `keep`, but never the one that was saved `last` nor the
/// `best` one (which stays beside the last one even if `keep` is 1, as in transformers).
///
/// # Errors
/// If a folder cannot be removed.
pub fn remove_oldest(run_dir: &Path, keep: usize, last: usize, best: Option<usize>) -> Result<()> {
    let mut all = list_checkpoints(run_dir)?;
    all.retain(|(_, path)| ours(path));
    let surplus = all.len().saturating_sub(keep.max(1));
    let stays = |step: usize| step == last || best == Some(step);
    for (_, path) in all.iter().filter(|(step, _)| !stays(*step)).take(surplus) {
        remove(path)?;
    }
    Ok(())
}

/// Removes a checkpoint so that at no moment half of it stands under its name.
fn remove(path: &Path) -> Result<()> {
    let wrong = |e: std::io::Error| Error::io("cannot remove an old checkpoint", path, &e);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // A name that the next start clears, should this process be killed in between.
    let hidden = path.with_file_name(format!(".{name}.part"));
    if hidden.exists() {
        std::fs::remove_dir_all(&hidden).map_err(wrong)?;
    }
    std::fs::rename(path, &hidden).and_then(|()| std::fs::remove_dir_all(&hidden)).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_and_the_best_stay() {
        let dir = tempfile::tempdir().unwrap();
        let make = |steps: &[usize]| {
            for step in steps {
                let path = dir.path().join(format!("checkpoint-{step}"));
                std::fs::create_dir_all(&path).unwrap();
                std::fs::write(path.join(STATE), "{}").unwrap();
            }
        };
        let steps = || {
            list_checkpoints(dir.path()).unwrap().into_iter().map(|(s, _)| s).collect::<Vec<_>>()
        };
        make(&[2, 4, 6, 8, 10]);
        // Somebody else's, which is neither counted nor removed.
        std::fs::create_dir(dir.path().join("checkpoint-1")).unwrap();
        remove_oldest(dir.path(), 3, 10, Some(4)).unwrap();
        assert_eq!(steps(), [1, 4, 8, 10]);
        remove_oldest(dir.path(), 1, 10, Some(4)).unwrap();
        assert_eq!(steps(), [1, 4, 10]);
        // Continued from an older one by name: what was just saved is not the highest.
        make(&[5]);
        remove_oldest(dir.path(), 2, 5, None).unwrap();
        assert_eq!(steps(), [1, 5, 10]);
        remove_oldest(dir.path(), 1, 5, None).unwrap();
        assert_eq!(steps(), [1, 5]);
    }
}
