//! Gaussian error linear units (Hendrycks and Gimpel, arXiv 1606.08415) in the three forms that
//! model configurations name: `gelu`, `gelu_pytorch_tanh` and `quick_gelu`. Purely element-wise.

use super::cpu::rows::CHUNK;
use super::cpu::{vecmath, vectorised};
use super::shapes::{bytes, require, same_float};
use super::{Backward, Case, Cost, Fill, Io, Op, OpSpec, Real, Slot, Stored, TensorType};
use super::{Launcher, gpu};
use crate::base::{DType, Result, Tolerance};
use crate::device::DevicePtr;
use half::bf16;
use rayon::prelude::*;
use std::sync::Arc;

/// Row of the op table.
pub static SPEC: OpSpec = OpSpec {
    name: "gelu",
    doc: "x[T,F] to y[T,F]: x times the normal distribution function, exact or approximated",
    cases,
    tolerance: Tolerance::rel(1e-6),
    bf16_roundings: 1,
    bench,
};

/// Which form of the function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GeluKind {
    /// `x/2 * (1 + erf(x/sqrt 2))`; `hidden_act: gelu`.
    Erf,
    /// `x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x³)))`; `gelu_pytorch_tanh`.
    Tanh,
    /// `x * sigmoid(1.702 x)`; `quick_gelu`.
    Quick,
}

/// Input `x[T,F]`; output `y[T,F]`.
#[derive(Debug, Clone, Copy)]
pub struct Gelu {
    /// Which form.
    pub kind: GeluKind,
}

/// Inputs `x, dy`; output `dx`.
#[derive(Debug, Clone, Copy)]
struct GeluBwd {
    kind: GeluKind,
}

/// Coefficients of the approximations: equation 2 and the sigmoid form of arXiv 1606.08415.
const CUBIC: f64 = 0.044715;
const QUICK: f64 = 1.702;
/// sqrt(2 / pi).
const SQRT_2_OVER_PI: f64 = std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2;
/// 1 / sqrt(2 pi).
const FRAC_1_SQRT_TAU: f64 = SQRT_2_OVER_PI / 2.0;

/// As in the kernels.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct GeluArgs {
    x: DevicePtr,
    dy: DevicePtr,
    y: DevicePtr,
    n: i64,
    kind: i32,
    unused: i32,
}
const _: () = assert!(size_of::<GeluArgs>() == 40);

impl GeluArgs {
    fn new(kind: GeluKind, k: &Launcher, dy: DevicePtr) -> Self {
        let kind = match kind {
            GeluKind::Erf => 0,
            GeluKind::Tanh => 1,
            GeluKind::Quick => 2,
        };
        let n = k.in_type(0).len() as i64;
        GeluArgs { x: k.input(0), dy, y: k.output(0), n, kind, unused: 0 }
    }
}

impl Op for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let ok = inputs.len() == 1 && same_float(inputs);
        require(ok, self.name(), inputs, "x[T,F]")?;
        Ok(vec![inputs[0].clone()])
    }
    fn run(&self, io: &Io) {
        match io.float_type() {
            DType::F64 => gelu_fwd::<f64>(self.kind, io.input(0), io.output(0)),
            DType::BF16 => gelu_fwd_fast::<bf16>(self.kind, io.input(0), io.output(0)),
            _ => gelu_fwd_fast::<f32>(self.kind, io.input(0), io.output(0)),
        }
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        let args = GeluArgs::new(self.kind, k, DevicePtr::NULL);
        gpu::flat(k, "elementwise", ["gelu_fwd_f32", "gelu_fwd_bf16"], args.n as usize, &args);
        Ok(())
    }
    fn backward(&self, b: &mut Backward) -> Result<Vec<Option<Slot>>> {
        let Some(dy) = b.grads[0].filter(|_| b.needs[0]) else { return Ok(vec![None]) };
        let x = b.inputs[0];
        Ok(vec![Some(b.emit1(GeluBwd { kind: self.kind }, &[x, dy])?)])
    }
    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost { flops: 25.0 * inputs[0].len() as f64, bytes: bytes(inputs, outputs) }
    }
}

