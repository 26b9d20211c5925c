//! Data sets: rows of images, videos, chat turns and a reference answer. A bad row is an error value with
//! its file, row and key; it never ends a run unless the user asked for strictness.

mod arrow_ipc; // Arrow files of `save_to_disk`
mod cells; // columns of tables, cell by cell
mod columns; // one record to one row
mod draw; // pixels of the generated pictures
mod filter; // which rows are taken
mod images; // images of a row, and where their bytes are
mod json_list; // one list of objects
mod jsonl; // one JSON object per line
mod pages; // what Parquet pages promise
mod parquet; // Parquet files
mod record; // a row as a file has it
mod row_error; // what is wrong with a row
pub mod shapes; // a generated data set that needs no download
mod share; // which rows of a file are taken
mod source; // files, folders and splits
mod table; // records of tables
mod template; // what stands around a question
mod videos; // videos of a row and how their frames are taken
pub mod vivqa_x; // the published ViVQA-X files to rows

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

pub use filter::Filter;
pub use images::{Embedded, ImageRef};
pub use share::{Amount, SHARES, Share};
pub use template::QUESTION_PLACES;
pub use videos::{VideoMeta, VideoRef, video_of_part};

use images::MediaFolder;
use record::{Record, Sink};
use row_error::RowResult;
use source::{DataFile, Format};

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
    /// 1-based line of the file, or row of the table.
    pub row: usize,
    /// Column `id`, or `<file stem>-<row>`.
    pub id: String,
    /// Images in the order of their markers; files are seen to exist.
    pub images: Vec<ImageRef>,
    /// Videos, resolved and seen to exist, in the order of their markers.
    pub videos: Vec<VideoRef>,
    /// Limits of the row's images.
    pub pixels: PixelLimits,
    /// The turns before the answer; the last one is the user's.
    pub messages: Vec<Message>,
    /// The reference answer (the last assistant turn, or a column), verbatim.
    pub answer: String,
    /// Every column as read, for rewards; bytes are left out.
    pub columns: Map<String, Value>,
}

/// Least and most pixels of an image, where a row says so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PixelLimits {
    /// Smaller images are enlarged.
    pub min: Option<u64>,
    /// Larger images are reduced.
    pub max: Option<u64>,
}

