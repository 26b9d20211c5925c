//! Whole-file writes that are there or not: a temporary file in the same folder, synced, then
//! renamed over the old one. A reader (or a run that is resumed after a power cut) never sees half
//! a file here, and a failed write never leaves its temporary file behind.

use crate::base::{Error, Result};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Writes `bytes` to `path`, replacing an existing file in one step.
///
/// # Errors
/// Of kind I/O, naming `path`; the old file is then untouched.
pub fn write_atomic(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    let path = path.as_ref();
    write_atomic_with(path, |w| w.write_all(bytes).map_err(|e| write_error(path, &e)))
}

/// Lets `write` fill a temporary file beside `path`, then syncs it and renames it to `path`.
///
/// # Errors
/// What `write` returned, or of kind I/O, naming `path`; the old file is then untouched.
pub fn write_atomic_with(
    path: impl AsRef<Path>,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<()>,
) -> Result<()> {
    let path = path.as_ref();
    let tmp = Doomed::beside(path)?;
    let file = File::create_new(&tmp.path).map_err(|e| write_error(path, &e))?;
    let mut w = BufWriter::with_capacity(1 << 20, file);
    let written = write(&mut w);
    // Without this the writer would try once more to flush to a full disk when it is dropped.
    let (file, buffered) = match written {
        Ok(()) => match w.into_inner() {
            Ok(file) => (file, Ok(())),
            Err(e) => {
                let (e, w) = e.into_parts();
                (w.into_parts().0, Err(write_error(path, &e)))
            }
        },
        Err(e) => (w.into_parts().0, Err(e)),
    };
    buffered?;
    file.sync_all().map_err(|e| write_error(path, &e))?;
    drop(file);
    fs::rename(&tmp.path, path).map_err(|e| write_error(path, &e))?;
    tmp.keep();
    sync_dir(parent(path))
}

/// Makes the finished folder `tmp_dir` appear as `final_dir`: syncs every file in it and renames
/// it. An existing `final_dir` is moved aside first and removed last, so that at every moment a
/// complete folder exists under one of the two names; if the rename fails it is moved back.
///
/// # Errors
/// Of kind I/O, naming the folder.
pub fn commit_dir(tmp_dir: impl AsRef<Path>, final_dir: impl AsRef<Path>) -> Result<()> {
    let (tmp, end) = (tmp_dir.as_ref(), final_dir.as_ref());
    sync_tree(tmp)?;
    let fail = |e: std::io::Error| {
        Error::io("cannot move the finished folder into place", end, &e)
            .hint(format!("its files are complete in {}", tmp.display()))
    };
    let old = match fs::symlink_metadata(end) {
        Ok(_) => {
            let old = hidden_beside(end, "old")?;
            fs::rename(end, &old).map_err(fail)?;
            Some(old)
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        Err(e) => return Err(fail(e)),
    };
    if let Err(e) = fs::rename(tmp, end) {
        if let Some(old) = &old {
            // Best effort: the first error is the one to report.
            let _ = fs::rename(old, end);
        }
        return Err(fail(e));
    }
    sync_dir(parent(end))?;
    if let Some(old) = old {
        let removed = if old.is_dir() { fs::remove_dir_all(&old) } else { fs::remove_file(&old) };
        removed.map_err(|e| Error::io("cannot remove the folder that was replaced", &old, &e))?;
    }
    Ok(())
}

/// Removes its file when dropped, unless it was kept.
struct Doomed {
    path: PathBuf,
    doomed: bool,
}

impl Doomed {
    fn beside(path: &Path) -> Result<Self> {
        Ok(Doomed { path: hidden_beside(path, "tmp")?, doomed: true })
    }
    fn keep(mut self) {
        self.doomed = false;
    }
}

impl Drop for Doomed {
    fn drop(&mut self) {
        if self.doomed {
            // The file may not exist; an error here would hide the one that doomed it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A hidden name in the folder of `path` that no other writer uses at the same time.
fn hidden_beside(path: &Path, what: &str) -> Result<PathBuf> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().ok_or_else(|| {
        Error::usage("this path has no file name").file(path).expected("a path that ends in a name")
    })?;
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    let hidden = format!(".{}.{what}-{}-{n}", name.to_string_lossy(), std::process::id());
    Ok(path.with_file_name(hidden))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

/// Syncs every file and folder below `dir`, then `dir` itself.
fn sync_tree(dir: &Path) -> Result<()> {
    let fail = |e: std::io::Error| Error::io("cannot sync the folder", dir, &e);
    for entry in fs::read_dir(dir).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let kind = entry.file_type().map_err(fail)?;
        if kind.is_dir() {
            sync_tree(&entry.path())?;
        } else if kind.is_file() {
            let path = entry.path();
            File::open(&path)
                .and_then(|f| f.sync_all())
                .map_err(|e| Error::io("cannot sync the file", &path, &e))?;
        }
    }
    sync_dir(dir)
}

/// Makes renames in `dir` durable. Only Unix lets a folder be opened and synced.
fn sync_dir(dir: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(dir)
            .and_then(|d| d.sync_all())
            .map_err(|e| Error::io("cannot sync the folder", dir, &e))?;
    }
    Ok(())
}

fn write_error(path: &Path, e: &std::io::Error) -> Error {
    let error = Error::io("cannot write the file", path, e);
    match e.kind() {
        std::io::ErrorKind::NotFound => error.hint("create the folder first"),
        _ => error,
    }
}

/// Removes what a killed writer left in `dir` (temporary files, folders that were never finished)
/// and puts back a finished folder that was being replaced. Only for a folder that nobody else
/// writes to. Returns the names of what was removed; a folder that is not there has none.
///
/// # Errors
/// Of kind I/O, naming what cannot be removed.
pub fn clear_leftovers(dir: impl AsRef<Path>) -> Result<Vec<String>> {
    let dir = dir.as_ref();
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io("cannot read the folder", dir, &e)),
    };
    let mut removed = Vec::new();
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let Some(of) = leftover(&name) else { continue };
        let (path, end) = (entry.path(), dir.join(of.name));
        let is_dir = entry.file_type().is_ok_and(|t| t.is_dir());
        let gone = match (of.replaced && !end.exists(), is_dir) {
            // Killed between the two renames of `commit_dir`: the old folder is the whole one.
            (true, _) => fs::rename(&path, &end),
            (false, true) => fs::remove_dir_all(&path),
            (false, false) => fs::remove_file(&path),
        };
        gone.map_err(|e| Error::io("cannot remove what a killed run left", &path, &e))?;
        removed.push(name);
    }
    Ok(removed)
}

