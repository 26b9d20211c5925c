//! The next token of each row: temperature, top-k, top-p, min-p, repetition penalty, and the
//! log-probability that training will compute for the same token, to the bit (same logits, same
//! walk, see `cpu::logsumexp`). Truncation and penalty change which token is drawn, never the
//! log-probability that is reported: that one belongs to the full distribution at the temperature.
//! It has no derivative. Randomness is Philox keyed by (seed, step, sample, token). The vocabulary
//! is never sorted; without truncation and penalty its logits are walked once.
//!
//! B rows, V vocabulary.

use crate::base::{DType, Philox, Result, RngDomain, Tolerance};
use crate::ops::cpu::choose::{Scratch, Truncation, by_position, by_weight, first_largest, mass};
use crate::ops::cpu::logsumexp::{FORBIDDEN, LseState, VOCAB_TILE, prepare_logits};
use crate::ops::cpu::simd::vectorised;
use crate::ops::gpu::sample as gpu;
use crate::ops::linear_logprob::HeadSettings;
use crate::ops::{Case, Cost, Fill, Io, Launcher, Op, OpSpec, Stored, TensorType};
use half::bf16;
use rayon::prelude::*;
use std::cell::RefCell;
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

/// Input: raw `logits[B,V]`. Outputs: `token[B,1]`, `logp[B,1]`, `lse[B,1]`, `entropy[B,1]`, the
/// latter three of the full distribution at the temperature, in nats.
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

/// What comes out for a row.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Drawn {
    token: usize,
    logp: f32,
    lse: f32,
    entropy: f32,
}

/// A tile of the walk: what it adds to the sum of `exp(z - top)`, and the top as it is then.
type Tile = (f32, f32);

/// Memory that a thread uses for one row after the other.
#[derive(Default)]
struct RowScratch {
    tiles: Vec<Tile>,
    changed: Vec<f32>,
    choice: Scratch,
}

thread_local! {
    static SCRATCH: RefCell<RowScratch> = RefCell::default();
}

impl Sample {
    /// Draws for one row of raw logits; `single` makes them singles.
    #[inline(always)]
    fn draw<T: Copy>(&self, row: &SampleRow, raw: &[T], single: impl Fn(T) -> f32) -> Drawn {
        SCRATCH.with_borrow_mut(|scratch| {
            let state = self.walk(raw, &single, &mut scratch.tiles);
            let s = &self.settings;
            let token = if s.repetition_penalty != 1.0
                || (s.temperature != 0.0 && (s.top_k > 0 || s.top_p < 1.0 || s.min_p > 0.0))
            {
                self.prepare_all(raw, &single, &mut scratch.changed);
                self.penalise(row, &mut scratch.changed);
                self.pick(row, &scratch.changed, &mut scratch.choice)
            } else {
                self.pick_tile(row, raw, &single, &scratch.tiles)
            };
            let mut z = [single(raw[token])];
            self.prepare(&mut z, token);
            let lse = state.lse();
            Drawn { token, logp: z[0] - lse, lse, entropy: state.entropy() }
        })
    }

    /// Uniform number of a row.
    fn uniform(&self, row: &SampleRow) -> f64 {
        let rng = Philox::new(self.seed, RngDomain::Sample);
        f64::from(rng.uniform(row.step, row.sample, row.token))
    }

    /// Makes raw logits from vocabulary index `first` on those that the policy samples from.
    #[inline(always)]
    fn prepare(&self, tile: &mut [f32], first: usize) {
        prepare_logits(tile, first, self.head.inv_temperature() as f32, &self.head.forbidden);
    }

    /// The walk over the vocabulary, and what it saw in each tile.
    #[inline(always)]
    fn walk<T: Copy>(
        &self,
        raw: &[T],
        single: impl Fn(T) -> f32,
        tiles: &mut Vec<Tile>,
    ) -> LseState {
        let mut state = LseState::default();
        tiles.clear();
        vectorised(
            #[inline(always)]
            || {
                let mut z = [0f32; VOCAB_TILE];
                for (i, raw) in raw.chunks(VOCAB_TILE).enumerate() {
                    let z = &mut z[..raw.len()];
                    z.iter_mut().zip(raw).for_each(|(z, &x)| *z = single(x));
                    self.prepare(z, i * VOCAB_TILE);
                    let added = state.absorb(z);
                    tiles.push((added, state.top()));
                }
            },
        );
        state
    }

