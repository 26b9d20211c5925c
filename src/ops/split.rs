//! Cuts the columns of a matrix into equal parts: a fused query-key-value projection into its three.
//!
//! T rows, C columns of one part.

use super::cpu::rows::rows_per_task;
use super::gpu::{by_rows, int};
use crate::base::{DType, Error, Result, Tolerance};
use crate::device::DevicePtr;
use crate::ops::{Backward, Case, Fill, Io, Launcher, Op, OpSpec, Slot, TensorType};
use bytemuck::Pod;
use half::bf16;
use rayon::prelude::*;
use std::sync::Arc;

/// Input: `x[T,parts*C]`; outputs: `parts` times `[T,C]`.
#[derive(Debug, Clone, Copy)]
pub struct Split {
    /// Number of parts.
    pub parts: usize,
}

impl Split {
    fn go<T: Pod + Send + Sync>(&self, io: &Io) {
        let (x, c) = (io.input::<T>(0), io.out_type(0).cols());
        let rows = rows_per_task(c);
        for part in 0..self.parts {
            let y = io.output::<T>(part).par_chunks_mut(rows * c);
            y.zip(x.par_chunks(rows * c * self.parts)).for_each(|(y, x)| {
                for (y, x) in y.chunks_exact_mut(c).zip(x.chunks_exact(c * self.parts)) {
                    y.copy_from_slice(&x[part * c..][..c]);
                }
            });
        }
    }
}

/// As in the kernels.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct SplitArgs {
    from: DevicePtr,
    to: DevicePtr,
    from_stride: i32,
    to_stride: i32,
    rows: i32,
    cols: i32,
}
const _: () = assert!(size_of::<SplitArgs>() == 32);

/// Copies `c` columns of every row between matrices whose rows are `strides` elements long; from no
/// address, zeros.
fn copy_columns(k: &mut Launcher, [from, to]: [DevicePtr; 2], strides: [usize; 2], c: usize) {
    let rows = k.in_type(0).rows();
    let [from_stride, to_stride] = strides.map(int);
    let args = SplitArgs { from, to, from_stride, to_stride, rows: int(rows), cols: int(c) };
    by_rows(k, "elementwise", ["split_copy_f32", "split_copy_bf16"], [rows, c], &args);
}

impl Op for Split {
    fn name(&self) -> &'static str {
        "split"
    }
    fn infer(&self, i: &[&TensorType]) -> Result<Vec<TensorType>> {
        if !i[0].cols().is_multiple_of(self.parts) {
            return Err(Error::internal("split: columns do not divide")
                .expected(format!("a multiple of {}", self.parts))
                .found(i[0].cols().to_string()));
        }
        let part = TensorType::matrix(i[0].rows(), i[0].cols() / self.parts, i[0].dtype);
        Ok(vec![part; self.parts])
    }
    fn run(&self, io: &Io) {
        match io.float_type() {
            DType::F64 => self.go::<f64>(io),
            DType::BF16 => self.go::<bf16>(io),
            _ => self.go::<f32>(io),
        }
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        let (c, width) = (k.out_type(0).cols(), k.in_type(0).cols());
        for part in 0..self.parts {
            let from = k.input(0).offset(part * c * k.in_type(0).dtype.size());
            copy_columns(k, [from, k.output(part)], [width, c], c);
        }
        Ok(())
    }
    fn backward(&self, b: &mut Backward) -> Result<Vec<Option<Slot>>> {
        let present: Vec<bool> = b.grads.iter().map(Option::is_some).collect();
        let grads: Vec<Slot> = b.grads.iter().flatten().copied().collect();
        Ok(vec![Some(b.emit1(Join { present }, &grads)?)])
    }
}

/// Inputs: gradients of the parts that have one; output `dx`, zero where a part has none.
#[derive(Debug, Clone)]
struct Join {
    present: Vec<bool>,
}

impl Join {
    fn go<T: Pod + Send + Sync>(&self, io: &Io) {
        let (dx, c) = (io.output::<T>(0), io.in_type(0).cols());
        let width = c * self.present.len();
        let mut inputs = (0..io.num_inputs()).map(|i| io.input::<T>(i));
        let parts: Vec<Option<&[T]>> =
            self.present.iter().map(|&p| if p { inputs.next() } else { None }).collect();
        let rows = rows_per_task(width);
        dx.par_chunks_mut(rows * width).enumerate().for_each(|(task, dx)| {
            for (i, dx) in dx.chunks_exact_mut(width).enumerate() {
                for (dx, part) in dx.chunks_exact_mut(c).zip(&parts) {
                    match part {
                        Some(g) => dx.copy_from_slice(&g[(task * rows + i) * c..][..c]),
                        None => dx.fill(T::zeroed()),
                    }
                }
            }
        });
    }
}

impl Op for Join {
    fn name(&self) -> &'static str {
        "split_bwd"
    }
    fn infer(&self, i: &[&TensorType]) -> Result<Vec<TensorType>> {
        Ok(vec![TensorType::matrix(i[0].rows(), i[0].cols() * self.present.len(), i[0].dtype)])
    }
    fn run(&self, io: &Io) {
        match io.float_type() {
            DType::F64 => self.go::<f64>(io),
            DType::BF16 => self.go::<bf16>(io),
            _ => self.go::<f32>(io),
        }
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        let (c, width) = (k.in_type(0).cols(), k.out_type(0).cols());
        let mut given = 0;
        for (part, &present) in self.present.iter().enumerate() {
            let from = if present { k.input(given) } else { DevicePtr::NULL };
            given += usize::from(present);
            let to = k.output(0).offset(part * c * k.out_type(0).dtype.size());
            copy_columns(k, [from, to], [c, width], c);
        }
        Ok(())
    }
}

fn cases() -> Vec<Case> {
    let case = |label, t: usize, c: usize, parts| Case {
        label,
        op: Arc::new(Split { parts }),
        inputs: vec![(vec![t, c * parts], Fill::Normal(1.0), true)],
    };
    vec![case("query, key, value", 5, 12, 3), case("two parts", 1, 7, 2), case("one part", 3, 4, 1)]
}

/// Sizes of real models.
fn bench() -> Vec<Case> {
    vec![Case {
        label: "4096 x 3 * 1280",
        op: Arc::new(Split { parts: 3 }),
        inputs: vec![(vec![4096, 3840], Fill::Normal(1.0), true)],
    }]
}

/// Row of the op table.
pub static SPEC: OpSpec = OpSpec {
    name: "split",
    doc: "equal parts of a matrix's columns",
    cases,
    tolerance: Tolerance { abs: 0.0, rel: 0.0 },
    bf16_roundings: 1,
    bench,
};
