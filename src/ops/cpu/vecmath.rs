//! Elementary functions and reductions of f32 that vectorise: branch-free, one polynomial each,
//! all inlined into the caller's [`vectorised`](super::simd::vectorised) body. A number gives the
//! same bits alone, in a slice and on every instruction set; no result comes from the system's
//! mathematical library.
//!
//! The polynomials are minimax fits of our own (Lawson iteration in 40 digits, then rounded to
//! f32); the bound beside each is the error of the rounded polynomial, relative to the function.
//! Argument reductions are those of Cody and Waite, "Software Manual for the Elementary Functions"
//! (1980). Errors measured over all magnitudes are in the tests: at most 2 units in the last place.

use super::simd::LANES;
use crate::ops::real::Stored;
use std::f32::consts::{LN_2, LOG2_E, SQRT_2};

/// 1.5 * 2^23: adding and subtracting it rounds a small f32 to the nearest integer.
pub(super) const ROUND: f32 = 12_582_912.0;
/// Upper bits of ln 2: `n * LN_2_HI` is exact for |n| < 2^9.
pub(super) const LN_2_HI: f32 = 0.693_359_4;
/// ln 2 - `LN_2_HI`.
pub(super) const LN_2_LO: f32 = -2.121_944_4e-4;

/// Horner's rule, highest power first.
#[inline(always)]
fn polynomial<const N: usize>(x: f32, c: [f32; N]) -> f32 {
    let mut y = c[0];
    for &c in &c[1..] {
        y = y.mul_add(x, c);
    }
    y
}

/// `if c { a } else { b }` as a select: both sides are computed.
#[inline(always)]
fn select(c: bool, a: f32, b: f32) -> f32 {
    if c { a } else { b }
}

/// 2^n for -126 <= n <= 127.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits(((n + 127) << 23) as u32)
}

/// (e^r - 1 - r) / r² on |r| <= ln(2)/2: 5e-9.
pub(super) const EXP: [f32; 5] = [0.0013813145, 0.008369419, 0.041668456, 0.16666515, 0.49999994];

/// e^x. Overflows to infinity, underflows through the subnormal numbers to 0.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Written so that NaN passes through. Beyond these bounds the result is 0 or infinity.
    let x = select(x < -104.0, -104.0, x);
    let x = select(x > 89.0, 89.0, x);
    let shifted = x.mul_add(LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN_2_LO, n.mul_add(-LN_2_HI, x));
    let p = polynomial(r, EXP);
    let e = (r * r).mul_add(p, r) + 1.0;
    // 2^n in two factors, so that neither leaves the range of normal numbers.
    let n = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let half = n >> 1;
    e * power_of_two(half) * power_of_two(n.wrapping_sub(half))
}

/// e^x of a softmax weight: [`exp`] for x between -87 and 88, and 0 below, so that no result is
/// subnormal and one factor carries the power of two. Above 88 it is meaningless.
#[inline(always)]
pub fn exp_weight(x: f32) -> f32 {
    let y = select(x < -87.0, -87.0, x);
    let shifted = y.mul_add(LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN_2_LO, n.mul_add(-LN_2_HI, y));
    let p = polynomial(r, EXP);
    let e = (r * r).mul_add(p, r) + 1.0;
    let n = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let power = f32::from_bits(n.wrapping_add(127).wrapping_shl(23) as u32);
    select(x < -87.0, 0.0, e * power)
}

/// Natural logarithm. `ln(0)` is minus infinity, of negative numbers NaN.
#[inline(always)]
pub fn ln(x: f32) -> f32 {
    // Subnormal numbers are scaled into the normal range first.
    let tiny = x < f32::MIN_POSITIVE;
    let scaled = select(tiny, x * 8_388_608.0, x);
    let bias = select(tiny, 23.0, 0.0);
    // x = m * 2^e with m in [1/sqrt 2, sqrt 2).
    let offset = (1.0f32 / SQRT_2).to_bits();
    let e = (scaled.to_bits().wrapping_sub(offset) as i32) >> 23;
    let m = f32::from_bits(scaled.to_bits().wrapping_sub((e << 23) as u32));
    let e = e as f32 - bias;
    let f = m - 1.0;
    // (ln(1+f) - f + f²/2) / f³: 3e-9.
    let p = polynomial(
        f,
        [
            0.067466386,
            -0.11675651,
            0.11888163,
            -0.12405589,
            0.14219552,
            -0.16667996,
            0.20002119,
            -0.2500001,
            0.33333313,
        ],
    );
    let f2 = f * f;
    let y = e.mul_add(LN_2_LO, f2 * f * p);
    let y = f2.mul_add(-0.5, y) + f;
    let y = e.mul_add(LN_2_HI, y);
    let y = select(x < f32::INFINITY, y, x); // infinity and NaN
    let y = select(x == 0.0, f32::NEG_INFINITY, y);
    select(x < 0.0, f32::NAN, y)
}

