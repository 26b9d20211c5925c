//! The language-model head and everything that GRPO needs of it in one op: log-probability of a
//! given token, log-sum-exp and entropy per row. Logits exist only as one tile of the vocabulary at
//! a time; the backward pass recomputes them. Temperature, forbidden tokens and padding of the
//! vocabulary are arguments here, so that rollout and training cannot differ in them.
//!
//! T rows, H hidden, V vocabulary.

use crate::base::{DType, Error, Result, Tolerance};
use crate::ops::cpu::gemm::{Element, Factor, Finish, Mat, Term, gemm};
use crate::ops::cpu::logsumexp::{LseState, VOCAB_TILE, prepare_logits};
use crate::ops::cpu::simd::vectorised;
use crate::ops::cpu::vecmath::exp_weight;
use crate::ops::gpu::linear_logprob as gpu;
use crate::ops::{Backward, Case, Cost, Fill, Io, Launcher, Op, OpClass, OpSpec, Slot, TensorType};
use bytemuck::Pod;
use half::bf16;
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

/// Inputs: `h[T,H]`, `w[V,H]`, `target[T,1]` and, if they are known, `logp[T,1]`, `lse[T,1]` and
/// `entropy[T,1]`. Outputs: `logp[T,1]`, `lse[T,1]`, `entropy[T,1]` and work space. The gradient flows
/// from `logp` and, where that is said, from `entropy`.
#[derive(Debug, Clone)]
pub struct LinearLogprob {
    /// Temperature and forbidden tokens.
    pub head: Arc<HeadSettings>,
    /// The rollout had the same weights: its numbers are passed on instead of computed again. The
    /// backward pass, which needs the logits anyway, computes them once more and overwrites the
    /// outputs `logp` and `entropy` with what it finds, so that a disagreement is seen.
    pub known: bool,
    /// The entropy has a gradient, too: an entropy bonus is in the loss.
    pub bonus: bool,
}

impl LinearLogprob {
    fn pass_on<T: Pod>(&self, io: &Io) {
        for i in 0..3 {
            io.output::<T>(i).copy_from_slice(io.input::<T>(3 + i));
        }
    }

    /// The definition.
    fn fwd(&self, io: &Io) {
        if self.known {
            return self.pass_on::<f64>(io);
        }
        let (h, w, target) = (io.input::<f64>(0), io.input::<f64>(1), io.input::<i32>(2));
        let hidden = io.in_type(0).cols();
        let (logp, lse) = (io.output::<f64>(0), io.output::<f64>(1));
        let entropy = io.output::<f64>(2);
        for (t, row) in h.chunks_exact(hidden).enumerate() {
            let z = self.logits(row, w);
            let top = z.iter().fold(f64::NEG_INFINITY, |m, x| m.max(*x));
            lse[t] = top + z.iter().map(|x| (*x - top).exp()).sum::<f64>().ln();
            logp[t] = z[target[t] as usize] - lse[t];
            entropy[t] = lse[t] - z.iter().map(|x| (*x - lse[t]).exp() * *x).sum::<f64>();
        }
    }

    fn logits(&self, row: &[f64], w: &[f64]) -> Vec<f64> {
        let inv = self.head.inv_temperature();
        let mut z: Vec<f64> = w
            .chunks_exact(row.len())
            .map(|w| row.iter().zip(w).map(|(a, b)| *a * *b).sum::<f64>() * inv)
            .collect();
        for &f in &self.head.forbidden {
            if let Some(z) = z.get_mut(f as usize) {
                *z = -1e30;
            }
        }
        z
    }

