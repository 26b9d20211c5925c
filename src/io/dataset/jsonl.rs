//! JSON Lines: one object per line, read line by line. A line that is not UTF-8, not JSON or not a
//! usable row becomes an error value; reading goes on.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde_json::{Map, Value};

use super::columns::row_of;
use super::row_error::{RowResult, kind_of};
use super::{DatasetOptions, Loaded};
use crate::base::{Error, Result};

/// Appends the rows of one file to `loaded`; image paths are relative to `folder`.
pub(super) fn read(
    file: &Path,
    folder: &Path,
    options: &DatasetOptions,
    loaded: &mut Loaded,
) -> Result<()> {
    let open = File::open(file).map_err(|e| {
        Error::io("cannot open the data file", file, &e)
            .hint("several files are joined by ':'; grpo-rt data makes one to try")
    })?;
    let mut reader = BufReader::with_capacity(1 << 20, open);
    let mut line = Vec::new();
    for number in 1.. {
        if options.max_rows.is_some_and(|most| loaded.rows.len() >= most) {
            break;
        }
        line.clear();
        let read = reader
            .read_until(b'\n', &mut line)
            .map_err(|e| Error::io("cannot read the data file", file, &e).row(number))?;
        if read == 0 {
            break;
        }
        // A byte-order mark is what some editors put before the first object.
        let bytes = line.strip_prefix(b"\xEF\xBB\xBF").filter(|_| number == 1).unwrap_or(&line);
        if bytes.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let row =
            object_of(bytes).and_then(|columns| row_of(file, number, folder, columns, options));
        match row {
            Ok(row) => loaded.rows.push(row),
            Err(e) => {
                let e = e.in_row(file, number);
                if options.strict {
                    return Err(e);
                }
                loaded.skipped.push(e);
            }
        }
    }
    Ok(())
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
