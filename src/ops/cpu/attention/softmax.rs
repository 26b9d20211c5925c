//! What attention does to a tile of scores between its products: weights and their sums forward,
//! gradients of the scores backward. Each has a plain form and one for AVX-512, with equal bits.
//! No tile is seen here in more than registers; nothing here reads an input of the op.

use super::product::{LANES, MAX_ROWS, has_bf16_products};
use super::{B, Lanes};
use crate::base::DType;
use crate::ops::Stored;
use crate::ops::cpu::simd::{Isa, vectorised_on};
use crate::ops::cpu::vecmath::{exp_weight, lane_tree};
use std::ops::Range;

/// Whether the forms for AVX-512 serve weights of type `T` on `isa`.
fn is_wide<T: Stored>(isa: Isa) -> bool {
    isa == Isa::Avx512 && (T::DTYPE == DType::F32 || has_bf16_products())
}

/// What a row keeps between blocks.
pub(super) struct Running<'a> {
    /// Largest score so far, scaled.
    pub top: &'a mut [f32],
    /// Sum of the weights so far, relative to `top`.
    pub sum: &'a mut [f32],
}

/// Softmax weights of a tile from its scores, `exp(s·scale - top)` for the keys that are seen and
/// else 0, and the factors by which what was summed before shrinks. A row's weights are `[64]`.
pub(super) fn soften<T: Stored>(
    isa: Isa,
    scores: &mut [Lanes],
    seen: &[usize; MAX_ROWS],
    scale: f32,
    state: Running,
    weights: &mut [T],
) -> [f32; LANES] {
    let rows = scores.len();
    assert!(rows <= MAX_ROWS && weights.len() >= rows * B);
    assert!(state.top.len() == rows && state.sum.len() == rows);
    let before: [f32; LANES] =
        std::array::from_fn(|i| state.top.get(i).copied().unwrap_or_default());
    for (s, &seen) in scores.iter_mut().zip(seen) {
        s[seen..].fill(f32::NEG_INFINITY);
    }
    #[cfg(target_arch = "x86_64")]
    if is_wide::<T>(isa) {
        // SAFETY: the machine has the instructions; sizes were asserted above.
        return unsafe {
            match T::DTYPE {
                DType::BF16 => {
                    wide::soften_bf16(scores, scale, before, state, weights.as_mut_ptr().cast())
                }
                _ => wide::soften_f32(scores, scale, before, state, weights.as_mut_ptr().cast()),
            }
        };
    }
    let mut shrink = before;
    vectorised_on(
        isa,
        #[inline(always)]
        || {
            for (s, top) in scores.iter().zip(state.top.iter_mut()) {
                *top = larger(*top, lane_max(s) * scale);
            }
            for (x, top) in shrink.iter_mut().zip(state.top.iter()) {
                *x -= top;
            }
            for x in &mut shrink {
                *x = exp_weight(*x);
            }
            for (i, (s, w)) in scores.iter_mut().zip(weights.chunks_exact_mut(B)).enumerate() {
                for (x, w) in s.iter_mut().zip(w) {
                    *x = exp_weight(x.mul_add(scale, -state.top[i]));
                    *w = T::store(*x);
                }
                state.sum[i] = state.sum[i].mul_add(shrink[i], lane_sum(s));
            }
        },
    );
    shrink
}

#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

#[inline(always)]
fn lane_max(s: &Lanes) -> f32 {
    let mut m = [0.0; LANES];
    for (l, m) in m.iter_mut().enumerate() {
        *m = larger(larger(s[l], s[l + 16]), larger(s[l + 32], s[l + 48]));
    }
    m.into_iter().fold(f32::NEG_INFINITY, larger)
}

/// Sum of 64 lanes in one fixed tree.
#[inline(always)]
fn lane_sum(p: &Lanes) -> f32 {
    let mut t = [0.0; LANES];
    for (i, s) in t.iter_mut().enumerate() {
        *s = (p[i] + p[i + 16]) + (p[i + 32] + p[i + 48]);
    }
    lane_tree(t)
}

