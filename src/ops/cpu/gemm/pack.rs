//! Packing: the numbers that a register tile reads, in the order in which it reads them. A step of
//! the inner sum is one word per row or column: an f32, or two neighbouring bf16 (an odd last one
//! is paired with zero).

use super::mat::Mat;
use super::tiles::{PANEL, Tiles, bf16_tiles, f32_tiles};
use crate::ops::Stored;
use crate::ops::cpu::simd::Isa;
use bytemuck::Pod;
use half::bf16;
use std::fmt::Debug;

/// A type that matrices are multiplied in.
pub trait Element: Stored {
    /// What a step of the inner sum takes of one row or column.
    type Word: Pod + Send + Sync + Debug;

    /// Steps of an inner size.
    fn steps(k: usize) -> usize;

    /// Packs `width` series of `k` numbers into `dst` as `[steps][padded]`, and zeroes the padding.
    /// Number `t` of series `s` is `src[s*strides.0 + t*strides.1]`.
    fn pack(
        src: &[Self],
        strides: (usize, usize),
        width: (usize, usize),
        k: usize,
        dst: &mut [Self::Word],
    );

    /// The register tiles for an instruction set.
    fn tiles(isa: Isa) -> &'static Tiles<Self::Word>;
}

/// Words that the panels of a right factor `[k, n]` take.
pub fn panel_words<S: Element>(k: usize, n: usize) -> usize {
    S::steps(k) * n.next_multiple_of(PANEL)
}

/// Packs the panel of `b` that begins at `column`.
pub(super) fn panel<S: Element>(b: &Mat<S>, column: usize, words: &mut [S::Word]) {
    let width = PANEL.min(b.cols - column);
    let src = &b.data[(column * b.col_stride).min(b.data.len())..];
    S::pack(src, (b.col_stride, b.row_stride), (width, PANEL), b.rows, words);
}

impl Element for f32 {
    type Word = f32;

    fn steps(k: usize) -> usize {
        k
    }

    fn pack(
        src: &[f32],
        strides: (usize, usize),
        (width, padded): (usize, usize),
        k: usize,
        dst: &mut [f32],
    ) {
        assert_inside(src, strides, width, k);
        if strides.0 == 1 {
            // Lengths that the compiler knows: most rows are of a full tile or panel.
            match (width, padded) {
                (12, 12) => return copy_rows::<12>(src, strides.1, dst),
                (11, 11) => return copy_rows::<11>(src, strides.1, dst),
                (10, 10) => return copy_rows::<10>(src, strides.1, dst),
                (PANEL, PANEL) => return copy_rows::<PANEL>(src, strides.1, dst),
                _ => {}
            }
            for (t, row) in dst.chunks_exact_mut(padded).enumerate() {
                row[..width].copy_from_slice(&src[t * strides.1..][..width]);
                row[width..].fill(0.0);
            }
            return;
        }
        let whole = if strides.1 == 1 { k } else { 0 };
        let (series, done) = transpose(src, strides.0, (width, whole), padded, dst);
        for s in 0..width {
            let done = if s < series { done } else { 0 };
            for t in done..k {
                dst[t * padded + s] = src[s * strides.0 + t * strides.1];
            }
        }
        pad(dst, width, padded);
    }

    fn tiles(isa: Isa) -> &'static Tiles<f32> {
        f32_tiles(isa)
    }
}

impl Element for bf16 {
    type Word = u32;

    fn steps(k: usize) -> usize {
        k.div_ceil(2)
    }

    fn pack(
        src: &[bf16],
        strides: (usize, usize),
        (width, padded): (usize, usize),
        k: usize,
        dst: &mut [u32],
    ) {
        assert_inside(src, strides, width, k);
        let pair =
            |even: bf16, odd: bf16| u32::from(even.to_bits()) | u32::from(odd.to_bits()) << 16;
        if strides.0 == 1 {
            match (width, padded, k % 2) {
                (12, 12, 0) => return pair_rows::<12>(src, strides.1, dst),
                (11, 11, 0) => return pair_rows::<11>(src, strides.1, dst),
                (10, 10, 0) => return pair_rows::<10>(src, strides.1, dst),
                (PANEL, PANEL, 0) => return pair_rows::<PANEL>(src, strides.1, dst),
                _ => {}
            }
            for (t, row) in dst.chunks_exact_mut(padded).enumerate() {
                let even = &src[2 * t * strides.1..][..width];
                if 2 * t + 1 < k {
                    let odd = &src[(2 * t + 1) * strides.1..][..width];
                    row.iter_mut()
                        .zip(even.iter().zip(odd))
                        .for_each(|(w, (e, o))| *w = pair(*e, *o));
                } else {
                    row.iter_mut().zip(even).for_each(|(w, e)| *w = pair(*e, bf16::ZERO));
                }
                row[width..].fill(0);
            }
            return;
        }
        let whole = if strides.1 == 1 { k / 2 } else { 0 };
        let (series, done) = transpose(src, strides.0, (width, whole), padded, dst);
        for s in 0..width {
            let done = if s < series { done } else { 0 };
            for t in done..k.div_ceil(2) {
                let at = s * strides.0 + 2 * t * strides.1;
                let odd = if 2 * t + 1 < k { src[at + strides.1] } else { bf16::ZERO };
                dst[t * padded + s] = pair(src[at], odd);
            }
        }
        pad(dst, width, padded);
    }

