//! Weights into the panels that the CPU's matrix multiplication reads, for products that meet the
//! same weights many times (decoding). Computes nothing: the numbers are those of the weights, so a
//! product with panels has the same bits as one without. No derivative.
//!
//! N outputs, K inner size.

use crate::base::{DType, Error, Result};
use crate::ops::cpu::gemm::{Element, Mat, pack_panels, panel_words};
use crate::ops::{Cost, Io, Op, TensorType};
use half::bf16;

/// Input: `w[N,K]`; updates the panels, 32-bit words (`F32`, or `I32` for pairs of bf16).
#[derive(Debug, Clone, Copy)]
pub struct PackWeights;

/// Words of the panels of weights `[n, k]`.
pub fn panels(dtype: DType, k: usize, n: usize) -> usize {
    match dtype {
        DType::BF16 => panel_words::<bf16>(k, n),
        _ => panel_words::<f32>(k, n),
    }
}

/// Element type under which the arena keeps the panels of weights of `dtype`.
pub fn panel_type(dtype: DType) -> DType {
    if dtype == DType::BF16 { DType::I32 } else { DType::F32 }
}

fn pack<S: Element>(io: &Io) {
    let (n, k) = (io.in_type(0).rows(), io.in_type(0).cols());
    pack_panels(Mat::row_major(io.input::<S>(0), n, k).t(), io.output::<S::Word>(0));
}

impl Op for PackWeights {
    fn name(&self) -> &'static str {
        "pack_weights"
    }
    fn infer(&self, i: &[&TensorType]) -> Result<Vec<TensorType>> {
        match i {
            [w] if matches!(w.dtype, DType::F32 | DType::BF16) => Ok(vec![]),
            _ => {
                Err(Error::internal("pack_weights: one matrix of f32 or bf16")
                    .found(format!("{i:?}")))
            }
        }
    }
    fn run(&self, io: &Io) {
        match io.in_type(0).dtype {
            DType::BF16 => pack::<bf16>(io),
            _ => pack::<f32>(io),
        }
    }
    fn cost(&self, i: &[&TensorType], _: &[&TensorType]) -> Cost {
        Cost { flops: 0.0, bytes: 2.0 * (i[0].len() * i[0].dtype.size()) as f64 }
    }
}
