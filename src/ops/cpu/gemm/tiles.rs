//! The register tiles of matrix multiplication, one set per element type and instruction set. A tile
//! adds its products to every element in ascending order of the inner index, as the module above
//! says; it never splits or reorders a sum.

use crate::ops::cpu::simd::{Isa, has_bf16_dot};

/// Arguments of one tile: some rows times one or two vectors of columns.
#[derive(Clone, Copy)]
pub struct Tile<W> {
    /// Steps of the inner sum.
    pub steps: usize,
    /// Packed rows of A: `[steps][rows]`.
    pub a: *const W,
    /// Packed panel of B: `[steps][PANEL]`.
    pub b: *const W,
    /// What the cache is asked for meanwhile: at step `t` the two lines at `t * ahead_step`.
    pub ahead: *const W,
    /// Words from one step to the next of `ahead`.
    pub ahead_step: usize,
    /// Top left element of the output.
    pub c: *mut f32,
    /// Distance of two rows of the output.
    pub ldc: usize,
    /// Continue the sums that are in the output, instead of starting from zero.
    pub load: bool,
}

/// A tile function. Safe to call if the machine has the instruction set of its [`Tiles`] and all
/// pointers of the [`Tile`] are good for the extents it describes.
pub type Kernel<W> = unsafe fn(Tile<W>);

/// Columns of a panel of B.
pub const PANEL: usize = 32;
/// Most rows of any tile.
pub const MAX_MR: usize = 12;
/// Columns of one vector; a tile has one or two.
pub const LANES: usize = 16;

/// The tiles of one element type and instruction set.
pub struct Tiles<W: 'static> {
    /// Most rows of a tile.
    pub mr: usize,
    /// `[vectors - 1][rows - 1]`.
    table: [[Kernel<W>; MAX_MR]; 2],
}

impl<W> Tiles<W> {
    /// The tile with `rows` rows and `vectors` vectors of columns.
    pub fn get(&self, vectors: usize, rows: usize) -> Kernel<W> {
        debug_assert!(rows <= self.mr);
        self.table[vectors - 1][rows - 1]
    }
}

/// Fills a kernel table from a generic function `f::<rows, vectors>`.
macro_rules! table {
    ($f:ident, $($rows:literal)*) => {
        [[$($f::<$rows, 1>),*], [$($f::<$rows, 2>),*]]
    };
}

/// The tiles of f32.
pub fn f32_tiles(isa: Isa) -> &'static Tiles<f32> {
    // 12 x 2 accumulators, two vectors of B and one of A fill 27 of 32 registers.
    #[cfg(target_arch = "x86_64")]
    static AVX512: Tiles<f32> =
        Tiles { mr: 12, table: table!(f32_avx512, 1 2 3 4 5 6 7 8 9 10 11 12) };
    // 4 x 2 accumulators of two registers each.
    #[cfg(target_arch = "x86_64")]
    static AVX2: Tiles<f32> = Tiles { mr: 3, table: table!(f32_avx2, 1 2 3 3 3 3 3 3 3 3 3 3) };
    static BASELINE: Tiles<f32> =
        Tiles { mr: 4, table: table!(f32_plain, 1 2 3 4 4 4 4 4 4 4 4 4) };
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => &AVX512,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => &AVX2,
        _ => &BASELINE,
    }
}

/// The tiles of bf16 pairs.
pub fn bf16_tiles(isa: Isa) -> &'static Tiles<u32> {
    #[cfg(target_arch = "x86_64")]
    static DOT: Tiles<u32> = Tiles { mr: 12, table: table!(bf16_dot, 1 2 3 4 5 6 7 8 9 10 11 12) };
    #[cfg(target_arch = "x86_64")]
    static AVX512: Tiles<u32> =
        Tiles { mr: 6, table: table!(bf16_avx512, 1 2 3 4 5 6 6 6 6 6 6 6) };
    #[cfg(target_arch = "x86_64")]
    static AVX2: Tiles<u32> = Tiles { mr: 2, table: table!(bf16_avx2, 1 2 2 2 2 2 2 2 2 2 2 2) };
    static BASELINE: Tiles<u32> =
        Tiles { mr: 2, table: table!(bf16_plain, 1 2 2 2 2 2 2 2 2 2 2 2) };
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if has_bf16_dot() => &DOT,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => &AVX512,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => &AVX2,
        _ => &BASELINE,
    }
}

