//! `format`: the completion is reasoning in `<think>` tags, then an answer in `<answer>` tags, and
//! nothing else. It never judges what stands between them.

use crate::base::{Error, Result};
use crate::reward::{Reward, Sample};
use regex::Regex;

/// VLM-R1's `format_reward`: a full match of `<think>.*?</think>\s*<answer>.*?</answer>` where the
/// dot matches line ends.
#[derive(Debug, Clone)]
pub struct Format {
    pattern: Regex,
}

impl Format {
    /// Compiles the pattern.
    pub fn new() -> Result<Self> {
        let pattern = Regex::new(r"(?s)\A<think>.*?</think>\s*<answer>.*?</answer>\z")
            .map_err(|e| Error::internal(format!("the pattern of `format`: {e}")))?;
        Ok(Format { pattern })
    }
}

impl Reward for Format {
    fn name(&self) -> &str {
        "format"
    }
    fn score(&self, samples: &[Sample<'_>]) -> Vec<Result<Option<f64>>> {
        let one = |s: &Sample<'_>| Ok(Some(f64::from(self.pattern.is_match(s.completion))));
        samples.iter().map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reward::test_sample;
    use serde_json::{Map, Value};

    /// Rows `{completion, format}` made by `tools/golden/rewards.py` with Python's `re.fullmatch`.
    const GOLDEN: &str = include_str!("../../../tests/data/rewards/format.jsonl");

    #[test]
    fn equals_python_fullmatch() {
        let (columns, reward) = (Map::new(), Format::new().unwrap());
        let mut seen = [0, 0];
        for line in GOLDEN.lines() {
            let row: Map<String, Value> = serde_json::from_str(line).unwrap();
            let said = row["completion"].as_str().unwrap();
            let got = reward.score(&[test_sample(said, "", &[], &columns)]);
            assert_eq!(*got[0].as_ref().unwrap(), row["format"].as_f64(), "{said:?}");
            seen[row["format"].as_f64().unwrap() as usize] += 1;
        }
        assert!(seen[0] >= 10 && seen[1] >= 5, "{seen:?}");
    }
}
