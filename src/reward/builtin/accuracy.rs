//! `accuracy`: the answer inside `<answer>` tags is the reference answer. It never pays for parts,
//! closeness or length; see [`crate::reward::answer`] for what counts as the same.

use crate::base::Result;
use crate::reward::answer::{reference_answer, same_answer, tagged_answer};
use crate::reward::{Reward, Sample};

/// 1 or 0; None for rows without a reference answer (TRL: an empty gold answer is not judged).
#[derive(Debug, Clone, Copy)]
pub struct Accuracy {
    /// Without tags the score is 0. When false, a completion without tags is judged whole, as
    /// VLM-R1 does.
    pub answer_tag: bool,
}

impl Accuracy {
    fn score_one(&self, s: &Sample<'_>) -> Option<f64> {
        let reference = reference_answer(s.answer);
        if reference.is_empty() {
            return None;
        }
        let said = match tagged_answer(s.completion) {
            Some(inside) => inside,
            None if self.answer_tag => return Some(0.0),
            None => s.completion,
        };
        Some(f64::from(same_answer(said, reference)))
    }
}

impl Reward for Accuracy {
    fn name(&self) -> &str {
        "accuracy"
    }
    fn score(&self, samples: &[Sample<'_>]) -> Vec<Result<Option<f64>>> {
        samples.iter().map(|s| Ok(self.score_one(s))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reward::test_sample;
    use serde_json::{Map, Value};

    /// Rows `{said, answer, score, why}`: `said` is put inside the tags unless `raw` is true.
    const TABLE: &str = include_str!("../../../tests/data/rewards/accuracy.jsonl");

    #[test]
    fn adversarial_table() {
        let columns = Map::new();
        let mut rows = 0;
        for (i, line) in TABLE.lines().enumerate() {
            let row: Map<String, Value> = serde_json::from_str(line).unwrap();
            let text = |k: &str| row[k].as_str().unwrap().to_string();
            let said = match row.get("raw") {
                Some(_) => text("said"),
                None => format!("<think>hm</think>\n<answer>{}</answer>", text("said")),
            };
            let answer = text("answer");
            let got = Accuracy { answer_tag: true }.score_one(&test_sample(
                &said,
                &answer,
                &[],
                &columns,
            ));
            assert_eq!(got, row["score"].as_f64(), "line {}: {}", i + 1, text("why"));
            rows += 1;
        }
        assert!(rows >= 60, "the table lost rows: {rows}");
    }

    #[test]
    fn without_the_tag_rule_the_whole_completion_counts() {
        let columns = Map::new();
        let lax = Accuracy { answer_tag: false };
        let score = |said| lax.score_one(&test_sample(said, "red", &[], &columns));
        assert_eq!(score("Red."), Some(1.0));
        assert_eq!(score("blue <answer>red</answer>"), Some(1.0));
        assert_eq!(score("it is red"), Some(0.0));
    }
}
