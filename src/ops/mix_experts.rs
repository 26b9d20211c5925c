//! The end of a mixture of experts: what the experts of a token made of it, weighed and added in
//! the order of its choices, largest weight first. Also the plain sum over the choices, which is how
//! the gradient of a row that several experts read comes together. Rows know nothing of each other.
//!
//! T tokens, K experts of a token, H columns. Pair `p = t K + k` is choice `k` of token `t`.

use super::cpu::rows::rows_per_task;
use super::cpu::{vecmath, vectorised};
use super::gpu::experts;
use super::shapes::{beside, bytes, require, same_float};
use super::{Backward, Case, Cost, Fill, Io, Launcher, Op, OpSpec, Real, Slot, Stored, TensorType};
use crate::base::{DType, Result, Tolerance};
use half::bf16;
use rayon::prelude::*;
use std::sync::Arc;

/// Row of the op table.
pub static SPEC: OpSpec = OpSpec {
    name: "mix_experts",
    doc: "y[TK,H], weight[T,K] to out[T,H]: the experts' rows of a token, weighed and added",
    cases,
    tolerance: Tolerance { abs: 1e-6, rel: 2e-6 },
    bf16_roundings: 1,
    bench,
};

/// Inputs `y[TK,H]`, `weight[T,K]` of the statistics' type; output `out[T,H]`.
#[derive(Debug, Clone, Copy)]
pub struct MixExperts {
    /// K.
    pub top_k: usize,
}

/// Inputs `y, weight, dout`; outputs `dy[TK,H]`, `dweight[T,K]`.
#[derive(Debug, Clone, Copy)]
struct MixExpertsBwd;

/// Input `y[TK,H]`; output `out[T,H]`, the sum over the K rows of each token, in order.
#[derive(Debug, Clone, Copy)]
pub(super) struct SumPairs {
    /// K.
    pub top_k: usize,
}

impl Op for MixExperts {
    fn name(&self) -> &'static str {
        "mix_experts"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let ok = matches!(inputs, [y, w] if same_float(&[y]) && beside(y, &[w])
            && w.cols() == self.top_k && w.len() == y.rows());
        require(ok, self.name(), inputs, "y[TK,H], weight[T,K] of statistics")?;
        Ok(vec![TensorType::matrix(inputs[1].rows(), inputs[0].cols(), inputs[0].dtype)])
    }
    fn run(&self, io: &Io) {
        let (k, h) = (self.top_k, io.in_type(0).cols());
        match io.float_type() {
            DType::F64 => mix::<f64>(io.input(0), Some(io.input(1)), (k, h), io.output(0)),
            DType::BF16 => mix_fast::<bf16>(io.input(0), Some(io.input(1)), (k, h), io.output(0)),
            _ => mix_fast::<f32>(io.input(0), Some(io.input(1)), (k, h), io.output(0)),
        }
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        let weight = k.input(1);
        experts::mix(k, Some(weight), self.top_k);
        Ok(())
    }
    fn backward(&self, b: &mut Backward) -> Result<Vec<Option<Slot>>> {
        let Some(dout) = b.grads[0] else { return Ok(vec![None; 2]) };
        let d = b.tape.emit(Arc::new(MixExpertsBwd), &[b.inputs[0], b.inputs[1], dout])?;
        Ok(vec![b.needs[0].then_some(d[0]), b.needs[1].then_some(d[1])])
    }
    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost { flops: 2.0 * inputs[0].len() as f64, bytes: bytes(inputs, outputs) }
    }
}

impl Op for MixExpertsBwd {
    fn name(&self) -> &'static str {
        "mix_experts_bwd"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let ok = matches!(inputs, [y, w, dout] if same_float(&[y, dout]) && beside(y, &[w])
            && w.len() == y.rows() && dout.rows() == w.rows() && dout.cols() == y.cols());
        require(ok, self.name(), inputs, "y[TK,H], weight[T,K], dout[T,H]")?;
        Ok(vec![inputs[0].clone(), inputs[1].clone()])
    }
    fn run(&self, io: &Io) {
        match io.float_type() {
            DType::F64 => mix_bwd(io),
            DType::BF16 => mix_bwd_fast::<bf16>(io),
            _ => mix_bwd_fast::<f32>(io),
        }
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        experts::mix_backward(k);
        Ok(())
    }
    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost { flops: 3.0 * inputs[0].len() as f64, bytes: bytes(inputs, outputs) }
    }
}

impl Op for SumPairs {
    fn name(&self) -> &'static str {
        "mix_experts_sum"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let ok = matches!(inputs, [y] if same_float(&[y]) && y.rows().is_multiple_of(self.top_k));
        require(ok, self.name(), inputs, "y[TK,H]")?;
        let y = inputs[0];
        Ok(vec![TensorType::matrix(y.rows() / self.top_k, y.cols(), y.dtype)])
    }
    fn run(&self, io: &Io) {
        let sizes = (self.top_k, io.in_type(0).cols());
        match io.float_type() {
            DType::F64 => mix::<f64>(io.input(0), None, sizes, io.output(0)),
            DType::BF16 => mix_fast::<bf16>(io.input(0), None, sizes, io.output(0)),
            _ => mix_fast::<f32>(io.input(0), None, sizes, io.output(0)),
        }
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        experts::mix(k, None, self.top_k);
        Ok(())
    }
}

