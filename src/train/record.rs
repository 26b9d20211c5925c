//! What is kept of a batch of completions: a parquet file with TRL's columns, groups with their
//! images for the report, and lines for the console. Nothing is written here.

use crate::io::completions::{CompletionRecord, PromptMessage, PromptPart, completions_path};
use crate::io::dataset::{Part, Row};
use crate::train::generation::{Scored, question};
use crate::train::report::{SampleCompletion, SampleGroup};
use crate::train::writer::Entry;
use std::path::Path;

/// A scored batch and where it belongs.
pub struct Recorded<'a> {
    /// Optimizer step it is used for first.
    pub step: usize,
    /// Row of each prompt.
    pub rows: &'a [&'a Row],
    /// Completions and what they earned.
    pub scored: &'a Scored,
    /// Advantage of each completion.
    pub advantages: &'a [f64],
    /// Names of the rewards.
    pub rewards: &'a [String],
}

impl Recorded<'_> {
    fn group_size(&self) -> usize {
        self.scored.completions.first().map_or(1, Vec::len).max(1)
    }

    fn scores_of(&self, i: usize) -> Vec<Option<f64>> {
        self.scored.scores.per_reward.iter().map(|column| column[i]).collect()
    }

    /// All completions, for `completions/completions_<step>.parquet`.
    pub fn completions(&self, run_dir: &Path) -> Entry {
        let n = self.group_size();
        let texts = self.scored.texts.iter().enumerate();
        let extra = &self.scored.scores.aside.columns;
        let record = |(i, text): (usize, &String)| CompletionRecord {
            step: self.step as i64,
            prompt: prompt_messages(self.rows[i / n]),
            completion: text.clone(),
            rewards: self.scores_of(i),
            extra: extra.iter().map(|(n, column)| (n.clone(), column[i].clone())).collect(),
            advantage: self.advantages[i],
        };
        Entry::Completions {
            path: completions_path(run_dir, self.step as u64),
            rewards: self.rewards.to_vec(),
            records: texts.map(record).collect(),
        }
    }

    /// Group number `prompt`, for the report.
    pub fn sample_group(&self, prompt: usize) -> Entry {
        let n = self.group_size();
        let row = self.rows[prompt];
        let completions = (prompt * n..(prompt + 1) * n)
            .map(|i| SampleCompletion {
                text: self.scored.texts[i].clone(),
                rewards: self.rewards.iter().cloned().zip(self.scores_of(i)).collect(),
                total: self.scored.scores.total[i],
                advantage: self.advantages[i],
                tokens: self.scored.completions[prompt][i % n].ids.len(),
            })
            .collect();
        let group = SampleGroup {
            step: self.step as u64,
            prompt: question(row),
            answer: row.answer.clone(),
            images_png: Vec::new(),
            completions,
        };
        Entry::Sample(group, row.images.clone())
    }

    /// Lines to print: the first `count` completions (all if `None`).
    pub fn printed(&self, count: Option<usize>) -> Vec<String> {
        let n = self.group_size();
        let take = count.unwrap_or(self.scored.texts.len());
        let texts = self.scored.texts.iter().enumerate().take(take);
        texts
            .map(|(i, text)| {
                let total =
                    self.scored.scores.total[i].map_or("none".into(), |r| format!("{r:.3}"));
                let question = question(self.rows[i / n]).replace('\n', " ");
                format!(
                    "step {} | {question} | {text:?} | reward {total} | advantage {:+.3}",
                    self.step, self.advantages[i]
                )
            })
            .collect()
    }
}

fn prompt_messages(row: &Row) -> Vec<PromptMessage> {
    row.messages
        .iter()
        .map(|m| PromptMessage {
            role: m.role.clone(),
            content: m
                .content
                .iter()
                .map(|p| match p {
                    Part::Text(t) => PromptPart::Text(t.clone()),
                    Part::Image(_) => PromptPart::Image,
                    Part::Video(_) => PromptPart::Video,
                })
                .collect(),
        })
        .collect()
}
