//! Arrow files as `datasets` writes them (`save_to_disk`: the stream format) and the file format. Messages are
//! walked one by one; bytes of images stay in the file, and only where they are is kept, so that a batch of a
//! thousand photographs costs its texts. A file's promises are checked against its length before anything is
//! allocated.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use arrow_buffer::Buffer;
use arrow_ipc::convert::try_fb_to_schema;
use arrow_ipc::{MessageHeader, RecordBatch, root_as_message};
use arrow_schema::{DataType, Field, Schema};

use super::cells::{BinaryAt, Bits, Body, Cells, Ends, width_of};
use super::table::{Batch, RowAt, TableRows, quiet};
use crate::base::{Error, Result};

/// First bytes of the file format.
pub(super) const FILE_MAGIC: &[u8] = b"ARROW1";
/// Longest description of a message.
const MAX_METADATA: u64 = 64 << 20;
/// Most bytes of a batch, beside those that stay in the file.
const MAX_BATCH: u64 = 4 << 30;

/// Hands every batch of a file to `rows`.
///
/// # Errors
/// If the file is damaged, ends early, or has types or compression that are not read.
pub(super) fn read(file: &Path, rows: &mut TableRows) -> Result<()> {
    let mut walk = Walk::open(file)?;
    let mut schema: Option<Schema> = None;
    let mut number = 0;
    while let Some(message) = walk.next()? {
        let Some(header) = quiet(|| message.header(file))? else { continue };
        match header {
            Header::Schema(s) => {
                rows.begin(&s).map_err(|e| e.file(file))?;
                schema = Some(s);
            }
            Header::Batch(length, nodes, buffers) => {
                let Some(schema) = &schema else {
                    return Err(damaged(file, "rows before the description of their columns"));
                };
                let mut parts =
                    Parts { walk: &mut walk, nodes, buffers, body: message.body, spent: 0 };
                let columns = parts.columns(schema, length)?;
                let batch = Batch { columns, len: length, at: RowAt::Arrow { first: number } };
                number += length;
                if rows.batch(&batch)?.is_break() {
                    return Ok(());
                }
            }
        }
    }
    match schema {
        Some(_) => Ok(()),
        None => Err(damaged(file, "no description of columns")),
    }
}

/// The error of a file that is not what its first bytes promise.
fn damaged(file: &Path, found: impl Into<String>) -> Error {
    Error::data("the Arrow file is damaged")
        .file(file)
        .expected("a complete file of `save_to_disk`, or an Arrow file")
        .found(found)
        .hint("write it again, or copy it again if it ended early")
}

/// A file, message by message.
struct Walk<'a> {
    path: &'a Path,
    file: File,
    len: u64,
    at: u64,
}

/// A message: its description, and where its body is.
struct Message {
    metadata: Vec<u8>,
    body: (u64, u64),
}

enum Header {
    Schema(Schema),
    /// Rows, and for every column its rows and nulls, and where its buffers are.
    Batch(usize, Vec<(i64, i64)>, Vec<(i64, i64)>),
}

impl<'a> Walk<'a> {
    fn open(path: &'a Path) -> Result<Self> {
        let io = |e: std::io::Error| Error::io("cannot read the data file", path, &e);
        let mut file = File::open(path).map_err(io)?;
        let len = file.metadata().map_err(io)?.len();
        let mut first = [0; 6];
        let read = file.read(&mut first).map_err(io)?;
        // The file format is a stream between its magic words, with a table of places behind it.
        let at = if first[..read] == *FILE_MAGIC { 8 } else { 0 };
        let mut walk = Walk { path, file, len, at };
        // It ends with the word that it begins with, so one that was cut off is known at once.
        let last = FILE_MAGIC.len() as u64;
        if at > 0 && walk.bytes(len.saturating_sub(last), last)? != FILE_MAGIC {
            return Err(damaged(path, format!("{len} bytes without the mark of the end")));
        }
        Ok(walk)
    }

    /// Bytes of the file; their number is checked before they are asked for.
    fn bytes(&mut self, at: u64, len: u64) -> Result<Vec<u8>> {
        if at.checked_add(len).is_none_or(|end| end > self.len) {
            let found = format!(
                "{} bytes, and a part that would end at {}",
                self.len,
                at.saturating_add(len)
            );
            return Err(damaged(self.path, found));
        }
        let io = |e: std::io::Error| Error::io("cannot read the data file", self.path, &e);
        let mut bytes = vec![0; len as usize];
        self.file.seek(SeekFrom::Start(at)).map_err(io)?;
        self.file.read_exact(&mut bytes).map_err(io)?;
        Ok(bytes)
    }