/// The definition; without weights, all are 1.
fn mix<T: Real>(y: &[T], weight: Option<&[T]>, (k, h): (usize, usize), out: &mut [T]) {
    for (t, out) in out.chunks_mut(h).enumerate() {
        out.fill(T::zero());
        for p in t * k..(t + 1) * k {
            let w = weight.map_or(T::one(), |w| w[p]);
            for (o, &y) in out.iter_mut().zip(&y[p * h..][..h]) {
                *o = w.mul_add(y, *o);
            }
        }
    }
}

fn mix_bwd(io: &Io) {
    let (h, k) = (io.in_type(0).cols(), io.in_type(1).cols());
    let (y, weight, dout) = (io.input::<f64>(0), io.input::<f64>(1), io.input::<f64>(2));
    let (dy, dweight) = (io.output::<f64>(0), io.output::<f64>(1));
    for (p, (dy, dw)) in dy.chunks_mut(h).zip(dweight).enumerate() {
        let dout = &dout[p / k * h..][..h];
        dy.iter_mut().zip(dout).for_each(|(dy, d)| *dy = weight[p] * d);
        *dw = y[p * h..][..h].iter().zip(dout).map(|(y, d)| y * d).sum();
    }
}

/// Columns that are summed at a time, in registers and the nearest cache.
const BLOCK: usize = 256;

fn mix_fast<S: Stored>(y: &[S], weight: Option<&[f32]>, (k, h): (usize, usize), out: &mut [S]) {
    let rows = rows_per_task(h * k);
    out.par_chunks_mut(rows * h).enumerate().for_each(|(task, out)| {
        for (t, out) in out.chunks_mut(h).enumerate() {
            let first = (task * rows + t) * k;
            let weight = weight.map(|w| &w[first..][..k]);
            vectorised(
                #[inline(always)]
                || {
                    for (b, out) in out.chunks_mut(BLOCK).enumerate() {
                        let mut acc = [0f32; BLOCK];
                        for i in 0..k {
                            let w = weight.map_or(1.0, |w| w[i]);
                            let y = &y[(first + i) * h + b * BLOCK..][..out.len()];
                            for (a, &y) in acc.iter_mut().zip(y) {
                                *a = w.mul_add(y.load(), *a);
                            }
                        }
                        out.iter_mut().zip(&acc).for_each(|(o, &a)| *o = S::store(a));
                    }
                },
            );
        }
    });
}

fn mix_bwd_fast<S: Stored>(io: &Io) {
    let (h, k) = (io.in_type(0).cols(), io.in_type(1).cols());
    let (y, weight, dout) = (io.input::<S>(0), io.input::<f32>(1), io.input::<S>(2));
    let (dy, dweight) = (io.output::<S>(0), io.output::<f32>(1));
    let rows = rows_per_task(h);
    (dy.par_chunks_mut(rows * h), dweight.par_chunks_mut(rows))
        .into_par_iter()
        .enumerate()
        .for_each(|(task, (dy, dweight))| {
            for (i, (dy, dw)) in dy.chunks_mut(h).zip(dweight).enumerate() {
                let p = task * rows + i;
                let (w, dout) = (weight[p], &dout[p / k * h..][..h]);
                vectorised(
                    #[inline(always)]
                    || {
                        for (dy, &d) in dy.iter_mut().zip(dout) {
                            *dy = S::store(w * d.load());
                        }
                        *dw = vecmath::dot(&y[p * h..][..h], dout);
                    },
                );
            }
        });
}

fn cases() -> Vec<Case> {
    let case = |label, t: usize, top_k: usize, h: usize| Case {
        label,
        op: Arc::new(MixExperts { top_k }),
        inputs: vec![
            (vec![t * top_k, h], Fill::Normal(1.0), true),
            (vec![t, top_k], Fill::Normal(0.5).beside(), true),
        ],
    };
    vec![
        case("odd", 5, 3, 33),
        case("one expert", 7, 1, 9),
        case("one token, one column", 1, 4, 1),
        case("several tasks", 70, 8, 520),
    ]
}

/// Sizes of real models.
fn bench() -> Vec<Case> {
    vec![Case {
        label: "4096 tokens, 8 x 2048",
        op: Arc::new(MixExperts { top_k: 8 }),
        inputs: vec![
            (vec![8 * 4096, 2048], Fill::Normal(1.0), true),
            (vec![4096, 8], Fill::Normal(0.2).beside(), true),
        ],
    }]
}
