//! `math`: the answer is mathematics equivalent to the reference, see [`crate::reward::math`]. The
//! answer stands inside its tags, else in the last `\boxed{}` after the reasoning; nothing is picked
//! out of prose unless `--reward_compat` asks for the rewards that do.

use super::accuracy::{math_score, trl_accuracy};
use crate::base::Result;
use crate::reward::answer::{reference_answer, vlm_r1};
use crate::reward::math::extract;
use crate::reward::{AnswerFormat, Compat, Reward, RewardSettings, Sample, completion};

/// 1 or 0; None for a reference that is no mathematics (as in TRL).
#[derive(Debug, Clone, Copy)]
pub struct Math {
    format: AnswerFormat,
    compat: Compat,
}

impl Math {
    /// Any settings make sense.
    pub fn new(settings: &RewardSettings) -> Self {
        Math { format: settings.answer_format, compat: settings.compat }
    }

    fn score_one(&self, s: &Sample<'_>) -> Option<f64> {
        let reference = reference_answer(s.answer);
        if reference.is_empty() {
            return None;
        }
        match self.compat {
            Compat::Trl => return trl_accuracy(s.completion, s.answer),
            Compat::VlmR1 => return Some(vlm_r1::math(s.completion, s.answer)),
            Compat::None | Compat::MllmEvaluator => {}
        }
        let said = completion::answer(s.completion, self.format).map(|said| said.into_owned());
        let boxed = || extract::last_box(completion::after_reasoning(s.completion));
        math_score(said.or_else(boxed).as_deref(), reference)
    }
}

impl Reward for Math {
    fn name(&self) -> &str {
        "math"
    }
    fn score(&self, samples: &[Sample<'_>]) -> Vec<Result<Option<f64>>> {
        samples.iter().map(|s| Ok(self.score_one(s))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reward::builtin::answer_table::check;

    const TABLE: &str = include_str!("../../../tests/data/rewards/math.jsonl");

    #[test]
    fn adversarial_table() {
        check(TABLE, &|settings| Ok(Box::new(Math::new(settings))), 30);
    }
}
