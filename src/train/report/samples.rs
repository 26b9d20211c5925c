//! `samples.jsonl`: groups of completions kept for the report, one JSON object per line with the
//! images inside (PNG in base64), so that the report needs no other file. It never decodes them.

use crate::base::{Error, Result};
use crate::io::atomic::write_atomic;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The completions of one prompt.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SampleGroup {
    /// Optimizer step.
    pub step: u64,
    /// The user's question.
    pub prompt: String,
    /// Reference answer.
    pub answer: String,
    /// The prompt's images, as PNG files.
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    pub images_png: Vec<Vec<u8>>,
    /// The group.
    pub completions: Vec<SampleCompletion>,
}

/// One completion of a group.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SampleCompletion {
    /// Its text.
    pub text: String,
    /// Score by reward name; None where a reward did not judge it.
    pub rewards: Vec<(String, Option<f64>)>,
    /// Weighted sum; None if nothing judged it.
    pub total: Option<f64>,
    /// What its tokens were trained with.
    #[serde(deserialize_with = "null_as_nan")]
    pub advantage: f64,
    /// Length in tokens.
    pub tokens: usize,
}

/// Appends groups to `samples.jsonl`.
#[derive(Debug, Clone)]
pub struct SampleLog {
    path: PathBuf,
}

impl SampleLog {
    /// The log of a run; the file is made with the first group.
    pub fn new(output_dir: impl AsRef<Path>) -> Self {
        SampleLog { path: output_dir.as_ref().join("samples.jsonl") }
    }

    /// Appends one line.
    pub fn append(&self, group: &SampleGroup) -> Result<()> {
        let io = |e: std::io::Error| Error::io("cannot write samples", &self.path, &e);
        if let Some(dir) = self.path.parent() {
            std::fs::create_dir_all(dir).map_err(io)?;
        }
        let mut line = serde_json::to_vec(group)
            .map_err(|e| Error::internal(format!("a sample group is no JSON: {e}")))?;
        line.push(b'\n');
        let mut file = OpenOptions::new().append(true).create(true).open(&self.path).map_err(io)?;
        file.write_all(&line).map_err(io)
    }

    /// Removes groups later than `step` and broken lines; called on resume.
    pub fn truncate_after(&self, step: u64) -> Result<()> {
        let Some(text) = read_optional(&self.path)? else { return Ok(()) };
        let keep = |line: &&str| {
            line.ends_with('\n')
                && serde_json::from_str::<SampleGroup>(line).is_ok_and(|g| g.step <= step)
        };
        let kept: String = text.split_inclusive('\n').filter(keep).collect();
        if kept.len() == text.len() {
            return Ok(());
        }
        write_atomic(&self.path, kept.as_bytes())
    }
}

/// Groups of `<output_dir>/samples.jsonl`; none if there is no such file. Broken lines are skipped.
pub fn read_samples(output_dir: impl AsRef<Path>) -> Result<Vec<SampleGroup>> {
    let text = read_optional(&output_dir.as_ref().join("samples.jsonl"))?.unwrap_or_default();
    Ok(text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect())
}

fn read_optional(path: &Path) -> Result<Option<String>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("cannot read the samples", path, &e)),
    }
}

fn null_as_nan<'de, D: Deserializer<'de>>(d: D) -> std::result::Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(d)?.unwrap_or(f64::NAN))
}

fn to_base64<S: Serializer>(images: &[Vec<u8>], s: S) -> std::result::Result<S::Ok, S::Error> {
    s.collect_seq(images.iter().map(|i| base64(i)))
}

fn from_base64<'de, D: Deserializer<'de>>(d: D) -> std::result::Result<Vec<Vec<u8>>, D::Error> {
    let texts = Vec::<String>::deserialize(d)?;
    let bad = || serde::de::Error::custom("an image is not base64");
    texts.iter().map(|t| unbase64(t).ok_or_else(bad)).collect()
}

/// RFC 4648, section 4.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base64 with padding.
pub(in crate::train) fn base64(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for c in bytes.chunks(3) {
        let at = |i: usize| u32::from(c.get(i).copied().unwrap_or(0));
        let word = at(0) << 16 | at(1) << 8 | at(2);
        for i in 0..4 {
            let digit = ALPHABET[(word >> (18 - 6 * i) & 63) as usize];
            out.push(if i <= c.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

fn unbase64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=').as_bytes();
    if !text.len().is_multiple_of(4) || text.len() - digits.len() > 2 {
        return None;
    }
    let mut out = Vec::with_capacity(digits.len() * 3 / 4);
    for c in digits.chunks(4) {
        let mut word = 0u32;
        for d in c {
            word = word << 6 | ALPHABET.iter().position(|a| a == d)? as u32;
        }
        word <<= 6 * (4 - c.len());
        out.extend(&word.to_be_bytes()[1..c.len()]);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_known_answers_and_round_trip() {
        // RFC 4648, section 10.
        for (raw, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(raw.as_bytes()), text);
            assert_eq!(unbase64(text).unwrap(), raw.as_bytes());
        }
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(unbase64(&base64(&all)).unwrap(), all);
        for bad in ["Zg=", "Z", "Zg!=", "===="] {
            assert_eq!(unbase64(bad), None, "{bad}");
        }
    }

    #[test]
    fn groups_survive_and_later_ones_are_cut() {
        let dir = tempfile::tempdir().unwrap();
        let log = SampleLog::new(dir.path().join("run"));
        log.truncate_after(0).unwrap();
        let group = |step| SampleGroup {
            step,
            prompt: "a\nb".into(),
            answer: "1".into(),
            images_png: vec![vec![1, 2, 3, 255]],
            completions: vec![SampleCompletion {
                text: "\u{1F600}".into(),
                rewards: vec![("accuracy".into(), Some(1.0)), ("judge".into(), None)],
                total: None,
                advantage: -0.5,
                tokens: 3,
            }],
        };
        (1..=3).for_each(|s| log.append(&group(s)).unwrap());
        log.truncate_after(2).unwrap();
        let path = dir.path().join("run/samples.jsonl");
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"st").unwrap();
        assert_eq!(read_samples(dir.path().join("run")).unwrap(), [group(1), group(2)]);
        assert_eq!(std::fs::read_dir(dir.path().join("run")).unwrap().count(), 1);
    }

    #[test]
    fn an_advantage_that_is_no_number_is_read_back_as_one_that_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let mut completion = SampleCompletion { advantage: f64::INFINITY, ..Default::default() };
        completion.text = "x".into();
        let group = SampleGroup { completions: vec![completion], ..Default::default() };
        SampleLog::new(dir.path()).append(&group).unwrap();
        assert!(read_samples(dir.path()).unwrap()[0].completions[0].advantage.is_nan());
    }
}
