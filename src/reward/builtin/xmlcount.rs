//! `xmlcount`: a part of the reward for each tag of `<reasoning>` and `<answer>` that is in its place,
//! so that a model which has none of them yet learns one after the other. It never judges the content.

use crate::base::Result;
use crate::reward::tags::{has_words, is_visible, only_tag};
use crate::reward::{Compat, Reward, Sample};

/// What a tag in its place earns.
const PER_TAG: f64 = 0.125;
/// What a character after the answer costs.
const PER_CHARACTER: f64 = 0.001;

/// `xmlcount_reward_func` of the GSM8K recipe for TRL (`<reasoning>`, `<answer>`), with its holes
/// closed unless `compat` is TRL's: 0 to 0.5.
#[derive(Debug, Clone, Copy)]
pub struct XmlCount {
    /// Whose counts.
    pub compat: Compat,
}

/// A tag earns if it stands once, after those before it that earn; a closing tag only if its opening one
/// does and something is between. Text behind the answer takes from what was earned, and no more.
fn counted(text: &str) -> f64 {
    let (mut earned, mut at, mut behind) = (0, 0, 0);
    for (name, says) in [("reasoning", has_words as fn(&str) -> bool), ("answer", is_visible)] {
        let Some((start, opened)) = only_tag(text, name, false) else { continue };
        if start < at {
            continue;
        }
        (earned, at) = (earned + 1, opened);
        if let Some((start, end)) = only_tag(text, name, true)
            && start >= opened
            && says(&text[opened..start])
        {
            (earned, at) = (earned + 1, end);
            behind = if name == "answer" { text[end..].trim().chars().count() } else { 0 };
        }
    }
    (PER_TAG * f64::from(earned) - PER_CHARACTER * behind as f64).max(0.0)
}

/// The recipe: each tag counts with its line ends; behind the answer every character costs, twice where
/// both forms of the closing tag are missed, so that a long text goes far below 0.
fn of_the_recipe(text: &str) -> f64 {
    let once = |tag: &str| text.matches(tag).count() == 1;
    let behind = |tag: &str| text.rsplit(tag).next().unwrap_or(text).chars().count() as f64;
    let mut sum = 0.0;
    for tag in ["<reasoning>\n", "\n</reasoning>\n"] {
        sum += if once(tag) { PER_TAG } else { 0.0 };
    }
    if once("\n<answer>\n") {
        sum += PER_TAG;
        sum -= behind("\n</answer>\n") * PER_CHARACTER;
    }
    if once("\n</answer>") {
        sum += PER_TAG;
        sum -= (behind("\n</answer>") - 1.0) * PER_CHARACTER;
    }
    sum
}

impl Reward for XmlCount {
    fn name(&self) -> &str {
        "xmlcount"
    }
    fn score(&self, samples: &[Sample<'_>]) -> Vec<Result<Option<f64>>> {
        let count = if self.compat == Compat::Trl { of_the_recipe } else { counted };
        samples.iter().map(|s| Ok(Some(count(s.completion)))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reward::table_rows;

    /// Rows `{completion, xmlcount, soft_format, strict_format}` of the recipe: see
    /// `tools/golden/rewards.py`.
    const COMPAT: &str = include_str!("../../../tests/data/rewards/xml_compat.jsonl");

    #[test]
    fn equals_the_recipe_in_compat() {
        let mut rows = 0;
        for row in table_rows(COMPAT) {
            let said = row["completion"].as_str().unwrap();
            assert_eq!(Some(of_the_recipe(said)), row["xmlcount"].as_f64(), "{said:?}");
            rows += 1;
        }
        assert!(rows >= 20);
    }

    #[test]
    fn tags_count_once_in_place_and_text_behind_costs_what_was_earned() {
        let good = "<reasoning>\na\n</reasoning>\n<answer>\nb\n</answer>";
        for (said, score) in [
            (good.to_string(), 0.5),
            (format!("{good}\n  \n"), 0.5),
            (format!("{good} bye"), 0.5 - 0.003),
            (format!("{good}{}", "x".repeat(10_000)), 0.0),
            (good.replace('\n', ""), 0.5),
            ("<reasoning>a</reasoning>".into(), 0.25),
            ("<answer>b</answer>".into(), 0.25),
            ("<answer>b</answer><reasoning>a</reasoning>".into(), 0.25),
            (format!("{good}{good}"), 0.0),
            (format!("{good}<answer>"), 0.25),
            ("<reasoning></reasoning><answer> </answer>".into(), 0.25),
            ("<reasoning>a<answer>b</answer></reasoning>".into(), 0.25),
            ("</reasoning>a<reasoning></answer>b<answer>".into(), 0.25),
            ("<reasoning>a".into(), 0.125),
            ("<reasoning>a</reasoning><answer>b".into(), 0.375),
            ("<REASONING>a</REASONING>".into(), 0.0),
            ("<reasoning><reasoning>a</reasoning>".into(), 0.0),
            (String::new(), 0.0),
        ] {
            assert_eq!(counted(&said), score, "{said:.80}");
        }
    }
}
