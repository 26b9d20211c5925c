//! Rows picked by an index list: last tokens, completion tokens, merged vision patches in window
//! order. The backward pass adds every row back in ascending order of the list; a row that was
//! picked twice gets both. No atomics: threads own rows of the result.

use super::cpu::rows::rows_per_task;
use super::cpu::vectorised;
use super::gpu::rows;
use super::shapes::{is_index, require, same_float};
use super::{Backward, Case, Cost, Fill, Io, Launcher, Op, OpSpec, Slot, Stored, TensorType};
use crate::base::{DType, Result, Tolerance};
use bytemuck::Pod;
use half::bf16;
use rayon::prelude::*;
use std::sync::Arc;

/// Row of the op table.
pub static SPEC: OpSpec = OpSpec {
    name: "gather_rows",
    doc: "x[S,H], index i32[T,1] to y[T,H] with y[t] = x[index[t]]",
    cases,
    tolerance: Tolerance::rel(2e-7),
    bf16_roundings: 1,
    bench,
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
            DType::BF16 => gather::<bf16>(io.input(0), io.input(1), h, io.output(0)),
            _ => gather::<f32>(io.input(0), io.input(1), h, io.output(0)),
        }
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        rows::gather(k);
        Ok(())
    }
    fn backward(&self, b: &mut Backward) -> Result<Vec<Option<Slot>>> {
        let Some(dy) = b.grads[0].filter(|_| b.needs[0]) else { return Ok(vec![None; 2]) };
        let (index, rows) = (b.inputs[1], b.tape.tensor_type(b.inputs[0]).rows());
        Ok(vec![Some(b.emit1(GatherRowsBwd { rows }, &[dy, index])?), None])
    }
    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        // Of the source only the rows that are picked.
        let (index, y) = (inputs[1], outputs[0]);
        let bytes = 2 * y.len() * y.dtype.size() + index.len() * index.dtype.size();
        Cost { flops: 0.0, bytes: bytes as f64 }
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
        scatter_add(io, self.rows, |t| Some(index[t] as usize), true);
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        rows::scatter(k, self.rows, false, true);
        Ok(())
    }
    fn gpu_work(&self, inputs: &[&TensorType], _: &[&TensorType]) -> usize {
        rows::scatter_work(inputs[1])
    }
}

fn gather<T: Pod + Send + Sync>(x: &[T], index: &[i32], h: usize, y: &mut [T]) {
    let rows = rows_per_task(h);
    (y.par_chunks_mut(rows * h), index.par_chunks(rows)).into_par_iter().for_each(|(y, index)| {
        for (y, &i) in y.chunks_mut(h).zip(index) {
            let from = usize::try_from(i).expect("an index of gather_rows is negative") * h;
            y.copy_from_slice(&x[from..from + h]);
        }
    });
}

/// Adds row `t` of the node's first input to row `row(t)` of its output of `rows` rows, in
/// ascending order of `t`; `None` skips. With `fresh`, the output starts from 0. Panics if a row
/// does not exist.
pub(super) fn scatter_add(io: &Io, rows: usize, row: impl Fn(usize) -> Option<usize>, fresh: bool) {
    scatter_entries(io, rows, row, fresh, None);
}

/// Adds row `e / taps` of the node's first input, times entry `e` of its input 2, to the row of its
/// output that entry `e` of its input 1 names, in ascending order of `e`. Else as [`scatter_add`].
pub(super) fn scatter_weighted(io: &Io, rows: usize, taps: usize, fresh: bool) {
    let index = io.input::<i32>(1);
    scatter_entries(io, rows, |e| Some(index[e] as usize), fresh, Some(taps));
}

/// What [`scatter_add`] and [`scatter_weighted`] share; the latter gives `taps`.
fn scatter_entries(
    io: &Io,
    rows: usize,
    row: impl Fn(usize) -> Option<usize>,
    fresh: bool,
    taps: Option<usize>,
) {
    match (io.in_type(0).dtype, io.out_type(0).dtype) {
        (DType::F64, _) => {
            let weights = taps.map(|taps| (taps, io.input(2)));
            scatter_reference(io.input(0), weights, rows, row, fresh, io.output(0));
        }
        (DType::BF16, DType::BF16) => scatter::<bf16, bf16>(io, rows, row, fresh, taps),
        (DType::BF16, _) => scatter::<bf16, f32>(io, rows, row, fresh, taps),
        _ => scatter::<f32, f32>(io, rows, row, fresh, taps),
    }
}

