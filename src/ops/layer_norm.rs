//! Layer normalisation (Ba et al., arXiv 1607.06450): `y = (x - mean) * rstd * w + b` with the
//! biased variance, as `torch.nn.LayerNorm`. Keeps `mean` and `rstd` for the backward pass.

use super::cpu::rows::{COLUMNS, ColumnWriter, for_column_blocks, rows_per_task};
use super::cpu::{vecmath, vectorised};
use super::shapes::{require, same_float};
use super::{Backward, Case, Cost, Fill, Io, Op, OpSpec, Real, Slot, TensorType};
use crate::base::{DType, Result, Tolerance};
use rayon::prelude::*;
use std::sync::Arc;

/// Row of the op table.
pub static SPEC: OpSpec = OpSpec {
    name: "layer_norm",
    doc: "x[T,H], w[H], b[H] to y[T,H], mean[T,1], rstd[T,1]: rows normalised, times w, plus b",
    cases,
    tolerance: Tolerance::rel(2e-6),
};

/// Inputs `x[T,H]`, `w[H]`, `b[H]`; outputs `y[T,H]`, `mean[T,1]`, `rstd[T,1]`.
#[derive(Debug, Clone, Copy)]
pub struct LayerNorm {
    /// Added to the variance.
    pub eps: f64,
}

/// Inputs `x, w, mean, rstd, dy`; output `dx`.
#[derive(Debug, Clone, Copy)]
struct LayerNormBwdInput;

/// Inputs `x, mean, rstd, dy`; output `dw` or `db`, fresh or added to.
#[derive(Debug, Clone, Copy)]
struct LayerNormBwdAffine {
    bias: bool,
    fresh: bool,
}

impl Op for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let ok = same_float(inputs)
            && matches!(inputs, [x, w, b] if w.len() == x.cols() && b.len() == x.cols());
        require(ok, self.name(), inputs, "x[T,H], w[H], b[H]")?;
        let x = inputs[0];
        let per_row = TensorType::matrix(x.rows(), 1, x.dtype);
        Ok(vec![x.clone(), per_row.clone(), per_row])
    }
    fn run(&self, io: &Io) {
        match io.float_type() {
            DType::F64 => layer_norm_fwd::<f64>(
                [io.input(0), io.input(1), io.input(2)],
                self.eps,
                [io.output(0), io.output(1), io.output(2)],
            ),
            _ => layer_norm_fwd_f32(
                [io.input(0), io.input(1), io.input(2)],
                self.eps,
                [io.output(0), io.output(1), io.output(2)],
            ),
        }
    }
    fn backward(&self, b: &mut Backward) -> Result<Vec<Option<Slot>>> {
        let Some(dy) = b.grads[0] else { return Ok(vec![None; 3]) };
        let (x, w, mean, rstd) = (b.inputs[0], b.inputs[1], b.outputs[1], b.outputs[2]);
        let mut grads = vec![None; 3];
        if b.needs[0] {
            grads[0] = Some(b.emit1(LayerNormBwdInput, &[x, w, mean, rstd, dy])?);
        }
        for (i, bias) in [(1, false), (2, true)] {
            let from = [x, mean, rstd, dy];
            if let Some(grad) = b.param_grads[i] {
                b.emit_into(LayerNormBwdAffine { bias, fresh: false }, &from, &[grad])?;
            } else if b.needs[i] {
                grads[i] = Some(b.emit1(LayerNormBwdAffine { bias, fresh: true }, &from)?);
            }
        }
        Ok(grads)
    }
    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let bytes = inputs.iter().chain(outputs).map(|t| (t.len() * t.dtype.size()) as f64).sum();
        Cost { flops: 7.0 * inputs[0].len() as f64, bytes }
    }
}

