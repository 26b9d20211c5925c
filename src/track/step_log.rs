//! Files of a run that hold one JSON object per line, each of an optimizer step: samples, alerts. A killed
//! run may leave half a line at the end; it is passed over, and cut off when the run is resumed.

use crate::base::{Error, Result};
use crate::io::atomic::write_atomic;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::OpenOptions;
use std::io::Write;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

/// What a line holds.
pub trait OfStep: Serialize + DeserializeOwned {
    /// Name of the file in a run's folder.
    const FILE: &'static str;
    /// The optimizer step that the line belongs to.
    fn step(&self) -> u64;
}

/// Such a file; it is made with the first line.
#[derive(Debug, Clone)]
pub struct StepLog<T> {
    path: PathBuf,
    lines: PhantomData<fn(T) -> T>,
}

impl<T: OfStep> StepLog<T> {
    /// The file of the run in this folder.
    pub fn new(run_dir: impl AsRef<Path>) -> Self {
        StepLog { path: run_dir.as_ref().join(T::FILE), lines: PhantomData }
    }

    /// Appends one line.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn append(&self, item: &T) -> Result<()> {
        let io = |e: std::io::Error| Error::io("cannot write", &self.path, &e);
        if let Some(dir) = self.path.parent() {
            std::fs::create_dir_all(dir).map_err(io)?;
        }
        let mut line = serde_json::to_vec(item)
            .map_err(|e| Error::internal(format!("a line of {} is no JSON: {e}", T::FILE)))?;
        line.push(b'\n');
        // One write per line: a reader sees a line or no line, a kill leaves at most one broken one.
        let file = OpenOptions::new().append(true).create(true).open(&self.path);
        file.and_then(|mut f| f.write_all(&line)).map_err(io)
    }

    /// Removes lines of steps after `step` and broken ones; called on resume.
    ///
    /// # Errors
    /// If the file cannot be read or replaced.
    pub fn cut_after(&self, step: u64) -> Result<()> {
        let text = self.text()?;
        let keep = |line: &&str| {
            line.ends_with('\n')
                && serde_json::from_str::<T>(line).is_ok_and(|item| item.step() <= step)
        };
        let kept: String = text.split_inclusive('\n').filter(keep).collect();
        if kept.len() == text.len() {
            return Ok(());
        }
        write_atomic(&self.path, kept.as_bytes())
    }

    /// The lines in their order; none if there is no such file. Broken ones are skipped.
    ///
    /// # Errors
    /// If the file is there and cannot be read.
    pub fn read(&self) -> Result<Vec<T>> {
        Ok(self.text()?.lines().filter_map(|l| serde_json::from_str(l).ok()).collect())
    }

    fn text(&self) -> Result<String> {
        match std::fs::read(&self.path) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            Err(e) => Err(Error::io("cannot read", &self.path, &e)),
        }
    }
}
