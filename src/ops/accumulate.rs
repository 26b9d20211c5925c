//! `g += x`: how a gradient that an op computed in a slot of its own reaches a parameter's
//! gradient, in place. It has no derivative and no place in a forward pass.

use super::cpu::rows::CHUNK;
use super::cpu::vectorised;
use crate::base::{DType, Result};
use crate::device::DevicePtr;
use crate::ops::{Cost, Io, Launcher, Op, Stored, TensorType, gpu};
use half::bf16;
use rayon::prelude::*;

/// Input: `x`, an activation's gradient; updates `g` of the same size, of the type of statistics.
#[derive(Debug, Clone, Copy)]
pub struct Accumulate;

/// As in the kernels.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct AccumulateArgs {
    x: DevicePtr,
    g: DevicePtr,
    n: i64,
}
const _: () = assert!(size_of::<AccumulateArgs>() == 24);

impl Op for Accumulate {
    fn name(&self) -> &'static str {
        "accumulate"
    }
    fn infer(&self, _: &[&TensorType]) -> Result<Vec<TensorType>> {
        Ok(vec![])
    }
    fn run(&self, io: &Io) {
        match io.float_type() {
            DType::F64 => {
                let (g, x) = (io.output::<f64>(0), io.input::<f64>(0));
                g.iter_mut().zip(x).for_each(|(g, x)| *g += *x);
            }
            DType::BF16 => accumulate(io.input::<bf16>(0), io.output(0)),
            _ => accumulate(io.input::<f32>(0), io.output(0)),
        }
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        let n = k.in_type(0).len();
        let args = AccumulateArgs { x: k.input(0), g: k.output(0), n: n as i64 };
        gpu::flat(k, "elementwise", ["accumulate_f32", "accumulate_bf16"], n, &args);
        Ok(())
    }
    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let size = |t: &TensorType| (t.len() * t.dtype.size()) as f64;
        let bytes = size(inputs[0]) + 2.0 * size(outputs[0]);
        Cost { flops: inputs[0].len() as f64, bytes }
    }
}

fn accumulate<S: Stored>(x: &[S], g: &mut [f32]) {
    assert_eq!(x.len(), g.len(), "accumulate: sizes differ");
    (g.par_chunks_mut(CHUNK), x.par_chunks(CHUNK)).into_par_iter().for_each(|(g, x)| {
        vectorised(
            #[inline(always)]
            || {
                for (g, &x) in g.iter_mut().zip(x) {
                    *g += x.load();
                }
            },
        );
    });
}
