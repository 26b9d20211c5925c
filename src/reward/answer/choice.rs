//! Multiple choice: a letter, the text of a choice, or both together, which must then agree. A letter
//! is never looked for inside a sentence, and several letters are no answer.

use serde_json::Value;

use super::{normalise, same_answer};

/// Choices of a question, in order.
#[derive(Debug, Clone, PartialEq)]
pub struct Choices {
    /// Label and text of each.
    items: Vec<(String, String)>,
    /// Labels were given: they go before texts where an answer could be either.
    labelled: bool,
}

/// Most choices of a question: one per letter.
const MOST: usize = 26;

impl Choices {
    /// From a column: a list of texts, an object of labels and texts, or either as JSON (or a Python
    /// list) in a text. None if it is none of them, or has fewer than two choices.
    pub fn read(column: &Value) -> Option<Choices> {
        match column {
            Value::Array(items) => {
                let texts: Option<Vec<String>> = items.iter().map(text_of).collect();
                Choices::of_texts(texts?)
            }
            Value::Object(object) => {
                let item = |(k, v): (&String, &Value)| Some((k.trim().to_string(), text_of(v)?));
                let items: Option<Vec<_>> = object
                    .iter()
                    .filter(|(_, v)| !v.is_null() && v.as_str() != Some(""))
                    .map(item)
                    .collect();
                Choices::of_items(items?, true)
            }
            Value::String(text) => {
                let inside = serde_json::from_str::<Value>(text).ok();
                match inside {
                    Some(value @ (Value::Array(_) | Value::Object(_))) => Choices::read(&value),
                    _ => python_list(text).and_then(Choices::of_texts).or_else(|| in_lines(text)),
                }
            }
            _ => None,
        }
    }

    /// From a question that lists them: lines `A. red`, or `(A) red (B) blue`.
    pub fn in_question(question: &str) -> Option<Choices> {
        in_lines(question).or_else(|| in_parentheses(question))
    }

    fn of_texts(texts: Vec<String>) -> Option<Choices> {
        if texts.len() > MOST {
            return None;
        }
        let label = |i: usize| char::from(b'A' + i as u8).to_string();
        // "A. red", "B. blue": the texts have their letters with them.
        let marked: Option<Vec<(String, String)>> = texts
            .iter()
            .enumerate()
            .map(|(i, t)| mark(t).filter(|(l, r)| *l == label(i) && !r.is_empty()))
            .collect();
        if let Some(items) = marked {
            return Choices::of_items(items, true);
        }
        let items = texts.into_iter().enumerate().map(|(i, t)| (label(i), t)).collect();
        Choices::of_items(items, false)
    }

    fn of_items(items: Vec<(String, String)>, labelled: bool) -> Option<Choices> {
        (2..=MOST).contains(&items.len()).then_some(Choices { items, labelled })
    }

    /// The choices that a text names; empty if it names none, or a letter with another's text.
    fn named(&self, said: &str) -> Vec<usize> {
        let bare = normalise(said);
        if bare.is_empty() {
            return Vec::new();
        }
        let by_label = || self.positions(|(label, _)| normalise(label) == bare);
        let by_text = || self.positions(|(_, text)| same_answer(said, text));
        let first = if self.labelled { by_label() } else { by_text() };
        if !first.is_empty() {
            return first;
        }
        let second = if self.labelled { by_text() } else { by_label() };
        if !second.is_empty() {
            return second;
        }
        let Some((letter, rest)) = mark(said) else { return Vec::new() };
        self.positions(|(label, text)| {
            label.eq_ignore_ascii_case(&letter) && (rest.is_empty() || same_answer(&rest, text))
        })
    }

    fn positions(&self, wanted: impl Fn(&(String, String)) -> bool) -> Vec<usize> {
        (0..self.items.len()).filter(|i| wanted(&self.items[*i])).collect()
    }
}

/// Whether `said` is the choice that the reference names; None if the reference names none.
pub fn verdict(said: &str, reference: &str, choices: Option<&Choices>) -> Option<bool> {
    let Some(choices) = choices else { return alone(said, reference) };
    let wanted = choices.named(reference);
    if wanted.is_empty() {
        return None;
    }
    Some(choices.named(said).iter().any(|i| wanted.contains(i)))
}

/// Without choices a reference `B) blue` still says letter and text.
fn alone(said: &str, reference: &str) -> Option<bool> {
    let (letter, text) = mark(reference)?;
    let parenthesis = reference.trim_start_matches('(').chars().nth(1) == Some(')');
    if text.is_empty() || !parenthesis {
        return None;
    }
    let both =
        mark(said).is_some_and(|(l, t)| l == letter && (t.is_empty() || same_answer(&t, &text)));
    Some(both || same_answer(said, &letter) || same_answer(said, &text))
}

/// The letter of an answer that is a letter and nothing else: `B`, `(b)`, `B.`.
pub fn letter(text: &str) -> Option<char> {
    let bare = normalise(text);
    let mut characters = bare.chars();
    let only = characters.next().filter(char::is_ascii_alphabetic)?;
    characters.next().is_none().then_some(only.to_ascii_uppercase())
}

