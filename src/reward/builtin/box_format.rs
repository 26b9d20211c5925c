//! `box_format`: reasoning and answer as they were asked for, and a box in the answer, for referring
//! expressions. It never judges where the box is.

use super::Format;
use crate::base::{Error, Result};
use crate::reward::boxes::{BoxSpace, Rect, four_number_lists};
use crate::reward::{AnswerFormat, Compat, Reward, RewardSettings, Sample, completion};
use regex::Regex;

/// 1 or 0: [`Format`] holds and the answer names one box, right and bottom edges beyond left and top.
///
/// With `compat` VLM-R1's `format_reward_rec`, that of its module for Qwen where it converts boxes, else that
/// of its module for InternVL: whole numbers anywhere in an answer, for Qwen inside braces.
#[derive(Debug, Clone)]
pub struct BoxFormat {
    form: Format,
    answer_format: AnswerFormat,
    original: Option<Regex>,
}

impl BoxFormat {
    /// As the settings say.
    ///
    /// # Errors
    /// None that a user can cause.
    pub fn new(settings: &RewardSettings) -> Result<Self> {
        let original = match settings.compat {
            Compat::VlmR1 => Some(pattern(settings.box_space == BoxSpace::Seen)?),
            _ => None,
        };
        let ours = RewardSettings { compat: Compat::None, ..settings.clone() };
        Ok(BoxFormat { form: Format::new(&ours)?, answer_format: settings.answer_format, original })
    }

    fn holds(&self, text: &str) -> bool {
        if let Some(pattern) = &self.original {
            return pattern.is_match(text);
        }
        let said = completion::answer(text, self.answer_format);
        let lists = said.map(|t| four_number_lists(&t)).unwrap_or_default();
        self.form.holds(text) && matches!(lists[..], [only] if Rect::new(only).is_some())
    }
}

/// VLM-R1's, which is searched anywhere in a completion.
fn pattern(braces: bool) -> Result<Regex> {
    let space = r"[\s\x1c-\x1f]*";
    let list = [r"\d+"; 4].join(&format!(",{space}"));
    let list = format!(r"\[{list}\]");
    let held = if braces { format!(r"\{{.*{list}.*\}}") } else { list };
    Regex::new(&format!("(?s)<think>.*?</think>{space}<answer>.*?{held}.*?</answer>"))
        .map_err(|e| Error::internal(format!("the pattern of `box_format`: {e}")))
}

impl Reward for BoxFormat {
    fn name(&self) -> &str {
        "box_format"
    }
    fn score(&self, samples: &[Sample<'_>]) -> Vec<Result<Option<f64>>> {
        samples.iter().map(|s| Ok(Some(f64::from(self.holds(s.completion))))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reward::table_rows;

    /// Rows `{completion, qwen, internvl}` of VLM-R1's `format_reward_rec`: see
    /// `tools/golden/vlm_r1_rewards.py`.
    const COMPAT: &str = include_str!("../../../tests/data/rewards/box_format_compat.jsonl");

    fn reward(compat: Compat, box_space: BoxSpace) -> BoxFormat {
        BoxFormat::new(&RewardSettings { compat, box_space, ..RewardSettings::default() }).unwrap()
    }

    #[test]
    fn one_box_in_an_answer_of_the_right_form() {
        let ours = reward(Compat::None, BoxSpace::Auto);
        for (answer, good) in [
            ("{\"bbox_2d\": [1, 2, 30, 40]}", true),
            ("```json\n[{\"bbox_2d\": [1.5, 2, 30, 40.25], \"label\": \"x\"}]\n```", true),
            ("[1,2,30,40]", true),
            ("[30, 2, 1, 40]", false),
            ("[1, 2, 30]", false),
            ("[1, 2, 30, 40] or [1, 2, 30, 41]", false),
            ("nowhere", false),
            ("", false),
        ] {
            let text = format!("<think>It is left.</think>\n<answer>{answer}</answer>");
            assert_eq!(ours.holds(&text), good, "{answer}");
        }
        for text in [
            "<answer>[1, 2, 30, 40]</answer>",
            "<think></think><answer>[1, 2, 30, 40]</answer>",
            "<think>It is left.</think><answer>[1, 2, 30, 40]</answer> so",
            "<think>[1, 2, 30, 40]</think><answer>there</answer>",
            "<think>a</think><answer>[1, 2, 30, 40]</answer><answer>[1, 2, 30, 40]</answer>",
        ] {
            assert!(!ours.holds(text), "{text}");
        }
    }

    #[test]
    fn equals_vlm_r1_in_compat() {
        let mut seen = [[0; 2]; 2];
        for row in table_rows(COMPAT) {
            let said = row["completion"].as_str().unwrap();
            for (i, (name, space)) in [("qwen", BoxSpace::Seen), ("internvl", BoxSpace::Reference)]
                .into_iter()
                .enumerate()
            {
                let got = reward(Compat::VlmR1, space).holds(said);
                assert_eq!(Some(f64::from(got)), row[name].as_f64(), "{name}: {said:?}");
                seen[i][usize::from(got)] += 1;
            }
        }
        assert!(seen.iter().flatten().all(|n| *n >= 5), "{seen:?}");
    }
}
