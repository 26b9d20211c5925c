//! Which experts a token goes to: the router of a mixture of experts (Qwen3-VL-MoE's
//! `TopKRouter`). The K largest of E probabilities per token, and all (token, choice) pairs sorted
//! by expert, which is the order that the experts' products walk. The choice goes by the logits, so
//! that probabilities which round to one number cannot decide it, and a tie goes to the lower
//! expert. What the experts compute is not here.
//!
//! T tokens, E experts, K experts of a token. Pair `p = t K + k` is choice `k` of token `t`.

use super::cpu::rows::rows_per_task;
use super::cpu::{vecmath, vectorised};
use super::gpu::experts;
use super::shapes::{bytes, require, same_statistic};
use super::{Backward, Case, Cost, Fill, Io, Launcher, Op, OpSpec, Real, Slot, TensorType};
use crate::base::{DType, Result, Tolerance};
use rayon::prelude::*;
use std::sync::Arc;

/// Row of the op table.
pub static SPEC: OpSpec = OpSpec {
    name: "route",
    doc: "logits[T,E] to weight[T,K], expert[T,K], order[TK,1], first[E+1,1]: who computes what",
    cases,
    tolerance: Tolerance { abs: 1e-7, rel: 2e-6 },
    bf16_roundings: 1,
    bench,
};

/// Input `logits[T,E]` of the statistics' type; outputs `weight[T,K]` of that type (probabilities of
/// the chosen experts, largest first), `expert[T,K]` i32 (who they are), `order[TK,1]` i32 (pairs,
/// sorted by expert and then by pair), `first[E+1,1]` i32 (where each expert begins in `order`).
#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// K, the configuration's `num_experts_per_tok`.
    pub top_k: usize,
    /// Whether the weights of a token are divided by their sum (`norm_topk_prob`).
    pub normalize: bool,
}

/// Inputs `weight, expert, dweight` and, unless weights are normalised, `logits`; output `dlogits`.
/// The choice itself has no derivative.
#[derive(Debug, Clone, Copy)]
struct RouteBwd {
    experts: usize,
}

impl Op for Route {
    fn name(&self) -> &'static str {
        "route"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let ok = matches!(inputs, [z] if same_statistic(&[z])
            && self.top_k >= 1 && self.top_k <= z.cols());
        require(ok, self.name(), inputs, "logits[T,E] of statistics, 1 <= K <= E")?;
        let (t, e) = (inputs[0].rows(), inputs[0].cols());
        let ints = |rows, cols| TensorType::matrix(rows, cols, DType::I32);
        let k = self.top_k;
        let weight = TensorType::matrix(t, k, inputs[0].dtype);
        Ok(vec![weight, ints(t, k), ints(t * k, 1), ints(e + 1, 1)])
    }
    fn run(&self, io: &Io) {
        let e = io.in_type(0).cols();
        let expert = io.output::<i32>(1);
        match io.float_type() {
            DType::F64 => self.choose::<f64>(io.input(0), e, expert, io.output(0), weigh),
            _ => self.choose::<f32>(io.input(0), e, expert, io.output(0), weigh_fast),
        }
        sort(expert, io.output(2), io.output(3));
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        experts::route(k, self.normalize);
        Ok(())
    }
    fn backward(&self, b: &mut Backward) -> Result<Vec<Option<Slot>>> {
        let Some(dweight) = b.grads[0].filter(|_| b.needs[0]) else { return Ok(vec![None]) };
        let experts = b.tape.tensor_type(b.inputs[0]).cols();
        let mut from = vec![b.outputs[0], b.outputs[1], dweight];
        if !self.normalize {
            from.push(b.inputs[0]);
        }
        Ok(vec![Some(b.emit1(RouteBwd { experts }, &from)?)])
    }
    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let per_logit = 20.0 + self.top_k as f64;
        Cost { flops: per_logit * inputs[0].len() as f64, bytes: bytes(inputs, outputs) }
    }
}

impl Route {
    /// Chooses and weighs the experts of all tokens; `weigh` does a row.
    fn choose<T: Real>(
        &self,
        logits: &[T],
        e: usize,
        expert: &mut [i32],
        weight: &mut [T],
        weigh: impl Fn(&[T], &[i32], bool, &mut [T]) + Sync,
    ) {
        let (k, rows) = (self.top_k, rows_per_task(e * self.top_k));
        (
            logits.par_chunks(rows * e),
            expert.par_chunks_mut(rows * k),
            weight.par_chunks_mut(rows * k),
        )
            .into_par_iter()
            .for_each(|(z, expert, weight)| {
                let rows = z.chunks(e).zip(expert.chunks_mut(k)).zip(weight.chunks_mut(k));
                for ((z, expert), weight) in rows {
                    largest(z, expert);
                    weigh(z, expert, self.normalize, weight);
                }
            });
    }
}

