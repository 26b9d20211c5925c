//! The gated activation of the decoder's MLP (Shazeer, arXiv 2002.05202): `y = silu(gate) * up`
//! with `silu(g) = g * sigmoid(g)`. Purely element-wise; the matrix products are not here.

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
    name: "swiglu",
    doc: "gate[T,F], up[T,F] to y[T,F] = silu(gate) * up",
    cases,
    tolerance: Tolerance::rel(1e-6),
    bf16_roundings: 1,
    bench,
};

/// Inputs `gate[T,F]`, `up[T,F]`; output `y[T,F]`.
#[derive(Debug, Clone, Copy)]
pub struct Swiglu;

/// Inputs `gate, up, dy`; outputs `dgate, dup`.
#[derive(Debug, Clone, Copy)]
struct SwigluBwd;

/// As in the kernels.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct SwigluArgs {
    gate: DevicePtr,
    up: DevicePtr,
    y: DevicePtr,
    n: i64,
}
const _: () = assert!(size_of::<SwigluArgs>() == 32);

impl Op for Swiglu {
    fn name(&self) -> &'static str {
        "swiglu"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let ok = same_float(inputs) && matches!(inputs, [g, u] if g.shape == u.shape);
        require(ok, self.name(), inputs, "gate[T,F], up[T,F]")?;
        Ok(vec![inputs[0].clone()])
    }
    fn run(&self, io: &Io) {
        match io.float_type() {
            DType::F64 => swiglu_fwd::<f64>(io.input(0), io.input(1), io.output(0)),
            DType::BF16 => swiglu_fwd_fast::<bf16>(io.input(0), io.input(1), io.output(0)),
            _ => swiglu_fwd_fast::<f32>(io.input(0), io.input(1), io.output(0)),
        }
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        let n = k.in_type(0).len();
        let args = SwigluArgs { gate: k.input(0), up: k.input(1), y: k.output(0), n: n as i64 };
        gpu::flat(k, "elementwise", ["swiglu_fwd_f32", "swiglu_fwd_bf16"], n, &args);
        Ok(())
    }
    fn backward(&self, b: &mut Backward) -> Result<Vec<Option<Slot>>> {
        let Some(dy) = b.grads[0] else { return Ok(vec![None; 2]) };
        let d = b.tape.emit(Arc::new(SwigluBwd), &[b.inputs[0], b.inputs[1], dy])?;
        Ok(vec![b.needs[0].then_some(d[0]), b.needs[1].then_some(d[1])])
    }
    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost { flops: 20.0 * inputs[0].len() as f64, bytes: bytes(inputs, outputs) }
    }
}

/// As in the kernels.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct SwigluBwdArgs {
    gate: DevicePtr,
    up: DevicePtr,
    dy: DevicePtr,
    dgate: DevicePtr,
    dup: DevicePtr,
    n: i64,
}
const _: () = assert!(size_of::<SwigluBwdArgs>() == 48);

impl Op for SwigluBwd {
    fn name(&self) -> &'static str {
        "swiglu_bwd"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let ok = same_float(inputs)
            && matches!(inputs, [g, u, dy] if g.shape == u.shape && g.shape == dy.shape);
        require(ok, self.name(), inputs, "gate[T,F], up[T,F], dy[T,F]")?;
        Ok(vec![inputs[0].clone(); 2])
    }
    fn run(&self, io: &Io) {
        match io.float_type() {
            DType::F64 => swiglu_bwd::<f64>(
                [io.input(0), io.input(1), io.input(2)],
                [io.output(0), io.output(1)],
            ),
            DType::BF16 => swiglu_bwd_fast::<bf16>(
                [io.input(0), io.input(1), io.input(2)],
                [io.output(0), io.output(1)],
            ),
            _ => swiglu_bwd_fast::<f32>(
                [io.input(0), io.input(1), io.input(2)],
                [io.output(0), io.output(1)],
            ),
        }
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        let n = k.in_type(0).len();
        let args = SwigluBwdArgs {
            gate: k.input(0),
            up: k.input(1),
            dy: k.input(2),
            dgate: k.output(0),
            dup: k.output(1),
            n: n as i64,
        };
        gpu::flat(k, "elementwise", ["swiglu_bwd_f32", "swiglu_bwd_bf16"], n, &args);
        Ok(())
    }
    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost { flops: 25.0 * inputs[0].len() as f64, bytes: bytes(inputs, outputs) }
    }
}