/// The tile of a backward pass: scores and the gradients of the weights.
pub(super) struct Scored<'a> {
    pub scores: &'a [Lanes],
    pub dp: &'a [Lanes],
    pub scale: f32,
}

/// Where a tile's rows are queries: `ds = p·(dp - delta)` with `p = exp(s·scale - lse)`, for the
/// keys that are seen and else 0. The scores' gradient still lacks the factor `scale`.
pub(super) fn query_gradients<T: Stored>(
    isa: Isa,
    tile: Scored,
    seen: &[usize; MAX_ROWS],
    [lse, delta]: [&[f32]; 2],
    ds: &mut [T],
) {
    let rows = tile.scores.len();
    assert!(rows <= MAX_ROWS && tile.dp.len() == rows && ds.len() >= rows * B);
    assert!(lse.len() == rows && delta.len() == rows);
    #[cfg(target_arch = "x86_64")]
    if is_wide::<T>(isa) {
        // SAFETY: the machine has the instructions; sizes were asserted above.
        unsafe {
            let to = ds.as_mut_ptr().cast();
            match T::DTYPE {
                DType::BF16 => wide::query_gradients_bf16(tile, seen, [lse, delta], to),
                _ => wide::query_gradients_f32(tile, seen, [lse, delta], to),
            }
        }
        return;
    }
    vectorised_on(
        isa,
        #[inline(always)]
        || {
            for (i, ds) in ds.chunks_exact_mut(B).take(rows).enumerate() {
                for ((ds, s), dp) in ds.iter_mut().zip(&tile.scores[i]).zip(&tile.dp[i]) {
                    let p = exp_weight(below_88(s.mul_add(tile.scale, -lse[i])));
                    *ds = T::store(p * (dp - delta[i]));
                }
                ds[seen[i]..].fill(T::store(0.0));
            }
        },
    );
}

/// Where a tile's rows are keys: `p` and `ds` as in [`query_gradients`], for the queries in `seen`
/// of each row; `lse` and `delta` are those of the columns.
pub(super) fn key_gradients<T: Stored>(
    isa: Isa,
    tile: Scored,
    seen: &[Range<usize>; MAX_ROWS],
    [lse, delta]: [&Lanes; 2],
    [p, ds]: [&mut [T]; 2],
) {
    let rows = tile.scores.len();
    assert!(rows <= MAX_ROWS && tile.dp.len() == rows);
    assert!(p.len() >= rows * B && ds.len() >= rows * B);
    #[cfg(target_arch = "x86_64")]
    if is_wide::<T>(isa) {
        // SAFETY: the machine has the instructions; sizes were asserted above.
        unsafe {
            let to = [p.as_mut_ptr().cast(), ds.as_mut_ptr().cast()];
            match T::DTYPE {
                DType::BF16 => wide::key_gradients_bf16(tile, seen, [lse, delta], to),
                _ => wide::key_gradients_f32(tile, seen, [lse, delta], to),
            }
        }
        return;
    }
    vectorised_on(
        isa,
        #[inline(always)]
        || {
            let rows = p.chunks_exact_mut(B).zip(ds.chunks_exact_mut(B)).take(rows);
            for (i, (p, ds)) in rows.enumerate() {
                for j in 0..B {
                    let s = tile.scores[i][j];
                    let w = exp_weight(below_88(s.mul_add(tile.scale, -lse[j])));
                    p[j] = T::store(w);
                    ds[j] = T::store(w * (tile.dp[i][j] - delta[j]));
                }
                for x in [p, ds] {
                    x[..seen[i].start].fill(T::store(0.0));
                    x[seen[i].end..].fill(T::store(0.0));
                }
            }
        },
    );
}

/// Keeps the argument of a weight where [`exp_weight`] is defined: what is not seen has any score,
/// and its weight is thrown away afterwards.
#[inline(always)]
fn below_88(x: f32) -> f32 {
    if x > 88.0 { 88.0 } else { x }
}

