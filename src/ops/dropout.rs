//! Dropout (Srivastava et al., 2014), inverted: kept numbers are divided by `1 - p`. The mask is a
//! function of (seed, step, site, sample, token, column) through Philox, so it depends neither on
//! how samples are packed nor on threads, and the backward pass makes it again instead of
//! storing it.

use super::cpu::rows::rows_per_task;
use super::cpu::vectorised;
use super::shapes::{is_index, require, same_float};
use super::{Backward, Case, Cost, Fill, Io, Op, OpSpec, Real, Slot, TensorType};
use crate::base::{DType, Philox, Result, RngDomain, Tolerance};
use rayon::prelude::*;
use std::sync::Arc;

/// Row of the op table.
pub static SPEC: OpSpec = OpSpec {
    name: "dropout",
    doc: "x[T,H], key i32[T,2] = (sample, token) to y[T,H]: numbers zeroed with probability p",
    cases,
    tolerance: Tolerance::rel(2e-7),
};

/// Inputs `x[T,H]`, `key` i32 `[T,2]` = (sample, token); output `y[T,H]`.
#[derive(Debug, Clone, Copy)]
pub struct Dropout {
    /// Probability of zero, in `0..1`.
    pub p: f64,
    /// Seed of the run.
    pub seed: u64,
    /// Number of the training step.
    pub step: u32,
    /// Which dropout of the model this is; below 2^16.
    pub site: u32,
    /// Applied to a gradient. The arithmetic is the same.
    pub is_backward: bool,
}

/// Bits of the counter's lane below the site: one draw makes four columns.
const SITE_SHIFT: u32 = 16;
/// Widest row that a site's lanes reach.
const MAX_COLUMNS: usize = 4 << SITE_SHIFT;

impl Op for Dropout {
    fn name(&self) -> &'static str {
        if self.is_backward { "dropout_bwd" } else { "dropout" }
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let ok = matches!(inputs, [x, key] if same_float(&[x]) && is_index(key, x.rows(), 2)
                && x.cols() <= MAX_COLUMNS);
        let ok = ok && (0.0..1.0).contains(&self.p) && self.site < 1 << (32 - SITE_SHIFT);
        let expected = "x[T,H] with H <= 262144, key i32[T,2], 0 <= p < 1, site < 65536";
        require(ok, self.name(), inputs, expected)?;
        Ok(vec![inputs[0].clone()])
    }
    fn run(&self, io: &Io) {
        match io.float_type() {
            DType::F64 => self.apply::<f64>(io),
            _ => self.apply::<f32>(io),
        }
    }
    fn backward(&self, b: &mut Backward) -> Result<Vec<Option<Slot>>> {
        let Some(dy) = b.grads[0].filter(|_| b.needs[0]) else { return Ok(vec![None; 2]) };
        let key = b.inputs[1];
        Ok(vec![Some(b.emit1(Dropout { is_backward: true, ..*self }, &[dy, key])?), None])
    }
    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let bytes = inputs.iter().chain(outputs).map(|t| (t.len() * t.dtype.size()) as f64).sum();
        Cost { flops: 2.0 * inputs[0].len() as f64, bytes }
    }
}

impl Dropout {
    fn apply<T: Real>(&self, io: &Io) {
        let (x, key, h) = (io.input::<T>(0), io.input::<i32>(1), io.in_type(0).cols());
        let rng = Philox::new(self.seed, RngDomain::Dropout);
        // A word below this is a zero: p as a fraction of 2^32.
        let threshold = (self.p * 4_294_967_296.0) as u32;
        let scale = T::of(1.0 / (1.0 - self.p));
        let rows = rows_per_task(h);
        (
            io.output::<T>(0).par_chunks_mut(rows * h),
            x.par_chunks(rows * h),
            key.par_chunks(rows * 2),
        )
            .into_par_iter()
            .for_each(|(y, x, key)| {
                vectorised(
                    #[inline(always)]
                    || {
                        let rows = y.chunks_mut(h).zip(x.chunks(h)).zip(key.chunks(2));
                        for ((y, x), key) in rows {
                            let (sample, token) = (key[0] as u32, key[1] as u32);
                            for (q, (y, x)) in y.chunks_mut(4).zip(x.chunks(4)).enumerate() {
                                let lane = self.site << SITE_SHIFT | q as u32;
                                let words = rng.at(self.step, sample, token, lane);
                                for ((y, &x), word) in y.iter_mut().zip(x).zip(words) {
                                    *y = if word < threshold { T::zero() } else { x * scale };
                                }
                            }
                        }
                    },
                );
            });
    }
}

fn cases() -> Vec<Case> {
    let case = |label, p: f64, t: usize, h: usize| Case {
        label,
        op: Arc::new(Dropout { p, seed: 3, step: 2, site: 5, is_backward: false }),
        inputs: vec![
            (vec![t, h], Fill::Normal(1.0), true),
            (vec![t, 2], Fill::Ints((0..2 * t as i32).map(|i| i * 5 % 17).collect()), false),
        ],
    };
    vec![
        case("odd", 0.3, 5, 35),
        case("nothing dropped", 0.0, 3, 16),
        case("nearly all dropped", 0.95, 2, 130),
        case("several tasks", 0.1, 60, 611),
    ]
}