    fn fwd_fast<S: Element>(&self, io: &Io) {
        if self.known {
            return self.pass_on::<f32>(io);
        }
        let (h, w, target) = (io.input::<S>(0), io.input::<S>(1), io.input::<i32>(2));
        let (t, hidden, v) = (io.in_type(0).rows(), io.in_type(0).cols(), io.in_type(1).rows());
        let (logp, lse) = (io.output::<f32>(0), io.output::<f32>(1));
        let (entropy, tile) = (io.output::<f32>(2), io.output::<f32>(3));
        let mut state = vec![LseState::default(); t];
        for first in (0..v).step_by(VOCAB_TILE) {
            let n = VOCAB_TILE.min(v - first);
            logits_tile(h, w, hidden, first, n, tile);
            let rows = tile.par_chunks_mut(TILE_STRIDE).map(|row| &mut row[..n]);
            rows.zip(&mut state).zip(&mut *logp).zip(target).for_each(
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
fn logits_tile<S: Element>(
    h: &[S],
    w: &[S],
    hidden: usize,
    first: usize,
    n: usize,
    tile: &mut [f32],
) {
    let t = h.len() / hidden;
    let w = &w[first * hidden..(first + n) * hidden];
    let b = Factor::Matrix(Mat::row_major(w, n, hidden).t());
    gemm(&[Term { a: Mat::row_major(h, t, hidden), b }], Finish::Plain, tile, TILE_STRIDE, false);
}

/// Distance of two rows of a tile: not a power of two, or the same place of all rows would fall into
/// one set of the cache.
const TILE_STRIDE: usize = VOCAB_TILE + 32;

/// A tile of logits. The reference keeps one row at a time and needs none.
fn tile_type(rows: usize, float: DType, dtype: DType) -> TensorType {
    let cols = if float == DType::F64 { 0 } else { TILE_STRIDE };
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
        let statistic = dtype.statistic();
        let known = if self.known { 3 } else { 0 };
        let columns_fit = i[3..].iter().all(|c| c.len() == t && c.dtype == statistic);
        if i[0].cols() != i[1].cols()
            || i[1].dtype != dtype
            || i[2].len() != t
            || i.len() != 3 + known
            || !columns_fit
        {
            return Err(Error::internal("linear_logprob: inputs do not fit")
                .expected("h[T,H], w[V,H], target[T,1] and, if known, logp, lse, entropy [T,1]")
                .found(format!("{i:?}")));
        }
        let column = || TensorType::matrix(t, 1, statistic);
        let mut out = vec![column(), column(), column()];
        if !self.known {
            out.push(tile_type(t, dtype, DType::F32));
        }
        Ok(out)
    }
    fn run(&self, io: &Io) {
        match io.float_type() {
            DType::F64 => self.fwd(io),
            DType::BF16 => self.fwd_fast::<bf16>(io),
            _ => self.fwd_fast::<f32>(io),
        }
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        gpu::launch_forward(k, &self.head, self.known)
    }
    fn table_key(&self) -> Option<(usize, u32)> {
        (!self.known).then(|| gpu::forbidden_key(&self.head))
    }
    fn table_words(&self) -> Vec<i32> {
        gpu::forbidden_words(&self.head.forbidden)
    }
    fn gpu_work(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> usize {
        gpu::forward_work(inputs, outputs)
    }
    fn backward(&self, b: &mut Backward) -> Result<Vec<Option<Slot>>> {
        let Some(dlogp) = b.grads[0] else { return Ok(vec![None; b.inputs.len()]) };
        let mut inputs = vec![b.inputs[0], b.inputs[1], b.inputs[2], b.outputs[1], dlogp];
        let bonus = b.grads[2].filter(|_| self.bonus);
        if let Some(dentropy) = bonus {
            // The check overwrites the output: what was known is read.
            inputs.extend([if self.known { b.inputs[5] } else { b.outputs[2] }, dentropy]);
        }
        let mut updated: Vec<Slot> = b.param_grads[1].into_iter().collect();
        let weight = !updated.is_empty();
        if self.known {
            updated.extend([b.outputs[0], b.outputs[2]]);
        }
        let (head, bonus) = (self.head.clone(), bonus.is_some());
        let op = LinearLogprobBwd { head, weight, check: self.known, bonus };
        let made = b.tape.append(Arc::new(op), &inputs, &updated)?;
        let mut out = vec![None; b.inputs.len()];
        out[0] = Some(made[0]);
        Ok(out)
    }
    fn outputs_with_gradient(&self, _: usize) -> Vec<usize> {
        if self.bonus { vec![0, 2] } else { vec![0] }
    }
    fn cost(&self, i: &[&TensorType], o: &[&TensorType]) -> Cost {
        head_cost(i, o, if self.known { 0.0 } else { 2.0 })
    }
}

fn head_cost(i: &[&TensorType], o: &[&TensorType], flops_per_weight: f64) -> Cost {
    let size = |t: &&TensorType| (t.len() * t.dtype.size()) as f64;
    Cost {
        flops: flops_per_weight * i[0].rows() as f64 * i[1].len() as f64,
        bytes: i.iter().map(size).sum::<f64>() + o.iter().map(size).sum::<f64>(),
    }
}

/// Inputs `h, w, target, lse, dlogp` and, with a bonus, `entropy, dentropy`; outputs `dh[T,H]` and work space (rows of `h` that have a
/// gradient, a tile of logits, the same tile as gradients, `dh` before rounding), and updates
/// `dw[V,H]` if the head is trained and, if asked to check, `logp[T,1]` and `entropy[T,1]`.
/// `dlogits = dlogp · (onehot − p) / temperature`, and the entropy's part beside it, with `log p = z − lse`:
/// `−dentropy · p · (log p + entropy) / temperature`.
///
/// Rows without any gradient (clipped, masked) take no part: not in the products, not in the check.
#[derive(Debug, Clone)]
struct LinearLogprobBwd {
    head: Arc<HeadSettings>,
    weight: bool,
    check: bool,
    bonus: bool,
}

/// Fresh outputs of [`LinearLogprobBwd`]; those that it updates follow.
pub(crate) const BWD_FRESH: usize = 5;

impl LinearLogprobBwd {
    fn go(&self, io: &Io) {
        let (h, w, target) = (io.input::<f64>(0), io.input::<f64>(1), io.input::<i32>(2));
        let (lse, g) = (io.input::<f64>(3), io.input::<f64>(4));
        let hidden = io.in_type(0).cols();
        let dh = io.output::<f64>(0);
        dh.fill(0.0);
        let mut dw = self.weight.then(|| io.output::<f64>(BWD_FRESH));
        let fwd = LinearLogprob { head: self.head.clone(), known: false, bonus: false };
        let bonus = self.bonus.then(|| (io.input::<f64>(5), io.input::<f64>(6)));
        for (t, row) in h.chunks_exact(hidden).enumerate() {
            let z = fwd.logits(row, w);
            let (entropy, slope) = bonus.map_or((0.0, 0.0), |(h, g)| (h[t], g[t]));
            for (j, z) in z.iter().enumerate() {
                let hit = f64::from(u8::from(target[t] as usize == j));
                let (log, p) = (z - lse[t], (z - lse[t]).exp());
                let dz = g[t] * (hit - p) - slope * p * (log + entropy);
                let dz = dz * self.head.inv_temperature();
                for c in 0..hidden {
                    dh[t * hidden + c] += dz * w[j * hidden + c];
                    if let Some(dw) = &mut dw {
                        dw[j * hidden + c] += dz * row[c];
                    }
                }
            }
        }
    }

    fn go_fast<S: Element>(&self, io: &Io) {
        let (h, w) = (io.input::<S>(0), io.input::<S>(1));
        let (t, hidden, v) = (io.in_type(0).rows(), io.in_type(0).cols(), io.in_type(1).rows());
        let (target, lse, g) = (io.input::<i32>(2), io.input::<f32>(3), io.input::<f32>(4));
        let (dh, active) = (io.output::<S>(0), io.output::<S>(1));
        let (tile, gradients) = (io.output::<f32>(2), io.output::<S>(3));
        let sums = io.output::<f32>(4);
        let mut dw = self.weight.then(|| io.output::<f32>(BWD_FRESH));
        let bonus = self.bonus.then(|| (io.input::<f32>(5), io.input::<f32>(6)));
        let of_entropy = |i: usize| bonus.map_or((0.0, 0.0), |(h, g)| (h[i], g[i]));
        let inv = self.head.inv_temperature() as f32;
        let mut rows: Vec<Row> = (0..t)
            .filter(|&i| g[i] != 0.0 || of_entropy(i).1 != 0.0)
            .map(|i| Row {
                index: i,
                target: target[i] as usize,
                lse: lse[i],
                slope: g[i] * inv,
                entropy: of_entropy(i).0,
                bonus: of_entropy(i).1 * inv,
                logit: 0.0,
                state: LseState::default(),
            })
            .collect();
        let n_rows = rows.len();
        dh.fill(S::store(0.0));
        if rows.is_empty() {
            return;
        }
        for (to, row) in active.chunks_exact_mut(hidden).zip(&rows) {
            to.copy_from_slice(&h[row.index * hidden..][..hidden]);
        }
        let h = &active[..n_rows * hidden];
        let sums = &mut sums[..n_rows * hidden];
        for first in (0..v).step_by(VOCAB_TILE) {
            let n = VOCAB_TILE.min(v - first);
            logits_tile(h, w, hidden, first, n, tile);
            (tile.par_chunks_mut(TILE_STRIDE), gradients.par_chunks_mut(TILE_STRIDE), &mut rows)
                .into_par_iter()
                .for_each(|(z, dz, row)| self.tile_gradient(first, &mut z[..n], &mut dz[..n], row));
            let dz = Mat::with_stride(&*gradients, n_rows, n, TILE_STRIDE);
            let b = Mat::row_major(&w[first * hidden..(first + n) * hidden], n, hidden);
            let term = [Term { a: dz, b: Factor::Matrix(b) }];
            gemm(&term, Finish::Plain, sums, hidden, first > 0);
            if let Some(dw) = &mut dw {
                let dw = &mut dw[first * hidden..(first + n) * hidden];
                let b = Factor::Matrix(Mat::row_major(h, n_rows, hidden));
                gemm(&[Term { a: dz.t(), b }], Finish::Plain, dw, hidden, true);
            }
        }
        for (row, sums) in rows.iter().zip(sums.chunks_exact(hidden)) {
            let to = &mut dh[row.index * hidden..][..hidden];
            to.iter_mut().zip(sums).for_each(|(d, s)| *d = S::store(*s));
        }
        if self.check {
            let at = BWD_FRESH + usize::from(self.weight);
            let (logp, entropy) = (io.output::<f32>(at), io.output::<f32>(at + 1));
            for row in &rows {
                logp[row.index] = row.logit - row.state.lse();
                entropy[row.index] = row.state.entropy();
            }
        }
    }

    /// Raw logits of one row's tile to the gradient of the raw logits.
    fn tile_gradient<S: Element>(&self, first: usize, z: &mut [f32], dz: &mut [S], row: &mut Row) {
        let inv = self.head.inv_temperature() as f32;
        let (slope, lse) = (row.slope, row.lse);
        vectorised(
            #[inline(always)]
            || {
                prepare_logits(z, first, inv, &self.head.forbidden);
                if self.check {
                    row.state.absorb(z);
                }
                if row.bonus == 0.0 {
                    for (d, z) in dz.iter_mut().zip(z.iter()) {
                        *d = S::store(-slope * exp_weight(*z - lse));
                    }
                } else {
                    for (d, z) in dz.iter_mut().zip(z.iter()) {
                        *d = S::store(row.falling(*z));
                    }
                }
            },
        );
        if let Some(i) = row.target.checked_sub(first).filter(|i| *i < z.len()) {
            row.logit = z[i];
            // From the sum in f32: the difference of two roundings would be half as exact.
            dz[i] = S::store(match row.bonus == 0.0 {
                true => slope - slope * exp_weight(z[i] - lse),
                false => slope + row.falling(z[i]),
            });
        }
    }
}

/// A row that has a gradient, on its way through the vocabulary.
struct Row {
    index: usize,
    target: usize,
    lse: f32,
    /// Gradient of the raw logits: `dlogp / temperature`.
    slope: f32,
    /// Entropy of the distribution, where it has a gradient.
    entropy: f32,
    /// Its gradient, divided by the temperature.
    bonus: f32,
    /// The prepared logit of the target.
    logit: f32,
    state: LseState,
}

impl Row {
    /// What the logit `z` gets beside the hit of the target.
    #[inline(always)]
    fn falling(&self, z: f32) -> f32 {
        let log = z - self.lse;
        -exp_weight(log) * self.bonus.mul_add(log + self.entropy, self.slope)
    }
}

impl Op for LinearLogprobBwd {
    fn name(&self) -> &'static str {
        "linear_logprob_bwd"
    }
    fn infer(&self, i: &[&TensorType]) -> Result<Vec<TensorType>> {
        let h = i[0];
        let mut sums = h.clone();
        sums.dtype = h.dtype.statistic();
        Ok(vec![
            h.clone(),
            h.clone(),
            tile_type(h.rows(), h.dtype, DType::F32),
            tile_type(h.rows(), h.dtype, h.dtype),
            sums,
        ])
    }
    fn run(&self, io: &Io) {
        match io.float_type() {
            DType::F64 => self.go(io),
            DType::BF16 => self.go_fast::<bf16>(io),
            _ => self.go_fast::<f32>(io),
        }
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        gpu::launch_backward(k, &self.head, self.weight, self.check, self.bonus)
    }
    fn table_key(&self) -> Option<(usize, u32)> {
        Some(gpu::forbidden_key(&self.head))
    }
    fn table_words(&self) -> Vec<i32> {
        gpu::forbidden_words(&self.head.forbidden)
    }
    fn gpu_work(&self, inputs: &[&TensorType], _: &[&TensorType]) -> usize {
        gpu::backward_work(inputs, self.check)
    }
    fn cost(&self, i: &[&TensorType], o: &[&TensorType]) -> Cost {
        head_cost(i, o, if self.weight { 6.0 } else { 4.0 })
    }
}

fn cases() -> Vec<Case> {
    let of = |label, bonus, t: usize, h: usize, v: usize, temperature, forbidden: Vec<u32>| Case {
        label,
        op: Arc::new(LinearLogprob {
            head: Arc::new(HeadSettings { temperature, forbidden }),
            known: false,
            bonus,
        }),
        inputs: vec![
            (vec![t, h], Fill::Normal(1.0), true),
            (vec![v, h], Fill::Normal(0.5), true),
            (vec![t, 1], Fill::Ints((0..t).map(|i| ((i * 7) % v) as i32).collect()), false),
        ],
    };
    let case =
        |label, t, h, v, temperature, forbidden| of(label, false, t, h, v, temperature, forbidden);
    vec![
        case("small vocabulary", 5, 8, 11, 1.0, vec![]),
        case("temperature and forbidden tokens", 4, 12, 40, 0.7, vec![1, 2, 39]),
        case("several tiles of the vocabulary", 3, 16, 2500, 1.3, vec![1023, 1024, 2499]),
        case("several tasks", 41, 24, 1500, 1.0, vec![6]),
        of("entropy, small vocabulary", true, 5, 8, 11, 1.0, vec![]),
        of("entropy, forbidden tokens", true, 4, 12, 40, 0.7, vec![1, 2, 39]),
        of("entropy, several tiles", true, 19, 16, 2500, 1.3, vec![1023, 1024, 2499]),
    ]
}

/// Sizes of real models.
fn bench() -> Vec<Case> {
    let head = HeadSettings { temperature: 1.0, forbidden: vec![] };
    vec![Case {
        label: "128 rows, 1024 to 32768",
        op: Arc::new(LinearLogprob { head: Arc::new(head), known: false, bonus: false }),
        inputs: vec![
            (vec![128, 1024], Fill::Normal(1.0), true),
            (vec![32768, 1024], Fill::Normal(0.02), true),
            (vec![128, 1], Fill::Ints((0..128).map(|i| i * 251).collect()), false),
        ],
    }]
}

/// Row of the op table.
pub static SPEC: OpSpec = OpSpec {
    name: "linear_logprob",
    doc: "head, log-sum-exp, gather and entropy without stored logits",
    cases,
    tolerance: Tolerance { abs: 2e-6, rel: 5e-6 },
    bf16_roundings: 2,
    bench,
};
