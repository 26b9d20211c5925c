//! The object that a completion says in JSON, read as loosely as `mllm_evaluator`'s rewards do
//! (`vqa_reasoning_reward` in `qwen_module.py` of the waybarrios fork of VLM-R1). For its compatible mode
//! alone: what it mends on the way pays for broken JSON.

use regex::{Captures, Regex};
use serde_json::{Map, Value};
use std::sync::LazyLock;

/// A pattern that is written in this file.
fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("a pattern that is written here")
}

static FENCES: LazyLock<Regex> = LazyLock::new(|| pattern(r"```json\s*|\s*```"));
static QUOTED: LazyLock<Regex> = LazyLock::new(|| pattern(r"[:,\[]\s*'([^']*)'"));
static LIST_GOES_ON: LazyLock<Regex> = LazyLock::new(|| pattern(r"\A\s*[,\]}]"));
static LINE_BETWEEN: LazyLock<Regex> = LazyLock::new(|| pattern(r#""\s*\n\s*""#));
static SPACE_BETWEEN: LazyLock<Regex> = LazyLock::new(|| pattern(r#""\s+"#));
static COMMA_AT_END: LazyLock<Regex> = LazyLock::new(|| pattern(r",(\s*[\]}])"));

/// The object of a completion: the whole text if it is one with `reasoning_steps` and `answer`, else what
/// stands between the first brace and its partner, mended.
pub fn object(completion: &str) -> Option<Map<String, Value>> {
    let bare = FENCES.replace_all(completion, "");
    let bare = bare.trim();
    if let Ok(whole) = serde_json::from_str::<Value>(bare) {
        let Value::Object(object) = whole else { return None };
        let complete = object.contains_key("reasoning_steps") && object.contains_key("answer");
        return complete.then_some(object);
    }
    let text = first_braces(bare)?;
    let text = text.replace(['\u{201c}', '\u{201d}'], "\"").replace(['\u{2018}', '\u{2019}'], "'");
    let mended = commas(&double_quotes(&text));
    serde_json::from_str(&mended)
        .or_else(|_| serde_json::from_str(&commas(&mended.replace('\'', "\""))))
        .ok()
}

/// From the first brace to its partner; braces inside of strings count too, as in the original.
fn first_braces(text: &str) -> Option<&str> {
    let start = text.find('{')?;
    let mut depth = 0usize;
    for (at, byte) in text.bytes().enumerate().skip(start) {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 1 => return Some(&text[start..=at]),
            b'}' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// Values in single quotes get double ones.
fn double_quotes(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    let mut from = 0;
    while let Some(found) = QUOTED.captures_at(text, from) {
        let (whole, inside) = (found.get_match(), &found[1]);
        // The mark before the value is one byte.
        if LIST_GOES_ON.is_match(&text[whole.end()..]) {
            out += &text[done..=whole.start()];
            out += &format!(" \"{inside}\"");
            (done, from) = (whole.end(), whole.end());
        } else {
            from = whole.start() + 1;
        }
    }
    out + &text[done..]
}

/// Commas between strings that lack them, none before the end of a list or object.
fn commas(text: &str) -> String {
    let text = LINE_BETWEEN.replace_all(text, "\",\n    \"");
    let mut between = String::with_capacity(text.len());
    let (mut done, mut from) = (0, 0);
    while let Some(found) = SPACE_BETWEEN.find_at(&text, from) {
        if text[found.end()..].starts_with('"') {
            between += &text[done..found.start()];
            between += "\", ";
            done = found.end();
            from = done;
        } else {
            from = found.start() + 1;
        }
    }
    between += &text[done..];
    COMMA_AT_END.replace_all(&between, |c: &Captures| c[1].to_owned()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows `{completion, steps}` made by `tools/golden/loose_json.py` with Python's `re` and `json`.
    const GOLDEN: &str = include_str!("../../tests/data/rewards/loose_json.jsonl");

    #[test]
    fn equals_the_original_on_broken_and_whole_json() {
        let mut found = 0;
        for line in GOLDEN.lines() {
            let row: Map<String, Value> = serde_json::from_str(line).unwrap();
            let said = row["completion"].as_str().unwrap();
            let steps = object(said).map(|o| o.get("reasoning_steps").cloned());
            let want = &row["steps"];
            assert_eq!(&steps.flatten().unwrap_or(Value::Null), want, "{said:?}");
            found += usize::from(!want.is_null());
        }
        assert!(found >= 10, "{found}");
    }

    #[test]
    fn strange_text_is_no_panic() {
        for text in ["", "{", "}{", "```json", "{'", "[' ' ", "{\"é'’“\": 'ü' ", "'''", "{,'é'}"]
        {
            assert_eq!(object(text), None, "{text}");
        }
    }
}