    /// The next message; none behind the last.
    fn next(&mut self) -> Result<Option<Message>> {
        if self.at == self.len {
            return Ok(None);
        }
        let word = |b: Vec<u8>| b.try_into().map_or(0, u32::from_le_bytes);
        let mut len = word(self.bytes(self.at, 4)?);
        self.at += 4;
        // Since version 0.15 a mark stands before the length.
        if len == u32::MAX {
            len = word(self.bytes(self.at, 4)?);
            self.at += 4;
        }
        let len = u64::from(len);
        if len == 0 {
            return Ok(None);
        }
        if len > MAX_METADATA {
            return Err(damaged(self.path, format!("a description of {len} bytes")));
        }
        let metadata = self.bytes(self.at, len)?;
        self.at += len;
        let size = quiet(|| {
            root_as_message(&metadata)
                .map(|m| m.bodyLength())
                .map_err(|e| damaged(self.path, format!("a message that is none: {e}")))
        })?;
        let size = u64::try_from(size)
            .ok()
            .filter(|n| self.at.checked_add(*n).is_some_and(|end| end <= self.len))
            .ok_or_else(|| {
                damaged(self.path, format!("a body of {size} bytes in a file of {}", self.len))
            })?;
        let body = (self.at, size);
        self.at += size;
        Ok(Some(Message { metadata, body }))
    }
}

impl Message {
    fn header(&self, file: &Path) -> Result<Option<Header>> {
        let message = root_as_message(&self.metadata)
            .map_err(|e| damaged(file, format!("a message that is none: {e}")))?;
        match message.header_type() {
            MessageHeader::Schema => {
                let schema =
                    message.header_as_schema().ok_or_else(|| damaged(file, "no schema"))?;
                let schema = try_fb_to_schema(schema).map_err(|e| damaged(file, e.to_string()))?;
                Ok(Some(Header::Schema(schema)))
            }
            MessageHeader::RecordBatch => {
                let batch = message.header_as_record_batch();
                let batch = batch.ok_or_else(|| damaged(file, "no batch of rows"))?;
                self.batch(batch, file).map(Some)
            }
            // Values of dictionaries are reported where a column needs them.
            _ => Ok(None),
        }
    }

    fn batch(&self, batch: RecordBatch, file: &Path) -> Result<Header> {
        if batch.compression().is_some() {
            return Err(Error::data("the Arrow file is compressed")
                .file(file)
                .expected("batches without compression, as `save_to_disk` writes them")
                .hint("write it with save_to_disk, or as Parquet"));
        }
        let length = batch.length();
        let pairs = batch.nodes().map(|n| n.iter().map(|n| (n.length(), n.null_count())).collect());
        let places = batch.buffers().map(|b| b.iter().map(|b| (b.offset(), b.length())).collect());
        // A row has a bit at least, so no honest batch has more rows than its file has bits.
        let bits = self.body.1.saturating_mul(8);
        match usize::try_from(length).ok().filter(|n| *n as u64 <= bits) {
            Some(n) => Ok(Header::Batch(n, pairs.unwrap_or_default(), places.unwrap_or_default())),
            None => Err(damaged(file, format!("{length} rows in {} bytes", self.body.1))),
        }
    }
}

/// The columns of a batch, in the order in which a message lists them.
struct Parts<'w, 'a> {
    walk: &'w mut Walk<'a>,
    nodes: Vec<(i64, i64)>,
    buffers: Vec<(i64, i64)>,
    body: (u64, u64),
    /// Bytes read.
    spent: u64,
}

impl Parts<'_, '_> {
    fn columns(&mut self, schema: &Schema, rows: usize) -> Result<Vec<Cells>> {
        // Taken from the front.
        self.nodes.reverse();
        self.buffers.reverse();
        let mut columns = Vec::new();
        for field in schema.fields() {
            let cells = self.column(field, 0).map_err(|e| e.key(field.name()))?;
            if cells.len != rows {
                let found = format!("{} rows of {rows} in column `{}`", cells.len, field.name());
                return Err(damaged(self.walk.path, found));
            }
            columns.push(cells);
        }
        Ok(columns)
    }

    fn column(&mut self, field: &Field, depth: usize) -> Result<Cells> {
        let wrong = |s: &Self, what: &str| damaged(s.walk.path, what);
        if depth > 32 {
            return Err(wrong(self, "columns nested too deeply"));
        }
        let Some((length, nulls)) = self.nodes.pop() else {
            return Err(wrong(self, "fewer columns than described"));
        };
        let len = usize::try_from(length).map_err(|_| wrong(self, "a negative number of rows"))?;
        if field.data_type() == &DataType::Null {
            // Nulls have no bytes, so nothing else bounds their number.
            if len as u64 > self.body.1 {
                return Err(wrong(self, "more nulls than bytes"));
            }
            return Ok(Cells { len, valid: None, body: Body::Null });
        }
        let bits = self.buffer()?;
        let valid = match nulls {
            0 => None,
            _ => {
                self.holds(&bits, len.div_ceil(8))?;
                Some(Bits { bytes: bits, offset: 0 })
            }
        };
        let body = self.body_of(field, len, depth)?;
        Ok(Cells { len, valid, body })
    }

