//! What counts as the same answer: where the answer of a completion stands, how text is made
//! comparable, and when two numbers are one. Nothing here is fuzzy: a near miss earns nothing,
//! because whatever a fuzzy comparison accepts, training finds.

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
    let mut s = folded.as_str();
    loop {
        let before = s.len();
        s = strip_end(s.trim());
        s = strip_wrapping(s);
        if s.len() == before {
            break;
        }
    }
    for article in ["a ", "an ", "the "] {
        if let Some(rest) = s.strip_prefix(article) {
            return rest.to_string();
        }
    }
    s.to_string()
}

/// NFKC, lower case, unified quotes and dashes, single spaces, nothing invisible.
fn fold_characters(text: &str) -> String {
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
    let once = NormalizedString::from(pre).nfkc().get().to_lowercase();
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

/// A number held exactly: digits and a power of ten, or a reduced ratio that has no finite decimal
/// form. Floats would make 10000000000000001 equal to 10000000000000000.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Number {
    /// `(-1)^negative * digits * 10^exponent`; digits without leading or trailing zeros, empty for 0.
    Decimal { negative: bool, digits: String, exponent: i64 },
    /// `(-1)^negative * numerator / denominator`, reduced.
    Ratio { negative: bool, numerator: u64, denominator: u64 },
}

/// Whole answers that are numbers in words (the list of the VQA metric, continued to twenty).
const NUMBER_WORDS: [&str; 21] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
];

impl Number {
    /// The number that a normalised answer is: decimal with optional sign, thousands separators
    /// and exponent, `a/b`, `\frac{a}{b}`, or a number word up to twenty. None for anything else.
    pub fn parse(s: &str) -> Option<Number> {
        if let Some(n) = NUMBER_WORDS.iter().position(|w| *w == s) {
            return Number::decimal(&n.to_string());
        }
        let ratio = s
            .strip_prefix("\\frac{")
            .and_then(|t| t.strip_suffix('}'))
            .and_then(|t| t.split_once("}{"))
            .or_else(|| s.split_once('/'));
        match ratio {
            Some((a, b)) => Number::ratio(a.trim(), b.trim()),
            None => Number::decimal(s),
        }
    }

    fn ratio(a: &str, b: &str) -> Option<Number> {
        let (negative, a) = match a.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, a),
        };
        let plain = |t: &str| t.bytes().all(|c| c.is_ascii_digit()).then(|| t.parse::<u64>().ok());
        let (a, b) = (plain(a)??, plain(b)??);
        if b == 0 {
            return None;
        }
        let g = gcd(a, b);
        let (a, b) = (a / g, b / g);
        // 10^shift divides out a denominator of twos and fives: the ratio is then a decimal.
        let (mut rest, mut shift) = (b, 0u32);
        while rest % 10 == 0 {
            rest /= 10;
            shift += 1;
        }
        let prime = if rest % 2 == 0 { 2 } else { 5 };
        let mut scale = 1u128;
        while rest % prime == 0 {
            rest /= prime;
            shift += 1;
            scale *= u128::from(10 / prime);
        }
        if rest != 1 {
            return Some(Number::Ratio { negative, numerator: a, denominator: b });
        }
        let digits = u128::from(a).checked_mul(scale)?.to_string();
        Some(Number::canonical(negative, &digits, -i64::from(shift)))
    }

    fn decimal(s: &str) -> Option<Number> {
        let (negative, s) = match s.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, s.strip_prefix('+').unwrap_or(s)),
        };
        let (mantissa, exponent) = match s.split_once('e') {
            // Six digits of exponent are plenty; more must not overflow the sum below.
            Some((m, e)) if e.len() <= 6 => (m, e.parse::<i64>().ok()?),
            Some(_) => return None,
            None => (s, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let whole = ungroup(whole)?;
        let digits_only = |t: &str| t.bytes().all(|c| c.is_ascii_digit());
        if !digits_only(&whole) || !digits_only(fraction) || whole.len() + fraction.len() == 0 {
            return None;
        }
        let exponent = exponent - fraction.len() as i64;
        Some(Number::canonical(negative, &(whole + fraction), exponent))
    }

    fn canonical(negative: bool, digits: &str, exponent: i64) -> Number {
        let front = digits.trim_start_matches('0');
        let both = front.trim_end_matches('0');
        if both.is_empty() {
            return Number::Decimal { negative: false, digits: String::new(), exponent: 0 };
        }
        let exponent = exponent + (front.len() - both.len()) as i64;
        Number::Decimal { negative, digits: both.to_string(), exponent }
    }
}

/// `1,234,567` without its commas; None if commas stand anywhere but between groups of three.
fn ungroup(s: &str) -> Option<String> {
    let mut groups = s.split(',');
    let first = groups.next()?.to_string();
    if s.contains(',') && !(1..=3).contains(&first.len()) {
        return None;
    }
    groups.try_fold(first, |all, g| (g.len() == 3).then(|| all + g))
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a.max(1) } else { gcd(b, a % b) }
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
    fn numbers_are_exact() {
        let same = |a, b| Number::parse(a).is_some() && Number::parse(a) == Number::parse(b);
        for (a, b) in [
            ("2", "2.0"),
            ("+2", "2"),
            ("-0", "0"),
            ("1e3", "1000"),
            ("1,234,567", "1234567"),
            ("1/2", "0.5"),
            ("-3/6", "-.5"),
            ("\\frac{1}{3}", "2/6"),
            ("7/40", "0.175"),
            ("12/4", "3"),
            ("0/7", "0"),
            ("seven", "07"),
            ("1.50e-2", "0.015"),
            ("3/1000", "0.003"),
        ] {
            assert!(same(a, b), "{a} {b} {:?} {:?}", Number::parse(a), Number::parse(b));
        }
        for (a, b) in [
            ("10000000000000001", "10000000000000000"),
            ("0.333", "1/3"),
            ("1", "-1"),
            ("1/3", "-1/3"),
        ] {
            assert!(!same(a, b), "{a} {b}");
        }
        for text in [
            "",
            "-",
            ".",
            "e",
            "1e",
            "1e9999999",
            "1/0",
            "1/",
            "12,34",
            ",123",
            "1,2345",
            "nan",
            "inf",
            "0x10",
            "1 2",
            "--1",
            "1/2/3",
            "50%",
            "99999999999999999999/3",
            "+/2",
            "1/+2",
        ] {
            assert_eq!(Number::parse(text), None, "{text}");
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
