//! Every column times a number of its own: the layer scale of vision towers (Touvron et al., arXiv
//! 2103.17239), `y = x * w`. The gradient of `x` is the same op on that of `y`; the gradient of `w` is a
//! sum over rows in their order. Never broadcasts over rows other than this way.

use super::cpu::rows::{COLUMNS, rows_per_task};
use super::cpu::vectorised;
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
    name: "scale_columns",
    doc: "x[T,H], w[H] to y[T,H]: columns of x times w",
    cases,
    tolerance: Tolerance::rel(2e-6),
    bf16_roundings: 1,
    bench,
};

/// Inputs `x[T,H]`, `w[H]`; output `y[T,H]`.
#[derive(Debug, Clone, Copy)]
pub struct ScaleColumns;

/// Inputs `x, dy`; output `dw`, fresh or added to.
#[derive(Debug, Clone, Copy)]
struct ScaleColumnsBwdWeight {
    fresh: bool,
}

/// As in the kernels.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct ScaleColumnsArgs {
    x: DevicePtr,
    w: DevicePtr,
    y: DevicePtr,
    rows: i32,
    cols: i32,
}
const _: () = assert!(size_of::<ScaleColumnsArgs>() == 32);

impl Op for ScaleColumns {
    fn name(&self) -> &'static str {
        "scale_columns"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let ok = matches!(inputs, [x, w]
            if w.len() == x.cols() && same_float(&[x]) && beside(x, &[w]));
        require(ok, self.name(), inputs, "x[T,H], w[H]")?;
        Ok(vec![inputs[0].clone()])
    }
    fn run(&self, io: &Io) {
        match io.float_type() {
            DType::F64 => scale_fwd::<f64>(io.input(0), io.input(1), io.output(0)),
            DType::BF16 => scale_fwd_fast::<bf16>(io),
            _ => scale_fwd_fast::<f32>(io),
        }
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        let (rows, cols) = (k.in_type(0).rows(), k.in_type(0).cols());
        let args = ScaleColumnsArgs {
            x: k.input(0),
            w: k.input(1),
            y: k.output(0),
            rows: gpu::int(rows),
            cols: gpu::int(cols),
        };
        let names = ["scale_columns_f32", "scale_columns_bf16"];
        gpu::by_rows(k, "elementwise", names, [rows, cols], &args);
        Ok(())
    }
    fn backward(&self, b: &mut Backward) -> Result<Vec<Option<Slot>>> {
        let Some(dy) = b.grads[0] else { return Ok(vec![None; 2]) };
        let (x, w) = (b.inputs[0], b.inputs[1]);
        let dx = if b.needs[0] { Some(b.emit1(ScaleColumns, &[dy, w])?) } else { None };
        let dw = match b.param_grads[1] {
            Some(grad) => {
                b.emit_into(ScaleColumnsBwdWeight { fresh: false }, &[x, dy], &[grad])?;
                None
            }
            None if b.needs[1] => Some(b.emit1(ScaleColumnsBwdWeight { fresh: true }, &[x, dy])?),
            None => None,
        };
        Ok(vec![dx, dw])
    }
    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost { flops: inputs[0].len() as f64, bytes: bytes(inputs, outputs) }
    }
}

impl Op for ScaleColumnsBwdWeight {
    fn name(&self) -> &'static str {
        "scale_columns_bwd_weight"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let ok = matches!(inputs, [x, dy] if same_float(&[x, dy]) && x.shape == dy.shape);
        require(ok, self.name(), inputs, "x[T,H], dy[T,H]")?;
        let x = inputs[0];
        let dw = TensorType { shape: vec![x.cols()], dtype: x.dtype.statistic() };
        Ok(if self.fresh { vec![dw] } else { vec![] })
    }
    fn run(&self, io: &Io) {
        match io.float_type() {
            DType::F64 => {
                scale_bwd_weight::<f64>(io.input(0), io.input(1), self.fresh, io.output(0));
            }
            DType::BF16 => scale_bwd_weight_fast::<bf16>(io, self.fresh),
            _ => scale_bwd_weight_fast::<f32>(io, self.fresh),
        }
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        let term = Term::Product { x: k.input(0) };
        fold::launch(k, 1, term, self.fresh);
        Ok(())
    }
    fn gpu_work(&self, inputs: &[&TensorType], _: &[&TensorType]) -> usize {
        fold::work(inputs[1])
    }
    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost { flops: 2.0 * inputs[0].len() as f64, bytes: bytes(inputs, outputs) }
    }
}

/// The definition.
fn scale_fwd<T: Real>(x: &[T], w: &[T], y: &mut [T]) {
    for (y, x) in y.chunks_mut(w.len()).zip(x.chunks(w.len())) {
        for ((y, &x), &w) in y.iter_mut().zip(x).zip(w) {
            *y = x * w;
        }
    }
}

/// `dw = sum over rows of dy * x`.
fn scale_bwd_weight<T: Real>(x: &[T], dy: &[T], fresh: bool, dw: &mut [T]) {
    let h = dw.len();
    for (j, dw) in dw.iter_mut().enumerate() {
        let column = x.iter().zip(dy).skip(j).step_by(h);
        let sum: T = column.map(|(&x, &dy)| x * dy).sum();
        *dw = if fresh { sum } else { *dw + sum };
    }
}

fn scale_fwd_fast<S: Stored>(io: &Io) {
    let (x, w, y) = (io.input::<S>(0), io.input::<f32>(1), io.output::<S>(0));
    let h = w.len();
    let chunk = rows_per_task(h) * h;
    y.par_chunks_mut(chunk).zip(x.par_chunks(chunk)).for_each(|(y, x)| {
        vectorised(
            #[inline(always)]
            || {
                for (y, x) in y.chunks_mut(h).zip(x.chunks(h)) {
                    for ((y, &x), &w) in y.iter_mut().zip(x).zip(w) {
                        *y = S::store(x.load() * w);
                    }
                }
            },
        );
    });
}

/// [`scale_bwd_weight`], rows in order, columns in parallel.
fn scale_bwd_weight_fast<S: Stored>(io: &Io, fresh: bool) {
    let (x, dy, dw) = (io.input::<S>(0), io.input::<S>(1), io.output::<f32>(0));
    let h = dw.len();
    dw.par_chunks_mut(COLUMNS).enumerate().for_each(|(block, dw)| {
        let cols = block * COLUMNS..block * COLUMNS + dw.len();
        vectorised(
            #[inline(always)]
            || {
                let mut acc = [0f32; COLUMNS];
                for (x, dy) in x.chunks_exact(h).zip(dy.chunks_exact(h)) {
                    let (x, dy) = (&x[cols.clone()], &dy[cols.clone()]);
                    for ((a, &x), &dy) in acc.iter_mut().zip(x).zip(dy) {
                        *a = x.load().mul_add(dy.load(), *a);
                    }
                }
                for (dw, &a) in dw.iter_mut().zip(&acc) {
                    *dw = if fresh { a } else { *dw + a };
                }
            },
        );
    });
}

fn case(label: &'static str, t: usize, h: usize) -> Case {
    let inputs = vec![(vec![t, h], Fill::Normal(1.0), true), (vec![h], Fill::Normal(0.1), true)];
    Case { label, op: Arc::new(ScaleColumns), inputs }
}

fn cases() -> Vec<Case> {
    vec![
        case("odd", 7, 37),
        case("one row", 1, 130),
        case("several tasks", 70, 301),
        case("several chunks of rows", 260, 136),
    ]
}

/// Sizes of real models.
fn bench() -> Vec<Case> {
    vec![case("4096 x 1024", 4096, 1024)]
}
