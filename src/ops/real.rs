//! f32 and f64 under one name, so that one reference serves results and gradient checks.

use crate::base::DType;
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
}

impl Real for f32 {
    const DTYPE: DType = DType::F32;
    fn of(x: f64) -> Self {
        x as f32
    }
    fn wide(self) -> f64 {
        f64::from(self)
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
}
