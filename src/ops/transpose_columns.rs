//! Every row seen as a matrix that is transposed: features of a group of patches from one order of their
//! columns to the other, as where a convolution's weight has channels outside and places inside. Moves
//! numbers; never changes one. The backward pass is the same op, the other way.
//!
//! T rows.

use super::gpu::{by_rows, int};
use super::shapes::{require, same_float};
use super::{Backward, Case, Fill, Io, Launcher, Op, OpSpec, Slot, TensorType};
use crate::base::{DType, Result, Tolerance};
use crate::device::DevicePtr;
use crate::ops::cpu::rows::rows_per_task;
use bytemuck::Pod;
use half::bf16;
use rayon::prelude::*;
use std::sync::Arc;

/// Row of the op table.
pub static SPEC: OpSpec = OpSpec {
    name: "transpose_columns",
    doc: "x[T, rows*cols] to y[T, cols*rows]: each row, seen as a matrix, transposed",
    cases,
    tolerance: Tolerance { abs: 0.0, rel: 0.0 },
    bf16_roundings: 1,
    bench,
};

/// Input `x[T, rows*cols]`; output `y[T, cols*rows]` with `y[t, j*rows + i] = x[t, i*cols + j]`.
#[derive(Debug, Clone, Copy)]
pub struct TransposeColumns {
    /// Rows of the matrix that a row of the input is.
    pub rows: usize,
    /// Its columns.
    pub cols: usize,
}

/// As in the kernels.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct TransposeArgs {
    x: DevicePtr,
    y: DevicePtr,
    count: i32,
    rows: i32,
    cols: i32,
    unused: i32,
}
const _: () = assert!(size_of::<TransposeArgs>() == 32);

impl Op for TransposeColumns {
    fn name(&self) -> &'static str {
        "transpose_columns"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let (rows, cols) = (self.rows, self.cols);
        let ok = rows > 0
            && cols > 0
            && matches!(inputs, [x] if same_float(&[x]) && x.cols() == rows * cols);
        require(ok, self.name(), inputs, &format!("x[T,{rows}*{cols}]"))?;
        Ok(vec![TensorType::matrix(inputs[0].rows(), rows * cols, inputs[0].dtype)])
    }
    fn run(&self, io: &Io) {
        match io.float_type() {
            DType::F64 => self.go::<f64>(io),
            DType::BF16 => self.go::<bf16>(io),
            _ => self.go::<f32>(io),
        }
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        let x = k.in_type(0);
        let args = TransposeArgs {
            x: k.input(0),
            y: k.output(0),
            count: int(x.rows()),
            rows: int(self.rows),
            cols: int(self.cols),
            unused: 0,
        };
        let names = ["transpose_columns_f32", "transpose_columns_bf16"];
        by_rows(k, "elementwise", names, [x.rows(), x.cols()], &args);
        Ok(())
    }
    fn backward(&self, b: &mut Backward) -> Result<Vec<Option<Slot>>> {
        let Some(dy) = b.grads[0].filter(|_| b.needs[0]) else { return Ok(vec![None]) };
        let back = TransposeColumns { rows: self.cols, cols: self.rows };
        Ok(vec![Some(b.emit1(back, &[dy])?)])
    }
}

impl TransposeColumns {
    fn go<T: Pod + Send + Sync>(&self, io: &Io) {
        let (x, y) = (io.input::<T>(0), io.output::<T>(0));
        let (rows, cols) = (self.rows, self.cols);
        let chunk = rows_per_task(rows * cols) * rows * cols;
        y.par_chunks_mut(chunk).zip(x.par_chunks(chunk)).for_each(|(y, x)| {
            for (y, x) in y.chunks_exact_mut(rows * cols).zip(x.chunks_exact(rows * cols)) {
                for (j, y) in y.chunks_exact_mut(rows).enumerate() {
                    for (y, &x) in y.iter_mut().zip(x[j..].iter().step_by(cols)) {
                        *y = x;
                    }
                }
            }
        });
    }
}

fn case(label: &'static str, t: usize, rows: usize, cols: usize) -> Case {
    Case {
        label,
        op: Arc::new(TransposeColumns { rows, cols }),
        inputs: vec![(vec![t, rows * cols], Fill::Normal(1.0), true)],
    }
}

fn cases() -> Vec<Case> {
    vec![
        case("odd", 5, 3, 7),
        case("few rows", 3, 4, 96),
        case("few columns", 3, 96, 4),
        case("one row: a copy", 2, 1, 13),
        case("several tasks", 33, 24, 40),
    ]
}

/// Sizes of real models.
fn bench() -> Vec<Case> {
    vec![case("1024 x [4, 1536]", 1024, 4, 1536), case("1024 x [1536, 4]", 1024, 1536, 4)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_must_be_the_matrix() {
        let x = TensorType::matrix(2, 25, DType::F32);
        let e = TransposeColumns { rows: 4, cols: 6 }.infer(&[&x]).unwrap_err();
        assert!(e.one_line().contains("x[T,4*6]") && e.one_line().contains("[2, 25]"), "{e}");
    }
}
