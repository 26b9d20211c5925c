//! From answers to figures: every reward with its interval, pass@k and majority@k, lengths, the same by the
//! values of a column, and comparisons. Pure functions; what they say is in `results.json`.

use super::answers::{Answer, by_row, rows};
use super::paired::{Comparison, compare};
use super::statistics::{Precision, Summary, binary, majority, pass_at_k, summary};
use crate::reward::AnswerFormat;
use crate::reward::answer::normalise;
use crate::reward::completion;
use std::collections::HashMap;

/// Figures of one reward.
#[derive(Debug, Clone, PartialEq)]
pub struct RewardTable {
    /// Its name.
    pub name: String,
    /// Mean and interval.
    pub summary: Summary,
    /// Every score is 0 or 1.
    pub binary: bool,
    /// (k, pass@k, majority@k), for 0/1 rewards.
    pub at_k: Vec<(usize, Summary, Summary)>,
}

/// Figures of one model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelTable {
    /// Its name.
    pub name: String,
    /// Rewards in their order.
    pub rewards: Vec<RewardTable>,
    /// Completions.
    pub samples: usize,
    /// Rows.
    pub rows: usize,
    /// Tokens: mean, and the values below which 50 and 95 of 100 completions are.
    pub length: [f64; 3],
    /// Share of completions cut off, 0 or 1 each.
    pub truncated: Summary,
    /// By column: each value with its rows and their rewards.
    pub groups: Vec<(String, Vec<Group>)>,
}

/// Rows with one value of a column.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// The value, as text.
    pub value: String,
    /// Rows.
    pub rows: usize,
    /// Mean and interval of each reward.
    pub rewards: Vec<Summary>,
}

/// How tables are made.
#[derive(Debug, Clone)]
pub struct Making<'a> {
    /// Names of the rewards.
    pub rewards: &'a [String],
    /// Intervals and draws.
    pub precision: Precision,
    /// The k of pass@k.
    pub at_k: &'a [usize],
    /// Where completions have their answers.
    pub format: AnswerFormat,
    /// Columns, each with the value of every row (rows are counted from 1).
    pub columns: &'a [(String, Vec<String>)],
}

/// The figures of a model's answers.
pub fn model(name: &str, answers: &[Answer], m: &Making) -> ModelTable {
    let mut lengths: Vec<usize> = answers.iter().map(|a| a.tokens).collect();
    lengths.sort_unstable();
    let at = |q: f64| match lengths.len() {
        0 => f64::NAN,
        n => lengths[((q * n as f64).ceil() as usize).clamp(1, n) - 1] as f64,
    };
    let mean = lengths.iter().sum::<usize>() as f64 / lengths.len() as f64;
    let cut: Vec<Vec<f64>> = rows(answers)
        .map(|row| row.iter().map(|a| f64::from(u8::from(a.truncated))).collect())
        .collect();
    ModelTable {
        name: name.into(),
        rewards: m.rewards.iter().map(|r| reward(r, answers, m)).collect(),
        samples: answers.len(),
        rows: cut.len(),
        length: [mean, at(0.5), at(0.95)],
        truncated: summary(&cut, m.precision),
        groups: m
            .columns
            .iter()
            .map(|(c, values)| (c.clone(), groups(answers, values, m)))
            .collect(),
    }
}

fn reward(name: &str, answers: &[Answer], m: &Making) -> RewardTable {
    let scores = by_row(answers, name);
    let binary = binary(&scores);
    let at_k = match binary {
        true => m.at_k.iter().map(|k| at_k(name, answers, *k, m)).collect(),
        false => Vec::new(),
    };
    RewardTable { name: name.into(), summary: summary(&scores, m.precision), binary, at_k }
}

/// pass@k from all samples of a row, majority@k from the first k. Rows with fewer judged samples are
/// left out.
fn at_k(name: &str, answers: &[Answer], k: usize, m: &Making) -> (usize, Summary, Summary) {
    let (mut pass, mut vote) = (Vec::new(), Vec::new());
    for row in rows(answers) {
        let judged: Vec<f64> = row.iter().filter_map(|a| a.score(name)).collect();
        if judged.len() >= k {
            let right = judged.iter().filter(|s| **s == 1.0).count();
            pass.push(vec![pass_at_k(judged.len(), right, k)]);
        }
        if row.len() >= k {
            let said: Vec<Option<String>> =
                row[..k].iter().map(|a| said(&a.completion, m.format)).collect();
            let scores: Vec<Option<f64>> = row[..k].iter().map(|a| a.score(name)).collect();
            vote.push(majority(&said, &scores).into_iter().collect());
        }
    }
    (k, summary(&pass, m.precision), summary(&vote, m.precision))
}

/// The answer that a completion commits to, as votes count it; without any form, the whole completion.
fn said(text: &str, format: AnswerFormat) -> Option<String> {
    let answer = completion::answer(text, format);
    let said = normalise(answer.as_deref().unwrap_or(text));
    (!said.is_empty()).then_some(said)
}

/// Values of a column, the most frequent first.
fn groups(answers: &[Answer], values: &[String], m: &Making) -> Vec<Group> {
    let mut found: Vec<(&str, Vec<Answer>)> = Vec::new();
    for row in rows(answers) {
        let Some(value) = row[0].row.checked_sub(1).and_then(|i| values.get(i)) else { continue };
        match found.iter_mut().find(|(v, _)| v == value) {
            Some((_, list)) => list.extend_from_slice(row),
            None => found.push((value, row.to_vec())),
        }
    }
    let mut all: Vec<Group> = found
        .into_iter()
        .map(|(value, list)| Group {
            value: value.into(),
            rows: rows(&list).count(),
            rewards: m.rewards.iter().map(|r| summary(&by_row(&list, r), m.precision)).collect(),
        })
        .collect();
    all.sort_by(|a, b| b.rows.cmp(&a.rows).then_with(|| a.value.cmp(&b.value)));
    all
}

