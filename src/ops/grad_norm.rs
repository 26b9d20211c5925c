//! The L2 norm of all gradients together, and the coefficient that clips it, as
//! `torch.nn.utils.clip_grad_norm_`. Squares are summed in f64 over chunks of fixed size, the
//! chunks in order, so the norm has the same bits for any number of threads.

use super::cpu::rows::CHUNK;
use super::cpu::vectorised;
use super::shapes::{require, same_statistic};
use super::{Case, Cost, Fill, Io, Launcher, Op, OpSpec, Real, TensorType, gpu};
use crate::base::{DType, Result, Tolerance};
use crate::device::DevicePtr;
use rayon::prelude::*;
use std::sync::Arc;

/// Row of the op table.
pub static SPEC: OpSpec = OpSpec {
    name: "grad_norm",
    doc: "any number of gradients to [2] = (norm of all, coefficient that clips it to max_norm)",
    cases,
    tolerance: Tolerance::rel(2e-7),
    bf16_roundings: 1,
    bench,
};

/// Inputs: any number of gradients; output `[2]` = (norm, coefficient).
#[derive(Debug, Clone, Copy)]
pub struct GradNorm {
    /// Clip to this norm; 0 never clips.
    pub max_norm: f64,
}

/// Keeps the coefficient finite at norm 0; the value of `torch.nn.utils.clip_grad_norm_`.
const CLIP_EPS: f64 = 1e-6;

/// Running sums per chunk.
const CHAINS: usize = 16;

/// Elements whose squares a block sums: `NORM_CHUNK` of optimizer.cu.
const _: () = assert!(CHUNK == 16384);
/// As in the kernels.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct GradSquaresArgs {
    x: DevicePtr,
    sums: DevicePtr,
    n: i64,
}
const _: () = assert!(size_of::<GradSquaresArgs>() == 24);
/// As in the kernels.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct GradNormArgs {
    sums: DevicePtr,
    out: DevicePtr,
    max_norm: f64,
    eps: f64,
    count: i32,
    unused: i32,
}
const _: () = assert!(size_of::<GradNormArgs>() == 40);

impl Op for GradNorm {
    fn name(&self) -> &'static str {
        "grad_norm"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let ok = !inputs.is_empty() && same_statistic(inputs);
        require(ok, self.name(), inputs, "at least one gradient, all of one type")?;
        Ok(vec![TensorType { shape: vec![2], dtype: inputs[0].dtype }])
    }
    fn run(&self, io: &Io) {
        match io.float_type() {
            DType::F64 => self.measure::<f64>(io),
            _ => self.measure::<f32>(io),
        }
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        let mut count = 0;
        for i in 0..k.num_inputs() {
            let (x, n) = (k.input(i), k.in_type(i).len());
            let sums = k.work().offset(count * size_of::<f64>());
            let args = GradSquaresArgs { x, sums, n: n as i64 };
            let chunks = n.div_ceil(CHUNK);
            k.kernel("optimizer", "grad_squares_f32", [chunks, 1, 1], 256, &args);
            count += chunks;
        }
        let args = GradNormArgs {
            sums: k.work(),
            out: k.output(0),
            max_norm: self.max_norm,
            eps: CLIP_EPS,
            count: gpu::int(count),
            unused: 0,
        };
        k.kernel("optimizer", "grad_norm_f32", [1, 1, 1], 256, &args);
        Ok(())
    }
    fn gpu_work(&self, inputs: &[&TensorType], _: &[&TensorType]) -> usize {
        inputs.iter().map(|t| t.len().div_ceil(CHUNK)).sum::<usize>() * size_of::<f64>()
    }
    fn cost(&self, inputs: &[&TensorType], _: &[&TensorType]) -> Cost {
        let n: usize = inputs.iter().map(|t| t.len()).sum();
        Cost { flops: 2.0 * n as f64, bytes: (n * inputs[0].dtype.size()) as f64 }
    }
}

impl GradNorm {
    fn measure<T: Real>(&self, io: &Io) {
        let total: f64 = (0..io.num_inputs()).map(|i| sum_squares(io.input::<T>(i))).sum();
        let norm = total.sqrt();
        let coefficient = self.max_norm / (norm + CLIP_EPS);
        // Not `min`: a norm that is not a number must not pass as "no clipping".
        let coefficient = if self.max_norm == 0.0 || coefficient > 1.0 { 1.0 } else { coefficient };
        io.output::<T>(0).copy_from_slice(&[T::of(norm), T::of(coefficient)]);
    }
}

/// Sum of squares in f64: per chunk 16 chains by position, folded in halves; chunks in order, in
/// groups whose partial sums fit on the stack.
fn sum_squares<T: Real>(x: &[T]) -> f64 {
    const GROUP: usize = 256;
    let mut total = 0.0;
    for group in x.chunks(GROUP * CHUNK) {
        let mut sums = [0f64; GROUP];
        sums.par_iter_mut().zip(group.par_chunks(CHUNK)).for_each(|(sum, x)| {
            *sum = vectorised(
                #[inline(always)]
                || sum_squares_of_chunk(x),
            );
        });
        total = sums.iter().fold(total, |a, b| a + b);
    }
    total
}

#[inline(always)]
fn sum_squares_of_chunk<T: Real>(x: &[T]) -> f64 {
    let mut acc = [0f64; CHAINS];
    let whole = x.chunks_exact(CHAINS);
    let rest = whole.remainder();
    for x in whole {
        for (a, &x) in acc.iter_mut().zip(x) {
            *a = x.wide().mul_add(x.wide(), *a);
        }
    }
    for (a, &x) in acc.iter_mut().zip(rest) {
        *a = x.wide().mul_add(x.wide(), *a);
    }
    let mut half = CHAINS / 2;
    while half > 0 {
        for l in 0..half {
            acc[l] += acc[l + half];
        }
        half /= 2;
    }
    acc[0]
}

fn cases() -> Vec<Case> {
    let case = |label, max_norm: f64, sizes: &[usize]| Case {
        label,
        op: Arc::new(GradNorm { max_norm }),
        inputs: sizes.iter().map(|&n| (vec![n], Fill::Normal(0.7), false)).collect(),
    };
    vec![
        case("clipped", 1.0, &[33, 1, 130]),
        case("small enough", 100.0, &[5, 77]),
        case("never clips", 0.0, &[64]),
        case("several tasks", 0.5, &[50_001, 17]),
    ]
}

/// Sizes of real models.
fn bench() -> Vec<Case> {
    vec![Case {
        label: "32 Mi numbers",
        op: Arc::new(GradNorm { max_norm: 1.0 }),
        inputs: vec![(vec![32 << 20], Fill::Normal(1.0), false)],
    }]
}
