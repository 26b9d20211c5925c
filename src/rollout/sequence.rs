//! One completion: tokens so far, their log-probabilities, why it ended.

use serde::{Deserialize, Serialize};

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
    /// Why it ended.
    pub finish: Finish,
}

impl Completion {
    /// True if it was cut off by the length limit.
    pub fn truncated(&self) -> bool {
        self.finish == Finish::Length
    }
}

/// A completion in the making.
#[derive(Debug, Clone)]
pub(super) struct Sequence {
    /// Number of the prompt in the call.
    pub prompt: usize,
    /// Number of the completion within the training step: its random key.
    pub sample: u32,
    /// First cache row of its own tokens.
    pub first_row: usize,
    /// What it has so far.
    pub ids: Vec<u32>,
    /// Log-probabilities of `ids`.
    pub logps: Vec<f32>,
    /// Set when it has ended.
    pub finish: Option<Finish>,
}
