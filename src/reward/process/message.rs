//! The lines that go to a process that scores and come back from it. Both forms (a Python function, any
//! program) speak the same; docs/rewards/own.md describes it. Starts nothing.

use crate::io::dataset::{Message, Part};
use crate::reward::{Aside, Progress, Sample};
use serde_json::{Map, Value, json};

/// The request for some samples.
pub(super) fn request(id: u64, samples: &[Sample<'_>], progress: Progress) -> String {
    let samples: Vec<Value> = samples.iter().map(sample).collect();
    json!({
        "id": id,
        "samples": samples,
        "trainer_state": {
            "global_step": progress.step,
            "max_steps": progress.max_steps,
            "epoch": progress.epoch,
        },
    })
    .to_string()
}

fn sample(s: &Sample<'_>) -> Value {
    json!({
        "prompt": messages(s.messages, s.columns),
        "question": s.prompt,
        "completion": s.completion,
        "completion_ids": s.completion_ids,
        "truncated": s.truncated,
        "answer": s.answer,
        "columns": s.columns,
    })
}

/// The chat in TRL's form: contents are texts, or lists of parts as soon as one of them shows something.
fn messages(messages: &[Message], columns: &Map<String, Value>) -> Value {
    let shows = |m: &Message| m.content.iter().any(|p| !matches!(p, Part::Text(_)));
    let parts = messages.iter().any(shows);
    let one = |m: &Message| {
        let content = match parts {
            true => m.content.iter().map(|p| part(p, columns)).collect(),
            false => Value::String(m.content.iter().map(text_of).collect()),
        };
        json!({"role": m.role, "content": content})
    };
    messages.iter().map(one).collect()
}

fn text_of(part: &Part) -> &str {
    if let Part::Text(text) = part { text } else { "" }
}

fn part(part: &Part, columns: &Map<String, Value>) -> Value {
    let named = |kind: &str, i: usize| {
        let mut out = json!({"type": kind});
        // As the row says it, where it says it in a column.
        if let Some(source) = column_item(columns, kind, i) {
            out[kind] = source.clone();
        }
        out
    };
    match part {
        Part::Text(text) => json!({"type": "text", "text": text}),
        Part::Image(i) => named("image", *i),
        Part::Video(i) => named("video", *i),
    }
}

fn column_item<'a>(columns: &'a Map<String, Value>, kind: &str, i: usize) -> Option<&'a Value> {
    let column = columns.get(kind).filter(|v| !v.is_null());
    let column = column.or_else(|| columns.get(&format!("{kind}s")))?;
    match column {
        Value::Array(list) => list.get(i),
        Value::Null => None,
        single => (i == 0).then_some(single),
    }
}

/// One score, or what stands in its place.
pub(super) type Score = Result<Option<f64>, String>;

/// What an answer says.
#[derive(Debug, PartialEq)]
pub(super) enum Answer {
    /// One score per sample, and what was said besides.
    Scores(Vec<Score>, Aside),
    /// The function failed: with what, where, and what to do.
    Failed {
        /// The exception.
        error: String,
        /// File and line, if they are known.
        place: Option<String>,
        /// What to do, if it is known.
        hint: Option<String>,
    },
    /// The function does not do what a reward does: what was found.
    Wrong(String),
    /// No answer to this request: what was found.
    Garbled(String),
}

/// Reads the answer to request `id` with `n` samples.
pub(super) fn answer(line: &str, id: u64, n: usize) -> Answer {
    let shown = || line.chars().take(120).collect::<String>();
    let value: Value = match serde_json::from_str(line) {
        Ok(value) => value,
        Err(_) => return Answer::Garbled(format!("a line that is not JSON: {}", shown())),
    };
    let object = match value {
        // The short form: the scores alone.
        Value::Array(scores) => Map::from_iter([("scores".to_string(), Value::Array(scores))]),
        Value::Object(object) => object,
        _ => return Answer::Garbled(format!("neither an object nor a list: {}", shown())),
    };
    if object.get("id").is_some_and(|found| found.as_u64() != Some(id)) {
        return Answer::Garbled(format!("an answer to another request: {}", shown()));
    }
    let text = |key: &str| object.get(key).and_then(Value::as_str).map(str::to_string);
    if let Some(error) = object.get("error") {
        let error = error.as_str().map_or_else(|| error.to_string(), str::to_string);
        return Answer::Failed { error, place: text("where"), hint: text("hint") };
    }
    if let Some(wrong) = text("wrong") {
        return Answer::Wrong(wrong);
    }
    let Some(Value::Array(scores)) = object.get("scores") else {
        return Answer::Garbled(format!("an answer without `scores`: {}", shown()));
    };
    if scores.len() != n {
        return Answer::Wrong(format!("{} scores for {n} completions", scores.len()));
    }
    match aside(&object, n) {
        Ok(aside) => Answer::Scores(scores.iter().map(score).collect(), aside),
        Err(wrong) => Answer::Wrong(wrong),
    }
}

fn score(value: &Value) -> Score {
    match value {
        Value::Null => Ok(None),
        Value::Bool(b) => Ok(Some(f64::from(*b))),
        Value::Number(x) => x.as_f64().map(Some).ok_or_else(|| x.to_string()),
        Value::Object(o) => Err(match o.get("error") {
            Some(Value::String(error)) => error.clone(),
            _ => format!("an object: {value}"),
        }),
        Value::String(s) => Err(format!("a text: {s:?}")),
        Value::Array(_) => Err(format!("a list: {value}")),
    }
}

