//! Layer normalisation (Ba et al., arXiv 1607.06450): `y = (x - mean) * rstd * w + b` with the
//! biased variance, as `torch.nn.LayerNorm`. Keeps `mean` and `rstd` for the backward pass.

use super::cpu::rows::{COLUMNS, ColumnWriter, for_column_blocks, rows_per_task};
use super::cpu::{vecmath, vectorised};
use super::gpu::fold::{self, Term};
use super::shapes::{beside, bytes, require, same_float};
use super::{Backward, Case, Cost, Fill, Io, Op, OpSpec, Real, Slot, Stored, TensorType};
use super::{Launcher, gpu};
use crate::base::{DType, Result, Tolerance};
use crate::device::DevicePtr;
use half::bf16;
use rayon::prelude::*;
use std::sync::Arc;

/// Row of the op table.
pub static SPEC: OpSpec = OpSpec {
    name: "layer_norm",
    doc: "x[T,H], w[H], b[H] to y[T,H], mean[T,1], rstd[T,1]: rows normalised, times w, plus b",
    cases,
    tolerance: Tolerance::rel(2e-6),
    bf16_roundings: 1,
    bench,
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

/// As in the kernels.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct LayerNormArgs {
    x: DevicePtr,
    w: DevicePtr,
    b: DevicePtr,
    y: DevicePtr,
    mean: DevicePtr,
    rstd: DevicePtr,
    cols: i32,
    eps: f32,
}
const _: () = assert!(size_of::<LayerNormArgs>() == 56);

impl Op for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let ok = matches!(inputs, [x, w, b] if same_float(&[x]) && beside(x, &[w, b])
            && w.len() == x.cols() && b.len() == x.cols());
        require(ok, self.name(), inputs, "x[T,H], w[H], b[H]")?;
        let x = inputs[0];
        let per_row = TensorType::matrix(x.rows(), 1, x.dtype.statistic());
        Ok(vec![x.clone(), per_row.clone(), per_row])
    }
    fn run(&self, io: &Io) {
        match io.float_type() {
            DType::F64 => layer_norm_fwd::<f64>(
                [io.input(0), io.input(1), io.input(2)],
                self.eps,
                [io.output(0), io.output(1), io.output(2)],
            ),
            DType::BF16 => layer_norm_fwd_fast::<bf16>(io, self.eps),
            _ => layer_norm_fwd_fast::<f32>(io, self.eps),
        }
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        let x = k.in_type(0);
        let args = LayerNormArgs {
            x: k.input(0),
            w: k.input(1),
            b: k.input(2),
            y: k.output(0),
            mean: k.output(1),
            rstd: k.output(2),
            cols: gpu::int(x.cols()),
            eps: self.eps as f32,
        };
        let kernel = k.typed(["layer_norm_fwd_f32", "layer_norm_fwd_bf16"]);
        let threads = gpu::norm_threads(x.cols(), x.dtype);
        k.kernel("norms", kernel, [x.rows(), 1, 1], threads, &args);
        Ok(())
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
        Cost { flops: 7.0 * inputs[0].len() as f64, bytes: bytes(inputs, outputs) }
    }
}

/// As in the kernels.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct LayerNormBwdInputArgs {
    x: DevicePtr,
    w: DevicePtr,
    mean: DevicePtr,
    rstd: DevicePtr,
    dy: DevicePtr,
    dx: DevicePtr,
    cols: i32,
    unused: i32,
}
const _: () = assert!(size_of::<LayerNormBwdInputArgs>() == 56);

impl Op for LayerNormBwdInput {
    fn name(&self) -> &'static str {
        "layer_norm_bwd_input"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let ok = matches!(inputs, [x, w, mean, rstd, dy]
                if same_float(&[x, dy]) && beside(x, &[w, mean, rstd]) && w.len() == x.cols()
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
            DType::BF16 => layer_norm_bwd_input_fast::<bf16>(io),
            _ => layer_norm_bwd_input_fast::<f32>(io),
        }
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        let x = k.in_type(0);
        let args = LayerNormBwdInputArgs {
            x: k.input(0),
            w: k.input(1),
            mean: k.input(2),
            rstd: k.input(3),
            dy: k.input(4),
            dx: k.output(0),
            cols: gpu::int(x.cols()),
            unused: 0,
        };
        let kernel = k.typed(["layer_norm_bwd_input_f32", "layer_norm_bwd_input_bf16"]);
        let threads = gpu::norm_threads(x.cols(), x.dtype);
        k.kernel("norms", kernel, [x.rows(), 1, 1], threads, &args);
        Ok(())
    }
    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost { flops: 12.0 * inputs[0].len() as f64, bytes: bytes(inputs, outputs) }
    }
}

