//! `exact`: the whole completion is the reference answer, for prompts that ask for a bare answer.
//! It never looks for tags.

use crate::base::Result;
use crate::reward::answer::{reference_answer, same_answer};
use crate::reward::{Reward, Sample};

/// 1 or 0; None for rows without a reference answer.
#[derive(Debug, Clone, Copy)]
pub struct Exact;

impl Reward for Exact {
    fn name(&self) -> &str {
        "exact"
    }
    fn score(&self, samples: &[Sample<'_>]) -> Vec<Result<Option<f64>>> {
        let one = |s: &Sample<'_>| {
            let reference = reference_answer(s.answer);
            let judged = !reference.is_empty();
            Ok(judged.then(|| f64::from(same_answer(s.completion, reference))))
        };
        samples.iter().map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reward::test_sample;
    use serde_json::Map;

    #[test]
    fn whole_completion_only() {
        let columns = Map::new();
        for (said, answer, want) in [
            ("Circle.", "circle", Some(1.0)),
            (" 3 ", "<answer>three</answer>", Some(1.0)),
            ("a circle or a square", "circle", Some(0.0)),
            ("<answer>circle</answer>", "circle", Some(0.0)),
            ("", "circle", Some(0.0)),
            ("circle", "", None),
        ] {
            let got = Exact.score(&[test_sample(said, answer, &[], &columns)]);
            assert_eq!(*got[0].as_ref().unwrap(), want, "{said} / {answer}");
        }
    }
}
