//! Root-mean-square normalisation (Zhang and Sennrich, arXiv 1910.07467, equation 4), with the
//! order of operations of `Qwen2RMSNorm`: `y = w * (x * rstd)`, `rstd = 1/sqrt(mean(x²) + eps)`.
//! Keeps `rstd` for the backward pass; never subtracts a mean.

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
    name: "rms_norm",
    doc: "x[T,H], w[H] to y[T,H] and rstd[T,1]: rows scaled to unit mean square, times w",
    cases,
    tolerance: Tolerance::rel(2e-6),
    bf16_roundings: 1,
    bench,
};

/// Inputs `x[T,H]`, `w[H]`; outputs `y[T,H]`, `rstd[T,1]`.
#[derive(Debug, Clone, Copy)]
pub struct RmsNorm {
    /// Added to the mean square.
    pub eps: f64,
}

/// Inputs `x, w, rstd, dy`; output `dx`.
#[derive(Debug, Clone, Copy)]
struct RmsNormBwdInput;

/// Inputs `x, w, rstd, dy`; output `dw`, fresh or added to.
#[derive(Debug, Clone, Copy)]
struct RmsNormBwdWeight {
    fresh: bool,
}

/// As in the kernels.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct RmsNormArgs {
    x: DevicePtr,
    w: DevicePtr,
    y: DevicePtr,
    rstd: DevicePtr,
    cols: i32,
    eps: f32,
}
const _: () = assert!(size_of::<RmsNormArgs>() == 40);

impl Op for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let ok = matches!(inputs, [x, w]
            if w.len() == x.cols() && same_float(&[x]) && beside(x, &[w]));
        require(ok, self.name(), inputs, "x[T,H], w[H]")?;
        let x = inputs[0];
        Ok(vec![x.clone(), TensorType::matrix(x.rows(), 1, x.dtype.statistic())])
    }
    fn run(&self, io: &Io) {
        match io.float_type() {
            DType::F64 => {
                rms_norm_fwd::<f64>(io.input(0), io.input(1), self.eps, io.output(0), io.output(1))
            }
            DType::BF16 => rms_norm_fwd_fast::<bf16>(io, self.eps),
            _ => rms_norm_fwd_fast::<f32>(io, self.eps),
        }
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        let x = k.in_type(0);
        let args = RmsNormArgs {
            x: k.input(0),
            w: k.input(1),
            y: k.output(0),
            rstd: k.output(1),
            cols: gpu::int(x.cols()),
            eps: self.eps as f32,
        };
        let kernel = k.typed(["rms_norm_fwd_f32", "rms_norm_fwd_bf16"]);
        let threads = gpu::norm_threads(x.cols(), x.dtype);
        k.kernel("norms", kernel, [x.rows(), 1, 1], threads, &args);
        Ok(())
    }
    fn backward(&self, b: &mut Backward) -> Result<Vec<Option<Slot>>> {
        let Some(dy) = b.grads[0] else { return Ok(vec![None; 2]) };
        let from = [b.inputs[0], b.inputs[1], b.outputs[1], dy];
        let dx = if b.needs[0] { Some(b.emit1(RmsNormBwdInput, &from)?) } else { None };
        let dw = match b.param_grads[1] {
            Some(grad) => {
                b.emit_into(RmsNormBwdWeight { fresh: false }, &from, &[grad])?;
                None
            }
            None if b.needs[1] => Some(b.emit1(RmsNormBwdWeight { fresh: true }, &from)?),
            None => None,
        };
        Ok(vec![dx, dw])
    }
    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost { flops: 4.0 * inputs[0].len() as f64, bytes: bytes(inputs, outputs) }
    }
}

fn bwd_types_ok(inputs: &[&TensorType]) -> bool {
    matches!(inputs, [x, w, rstd, dy] if same_float(&[x, dy]) && beside(x, &[w, rstd])
        && w.len() == x.cols() && rstd.len() == x.rows() && dy.shape == x.shape)
}

/// As in the kernels.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct RmsNormBwdInputArgs {
    x: DevicePtr,
    w: DevicePtr,
    rstd: DevicePtr,
    dy: DevicePtr,
    dx: DevicePtr,
    cols: i32,
    unused: i32,
}
const _: () = assert!(size_of::<RmsNormBwdInputArgs>() == 48);