impl Op for LayerNormBwdAffine {
    fn name(&self) -> &'static str {
        if self.bias { "layer_norm_bwd_bias" } else { "layer_norm_bwd_weight" }
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let ok = matches!(inputs, [x, mean, rstd, dy]
                if same_float(&[x, dy]) && beside(x, &[mean, rstd]) && mean.len() == x.rows() && rstd.len() == x.rows() && dy.shape == x.shape);
        require(ok, self.name(), inputs, "x[T,H], mean[T,1], rstd[T,1], dy[T,H]")?;
        let (x, h) = (inputs[0], inputs[0].cols());
        Ok(if self.fresh {
            vec![TensorType { shape: vec![h], dtype: x.dtype.statistic() }]
        } else {
            vec![]
        })
    }
    fn run(&self, io: &Io) {
        match io.float_type() {
            DType::F64 => self.reference::<f64>(io),
            DType::BF16 => self.fold_rows::<bf16>(io),
            _ => self.fold_rows::<f32>(io),
        }
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        let term = match self.bias {
            true => Term::Plain,
            false => Term::Normalised { x: k.input(0), mean: k.input(1), rstd: k.input(2) },
        };
        fold::launch(k, 3, term, self.fresh);
        Ok(())
    }
    fn gpu_work(&self, inputs: &[&TensorType], _: &[&TensorType]) -> usize {
        fold::work(inputs[3])
    }
    fn cost(&self, inputs: &[&TensorType], _: &[&TensorType]) -> Cost {
        let [x, mean, rstd, dy] = [inputs[0], inputs[1], inputs[2], inputs[3]];
        // The gradient, at most read and written, is a row of statistics.
        let grad = 2.0 * (x.cols() * mean.dtype.size()) as f64;
        let (flops, read) = match self.bias {
            true => (1.0, bytes(&[dy], &[])),
            false => (4.0, bytes(&[x, mean, rstd, dy], &[])),
        };
        Cost { flops: flops * dy.len() as f64, bytes: read + grad }
    }
}

impl LayerNormBwdAffine {
    /// The definition: `dw = sum of dy * (x - mean) * rstd`, `db = sum of dy`.
    fn reference<T: Real>(&self, io: &Io) {
        let [x, mean, rstd, dy]: [&[T]; 4] = [io.input(0), io.input(1), io.input(2), io.input(3)];
        let grad = io.output::<T>(0);
        let h = grad.len();
        for (j, g) in grad.iter_mut().enumerate() {
            let term = |t: usize| match self.bias {
                true => dy[t * h + j],
                false => dy[t * h + j] * (x[t * h + j] - mean[t]) * rstd[t],
            };
            let sum: T = (0..mean.len()).map(term).sum();
            *g = if self.fresh { sum } else { *g + sum };
        }
    }

    /// Rows in order, columns in parallel.
    fn fold_rows<S: Stored>(&self, io: &Io) {
        let (x, mean, rstd) = (io.input::<S>(0), io.input::<f32>(1), io.input::<f32>(2));
        let (dy, grad) = (io.input::<S>(3), io.output::<f32>(0));
        let h = grad.len();
        let out = ColumnWriter::new(grad, 1, h);
        for_column_blocks(h, |cols| {
            // SAFETY: blocks of columns are disjoint.
            let grad = unsafe { out.row(0, cols.clone()) };
            vectorised(
                #[inline(always)]
                || {
                    let mut acc = [0f32; COLUMNS];
                    for (t, (&m, &r)) in mean.iter().zip(rstd).enumerate() {
                        let (x, dy) = (&x[t * h..][cols.clone()], &dy[t * h..][cols.clone()]);
                        if self.bias {
                            for (a, &dy) in acc.iter_mut().zip(dy) {
                                *a += dy.load();
                            }
                        } else {
                            for ((a, &x), &dy) in acc.iter_mut().zip(x).zip(dy) {
                                *a = ((x.load() - m) * r).mul_add(dy.load(), *a);
                            }
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

fn layer_norm_fwd_fast<S: Stored>(io: &Io, eps: f64) {
    let (x, w, b) = (io.input::<S>(0), io.input::<f32>(1), io.input::<f32>(2));
    let (y, mean, rstd) = (io.output::<S>(0), io.output::<f32>(1), io.output::<f32>(2));
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
                            *y = S::store(((x.load() - m) * r).mul_add(w, b));
                        }
                        (mean[t], rstd[t]) = (m, r);
                    }
                },
            );
        });
}

fn layer_norm_bwd_input_fast<S: Stored>(io: &Io) {
    let (x, w, mean) = (io.input::<S>(0), io.input::<f32>(1), io.input::<f32>(2));
    let (rstd, dy, dx) = (io.input::<f32>(3), io.input::<S>(4), io.output::<S>(0));
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
                    let mean_gx = vecmath::dot3_normalised(w, dy, x, m, r) / h as f32;
                    for (((dx, &x), &w), &dy) in dx.iter_mut().zip(x).zip(w).zip(dy) {
                        let normalised = (x.load() - m) * r;
                        *dx = S::store(r * (w * dy.load() - mean_g - normalised * mean_gx));
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
        case("several chunks of rows", 260, 136, 1.0),
        case("longer than registers hold", 2, 16_392, 1.0),
    ]
}

/// Sizes of real models.
fn bench() -> Vec<Case> {
    vec![Case {
        label: "4096 x 2048",
        op: Arc::new(LayerNorm { eps: 1e-6 }),
        inputs: vec![
            (vec![4096, 2048], Fill::Normal(1.0), true),
            (vec![2048], Fill::NearOne(0.1), true),
            (vec![2048], Fill::Normal(0.1), true),
        ],
    }]
}