/// The definition.
fn swiglu_fwd<T: Real>(gate: &[T], up: &[T], y: &mut [T]) {
    for ((y, &g), &u) in y.iter_mut().zip(gate).zip(up) {
        *y = g / (T::one() + (-g).exp()) * u;
    }
}

/// `silu'(g) = s + g s (1 - s)` with `s = sigmoid(g)`.
fn swiglu_bwd<T: Real>([gate, up, dy]: [&[T]; 3], [dgate, dup]: [&mut [T]; 2]) {
    for i in 0..dy.len() {
        let (g, s) = (gate[i], (T::one() + (-gate[i]).exp()).recip());
        dgate[i] = dy[i] * up[i] * (s + g * s * (T::one() - s));
        dup[i] = dy[i] * g * s;
    }
}

fn swiglu_fwd_fast<S: Stored>(gate: &[S], up: &[S], y: &mut [S]) {
    (y.par_chunks_mut(CHUNK), gate.par_chunks(CHUNK), up.par_chunks(CHUNK))
        .into_par_iter()
        .for_each(|(y, gate, up)| {
            vectorised(
                #[inline(always)]
                || {
                    for ((y, &g), &u) in y.iter_mut().zip(gate).zip(up) {
                        let (g, u) = (g.load(), u.load());
                        *y = S::store(g * vecmath::sigmoid(g) * u);
                    }
                },
            );
        });
}

fn swiglu_bwd_fast<S: Stored>([gate, up, dy]: [&[S]; 3], [dgate, dup]: [&mut [S]; 2]) {
    (
        dgate.par_chunks_mut(CHUNK),
        dup.par_chunks_mut(CHUNK),
        gate.par_chunks(CHUNK),
        up.par_chunks(CHUNK),
        dy.par_chunks(CHUNK),
    )
        .into_par_iter()
        .for_each(|(dgate, dup, gate, up, dy)| {
            vectorised(
                #[inline(always)]
                || {
                    let inputs = gate.iter().zip(up).zip(dy);
                    for ((dg, du), ((&g, &u), &dy)) in
                        dgate.iter_mut().zip(dup.iter_mut()).zip(inputs)
                    {
                        let (g, u, dy) = (g.load(), u.load(), dy.load());
                        let s = vecmath::sigmoid(g);
                        let silu = g * s;
                        *dg = S::store(dy * u * silu.mul_add(1.0 - s, s));
                        *du = S::store(dy * silu);
                    }
                },
            );
        });
}

fn cases() -> Vec<Case> {
    let case = |label, t: usize, f: usize, std: f64| Case {
        label,
        op: Arc::new(Swiglu),
        inputs: vec![(vec![t, f], Fill::Normal(std), true), (vec![t, f], Fill::Normal(1.0), true)],
    };
    vec![
        case("odd", 5, 33, 1.0),
        case("saturated gates", 3, 17, 30.0),
        case("one element", 1, 1, 1.0),
        case("several tasks", 67, 521, 2.0),
    ]
}

/// Sizes of real models.
fn bench() -> Vec<Case> {
    vec![Case {
        label: "4096 x 2048",
        op: Arc::new(Swiglu),
        inputs: vec![
            (vec![4096, 2048], Fill::Normal(1.0), true),
            (vec![4096, 2048], Fill::Normal(1.0), true),
        ],
    }]
}
