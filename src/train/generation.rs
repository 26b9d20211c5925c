//! From prompts to scored completions: rollout, text, rewards. Shared by training and evaluation;
//! updates nothing.

use crate::base::Result;
use crate::io::dataset::{Part, Row};
use crate::io::text::tokenizer::Tokenizer;
use crate::model::prompt::Prompt;
use crate::model::vision_store::VisionWeights;
use crate::ops::linear_logprob::HeadSettings;
use crate::ops::sample::SamplingSettings as Draw;
use crate::reward::{RewardSet, RewardSettings as RewardOptions, Sample, Scores};
use crate::rollout::scheduler::Counts;
use crate::rollout::{Completion, Engine, EngineSettings, Generated, Request, head_settings};
use crate::train::settings::{RewardSettings, SamplingSettings};
use crate::train::workspace::Workspace;
use std::sync::Arc;
use std::time::Instant;

/// Tokens at a completion's end that are searched for stop strings.
const STOP_WINDOW: usize = 32;

/// How a command's completions are made.
#[derive(Debug, Clone)]
pub struct RolloutSettings {
    /// How tokens are drawn.
    pub sampling: Arc<Draw>,
    /// Most tokens of a completion.
    pub max_completion_length: usize,
    /// Texts that end a completion.
    pub stop: Vec<String>,
    /// What holds for all of them.
    pub engine: EngineSettings,
}

impl RolloutSettings {
    /// The same, taking the most likely token.
    pub fn greedy(mut self) -> Self {
        self.sampling = Arc::new(Draw { temperature: 0.0, ..(*self.sampling).clone() });
        self
    }
    /// Temperature and forbidden tokens, as training must use them too.
    pub fn head(&self) -> HeadSettings {
        head_settings(&self.sampling, &self.engine.forbidden)
    }
}

/// Rollout settings from the command's.
pub fn rollout_settings(w: &Workspace, s: &SamplingSettings, seed: u64) -> RolloutSettings {
    RolloutSettings {
        sampling: Arc::new(Draw {
            temperature: if s.greedy { 0.0 } else { s.temperature as f32 },
            top_p: s.top_p as f32,
            top_k: s.top_k,
            min_p: s.min_p.unwrap_or(0.0) as f32,
            repetition_penalty: s.repetition_penalty as f32,
        }),
        max_completion_length: s.max_completion_length,
        stop: s.stop.clone(),
        engine: EngineSettings {
            eos: w.model.config.tokens.eos.clone(),
            ignore_eos: s.ignore_eos,
            forbidden: w.forbidden_tokens(),
            seed,
            step: 0,
            max_num_seqs: s.max_num_seqs,
            max_num_batched_tokens: s.max_num_batched_tokens,
            max_pages: None,
        },
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
    /// What the engine did.
    pub counts: Counts,
    /// Images that the vision tower encoded.
    pub vision_images: u64,
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

/// Which completions: their random keys, and the state of the vision tower.
#[derive(Debug, Clone, Copy, Default)]
pub struct Draws {
    /// Completions per prompt.
    pub per_prompt: usize,
    /// Step of their random keys.
    pub step: u32,
    /// Sample number of the first; the others follow.
    pub first_sample: u32,
    /// Whose image features.
    pub vision_weights: VisionWeights,
}

/// Generates completions of each prompt.
///
/// # Errors
/// If a prompt or the memory does not allow it.
pub fn generate(
    w: &Workspace,
    settings: &RolloutSettings,
    prompts: &[Arc<Prompt>],
    draws: Draws,
) -> Result<Generated> {
    let tokenizer = &w.encoder.chat.tokenizer;
    let check = |ids: &[u32]| {
        let tail = tokenizer.decode(&ids[ids.len().saturating_sub(STOP_WINDOW)..], true);
        settings.stop.iter().any(|s| tail.contains(s))
    };
    let requests: Vec<Request> = prompts
        .iter()
        .enumerate()
        .map(|(i, prompt)| Request {
            prompt: prompt.clone(),
            completions: draws.per_prompt,
            sampling: settings.sampling.clone(),
            max_tokens: settings.max_completion_length,
            first_sample: draws.first_sample + (i * draws.per_prompt) as u32,
        })
        .collect();
    let engine = EngineSettings { step: draws.step, ..settings.engine.clone() };
    let mut engine = Engine::new(&w.model, &w.arena, &w.vision, engine);
    engine.vision_weights = draws.vision_weights;
    if !settings.stop.is_empty() {
        engine.stop = Some(&check);
    }
    engine.generate(&requests)
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
pub fn generate_scored(
    w: &Workspace,
    settings: &RolloutSettings,
    rewards: &RewardSet,
    rows: &[&Row],
    prompts: &[Arc<Prompt>],
    draws: Draws,
) -> Result<Scored> {
    let start = Instant::now();
    let Generated { completions, counts, vision_images, .. } =
        generate(w, settings, prompts, draws)?;
    let rollout_seconds = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let texts = texts(&w.encoder.chat.tokenizer, &completions);
    let scores = score(rewards, rows, &completions, &texts);
    let reward_seconds = start.elapsed().as_secs_f64();
    Ok(Scored {
        completions,
        texts,
        scores,
        counts,
        vision_images,
        rollout_seconds,
        reward_seconds,
    })
}
