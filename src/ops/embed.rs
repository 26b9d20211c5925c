//! The input of the decoder: token embeddings with rows of the vision tower put in their places.
//! An index `i >= 0` is a token id; `i < 0` is row `-(i + 1)` of the vision features. The backward
//! pass adds rows in ascending order of the tokens; no atomics: threads own rows of the gradient.

use super::cpu::rows::rows_per_task;
use super::gather_rows::scatter_add;
use super::gpu::rows;
use super::shapes::{bytes, is_index, require, same_float};
use super::{Backward, Case, Cost, Fill, Io, Launcher, Op, OpSpec, Slot, TensorType};
use crate::base::{DType, Result, Tolerance};
use bytemuck::Pod;
use half::bf16;
use rayon::prelude::*;
use std::sync::Arc;

/// Row of the op table.
pub static SPEC: OpSpec = OpSpec {
    name: "embed",
    doc: "weight[V,H], vision[P,H] (may be absent), index i32[T,1] to y[T,H]",
    cases,
    tolerance: Tolerance::rel(2e-7),
    bf16_roundings: 1,
    bench,
};

/// Inputs `weight[V,H]`, `vision[P,H]`, `index` i32 `[T,1]`, or without `vision`; output `y[T,H]`.
/// Running it with an index outside `-P..V` panics.
#[derive(Debug, Clone, Copy)]
pub struct Embed;

/// Inputs `dy[T,H]`, `index`; output the gradient `[rows,H]` of one source, fresh or added to.
#[derive(Debug, Clone, Copy)]
struct EmbedBwd {
    vision: bool,
    rows: usize,
    fresh: bool,
}

/// The row of the vision features that a negative index names.
pub(super) fn vision_row(index: i32) -> Option<usize> {
    (index < 0).then_some(!index as usize) // !i = -(i + 1), without overflow
}

impl Op for Embed {
    fn name(&self) -> &'static str {
        "embed"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let ok = match inputs {
            [w, index] => same_float(&[w]) && is_index(index, index.rows(), 1),
            [w, vision, index] => {
                same_float(&[w, vision])
                    && w.cols() == vision.cols()
                    && is_index(index, index.rows(), 1)
            }
            _ => false,
        };
        require(ok, self.name(), inputs, "weight[V,H], optionally vision[P,H], index i32[T,1]")?;
        let (w, t) = (inputs[0], inputs[inputs.len() - 1].rows());
        Ok(vec![TensorType::matrix(t, w.cols(), w.dtype)])
    }
    fn run(&self, io: &Io) {
        match io.float_type() {
            DType::F64 => embed_fwd::<f64>(io),
            DType::BF16 => embed_fwd::<bf16>(io),
            _ => embed_fwd::<f32>(io),
        }
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        rows::gather(k);
        Ok(())
    }
    fn backward(&self, b: &mut Backward) -> Result<Vec<Option<Slot>>> {
        let mut grads = vec![None; b.inputs.len()];
        let Some(dy) = b.grads[0] else { return Ok(grads) };
        let index = b.inputs[b.inputs.len() - 1];
        for (i, grad) in grads.iter_mut().enumerate().take(b.inputs.len() - 1) {
            let rows = b.tape.tensor_type(b.inputs[i]).rows();
            let op = EmbedBwd { vision: i == 1, rows, fresh: b.param_grads[i].is_none() };
            match b.param_grads[i] {
                Some(into) => b.emit_into(op, &[dy, index], &[into])?,
                None if b.needs[i] => *grad = Some(b.emit1(op, &[dy, index])?),
                None => {}
            }
        }
        Ok(grads)
    }
    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        // Of the sources only the rows that are picked.
        let (index, y) = (inputs[inputs.len() - 1], outputs[0]);
        let bytes = 2 * y.len() * y.dtype.size() + index.len() * index.dtype.size();
        Cost { flops: 0.0, bytes: bytes as f64 }
    }
}

