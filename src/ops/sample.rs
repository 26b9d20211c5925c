//! The next token of each row: temperature, top-k, top-p, min-p, repetition penalty, and the
//! log-probability that training will compute for the same token, to the bit (same logits, same
//! walk, see `cpu::logsumexp`). Truncation and penalty change which token is drawn, never the
//! log-probability that is reported: that one belongs to the full distribution at the temperature.
//! It has no derivative. Randomness is Philox keyed by (seed, step, sample, token).
//!
//! B rows, V vocabulary.

use crate::base::{DType, Philox, Result, RngDomain, Tolerance};
use crate::ops::cpu::logsumexp::{FORBIDDEN, LseState, VOCAB_TILE, prepare_logits};
use crate::ops::cpu::simd::vectorised;
use crate::ops::linear_logprob::HeadSettings;
use crate::ops::{Case, Fill, Io, Op, OpSpec, TensorType};
use rayon::prelude::*;
use std::sync::Arc;

/// How tokens are drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingSettings {
    /// Temperature; 0 takes the most likely token.
    pub temperature: f32,
    /// Keep the smallest set of tokens whose probability reaches this; 1 keeps all.
    pub top_p: f32,
    /// Keep this many most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep tokens at least this fraction as likely as the most likely; 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens already present; 1 does nothing
    /// (CTRL, arXiv 1909.05858, as in transformers' `RepetitionPenaltyLogitsProcessor`).
    pub repetition_penalty: f32,
}

impl Default for SamplingSettings {
    fn default() -> Self {
        SamplingSettings {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
        }
    }
}

/// One row's random key and history.
#[derive(Debug, Clone, Default)]
pub struct SampleRow {
    /// Training step.
    pub step: u32,
    /// Number of the completion within the step.
    pub sample: u32,
    /// Position within the completion.
    pub token: u32,
    /// Tokens of prompt and completion so far; only looked at with a repetition penalty.
    pub seen: Vec<u32>,
}

/// Input: raw `logits[B,V]`. Outputs: `token[B,1]`, `logp[B,1]`, `lse[B,1]` and a work copy.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Forbidden tokens and the temperature of the reported log-probability.
    pub head: Arc<HeadSettings>,
    /// How tokens are drawn.
    pub settings: Arc<SamplingSettings>,
    /// One entry per row.
    pub rows: Arc<Vec<SampleRow>>,
    /// Seed of the run.
    pub seed: u64,
}

impl Sample {
    /// Draws for one row; `z` holds raw logits and is overwritten. Returns token, logp, lse.
    fn draw(&self, row: &SampleRow, z: &mut [f32]) -> (i32, f32, f32) {
        let mut state = LseState::default();
        vectorised(
            #[inline(always)]
            || {
                for (i, tile) in z.chunks_mut(VOCAB_TILE).enumerate() {
                    let inv = self.head.inv_temperature() as f32;
                    prepare_logits(tile, i * VOCAB_TILE, inv, &self.head.forbidden);
                    state.absorb(tile);
                }
            },
        );
        let lse = state.lse();
        let token = if self.settings.repetition_penalty != 1.0 {
            let mut changed = z.to_vec();
            let mut seen = row.seen.clone();
            seen.sort_unstable();
            seen.dedup();
            for &t in &seen {
                let x = &mut changed[t as usize];
                if *x > FORBIDDEN {
                    let p = self.settings.repetition_penalty;
                    *x = if *x > 0.0 { *x / p } else { *x * p };
                }
            }
            self.pick(row, &changed)
        } else {
            self.pick(row, z)
        };
        (token as i32, z[token] - lse, lse)
    }

    /// Chooses among prepared logits.
    fn pick(&self, row: &SampleRow, z: &[f32]) -> usize {
        let s = &self.settings;
        let best = (0..z.len()).fold(0, |b, i| if z[i] > z[b] { i } else { b });
        if s.temperature == 0.0 {
            return best;
        }
        let top = f64::from(z[best]);
        let u = Philox::new(self.seed, RngDomain::Sample).uniform(row.step, row.sample, row.token);
        let weight = |i: usize| (f64::from(z[i]) - top).exp();
        if s.top_k == 0 && s.top_p >= 1.0 && s.min_p == 0.0 {
            let total: f64 = (0..z.len()).map(weight).sum();
            return walk((0..z.len()).map(|i| (i, weight(i))), f64::from(u) * total, best);
        }
        let mut order: Vec<usize> = (0..z.len()).filter(|&i| z[i] > FORBIDDEN).collect();
        order.sort_unstable_by(|&a, &b| z[b].total_cmp(&z[a]).then(a.cmp(&b)));
        if s.top_k > 0 {
            order.truncate(s.top_k);
        }
        if s.top_p < 1.0 {
            let total: f64 = order.iter().map(|&i| weight(i)).sum();
            let mut before = 0.0;
            let keep = order
                .iter()
                .take_while(|&&i| {
                    let inside = before < f64::from(s.top_p) * total;
                    before += weight(i);
                    inside
                })
                .count();
            order.truncate(keep.max(1));
        }
        if s.min_p > 0.0 {
            order.retain(|&i| weight(i) >= f64::from(s.min_p));
        }
        let total: f64 = order.iter().map(|&i| weight(i)).sum();
        walk(order.iter().map(|&i| (i, weight(i))), f64::from(u) * total, best)
    }
}