/// A letter with its mark and what follows: `(B) x`, `B) x`, `[B] x`, `B. x`, `B: x`. The letter in
/// upper case.
pub fn mark(text: &str) -> Option<(String, String)> {
    let folded = super::fold_spelling(text);
    let text = folded.trim().trim_start_matches("**");
    let (open, rest) = match text.chars().next()? {
        c @ ('(' | '[') => (Some(c), &text[1..]),
        _ => (None, text),
    };
    let letter = rest.chars().next().filter(char::is_ascii_alphabetic)?;
    let after = &rest[1..];
    let close = after.chars().next()?;
    let fits = match open {
        Some('(') => close == ')',
        Some(_) => close == ']',
        None => matches!(close, ')' | '.' | ':'),
    };
    if !fits {
        return None;
    }
    // "e.g." and "a:b" are no marks: white space follows a mark, or nothing.
    let behind = &after[1..];
    if !(behind.is_empty() || behind.starts_with(char::is_whitespace) || close == ')') {
        return None;
    }
    Some((letter.to_ascii_uppercase().to_string(), behind.trim_start_matches("**").trim().into()))
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.trim().to_string()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        _ => None,
    }
}

/// `['a', "b"]`, as Python prints a list of texts.
fn python_list(text: &str) -> Option<Vec<String>> {
    let inside = text.trim().strip_prefix('[')?.strip_suffix(']')?;
    let mut items = Vec::new();
    let mut rest = inside.trim();
    while !rest.is_empty() {
        let quote = rest.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
        let end = rest[1..].find(quote)? + 1;
        items.push(rest[1..end].to_string());
        rest = rest[end + 1..].trim_start();
        rest = match rest.strip_prefix(',') {
            Some(more) => more.trim_start(),
            None if rest.is_empty() => rest,
            None => return None,
        };
    }
    Some(items)
}

/// Lines that start with A, B, C, ... and a mark, in order, without a gap.
fn in_lines(text: &str) -> Option<Choices> {
    let mut items: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        let Some((label, rest)) = mark(line) else { continue };
        let expected = char::from(b'A' + items.len().min(MOST) as u8).to_string();
        if label == expected && !rest.is_empty() {
            items.push((label, rest));
        }
    }
    // One line may hold several: then they are read as one, and the texts would be wrong.
    let several =
        items.iter().any(|(_, t)| ["(B)", "(C)", " B.", " B)"].iter().any(|m| t.contains(m)));
    if several { None } else { Choices::of_items(items, true) }
}

/// `(A) red (B) blue` within a line.
fn in_parentheses(text: &str) -> Option<Choices> {
    let mut items = Vec::new();
    let mut rest = &text[text.find("(A)")?..];
    for i in 0..MOST {
        let here = format!("({})", char::from(b'A' + i as u8));
        let Some(after) = rest.strip_prefix(here.as_str()) else { break };
        let next = format!("({})", char::from(b'A' + i as u8 + 1));
        let end = after.find(&next).unwrap_or_else(|| after.find('\n').unwrap_or(after.len()));
        let said = after[..end].trim().trim_end_matches([',', ';']);
        items.push((here[1..2].to_string(), said.to_string()));
        rest = &after[end..];
    }
    Choices::of_items(items, true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn choices(column: Value) -> Choices {
        Choices::read(&column).unwrap()
    }

    #[test]
    fn every_form_of_the_column_is_read() {
        let want = choices(json!(["red", "blue"]));
        assert_eq!(choices(json!("[\"red\", \"blue\"]")), want);
        assert_eq!(choices(json!("['red', 'blue']")), want);
        let labelled = choices(json!({"A": "red", "B": "blue"}));
        assert_eq!(choices(json!("{\"A\": \"red\", \"B\": \"blue\"}")), labelled);
        assert_eq!(choices(json!(["A. red", "B. blue"])), labelled);
        assert_eq!(choices(json!("A. red\nB. blue")), labelled);
        assert_eq!(
            Choices::in_question("Which?\nChoices:\n(A) red\n(B) blue"),
            Some(labelled.clone())
        );
        assert_eq!(Choices::in_question("Which? (A) red (B) blue"), Some(labelled));
        for none in [json!([]), json!(["one"]), json!("red, blue"), json!(3), json!(["a", ["b"]])] {
            assert_eq!(Choices::read(&none), None, "{none}");
        }
        assert_eq!(Choices::in_question("What is in (A)?"), None);
    }

    #[test]
    fn letter_and_text_must_agree() {
        let colours = choices(json!(["red", "blue", "3", "three apples"]));
        let right = |said: &str, reference| verdict(said, reference, Some(&colours));
        for said in ["B", "(b)", "B.", "blue", "Blue.", "B) blue", "(B) Blue", "B. blue", "B: blue"]
        {
            assert_eq!(right(said, "B"), Some(true), "{said}");
            assert_eq!(right(said, "blue"), Some(true), "{said}");
        }
        for said in
            ["A", "A) blue", "B) red", "B C", "A, B", "blue or red", "", "E", "not blue", "B blue"]
        {
            assert_eq!(right(said, "B"), Some(false), "{said}");
        }
        assert_eq!(right("C", "3.0"), Some(true));
        assert_eq!(right("B", "green"), None);
    }

    #[test]
    fn texts_that_are_letters_and_texts_twice() {
        let swapped = choices(json!(["B", "A"]));
        assert_eq!(verdict("A", "A", Some(&swapped)), Some(true));
        assert_eq!(verdict("B", "A", Some(&swapped)), Some(false));
        let twice = choices(json!(["3", "3", "4"]));
        assert_eq!(verdict("3", "B", Some(&twice)), Some(true));
        assert_eq!(verdict("A", "B", Some(&twice)), Some(false));
        assert_eq!(verdict("A) 3", "B", Some(&twice)), Some(false));
    }

    #[test]
    fn a_reference_with_letter_and_text_needs_no_choices() {
        for (said, want) in [("B", true), ("blue", true), ("B) blue", true), ("A) blue", false)] {
            assert_eq!(verdict(said, "B) blue", None), Some(want), "{said}");
        }
        assert_eq!(verdict("I", "I. Newton", None), None);
        assert_eq!(verdict("B) blue", "B", None), None);
    }
}