/// How one model's rows compare with another's.
#[derive(Debug, Clone, PartialEq)]
pub struct Versus {
    /// Names of the two.
    pub models: [String; 2],
    /// One comparison for each reward that both have.
    pub rewards: Vec<(String, Comparison)>,
    /// Rows of the second whose mean score by the first reward is another, with the scores of both.
    pub changed: Vec<(usize, f64, f64)>,
    /// Rows that only one of the two has answers to.
    pub unpaired: usize,
}

/// Compares two models on the rows that both answered.
pub fn versus(before: (&str, &[Answer]), after: (&str, &[Answer]), m: &Making) -> Versus {
    let mean = |row: &[Answer], reward: &str| {
        let scores: Vec<f64> = row.iter().filter_map(|a| a.score(reward)).collect();
        (!scores.is_empty()).then(|| scores.iter().sum::<f64>() / scores.len() as f64)
    };
    // Rows that say the same are paired in their order.
    let mut first: HashMap<_, Vec<&[Answer]>> = HashMap::new();
    for row in rows(before.1) {
        first.entry(row[0].key()).or_default().push(row);
    }
    first.values_mut().for_each(|list| list.reverse());
    let (mut pairs, mut unpaired) = (Vec::new(), 0);
    for row in rows(after.1) {
        match first.get_mut(&row[0].key()).and_then(Vec::pop) {
            Some(old) => pairs.push((old, row)),
            None => unpaired += 1,
        }
    }
    unpaired += first.values().map(Vec::len).sum::<usize>();
    let mut out = Versus {
        models: [before.0.into(), after.0.into()],
        rewards: Vec::new(),
        changed: Vec::new(),
        unpaired,
    };
    for (number, reward) in m.rewards.iter().enumerate() {
        let both =
            pairs.iter().filter_map(|(a, b)| Some((b[0].row, mean(a, reward)?, mean(b, reward)?)));
        let both: Vec<(usize, f64, f64)> = both.collect();
        if both.is_empty() {
            continue;
        }
        let scores: Vec<(f64, f64)> = both.iter().map(|(_, a, b)| (*a, *b)).collect();
        out.rewards.push((reward.clone(), compare(&scores, m.precision)));
        if number == 0 {
            out.changed = both.into_iter().filter(|(_, a, b)| a != b).collect();
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(row: usize, id: &str, text: &str, score: Option<f64>) -> Answer {
        Answer {
            model: String::new(),
            row,
            id: id.into(),
            question: "q".into(),
            reference: "r".into(),
            completion: text.into(),
            tokens: text.len(),
            truncated: row == 1,
            rewards: vec![("exact".into(), score)],
        }
    }
    fn making<'a>(rewards: &'a [String], columns: &'a [(String, Vec<String>)]) -> Making<'a> {
        Making {
            rewards,
            precision: Precision { level: 0.9, draws: 200, seed: 1 },
            at_k: &[1, 2],
            format: AnswerFormat::default(),
            columns,
        }
    }

    #[test]
    fn figures_follow_from_answers() {
        let answers = [
            answer(1, "a", "<answer>x</answer>", Some(1.0)),
            answer(1, "a", "<answer>y</answer>", Some(0.0)),
            answer(2, "b", "<answer>x</answer>", None),
            answer(2, "b", "<answer>z</answer>", Some(0.0)),
            answer(4, "c", "<answer>z</answer>", Some(1.0)),
            answer(4, "c", "<answer>z</answer>", Some(1.0)),
        ];
        let rewards = ["exact".to_string()];
        let columns = [("kind".to_string(), ["n", "m", "-", "n"].map(String::from).to_vec())];
        let t = model("m", &answers, &making(&rewards, &columns));
        assert_eq!((t.rows, t.samples, t.rewards[0].binary), (3, 6, true));
        assert_eq!((t.rewards[0].summary.mean, t.rewards[0].summary.judged), (0.6, 5));
        let [(1, one, _), (2, two, vote)] = t.rewards[0].at_k[..] else { panic!("{t:?}") };
        assert_eq!((one.mean, one.rows), (0.5, 3));
        // Row 2 has one judged sample: too few for pass@2.
        assert_eq!((two.mean, two.rows), (1.0, 2));
        // The first of two answers given once each decides; row 2's was not judged.
        assert_eq!((vote.mean, vote.rows), (1.0, 2));
        let kinds: Vec<(&str, usize, f64)> =
            t.groups[0].1.iter().map(|g| (g.value.as_str(), g.rows, g.rewards[0].mean)).collect();
        assert_eq!(kinds, [("n", 2, 0.75), ("m", 1, 0.0)]);
        assert!((t.truncated.mean - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(t.length, [18.0, 18.0, 18.0]);
    }

    #[test]
    fn rows_are_paired_by_what_they_say() {
        let before = [
            answer(1, "a", "", Some(0.0)),
            answer(2, "b", "", Some(1.0)),
            answer(3, "x", "", Some(1.0)),
        ];
        let after = [
            answer(1, "b", "", Some(1.0)),
            answer(2, "a", "", Some(1.0)),
            answer(3, "y", "", Some(1.0)),
        ];
        let rewards = ["exact".to_string()];
        let v = versus(("old", &before), ("new", &after), &making(&rewards, &[]));
        assert_eq!((v.unpaired, &v.changed[..]), (2, &[(2, 0.0, 1.0)][..]));
        let c = &v.rewards[0].1;
        assert_eq!((c.pairs, c.wins, c.losses, c.ties, c.test), (2, 1, 0, 1, "mcnemar"));
    }
}
