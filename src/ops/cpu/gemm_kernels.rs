//! The register tiles of matrix multiplication, one per instruction set, and the packing of the
//! panels they read. A tile adds `k` products to every element in ascending order, each with one
//! fused multiply-add; it never splits or reorders the sum.

use super::simd::Isa;

/// Arguments of one tile: `mr` rows times `nv` vectors of columns.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    /// Products per element.
    pub k: usize,
    /// First row of A. Packed: `[k][mr]`. Otherwise row `i`, step `t` is at `i*a_row + t*a_step`.
    pub a: *const f32,
    pub a_row: usize,
    pub a_step: usize,
    /// Packed panel of B: `[k][nv * lanes]`.
    pub b: *const f32,
    /// Top left element of the output.
    pub c: *mut f32,
    pub ldc: usize,
    /// Continue the sums that are in C, instead of starting from zero.
    pub load: bool,
}

/// A tile function. Safe to call if the machine has the instruction set of its [`Kernels`] and all
/// pointers of the [`Tile`] are good for the extents it describes.
pub(super) type Kernel = unsafe fn(Tile);

/// The tiles of one instruction set.
pub(super) struct Kernels {
    /// Most rows of a tile.
    pub mr: usize,
    /// Columns of one vector; a tile has one or two.
    pub lanes: usize,
    /// `[packed A?][vectors - 1][rows - 1]`.
    table: [[[Kernel; MAX_MR]; 2]; 2],
}

/// Most rows of any tile.
pub(super) const MAX_MR: usize = 12;
/// Most columns of any tile.
pub(super) const MAX_NR: usize = 32;

impl Kernels {
    /// The tiles for `isa`.
    pub fn of(isa: Isa) -> &'static Kernels {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => &AVX512,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => &AVX2,
            _ => &BASELINE,
        }
    }
    /// The tile with `rows` rows and `vectors` vectors of columns.
    pub fn get(&self, packed: bool, vectors: usize, rows: usize) -> Kernel {
        debug_assert!(rows <= self.mr);
        self.table[usize::from(packed)][vectors - 1][rows - 1]
    }
}

/// Fills a kernel table from a generic function `f::<rows, vectors, packed>`.
macro_rules! table {
    ($f:ident, $($rows:literal)*) => {
        [
            [[$($f::<$rows, 1, false> as Kernel),*], [$($f::<$rows, 2, false> as Kernel),*]],
            [[$($f::<$rows, 1, true> as Kernel),*], [$($f::<$rows, 2, true> as Kernel),*]],
        ]
    };
}

// 12 x 2 accumulators, two vectors of B and one of A fill 27 of 32 registers.
#[cfg(target_arch = "x86_64")]
static AVX512: Kernels =
    Kernels { mr: 12, lanes: 16, table: table!(avx512, 1 2 3 4 5 6 7 8 9 10 11 12) };
// 6 x 2 accumulators, two vectors of B and one of A fill 15 of 16 registers. Rows beyond are unused.
#[cfg(target_arch = "x86_64")]
static AVX2: Kernels = Kernels { mr: 6, lanes: 8, table: table!(avx2, 1 2 3 4 5 6 6 6 6 6 6 6) };
// NEON and the like: 4 x 4 accumulators of four lanes.
static BASELINE: Kernels =
    Kernels { mr: 4, lanes: 8, table: table!(baseline, 1 2 3 4 4 4 4 4 4 4 4 4) };

