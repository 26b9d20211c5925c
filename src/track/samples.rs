//! `samples.jsonl`: groups of completions kept for the report, one JSON object per line with the
//! images inside (PNG in base64), so that the report needs no other file. It never decodes them.

use super::step_log::{OfStep, StepLog};
use crate::io::data_url::{decode_base64, encode_base64};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

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

/// `samples.jsonl` of a run.
pub type SampleLog = StepLog<SampleGroup>;

impl OfStep for SampleGroup {
    const FILE: &'static str = "samples.jsonl";
    fn step(&self) -> u64 {
        self.step
    }
}

fn null_as_nan<'de, D: Deserializer<'de>>(d: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(d)?.unwrap_or(f64::NAN))
}

fn to_base64<S: Serializer>(images: &[Vec<u8>], s: S) -> Result<S::Ok, S::Error> {
    s.collect_seq(images.iter().map(|i| encode_base64(i)))
}

fn from_base64<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Vec<u8>>, D::Error> {
    let texts = Vec::<String>::deserialize(d)?;
    let bad = |e| serde::de::Error::custom(format!("an image is not base64: {e}"));
    texts.iter().map(|t| decode_base64(t).map_err(bad)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use std::io::Write;

    #[test]
    fn groups_survive_and_later_ones_are_cut() {
        let dir = tempfile::tempdir().unwrap();
        let log = SampleLog::new(dir.path().join("run"));
        log.cut_after(0).unwrap();
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
        log.cut_after(2).unwrap();
        let path = dir.path().join("run/samples.jsonl");
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"st").unwrap();
        assert_eq!(log.read().unwrap(), [group(1), group(2)]);
        assert_eq!(std::fs::read_dir(dir.path().join("run")).unwrap().count(), 1);
    }

    #[test]
    fn an_advantage_that_is_no_number_is_read_back_as_one_that_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let mut completion = SampleCompletion { advantage: f64::INFINITY, ..Default::default() };
        completion.text = "x".into();
        let group = SampleGroup { completions: vec![completion], ..Default::default() };
        SampleLog::new(dir.path()).append(&group).unwrap();
        assert!(SampleLog::new(dir.path()).read().unwrap()[0].completions[0].advantage.is_nan());
    }
}