impl Op for RmsNormBwdInput {
    fn name(&self) -> &'static str {
        "rms_norm_bwd_input"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        require(bwd_types_ok(inputs), self.name(), inputs, "x[T,H], w[H], rstd[T,1], dy[T,H]")?;
        Ok(vec![inputs[0].clone()])
    }
    fn run(&self, io: &Io) {
        match io.float_type() {
            DType::F64 => rms_norm_bwd_input::<f64>(
                io.input(0),
                io.input(1),
                io.input(2),
                io.input(3),
                io.output(0),
            ),
            DType::BF16 => rms_norm_bwd_input_fast::<bf16>(io),
            _ => rms_norm_bwd_input_fast::<f32>(io),
        }
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        let x = k.in_type(0);
        let args = RmsNormBwdInputArgs {
            x: k.input(0),
            w: k.input(1),
            rstd: k.input(2),
            dy: k.input(3),
            dx: k.output(0),
            cols: gpu::int(x.cols()),
            unused: 0,
        };
        let kernel = k.typed(["rms_norm_bwd_input_f32", "rms_norm_bwd_input_bf16"]);
        let threads = gpu::norm_threads(x.cols(), x.dtype);
        k.kernel("norms", kernel, [x.rows(), 1, 1], threads, &args);
        Ok(())
    }
    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost { flops: 7.0 * inputs[0].len() as f64, bytes: bytes(inputs, outputs) }
    }
}

impl Op for RmsNormBwdWeight {
    fn name(&self) -> &'static str {
        "rms_norm_bwd_weight"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        require(bwd_types_ok(inputs), self.name(), inputs, "x[T,H], w[H], rstd[T,1], dy[T,H]")?;
        Ok(if self.fresh { vec![inputs[1].clone()] } else { vec![] })
    }
    fn run(&self, io: &Io) {
        match io.float_type() {
            DType::F64 => rms_norm_bwd_weight::<f64>(
                io.input(0),
                io.input(2),
                io.input(3),
                self.fresh,
                io.output(0),
            ),
            DType::BF16 => rms_norm_bwd_weight_fast::<bf16>(io, self.fresh),
            _ => rms_norm_bwd_weight_fast::<f32>(io, self.fresh),
        }
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        let term = Term::Scaled { x: k.input(0), rstd: k.input(2) };
        fold::launch(k, 3, term, self.fresh);
        Ok(())
    }
    fn gpu_work(&self, inputs: &[&TensorType], _: &[&TensorType]) -> usize {
        fold::work(inputs[3])
    }
    fn cost(&self, inputs: &[&TensorType], _: &[&TensorType]) -> Cost {
        let w = inputs[1].len() * inputs[1].dtype.size();
        // The weight is not read, its gradient is read and written.
        let bytes = bytes(inputs, &[]) + w as f64;
        Cost { flops: 3.0 * inputs[0].len() as f64, bytes }
    }
}

/// The definition.
fn rms_norm_fwd<T: Real>(x: &[T], w: &[T], eps: f64, y: &mut [T], rstd: &mut [T]) {
    let h = w.len();
    for ((x, y), r) in x.chunks(h).zip(y.chunks_mut(h)).zip(rstd) {
        let mean_square = x.iter().map(|&x| x * x).sum::<T>() / T::of(h as f64);
        *r = (mean_square + T::of(eps)).sqrt().recip();
        for ((y, &x), &w) in y.iter_mut().zip(x).zip(w) {
            *y = w * (x * *r);
        }
    }
}

/// `dx = rstd * (w dy - x * rstd² * mean(w dy x))`.
fn rms_norm_bwd_input<T: Real>(x: &[T], w: &[T], rstd: &[T], dy: &[T], dx: &mut [T]) {
    let h = w.len();
    for (((x, dy), dx), &r) in x.chunks(h).zip(dy.chunks(h)).zip(dx.chunks_mut(h)).zip(rstd) {
        let s: T = x.iter().zip(w).zip(dy).map(|((&x, &w), &dy)| x * w * dy).sum();
        let c = s * r * r / T::of(h as f64);
        for (((dx, &x), &w), &dy) in dx.iter_mut().zip(x).zip(w).zip(dy) {
            *dx = r * (w * dy - x * c);
        }
    }
}

/// `dw = sum over rows of dy * x * rstd`.
fn rms_norm_bwd_weight<T: Real>(x: &[T], rstd: &[T], dy: &[T], fresh: bool, dw: &mut [T]) {
    let h = dw.len();
    for (j, dw) in dw.iter_mut().enumerate() {
        let terms = rstd.iter().enumerate().map(|(t, &r)| x[t * h + j] * r * dy[t * h + j]);
        let sum: T = terms.sum();
        *dw = if fresh { sum } else { *dw + sum };
    }
}

