//! What commands share when they meet the outside: text for people, command lines as a shell takes
//! them, and folders that results may be written to. Never overwrites anything by itself.

use std::io::Write;
use std::path::Path;

use crate::base::{Error, ErrorKind, Result};

/// Writes to stdout; a reader that went away (`| head`) is no failure.
pub fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Writes an error with all its parts to stderr.
pub fn print_error(error: &Error) {
    let _ = writeln!(std::io::stderr().lock(), "error: {}", with_advice(error));
}

/// An error with something to do about it: its own hint, or what helps with errors of its kind.
fn with_advice(error: &Error) -> String {
    let general = match error.kind() {
        _ if error.hint_text().is_some() => return error.to_string(),
        ErrorKind::Usage => "grpo-rt COMMAND --help all lists every option of a command",
        ErrorKind::Data => "compare the file with its original, or make it again",
        ErrorKind::Io => "is the path right, and may you read and write there?",
        ErrorKind::Device => "grpo-rt doctor says what this machine has and can do",
        ErrorKind::Interrupted => "give the same command again",
        ErrorKind::Internal => {
            "this is a mistake of the program: please report it with the command and this text"
        }
    };
    format!("{error}\n  hint:     {general}")
}

/// Writes a warning to stderr.
pub fn print_warning(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "warning: {text}");
}

/// Refuses a folder that a command may not write to; makes nothing.
///
/// # Errors
/// A folder that is not empty, unless `overwrite`; a file in its place; a folder that cannot be
/// looked into.
pub fn check_output_dir(dir: &Path, overwrite: bool) -> Result<()> {
    let mut entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => {
            return Err(Error::io("cannot use the output folder", dir, &e)
                .hint("give another --output_dir"));
        }
    };
    if !overwrite && entries.next().is_some() {
        return Err(Error::usage("the output folder is not empty")
            .file(dir)
            .key("output_dir")
            .expected("an empty folder, or one that does not exist yet")
            .hint("give another --output_dir, or add --overwrite_output_dir to write into it"));
    }
    Ok(())
}

/// A word as it must be typed in a shell.
pub fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:=,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_string();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A count with its noun: `1 row`, `2 rows`.
pub fn counted(n: usize, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_a_shell() {
        assert_eq!(shell_word("a/b-c.jsonl"), "a/b-c.jsonl");
        assert_eq!(shell_word("my folder"), "'my folder'");
        assert_eq!(shell_word("it's"), r"'it'\''s'");
        assert_eq!(shell_word(""), "''");
    }

    #[test]
    fn every_error_says_what_to_do() {
        use ErrorKind::{Data, Device, Internal, Interrupted, Io, Usage};
        for kind in [Usage, Data, Io, Device, Interrupted, Internal] {
            let bare = with_advice(&Error::new(kind, "x"));
            assert!(bare.starts_with("x\n  hint:     "), "{bare}");
            let own = Error::new(kind, "x").hint("y");
            assert_eq!(with_advice(&own), own.to_string());
        }
    }

    #[test]
    fn a_folder_with_something_in_it_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let new = dir.path().join("a/b");
        check_output_dir(&new, false).unwrap();
        assert!(!new.exists());
        std::fs::create_dir_all(&new).unwrap();
        check_output_dir(&new, false).unwrap();
        std::fs::write(new.join("x"), "").unwrap();
        let error = check_output_dir(&new, false).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains("--overwrite_output_dir"));
        check_output_dir(&new, true).unwrap();
        assert_eq!(check_output_dir(&new.join("x"), true).unwrap_err().exit_code(), 4);
    }
}
