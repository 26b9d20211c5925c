//! VLM-R1's rules for boxes (`grpo_jsonl.py`), holes and all: where it looks for JSON, what it takes for
//! a box, and what no list of boxes is worth. For comparison only.

use super::DetectionMethod;
use super::average_precision::{Item, average_precision};
use super::weighted;
use crate::base::{Error, Result};
use crate::reward::builtin::iou::pixel_iou;
use crate::reward::tags::is_python_space;
use regex::Regex;
use serde_json::Value;

/// The original's patterns.
#[derive(Debug, Clone)]
pub(super) struct Original {
    answer: Regex,
    fence: Regex,
}

impl Original {
    /// Compiles them.
    pub(super) fn new() -> Result<Self> {
        let compiled = |p: &str| {
            Regex::new(p).map_err(|e| Error::internal(format!("a pattern of `detection`: {e}")))
        };
        Ok(Original {
            answer: compiled(r"(?s)<answer>(.*?)</answer>")?,
            fence: compiled(r"(?s)```json(.*?)```")?,
        })
    }

    /// The original's score. A reference on which it would end the run is an error.
    pub(super) fn score(&self, method: DetectionMethod, said: &str, answer: &str) -> Result<f64> {
        match method {
            DetectionMethod::AllMatch => Ok(f64::from(self.clean(said) == self.clean(answer))),
            DetectionMethod::Map => self.map(said, answer, 0, false),
            DetectionMethod::WeightedSum => self.weighted(&self.clean(said), &self.clean(answer)),
            DetectionMethod::OdAp => self.od(said, answer, 0, false),
            DetectionMethod::OdAp50 => self.od(said, answer, 1, false),
            DetectionMethod::OdLength => self.od(said, answer, 0, true),
        }
    }

    /// `od_reward` and `odLength_reward`: the last answer against the first of the reference.
    fn od(&self, said: &str, answer: &str, at: usize, by_number: bool) -> Result<f64> {
        let Some(said) = self.answers(said).last().map(stripped) else { return Ok(0.0) };
        let Some(truth) = self.answers(answer).next().map(stripped) else {
            return Err(unreadable(answer).hint("VLM-R1 wants it inside <answer> tags"));
        };
        if (said, truth) == ("None", "None") {
            return Ok(1.0);
        }
        self.map(said, truth, at, by_number)
    }

    fn answers<'t>(&'t self, text: &'t str) -> impl Iterator<Item = &'t str> {
        self.answer.captures_iter(text).filter_map(|c| c.get(1)).map(|m| m.as_str())
    }

    /// `map_reward`: what is no list of boxes is an empty one, on either side.
    fn map(&self, said: &str, answer: &str, at: usize, by_number: bool) -> Result<f64> {
        let last = |text| self.fence.captures_iter(text).last().map(|c| c[1].to_string());
        let truth = match last(answer) {
            Some(json) if !stripped(&json).is_empty() => references(&json)?,
            _ => Vec::new(),
        };
        let named = last(said).and_then(|json| elements(&json)).unwrap_or_default();
        let score = match (named.is_empty(), truth.is_empty()) {
            (true, true) => 1.0,
            (false, false) => coco(&named, &truth, at).ok_or_else(|| unreadable(answer))?,
            _ => 0.0,
        };
        let too_many = by_number && named.len() > truth.len();
        Ok(if too_many { score * (truth.len() as f64 / named.len() as f64) } else { score })
    }

