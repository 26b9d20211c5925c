//! `format`: the completion is reasoning and answer as they were asked for, and nothing else. It never
//! judges what they say, only that they say something.

use crate::base::{Error, Result};
use crate::reward::tags::{blocks, has_tag, has_words, is_visible};
use crate::reward::{AnswerFormat, Compat, Reward, RewardSettings, Sample};
use regex::Regex;
use serde::Deserialize;
use serde_json::Value;
use std::collections::HashSet;

/// Most words of a reasoning step (the rules of the prompt of `mllm_evaluator`).
const STEP_WORDS: usize = 14;
/// Characters that a word without spaces may have before it counts as another.
const WORD_CHARACTERS: usize = 24;

/// 1 or 0. See docs/rewards/form.md for each format and for what `compat` leaves open.
#[derive(Debug, Clone)]
pub struct Format {
    rule: Rule,
}

#[derive(Debug, Clone)]
enum Rule {
    /// This program's, for a format.
    Ours(AnswerFormat),
    /// A full match (VLM-R1).
    FullMatch(Regex),
    /// `think_format_reward` of TRL.
    TrlThink,
    /// `format_reward_vqa` of the waybarrios fork of VLM-R1: fences are removed, an object is searched.
    SearchedJson { fence: Regex, object: Regex },
}

impl Format {
    /// The rule of a format. A project that has no such format leaves it to ours.
    ///
    /// # Errors
    /// None that a user can cause.
    pub fn new(settings: &RewardSettings) -> Result<Self> {
        use AnswerFormat::{AnswerExplain, Json, ReasoningAnswer, ThinkAnswer};
        let compiled = |p: &str| {
            Regex::new(p).map_err(|e| Error::internal(format!("the pattern of `format`: {e}")))
        };
        let format = settings.answer_format;
        let rule = match (settings.compat, format) {
            (Compat::None, _) | (Compat::VlmR1, Json) => Rule::Ours(format),
            (Compat::MllmEvaluator, Json) => Rule::SearchedJson {
                fence: compiled(r"```json[\s\x1c-\x1f]*|[\s\x1c-\x1f]*```")?,
                object: compiled(r#"\{[^{}]*"reasoning_steps"[^{}]*"answer"[^{}]*\}"#)?,
            },
            (Compat::Trl, ThinkAnswer) => Rule::TrlThink,
            (Compat::Trl, _) => Rule::Ours(format),
            (Compat::VlmR1 | Compat::MllmEvaluator, ThinkAnswer) => {
                Rule::FullMatch(compiled(&full_match("think", "answer"))?)
            }
            (Compat::VlmR1 | Compat::MllmEvaluator, ReasoningAnswer) => {
                Rule::FullMatch(compiled(&full_match("reasoning", "answer"))?)
            }
            (Compat::VlmR1 | Compat::MllmEvaluator, AnswerExplain) => {
                Rule::FullMatch(compiled(&full_match("answer", "explain"))?)
            }
        };
        Ok(Format { rule })
    }

    /// Whether a completion has the form.
    pub(super) fn holds(&self, text: &str) -> bool {
        match &self.rule {
            Rule::Ours(AnswerFormat::ThinkAnswer) => two_blocks(text, ["think", "answer"]),
            Rule::Ours(AnswerFormat::ReasoningAnswer) => two_blocks(text, ["reasoning", "answer"]),
            Rule::Ours(AnswerFormat::AnswerExplain) => answer_explain(text),
            Rule::Ours(AnswerFormat::Json) => json_steps(text),
            Rule::FullMatch(pattern) => pattern.is_match(text),
            Rule::TrlThink => {
                let inside = text.strip_prefix("<think>");
                inside.is_some_and(|t| !t.contains("<think>") && t.contains("</think>"))
            }
            Rule::SearchedJson { fence, object } => {
                let text = fence.replace_all(text, "");
                let found = object.find(&text).map(|m| m.as_str());
                let parsed: Option<Value> = found.and_then(|t| serde_json::from_str(t).ok());
                parsed.is_some_and(|v| v["reasoning_steps"].is_array() && v["answer"].is_string())
            }
        }
    }
}

/// The pattern of VLM-R1's `format_reward`, with its tags.
fn full_match(first: &str, second: &str) -> String {
    format!(r"(?s)\A<{first}>.*?</{first}>[\s\x1c-\x1f]*<{second}>.*?</{second}>\z")
}

/// Reasoning, then an answer.
fn two_blocks(text: &str, names: [&str; 2]) -> bool {
    blocks(text, names).is_some_and(|[why, what]| has_words(why) && is_visible(what))
}

/// An answer, then its explanation; reasoning may come first, and is something if it does.
fn answer_explain(text: &str) -> bool {
    let parts = match has_tag(text, "think") {
        true => blocks(text, ["think", "answer", "explain"]),
        false => blocks(text, ["answer", "explain"]).map(|[a, e]| ["none needed", a, e]),
    };
    parts.is_some_and(|[why, what, because]| {
        has_words(why) && is_visible(what) && has_words(because)
    })
}

/// The object that the prompt of the VQA task asks for: these two keys, each once.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Steps {
    reasoning_steps: Vec<String>,
    answer: String,
}

