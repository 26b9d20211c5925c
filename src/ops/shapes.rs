//! The shape checks that ops share, and the error they end in. Knows no op and allocates nothing.

use super::TensorType;
use crate::base::{DType, Error, Result};

/// Passes if `ok`; otherwise an error that names the op, what it takes and what it got.
///
/// # Errors
/// Kind internal: model code has put an op on tensors that do not fit.
pub fn require(ok: bool, op: &str, inputs: &[&TensorType], expected: &str) -> Result<()> {
    if ok {
        return Ok(());
    }
    let found: Vec<String> =
        inputs.iter().map(|t| format!("{:?} {:?}", t.dtype, t.shape)).collect();
    Err(Error::internal(format!("op {op} does not fit its inputs"))
        .expected(expected)
        .found(if found.is_empty() { "no inputs".to_string() } else { found.join(", ") }))
}

/// True if all of them have the same floating-point type, one that activations have.
pub fn same_float(tensors: &[&TensorType]) -> bool {
    tensors.first().is_none_or(|first| {
        matches!(first.dtype, DType::F32 | DType::BF16 | DType::F64)
            && tensors.iter().all(|t| t.dtype == first.dtype)
    })
}

/// True if all of them have the same floating-point type, one that statistics, parameter vectors
/// and parameter gradients have.
pub fn same_statistic(tensors: &[&TensorType]) -> bool {
    same_float(tensors) && tensors.iter().all(|t| t.dtype == t.dtype.statistic())
}

/// True if all of them have the type that statistics and parameter vectors have beside `x`.
pub fn beside(x: &TensorType, tensors: &[&TensorType]) -> bool {
    tensors.iter().all(|t| t.dtype == x.dtype.statistic())
}

/// Bytes of all tensors of a node, each once.
pub fn bytes(inputs: &[&TensorType], outputs: &[&TensorType]) -> f64 {
    inputs.iter().chain(outputs).map(|t| (t.len() * t.dtype.size()) as f64).sum()
}

/// True if `t` is a list of `n` rows of `cols` 32-bit integers.
pub fn is_index(t: &TensorType, n: usize, cols: usize) -> bool {
    t.dtype == DType::I32 && t.rows() == n && t.cols() == cols
}
