//! Dropout (Srivastava et al., 2014), inverted: kept numbers are divided by `1 - p`. The mask is a
//! function of (seed, step, site, sample, token, column) through Philox, so it depends neither on
//! how samples are packed nor on threads, and the backward pass makes it again instead of
//! storing it.

use super::cpu::rows::rows_per_task;
use super::cpu::simd::LANES;
use super::cpu::vectorised;
use super::shapes::{bytes, is_index, require, same_float};
use super::{Backward, Case, Cost, Fill, Io, Op, OpSpec, Slot, Stored, TensorType};
use super::{Launcher, gpu};
use crate::base::{DType, Philox, Result, RngDomain, Tolerance};
use crate::device::DevicePtr;
use half::bf16;
use rayon::prelude::*;
use std::sync::Arc;

/// Row of the op table.
pub static SPEC: OpSpec = OpSpec {
    name: "dropout",
    doc: "x[T,H], key i32[T,2] = (sample, token) to y[T,H]: numbers zeroed with probability p",
    cases,
    tolerance: Tolerance::rel(2e-7),
    bf16_roundings: 1,
    bench,
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

/// As in the kernels.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct DropoutArgs {
    x: DevicePtr,
    key: DevicePtr,
    y: DevicePtr,
    rows: i32,
    cols: i32,
    key0: u32,
    key1: u32,
    step: u32,
    lane: u32,
    threshold: u32,
    scale: f32,
}
const _: () = assert!(size_of::<DropoutArgs>() == 56);

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
            DType::F64 => self.reference(io),
            DType::BF16 => self.apply::<bf16>(io),
            _ => self.apply::<f32>(io),
        }
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        let (rows, cols) = (k.in_type(0).rows(), k.in_type(0).cols());
        let [key0, key1] = Philox::new(self.seed, RngDomain::Dropout).key();
        let args = DropoutArgs {
            x: k.input(0),
            key: k.input(1),
            y: k.output(0),
            rows: gpu::int(rows),
            cols: gpu::int(cols),
            key0,
            key1,
            step: self.step,
            lane: self.site << SITE_SHIFT,
            threshold: self.threshold(),
            scale: (1.0 / (1.0 - self.p)) as f32,
        };
        gpu::by_rows(k, "elementwise", ["dropout_f32", "dropout_bf16"], [rows, cols], &args);
        Ok(())
    }
    fn backward(&self, b: &mut Backward) -> Result<Vec<Option<Slot>>> {
        let Some(dy) = b.grads[0].filter(|_| b.needs[0]) else { return Ok(vec![None; 2]) };
        let key = b.inputs[1];
        Ok(vec![Some(b.emit1(Dropout { is_backward: true, ..*self }, &[dy, key])?), None])
    }
    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost { flops: 2.0 * inputs[0].len() as f64, bytes: bytes(inputs, outputs) }
    }
}

impl Dropout {
    /// A word of the generator below this is a zero: p as a fraction of 2^32.
    fn threshold(&self) -> u32 {
        (self.p * 4_294_967_296.0) as u32
    }

    /// The definition.
    fn reference(&self, io: &Io) {
        let (x, key, h) = (io.input::<f64>(0), io.input::<i32>(1), io.in_type(0).cols());
        let rng = Philox::new(self.seed, RngDomain::Dropout);
        let rows = io.output::<f64>(0).chunks_mut(h).zip(x.chunks(h)).zip(key.chunks(2));
        for ((y, x), key) in rows {
            for (j, (y, x)) in y.iter_mut().zip(x).enumerate() {
                let lane = (self.site << SITE_SHIFT) + j as u32 / 4;
                let word = rng.at(self.step, key[0] as u32, key[1] as u32, lane)[j % 4];
                *y = if word < self.threshold() { 0.0 } else { x / (1.0 - self.p) };
            }
        }
    }

