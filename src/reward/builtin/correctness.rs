//! `correctness`: 2 for the right answer, else 0, as in the XML rewards of TRL's GSM8K recipe and the
//! projects built on it. What is right is `accuracy`'s rule without a judge; with `--reward_compat trl`
//! it is the recipe's: the text between the last `<answer>` and the next `</answer>`, letter by letter.

use super::Accuracy;
use crate::base::Result;
use crate::reward::answer::reference_answer;
use crate::reward::{Compat, Reward, RewardSettings, Sample};

/// What a right answer earns in the recipe.
const RIGHT: f64 = 2.0;

/// 2 or 0; None for rows without a reference answer.
#[derive(Debug, Clone)]
pub struct Correctness {
    rules: Accuracy,
    letter_by_letter: bool,
}

impl Correctness {
    /// Fails as [`Accuracy::new`] does.
    pub fn new(settings: &RewardSettings) -> Result<Self> {
        let rules = RewardSettings { accuracy_method: "default".into(), ..settings.clone() };
        let letter_by_letter = settings.compat == Compat::Trl;
        Ok(Correctness { rules: Accuracy::judged(&rules, None)?, letter_by_letter })
    }

    fn score_one(&self, s: &Sample<'_>) -> Result<Option<f64>> {
        let reference = reference_answer(s.answer);
        if reference.is_empty() {
            return Ok(None);
        }
        let right = if self.letter_by_letter {
            recipe_answer(s.completion) == s.answer
        } else {
            self.rules.by_rules(s)?
        };
        Ok(Some(if right { RIGHT } else { 0.0 }))
    }
}

/// `extract_xml_answer` of the recipe: without tags it is the whole completion.
fn recipe_answer(completion: &str) -> &str {
    let behind = completion.rsplit_once("<answer>").map_or(completion, |(_, behind)| behind);
    behind.split_once("</answer>").map_or(behind, |(inside, _)| inside).trim()
}

impl Reward for Correctness {
    fn name(&self) -> &str {
        "correctness"
    }
    fn score(&self, samples: &[Sample<'_>]) -> Vec<Result<Option<f64>>> {
        samples.iter().map(|s| self.score_one(s)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reward::builtin::answer_table::check;
    use crate::reward::test_sample;
    use serde_json::Map;

    const TABLE: &str = include_str!("../../../tests/data/rewards/correctness.jsonl");

    #[test]
    fn adversarial_table() {
        check(TABLE, &|settings| Ok(Box::new(Correctness::new(settings)?)), 30);
    }

    #[test]
    fn the_recipe_compares_letter_by_letter() {
        let settings = RewardSettings { compat: Compat::Trl, ..RewardSettings::default() };
        let reward = Correctness::new(&settings).unwrap();
        let columns = Map::new();
        for (said, answer, want) in [
            ("<reasoning>\nx\n</reasoning>\n<answer>\n72\n</answer>", "72", 2.0),
            ("<answer>72.0</answer>", "72", 0.0),
            ("72", "72", 2.0),
            ("<answer>1</answer><answer>72", "72", 2.0),
            ("<think><answer>72</answer></think>", "72", 2.0),
            ("<answer>1,000</answer>", "1000", 0.0),
        ] {
            let got = reward.score_one(&test_sample(said, answer, &[], &columns)).unwrap();
            assert_eq!(got, Some(want), "{said}");
        }
    }
}
