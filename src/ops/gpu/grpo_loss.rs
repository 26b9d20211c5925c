//! Launches of the policy loss (`kernels/common/loss.cu`). Losses that look at single tokens have a
//! thread per token; those that look at completions have a block per completion, whose sums are in
//! one order. Computes nothing.

use crate::device::DevicePtr;
use crate::ops::gpu::int;
use crate::ops::grpo_loss::{CorrectionLevel, GrpoLoss, KlEstimator, Level, Surrogate};
use crate::ops::{Launcher, TensorType};

const MODULE: &str = "loss";
/// `LOSS_THREADS`.
const THREADS: usize = 512;

/// As in the kernels.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct GrpoLossArgs {
    logp: DevicePtr,
    old: DevicePtr,
    advantage: DevicePtr,
    weight: DevicePtr,
    reference: DevicePtr,
    sampled: DevicePtr,
    keep: DevicePtr,
    starts: DevicePtr,
    dloss: DevicePtr,
    out: DevicePtr,
    sums: DevicePtr,
    tokens: i32,
    completions: i32,
    surrogate: i32,
    level: i32,
    estimator: i32,
    kl_ratio: i32,
    correction: i32,
    off_policy: i32,
    p0: f32,
    p1: f32,
    p2: f32,
    p3: f32,
    beta: f32,
    drift_most: f32,
    correction_min: f32,
    correction_max: f32,
}
const _: () = assert!(size_of::<GrpoLossArgs>() == 152);

/// Number of a surrogate, and its four parameters, as `grpo_policy` reads them.
fn surrogate(s: &Surrogate) -> (i32, [f32; 4]) {
    let (number, p) = match *s {
        Surrogate::Clip { low, high, cap_positive, cap_negative } => {
            (0, [low, high, cap_positive, cap_negative])
        }
        Surrogate::Cispo { low, high } => (1, [low, high, 0.0, 0.0]),
        Surrogate::Sapo { positive, negative } => (2, [positive, negative, 0.0, 0.0]),
        Surrogate::Vespo { positive: [k, lambda], negative: [k_neg, lambda_neg] } => {
            (3, [k, lambda, k_neg, lambda_neg])
        }
        Surrogate::Geometric { low, high } => (4, [low, high, 0.0, 0.0]),
        Surrogate::Plain => (5, [0.0; 4]),
    };
    (number, p.map(|x| x as f32))
}

fn args(op: &GrpoLoss, k: &Launcher, dloss: DevicePtr) -> GrpoLossArgs {
    let [reference, sampled, keep, starts] = op.optional();
    let at = |i: Option<usize>| i.map_or(DevicePtr::NULL, |i| k.input(i));
    let (number, p) = surrogate(&op.surrogate);
    let c = op.correction;
    GrpoLossArgs {
        logp: k.input(0),
        old: k.input(1),
        advantage: k.input(2),
        weight: k.input(3),
        reference: at(reference),
        sampled: at(sampled),
        keep: at(keep),
        starts: at(starts),
        dloss,
        out: k.output(0),
        sums: DevicePtr::NULL,
        tokens: int(k.in_type(0).len()),
        completions: int(starts.map_or(1, |i| k.in_type(i).len() - 1)),
        surrogate: number,
        level: match op.level {
            Level::Token => 0,
            Level::Sequence => 1,
            Level::SequenceToken => 2,
        },
        estimator: match op.kl.map(|k| k.estimator) {
            Some(KlEstimator::K1) => 1,
            Some(KlEstimator::K2) => 2,
            _ => 3,
        },
        kl_ratio: i32::from(op.kl.is_some_and(|k| k.ratio)),
        correction: c.map_or(0, |c| {
            let level = if c.level == CorrectionLevel::Token { 1 } else { 3 };
            level + i32::from(c.mask)
        }),
        off_policy: i32::from(op.off_policy.is_some()),
        p0: p[0],
        p1: p[1],
        p2: p[2],
        p3: p[3],
        beta: op.kl.map_or(0.0, |k| k.beta) as f32,
        drift_most: op.off_policy.unwrap_or(0.0) as f32,
        correction_min: c.map_or(0.0, |c| c.min) as f32,
        correction_max: c.map_or(0.0, |c| c.max) as f32,
    }
}

/// Scratch of the forward pass: a double per completion.
pub fn forward_work(op: &GrpoLoss, inputs: &[&TensorType]) -> usize {
    op.optional()[3].map_or(0, |i| (inputs[i].len() - 1) * 8)
}

/// Enqueues the forward pass.
pub fn launch_forward(op: &GrpoLoss, k: &mut Launcher) {
    let mut args = args(op, k, DevicePtr::NULL);
    if !op.needs_starts() {
        k.kernel(MODULE, "grpo_loss_fwd_f32", [1, 1, 1], THREADS, &args);
        return;
    }
    args.sums = k.work();
    let completions = args.completions as usize;
    k.kernel(MODULE, "grpo_loss_whole_fwd_f32", [completions, 1, 1], THREADS, &args);
    k.kernel(MODULE, "grpo_loss_whole_sum_f32", [1, 1, 1], THREADS, &args);
}

/// Enqueues the backward pass.
pub fn launch_backward(op: &GrpoLoss, k: &mut Launcher, dloss: DevicePtr) {
    let args = args(op, k, dloss);
    if op.needs_starts() {
        let completions = args.completions as usize;
        k.kernel(MODULE, "grpo_loss_whole_bwd_f32", [completions, 1, 1], THREADS, &args);
    } else {
        let blocks = k.in_type(0).len().div_ceil(256);
        k.kernel(MODULE, "grpo_loss_bwd_f32", [blocks, 1, 1], 256, &args);
    }
}
