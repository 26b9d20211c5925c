//! Formulas in prose, as math_verify's `parse` finds them, for published rewards that read whole
//! completions. Approximate where its patterns overlap; no reward in default mode picks from prose.

use super::{Node, read};

/// What `parse` of math_verify takes from a text: boxes and formulas first, then numbers, the last of
/// the most telling place. With `anchored`, only boxes and formulas behind "answer" count, as in
/// TRL's `accuracy_reward`.
pub fn formula(text: &str, anchored: bool) -> Option<String> {
    if anchored && let Some(inside) = boxes(text) {
        return Some(inside);
    }
    if let Some(at) = rfind_word(text, "final answer")
        && let Some(found) = environments(&text[at..]).first()
    {
        return Some(found.2.clone());
    }
    if let Some(inside) = boxes(text) {
        return Some(inside);
    }
    if let Some(at) = rfind_word(text, "answer") {
        let behind = &text[at..];
        let near =
            |found: &Vec<(usize, usize, String)>| found.first().filter(|f| f.0 <= 60).cloned();
        let found = near(&environments(behind));
        let plain = if anchored { None } else { near(&numbers(behind)) };
        if let Some((_, _, inside)) = found.or(plain) {
            return Some(inside);
        }
    }
    if anchored {
        return None;
    }
    // Of all formulas and numbers the one that ends last, and of those the longest.
    let mut all = environments(text);
    all.extend(numbers(text));
    all.into_iter().max_by_key(|(from, to, _)| (*to, std::cmp::Reverse(*from))).map(|f| f.2)
}

/// The tree of what [`formula`] finds.
pub fn node(text: &str, anchored: bool) -> Option<Node> {
    read(&format!("${}$", formula(text, anchored)?))
}

/// Where a word last occurs, in any case.
fn rfind_word(text: &str, word: &str) -> Option<usize> {
    let lower = text.to_ascii_lowercase();
    lower.rfind(word)
}

/// Inside of the last closed box, whatever stands around it.
pub fn last_box(text: &str) -> Option<String> {
    const OPEN: &str = "\\boxed{";
    let mut end = text.len();
    loop {
        let at = text[..end].rfind(OPEN)?;
        let inner = &text[at + OPEN.len()..];
        if let Some(close) = closing(inner) {
            return Some(inner[..close].trim().to_string());
        }
        end = at; // cut off: the one before it stands
    }
}

/// Inside of the last box. Boxes with less than ten characters between them are one list, and different
/// ones with less than seventy if a separator stands there.
pub fn boxes(text: &str) -> Option<String> {
    let mut found: Vec<String> = Vec::new();
    let mut end = text.len();
    while let Some(at) = text[..end].rfind("\\boxed{") {
        let inner = &text[at + "\\boxed{".len()..];
        let Some(close) = closing(inner) else {
            if !found.is_empty() {
                break;
            }
            // A box that never closes holds what is left.
            return None;
        };
        let after = at + "\\boxed{".len() + close + 1;
        let inside = inner[..close].trim().to_string();
        if let Some(last) = found.last() {
            let between = &text[after.min(end)..end];
            let words = || between.split(|c: char| !c.is_alphanumeric());
            let separated =
                between.contains([',', ';']) || words().any(|w| w == "and" || w == "or");
            let width = between.chars().count();
            if width >= 10 && !(width < 70 && separated && *last != inside) {
                break;
            }
        }
        found.push(inside);
        end = at;
    }
    found.dedup();
    found.reverse();
    (!found.is_empty()).then(|| found.join(","))
}

/// Where the brace that was opened before the text closes.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    for (i, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => return Some(i),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// Formulas between marks: where they start and end, and their inside.
fn environments(text: &str) -> Vec<(usize, usize, String)> {
    const MARKS: [(&str, &str); 4] = [("$$", "$$"), ("\\[", "\\]"), ("\\(", "\\)"), ("$", "$")];
    let mut found = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let mark = MARKS.iter().find(|(open, _)| rest.starts_with(open));
        let inside = mark.and_then(|(open, close)| {
            let inner = &rest[open.len()..];
            let to = inner.find(close)?;
            (!inner[..to].trim().is_empty())
                .then_some((open.len() + to + close.len(), &inner[..to]))
        });
        match inside {
            Some((width, inside)) => {
                found.push((at, at + width, inside.to_string()));
                at += width;
            }
            None => at += rest.chars().next().map_or(1, char::len_utf8),
        }
    }
    found
}

/// Numbers and sums of numbers that stand by themselves: at the start, behind white space or `=`.
fn numbers(text: &str) -> Vec<(usize, usize, String)> {
    let mut found = Vec::new();
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let free = at == 0 || bytes[at - 1].is_ascii_whitespace() || b"=*".contains(&bytes[at - 1]);
        let rest = &text[at..];
        let width = if free { number_width(rest) } else { 0 };
        if width == 0 {
            at += rest.chars().next().map_or(1, char::len_utf8);
            continue;
        }
        let said = rest[..width].trim_end();
        let per_cent = rest[width..].trim_start().starts_with('%');
        let said = if per_cent { format!("{said}\\%") } else { said.to_string() };
        found.push((at, at + width, said));
        at += width;
    }
    found
}

/// Width of the number or expression of numbers that a text starts with; 0 if there is none.
fn number_width(text: &str) -> usize {
    let start = text.trim_start_matches(['-', '(', '$', '.']);
    if text.len() - start.len() > 2 || !start.starts_with(|c: char| c.is_ascii_digit()) {
        return 0;
    }
    let sums = |c: char| c.is_ascii_digit() || " .,+-*/^()".contains(c);
    let run = &text[..text.find(|c| !sums(c)).unwrap_or(text.len())];
    let run = run.trim_end_matches([' ', ',', '.', '(', '+', '-', '*', '/', '^']);
    let has_operator = run.chars().skip(1).any(|c| "+-*/^".contains(c));
    let whole = text[run.len()..].starts_with([' ', '.', ',', ':', ')', '$', '\n']);
    if has_operator && (whole || run.len() == text.len()) && read(run).is_some() {
        return run.len();
    }
    // One number: digits, separators of thousands, a point.
    let sign = text.len() - start.len();
    let mut width = 0;
    for (i, c) in start.char_indices() {
        let next_digit = start[i + c.len_utf8()..].starts_with(|c: char| c.is_ascii_digit());
        if !(c.is_ascii_digit() || ((c == '.' || c == ',') && next_digit)) {
            break;
        }
        width = i + 1;
    }
    sign + width
}