impl Op for EmbedBwd {
    fn name(&self) -> &'static str {
        if self.vision { "embed_bwd_vision" } else { "embed_bwd_weight" }
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let ok =
            matches!(inputs, [dy, index] if same_float(&[dy]) && is_index(index, dy.rows(), 1));
        require(ok, self.name(), inputs, "dy[T,H], index i32[T,1]")?;
        let dy = inputs[0];
        // Rows of the vision tower are activations, the table is a parameter.
        let dtype = if self.vision { dy.dtype } else { dy.dtype.statistic() };
        let fresh = TensorType::matrix(self.rows, dy.cols(), dtype);
        Ok(if self.fresh { vec![fresh] } else { vec![] })
    }
    fn run(&self, io: &Io) {
        let index = io.input::<i32>(1);
        let row = |t: usize| match self.vision {
            true => vision_row(index[t]),
            false => usize::try_from(index[t]).ok(),
        };
        scatter_add(io, self.rows, row, self.fresh);
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        rows::scatter(k, self.rows, self.vision, self.fresh);
        Ok(())
    }
    fn gpu_work(&self, inputs: &[&TensorType], _: &[&TensorType]) -> usize {
        rows::scatter_work(inputs[1])
    }
    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let (dy, into) = (inputs[0], outputs[0]);
        // Rows of `dy` that belong to this source: of the vision features, each about once.
        let rows = if self.vision { dy.rows().min(self.rows) } else { dy.rows() };
        let read = rows * dy.cols();
        let touched = if self.fresh { into.len() } else { 2 * read };
        let bytes = bytes(&[inputs[1]], &[])
            + (read * dy.dtype.size() + touched * into.dtype.size()) as f64;
        Cost { flops: read as f64, bytes }
    }
}

fn embed_fwd<T: Pod + Send + Sync>(io: &Io) {
    let (weight, h) = (io.input::<T>(0), io.in_type(0).cols());
    let vision = if io.num_inputs() == 3 { io.input::<T>(1) } else { &[] };
    let index = io.input::<i32>(io.num_inputs() - 1);
    let rows = rows_per_task(h);
    (io.output::<T>(0).par_chunks_mut(rows * h), index.par_chunks(rows)).into_par_iter().for_each(
        |(y, index)| {
            for (y, &i) in y.chunks_mut(h).zip(index) {
                let from = match vision_row(i) {
                    Some(row) => &vision[row * h..][..h],
                    None => &weight[i as usize * h..][..h],
                };
                y.copy_from_slice(from);
            }
        },
    );
}

fn cases() -> Vec<Case> {
    let case = |label, v: usize, p: Option<usize>, h: usize, index: Vec<i32>| {
        let mut inputs = vec![(vec![v, h], Fill::Normal(1.0), true)];
        inputs.extend(p.map(|p| (vec![p, h], Fill::Normal(1.0), true)));
        inputs.push((vec![index.len(), 1], Fill::Ints(index), false));
        Case { label, op: Arc::new(Embed), inputs }
    };
    vec![
        case("text only, repeated tokens", 11, None, 33, vec![3, 0, 10, 3, 3]),
        case("an image between text", 7, Some(4), 19, vec![1, -1, -2, -3, -4, 6, 1]),
        case("shared image rows", 5, Some(2), 130, vec![-2, -1, 4, -2, 0, -1]),
        case("several tasks", 50, Some(30), 300, (0..90).map(|i| (i * 7) % 80 - 30).collect()),
    ]
}

/// Sizes of real models.
fn bench() -> Vec<Case> {
    // A prompt of an image and text, with many repeated tokens.
    let index: Vec<i32> =
        (0..4096).map(|i| if i < 1024 { -1 - i } else { i * 7919 % 3000 * 10 }).collect();
    vec![Case {
        label: "1024 image rows, 3072 tokens",
        op: Arc::new(Embed),
        inputs: vec![
            (vec![32768, 2048], Fill::Normal(1.0), true),
            (vec![1024, 2048], Fill::Normal(1.0), true),
            (vec![4096, 1], Fill::Ints(index), false),
        ],
    }]
}