impl Op for LayerNormBwdInput {
    fn name(&self) -> &'static str {
        "layer_norm_bwd_input"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let ok = same_float(inputs)
            && matches!(inputs, [x, w, mean, rstd, dy] if w.len() == x.cols()
                && mean.len() == x.rows() && rstd.len() == x.rows() && dy.shape == x.shape);
        require(ok, self.name(), inputs, "x[T,H], w[H], mean[T,1], rstd[T,1], dy[T,H]")?;
        Ok(vec![inputs[0].clone()])
    }
    fn run(&self, io: &Io) {
        match io.float_type() {
            DType::F64 => layer_norm_bwd_input::<f64>(
                [io.input(0), io.input(1), io.input(2), io.input(3), io.input(4)],
                io.output(0),
            ),
            _ => layer_norm_bwd_input_f32(
                [io.input(0), io.input(1), io.input(2), io.input(3), io.input(4)],
                io.output(0),
            ),
        }
    }
}

impl Op for LayerNormBwdAffine {
    fn name(&self) -> &'static str {
        if self.bias { "layer_norm_bwd_bias" } else { "layer_norm_bwd_weight" }
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let ok = same_float(inputs)
            && matches!(inputs, [x, mean, rstd, dy]
                if mean.len() == x.rows() && rstd.len() == x.rows() && dy.shape == x.shape);
        require(ok, self.name(), inputs, "x[T,H], mean[T,1], rstd[T,1], dy[T,H]")?;
        let (x, h) = (inputs[0], inputs[0].cols());
        Ok(if self.fresh { vec![TensorType { shape: vec![h], dtype: x.dtype }] } else { vec![] })
    }
    fn run(&self, io: &Io) {
        match io.float_type() {
            DType::F64 => self.fold_rows::<f64>(io),
            _ => self.fold_rows::<f32>(io),
        }
    }
}

impl LayerNormBwdAffine {
    /// `dw = sum of dy * (x - mean) * rstd`, `db = sum of dy`: rows in order, columns in parallel.
    fn fold_rows<T: Real>(&self, io: &Io) {
        let [x, mean, rstd, dy]: [&[T]; 4] = [io.input(0), io.input(1), io.input(2), io.input(3)];
        let grad = io.output::<T>(0);
        let h = grad.len();
        let out = ColumnWriter::new(grad, 1, h);
        for_column_blocks(h, |cols| {
            // SAFETY: blocks of columns are disjoint.
            let grad = unsafe { out.row(0, cols.clone()) };
            vectorised(
                #[inline(always)]
                || {
                    let mut acc = [T::zero(); COLUMNS];
                    for (t, (&m, &r)) in mean.iter().zip(rstd).enumerate() {
                        let (x, dy) = (&x[t * h..][cols.clone()], &dy[t * h..][cols.clone()]);
                        for ((a, &x), &dy) in acc.iter_mut().zip(x).zip(dy) {
                            let factor = if self.bias { T::one() } else { (x - m) * r };
                            *a = factor.mul_add(dy, *a);
                        }
                    }
                    for (g, &a) in grad.iter_mut().zip(&acc) {
                        *g = if self.fresh { a } else { *g + a };
                    }
                },
            );
        });
    }
}

/// The definition.
fn layer_norm_fwd<T: Real>([x, w, b]: [&[T]; 3], eps: f64, [y, mean, rstd]: [&mut [T]; 3]) {
    let h = w.len();
    let n = T::of(h as f64);
    for (t, (x, y)) in x.chunks(h).zip(y.chunks_mut(h)).enumerate() {
        let m = x.iter().copied().sum::<T>() / n;
        let variance = x.iter().map(|&x| (x - m) * (x - m)).sum::<T>() / n;
        let r = (variance + T::of(eps)).sqrt().recip();
        for (j, (y, &x)) in y.iter_mut().zip(x).enumerate() {
            *y = (x - m) * r * w[j] + b[j];
        }
        (mean[t], rstd[t]) = (m, r);
    }
}

