//! Tests of `accuracy`: its table, its methods, rows that cannot be read, and who asks the judge.

use super::*;
use crate::reward::builtin::answer_table::check;
use crate::reward::test_sample;
use serde_json::{Map, json};
use std::sync::Mutex;

const TABLE: &str = include_str!("../../../../tests/data/rewards/accuracy.jsonl");
const TRL: &str = include_str!("../../../../tests/data/rewards/accuracy_trl.jsonl");

/// Says what it was told to, and remembers what it was asked.
struct Scripted(Option<bool>, Mutex<Vec<String>>);

impl SameAnswer for Scripted {
    fn same_answer(&self, q: &str, reference: &str, answer: &str) -> Result<Option<bool>> {
        self.1.lock().unwrap().push(format!("{q}|{reference}|{answer}"));
        Ok(self.0)
    }
}

fn settings(method: &str) -> RewardSettings {
    RewardSettings { accuracy_method: method.into(), ..RewardSettings::default() }
}

fn columns(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

#[test]
fn adversarial_table() {
    check(TABLE, &|settings| Ok(Box::new(Accuracy::judged(settings, None)?)), 100);
}

#[test]
fn equals_trl() {
    let mut wrong = Vec::new();
    for line in TRL.lines() {
        let row: Map<String, Value> = serde_json::from_str(line).unwrap();
        let text = |k: &str| row[k].as_str().unwrap();
        let got = trl_accuracy(text("completion"), text("answer"));
        if got != row["score"].as_f64() {
            wrong.push(format!("{line}: ours {got:?}"));
        }
    }
    assert!(TRL.lines().count() >= 30);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn without_the_tag_rule_the_whole_completion_counts() {
    let none = Map::new();
    let lax = RewardSettings { answer_tag: false, ..RewardSettings::default() };
    let lax = Accuracy::judged(&lax, None).unwrap();
    let score = |said| lax.score_one(&test_sample(said, "red", &[], &none)).unwrap();
    assert_eq!(score("Red."), Some(1.0));
    assert_eq!(score("blue <answer>red</answer>"), Some(1.0));
    assert_eq!(score("it is red"), Some(0.0));
}

#[test]
fn a_row_chooses_its_method() {
    let reward = Accuracy::judged(&settings("exact"), None).unwrap();
    let score = |said: &str, answer: &str, row: Value| {
        let row = columns(row);
        reward.score_one(&test_sample(&format!("<answer>{said}</answer>"), answer, &[], &row))
    };
    assert_eq!(score("2/4", "\\frac{1}{2}", json!({})).unwrap(), Some(1.0));
    assert_eq!(score("x+1", "1+x", json!({})).unwrap(), Some(0.0));
    assert_eq!(score("x+1", "1+x", json!({"accu_reward_method": "math"})).unwrap(), Some(1.0));
    assert_eq!(score("x+1", "1+x", json!({"accu_reward_method": null})).unwrap(), Some(0.0));
    let yes = json!({"accu_reward_method": "yes_no"});
    assert_eq!(score("yes", "maybe", yes).unwrap(), None);
    let method = score("x", "x", json!({"accu_reward_method": "maths"})).unwrap_err().one_line();
    assert!(method.contains("`maths`") && method.contains("weighted_sum, yes_no"), "{method}");
    assert!(score("x", "x", json!({"accu_reward_method": 3})).is_err());
    assert!(score("x", "x", json!({"accu_reward_method": "llm"})).is_err());
    assert_eq!(Accuracy::judged(&settings("maths"), None).unwrap_err().exit_code(), 2);
    assert_eq!(Accuracy::judged(&settings("llm"), None).unwrap_err().exit_code(), 2);
    assert!(METHODS.windows(2).all(|w| w[0].name < w[1].name), "keep the table sorted");
}

#[test]
fn columns_that_cannot_be_read_cost_their_sample() {
    let reward = Accuracy::judged(&settings("default"), None).unwrap();
    for row in [
        json!({"precision": "two"}),
        json!({"precision": -1}),
        json!({"precision": 1.5}),
        json!({"precision": 1e30}),
        json!({"tolerance": -1}),
        json!({"tolerance": "some"}),
        json!({"tolerance": [1]}),
        json!({"answer_type": 3}),
    ] {
        let row = columns(row);
        let result = reward.score_one(&test_sample("<answer>1</answer>", "1", &[], &row));
        assert!(result.is_err(), "{row:?}");
    }
}

#[test]
fn the_judge_is_asked_about_free_text_only() {
    let judge = Arc::new(Scripted(Some(true), Mutex::default()));
    let reward = Accuracy::judged(&settings("default"), Some(judge.clone())).unwrap();
    let none = Map::new();
    let score = |said: &str, answer: &str| {
        let said = format!("<answer>{said}</answer>");
        let mut sample = test_sample(&said, answer, &[], &none);
        sample.prompt = "What?";
        reward.score_one(&sample).unwrap()
    };
    assert_eq!(score("a large dog", "the big dog"), Some(1.0));
    assert_eq!(*judge.1.lock().unwrap(), ["What?|the big dog|a large dog"]);
    for (said, answer) in [
        ("", "the big dog"),
        ("dog", "cat"),
        ("5 or 6", "5"),
        ("three big dogs 4", "three big dogs 3"),
        ("yes it is", "yes"),
        ("A) red", "B) red"),
        (&"dog ".repeat(60), "the big dog"),
    ] {
        assert_eq!(score(said, answer), Some(0.0), "{said}");
    }
    assert_eq!(score("the big dog", "The big dog."), Some(1.0));
    assert_eq!(judge.1.lock().unwrap().len(), 1, "rules decide the rest");
    let silent =
        Accuracy::judged(&settings("llm"), Some(Arc::new(Scripted(None, Mutex::default()))));
    let sample = test_sample("<answer>cat</answer>", "dog", &[], &none);
    assert_eq!(silent.unwrap().score_one(&sample).unwrap(), None);
}
