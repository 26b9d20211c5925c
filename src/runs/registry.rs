//! The runs below a folder, and one of them by name. Looks three folders deep, never into a run's own
//! folders and never into hidden ones; opens no weights.

use super::Run;
use crate::base::{Error, Result};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Folders below the root that are looked into: `output_dir`, a project, a run.
const DEPTH: usize = 3;

/// Folders of a run that are no runs.
fn is_part(name: &str) -> bool {
    name.starts_with("checkpoint-") || matches!(name, "runs" | "completions" | "wandb")
}

/// Every run in `root` and below, in the order of their folders.
///
/// # Errors
/// If `root` cannot be read. Folders below that cannot are passed over.
pub fn list(root: &Path) -> Result<Vec<Run>> {
    std::fs::read_dir(root).map_err(|e| {
        Error::io("cannot look for runs", root, &e)
            .key("output_dir")
            .hint("give the folder that runs are below with --output_dir")
    })?;
    let mut runs = Vec::new();
    let mut seen = HashSet::new();
    let mut todo = vec![(root.to_path_buf(), 0)];
    while let Some((dir, depth)) = todo.pop() {
        // Links may lead to one folder on several ways, or in a circle.
        if !seen.insert(std::fs::canonicalize(&dir).unwrap_or_else(|_| dir.clone())) {
            continue;
        }
        let run = Run::open(&dir);
        if depth < DEPTH {
            let inside = folders(&dir).into_iter();
            let inside = inside.filter(|(name, _)| run.is_none() || !is_part(name));
            todo.extend(inside.map(|(_, path)| (path, depth + 1)));
        }
        runs.extend(run);
    }
    runs.sort_by(|a, b| a.dir.cmp(&b.dir));
    Ok(runs)
}

/// Folders in `dir` that are not hidden; none if it cannot be read.
fn folders(dir: &Path) -> Vec<(String, PathBuf)> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let shown = entries.filter_map(|e| {
        let name = e.file_name().to_string_lossy().into_owned();
        // A file is told from a folder without a look at it; what a link leads to is not.
        let kind = e.file_type().ok()?;
        let folder = kind.is_dir() || (kind.is_symlink() && e.path().is_dir());
        (folder && !name.starts_with('.')).then(|| (name, e.path()))
    });
    shown.collect()
}

/// The run called `run_id` in `root` or below; a run's folder is taken, too.
///
/// # Errors
/// If there is none, or there are several of that name.
pub fn find(root: &Path, run_id: &str) -> Result<Run> {
    let runs = list(root)?;
    let mut named: Vec<&Run> = runs.iter().filter(|r| r.run_id == run_id).collect();
    match named.as_slice() {
        [one] => Ok((*one).clone()),
        [] => {
            let folder = PathBuf::from(run_id);
            let there = [root.join(&folder), folder];
            let found = there.iter().filter(|f| f.is_dir()).find_map(|f| Run::open(f));
            found.ok_or_else(|| unknown(root, run_id, &runs))
        }
        several => {
            let shown = several.iter().map(|r| r.dir.display().to_string());
            let paths = shown.collect::<Vec<_>>().join(" and ");
            let first = named.remove(0).dir.display().to_string();
            Err(Error::usage(format!("several runs are called `{run_id}`"))
                .file(root)
                .found(paths)
                .hint(format!("give the folder in place of the name: {first}")))
        }
    }
}

fn unknown(root: &Path, run_id: &str, runs: &[Run]) -> Error {
    let error = Error::usage(format!("there is no run `{run_id}`")).file(root).key("run_id");
    if runs.is_empty() {
        return error
            .found("no runs at all")
            .hint("give the folder that runs are below with --output_dir");
    }
    let mut names: Vec<&str> = runs.iter().map(|r| r.run_id.as_str()).take(12).collect();
    names.dedup();
    let more = if runs.len() > names.len() { ", ..." } else { "" };
    error
        .expected(format!("one of: {}{more}", names.join(", ")))
        .hint("grpo-rt runs list shows them; --output_dir names another folder to look in")
}

#[cfg(test)]
mod tests;
