//! The products of attention: register tiles of up to six rows times up to four vectors of sixteen
//! columns, for singles and for pairs of bf16. Operands are units of 32 bits: one single, or two
//! bf16 that are neighbours along the sum. Every element is ONE chain over ascending steps, the
//! same on every instruction set; nothing here knows a mask or a softmax.
//!
//! A step on a pair of bf16 is what `vdpbf16ps` does: `c = fma(a1, b1, c)`, then
//! `c = fma(a0, b0, c)`, each rounded to nearest even, subnormal operands and results replaced by
//! zeros of their sign (found by experiment, a million random operands without a difference).

use crate::base::DType;
use crate::ops::Stored;
use crate::ops::cpu::simd::Isa;

/// Most rows of a tile: with four vectors 24 sums, four vectors of B and one of A fill 29 of 32
/// registers.
pub(super) const MAX_ROWS: usize = 6;
/// Most vectors of columns of a tile.
const MAX_VECTORS: usize = 4;
/// Columns of a vector.
pub(super) const LANES: usize = 16;

/// What the sums start from.
#[derive(Clone, Copy)]
pub(super) enum Start<'a> {
    /// Zero.
    Zero,
    /// What C holds, times one factor per row.
    Scaled(&'a [f32]),
}

/// `c[rows][16 * vectors] = start + a[rows][steps] · b[steps][16 * vectors]`.
pub(super) struct Product<'a> {
    pub rows: usize,
    pub vectors: usize,
    pub steps: usize,
    pub a: &'a [u32],
    pub a_stride: usize,
    pub b: &'a [u32],
    pub b_stride: usize,
    pub c: &'a mut [f32],
    pub c_stride: usize,
    pub start: Start<'a>,
}

/// A part of a [`Product`] that fits the registers.
#[derive(Clone, Copy)]
struct Tile {
    steps: usize,
    a: *const u32,
    a_stride: usize,
    b: *const u32,
    b_stride: usize,
    c: *mut f32,
    c_stride: usize,
    /// Factors of the rows, or null to start from zero.
    scale: *const f32,
}

/// Safe to call if the machine has the instructions and the extents of the tile exist.
type Kernel = unsafe fn(Tile);

/// The tiles of one number type on one instruction set: `[rows - 1][vectors - 1]`.
pub(super) struct Kernels {
    table: [[Kernel; MAX_VECTORS]; MAX_ROWS],
}

macro_rules! row {
    ($f:ident, $bf16:literal, $rows:literal) => {
        [
            $f::<$bf16, $rows, 1> as Kernel,
            $f::<$bf16, $rows, 2>,
            $f::<$bf16, $rows, 3>,
            $f::<$bf16, $rows, 4>,
        ]
    };
}

/// Fills a table from a generic function `f::<bf16?, rows, vectors>`.
macro_rules! kernels {
    ($f:ident, $bf16:literal) => {
        Kernels {
            table: [
                row!($f, $bf16, 1),
                row!($f, $bf16, 2),
                row!($f, $bf16, 3),
                row!($f, $bf16, 4),
                row!($f, $bf16, 5),
                row!($f, $bf16, 6),
            ],
        }
    };
}

static BASELINE: [Kernels; 2] = [kernels!(baseline, false), kernels!(baseline, true)];
#[cfg(target_arch = "x86_64")]
static AVX2: [Kernels; 2] = [kernels!(avx2, false), kernels!(avx2, true)];
#[cfg(target_arch = "x86_64")]
static AVX512: [Kernels; 2] = [kernels!(avx512, false), kernels!(avx512, true)];

/// True if this machine multiplies pairs of bf16 in vectors of 512 bits.
pub(super) fn has_bf16_products() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

