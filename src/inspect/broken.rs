//! Rows that cannot be used: what is wrong with each, and how often each thing is wrong. The first are
//! kept in full, the rest are counted.

use crate::base::{Error, Result};
use crate::io::dataset::Row;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Broken rows that are named.
const NAMED: usize = 20;

/// Rows that cannot be used.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Broken {
    /// How many.
    pub count: usize,
    /// How often each thing is wrong.
    pub kinds: BTreeMap<String, usize>,
    /// The first of them.
    pub first: Vec<BrokenRow>,
}

/// A row that cannot be used.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BrokenRow {
    /// The data file.
    pub file: Option<String>,
    /// The row, from 1.
    pub row: Option<usize>,
    /// The column.
    pub key: Option<String>,
    /// What is wrong.
    pub what: String,
    /// What would be right.
    pub expected: Option<String>,
    /// What is there.
    pub found: Option<String>,
}

impl BrokenRow {
    fn of(error: &Error) -> Self {
        let place = error.place();
        let row = place.iter().position(|p| number_of_row(p).is_some());
        let key = place.iter().find_map(|p| p.strip_prefix("key `")?.strip_suffix('`'));
        let part =
            |name: &str| error.parts().into_iter().find(|(n, _)| *n == name).map(|(_, text)| text);
        BrokenRow {
            // The file of the row stands right before its number; others are of images.
            file: row.and_then(|at| place.get(at.checked_sub(1)?)).cloned(),
            row: row.and_then(|at| number_of_row(&place[at])),
            key: key.map(str::to_owned),
            what: error.what().to_owned(),
            expected: part("expected"),
            found: part("found"),
        }
    }
}

fn number_of_row(place: &str) -> Option<usize> {
    place.strip_prefix("row ")?.parse().ok()
}

/// Gathers broken rows.
pub(super) struct Collector {
    broken: Broken,
    first: Option<String>,
}

impl Collector {
    /// Those that could not be read: the errors of some, the number of all.
    pub(super) fn of(skipped: &[Error], all_skipped: usize) -> Self {
        let mut all = Collector { broken: Broken::default(), first: None };
        skipped.iter().for_each(|e| all.add(e));
        all.broken.count = all_skipped;
        all
    }

    fn add(&mut self, error: &Error) {
        let b = &mut self.broken;
        b.count += 1;
        *b.kinds.entry(error.what().to_owned()).or_default() += 1;
        if b.first.len() < NAMED {
            b.first.push(BrokenRow::of(error));
        }
        self.first.get_or_insert_with(|| error.one_line());
    }

    /// The rows that have no error; the first error ends it if `strict`.
    pub(super) fn sift<'a>(
        &mut self,
        rows: Vec<&'a Row>,
        strict: bool,
        mut error_of: impl FnMut(&Row) -> Option<Error>,
    ) -> Result<Vec<&'a Row>> {
        let mut good = Vec::with_capacity(rows.len());
        for row in rows {
            match error_of(row) {
                None => good.push(row),
                Some(e) if strict => return Err(e),
                Some(e) => self.add(&e),
            }
        }
        Ok(good)
    }

    /// The error of a data set whose rows are all broken.
    pub(super) fn nothing_left(self, files: &[PathBuf]) -> Error {
        let files: Vec<String> = files.iter().map(|f| f.display().to_string()).collect();
        Error::data("the data set has no usable row")
            .file(files.join(":"))
            .found(format!(
                "{} broken rows; the first: {}",
                self.broken.count,
                self.first.unwrap_or_default()
            ))
            .hint("mend the rows, or the options that say how they are read")
    }

    pub(super) fn done(self) -> Broken {
        self.broken
    }
}

/// An error of a part of a row, with the row's place.
pub(super) fn in_row(row: &Row, key: &str, what: &Error) -> Error {
    let mut error = Error::new(what.kind(), what.what());
    for place in what.place() {
        error = error.at(place.clone());
    }
    for (name, text) in what.parts() {
        error = match name {
            "expected" => error.expected(text),
            "found" => error.found(text),
            "hint" => error.hint(text),
            _ => error,
        };
    }
    error.file(&row.file).row(row.row).key(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_taken_apart() {
        let e = Error::data("bad").file("a.png").file("d.jsonl").row(3).key("image").found("x");
        let expected = BrokenRow {
            file: Some("d.jsonl".into()),
            row: Some(3),
            key: Some("image".into()),
            what: "bad".into(),
            expected: None,
            found: Some("x".into()),
        };
        assert_eq!(BrokenRow::of(&e), expected);
        let bare = BrokenRow::of(&Error::data("bad"));
        assert_eq!((bare.file, bare.row, bare.key), (None, None, None));
    }

    #[test]
    fn kinds_are_counted_and_the_first_are_kept() {
        let errors: Vec<Error> = (1..=30).map(|i| Error::data("bad").file("d").row(i)).collect();
        let mut all = Collector::of(&errors, errors.len());
        all.add(&Error::data("worse"));
        let done = all.done();
        assert_eq!((done.count, done.first.len(), done.first[19].row), (31, NAMED, Some(20)));
        assert_eq!(done.kinds["bad"], 30);
        assert_eq!(done.kinds["worse"], 1);
    }
}