impl Op for GeluBwd {
    fn name(&self) -> &'static str {
        "gelu_bwd"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let ok = same_float(inputs) && matches!(inputs, [x, dy] if x.shape == dy.shape);
        require(ok, self.name(), inputs, "x[T,F], dy[T,F]")?;
        Ok(vec![inputs[0].clone()])
    }
    fn run(&self, io: &Io) {
        match io.float_type() {
            DType::F64 => gelu_bwd::<f64>(self.kind, io.input(0), io.input(1), io.output(0)),
            DType::BF16 => gelu_bwd_fast::<bf16>(self.kind, io.input(0), io.input(1), io.output(0)),
            _ => gelu_bwd_fast::<f32>(self.kind, io.input(0), io.input(1), io.output(0)),
        }
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        let args = GeluArgs::new(self.kind, k, k.input(1));
        gpu::flat(k, "elementwise", ["gelu_bwd_f32", "gelu_bwd_bf16"], args.n as usize, &args);
        Ok(())
    }
    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost { flops: 40.0 * inputs[0].len() as f64, bytes: bytes(inputs, outputs) }
    }
}

/// The definition: the factor of `x`, and its derivative.
fn gate<T: Real>(kind: GeluKind, x: T) -> (T, T) {
    let (half, one) = (T::of(0.5), T::one());
    match kind {
        GeluKind::Erf => {
            let density = T::of(FRAC_1_SQRT_TAU) * (-x * x * half).exp();
            let distribution = half * (one + T::of(erf(x.wide() / std::f64::consts::SQRT_2)));
            (distribution, density)
        }
        GeluKind::Tanh => {
            let c = T::of(SQRT_2_OVER_PI);
            let t = (c * (x + T::of(CUBIC) * x * x * x)).tanh();
            let slope = c * (one + T::of(3.0 * CUBIC) * x * x);
            (half * (one + t), half * (one - t * t) * slope)
        }
        GeluKind::Quick => {
            let s = (one + (-T::of(QUICK) * x).exp()).recip();
            (s, T::of(QUICK) * s * (one - s))
        }
    }
}

fn gelu_fwd<T: Real>(kind: GeluKind, x: &[T], y: &mut [T]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = x * gate(kind, x).0;
    }
}

fn gelu_bwd<T: Real>(kind: GeluKind, x: &[T], dy: &[T], dx: &mut [T]) {
    for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
        let (g, slope) = gate(kind, x);
        *dx = dy * (g + x * slope);
    }
}

/// erf in f64: the power series where it converges well, else the continued fraction of erfc
/// (Abramowitz and Stegun 7.1.5 and 7.1.14). Slow; good to about 1e-13.
fn erf(x: f64) -> f64 {
    let t = x.abs();
    if t > 6.0 {
        return x.signum();
    }
    if t < 2.5 {
        let (mut term, mut sum) = (x, x);
        for n in 1..80 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        return sum * std::f64::consts::FRAC_2_SQRT_PI;
    }
    let fraction = (1..80).rev().fold(t, |f, n| t + f64::from(n) / 2.0 / f);
    let erfc = (-t * t).exp() / fraction * std::f64::consts::FRAC_2_SQRT_PI / 2.0;
    (1.0 - erfc).copysign(x)
}

/// `gate` with the fast functions.
#[inline(always)]
fn gate_f32(kind: GeluKind, x: f32) -> (f32, f32) {
    match kind {
        GeluKind::Erf => {
            let density = FRAC_1_SQRT_TAU as f32 * vecmath::exp(-0.5 * x * x);
            (0.5 + 0.5 * vecmath::erf(x * std::f32::consts::FRAC_1_SQRT_2), density)
        }
        GeluKind::Tanh => {
            let (c, s) = (SQRT_2_OVER_PI as f32, x * x);
            let t = vecmath::tanh(c * (x * s).mul_add(CUBIC as f32, x));
            let slope = c * s.mul_add((3.0 * CUBIC) as f32, 1.0);
            // Far out the slope overflows while the other factor is 0.
            let rise = 0.5 * (1.0 - t * t);
            (0.5 + 0.5 * t, if rise == 0.0 { 0.0 } else { rise * slope })
        }
        GeluKind::Quick => {
            let s = vecmath::sigmoid(QUICK as f32 * x);
            (s, QUICK as f32 * s * (1.0 - s))
        }
    }
}