/// Columns and figures of an answer.
fn aside(object: &Map<String, Value>, n: usize) -> Result<Aside, String> {
    let mut aside = Aside::default();
    let empty = Map::new();
    let of = |key: &str| match object.get(key) {
        None | Some(Value::Null) => Ok(empty.clone()),
        Some(Value::Object(o)) => Ok(o.clone()),
        Some(_) => Err(format!("`{key}` that is not an object")),
    };
    for (column, values) in of("extra")? {
        match values {
            Value::Array(list) if list.len() == n => aside.columns.push((column, list)),
            _ => return Err(format!("`extra` without {n} values for `{column}`")),
        }
    }
    for (name, values) in of("metrics")? {
        let values = if let Value::Array(list) = values { list } else { vec![values] };
        for value in values.iter().filter(|v| !v.is_null()) {
            let value =
                value.as_f64().ok_or_else(|| format!("a metric `{name}` that is not a number"))?;
            aside.figures.push((name.clone(), value));
        }
    }
    // Sorted, as TRL sorts them: the order of columns does not depend on who speaks first.
    aside.columns.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(aside)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reward::test_sample;

    #[test]
    fn a_chat_has_texts_until_something_is_shown() {
        let columns = |v: Value| v.as_object().unwrap().clone();
        let plain = [Message::text("user", "hi")];
        let said = messages(&plain, &Map::new());
        assert_eq!(said, json!([{"role": "user", "content": "hi"}]));
        let content = vec![Part::Image(0), Part::Text("which?".into()), Part::Image(1)];
        let shown = [Message::text("system", "s"), Message { role: "user".into(), content }];
        let said = messages(&shown, &columns(json!({"image": "a.png"})));
        let text = |t: &str| json!({"type": "text", "text": t});
        let user = json!([{"type": "image", "image": "a.png"}, text("which?"), {"type": "image"}]);
        assert_eq!(said[0], json!({"role": "system", "content": [text("s")]}));
        assert_eq!(said[1]["content"], user);
        let said = messages(&shown, &columns(json!({"image": null, "images": ["a", "b"]})));
        assert_eq!(said[1]["content"][2], json!({"type": "image", "image": "b"}));
    }

    #[test]
    fn a_request_is_one_line_with_everything() {
        let row = json!({"x": "a\nb"});
        let sample = test_sample("said", "ref", &[5, 6], row.as_object().unwrap());
        let line = request(7, &[sample], Progress { step: 1, max_steps: 2, epoch: 0.5 });
        assert!(!line.contains('\n'));
        let v: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(v["id"], 7);
        assert_eq!(v["trainer_state"], json!({"global_step": 1, "max_steps": 2, "epoch": 0.5}));
        let s = &v["samples"][0];
        assert_eq!((&s["completion"], &s["answer"]), (&json!("said"), &json!("ref")));
        assert_eq!((&s["completion_ids"], &s["columns"]), (&json!([5, 6]), &row));
    }

    #[test]
    fn answers_in_every_form() {
        let scores = |line: &str, n| match answer(line, 1, n) {
            Answer::Scores(scores, _) => scores,
            other => panic!("{line}: {other:?}"),
        };
        assert_eq!(scores("[1, null, 0.5, true]", 4)[3], Ok(Some(1.0)));
        assert_eq!(scores(r#"{"scores": [null]}"#, 1), [Ok(None)]);
        let odd = scores(r#"{"id": 1, "scores": ["1", [1], {"error": "inf"}, {"a": 1}]}"#, 4);
        let odd: Vec<String> = odd.into_iter().map(|s| s.unwrap_err()).collect();
        assert_eq!(odd, ["a text: \"1\"", "a list: [1]", "inf", "an object: {\"a\":1}"]);
        let garbled = ["", "hello", "3", "{}", r#"{"id": 2, "scores": [1]}"#, r#"{"scores": 1}"#];
        for line in garbled {
            assert!(matches!(answer(line, 1, 1), Answer::Garbled(_)), "{line}");
        }
        let wrong = [
            "[1, 2]",
            r#"{"wrong": "a str"}"#,
            r#"{"scores": [1], "extra": {"c": [1, 2]}}"#,
            r#"{"scores": [1], "extra": [1]}"#,
            r#"{"scores": [1], "metrics": {"m": "x"}}"#,
        ];
        for line in wrong {
            assert!(matches!(answer(line, 1, 1), Answer::Wrong(_)), "{line}");
        }
        let failed = answer(r#"{"error": "ValueError: x", "where": "a.py, line 3"}"#, 1, 1);
        let place = Some("a.py, line 3".to_string());
        assert_eq!(failed, Answer::Failed { error: "ValueError: x".into(), place, hint: None });
    }

    #[test]
    fn columns_and_figures_of_an_answer() {
        let line = r#"{"scores": [1, 2], "extra": {"b": [1, 2], "a": ["x", null]},
            "metrics": {"m": [1, 3], "k": 0.5}}"#;
        let Answer::Scores(_, aside) = answer(line, 1, 2) else { panic!("no scores") };
        let names: Vec<&str> = aside.columns.iter().map(|(n, _)| n.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(aside.means(), [("m".to_string(), 2.0), ("k".to_string(), 0.5)]);
    }
}