    fn apply<S: Stored>(&self, io: &Io) {
        let (x, key, h) = (io.input::<S>(0), io.input::<i32>(1), io.in_type(0).cols());
        let rng = Philox::new(self.seed, RngDomain::Dropout);
        let (threshold, scale) = (self.threshold(), (1.0 / (1.0 - self.p)) as f32);
        let rows = rows_per_task(h);
        (
            io.output::<S>(0).par_chunks_mut(rows * h),
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
                            let mut first = self.site << SITE_SHIFT;
                            for (y, x) in y.chunks_mut(BLOCK).zip(x.chunks(BLOCK)) {
                                let at = [self.step, key[0] as u32, key[1] as u32];
                                let words = rng.consecutive::<LANES>(at, first);
                                let words = words.as_flattened();
                                for ((y, &x), &word) in y.iter_mut().zip(x).zip(words) {
                                    let kept = x.load() * scale;
                                    *y = S::store(if word < threshold { 0.0 } else { kept });
                                }
                                first += LANES as u32;
                            }
                        }
                    },
                );
            });
    }
}

/// Columns per block: a vector of draws, four columns each.
const BLOCK: usize = 4 * LANES;

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
        case("whole vectors", 0.2, 7, 512),
    ]
}

/// Sizes of real models.
fn bench() -> Vec<Case> {
    vec![Case {
        label: "4096 x 2048",
        op: Arc::new(Dropout { p: 0.1, seed: 3, step: 2, site: 5, is_backward: false }),
        inputs: vec![
            (vec![4096, 2048], Fill::Normal(1.0), true),
            (vec![4096, 2], Fill::Ints((0..8192).collect()), false),
        ],
    }]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::HostArena;

    /// Which of `h` columns of each (sample, token) are kept.
    fn kept(op: &Dropout, keys: &[i32], h: usize) -> Vec<bool> {
        let t = keys.len() / 2;
        let arena = HostArena::reserve(1 << 20).unwrap();
        let (x_type, key_type) =
            (TensorType::matrix(t, h, DType::F32), TensorType::matrix(t, 2, DType::I32));
        let (x, key, y) = (
            arena.view(0, t * h, DType::F32),
            arena.view(1 << 18, 2 * t, DType::I32),
            arena.view(1 << 19, t * h, DType::F32),
        );
        // SAFETY: three disjoint ranges, used one after another.
        unsafe {
            x.slice_mut().fill(1f32);
            key.slice_mut().copy_from_slice(keys);
            op.run(&Io::new(&[(x, &x_type), (key, &key_type)], &[(y, &x_type)]));
            y.slice::<f32>().iter().map(|&y| y != 0.0).collect()
        }
    }

    #[test]
    fn masks_follow_the_key_and_nothing_else() {
        let op = Dropout { p: 0.25, seed: 9, step: 4, site: 3, is_backward: false };
        let h = 301;
        let all = kept(&op, &[0, 0, 0, 1, 7, 0, 7, 1], h);
        let row = |i: usize| &all[i * h..(i + 1) * h];
        assert_eq!(kept(&op, &[7, 1, 0, 1], h), [row(3), row(1)].concat());
        assert_eq!(kept(&Dropout { is_backward: true, ..op }, &[7, 0], h), row(2));
        assert_eq!(kept(&op, &[7, 0], 40), row(2)[..40]);
        let others =
            [Dropout { site: 2, ..op }, Dropout { step: 5, ..op }, Dropout { seed: 8, ..op }];
        for other in others {
            assert_ne!(kept(&other, &[7, 0], h), row(2));
        }
        let share = all.iter().filter(|&&k| k).count() as f64 / all.len() as f64;
        assert!((share - 0.75).abs() < 0.05, "{share} kept");
    }

    #[test]
    fn a_probability_of_one_is_refused() {
        let op = Dropout { p: 1.0, seed: 0, step: 0, site: 0, is_backward: false };
        let (x, key) = (TensorType::matrix(2, 4, DType::F32), TensorType::matrix(2, 2, DType::I32));
        assert!(op.infer(&[&x, &key]).is_err());
    }
}
