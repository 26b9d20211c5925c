//! `yes_no`: the answer is yes or no, as the reference. It is one word: "nothing" is not no.
//! `--reward_compat vlm_r1` reproduces VLM-R1's method of that name.

use super::Accuracy;
use crate::base::Result;
use crate::reward::answer::reference_answer;
use crate::reward::{Reward, RewardSettings, Sample};

/// 1 or 0; None for rows without a reference answer, and in default mode for a reference that is neither.
#[derive(Debug, Clone)]
pub struct YesNo(Accuracy);

impl YesNo {
    /// Any settings make sense.
    pub fn new(settings: &RewardSettings) -> Result<Self> {
        let rules = RewardSettings { accuracy_method: "yes_no".into(), ..settings.clone() };
        Ok(YesNo(Accuracy::judged(&rules, None)?))
    }
}

impl Reward for YesNo {
    fn name(&self) -> &str {
        "yes_no"
    }
    fn score(&self, samples: &[Sample<'_>]) -> Vec<Result<Option<f64>>> {
        let one = |s: &Sample<'_>| match reference_answer(s.answer) {
            "" => Ok(None),
            _ => self.0.by_yes_no(s),
        };
        samples.iter().map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reward::builtin::answer_table::check;

    const TABLE: &str = include_str!("../../../tests/data/rewards/yes_no.jsonl");

    #[test]
    fn adversarial_table() {
        check(TABLE, &|settings| Ok(Box::new(YesNo::new(settings)?)), 30);
    }
}
