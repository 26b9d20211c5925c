//! The one error type. An error says what failed, where, what was expected, what was found and
//! what to do about it; nothing in this program panics on user input.

use std::fmt;
use std::path::Path;

/// Result with the crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// What class of thing went wrong; decides the exit code of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// A wrong option or configuration key. Exit code 2.
    Usage,
    /// A file's content is not what it should be (model, data set, image). Exit code 3.
    Data,
    /// The operating system refused (missing file, full disk, permissions). Exit code 4.
    Io,
    /// A device is missing, too small or failed. Exit code 5.
    Device,
    /// The user stopped the run; everything written so far is kept. Exit code 130.
    Interrupted,
    /// A defect of this program. Exit code 70.
    Internal,
}

/// An error written for the person who reads it at three in the morning.
///
/// Built in the order a reader needs it:
///
/// ```
/// use grpo_rt::base::Error;
/// let e = Error::data("cannot decode the image")
///     .file("images/0007.png")
///     .row(12)
///     .key("image")
///     .expected("a PNG, JPEG, WebP, GIF or BMP file")
///     .found("a file of 0 bytes")
///     .hint("replace the file or remove row 12 from the data set");
/// assert!(e.to_string().contains("row 12"));
/// assert_eq!(e.exit_code(), 3);
/// ```
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    what: String,
    place: Vec<String>,
    expected: Option<String>,
    found: Option<String>,
    hint: Option<String>,
}

impl Error {
    /// An error of `kind` that says `what` failed.
    pub fn new(kind: ErrorKind, what: impl Into<String>) -> Self {
        Error(Box::new(Inner {
            kind,
            what: what.into(),
            place: Vec::new(),
            expected: None,
            found: None,
            hint: None,
        }))
    }
    /// A wrong option or configuration key.
    pub fn usage(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::Usage, what)
    }
    /// Content of a file that is not what it should be.
    pub fn data(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::Data, what)
    }
    /// An operating-system error on `path`, with what to do about the usual ones.
    pub fn io(what: impl Into<String>, path: impl AsRef<Path>, source: &std::io::Error) -> Self {
        let error = Self::new(ErrorKind::Io, what).file(path).found(source.to_string());
        match usual_remedy(source.kind()) {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
    /// A device is missing, too small or failed.
    pub fn device(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::Device, what)
    }
    /// A defect of this program that was noticed before it did harm.
    pub fn internal(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, what)
    }

    /// Adds the file the error is about.
    pub fn file(self, path: impl AsRef<Path>) -> Self {
        self.at(path.as_ref().display().to_string())
    }
    /// Adds the line of a text file (1-based).
    pub fn line(self, line: usize) -> Self {
        self.at(format!("line {line}"))
    }
    /// Adds the row of a data set (1-based, the line number for JSONL).
    pub fn row(self, row: usize) -> Self {
        self.at(format!("row {row}"))
    }
    /// Adds the key of a JSON object, a configuration file or an option.
    pub fn key(self, key: impl fmt::Display) -> Self {
        self.at(format!("key `{key}`"))
    }
    /// Adds the tensor the error is about.
    pub fn tensor(self, name: impl fmt::Display) -> Self {
        self.at(format!("tensor `{name}`"))
    }
    /// Adds any other place, most general first.
    pub fn at(mut self, place: impl Into<String>) -> Self {
        self.0.place.push(place.into());
        self
    }
    /// What would have been right.
    pub fn expected(mut self, text: impl Into<String>) -> Self {
        self.0.expected = Some(text.into());
        self
    }
    /// What was there instead.
    pub fn found(mut self, text: impl Into<String>) -> Self {
        self.0.found = Some(text.into());
        self
    }
    /// What the reader should do.
    pub fn hint(mut self, text: impl Into<String>) -> Self {
        self.0.hint = Some(text.into());
        self
    }

    /// The class of the error.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }
    /// What failed, in one line.
    pub fn what(&self) -> &str {
        &self.0.what
    }
    /// Where it failed, most general first: a file, `row 3`, ``key `image` ``.
    pub fn place(&self) -> &[String] {
        &self.0.place
    }
    /// What to do, if the error knows.
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }
    /// Exit code of the program when this error ends it.
    pub fn exit_code(&self) -> u8 {
        match self.0.kind {
            ErrorKind::Usage => 2,
            ErrorKind::Data => 3,
            ErrorKind::Io => 4,
            ErrorKind::Device => 5,
            ErrorKind::Internal => 70,
            ErrorKind::Interrupted => 130,
        }
    }
    /// The parts that are there, by name: `what`, `where`, `expected`, `found`, `hint`.
    pub fn parts(&self) -> Vec<(&'static str, String)> {
        let e = &self.0;
        let place = (!e.place.is_empty()).then(|| e.place.join(", "));
        let all = [
            ("what", Some(e.what.clone())),
            ("where", place),
            ("expected", e.expected.clone()),
            ("found", e.found.clone()),
            ("hint", e.hint.clone()),
        ];
        all.into_iter().filter_map(|(name, part)| Some((name, part?))).collect()
    }
    /// The whole error on one line, for logs and tables.
    pub fn one_line(&self) -> String {
        let e = &self.0;
        let mut s = e.what.clone();
        if !e.place.is_empty() {
            s += &format!(" ({})", e.place.join(", "));
        }
        for (name, v) in [("expected", &e.expected), ("found", &e.found), ("hint", &e.hint)] {
            if let Some(v) = v {
                s += &format!("; {name}: {}", v.replace('\n', " "));
            }
        }
        s
    }
}