/// With `x^ = (x - mean) * rstd` and `g = w dy`: `dx = rstd * (g - mean(g) - x^ * mean(g x^))`.
fn layer_norm_bwd_input<T: Real>([x, w, mean, rstd, dy]: [&[T]; 5], dx: &mut [T]) {
    let h = w.len();
    let n = T::of(h as f64);
    for (t, (x, dx)) in x.chunks(h).zip(dx.chunks_mut(h)).enumerate() {
        let (m, r, dy) = (mean[t], rstd[t], &dy[t * h..][..h]);
        let mean_g = dy.iter().zip(w).map(|(&dy, &w)| w * dy).sum::<T>() / n;
        let terms = dy.iter().zip(w).zip(x).map(|((&dy, &w), &x)| w * dy * (x - m) * r);
        let mean_gx = terms.sum::<T>() / n;
        for (j, (dx, &x)) in dx.iter_mut().zip(x).enumerate() {
            *dx = r * (w[j] * dy[j] - mean_g - (x - m) * r * mean_gx);
        }
    }
}

fn layer_norm_fwd_f32([x, w, b]: [&[f32]; 3], eps: f64, [y, mean, rstd]: [&mut [f32]; 3]) {
    let h = w.len();
    let rows = rows_per_task(h);
    let chunk = rows * h;
    (
        y.par_chunks_mut(chunk),
        x.par_chunks(chunk),
        mean.par_chunks_mut(rows),
        rstd.par_chunks_mut(rows),
    )
        .into_par_iter()
        .for_each(|(y, x, mean, rstd)| {
            vectorised(
                #[inline(always)]
                || {
                    for (t, (x, y)) in x.chunks(h).zip(y.chunks_mut(h)).enumerate() {
                        let m = vecmath::sum(x) / h as f32;
                        let variance = vecmath::sum_squares_around(x, m) / h as f32;
                        let r = 1.0 / (variance + eps as f32).sqrt();
                        for (((y, &x), &w), &b) in y.iter_mut().zip(x).zip(w).zip(b) {
                            *y = ((x - m) * r).mul_add(w, b);
                        }
                        (mean[t], rstd[t]) = (m, r);
                    }
                },
            );
        });
}

fn layer_norm_bwd_input_f32([x, w, mean, rstd, dy]: [&[f32]; 5], dx: &mut [f32]) {
    let h = w.len();
    let rows = rows_per_task(h);
    dx.par_chunks_mut(rows * h).enumerate().for_each(|(task, dx)| {
        vectorised(
            #[inline(always)]
            || {
                for (i, dx) in dx.chunks_mut(h).enumerate() {
                    let t = task * rows + i;
                    let (m, r) = (mean[t], rstd[t]);
                    let (x, dy) = (&x[t * h..][..h], &dy[t * h..][..h]);
                    let mean_g = vecmath::dot(w, dy) / h as f32;
                    for (dx, &x) in dx.iter_mut().zip(x) {
                        *dx = (x - m) * r; // x^, for the sum and for the result
                    }
                    let mean_gx = vecmath::dot3(w, dy, dx) / h as f32;
                    for ((dx, &w), &dy) in dx.iter_mut().zip(w).zip(dy) {
                        *dx = r * (w * dy - mean_g - *dx * mean_gx);
                    }
                }
            },
        );
    });
}

fn cases() -> Vec<Case> {
    let case = |label, t: usize, h: usize, std: f64| Case {
        label,
        op: Arc::new(LayerNorm { eps: 1e-6 }),
        inputs: vec![
            (vec![t, h], Fill::Normal(std), true),
            (vec![h], Fill::NearOne(0.2), true),
            (vec![h], Fill::Normal(0.3), true),
        ],
    };
    vec![
        case("odd", 6, 35, 1.0),
        case("one row", 1, 129, 2.0),
        case("small numbers", 4, 66, 1e-2),
        case("several tasks", 65, 300, 1.0),
    ]
}