    /// Chooses among all tokens, by what the walk saw: only the chosen tile is looked at again.
    #[inline(always)]
    fn pick_tile<T: Copy>(
        &self,
        row: &SampleRow,
        raw: &[T],
        single: impl Fn(T) -> f32,
        tiles: &[Tile],
    ) -> usize {
        let top = tiles.last().map_or(0.0, |t| t.1);
        let greedy = self.settings.temperature == 0.0;
        let (tile, left) = if greedy {
            (tiles.iter().position(|t| t.1 == top).unwrap_or(0), 0.0)
        } else {
            let weight = |t: &Tile| f64::from(t.0) * (f64::from(t.1) - f64::from(top)).exp();
            let target = self.uniform(row) * tiles.iter().map(weight).sum::<f64>();
            let (mut passed, mut found) = (0.0, (0, target));
            for (i, w) in tiles.iter().map(weight).enumerate().filter(|(_, w)| *w > 0.0) {
                found = (i, target - passed);
                passed += w;
                if passed > target {
                    break;
                }
            }
            found
        };
        let first = tile * VOCAB_TILE;
        let mut z = [0f32; VOCAB_TILE];
        let z = &mut z[..VOCAB_TILE.min(raw.len() - first)];
        z.iter_mut().zip(&raw[first..]).for_each(|(z, &x)| *z = single(x));
        self.prepare(z, first);
        first + if greedy { first_largest(z) } else { by_position(z, top, left) }
    }

    #[inline(always)]
    fn prepare_all<T: Copy>(&self, raw: &[T], single: impl Fn(T) -> f32, z: &mut Vec<f32>) {
        z.clear();
        z.extend(raw.iter().map(|&x| single(x)));
        vectorised(
            #[inline(always)]
            || self.prepare(z, 0),
        );
    }

    /// Makes tokens that the row has seen less likely (or more), each once.
    fn penalise(&self, row: &SampleRow, z: &mut [f32]) {
        let penalty = self.settings.repetition_penalty;
        if penalty == 1.0 {
            return;
        }
        let mut seen = row.seen.clone();
        seen.sort_unstable();
        seen.dedup();
        for &t in &seen {
            let z = &mut z[t as usize];
            if *z > FORBIDDEN {
                *z = if *z > 0.0 { *z / penalty } else { *z * penalty };
            }
        }
    }

    /// Chooses among prepared logits.
    fn pick(&self, row: &SampleRow, z: &[f32], scratch: &mut Scratch) -> usize {
        let s = &self.settings;
        let best = first_largest(z);
        if s.temperature == 0.0 {
            return best;
        }
        let u = self.uniform(row);
        if s.top_k == 0 && s.top_p >= 1.0 && s.min_p == 0.0 {
            let top = z[best];
            return by_position(z, top, u * mass(z, top));
        }
        let truncation =
            Truncation { top_k: s.top_k, top_p: f64::from(s.top_p), min_p: f64::from(s.min_p) };
        by_weight(z, FORBIDDEN, &truncation, u, scratch)
    }

    /// What is reported of the tokens by its definition: in doubles, each rounded once.
    fn reference(&self, io: &Io) {
        let (token, logp) = (io.output::<i32>(0), io.output::<f32>(1));
        let (lse, entropy) = (io.output::<f32>(2), io.output::<f32>(3));
        let inv = self.head.inv_temperature();
        for (i, raw) in io.input::<f64>(0).chunks(io.in_type(0).cols()).enumerate() {
            let mut z: Vec<f64> = raw.iter().map(|x| x * inv).collect();
            for &t in &self.head.forbidden {
                if let Some(z) = z.get_mut(t as usize) {
                    *z = f64::from(FORBIDDEN);
                }
            }
            token[i] = self.draw(&self.rows[i], raw, |x| x as f32).token as i32;
            let top = z.iter().fold(f64::NEG_INFINITY, |m, x| m.max(*x));
            let total = top + z.iter().map(|x| (x - top).exp()).sum::<f64>().ln();
            lse[i] = total as f32;
            logp[i] = (z[token[i] as usize] - total) as f32;
            entropy[i] = (total - z.iter().map(|x| (x - total).exp() * x).sum::<f64>()) as f32;
        }
    }

    #[inline(always)]
    fn draw_all<T: bytemuck::Pod + Sync>(&self, io: &Io, single: impl Fn(T) -> f32 + Sync) {
        let v = io.in_type(0).cols();
        let (token, logp) = (io.output::<i32>(0), io.output::<f32>(1));
        let (lse, entropy) = (io.output::<f32>(2), io.output::<f32>(3));
        (io.input::<T>(0).par_chunks(v), token, logp, lse, entropy, &*self.rows)
            .into_par_iter()
            .for_each(|(raw, token, logp, lse, entropy, row)| {
                let drawn = self.draw(row, raw, &single);
                *token = drawn.token as i32;
                (*logp, *lse, *entropy) = (drawn.logp, drawn.lse, drawn.entropy);
            });
    }
}

