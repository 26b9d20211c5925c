//! What has been read of runs, kept until their files change: a page that looks every two seconds at a
//! hundred runs reads what is new and nothing twice. Writes nothing.

use crate::base::{Error, Result};
use crate::runs::curves::Curves;
use crate::runs::summary::{Course, course};
use crate::runs::view::{Entry, entry_with};
use crate::runs::{METRICS, Run, list};
use crate::track::parse_row;
use crate::track::{SampleGroup, SampleLog};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// How long the list of runs counts as new.
const FRESH: Duration = Duration::from_secs(1);
/// A file this long is not read again for the list before it has rested.
const LONG: u64 = 8 << 20;
const REST: Duration = Duration::from_secs(10);
/// Runs whose figures are kept: as many as somebody compares, and a few.
const KEPT: usize = 12;

/// A run and its key.
#[derive(Debug, Clone)]
pub struct Known {
    /// What requests call it.
    pub key: String,
    /// The run.
    pub run: Run,
    /// As it stands in the list.
    pub entry: Entry,
}

/// Length and time of a file.
type Stamp = (u64, Option<SystemTime>);

/// The sample groups of a run.
type Groups = Arc<Vec<SampleGroup>>;

/// Everything that is kept.
pub struct Shelf {
    root: PathBuf,
    list: Mutex<Option<(Instant, Arc<Vec<Known>>)>>,
    courses: Mutex<HashMap<PathBuf, (Instant, Stamp, Course)>>,
    figures: Mutex<Vec<(PathBuf, Arc<Mutex<Followed>>)>>,
    samples: Mutex<Option<(PathBuf, Stamp, Groups)>>,
}

/// A lock that a panic elsewhere does not take from everybody.
fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

fn stamp(path: &Path) -> Stamp {
    std::fs::metadata(path).map_or((0, None), |m| (m.len(), m.modified().ok()))
}

/// The key of a run's folder.
pub fn key_of(dir: &Path) -> String {
    let full = std::fs::canonicalize(dir).unwrap_or_else(|_| dir.to_path_buf());
    let digest = Sha256::digest(full.as_os_str().as_encoded_bytes());
    digest.iter().take(8).map(|b| format!("{b:02x}")).collect()
}