/// Whether expert `i` with logit `a` comes before expert `j` with logit `b`: by logit, NaN last, a tie
/// by number.
fn before<T: Real>((a, i): (T, usize), (b, j): (T, usize)) -> bool {
    let same = a == b || (a.is_nan() && b.is_nan());
    if same { i < j } else { a > b || b.is_nan() }
}

/// The first experts of a row, in their order: each is the first among those after the one before.
fn largest<T: Real>(z: &[T], chosen: &mut [i32]) {
    let mut last: Option<(T, usize)> = None;
    for to in chosen {
        let left = z.iter().enumerate().map(|(i, &z)| (z, i));
        let left = left.filter(|&c| last.is_none_or(|l| before(l, c)));
        last = left.reduce(|best, c| if before(c, best) { c } else { best });
        *to = last.expect("there are at least K experts").1 as i32;
    }
}

/// The definition: softmax over all experts, and over the chosen ones' sum if normalised.
fn weigh<T: Real>(z: &[T], chosen: &[i32], normalize: bool, weight: &mut [T]) {
    let top = z[chosen[0] as usize];
    let sum: T = z.iter().map(|&z| (z - top).exp()).sum();
    for (w, &i) in weight.iter_mut().zip(chosen) {
        *w = (z[i as usize] - top).exp() / sum;
    }
    if normalize {
        let sum: T = weight.iter().copied().sum();
        weight.iter_mut().for_each(|w| *w /= sum);
    }
}

/// The same; where the sum over all experts cancels, it is not formed.
fn weigh_fast(z: &[f32], chosen: &[i32], normalize: bool, weight: &mut [f32]) {
    vectorised(
        #[inline(always)]
        || {
            let top = z[chosen[0] as usize];
            for (w, &i) in weight.iter_mut().zip(chosen) {
                *w = vecmath::exp(z[i as usize] - top);
            }
            let mut sum = 0.0;
            if normalize {
                weight.iter().for_each(|w| sum += w);
            } else {
                z.iter().for_each(|z| sum += vecmath::exp(z - top));
            }
            weight.iter_mut().for_each(|w| *w /= sum);
        },
    );
}

/// Pairs sorted by expert and then by number, by counting.
fn sort(expert: &[i32], order: &mut [i32], first: &mut [i32]) {
    first.fill(0);
    for &e in expert {
        first[e as usize + 1] += 1;
    }
    for e in 1..first.len() {
        first[e] += first[e - 1];
    }
    let mut next: Vec<i32> = first.to_vec();
    for (p, &e) in expert.iter().enumerate() {
        let at = &mut next[e as usize];
        order[*at as usize] = p as i32;
        *at += 1;
    }
}

impl Op for RouteBwd {
    fn name(&self) -> &'static str {
        "route_bwd"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let ok = matches!(inputs, [w, e, dw, z @ ..] if same_statistic(&[w, dw])
            && e.shape == w.shape && dw.shape == w.shape && e.dtype == DType::I32
            && z.iter().all(|z| z.dtype == w.dtype && z.rows() == w.rows() && z.cols() == self.experts));
        require(ok, self.name(), inputs, "weight[T,K], expert[T,K], dweight[T,K] (, logits[T,E])")?;
        Ok(vec![TensorType::matrix(inputs[0].rows(), self.experts, inputs[0].dtype)])
    }
    fn run(&self, io: &Io) {
        match io.float_type() {
            DType::F64 => self.go::<f64>(io, f64::exp),
            _ => self.go::<f32>(io, vecmath::exp),
        }
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        experts::route_backward(k);
        Ok(())
    }
}

