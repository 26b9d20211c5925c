//! The sinks that are files of a run's folder beside its metrics: completions as parquet, sample groups
//! for the report, alerts. They write what they are given and read nothing but their own lines.

use super::{Event, Sink};
use crate::base::{Error, Result};
use crate::io::completions;
use crate::train::health::Alert;
use crate::train::report::SampleLog;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

/// `completions/completions_<step>.parquet`.
pub struct CompletionsSink;

impl Sink for CompletionsSink {
    fn take(&mut self, event: &Event) -> Result<()> {
        match event {
            Event::Completions(t) => completions::write(&t.path, &t.rewards, &t.records),
            _ => Ok(()),
        }
    }
    fn close(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Sink for SampleLog {
    fn take(&mut self, event: &Event) -> Result<()> {
        let Event::Group(group, pictures) = event else { return Ok(()) };
        let mut group = group.clone();
        group.images_png =
            pictures.iter().filter_map(|p| p.png()).map(|png| png.bytes.clone()).collect();
        self.append(&group)
    }
    fn close(&mut self) -> Result<()> {
        Ok(())
    }
}

/// `health.jsonl`: one object per alert that began or ended. The file is made with the first.
pub struct HealthSink {
    path: PathBuf,
}

impl HealthSink {
    /// The alerts of the run in this folder.
    pub fn new(run_dir: &Path) -> Self {
        HealthSink { path: run_dir.join("health.jsonl") }
    }

    /// Removes alerts later than `step` and broken lines; called on resume.
    ///
    /// # Errors
    /// If the file cannot be read or replaced.
    pub fn truncate_after(&self, step: u64) -> Result<()> {
        let Some(text) = read_optional(&self.path)? else { return Ok(()) };
        let keep = |line: &&str| {
            line.ends_with('\n')
                && serde_json::from_str::<Alert>(line).is_ok_and(|a| a.step <= step)
        };
        let kept: String = text.split_inclusive('\n').filter(keep).collect();
        crate::io::atomic::write_atomic(&self.path, kept.as_bytes())
    }
}

impl Sink for HealthSink {
    fn take(&mut self, event: &Event) -> Result<()> {
        let Event::Alert(alert) = event else { return Ok(()) };
        let mut line = serde_json::to_vec(alert)
            .map_err(|e| Error::internal(format!("an alert is no JSON: {e}")))?;
        line.push(b'\n');
        let file = OpenOptions::new().append(true).create(true).open(&self.path);
        file.and_then(|mut f| f.write_all(&line))
            .map_err(|e| Error::io("cannot write an alert", &self.path, &e))
    }
    fn close(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Alerts of `<run_dir>/health.jsonl`; none if there is no such file. Broken lines are skipped.
///
/// # Errors
/// If the file is there and cannot be read.
pub fn read_alerts(run_dir: impl AsRef<Path>) -> Result<Vec<Alert>> {
    let text = read_optional(&run_dir.as_ref().join("health.jsonl"))?.unwrap_or_default();
    Ok(text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect())
}

fn read_optional(path: &Path) -> Result<Option<String>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("cannot read the alerts", path, &e)),
    }
}
