//! Test inputs of the policy loss: every surrogate, level, estimate and mask, with ratios on both sides
//! of every bound and none on a kink. A label that ends in `detached` says that the gradient is on purpose
//! not the slope of the value, because a weight is held fixed: differences say nothing there.

use super::{Correction, CorrectionLevel, GrpoLoss, KlEstimator, KlTerm, Level, Surrogate};
use crate::ops::{Case, Fill};
use std::sync::Arc;

/// A column beside the activations.
type Input = (Vec<usize>, Fill, bool);

fn column(values: Vec<f64>) -> Input {
    (vec![values.len(), 1], Fill::Values(values).beside(), false)
}

/// Seven tokens of three completions; advantages change within a completion where `op` looks at
/// tokens alone.
fn case(label: &'static str, op: GrpoLoss) -> Case {
    let logp = vec![-1.0, -2.0, -0.5, -3.0, -1.5, -0.7, -2.2];
    let advantage = match op.needs_starts() {
        true => vec![1.0, 1.0, 1.0, -0.7, -0.7, 0.9, 0.9],
        false => vec![1.0, -1.0, 0.5, -0.7, 1.2, -0.3, 0.9],
    };
    let mut inputs = vec![
        (vec![7, 1], Fill::Values(logp).beside(), true),
        column(vec![-1.1, -1.5, -0.9, -3.05, -1.2, -1.3, -2.2]),
        column(advantage),
        column(vec![0.1, 0.2, 0.0, 0.3, 0.1, 0.2, 0.1]),
    ];
    if op.kl.is_some() {
        inputs.push(column(vec![-1.3, -1.9, -0.5, -2.0, -1.6, -0.9, -2.5]));
    }
    if op.sampled {
        inputs.push(column(vec![-1.15, -1.7, -0.6, -2.6, -1.35, -1.35, -1.9]));
    }
    if op.keep {
        inputs.push(column(vec![1.0, 1.0, 0.0, 1.0, 0.0, 1.0, 1.0]));
    }
    if op.needs_starts() {
        inputs.push((vec![4, 1], Fill::Ints(vec![0, 3, 5, 7]), false));
    }
    Case { label, op: Arc::new(op), inputs }
}

const CLIP: Surrogate = Surrogate::Clip {
    low: 0.8,
    high: 1.28,
    cap_positive: f64::INFINITY,
    cap_negative: f64::INFINITY,
};
const VESPO: Surrogate = Surrogate::Vespo { positive: [2.0, 3.0], negative: [3.0, 2.0] };

fn kl(estimator: KlEstimator, ratio: bool) -> Option<KlTerm> {
    Some(KlTerm { beta: 0.1, estimator, ratio })
}

fn correction(level: CorrectionLevel, mask: bool) -> Option<Correction> {
    Some(Correction { level, mask, min: 0.9, max: 1.2 })
}

/// Test inputs.
pub fn cases() -> Vec<Case> {
    use KlEstimator::{K1, K2, K3};
    let clip = GrpoLoss::of(CLIP);
    let sequence = GrpoLoss { level: Level::Sequence, ..clip };
    let capped = |cap_positive: f64, cap_negative: f64| {
        GrpoLoss::of(Surrogate::Clip { low: 0.8, high: 1.28, cap_positive, cap_negative })
    };
    let cispo = GrpoLoss::of(Surrogate::Cispo { low: 0.8, high: 1.2 });
    let sapo = GrpoLoss::of(Surrogate::Sapo { positive: 1.0, negative: 1.05 });
    let geometric = GrpoLoss::of(Surrogate::Geometric { low: -0.4, high: 0.3 });
    let plain = GrpoLoss::of(Surrogate::Plain);
    let vespo = GrpoLoss { sampled: true, ..GrpoLoss::of(VESPO) };
    let token = CorrectionLevel::Token;
    let whole = CorrectionLevel::Sequence;
    vec![
        case("no reference", clip),
        case("KL", clip.with_k3(0.04, false)),
        case("KL with ratio", clip.with_k3(0.1, true)),
        case("k1 with ratio", GrpoLoss { kl: kl(K1, true), ..clip }),
        case("k2", GrpoLoss { kl: kl(K2, false), ..clip }),
        case("both caps", capped(1.1, 1.4)),
        case("dual clip", capped(f64::INFINITY, 1.5)),
        case("tokens left out, KL", GrpoLoss { keep: true, kl: kl(K3, false), ..clip }),
        case("sequence", sequence),
        case("sequence, KL with ratio", sequence.with_k3(0.1, true)),
        case("sequence, caps", GrpoLoss { level: Level::Sequence, ..capped(1.05, 1.4) }),
        case("sequence, sapo", GrpoLoss { level: Level::Sequence, ..sapo }),
        case("sequence of tokens, detached", GrpoLoss { level: Level::SequenceToken, ..clip }),
        case(
            "sequence of tokens, k2 with ratio, detached",
            GrpoLoss { level: Level::SequenceToken, kl: kl(K2, true), ..clip },
        ),
        case("cispo, detached", cispo),
        case(
            "cispo of sequences, KL, detached",
            GrpoLoss { level: Level::Sequence, kl: kl(K3, true), ..cispo },
        ),
        case("sapo", sapo),
        case("sapo, KL with ratio", GrpoLoss { kl: kl(K3, true), ..sapo }),
        case("vespo, detached", GrpoLoss { sampled: false, ..vespo }),
        case(
            "vespo, corrected, detached",
            GrpoLoss { correction: correction(token, false), ..vespo },
        ),
        case(
            "vespo, masked, detached",
            GrpoLoss { correction: correction(token, true), keep: true, ..vespo },
        ),
        case("geometric mean", geometric),
        case(
            "geometric mean, tokens left out, KL",
            GrpoLoss { keep: true, kl: kl(K3, false), ..geometric },
        ),
        case("plain, k1", GrpoLoss { kl: kl(K1, false), ..plain }),
        case(
            "tokens corrected",
            GrpoLoss { sampled: true, correction: correction(token, false), ..clip },
        ),
        case(
            "tokens corrected by a mask",
            GrpoLoss { sampled: true, correction: correction(token, true), ..clip },
        ),
        case(
            "completions corrected",
            GrpoLoss { sampled: true, correction: correction(whole, false), ..clip },
        ),
        case(
            "completions corrected by a mask, KL",
            GrpoLoss {
                sampled: true,
                correction: correction(whole, true),
                kl: kl(K3, true),
                ..sequence
            },
        ),
        case("completions off policy", GrpoLoss { off_policy: Some(0.05), ..clip }),
        case(
            "completions not off policy",
            GrpoLoss { off_policy: Some(0.5), sampled: true, ..sequence },
        ),
    ]
}

/// Sizes of real models.
pub fn bench() -> Vec<Case> {
    let column = || (vec![8192, 1], Fill::Normal(0.1).beside(), false);
    let logp = || (vec![8192, 1], Fill::Normal(0.1).beside(), true);
    let op = GrpoLoss::clipped(0.2, 0.2).with_k3(0.04, false);
    let columns = vec![logp(), column(), column(), column(), column()];
    let starts = (0..=16).map(|i| i * 512).collect();
    let mut whole = columns.clone();
    whole.push((vec![17, 1], Fill::Ints(starts), false));
    vec![
        Case { label: "8192 tokens", op: Arc::new(op), inputs: columns },
        Case {
            label: "8192 tokens of 16 sequences",
            op: Arc::new(GrpoLoss { level: Level::Sequence, ..op }),
            inputs: whole,
        },
    ]
}
