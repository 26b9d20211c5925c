//! What stands around a question: the template with its places, choices written as lines, and what the columns
//! say of the answer's form. Only texts are made here.

use serde_json::{Map, Value};

use super::row_error::{RowResult, bad, kind_of};

/// Columns that may hold choices, in order of preference.
const CHOICES: [&str; 2] = ["choices", "options"];

/// The places of a question in a template; the second is VLM-R1's.
pub const QUESTION_PLACES: [&str; 2] = ["{question}", "{Question}"];
const CHOICES_PLACE: &str = "{choices}";
const HINTS_PLACE: &str = "{hints}";

/// The text before and behind a row's question.
pub(super) fn around(template: &str, columns: &Map<String, Value>) -> RowResult<(String, String)> {
    let place = QUESTION_PLACES.into_iter().find(|p| template.contains(p));
    let Some((before, after)) = place.and_then(|p| template.split_once(p)) else {
        return Ok((String::new(), String::new()));
    };
    let choices = choices_of(columns)?;
    let (mut before, mut after) = (before.to_owned(), after.to_owned());
    if !template.contains(CHOICES_PLACE) && !choices.is_empty() {
        after = format!("\n{choices}{after}");
    }
    let places = [(CHOICES_PLACE, choices), (HINTS_PLACE, hints_of(columns))];
    for (place, text) in &places {
        before = fill(&before, place, text);
        after = fill(&after, place, text);
    }
    Ok((before, after))
}

/// Puts a text in its place; with nothing to put there, a line that holds the place alone goes too.
fn fill(template: &str, place: &str, text: &str) -> String {
    if !text.is_empty() {
        return template.replace(place, text);
    }
    template.replace(&format!("\n{place}"), "").replace(place, "")
}

/// The row's choices as lines `A. red`; empty if it has none.
fn choices_of(columns: &Map<String, Value>) -> RowResult<String> {
    for key in CHOICES {
        let lines = match columns.get(key) {
            None | Some(Value::Null) => continue,
            Some(Value::String(text)) if text.trim().is_empty() => continue,
            // Tables without lists hold them as JSON; any other text is shown as it is.
            Some(Value::String(text)) => match serde_json::from_str::<Value>(text) {
                Ok(value @ (Value::Array(_) | Value::Object(_))) => lines_of(&value, key)?,
                _ => vec![text.trim().to_owned()],
            },
            Some(value) => lines_of(value, key)?,
        };
        if !lines.is_empty() {
            return Ok(lines.join("\n"));
        }
    }
    Ok(String::new())
}

fn lines_of(value: &Value, key: &str) -> RowResult<Vec<String>> {
    match value {
        Value::Array(list) => {
            let texts: Vec<String> = list.iter().map(plain).collect();
            let labelled = texts.iter().enumerate().all(|(i, t)| has_label(t, &letter(i)));
            let line = |(i, t): (usize, &String)| match labelled {
                true => t.clone(),
                false => format!("{}. {t}", letter(i)),
            };
            Ok(texts.iter().enumerate().map(line).collect())
        }
        Value::Object(object) => {
            // Tables have every key that some row has.
            let given = object.iter().filter(|(_, v)| !v.is_null());
            Ok(given.map(|(k, v)| format!("{k}. {}", plain(v))).collect())
        }
        other => Err(bad("the choices are not a list", key)
            .expected("a list of texts, or an object {\"A\": ...}")
            .found(kind_of(other))),
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), |s| s.trim().to_owned())
}

/// A, B, …, Z, AA, AB, …
fn letter(i: usize) -> String {
    let last = char::from(b'A' + (i % 26) as u8);
    match i / 26 {
        0 => last.to_string(),
        n => letter(n - 1) + &last.to_string(),
    }
}

