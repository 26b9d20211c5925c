//! Removing what a run wrote. Files that it did not write stay, with their folder; a run that goes is not
//! touched.

use super::parts::{collect, files_of_folder, is_checkpoint, is_of_model, is_record};
use super::{Run, State, final_model};
use crate::base::{Error, Result};
use crate::publish::is_card;
use crate::train::run_file::{LOCK_FILE, Session};
use std::path::{Path, PathBuf};

/// What a deletion would remove and leave.
#[derive(Debug, Clone, Default)]
pub struct Doomed {
    /// Files of the run.
    pub files: Vec<PathBuf>,
    /// Folders of the run, that go if they are empty then.
    pub folders: Vec<PathBuf>,
    /// Bytes of the files.
    pub bytes: u64,
    /// What is in the run's folder and is not the run's, by its path in it.
    pub left: Vec<PathBuf>,
}

/// Looks what a deletion of `run` would remove.
///
/// # Errors
/// If the folder cannot be read, or the run goes on.
pub fn doomed(run: &Run) -> Result<Doomed> {
    if run.state == State::Running {
        let who = format!("process {} on {}", run.file.pid, run.file.host);
        return Err(Error::usage(format!("the run `{}` is running", run.run_id))
            .file(&run.dir)
            .found(run.note.clone().unwrap_or(who))
            .hint(
                "stop it first: Ctrl-C, or kill with its process number; it saves a checkpoint",
            ));
    }
    let mut all = Doomed::default();
    let entries = std::fs::read_dir(&run.dir);
    let entries = entries.map_err(|e| Error::io("cannot read the run's folder", &run.dir, &e))?;
    let has_model = final_model(&run.dir).is_some();
    // A page about the model may be its user's own.
    let of_model = |name: &str| match name {
        "README.md" => is_card(&run.dir.join(name)),
        _ => has_model && is_of_model(name),
    };
    for entry in entries {
        let entry = entry.map_err(|e| Error::io("cannot read the run's folder", &run.dir, &e))?;
        let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
        let is_folder = entry.file_type().is_ok_and(|t| t.is_dir());
        if is_folder && is_checkpoint(&name, &path) {
            collect(&path, &mut all.files);
            folders_below(&path, &mut all.folders);
        } else if let Some(files) = files_of_folder(&name, &path).filter(|_| is_folder) {
            all.files.extend(files);
            folders_below(&path, &mut all.folders);
        } else if !is_folder && (is_record(&name) || of_model(&name)) {
            all.files.push(path);
        }
    }
    all.files.sort();
    all.bytes = all.files.iter().filter_map(|f| f.symlink_metadata().ok()).map(|m| m.len()).sum();
    let mut every = Vec::new();
    collect(&run.dir, &mut every);
    let theirs = every.iter().filter(|f| all.files.binary_search(f).is_err());
    all.left =
        theirs.filter_map(|f| f.strip_prefix(&run.dir).ok()).map(Path::to_path_buf).collect();
    Ok(all)
}

/// Removes what [`doomed`] found, the lock last. True if the folder itself went, too.
///
/// # Errors
/// If the run was started meanwhile, or a file cannot be removed; what was removed before is gone.
pub fn delete(run: &Run, doomed: &Doomed) -> Result<bool> {
    // Held to the end: nobody resumes what is being removed.
    let mut session = Session::default();
    session.claim(&run.dir)?;
    let lock = run.dir.join(LOCK_FILE);
    for file in doomed.files.iter().filter(|f| **f != lock) {
        match std::fs::remove_file(file) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("cannot remove a file of the run", file, &e).hint(
                    "what stands before it in the list is gone; mend this and delete again",
                ));
            }
            _ => {}
        }
    }
    let mut folders = doomed.folders.clone();
    // Inner folders first. One that is not empty has something of somebody else and stays.
    folders.sort_by_key(|f| std::cmp::Reverse(f.components().count()));
    folders.iter().for_each(|f| drop(std::fs::remove_dir(f)));
    std::fs::remove_file(&lock).map_err(|e| Error::io("cannot remove the lock", &lock, &e))?;
    Ok(std::fs::remove_dir(&run.dir).is_ok())
}

fn folders_below(dir: &Path, found: &mut Vec<PathBuf>) {
    found.push(dir.to_path_buf());
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            folders_below(&entry.path(), found);
        }
    }
}