/// How to read data files.
#[derive(Debug, Clone, Default)]
pub struct DatasetOptions {
    /// Folders that paths of images and videos are relative to: none (the data file's own folder), one for all
    /// files, or one per file.
    pub image_folders: Vec<PathBuf>,
    /// Text around the last question; must contain `{question}` (VLM-R1's `{Question}` works too), and may
    /// contain `{choices}` and `{hints}`.
    pub question_template: Option<String>,
    /// System message for rows that have none.
    pub system_prompt: Option<String>,
    /// The first bad row is an error.
    pub strict: bool,
    /// Stop after this many good rows.
    pub max_rows: Option<usize>,
    /// Split of folders that have several.
    pub split: Option<String>,
    /// Without `split`, the split that is for measuring is taken (validation, then test), not that for training.
    pub measures: bool,
    /// Every path must be a folder of `save_to_disk`.
    pub saved_by_datasets: bool,
    /// Other names of columns: (ours, the file's).
    pub columns: Vec<(String, String)>,
    /// Which rows are taken.
    pub filter: Filter,
    /// Of the good rows that the filter takes, those that are taken: of all files, one for all, or one per file.
    pub shares: Vec<Share>,
    /// Decides which rows a share draws.
    pub seed: u64,
    /// Rows need no reference answer: they are asked, not trained on.
    pub unanswered: bool,
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
        if self.shares.len() > 1 && self.shares.len() != files {
            return Err(Error::usage("the shares do not match the data files")
                .key("dataset_shares")
                .expected(format!("one share for all files, or {files} (one per file)"))
                .found(format!("{} shares", self.shares.len())));
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
    /// One error per bad row, of the first ten thousand.
    pub skipped: Vec<Error>,
    /// Bad rows.
    pub skipped_rows: usize,
    /// Rows that the filter left out.
    pub filtered_rows: usize,
}

/// Errors that are kept: a file of a billion broken rows shall not fill the memory.
const KEPT_ERRORS: usize = 10_000;

/// Loads data files and folders joined by `:`, in that order.
///
/// # Errors
/// Options that contradict the files, a file that cannot be read, the first bad row if
/// `options.strict`, or no good row at all.
pub fn load(spec: &str, options: &DatasetOptions) -> Result<Loaded> {
    let mut loaded =
        Loaded { rows: Vec::new(), skipped: Vec::new(), skipped_rows: 0, filtered_rows: 0 };
    let mut keys = Vec::new();
    // Good rows of each of the paths.
    let mut counts: Vec<usize> = Vec::new();
    // A share is one of the whole file.
    let most = options.max_rows.filter(|_| options.shares.is_empty());
    each_record(spec, options, &mut |Place { path, file, folder, number }, record| {
        if most.is_some_and(|most| loaded.rows.len() >= most) {
            return Ok(ControlFlow::Break(()));
        }
        let row = record.and_then(|record| {
            keep_names(&mut keys, &record.columns);
            match options.filter.holds(&record.columns) {
                true => columns::row_of(file, number, folder, record, options).map(Some),
                false => Ok(None),
            }
        });
        match row {
            Ok(Some(row)) => {
                counts.resize(path + 1, 0);
                counts[path] += 1;
                loaded.rows.push(row);
            }
            Ok(None) => loaded.filtered_rows += 1,
            Err(e) => {
                let e = e.in_row(file, number);
                if options.strict {
                    return Err(e);
                }
                loaded.skipped_rows += 1;
                if loaded.skipped.len() < KEPT_ERRORS {
                    loaded.skipped.push(e);
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    })?;
    if !keys.is_empty() {
        record::check_columns(Path::new(spec), keys.iter().map(String::as_str), options)?;
    }
    take_shares(&mut loaded.rows, &counts, options);
    loaded.rows.truncate(options.max_rows.unwrap_or(usize::MAX));
    match loaded.rows.is_empty() {
        true => Err(nothing(spec, &loaded)),
        false => Ok(loaded),
    }
}

/// Leaves the rows that the shares take; `counts` says how many there are of each path.
fn take_shares(rows: &mut Vec<Row>, counts: &[usize], options: &DatasetOptions) {
    let share = |path: usize| match options.shares.as_slice() {
        [] => Share::All,
        [one] => *one,
        many => many[path],
    };
    let of_path = |(path, count): (usize, &usize)| share(path).of(*count, options.seed, path);
    let taken: Vec<bool> = counts.iter().enumerate().flat_map(of_path).collect();
    let mut taken = taken.into_iter();
    rows.retain(|_| taken.next().unwrap_or(true));
}

/// Hands the columns of every row to `take`, under the names that the options give them, and whatever their
/// content. Rows that are none are counted.
///
/// # Errors
/// Options that contradict the files, or a file that cannot be read.
pub fn each_row(
    spec: &str,
    options: &DatasetOptions,
    take: &mut dyn FnMut(Map<String, Value>),
) -> Result<usize> {
    let mut bad = 0;
    each_record(spec, options, &mut |_, record| {
        match record {
            Ok(mut record) if options.filter.holds(&record.columns) => {
                record.columns.values_mut().for_each(record::without_bytes);
                take(record.columns);
            }
            Ok(_) => {}
            Err(_) => bad += 1,
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(bad)
}

/// Where a record is.
struct Place<'a> {
    /// Which of the paths that were given.
    path: usize,
    file: &'a Arc<Path>,
    /// Of its images.
    folder: &'a MediaFolder,
    /// Line or row of the file.
    number: usize,
}

/// Takes a record.
type Take<'a> = &'a mut dyn FnMut(Place<'_>, RowResult<Record>) -> Result<ControlFlow<()>>;

/// Walks the records of all files.
fn each_record(spec: &str, options: &DatasetOptions, take: Take) -> Result<()> {
    let paths: Vec<PathBuf> =
        spec.split(':').filter(|s| !s.is_empty()).map(PathBuf::from).collect();
    if paths.is_empty() {
        return Err(Error::usage("no data file is given")
            .expected("one or more data files or folders joined by ':'"));
    }
    options.check(paths.len())?;
    let mut sources = Vec::new();
    let mut any_splits = false;
    for (i, path) in paths.iter().enumerate() {
        let (files, splits) = source::files_of(path, options)?;
        any_splits |= splits;
        sources.extend(files.into_iter().map(|file| (i, file)));
    }
    if let (Some(split), false) = (&options.split, any_splits) {
        return Err(Error::usage("the data has no splits to choose from")
            .key("dataset_split")
            .found(split.as_str())
            .hint("leave --dataset_split out, or give the folder that has the splits"));
    }
    for (i, file) in sources {
        let folder = match options.image_folders.as_slice() {
            [] => None,
            [one] => Some(one.clone()),
            many => Some(many[i].clone()),
        };
        let given = folder.is_some();
        let beside = || file.path.parent().map(PathBuf::from).unwrap_or_default();
        let folder = MediaFolder { path: folder.unwrap_or_else(beside), given };
        let path: Arc<Path> = file.path.clone().into();
        let mut ended = false;
        let mut sink = |number: usize, record: RowResult<Record>| {
            let record = record.map(|mut r| {
                r.rename(&options.columns);
                r
            });
            let place = Place { path: i, file: &path, folder: &folder, number };
            let flow = take(place, record)?;
            ended = flow.is_break();
            Ok(flow)
        };
        read(&file, &path, options, &mut sink)?;
        if ended {
            break;
        }
    }
    Ok(())
}

fn read(file: &DataFile, path: &Arc<Path>, options: &DatasetOptions, sink: Sink) -> Result<()> {
    let features = file.features.clone();
    match file.format {
        Format::JsonLines => jsonl::read(path, sink),
        Format::JsonList => json_list::read(path, sink),
        Format::Arrow => {
            let mut rows = table::TableRows::new(path.clone(), features, options, sink);
            arrow_ipc::read(path, &mut rows)
        }
        Format::Parquet => {
            let mut rows = table::TableRows::new(path.clone(), features, options, sink);
            parquet::read(path, &mut rows)
        }
    }
}

/// Adds names that are new; rows of JSON may each have others.
fn keep_names(names: &mut Vec<String>, columns: &Map<String, Value>) {
    const KEPT: usize = 1000;
    for name in columns.keys() {
        if names.len() < KEPT && !names.contains(name) {
            names.push(name.clone());
        }
    }
}

/// The error of a data set without a good row.
fn nothing(spec: &str, loaded: &Loaded) -> Error {
    let e = Error::data("the data set has no usable row").file(spec);
    match loaded.skipped.first() {
        Some(first) => {
            let count = match loaded.skipped_rows {
                1 => "1 bad row".to_owned(),
                n => format!("{n} bad rows"),
            };
            e.found(format!("{count}; the first: {}", first.one_line()))
                .hint("mend the rows, or the options that say how they are read")
        }
        None if loaded.filtered_rows > 0 => e
            .key("filter")
            .found(format!("{} rows, none of which the filter takes", loaded.filtered_rows)),
        None => e.found("no rows").hint("give a JSON Lines file with one row per line"),
    }
}

#[cfg(test)]
mod tests;
