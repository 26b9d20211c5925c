//! Rows added at some places: features of deeper vision layers onto the hidden states of an image's
//! tokens. The index follows `embed`: `i < 0` means row `-(i + 1)` of the features, `i >= 0` a token that
//! is left as it is. The backward pass adds rows in ascending order of the tokens; no atomics: threads
//! own rows of the gradient.

use super::cpu::rows::rows_per_task;
use super::cpu::vectorised;
use super::embed::vision_row;
use super::gather_rows::scatter_add;
use super::gpu::{self, rows};
use super::shapes::{is_index, require, same_float};
use super::{Backward, Case, Cost, Fill, Io, Launcher, Op, OpSpec, Slot, Stored, TensorType};
use crate::base::{DType, Result, Tolerance};
use crate::device::DevicePtr;
use half::bf16;
use rayon::prelude::*;
use std::sync::Arc;

/// Row of the op table.
pub static SPEC: OpSpec = OpSpec {
    name: "add_rows",
    doc: "x[T,H], rows[S,H], index i32[T,1] to y[T,H]: x plus row -(i+1) where the index i is negative",
    cases,
    tolerance: Tolerance::rel(2e-7),
    bf16_roundings: 1,
    bench,
};

/// Inputs `x[T,H]`, `rows[S,H]`, `index` i32 `[T,1]`; output `y[T,H]`. Running it with an index below
/// `-S` panics.
#[derive(Debug, Clone, Copy)]
pub struct AddRows;

/// Inputs `dy[T,H]`, `index`; output the gradient `[S,H]` of the rows, fresh or added to.
#[derive(Debug, Clone, Copy)]
struct AddRowsBwdRows {
    rows: usize,
    fresh: bool,
}

/// As in the kernels.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct AddRowsArgs {
    x: DevicePtr,
    from: DevicePtr,
    index: DevicePtr,
    y: DevicePtr,
    rows: i32,
    cols: i32,
    from_rows: i32,
    unused: i32,
}
const _: () = assert!(size_of::<AddRowsArgs>() == 48);

impl Op for AddRows {
    fn name(&self) -> &'static str {
        "add_rows"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let ok = matches!(inputs, [x, rows, index] if same_float(&[x, rows])
            && x.cols() == rows.cols() && is_index(index, x.rows(), 1));
        require(ok, self.name(), inputs, "x[T,H], rows[S,H], index i32[T,1]")?;
        Ok(vec![inputs[0].clone()])
    }
    fn run(&self, io: &Io) {
        match io.float_type() {
            DType::F64 => reference(io),
            DType::BF16 => fast::<bf16>(io),
            _ => fast::<f32>(io),
        }
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        let (rows, cols) = (k.in_type(0).rows(), k.in_type(0).cols());
        let args = AddRowsArgs {
            x: k.input(0),
            from: k.input(1),
            index: k.input(2),
            y: k.output(0),
            rows: gpu::int(rows),
            cols: gpu::int(cols),
            from_rows: gpu::int(k.in_type(1).rows()),
            unused: 0,
        };
        gpu::by_rows(k, "rows", ["add_rows_f32", "add_rows_bf16"], [rows, cols], &args);
        Ok(())
    }
    fn backward(&self, b: &mut Backward) -> Result<Vec<Option<Slot>>> {
        let Some(dy) = b.grads[0] else { return Ok(vec![None; 3]) };
        let (rows, index) = (b.tape.tensor_type(b.inputs[1]).rows(), b.inputs[2]);
        let drows = match b.param_grads[1] {
            Some(grad) => {
                b.emit_into(AddRowsBwdRows { rows, fresh: false }, &[dy, index], &[grad])?;
                None
            }
            None if b.needs[1] => {
                Some(b.emit1(AddRowsBwdRows { rows, fresh: true }, &[dy, index])?)
            }
            None => None,
        };
        Ok(vec![b.needs[0].then_some(dy), drows, None])
    }
    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let (x, rows, index) = (inputs[0], inputs[1], inputs[2]);
        // Each of the rows is added about once.
        let added = x.rows().min(rows.rows()) * x.cols();
        let floats = x.len() + outputs[0].len() + added;
        let bytes = floats * x.dtype.size() + index.len() * index.dtype.size();
        Cost { flops: added as f64, bytes: bytes as f64 }
    }
}

