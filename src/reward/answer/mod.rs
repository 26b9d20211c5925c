//! What counts as the same answer: where the answer of a completion stands, how text is made
//! comparable, and when two numbers are one. Nothing here is fuzzy: a near miss earns nothing,
//! because whatever a fuzzy comparison accepts, training finds.

pub mod cascade; // number, yes or no, choice, exact, judge
pub mod choice; // letters and texts of a multiple choice
pub mod mllm_evaluator; // what that project's calculator pays
pub mod number; // numbers held exactly
pub mod row; // what a row says about its answer
pub mod vlm_r1; // what VLM-R1's rewards pay
pub mod yes_no; // words for yes and no

pub use cascade::{SameAnswer, Verdict};
pub use number::Number;

use tokenizers::NormalizedString;

/// Text of the answer that a completion commits to, trimmed, or None if it commits to none.
///
/// Only text after the first `</think>` counts (when there is one), so an answer inside the
/// reasoning is not a commitment. Of several `<answer>` blocks the last closed one counts, as in
/// VLM-R1 (`findall(...)[-1]`): exactly one is judged, so listing candidates buys nothing.
pub fn tagged_answer(text: &str) -> Option<&str> {
    let said = text.split_once("</think>").map_or(text, |(_, after)| after);
    let mut end = said.len();
    loop {
        let open = said[..end].rfind("<answer>")?;
        let inner = &said[open + "<answer>".len()..];
        if let Some(close) = inner.find("</answer>") {
            return Some(inner[..close].trim());
        }
        end = open; // an answer that was cut off: the one before it stands
    }
}

/// The reference answer of a row: inside its own `<answer>` tags if it has them, else all of it.
pub fn reference_answer(text: &str) -> &str {
    tagged_answer(text).unwrap_or(text).trim()
}

/// Whether `prediction` says the same as `reference`. An empty prediction never does.
///
/// Both go through [`normalise`]. Two numbers are compared as numbers, exactly: `2`, `2.0`, `+2`,
/// `two`, `4/2` are one; `1,000` is `1000`; `0.333` is not `1/3`; `50%` is text and equals only
/// `50%`.
pub fn same_answer(prediction: &str, reference: &str) -> bool {
    let (p, r) = (normalise(prediction), normalise(reference));
    if r.is_empty() {
        // A reference of punctuation only ("?"): nothing is left to compare but the text itself.
        return !reference.trim().is_empty() && prediction.trim() == reference.trim();
    }
    if p == r {
        return true;
    }
    match (Number::parse(&p), Number::parse(&r)) {
        (Some(a), Some(b)) => a == b,
        _ => false,
    }
}

/// Makes two spellings of one answer equal: NFKC and lower case, one kind of quote and dash, no
/// invisible characters, single spaces, no closing punctuation, no wrapping (quotes, Markdown
/// emphasis, `$...$`, `\boxed{...}`, `\text{...}`, parentheses around one word) and no leading
/// article, unless the article is all there is (choice "A").
pub fn normalise(text: &str) -> String {
    let folded = fold_characters(text);
    let s = undressed(&folded);
    for article in ["a ", "an ", "the "] {
        // "A B" are two letters, not a B.
        if let Some(rest) = s.strip_prefix(article)
            && rest.chars().nth(1).is_some()
        {
            return rest.to_string();
        }
    }
    s.to_string()
}

/// A folded text without closing punctuation and wrapping.
pub(crate) fn undressed(folded: &str) -> &str {
    let mut s = folded;
    loop {
        let before = s.len();
        s = strip_end(s.trim());
        s = strip_wrapping(s);
        if s.len() == before {
            return s;
        }
    }
}

/// NFKC, lower case, unified quotes and dashes, single spaces, nothing invisible.
fn fold_characters(text: &str) -> String {
    fold(text, true)
}

/// The same with letters in the case they were written in: m and M are different units.
pub fn fold_spelling(text: &str) -> String {
    fold(text, false)
}

