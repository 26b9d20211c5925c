//! Evaluation during training: when, on how many rows, and how answers are drawn. Data, no logic.

use super::{SamplingSettings, When};

/// How rewards are measured on held-out rows while a run goes on.
#[derive(Debug, Clone, PartialEq)]
pub struct ValidationSettings {
    /// After which steps.
    pub when: When,
    /// Before the first step, too.
    pub on_start: bool,
    /// How answers are drawn.
    pub sampling: SamplingSettings,
    /// Answers per row, at least 1.
    pub num_generations: usize,
    /// The first so many rows; `None` is all.
    pub max_rows: Option<usize>,
    /// Answers that are decoded together.
    pub batch_size: usize,
}
