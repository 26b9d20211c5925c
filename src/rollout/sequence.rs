//! What is generated: a request for completions of one prompt, a completion in the making, and a
//! finished one.

use crate::model::prompt::Prompt;
use crate::ops::sample::SamplingSettings;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Some completions of one prompt.
#[derive(Debug, Clone)]
pub struct Request {
    /// The prompt.
    pub prompt: Arc<Prompt>,
    /// Number of completions.
    pub completions: usize,
    /// How their tokens are drawn.
    pub sampling: Arc<SamplingSettings>,
    /// Most tokens of a completion, at least 1.
    pub max_tokens: usize,
    /// Random key of the first completion within the step; the others follow.
    pub first_sample: u32,
}

/// Why a completion ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Finish {
    /// It emitted an end-of-sequence token (the last token).
    Eos,
    /// It emitted a stop string.
    Stop,
    /// It reached the length limit.
    Length,
}

/// A finished completion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    /// Sampled tokens, the end-of-sequence token included.
    pub ids: Vec<u32>,
    /// Log-probability of each token under the policy at the sampling temperature.
    pub logps: Vec<f32>,
    /// Per token, logarithm of the softmax denominator and entropy of the distribution that it was
    /// drawn from: the first update on the same weights needs them. Empty where that has been taken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub statistics: Vec<[f32; 2]>,
    /// Why it ended.
    pub finish: Finish,
}

impl Completion {
    /// True if it was cut off by the length limit.
    pub fn truncated(&self) -> bool {
        self.finish == Finish::Length
    }
}

/// A token that was drawn, with what is known of the distribution that it came from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drawn {
    /// The token.
    pub token: u32,
    /// Its log-probability.
    pub logp: f32,
    /// Logarithm of the softmax denominator.
    pub lse: f32,
    /// Entropy.
    pub entropy: f32,
}
