//! Sums over the rows of a matrix: gradients of norm weights, of layer scales and of biases. Chunks of rows at fixed
//! places are summed first, then the chunks in order, so the bits depend on the rows alone.

use super::int;
use crate::device::DevicePtr;
use crate::ops::{Launcher, TensorType};

/// Rows of a chunk, groups of columns and teams of a block: `FOLD_ROWS`, `FOLD_LANES` and
/// `FOLD_THREADS` of norms.cu.
const ROWS: usize = 128;
const LANES: usize = 32;
const THREADS: usize = 256;

/// What is summed over the rows `t` of `dy`.
#[derive(Debug, Clone, Copy)]
pub enum Term {
    /// `dy`.
    Plain,
    /// `dy x`.
    Product {
        /// Of the shape of `dy`.
        x: DevicePtr,
    },
    /// `dy x rstd`.
    Scaled {
        /// Of the shape of `dy`.
        x: DevicePtr,
        /// One per row.
        rstd: DevicePtr,
    },
    /// `dy (x - mean) rstd`.
    Normalised {
        /// Of the shape of `dy`.
        x: DevicePtr,
        /// One per row.
        mean: DevicePtr,
        /// One per row.
        rstd: DevicePtr,
    },
}

#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct FoldRowsArgs {
    x: DevicePtr,
    mean: DevicePtr,
    rstd: DevicePtr,
    dy: DevicePtr,
    part: DevicePtr,
    rows: i32,
    cols: i32,
}
const _: () = assert!(size_of::<FoldRowsArgs>() == 48);

#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct FoldChunksArgs {
    part: DevicePtr,
    out: DevicePtr,
    chunks: i32,
    cols: i32,
    add: i32,
    unused: i32,
}
const _: () = assert!(size_of::<FoldChunksArgs>() == 32);

/// Bytes of scratch, never 0, for the sums over the rows of a matrix like `dy`.
pub fn work(dy: &TensorType) -> usize {
    (dy.rows().div_ceil(ROWS) * dy.cols() * size_of::<f32>()).max(1)
}

/// The node's output 0, a row of singles, becomes the sum over the rows of its input `dy`, or, not
/// `fresh`, has it added. Takes the node's whole scratch.
pub fn launch(k: &mut Launcher, dy: usize, term: Term, fresh: bool) {
    let ty = k.in_type(dy);
    let (rows, cols) = (ty.rows(), ty.cols());
    let chunks = rows.div_ceil(ROWS);
    assert!(chunks < 1 << 16, "{rows} rows are more than the grid's second dimension");
    let none = DevicePtr::NULL;
    let (x, mean, rstd) = match term {
        Term::Plain => (none, none, none),
        Term::Product { x } => (x, none, none),
        Term::Scaled { x, rstd } => (x, none, rstd),
        Term::Normalised { x, mean, rstd } => (x, mean, rstd),
    };
    let (dy, part) = (k.input(dy), k.work());
    let args = FoldRowsArgs { x, mean, rstd, dy, part, rows: int(rows), cols: int(cols) };
    let grid = [cols.div_ceil(LANES * super::group(ty.dtype)), chunks, 1];
    k.kernel("norms", k.typed(["fold_rows_f32", "fold_rows_bf16"]), grid, THREADS, &args);
    let args = FoldChunksArgs {
        part,
        out: k.output(0),
        chunks: int(chunks),
        cols: int(cols),
        add: i32::from(!fresh),
        unused: 0,
    };
    k.kernel("norms", "fold_chunks", [cols.div_ceil(LANES), 1, 1], THREADS, &args);
}