/// What a hidden name was on its way to.
struct Leftover<'a> {
    name: &'a str,
    /// The old one, moved aside.
    replaced: bool,
}

/// Reads the hidden names of [`hidden_beside`], and `.<name>.part` and `.<name>.<process>.part`.
fn leftover(hidden: &str) -> Option<Leftover<'_>> {
    let rest = hidden.strip_prefix('.')?;
    if let Some(name) = rest.strip_suffix(".part") {
        let owner = name.rsplit_once('.').filter(|(_, n)| number(n));
        return Some(Leftover { name: owner.map_or(name, |(name, _)| name), replaced: false });
    }
    let (rest, count) = rest.rsplit_once('-')?;
    let (rest, process) = rest.rsplit_once('-')?;
    let (name, what) = rest.rsplit_once('.')?;
    let ours =
        number(count) && number(process) && !name.is_empty() && ["tmp", "old"].contains(&what);
    ours.then_some(Leftover { name, replaced: what == "old" })
}

fn number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut v: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        v.sort();
        v
    }

    #[test]
    fn replaces_the_file_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        write_atomic(&path, b"one").unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(names(dir.path()), ["a.json"]);
    }

    #[test]
    fn a_failed_write_keeps_the_old_file_and_no_temporary_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        write_atomic(&path, b"old").unwrap();
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let e = write_atomic_with(&path, |w| {
            w.write_all(&[7; 100]).unwrap();
            Err(write_error(&path, &full))
        })
        .unwrap_err();
        assert_eq!(e.exit_code(), 4);
        assert!(e.hint_text().unwrap().contains("space"));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(dir.path()), ["a.json"]);
    }

    #[test]
    fn a_missing_folder_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let e = write_atomic(dir.path().join("no/such/a.json"), b"x").unwrap_err();
        assert!(e.to_string().contains("no/such/a.json"), "{e}");
        assert!(e.hint_text().unwrap().contains("folder"));
        assert_eq!(write_atomic("/", b"x").unwrap_err().exit_code(), 2);
    }

    #[test]
    fn commit_replaces_a_folder_that_has_files() {
        let dir = tempfile::tempdir().unwrap();
        let (tmp, end) = (dir.path().join("tmp"), dir.path().join("checkpoint-1"));
        for round in ["one", "two"] {
            fs::create_dir_all(tmp.join("sub")).unwrap();
            fs::write(tmp.join("sub/w.bin"), round).unwrap();
            commit_dir(&tmp, &end).unwrap();
            assert_eq!(fs::read_to_string(end.join("sub/w.bin")).unwrap(), round);
            assert_eq!(names(dir.path()), ["checkpoint-1"]);
        }
        assert_eq!(commit_dir(&tmp, &end).unwrap_err().exit_code(), 4);
        assert_eq!(fs::read_to_string(end.join("sub/w.bin")).unwrap(), "two");
    }

    #[test]
    fn leftovers_go_and_a_folder_that_was_being_replaced_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in [".a.json.tmp-12-0", ".b.parquet.77.part", "kept.part", ".hidden", ".x-1-2"] {
            fs::write(at(name), "x").unwrap();
        }
        for name in [".checkpoint-3.part", ".checkpoint-4.old-9-1", ".checkpoint-5.old-9-2"] {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join("w"), name).unwrap();
        }
        fs::create_dir(at("checkpoint-5")).unwrap();
        assert_eq!(clear_leftovers(dir.path()).unwrap().len(), 5);
        let left = [".hidden", ".x-1-2", "checkpoint-4", "checkpoint-5", "kept.part"];
        assert_eq!(names(dir.path()), left);
        assert!(at("checkpoint-4/w").is_file());
        assert!(clear_leftovers(at("none")).unwrap().is_empty());
    }
}
