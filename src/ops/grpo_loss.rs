//! The policy loss of GRPO and its relatives, with a KL penalty, summed with given weights. How tokens
//! are averaged (`grpo`, `dapo`, …) is data: it lies in the weights, which the trainer computes once
//! for the whole batch, so that micro-batches cannot change the result. What a token's term is, and over
//! what its ratio is taken, are attributes; `formula` has them with their papers.
//!
//! Loss `= Σ w·(mask·correction·policy + β·kl·(ρ or 1))`, in the order of TRL 1.16
//! (`GRPOTrainer._compute_loss`). T tokens of S completions.

pub mod cases; // test inputs
pub mod formula; // what a token adds

use crate::base::{DType, Error, Result, Tolerance};
use crate::device::DevicePtr;
use crate::ops::gpu::grpo_loss as gpu;
use crate::ops::{Backward, Io, Launcher, Op, OpSpec, Real, Slot, TensorType};
pub use formula::{
    Columns, Correction, CorrectionLevel, KlEstimator, KlTerm, Level, Surrogate, TokenLoss, Whole,
};
use std::ops::Range;

/// Inputs `[T,1]`: `logp`, `old`, `advantage`, `weight`; then those that the attributes ask for, in this
/// order: `ref` (with a KL term), `sampled`, `keep`, and `starts[S+1,1]`, the first token of each
/// completion and the number of tokens. Output: `loss[1,1]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GrpoLoss {
    /// The policy term.
    pub surrogate: Surrogate,
    /// Over what the ratio is taken.
    pub level: Level,
    /// The penalty for leaving the reference.
    pub kl: Option<KlTerm>,
    /// Completions with a negative advantage whose mean `sampled − logp` is larger count nothing
    /// (DeepSeek-V3.2, arXiv 2512.02556, eq. 9).
    pub off_policy: Option<f64>,
    /// Weight of samples of another distribution.
    pub correction: Option<Correction>,
    /// Whether log-probabilities at sampling are given beside `old`.
    pub sampled: bool,
    /// Whether some tokens' policy terms count nothing (the KL term does).
    pub keep: bool,
}

impl GrpoLoss {
    /// The clipped loss of GRPO, with a ratio per token and no penalty.
    pub fn clipped(epsilon: f64, epsilon_high: f64) -> Self {
        GrpoLoss::of(Surrogate::Clip {
            low: 1.0 - epsilon,
            high: 1.0 + epsilon_high,
            cap_positive: f64::INFINITY,
            cap_negative: f64::INFINITY,
        })
    }

    /// A loss with a ratio per token and nothing else.
    pub fn of(surrogate: Surrogate) -> Self {
        GrpoLoss {
            surrogate,
            level: Level::Token,
            kl: None,
            off_policy: None,
            correction: None,
            sampled: false,
            keep: false,
        }
    }

    /// The same with the k3 estimate of the KL.
    pub fn with_k3(self, beta: f64, ratio: bool) -> Self {
        GrpoLoss { kl: Some(KlTerm { beta, estimator: KlEstimator::K3, ratio }), ..self }
    }

    /// Whether it must know where completions begin.
    pub fn needs_starts(&self) -> bool {
        let whole = matches!(self.surrogate, Surrogate::Vespo { .. } | Surrogate::Geometric { .. });
        let corrects = self.correction.is_some_and(|c| c.level == CorrectionLevel::Sequence);
        self.level != Level::Token || self.off_policy.is_some() || whole || corrects
    }

    /// Whether the gradient of a token's ratio goes to all tokens of its completion.
    pub fn shares(&self) -> bool {
        self.level == Level::Sequence || matches!(self.surrogate, Surrogate::Geometric { .. })
    }

    /// What a whole completion, the tokens `range`, says to each of its tokens.
    pub fn whole<T: Real>(&self, columns: &Columns<T>, range: Range<usize>) -> Whole<T> {
        match self.needs_starts() {
            true => formula::Formula(self).whole(columns, range),
            false => Whole::nothing(),
        }
    }

    /// The formula for one token of a completion.
    pub fn token<T: Real>(&self, columns: &Columns<T>, t: usize, whole: &Whole<T>) -> TokenLoss<T> {
        formula::Formula(self).token(columns, t, whole)
    }

    /// Places of the columns that are not always there: `ref`, `sampled`, `keep`, `starts`.
    pub(crate) fn optional(&self) -> [Option<usize>; 4] {
        let mut next = 4;
        let wanted = [self.kl.is_some(), self.sampled, self.keep, self.needs_starts()];
        wanted.map(|there| {
            there.then(|| {
                next += 1;
                next - 1
            })
        })
    }

    /// Number of inputs.
    fn inputs(&self) -> usize {
        4 + self.optional().iter().flatten().count()
    }