/// The first item at which the running sum passes `target`.
fn walk(items: impl Iterator<Item = (usize, f64)>, target: f64, fallback: usize) -> usize {
    let mut sum = 0.0;
    let mut last = fallback;
    for (i, w) in items {
        if w > 0.0 {
            sum += w;
            last = i;
            if sum > target {
                break;
            }
        }
    }
    last
}

impl Op for Sample {
    fn name(&self) -> &'static str {
        "sample"
    }
    fn infer(&self, i: &[&TensorType]) -> Result<Vec<TensorType>> {
        let (b, column) = (i[0].rows(), |dtype| TensorType::matrix(i[0].rows(), 1, dtype));
        assert_eq!(b, self.rows.len(), "one key per row");
        Ok(vec![column(DType::I32), column(DType::F32), column(DType::F32), {
            TensorType::matrix(b, i[0].cols(), DType::F32)
        }])
    }
    fn run(&self, io: &Io) {
        let v = io.in_type(0).cols();
        let (token, logp) = (io.output::<i32>(0), io.output::<f32>(1));
        let (lse, work) = (io.output::<f32>(2), io.output::<f32>(3));
        match io.in_type(0).dtype {
            DType::F64 => {
                work.iter_mut().zip(io.input::<f64>(0)).for_each(|(w, z)| *w = *z as f32);
            }
            _ => work.copy_from_slice(io.input::<f32>(0)),
        }
        work.par_chunks_mut(v)
            .zip(token)
            .zip(logp)
            .zip(lse)
            .zip(&*self.rows)
            .for_each(|((((z, token), logp), lse), row)| (*token, *logp, *lse) = self.draw(row, z));
    }
}

fn cases() -> Vec<Case> {
    let case = |label, settings: SamplingSettings, forbidden: Vec<u32>| {
        let rows = (0..4)
            .map(|i| SampleRow { step: 3, sample: i, token: i * i, seen: vec![i, 2, 2, 30] })
            .collect();
        let head = HeadSettings { temperature: f64::from(settings.temperature), forbidden };
        Case {
            label,
            op: Arc::new(Sample {
                head: Arc::new(head),
                settings: Arc::new(settings),
                rows: Arc::new(rows),
                seed: 5,
            }),
            inputs: vec![(vec![4, 37], Fill::Normal(2.0), false)],
        }
    };
    let d = SamplingSettings::default;
    vec![
        case("full distribution", d(), vec![]),
        case("greedy", SamplingSettings { temperature: 0.0, ..d() }, vec![5]),
        case(
            "truncated and penalised",
            SamplingSettings { top_k: 9, top_p: 0.8, min_p: 0.01, repetition_penalty: 1.3, ..d() },
            vec![0, 36],
        ),
    ]
}

/// Row of the op table.
pub static SPEC: OpSpec = OpSpec {
    name: "sample",
    doc: "next tokens from logits, with their log-probability",
    cases,
    tolerance: Tolerance { abs: 2e-6, rel: 2e-6 },
    bf16_roundings: 0,
};

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(settings: SamplingSettings, forbidden: Vec<u32>) -> Sample {
        let head = HeadSettings { temperature: f64::from(settings.temperature), forbidden };
        Sample {
            head: Arc::new(head),
            settings: Arc::new(settings),
            rows: Arc::new(vec![]),
            seed: 1,
        }
    }

    fn row(sample: u32) -> SampleRow {
        SampleRow { step: 0, sample, token: 0, seen: vec![] }
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        let s = sampler(SamplingSettings { temperature: 0.5, ..Default::default() }, vec![2]);
        let z = [0.0f32, 0.5, 9.0, -0.5];
        let mut count = [0u32; 4];
        for i in 0..20_000 {
            let (t, logp, _) = s.draw(&row(i), &mut z.clone());
            count[t as usize] += 1;
            assert!(logp < 0.0);
        }
        let e: Vec<f64> = [0.0f64, 1.0, f64::NEG_INFINITY, -1.0].iter().map(|x| x.exp()).collect();
        let sum: f64 = e.iter().sum();
        for (c, e) in count.iter().zip(&e) {
            assert!((f64::from(*c) / 20_000.0 - e / sum).abs() < 0.015, "{count:?}");
        }
        assert_eq!(count[2], 0, "a forbidden token was drawn");
    }

    #[test]
    fn truncation_keeps_only_the_head() {
        let z = [3.0f32, 2.0, 1.0, 0.0, -1.0];
        let cut = |s: SamplingSettings| {
            let s = sampler(s, vec![]);
            (0..2000).map(|i| s.draw(&row(i), &mut z.clone()).0).max().unwrap()
        };
        assert_eq!(cut(SamplingSettings { top_k: 2, ..Default::default() }), 1);
        // Probabilities 0.636, 0.234, 0.086, …: 0.87 is reached by the third at the latest.
        assert_eq!(cut(SamplingSettings { top_p: 0.86, ..Default::default() }), 1);
        assert_eq!(cut(SamplingSettings { min_p: 0.3, ..Default::default() }), 1);
        assert_eq!(cut(SamplingSettings { temperature: 0.0, ..Default::default() }), 0);
    }
}
