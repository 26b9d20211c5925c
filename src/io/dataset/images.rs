//! Images of a row: files, bytes inside a table or a line, and how they are named in a row. Bytes stay where
//! they are until the picture is decoded; nothing here decodes one.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::parquet::{Cell, ParquetTable};
use super::record::{Record, nth_url};
use super::row_error::{RowResult, bad, kind_of};
use crate::base::{Error, Result};
use crate::io::image::{self, Alpha, Image, MAX_FILE_BYTES};

/// An image of a row; its bytes are read when it is decoded.
#[derive(Debug, Clone, PartialEq)]
pub enum ImageRef {
    /// A file, seen to exist.
    File(PathBuf),
    /// Bytes inside a data file.
    Inside(Embedded),
}

/// An image inside a data file.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedded {
    file: Arc<Path>,
    row: usize,
    blob: Blob,
}

/// Where the bytes of an image are.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Blob {
    /// In memory.
    Inline(Arc<[u8]>),
    /// A piece of the file.
    Slice { at: u64, len: u64 },
    /// A data URL in the JSON of a piece of the file.
    Line { at: u64, len: u64, nth: usize },
    /// A cell of a Parquet file.
    Cell { table: Arc<ParquetTable>, cell: Cell },
}

impl ImageRef {
    /// The image's file as it was encoded.
    ///
    /// # Errors
    /// If it cannot be read, or is longer than [`MAX_FILE_BYTES`].
    pub fn bytes(&self) -> Result<Vec<u8>> {
        match self {
            ImageRef::File(path) => image::read_file(path),
            ImageRef::Inside(e) => e.bytes().map_err(|err| err.at(self.name())),
        }
    }

    /// Decodes the image.
    ///
    /// # Errors
    /// As [`ImageRef::bytes`], and if the bytes are no image that can be read.
    pub fn open(&self, alpha: Alpha) -> Result<Image> {
        self.decode(&self.bytes()?, alpha)
    }

    /// Decodes bytes that [`ImageRef::bytes`] gave.
    ///
    /// # Errors
    /// If they are no image that can be read.
    pub fn decode(&self, bytes: &[u8], alpha: Alpha) -> Result<Image> {
        image::decode_with(bytes, alpha).map_err(|e| e.at(self.name()))
    }

    /// The path of the file; of an image inside a data file, that file and the row: `data.parquet#3`.
    pub fn name(&self) -> String {
        match self {
            ImageRef::File(path) => path.display().to_string(),
            ImageRef::Inside(e) => format!("{}#{}", e.file.display(), e.row),
        }
    }
}

impl Embedded {
    fn bytes(&self) -> Result<Vec<u8>> {
        let bytes = match &self.blob {
            Blob::Inline(bytes) => bytes.to_vec(),
            Blob::Slice { at, len } => slice_of(&self.file, *at, *len)?,
            Blob::Line { at, len, nth } => nth_url(&slice_of(&self.file, *at, *len)?, *nth)?,
            Blob::Cell { table, cell } => table.bytes(cell)?,
        };
        match bytes.is_empty() {
            true => Err(Error::data("the image is empty").found("0 bytes")),
            false => Ok(bytes),
        }
    }
}

/// A piece of a file.
fn slice_of(path: &Path, at: u64, len: u64) -> Result<Vec<u8>> {
    if len > MAX_FILE_BYTES {
        return Err(image::too_long(len));
    }
    let io = |e: std::io::Error| Error::io("cannot read the data file", path, &e);
    let mut file = File::open(path).map_err(io)?;
    if at.saturating_add(len) > file.metadata().map_err(io)?.len() {
        return Err(Error::data("an image lies outside of its data file")
            .found(format!("bytes {at} to {}", at.saturating_add(len)))
            .hint("the file is damaged, or has changed since it was opened"));
    }
    let mut bytes = vec![0; len as usize];
    file.seek(SeekFrom::Start(at)).map_err(io)?;
    file.read_exact(&mut bytes).map_err(io)?;
    Ok(bytes)
}

/// Where paths of a row start, and whether they may leave.
#[derive(Debug, Clone)]
pub(super) struct MediaFolder {
    /// The folder.
    pub(super) path: PathBuf,
    /// The user named it: then everything is inside of it. Otherwise whole paths may lead anywhere.
    pub(super) given: bool,
}

impl MediaFolder {
    /// A folder that bounds nothing: where a person names the files.
    pub(super) fn open(path: &Path) -> Self {
        MediaFolder { path: path.to_owned(), given: false }
    }

    /// The file that a row calls `text`. Links are followed: a person has made them.
    ///
    /// # Errors
    /// If it is on the network, or leaves the folder.
    pub(super) fn find(&self, what: &str, key: &str, text: &str) -> RowResult<PathBuf> {
        if text.starts_with("http://") || text.starts_with("https://") {
            let first: String = text.chars().take(200).collect();
            return Err(bad(&format!("{what} is on the network"), key).found(first).hint(format!(
                "download the {}s first and name the files in the row",
                &what[what.find(' ').map_or(0, |i| i + 1)..]
            )));
        }
        let path = Path::new(text.strip_prefix("file://").unwrap_or(text));
        let leaves = match path.is_absolute() {
            true => self.given && !plain(path).is_some_and(|p| self.contains(&p)),
            false => plain(path).is_none(),
        };
        if leaves {
            return Err(bad(&format!("{what} is outside of the image folder"), key)
                .expected(format!("a path inside of {}", self.path.display()))
                .found(text.chars().take(200).collect::<String>())
                .hint("set --image_folders to a folder that holds all of them (/ for any file)"));
        }
        Ok(self.path.join(path))
    }

