//! The formulas of the policy losses: what a token of a completion adds to the loss, and what it sends
//! back to its log-probability. Generic over the number type; the kernels of `kernels/common/loss.cu`
//! are the same statements. Reads columns, allocates nothing, sums nothing but whole completions.

use crate::ops::Real;
use std::ops::Range;

/// Logarithms of completion ratios are kept in here, as in TRL 1.16 (`get_gamma_weights`).
const LOG_LEAST: f64 = -18.420680743952367; // ln 1e-8
const LOG_MOST: f64 = 20.0;
/// Least decay of the gamma weights, as in TRL 1.16.
const LEAST_LAMBDA: f64 = 1e-4;

/// What stands for the probability ratio `π/π_old` of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// The token's own ratio.
    Token,
    /// The geometric mean of the completion's ratios, for all of its tokens, gradient included (GSPO,
    /// arXiv 2507.18071, eq. 7).
    Sequence,
    /// The value of `Sequence`, with the gradient through the token alone (GSPO-token, ibid., eq. 14).
    SequenceToken,
}

/// The policy term of a token's loss, with its ratio `c` and advantage `A`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Surrogate {
    /// `−min(min(c, cap)·A, clip(c, low, high)·A)` (PPO, arXiv 1707.06347, eq. 7; DAPO, arXiv
    /// 2503.14476, eq. 8). The cap of either sign of A is infinite in these; TRL's `delta` caps both
    /// (INTELLECT-2, arXiv 2505.07291), dual clip the negative one (arXiv 1912.09729, eq. 5).
    Clip {
        /// Least ratio, `1 − ε`.
        low: f64,
        /// Largest ratio, `1 + ε_high`.
        high: f64,
        /// Cap where A ≥ 0.
        cap_positive: f64,
        /// Cap where A < 0.
        cap_negative: f64,
    },
    /// `−sg(clip(c, low, high))·A·logp` (CISPO, MiniMax-M1, arXiv 2506.13585, eq. 4 and 5).
    Cispo {
        /// Least weight.
        low: f64,
        /// Largest weight.
        high: f64,
    },
    /// `−4/τ·σ(τ(c − 1))·A` (SAPO, arXiv 2511.20347, eq. 5).
    Sapo {
        /// τ where A > 0.
        positive: f64,
        /// τ elsewhere.
        negative: f64,
    },
    /// `−sg(φ(w))·A·logp` with `φ(w) = w^k·exp(λ(1 − w))` of the completion's ratio `w` (VESPO, as in
    /// TRL 1.16 `get_gamma_weights`).
    Vespo {
        /// `[k, λ]` where A ≥ 0.
        positive: [f64; 2],
        /// `[k, λ]` elsewhere.
        negative: [f64; 2],
    },
    /// `−A·exp(mean of clipped log-ratios)`, one number for a completion (GMPO, arXiv 2507.20673, eq. 4;
    /// the range is one of logarithms).
    Geometric {
        /// Least log-ratio, `−ε`.
        low: f64,
        /// Largest log-ratio, `ε_high`.
        high: f64,
    },
    /// `−A·logp`: no ratio, the policy gradient itself.
    Plain,
}

/// An estimate of the divergence from the reference by the sampled token (Schulman, "Approximating KL
/// divergence", 2020), with `x = logp − ref`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KlEstimator {
    /// `x`.
    K1,
    /// `x²/2`.
    K2,
    /// `exp(−x) + x − 1`.
    K3,
}

/// The KL term of the loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KlTerm {
    /// Its weight.
    pub beta: f64,
    /// Which estimate.
    pub estimator: KlEstimator,
    /// Whether it carries the ratio, which makes its gradient unbiased off policy (TRL 1.16
    /// `use_bias_correction_kl`).
    pub ratio: bool,
}

/// What a ratio `π_old/π_sampler` is taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CorrectionLevel {
    /// A token.
    Token,
    /// A completion: the product over its tokens.
    Sequence,
}

