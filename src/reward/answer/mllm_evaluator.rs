//! What the accuracy calculator of `mllm_evaluator` (waybarrios fork of VLM-R1, 2025-11) pays, with
//! its holes, for comparison: 2003 for 2010 earns 0.9, nothing at all for "nokia" 0.7. Never used
//! unless `--reward_compat mllm_evaluator` asks for it.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use super::SameAnswer;
use crate::base::Result;

/// Distance and share of the reference that still earn something.
const ABSOLUTE: f64 = 0.05;
const RELATIVE: f64 = 0.1;
/// Share for answers with at most two decimals.
const RELATIVE_ROUNDED: f64 = 0.15;

static OBJECT: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r#"(?s)\{[^{}]*"reasoning_steps"[^{}]*"answer"[^{}]*\}"#).ok());
static FENCES: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"```json\s*|\s*```").ok());
static NUMBER: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"-?\d+\.?\d*").ok());
static PREFIXES: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"the answer is:?\s*|the result is:?\s*|answer:?\s*|result:?\s*|approximately:?\s*|about:?\s*").ok()
});
static NAMED: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"option\s+([a-z])|choice\s+([a-z])|answer\s+is\s+([a-z])").ok());

/// The answer of a JSON completion, as the fork's reward takes it: no braces inside, steps first.
pub fn json_answer(completion: &str) -> Option<String> {
    let cleaned = FENCES.as_ref()?.replace_all(completion, "");
    let object = OBJECT.as_ref()?.find(cleaned.trim())?.as_str();
    match serde_json::from_str::<Value>(object).ok()?.get("answer")? {
        Value::String(said) => Some(said.clone()),
        other => Some(other.to_string()),
    }
}

/// Reward of an answer: the calculator's confidence if it calls the answer right, else 0. With a
/// judge, what no rule decides is 1 or 0 as it says.
pub fn score(
    question: &str,
    said: &str,
    reference: &str,
    judge: Option<&dyn SameAnswer>,
) -> Result<Option<f64>> {
    if let (Some(said), Some(wanted)) = (number(said), number(reference)) {
        return Ok(Some(of_numbers(said, wanted)));
    }
    let (p, r) = (normalised(said), normalised(reference));
    if ["yes", "no", "true", "false"].contains(&r.as_str()) {
        return Ok(Some(f64::from(yes_no(&p) == yes_no(&r))));
    }
    if let (Some(p), Some(r)) = (choice(&p), choice(&r)) {
        return Ok(Some(f64::from(p == r)));
    }
    if p == r {
        return Ok(Some(1.0));
    }
    let words = |t: &str| t.split_whitespace().count();
    if words(&p) == 1 && words(&r) == 1 {
        return Ok(Some(0.0));
    }
    match judge {
        Some(judge) => Ok(judge.same_answer(question, reference, said)?.map(f64::from)),
        None => Ok(Some(if r.contains(&p) || p.contains(&r) { 0.7 } else { 0.0 })),
    }
}

/// Lower case, no brackets and commas, no full stops away from digits, single spaces.
fn normalised(text: &str) -> String {
    let lower: Vec<char> = text.trim().to_lowercase().chars().collect();
    let digit = |i: Option<usize>| i.and_then(|i| lower.get(i)).is_some_and(|c| c.is_numeric());
    let mut out = String::new();
    for (i, c) in lower.iter().enumerate() {
        let dropped = match c {
            '.' => !digit(i.checked_sub(1)) && !digit(Some(i + 1)),
            c => ",()[]{}".contains(*c),
        };
        if c.is_whitespace() {
            if !out.ends_with(' ') {
                out.push(' ');
            }
        } else if !dropped {
            out.push(*c);
        }
    }
    out
}

/// The first number of a text.
fn number(text: &str) -> Option<f64> {
    let lower = text.trim().to_lowercase();
    let bare = PREFIXES.as_ref()?.replace_all(&lower, "");
    NUMBER.as_ref()?.find(&bare)?.as_str().parse().ok()
}

fn of_numbers(said: f64, wanted: f64) -> f64 {
    let distance = (said - wanted).abs();
    let share = distance / wanted.abs().max(1e-10);
    if said == wanted {
        return 1.0;
    }
    if distance <= ABSOLUTE {
        return 0.95;
    }
    if share <= RELATIVE {
        return 0.9;
    }
    let printed = format!("{said:?}");
    let printed = printed.trim_end_matches('0').trim_end_matches('.');
    let decimals = printed.split_once('.').map_or(0, |(_, d)| d.len());
    if wanted == 0.0 || decimals > 2 {
        return 0.0;
    }
    if share < RELATIVE_ROUNDED {
        return 0.85;
    }
    let rounded: f64 = format!("{wanted:.decimals$}").parse().unwrap_or(f64::NAN);
    if (said - rounded).abs() < 1e-6 { 0.95 } else { 0.0 }
}

/// Yes and no by parts of words.
fn yes_no(text: &str) -> &str {
    let has = |words: [&str; 4]| words.iter().any(|w| text.contains(w));
    if has(["yes", "true", "correct", "affirmative"]) {
        "yes"
    } else if has(["no", "false", "incorrect", "negative"]) {
        "no"
    } else {
        text
    }
}

/// A letter of a normalised text: the first of a text of up to five characters, or a named one.
fn choice(text: &str) -> Option<char> {
    if text.chars().count() <= 5
        && let Some(first) = text.chars().find(char::is_ascii_lowercase)
    {
        return Some(first);
    }
    let mut start = text.chars();
    if let (Some(letter), Some('.')) = (start.next(), start.next())
        && letter.is_ascii_lowercase()
    {
        return Some(letter);
    }
    // In the order of the original's patterns, not of the text.
    let found: Vec<_> = NAMED.as_ref()?.captures_iter(text).collect();
    let group = |i| found.iter().find_map(|c| c.get(i)).and_then(|m| m.as_str().chars().next());
    group(1).or_else(|| group(2)).or_else(|| group(3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Map;

    const GOLDEN: &str = include_str!("../../../tests/data/rewards/accuracy_mllm.jsonl");

    #[test]
    fn equals_the_calculator() {
        let mut wrong = Vec::new();
        for line in GOLDEN.lines() {
            let row: Map<String, Value> = serde_json::from_str(line).unwrap();
            let text = |k: &str| row[k].as_str().unwrap();
            let got = score("", text("said"), text("answer"), None).unwrap();
            if got != row["score"].as_f64() {
                wrong.push(format!("{line}: ours {got:?}"));
            }
        }
        assert!(GOLDEN.lines().count() >= 80);
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn json_is_taken_as_the_fork_takes_it() {
        let said = |t: &str| json_answer(t);
        let plain = "```json\n{\"reasoning_steps\": [\"a\"], \"answer\": \"red\"}\n```";
        assert_eq!(said(plain).as_deref(), Some("red"));
        assert_eq!(said("{\"answer\": \"red\", \"reasoning_steps\": []}"), None);
        assert_eq!(said("{\"reasoning_steps\": [\"{\"], \"answer\": \"red\"}"), None);
    }
}