/// `ln(1 + x)`, accurate for small `x`.
#[inline(always)]
pub fn ln_1p(x: f32) -> f32 {
    let u = 1.0 + x;
    // The rounding error of `u`, divided back in (Kahan's correction, to first order). It comes
    // from whichever operand is larger.
    let lost = select(x > 1.0, 1.0 - (u - x), x - (u - 1.0));
    let y = ln(u) + lost / u;
    let y = select(u == 1.0, x, y);
    select(u < f32::INFINITY && u > 0.0, y, ln(u))
}

/// Hyperbolic tangent.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let s = x * x;
    // (tanh(x)/x - 1) / x² on |x| <= 0.625: 9e-9.
    let p = polynomial(s, [-0.0057049864, 0.020639086, -0.053739715, 0.13331442, -0.3333328]);
    let near = (x * s).mul_add(p, x);
    let far = 1.0 - 2.0 / (exp(2.0 * x.abs()) + 1.0);
    select(x.abs() < 0.625, near, far.copysign(x))
}

/// Error function.
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let t = x.abs();
    let s = x * x;
    // erf(x)/x - 1 on |x| <= 15/16: 3e-8.
    let p = polynomial(
        s,
        [-0.0005919418, 0.0049791303, -0.026757035, 0.11281552, -0.37612468, 0.12837915],
    );
    let near = x.mul_add(p, x);
    // (ln(erfc t) + t) / t on 15/16 <= t <= 4: 7e-9 of erf. Beyond 4, erf is 1 in f32.
    let t4 = select(t > 4.0, 4.0, t);
    let q = polynomial(
        t4,
        [0.00021337507, -0.003209906, 0.02287369, -0.105236314, -0.63573784, -0.12850855],
    );
    let far = 1.0 - exp(t4.mul_add(q, -t4));
    select(t < 0.9375, near, far.copysign(x))
}

/// Logistic function `1 / (1 + e^-x)`.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Vectors that a reduction runs side by side, to hide the latency of an addition.
const CHAINS: usize = 4;

/// The [`LANES`] numbers from `at` on. Panics if there are fewer.
#[inline(always)]
fn load<S: Stored>(x: &[S], at: usize) -> [f32; LANES] {
    let x = &x[at..at + LANES];
    let mut y = [0.0; LANES];
    for l in 0..LANES {
        y[l] = x[l].load();
    }
    y
}

/// Folds `len` items into one number, in an order that depends on `len` only: 64 chains by
/// position modulo 64, the chains then folded in halves. `block(i)` has items `i..i + 16`, of `N`
/// numbers each; `item(i)` has item `i`.
#[inline(always)]
fn reduce<const N: usize>(
    len: usize,
    start: f32,
    block: impl Fn(usize) -> [[f32; LANES]; N],
    item: impl Fn(usize) -> [f32; N],
    step: impl Fn(f32, [f32; N]) -> f32,
    join: impl Fn(f32, f32) -> f32,
) -> f32 {
    const WIDE: usize = CHAINS * LANES;
    let mut chains = [[start; LANES]; CHAINS];
    let whole = len / WIDE * WIDE;
    let mut at = 0;
    while at < whole {
        for (q, acc) in chains.iter_mut().enumerate() {
            let blocks = block(at + q * LANES);
            let mut next = *acc;
            for l in 0..LANES {
                next[l] = step(next[l], std::array::from_fn(|n| blocks[n][l]));
            }
            *acc = next;
        }
        at += WIDE;
    }
    // A copy: indexing with a variable would force the sums above out of the registers.
    let mut acc = [start; WIDE];
    for (to, from) in acc.chunks_exact_mut(LANES).zip(&chains) {
        to.copy_from_slice(from);
    }
    for (i, acc) in (whole..len).zip(&mut acc) {
        *acc = step(*acc, item(i));
    }
    let mut half = WIDE / 2;
    while half > 0 {
        for l in 0..half {
            acc[l] = join(acc[l], acc[l + half]);
        }
        half /= 2;
    }
    acc[0]
}

