//! What a batch of token log-probabilities says about training: how often the clip acted, how far
//! the policy is from its reference, how sure it is. Definitions and names of TRL 1.16
//! (`GRPOTrainer._compute_loss`); sums are taken in double precision, in order. Trains nothing.

use crate::grpo::advantage::mean;
use crate::ops::grpo_loss::{Columns, CorrectionLevel, GrpoLoss, Level, Surrogate};
use std::ops::Range;

/// The tokens of an optimizer step: one number per token, completion after completion.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenColumns<'a> {
    /// Log-probability under the policy.
    pub logp: &'a [f32],
    /// That the ratio was taken against.
    pub old: &'a [f32],
    /// That under the reference, if there is one.
    pub reference: Option<&'a [f32]>,
    /// That at sampling, if it is not `old`.
    pub sampled: Option<&'a [f32]>,
    /// 1 where the policy term counts, if some do not.
    pub keep: Option<&'a [f32]>,
    /// Advantage.
    pub advantage: &'a [f32],
    /// Entropy of the policy.
    pub entropy: &'a [f32],
    /// Tokens of each completion.
    pub completions: &'a [usize],
    /// Whether each takes part (a truncated one may not).
    pub counted: &'a [bool],
}

/// How often clipping took gradients away.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ClipRatio {
    /// `low_mean`: fraction of tokens (completions, if the ratio is theirs) at the lower bound.
    pub low_mean: f64,
    /// `low_min`: the smallest such fraction of one completion.
    pub low_min: Option<f64>,
    /// `high_mean`: fraction at the upper bound.
    pub high_mean: f64,
    /// `high_max`: the largest such fraction of one completion.
    pub high_max: Option<f64>,
    /// `region_mean`: fraction clipped on either side.
    pub region_mean: f64,
}

/// Statistics of the tokens that count; all 0 or absent if none does.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct TokenStats {
    /// Number of tokens that count.
    pub tokens: usize,
    /// `clip_ratio/*`; absent for losses that clip nothing.
    pub clip: Option<ClipRatio>,
    /// `cispo_clip_ratio`: fraction of tokens with a positive advantage and a capped weight.
    pub cispo: Option<f64>,
    /// `vespo/phi_seq_mean`: mean gamma weight of a completion.
    pub phi: Option<f64>,
    /// `kl`: mean estimate, with the ratio if it is in the loss; absent without a reference.
    pub kl: Option<f64>,
    /// `sampling/importance_sampling_ratio/{min,mean,max}` after clipping.
    pub correction: Option<[f64; 3]>,
    /// `entropy`: mean entropy of the policy.
    pub entropy: f64,
}

impl TokenStats {
    /// Names and values as logged; what is absent is left out: the entropy of no token would read
    /// as a policy that has collapsed.
    pub fn named(&self) -> Vec<(String, f64)> {
        let clip = |f: fn(&ClipRatio) -> Option<f64>| self.clip.as_ref().and_then(f);
        let correction = |i: usize| self.correction.map(|c| c[i]);
        let all = [
            ("kl", self.kl),
            ("entropy", (self.tokens > 0).then_some(self.entropy)),
            ("clip_ratio/low_mean", clip(|c| Some(c.low_mean))),
            ("clip_ratio/low_min", clip(|c| c.low_min)),
            ("clip_ratio/high_mean", clip(|c| Some(c.high_mean))),
            ("clip_ratio/high_max", clip(|c| c.high_max)),
            ("clip_ratio/region_mean", clip(|c| Some(c.region_mean))),
            ("cispo_clip_ratio", self.cispo),
            ("vespo/phi_seq_mean", self.phi),
            ("sampling/importance_sampling_ratio/min", correction(0)),
            ("sampling/importance_sampling_ratio/mean", correction(1)),
            ("sampling/importance_sampling_ratio/max", correction(2)),
        ];
        all.into_iter().filter_map(|(name, v)| Some((name.to_string(), v?))).collect()
    }
}

/// What is counted on the way.
#[derive(Default)]
struct Found {
    /// Of each completion: tokens (or itself) at the lower and at the upper bound, and of how many.
    clips: Vec<[f64; 3]>,
    kl: f64,
    entropy: f64,
    tokens: usize,
    phi: Vec<f64>,
    corrections: Vec<f64>,
}

/// Statistics of an optimizer step. A completion without tokens has no clip fraction of its own.
///
/// Panics if the lengths do not fit together.
pub fn token_stats(loss: &GrpoLoss, c: &TokenColumns) -> TokenStats {
    let n: usize = c.completions.iter().sum();
    let optional = [c.reference, c.sampled, c.keep];
    for column in
        [c.logp, c.old, c.advantage, c.entropy].into_iter().chain(optional.into_iter().flatten())
    {
        assert_eq!(column.len(), n, "one number per token of every completion");
    }
    assert_eq!(c.completions.len(), c.counted.len(), "one mark per completion");
    let mut found = Found::default();
    // Singles decide as the op did; the estimate of the KL cancels, so it is taken in double.
    let singles = Columns {
        logp: c.logp,
        old: c.old,
        advantage: c.advantage,
        reference: None,
        sampled: c.sampled,
        keep: c.keep,
    };
    let wide = |x: &[f32]| -> Vec<f64> { x.iter().map(|&x| f64::from(x)).collect() };
    let (logp, old, advantage) = (wide(c.logp), wide(c.old), wide(c.advantage));
    let reference = c.reference.map(wide);
    let doubles = Columns {
        logp: &logp,
        old: &old,
        advantage: &advantage,
        reference: reference.as_deref(),
        sampled: None,
        keep: None,
    };
    let plain = GrpoLoss { correction: None, sampled: false, keep: false, ..*loss };
    let mut end = 0;
    for (&len, &counted) in c.completions.iter().zip(c.counted) {
        let range = end..end + len;
        end += len;
        if !counted || len == 0 {
            continue;
        }
        found.completion(loss, &singles, range.clone());
        let whole = plain.whole(&doubles, range.clone());
        for t in range {
            found.kl += plain.token(&doubles, t, &whole).kl;
            found.entropy += f64::from(c.entropy[t]);
            found.tokens += 1;
        }
    }
    found.stats(loss, c.reference.is_some())
}