impl Op for Sample {
    fn name(&self) -> &'static str {
        "sample"
    }
    fn infer(&self, i: &[&TensorType]) -> Result<Vec<TensorType>> {
        let b = i[0].rows();
        assert_eq!(b, self.rows.len(), "one key per row");
        let column = |dtype| TensorType::matrix(b, 1, dtype);
        Ok(vec![column(DType::I32), column(DType::F32), column(DType::F32), column(DType::F32)])
    }
    fn run(&self, io: &Io) {
        match io.in_type(0).dtype {
            DType::F64 => self.reference(io),
            DType::BF16 => self.draw_all::<bf16>(
                io,
                #[inline(always)]
                |x| x.load(),
            ),
            _ => self.draw_all::<f32>(
                io,
                #[inline(always)]
                |x| x,
            ),
        }
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        gpu::launch(self, k)
    }
    fn table_key(&self) -> Option<(usize, u32)> {
        Some(gpu::table_key(self))
    }
    fn table_words(&self) -> Vec<i32> {
        gpu::table_words(self)
    }
    fn gpu_work(&self, inputs: &[&TensorType], _: &[&TensorType]) -> usize {
        gpu::work(self, inputs)
    }
    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        // The exponential and three sums.
        let flops = 20.0 * inputs[0].len() as f64;
        Cost { flops, bytes: super::shapes::bytes(inputs, outputs) }
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

/// Sizes of real models.
fn bench() -> Vec<Case> {
    let case = |label, settings| Case {
        label,
        op: Arc::new(Sample {
            head: Arc::new(HeadSettings { temperature: 1.0, forbidden: vec![151_643] }),
            settings: Arc::new(settings),
            rows: Arc::new(
                (0..16).map(|i| SampleRow { sample: i, ..Default::default() }).collect(),
            ),
            seed: 5,
        }),
        inputs: vec![(vec![16, 151_936], Fill::Normal(3.0).beside(), false)],
    };
    let d = SamplingSettings::default;
    vec![
        case("16 rows of 151936", d()),
        case("greedy", SamplingSettings { temperature: 0.0, ..d() }),
        case("top-k 50", SamplingSettings { top_k: 50, ..d() }),
        case("top-p 0.9", SamplingSettings { top_p: 0.9, ..d() }),
        case("min-p 0.1", SamplingSettings { min_p: 0.1, ..d() }),
        case("penalty", SamplingSettings { repetition_penalty: 1.1, ..d() }),
    ]
}

/// Row of the op table.
pub static SPEC: OpSpec = OpSpec {
    name: "sample",
    doc: "next tokens from logits, with their log-probability",
    cases,
    tolerance: Tolerance { abs: 2e-6, rel: 2e-6 },
    bf16_roundings: 0,
    bench,
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
            let drawn = s.draw(&row(i), &z, |x| x);
            count[drawn.token] += 1;
            assert!(drawn.logp < 0.0);
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
            (0..2000).map(|i| s.draw(&row(i), &z, |x| x).token).max().unwrap()
        };
        assert_eq!(cut(SamplingSettings { top_k: 2, ..Default::default() }), 1);
        // Probabilities 0.636, 0.234, 0.086, …: 0.87 is reached by the third at the latest.
        assert_eq!(cut(SamplingSettings { top_p: 0.86, ..Default::default() }), 1);
        assert_eq!(cut(SamplingSettings { min_p: 0.3, ..Default::default() }), 1);
        assert_eq!(cut(SamplingSettings { temperature: 0.0, ..Default::default() }), 0);
    }

    #[test]
    fn entropy_is_that_of_the_whole_distribution() {
        // Uniform over the allowed ones: ln 3, whatever truncation does to the draw.
        let settings = SamplingSettings { top_k: 1, ..Default::default() };
        let drawn = sampler(settings, vec![0]).draw(&row(0), &[9.0f32, 2.0, 2.0, 2.0], |x| x);
        assert!((drawn.entropy - 3f32.ln()).abs() < 1e-6 && drawn.token == 1, "{drawn:?}");
    }

    #[test]
    fn a_large_vocabulary_is_drawn_from_in_every_tile() {
        let v = 5 * VOCAB_TILE + 17;
        let z: Vec<f32> = (0..v).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.01).collect();
        let s = sampler(SamplingSettings::default(), vec![]);
        let mut tiles = [0; 6];
        for i in 0..1200 {
            tiles[s.draw(&row(i), &z, |x| x).token / VOCAB_TILE] += 1;
        }
        assert!(tiles[..5].iter().all(|&n| (170..300).contains(&n)), "{tiles:?}");
    }
}