    fn contains(&self, path: &Path) -> bool {
        let whole = std::path::absolute(&self.path).ok().and_then(|p| plain(&p));
        whole.is_some_and(|folder| path.starts_with(folder))
    }
}

/// The path without `.` and `..`; `None` if it climbs above where it starts.
fn plain(path: &Path) -> Option<PathBuf> {
    let mut out = PathBuf::new();
    let mut depth = 0;
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if depth == 0 => return None,
            Component::ParentDir => {
                depth -= 1;
                out.pop();
            }
            Component::Normal(name) => {
                depth += 1;
                out.push(name);
            }
            root => out.push(root),
        }
    }
    Some(out)
}

/// An image as a row names it.
#[derive(Debug, Clone)]
pub(super) enum Named {
    /// A path.
    Path(String),
    /// Bytes beside the record.
    Bytes(Blob),
}

/// Columns that may hold images, in order of preference. `decoded_image` is MathVista's, beside whose paths.
const COLUMNS: [&str; 3] = ["decoded_image", "image", "images"];

/// Images of a record's image column, and the column's name.
pub(super) fn image_column(record: &Record) -> RowResult<(String, Vec<Named>)> {
    let Some(key) = column_name(record) else { return Ok(("image".into(), Vec::new())) };
    let one = |v: &Value, key: String| named(v, &record.blobs, &key);
    let found = match &record.columns[&key] {
        Value::Array(list) => list
            .iter()
            .enumerate()
            .map(|(i, v)| one(v, format!("{key}[{i}]")))
            .collect::<RowResult<_>>()?,
        single => vec![one(single, key.clone())?],
    };
    Ok((key, found))
}

/// The image column: one of the usual names, or else the only one that the table says holds images.
fn column_name(record: &Record) -> Option<String> {
    let given = |key: &str| record.columns.get(key).is_some_and(|v| !v.is_null());
    let usual = COLUMNS.into_iter().find(|k| given(k)).map(str::to_owned);
    usual.or_else(|| match &*record.pictures {
        [only] if given(only) => Some(only.clone()),
        _ => None,
    })
}

/// What a value of an image column names: a path, bytes, or the `{"bytes", "path"}` of `datasets`.
pub(super) fn named(value: &Value, blobs: &[Blob], key: &str) -> RowResult<Named> {
    if let Some(blob) = Record::blob(blobs, value) {
        return Ok(Named::Bytes(blob.clone()));
    }
    match value {
        Value::String(path) if !path.is_empty() => Ok(Named::Path(path.clone())),
        Value::Object(object) if object.contains_key("bytes") || object.contains_key("path") => {
            of_struct(object, blobs, key)
        }
        other => Err(bad("an image is not a path", key)
            .expected("the path of an image file, or its bytes")
            .found(if other == "" { "an empty string" } else { kind_of(other) })
            .hint("write the images to files and name them in the row")),
    }
}

fn of_struct(object: &Map<String, Value>, blobs: &[Blob], key: &str) -> RowResult<Named> {
    let bytes = object.get("bytes").and_then(|v| Record::blob(blobs, v));
    let path = object.get("path").and_then(Value::as_str).filter(|p| !p.is_empty());
    match (bytes, path) {
        (Some(blob), _) => Ok(Named::Bytes(blob.clone())),
        (None, Some(path)) => Ok(Named::Path(path.to_owned())),
        (None, None) => Err(bad("an image has neither bytes nor a path", key)
            .expected("{\"bytes\": ..., \"path\": ...} with one of the two")
            .found(kind_of(&Value::Object(object.clone())))),
    }
}

/// The image, its file looked for; decoding comes later.
pub(super) fn resolve(
    folder: &MediaFolder,
    key: &str,
    named: Named,
    (file, row): (&Arc<Path>, usize),
) -> RowResult<ImageRef> {
    let path = match named {
        Named::Bytes(blob) => {
            return Ok(ImageRef::Inside(Embedded { file: file.clone(), row, blob }));
        }
        Named::Path(path) => path,
    };
    let full = folder.find("an image", key, &path)?;
    match std::fs::metadata(&full) {
        Ok(m) if m.is_file() && m.len() > 0 => Ok(ImageRef::File(full)),
        Ok(m) => Err(bad("an image cannot be read", key).expected("an image file").found(format!(
            "{} is {}",
            full.display(),
            if m.is_file() { "an empty file" } else { "not a file" }
        ))),
        Err(e) => Err(bad("an image cannot be read", key)
            .expected("an image file")
            .found(format!("{}: {e}", full.display()))
            .hint("set --image_folders to the folder that image paths are relative to")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_in_the_folder() {
        let folder = |given| MediaFolder { path: "/data/images".into(), given };
        let find = |given, text| folder(given).find("an image", "image", text).ok();
        assert_eq!(find(true, "a/../b.png"), Some("/data/images/a/../b.png".into()));
        assert_eq!(find(true, "/data/images/b.png"), Some("/data/images/b.png".into()));
        assert_eq!(find(false, "/etc/b.png"), Some("/etc/b.png".into()));
        assert_eq!(find(false, "file:///etc/b.png"), Some("/etc/b.png".into()));
        for text in ["/etc/passwd", "/data/images/../../etc/passwd", "/data/images2/b", "/../x"] {
            assert_eq!(find(true, text), None, "{text}");
        }
        for text in ["../b.png", "a/../../b.png", "file://../b.png", "https://x/b.png"] {
            assert_eq!(find(false, text), None, "{text}");
        }
    }
}