/// [`reduce`] to a sum over one slice.
#[inline(always)]
fn sum1<A: Stored>(x: &[A], step: impl Fn(f32, [f32; 1]) -> f32) -> f32 {
    reduce(
        x.len(),
        0.0,
        #[inline(always)]
        |at| [load(x, at)],
        #[inline(always)]
        |i| [x[i].load()],
        step,
        #[inline(always)]
        |a, b| a + b,
    )
}

/// [`reduce`] to a sum over three slices. Panics if the lengths differ.
#[inline(always)]
fn sum3<A: Stored, B: Stored, C: Stored>(
    (x, y, z): (&[A], &[B], &[C]),
    step: impl Fn(f32, [f32; 3]) -> f32,
) -> f32 {
    assert!(x.len() == y.len() && x.len() == z.len(), "slices differ in length");
    reduce(
        x.len(),
        0.0,
        #[inline(always)]
        |at| [load(x, at), load(y, at), load(z, at)],
        #[inline(always)]
        |i| [x[i].load(), y[i].load(), z[i].load()],
        step,
        #[inline(always)]
        |a, b| a + b,
    )
}

/// Sum of products. Panics if the lengths differ.
#[inline(always)]
pub fn dot<A: Stored, B: Stored>(x: &[A], y: &[B]) -> f32 {
    assert_eq!(x.len(), y.len(), "slices differ in length");
    reduce(
        x.len(),
        0.0,
        #[inline(always)]
        |at| [load(x, at), load(y, at)],
        #[inline(always)]
        |i| [x[i].load(), y[i].load()],
        #[inline(always)]
        |a, [x, y]| x.mul_add(y, a),
        #[inline(always)]
        |a, b| a + b,
    )
}

/// Sum of products of three. Panics if the lengths differ.
#[inline(always)]
pub fn dot3<A: Stored, B: Stored, C: Stored>(x: &[A], y: &[B], z: &[C]) -> f32 {
    sum3(
        (x, y, z),
        #[inline(always)]
        |a, [x, y, z]| (x * y).mul_add(z, a),
    )
}

/// Sum of `x y (z - mean) factor`, the latter two multiplied first. Panics if the lengths differ.
#[inline(always)]
pub fn dot3_normalised<A: Stored, B: Stored, C: Stored>(
    x: &[A],
    y: &[B],
    z: &[C],
    mean: f32,
    factor: f32,
) -> f32 {
    sum3(
        (x, y, z),
        #[inline(always)]
        |a, [x, y, z]| (x * y).mul_add((z - mean) * factor, a),
    )
}

/// Sum.
#[inline(always)]
pub fn sum<S: Stored>(x: &[S]) -> f32 {
    sum1(
        x,
        #[inline(always)]
        |a, [x]| a + x,
    )
}

/// Sum of sixteen lanes, always in the same tree.
#[inline(always)]
pub fn lane_tree(mut t: [f32; LANES]) -> f32 {
    let mut w = LANES / 2;
    while w > 0 {
        for i in 0..w {
            t[i] += t[i + w];
        }
        w /= 2;
    }
    t[0]
}

/// Sum of squares.
#[inline(always)]
pub fn sum_squares<S: Stored>(x: &[S]) -> f32 {
    sum1(
        x,
        #[inline(always)]
        |a, [x]| x.mul_add(x, a),
    )
}

/// Sum of squared distances from `mean`.
#[inline(always)]
pub fn sum_squares_around<S: Stored>(x: &[S], mean: f32) -> f32 {
    sum1(
        x,
        #[inline(always)]
        |a, [x]| (x - mean).mul_add(x - mean, a),
    )
}

