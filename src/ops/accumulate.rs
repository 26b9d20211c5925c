//! `g += x`: how a gradient that an op computed in a slot of its own reaches a parameter's
//! gradient, in place. It has no derivative and no place in a forward pass.

use crate::base::{DType, Result};
use crate::ops::{Io, Op, Real, TensorType};

/// Input: `x`; updates `g` of the same size.
#[derive(Debug, Clone, Copy)]
pub struct Accumulate;

impl Accumulate {
    fn go<T: Real>(io: &Io) {
        io.output::<T>(0).iter_mut().zip(io.input::<T>(0)).for_each(|(g, x)| *g += *x);
    }
}

impl Op for Accumulate {
    fn name(&self) -> &'static str {
        "accumulate"
    }
    fn infer(&self, _: &[&TensorType]) -> Result<Vec<TensorType>> {
        Ok(vec![])
    }
    fn run(&self, io: &Io) {
        match io.float_type() {
            DType::F64 => Self::go::<f64>(io),
            _ => Self::go::<f32>(io),
        }
    }
}
