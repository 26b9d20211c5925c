//! `reasoning`: the steps of a completion against the reference steps of its row, by Match-F1
//! ([`crate::reward::steps`]). It never looks at the answer.

use crate::base::Result;
use crate::reward::loose_json;
use crate::reward::settings::{Compat, RewardSettings};
use crate::reward::steps::{Matcher, column_texts};
use crate::reward::{Reward, Sample};
use regex::Regex;
use serde_json::{Map, Value};
use std::sync::LazyLock;

/// Column of the reference.
const REFERENCE: &str = "reference_steps";

/// 0 to 1; None for rows without reference steps.
///
/// Steps are the strings of `reasoning_steps` of a JSON object (bare, in a Markdown fence, or after the
/// reasoning), or else the sentences inside `<think>` or `<reasoning>`. A step with more than
/// [`crate::reward::steps::MOST_WORDS`] words matches nothing and counts as said.
///
/// As `mllm_evaluator`: JSON is mended before it is read, only JSON is read, steps of any length match,
/// and rows without a reference earn 0.
#[derive(Debug, Clone)]
pub struct Reasoning {
    matcher: Matcher,
    original: bool,
}

impl Reasoning {
    /// From the settings; opens the sentence encoder if they name one.
    ///
    /// # Errors
    /// If the encoder cannot be read.
    pub fn new(settings: &RewardSettings) -> Result<Self> {
        let matcher = Matcher::of(&settings.steps, settings.compat)?;
        Ok(Reasoning { matcher, original: settings.compat == Compat::MllmEvaluator })
    }

    fn said(&self, completion: &str) -> Vec<String> {
        if self.original { original_steps(completion) } else { said_steps(completion) }
    }

    fn score_one(&self, said: &[String], s: &Sample<'_>) -> Result<Option<f64>> {
        let reference = reference_steps(s.columns)?;
        if reference.is_empty() {
            return Ok(self.original.then_some(0.0));
        }
        Ok(Some(self.matcher.compare(said, &reference)?.score))
    }
}

impl Reward for Reasoning {
    fn name(&self) -> &str {
        "reasoning"
    }
    fn score(&self, samples: &[Sample<'_>]) -> Vec<Result<Option<f64>>> {
        let said: Vec<Vec<String>> = samples.iter().map(|s| self.said(s.completion)).collect();
        let texts: Vec<&str> = said.iter().flatten().map(String::as_str).collect();
        self.matcher.similarity.prepare(&texts);
        samples.iter().zip(&said).map(|(s, said)| self.score_one(said, s)).collect()
    }
}

/// Reference steps of a row: a list, its JSON text, or lines.
fn reference_steps(columns: &Map<String, Value>) -> Result<Vec<String>> {
    column_texts(columns, REFERENCE, |text| text.lines().map(without_mark).collect())
}

/// Steps that a completion says.
fn said_steps(completion: &str) -> Vec<String> {
    if let Some(steps) = json_steps(completion) {
        return steps;
    }
    for (open, close) in [("<think>", "</think>"), ("<reasoning>", "</reasoning>")] {
        let inside = completion
            .split_once(open)
            .and_then(|(_, rest)| rest.split_once(close))
            .map(|(inside, _)| inside);
        if let Some(inside) = inside {
            return sentences(inside);
        }
    }
    Vec::new()
}

/// Steps of the JSON object that is the completion, or what comes after its reasoning, or the first thing
/// in a Markdown fence. What is no string in the list is an empty step: said, and matching nothing.
fn json_steps(completion: &str) -> Option<Vec<String>> {
    let answer = completion.rsplit_once("</think>").map_or(completion, |(_, after)| after);
    let fenced = answer.split_once("```").map(|(_, rest)| rest.split("```").next().unwrap_or(rest));
    let steps = |text: &str| {
        let text = text.trim();
        let text = text.strip_prefix("json").unwrap_or(text);
        let object: Map<String, Value> = serde_json::from_str(text).ok()?;
        let list = object.get("reasoning_steps")?.as_array()?;
        Some(list.iter().map(|step| step.as_str().unwrap_or_default().to_owned()).collect())
    };
    steps(answer).or_else(|| steps(fenced?))
}

/// Lines, and sentences of lines, without numbers and bullets before them.
fn sentences(text: &str) -> Vec<String> {
    static END: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"[.!?]+\s+|[。！？]+\s*").expect("a pattern that is written here")
    });
    let lines = text.lines().map(without_mark);
    let parts = lines.flat_map(|line| END.split(&line).map(str::to_owned).collect::<Vec<_>>());
    let trimmed = parts.map(|part| part.trim().trim_end_matches('.').to_owned());
    trimmed.filter(|part| !part.is_empty()).collect()
}

/// A line without the number or bullet of a list.
fn without_mark(line: &str) -> String {
    static MARK: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"\A\s*(?:[-*•–]|\(?\d{1,3}[.)]|(?i:step|bước)\s+\d{1,3}\s*[:.)])\s+")
            .expect("a pattern that is written here")
    });
    MARK.replace(line, "").trim().to_owned()
}

