//! `strict_format`: reasoning and answer with every tag on a line of its own and nothing around them.
//! It never judges the content.

use crate::base::{Error, Result};
use crate::reward::tags::{blocks, has_words, is_visible};
use crate::reward::{Compat, Reward, Sample};
use regex::Regex;

/// `strict_format_reward_func` of the GSM8K recipe for TRL: 0.5 or 0. The recipe's dot does not match
/// line ends, so that it never pays for reasoning of several lines; ours does, and the line end after
/// the last tag may be missing, since generation often ends before it.
#[derive(Debug, Clone)]
pub struct StrictFormat {
    /// The recipe's own pattern, where it is to be reproduced.
    recipe: Option<Regex>,
}

impl StrictFormat {
    /// With the recipe's pattern if `compat` is TRL's.
    ///
    /// # Errors
    /// None that a user can cause.
    pub fn new(compat: Compat) -> Result<Self> {
        // Python's `$` also stands before a last line end.
        let pattern = r"\A<reasoning>\n.*?\n</reasoning>\n<answer>\n.*?\n</answer>\n\n?\z";
        let compiled = (compat == Compat::Trl).then(|| Regex::new(pattern)).transpose();
        let wrong = |e| Error::internal(format!("the pattern of `strict_format`: {e}"));
        Ok(StrictFormat { recipe: compiled.map_err(wrong)? })
    }

    fn holds(&self, text: &str) -> bool {
        match &self.recipe {
            Some(pattern) => pattern.is_match(text),
            None => tags_on_lines(text),
        }
    }
}

/// Two blocks and nothing else, each tag on its line, something inside.
fn tags_on_lines(text: &str) -> bool {
    let text = text.strip_suffix('\n').unwrap_or(text);
    let lined = |t: &str| t.len() > 1 && t.starts_with('\n') && t.ends_with('\n');
    let parted = text.contains("</reasoning>\n<answer>");
    blocks(text, ["reasoning", "answer"]).is_some_and(|[why, what]| {
        parted && lined(why) && lined(what) && has_words(why) && is_visible(what)
    })
}

impl Reward for StrictFormat {
    fn name(&self) -> &str {
        "strict_format"
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
        let recipe = StrictFormat::new(Compat::Trl).unwrap();
        let mut paid = 0;
        for row in table_rows(COMPAT) {
            let said = row["completion"].as_str().unwrap();
            let want = row["strict_format"].as_f64().unwrap();
            assert_eq!(recipe.holds(said), want == 0.5, "{said:?}");
            paid += usize::from(want == 0.5);
        }
        assert!(paid >= 3, "{paid}");
    }

    #[test]
    fn every_tag_on_its_line() {
        let ours = StrictFormat::new(Compat::None).unwrap();
        let good = "<reasoning>\na\nb\n</reasoning>\n<answer>\nc\n</answer>";
        assert!(ours.holds(good) && ours.holds(&format!("{good}\n")));
        for said in [
            format!("{good}\n\n"),
            format!("{good} "),
            format!("\n{good}"),
            good.replace("<answer>\n", "<answer>"),
            good.replace("a\nb", " "),
            good.replace("c", "\u{200b}"),
            good.replace("</reasoning>\n", "</reasoning>\n\n"),
            good.replace("a\n", "a\n<answer>\n"),
            format!("{good}\n{good}"),
            String::new(),
        ] {
            assert!(!ours.holds(&said), "{said:?}");
        }
    }
}