/// Weight of a sample that another distribution drew than the one that is trained (TRL 1.16
/// `vllm_importance_sampling_correction`; truncated and masked importance sampling).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Correction {
    /// Over what.
    pub level: CorrectionLevel,
    /// True: weights outside the range become 0. False: they are clamped to it.
    pub mask: bool,
    /// Least weight.
    pub min: f64,
    /// Largest weight.
    pub max: f64,
}

/// The columns of the loss, one number per token, and where completions begin and end.
#[derive(Debug, Clone, Copy)]
pub struct Columns<'a, T> {
    /// Log-probability under the policy.
    pub logp: &'a [T],
    /// That before the update.
    pub old: &'a [T],
    /// Advantage.
    pub advantage: &'a [T],
    /// Log-probability under the reference.
    pub reference: Option<&'a [T]>,
    /// Log-probability when it was sampled; `old` where it is absent.
    pub sampled: Option<&'a [T]>,
    /// 1 where the policy term counts, else 0.
    pub keep: Option<&'a [T]>,
}

/// What a whole completion says to each of its tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Whole<T> {
    /// What a gradient that is shared by all tokens is divided by.
    pub tokens: T,
    /// Mean log-ratio.
    pub mean: T,
    /// Off-policy mask times correction.
    pub factor: T,
    /// The gamma weight.
    pub phi: T,
    /// The geometric mean of clipped ratios.
    pub geometric: T,
}

impl<T: Real> Whole<T> {
    /// For losses that ask nothing of completions.
    pub fn nothing() -> Self {
        let one = T::one();
        Whole { tokens: one, mean: T::zero(), factor: one, phi: one, geometric: one }
    }
}

/// One token's contribution and its derivatives with respect to `logp`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenLoss<T> {
    /// The loss before weighting.
    pub loss: T,
    /// Derivative of the policy term through the ratio.
    pub through_ratio: T,
    /// Derivative of the policy term past the ratio.
    pub direct: T,
    /// Estimate of the KL, with the ratio if it is in the loss; 0 without a reference.
    pub kl: T,
    /// Derivative of the KL term through the ratio, before its weight.
    pub kl_through_ratio: T,
    /// Derivative of the KL term past the ratio, before its weight.
    pub kl_direct: T,
    /// Share of a gradient that goes to all tokens of the completion: 0 or 1.
    pub gate: T,
    /// −1 if the lower clip took the gradient away, 1 if the upper one did, else 0.
    pub clipped: i8,
    /// Weight of a sample of another distribution; 1 without one.
    pub correction: T,
}

/// The policy term of a token.
struct Policy<T> {
    loss: T,
    through_ratio: T,
    direct: T,
    clipped: i8,
    gate: T,
}

impl Correction {
    /// A ratio cut to the range.
    fn cut<T: Real>(&self, ratio: T) -> T {
        let (min, max) = (T::of(self.min), T::of(self.max));
        match self.mask {
            true if ratio < min || ratio > max => T::zero(),
            true => ratio,
            false => ratio.max(min).min(max),
        }
    }
}

impl Surrogate {
    /// −1, 1 or 0: which side of the clip takes a token's gradient away.
    fn clipped<T: Real>(x: T, low: T, high: T, advantage: T) -> i8 {
        if x < low && advantage < T::zero() {
            -1
        } else if x > high && advantage > T::zero() {
            1
        } else {
            0
        }
    }

