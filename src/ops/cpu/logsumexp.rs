//! The walk over a row of logits that both the training head and the sampler use: fixed tiles of
//! the vocabulary, fixed lanes within a tile. Same logits, same log-sum-exp, to the bit.

use crate::ops::cpu::vecmath::{exp_weight, lane_tree};

/// Columns of the vocabulary that are walked at a time.
pub const VOCAB_TILE: usize = 1024;

/// What a forbidden token's logit becomes: its weight underflows to exactly 0.
pub const FORBIDDEN: f32 = -1e30;

/// Running log-sum-exp of one row.
#[derive(Debug, Clone, Copy)]
pub struct LseState {
    top: f32,
    sum: f32,
    weighted: f32,
}

impl Default for LseState {
    fn default() -> Self {
        LseState { top: f32::NEG_INFINITY, sum: 0.0, weighted: 0.0 }
    }
}

impl LseState {
    /// Takes in the next tile of at most [`VOCAB_TILE`] logits; returns what the tile adds to the
    /// sum of `exp(z - top)`, with `top` as it is then. Call inside `vectorised`.
    #[inline(always)]
    pub fn absorb(&mut self, tile: &[f32]) -> f32 {
        let (body, tail) = tile.as_chunks::<16>();
        let mut tops = [self.top; 16];
        for c in body {
            for (m, &x) in tops.iter_mut().zip(c) {
                *m = if x > *m { x } else { *m };
            }
        }
        let top = tops.iter().chain(tail).fold(self.top, |m, &x| if x > m { x } else { m });
        let (mut sums, mut weighted) = ([0.0f32; 16], [0.0f32; 16]);
        for c in body {
            for i in 0..16 {
                let e = exp_weight(c[i] - top);
                sums[i] += e;
                weighted[i] = e.mul_add(c[i], weighted[i]);
            }
        }
        for (i, &x) in tail.iter().enumerate() {
            let e = exp_weight(x - top);
            sums[i] += e;
            weighted[i] = e.mul_add(x, weighted[i]);
        }
        let shrink = if self.sum > 0.0 { exp_weight(self.top - top) } else { 0.0 };
        let added = lane_tree(sums);
        self.sum = self.sum * shrink + added;
        self.weighted = self.weighted * shrink + lane_tree(weighted);
        self.top = top;
        added
    }

    /// The largest logit so far.
    pub fn top(&self) -> f32 {
        self.top
    }

    /// `log Σ exp(z)`.
    pub fn lse(&self) -> f32 {
        self.top + self.sum.ln()
    }

    /// Entropy of the softmax: `lse − Σ p z`.
    pub fn entropy(&self) -> f32 {
        self.lse() - self.weighted / self.sum
    }
}

/// Makes logits what the policy samples from: divided by the temperature, forbidden tokens out.
/// `first` is the vocabulary index of `tile[0]`; `forbidden` is sorted.
#[inline(always)]
pub fn prepare_logits(tile: &mut [f32], first: usize, inv_temperature: f32, forbidden: &[u32]) {
    if inv_temperature != 1.0 {
        tile.iter_mut().for_each(|z| *z *= inv_temperature);
    }
    let from = forbidden.partition_point(|&t| (t as usize) < first);
    for &t in &forbidden[from..] {
        match tile.get_mut(t as usize - first) {
            Some(z) => *z = FORBIDDEN,
            None => break,
        }
    }
}