impl Found {
    fn completion(&mut self, loss: &GrpoLoss, columns: &Columns<f32>, range: Range<usize>) {
        let whole = loss.whole(columns, range.clone());
        let (mut low, mut high) = (0.0, 0.0);
        let of_tokens = loss.correction.is_some_and(|k| k.level == CorrectionLevel::Token);
        let (first, len) = (range.start, range.len());
        for t in range {
            let token = loss.token(columns, t, &whole);
            low += f64::from(u8::from(token.clipped < 0));
            high += f64::from(u8::from(token.clipped > 0));
            if loss.correction.is_some() && (of_tokens || t == first) {
                self.corrections.push(f64::from(token.correction));
            }
        }
        // One ratio of a completion is clipped once.
        let geometric = matches!(loss.surrogate, Surrogate::Geometric { .. });
        let once = loss.level != Level::Token && !geometric;
        let n = len as f64;
        self.clips.push(if once { [low / n, high / n, 1.0] } else { [low, high, n] });
        self.phi.push(f64::from(whole.phi));
    }

    fn stats(&self, loss: &GrpoLoss, reference: bool) -> TokenStats {
        let among = self.clips.iter().map(|c| c[2]).sum::<f64>().max(1.0);
        let sum = |i: usize| self.clips.iter().map(|c| c[i]).sum::<f64>();
        let part = |i: usize| sum(i) / among;
        let own = |i: usize| self.clips.iter().map(move |c| c[i] / c[2]);
        let clips = matches!(loss.surrogate, Surrogate::Clip { .. } | Surrogate::Geometric { .. });
        let tokens = self.tokens.max(1) as f64;
        let c = &self.corrections;
        TokenStats {
            tokens: self.tokens,
            clip: clips.then(|| ClipRatio {
                low_mean: part(0),
                low_min: own(0).reduce(f64::min),
                high_mean: part(1),
                high_max: own(1).reduce(f64::max),
                region_mean: (sum(0) + sum(1)) / among,
            }),
            cispo: matches!(loss.surrogate, Surrogate::Cispo { .. }).then(|| part(1)),
            phi: (matches!(loss.surrogate, Surrogate::Vespo { .. }) && !self.phi.is_empty())
                .then(|| mean(&self.phi)),
            kl: reference.then_some(self.kl / tokens),
            correction: c
                .iter()
                .copied()
                .reduce(f64::min)
                .zip(c.iter().copied().reduce(f64::max))
                .map(|(min, max)| [min, mean(c), max]),
            entropy: self.entropy / tokens,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns<'a>(
        logp: &'a [f32],
        old: &'a [f32],
        advantage: &'a [f32],
        entropy: &'a [f32],
        completions: &'a [usize],
        counted: &'a [bool],
    ) -> TokenColumns<'a> {
        let (reference, sampled, keep) = (None, None, None);
        TokenColumns {
            logp,
            old,
            reference,
            sampled,
            keep,
            advantage,
            entropy,
            completions,
            counted,
        }
    }

    #[test]
    fn completions_that_do_not_count_leave_no_trace() {
        // Ratios e, 1 and 1/e; the last completion would change every number if it counted.
        let logp = [0.0, -1.0, -2.0, -1.0, 0.0];
        let old = [-1.0, -1.0, -1.0, -1.0, -9.0];
        let advantage = [1.0, 1.0, -1.0, -1.0, 1.0];
        let entropy = [0.5, 0.25, 0.0, 0.25, 100.0];
        let (completions, counted) = ([2, 2, 0, 1], [true, true, true, false]);
        let c = columns(&logp, &old, &advantage, &entropy, &completions, &counted);
        let s = token_stats(&GrpoLoss::clipped(0.2, 0.2), &c);
        assert_eq!(s.tokens, 4);
        let clip = s.clip.unwrap();
        assert_eq!((clip.low_mean, clip.high_mean, clip.region_mean), (0.25, 0.25, 0.5));
        assert_eq!((clip.low_min, clip.high_max), (Some(0.0), Some(0.5)));
        assert_eq!((s.entropy, s.kl), (0.25, None));
        let whole = GrpoLoss { level: Level::Sequence, ..GrpoLoss::clipped(0.2, 0.2) };
        let clip = token_stats(&whole, &c).clip.unwrap();
        assert_eq!((clip.low_mean, clip.high_mean), (0.5, 0.5), "means of logarithms of ±1/2");
    }

    #[test]
    fn nothing_counted_is_not_a_division_by_zero() {
        let mut c = columns(&[0.0], &[0.0], &[1.0], &[1.0], &[1], &[false]);
        c.reference = Some(&[0.0]);
        let s = token_stats(&GrpoLoss::clipped(0.2, 0.2), &c);
        let clip = Some(ClipRatio::default());
        assert_eq!(s, TokenStats { kl: Some(0.0), clip, ..TokenStats::default() });
    }
}
