//! What each token of a completion counts in the loss. The loss types differ in nothing else, so
//! they are data: one weight per token, computed once for all completions of an optimizer step.

/// How token losses are averaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LossType {
    /// Mean over completions of the mean over their tokens (DeepSeekMath, arXiv 2402.03300, eq. 3).
    Grpo,
    /// Mean over all tokens of the step (DAPO, arXiv 2503.14476, eq. 8).
    Dapo,
}

/// A completion as far as weights go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// Number of tokens.
    pub tokens: usize,
    /// False leaves it out of the loss (a truncated completion, if those are masked).
    pub counted: bool,
}

/// Weight of every token of each completion of one optimizer step. A completion that is left out
/// still counts as one of the completions that `grpo` averages over, as in TRL.
pub fn token_weights(completions: &[Counted], loss_type: LossType) -> Vec<f64> {
    let tokens: usize = completions.iter().filter(|c| c.counted).map(|c| c.tokens).sum();
    completions
        .iter()
        .map(|c| match (c.counted && c.tokens > 0, loss_type) {
            (false, _) => 0.0,
            (true, LossType::Grpo) => 1.0 / (c.tokens as f64 * completions.len() as f64),
            (true, LossType::Dapo) => 1.0 / tokens as f64,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_sum_to_one_over_what_counts() {
        let c = [
            Counted { tokens: 2, counted: true },
            Counted { tokens: 6, counted: true },
            Counted { tokens: 9, counted: false },
        ];
        assert_eq!(token_weights(&c, LossType::Dapo), vec![0.125, 0.125, 0.0]);
        let g = token_weights(&c, LossType::Grpo);
        assert!((g[0] * 2.0 + g[1] * 6.0 - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(g[2], 0.0);
    }
}