/// [`rms_norm_bwd_weight`], rows in order, columns in parallel.
fn rms_norm_bwd_weight_fast<S: Stored>(io: &Io, fresh: bool) {
    let (x, rstd, dy) = (io.input::<S>(0), io.input::<f32>(2), io.input::<S>(3));
    let dw = io.output::<f32>(0);
    let h = dw.len();
    let out = ColumnWriter::new(dw, 1, h);
    for_column_blocks(h, |cols| {
        // SAFETY: blocks of columns are disjoint.
        let dw = unsafe { out.row(0, cols.clone()) };
        vectorised(
            #[inline(always)]
            || {
                let mut acc = [0f32; COLUMNS];
                for (t, &r) in rstd.iter().enumerate() {
                    let (x, dy) = (&x[t * h..][cols.clone()], &dy[t * h..][cols.clone()]);
                    for ((a, &x), &dy) in acc.iter_mut().zip(x).zip(dy) {
                        *a = (x.load() * r).mul_add(dy.load(), *a);
                    }
                }
                for (dw, &a) in dw.iter_mut().zip(&acc) {
                    *dw = if fresh { a } else { *dw + a };
                }
            },
        );
    });
}

fn rms_norm_fwd_fast<S: Stored>(io: &Io, eps: f64) {
    let (x, w) = (io.input::<S>(0), io.input::<f32>(1));
    let (y, rstd) = (io.output::<S>(0), io.output::<f32>(1));
    let h = w.len();
    let rows = rows_per_task(h);
    let chunk = rows * h;
    (y.par_chunks_mut(chunk), x.par_chunks(chunk), rstd.par_chunks_mut(rows))
        .into_par_iter()
        .for_each(|(y, x, rstd)| {
            vectorised(
                #[inline(always)]
                || {
                    for ((x, y), r) in x.chunks(h).zip(y.chunks_mut(h)).zip(rstd.iter_mut()) {
                        *r = 1.0 / (vecmath::sum_squares(x) / h as f32 + eps as f32).sqrt();
                        for ((y, &x), &w) in y.iter_mut().zip(x).zip(w) {
                            *y = S::store(w * (x.load() * *r));
                        }
                    }
                },
            );
        });
}

fn rms_norm_bwd_input_fast<S: Stored>(io: &Io) {
    let (x, w, rstd) = (io.input::<S>(0), io.input::<f32>(1), io.input::<f32>(2));
    let (dy, dx) = (io.input::<S>(3), io.output::<S>(0));
    let h = w.len();
    let rows = rows_per_task(h);
    let chunk = rows * h;
    (dx.par_chunks_mut(chunk), x.par_chunks(chunk), dy.par_chunks(chunk), rstd.par_chunks(rows))
        .into_par_iter()
        .for_each(|(dx, x, dy, rstd)| {
            vectorised(
                #[inline(always)]
                || {
                    for (t, &r) in rstd.iter().enumerate() {
                        let at = t * h..(t + 1) * h;
                        let (x, dy, dx) = (&x[at.clone()], &dy[at.clone()], &mut dx[at]);
                        let c = vecmath::dot3(x, w, dy) * r * r / h as f32;
                        for (((dx, &x), &w), &dy) in dx.iter_mut().zip(x).zip(w).zip(dy) {
                            *dx = S::store(r * (w * dy.load() - x.load() * c));
                        }
                    }
                },
            );
        });
}

fn cases() -> Vec<Case> {
    let case = |label, t: usize, h: usize, std: f64| Case {
        label,
        op: Arc::new(RmsNorm { eps: 1e-6 }),
        inputs: vec![(vec![t, h], Fill::Normal(std), true), (vec![h], Fill::NearOne(0.2), true)],
    };
    vec![
        case("odd", 7, 37, 1.0),
        case("one row", 1, 130, 3.0),
        case("small numbers", 5, 64, 1e-2),
        case("several tasks", 70, 301, 1.0),
        case("several chunks of rows", 260, 136, 1.0),
        case("longer than registers hold", 2, 16_392, 1.0),
    ]
}

/// Sizes of real models.
fn bench() -> Vec<Case> {
    vec![Case {
        label: "4096 x 2048",
        op: Arc::new(RmsNorm { eps: 1e-6 }),
        inputs: vec![
            (vec![4096, 2048], Fill::Normal(1.0), true),
            (vec![2048], Fill::NearOne(0.1), true),
        ],
    }]
}