    fn policy<T: Real>(
        &self,
        ratio: T,
        log_ratio: T,
        logp: T,
        a: T,
        whole: &Whole<T>,
    ) -> Policy<T> {
        let (one, zero) = (T::one(), T::zero());
        let none = Policy { loss: zero, through_ratio: zero, direct: zero, clipped: 0, gate: one };
        match *self {
            Surrogate::Clip { low, high, cap_positive, cap_negative } => {
                let (low, high) = (T::of(low), T::of(high));
                let cap = T::of(if a < zero { cap_negative } else { cap_positive });
                let capped = ratio.min(cap);
                let clipped = Self::clipped(capped, low, high, a);
                let bounded = ratio.max(low).min(high);
                let loss = -(capped * a).min(bounded * a);
                let free = clipped == 0 && ratio <= cap;
                let through_ratio = if free { -(ratio * a) } else { zero };
                Policy { loss, through_ratio, clipped, ..none }
            }
            Surrogate::Cispo { low, high } => {
                let (low, high) = (T::of(low), T::of(high));
                let direct = -(ratio.max(low).min(high) * a);
                let clipped = Self::clipped(ratio, low, high, a);
                Policy { loss: direct * logp, direct, clipped, ..none }
            }
            Surrogate::Sapo { positive, negative } => {
                let t = T::of(if a > zero { positive } else { negative });
                let s = one / (one + (-(t * (ratio - one))).exp());
                let four = T::of(4.0);
                let slope = four * s * (one - s);
                Policy { loss: -(four / t * s * a), through_ratio: -(slope * a * ratio), ..none }
            }
            Surrogate::Vespo { .. } => {
                let direct = -(whole.phi * a);
                Policy { loss: direct * logp, direct, ..none }
            }
            Surrogate::Geometric { low, high } => {
                let clipped = Self::clipped(log_ratio, T::of(low), T::of(high), a);
                let loss = -(a * whole.geometric);
                // Not below the range where A is 0: there it is clipped, as in TRL 1.16.
                let held = clipped != 0 || (a == zero && log_ratio < T::of(low));
                let gate = if held { zero } else { one };
                Policy { loss, through_ratio: loss, clipped, gate, ..none }
            }
            Surrogate::Plain => Policy { loss: -(a * logp), direct: -a, ..none },
        }
    }
}

impl KlEstimator {
    /// The estimate for a token.
    pub fn value(self, logp: f64, reference: f64) -> f64 {
        self.estimate(logp, reference).0
    }

    /// The estimate and its derivative with respect to `logp`.
    fn estimate<T: Real>(self, logp: T, reference: T) -> (T, T) {
        let one = T::one();
        let gap = reference - logp;
        match self {
            KlEstimator::K1 => (-gap, one),
            KlEstimator::K2 => (T::of(0.5) * gap * gap, -gap),
            KlEstimator::K3 => (gap.exp() - gap - one, one - gap.exp()),
        }
    }
}

/// The formula of a loss: what [`super::GrpoLoss`] is made of.
pub(super) struct Formula<'a>(pub &'a super::GrpoLoss);

