//! Rows that are gathered by an index list and added back: `embed`, `gather_rows`, `add_rows` and
//! `weighted_rows` launch these. What meets in one row is added in ascending order of the list. Indices are known to the device alone: one
//! that is out of range gives a row of NaN, and adds nothing on the way back.

use super::{by_rows, group, int};
use crate::base::DType;
use crate::device::DevicePtr;
use crate::ops::{Launcher, TensorType};

/// Most threads of a block that adds rows, and list entries of a block that sorts: `SCATTER_ENTRIES` of
/// rows.cu.
const THREADS: usize = 256;
const ENTRIES: usize = 32;

#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct GatherArgs {
    x: DevicePtr,
    vision: DevicePtr,
    index: DevicePtr,
    y: DevicePtr,
    rows: i32,
    cols: i32,
    x_rows: i32,
    vision_rows: i32,
}
const _: () = assert!(size_of::<GatherArgs>() == 48);

#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct ScatterOrderArgs {
    index: DevicePtr,
    order: DevicePtr,
    count: i32,
    rows: i32,
    vision: i32,
    unused: i32,
}
const _: () = assert!(size_of::<ScatterOrderArgs>() == 32);

#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct ScatterAddArgs {
    dy: DevicePtr,
    index: DevicePtr,
    order: DevicePtr,
    weight: DevicePtr,
    out: DevicePtr,
    count: i32,
    cols: i32,
    add: i32,
    taps: i32,
}
const _: () = assert!(size_of::<ScatterAddArgs>() == 56);

/// The node's output 0 becomes the rows of its input 0 that its last input names; negative entries name
/// rows of its input 1, if there are three inputs.
pub fn gather(k: &mut Launcher) {
    let last = k.num_inputs() - 1;
    let (rows, cols) = (k.out_type(0).rows(), k.out_type(0).cols());
    let vision = (last == 2).then(|| (k.input(1), k.in_type(1).rows()));
    let args = GatherArgs {
        x: k.input(0),
        vision: vision.map_or(DevicePtr::NULL, |v| v.0),
        index: k.input(last),
        y: k.output(0),
        rows: int(rows),
        cols: int(cols),
        x_rows: int(k.in_type(0).rows()),
        vision_rows: vision.map_or(0, |v| int(v.1)),
    };
    by_rows(k, "rows", ["gather_rows_f32", "gather_rows_bf16"], [rows, cols], &args);
}

/// Bytes of scratch, never 0, for [`scatter`] with this index list: its places in order.
pub fn scatter_work(index: &TensorType) -> usize {
    (index.len() * size_of::<i32>()).max(1)
}

/// The node's input 0 is added, row by row, to the rows of its output 0 (of `rows` rows) that its input
/// 1 names: the entries from 0 on, or with `vision` the negative ones. `fresh`: the output starts from
/// 0.
pub fn scatter(k: &mut Launcher, rows: usize, vision: bool, fresh: bool) {
    let kernels = ["scatter_add_f32", "scatter_add_bf16", "scatter_add_bf16_f32"];
    scatter_entries(k, rows, vision, fresh, (1, DevicePtr::NULL), kernels);
}

/// Row `e / taps` of the node's input 0, times entry `e` of its input 2, is added to the row of its
/// output 0 that entry `e` of its input 1 names.
pub fn scatter_weighted(k: &mut Launcher, rows: usize, taps: usize, fresh: bool) {
    let kernels = ["weighted_add_f32", "weighted_add_bf16", "weighted_add_bf16_f32"];
    scatter_entries(k, rows, false, fresh, (taps, k.input(2)), kernels);
}

/// What both share; `kernels` are those for singles, for bf16, and for bf16 added to singles.
fn scatter_entries(
    k: &mut Launcher,
    rows: usize,
    vision: bool,
    fresh: bool,
    (taps, weight): (usize, DevicePtr),
    kernels: [&'static str; 3],
) {
    let (dy, out) = (k.in_type(0), k.out_type(0));
    let (index, order, count) = (k.input(1), k.work(), dy.rows() * taps);
    k.fill(order, 0xff, scatter_work(k.in_type(1)));
    if fresh {
        k.fill(k.output(0), 0, out.len() * out.dtype.size());
    }
    let args = ScatterOrderArgs {
        index,
        order,
        count: int(count),
        rows: int(rows),
        vision: i32::from(vision),
        unused: 0,
    };
    k.kernel("rows", "scatter_order", [count.div_ceil(ENTRIES), 1, 1], THREADS, &args);
    let kernel = match (dy.dtype, out.dtype) {
        (DType::BF16, DType::BF16) => kernels[1],
        (DType::BF16, _) => kernels[2],
        _ => kernels[0],
    };
    let args = ScatterAddArgs {
        dy: k.input(0),
        index,
        order,
        weight,
        out: k.output(0),
        count: int(count),
        cols: int(dy.cols()),
        add: i32::from(!fresh),
        taps: int(taps),
    };
    let threads = dy.cols().div_ceil(group(dy.dtype)).next_multiple_of(64).clamp(64, THREADS);
    k.kernel("rows", kernel, [count, 1, 1], threads, &args);
}
