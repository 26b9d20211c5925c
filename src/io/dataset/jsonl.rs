//! JSON Lines: one object per line, read line by line. A line that is not UTF-8, not JSON or not a
//! usable row becomes an error value; reading goes on. No line is kept that is longer than the limit, and no
//! picture that stands in one.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde_json::{Map, Value};

use super::images::Blob;
use super::record::{Record, Sink, bytes_of_url};
use super::row_error::{RowResult, kind_of};
use crate::base::{Error, Result};

/// Longest line.
pub(super) const MAX_LINE: u64 = 64 << 20;

/// Hands the lines of a file to `sink`.
pub(super) fn read(file: &Path, sink: Sink) -> Result<()> {
    let open = File::open(file).map_err(|e| {
        Error::io("cannot open the data file", file, &e)
            .hint("several files are joined by ':'; grpo-rt data makes one to try")
    })?;
    let mut reader = BufReader::with_capacity(1 << 20, open);
    let mut line = Vec::new();
    let mut at = 0;
    for number in 1.. {
        line.clear();
        let io = |e: std::io::Error| Error::io("cannot read the data file", file, &e).row(number);
        let read = (&mut reader).take(MAX_LINE + 1).read_until(b'\n', &mut line).map_err(io)?;
        if read == 0 {
            break;
        }
        let (start, mut len) = (at, read as u64);
        let record = if len > MAX_LINE && line.last() != Some(&b'\n') {
            line = Vec::new();
            len += skip_line(&mut reader).map_err(io)?;
            Err(Error::data("the line is too long")
                .expected(format!("at most {} MiB", MAX_LINE >> 20))
                .found(format!("{len} bytes"))
                .hint("put images into files, and one object on a line")
                .into())
        } else {
            // A byte-order mark is what some editors put before the first object.
            let marked = line.strip_prefix(b"\xEF\xBB\xBF").filter(|_| number == 1);
            let bytes = marked.unwrap_or(&line);
            if bytes.iter().all(u8::is_ascii_whitespace) {
                at += len;
                continue;
            }
            let first = start + (line.len() - bytes.len()) as u64;
            record_of(bytes, first)
        };
        at += len;
        if sink(number, record)?.is_break() {
            break;
        }
    }
    Ok(())
}

/// Passes over the rest of a line without keeping it; returns its bytes.
fn skip_line(reader: &mut impl BufRead) -> std::io::Result<u64> {
    let mut skipped = 0;
    loop {
        let buffer = reader.fill_buf()?;
        let (step, last) = match buffer.iter().position(|b| *b == b'\n') {
            Some(end) => (end + 1, true),
            None => (buffer.len(), buffer.is_empty()),
        };
        reader.consume(step);
        skipped += step as u64;
        if last {
            return Ok(skipped);
        }
    }
}

fn record_of(bytes: &[u8], at: u64) -> RowResult<Record> {
    let mut record = Record::of(object_of(bytes)?);
    record.take_data_urls(&mut |nth, url| {
        bytes_of_url(url)?; // what is no base64 is known now
        Ok(Blob::Line { at, len: bytes.len() as u64, nth })
    })?;
    Ok(record)
}

fn object_of(bytes: &[u8]) -> RowResult<Map<String, Value>> {
    let text = std::str::from_utf8(bytes).map_err(|e| {
        Error::data("the row is not UTF-8")
            .found(format!("a bad byte at column {}", e.valid_up_to() + 1))
            .hint("save the file as UTF-8")
    })?;
    let value: Value = serde_json::from_str(text).map_err(|e| {
        Error::data("the row is not JSON")
            .expected("one JSON object per line")
            .found(e.to_string())
            .hint("mend the line, or remove it")
    })?;
    match value {
        Value::Object(columns) => Ok(columns),
        other => Err(Error::data("the row is not a JSON object")
            .expected("{\"image\": ..., \"question\": ..., \"answer\": ...}")
            .found(kind_of(&other))
            .hint("JSON Lines wants one object per line, not one list for all")
            .into()),
    }
}