impl RouteBwd {
    fn go<T: Real>(&self, io: &Io, exp: impl Fn(T) -> T + Sync) {
        let (e, k) = (self.experts, io.in_type(0).cols());
        let (weight, expert) = (io.input::<T>(0), io.input::<i32>(1));
        let dweight = io.input::<T>(2);
        let logits = (io.num_inputs() > 3).then(|| io.input::<T>(3));
        io.output::<T>(0).par_chunks_mut(e).enumerate().for_each(|(t, dz)| {
            let row = t * k..(t + 1) * k;
            let (w, dw, chosen) = (&weight[row.clone()], &dweight[row.clone()], &expert[row]);
            match logits {
                None => chosen_alone(w, dw, chosen, dz),
                Some(z) => among_all(w, dw, chosen, &z[t * e..][..e], dz, &exp),
            }
        });
    }
}

/// Of normalised weights, a softmax over the chosen experts: `dz[i] = w[i] Σ w[j] (dw[i] - dw[j])`. The
/// differences are taken first: where one weight is nearly 1, little is left of the sum.
fn chosen_alone<T: Real>(w: &[T], dw: &[T], chosen: &[i32], dz: &mut [T]) {
    dz.fill(T::zero());
    for (i, &e) in chosen.iter().enumerate() {
        let mut sum = T::zero();
        w.iter().zip(dw).for_each(|(&w, &d)| sum = w.mul_add(dw[i] - d, sum));
        dz[e as usize] = w[i] * sum;
    }
}

/// Of probabilities: `dz[e] = p[e] (dw[e] - Σ w dw)`, where `dw` of an expert that was not chosen is 0
/// and `p[e]` is the largest weight times `e^(z[e] - its logit)`.
fn among_all<T: Real>(
    w: &[T],
    dw: &[T],
    chosen: &[i32],
    z: &[T],
    dz: &mut [T],
    exp: impl Fn(T) -> T,
) {
    let mut c = T::zero();
    w.iter().zip(dw).for_each(|(&w, &dw)| c = w.mul_add(dw, c));
    let top = z[chosen[0] as usize];
    dz.iter_mut().zip(z).for_each(|(d, &z)| *d = -c * w[0] * exp(z - top));
    for ((&i, &w), &dw) in chosen.iter().zip(w).zip(dw) {
        dz[i as usize] = w * (dw - c);
    }
}

/// Logits `t` rows of `e`, no two of a row alike: their order survives the steps of differences.
fn spread(t: usize, e: usize, step: f64) -> Fill {
    let odd = |t: usize| 2 * (t % 5) + 3;
    let rank = |t: usize, i: usize| (i * odd(t) + 7 * t) % e;
    let all = (0..t * e).map(|n| (n / e, n % e));
    Fill::Values(all.map(|(t, i)| (rank(t, i) as f64 - e as f64 / 2.0) * step).collect()).beside()
}

fn cases() -> Vec<Case> {
    let case = |label, t: usize, e: usize, top_k: usize, normalize, fill: Fill, smooth| Case {
        label,
        op: Arc::new(Route { top_k, normalize }),
        inputs: vec![(vec![t, e], fill, smooth)],
    };
    let favourite = |t: usize, e: usize| {
        let of = |n: usize| if n % e == 5 { 3.0 } else { (n % e) as f64 * 0.1 };
        Fill::Values((0..t * e).map(of).collect()).beside()
    };
    let tied = |t: usize, e: usize| {
        Fill::Values((0..t * e).map(|n| ((n * 7 / 3) % 3) as f64).collect()).beside()
    };
    vec![
        case("normalised", 9, 16, 4, true, spread(9, 16, 0.21), true),
        case("not normalised", 7, 16, 3, false, spread(7, 16, 0.13), true),
        case("every expert", 5, 6, 6, false, spread(5, 6, 0.4), false),
        case("ties", 11, 13, 5, true, tied(11, 13), false),
        case("one logit for all", 6, 8, 3, false, Fill::Values(vec![0.5; 48]).beside(), false),
        case("one expert for all", 20, 8, 1, false, favourite(20, 8), true),
        case("experts that nobody chooses", 3, 64, 2, true, spread(3, 64, 0.05), true),
        case("one token", 1, 4, 2, true, spread(1, 4, 0.7), true),
        case("far apart", 4, 16, 4, true, spread(4, 16, 40.0), false),
        case("many tokens", 613, 37, 8, true, Fill::Normal(2.0).beside(), false),
    ]
}

/// Sizes of real models.
fn bench() -> Vec<Case> {
    vec![Case {
        label: "4096 tokens, 8 of 128",
        op: Arc::new(Route { top_k: 8, normalize: true }),
        inputs: vec![(vec![4096, 128], Fill::Normal(1.0).beside(), true)],
    }]
}
