//! Data sets: rows of images, videos, chat turns and a reference answer. A bad row is an error value with
//! its file, row and key; it never ends a run unless the user asked for strictness.

mod columns; // one JSON object to one row
mod draw; // pixels of the generated pictures
pub mod jsonl; // one JSON object per line, VLM-R1 and plain columns
mod row_error; // what is wrong with a row
pub mod shapes; // a generated data set that needs no download
mod videos; // videos of a row and how their frames are taken
pub mod vivqa_x; // the published ViVQA-X files to rows

use std::path::PathBuf;

use serde_json::{Map, Value};

pub use videos::{VideoMeta, VideoRef, video_of_part};

use crate::base::{Error, Result};

/// A piece of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Text, verbatim.
    Text(String),
    /// An image: index into [`Row::images`].
    Image(usize),
    /// A video: index into [`Row::videos`].
    Video(usize),
}

/// One chat turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// Pieces in order.
    pub content: Vec<Part>,
}

impl Message {
    /// A turn of text only.
    pub fn text(role: &str, text: impl Into<String>) -> Self {
        Message { role: role.to_owned(), content: vec![Part::Text(text.into())] }
    }
}

/// One prompt with its reference answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The file the row is from.
    pub file: PathBuf,
    /// 1-based line of the file.
    pub row: usize,
    /// Column `id`, or `<file stem>-<row>`.
    pub id: String,
    /// Image files, resolved and seen to exist, in the order of their markers.
    pub images: Vec<PathBuf>,
    /// Videos, resolved and seen to exist, in the order of their markers.
    pub videos: Vec<VideoRef>,
    /// The turns before the answer; the last one is the user's.
    pub messages: Vec<Message>,
    /// The reference answer (the last assistant turn, or a column), verbatim.
    pub answer: String,
    /// Every column as read, for rewards.
    pub columns: Map<String, Value>,
}

/// How to read data files.
#[derive(Debug, Clone, Default)]
pub struct DatasetOptions {
    /// Folders that paths of images and videos are relative to: none (the data file's own folder), one for all
    /// files, or one per file.
    pub image_folders: Vec<PathBuf>,
    /// Text around the last question; must contain `{question}` (VLM-R1's `{Question}` works too).
    pub question_template: Option<String>,
    /// System message for rows that have none.
    pub system_prompt: Option<String>,
    /// The first bad row is an error.
    pub strict: bool,
    /// Stop after this many good rows.
    pub max_rows: Option<usize>,
}

impl DatasetOptions {
    /// Folders of an `--image_folders a:b` argument.
    pub fn folders(spec: &str) -> Vec<PathBuf> {
        spec.split(':').filter(|s| !s.is_empty()).map(PathBuf::from).collect()
    }

    fn check(&self, files: usize) -> Result<()> {
        let folders = self.image_folders.len();
        if folders > 1 && folders != files {
            return Err(Error::usage("the image folders do not match the data files")
                .key("image_folders")
                .expected(format!("one folder for all files, or {files} (one per file)"))
                .found(format!("{folders} folders"))
                .hint("join the folders by ':' in the order of the files"));
        }
        let marker = |t: &String| t.contains("{question}") || t.contains("{Question}");
        if let Some(template) = self.question_template.as_ref().filter(|t| !marker(t)) {
            return Err(Error::usage("the question template has no place for the question")
                .key("question_template")
                .expected("a text that contains {question}")
                .found(format!("{template:?}")));
        }
        Ok(())
    }
}

/// Good rows in file order and the errors of the bad ones.
#[derive(Debug)]
pub struct Loaded {
    /// Rows that can be trained on.
    pub rows: Vec<Row>,
    /// One error per bad row.
    pub skipped: Vec<Error>,
}

/// Loads data files joined by `:`, in that order.
///
/// # Errors
/// Options that contradict the files, a file that cannot be read, the first bad row if
/// `options.strict`, or no good row at all.
pub fn load(spec: &str, options: &DatasetOptions) -> Result<Loaded> {
    let files: Vec<PathBuf> =
        spec.split(':').filter(|s| !s.is_empty()).map(PathBuf::from).collect();
    if files.is_empty() {
        return Err(
            Error::usage("no data file is given").expected("one or more JSONL files joined by ':'")
        );
    }
    options.check(files.len())?;
    let mut loaded = Loaded { rows: Vec::new(), skipped: Vec::new() };
    for (i, file) in files.iter().enumerate() {
        let folder = match options.image_folders.as_slice() {
            [] => file.parent().map(PathBuf::from).unwrap_or_default(),
            [one] => one.clone(),
            many => many[i].clone(),
        };
        jsonl::read(file, &folder, options, &mut loaded)?;
    }
    if loaded.rows.is_empty() {
        let e = Error::data("the data set has no usable row").file(spec);
        return Err(match loaded.skipped.first() {
            Some(first) => {
                e.hint("mend the rows, or the options that say how they are read").found(format!(
                    "{}; the first: {}",
                    match loaded.skipped.len() {
                        1 => "1 bad row".to_owned(),
                        n => format!("{n} bad rows"),
                    },
                    first.one_line()
                ))
            }
            None => e.found("no rows").hint("give a JSON Lines file with one row per line"),
        });
    }
    Ok(loaded)
}

#[cfg(test)]
mod tests;
