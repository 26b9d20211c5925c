//! Boxes with labels in an answer: a JSON list and nothing else. What is in the list and is no box
//! stays in the count.

use crate::reward::answer::normalise;
use crate::reward::boxes::Rect;
use serde_json::Value;

/// A box with what is in it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Labelled {
    /// Normalised, not empty.
    pub label: String,
    pub rect: Rect,
}

/// What an answer says of boxes.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Said {
    /// That there is no object: "None", or an empty list.
    Nothing,
    /// A list, not empty; None for an element that is no box with a label.
    Boxes(Vec<Option<Labelled>>),
    /// Something else.
    Unreadable,
}

/// Reads an answer: `None`, or a JSON list, bare or in one Markdown fence.
pub(super) fn said(answer: &str) -> Said {
    let text = answer.trim();
    if text.trim_end_matches('.').eq_ignore_ascii_case("none") {
        return Said::Nothing;
    }
    match serde_json::from_str(unfenced(text)) {
        Ok(Value::Array(list)) if list.is_empty() => Said::Nothing,
        Ok(Value::Array(list)) => Said::Boxes(list.iter().map(labelled).collect()),
        _ => Said::Unreadable,
    }
}

/// The inside of the one fence around a text, or the text.
fn unfenced(text: &str) -> &str {
    let inside = text.strip_prefix("```").and_then(|t| t.strip_suffix("```"));
    inside.map_or(text, |t| t.strip_prefix("json").unwrap_or(t))
}

fn labelled(item: &Value) -> Option<Labelled> {
    let label = normalise(item.get("label")?.as_str()?);
    let rect = Rect::of_json(item.get("bbox_2d")?)?;
    (!label.is_empty()).then_some(Labelled { label, rect })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_fences_and_none() {
        let cat = r#"[{"bbox_2d": [0, 0, 1, 1], "label": "The Cat."}]"#;
        let Said::Boxes(boxes) = said(cat) else { panic!("{:?}", said(cat)) };
        assert_eq!(boxes[0].as_ref().unwrap().label, "cat");
        assert_eq!(said(&format!("```json\n{cat}\n```")), said(cat));
        assert_eq!(said(&format!("```{cat}```")), said(cat));
        for nothing in ["None", " none. ", "[]", "```json\n[]\n```"] {
            assert_eq!(said(nothing), Said::Nothing, "{nothing}");
        }
        for no_list in ["", "cat", "{}", "There is none", "```json\n[]", &format!("boxes: {cat}")] {
            assert_eq!(said(no_list), Said::Unreadable, "{no_list}");
        }
        for broken in [
            r#"[{"bbox_2d": [0, 0, 1], "label": "cat"}]"#,
            r#"[{"bbox_2d": [0, 0, 1, "1"], "label": "cat"}]"#,
            r#"[{"bbox_2d": [1, 0, 0, 1], "label": "cat"}]"#,
            r#"[{"bbox_2d": [0, 0, 1, 1], "label": " "}]"#,
            r#"[{"bbox_2d": [0, 0, 1, 1]}]"#,
            "[[0, 0, 1, 1]]",
        ] {
            assert_eq!(said(broken), Said::Boxes(vec![None]), "{broken}");
        }
    }
}
