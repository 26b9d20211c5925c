//! Answers as `answers.jsonl` and `--out` have them: one line per completion. Lines of former versions and of
//! an interrupted evaluation are read back; a broken last line is what an interruption leaves.

use crate::base::{Error, Result};
use crate::io::dataset::Row;
use crate::train::generation::{Scored, question};
use serde_json::{Map, Value, json};
use std::path::Path;

/// One completion with what it earned.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The model's name; empty where only one was measured.
    pub model: String,
    /// Number of the row among those measured, from 1; 0 in files that do not say.
    pub row: usize,
    /// Identity of the row.
    pub id: String,
    /// The user's question.
    pub question: String,
    /// Reference answer.
    pub reference: String,
    /// What the model wrote.
    pub completion: String,
    /// Length in tokens.
    pub tokens: usize,
    /// Cut off by the length limit.
    pub truncated: bool,
    /// Score by reward.
    pub rewards: Vec<(String, Option<f64>)>,
}

impl Answer {
    /// What makes rows of two evaluations the same row.
    pub fn key(&self) -> (&str, &str, &str) {
        (&self.id, &self.question, &self.reference)
    }
    /// The score of a reward.
    pub fn score(&self, reward: &str) -> Option<f64> {
        self.rewards.iter().find(|(name, _)| name == reward).and_then(|(_, score)| *score)
    }
}

/// Which rows and samples a batch is.
pub struct Batch<'a> {
    /// Name of the model in the lines; empty leaves it out.
    pub model: &'a str,
    /// Names of the rewards.
    pub rewards: &'a [String],
    /// Completions per row.
    pub samples: usize,
    /// Rows with their numbers from 1.
    pub rows: &'a [(usize, &'a Row)],
}

/// The lines of a batch of scored completions, and what is kept of them.
pub fn lines(batch: &Batch, scored: &Scored) -> Vec<(Value, Answer)> {
    let one = |(i, text): (usize, &String)| {
        let (number, row) = batch.rows[i / batch.samples];
        let completion = &scored.completions[i / batch.samples][i % batch.samples];
        let columns = batch.rewards.iter().zip(&scored.scores.per_reward);
        let rewards: Vec<(String, Option<f64>)> =
            columns.map(|(name, column)| (name.clone(), column[i])).collect();
        let earned: Map<String, Value> =
            rewards.iter().map(|(name, score)| (name.clone(), json!(score))).collect();
        let asked = question(row);
        let mut line = json!({
            "id": row.id,
            "images": row.images.iter().map(|i| i.name()).collect::<Vec<_>>(),
            "videos": row.videos.iter().map(|v| v.source.path()).collect::<Vec<_>>(),
            "question": asked,
            "answer": row.answer,
            "completion": text,
            "tokens": completion.ids.len(),
            "truncated": completion.truncated(),
            "rewards": earned,
            "row": number,
            "sample": i % batch.samples,
        });
        if !batch.model.is_empty() {
            line["model"] = batch.model.into();
        }
        for (name, column) in &scored.scores.aside.columns {
            line["extra"][name] = column[i].clone();
        }
        let answer = Answer {
            model: batch.model.into(),
            row: number,
            id: row.id.clone(),
            question: asked,
            reference: row.answer.clone(),
            completion: text.clone(),
            tokens: completion.ids.len(),
            truncated: completion.truncated(),
            rewards,
        };
        (line, answer)
    };
    scored.texts.iter().enumerate().map(one).collect()
}

/// Reads a file of answers: each good line with its answer. The last line may be broken.
///
/// # Errors
/// If the file cannot be read, or another line is no answer.
pub fn read(file: &Path) -> Result<Vec<(String, Answer)>> {
    let bytes = std::fs::read(file).map_err(|e| Error::io("cannot read the answers", file, &e))?;
    let text = String::from_utf8_lossy(&bytes);
    let mut all = Vec::new();
    let count = text.lines().count();
    for (i, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
        match parse(line) {
            Some(answer) => all.push((line.to_string(), answer)),
            None if i + 1 == count && !text.ends_with('\n') => {}
            None => {
                return Err(Error::data("this line is no answer of `grpo-rt eval`")
                    .file(file)
                    .line(i + 1)
                    .expected("a JSON object with id, completion and rewards")
                    .hint("give answers.jsonl of --out_dir, or what --out wrote"));
            }
        }
    }
    Ok(all)
}

fn parse(line: &str) -> Option<Answer> {
    let v: Value = serde_json::from_str(line).ok()?;
    let text = |key: &str| v[key].as_str().map(str::to_string);
    let score = |(name, score): (&String, &Value)| (name.clone(), score.as_f64());
    Some(Answer {
        model: text("model").unwrap_or_default(),
        row: v["row"].as_u64().unwrap_or(0) as usize,
        id: text("id")?,
        question: text("question").unwrap_or_default(),
        reference: text("answer").unwrap_or_default(),
        completion: text("completion")?,
        tokens: v["tokens"].as_u64().unwrap_or(0) as usize,
        truncated: v["truncated"].as_bool().unwrap_or(false),
        rewards: v["rewards"].as_object()?.iter().map(score).collect(),
    })
}

/// The scores of one reward, by row in the order of the rows; samples that it did not judge are left out.
pub fn by_row(answers: &[Answer], reward: &str) -> Vec<Vec<f64>> {
    rows(answers).map(|row| row.iter().filter_map(|a| a.score(reward)).collect()).collect()
}

/// Answers to the same row; they stand together.
pub fn rows(answers: &[Answer]) -> impl Iterator<Item = &[Answer]> {
    answers.chunk_by(|a, b| a.row == b.row && a.key() == b.key())
}
