//! The folder of a run: whether it may be written, what a run continues from, and what has to go
//! before it does. Every file that a run adds to over time is cut back here, in [`cut_back`].

use crate::base::{Error, Result};
use crate::io::atomic::clear_leftovers;
use crate::io::checkpoints::list_checkpoints;
use crate::options::Options;
use crate::settings::{OutputSettings, Resume};
use crate::track::SampleLog;
use crate::train::checkpoint::{self, Found};
use crate::train::run_file::{LOCK_FILE, LOG_FILE, RUN_FILE, Session};
use std::path::{Path, PathBuf};

/// The options with all defaults, as a run wrote them when it began.
pub const RESOLVED: &str = "config.resolved.yaml";

/// What a run finds in its folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Opened {
    /// The checkpoint that it goes on from.
    pub from: Option<PathBuf>,
    /// A former session came to no checkpoint: what it left goes.
    pub anew: bool,
}

/// Takes the folder of a run for this session and finds the checkpoint it continues from. Removes nothing but
/// what killed processes left half-written: a former run goes when `RunLog::open` is reached, after
/// model and data have been read.
///
/// # Errors
/// If another process writes to the folder, it holds another run and may not be overwritten, or the
/// checkpoint is damaged.
pub fn open_run_dir(
    options: &Options,
    output: &OutputSettings,
    session: &mut Session,
) -> Result<Opened> {
    let dir = &output.run_dir;
    // First: what a living process is writing looks like what a killed one left.
    session.claim(dir)?;
    let mut opened = Opened::default();
    match &output.resume {
        Resume::No => {}
        Resume::From(path) => {
            tell(path, checkpoint::inspect(path).map_err(in_words)?);
            opened.from = Some(path.clone());
        }
        Resume::Latest => {
            // A checkpoint that was being replaced when its process died comes back by this.
            clear(dir)?;
            let warn = |text: String| eprintln!("warning: {text}");
            match checkpoint::latest(dir, warn).map_err(|e| e.key("resume_from_checkpoint"))? {
                Some((path, found)) => {
                    tell(&path, found);
                    opened.from = Some(path);
                }
                None => opened.anew = starts_anew(options, dir)?,
            }
        }
    }
    // A checkpoint of this very folder is continued; one of elsewhere starts a run of its own.
    let own = opened.from.as_deref().is_some_and(|f| same_folder(f.parent(), dir));
    if !own && !opened.anew && !output.overwrite && holds_run(dir)? {
        return Err(Error::usage("the output folder holds a run already")
            .file(dir)
            .key("output_dir")
            .hint("continue it with --resume_from_checkpoint true, replace it with --overwrite_output_dir, or name another folder"));
    }
    Ok(opened)
}

/// A checkpoint that was named is refused if it is damaged: another one may be meant.
fn in_words(e: Error) -> Error {
    let e = e.key("resume_from_checkpoint");
    match e.hint_text() {
        Some(_) => e,
        None => e.hint("name another checkpoint, or `true` for the latest that is whole"),
    }
}

fn tell(path: &Path, found: Found) {
    if found == Found::Unsummed {
        let path = path.display();
        eprintln!("warning: {path} was saved without checksums; damage would not be noticed");
    }
}

/// Whether a run that came to no checkpoint starts once more: so that a command that is repeated
/// until it is done works from the first time on. Another run's files are not touched.
fn starts_anew(options: &Options, dir: &Path) -> Result<bool> {
    let file = dir.join(RESOLVED);
    let Ok(text) = std::fs::read_to_string(&file) else {
        eprintln!("no checkpoint in {} yet: starting from the beginning", dir.display());
        return Ok(false);
    };
    // What makes it the same run: what is trained, on what, and how it draws.
    const COMMAND: &str = "the command";
    const SAME: [&str; 4] = [COMMAND, "model_name_or_path", "dataset_name", "seed"];
    let (now, then) = (options.to_yaml(), text);
    for key in SAME {
        let (now, then) = match key {
            COMMAND => {
                (now.lines().next().unwrap_or_default(), then.lines().next().unwrap_or_default())
            }
            _ => (entry(&now, key), entry(&then, key)),
        };
        if now != then {
            return Err(Error::usage("the output folder holds another run, without a checkpoint")
                .file(&file)
                .key(key)
                .expected(now)
                .found(then)
                .hint("replace it with --overwrite_output_dir, or name another folder"));
        }
    }
    eprintln!("no checkpoint in {} yet: starting from the beginning", dir.display());
    Ok(true)
}

