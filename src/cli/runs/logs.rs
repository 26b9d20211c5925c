//! The log of a run: all of it, its end, and what is added while the run goes. Reads one file.

use super::super::output::print;
use crate::base::{Error, Result};
use crate::runs::{Run, State};
use crate::train::run_file::LOG_FILE;
use std::io::{Read, Seek, SeekFrom};
use std::time::Duration;

/// How often a growing log is looked at.
const LOOK: Duration = Duration::from_millis(300);

/// Prints the log; with `follow`, what is added until the run ends.
///
/// # Errors
/// If there is no log, or it cannot be read.
pub fn print_log(run: &Run, lines: usize, follow: bool) -> Result<()> {
    let path = run.dir.join(LOG_FILE);
    let fail = |e: std::io::Error| {
        Error::io("cannot read the log of the run", &path, &e).hint(
            "runs that were made before there were logs have none; metrics.jsonl has their figures",
        )
    };
    let bytes = std::fs::read(&path).map_err(fail)?;
    let mut at = bytes.len() as u64;
    print(&printable(tail(&String::from_utf8_lossy(&bytes), lines)));
    if !follow {
        return Ok(());
    }
    loop {
        let ended = Run::open(&run.dir).is_none_or(|r| r.state != State::Running);
        let mut file = std::fs::File::open(&path).map_err(fail)?;
        let length = file.metadata().map_err(fail)?.len();
        // A run that was started anew has a new log.
        at = if length < at { 0 } else { at };
        file.seek(SeekFrom::Start(at)).map_err(fail)?;
        let mut more = Vec::new();
        file.take(length - at).read_to_end(&mut more).map_err(fail)?;
        at += more.len() as u64;
        print(&printable(&String::from_utf8_lossy(&more)));
        if ended {
            return Ok(());
        }
        std::thread::sleep(LOOK);
    }
}

/// The last lines of a text; all for 0.
fn tail(text: &str, lines: usize) -> &str {
    if lines == 0 {
        return text;
    }
    let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(i, _)| i + 1));
    let starts: Vec<usize> = starts.filter(|i| *i < text.len()).collect();
    starts.len().checked_sub(lines).map_or(text, |i| &text[starts[i]..])
}

/// Completions are in the log, and models write what they like: nothing that moves a cursor.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log() {
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc\n");
        assert_eq!(tail("a\nb\nc", 1), "c");
        assert_eq!((tail("a\n", 5), tail("", 1), tail("a\nb\n", 0)), ("a\n", "", "a\nb\n"));
        assert_eq!(printable("a\u{1b}[2Jb\tc\n"), "a[2Jb\tc\n");
    }
}