/// What helps against the operating system's usual refusals.
fn usual_remedy(kind: std::io::ErrorKind) -> Option<&'static str> {
    use std::io::ErrorKind::{
        FileTooLarge, NotADirectory, NotFound, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem,
        StorageFull,
    };
    match kind {
        StorageFull | QuotaExceeded => Some(
            "free some space (old checkpoints? --save_total_limit keeps fewer) and run it again; \
             what was saved before is whole",
        ),
        FileTooLarge => Some("raise the limit on the size of files (ulimit -f) and run it again"),
        ReadOnlyFilesystem | PermissionDenied => {
            Some("choose a folder that can be written, or change its permissions")
        }
        NotFound | NotADirectory => Some("is the path right, and are its folders there?"),
        _ => None,
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let e = &self.0;
        write!(f, "{}", e.what)?;
        let place = (!e.place.is_empty()).then(|| e.place.join(", "));
        for (name, v) in [
            ("where:   ", &place),
            ("expected:", &e.expected),
            ("found:   ", &e.found),
            ("hint:    ", &e.hint),
        ] {
            if let Some(v) = v {
                write!(f, "\n  {name} {}", v.replace('\n', "\n            "))?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_has_every_part_in_order() {
        let e = Error::data("cannot read")
            .file("a.jsonl")
            .row(3)
            .key("image")
            .expected("x")
            .found("y")
            .hint("z");
        assert_eq!(
            e.to_string(),
            "cannot read\n  where:    a.jsonl, row 3, key `image`\n  expected: x\n  found:    y\n  hint:     z"
        );
        let names: Vec<&str> = e.parts().iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["what", "where", "expected", "found", "hint"]);
        assert_eq!(Error::device("x").parts(), [("what", "x".to_string())]);
        assert_eq!(
            e.one_line(),
            "cannot read (a.jsonl, row 3, key `image`); expected: x; found: y; hint: z"
        );
    }

    #[test]
    fn exit_codes_differ_from_success() {
        for k in [
            ErrorKind::Usage,
            ErrorKind::Data,
            ErrorKind::Io,
            ErrorKind::Device,
            ErrorKind::Interrupted,
            ErrorKind::Internal,
        ] {
            assert_ne!(Error::new(k, "").exit_code(), 0);
        }
    }
}