#[inline(always)]
unsafe fn a_at<const MR: usize, const PACKED: bool>(t: &Tile, step: usize, row: usize) -> f32 {
    let at = if PACKED { step * MR + row } else { row * t.a_row + step * t.a_step };
    // SAFETY: `step < k` and `row < MR`, inside A by the contract of `Kernel`.
    unsafe { *t.a.add(at) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512<const MR: usize, const NV: usize, const PACKED: bool>(t: Tile) {
    use std::arch::x86_64::*;
    let mut acc = [[_mm512_setzero_ps(); NV]; MR];
    // SAFETY: all accesses lie inside the extents promised by the contract of `Kernel`.
    unsafe {
        if t.load {
            for (i, row) in acc.iter_mut().enumerate() {
                for (v, x) in row.iter_mut().enumerate() {
                    *x = _mm512_loadu_ps(t.c.add(i * t.ldc + v * 16));
                }
            }
        }
        for step in 0..t.k {
            let mut b = [_mm512_setzero_ps(); NV];
            for (v, x) in b.iter_mut().enumerate() {
                *x = _mm512_loadu_ps(t.b.add((step * NV + v) * 16));
            }
            for (i, row) in acc.iter_mut().enumerate() {
                let a = _mm512_set1_ps(a_at::<MR, PACKED>(&t, step, i));
                for (x, &b) in row.iter_mut().zip(&b) {
                    *x = _mm512_fmadd_ps(a, b, *x);
                }
            }
        }
        for (i, row) in acc.iter().enumerate() {
            for (v, x) in row.iter().enumerate() {
                _mm512_storeu_ps(t.c.add(i * t.ldc + v * 16), *x);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<const MR: usize, const NV: usize, const PACKED: bool>(t: Tile) {
    use std::arch::x86_64::*;
    let mut acc = [[_mm256_setzero_ps(); NV]; MR];
    // SAFETY: all accesses lie inside the extents promised by the contract of `Kernel`.
    unsafe {
        if t.load {
            for (i, row) in acc.iter_mut().enumerate() {
                for (v, x) in row.iter_mut().enumerate() {
                    *x = _mm256_loadu_ps(t.c.add(i * t.ldc + v * 8));
                }
            }
        }
        for step in 0..t.k {
            let mut b = [_mm256_setzero_ps(); NV];
            for (v, x) in b.iter_mut().enumerate() {
                *x = _mm256_loadu_ps(t.b.add((step * NV + v) * 8));
            }
            for (i, row) in acc.iter_mut().enumerate() {
                let a = _mm256_set1_ps(a_at::<MR, PACKED>(&t, step, i));
                for (x, &b) in row.iter_mut().zip(&b) {
                    *x = _mm256_fmadd_ps(a, b, *x);
                }
            }
        }
        for (i, row) in acc.iter().enumerate() {
            for (v, x) in row.iter().enumerate() {
                _mm256_storeu_ps(t.c.add(i * t.ldc + v * 8), *x);
            }
        }
    }
}

unsafe fn baseline<const MR: usize, const NV: usize, const PACKED: bool>(t: Tile) {
    let mut acc = [[[0f32; 8]; NV]; MR];
    // SAFETY: all accesses lie inside the extents promised by the contract of `Kernel`; arrays of
    // f32 need no more than the alignment of f32.
    unsafe {
        if t.load {
            for (i, row) in acc.iter_mut().enumerate() {
                for (v, x) in row.iter_mut().enumerate() {
                    *x = *t.c.add(i * t.ldc + v * 8).cast::<[f32; 8]>();
                }
            }
        }
        for step in 0..t.k {
            let b = *t.b.add(step * NV * 8).cast::<[[f32; 8]; NV]>();
            for (i, row) in acc.iter_mut().enumerate() {
                let a = a_at::<MR, PACKED>(&t, step, i);
                for (x, b) in row.iter_mut().zip(&b) {
                    for (x, &b) in x.iter_mut().zip(b) {
                        *x = a.mul_add(b, *x);
                    }
                }
            }
        }
        for (i, row) in acc.iter().enumerate() {
            for (v, x) in row.iter().enumerate() {
                *t.c.add(i * t.ldc + v * 8).cast::<[f32; 8]>() = *x;
            }
        }
    }
}

/// Copies `width` series of `k` numbers into `dst` as `[k][padded]`, and zeroes the padding.
/// Number `t` of series `s` is `src[s*series_stride + t*step_stride]`.
pub(super) fn pack(
    src: &[f32],
    (series_stride, step_stride): (usize, usize),
    (width, padded): (usize, usize),
    k: usize,
    dst: &mut [f32],
) {
    let dst = &mut dst[..k * padded];
    if width == 0 || k == 0 {
        return;
    }
    assert!((width - 1) * series_stride + (k - 1) * step_stride < src.len());
    if series_stride == 1 {
        for (t, row) in dst.chunks_exact_mut(padded).enumerate() {
            row[..width].copy_from_slice(&src[t * step_stride..][..width]);
            row[width..].fill(0.0);
        }
        return;
    }
    let blocks = if step_stride == 1 { (width / 4, k / 4) } else { (0, 0) };
    // A few cache lines of every series at a time: what is written stays in the nearest cache.
    for t0 in (0..blocks.1).step_by(PACK_BLOCKS) {
        for s in 0..blocks.0 {
            for t in t0..(t0 + PACK_BLOCKS).min(blocks.1) {
                // SAFETY: reads series `4s..4s+4` and writes steps `4t..4t+4`, all of which exist.
                unsafe {
                    transpose4(
                        src.as_ptr().add(s * 4 * series_stride + t * 4),
                        series_stride,
                        dst.as_mut_ptr().add(t * 4 * padded + s * 4),
                        padded,
                    );
                }
            }
        }
    }
    // What the blocks left: all steps of the last series, the last steps of the others.
    for s in 0..width {
        let done = if s < blocks.0 * 4 { blocks.1 * 4 } else { 0 };
        for t in done..k {
            dst[t * padded + s] = src[s * series_stride + t * step_stride];
        }
    }
    if width < padded {
        for row in dst.chunks_exact_mut(padded) {
            row[width..].fill(0.0);
        }
    }
}

/// Blocks of four steps that [`pack`] takes from one series before it goes to the next.
const PACK_BLOCKS: usize = 16;

/// Transposes a 4 x 4 block. Strides count numbers.
///
/// # Safety
/// Four rows of four numbers must exist on both sides.
#[inline(always)]
unsafe fn transpose4(src: *const f32, src_stride: usize, dst: *mut f32, dst_stride: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of x86-64; the rows exist by the contract.
    unsafe {
        use std::arch::x86_64::*;
        let mut r0 = _mm_loadu_ps(src);
        let mut r1 = _mm_loadu_ps(src.add(src_stride));
        let mut r2 = _mm_loadu_ps(src.add(2 * src_stride));
        let mut r3 = _mm_loadu_ps(src.add(3 * src_stride));
        _MM_TRANSPOSE4_PS(&mut r0, &mut r1, &mut r2, &mut r3);
        _mm_storeu_ps(dst, r0);
        _mm_storeu_ps(dst.add(dst_stride), r1);
        _mm_storeu_ps(dst.add(2 * dst_stride), r2);
        _mm_storeu_ps(dst.add(3 * dst_stride), r3);
    }
    #[cfg(not(target_arch = "x86_64"))]
    for t in 0..4 {
        for s in 0..4 {
            // SAFETY: the rows exist by the contract.
            unsafe { *dst.add(t * dst_stride + s) = *src.add(s * src_stride + t) };
        }
    }
}