/// The definition.
fn scatter_reference(
    dy: &[f64],
    weights: Option<(usize, &[f64])>,
    rows: usize,
    row: impl Fn(usize) -> Option<usize>,
    fresh: bool,
    out: &mut [f64],
) {
    if fresh {
        out.fill(0.0);
    }
    let h = out.len() / rows.max(1);
    let taps = weights.map_or(1, |w| w.0);
    for (t, dy) in dy.chunks(h.max(1)).enumerate() {
        for e in t * taps..(t + 1) * taps {
            let Some(to) = row(e) else { continue };
            let w = weights.map_or(1.0, |w| w.1[e]);
            out[to * h..][..h].iter_mut().zip(dy).for_each(|(o, d)| *o += w * d);
        }
    }
}

/// Columns that are summed at a time, in registers and the nearest cache.
const BLOCK: usize = 256;

/// The rows that are added, and how: entry `e` means row `e / taps`, times its weight.
#[derive(Clone, Copy)]
struct Terms<'a, S> {
    dy: &'a [S],
    taps: usize,
    weights: Option<&'a [f32]>,
}

/// The sum of each row of `out` is formed in f32 and stored once.
fn scatter<S: Stored, G: Stored>(
    io: &Io,
    rows: usize,
    row: impl Fn(usize) -> Option<usize>,
    fresh: bool,
    taps: Option<usize>,
) {
    let (dy, out) = (io.input::<S>(0), io.output::<G>(0));
    if out.is_empty() {
        return;
    }
    let h = out.len() / rows;
    let terms = Terms { dy, taps: taps.unwrap_or(1), weights: taps.map(|_| io.input(2)) };
    // (row of the result, entry), so that each row's part is found and in order.
    let mut pairs: Vec<(usize, usize)> =
        (0..dy.len() / h * terms.taps).filter_map(|e| row(e).map(|to| (to, e))).collect();
    assert!(pairs.iter().all(|p| p.0 < rows), "a row outside of 0..{rows}");
    pairs.sort_unstable();
    let per_task = rows_per_task(h);
    out.par_chunks_mut(per_task * h).enumerate().for_each(|(task, out)| {
        let mut next = pairs.partition_point(|p| p.0 < task * per_task);
        for (i, out) in out.chunks_mut(h).enumerate() {
            let count = pairs[next..].iter().take_while(|p| p.0 == task * per_task + i).count();
            let mine = &pairs[next..next + count];
            next += count;
            if count > 0 {
                add_terms(terms, mine, fresh, out);
            } else if fresh {
                out.fill(G::store(0.0));
            }
        }
    });
}

/// `out (+)=` the terms of the pairs `(_, e)`, in their order.
fn add_terms<S: Stored, G: Stored>(
    terms: Terms<S>,
    pairs: &[(usize, usize)],
    fresh: bool,
    out: &mut [G],
) {
    let h = out.len();
    vectorised(
        #[inline(always)]
        || {
            for (b, out) in out.chunks_mut(BLOCK).enumerate() {
                let mut acc = [0f32; BLOCK];
                if !fresh {
                    for (a, o) in acc.iter_mut().zip(&*out) {
                        *a = o.load();
                    }
                }
                for &(_, e) in pairs {
                    let dy = &terms.dy[e / terms.taps * h + b * BLOCK..][..out.len()];
                    match terms.weights {
                        Some(w) => {
                            let w = w[e];
                            for (a, &d) in acc.iter_mut().zip(dy) {
                                *a = w.mul_add(d.load(), *a);
                            }
                        }
                        None => {
                            for (a, &d) in acc.iter_mut().zip(dy) {
                                *a += d.load();
                            }
                        }
                    }
                }
                for (o, &a) in out.iter_mut().zip(&acc) {
                    *o = G::store(a);
                }
            }
        },
    );
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
        case("a long list", 1300, 8, (0..2500).map(|i| i * 7 % 1250).collect()),
    ]
}

/// Sizes of real models.
fn bench() -> Vec<Case> {
    vec![Case {
        label: "2048 of 4096 x 2048",
        op: Arc::new(GatherRows),
        inputs: vec![
            (vec![4096, 2048], Fill::Normal(1.0), true),
            (vec![2048, 1], Fill::Ints((0..2048).map(|i| i * 37 % 4096).collect()), false),
        ],
    }]
}
