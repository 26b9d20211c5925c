//! JSON files that are one list of objects, read object by object; the list is never in memory as a whole.

use std::cell::Cell;
use std::fs::File;
use std::io::{BufReader, Read};
use std::ops::ControlFlow;
use std::path::Path;
use std::rc::Rc;

use serde::de::{DeserializeSeed, Deserializer, SeqAccess, Visitor};
use serde_json::Value;

use super::jsonl::MAX_LINE;
use super::record::{Record, Sink};
use super::row_error::{RowResult, bad, kind_of};
use super::table::inline_blob;
use crate::base::{Error, Result};

/// Hands the objects of a file to `sink`.
///
/// # Errors
/// If the file is no JSON list, or one of its objects is longer than the limit of a line.
pub(super) fn read(file: &Path, sink: Sink) -> Result<()> {
    let open = File::open(file).map_err(|e| Error::io("cannot open the data file", file, &e))?;
    let left = Rc::new(Cell::new(MAX_LINE));
    let reader = Bounded { from: open, left: left.clone() };
    let mut json = serde_json::Deserializer::from_reader(BufReader::with_capacity(1 << 16, reader));
    let mut inline = 0;
    let mut stopped = None;
    let list = List { sink, left, inline: &mut inline, stopped: &mut stopped };
    let read = list.deserialize(&mut json);
    match (stopped, read) {
        (Some(Ok(())), _) | (None, Ok(())) => Ok(()),
        (Some(Err(e)), _) => Err(e),
        (None, Err(e)) => Err(Error::data("the data file is not a JSON list")
            .file(file)
            .expected("[{\"image\": ..., \"question\": ..., \"answer\": ...}, ...]")
            .found(e.to_string())
            .hint("JSON Lines files have one object per line and need no list")),
    }
}

/// A file that gives up where an object is longer than a line may be.
struct Bounded {
    from: File,
    left: Rc<Cell<u64>>,
}

impl Read for Bounded {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let read = self.from.read(buf)?;
        match self.left.get().checked_sub(read as u64) {
            Some(left) => self.left.set(left),
            None => {
                return Err(std::io::Error::other(format!(
                    "an object of more than {} MiB",
                    MAX_LINE >> 20
                )));
            }
        }
        Ok(read)
    }
}

struct List<'a, 'b> {
    sink: Sink<'b>,
    left: Rc<Cell<u64>>,
    inline: &'a mut usize,
    /// Why reading ended before the list did.
    stopped: &'a mut Option<Result<()>>,
}

impl<'de> DeserializeSeed<'de> for List<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<(), D::Error> {
        d.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for List<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("a list of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<(), A::Error> {
        let mut number = 0;
        while let Some(value) = list.next_element::<Value>()? {
            number += 1;
            self.left.set(MAX_LINE);
            match (self.sink)(number, record_of(value, self.inline)) {
                Ok(ControlFlow::Continue(())) => {}
                end => {
                    *self.stopped = Some(end.map(|_| ()));
                    return Err(serde::de::Error::custom("stopped"));
                }
            }
        }
        Ok(())
    }
}

fn record_of(value: Value, inline: &mut usize) -> RowResult<Record> {
    let Value::Object(columns) = value else {
        return Err(bad("the row is not a JSON object", "[]").found(kind_of(&value)));
    };
    let mut record = Record::of(columns);
    record.take_data_urls(&mut |_, url| inline_blob(url, inline))?;
    Ok(record)
}
