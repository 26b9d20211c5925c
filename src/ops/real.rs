//! The number types of the ops. [`Real`]: f32 and f64 under one name, so that one reference serves
//! results and gradient checks. [`Stored`]: f32 and bf16 under one name, what the fast forms read
//! and write; they compute in f32 either way.

use crate::base::DType;
use crate::ops::cpu::gemm::{Mat, gemm_f32, gemm_real};
use bytemuck::Pod;
use half::bf16;
use std::fmt::Debug;
use std::iter::Sum;
use std::ops::{AddAssign, DivAssign, MulAssign, SubAssign};

/// A floating-point type that ops compute in.
pub trait Real:
    num_traits::Float
    + Pod
    + Send
    + Sync
    + Debug
    + Sum
    + AddAssign
    + SubAssign
    + MulAssign
    + DivAssign
    + 'static
{
    /// The type's name on the tape.
    const DTYPE: DType;
    /// Rounds a double.
    fn of(x: f64) -> Self;
    /// Widens to a double.
    fn wide(self) -> f64;
    /// `c (+)= a b`, each element one chain of fused multiply-adds; see `cpu::gemm`.
    fn gemm(a: Mat<Self>, b: Mat<Self>, c: &mut [Self], ldc: usize, accumulate: bool);
}

impl Real for f32 {
    const DTYPE: DType = DType::F32;
    fn of(x: f64) -> Self {
        x as f32
    }
    fn wide(self) -> f64 {
        f64::from(self)
    }
    fn gemm(a: Mat<Self>, b: Mat<Self>, c: &mut [Self], ldc: usize, accumulate: bool) {
        gemm_f32(a, b, c, ldc, accumulate);
    }
}

impl Real for f64 {
    const DTYPE: DType = DType::F64;
    fn of(x: f64) -> Self {
        x
    }
    fn wide(self) -> f64 {
        self
    }
    fn gemm(a: Mat<Self>, b: Mat<Self>, c: &mut [Self], ldc: usize, accumulate: bool) {
        gemm_real(a, b, c, ldc, accumulate);
    }
}

/// A type that activations and weights are stored in; arithmetic on them is done in f32.
pub trait Stored: Pod + Send + Sync + Debug + PartialEq + 'static {
    /// The type's name on the tape.
    const DTYPE: DType;
    /// Widens; exact.
    fn load(self) -> f32;
    /// Rounds to nearest, ties to even.
    fn store(x: f32) -> Self;
}

impl Stored for f32 {
    const DTYPE: DType = DType::F32;
    #[inline(always)]
    fn load(self) -> f32 {
        self
    }
    #[inline(always)]
    fn store(x: f32) -> Self {
        x
    }
}

// Integer arithmetic, so that loops over it become vector code on any instruction set.
impl Stored for bf16 {
    const DTYPE: DType = DType::BF16;
    #[inline(always)]
    fn load(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    #[inline(always)]
    fn store(x: f32) -> Self {
        let bits = x.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        // Rounding must not turn a NaN into an infinity.
        bf16::from_bits(if x.is_nan() { 0x7fc0 } else { rounded as u16 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_that_of_the_half_crate() {
        let odd = [0.0, -0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1e-45];
        let many = (0..100_000u32).map(|i| f32::from_bits(i.wrapping_mul(0x9e37_79b1)));
        for x in odd.into_iter().chain(many) {
            let (got, want) = (<bf16 as Stored>::store(x), bf16::from_f32(x));
            assert!(got == want || (x.is_nan() && got.is_nan() && want.is_nan()), "{x:e}");
            assert!(x.is_nan() || got.load() == want.to_f32());
        }
    }
}
