//! Tests of the comparison of mathematics: math_verify's verdicts, and texts that are built to cost.

use super::*;
use serde_json::{Map, Value};
use std::time::{Duration, Instant};

const PAIRS: &str = include_str!("../../../tests/data/rewards/math_pairs.jsonl");

/// Pairs on which strict rules differ from math_verify, and why.
const STRICTER: &[(&str, &str, &str)] = &[];

/// Pairs on which even the rules of math_verify differ: it is wrong there, or depends on its parser.
const ELSEWHERE: &[(&str, &str, &str)] = &[];

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

#[test]
fn what_is_no_mathematics_has_no_verdict() {
    for text in ["", "red", "a cat on a mat", "#", "the answer is 5", "silent 5", "\\foo{1}", "1 2"] {
        assert_eq!(equivalent(text, "5", Rules::Strict), None, "{text}");
        assert_eq!(equivalent("5", text, Rules::Strict), Some(false), "{text}");
    }
}
