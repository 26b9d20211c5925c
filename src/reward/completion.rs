//! Where the parts of a completion stand: reasoning, its steps, answer, explanation, in each
//! [`AnswerFormat`]. Finds, and judges nothing: whether a completion is well formed is the reward
//! `format`'s business.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value};

use super::AnswerFormat;
use super::answer::tagged_answer;

/// The answer that a completion commits to, trimmed; None if it commits to none.
pub fn answer(text: &str, format: AnswerFormat) -> Option<Cow<'_, str>> {
    if format != AnswerFormat::Json {
        return tagged_answer(text).map(Cow::Borrowed);
    }
    match json_object(text)?.get("answer")? {
        Value::String(said) => Some(Cow::Owned(said.trim().to_string())),
        Value::Array(items) if items.is_empty() || !items.iter().all(Value::is_number) => None,
        // A list of numbers is a box.
        said @ (Value::Number(_) | Value::Bool(_) | Value::Array(_)) => {
            Some(Cow::Owned(said.to_string()))
        }
        _ => None,
    }
}

/// The explanation of an answer: the last closed `<explain>` after the reasoning, trimmed.
pub fn explanation(text: &str) -> Option<&str> {
    last_block(after_reasoning(text), "<explain>", "</explain>")
}

/// Reasoning as steps: the list of a JSON completion, else the lines of the reasoning block, or its
/// sentences if it is one line. Empty if there is no reasoning.
pub fn steps(text: &str, format: AnswerFormat) -> Vec<String> {
    let block = match format {
        AnswerFormat::Json => {
            let object = json_object(text);
            let list = object.as_ref().and_then(|o| o.get("reasoning_steps")?.as_array());
            let texts = list.into_iter().flatten().filter_map(Value::as_str);
            return texts.map(|t| t.trim().to_string()).filter(|t| !t.is_empty()).collect();
        }
        AnswerFormat::ReasoningAnswer => last_block(text, "<reasoning>", "</reasoning>"),
        _ => last_block(text, "<think>", "</think>"),
    };
    /// A sentence ends at a mark with white space after it (3.5 has none), or at a full-width mark.
    static END: LazyLock<Regex> = LazyLock::new(|| pattern(r"[.!?]+\s+|[。！？]+"));
    /// Marks of a list are no part of a step; "3 dogs" and "-5 degrees" are.
    static MARK: LazyLock<Regex> = LazyLock::new(|| {
        pattern(r"\A(?:[-*•–]|\(?\d{1,3}[.)]|(?i:step|bước)\s+\d{1,3}\s*[:.)])\s+")
    });
    let block = block.unwrap_or_default();
    let mut pieces: Vec<&str> = block.lines().filter(|l| !l.trim().is_empty()).collect();
    if let [line] = pieces[..] {
        // A mark of a list ends like a sentence.
        let start = MARK.find(line.trim_start()).map_or(0, |m| m.end());
        pieces = sentences(&line.trim_start()[start..], &END);
    }
    let listed = |s: &str| MARK.replace(s, "").trim().to_string();
    let steps = pieces.into_iter().map(|p| listed(p.trim()));
    steps.filter(|s| s.chars().any(char::is_alphanumeric)).collect()
}

/// A pattern that is written in this file.
fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("a pattern that is written here")
}

/// Pieces of a line up to each end of a sentence.
fn sentences<'t>(line: &'t str, end: &Regex) -> Vec<&'t str> {
    let mut pieces = Vec::new();
    let mut from = 0;
    for mark in end.find_iter(line) {
        pieces.push(&line[from..mark.end()]);
        from = mark.end();
    }
    pieces.push(&line[from..]);
    pieces
}

/// The last JSON object of the text after the reasoning that has an `answer` or `reasoning_steps`;
/// a Markdown fence around it is passed over.
pub fn json_object(text: &str) -> Option<Map<String, Value>> {
    /// Braces that are tried: a text of nothing but braces must not cost its square.
    const TRIES: usize = 64;
    let said = after_reasoning(text);
    let mut found = None;
    let mut at = 0;
    for _ in 0..TRIES {
        let Some(open) = said[at..].find('{') else { break };
        let from = at + open;
        let mut stream = serde_json::Deserializer::from_str(&said[from..]).into_iter::<Value>();
        match stream.next() {
            Some(Ok(Value::Object(object))) => {
                at = from + stream.byte_offset();
                if object.contains_key("answer") || object.contains_key("reasoning_steps") {
                    found = Some(object);
                }
            }
            _ => at = from + 1,
        }
    }
    found
}

/// What stands after the first `</think>`, or everything if there is none.
pub fn after_reasoning(text: &str) -> &str {
    text.split_once("</think>").map_or(text, |(_, after)| after)
}

/// Inside of the last closed block, trimmed.
fn last_block<'t>(text: &'t str, open: &str, close: &str) -> Option<&'t str> {
    let mut end = text.len();
    loop {
        let at = text[..end].rfind(open)?;
        let inner = &text[at + open.len()..];
        if let Some(to) = inner.find(close) {
            return Some(inner[..to].trim());
        }
        end = at; // cut off: the one before it stands
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: AnswerFormat = AnswerFormat::Json;

    #[test]
    fn json_answers_are_found_bare_fenced_and_last() {
        let said = |t: &str| answer(t, JSON).map(Cow::into_owned);
        let one = r#"{"reasoning_steps": ["a {b}", "c"], "answer": " red "}"#;
        assert_eq!(said(one).unwrap(), "red");
        assert_eq!(said(&format!("```json\n{one}\n```")).unwrap(), "red");
        assert_eq!(said(r#"{"answer": 1} then {"answer": 2.50}"#).unwrap(), "2.5");
        assert_eq!(said(r#"<think>{"answer": "x"}</think>{"answer": "y"}"#).unwrap(), "y");
        assert_eq!(said(r#"{"answer": ["x"]}"#), None);
        assert_eq!(said(r#"{"answer": []}"#), None);
        assert_eq!(said(r#"{"answer": [1, 2.5, 3, 4]}"#).unwrap(), "[1,2.5,3,4]");
        assert_eq!(said(r#"{"answer": "x"#), None);
        assert_eq!(said(&"{".repeat(100_000)), None);
        assert_eq!(steps(one, JSON), ["a {b}", "c"]);
    }

    #[test]
    fn steps_of_tagged_reasoning() {
        let steps = |t| steps(t, AnswerFormat::ThinkAnswer);
        assert_eq!(steps("<think>1. One.\n2) Two\n- three\n</think>"), ["One.", "Two", "three"]);
        assert_eq!(steps("<think>It is red. So yes!</think>"), ["It is red.", "So yes!"]);
        assert_eq!(steps("<think>1. It is 3.5 cm. 3 dogs</think>"), ["It is 3.5 cm.", "3 dogs"]);
        assert_eq!(
            steps("<think>-5 degrees\n2 red\nStep 3: blue</think>"),
            ["-5 degrees", "2 red", "blue"]
        );
        assert_eq!(steps("<think>红色的。蓝色！</think>"), ["红色的。", "蓝色！"]);
        assert!(steps("no tags").is_empty() && steps("<think> . </think>").is_empty());
        assert_eq!(explanation("</think><explain> vì </explain><explain>x"), Some("vì"));
    }
}
