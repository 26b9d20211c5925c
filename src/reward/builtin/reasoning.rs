//! `reasoning`: the steps of a completion against the reference steps of its row, by Match-F1
//! ([`crate::reward::steps`]). It never looks at the answer.

use crate::base::Result;
use crate::reward::settings::{AnswerFormat, Compat, RewardSettings};
use crate::reward::steps::{Matcher, column_texts};
use crate::reward::{Reward, Sample, completion, loose_json};
use serde_json::{Map, Value};

/// Column of the reference.
const REFERENCE: &str = "reference_steps";

/// 0 to 1; None for rows without reference steps.
///
/// Steps are the strings of `reasoning_steps` of a JSON object (bare, in a Markdown fence, or after the
/// reasoning), or else the lines or sentences inside `<think>` or `<reasoning>`. A step with more than
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
    column_texts(columns, REFERENCE, |text| text.lines().map(str::to_owned).collect())
}

/// Steps that a completion says, in the first form in which it says any.
fn said_steps(completion: &str) -> Vec<String> {
    let forms = [AnswerFormat::Json, AnswerFormat::ThinkAnswer, AnswerFormat::ReasoningAnswer];
    let said = forms.into_iter().map(|form| completion::steps(completion, form));
    said.into_iter().find(|steps| !steps.is_empty()).unwrap_or_default()
}

/// Steps as `vqa_reasoning_reward` finds them; one that is no string spoils the list.
fn original_steps(completion: &str) -> Vec<String> {
    let object = loose_json::object(completion).unwrap_or_default();
    let list = object.get("reasoning_steps").and_then(Value::as_array);
    let texts: Option<Vec<String>> =
        list.into_iter().flatten().map(|step| step.as_str().map(str::to_owned)).collect();
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
            "<reasoning>1. a red ball\n2) two dogs\n</reasoning><answer>C</answer>".to_string(),
            "<think>\n- a red ball\nStep 2: two dogs\n\n</think>".to_string(),
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
        let tags = "<think>A red ball is on the table. Two dogs run! The sign says STOP.</think>C";
        assert_eq!(super::tests::score(Compat::None, &reference, tags), Some(1.0));
        let repeated = [all[0]; 6];
        assert!(score(&repeated) < score(&all[..1]), "saying it again costs");
        let everything = all.join(" and then also ");
        assert_eq!(score(&[&everything]), 0.0, "one step that says everything is too long");
        let padded = format!("{} {}", all[0], "very ".repeat(20));
        assert_eq!(score(&[&padded]), 0.0);
        assert!(score(&["unrelated words here", all[1]]) < score(&[all[1]]));
        let mixed = json!({"reasoning_steps": [1, null, all[1]], "answer": ""}).to_string();
        assert_eq!(super::tests::score(Compat::None, &reference, &mixed), Some(0.5));
    }

    #[test]
    fn rows_without_a_reference_are_not_judged() {
        let said = json_of(&["a"]);
        for none in [json!(null), json!([]), json!([""]), json!(""), json!("[]")] {
            assert_eq!(score(Compat::None, &none, &said), None, "{none}");
            assert_eq!(score(Compat::MllmEvaluator, &none, &said), Some(0.0), "{none}");
        }
        for one in [json!(["a"]), json!("[\"a\"]"), json!("a\n")] {
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
