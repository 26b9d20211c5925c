//! The language-model head and everything that GRPO needs of it in one op: log-probability of a
//! given token, log-sum-exp and entropy per row. Logits exist only as one tile of the vocabulary at
//! a time; the backward pass recomputes them. Temperature, forbidden tokens and padding of the
//! vocabulary are arguments here, so that rollout and training cannot differ in them.
//!
//! T rows, H hidden, V vocabulary.

use crate::base::{DType, Error, Result, Tolerance};
use crate::ops::cpu::gemm::{Mat, gemm_f32};
use crate::ops::cpu::logsumexp::{LseState, VOCAB_TILE, prepare_logits};
use crate::ops::cpu::simd::vectorised;
use crate::ops::cpu::vecmath::exp;
use crate::ops::{Backward, Case, Cost, Fill, Io, Op, OpClass, OpSpec, Real, Slot, TensorType};
use rayon::prelude::*;
use std::sync::Arc;

/// What turns hidden states into a distribution, beside the weights.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HeadSettings {
    /// Logits are divided by it; 0 is read as 1 (greedy decoding has no temperature of its own).
    pub temperature: f64,
    /// Tokens that can never be sampled (vision placeholders, padding), sorted.
    pub forbidden: Vec<u32>,
}

impl HeadSettings {
    /// Reciprocal of the temperature.
    pub fn inv_temperature(&self) -> f64 {
        if self.temperature == 0.0 { 1.0 } else { 1.0 / self.temperature }
    }
}

/// Inputs: `h[T,H]`, `w[V,H]`, `target[T,1]`. Outputs: `logp[T,1]`, `lse[T,1]`, `entropy[T,1]` and a
/// work tile. The gradient flows from `logp` only.
#[derive(Debug, Clone)]
pub struct LinearLogprob {
    /// Temperature and forbidden tokens.
    pub head: Arc<HeadSettings>,
}

impl LinearLogprob {
    /// The definition.
    fn fwd<T: Real>(&self, io: &Io) {
        let (h, w, target) = (io.input::<T>(0), io.input::<T>(1), io.input::<i32>(2));
        let hidden = io.in_type(0).cols();
        let (logp, lse) = (io.output::<T>(0), io.output::<T>(1));
        let entropy = io.output::<T>(2);
        for (t, row) in h.chunks_exact(hidden).enumerate() {
            let z = self.logits(row, w);
            let top = z.iter().fold(T::neg_infinity(), |m, x| m.max(*x));
            lse[t] = top + z.iter().map(|x| (*x - top).exp()).sum::<T>().ln();
            logp[t] = z[target[t] as usize] - lse[t];
            entropy[t] = lse[t] - z.iter().map(|x| (*x - lse[t]).exp() * *x).sum::<T>();
        }
    }

    fn logits<T: Real>(&self, row: &[T], w: &[T]) -> Vec<T> {
        let inv = T::of(self.head.inv_temperature());
        let mut z: Vec<T> = w
            .chunks_exact(row.len())
            .map(|w| row.iter().zip(w).map(|(a, b)| *a * *b).sum::<T>() * inv)
            .collect();
        for &f in &self.head.forbidden {
            if let Some(z) = z.get_mut(f as usize) {
                *z = T::of(-1e30);
            }
        }
        z
    }

    fn fwd_fast(&self, io: &Io) {
        let (h, w, target) = (io.input::<f32>(0), io.input::<f32>(1), io.input::<i32>(2));
        let (t, hidden, v) = (io.in_type(0).rows(), io.in_type(0).cols(), io.in_type(1).rows());
        let (logp, lse) = (io.output::<f32>(0), io.output::<f32>(1));
        let (entropy, tile) = (io.output::<f32>(2), io.output::<f32>(3));
        let mut state = vec![LseState::default(); t];
        for first in (0..v).step_by(VOCAB_TILE) {
            let n = VOCAB_TILE.min(v - first);
            logits_tile(h, w, hidden, first, n, &mut tile[..t * n]);
            tile[..t * n].par_chunks_mut(n).zip(&mut state).zip(&mut *logp).zip(target).for_each(
                |(((z, state), logp), &target)| {
                    vectorised(
                        #[inline(always)]
                        || {
                            let inv = self.head.inv_temperature() as f32;
                            prepare_logits(z, first, inv, &self.head.forbidden);
                            state.absorb(z);
                        },
                    );
                    if let Some(&z) = (target as usize).checked_sub(first).and_then(|i| z.get(i)) {
                        *logp = z;
                    }
                },
            );
        }
        for (i, s) in state.iter().enumerate() {
            lse[i] = s.lse();
            logp[i] -= lse[i];
            entropy[i] = s.entropy();
        }
    }
}