/// Steps of B that are asked into the nearest cache ahead of their use.
#[cfg(target_arch = "x86_64")]
const NEAR: usize = 16;

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn f32_avx512<const MR: usize, const NV: usize>(t: Tile<f32>) {
    use std::arch::x86_64::*;
    let mut acc = [[_mm512_setzero_ps(); NV]; MR];
    // SAFETY: all accesses lie inside the extents promised by the contract of `Kernel`; a prefetch
    // may name any address.
    unsafe {
        if t.load {
            for (i, row) in acc.iter_mut().enumerate() {
                for (v, x) in row.iter_mut().enumerate() {
                    *x = _mm512_loadu_ps(t.c.add(i * t.ldc + v * 16));
                }
            }
        }
        let (mut a, mut b, mut ahead) = (t.a, t.b, t.ahead);
        for _ in 0..t.steps {
            let mut column = [_mm512_setzero_ps(); NV];
            _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
            _mm_prefetch::<_MM_HINT_T1>(ahead.wrapping_add(16).cast());
            for (v, x) in column.iter_mut().enumerate() {
                _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(NEAR * PANEL + v * 16).cast());
                *x = _mm512_loadu_ps(b.add(v * 16));
            }
            for (i, row) in acc.iter_mut().enumerate() {
                let a = _mm512_set1_ps(*a.add(i));
                for (x, &b) in row.iter_mut().zip(&column) {
                    *x = _mm512_fmadd_ps(a, b, *x);
                }
            }
            a = a.add(MR);
            b = b.wrapping_add(PANEL);
            ahead = ahead.wrapping_add(t.ahead_step);
        }
        for (i, row) in acc.iter().enumerate() {
            for (v, x) in row.iter().enumerate() {
                _mm512_storeu_ps(t.c.add(i * t.ldc + v * 16), *x);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn bf16_dot<const MR: usize, const NV: usize>(t: Tile<u32>) {
    use std::arch::x86_64::*;
    let mut acc = [[_mm512_setzero_ps(); NV]; MR];
    // SAFETY: as in `f32_avx512`; vectors of 32-bit pairs and of bf16 are the same bits.
    unsafe {
        if t.load {
            for (i, row) in acc.iter_mut().enumerate() {
                for (v, x) in row.iter_mut().enumerate() {
                    *x = _mm512_loadu_ps(t.c.add(i * t.ldc + v * 16));
                }
            }
        }
        let pairs = |x: __m512i| std::mem::transmute::<__m512i, __m512bh>(x);
        let (mut a, mut b, mut ahead) = (t.a, t.b, t.ahead);
        for _ in 0..t.steps {
            let mut column = [_mm512_setzero_si512(); NV];
            _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
            _mm_prefetch::<_MM_HINT_T1>(ahead.wrapping_add(16).cast());
            for (v, x) in column.iter_mut().enumerate() {
                _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(NEAR * PANEL + v * 16).cast());
                *x = _mm512_loadu_si512(b.add(v * 16).cast());
            }
            for (i, row) in acc.iter_mut().enumerate() {
                let a = _mm512_set1_epi32(*a.add(i) as i32);
                for (x, &b) in row.iter_mut().zip(&column) {
                    *x = _mm512_dpbf16_ps(*x, pairs(a), pairs(b));
                }
            }
            a = a.add(MR);
            b = b.wrapping_add(PANEL);
            ahead = ahead.wrapping_add(t.ahead_step);
        }
        for (i, row) in acc.iter().enumerate() {
            for (v, x) in row.iter().enumerate() {
                _mm512_storeu_ps(t.c.add(i * t.ldc + v * 16), *x);
            }
        }
    }
}

/// The tile in plain Rust, sixteen columns side by side; `products` adds those of one step.
///
/// # Safety
/// The contract of [`Kernel`].
#[inline(always)]
unsafe fn plain<W: Copy, const MR: usize, const NV: usize>(
    t: Tile<W>,
    products: impl Fn(&mut [f32; 16], W, &[W; 16]),
) {
    let mut acc = [[[0f32; 16]; NV]; MR];
    // SAFETY: all accesses lie inside the extents promised by the contract of `Kernel`; arrays of
    // 32-bit numbers need no more than their alignment.
    unsafe {
        if t.load {
            for (i, row) in acc.iter_mut().enumerate() {
                for (v, x) in row.iter_mut().enumerate() {
                    *x = *t.c.add(i * t.ldc + v * 16).cast::<[f32; 16]>();
                }
            }
        }
        for step in 0..t.steps {
            let b = t.b.add(step * PANEL).cast::<[W; 16]>();
            for (i, row) in acc.iter_mut().enumerate() {
                let a = *t.a.add(step * MR + i);
                for (v, x) in row.iter_mut().enumerate() {
                    products(x, a, &*b.add(v));
                }
            }
        }
        for (i, row) in acc.iter().enumerate() {
            for (v, x) in row.iter().enumerate() {
                *t.c.add(i * t.ldc + v * 16).cast::<[f32; 16]>() = *x;
            }
        }
    }
}

#[inline(always)]
fn f32_products(acc: &mut [f32; 16], a: f32, b: &[f32; 16]) {
    for (x, &b) in acc.iter_mut().zip(b) {
        *x = a.mul_add(b, *x);
    }
}

/// The two products of a pair, the odd one first: the order of the bf16 dot product instruction.
#[inline(always)]
fn bf16_products(acc: &mut [f32; 16], a: u32, b: &[u32; 16]) {
    let odd = |w: u32| f32::from_bits(w & 0xffff_0000);
    let even = |w: u32| f32::from_bits(w << 16);
    for (x, &b) in acc.iter_mut().zip(b) {
        *x = even(a).mul_add(even(b), odd(a).mul_add(odd(b), *x));
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn f32_avx2<const MR: usize, const NV: usize>(t: Tile<f32>) {
    // SAFETY: by the contract of `Kernel`.
    unsafe { plain::<f32, MR, NV>(t, f32_products) }
}

unsafe fn f32_plain<const MR: usize, const NV: usize>(t: Tile<f32>) {
    // SAFETY: by the contract of `Kernel`.
    unsafe { plain::<f32, MR, NV>(t, f32_products) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
unsafe fn bf16_avx512<const MR: usize, const NV: usize>(t: Tile<u32>) {
    // SAFETY: by the contract of `Kernel`.
    unsafe { plain::<u32, MR, NV>(t, bf16_products) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn bf16_avx2<const MR: usize, const NV: usize>(t: Tile<u32>) {
    // SAFETY: by the contract of `Kernel`.
    unsafe { plain::<u32, MR, NV>(t, bf16_products) }
}

unsafe fn bf16_plain<const MR: usize, const NV: usize>(t: Tile<u32>) {
    // SAFETY: by the contract of `Kernel`.
    unsafe { plain::<u32, MR, NV>(t, bf16_products) }
}
