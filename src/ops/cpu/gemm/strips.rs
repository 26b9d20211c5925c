//! Matrix multiplication for few rows of A (decoding: one row per sequence) with weights stored
//! row by row, `x·Wᵀ`, where no packed copy of them exists. Bound by reading the weights, so they
//! are read exactly once, sixteen rows side by side from end to end, and transposed in registers;
//! nothing is packed but `x`. The chain per element is that of the tiles. AVX-512 only: elsewhere
//! the packed form does the same work.

use super::pack::Element;
use super::{BUFFERS, Mat, Out, Shared, Term, for_all, grown};
use super::{Factor, tiles::LANES};
use crate::base::DType;
use crate::ops::Stored;
use crate::ops::cpu::simd::{Isa, has_bf16_dot};

/// Most rows of A: as many accumulators as registers allow.
const MAX_ROWS: usize = 16;
/// Columns of the result per task, at least.
const TASK_COLUMNS: usize = 256;

/// True if [`multiply`] can do it.
pub(super) fn fits<S: Element>(isa: Isa, rows: usize, b: &Mat<S>) -> bool {
    let pairs = S::DTYPE == DType::BF16;
    isa == Isa::Avx512
        && rows <= MAX_ROWS
        && b.row_stride == 1
        && (!pairs || (has_bf16_dot() && b.rows.is_multiple_of(2)))
}

/// Computes the whole result. Panics if a term does not [`fits`].
pub(super) fn multiply<S: Element, O: Stored>(
    threads: usize,
    terms: &[Term<S>],
    (m, n): (usize, usize),
    out: Out<O>,
) {
    let steps: usize = terms.iter().map(|t| S::steps(t.a.cols)).sum();
    let mut buffers = BUFFERS.take();
    let words = grown::<S::Word>(&mut buffers.a, steps * m);
    let mut at = 0;
    for t in terms {
        let len = S::steps(t.a.cols) * m;
        let strides = (t.a.row_stride, t.a.col_stride);
        S::pack(t.a.data, strides, (m, m), t.a.cols, &mut words[at..][..len]);
        at += len;
    }
    let a = Shared::new(words);
    let group = n.div_ceil(8 * threads).next_multiple_of(LANES).max(TASK_COLUMNS);
    for_all(threads, n.div_ceil(group), |task| {
        for column in (task * group..((task + 1) * group).min(n)).step_by(LANES) {
            let width = LANES.min(n - column);
            let mut sums = [0f32; MAX_ROWS * LANES];
            if out.accumulate {
                // SAFETY: tasks have disjoint columns, inside the output by `check_shapes`.
                unsafe { out.load((0, column), (m, width), &mut sums, LANES) };
            }
            let mut at = 0;
            for t in terms {
                let Factor::Matrix(b) = t.b else { panic!("panels are not read as strips") };
                let strip = Strip {
                    steps: S::steps(b.rows),
                    a: a.at(at).cast(),
                    b: b.data[column * b.col_stride..].as_ptr().cast(),
                    b_bytes: b.col_stride * size_of::<S>(),
                    width,
                    sums: &mut sums,
                };
                at += strip.steps * m;
                // SAFETY: `fits` promises the instruction set; the strip describes packed rows of
                // A and `width` columns of B with `steps` words each.
                #[cfg(target_arch = "x86_64")]
                unsafe {
                    STRIPS[usize::from(S::DTYPE == DType::BF16)][m - 1](strip);
                }
                #[cfg(not(target_arch = "x86_64"))]
                unreachable!("{}", strip.steps);
            }
            // SAFETY: as above.
            unsafe { out.store((0, column), (m, width), &sums, LANES) };
        }
    });
    BUFFERS.set(buffers);
}

/// Sixteen columns of the result.
struct Strip<'a> {
    steps: usize,
    /// `[steps][rows]` words.
    a: *const u32,
    /// Column `j` of B is `steps` words from `b + j * b_bytes`.
    b: *const u8,
    b_bytes: usize,
    /// Columns that exist.
    width: usize,
    /// `[rows][16]`, continued.
    sums: &'a mut [f32; MAX_ROWS * LANES],
}

/// Fills a table from a generic function `f::<rows>`.
#[cfg(target_arch = "x86_64")]
macro_rules! table {
    ($f:ident, $($rows:literal)*) => { [$($f::<$rows>),*] };
}

