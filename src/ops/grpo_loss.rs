//! The clipped GRPO surrogate with its KL penalty, per token, summed with given weights. How tokens
//! are averaged (`grpo`, `dapo`, …) is data: it lies in the weights, which the trainer computes once
//! for the whole batch, so that micro-batches cannot change the result.
//!
//! `ρ = exp(logp − old)`, `l = −min(ρA, clip(ρ, 1−ε, 1+ε_high)A) + β·k3·(ρ or 1)`,
//! `k3 = exp(ref − logp) − (ref − logp) − 1`; loss `= Σ w·l` (DeepSeekMath, arXiv 2402.03300, eq. 3
//! and 4; DAPO, arXiv 2503.14476, eq. 8; the factor ρ on the KL as in TRL 1.16
//! `use_bias_correction_kl`). T tokens.

use crate::base::{DType, Error, Result, Tolerance};
use crate::device::DevicePtr;
use crate::ops::{Backward, Case, Fill, Io, Launcher, Op, OpSpec, Real, Slot, TensorType, gpu};
use std::sync::Arc;

/// Inputs, all `[T,1]`: `logp`, `old`, `advantage`, `weight` and, if `beta` is not 0, `ref`.
/// Output: `loss[1,1]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GrpoLoss {
    /// Lower clip range ε.
    pub epsilon: f64,
    /// Upper clip range.
    pub epsilon_high: f64,
    /// Weight of the KL penalty.
    pub beta: f64,
    /// Whether the KL term carries the ratio, which makes its gradient unbiased off policy.
    pub kl_ratio: bool,
}

/// One token's contribution and its derivative with respect to `logp`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenLoss<T> {
    /// The loss before weighting.
    pub loss: T,
    /// Its derivative.
    pub slope: T,
    /// k3 estimate, with the ratio if it is in the loss; 0 without a reference.
    pub kl: T,
    /// −1 if the lower clip took the gradient away, 1 if the upper one did, else 0.
    pub clipped: i8,
}

impl GrpoLoss {
    /// The formula for one token.
    pub fn token<T: Real>(
        &self,
        logp: T,
        old: T,
        advantage: T,
        reference: Option<T>,
    ) -> TokenLoss<T> {
        let (one, zero) = (T::one(), T::zero());
        let ratio = (logp - old).exp();
        let (low, high) = (T::of(1.0 - self.epsilon), T::of(1.0 + self.epsilon_high));
        let clipped = if ratio < low && advantage < zero {
            -1
        } else if ratio > high && advantage > zero {
            1
        } else {
            0
        };
        let bounded = ratio.max(low).min(high);
        let loss = -(ratio * advantage).min(bounded * advantage);
        let slope = if clipped == 0 { -(ratio * advantage) } else { zero };
        let Some(reference) = reference else {
            return TokenLoss { loss, slope, kl: zero, clipped };
        };
        let gap = reference - logp;
        let k3 = gap.exp() - gap - one;
        let factor = if self.kl_ratio { ratio } else { one };
        let kl = k3 * factor;
        let through_ratio = if self.kl_ratio { kl } else { zero };
        let dkl = through_ratio + factor * (one - gap.exp());
        let beta = T::of(self.beta);
        TokenLoss { loss: loss + beta * kl, slope: slope + beta * dkl, kl, clipped }
    }

    fn each<T: Real>(&self, io: &Io, mut f: impl FnMut(usize, T, TokenLoss<T>)) {
        let (logp, old) = (io.input::<T>(0), io.input::<T>(1));
        let (advantage, weight) = (io.input::<T>(2), io.input::<T>(3));
        let reference = (self.beta != 0.0).then(|| io.input::<T>(4));
        for t in 0..logp.len() {
            f(t, weight[t], self.token(logp[t], old[t], advantage[t], reference.map(|r| r[t])));
        }
    }

    /// Arguments of both kernels.
    fn args(&self, k: &Launcher, dloss: DevicePtr) -> GrpoLossArgs {
        GrpoLossArgs {
            logp: k.input(0),
            old: k.input(1),
            advantage: k.input(2),
            weight: k.input(3),
            reference: if self.beta == 0.0 { DevicePtr::NULL } else { k.input(4) },
            dloss,
            out: k.output(0),
            tokens: gpu::int(k.in_type(0).len()),
            kl_ratio: i32::from(self.kl_ratio),
            low: (1.0 - self.epsilon) as f32,
            high: (1.0 + self.epsilon_high) as f32,
            beta: self.beta as f32,
            unused: 0,
        }
    }

