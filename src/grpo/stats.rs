//! Figures of an update, from what each token did: TRL's clip ratios, KL and entropy. Pure
//! arithmetic on the host.

use crate::ops::grpo_loss::GrpoLoss;

/// Figures of one update under TRL's definitions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenStats {
    /// Mean KL estimate over counted tokens; NaN without a reference.
    pub kl: f64,
    /// Mean entropy over counted tokens.
    pub entropy: f64,
    /// Share of tokens whose gradient the lower clip took.
    pub clip_low: f64,
    /// Share of tokens whose gradient the upper clip took.
    pub clip_high: f64,
}

impl TokenStats {
    /// Names and values as logged.
    pub fn named(&self) -> Vec<(String, f64)> {
        let all = [
            ("kl", self.kl),
            ("entropy", self.entropy),
            ("clip_ratio/low_mean", self.clip_low),
            ("clip_ratio/high_mean", self.clip_high),
            ("clip_ratio/region_mean", self.clip_low + self.clip_high),
        ];
        all.into_iter().filter(|(_, v)| !v.is_nan()).map(|(n, v)| (n.to_string(), v)).collect()
    }
}

/// Figures over all counted tokens; `completions[i]` is the number of tokens of completion `i`.
#[allow(clippy::too_many_arguments)] // parallel arrays of one update
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
    let (mut n, mut kl, mut h, mut low, mut high) = (0.0, 0.0, 0.0, 0.0, 0.0);
    let mut t = 0;
    for (&tokens, &counted) in completions.iter().zip(counted) {
        for i in t..t + tokens {
            if !counted {
                continue;
            }
            let r = reference.map(|r| f64::from(r[i]));
            let token =
                loss.token(f64::from(logp[i]), f64::from(old[i]), f64::from(advantage[i]), r);
            n += 1.0;
            kl += token.kl;
            h += f64::from(entropy[i]);
            low += f64::from(u8::from(token.clipped < 0));
            high += f64::from(u8::from(token.clipped > 0));
        }
        t += tokens;
    }
    let mean = |x: f64| if n > 0.0 { x / n } else { 0.0 };
    TokenStats {
        kl: if reference.is_some() { mean(kl) } else { f64::NAN },
        entropy: mean(h),
        clip_low: mean(low),
        clip_high: mean(high),
    }
}
