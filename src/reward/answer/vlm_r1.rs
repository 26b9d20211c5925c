//! What VLM-R1's accuracy rewards pay (`open_r1/grpo_jsonl.py`, `open_r1/utils/math.py`), holes and
//! all, for comparison: a near miss in text earns its Levenshtein ratio, "nothing" contains "no".
//! Never used unless `--reward_compat vlm_r1` asks for it.

use crate::reward::math::{Rules, extract, same};

/// The last `<answer>` block trimmed, else the whole text trimmed.
fn last_answer(text: &str) -> &str {
    let found = text.rfind("</answer>").and_then(|end| {
        let before = &text[..end];
        // Blocks are found from the left: the last one opens at the first tag behind the block before.
        let from = before.rfind("</answer>").map_or(0, |e| e + "</answer>".len());
        let open = before[from..].find("<answer>")?;
        Some(&before[from + open + "<answer>".len()..])
    });
    found.unwrap_or(text).trim()
}

/// The first `<answer>` block trimmed, else the whole text trimmed. `one_line`: a block with a line
/// end inside is none.
fn first_answer(text: &str, one_line: bool) -> &str {
    let inside = text.split_once("<answer>").and_then(|(_, rest)| rest.split_once("</answer>"));
    inside
        .map(|(inside, _)| inside)
        .filter(|i| !one_line || !i.contains('\n'))
        .unwrap_or(text)
        .trim()
}

/// `default`: math_verify, then numbers, a letter or the Levenshtein ratio.
pub fn default_accuracy(completion: &str, reference: &str) -> f64 {
    let wanted = first_answer(reference, true);
    let said = last_answer(completion);
    // The original hands the answer over as the gold one.
    if verified(said, wanted) {
        return 1.0;
    }
    let texts = || ratio(&cleaned(said), &cleaned(wanted));
    if wanted.chars().any(char::is_numeric) {
        return numeric(said, wanted).unwrap_or_else(texts);
    }
    match extract_choice(wanted) {
        Some(wanted) => extract_choice(said).map_or(0.0, |c| f64::from(c == wanted)),
        None => texts(),
    }
}

/// `math`: equal texts, math_verify, or equal after the clean-up of the MATH benchmark.
pub fn math(completion: &str, reference: &str) -> f64 {
    let (said, wanted) = (cleaned(completion), cleaned(reference));
    if said == wanted || verified(&said, &wanted) {
        return 1.0;
    }
    let boxed = extract::boxes(&said);
    f64::from(benchmark_text(boxed.as_deref().unwrap_or(&said)) == benchmark_text(&wanted))
}

/// `mcq`: the letters that both texts seem to choose.
pub fn mcq(completion: &str, reference: &str) -> f64 {
    let wanted = extract_choice(first_answer(reference, true));
    let said = extract_choice(first_answer(completion, false));
    match (said, wanted) {
        (Some(said), Some(wanted)) => f64::from(said == wanted),
        (Some(said), None) => f64::from(reference.trim() == said.to_string()),
        (None, _) => 0.0,
    }
}

/// `yes_no`: the first "yes" or "no" inside any word; neither in both is right too.
pub fn yes_no(completion: &str, reference: &str) -> f64 {
    let (completion, reference) = (completion.to_lowercase(), reference.to_lowercase());
    let first = |t: &str| {
        let places = [t.find("yes").map(|i| (i, true)), t.find("no").map(|i| (i, false))];
        places.into_iter().flatten().min().map(|(_, yes)| yes)
    };
    let wanted = first(first_answer(&reference, true));
    f64::from(first(first_answer(&completion, false)) == wanted)
}

/// `all_match`: equal after `cleaned`.
pub fn all_match(completion: &str, reference: &str) -> f64 {
    f64::from(cleaned(completion) == cleaned(reference))
}

/// math_verify of what its parser finds in both texts.
fn verified(said: &str, wanted: &str) -> bool {
    let formulas = extract::formula(said, false).zip(extract::formula(wanted, false));
    let Some((a, b)) = formulas else { return false };
    if !a.trim().is_empty() && a.trim() == b.trim() {
        return true;
    }
    let nodes = extract::node(said, false).zip(extract::node(wanted, false));
    nodes.is_some_and(|(a, b)| same(&a, &b, Rules::MathVerify))
}

/// Inside of the last block, line ends as spaces, no full stop at the end, lower case.
fn cleaned(text: &str) -> String {
    let closed = text.contains("</answer>") && text.contains("<answer>");
    let text = if closed { last_inside(text) } else { text };
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '\n' | '\r' if out.ends_with(char::is_whitespace) => {}
            '\n' | '\r' => out.push(' '),
            c => out.push(c),
        }
    }
    out.trim().trim_end_matches('.').to_lowercase()
}

fn last_inside(text: &str) -> &str {
    let trimmed = last_answer(text);
    if trimmed.len() == text.trim().len() { text } else { trimmed }
}

fn numeric(said: &str, wanted: &str) -> Option<f64> {
    let number = |t: &str| cleaned(t).trim().parse::<f64>().ok();
    let (said, wanted) = (number(said)?, number(wanted)?);
    Some(f64::from(said == wanted))
}