/// Largest element, minus infinity for none. Ignores NaN.
#[inline(always)]
pub fn max(x: &[f32]) -> f32 {
    reduce(
        x.len(),
        f32::NEG_INFINITY,
        #[inline(always)]
        |at| [load(x, at)],
        #[inline(always)]
        |i| [x[i]],
        #[inline(always)]
        |a, [x]| select(x > a, x, a),
        #[inline(always)]
        |a, b| select(b > a, b, a),
    )
}

/// `y += alpha * x`. Panics if the lengths differ.
#[inline(always)]
pub fn axpy(alpha: f32, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "slices differ in length");
    for (y, &x) in y.iter_mut().zip(x) {
        *y = alpha.mul_add(x, *y);
    }
}

/// `y = f(x)`, element by element. Panics if the lengths differ.
#[inline(always)]
pub fn map<S: Stored>(x: &[S], y: &mut [S], f: impl Fn(f32) -> f32) {
    assert_eq!(x.len(), y.len(), "slices differ in length");
    for (y, &x) in y.iter_mut().zip(x) {
        *y = S::store(f(x.load()));
    }
}

/// `x = e^(x - shift)` in place; returns the sum of the results in the order of [`sum`]. The inner
/// loop of a softmax.
#[inline(always)]
pub fn exp_shifted_sum(x: &mut [f32], shift: f32) -> f32 {
    for x in x.iter_mut() {
        *x = exp(*x - shift);
    }
    sum(x)
}

const _: () = assert!(LN_2_HI + LN_2_LO == LN_2);

#[cfg(test)]
mod tests {
    use super::super::simd::{Isa, vectorised_on};
    use super::*;

