//! What a batch of token log-probabilities says about training: how often the clip acted, how far
//! the policy is from its reference, how sure it is. Definitions and names of TRL 1.16
//! (`GRPOTrainer._compute_loss`); sums are taken in double precision, in order. Trains nothing.

use crate::ops::grpo_loss::GrpoLoss;

/// Statistics of the tokens that count; all 0 or absent if none does.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct TokenStats {
    /// Number of tokens that count.
    pub tokens: usize,
    /// `clip_ratio/low_mean`: fraction of tokens whose gradient the lower clip took away.
    pub clip_low_mean: f64,
    /// `clip_ratio/low_min`: the smallest such fraction of one completion.
    pub clip_low_min: Option<f64>,
    /// `clip_ratio/high_mean`: fraction of tokens whose gradient the upper clip took away.
    pub clip_high_mean: f64,
    /// `clip_ratio/high_max`: the largest such fraction of one completion.
    pub clip_high_max: Option<f64>,
    /// `clip_ratio/region_mean`: fraction of tokens clipped on either side.
    pub clip_region_mean: f64,
    /// `kl`: mean k3 estimate, with the ratio if it is in the loss; absent without a reference.
    pub kl: Option<f64>,
    /// `entropy`: mean entropy of the policy.
    pub entropy: f64,
}

impl TokenStats {
    /// Names and values as logged; what is absent is left out: the entropy of no token would read
    /// as a policy that has collapsed.
    pub fn named(&self) -> Vec<(String, f64)> {
        let all = [
            ("kl", self.kl),
            ("entropy", (self.tokens > 0).then_some(self.entropy)),
            ("clip_ratio/low_mean", Some(self.clip_low_mean)),
            ("clip_ratio/low_min", self.clip_low_min),
            ("clip_ratio/high_mean", Some(self.clip_high_mean)),
            ("clip_ratio/high_max", self.clip_high_max),
            ("clip_ratio/region_mean", Some(self.clip_region_mean)),
        ];
        all.into_iter().filter_map(|(name, v)| Some((name.to_string(), v?))).collect()
    }
}

/// Statistics of an optimizer step. All slices but the last two hold one number per token,
/// completion after completion; `completions` holds each completion's number of tokens and
/// `counted` whether it takes part (a truncated one may not). A completion without tokens has no
/// clip fraction of its own.
///
/// Panics if the lengths do not fit together.
#[allow(clippy::too_many_arguments)] // parallel columns of one table
pub fn token_stats(
    loss: &GrpoLoss,
    logp: &[f32],
    old: &[f32],
    reference: Option<&[f32]>,
    advantage: &[f32],
    entropy: &[f32],
    completions: &[usize],
    counted: &[bool],
) -> TokenStats {
    let n: usize = completions.iter().sum();
    for column in [logp, old, advantage, entropy].into_iter().chain(reference) {
        assert_eq!(column.len(), n, "one number per token of every completion");
    }
    assert_eq!(completions.len(), counted.len(), "one mark per completion");
    let (mut low, mut high, mut tokens) = (0usize, 0usize, 0usize);
    let (mut kl, mut entropy_sum) = (0.0, 0.0);
    let (mut low_min, mut high_max) = (None::<f64>, None::<f64>);
    let mut end = 0;
    for (&len, &counted) in completions.iter().zip(counted) {
        let range = end..end + len;
        end += len;
        if !counted || len == 0 {
            continue;
        }
        let (mut own_low, mut own_high) = (0usize, 0usize);
        for t in range {
            // Singles decide as the op did; the estimate itself cancels, so it is taken in double.
            match loss.token(logp[t], old[t], advantage[t], None).clipped {
                -1 => own_low += 1,
                1 => own_high += 1,
                _ => {}
            }
            let wide = |x: &[f32]| f64::from(x[t]);
            if let Some(r) = reference {
                kl += loss.token(wide(logp), wide(old), wide(advantage), Some(wide(r))).kl;
            }
            entropy_sum += wide(entropy);
        }
        let fraction = |k: usize| k as f64 / len as f64;
        low_min = Some(low_min.map_or(fraction(own_low), |m| m.min(fraction(own_low))));
        high_max = Some(high_max.map_or(fraction(own_high), |m| m.max(fraction(own_high))));
        (low, high, tokens) = (low + own_low, high + own_high, tokens + len);
    }
    let mean = |sum: f64| sum / tokens.max(1) as f64;
    TokenStats {
        tokens,
        clip_low_mean: mean(low as f64),
        clip_low_min: low_min,
        clip_high_mean: mean(high as f64),
        clip_high_max: high_max,
        clip_region_mean: mean((low + high) as f64),
        kl: reference.map(|_| mean(kl)),
        entropy: mean(entropy_sum),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOSS: GrpoLoss = GrpoLoss { epsilon: 0.2, epsilon_high: 0.2, beta: 0.0, kl_ratio: false };

    #[test]
    fn completions_that_do_not_count_leave_no_trace() {
        // Ratios e, 1 and 1/e; the last completion would change every number if it counted.
        let logp = [0.0, -1.0, -2.0, -1.0, 0.0];
        let old = [-1.0, -1.0, -1.0, -1.0, -9.0];
        let advantage = [1.0, 1.0, -1.0, -1.0, 1.0];
        let entropy = [0.5, 0.25, 0.0, 0.25, 100.0];
        let s = token_stats(
            &LOSS,
            &logp,
            &old,
            None,
            &advantage,
            &entropy,
            &[2, 2, 0, 1],
            &[true, true, true, false],
        );
        assert_eq!(s.tokens, 4);
        assert_eq!((s.clip_low_mean, s.clip_high_mean, s.clip_region_mean), (0.25, 0.25, 0.5));
        assert_eq!((s.clip_low_min, s.clip_high_max), (Some(0.0), Some(0.5)));
        assert_eq!((s.entropy, s.kl), (0.25, None));
    }

    #[test]
    fn nothing_counted_is_not_a_division_by_zero() {
        let s = token_stats(&LOSS, &[0.0], &[0.0], Some(&[0.0]), &[1.0], &[1.0], &[1], &[false]);
        assert_eq!(s, TokenStats { kl: Some(0.0), ..TokenStats::default() });
    }
}
