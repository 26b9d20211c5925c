//! Cuts the columns of a matrix into parts: a fused query-key-value projection into its three, a fused
//! gated projection into its two. Columns may come in groups that each hold a piece of every part, as
//! where the queries of a key head stand beside their key and value. Moves numbers; never changes one.
//!
//! T rows, G groups, part `i` of `C_i` columns in each group.

use super::cpu::rows::rows_per_task;
use super::gpu::{by_rows, group, int};
use super::shapes::{require, same_float};
use crate::base::{DType, Result, Tolerance};
use crate::device::DevicePtr;
use crate::ops::{Backward, Case, Fill, Io, Launcher, Op, OpSpec, Slot, TensorType};
use bytemuck::Pod;
use half::bf16;
use rayon::prelude::*;
use std::sync::Arc;

/// Input: `x[T, G * sum of C_i]`, each row seen as `[G, sum of C_i]`; outputs: `[T, G * C_i]` for every
/// part.
#[derive(Debug, Clone)]
pub struct Split {
    /// G.
    pub groups: usize,
    /// C_i: columns of each part within a group.
    pub sizes: Vec<usize>,
}

impl Split {
    /// Parts that stand side by side: one group.
    pub fn columns(sizes: &[usize]) -> Self {
        Split { groups: 1, sizes: sizes.to_vec() }
    }
    /// Columns of a group.
    fn width(&self) -> usize {
        self.sizes.iter().sum()
    }
    /// First column of every part within a group, and how many it has.
    fn parts(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.sizes.iter().scan(0, |next, &c| {
            *next += c;
            Some((*next - c, c))
        })
    }
    fn go<T: Pod + Send + Sync>(&self, io: &Io) {
        let (x, width) = (io.input::<T>(0), self.width());
        for (part, (start, c)) in self.parts().enumerate() {
            let rows = rows_per_task(c);
            let y = io.output::<T>(part).par_chunks_mut(rows * c);
            y.zip(x.par_chunks(rows * width)).for_each(|(y, x)| {
                for (y, x) in y.chunks_exact_mut(c).zip(x.chunks_exact(width)) {
                    y.copy_from_slice(&x[start..][..c]);
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
    aligned: i32,
    unused: i32,
}
const _: () = assert!(size_of::<SplitArgs>() == 40);

/// One side of a copy: an address, the first column, and the length of a row in elements.
type Side = (DevicePtr, usize, usize);

/// Copies `c` columns of each of `rows` rows between two matrices; from no address, zeros.
fn copy_columns(k: &mut Launcher, from: Side, to: Side, [rows, c]: [usize; 2]) {
    let ty = k.in_type(0).dtype;
    let at = |(address, start, _): Side| match address {
        DevicePtr::NULL => DevicePtr::NULL,
        _ => address.offset(start * ty.size()),
    };
    let aligned = [from.1, from.2, to.1, to.2].iter().all(|n| n.is_multiple_of(group(ty)));
    let args = SplitArgs {
        from: at(from),
        to: at(to),
        from_stride: int(from.2),
        to_stride: int(to.2),
        rows: int(rows),
        cols: int(c),
        aligned: i32::from(aligned),
        unused: 0,
    };
    by_rows(k, "elementwise", ["split_copy_f32", "split_copy_bf16"], [rows, c], &args);
}

impl Op for Split {
    fn name(&self) -> &'static str {
        "split"
    }
    fn outputs_with_gradient(&self, outputs: usize) -> Vec<usize> {
        (0..outputs).collect()
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let (groups, width) = (self.groups, self.width());
        let ok = groups > 0
            && self.sizes.iter().all(|&c| c > 0)
            && matches!(inputs, [x] if same_float(&[x]) && x.cols() == groups * width);
        let expected = format!("x[T,{groups}*{width}] for parts of {:?} columns", self.sizes);
        require(ok, self.name(), inputs, &expected)?;
        let x = inputs[0];
        let part = |c: &usize| TensorType::matrix(x.rows(), groups * c, x.dtype);
        Ok(self.sizes.iter().map(part).collect())
    }
    fn run(&self, io: &Io) {
        match io.float_type() {
            DType::F64 => self.go::<f64>(io),
            DType::BF16 => self.go::<bf16>(io),
            _ => self.go::<f32>(io),
        }
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        let (rows, width) = (k.in_type(0).rows() * self.groups, self.width());
        for (part, (start, c)) in self.parts().enumerate() {
            let (from, to) = ((k.input(0), start, width), (k.output(part), 0, c));
            copy_columns(k, from, to, [rows, c]);
        }
        Ok(())
    }
    fn backward(&self, b: &mut Backward) -> Result<Vec<Option<Slot>>> {
        let present: Vec<bool> = b.grads.iter().map(Option::is_some).collect();
        let grads: Vec<Slot> = b.grads.iter().flatten().copied().collect();
        Ok(vec![Some(b.emit1(Join { of: self.clone(), present }, &grads)?)])
    }
}

/// Inputs: gradients of the parts that have one; output `dx`, zero where a part has none.
#[derive(Debug, Clone)]
struct Join {
    of: Split,
    present: Vec<bool>,
}

impl Join {
    fn go<T: Pod + Send + Sync>(&self, io: &Io) {
        let (dx, width) = (io.output::<T>(0), self.of.width());
        let mut inputs = (0..io.num_inputs()).map(|i| io.input::<T>(i));
        let parts: Vec<(Option<&[T]>, usize, usize)> = self
            .of
            .parts()
            .zip(&self.present)
            .map(|((start, c), &p)| (if p { inputs.next() } else { None }, start, c))
            .collect();
        let rows = rows_per_task(width);
        dx.par_chunks_mut(rows * width).enumerate().for_each(|(task, dx)| {
            for (i, dx) in dx.chunks_exact_mut(width).enumerate() {
                for &(part, start, c) in &parts {
                    let dx = &mut dx[start..][..c];
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
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let given = self.of.sizes.iter().zip(&self.present).filter(|(_, p)| **p);
        let ok = !inputs.is_empty()
            && same_float(inputs)
            && given.clone().count() == inputs.len()
            && given.zip(inputs).all(|((c, _), dy)| {
                dy.cols() == self.of.groups * c && dy.rows() == inputs[0].rows()
            });
        require(ok, self.name(), inputs, "the gradients of the parts that have one")?;
        let (rows, dtype) = (inputs[0].rows(), inputs[0].dtype);
        Ok(vec![TensorType::matrix(rows, self.of.groups * self.of.width(), dtype)])
    }
    fn run(&self, io: &Io) {
        match io.float_type() {
            DType::F64 => self.go::<f64>(io),
            DType::BF16 => self.go::<bf16>(io),
            _ => self.go::<f32>(io),
        }
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        let (rows, width) = (k.in_type(0).rows() * self.of.groups, self.of.width());
        let mut given = 0;
        for ((start, c), &present) in self.of.parts().zip(&self.present) {
            let from = if present { k.input(given) } else { DevicePtr::NULL };
            given += usize::from(present);
            let to = (k.output(0), start, width);
            copy_columns(k, (from, 0, c), to, [rows, c]);
        }
        Ok(())
    }
}

fn cases() -> Vec<Case> {
    let case = |label, t: usize, groups: usize, sizes: &[usize]| Case {
        label,
        op: Arc::new(Split { groups, sizes: sizes.to_vec() }),
        inputs: vec![(vec![t, groups * sizes.iter().sum::<usize>()], Fill::Normal(1.0), true)],
    };
    vec![
        case("query, key, value", 5, 1, &[12, 12, 12]),
        case("two parts", 1, 1, &[7, 7]),
        case("one part", 3, 1, &[4]),
        case("more queries than keys", 6, 1, &[40, 8, 8]),
        case("whole groups of bytes at odd places", 4, 1, &[3, 16, 5]),
        case("queries beside their key and value", 9, 3, &[32, 8, 8]),
        case("odd groups, several tasks", 130, 5, &[33, 7, 1]),
    ]
}

/// Sizes of real models.
fn bench() -> Vec<Case> {
    let case = |label, groups: usize, sizes: &[usize]| Case {
        label,
        op: Arc::new(Split { groups, sizes: sizes.to_vec() }),
        inputs: vec![(vec![4096, groups * sizes.iter().sum::<usize>()], Fill::Normal(1.0), true)],
    };
    vec![
        case("4096 x 3 * 1280", 1, &[1280, 1280, 1280]),
        case("4096 x 8 groups of 2 * 128, 128, 128", 8, &[256, 128, 128]),
    ]
}

/// Row of the op table.
pub static SPEC: OpSpec = OpSpec {
    name: "split",
    doc: "x[T, G * sum of C_i] to the parts [T, G * C_i] of its columns, which come in G groups",
    cases,
    tolerance: Tolerance { abs: 0.0, rel: 0.0 },
    bf16_roundings: 1,
    bench,
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_must_fill_the_columns() {
        let x = TensorType::matrix(2, 25, DType::F32);
        let e = Split { groups: 2, sizes: vec![8, 4] }.infer(&[&x]).unwrap_err();
        assert!(e.one_line().contains("split") && e.one_line().contains("[2, 25]"), "{e}");
    }
}
