//! f32 and f64 under one name, so that one reference serves results and gradient checks.

use crate::base::DType;
use crate::ops::cpu::gemm::{Mat, gemm_f32, gemm_real};
use bytemuck::Pod;
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