    type Keep = fn(f32) -> bool;
    type Pair = (&'static str, fn(f32) -> f32, fn(f64) -> f64);

    /// Distance in units in the last place of the f32 nearest to `want`.
    fn ulps(got: f32, want: f64) -> f64 {
        let near = want as f32;
        if got == near || (got.is_nan() && want.is_nan()) {
            return 0.0;
        }
        let ulp = f64::from(near.abs().next_up()) - f64::from(near.abs());
        (f64::from(got) - want).abs() / ulp
    }

    /// Every `stride`-th f32 of both signs.
    fn sweep(stride: usize) -> impl Iterator<Item = f32> {
        (0..0x7f80_0000u32).step_by(stride).flat_map(|b| [f32::from_bits(b), -f32::from_bits(b)])
    }

    fn worst(f: fn(f32) -> f32, want: fn(f64) -> f64, keep: Keep) -> (f64, f32) {
        let mut worst = (0.0, 0.0);
        for x in sweep(10_007).filter(|&x| keep(x)) {
            let d = ulps(f(x), want(f64::from(x)));
            if d.is_nan() || d > worst.0 {
                worst = (d, x);
            }
        }
        worst
    }

    fn sigmoid64(x: f64) -> f64 {
        1.0 / (1.0 + (-x).exp())
    }

    #[test]
    fn functions_are_within_two_units() {
        let any: Keep = |_| true;
        let above_minus_1: Keep = |x| x > -1.0;
        // Below -87, 1 + e^-x overflows: the result is then 0 instead of a subnormal number.
        let normal: Keep = |x| x > -87.0;
        let cases: [(Pair, Keep, f64); 6] = [
            (("exp", exp, f64::exp), any, 1.5),
            (("ln", ln, f64::ln), any, 1.5),
            (("ln_1p", ln_1p, f64::ln_1p), above_minus_1, 2.0),
            (("tanh", tanh, f64::tanh), any, 2.0),
            (("sigmoid", sigmoid, sigmoid64), normal, 2.5),
            (("erf", erf, libm_erf), any, 2.0),
        ];
        for ((name, f, want), keep, bound) in cases {
            let (d, x) = worst(f, want, keep);
            println!("{name}: {d:.3} at {x:e}");
            assert!(d <= bound, "{name}({x:e}) is {d} units off: {} {}", f(x), want(f64::from(x)));
        }
    }

    /// erf in f64: the series sum (-1)^n x^(2n+1) / (n! (2n+1)) where it converges well, else the
    /// continued fraction of erfc (Abramowitz and Stegun 7.1.5 and 7.1.14).
    fn libm_erf(x: f64) -> f64 {
        let t = x.abs();
        if t > 6.0 {
            return x.signum();
        }
        if t < 2.5 {
            let (mut term, mut sum) = (x, x);
            for n in 1..80 {
                term *= -x * x / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            return sum * std::f64::consts::FRAC_2_SQRT_PI;
        }
        let fraction = (1..80).rev().fold(t, |f, n| t + f64::from(n) / 2.0 / f);
        let erfc = (-t * t).exp() / fraction * std::f64::consts::FRAC_2_SQRT_PI / 2.0;
        (1.0 - erfc).copysign(x)
    }

    #[test]
    fn special_values() {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        assert_eq!([exp(0.0), exp(-inf), exp(inf), exp(89.0)], [1.0, 0.0, inf, inf]);
        assert_eq!([ln(1.0), ln(0.0), ln(-0.0), ln(inf)], [0.0, -inf, -inf, inf]);
        assert_eq!([ln_1p(0.0), ln_1p(-1.0), ln_1p(inf), ln_1p(1e-20)], [0.0, -inf, inf, 1e-20]);
        assert_eq!([tanh(-inf), tanh(inf), tanh(30.0)], [-1.0, 1.0, 1.0]);
        assert_eq!([erf(-inf), erf(inf), erf(5.0)], [-1.0, 1.0, 1.0]);
        assert_eq!([sigmoid(-inf), sigmoid(inf), sigmoid(0.0)], [0.0, 1.0, 0.5]);
        for f in [exp, ln, ln_1p, tanh, erf, sigmoid] {
            assert!(f(nan).is_nan());
        }
        assert!(ln(-1.0).is_nan() && ln(-inf).is_nan() && ln_1p(-2.0).is_nan());
    }

    #[test]
    fn slices_have_the_bits_of_scalars_on_every_instruction_set() {
        let x: Vec<f32> = sweep(1_000_003).collect();
        let all: [fn(f32) -> f32; 6] = [exp, ln, ln_1p, tanh, erf, sigmoid];
        let slices = |isa: Isa| {
            vectorised_on(
                isa,
                #[inline(always)]
                || {
                    let mut y = vec![vec![0.0; x.len()]; 6];
                    map(&x, &mut y[0], exp);
                    map(&x, &mut y[1], ln);
                    map(&x, &mut y[2], ln_1p);
                    map(&x, &mut y[3], tanh);
                    map(&x, &mut y[4], erf);
                    map(&x, &mut y[5], sigmoid);
                    y
                },
            )
        };
        for isa in Isa::available() {
            for (f, y) in all.iter().zip(slices(isa)) {
                for (&x, &y) in x.iter().zip(&y) {
                    assert!(f(x).to_bits() == y.to_bits() || (f(x).is_nan() && y.is_nan()));
                }
            }
        }
    }

    #[test]
    fn reductions_have_one_order() {
        let x: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.7).sin()).collect();
        let y: Vec<f32> = (0..1000).map(|i| (i as f32 * 1.3).cos()).collect();
        for n in [0, 1, 15, 16, 63, 64, 65, 200, 1000] {
            let (x, y) = (&x[..n], &y[..n]);
            let run = |isa: Isa| {
                vectorised_on(
                    isa,
                    #[inline(always)]
                    || {
                        let mut z = y.to_vec();
                        axpy(0.3, x, &mut z);
                        let e = exp_shifted_sum(&mut z, 0.5);
                        let r = [dot(x, y), dot3(x, y, y), sum(x), sum_squares(x), max(x), e];
                        (r.map(f32::to_bits), sum_squares_around(x, 0.1).to_bits())
                    },
                )
            };
            let want = run(Isa::Baseline);
            assert!(Isa::available().into_iter().all(|isa| run(isa) == want));
            let wide = |f: fn(f64, f64) -> f64| {
                x.iter().zip(y).map(|(&x, &y)| f(f64::from(x), f64::from(y))).sum::<f64>()
            };
            let near = |got: f32, want: f64| (f64::from(got) - want).abs() < 1e-4;
            assert!(near(dot(x, y), wide(|x, y| x * y)));
            assert!(near(dot3(x, y, y), wide(|x, y| x * y * y)));
            assert!(near(sum(x), wide(|x, _| x)));
            assert!(near(sum_squares(x), wide(|x, _| x * x)));
            assert!(near(sum_squares_around(x, 0.1), wide(|x, _| (x - 0.1) * (x - 0.1))));
            assert_eq!(max(x), x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }
}
