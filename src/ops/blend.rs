//! Moves a tensor towards another, in place: `y ← (1 − share)·y + share·x`. How a reference follows the
//! policy. It has no derivative and no place in a forward pass.

use super::cpu::rows::CHUNK;
use super::cpu::vectorised;
use super::shapes::require;
use super::{Case, Cost, Fill, Io, Launcher, Op, OpSpec, Stored, TensorType, gpu};
use crate::base::{DType, Result, Tolerance};
use crate::device::DevicePtr;
use half::bf16;
use rayon::prelude::*;
use std::sync::Arc;

/// Row of the op table.
pub static SPEC: OpSpec = OpSpec {
    name: "blend",
    doc: "x; moves y of the same shape and type towards it in place",
    cases,
    tolerance: Tolerance { abs: 1e-7, rel: 1e-6 },
    bf16_roundings: 1,
    bench,
};

/// Input `x`; updates `y` of the same shape and type in place, so nothing is inferred.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Blend {
    /// How far: 0 does nothing, 1 copies.
    pub share: f64,
}

/// As in the kernels.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct BlendArgs {
    x: DevicePtr,
    y: DevicePtr,
    n: i64,
    kept: f32,
    share: f32,
}
const _: () = assert!(size_of::<BlendArgs>() == 32);

impl Op for Blend {
    fn name(&self) -> &'static str {
        "blend"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        require(inputs.len() == 1, self.name(), inputs, "one tensor")?;
        Ok(vec![])
    }
    fn run(&self, io: &Io) {
        match io.float_type() {
            DType::F64 => {
                let (y, x) = (io.output::<f64>(0), io.input::<f64>(0));
                y.iter_mut().zip(x).for_each(|(y, x)| {
                    *y = (1.0 - self.share) * *y + self.share * x;
                });
            }
            DType::BF16 => self.go::<bf16>(io),
            _ => self.go::<f32>(io),
        }
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        let n = k.in_type(0).len();
        let (kept, share) = ((1.0 - self.share) as f32, self.share as f32);
        let args = BlendArgs { x: k.input(0), y: k.output(0), n: n as i64, kept, share };
        gpu::flat(k, "elementwise", ["blend_f32", "blend_bf16"], n, &args);
        Ok(())
    }
    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let size = |t: &TensorType| (t.len() * t.dtype.size()) as f64;
        let flops = 3.0 * inputs[0].len() as f64;
        Cost { flops, bytes: size(inputs[0]) + 2.0 * size(outputs[0]) }
    }
}

impl Blend {
    fn go<S: Stored>(&self, io: &Io) {
        let (x, y) = (io.input::<S>(0), io.output::<S>(0));
        assert_eq!(x.len(), y.len(), "blend: sizes differ");
        let (kept, share) = ((1.0 - self.share) as f32, self.share as f32);
        (y.par_chunks_mut(CHUNK), x.par_chunks(CHUNK)).into_par_iter().for_each(|(y, x)| {
            vectorised(
                #[inline(always)]
                || {
                    for (y, x) in y.iter_mut().zip(x) {
                        *y = S::store(share.mul_add(x.load(), kept * y.load()));
                    }
                },
            );
        });
    }
}

fn cases() -> Vec<Case> {
    let case = |label, share, shape: &[usize]| Case {
        label,
        op: Arc::new(Blend { share }),
        inputs: vec![
            (shape.to_vec(), Fill::Normal(1.0), false),
            (shape.to_vec(), Fill::Normal(1.0), false),
        ],
    };
    vec![
        case("small share", 0.01, &[3, 50]),
        case("most of it", 0.6, &[1, 33]),
        case("a vector", 0.25, &[7]),
        case("several tasks", 0.5, &[5, 9001]),
    ]
}

/// Sizes of real models.
fn bench() -> Vec<Case> {
    let tensor = || (vec![4096, 8192], Fill::Normal(1.0), false);
    let inputs = vec![tensor(), tensor()];
    vec![Case { label: "32 Mi numbers", op: Arc::new(Blend { share: 0.6 }), inputs }]
}
