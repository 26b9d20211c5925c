//! `soft_format`: reasoning comes first and an answer follows, whatever the line ends and whatever
//! stands behind. It never judges the content.

use crate::base::{Error, Result};
use crate::reward::tags::{has_words, is_visible, only_block};
use crate::reward::{Compat, Reward, Sample};
use regex::Regex;

/// `soft_format_reward_func` of the GSM8K recipe for TRL: 0.5 or 0. The recipe's dot does not match
/// line ends, so that it never pays for an answer of several lines; ours does.
#[derive(Debug, Clone)]
pub struct SoftFormat {
    /// The recipe's own pattern, where it is to be reproduced.
    recipe: Option<Regex>,
}

impl SoftFormat {
    /// With the recipe's pattern if `compat` is TRL's.
    ///
    /// # Errors
    /// None that a user can cause.
    pub fn new(compat: Compat) -> Result<Self> {
        let pattern = r"\A<reasoning>.*?</reasoning>[\s\x1c-\x1f]*<answer>.*?</answer>";
        let compiled = (compat == Compat::Trl).then(|| Regex::new(pattern)).transpose();
        let wrong = |e| Error::internal(format!("the pattern of `soft_format`: {e}"));
        Ok(SoftFormat { recipe: compiled.map_err(wrong)? })
    }

    fn holds(&self, text: &str) -> bool {
        match &self.recipe {
            Some(pattern) => pattern.is_match(text),
            None => reasoning_then_answer(text),
        }
    }
}

/// Each block once, with something in it, white space between them and before the first.
fn reasoning_then_answer(text: &str) -> bool {
    let reasoning = only_block(text, "reasoning", &["answer"]);
    let answer = only_block(text, "answer", &["reasoning"]);
    reasoning.zip(answer).is_some_and(|(r, a)| {
        let parted = r.end <= a.start && text[r.end..a.start].trim().is_empty();
        let first = text[..r.start].trim().is_empty();
        parted && first && has_words(r.inside) && is_visible(a.inside)
    })
}

impl Reward for SoftFormat {
    fn name(&self) -> &str {
        "soft_format"
    }
    fn score(&self, samples: &[Sample<'_>]) -> Vec<Result<Option<f64>>> {
        let one = |s: &Sample<'_>| Ok(Some(if self.holds(s.completion) { 0.5 } else { 0.0 }));
        samples.iter().map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reward::table_rows;

    /// See `xmlcount`.
    const COMPAT: &str = include_str!("../../../tests/data/rewards/xml_compat.jsonl");

    #[test]
    fn equals_the_recipe_in_compat() {
        let recipe = SoftFormat::new(Compat::Trl).unwrap();
        let mut paid = 0;
        for row in table_rows(COMPAT) {
            let said = row["completion"].as_str().unwrap();
            let want = row["soft_format"].as_f64().unwrap();
            assert_eq!(recipe.holds(said), want == 0.5, "{said:?}");
            paid += usize::from(want == 0.5);
        }
        assert!(paid >= 5, "{paid}");
    }

    #[test]
    fn lines_may_end_and_nothing_may_be_missing() {
        let ours = SoftFormat::new(Compat::None).unwrap();
        let good = "<reasoning>\na\nb\n</reasoning>\n\n<answer>\nc\n</answer>";
        for said in [good.to_string(), good.replace('\n', ""), format!("\n{good} bye")] {
            assert!(ours.holds(&said), "{said:?}");
        }
        for said in [
            "",
            "<reasoning></reasoning><answer>c</answer>",
            "<reasoning>a</reasoning><answer>\u{200b}</answer>",
            "<answer>c</answer><reasoning>a</reasoning>",
            "x<reasoning>a</reasoning><answer>c</answer>",
            "<reasoning>a</reasoning>x<answer>c</answer>",
            "<reasoning>a</reasoning><answer>c",
            "<reasoning>a</reasoning><answer>c</answer><answer>d</answer>",
            "<reasoning>a<answer>b</answer></reasoning><answer>c</answer>",
        ] {
            assert!(!ours.holds(said), "{said:?}");
        }
    }
}