    fn fwd<T: Real>(&self, io: &Io) {
        // Summed in double: thousands of tokens, one number.
        let mut sum = 0.0;
        self.each::<T>(io, |_, w, l| sum += w.wide() * l.loss.wide());
        io.output::<T>(0)[0] = T::of(sum);
    }
}

/// As in the kernels.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct GrpoLossArgs {
    logp: DevicePtr,
    old: DevicePtr,
    advantage: DevicePtr,
    weight: DevicePtr,
    reference: DevicePtr,
    dloss: DevicePtr,
    out: DevicePtr,
    tokens: i32,
    kl_ratio: i32,
    low: f32,
    high: f32,
    beta: f32,
    unused: i32,
}
const _: () = assert!(size_of::<GrpoLossArgs>() == 80);

impl Op for GrpoLoss {
    fn name(&self) -> &'static str {
        "grpo_loss"
    }
    fn infer(&self, i: &[&TensorType]) -> Result<Vec<TensorType>> {
        let want = if self.beta == 0.0 { 4 } else { 5 };
        if i.len() != want || i.iter().any(|t| t.len() != i[0].len()) {
            return Err(Error::internal("grpo_loss: inputs do not fit")
                .expected(format!("{want} columns of one length"))
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
        let args = self.args(k, DevicePtr::NULL);
        k.kernel("loss", "grpo_loss_fwd_f32", [1, 1, 1], 512, &args);
        Ok(())
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
        let out = io.output::<T>(0);
        self.0.each::<T>(io, |t, w, l| out[t] = dloss * w * l.slope);
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
        let args = self.0.args(k, k.input(k.num_inputs() - 1));
        let blocks = k.in_type(0).len().div_ceil(256);
        k.kernel("loss", "grpo_loss_bwd_f32", [blocks, 1, 1], 256, &args);
        Ok(())
    }
}

fn cases() -> Vec<Case> {
    let case = |label, beta, kl_ratio| {
        let t = 7;
        let op = GrpoLoss { epsilon: 0.2, epsilon_high: 0.28, beta, kl_ratio };
        // Ratios on both sides of both clip bounds, none on a kink.
        let logp = vec![-1.0, -2.0, -0.5, -3.0, -1.5, -0.7, -2.2];
        let old = vec![-1.1, -1.5, -0.9, -3.05, -1.2, -1.3, -2.2];
        let advantage = vec![1.0, -1.0, 0.5, -0.7, 1.2, -0.3, 0.9];
        let mut inputs = vec![
            (vec![t, 1], Fill::Values(logp).beside(), true),
            (vec![t, 1], Fill::Values(old).beside(), false),
            (vec![t, 1], Fill::Values(advantage).beside(), false),
            (vec![t, 1], Fill::Values(vec![0.1, 0.2, 0.0, 0.3, 0.1, 0.2, 0.1]).beside(), false),
        ];
        if beta != 0.0 {
            let reference = vec![-1.3, -1.9, -0.5, -2.0, -1.6, -0.9, -2.5];
            inputs.push((vec![t, 1], Fill::Values(reference).beside(), false));
        }
        Case { label, op: Arc::new(op), inputs }
    };
    vec![
        case("no reference", 0.0, false),
        case("KL", 0.04, false),
        case("KL with ratio", 0.1, true),
    ]
}

/// Sizes of real models.
fn bench() -> Vec<Case> {
    let column = || (vec![8192, 1], Fill::Normal(0.1).beside(), false);
    let logp = (vec![8192, 1], Fill::Normal(0.1).beside(), true);
    let op = GrpoLoss { epsilon: 0.2, epsilon_high: 0.2, beta: 0.04, kl_ratio: false };
    vec![Case {
        label: "8192 tokens",
        op: Arc::new(op),
        inputs: vec![logp, column(), column(), column(), column()],
    }]
}

/// Row of the op table.
pub static SPEC: OpSpec = OpSpec {
    name: "grpo_loss",
    doc: "clipped surrogate with KL penalty, weighted sum over tokens",
    cases,
    tolerance: Tolerance { abs: 1e-7, rel: 2e-6 },
    bf16_roundings: 1,
    bench,
};
