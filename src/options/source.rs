//! Where the value of an option came from, and how an error says so.

use std::fmt;
use std::path::PathBuf;

use crate::base::Error;

/// Where the value of an option came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The table.
    Default,
    /// A configuration file and the line in it.
    File(PathBuf, Option<usize>),
    /// An environment variable, by its full name.
    Env(String),
    /// The command line, as it was typed.
    Flag(String),
    /// The resolved options of the run whose model is asked.
    Run(PathBuf),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => f.write_str("default"),
            Source::File(path, Some(line)) => write!(f, "{}, line {line}", path.display()),
            Source::File(path, None) => write!(f, "{}", path.display()),
            Source::Env(name) => write!(f, "environment variable {name}"),
            Source::Flag(flag) => write!(f, "command line, {flag}"),
            Source::Run(path) => write!(f, "the run's {}", path.display()),
        }
    }
}

impl Source {
    /// Adds this place to an error about the option `name`.
    pub(super) fn blame(&self, error: Error, name: &str) -> Error {
        match self {
            Source::Default => error.at(format!("option `{name}`, its default")),
            Source::File(path, Some(line)) => error.file(path).line(*line).key(name),
            Source::File(path, None) | Source::Run(path) => error.file(path).key(name),
            Source::Env(_) | Source::Flag(_) => error.at(self.to_string()),
        }
    }
}
