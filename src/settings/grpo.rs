//! The algorithm: groups, advantages, loss, penalty. Computes nothing.

use crate::grpo::advantage::Estimator;
use crate::grpo::control::{EntropyControl, KlControl};
use crate::grpo::weigh::Average;
use crate::ops::grpo_loss::{GrpoLoss, KlEstimator};

/// The policy loss (TRL's `loss_type`, and what TRL lacks); docs/losses.md has their formulas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LossType {
    /// Clipped; mean over the tokens of the generation batch (Yu et al. 2025).
    Dapo,
    /// Clipped; mean over sequences of the mean over their tokens (Shao et al. 2024).
    Grpo,
    /// Clipped; mean over the tokens of a batch.
    Bnpo,
    /// Clipped; sum over tokens over the longest possible completion (Liu et al. 2025).
    DrGrpo,
    /// Capped weights of a policy gradient (MiniMax 2025).
    Cispo,
    /// A sigmoid instead of a clip (Qwen 2025).
    Sapo,
    /// Weights of whole completions of a policy gradient.
    Vespo,
    /// Clipped; mean over sequences of the sum over their tokens.
    Luspo,
    /// The geometric mean of clipped ratios (Zhao et al. 2025).
    Gmpo,
    /// A policy gradient weighed by rewards.
    RewardWeighted,
}

/// The penalty for leaving the reference.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KlSettings {
    /// Its weight, above 0; the first one, if it follows the KL.
    pub beta: f64,
    /// Which estimate.
    pub estimator: KlEstimator,
    /// Taken off rewards instead of being added to the loss.
    pub in_reward: bool,
    /// How the weight follows the KL.
    pub control: Option<KlControl>,
}

/// A reference that follows the policy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReferenceSync {
    /// Share of the policy when it is moved, in `(0, 1]`.
    pub share: f64,
    /// Steps between moves, at least 1.
    pub steps: usize,
}

/// What is done about entropy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EntropySettings {
    /// Reward of the mean entropy; the first one, if it is adaptive.
    pub coef: f64,
    /// How the coefficient follows the entropy.
    pub control: Option<EntropyControl>,
    /// Share of tokens, those of highest entropy, whose policy terms count, in `(0, 1]`.
    pub top_quantile: f64,
}

impl EntropySettings {
    /// Whether the entropy is rewarded, now or later.
    pub fn rewarded(&self) -> bool {
        self.coef != 0.0 || self.control.is_some()
    }
}

/// Groups, advantages, loss and KL.
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
    /// What the loss is called.
    pub loss_type: LossType,
    /// What a token adds to it.
    pub loss: GrpoLoss,
    /// How tokens are averaged.
    pub average: Average,
    /// What advantages are multiplied with in the loss.
    pub alpha: f64,
    /// The penalty, if there is one.
    pub kl: Option<KlSettings>,
    /// Whether and how its reference follows the policy.
    pub sync: Option<ReferenceSync>,
    /// What rewards are compared with.
    pub estimator: Estimator,
    /// Whether each reward is normalised before they are summed.
    pub decoupled: bool,
    /// What is done about entropy.
    pub entropy: EntropySettings,
    /// Generation batches that may be drawn so that no group is dead; 1 draws no more than one.
    pub sampling_batches: usize,
    /// Leave groups without a spread of rewards out of the loss and its denominators.
    pub drop_dead_groups: bool,
    /// Leave cut completions out of the loss.
    pub mask_truncated_completions: bool,
    /// Forward the prompt of a group once for all its completions.
    pub share_prompt: bool,
}