/// Steps as `vqa_reasoning_reward` finds them; one that is no string spoils the list.
fn original_steps(completion: &str) -> Vec<String> {
    let object = loose_json::object(completion).unwrap_or_default();
    let list = object.get("reasoning_steps").and_then(Value::as_array);
    let texts: Option<Vec<String>> = list
        .into_iter()
        .flatten()
        .map(|step| step.as_str().map(str::to_owned))
        .collect();
    texts.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reward::test_sample;
    use serde_json::json;

    fn reward(compat: Compat) -> Reasoning {
        Reasoning::new(&RewardSettings { compat, ..RewardSettings::default() }).unwrap()
    }

    /// The score of a completion whose row has these reference steps.
    fn score(compat: Compat, reference: &Value, said: &str) -> Option<f64> {
        let columns = json!({ "reference_steps": reference });
        let sample = test_sample(said, "C", &[], columns.as_object().unwrap());
        reward(compat).score(&[sample]).pop().unwrap().unwrap()
    }

    fn json_of(steps: &[&str]) -> String {
        json!({ "reasoning_steps": steps, "answer": "C" }).to_string()
    }

    #[test]
    fn steps_are_found_where_completions_put_them() {
        let object = json_of(&["a red ball", "two dogs"]);
        for said in [
            object.clone(),
            format!("  {object}\n"),
            format!("```json\n{object}\n```"),
            format!("```\n{object}```"),
            format!("Here it is:\n```json\n{object}\n```\nDone."),
            format!("<think>other words. And more.</think>\n{object}"),
            "<think>A red ball. Two dogs.</think> C".to_lowercase(),
            "<reasoning>1. a red ball\n2) two dogs\n</reasoning><answer>C</answer>".to_string(),
            "<think>\n- a red ball!\nStep 2: two dogs...\n\n</think>".to_string(),
        ] {
            assert_eq!(said_steps(&said), ["a red ball", "two dogs"], "{said}");
        }
        for said in [
            "",
            "a red ball. two dogs.",
            "<think>a red ball",
            "{\"reasoning_steps\": \"a red ball\", \"answer\": \"C\"}",
            "{\"reasoning_steps\": [\"a red ball\", ",
            "[\"a red ball\"]",
        ] {
            assert_eq!(said_steps(said), [""; 0], "{said}");
        }
        assert_eq!(sentences("It is 3.5 cm long. 红色的。蓝色"), ["It is 3.5 cm long", "红色的", "蓝色"]);
    }

    #[test]
    fn the_score_is_match_f1_and_holes_are_closed() {
        let reference = json!(["a red ball is on the table", "two dogs run", "the sign says stop"]);
        let score = |said: &[&str]| score(Compat::None, &reference, &json_of(said)).unwrap();
        let all = ["a red ball is on the table", "two dogs run", "the sign says stop"];
        assert_eq!(score(&all), 1.0);
        assert_eq!(score(&all[..1]), 0.5);
        assert_eq!(score(&[]), 0.0);
        assert_eq!(score(&["", " ", "!?"]), 0.0, "steps without words");
        let repeated = [all[0]; 6];
        assert!(score(&repeated) < score(&all[..1]), "saying it again costs");
        let everything = all.join(" and then also ");
        assert_eq!(score(&[&everything]), 0.0, "one step that says everything is too long");
        let padded = format!("{} {}", all[0], "very ".repeat(20));
        assert_eq!(score(&[&padded]), 0.0);
        assert!(score(&["unrelated words here", all[1]]) < score(&[all[1]]));
        let mixed = json!({"reasoning_steps": [1, null, all[1]], "answer": ""}).to_string();
        assert_eq!(super::tests::score(Compat::None, &reference, &mixed), Some(2.0 / 6.0));
    }

    #[test]
    fn rows_without_a_reference_are_not_judged() {
        let said = json_of(&["a"]);
        for none in [json!(null), json!([]), json!([""]), json!(""), json!("[]")] {
            assert_eq!(score(Compat::None, &none, &said), None, "{none}");
            assert_eq!(score(Compat::MllmEvaluator, &none, &said), Some(0.0), "{none}");
        }
        for one in [json!(["a"]), json!("[\"a\"]"), json!("1. a\n")] {
            assert_eq!(score(Compat::None, &one, &said), Some(1.0), "{one}");
        }
        let columns = json!({"reference_steps": {"a": 1}});
        let sample = test_sample(&said, "", &[], columns.as_object().unwrap());
        let e = reward(Compat::None).score(&[sample]).pop().unwrap().unwrap_err();
        assert!(e.one_line().contains("reference_steps"), "{}", e.one_line());
    }

    #[test]
    fn the_original_has_no_limit_of_words_and_mends_json() {
        let long = "w ".repeat(30);
        let reference = json!([long.clone()]);
        assert_eq!(score(Compat::MllmEvaluator, &reference, &json_of(&[&long])), Some(1.0));
        assert_eq!(score(Compat::None, &reference, &json_of(&[&long])), Some(0.0));
        let broken = "Sure: {'reasoning_steps': ['a b', 'c d',], 'answer': 'C'} ok";
        let reference = json!(["a b", "c d"]);
        assert_eq!(score(Compat::MllmEvaluator, &reference, broken), Some(1.0));
        assert_eq!(score(Compat::None, &reference, broken), Some(0.0));
        let tags = "<think>a b. c d.</think>";
        assert_eq!(score(Compat::MllmEvaluator, &reference, tags), Some(0.0));
        let spoiled = "{\"reasoning_steps\": [\"a b\", 3], \"answer\": \"\"}";
        assert_eq!(score(Compat::MllmEvaluator, &reference, spoiled), Some(0.0));
    }

    #[test]
    fn a_missing_encoder_is_an_error_when_the_reward_is_built() {
        let mut settings = RewardSettings::default();
        settings.steps.sentence_encoder = Some("no/such/encoder".into());
        let e = Reasoning::new(&settings).unwrap_err().one_line();
        assert!(e.contains("no/such/encoder"), "{e}");
    }
}