/// Raw logits of `n` vocabulary rows from `first` on.
fn logits_tile(h: &[f32], w: &[f32], hidden: usize, first: usize, n: usize, tile: &mut [f32]) {
    let t = h.len() / hidden;
    let w = &w[first * hidden..(first + n) * hidden];
    gemm_f32(Mat::row_major(h, t, hidden), Mat::row_major(w, n, hidden).t(), tile, n, false);
}

fn tile_type(rows: usize, vocab: usize, dtype: DType) -> TensorType {
    // The reference keeps one row at a time and needs no tile.
    let cols = if dtype == DType::F64 { 0 } else { VOCAB_TILE.min(vocab) };
    TensorType::matrix(rows, cols, dtype)
}

impl Op for LinearLogprob {
    fn name(&self) -> &'static str {
        "linear_logprob"
    }
    fn class(&self) -> OpClass {
        OpClass::Matmul
    }
    fn infer(&self, i: &[&TensorType]) -> Result<Vec<TensorType>> {
        let (t, dtype) = (i[0].rows(), i[0].dtype);
        if i[0].cols() != i[1].cols() || i[2].len() != t {
            return Err(Error::internal("linear_logprob: shapes do not fit")
                .found(format!("{:?} {:?} {:?}", i[0].shape, i[1].shape, i[2].shape)));
        }
        let column = || TensorType::matrix(t, 1, dtype);
        Ok(vec![column(), column(), column(), tile_type(t, i[1].rows(), dtype)])
    }
    fn run(&self, io: &Io) {
        match io.float_type() {
            DType::F64 => self.fwd::<f64>(io),
            _ => self.fwd_fast(io),
        }
    }
    fn backward(&self, b: &mut Backward) -> Result<Vec<Option<Slot>>> {
        let Some(dlogp) = b.grads[0] else { return Ok(vec![None; 3]) };
        let inputs = [b.inputs[0], b.inputs[1], b.inputs[2], b.outputs[1], dlogp];
        let weight: Vec<Slot> = b.param_grads[1].into_iter().collect();
        let op = LinearLogprobBwd { head: self.head.clone(), weight: !weight.is_empty() };
        let made = b.tape.append(Arc::new(op), &inputs, &weight)?;
        Ok(vec![Some(made[0]), None, None])
    }
    fn cost(&self, i: &[&TensorType], o: &[&TensorType]) -> Cost {
        head_cost(i, o, 2.0)
    }
}

fn head_cost(i: &[&TensorType], o: &[&TensorType], flops_per_weight: f64) -> Cost {
    let size = |t: &&TensorType| (t.len() * t.dtype.size()) as f64;
    Cost {
        flops: flops_per_weight * i[0].rows() as f64 * i[1].len() as f64,
        bytes: i.iter().map(size).sum::<f64>() + o.iter().map(size).sum::<f64>(),
    }
}

/// Inputs `h, w, target, lse, dlogp`; outputs `dh[T,H]`, a work tile, and updates `dw[V,H]` if the
/// head is trained. `dlogits = dlogp · (onehot − softmax) / temperature`.
#[derive(Debug, Clone)]
struct LinearLogprobBwd {
    head: Arc<HeadSettings>,
    weight: bool,
}

impl LinearLogprobBwd {
    fn go(&self, io: &Io) {
        let (h, w, target) = (io.input::<f64>(0), io.input::<f64>(1), io.input::<i32>(2));
        let (lse, g) = (io.input::<f64>(3), io.input::<f64>(4));
        let hidden = io.in_type(0).cols();
        let dh = io.output::<f64>(0);
        dh.fill(0.0);
        let mut dw = self.weight.then(|| io.output::<f64>(2));
        let fwd = LinearLogprob { head: self.head.clone() };
        for (t, row) in h.chunks_exact(hidden).enumerate() {
            let z = fwd.logits(row, w);
            for (j, z) in z.iter().enumerate() {
                let hit = f64::from(u8::from(target[t] as usize == j));
                let dz = g[t] * (hit - (z - lse[t]).exp()) * self.head.inv_temperature();
                for c in 0..hidden {
                    dh[t * hidden + c] += dz * w[j * hidden + c];
                    if let Some(dw) = &mut dw {
                        dw[j * hidden + c] += dz * row[c];
                    }
                }
            }
        }
    }