    fn tiles(isa: Isa) -> &'static Tiles<u32> {
        bf16_tiles(isa)
    }
}

/// Copies rows of `N` numbers that lie `stride` apart.
fn copy_rows<const N: usize>(src: &[f32], stride: usize, dst: &mut [f32]) {
    let (rows, _) = dst.as_chunks_mut::<N>();
    for (t, row) in rows.iter_mut().enumerate() {
        *row = *src[t * stride..].first_chunk().expect("inside the matrix");
    }
}

/// Pairs rows of `N` numbers that lie `stride` apart, two by two.
fn pair_rows<const N: usize>(src: &[bf16], stride: usize, dst: &mut [u32]) {
    let (rows, _) = dst.as_chunks_mut::<N>();
    for (t, row) in rows.iter_mut().enumerate() {
        let even: &[bf16; N] = src[2 * t * stride..].first_chunk().expect("inside the matrix");
        let odd: &[bf16; N] = src[(2 * t + 1) * stride..].first_chunk().expect("inside the matrix");
        for (w, (e, o)) in row.iter_mut().zip(even.iter().zip(odd)) {
            *w = u32::from(e.to_bits()) | u32::from(o.to_bits()) << 16;
        }
    }
}

fn assert_inside<S>(src: &[S], strides: (usize, usize), width: usize, k: usize) {
    if width > 0 && k > 0 {
        assert!((width - 1) * strides.0 + (k - 1) * strides.1 < src.len(), "leaves the matrix");
    }
}

fn pad<W: Pod>(dst: &mut [W], width: usize, padded: usize) {
    if width < padded {
        for row in dst.chunks_exact_mut(padded) {
            row[width..].fill(W::zeroed());
        }
    }
}

/// Steps that [`transpose`] takes from one group of series before it goes to the next: what is
/// written stays in the nearest cache.
const STEPS_AT_A_TIME: usize = 64;

/// Transposes series of words, `stride` elements of `src` apart, into `dst[step][padded]`, as far as
/// whole blocks of four by four go; the last block of series may overlap the one before. Returns the
/// series and steps that are done.
fn transpose<S: Pod, W: Pod>(
    src: &[S],
    stride: usize,
    (series, steps): (usize, usize),
    padded: usize,
    dst: &mut [W],
) -> (usize, usize) {
    const { assert!(size_of::<W>() == 4) }
    #[cfg(target_arch = "x86_64")]
    if Isa::best() == Isa::Avx512 && steps >= 16 {
        let rows = Rows { first: src.as_ptr().cast(), bytes: stride * size_of::<S>() };
        // SAFETY: the machine has AVX-512; series and steps exist (`assert_inside` of the caller),
        // and `dst` holds `padded` words of every step.
        unsafe { transpose16(rows, (series, steps / 16 * 16), padded, dst) };
        return (series, steps / 16 * 16);
    }
    let (series, steps) = (if series < 4 { 0 } else { series }, steps / 4 * 4);
    let bytes = stride * size_of::<S>();
    for t0 in (0..steps).step_by(STEPS_AT_A_TIME) {
        for s in (0..series).step_by(4).map(|s| s.min(series - 4)) {
            for t in (t0..(t0 + STEPS_AT_A_TIME).min(steps)).step_by(4) {
                // SAFETY: reads series `s..s+4`, steps `t..t+4`, which exist (`assert_inside` of
                // the caller), and writes the same of `dst`.
                unsafe {
                    transpose4(
                        src.as_ptr().cast::<u8>().add(s * bytes + t * 4),
                        bytes,
                        dst[t * padded + s..].as_mut_ptr().cast(),
                        padded,
                    );
                }
            }
        }
    }
    (series, steps)
}

/// Rows of words at any alignment.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
struct Rows {
    first: *const u8,
    /// Distance of two rows.
    bytes: usize,
}