/// `[of bf16 pairs?][rows - 1]`.
#[cfg(target_arch = "x86_64")]
static STRIPS: [[unsafe fn(Strip); MAX_ROWS]; 2] = [
    table!(strip_f32, 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16),
    table!(strip_bf16, 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16),
];

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512dq")]
unsafe fn strip_f32<const ROWS: usize>(s: Strip) {
    use std::arch::x86_64::*;
    // SAFETY: the features are those of this function; the strip is the caller's promise.
    unsafe {
        strip::<ROWS>(s, |a, b, sum| {
            _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_set1_epi32(a as i32)), b, sum)
        });
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bf16")]
unsafe fn strip_bf16<const ROWS: usize>(s: Strip) {
    use std::arch::x86_64::*;
    // SAFETY: as above; vectors of 32-bit pairs and of bf16 are the same bits.
    unsafe {
        strip::<ROWS>(s, |a, b, sum| {
            let bits = |x| std::mem::transmute::<__m512i, __m512bh>(x);
            _mm512_dpbf16_ps(sum, bits(_mm512_set1_epi32(a as i32)), bits(_mm512_castps_si512(b)))
        });
    }
}

/// Adds all products of a strip; `product(word of A, words of B, sums)` is one step of one row.
///
/// # Safety
/// What [`Strip`] describes must exist, and the caller must have the features of the intrinsics.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn strip<const ROWS: usize>(
    s: Strip,
    product: impl Fn(
        u32,
        std::arch::x86_64::__m512,
        std::arch::x86_64::__m512,
    ) -> std::arch::x86_64::__m512,
) {
    use std::arch::x86_64::*;
    // SAFETY: accesses lie inside what `Strip` describes: columns beyond `width` read the last one
    // again, steps beyond the last block of four are read one by one.
    unsafe {
        let mut acc = [_mm512_setzero_ps(); ROWS];
        for (i, x) in acc.iter_mut().enumerate() {
            *x = _mm512_loadu_ps(s.sums[i * LANES..].as_ptr());
        }
        let mut column = [s.b.cast::<f32>(); LANES];
        for (j, p) in column.iter_mut().enumerate() {
            *p = s.b.add(j.min(s.width - 1) * s.b_bytes).cast();
        }
        let whole = s.steps / 4 * 4;
        for step in (0..whole).step_by(4) {
            for (q, b) in four_steps(&column, step).into_iter().enumerate() {
                let a = s.a.add((step + q) * ROWS);
                for (i, x) in acc.iter_mut().enumerate() {
                    *x = product(*a.add(i), b, *x);
                }
            }
        }
        for step in whole..s.steps {
            let b = column.map(|p| p.add(step).read_unaligned());
            let b = _mm512_loadu_ps(b.as_ptr());
            for (i, x) in acc.iter_mut().enumerate() {
                *x = product(*s.a.add(step * ROWS + i), b, *x);
            }
        }
        for (i, x) in acc.iter().enumerate() {
            _mm512_storeu_ps(s.sums[i * LANES..].as_mut_ptr(), *x);
        }
    }
}

/// Four steps of sixteen columns: word `j` of vector `q` is `column[j][step + q]`.
///
/// # Safety
/// `step + 4` numbers of every column must exist.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512dq")]
#[inline]
unsafe fn four_steps(column: &[*const f32; LANES], step: usize) -> [std::arch::x86_64::__m512; 4] {
    use std::arch::x86_64::*;
    let mut r = [_mm512_setzero_ps(); 4];
    for (j, r) in r.iter_mut().enumerate() {
        // Quarter `q` gets column `4q + j`, so that transposing 4 x 4 inside the quarters is
        // transposing the whole.
        // SAFETY: by the contract.
        unsafe {
            let at = |q: usize| _mm_loadu_ps(column[4 * q + j].add(step));
            let low = _mm512_castps128_ps512(at(0));
            let low = _mm512_insertf32x4::<1>(low, at(1));
            *r = _mm512_insertf32x4::<3>(_mm512_insertf32x4::<2>(low, at(2)), at(3));
        }
    }
    let [lo01, hi01] = [_mm512_unpacklo_ps(r[0], r[1]), _mm512_unpackhi_ps(r[0], r[1])];
    let [lo23, hi23] = [_mm512_unpacklo_ps(r[2], r[3]), _mm512_unpackhi_ps(r[2], r[3])];
    let pd = |x| _mm512_castps_pd(x);
    [
        _mm512_castpd_ps(_mm512_unpacklo_pd(pd(lo01), pd(lo23))),
        _mm512_castpd_ps(_mm512_unpackhi_pd(pd(lo01), pd(lo23))),
        _mm512_castpd_ps(_mm512_unpacklo_pd(pd(hi01), pd(hi23))),
        _mm512_castpd_ps(_mm512_unpackhi_pd(pd(hi01), pd(hi23))),
    ]
}