    fn go_fast(&self, io: &Io) {
        let (h, w, target) = (io.input::<f32>(0), io.input::<f32>(1), io.input::<i32>(2));
        let (lse, g) = (io.input::<f32>(3), io.input::<f32>(4));
        let (t, hidden, v) = (io.in_type(0).rows(), io.in_type(0).cols(), io.in_type(1).rows());
        let (dh, tile) = (io.output::<f32>(0), io.output::<f32>(1));
        let mut dw = self.weight.then(|| io.output::<f32>(2));
        let inv = self.head.inv_temperature() as f32;
        for first in (0..v).step_by(VOCAB_TILE) {
            let n = VOCAB_TILE.min(v - first);
            let tile = &mut tile[..t * n];
            logits_tile(h, w, hidden, first, n, tile);
            tile.par_chunks_mut(n).enumerate().for_each(|(i, z)| {
                vectorised(
                    #[inline(always)]
                    || {
                        prepare_logits(z, first, inv, &self.head.forbidden);
                        let (lse, g) = (lse[i], g[i] * inv);
                        for z in z.iter_mut() {
                            *z = -g * exp(*z - lse);
                        }
                    },
                );
                let hit = (target[i] as usize).checked_sub(first);
                if let Some(z) = hit.and_then(|j| z.get_mut(j)) {
                    *z += g[i] * inv;
                }
            });
            let dz = Mat::row_major(&*tile, t, n);
            let rows = &w[first * hidden..(first + n) * hidden];
            gemm_f32(dz, Mat::row_major(rows, n, hidden), dh, hidden, first > 0);
            if let Some(dw) = &mut dw {
                let dw = &mut dw[first * hidden..(first + n) * hidden];
                gemm_f32(dz.t(), Mat::row_major(h, t, hidden), dw, hidden, true);
            }
        }
    }
}

impl Op for LinearLogprobBwd {
    fn name(&self) -> &'static str {
        "linear_logprob_bwd"
    }
    fn infer(&self, i: &[&TensorType]) -> Result<Vec<TensorType>> {
        Ok(vec![i[0].clone(), tile_type(i[0].rows(), i[1].rows(), i[0].dtype)])
    }
    fn run(&self, io: &Io) {
        match io.float_type() {
            DType::F64 => self.go(io),
            _ => self.go_fast(io),
        }
    }
    fn cost(&self, i: &[&TensorType], o: &[&TensorType]) -> Cost {
        head_cost(i, o, if self.weight { 6.0 } else { 4.0 })
    }
}

fn cases() -> Vec<Case> {
    let case = |label, t: usize, h: usize, v: usize, temperature, forbidden: Vec<u32>| Case {
        label,
        op: Arc::new(LinearLogprob { head: Arc::new(HeadSettings { temperature, forbidden }) }),
        inputs: vec![
            (vec![t, h], Fill::Normal(1.0), true),
            (vec![v, h], Fill::Normal(0.5), true),
            (vec![t, 1], Fill::Ints((0..t).map(|i| ((i * 7) % v) as i32).collect()), false),
        ],
    };
    vec![
        case("small vocabulary", 5, 8, 11, 1.0, vec![]),
        case("temperature and forbidden tokens", 4, 12, 40, 0.7, vec![1, 2, 39]),
        case("several tiles of the vocabulary", 3, 16, 2500, 1.3, vec![1023, 1024, 2499]),
        case("several tasks", 41, 24, 1500, 1.0, vec![6]),
    ]
}

/// Row of the op table.
pub static SPEC: OpSpec = OpSpec {
    name: "linear_logprob",
    doc: "head, log-sum-exp, gather and entropy without stored logits",
    cases,
    tolerance: Tolerance { abs: 2e-6, rel: 5e-6 },
};