impl Op for AddRowsBwdRows {
    fn name(&self) -> &'static str {
        "add_rows_bwd_rows"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let ok =
            matches!(inputs, [dy, index] if same_float(&[dy]) && is_index(index, dy.rows(), 1));
        require(ok, self.name(), inputs, "dy[T,H], index i32[T,1]")?;
        let fresh = TensorType::matrix(self.rows, inputs[0].cols(), inputs[0].dtype);
        Ok(if self.fresh { vec![fresh] } else { vec![] })
    }
    fn run(&self, io: &Io) {
        let index = io.input::<i32>(1);
        scatter_add(io, self.rows, |t| vision_row(index[t]), self.fresh);
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        rows::scatter(k, self.rows, true, self.fresh);
        Ok(())
    }
    fn gpu_work(&self, inputs: &[&TensorType], _: &[&TensorType]) -> usize {
        rows::scatter_work(inputs[1])
    }
    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let (dy, index, into) = (inputs[0], inputs[1], outputs[0]);
        let read = dy.rows().min(self.rows) * dy.cols();
        let touched = if self.fresh { into.len() } else { 2 * read };
        let bytes =
            index.len() * index.dtype.size() + read * dy.dtype.size() + touched * into.dtype.size();
        Cost { flops: read as f64, bytes: bytes as f64 }
    }
}

/// The definition.
fn reference(io: &Io) {
    let (x, rows, index) = (io.input::<f64>(0), io.input::<f64>(1), io.input::<i32>(2));
    let (y, h) = (io.output::<f64>(0), io.in_type(0).cols());
    y.copy_from_slice(x);
    for (y, &i) in y.chunks_mut(h).zip(index) {
        if let Some(row) = vision_row(i) {
            y.iter_mut().zip(&rows[row * h..][..h]).for_each(|(y, r)| *y += r);
        }
    }
}

fn fast<S: Stored>(io: &Io) {
    let (x, from, index) = (io.input::<S>(0), io.input::<S>(1), io.input::<i32>(2));
    let (y, h) = (io.output::<S>(0), io.in_type(0).cols());
    let rows = rows_per_task(h);
    (y.par_chunks_mut(rows * h), x.par_chunks(rows * h), index.par_chunks(rows))
        .into_par_iter()
        .for_each(|(y, x, index)| {
            vectorised(
                #[inline(always)]
                || {
                    for ((y, x), &i) in y.chunks_mut(h).zip(x.chunks(h)).zip(index) {
                        let Some(row) = vision_row(i) else {
                            y.copy_from_slice(x);
                            continue;
                        };
                        for ((y, &x), &r) in y.iter_mut().zip(x).zip(&from[row * h..][..h]) {
                            *y = S::store(x.load() + r.load());
                        }
                    }
                },
            );
        });
}

fn case(label: &'static str, s: usize, h: usize, index: Vec<i32>) -> Case {
    Case {
        label,
        op: Arc::new(AddRows),
        inputs: vec![
            (vec![index.len(), h], Fill::Normal(1.0), true),
            (vec![s, h], Fill::Normal(1.0), true),
            (vec![index.len(), 1], Fill::Ints(index), false),
        ],
    }
}

fn cases() -> Vec<Case> {
    vec![
        case("an image between text", 4, 19, vec![1, -1, -2, -3, -4, 6, 1]),
        case("shared and unused rows", 5, 130, vec![-2, -1, 4, -2, 0, -5]),
        case("one token", 1, 8, vec![-1]),
        case("several tasks", 30, 300, (0..90).map(|i| (i * 7) % 80 - 30).collect()),
    ]
}

/// Sizes of real models.
fn bench() -> Vec<Case> {
    // A prompt of an image and text.
    let index = (0..4096).map(|i| if i < 1024 { -1 - i } else { i });
    vec![case("1024 of 4096 x 2048", 1024, 2048, index.collect())]
}
