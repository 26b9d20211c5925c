//! Tests of the comparison of mathematics: math_verify's verdicts, and texts that are built to cost.

use super::*;
use serde_json::{Map, Value};
use std::time::{Duration, Instant};

const PAIRS: &str = include_str!("../../../tests/data/rewards/math_pairs.jsonl");

/// Pairs on which strict rules differ from math_verify, and why.
const STRICTER: &[(&str, &str, &str)] = &[
    ("\\frac{1}{3}", "0.333333", "an exact reference asks for an exact answer"),
    ("\\frac{1}{3}", "0.3333333333", "an exact reference asks for an exact answer"),
    ("\\sqrt{2}", "1.414214", "an exact reference asks for an exact answer"),
    ("\\pi", "3.141593", "an exact reference asks for an exact answer"),
    ("x+y=1", "1", "x + y is no name of a value"),
    ("\\{1,2,3\\}", "(1,2,3)", "a tuple is no set"),
    ("50", "50\\%", "50% is 1/2"),
    ("9.5\\%", "9.5", "the unit of the reference may be left out, also behind a decimal"),
    ("5\\text{ cm}", "5\\text{ m}", "another unit"),
    ("5", "5\\text{ apples}", "words that are no unit could say anything"),
];

/// Pairs on which even the rules of math_verify differ: it is wrong there, or depends on its parser.
const ELSEWHERE: &[(&str, &str, &str)] = &[
    ("1000", "1\\,000", "a thin space between thousands"),
    ("6.02\\times 10^{23}", "602\\times 10^{21}", "equal; lost in its rounding"),
    ("\\sqrt{2}", "2^{0.5}", "equal; lost in its rounding"),
    ("x", "x+0", "equal; a lone symbol is compared by name there"),
    ("x", "1x", "equal; a lone symbol is compared by name there"),
    ("1<x<2", "2>x>1", "equal; chains are not turned there"),
    ("\\emptyset", "\\varnothing", "equal; another symbol there"),
    ("i", "\\sqrt{-1}", "equal; i is a variable in only one of them there"),
    ("-1", "i^2", "equal; i is a variable there"),
];

fn rows() -> Vec<(String, String, bool)> {
    let row = |line: &str| {
        let row: Map<String, Value> = serde_json::from_str(line).unwrap();
        let text = |k: &str| row[k].as_str().unwrap().to_string();
        (text("gold"), text("said"), row["math_verify"].as_bool().unwrap())
    };
    PAIRS.lines().map(row).collect()
}

fn differences(rules: Rules, listed: &[(&str, &str, &str)]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (gold, said, theirs) in rows() {
        let ours = equivalent(&format!("${gold}$"), &format!("${said}$"), rules);
        let known = listed.iter().any(|(g, s, _)| *g == gold && *s == said);
        if (ours == Some(theirs)) == known {
            wrong.push(format!("({gold:?}, {said:?}): math_verify {theirs}, ours {ours:?}"));
        }
    }
    wrong
}

#[test]
fn verdicts_of_math_verify() {
    assert!(rows().len() >= 250, "the table lost rows");
    let wrong = differences(Rules::MathVerify, ELSEWHERE);
    assert!(wrong.is_empty(), "{} pairs\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn strict_rules_differ_only_where_listed() {
    let listed = [STRICTER, ELSEWHERE].concat();
    let wrong = differences(Rules::Strict, &listed);
    assert!(wrong.is_empty(), "{} pairs\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn texts_built_to_cost_end_at_once() {
    let start = Instant::now();
    let bombs = [
        "5^(5^(5^(5^5)))".to_string(),
        "9^{9^{9^{9}}}".into(),
        "1e400".into(),
        "1e-400".into(),
        "99999999!".into(),
        "(((1+x)^{24}+1)^{24}+1)^{24}".into(),
        "\\sin((\\sin((\\sin(x)+1)^8)+1)^8)".into(),
        format!("{}1{}", "(".repeat(900), ")".repeat(900)),
        format!("{}1{}", "\\frac{1}{".repeat(200), "}".repeat(200)),
        "\\sqrt{".repeat(300),
        vec!["1"; 900].join(","),
        vec!["(a+b)"; 300].join(""),
        vec!["x^{999}"; 200].join("+"),
        format!("{}{}", "\\{1,".repeat(30), "\\}".repeat(30)),
        "170141183460469231731687303715884105728".into(),
        "\\sqrt{170141183460469231731687303715884105727}".into(),
        "\\binom{200}{100}".into(),
    ];
    for bomb in &bombs {
        assert_ne!(equivalent("3", bomb, Rules::Strict), Some(true), "{bomb}");
        assert_ne!(equivalent(bomb, "3", Rules::MathVerify), Some(true), "{bomb}");
        // What is too large is compared as text.
        assert_ne!(equivalent(bomb, bomb, Rules::Strict), Some(false), "{bomb}");
    }
    assert_eq!(equivalent("5^(5^(5^(5^5)))", "5^{5^{5^{5^5}}}", Rules::Strict), Some(false));
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(300))]

    #[test]
    fn any_text_is_read_without_harm(
        pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..24),
        other in proptest::collection::vec(proptest::sample::select(PIECES), 0..6),
    ) {
        let (text, other) = (pieces.concat(), other.concat());
        for rules in [Rules::Strict, Rules::MathVerify] {
            // What is read is itself, and no comparison panics.
            assert_ne!(equivalent(&text, &text, rules), Some(false), "{text}");
            equivalent(&text, &other, rules);
            equivalent(&other, &text, rules);
        }
        extract::formula(&text, false);
        extract::formula(&text, true);
    }
}

/// What random texts are made of.
const PIECES: &[&str] = &[
    "1",
    "2",
    "0",
    "10",
    "x",
    "y",
    "ab",
    "e",
    "i",
    "+",
    "-",
    "*",
    "/",
    "^",
    "_",
    "=",
    "<",
    ">",
    "!",
    "%",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "\\{",
    "\\}",
    "|",
    ",",
    ";",
    " ",
    ".",
    "$",
    "\\frac",
    "\\sqrt",
    "\\pi",
    "\\infty",
    "\\cup",
    "\\pm",
    "\\sin ",
    "\\log_",
    "\\text{cm}",
    "\\boxed{",
    "^\\circ",
    "\\le ",
    " and ",
    "cm",
    "\\binom",
    "\\begin{pmatrix}",
    "\\end{pmatrix}",
    "&",
    "\\\\",
    "½",
    "²",
    "×",
    "√",
    "\\",
    "é",
];

#[test]
fn what_is_no_mathematics_has_no_verdict() {
    for text in ["", "red", "a cat on a mat", "#", "the answer is 5", "silent 5", "\\foo{1}", "1 2"]
    {
        assert_eq!(equivalent(text, "5", Rules::Strict), None, "{text}");
        assert_eq!(equivalent("5", text, Rules::Strict), Some(false), "{text}");
    }
}