/// The letter that a text seems to choose: one that stands before punctuation or the end and behind no
/// letter; of several the one with the most telling surroundings.
fn extract_choice(text: &str) -> Option<char> {
    let upper = text.to_uppercase();
    let mut t: Vec<char> = Vec::new();
    for c in upper.chars() {
        match c {
            c if !c.is_whitespace() => t.push(c),
            _ if t.last() == Some(&' ') => {}
            _ => t.push(' '),
        }
    }
    let stops = |i: usize| t.get(i).is_none_or(|c| ".,?!:;".contains(*c));
    let free = |i: usize| i == 0 || !t[i - 1].is_ascii_uppercase();
    let stands = |i: &usize| t[*i].is_ascii_uppercase() && free(*i) && stops(i + 1);
    let found: Vec<char> = (0..t.len()).filter(stands).map(|i| t[i]).collect();
    if found.len() < 2 {
        return found.first().copied();
    }
    let mut best: Option<(char, usize)> = None;
    for letter in found {
        let points = telling(&t, letter);
        if best.is_none_or(|(_, most)| points > most) {
            best = Some((letter, points));
        }
    }
    best.map(|(letter, _)| letter)
}

/// Points of a letter by the surroundings of its first occurrence anywhere.
fn telling(t: &[char], letter: char) -> usize {
    const WORDS: [&str; 16] = [
        "答案", "选择", "正确", "是", "对", "ANSWER", "CORRECT", "CHOOSE", "SELECT", "RIGHT",
        "认为", "应该", "觉得", "THINK", "BELIEVE", "SHOULD",
    ];
    let Some(at) = t.iter().position(|c| *c == letter) else { return 0 };
    let around: String = t[at.saturating_sub(20)..t.len().min(at + 20)].iter().collect();
    let words = WORDS.iter().filter(|w| around.contains(**w)).count();
    let late = if at as f64 > t.len() as f64 * 0.7 { 2 } else { 0 };
    let stop = t.get(at + 1).is_some_and(|c| "。.!！,，".contains(*c));
    words + late + usize::from(stop)
}

/// `Levenshtein.ratio`: twice the longest common subsequence over both lengths.
fn ratio(a: &str, b: &str) -> f64 {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.is_empty() && b.is_empty() {
        return 1.0;
    }
    let mut row = vec![0usize; b.len() + 1];
    for x in &a {
        let mut before = 0;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if x == y { before + 1 } else { row[j].max(above) };
            before = above;
        }
    }
    2.0 * row[b.len()] as f64 / (a.len() + b.len()) as f64
}

/// A text as the MATH benchmark compares it: no spaces, sizes, degrees, dollars, per cent or trailing
/// unit; `\frac12` and `1/2` in full; a short left side of an equation dropped.
fn benchmark_text(text: &str) -> String {
    let mut s = text.replace('\n', "");
    for (from, to) in [
        ("\\!", ""),
        ("\\\\", "\\"),
        ("tfrac", "frac"),
        ("dfrac", "frac"),
        ("\\left", ""),
        ("\\right", ""),
        ("^{\\circ}", ""),
        ("^\\circ", ""),
        ("\\$", ""),
    ] {
        s = s.replace(from, to);
    }
    if let Some((number, _)) = s.split_once("\\text{ ") {
        s = number.to_string();
    }
    s = s.replace("\\%", "").replace(" .", " 0.").replace("{.", "{0.");
    if s.starts_with('.') {
        s.insert(0, '0');
    }
    if s.matches('=').count() == 1
        && let Some((left, right)) = s.split_once('=')
        && left.chars().count() <= 2
    {
        s = right.to_string();
    }
    let s = braced_arguments(&s.replace(' ', ""));
    match s.as_str() {
        "0.5" => "\\frac{1}{2}".into(),
        _ => whole_fraction(&s).unwrap_or(s),
    }
}

/// `\sqrt3` and `\frac12` with braces.
fn braced_arguments(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("\\sqrt").into_iter().chain(rest.find("\\frac")).min() {
        let arguments = if rest[at..].starts_with("\\sqrt") { 1 } else { 2 };
        out += &rest[..at + 5];
        rest = &rest[at + 5..];
        for _ in 0..arguments {
            let Some(c) = rest.chars().next().filter(|c| *c != '{') else { break };
            out = format!("{out}{{{c}}}");
            rest = &rest[c.len_utf8()..];
        }
    }
    out + rest
}

/// `a/b` of two integers as a fraction.
fn whole_fraction(text: &str) -> Option<String> {
    let (a, b) = text.split_once('/')?;
    let whole = |t: &str| t.parse::<i64>().is_ok_and(|n| n.to_string() == t);
    (whole(a) && whole(b)).then(|| format!("\\frac{{{a}}}{{{b}}}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Map, Value};

    const GOLDEN: &str = include_str!("../../../tests/data/rewards/accuracy_vlm_r1.jsonl");
    type Method = fn(&str, &str) -> f64;

    #[test]
    fn equals_the_original() {
        let methods: [(&str, Method); 4] =
            [("default", default_accuracy), ("mcq", mcq), ("yes_no", yes_no), ("math", math)];
        let mut wrong = Vec::new();
        for line in GOLDEN.lines() {
            let row: Map<String, Value> = serde_json::from_str(line).unwrap();
            let text = |k: &str| row[k].as_str().unwrap();
            let said = format!("<think>t</think>\n<answer>{}</answer>", text("said"));
            for (name, method) in methods {
                let (got, want) = (method(&said, text("answer")), row[name].as_f64().unwrap());
                if (got - want).abs() > 1e-12 {
                    wrong.push(format!("{name} {line}: ours {got}"));
                }
            }
        }
        assert!(GOLDEN.lines().count() >= 80);
        assert!(wrong.is_empty(), "{} differ\n{}", wrong.len(), wrong.join("\n"));
    }
}
