//! `cosine_scaled`: what an answer earns depends on its length along half a cosine: a right one earns
//! the more the shorter it is, a wrong one loses the less the longer. It counts tokens, and leaves what
//! is right to `accuracy`.

use crate::base::{Error, Result};
use crate::reward::{Reward, RewardSettings, Sample};

/// Score of the accuracy reward from which on an answer is right.
const RIGHT: f64 = 0.5;

/// TRL's `get_cosine_scaled_reward` (appendix C.1 of "Demystifying Long Chain-of-Thought Reasoning",
/// arXiv 2502.03373). With `n` tokens and `L` = `cosine_max_length`:
///
/// ```text
/// long + (short - long) (1 + cos(pi min(n / L, 1))) / 2
/// ```
///
/// where `short` and `long` are the values at no and at full length, of right or of wrong answers.
/// None where the accuracy reward judges nothing, an error where it fails.
pub struct CosineScaled {
    accuracy: Box<dyn Reward>,
    max_length: usize,
    /// At no length, at full length: wrong answers, right answers.
    values: [[f64; 2]; 2],
}

impl CosineScaled {
    /// `accuracy` says what is right, by a score of at least a half.
    ///
    /// # Errors
    /// If the curve has no length or its values are not numbers.
    pub fn new(settings: &RewardSettings, accuracy: Box<dyn Reward>) -> Result<Self> {
        let told = &settings.length;
        let max_length = told.cosine_max_length.unwrap_or(settings.max_completion_length);
        let values = [told.cosine_wrong, told.cosine_correct];
        if max_length == 0 {
            return Err(Error::usage("the curve of `cosine_scaled` has no length")
                .key("cosine_max_length")
                .expected("at least 1 token")
                .found("0"));
        }
        if let Some(odd) = values.iter().flatten().find(|v| !v.is_finite()) {
            return Err(Error::usage("a value of `cosine_scaled` is not a number")
                .key("cosine_min_length_value_correct")
                .expected("finite numbers")
                .found(odd.to_string()));
        }
        Ok(CosineScaled { accuracy, max_length, values })
    }

    fn of_tokens(&self, n: usize, right: bool) -> f64 {
        let [short, long] = self.values[usize::from(right)];
        let progress = (n as f64 / self.max_length as f64).min(1.0);
        long + 0.5 * (short - long) * (1.0 + (progress * std::f64::consts::PI).cos())
    }
}

impl Reward for CosineScaled {
    fn name(&self) -> &str {
        "cosine_scaled"
    }
    fn score(&self, samples: &[Sample<'_>]) -> Vec<Result<Option<f64>>> {
        let accuracies = self.accuracy.score(samples);
        let scaled = |(accuracy, s): (Result<Option<f64>>, &Sample<'_>)| {
            let right = accuracy?.map(|score| score >= RIGHT);
            Ok(right.map(|right| self.of_tokens(s.completion_ids.len(), right)))
        };
        accuracies.into_iter().zip(samples).map(scaled).collect()
    }
    fn figures(&self) -> Vec<(String, f64)> {
        self.accuracy.figures()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reward::settings::LengthSettings;
    use crate::reward::{table_rows, test_sample};
    use serde_json::Map;

    /// Rows `{limit, tokens, correct, reward}` of TRL's `get_cosine_scaled_reward`, made by
    /// `tools/golden/rewards.py`.
    const GOLDEN: &str = include_str!("../../../tests/data/rewards/cosine.jsonl");

    /// Right, wrong, none or an error, by the completion.
    struct Says;

    impl Reward for Says {
        fn name(&self) -> &str {
            "says"
        }
        fn score(&self, samples: &[Sample<'_>]) -> Vec<Result<Option<f64>>> {
            let one = |s: &Sample<'_>| match s.completion {
                "none" => Ok(None),
                "error" => Err(Error::data("the judge is down")),
                score => Ok(Some(score.parse().unwrap())),
            };
            samples.iter().map(one).collect()
        }
        fn figures(&self) -> Vec<(String, f64)> {
            vec![("asked".into(), 1.0)]
        }
    }

    fn reward(limit: usize) -> CosineScaled {
        let length = LengthSettings { cosine_max_length: Some(limit), ..LengthSettings::default() };
        let settings = RewardSettings { length, ..RewardSettings::default() };
        CosineScaled::new(&settings, Box::new(Says)).unwrap()
    }

    #[test]
    fn equals_trl() {
        let (columns, mut rows) = (Map::new(), 0);
        for row in table_rows(GOLDEN) {
            let n = |k: &str| row[k].as_u64().unwrap() as usize;
            let ids = vec![7; n("tokens")];
            let said = if row["correct"].as_bool().unwrap() { "1" } else { "0" };
            let got = reward(n("limit")).score(&[test_sample(said, "", &ids, &columns)]);
            let (got, want) = (got[0].as_ref().unwrap().unwrap(), row["reward"].as_f64().unwrap());
            assert!((got - want).abs() < 1e-12, "{got}, not {want}: {row:?}");
            rows += 1;
        }
        assert!(rows >= 20);
    }

    #[test]
    fn what_is_not_judged_or_fails_stays_so() {
        let (columns, ids) = (Map::new(), [1; 50]);
        let samples = ["none", "error", "0.5", "0.4"].map(|t| test_sample(t, "", &ids, &columns));
        let reward = reward(100);
        let got = reward.score(&samples);
        assert_eq!(*got[0].as_ref().unwrap(), None);
        assert!(got[1].as_ref().unwrap_err().one_line().contains("judge is down"));
        let score = |i: usize| got[i].as_ref().unwrap().unwrap();
        assert!((score(2) - 0.75).abs() < 1e-12 && (score(3) + 0.75).abs() < 1e-12);
        assert_eq!(reward.figures(), [("asked".to_string(), 1.0)]);
    }

    #[test]
    fn a_curve_needs_a_length() {
        let length = LengthSettings { cosine_max_length: Some(0), ..LengthSettings::default() };
        let settings = RewardSettings { length, ..RewardSettings::default() };
        let error = CosineScaled::new(&settings, Box::new(Says)).err().unwrap();
        assert_eq!(error.exit_code(), 2);
    }
}
