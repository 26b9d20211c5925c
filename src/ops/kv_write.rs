//! Writes keys or values of new tokens into their rows of a cache. In place, no derivative.
//!
//! T tokens, S cache rows, C columns.

use crate::base::{DType, Error, Result};
use crate::ops::{Io, Op, Real, TensorType};

/// Inputs: `x[T,C]`, `row[T,1]`; updates `cache[S,C]`: `cache[row[t]] = x[t]`; a negative row is not
/// written (its keys are in the cache already).
#[derive(Debug, Clone, Copy)]
pub struct KvWrite;

impl KvWrite {
    fn go<T: Real>(io: &Io) {
        let (x, rows, c) = (io.input::<T>(0), io.input::<i32>(1), io.in_type(0).cols());
        let cache = io.output::<T>(0);
        for (x, &row) in x.chunks_exact(c).zip(rows).filter(|(_, row)| **row >= 0) {
            cache[row as usize * c..][..c].copy_from_slice(x);
        }
    }
}

impl Op for KvWrite {
    fn name(&self) -> &'static str {
        "kv_write"
    }
    fn infer(&self, i: &[&TensorType]) -> Result<Vec<TensorType>> {
        if i[1].len() != i[0].rows() {
            return Err(Error::internal("kv_write: one row per token").found(format!("{i:?}")));
        }
        Ok(vec![])
    }
    fn run(&self, io: &Io) {
        match io.float_type() {
            DType::F64 => Self::go::<f64>(io),
            _ => Self::go::<f32>(io),
        }
    }
}
