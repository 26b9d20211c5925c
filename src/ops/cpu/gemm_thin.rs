//! Matrix multiplication for few rows of A (decoding: one row per sequence) with weights stored
//! row by row, `x·Wᵀ`. Bound by reading the weights, so they are read exactly once, sixteen rows
//! side by side from end to end, and transposed in registers; nothing is packed but `x`. The chain
//! per element is that of `gemm`. AVX-512 only: elsewhere the packed form does the same work.

use super::gemm::Mat;
use super::gemm_kernels::pack;
use super::simd::Isa;
use std::ops::Range;

/// Most rows of A: as many accumulators as registers allow.
const MAX_ROWS: usize = 16;
/// Columns of the result per pass.
const LANES: usize = 16;

/// True if [`multiply`] can do it.
pub(super) fn fits(isa: Isa, rows: usize, b: &Mat<f32>) -> bool {
    isa == Isa::Avx512 && rows <= MAX_ROWS && b.row_stride == 1
}

/// Numbers of scratch memory that [`multiply`] needs.
pub(super) fn scratch(a: &Mat<f32>) -> usize {
    a.rows * a.cols
}

/// Computes all rows and the given columns of `a·b` into C, whose top left element is at `c`.
///
/// # Safety
/// [`fits`] must hold, nobody else may access these elements of C, and they must exist.
pub(super) unsafe fn multiply(
    a: Mat<f32>,
    b: Mat<f32>,
    cols: Range<usize>,
    (c, ldc, load): (*mut f32, usize, bool),
    scratch: &mut [f32],
) {
    pack(a.data, (a.row_stride, a.col_stride), (a.rows, a.rows), a.cols, scratch);
    for j in cols.clone().step_by(LANES) {
        let width = LANES.min(cols.end - j);
        let strip = Strip {
            k: a.cols,
            a: scratch.as_ptr(),
            b: b.data[j * b.col_stride..].as_ptr(),
            b_stride: b.col_stride,
            width,
            // SAFETY: inside C by this function's contract.
            c: unsafe { c.add(j) },
            ldc,
            load,
        };
        // SAFETY: `fits` promises AVX-512; the strip describes packed rows of A, `width` columns
        // of B with `k` numbers each, and elements of C that are ours.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            STRIPS[a.rows - 1](strip);
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = strip;
    }
}

/// Sixteen columns of the result.
#[derive(Clone, Copy)]
struct Strip {
    k: usize,
    /// `[k][rows]`.
    a: *const f32,
    /// Column `j` of B is `k` numbers from `b + j * b_stride`.
    b: *const f32,
    b_stride: usize,
    /// Columns that exist.
    width: usize,
    c: *mut f32,
    ldc: usize,
    load: bool,
}

#[cfg(target_arch = "x86_64")]
static STRIPS: [unsafe fn(Strip); MAX_ROWS] = [
    strip::<1>,
    strip::<2>,
    strip::<3>,
    strip::<4>,
    strip::<5>,
    strip::<6>,
    strip::<7>,
    strip::<8>,
    strip::<9>,
    strip::<10>,
    strip::<11>,
    strip::<12>,
    strip::<13>,
    strip::<14>,
    strip::<15>,
    strip::<16>,
];

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512dq")]
unsafe fn strip<const ROWS: usize>(s: Strip) {
    use std::arch::x86_64::*;
    let mask = ((1u32 << s.width) - 1) as __mmask16;
    let mut acc = [_mm512_setzero_ps(); ROWS];
    // SAFETY: accesses lie inside what `Strip` describes: columns beyond `width` read the last
    // one again, steps beyond the last block of four are read one by one, C is masked.
    unsafe {
        if s.load {
            for (i, x) in acc.iter_mut().enumerate() {
                *x = _mm512_maskz_loadu_ps(mask, s.c.add(i * s.ldc));
            }
        }
        let mut column = [s.b; LANES];
        for (j, p) in column.iter_mut().enumerate() {
            *p = s.b.add(j.min(s.width - 1) * s.b_stride);
        }
        let whole = s.k / 4 * 4;
        for step in (0..whole).step_by(4) {
            for (q, b) in four_steps(&column, step).into_iter().enumerate() {
                let a = s.a.add((step + q) * ROWS);
                for (i, x) in acc.iter_mut().enumerate() {
                    *x = _mm512_fmadd_ps(_mm512_set1_ps(*a.add(i)), b, *x);
                }
            }
        }
        for step in whole..s.k {
            let b = column.map(|p| *p.add(step));
            let b = _mm512_loadu_ps(b.as_ptr());
            for (i, x) in acc.iter_mut().enumerate() {
                *x = _mm512_fmadd_ps(_mm512_set1_ps(*s.a.add(step * ROWS + i)), b, *x);
            }
        }
        for (i, x) in acc.iter().enumerate() {
            _mm512_mask_storeu_ps(s.c.add(i * s.ldc), mask, *x);
        }
    }
}

/// Four steps of sixteen columns: number `j` of vector `q` is `column[j][step + q]`.
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
