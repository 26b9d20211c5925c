//! The sum of two tensors of one shape: residual connections, and gradients that meet. Never
//! broadcasts.

use super::cpu::rows::CHUNK;
use super::cpu::vectorised;
use super::shapes::{require, same_float};
use super::{Backward, Case, Cost, Fill, Io, Op, OpSpec, Real, Slot, Stored, TensorType};
use super::{Launcher, gpu};
use crate::base::{DType, Result, Tolerance};
use crate::device::DevicePtr;
use half::bf16;
use rayon::prelude::*;
use std::sync::Arc;

/// Row of the op table.
pub static SPEC: OpSpec = OpSpec {
    name: "add",
    doc: "a, b of one shape to a + b",
    cases,
    tolerance: Tolerance::rel(2e-7),
    bf16_roundings: 1,
    bench,
};

/// Inputs `a`, `b` of one shape; output `a + b`. Both gradients are the gradient of the output.
#[derive(Debug, Clone, Copy)]
pub struct Add;

/// As in the kernels.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct AddArgs {
    a: DevicePtr,
    b: DevicePtr,
    y: DevicePtr,
    n: i64,
}
const _: () = assert!(size_of::<AddArgs>() == 32);

impl Op for Add {
    fn name(&self) -> &'static str {
        "add"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let ok = same_float(inputs) && matches!(inputs, [a, b] if a.shape == b.shape);
        require(ok, self.name(), inputs, "two tensors of one shape")?;
        Ok(vec![inputs[0].clone()])
    }
    fn run(&self, io: &Io) {
        match io.float_type() {
            DType::F64 => add::<f64>(io.input(0), io.input(1), io.output(0)),
            DType::BF16 => add_fast::<bf16>(io.input(0), io.input(1), io.output(0)),
            _ => add_fast::<f32>(io.input(0), io.input(1), io.output(0)),
        }
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        let n = k.in_type(0).len();
        let args = AddArgs { a: k.input(0), b: k.input(1), y: k.output(0), n: n as i64 };
        gpu::flat(k, "elementwise", ["add_fwd_f32", "add_fwd_bf16"], n, &args);
        Ok(())
    }
    fn backward(&self, b: &mut Backward) -> Result<Vec<Option<Slot>>> {
        Ok(b.needs.iter().map(|&needs| b.grads[0].filter(|_| needs)).collect())
    }
    fn cost(&self, inputs: &[&TensorType], _: &[&TensorType]) -> Cost {
        let n = inputs[0].len() as f64;
        Cost { flops: n, bytes: 3.0 * n * inputs[0].dtype.size() as f64 }
    }
}

/// The definition.
fn add<T: Real>(a: &[T], b: &[T], y: &mut [T]) {
    for ((y, &a), &b) in y.iter_mut().zip(a).zip(b) {
        *y = a + b;
    }
}

fn add_fast<S: Stored>(a: &[S], b: &[S], y: &mut [S]) {
    (y.par_chunks_mut(CHUNK), a.par_chunks(CHUNK), b.par_chunks(CHUNK)).into_par_iter().for_each(
        |(y, a, b)| {
            vectorised(
                #[inline(always)]
                || {
                    for ((y, &a), &b) in y.iter_mut().zip(a).zip(b) {
                        *y = S::store(a.load() + b.load());
                    }
                },
            );
        },
    );
}

fn cases() -> Vec<Case> {
    let case = |label, t: usize, h: usize| Case {
        label,
        op: Arc::new(Add),
        inputs: vec![(vec![t, h], Fill::Normal(1.0), true), (vec![t, h], Fill::Normal(3.0), true)],
    };
    vec![case("odd", 5, 33), case("one element", 1, 1), case("several tasks", 61, 555)]
}

/// Sizes of real models.
fn bench() -> Vec<Case> {
    vec![Case {
        label: "4096 x 2048",
        op: Arc::new(Add),
        inputs: vec![
            (vec![4096, 2048], Fill::Normal(1.0), true),
            (vec![4096, 2048], Fill::Normal(1.0), true),
        ],
    }]
}
