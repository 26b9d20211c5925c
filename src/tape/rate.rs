//! How fast a device copies and multiplies, by its own clock: two short measurements over ordinary
//! tapes and commands. Numbers of a machine that may be busy: a hint, never a benchmark. An emulated
//! device has a clock too; what it says means nothing.

use crate::base::{DType, Result};
use crate::device::{Command, Device, DeviceArena};
use crate::ops::matmul::Matmul;
use crate::ops::{Case, Fill};
use crate::tape::measure::measure;
use std::sync::Arc;

/// Rounds of copying; the fastest counts, since the first ones raise clocks.
const ROUNDS: usize = 8;

/// Bytes per second read and written while `bytes` are copied within the device's memory.
///
/// # Errors
/// Kind device if the memory is not free, or the device failed.
pub fn copy_rate(device: &Arc<dyn Device>, bytes: usize) -> Result<f64> {
    let blocks = DeviceArena::reserve(device, 2 * bytes)?;
    let (from, to) = (blocks.at(0, bytes), blocks.at(bytes, bytes));
    let clear = Command::Fill { to: from, byte: 0, bytes };
    device.submit(&[clear])?;
    let copies = vec![Command::Copy { to, from, bytes }; ROUNDS];
    let best = device.time(&copies)?.into_iter().fold(f64::INFINITY, f64::min);
    Ok(2.0 * bytes as f64 / best)
}

/// Floating-point operations per second (two per multiply-add) of the product of two square matrices
/// of `n` rows in `float` (F32 or BF16), through the op `matmul`.
///
/// # Errors
/// Kind device if kernels or memory are missing, or the device failed.
pub fn matmul_rate(device: &Arc<dyn Device>, n: usize, float: DType) -> Result<f64> {
    let factor = || (vec![n, n], Fill::Normal(1.0), false);
    let inputs = vec![factor(), factor()];
    let case = Case { label: "square", op: Arc::new(Matmul::default()), inputs };
    let product = measure(&case, float, Some(device))?;
    let seconds: f64 = product.iter().map(|m| m.seconds).sum();
    Ok(product.iter().map(|m| m.cost.flops).sum::<f64>() / seconds)
}