    /// The accuracy reward's branch `weighted_sum` and `detection_score`, of cleaned texts.
    fn weighted(&self, said: &str, answer: &str) -> Result<f64> {
        if answer == "none" {
            return Ok(f64::from(said == "none"));
        }
        let (said, answer) = (self.clean(said), self.clean(answer));
        let first = |text| self.fence.captures(text).map(|c| c[1].to_string());
        let named = first(&said).and_then(|json| elements(&json)).unwrap_or_default();
        let truth = match first(&answer) {
            Some(json) if !stripped(&json).is_empty() => references(&json)?,
            _ => Vec::new(),
        };
        if truth.is_empty() || named.is_empty() {
            return Ok(f64::from(truth.is_empty() && named.is_empty()));
        }
        let overlap = |n: usize, t: usize| match (sides(&named[n]), sides(&truth[t])) {
            (Some(a), Some(b)) => pixel_iou(a, b).unwrap_or(0.0),
            _ => 0.0,
        };
        let label = |v: &Value| v["label"].as_str().map(str::to_lowercase).unwrap_or_default();
        // A pair with a wrong label is still a pair: it lacks its overlap, and nothing is missing.
        let pairs = weighted::greedy(named.len(), truth.len(), overlap);
        let right = |p: &&weighted::Pair| label(&named[p.named]) == label(&truth[p.truth]);
        let lies: f64 = pairs.iter().filter(right).map(|p| p.iou).sum();
        Ok(weighted::sum(lies, pairs.len(), truth.len(), named.len()))
    }

    /// `clean_text`: the last answer on one line, in lower case, without full stops at its end.
    fn clean(&self, text: &str) -> String {
        let text = self.answers(text).last().unwrap_or(text);
        let joined = ['\n', '\r'].into_iter().fold(text.to_string(), |text, end| {
            let mut before = 'x';
            let mut out = String::with_capacity(text.len());
            for c in text.chars() {
                match c {
                    c if c != end => out.push(c),
                    // Behind a space it goes, elsewhere it becomes one.
                    _ if is_python_space(before) => {}
                    _ => out.push(' '),
                }
                before = c;
            }
            out
        });
        stripped(&joined).trim_end_matches('.').to_lowercase()
    }
}

fn stripped(text: &str) -> &str {
    text.trim_matches(is_python_space)
}

fn unreadable(answer: &str) -> Error {
    Error::data("VLM-R1's reward cannot read the reference answer")
        .expected("a `json` fence with a list of objects that have bbox_2d and label")
        .found(format!("`{}`", answer.chars().take(80).collect::<String>()))
}

/// What Python's loop over parsed JSON yields; None where it fails.
fn elements(json: &str) -> Option<Vec<Value>> {
    match serde_json::from_str(stripped(json)).ok()? {
        Value::Array(list) => Some(list),
        Value::Object(map) => Some(map.into_iter().map(|(key, _)| Value::String(key)).collect()),
        Value::String(text) => Some(text.chars().map(|c| Value::String(c.into())).collect()),
        _ => None,
    }
}

fn references(json: &str) -> Result<Vec<Value>> {
    elements(json).ok_or_else(|| unreadable(json))
}

/// The first four numbers of a box.
fn sides(item: &Value) -> Option<[f64; 4]> {
    let list = item["bbox_2d"].as_array()?;
    let numbers: Option<Vec<f64>> = list.get(..4)?.iter().map(Value::as_f64).collect();
    numbers?.try_into().ok()
}

/// `calculate_map`: elements that are no boxes are left out; None if a reference is none.
fn coco(named: &[Value], truth: &[Value], at: usize) -> Option<f64> {
    let labelled = |v: &Value| Some((v.get("label")?.to_string(), sides(v)?));
    let truth: Option<Vec<(String, [f64; 4])>> = truth.iter().map(labelled).collect();
    let truth = truth?;
    let mut named: Vec<(String, [f64; 4])> = named.iter().filter_map(labelled).collect();
    named.retain(|(label, _)| truth.iter().any(|(l, _)| l == label));
    if named.is_empty() {
        return Some(0.0);
    }
    fn items(list: &[(String, [f64; 4])]) -> Vec<Item<'_>> {
        list.iter().map(|(label, sides)| Item { label, sides: *sides }).collect()
    }
    Some(average_precision(&items(&truth), &items(&named))[at])
}