/// [`transpose`] in blocks of sixteen steps of up to sixteen series: a whole cache line of each.
///
/// # Safety
/// `series` rows of `steps` words must exist, `steps` a multiple of 16, and `steps * padded` words of
/// `dst`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn transpose16<W: Pod>(
    rows: Rows,
    (series, steps): (usize, usize),
    padded: usize,
    dst: &mut [W],
) {
    use std::arch::x86_64::*;
    debug_assert!(dst.len() >= steps * padded);
    for t in (0..steps).step_by(16) {
        for s in (0..series).step_by(16) {
            let width = 16.min(series - s);
            let mask = ((1u32 << width) - 1) as __mmask16;
            // SAFETY: rows beyond the last read it again; steps exist by the contract; only words
            // of existing series are written.
            unsafe {
                let row = |i: usize| {
                    let at = rows.first.add((s + i.min(width - 1)) * rows.bytes + t * 4);
                    _mm512_loadu_ps(at.cast())
                };
                // Fours of rows: lane q of `u[4g + j]` is column 4q + j of rows 4g..4g+4.
                let mut u = [_mm512_setzero_ps(); 16];
                for g in 0..4 {
                    let [a, b, c, d] = [0, 1, 2, 3].map(|i| row(4 * g + i));
                    let (ab, cd) = (_mm512_unpacklo_ps(a, b), _mm512_unpacklo_ps(c, d));
                    let (ab2, cd2) = (_mm512_unpackhi_ps(a, b), _mm512_unpackhi_ps(c, d));
                    let pd = |x| _mm512_castps_pd(x);
                    let ps = |x| _mm512_castpd_ps(x);
                    u[4 * g] = ps(_mm512_unpacklo_pd(pd(ab), pd(cd)));
                    u[4 * g + 1] = ps(_mm512_unpackhi_pd(pd(ab), pd(cd)));
                    u[4 * g + 2] = ps(_mm512_unpacklo_pd(pd(ab2), pd(cd2)));
                    u[4 * g + 3] = ps(_mm512_unpackhi_pd(pd(ab2), pd(cd2)));
                }
                for j in 0..4 {
                    let a = _mm512_shuffle_f32x4::<0x88>(u[j], u[4 + j]);
                    let b = _mm512_shuffle_f32x4::<0x88>(u[8 + j], u[12 + j]);
                    let c = _mm512_shuffle_f32x4::<0xdd>(u[j], u[4 + j]);
                    let d = _mm512_shuffle_f32x4::<0xdd>(u[8 + j], u[12 + j]);
                    let columns = [
                        _mm512_shuffle_f32x4::<0x88>(a, b),
                        _mm512_shuffle_f32x4::<0x88>(c, d),
                        _mm512_shuffle_f32x4::<0xdd>(a, b),
                        _mm512_shuffle_f32x4::<0xdd>(c, d),
                    ];
                    for (q, column) in columns.into_iter().enumerate() {
                        let to = dst.as_mut_ptr().add((t + 4 * q + j) * padded + s);
                        _mm512_mask_storeu_ps(to.cast(), mask, column);
                    }
                }
            }
        }
    }
}

/// Transposes a 4 x 4 block of words; rows of the source lie `src_bytes` apart, at any alignment.
///
/// # Safety
/// Four rows of four words must exist on both sides.
#[inline(always)]
unsafe fn transpose4(src: *const u8, src_bytes: usize, dst: *mut f32, dst_stride: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of x86-64; the rows exist by the contract.
    unsafe {
        use std::arch::x86_64::*;
        let row = |i: usize| _mm_loadu_ps(src.add(i * src_bytes).cast());
        let (mut r0, mut r1, mut r2, mut r3) = (row(0), row(1), row(2), row(3));
        _MM_TRANSPOSE4_PS(&mut r0, &mut r1, &mut r2, &mut r3);
        _mm_storeu_ps(dst, r0);
        _mm_storeu_ps(dst.add(dst_stride), r1);
        _mm_storeu_ps(dst.add(2 * dst_stride), r2);
        _mm_storeu_ps(dst.add(3 * dst_stride), r3);
    }
    #[cfg(not(target_arch = "x86_64"))]
    for s in 0..4 {
        for t in 0..4 {
            // SAFETY: the rows exist by the contract. Moved as integers: these may be pairs.
            unsafe {
                let word = src.add(s * src_bytes + t * 4).cast::<u32>().read_unaligned();
                *dst.add(t * dst_stride + s).cast::<u32>() = word;
            }
        }
    }
}
