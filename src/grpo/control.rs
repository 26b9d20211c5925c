//! Coefficients that follow what they act on: the weight of the KL penalty and the reward of entropy.
//! State that checkpoints keep; looks at numbers of finished updates only.

use serde::{Deserialize, Serialize};

/// The weight of the KL penalty follows the KL: `β ← β·(1 + clip(KL/target − 1, ±0.2)·n/horizon)` after
/// every update on `n` completions (Ziegler et al., arXiv 1909.08593, section 2.2; verl's
/// `AdaptiveKLController`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KlControl {
    /// The KL that is aimed at, above 0.
    pub target: f64,
    /// Completions over which a KL that is 20 % off changes the weight by 20 %, above 0.
    pub horizon: f64,
}

impl KlControl {
    /// The weight after an update.
    pub fn next(&self, beta: f64, kl: f64, completions: usize) -> f64 {
        let error = (kl / self.target - 1.0).clamp(-0.2, 0.2);
        beta * (1.0 + error * completions as f64 / self.horizon)
    }
}

/// The reward of entropy follows the entropy (Skywork-OR1, arXiv 2505.22312, section 4; TRL 1.16
/// `use_adaptive_entropy`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EntropyControl {
    /// The entropy that is held: above it nothing is rewarded.
    pub target: f64,
    /// Change of the coefficient after every update.
    pub delta: f64,
    /// Least coefficient.
    pub min: f64,
    /// Largest coefficient.
    pub max: f64,
}

/// Where the reward of entropy stands.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct EntropyState {
    /// The coefficient.
    pub coef: f64,
    /// Mean entropy of the last update; `None` before the first, which is rewarded with nothing.
    pub last: Option<f64>,
}

impl EntropyControl {
    /// The coefficient that an update applies.
    pub fn applied(&self, state: &EntropyState) -> f64 {
        let low = state.last.is_some_and(|e| e <= self.target);
        if low { state.coef } else { 0.0 }
    }

    /// The state after an update whose tokens had this mean entropy.
    pub fn next(&self, state: &EntropyState, entropy: f64) -> EntropyState {
        let coef = match entropy <= self.target {
            true => (state.coef + self.delta).min(self.max),
            false => (state.coef - self.delta).max(self.min),
        };
        EntropyState { coef, last: Some(entropy) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_penalty_grows_with_the_divergence_and_no_faster_than_its_clip() {
        let c = KlControl { target: 0.1, horizon: 100.0 };
        assert_eq!(c.next(0.5, 0.1, 8), 0.5);
        assert!((c.next(0.5, 0.11, 10) - 0.5 * 1.01).abs() < 1e-12);
        assert_eq!(c.next(0.5, 9.0, 10), 0.5 * 1.02);
        assert_eq!(c.next(0.5, 0.0, 10), 0.5 * 0.98);
    }

    #[test]
    fn entropy_is_rewarded_only_below_its_target_and_one_update_later() {
        let c = EntropyControl { target: 0.2, delta: 0.005, min: 0.0, max: 0.012 };
        let mut s = EntropyState { coef: 0.0, last: None };
        assert_eq!(c.applied(&s), 0.0);
        for expected in [0.005, 0.01, 0.012] {
            s = c.next(&s, 0.1);
            assert_eq!((s.coef, c.applied(&s)), (expected, expected));
        }
        s = c.next(&s, 0.3);
        assert!((s.coef - 0.007).abs() < 1e-12);
        assert_eq!(c.applied(&s), 0.0);
    }
}
