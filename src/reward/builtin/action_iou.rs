//! `action_iou`: which of the reference's actions an answer names, for lists such as
//! `(1) pick up the cup (2) pour`. Order and numbers are not judged; the same action twice counts twice.

use crate::base::{Error, Result};
use crate::reward::answer::{normalise, reference_answer};
use crate::reward::{AnswerFormat, Reward, Sample, completion};
use regex::Regex;
use std::collections::BTreeMap;

/// Actions that both lists have over all that either has, each as often as it is there: 0 to 1, and 1
/// only for the same actions. None for rows without a reference.
///
/// The video-action project on Qwen-VL pays 1 for the same text, else the IoU of the two sets. A
/// multiset closes the hole of an action that is named over and over, which a set does not see.
#[derive(Debug, Clone)]
pub struct ActionIou {
    format: AnswerFormat,
    /// The number before an action.
    mark: Regex,
}

impl ActionIou {
    /// For answers in this format.
    ///
    /// # Errors
    /// None that a user can cause.
    pub fn new(format: AnswerFormat) -> Result<Self> {
        let mark = Regex::new(r"\(\s*([0-9]{1,4})\s*\)")
            .map_err(|e| Error::internal(format!("the pattern of `action_iou`: {e}")))?;
        Ok(ActionIou { format, mark })
    }

    /// Actions with how often each is named. Text before the first number is an action too: an answer
    /// says nothing but its actions. Without numbers, every line is one.
    fn actions(&self, text: &str) -> BTreeMap<String, usize> {
        let text = text.trim();
        let mut found: BTreeMap<String, usize> = BTreeMap::new();
        let mut add = |action: String| {
            if !action.is_empty() {
                *found.entry(action).or_default() += 1;
            }
        };
        // Full-width parentheses and digits are marks too.
        let folded = if text.is_ascii() { text.to_string() } else { folded(text) };
        let marks: Vec<_> = self.mark.captures_iter(&folded).collect();
        let spans: Vec<_> = marks.iter().filter_map(|m| m.get(0)).collect();
        let Some(first) = spans.first() else {
            folded.lines().map(normalise).for_each(add);
            return found;
        };
        add(normalise(&folded[..first.start()]));
        for (i, span) in spans.iter().enumerate() {
            let end = spans.get(i + 1).map_or(folded.len(), |next| next.start());
            let action = normalise(&folded[span.end()..end]);
            // A number alone names the action by its number.
            add(if action.is_empty() { format!("({})", &marks[i][1]) } else { action });
        }
        found
    }

    fn score_one(&self, s: &Sample<'_>) -> Option<f64> {
        let wanted = self.actions(reference_answer(s.answer));
        if wanted.is_empty() {
            return None;
        }
        let said = completion::answer(s.completion, self.format);
        let named = said.map(|t| self.actions(&t)).unwrap_or_default();
        let mut both = 0;
        for (action, n) in &named {
            both += wanted.get(action).map_or(0, |m| *m.min(n));
        }
        let all = wanted.values().sum::<usize>() + named.values().sum::<usize>() - both;
        Some(both as f64 / all as f64)
    }
}

/// Parentheses and digits of full width as plain ones.
fn folded(text: &str) -> String {
    let plain = |c: char| match c {
        '（' => '(',
        '）' => ')',
        '０'..='９' => char::from(b'0' + (u32::from(c) - u32::from('０')) as u8),
        c => c,
    };
    text.chars().map(plain).collect()
}

impl Reward for ActionIou {
    fn name(&self) -> &str {
        "action_iou"
    }
    fn score(&self, samples: &[Sample<'_>]) -> Vec<Result<Option<f64>>> {
        samples.iter().map(|s| Ok(self.score_one(s))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reward::{table_rows, test_sample};
    use serde_json::Map;

    /// Rows `{said, answer, score, why}` written by hand; `score` is a number or a fraction's two.
    const TABLE: &str = include_str!("../../../tests/data/rewards/action_iou.jsonl");

    #[test]
    fn adversarial_table() {
        let (columns, reward) = (Map::new(), ActionIou::new(AnswerFormat::default()).unwrap());
        let mut rows = 0;
        for row in table_rows(TABLE) {
            let text = |k: &str| row[k].as_str().unwrap();
            let said = match row.get("raw") {
                Some(_) => text("said").to_string(),
                None => format!("<think>hm</think><answer>{}</answer>", text("said")),
            };
            let got = reward.score_one(&test_sample(&said, text("answer"), &[], &columns));
            let want = match row["score"].as_array() {
                Some(f) => Some(f[0].as_f64().unwrap() / f[1].as_f64().unwrap()),
                None => row["score"].as_f64(),
            };
            assert_eq!(got, want, "{said}: {}", text("why"));
            rows += 1;
        }
        assert!(rows >= 30, "the table lost rows: {rows}");
    }
}
