//! `mcq`: the answer is the choice that the reference names: its letter, its text, or both together.
//! `--reward_compat vlm_r1` reproduces VLM-R1's method of that name.

use super::Accuracy;
use crate::base::Result;
use crate::reward::answer::reference_answer;
use crate::reward::{Reward, RewardSettings, Sample};

/// 1 or 0; None for rows without a reference answer, and in default mode for a reference that names no choice.
#[derive(Debug, Clone)]
pub struct Mcq(Accuracy);

impl Mcq {
    /// Any settings make sense.
    pub fn new(settings: &RewardSettings) -> Result<Self> {
        let rules = RewardSettings { accuracy_method: "mcq".into(), ..settings.clone() };
        Ok(Mcq(Accuracy::judged(&rules, None)?))
    }
}

impl Reward for Mcq {
    fn name(&self) -> &str {
        "mcq"
    }
    fn score(&self, samples: &[Sample<'_>]) -> Vec<Result<Option<f64>>> {
        let one = |s: &Sample<'_>| match reference_answer(s.answer) {
            "" => Ok(None),
            _ => self.0.by_choice(s),
        };
        samples.iter().map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reward::builtin::answer_table::check;

    const TABLE: &str = include_str!("../../../tests/data/rewards/mcq.jsonl");

    #[test]
    fn adversarial_table() {
        check(TABLE, &|settings| Ok(Box::new(Mcq::new(settings)?)), 30);
    }
}