/// The whole text is one object, bare or in one `json` fence; steps are short and differ.
fn json_steps(text: &str) -> bool {
    let text = text.trim();
    let body = match text.strip_prefix("```json") {
        Some(rest) => match rest.strip_suffix("```") {
            Some(body) => body,
            None => return false,
        },
        None => text,
    };
    let Ok(said) = serde_json::from_str::<Steps>(body) else { return false };
    let mut seen = HashSet::new();
    let new =
        |s: &String| seen.insert(s.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase());
    is_visible(&said.answer)
        && !said.reasoning_steps.is_empty()
        && said.reasoning_steps.iter().all(|s| has_words(s) && words(s) <= STEP_WORDS)
        && said.reasoning_steps.iter().all(new)
}

/// Words between spaces; a long piece without spaces is several.
fn words(text: &str) -> usize {
    text.split_whitespace().map(|w| w.chars().count().div_ceil(WORD_CHARACTERS)).sum()
}

impl Reward for Format {
    fn name(&self) -> &str {
        "format"
    }
    fn score(&self, samples: &[Sample<'_>]) -> Vec<Result<Option<f64>>> {
        samples.iter().map(|s| Ok(Some(f64::from(self.holds(s.completion))))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reward::settings::{ANSWER_FORMATS, COMPATS};
    use crate::reward::table_rows;

    /// Rows `{format, completion, score, why}`, written by hand.
    const TABLE: &str = include_str!("../../../tests/data/rewards/format.jsonl");
    /// Rows `{completion, vlm_r1, trl, mllm_evaluator}` of the originals: see
    /// `tools/golden/rewards.py`.
    const COMPAT: &str = include_str!("../../../tests/data/rewards/format_compat.jsonl");

    fn format(compat: Compat, answer_format: AnswerFormat) -> Format {
        Format::new(&RewardSettings { compat, answer_format, ..RewardSettings::default() }).unwrap()
    }

    #[test]
    fn adversarial_table() {
        let mut rows = [[0; 2]; 4];
        for row in table_rows(TABLE) {
            let name = row["format"].as_str().unwrap();
            let at = ANSWER_FORMATS.iter().position(|(n, _)| *n == name).unwrap();
            let said = row["completion"].as_str().unwrap();
            let got = f64::from(format(Compat::None, ANSWER_FORMATS[at].1).holds(said));
            assert_eq!(Some(got), row["score"].as_f64(), "{said:?}: {}", row["why"]);
            rows[at][got as usize] += 1;
        }
        assert!(rows.iter().all(|[bad, good]| *bad >= 7 && *good >= 3), "{rows:?}");
    }

    #[test]
    fn equals_the_originals_in_compat() {
        let formats = [AnswerFormat::ThinkAnswer, AnswerFormat::ThinkAnswer, AnswerFormat::Json];
        let mut seen = [[0; 2]; 3];
        for row in table_rows(COMPAT) {
            let said = row["completion"].as_str().unwrap();
            for (i, name) in ["vlm_r1", "trl", "mllm_evaluator"].into_iter().enumerate() {
                let compat = COMPATS.iter().find(|(n, _)| *n == name).unwrap().1;
                let got = format(compat, formats[i]).holds(said);
                assert_eq!(Some(f64::from(got)), row[name].as_f64(), "{name}: {said:?}");
                seen[i][usize::from(got)] += 1;
            }
        }
        assert!(seen.iter().flatten().all(|n| *n >= 5), "{seen:?}");
    }

    #[test]
    fn what_ours_accepts_vlm_r1_accepts() {
        let (ours, theirs) = (
            format(Compat::None, AnswerFormat::ThinkAnswer),
            format(Compat::VlmR1, AnswerFormat::ThinkAnswer),
        );
        for row in table_rows(TABLE) {
            let said = row["completion"].as_str().unwrap();
            assert!(!ours.holds(said) || theirs.holds(said), "{said:?}");
        }
    }
}
