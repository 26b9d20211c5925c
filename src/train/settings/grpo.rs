//! The algorithm: groups, loss, clipping, penalty. Computes nothing.

/// Aggregation of the policy loss (TRL's `loss_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LossType {
    /// Sum over tokens, divided by the tokens of the whole generation batch (Yu et al. 2025).
    Dapo,
    /// Mean over sequences of the mean over their tokens (Shao et al. 2024).
    Grpo,
}

/// Whose standard deviation divides the advantages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScaleRewards {
    /// That of the group.
    Group,
    /// That of the generation batch.
    Batch,
    /// No division.
    None,
}

/// Groups, loss and KL.
#[derive(Debug, Clone, PartialEq)]
pub struct GrpoSettings {
    /// Completions per prompt (G), at least 2.
    pub num_generations: usize,
    /// Batches whose completions are generated together, at least 1.
    pub steps_per_generation: usize,
    /// Completions that are generated together: batch size times `steps_per_generation`.
    pub generation_batch_size: usize,
    /// Prompts that are answered together: `generation_batch_size / num_generations`.
    pub prompts_per_generation: usize,
    /// Passes over every generation batch (mu), at least 1.
    pub num_iterations: usize,
    /// Weight of the KL term; 0 needs no reference.
    pub beta: f64,
    /// The ratio is clipped to `[1 - epsilon_low, 1 + epsilon_high]`.
    pub epsilon_low: f64,
    /// See `epsilon_low`.
    pub epsilon_high: f64,
    /// Multiply the KL term by the ratio, which makes its gradient unbiased off policy.
    pub use_bias_correction_kl: bool,
    /// Aggregation of the loss.
    pub loss_type: LossType,
    /// Scale of the advantages.
    pub scale_rewards: ScaleRewards,
    /// Leave cut completions out of the loss.
    pub mask_truncated_completions: bool,
    /// Forward the prompt of a group once for all its completions.
    pub share_prompt: bool,
}
