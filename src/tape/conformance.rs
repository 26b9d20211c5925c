//! Whether a backend computes what an op is defined to: a case of the op table in single precision or
//! bf16, on the CPU or on a device, against the f64 reference, forward and backward. Used by the
//! tests and by `grpo-rt ops`; knows no op's arithmetic.

use crate::base::{DType, Tolerance};
use crate::device::Device;
use crate::ops::{Case, OpSpec};
use crate::tape::check::{Check, CheckRun};
use std::sync::Arc;

/// Largest error of rounding a number to bf16, relative to it: half a unit in its eighth bit.
const BF16_ROUNDING: f64 = 1.0 / 256.0;
/// The same for singles.
const F32_ROUNDING: f64 = 1.0 / (1 << 24) as f64;

/// Worst errors of a case, relative to each tensor's largest magnitude.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Errors {
    /// Of the outputs.
    pub forward: f64,
    /// Of the gradients.
    pub backward: f64,
}

/// Gradients of a case's inputs, where there are any.
type Gradients = Vec<Option<Vec<f64>>>;

/// One run of a case, and the gradients after a second one.
fn run(mut check: Check) -> Result<(CheckRun, Gradients), String> {
    let first = check.run().map_err(|e| e.one_line())?;
    // Ops that update in place would start from their own results.
    let second = if first.grads.iter().any(Option::is_some) {
        check.run().map_err(|e| e.one_line())?.grads
    } else {
        first.grads.clone()
    };
    Ok((first, second))
}

/// `base`, and `roundings` to bf16.
fn with_roundings(base: Tolerance, roundings: u32) -> Tolerance {
    Tolerance { rel: base.rel + f64::from(roundings) * BF16_ROUNDING, ..base }
}

/// Worst errors of a case, forward and backward. The reference has the same numbers to start from.
/// What is stored in bf16 may be off by as many roundings as the op says; what is stored in singles
/// only by those in between. `device` is `None` for the CPU.
///
/// # Errors
/// In words: what is beyond the op's tolerance, or why the case did not run.
fn errors(
    spec: &OpSpec,
    case: &Case,
    float: DType,
    seed: u64,
    device: Option<&Arc<dyn Device>>,
) -> Result<Errors, String> {
    let check = match device {
        None => Check::backward(case, float, seed),
        Some(device) => Check::on(device, case, float, seed),
    };
    let name = format!("{}, {}, {float:?}", spec.name, case.label);
    let (got, got_twice) =
        check.map_err(|e| e.one_line()).and_then(run).map_err(|e| format!("{name}: {e}"))?;
    let (want, _) = run(Check::reference(case, float, seed).map_err(|e| e.one_line())?)?;
    let allowed = |dtype: DType| match (float, dtype) {
        (DType::BF16, DType::BF16) => with_roundings(spec.tolerance, spec.bf16_roundings),
        (DType::BF16, _) => with_roundings(spec.tolerance, spec.bf16_roundings - 1),
        _ => spec.tolerance,
    };
    let mut worst = Errors::default();
    for (i, (g, w)) in got.outputs.iter().zip(&want.outputs).enumerate() {
        // Work space has a size of its own in each precision, and no meaning.
        if g.ty.shape != w.ty.shape {
            assert!(i > 0, "{name}: the first output has another shape");
            continue;
        }
        let name = format!("{name}: output {i}");
        worst.forward = worst.forward.max(allowed(g.ty.dtype).check(&name, &g.values, &w.values)?);
        if g.ty.dtype == DType::I32 && g.values != w.values {
            return Err(format!("{name}: integers differ"));
        }
    }
    for ((i, want), ty) in want.grads.iter().enumerate().zip(case.types(float)) {
        let Some(want) = want else { continue };
        let once = got.grads[i].as_ref().expect("both precisions have the same gradients");
        let name = format!("{name}: gradient of input {i}");
        // It reached its place in singles from a slot of the input's own type.
        worst.backward = worst.backward.max(allowed(ty.dtype).check(&name, once, want)?);
        let twice: Vec<f64> = want.iter().map(|x| 2.0 * x).collect();
        let sum = got_twice[i].as_ref().expect("as above");
        allowed(ty.dtype).check(&format!("{name}, added to itself"), sum, &twice)?;
    }
    Ok(worst)
}

/// Worst errors of a case on a backend that agrees: within the op's tolerance, and for a device also
/// held against the CPU's own error.
///
/// # Errors
/// In words: an error beyond the tolerance, or beyond what the CPU has.
pub fn agrees(
    spec: &OpSpec,
    case: &Case,
    float: DType,
    seed: u64,
    device: Option<&Arc<dyn Device>>,
) -> Result<Errors, String> {
    let cpu = errors(spec, case, float, seed, None)?;
    let Some(device) = device else { return Ok(cpu) };
    let found = errors(spec, case, float, seed, Some(device))?;
    hold_against(case, float, cpu, found).map(|()| found)
}

/// The rule for another backend: at most twice the error of the same computation on the CPU in that
/// precision, or one rounding where the CPU has next to none.
///
/// # Errors
/// In words: what is worse than that.
fn hold_against(case: &Case, float: DType, cpu: Errors, device: Errors) -> Result<(), String> {
    let rounding = if float == DType::BF16 { BF16_ROUNDING } else { 2.0 * F32_ROUNDING };
    let pairs =
        [("forward", cpu.forward, device.forward), ("backward", cpu.backward, device.backward)];
    for (what, cpu, device) in pairs {
        let limit = (2.0 * cpu).max(rounding);
        if device > limit {
            return Err(format!(
                "{}, {}, {float:?}, {what}: error {device:.1e}, more than {limit:.1e}: twice the CPU's",
                case.op.name(),
                case.label
            ));
        }
    }
    Ok(())
}
