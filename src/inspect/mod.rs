//! Floor 13: what a data set holds and what a model would see of it: rows good and broken, columns, pictures,
//! videos, questions, answers, lengths in tokens. Every distinct image is decoded once, alone, and
//! dropped; no weight is read and nothing of the data is changed.

mod broken; // rows that cannot be used
mod counts; // spreads and histograms of numbers
mod page; // the page
mod pictures; // images of the rows
mod sample; // prompts as a model sees them
mod schema; // columns
mod texts; // questions and answers
mod tokens; // lengths in tokens
mod videos; // videos of the rows

pub use broken::{Broken, BrokenRow};
pub use counts::{Histogram, Spread};
pub use pictures::{Copies, Pictures};
pub use schema::{Column, Schema, ValueCount};
pub use texts::{Answers, Questions, Repeated};
pub use tokens::{Suggestion, Tokens};
pub use videos::Videos;

use crate::base::{Error, ErrorKind, Result};
use crate::io::atomic::write_atomic;
use crate::io::dataset::Row;
use crate::model::config::VlmConfig;
use crate::settings::InspectSettings;
use crate::train::interrupt;
use crate::train::prompts::PromptEncoder;
use crate::train::rows::read_rows;
use rayon::prelude::*;
use serde::Serialize;
use std::path::PathBuf;

/// What was found.
#[derive(Debug, Serialize)]
pub struct Inspection {
    /// Data files.
    pub files: Vec<PathBuf>,
    /// Rows of the files (up to `max_rows` good ones).
    pub rows: usize,
    /// Rows that can be trained on.
    pub good: usize,
    /// Those that cannot.
    pub broken: Broken,
    /// Columns of the good rows.
    pub schema: Schema,
    /// Their images.
    pub images: Pictures,
    /// Their videos, if there are any.
    pub videos: Option<Videos>,
    /// Their questions.
    pub questions: Questions,
    /// Their reference answers.
    pub answers: Answers,
    /// Their lengths in tokens, where a model is given.
    pub tokens: Option<Tokens>,
}

/// A model's processor, tokenizer and chat template, without its weights.
struct Reader {
    encoder: PromptEncoder,
    /// Positions of a prompt and its completion together.
    context: usize,
}

/// Looks at a data set; writes the page if one is wanted.
///
/// # Errors
/// Data that cannot be read or has no good row, the first broken row if strict, a model folder that
/// cannot be read, a page that cannot be written; of kind interrupted after Ctrl-C.
pub fn inspect(s: &InspectSettings) -> Result<Inspection> {
    interrupt::watch();
    let reader = open(s)?;
    let loaded = read_rows(&s.data)?;
    let mut broken = broken::Collector::of(&loaded.skipped, loaded.skipped_rows);
    let mut rows: Vec<&Row> = loaded.rows.iter().collect();
    let shown = pictures::look(&rows)?;
    rows = broken.sift(rows, s.data.strict, |row| shown.error_of(row))?;
    let (clips, videos) = videos::look(&rows)?;
    rows = broken.sift(rows, s.data.strict, |row| clips.error_of(row))?;
    let mut lengths = Vec::new();
    if let Some(reader) = &reader {
        let measured = tokens::measure(reader, &rows, &shown)?;
        let mut results = measured.into_iter();
        rows = broken.sift(rows, s.data.strict, |_| match results.next() {
            Some(Ok(length)) => {
                lengths.push(length);
                None
            }
            Some(Err(e)) => Some(e),
            None => None,
        })?;
    }
    if rows.is_empty() {
        return Err(broken.nothing_left(&s.data.files));
    }
    let tokens = reader.as_ref().map(|r| tokens::summary(s, r.context, &lengths));
    let inspection = Inspection {
        files: s.data.files.clone(),
        rows: loaded.rows.len() + loaded.skipped_rows,
        good: rows.len(),
        broken: broken.done(),
        schema: schema::of(&rows),
        images: pictures::summary(&rows, &shown),
        videos,
        questions: texts::questions(&rows, &shown),
        answers: texts::answers(&rows, &lengths),
        tokens,
    };
    if let Some(file) = &s.page {
        let chosen = evenly(&rows, s.num_samples);
        let samples = in_parallel(&chosen, |row| sample::of(row, reader.as_ref()))?;
        write_atomic(file, page::render(&inspection, &samples).as_bytes()).map_err(|e| {
            e.key("out").hint("give a file in a folder that exists and can be written")
        })?;
    }
    Ok(inspection)
}

fn open(s: &InspectSettings) -> Result<Option<Reader>> {
    let Some(model) = &s.model else { return Ok(None) };
    let config = VlmConfig::from_dir(&model.path)?;
    let encoder = PromptEncoder::open(model, &config)?;
    Ok(Some(Reader { encoder, context: config.text.max_position_embeddings }))
}

/// The results for all items, in order. Items are taken in portions, between which Ctrl-C is heeded.
fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Result<Vec<R>> {
    const PORTION: usize = 128;
    let mut done = Vec::with_capacity(items.len());
    for portion in items.chunks(PORTION) {
        stop_if_asked()?;
        done.par_extend(portion.par_iter().map(&work));
    }
    stop_if_asked()?;
    Ok(done)
}

fn stop_if_asked() -> Result<()> {
    if interrupt::asked() {
        return Err(Error::new(ErrorKind::Interrupted, "the inspection was stopped")
            .found("nothing was written"));
    }
    Ok(())
}

/// At most `n` items, evenly spread, the first among them.
fn evenly<'a>(rows: &[&'a Row], n: usize) -> Vec<&'a Row> {
    let n = n.min(rows.len());
    (0..n).map(|i| rows[i * rows.len() / n]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_spread() {
        let row = |i: usize| {
            let mut row = texts::tests::row("", "", serde_json::json!({}));
            row.row = i;
            row
        };
        let rows: Vec<Row> = (0..10).map(row).collect();
        let rows: Vec<&Row> = rows.iter().collect();
        let chosen = |n| evenly(&rows, n).iter().map(|r| r.row).collect::<Vec<_>>();
        assert_eq!(chosen(1), [0]);
        assert_eq!(chosen(4), [0, 2, 5, 7]);
        assert_eq!(chosen(99).len(), 10);
    }

    #[test]
    fn results_keep_their_order() {
        let items: Vec<usize> = (0..1000).collect();
        assert_eq!(in_parallel(&items, |i| i * 2).unwrap()[999], 1998);
    }
}
