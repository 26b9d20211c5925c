//! `metrics.jsonl`: one JSON object per line and step, on disk after every line. Lines are only
//! ever appended, except that a resume cuts off what the lost part of the run had written.

use super::Sink;
use crate::base::{Error, Result};
use crate::io::atomic::write_atomic;
use crate::track::Event;
use crate::track::{MetricRow, json_row};
use serde_json::Value;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Appends rows to a file.
pub struct JsonlSink {
    file: File,
    path: PathBuf,
}

impl JsonlSink {
    /// Opens `path` for appending; makes it and its folder if missing. A last line that a killed
    /// run left half-written is removed first, so that the next one does not continue it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_path_buf();
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)
                .map_err(|e| Error::io("cannot create the folder of metrics", dir, &e))?;
        }
        let io = |e: std::io::Error| Error::io("cannot open the metrics file", &path, &e);
        let file = OpenOptions::new().append(true).create(true).open(&path).map_err(io)?;
        let bytes = std::fs::read(&path).map_err(io)?;
        let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
        if whole < bytes.len() {
            file.set_len(whole as u64).map_err(io)?;
        }
        Ok(JsonlSink { file, path })
    }

    /// Makes the file hold exactly these rows: called on resume with those that led to the
    /// checkpoint, whatever the lost part of the run wrote or did not write after it.
    pub fn restore(&mut self, rows: &[MetricRow]) -> Result<()> {
        let io = |e: std::io::Error| Error::io("cannot shorten the metrics file", &self.path, &e);
        let text: String = rows.iter().map(line).collect();
        if std::fs::read(&self.path).map_err(io)? != text.as_bytes() {
            write_atomic(&self.path, text.as_bytes())?;
            self.file = OpenOptions::new().append(true).open(&self.path).map_err(io)?;
        }
        Ok(())
    }
}

impl Sink for JsonlSink {
    fn take(&mut self, event: &Event) -> Result<()> {
        let Event::Row(row) = event else { return Ok(()) };
        let line = line(row);
        // One write per line: a reader sees a row or no row, a kill leaves at most one broken line.
        self.file
            .write_all(line.as_bytes())
            .map_err(|e| Error::io("cannot write metrics", &self.path, &e))
    }
    fn close(&mut self) -> Result<()> {
        self.file.sync_all().map_err(|e| Error::io("cannot write metrics", &self.path, &e))
    }
}

fn line(row: &MetricRow) -> String {
    Value::Object(json_row(row)).to_string() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::track::read_metrics;

    fn row(step: u64, loss: f64) -> MetricRow {
        MetricRow { step, epoch: 0.5, values: vec![("loss".into(), loss), ("a".into(), 1.0)] }
    }

    #[test]
    fn rows_survive_a_round_trip_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/metrics.jsonl");
        let mut sink = JsonlSink::open(&path).unwrap();
        sink.log(&row(1, 0.1)).unwrap();
        sink.log(&row(2, f64::INFINITY)).unwrap();
        sink.close().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("{\"step\":1,\"epoch\":0.5,\"loss\":0.1,\"a\":1.0}\n"), "{text}");
        let rows = read_metrics(&path).unwrap();
        assert_eq!(rows[0], row(1, 0.1));
        assert!(rows[1].values[0].1.is_nan() && rows[1].get("loss").is_none());
    }

    #[test]
    fn a_resume_leaves_the_rows_of_the_checkpoint_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut sink = JsonlSink::open(&path).unwrap();
        (1..=4).for_each(|s| sink.log(&row(s, 0.0)).unwrap());
        drop(sink);
        let mut raw = OpenOptions::new().append(true).open(&path).unwrap();
        raw.write_all(b"{\"step\":2,\"lo").unwrap();
        let mut sink = JsonlSink::open(&path).unwrap();
        sink.log(&row(5, 0.0)).unwrap();
        let steps = |p: &Path| read_metrics(p).unwrap().iter().map(|r| r.step).collect::<Vec<_>>();
        assert_eq!(steps(&path), [1, 2, 3, 4, 5], "the broken line is gone, not glued");
        let kept: Vec<MetricRow> = [1, 2].map(|s| row(s, 0.0)).into();
        sink.restore(&kept).unwrap();
        sink.log(&row(3, 9.0)).unwrap();
        assert_eq!(steps(&path), [1, 2, 3]);
        assert_eq!(read_metrics(&path).unwrap()[2].get("loss"), Some(9.0));
        // Lines that never came to the disk come back, too.
        std::fs::write(&path, "").unwrap();
        JsonlSink::open(&path).unwrap().restore(&kept).unwrap();
        assert_eq!(steps(&path), [1, 2]);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no part file stays");
    }

    #[test]
    fn missing_file_names_itself() {
        let e = read_metrics("no/such/metrics.jsonl").unwrap_err();
        assert!(e.to_string().contains("no/such/metrics.jsonl") && e.exit_code() == 4);
    }
}