/// Whether a choice begins with its letter: `A. red`, `A) red`, `(A) red`, `A: red`.
fn has_label(text: &str, letter: &str) -> bool {
    let open = text.strip_prefix('(').unwrap_or(text);
    let rest = open.strip_prefix(letter);
    rest.is_some_and(|r| r.starts_with(['.', ')', ':']))
}

/// What the columns say of the answer's form, in words: MathVista's `question_type`, `answer_type`,
/// `precision` and `unit`.
fn hints_of(columns: &Map<String, Value>) -> String {
    let text = |key: &str| {
        let text = columns.get(key).filter(|v| !v.is_null()).map(plain).unwrap_or_default();
        Some(text).filter(|t| !t.is_empty())
    };
    let mut hints = Vec::new();
    let several = choices_of(columns).is_ok_and(|c| !c.is_empty());
    if several {
        hints.push("Answer with the letter of the right choice.".to_owned());
    } else {
        let places = text("precision").and_then(|p| p.parse::<f64>().ok()).filter(|p| *p >= 0.0);
        match (text("answer_type").as_deref(), places) {
            (Some("integer"), _) => hints.push("The answer is a whole number.".into()),
            (Some("float"), Some(1.0)) => {
                hints.push("The answer is a number with 1 decimal place.".into())
            }
            (Some("float"), Some(n)) => {
                hints.push(format!("The answer is a number with {n} decimal places."))
            }
            (Some("float"), None) => hints.push("The answer is a number.".into()),
            (Some("list"), _) => hints.push("The answer is a list, such as [1, 2, 3].".into()),
            _ => {}
        }
        if let Some(unit) = text("unit") {
            hints.push(format!("Give it in this unit: {unit}."));
        }
    }
    hints.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn asked(template: &str, columns: Value) -> String {
        let Value::Object(columns) = columns else { unreachable!() };
        let (before, after) = around(template, &columns).ok().unwrap();
        format!("{before}Q{after}")
    }

    #[test]
    fn choices_in_every_form() {
        let template = "{question}\n{choices}\nAnswer.";
        for (choices, lines) in [
            (json!(["red", "blue"]), "A. red\nB. blue\n"),
            (json!(["A. red", "B. blue"]), "A. red\nB. blue\n"),
            (json!(["(A) red", "(B) blue"]), "(A) red\n(B) blue\n"),
            (json!(["A. red", "blue"]), "A. A. red\nB. blue\n"),
            (json!({"A": "red", "C": 3, "D": null}), "A. red\nC. 3\n"),
            (json!("[\"red\", \"blue\"]"), "A. red\nB. blue\n"),
            (json!("red or blue"), "red or blue\n"),
            (json!([]), ""),
            (json!(null), ""),
            (json!(" "), ""),
        ] {
            let expected = format!("Q\n{lines}Answer.");
            assert_eq!(asked(template, json!({"choices": choices})), expected, "{choices}");
        }
        let columns = json!({"choices": [], "options": [1, 2.5]});
        assert_eq!(asked("{Question}!", columns), "Q\nA. 1\nB. 2.5!");
        assert_eq!((letter(25), letter(26), letter(27)), ("Z".into(), "AA".into(), "AB".into()));
        let Value::Object(wrong) = json!({"choices": 3}) else { unreachable!() };
        assert!(around("{question}", &wrong).is_err());
    }

    #[test]
    fn hints_of_mathvista() {
        let hint = |columns| asked("{question}\n{hints}", columns);
        assert_eq!(
            hint(json!({"answer_type": "integer", "unit": "cm"})),
            "Q\nThe answer is a whole number. Give it in this unit: cm."
        );
        assert_eq!(
            hint(json!({"answer_type": "float", "precision": 2.0, "unit": ""})),
            "Q\nThe answer is a number with 2 decimal places."
        );
        assert_eq!(hint(json!({"answer_type": "text", "precision": null, "unit": null})), "Q");
        assert!(
            hint(json!({"choices": ["1", "2"], "answer_type": "float"})).ends_with("right choice.")
        );
    }
}