/// The line of a key in options as they are written.
fn entry<'t>(yaml: &'t str, key: &str) -> &'t str {
    let begin = format!("{key}:");
    yaml.lines().find(|l| l.starts_with(&begin)).unwrap_or("nothing")
}

/// Whether the folder has metrics or checkpoints of a run.
pub fn holds_run(dir: &Path) -> Result<bool> {
    let saved = list_checkpoints(dir)?.iter().any(|(_, path)| checkpoint::ours(path));
    Ok(saved || dir.join("metrics.jsonl").exists())
}

/// Whether two paths lead to one folder that exists.
fn same_folder(a: Option<&Path>, b: &Path) -> bool {
    // The parent of a bare name is the current folder.
    let full =
        |p: &Path| std::fs::canonicalize(if p == Path::new("") { Path::new(".") } else { p });
    a.is_some_and(|a| full(a).is_ok_and(|a| full(b).is_ok_and(|b| a == b)))
}

/// Files that a run writes beside models and checkpoints.
pub const RECORDS: [&str; 12] = [
    RUN_FILE,
    LOCK_FILE,
    LOG_FILE,
    RESOLVED,
    "metrics.jsonl",
    "samples.jsonl",
    "health.jsonl",
    "report.html",
    "curves.svg",
    "trainer_state.json",
    "train_results.json",
    "wandb_run.json",
];

/// Removes what a former run left, and nothing else.
///
/// # Errors
/// If something cannot be removed.
pub fn remove_run(dir: &Path) -> Result<()> {
    let remove = |path: PathBuf| -> Result<()> {
        let gone = if path.is_dir() {
            std::fs::remove_dir_all(&path)
        } else if path.exists() {
            std::fs::remove_file(&path)
        } else {
            Ok(())
        };
        gone.map_err(|e| Error::io("cannot remove what a former run left", &path, &e))
    };
    for (_, path) in list_checkpoints(dir)?.into_iter().filter(|(_, path)| checkpoint::ours(path)) {
        remove(path)?;
    }
    // The lock is held by the run that is about to begin.
    let records = RECORDS.into_iter().filter(|name| *name != LOCK_FILE);
    for name in records.chain(["completions", "runs"]) {
        remove(dir.join(name))?;
    }
    Ok(())
}

/// Removes what killed sessions of a run left half-written.
///
/// # Errors
/// If something cannot be removed.
pub fn clear(dir: &Path) -> Result<()> {
    for folder in [dir.to_path_buf(), dir.join("completions")] {
        clear_leftovers(folder)?;
    }
    Ok(())
}

/// Removes from the files of a run what belongs to steps after `step`, the last whose completions a
/// checkpoint knows: it will be written once more. Metrics are not among them; they are written anew
/// from the checkpoint.
///
/// # Errors
/// If a file cannot be shortened or removed.
pub fn cut_back(dir: &Path, step: usize) -> Result<()> {
    SampleLog::new(dir).cut_after(step as u64)?;
    let completions = dir.join("completions");
    let Ok(entries) = std::fs::read_dir(&completions) else { return Ok(()) };
    for path in entries.flatten().map(|e| e.path()) {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let number = name.strip_prefix("completions_").and_then(|n| n.strip_suffix(".parquet"));
        if number.and_then(|n| n.parse::<usize>().ok()).is_some_and(|n| n > step) {
            std::fs::remove_file(&path)
                .map_err(|e| Error::io("cannot remove later completions", &path, &e))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_whole_keys() {
        let yaml = "# x\nseeds: 2\nseed: 1\n";
        assert_eq!((entry(yaml, "seed"), entry(yaml, "gone")), ("seed: 1", "nothing"));
    }

    #[test]
    fn later_completions_go() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("completions");
        std::fs::create_dir(&folder).unwrap();
        for name in
            ["completions_00002.parquet", "completions_00003.parquet", "notes_00009.parquet"]
        {
            std::fs::write(folder.join(name), "x").unwrap();
        }
        cut_back(dir.path(), 2).unwrap();
        assert!(folder.join("completions_00002.parquet").exists());
        assert!(!folder.join("completions_00003.parquet").exists());
        assert!(folder.join("notes_00009.parquet").exists());
        cut_back(&dir.path().join("none"), 2).unwrap();
    }
}
