//! Zeroes tensors in place: gradients before the first micro-batch of a step. Any element type.

use super::cpu::rows::CHUNK;
use super::shapes::require;
use super::{Case, Cost, Fill, Io, Launcher, Op, OpSpec, TensorType};
use crate::base::{Result, Tolerance};
use bytemuck::Pod;
use rayon::prelude::*;
use std::sync::Arc;

/// Row of the op table.
pub static SPEC: OpSpec = OpSpec {
    name: "zero",
    doc: "no inputs; zeroes its outputs in place",
    cases,
    tolerance: Tolerance::rel(0.0),
    bf16_roundings: 1,
    bench,
};

/// No inputs; zeroes up to 64 existing outputs in place, so nothing is inferred.
#[derive(Debug, Clone, Copy)]
pub struct Zero;

impl Op for Zero {
    fn name(&self) -> &'static str {
        "zero"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        require(inputs.is_empty(), self.name(), inputs, "no inputs")?;
        Ok(vec![])
    }
    fn run(&self, io: &Io) {
        for i in 0..io.num_outputs() {
            match io.out_type(i).dtype.size() {
                1 => fill::<u8>(io, i),
                2 => fill::<u16>(io, i),
                4 => fill::<u32>(io, i),
                _ => fill::<u64>(io, i),
            }
        }
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        for i in 0..k.num_outputs() {
            let ty = k.out_type(i);
            k.fill(k.output(i), 0, ty.len() * ty.dtype.size());
        }
        Ok(())
    }
    fn cost(&self, _: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let bytes: usize = outputs.iter().map(|t| t.len() * t.dtype.size()).sum();
        Cost { flops: 0.0, bytes: bytes as f64 }
    }
}

fn fill<T: Pod + Send>(io: &Io, i: usize) {
    io.output::<T>(i).par_chunks_mut(CHUNK).for_each(|c| c.fill(T::zeroed()));
}

/// The inputs are the values before.
fn cases() -> Vec<Case> {
    let case = |label, sizes: &[&[usize]]| Case {
        label,
        op: Arc::new(Zero),
        inputs: sizes.iter().map(|&n| (n.to_vec(), Fill::Normal(1.0), false)).collect(),
    };
    vec![
        case("one", &[&[33]]),
        case("three", &[&[1], &[64], &[7]]),
        case("vector and matrix", &[&[5], &[3, 50]]),
        case("several tasks", &[&[40_001]]),
    ]
}

/// Sizes of real models.
fn bench() -> Vec<Case> {
    vec![Case {
        label: "32 Mi numbers",
        op: Arc::new(Zero),
        inputs: vec![(vec![4096, 8192], Fill::Normal(1.0), false)],
    }]
}
