//! How fast a device copies and multiplies, by its own clock: two short measurements over ordinary
//! tapes and commands. Numbers of a machine that may be busy: a hint, never a benchmark. An emulated
//! device has a clock too; what it says means nothing.

use crate::base::{DType, HostTensor, Result, Target, TensorData};
use crate::device::{Command, Device, DeviceArena};
use crate::mem::Arena;
use crate::ops::matmul::Matmul;
use crate::tape::Tape;
use std::sync::Arc;

/// Rounds of a measurement; the fastest counts, since the first ones load kernels and raise clocks.
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
    let mut tape = Tape::on(float, Target::Gpu);
    let mut factor = |seed: u32| {
        let values = (0..(n * n) as u32).map(|i| noise(i ^ seed)).collect();
        tape.activation(HostTensor::new(vec![n, n], TensorData::F32(values)))
    };
    let (x, w) = (factor(0), factor(0x5bd1_e995));
    let y = tape.op(Matmul::default(), &[x, w])?;
    tape.keep(y);
    let plan = tape.plan();
    let arena = Arena::on(Some(device), plan.peak)?;
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let timed = tape.time(&plan, &arena, arena.shared_base())?;
        best = best.min(timed.iter().map(|(_, _, seconds)| seconds).sum());
    }
    Ok(2.0 * (n as f64).powi(3) / best)
}

/// A number of [-1, 1) without a pattern: a device draws less power for zeros, and is faster than it
/// will ever be in a run. Knuth's multiplicative hash.
fn noise(i: u32) -> f32 {
    let bits = i.wrapping_mul(2_654_435_761) ^ 0x9e37_79b9;
    (bits.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0
}
