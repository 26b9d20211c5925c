//! What a run has to tell, as data: every sink is given every event and shows those that it knows. An
//! event computes nothing but the PNG of an image that somebody wants to show, and that once.

use super::health::Alert;
use super::{MetricRow, SampleGroup};
use crate::io::completions::CompletionRecord;
use crate::io::dataset::ImageRef;
use crate::io::image::{self, Alpha};
use serde_json::{Map, Value};
use std::path::PathBuf;
use std::sync::OnceLock;

/// Something that happened.
#[derive(Debug)]
pub enum Event {
    /// A line for the person who watches.
    Line(String),
    /// A row of metrics.
    Row(MetricRow),
    /// The completions of one prompt, and its images.
    Group(SampleGroup, Vec<Picture>),
    /// All completions of a step.
    Completions(CompletionTable),
    /// Values whose distribution is of interest.
    Histogram {
        /// What they are.
        name: &'static str,
        /// Optimizer step.
        step: u64,
        /// One per completion or token.
        values: Vec<f64>,
    },
    /// What the run was told, or what its model is.
    Settings {
        /// `args` or `model_config`, as the Hugging Face trainer calls them.
        name: &'static str,
        /// Names and values.
        values: Map<String, Value>,
    },
    /// A trouble began or is over.
    Alert(Alert),
    /// The end of training: figures of the whole run.
    Summary {
        /// The last optimizer step.
        step: u64,
        /// Names of the Hugging Face trainer, and values.
        figures: Vec<(String, f64)>,
    },
}

/// The completions of a step, prompt after prompt.
#[derive(Debug, Default)]
pub struct CompletionTable {
    /// Optimizer step that they were drawn for.
    pub step: u64,
    /// The parquet file they belong into.
    pub path: PathBuf,
    /// Names of the rewards.
    pub rewards: Vec<String>,
    /// One per completion.
    pub records: Vec<CompletionRecord>,
    /// The weighted sum that each earned; None if nothing judged it.
    pub totals: Vec<Option<f64>>,
    /// Completions per prompt, at least 1.
    pub group_size: usize,
    /// The images of each prompt.
    pub pictures: Vec<Vec<Picture>>,
}

impl CompletionTable {
    /// The images of the prompt of completion `i`.
    pub fn pictures_of(&self, i: usize) -> &[Picture] {
        self.pictures.get(i / self.group_size.max(1)).map_or(&[], Vec::as_slice)
    }
    /// Whether completion `i` is the first one with its prompt (TRL's `log_unique_prompts`).
    pub fn is_first_of_prompt(&self, i: usize) -> bool {
        self.records[..i].iter().all(|earlier| earlier.prompt != self.records[i].prompt)
    }
}

/// An image that is shown, encoded when the first one asks for it.
#[derive(Debug)]
pub struct Picture {
    source: ImageRef,
    png: OnceLock<Option<Png>>,
}

/// A PNG file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Png {
    /// The file.
    pub bytes: Vec<u8>,
    /// Pixels per row.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl Picture {
    /// An image of a row.
    pub fn new(source: ImageRef) -> Picture {
        Picture { source, png: OnceLock::new() }
    }
    /// A list of them.
    pub fn all(sources: &[ImageRef]) -> Vec<Picture> {
        sources.iter().cloned().map(Picture::new).collect()
    }
    /// The image; None if its file is gone since the prompt was made of it: a picture in a log is not
    /// worth a run.
    pub fn png(&self) -> Option<&Png> {
        let encode = || {
            let image = self.source.open(Alpha::Drop).ok()?;
            let bytes = image::encode_png(&image).ok()?;
            Some(Png { bytes, width: image.width as u32, height: image.height as u32 })
        };
        self.png.get_or_init(encode).as_ref()
    }
}
