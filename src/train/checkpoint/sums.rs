//! `SHA256SUMS`: a checksum of every file of a folder, in the format of `sha256sum -c`. Files are
//! hashed several at a time. Repairs nothing.

use crate::base::{Error, Result};
use crate::io::atomic::write_atomic;
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The file with the checksums; it has none itself.
pub const SUMS: &str = "SHA256SUMS";
/// Bytes that are read at a time.
const CHUNK: usize = 1 << 20;

/// A file and its SHA-256 in hexadecimal digits.
pub(super) type Sum = (String, String);

/// Writes the checksums of these files of a folder.
///
/// # Errors
/// If a file cannot be read, or the checksums cannot be written.
pub(super) fn write_sums(dir: &Path, files: &[String]) -> Result<()> {
    let one = |name: &String| Ok((name.clone(), sha256(&dir.join(name))?.0));
    let sums: Vec<Sum> = files.par_iter().map(one).collect::<Result<_>>()?;
    let mut text = String::new();
    for (name, sum) in &sums {
        // Two spaces: `sha256sum` reads the second as "not in binary mode".
        let _ = writeln!(text, "{sum}  {name}");
    }
    write_atomic(dir.join(SUMS), text.as_bytes())
}

/// Reads the checksums of a folder and holds every file against its own; returns the names.
///
/// # Errors
/// Kind data, with the first file that is missing or has another content.
pub fn verify(dir: &Path) -> Result<Vec<String>> {
    let sums = read_sums(dir)?;
    let check = |(name, expected): &Sum| -> Result<()> {
        let path = dir.join(name);
        let damaged = || Error::data("the checkpoint is damaged").file(&path);
        let expected_text = format!("SHA-256 {expected} ({SUMS})");
        match sha256(&path) {
            Ok((found, _)) if found == *expected => Ok(()),
            Ok((found, bytes)) => Err(damaged()
                .expected(expected_text)
                .found(format!("SHA-256 {found}, of {bytes} bytes"))),
            Err(_) if !path.exists() => {
                Err(damaged().expected(expected_text).found("the file is missing"))
            }
            Err(e) => Err(e),
        }
    };
    // In order, so that the first damaged file is named whoever is done first.
    let checked: Vec<Result<()>> = sums.par_iter().map(check).collect();
    checked.into_iter().collect::<Result<()>>()?;
    Ok(sums.into_iter().map(|(name, _)| name).collect())
}

/// Names of the files that have checksums, whether they are there or not.
///
/// # Errors
/// If the list of checksums cannot be read or is damaged.
pub fn summed(dir: &Path) -> Result<Vec<String>> {
    Ok(read_sums(dir)?.into_iter().map(|(name, _)| name).collect())
}

/// The lines of the file.
fn read_sums(dir: &Path) -> Result<Vec<Sum>> {
    let path = dir.join(SUMS);
    let damaged = |found: String| {
        Error::data("the checkpoint's list of checksums is damaged")
            .file(&path)
            .expected("lines of 64 hexadecimal digits, two spaces and the name of a file")
            .found(found)
    };
    let bytes =
        std::fs::read(&path).map_err(|e| Error::io("cannot read the checksums", &path, &e))?;
    let text = String::from_utf8(bytes).map_err(|_| damaged("bytes that are no text".into()))?;
    let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    let line = |(i, line): (usize, &str)| match line.split_once("  ") {
        Some((sum, name))
            if sum.len() == 64
                && sum.bytes().all(digit)
                && !name.is_empty()
                && !name.contains(['/', '\\']) =>
        {
            Ok((name.to_string(), sum.to_string()))
        }
        _ => Err(damaged(format!("line {}: {line:?}", i + 1))),
    };
    let sums: Vec<Sum> = text.lines().enumerate().map(line).collect::<Result<_>>()?;
    match sums.is_empty() || !text.ends_with('\n') {
        true => Err(damaged(format!("{} bytes, and no end of the last line", text.len()))),
        false => Ok(sums),
    }
}

/// SHA-256 of a file in hexadecimal digits, and its length.
fn sha256(path: &Path) -> Result<(String, u64)> {
    let wrong = |e: std::io::Error| Error::io("cannot read a file of the checkpoint", path, &e);
    let mut file = File::open(path).map_err(wrong)?;
    let (mut hash, mut buffer, mut bytes) = (Sha256::new(), vec![0; CHUNK], 0);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                hash.update(&buffer[..n]);
                bytes += n as u64;
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(wrong(e)),
        }
    }
    let mut digits = String::with_capacity(64);
    for byte in hash.finalize().iter() {
        let _ = write!(digits, "{byte:02x}");
    }
    Ok((digits, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_damage_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("a"), "abc").unwrap();
        std::fs::write(at("b c"), "").unwrap();
        let names = ["a".to_string(), "b c".to_string()];
        write_sums(dir.path(), &names).unwrap();
        // FIPS 180-2, appendix B.1, and the hash of nothing.
        let text = std::fs::read_to_string(at(SUMS)).unwrap();
        let (abc, none) = (
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        );
        assert_eq!(text, format!("{abc}  a\n{none}  b c\n"));
        assert_eq!(verify(dir.path()).unwrap(), names);
        let said = |wanted: &[&str]| {
            let e = verify(dir.path()).unwrap_err();
            assert_eq!(e.exit_code(), 3, "{e}");
            assert!(wanted.iter().all(|w| e.one_line().contains(w)), "{e}");
        };
        std::fs::write(at("a"), "abd").unwrap();
        said(&["/a)", abc, "3 bytes"]);
        std::fs::write(at("a"), "ab").unwrap();
        said(&["/a)", "2 bytes"]);
        std::fs::remove_file(at("a")).unwrap();
        said(&["/a)", "missing"]);
        std::fs::write(at("a"), "abc").unwrap();
        for broken in ["", &text[..text.len() - 1], &text[1..], &text.replace("  a", " a")] {
            std::fs::write(at(SUMS), broken).unwrap();
            said(&[SUMS]);
        }
    }
}
