//! What each token of a completion counts in the loss. How a loss averages is data: one weight per
//! token, computed once for all completions of an optimizer step, so that micro-batches, which memory
//! decides, change nothing.

/// How token losses are averaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Average {
    /// Mean over completions of the mean over their tokens: `grpo`, `sapo`, `gmpo` (DeepSeekMath, arXiv
    /// 2402.03300, eq. 3).
    Completions,
    /// Mean over all tokens: `dapo`, `cispo`, `vespo` (DAPO, arXiv 2503.14476, eq. 8).
    Tokens,
    /// Mean over batches of the mean over their tokens: `bnpo` (TRL 1.16, whose batch is that of one
    /// device and one accumulation step; here so many completions).
    Batches(usize),
    /// Sum over tokens over as many tokens as there can be at most in a completion: `dr_grpo` (arXiv
    /// 2503.20783, section 3.2).
    Longest(usize),
    /// Mean over completions of the sum over their tokens: `luspo` (arXiv 2602.05261), and the
    /// reward-weighted loss.
    Sums,
}

/// A completion as far as weights go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counted {
    /// Number of tokens.
    pub tokens: usize,
    /// False leaves it out of the loss (a truncated completion, if those are masked); it still is one
    /// of the completions that are averaged over, as in TRL.
    pub counted: bool,
    /// True leaves it out of every denominator, too (a group that teaches nothing, if those are
    /// dropped).
    pub dropped: bool,
}

impl Counted {
    fn present(&self) -> bool {
        self.counted && !self.dropped && self.tokens > 0
    }
}

/// Weight of every token of each completion of one optimizer step.
pub fn token_weights(completions: &[Counted], average: Average) -> Vec<f64> {
    let among = completions.iter().filter(|c| !c.dropped).count() as f64;
    let tokens =
        |of: &[Counted]| -> usize { of.iter().filter(|c| c.present()).map(|c| c.tokens).sum() };
    let batch = match average {
        Average::Batches(n) => n.max(1),
        _ => completions.len().max(1),
    };
    let batches: Vec<&[Counted]> = completions.chunks(batch).collect();
    let in_batch: Vec<usize> = batches.iter().map(|b| tokens(b)).collect();
    // A batch of which nothing is left is no batch; one that is masked is.
    let left = batches.iter().filter(|b| b.iter().any(|c| !c.dropped)).count() as f64;
    let weight = |(i, c): (usize, &Counted)| match (c.present(), average) {
        (false, _) => 0.0,
        (true, Average::Completions) => 1.0 / (c.tokens as f64 * among),
        (true, Average::Tokens) => 1.0 / in_batch[0] as f64,
        (true, Average::Batches(_)) => 1.0 / (in_batch[i / batch] as f64 * left),
        (true, Average::Longest(n)) => 1.0 / (n as f64 * among),
        (true, Average::Sums) => 1.0 / among,
    };
    completions.iter().enumerate().map(weight).collect()
}

/// Least entropy of the tokens that count where only the share `quantile` with the highest does: the
/// quantile `1 − quantile` of all of them, with linear interpolation (Wang et al., arXiv 2506.01939,
/// section 5; `torch.quantile`, as in TRL 1.16 `get_high_entropy_mask`). `None` of no tokens.
pub fn entropy_threshold(mut entropies: Vec<f32>, quantile: f64) -> Option<f32> {
    let last = entropies.len().checked_sub(1)?;
    entropies.sort_unstable_by(f32::total_cmp);
    let at = (1.0 - quantile) * last as f64;
    let (below, share) = (at.floor() as usize, at - at.floor());
    let (low, high) = (entropies[below.min(last)], entropies[(below + 1).min(last)]);
    Some((f64::from(low) + share * (f64::from(high) - f64::from(low))) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(tokens: usize, counted: bool, dropped: bool) -> Counted {
        Counted { tokens, counted, dropped }
    }

    #[test]
    fn weights_sum_to_one_over_what_counts() {
        let c = [counted(2, true, false), counted(6, true, false), counted(9, false, false)];
        assert_eq!(token_weights(&c, Average::Tokens), vec![0.125, 0.125, 0.0]);
        let g = token_weights(&c, Average::Completions);
        assert!((g[0] * 2.0 + g[1] * 6.0 - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(g[2], 0.0);
        assert_eq!(token_weights(&c, Average::Longest(10)), vec![1.0 / 30.0, 1.0 / 30.0, 0.0]);
        assert_eq!(token_weights(&c, Average::Sums)[0], 1.0 / 3.0);
    }

    #[test]
    fn batches_are_averaged_one_by_one_and_dropped_completions_are_in_no_denominator() {
        let c = [
            counted(2, true, false),
            counted(3, true, false),
            counted(5, true, false),
            counted(7, false, false),
            counted(1, true, true),
            counted(1, true, true),
        ];
        let w = token_weights(&c, Average::Batches(2));
        assert_eq!(w, vec![0.1, 0.1, 0.1, 0.0, 0.0, 0.0], "5 tokens in each of two batches");
        let g = token_weights(&c, Average::Completions);
        assert_eq!(g[0], 1.0 / 8.0, "four completions are left");
        assert_eq!(token_weights(&c, Average::Tokens)[0], 0.1);
    }

    #[test]
    fn the_threshold_is_an_interpolated_quantile() {
        let e = vec![3.0, 1.0, 2.0, 4.0];
        assert_eq!(entropy_threshold(e.clone(), 0.5), Some(2.5));
        assert_eq!(entropy_threshold(e.clone(), 1.0), Some(1.0));
        assert_eq!(entropy_threshold(e, 0.0), Some(4.0));
        assert_eq!(entropy_threshold(vec![], 0.2), None);
    }
}