impl Shelf {
    /// The runs in `root` and below.
    pub fn new(root: &Path) -> Shelf {
        Shelf {
            root: root.to_path_buf(),
            list: Mutex::default(),
            courses: Mutex::default(),
            figures: Mutex::default(),
            samples: Mutex::default(),
        }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Every run.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn runs(&self) -> Result<Arc<Vec<Known>>> {
        let mut kept = held(&self.list);
        if let Some((at, runs)) = &*kept
            && at.elapsed() < FRESH
        {
            return Ok(runs.clone());
        }
        let known = list(&self.root)?.into_iter().map(|run| {
            let entry = entry_with(&run, self.course(&run.dir));
            Known { key: key_of(&run.dir), run, entry }
        });
        let runs = Arc::new(known.collect::<Vec<_>>());
        *kept = Some((Instant::now(), runs.clone()));
        Ok(runs)
    }

    /// The run of a key.
    ///
    /// # Errors
    /// If there is none.
    pub fn run(&self, key: &str) -> Result<Known> {
        let found = self.runs()?.iter().find(|k| k.key == key).cloned();
        found.ok_or_else(|| Error::usage("there is no such run").hint("reload the list of runs"))
    }

    fn course(&self, dir: &Path) -> Course {
        let now = stamp(&dir.join(METRICS));
        let mut courses = held(&self.courses);
        match courses.get(dir) {
            Some((_, then, course)) if *then == now => course.clone(),
            Some((at, _, course)) if now.0 > LONG && at.elapsed() < REST => course.clone(),
            _ => {
                let new = course(dir);
                courses.insert(dir.to_path_buf(), (Instant::now(), now, new.clone()));
                new
            }
        }
    }

    /// Calls `look` with the figures of a run, brought up to date.
    ///
    /// # Errors
    /// If their file is there and cannot be read.
    pub fn figures<T>(&self, run: &Run, look: impl FnOnce(&Curves) -> T) -> Result<T> {
        let followed = {
            let mut all = held(&self.figures);
            let at = all.iter().position(|(dir, _)| *dir == run.dir);
            let one = match at {
                Some(at) => all.remove(at),
                None => (run.dir.clone(), Arc::default()),
            };
            // The last one is the one used last.
            all.push(one.clone());
            let surplus = all.len().saturating_sub(KEPT);
            all.drain(..surplus);
            one.1
        };
        let mut followed = held(&followed);
        followed.catch_up(&run.dir.join(METRICS))?;
        Ok(look(&followed.curves))
    }

    /// The sample groups of a run.
    ///
    /// # Errors
    /// If their file is there and cannot be read.
    pub fn samples(&self, run: &Run) -> Result<Groups> {
        let now = stamp(&run.dir.join("samples.jsonl"));
        let mut kept = held(&self.samples);
        if let Some((dir, then, groups)) = &*kept
            && (dir, then) == (&run.dir, &now)
        {
            return Ok(groups.clone());
        }
        let groups = Arc::new(SampleLog::new(&run.dir).read()?);
        *kept = Some((run.dir.clone(), now, groups.clone()));
        Ok(groups)
    }
}

/// A file of figures, read as far as it was there.
#[derive(Default)]
pub struct Followed {
    curves: Curves,
    /// Bytes that were read: whole lines.
    at: u64,
    /// The last of these bytes: a file that was shortened and written on has others there.
    end: Vec<u8>,
}

/// Bytes that are compared.
const END: usize = 256;

impl Followed {
    /// Reads what is new.
    fn catch_up(&mut self, path: &Path) -> Result<()> {
        let fail = |e: std::io::Error| Error::io("cannot read the figures", path, &e);
        let mut file = match std::fs::File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                *self = Followed::default();
                return Ok(());
            }
            Err(e) => return Err(fail(e)),
        };
        let length = file.metadata().map_err(fail)?.len();
        if length < self.at || !self.is_same(&mut file).map_err(fail)? {
            *self = Followed::default();
        }
        file.seek(SeekFrom::Start(self.at)).map_err(fail)?;
        let mut new = Vec::new();
        file.take(length - self.at).read_to_end(&mut new).map_err(fail)?;
        // A line without its end is being written.
        let whole = new.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
        new.truncate(whole);
        String::from_utf8_lossy(&new)
            .lines()
            .filter_map(parse_row)
            .for_each(|r| self.curves.push(&r));
        self.at += whole as u64;
        self.end.extend(new);
        let surplus = self.end.len().saturating_sub(END);
        self.end.drain(..surplus);
        Ok(())
    }

    /// Whether the file still has what was read last where it was read.
    fn is_same(&self, file: &mut std::fs::File) -> std::io::Result<bool> {
        let mut there = vec![0; self.end.len()];
        file.seek(SeekFrom::Start(self.at - self.end.len() as u64))?;
        file.read_exact(&mut there)?;
        Ok(there == self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_growing_file_is_read_on_and_a_shortened_one_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(METRICS);
        let mut f = Followed::default();
        f.catch_up(&path).unwrap();
        let rows = |from: u64, to: u64, v: f64| {
            (from..=to).map(|s| format!("{{\"step\":{s},\"reward\":{v}}}\n")).collect::<String>()
        };
        std::fs::write(&path, rows(1, 50, 0.5) + "{\"step\":51,\"rew").unwrap();
        f.catch_up(&path).unwrap();
        assert_eq!((f.curves.len(), f.at), (50, rows(1, 50, 0.5).len() as u64));
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"ard\":1}\n").unwrap();
        f.catch_up(&path).unwrap();
        assert_eq!(f.curves.values("reward").last(), Some(&1.0));
        // Resumed from step 20 and longer than before: the old rows must go.
        std::fs::write(&path, rows(1, 20, 0.5) + &rows(21, 90, 0.7)).unwrap();
        f.catch_up(&path).unwrap();
        assert_eq!((f.curves.len(), f.curves.values("reward")[30]), (90, 0.7));
        std::fs::write(&path, rows(1, 3, 0.5)).unwrap();
        f.catch_up(&path).unwrap();
        assert_eq!(f.curves.len(), 3);
        std::fs::remove_file(&path).unwrap();
        f.catch_up(&path).unwrap();
        assert!(f.curves.is_empty());
    }
}