fn fold(text: &str, lower: bool) -> String {
    let mut pre = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            // NFKC would make 5² into 52 and 1½ into 11/2: keep exponent and mixed number apart.
            '\u{b2}' | '\u{b3}' | '\u{b9}' | '\u{2070}' | '\u{2074}'..='\u{2079}' => {
                pre.push('^');
                pre.push(c);
            }
            '\u{bc}'..='\u{be}' | '\u{2150}'..='\u{215f}' | '\u{2189}' => {
                pre.push(' ');
                pre.push(c);
            }
            // Zero-width and directional marks, soft hyphen, byte order mark.
            '\u{ad}'
            | '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{2064}'
            | '\u{feff}' => {}
            _ => pre.push(c),
        }
    }
    // Lower case can undo the composed form ("İ"), so NFKC runs on both sides of it.
    let once = NormalizedString::from(pre).nfkc().get().to_string();
    let once = if lower { once.to_lowercase() } else { once };
    let mut twice = NormalizedString::from(once);
    twice.nfkc();
    let mut out = String::with_capacity(text.len());
    for c in twice.get().chars() {
        let c = match c {
            '\u{2018}' | '\u{2019}' | '\u{2bc}' => '\'',
            '\u{201c}' | '\u{201d}' | '\u{ab}' | '\u{bb}' => '"',
            '\u{2010}'..='\u{2015}' | '\u{2212}' => '-',
            '\u{2044}' => '/',
            c if c.is_whitespace() || c.is_control() => ' ',
            c => c,
        };
        if c != ' ' || !(out.is_empty() || out.ends_with(' ')) {
            out.push(c);
        }
    }
    out
}

/// Removes punctuation that ends a sentence, and the parenthesis of "a)".
fn strip_end(s: &str) -> &str {
    let Some(last) = s.chars().next_back() else { return s };
    let rest = &s[..s.len() - last.len_utf8()];
    match last {
        '.' | ',' | ';' | ':' | '?' | '\u{3002}' | '\u{3001}' => rest,
        // 5! is not 5.
        '!' if !rest.ends_with(|c: char| c.is_alphanumeric() && !c.is_alphabetic()) => rest,
        ')' if rest.chars().count() == 1 && rest.chars().all(char::is_alphanumeric) => rest,
        _ => s,
    }
}

/// Removes one pair of marks around the whole text.
fn strip_wrapping(s: &str) -> &str {
    const PAIRS: [(&str, &str); 9] = [
        ("\"", "\""),
        ("'", "'"),
        ("`", "`"),
        ("**", "**"),
        ("*", "*"),
        ("_", "_"),
        ("$", "$"),
        ("\\boxed{", "}"),
        ("\\text{", "}"),
    ];
    for (open, close) in PAIRS {
        let inner = s.strip_prefix(open).and_then(|t| t.strip_suffix(close));
        // `"a" or "b"` is not wrapped: the marks must not occur again inside. Braces may nest.
        if let Some(inner) = inner
            && ((close == "}" && braces_balance(inner)) || !inner.contains(close))
        {
            return inner;
        }
    }
    // (1, 2) and [1, 2] are different answers, (a) and a are not.
    for (open, close) in [("(", ")"), ("[", "]")] {
        let inner = s.strip_prefix(open).and_then(|t| t.strip_suffix(close));
        if let Some(inner) = inner
            && !inner.is_empty()
            && inner.chars().all(char::is_alphanumeric)
        {
            return inner;
        }
    }
    s
}

fn braces_balance(s: &str) -> bool {
    let mut depth = 0i32;
    for c in s.chars() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        if depth < 0 {
            return false;
        }
    }
    depth == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_found_where_they_are_committed_to() {
        for (text, want) in [
            ("<answer> yes </answer>", Some("yes")),
            ("<think>x</think><answer>a\nb</answer>", Some("a\nb")),
            ("<answer>a</answer><answer>b</answer>", Some("b")),
            ("<answer>a</answer><answer>b", Some("a")),
            ("<answer>a</answer></answer>", Some("a")),
            ("<answer><answer>a</answer>", Some("a")),
            ("<answer></answer>", Some("")),
            ("<think><answer>a</answer></think>", None),
            ("<think>t</think>a", None),
            ("<answer>a", None),
            ("</answer>a<answer>", None),
            ("<ANSWER>a</ANSWER>", None),
            ("", None),
        ] {
            assert_eq!(tagged_answer(text), want, "{text}");
        }
    }

    #[test]
    fn normalise_is_idempotent_on_odd_text() {
        for text in ["The  “Red”  Ball.", "**A.**", "\\boxed{\\text{Cat}}", "a", "(a)", "İstanbul!"]
        {
            let once = normalise(text);
            assert_eq!(normalise(&once), once, "{text}");
        }
        assert_eq!(normalise("The  “Red”  Ball."), "\"red\" ball");
        assert_eq!(normalise("\\boxed{\\text{Cat}}"), "cat");
    }
}
