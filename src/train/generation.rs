//! From prompts to scored completions: rollout, text, rewards. Shared by training and evaluation;
//! updates nothing.

use crate::base::Result;
use crate::io::dataset::{Part, Row};
use crate::io::text::tokenizer::Tokenizer;
use crate::model::prompt::Prompt;
use crate::ops::sample::SamplingSettings as Draw;
use crate::reward::{RewardSet, RewardSettings as RewardOptions, Sample, Scores};
use crate::rollout::{Completion, Engine, RolloutSettings};
use crate::train::settings::{RewardSettings, SamplingSettings};
use crate::train::workspace::Workspace;
use std::sync::Arc;
use std::time::Instant;

/// Most prompt tokens of one prefill pass.
pub const PREFILL_TOKENS: usize = 2048;

/// Tokens at a completion's end that are searched for stop strings.
const STOP_WINDOW: usize = 32;

/// Rollout settings from the command's.
pub fn rollout_settings(w: &Workspace, s: &SamplingSettings, seed: u64) -> RolloutSettings {
    RolloutSettings {
        sampling: Draw {
            temperature: if s.greedy { 0.0 } else { s.temperature as f32 },
            top_p: s.top_p as f32,
            top_k: s.top_k,
            min_p: s.min_p.unwrap_or(0.0) as f32,
            repetition_penalty: s.repetition_penalty as f32,
        },
        max_completion_length: s.max_completion_length,
        eos: w.model.config.tokens.eos.clone(),
        ignore_eos: s.ignore_eos,
        forbidden: w.forbidden_tokens(),
        seed,
        prefill_tokens: PREFILL_TOKENS,
    }
}

/// The rewards of a run.
///
/// # Errors
/// If a name is unknown.
pub fn reward_set(s: &RewardSettings, max_completion_length: usize) -> Result<RewardSet> {
    let options = RewardOptions { max_completion_length, ..RewardOptions::default() };
    RewardSet::from_names(&s.names, Some(s.weights.clone()), &options)
}

/// Completions of some prompts with what they earned.
#[derive(Debug)]
pub struct Scored {
    /// Completions of each prompt.
    pub completions: Vec<Vec<Completion>>,
    /// Their texts, prompt after prompt, special tokens removed.
    pub texts: Vec<String>,
    /// Their rewards, in the same order.
    pub scores: Scores,
    /// Seconds of rollout.
    pub rollout_seconds: f64,
    /// Seconds of rewards.
    pub reward_seconds: f64,
}

/// The user's last question as text, images left out.
pub fn question(row: &Row) -> String {
    let last = row.messages.iter().rev().find(|m| m.role == "user");
    let parts = last.map(|m| m.content.as_slice()).unwrap_or_default();
    parts
        .iter()
        .filter_map(|p| if let Part::Text(t) = p { Some(t.as_str()) } else { None })
        .collect()
}

/// Generates `n` completions per prompt.
///
/// # Errors
/// If a prompt or the memory does not allow it.
pub fn generate(
    w: &Workspace,
    settings: &RolloutSettings,
    stop: &[String],
    prompts: &[Arc<Prompt>],
    n: usize,
    step: u32,
    first_sample: u32,
) -> Result<Vec<Vec<Completion>>> {
    let tokenizer = &w.encoder.chat.tokenizer;
    let check = |ids: &[u32]| {
        let tail = tokenizer.decode(&ids[ids.len().saturating_sub(STOP_WINDOW)..], true);
        stop.iter().any(|s| tail.contains(s))
    };
    let mut engine = Engine::new(&w.model, &w.arena, settings.clone());
    if !stop.is_empty() {
        engine = engine.with_stop(&check);
    }
    engine.generate(prompts, n, step, first_sample)
}

/// Texts of completions, special tokens removed.
pub fn texts(tokenizer: &Tokenizer, completions: &[Vec<Completion>]) -> Vec<String> {
    completions.iter().flatten().map(|c| tokenizer.decode(&c.ids, true)).collect()
}

/// Scores completions, `rows[i]` being the row of prompt `i`.
pub fn score(
    rewards: &RewardSet,
    rows: &[&Row],
    completions: &[Vec<Completion>],
    texts: &[String],
) -> Scores {
    let questions: Vec<String> = rows.iter().map(|r| question(r)).collect();
    let owners =
        completions.iter().enumerate().flat_map(|(i, group)| group.iter().map(move |c| (i, c)));
    let samples: Vec<Sample> = owners
        .zip(texts)
        .map(|((i, c), text)| Sample {
            completion: text,
            completion_ids: &c.ids,
            prompt: &questions[i],
            answer: &rows[i].answer,
            columns: &rows[i].columns,
            truncated: c.truncated(),
        })
        .collect();
    rewards.score_all(&samples)
}

/// Generates and scores.
///
/// # Errors
/// As [`generate`].
#[allow(clippy::too_many_arguments)] // the parts of one rollout
pub fn generate_scored(
    w: &Workspace,
    settings: &RolloutSettings,
    stop: &[String],
    rewards: &RewardSet,
    rows: &[&Row],
    prompts: &[Arc<Prompt>],
    n: usize,
    step: u32,
    first_sample: u32,
) -> Result<Scored> {
    let start = Instant::now();
    let completions = generate(w, settings, stop, prompts, n, step, first_sample)?;
    let rollout_seconds = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let texts = texts(&w.encoder.chat.tokenizer, &completions);
    let scores = score(rewards, rows, &completions, &texts);
    let reward_seconds = start.elapsed().as_secs_f64();
    Ok(Scored { completions, texts, scores, rollout_seconds, reward_seconds })
}
