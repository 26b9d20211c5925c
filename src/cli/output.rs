//! What commands share when they meet the outside: text for people, command lines as a shell takes
//! them, and folders that results may be written to. Never overwrites anything by itself.

use std::io::{ErrorKind, Write};
use std::path::Path;

use crate::base::{Error, Result};

/// Writes to stdout; a reader that went away (`| head`) is no failure.
pub fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Writes an error with all its parts to stderr.
pub fn print_error(error: &Error) {
    let _ = writeln!(std::io::stderr().lock(), "error: {error}");
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
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
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