/// The forms for AVX-512.
#[cfg(target_arch = "x86_64")]
mod wide {
    use super::*;
    use crate::ops::cpu::vecmath::{EXP, LN_2_HI, LN_2_LO, ROUND};
    use std::arch::x86_64::*;
    use std::f32::consts::LOG2_E;

    /// [`exp_weight`] of sixteen numbers; above 88 it overflows to infinity.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn exp16(x: __m512) -> __m512 {
        let set = |x| _mm512_set1_ps(x);
        let y = _mm512_max_ps(set(-87.0), x);
        let n = _mm512_sub_ps(_mm512_fmadd_ps(y, set(LOG2_E), set(ROUND)), set(ROUND));
        let r = _mm512_fmadd_ps(n, set(-LN_2_LO), _mm512_fmadd_ps(n, set(-LN_2_HI), y));
        let mut p = set(EXP[0]);
        for &c in &EXP[1..] {
            p = _mm512_fmadd_ps(p, r, set(c));
        }
        let e = _mm512_fmadd_ps(_mm512_mul_ps(r, r), p, r);
        let kept = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, set(-87.0));
        _mm512_maskz_scalef_ps(kept, _mm512_add_ps(e, set(1.0)), n)
    }

    /// The tree of `lane_tree`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq")]
    fn tree(t: __m512) -> f32 {
        let t = _mm256_add_ps(_mm512_castps512_ps256(t), _mm512_extractf32x8_ps::<1>(t));
        let t = _mm_add_ps(_mm256_castps256_ps128(t), _mm256_extractf128_ps::<1>(t));
        let t = _mm_add_ps(t, _mm_movehl_ps(t, t));
        _mm_cvtss_f32(_mm_add_ss(t, _mm_movehdup_ps(t)))
    }

    /// Stores two vectors in the type of the weights.
    ///
    /// # Safety
    /// 32 weights must exist at `at`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn store_bf16(to: *mut u32, at: usize, low: __m512, high: __m512) {
        // SAFETY: by the contract; both types are 512 bits without meaning of their own.
        unsafe {
            let both = _mm512_cvtne2ps_pbh(high, low);
            _mm512_storeu_si512(
                to.add(at / 2).cast(),
                std::mem::transmute::<__m512bh, __m512i>(both),
            );
        }
    }

    /// As [`store_bf16`], unrounded.
    ///
    /// # Safety
    /// 32 weights must exist at `at`.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn store_f32(to: *mut u32, at: usize, low: __m512, high: __m512) {
        // SAFETY: by the contract.
        unsafe {
            _mm512_storeu_ps(to.add(at).cast(), low);
            _mm512_storeu_ps(to.add(at + LANES).cast(), high);
        }
    }

    /// Numbers `first..end` of sixteen from `at` on.
    #[inline(always)]
    fn mask(seen: &Range<usize>, at: usize) -> __mmask16 {
        let below = |n: usize| (1u32 << n.saturating_sub(at).min(LANES)) - 1;
        (below(seen.end) & !below(seen.start)) as __mmask16
    }

    // One body for each step and two types of weights: a function with these instructions is not
    // inlined into one without them, so the choice is made once per tile.
    macro_rules! steps {
        ($features:literal, $store:ident, $soften:ident, $queries:ident, $keys:ident) => {
            /// See [`super::soften`]; what is not seen is minus infinity already.
            ///
            /// # Safety
            /// The machine has the instructions; `weights` has 64 weights per row.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn $soften(
                scores: &[Lanes],
                scale: f32,
                before: [f32; LANES],
                state: Running,
                weights: *mut u32,
            ) -> [f32; LANES] {
                // SAFETY: loads and stores are those of whole arrays, and of the weights by the
                // contract.
                unsafe {
                    let load = |s: &Lanes, v: usize| _mm512_loadu_ps(s.as_ptr().add(v * LANES));
                    for (s, top) in scores.iter().zip(state.top.iter_mut()) {
                        let m = _mm512_max_ps(
                            _mm512_max_ps(load(s, 0), load(s, 1)),
                            _mm512_max_ps(load(s, 2), load(s, 3)),
                        );
                        *top = larger(*top, _mm512_reduce_max_ps(m) * scale);
                    }
                    let mut shrink = before;
                    for (x, top) in shrink.iter_mut().zip(state.top.iter()) {
                        *x -= top;
                    }
                    let factors = exp16(_mm512_loadu_ps(shrink.as_ptr()));
                    _mm512_storeu_ps(shrink.as_mut_ptr(), factors);
                    let factor = _mm512_set1_ps(scale);
                    for (i, s) in scores.iter().enumerate() {
                        let top = _mm512_set1_ps(state.top[i]);
                        let w = |v| exp16(_mm512_fmsub_ps(load(s, v), factor, top));
                        let w = [w(0), w(1), w(2), w(3)];
                        $store(weights, i * B, w[0], w[1]);
                        $store(weights, i * B + 2 * LANES, w[2], w[3]);
                        let sum = tree(_mm512_add_ps(
                            _mm512_add_ps(w[0], w[1]),
                            _mm512_add_ps(w[2], w[3]),
                        ));
                        state.sum[i] = state.sum[i].mul_add(shrink[i], sum);
                    }
                    shrink
                }
            }

            /// See [`super::query_gradients`].
            ///
            /// # Safety
            /// The machine has the instructions; `ds` has 64 weights per row.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn $queries(
                tile: Scored,
                seen: &[usize; MAX_ROWS],
                [lse, delta]: [&[f32]; 2],
                ds: *mut u32,
            ) {
                // SAFETY: loads and stores are those of whole arrays, and of the weights by the
                // contract.
                unsafe {
                    let factor = _mm512_set1_ps(tile.scale);
                    for (i, (s, dp)) in tile.scores.iter().zip(tile.dp).enumerate() {
                        let (lse, delta) = (_mm512_set1_ps(lse[i]), _mm512_set1_ps(delta[i]));
                        let seen = 0..seen[i];
                        let one = |v: usize| {
                            let load = |x: &Lanes| _mm512_loadu_ps(x.as_ptr().add(v * LANES));
                            let p = exp16(_mm512_fmsub_ps(load(s), factor, lse));
                            let mask = mask(&seen, v * LANES);
                            _mm512_maskz_mul_ps(mask, p, _mm512_sub_ps(load(dp), delta))
                        };
                        $store(ds, i * B, one(0), one(1));
                        $store(ds, i * B + 2 * LANES, one(2), one(3));
                    }
                }
            }

            /// See [`super::key_gradients`].
            ///
            /// # Safety
            /// The machine has the instructions; `p` and `ds` have 64 weights per row.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn $keys(
                tile: Scored,
                seen: &[Range<usize>; MAX_ROWS],
                [lse, delta]: [&Lanes; 2],
                [p, ds]: [*mut u32; 2],
            ) {
                // SAFETY: loads and stores are those of whole arrays, and of the weights by the
                // contract.
                unsafe {
                    let factor = _mm512_set1_ps(tile.scale);
                    for (i, (s, dp)) in tile.scores.iter().zip(tile.dp).enumerate() {
                        let one = |v: usize| {
                            let load = |x: &Lanes| _mm512_loadu_ps(x.as_ptr().add(v * LANES));
                            let mask = mask(&seen[i], v * LANES);
                            let p = exp16(_mm512_fmsub_ps(load(s), factor, load(lse)));
                            let p = _mm512_maskz_mov_ps(mask, p);
                            let dp = _mm512_sub_ps(load(dp), load(delta));
                            (p, _mm512_maskz_mul_ps(mask, p, dp))
                        };
                        for half in [0, 1] {
                            let (low, high) = (one(2 * half), one(2 * half + 1));
                            $store(p, i * B + 2 * LANES * half, low.0, high.0);
                            $store(ds, i * B + 2 * LANES * half, low.1, high.1);
                        }
                    }
                }
            }
        };
    }

    steps!(
        "avx512f,avx512bw,avx512vl,avx512dq,fma",
        store_f32,
        soften_f32,
        query_gradients_f32,
        key_gradients_f32
    );
    steps!(
        "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,fma",
        store_bf16,
        soften_bf16,
        query_gradients_bf16,
        key_gradients_bf16
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Philox, RngDomain};
    use half::bf16;

    fn tile(number: u32, std: f32) -> [Lanes; MAX_ROWS] {
        let mut stream = Philox::new(5, RngDomain::Test).stream(0, number);
        std::array::from_fn(|_| std::array::from_fn(|_| stream.normal() * std))
    }

    /// Everything the three steps compute for some rows, as bits.
    fn steps<T: Stored>(isa: Isa, rows: usize, std: f32) -> Vec<u32> {
        let (scores, dp) = (tile(0, std), tile(1, 1.0));
        let (mut top, mut sum) = ([-3.0, f32::NEG_INFINITY, 200.0, 0.0, 1.0, 2.0], [0.5; MAX_ROWS]);
        let seen = [64, 1, 63, 17, 48, 0];
        let mut w = [vec![T::store(9.0); rows * B], vec![T::store(9.0); rows * B]];
        let mut out = Vec::new();
        let mut softened = scores;
        let state = Running { top: &mut top[..rows], sum: &mut sum[..rows] };
        let shrink = soften(isa, &mut softened[..rows], &seen, 0.3, state, &mut w[0]);
        out.extend(shrink[..rows].iter().chain(&top[..rows]).chain(&sum[..rows]).copied());
        out.extend(w[0].iter().map(|w| w.load()));
        let lse: Vec<f32> = scores.iter().map(|s| 1.0 + 0.3 * lane_max(s)).collect();
        let scored = || Scored { scores: &scores[..rows], dp: &dp[..rows], scale: 0.3 };
        query_gradients(isa, scored(), &seen, [&lse[..rows], &dp[0][..rows]], &mut w[0]);
        out.extend(w[0].iter().map(|w| w.load()));
        let column_lse: Lanes =
            std::array::from_fn(|j| 1.0 + 0.3 * scores.iter().fold(0.0, |m, s| larger(m, s[j])));
        let ranges = [0..64, 5..64, 0..3, 16..33, 64..64, 63..64];
        let [p, ds] = &mut w;
        key_gradients(isa, scored(), &ranges, [&column_lse, &dp[1]], [p, ds]);
        out.extend(w.iter().flatten().map(|w| w.load()));
        out.into_iter().map(f32::to_bits).collect()
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        for (rows, std) in [(1, 1.0), (6, 10.0), (4, 300.0)] {
            for isa in Isa::available() {
                let what = format!("{isa:?}, {rows} rows, {std}");
                assert!(
                    steps::<f32>(isa, rows, std) == steps::<f32>(Isa::Baseline, rows, std),
                    "{what}"
                );
                assert!(
                    steps::<bf16>(isa, rows, std) == steps::<bf16>(Isa::Baseline, rows, std),
                    "{what}, bf16"
                );
            }
        }
    }

    #[test]
    fn weights_are_those_of_the_softmax() {
        let scores = tile(2, 4.0);
        let (mut top, mut sum) = ([f32::NEG_INFINITY], [0.0]);
        let (mut weights, mut tile) = (vec![0f32; B], [scores[0]]);
        let state = Running { top: &mut top, sum: &mut sum };
        soften(Isa::best(), &mut tile, &[40; MAX_ROWS], 0.5, state, &mut weights);
        let exact: Vec<f64> = scores[0][..40].iter().map(|s| (0.5 * f64::from(*s)).exp()).collect();
        let total: f64 = exact.iter().sum();
        for (j, w) in weights.iter().enumerate() {
            let want = exact.get(j).map_or(0.0, |x| x / total);
            assert!((f64::from(*w / sum[0]) - want).abs() < 1e-6, "weight {j}");
        }
    }
}