    fn body_of(&mut self, field: &Field, len: usize, depth: usize) -> Result<Body> {
        Ok(match field.data_type() {
            DataType::Boolean => {
                let bytes = self.buffer()?;
                self.holds(&bytes, len.div_ceil(8))?;
                Body::Bits(Bits { bytes, offset: 0 })
            }
            DataType::Utf8 => Body::Text { ends: self.ends(len, false)?, bytes: self.buffer()? },
            DataType::LargeUtf8 => {
                Body::Text { ends: self.ends(len, true)?, bytes: self.buffer()? }
            }
            DataType::Binary => Body::Binary { ends: self.ends(len, false)?, at: self.place()? },
            DataType::LargeBinary => {
                Body::Binary { ends: self.ends(len, true)?, at: self.place()? }
            }
            DataType::FixedSizeBinary(n) => Body::Binary {
                ends: Ends::Even(usize::try_from(*n).unwrap_or(0)),
                at: self.place()?,
            },
            DataType::List(f) => Body::List {
                ends: self.ends(len, false)?,
                values: Box::new(self.column(f, depth + 1)?),
            },
            DataType::LargeList(f) => Body::List {
                ends: self.ends(len, true)?,
                values: Box::new(self.column(f, depth + 1)?),
            },
            DataType::Map(f, _) => Body::List {
                ends: self.ends(len, false)?,
                values: Box::new(self.column(f, depth + 1)?),
            },
            DataType::FixedSizeList(f, n) => Body::List {
                ends: Ends::Even(usize::try_from(*n).unwrap_or(0)),
                values: Box::new(self.column(f, depth + 1)?),
            },
            DataType::Struct(fields) => {
                let mut all = Vec::new();
                for field in fields {
                    all.push((field.name().clone(), self.column(field, depth + 1)?));
                }
                Body::Struct(all)
            }
            other => match width_of(other) {
                Some(width) => {
                    let bytes = self.buffer()?;
                    self.holds(&bytes, len.saturating_mul(width))?;
                    Body::Fixed { data_type: other.clone(), bytes, width }
                }
                None => {
                    return Err(Error::data("a column has a type that is not read")
                        .file(self.walk.path)
                        .expected("numbers, texts, bytes, times, lists and structs of them")
                        .found(other.to_string())
                        .hint("cast the column, or write the table as Parquet"));
                }
            },
        })
    }

    /// Where the next buffer is in the file, and its length.
    fn next_place(&mut self) -> Result<(u64, u64)> {
        let (first, size) = self.body;
        let pair = self.buffers.pop();
        let place = pair.and_then(|(at, len)| {
            let (at, len) = (u64::try_from(at).ok()?, u64::try_from(len).ok()?);
            (at.checked_add(len)? <= size).then_some((first + at, len))
        });
        place.ok_or_else(|| damaged(self.walk.path, "a buffer outside of its message"))
    }

    fn buffer(&mut self) -> Result<Buffer> {
        let (at, len) = self.next_place()?;
        // Many buffers may be promised the same bytes.
        self.spent = self.spent.saturating_add(len);
        if self.spent > MAX_BATCH {
            return Err(damaged(self.walk.path, format!("a batch of more than {MAX_BATCH} bytes")));
        }
        self.walk.bytes(at, len).map(Buffer::from)
    }

    fn place(&mut self) -> Result<BinaryAt> {
        self.next_place().map(|(at, _)| BinaryAt::File(at))
    }

    fn ends(&mut self, len: usize, wide: bool) -> Result<Ends> {
        let bytes = self.buffer()?;
        let width = if wide { 8 } else { 4 };
        // An empty column may have no offsets at all.
        if len > 0 {
            self.holds(&bytes, len.saturating_add(1).saturating_mul(width))?;
        }
        let offset = |raw: &[u8]| match *raw {
            [a, b, c, d] => i64::from(i32::from_le_bytes([a, b, c, d])),
            _ => raw.try_into().map_or(-1, i64::from_le_bytes),
        };
        let used = bytes.chunks_exact(width).take(if len > 0 { len + 1 } else { 0 }).map(offset);
        // Values that overlap would let a small file stand for a large one.
        match used.is_sorted() {
            true => Ok(Ends::Offsets { bytes, wide }),
            false => Err(damaged(self.walk.path, "values that overlap")),
        }
    }

    fn holds(&self, buffer: &Buffer, bytes: usize) -> Result<()> {
        match buffer.len() >= bytes {
            true => Ok(()),
            false => Err(damaged(
                self.walk.path,
                format!("a buffer of {} bytes where {bytes} are needed", buffer.len()),
            )),
        }
    }
}