impl Formula<'_> {
    /// The log-ratio of a token, as the geometric mean takes it.
    fn clipped_log<T: Real>(&self, log_ratio: T, advantage: T) -> T {
        let Surrogate::Geometric { low, high } = self.0.surrogate else { return log_ratio };
        let bounded = log_ratio.max(T::of(low)).min(T::of(high));
        match advantage > T::zero() {
            true => log_ratio.min(bounded),
            false => log_ratio.max(bounded),
        }
    }

    /// Weight of a token that another distribution drew.
    fn token_correction<T: Real>(&self, c: &Columns<T>, t: usize) -> T {
        match (self.0.correction, c.sampled) {
            (Some(k), Some(s)) if k.level == CorrectionLevel::Token => {
                k.cut((c.old[t] - s[t]).exp())
            }
            _ => T::one(),
        }
    }

    /// What the tokens `range` of one completion come to together. Sums are taken in doubles.
    pub fn whole<T: Real>(&self, c: &Columns<T>, range: Range<usize>) -> Whole<T> {
        let a = range.clone().next().map_or(T::zero(), |t| c.advantage[t]);
        let n = range.len().max(1) as f64;
        let keep = |t: usize| c.keep.map_or(1.0, |k| k[t].wide());
        let (mut log, mut drift, mut apart, mut held) = (0.0, 0.0, 0.0, 0.0);
        let (mut bounded, mut kept) = (0.0, 0.0);
        for t in range {
            let x = c.logp[t] - c.old[t];
            log += x.wide();
            held += x.wide().clamp(-LOG_MOST, LOG_MOST);
            let correction = self.token_correction(c, t);
            held += correction.wide().ln().clamp(LOG_LEAST, LOG_MOST);
            let drawn = c.sampled.map_or(c.old[t], |s| s[t]);
            drift += (drawn - c.logp[t]).wide();
            apart += (c.old[t] - drawn).wide();
            bounded += keep(t) * self.clipped_log(x, a).wide();
            kept += keep(t);
        }
        let geometric = matches!(self.0.surrogate, Surrogate::Geometric { .. });
        let mut factor = T::one();
        if let Some(k) = self.0.correction.filter(|k| k.level == CorrectionLevel::Sequence) {
            factor = k.cut(T::of(apart).exp());
        }
        if self.0.off_policy.is_some_and(|most| a < T::zero() && T::of(drift / n) > T::of(most)) {
            factor = T::zero();
        }
        Whole {
            tokens: T::of(if geometric { kept.max(1.0) } else { n }),
            mean: T::of(log / n),
            factor,
            phi: self.phi(T::of(held), a),
            geometric: T::of(bounded / kept.max(1.0)).exp(),
        }
    }

    /// The gamma weight of a completion with this sum of log-ratios.
    fn phi<T: Real>(&self, log: T, advantage: T) -> T {
        let Surrogate::Vespo { positive, negative } = self.0.surrogate else { return T::one() };
        let [k, lambda] = if advantage < T::zero() { negative } else { positive };
        let (k, lambda) = (T::of(k), T::of(lambda.max(LEAST_LAMBDA)));
        let log = log.max(T::of(LOG_LEAST)).min(T::of(LOG_MOST));
        let phi = (lambda + k * log - lambda * log.exp()).exp();
        if phi.is_finite() { phi } else { T::zero() }
    }

    /// One token of a completion.
    pub fn token<T: Real>(&self, c: &Columns<T>, t: usize, whole: &Whole<T>) -> TokenLoss<T> {
        let (logp, advantage) = (c.logp[t], c.advantage[t]);
        let log_ratio = logp - c.old[t];
        let ratio = match self.0.level {
            Level::Token => log_ratio.exp(),
            _ => whole.mean.exp(),
        };
        let p = self.0.surrogate.policy(ratio, log_ratio, logp, advantage, whole);
        let (keep, mut gate) = (c.keep.map_or(T::one(), |k| k[t]), p.gate);
        let mut correction = self.token_correction(c, t);
        let mut factor = whole.factor;
        match self.0.surrogate {
            // It is in the weight of the completion already.
            Surrogate::Vespo { .. } => factor *= keep,
            // What does not count is not in the mean.
            Surrogate::Geometric { .. } => {
                factor *= correction;
                gate *= keep;
            }
            _ => factor *= keep * correction,
        }
        if self.0.correction.is_some_and(|k| k.level == CorrectionLevel::Sequence) {
            correction = whole.factor;
        }
        let mut out = TokenLoss {
            loss: factor * p.loss,
            through_ratio: factor * p.through_ratio,
            direct: factor * p.direct,
            kl: T::zero(),
            kl_through_ratio: T::zero(),
            kl_direct: T::zero(),
            gate,
            clipped: p.clipped,
            correction,
        };
        let (Some(term), Some(reference)) = (self.0.kl, c.reference) else { return out };
        let (estimate, slope) = term.estimator.estimate(logp, reference[t]);
        let weight = if term.ratio { ratio } else { T::one() };
        out.kl = estimate * weight;
        out.kl_through_ratio = if term.ratio { out.kl } else { T::zero() };
        out.kl_direct = weight * slope;
        out.loss += T::of(term.beta) * out.kl;
        out
    }
}