    fn columns<'a, T: Real>(&self, io: &Io<'a>) -> Columns<'a, T> {
        let [reference, sampled, keep, _] = self.optional();
        let [reference, sampled, keep] =
            [reference, sampled, keep].map(|i| i.map(|i| io.input::<T>(i)));
        Columns {
            logp: io.input(0),
            old: io.input(1),
            advantage: io.input(2),
            reference,
            sampled,
            keep,
        }
    }

    /// Tokens of each completion; all together where it does not matter.
    fn completions(&self, io: &Io) -> Vec<Range<usize>> {
        let Some(at) = self.optional()[3] else {
            return std::iter::once(0..io.in_type(0).len()).collect();
        };
        let starts = io.input::<i32>(at);
        starts.windows(2).map(|w| w[0] as usize..w[1] as usize).collect()
    }

    fn fwd<T: Real>(&self, io: &Io) {
        let (columns, weight) = (self.columns::<T>(io), io.input::<T>(3));
        // Summed in double: thousands of tokens, one number.
        let mut sum = 0.0;
        for range in self.completions(io) {
            let whole = self.whole(&columns, range.clone());
            for t in range {
                sum += weight[t].wide() * self.token(&columns, t, &whole).loss.wide();
            }
        }
        io.output::<T>(0)[0] = T::of(sum);
    }
}

impl Op for GrpoLoss {
    fn name(&self) -> &'static str {
        "grpo_loss"
    }
    fn infer(&self, i: &[&TensorType]) -> Result<Vec<TensorType>> {
        let columns = self.inputs() - usize::from(self.needs_starts());
        let fits = i.len() == self.inputs()
            && i[..columns].iter().all(|t| t.len() == i[0].len())
            && i[columns..].iter().all(|t| t.dtype == DType::I32 && !t.is_empty());
        if !fits || (self.correction.is_some() && !self.sampled) {
            return Err(Error::internal("grpo_loss: inputs do not fit")
                .expected(format!("{columns} columns of one length, and starts if they are needed"))
                .found(format!("{:?}", i.iter().map(|t| &t.shape).collect::<Vec<_>>())));
        }
        Ok(vec![TensorType::matrix(1, 1, i[0].dtype)])
    }
    fn run(&self, io: &Io) {
        match io.float_type() {
            DType::F64 => self.fwd::<f64>(io),
            _ => self.fwd::<f32>(io),
        }
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        gpu::launch_forward(self, k);
        Ok(())
    }
    fn gpu_work(&self, inputs: &[&TensorType], _: &[&TensorType]) -> usize {
        gpu::forward_work(self, inputs)
    }
    fn backward(&self, b: &mut Backward) -> Result<Vec<Option<Slot>>> {
        let mut out = vec![None; b.inputs.len()];
        if let Some(dloss) = b.grads[0] {
            let inputs: Vec<Slot> = b.inputs.iter().copied().chain([dloss]).collect();
            out[0] = Some(b.emit1(GrpoLossBwd(*self), &inputs)?);
        }
        Ok(out)
    }
}

/// Inputs: those of the loss and `dloss[1,1]`; output `dlogp[T,1]`.
#[derive(Debug, Clone, Copy)]
struct GrpoLossBwd(GrpoLoss);

impl GrpoLossBwd {
    fn go<T: Real>(&self, io: &Io) {
        let dloss = io.input::<T>(io.num_inputs() - 1)[0];
        let (op, out) = (&self.0, io.output::<T>(0));
        let (columns, weight) = (op.columns::<T>(io), io.input::<T>(3));
        let beta = T::of(op.kl.map_or(0.0, |k| k.beta));
        for range in op.completions(io) {
            let whole = op.whole(&columns, range.clone());
            let token = |t: usize| op.token(&columns, t, &whole);
            if !op.shares() {
                for t in range {
                    let l = token(t);
                    let slope = l.through_ratio + l.direct;
                    let slope = slope + beta * (l.kl_through_ratio + l.kl_direct);
                    out[t] = dloss * weight[t] * slope;
                }
                continue;
            }
            let through = |t: usize| {
                let l = token(t);
                (weight[t] * (l.through_ratio + beta * l.kl_through_ratio)).wide()
            };
            let shared = T::of(range.clone().map(through).sum::<f64>()) / whole.tokens;
            for t in range {
                let l = token(t);
                let own = weight[t] * (l.direct + beta * l.kl_direct);
                out[t] = dloss * (own + l.gate * shared);
            }
        }
    }
}

impl Op for GrpoLossBwd {
    fn name(&self) -> &'static str {
        "grpo_loss_bwd"
    }
    fn infer(&self, i: &[&TensorType]) -> Result<Vec<TensorType>> {
        Ok(vec![i[0].clone()])
    }
    fn run(&self, io: &Io) {
        match io.float_type() {
            DType::F64 => self.go::<f64>(io),
            _ => self.go::<f32>(io),
        }
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        let dloss: DevicePtr = k.input(k.num_inputs() - 1);
        gpu::launch_backward(&self.0, k, dloss);
        Ok(())
    }
}

/// Row of the op table.
pub static SPEC: OpSpec = OpSpec {
    name: "grpo_loss",
    doc: "policy loss with KL penalty, weighted sum over tokens",
    cases: cases::cases,
    tolerance: Tolerance { abs: 1e-7, rel: 2e-6 },
    bf16_roundings: 1,
    bench: cases::bench,
};
