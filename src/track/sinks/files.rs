//! The sinks that are files of a run's folder beside its metrics: completions as parquet, sample groups
//! for the report, alerts. They write what they are given.

use super::Sink;
use crate::base::Result;
use crate::io::completions;
use crate::track::Event;
use crate::track::SampleLog;
use crate::track::health::AlertLog;

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

impl Sink for AlertLog {
    fn take(&mut self, event: &Event) -> Result<()> {
        match event {
            Event::Alert(alert) => self.append(alert),
            _ => Ok(()),
        }
    }
    fn close(&mut self) -> Result<()> {
        Ok(())
    }
}
