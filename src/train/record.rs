//! What is kept of a batch of completions: a parquet file with TRL's columns, groups with their
//! images for the report, and lines for the console. Nothing is written here.

use crate::io::completions::{CompletionRecord, PromptMessage, PromptPart, completions_path};
use crate::io::dataset::{Part, Row};
use crate::track::{CompletionTable, Event, Picture, SampleCompletion, SampleGroup};
use crate::train::generation::{Scored, question};
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
    pub fn completions(&self, run_dir: &Path) -> Event {
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
        Event::Completions(CompletionTable {
            step: self.step as u64,
            path: completions_path(run_dir, self.step as u64),
            rewards: self.rewards.to_vec(),
            records: texts.map(record).collect(),
            totals: self.scored.scores.total.clone(),
            group_size: n,
            pictures: self.rows.iter().map(|row| Picture::all(&row.images)).collect(),
        })
    }

    /// Group number `prompt`, for the report.
    pub fn sample_group(&self, prompt: usize) -> Event {
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
        Event::Group(group, Picture::all(&row.images))
    }

    /// Distributions of the batch.
    pub fn histograms(&self) -> Vec<Event> {
        let step = self.step as u64;
        let lengths = self.scored.completions.iter().flatten().map(|c| c.ids.len() as f64);
        let judged = self.scored.scores.total.iter().flatten().copied();
        [
            ("reward", judged.collect()),
            ("completion_length", lengths.collect()),
            ("advantage", self.advantages.to_vec()),
        ]
        .map(|(name, values)| Event::Histogram { name, step, values })
        .into()
    }

    /// Lines to print: the first `count` completions (all if `None`), only the first of each prompt if
    /// `unique`.
    pub fn printed(&self, count: Option<usize>, unique: bool) -> Vec<String> {
        let n = self.group_size();
        let shown = self.scored.texts.iter().enumerate().filter(|(i, _)| !unique || i % n == 0);
        let score = |v: Option<f64>| v.map_or("none".into(), |r| format!("{r:.3}"));
        let line = |(i, text): (usize, &String)| {
            let question = question(self.rows[i / n]).replace('\n', " ");
            let scores = self.rewards.iter().zip(self.scores_of(i));
            let each: String = scores.map(|(name, v)| format!("{name} {}, ", score(v))).collect();
            let total = score(self.scored.scores.total[i]);
            let advantage = self.advantages[i];
            format!(
                "step {} | {question} | {text:?} | {each}reward {total} | advantage {advantage:+.3}",
                self.step
            )
        };
        shown.map(line).take(count.unwrap_or(usize::MAX)).collect()
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