fn gelu_fwd_fast<S: Stored>(kind: GeluKind, x: &[S], y: &mut [S]) {
    // One loop per kind, so that the choice is made outside of it.
    match kind {
        GeluKind::Erf => map(
            x,
            y,
            #[inline(always)]
            |x| x * gate_f32(GeluKind::Erf, x).0,
        ),
        GeluKind::Tanh => map(
            x,
            y,
            #[inline(always)]
            |x| x * gate_f32(GeluKind::Tanh, x).0,
        ),
        GeluKind::Quick => map(
            x,
            y,
            #[inline(always)]
            |x| x * gate_f32(GeluKind::Quick, x).0,
        ),
    }
}

fn map<S: Stored>(x: &[S], y: &mut [S], f: impl Fn(f32) -> f32 + Sync) {
    (y.par_chunks_mut(CHUNK), x.par_chunks(CHUNK)).into_par_iter().for_each(|(y, x)| {
        vectorised(
            #[inline(always)]
            || vecmath::map(x, y, &f),
        );
    });
}

fn gelu_bwd_fast<S: Stored>(kind: GeluKind, x: &[S], dy: &[S], dx: &mut [S]) {
    match kind {
        GeluKind::Erf => map_bwd(
            x,
            dy,
            dx,
            #[inline(always)]
            |x| gate_f32(GeluKind::Erf, x),
        ),
        GeluKind::Tanh => map_bwd(
            x,
            dy,
            dx,
            #[inline(always)]
            |x| gate_f32(GeluKind::Tanh, x),
        ),
        GeluKind::Quick => map_bwd(
            x,
            dy,
            dx,
            #[inline(always)]
            |x| gate_f32(GeluKind::Quick, x),
        ),
    }
}

fn map_bwd<S: Stored>(x: &[S], dy: &[S], dx: &mut [S], gate: impl Fn(f32) -> (f32, f32) + Sync) {
    (dx.par_chunks_mut(CHUNK), x.par_chunks(CHUNK), dy.par_chunks(CHUNK)).into_par_iter().for_each(
        |(dx, x, dy)| {
            vectorised(
                #[inline(always)]
                || {
                    for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
                        let x = x.load();
                        let (g, slope) = gate(x);
                        *dx = S::store(dy.load() * x.mul_add(slope, g));
                    }
                },
            );
        },
    );
}

fn cases() -> Vec<Case> {
    let case = |label, kind, t: usize, f: usize, std: f64| Case {
        label,
        op: Arc::new(Gelu { kind }),
        inputs: vec![(vec![t, f], Fill::Normal(std), true)],
    };
    vec![
        case("exact", GeluKind::Erf, 5, 33, 1.5),
        case("exact, several tasks", GeluKind::Erf, 67, 521, 3.0),
        case("tanh", GeluKind::Tanh, 7, 31, 1.5),
        case("tanh, saturated", GeluKind::Tanh, 3, 17, 30.0),
        case("quick", GeluKind::Quick, 4, 37, 1.5),
        case("quick, saturated", GeluKind::Quick, 3, 17, 30.0),
    ]
}

/// Sizes of real models.
fn bench() -> Vec<Case> {
    let case = |label, kind| Case {
        label,
        op: Arc::new(Gelu { kind }),
        inputs: vec![(vec![4096, 2048], Fill::Normal(1.0), true)],
    };
    vec![
        case("exact, 4096 x 2048", GeluKind::Erf),
        case("tanh, 4096 x 2048", GeluKind::Tanh),
        case("quick, 4096 x 2048", GeluKind::Quick),
    ]
}
