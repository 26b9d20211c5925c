//! Rows picked by an index list: last tokens, completion tokens, merged vision patches in window
//! order. The backward pass adds every row back in ascending order of the list; a row that was
//! picked twice gets both. No atomics: threads own columns.

use super::cpu::rows::{ColumnWriter, for_column_blocks, rows_per_task};
use super::cpu::vectorised;
use super::shapes::{is_index, require, same_float};
use super::{Backward, Case, Fill, Io, Op, OpSpec, Real, Slot, TensorType};
use crate::base::{DType, Result, Tolerance};
use rayon::prelude::*;
use std::sync::Arc;

/// Row of the op table.
pub static SPEC: OpSpec = OpSpec {
    name: "gather_rows",
    doc: "x[S,H], index i32[T,1] to y[T,H] with y[t] = x[index[t]]",
    cases,
    tolerance: Tolerance::rel(2e-7),
};

/// Inputs `x[S,H]`, `index` i32 `[T,1]` in `0..S`; output `y[T,H]`. Running it with an index
/// outside panics.
#[derive(Debug, Clone, Copy)]
pub struct GatherRows;

/// Inputs `dy[T,H]`, `index`; output `dx[S,H]`.
#[derive(Debug, Clone, Copy)]
struct GatherRowsBwd {
    rows: usize,
}

impl Op for GatherRows {
    fn name(&self) -> &'static str {
        "gather_rows"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let ok =
            matches!(inputs, [x, index] if same_float(&[x]) && is_index(index, index.rows(), 1));
        require(ok, self.name(), inputs, "x[S,H], index i32[T,1]")?;
        let (x, index) = (inputs[0], inputs[1]);
        Ok(vec![TensorType::matrix(index.rows(), x.cols(), x.dtype)])
    }
    fn run(&self, io: &Io) {
        let h = io.in_type(0).cols();
        match io.float_type() {
            DType::F64 => gather::<f64>(io.input(0), io.input(1), h, io.output(0)),
            _ => gather::<f32>(io.input(0), io.input(1), h, io.output(0)),
        }
    }
    fn backward(&self, b: &mut Backward) -> Result<Vec<Option<Slot>>> {
        let Some(dy) = b.grads[0].filter(|_| b.needs[0]) else { return Ok(vec![None; 2]) };
        let (index, rows) = (b.inputs[1], b.tape.tensor_type(b.inputs[0]).rows());
        Ok(vec![Some(b.emit1(GatherRowsBwd { rows }, &[dy, index])?), None])
    }
}

impl Op for GatherRowsBwd {
    fn name(&self) -> &'static str {
        "gather_rows_bwd"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let ok =
            matches!(inputs, [dy, index] if same_float(&[dy]) && is_index(index, dy.rows(), 1));
        require(ok, self.name(), inputs, "dy[T,H], index i32[T,1]")?;
        Ok(vec![TensorType::matrix(self.rows, inputs[0].cols(), inputs[0].dtype)])
    }
    fn run(&self, io: &Io) {
        let index = io.input::<i32>(1);
        let row = |t: usize| Some(index[t] as usize);
        match io.float_type() {
            DType::F64 => scatter_add::<f64>(io.input(0), self.rows, row, true, io.output(0)),
            _ => scatter_add::<f32>(io.input(0), self.rows, row, true, io.output(0)),
        }
    }
}

fn gather<T: Real>(x: &[T], index: &[i32], h: usize, y: &mut [T]) {
    let rows = rows_per_task(h);
    (y.par_chunks_mut(rows * h), index.par_chunks(rows)).into_par_iter().for_each(|(y, index)| {
        for (y, &i) in y.chunks_mut(h).zip(index) {
            let from = usize::try_from(i).expect("an index of gather_rows is negative") * h;
            y.copy_from_slice(&x[from..from + h]);
        }
    });
}

/// Adds row `t` of `dy` to row `row(t)` of the `[rows, h]` matrix `out`, in ascending order of
/// `t`; `None` skips. With `fresh`, `out` is zeroed first. Panics if a row does not exist.
pub(super) fn scatter_add<T: Real>(
    dy: &[T],
    rows: usize,
    row: impl Fn(usize) -> Option<usize> + Sync,
    fresh: bool,
    out: &mut [T],
) {
    if out.is_empty() {
        return;
    }
    let h = out.len() / rows;
    if fresh {
        out.par_chunks_mut(super::cpu::rows::CHUNK).for_each(|c| c.fill(T::zero()));
    }
    let out = ColumnWriter::new(out, rows, h);
    for_column_blocks(h, |cols| {
        for (t, dy) in dy.chunks(h).enumerate() {
            let Some(to) = row(t) else { continue };
            // SAFETY: blocks of columns are disjoint.
            let out = unsafe { out.row(to, cols.clone()) };
            vectorised(
                #[inline(always)]
                || {
                    for (o, &d) in out.iter_mut().zip(&dy[cols.clone()]) {
                        *o += d;
                    }
                },
            );
        }
    });
}

fn cases() -> Vec<Case> {
    let case = |label, s: usize, h: usize, index: Vec<i32>| Case {
        label,
        op: Arc::new(GatherRows),
        inputs: vec![
            (vec![s, h], Fill::Normal(1.0), true),
            (vec![index.len(), 1], Fill::Ints(index), false),
        ],
    };
    vec![
        case("repeated and unused rows", 6, 33, vec![5, 0, 3, 3, 5, 5, 1]),
        case("one row", 3, 1, vec![2]),
        case("reversed", 70, 300, (0..70).rev().collect()),
    ]
}