impl Kernels {
    /// The fastest tiles of this machine for operands of type `T`.
    pub fn best<T: Stored>() -> &'static Kernels {
        Self::on::<T>(Isa::best())
    }

    /// The tiles for an instruction set that this machine has.
    fn on<T: Stored>(isa: Isa) -> &'static Kernels {
        let bf16 = T::DTYPE == DType::BF16;
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 if !bf16 || has_bf16_products() => &AVX512[usize::from(bf16)],
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx2 => &AVX2[usize::from(bf16)],
            _ => &BASELINE[usize::from(bf16)],
        }
    }

    /// Computes a product of up to [`MAX_ROWS`] rows. Panics if an operand is too short.
    #[inline]
    pub fn multiply(&self, p: Product) {
        let (rows, cols) = (p.rows, p.vectors * LANES);
        if rows == 0 || cols == 0 {
            return;
        }
        assert!(rows <= MAX_ROWS && p.c.len() >= (rows - 1) * p.c_stride + cols);
        assert!(p.a.len() >= (rows - 1) * p.a_stride + p.steps);
        assert!(p.steps == 0 || p.b.len() >= (p.steps - 1) * p.b_stride + cols);
        let scale = match p.start {
            Start::Zero => std::ptr::null(),
            Start::Scaled(s) => s[..rows].as_ptr(),
        };
        let mut done = 0;
        // Equal groups of vectors: a narrow last one would wait for its sums.
        let groups = p.vectors.div_ceil(MAX_VECTORS);
        for group in 0..groups {
            let vectors = (p.vectors - done).div_ceil(groups - group);
            let at = done * LANES;
            done += vectors;
            // SAFETY: `on` chose tiles of this machine; the extents were asserted above, and C is
            // borrowed exclusively.
            unsafe {
                self.table[rows - 1][vectors - 1](Tile {
                    steps: p.steps,
                    a: p.a.as_ptr(),
                    a_stride: p.a_stride,
                    b: p.b.as_ptr().wrapping_add(at),
                    b_stride: p.b_stride,
                    c: p.c.as_mut_ptr().add(at),
                    c_stride: p.c_stride,
                    scale,
                });
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn avx512_pairs<const R: usize, const V: usize>(t: Tile) {
    use std::arch::x86_64::*;
    use std::mem::transmute;
    // SAFETY: accesses lie inside the extents promised by the contract of `Kernel`; vectors of
    // integers and of bf16 are the same bits.
    unsafe {
        let mut acc = avx512_start::<R, V>(&t);
        for step in 0..t.steps {
            let mut b = [_mm512_setzero_si512(); V];
            for (v, x) in b.iter_mut().enumerate() {
                *x = _mm512_loadu_si512(t.b.add(step * t.b_stride + v * LANES).cast());
            }
            for (i, row) in acc.iter_mut().enumerate() {
                let a = _mm512_set1_epi32(*t.a.add(i * t.a_stride + step) as i32);
                for (x, b) in row.iter_mut().zip(b) {
                    *x = _mm512_dpbf16_ps(
                        *x,
                        transmute::<__m512i, __m512bh>(b),
                        transmute::<__m512i, __m512bh>(a),
                    );
                }
            }
        }
        avx512_finish(&t, &acc);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn avx512_singles<const R: usize, const V: usize>(t: Tile) {
    use std::arch::x86_64::*;
    // SAFETY: accesses lie inside the extents promised by the contract of `Kernel`.
    unsafe {
        let mut acc = avx512_start::<R, V>(&t);
        for step in 0..t.steps {
            let mut b = [_mm512_setzero_ps(); V];
            for (v, x) in b.iter_mut().enumerate() {
                *x = _mm512_loadu_ps(t.b.add(step * t.b_stride + v * LANES).cast());
            }
            for (i, row) in acc.iter_mut().enumerate() {
                let a = _mm512_set1_ps(*t.a.add(i * t.a_stride + step).cast::<f32>());
                for (x, b) in row.iter_mut().zip(b) {
                    *x = _mm512_fmadd_ps(a, b, *x);
                }
            }
        }
        avx512_finish(&t, &acc);
    }
}

/// The sums before the first step.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn avx512_start<const R: usize, const V: usize>(
    t: &Tile,
) -> [[std::arch::x86_64::__m512; V]; R] {
    use std::arch::x86_64::*;
    let mut acc = [[_mm512_setzero_ps(); V]; R];
    if !t.scale.is_null() {
        for (i, row) in acc.iter_mut().enumerate() {
            for (v, x) in row.iter_mut().enumerate() {
                // SAFETY: inside C and the factors by the contract of `Kernel`.
                *x = unsafe {
                    let c = _mm512_loadu_ps(t.c.add(i * t.c_stride + v * LANES));
                    _mm512_mul_ps(c, _mm512_set1_ps(*t.scale.add(i)))
                };
            }
        }
    }
    acc
}

/// Writes the sums.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn avx512_finish<const R: usize, const V: usize>(
    t: &Tile,
    acc: &[[std::arch::x86_64::__m512; V]; R],
) {
    for (i, row) in acc.iter().enumerate() {
        for (v, x) in row.iter().enumerate() {
            // SAFETY: inside C by the contract of `Kernel`.
            unsafe { std::arch::x86_64::_mm512_storeu_ps(t.c.add(i * t.c_stride + v * LANES), *x) };
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn avx512<const BF16: bool, const R: usize, const V: usize>(t: Tile) {
    // SAFETY: handed on; `on` gives the tiles of bf16 only to machines that have them.
    unsafe { if BF16 { avx512_pairs::<R, V>(t) } else { avx512_singles::<R, V>(t) } }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<const BF16: bool, const R: usize, const V: usize>(t: Tile) {
    // SAFETY: handed on.
    unsafe { portable::<BF16, R, V>(t) }
}

unsafe fn baseline<const BF16: bool, const R: usize, const V: usize>(t: Tile) {
    // SAFETY: handed on.
    unsafe { portable::<BF16, R, V>(t) }
}

/// One vector of columns at a time: six rows then fit sixteen registers of eight lanes.
#[inline(always)]
unsafe fn portable<const BF16: bool, const R: usize, const V: usize>(t: Tile) {
    for v in 0..V {
        let mut acc = [[0f32; LANES]; R];
        // SAFETY: accesses lie inside the extents promised by the contract of `Kernel`; arrays
        // need no more than the alignment of their numbers.
        unsafe {
            if !t.scale.is_null() {
                for (i, row) in acc.iter_mut().enumerate() {
                    let c = *t.c.add(i * t.c_stride + v * LANES).cast::<[f32; LANES]>();
                    let scale = *t.scale.add(i);
                    *row = c.map(|x| x * scale);
                }
            }
            for step in 0..t.steps {
                let b = *t.b.add(step * t.b_stride + v * LANES).cast::<[u32; LANES]>();
                for (i, row) in acc.iter_mut().enumerate() {
                    let a = *t.a.add(i * t.a_stride + step);
                    for (x, b) in row.iter_mut().zip(b) {
                        *x = if BF16 { pair_step(a, b, *x) } else { single_step(a, b, *x) };
                    }
                }
            }
            for (i, row) in acc.iter().enumerate() {
                *t.c.add(i * t.c_stride + v * LANES).cast::<[f32; LANES]>() = *row;
            }
        }
    }
}

#[inline(always)]
fn single_step(a: u32, b: u32, c: f32) -> f32 {
    f32::from_bits(a).mul_add(f32::from_bits(b), c)
}

/// The step of `vdpbf16ps`.
#[inline(always)]
fn pair_step(a: u32, b: u32, c: f32) -> f32 {
    let low = |x: u32| flushed(f32::from_bits(x << 16));
    let high = |x: u32| flushed(f32::from_bits(x & 0xffff_0000));
    let c = flushed(high(a).mul_add(high(b), flushed(c)));
    flushed(low(a).mul_add(low(b), c))
}

/// Replaces a subnormal number by a zero of its sign.
#[inline(always)]
fn flushed(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { f32::from_bits(x.to_bits() & 0x8000_0000) } else { x }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Philox, RngDomain};
    use half::bf16;

    fn units<T: Stored>(n: usize, number: u32) -> Vec<u32> {
        let mut stream = Philox::new(3, RngDomain::Test).stream(0, number);
        let mut normal = || <bf16 as Stored>::store(stream.normal()).to_bits();
        (0..n)
            .map(|_| match T::DTYPE {
                DType::BF16 => u32::from(normal()) << 16 | u32::from(normal()),
                _ => f32::to_bits(f32::from_bits(u32::from(normal()) << 16) * 1.37),
            })
            .collect()
    }

    fn every_instruction_set_agrees<T: Stored>() {
        for (rows, vectors, steps) in [(1, 1, 1), (2, 3, 7), (5, 4, 40), (6, 5, 32), (3, 8, 0)] {
            let (a, b) = (units::<T>(rows * 41, 1), units::<T>(steps.max(1) * 130, 2));
            let before: Vec<f32> = (0..rows * 129).map(|i| (i as f32).sin()).collect();
            let scale = [0.5, 1.0, 0.3, 0.0, 1.5, -2.0];
            for start in [Start::Zero, Start::Scaled(&scale)] {
                let run = |isa| {
                    let mut c = before.clone();
                    Kernels::on::<T>(isa).multiply(Product {
                        rows,
                        vectors,
                        steps,
                        a: &a,
                        a_stride: 41,
                        b: &b,
                        b_stride: 130,
                        c: &mut c,
                        c_stride: 129,
                        start,
                    });
                    c.into_iter().map(f32::to_bits).collect::<Vec<_>>()
                };
                let want = run(Isa::Baseline);
                for isa in Isa::available() {
                    assert!(run(isa) == want, "{isa:?}, {rows} rows, {vectors} vectors");
                }
                let wide = |i: usize, j: usize| -> f64 {
                    let c = match start {
                        Start::Zero => 0.0,
                        Start::Scaled(s) => f64::from(before[i * 129 + j] * s[i]),
                    };
                    let product = |x: u32, y: u32| {
                        f64::from(f32::from_bits(x)) * f64::from(f32::from_bits(y))
                    };
                    (0..steps).fold(c, |c, s| {
                        let (x, y) = (a[i * 41 + s], b[s * 130 + j]);
                        c + match T::DTYPE {
                            DType::BF16 => {
                                product(x << 16, y << 16) + product(x & !0xffff, y & !0xffff)
                            }
                            _ => product(x, y),
                        }
                    })
                };
                for (i, row) in want.chunks(129).enumerate() {
                    for (j, x) in row[..vectors * LANES].iter().enumerate() {
                        assert!((f64::from(f32::from_bits(*x)) - wide(i, j)).abs() < 1e-4);
                    }
                }
            }
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        every_instruction_set_agrees::<f32>();
        every_instruction_set_agrees::<bf16>();
    }

    #[test]
    fn a_step_on_pairs_flushes_subnormal_numbers() {
        let pair = |low: f32, high: f32| {
            let bits = |x| u32::from(<bf16 as Stored>::store(x).to_bits());
            bits(high) << 16 | bits(low)
        };
        let cases = [
            (0.0, pair(1e-20, 0.0), pair(1e-20, 0.0)),
            (0.0, pair(-1e-20, 0.0), pair(1e-20, 0.0)),
            (1e-40, pair(0.0, 0.0), pair(0.0, 0.0)),
            (0.0, pair(1e-39, 0.0), pair(1e10, 0.0)),
            (1.5, pair(1e-39, 3.0), pair(1e38, 1e-39)),
        ];
        for (c, a, b) in cases {
            let run = |isa| {
                let mut out = [c; LANES];
                Kernels::on::<bf16>(isa).multiply(Product {
                    rows: 1,
                    vectors: 1,
                    steps: 1,
                    a: &[a],
                    a_stride: 1,
                    b: &[b; LANES],
                    b_stride: LANES,
                    c: &mut out,
                    c_stride: LANES,
                    start: Start::Scaled(&[1.0]),
                });
                out.map(f32::to_bits)
            };
            let want = run(Isa::Baseline);
            assert!(Isa::available().into_iter().all(|isa| run(isa) == want), "{c:e}");
            assert_eq!(f32::from_bits(want[0]).abs(), if c == 1.5 { 1.5 } else { 0.0 });
        }
    }
}
