//! Launches of `kernels/common/experts.cu`: routing, products by expert, mixing. The rows of each
//! expert are first brought together in scratch; tiles of an expert's rows are then products like any
//! other. How many rows an expert has is known to the device alone, so the grid has room for the worst
//! case and blocks without work end at once. Which tile is chosen changes no bit.

use super::{by_rows, group, int};
use crate::base::DType;
use crate::device::DevicePtr;
use crate::ops::TensorType;
use crate::ops::launch::Launcher;
use bytemuck::{Pod, Zeroable};

const MODULE: &str = "experts";
const THREADS: usize = 256;

#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
struct RouteArgs {
    logits: DevicePtr,
    weight: DevicePtr,
    expert: DevicePtr,
    rows: i32,
    experts: i32,
    top_k: i32,
    normalize: i32,
}
const _: () = assert!(size_of::<RouteArgs>() == 40);

#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
struct RouteOrderArgs {
    expert: DevicePtr,
    order: DevicePtr,
    first: DevicePtr,
    pairs: i32,
    unused: i32,
}
const _: () = assert!(size_of::<RouteOrderArgs>() == 32);

#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
struct RouteBwdArgs {
    weight: DevicePtr,
    expert: DevicePtr,
    dweight: DevicePtr,
    logits: DevicePtr,
    dlogits: DevicePtr,
    rows: i32,
    experts: i32,
    top_k: i32,
    unused: i32,
}
const _: () = assert!(size_of::<RouteBwdArgs>() == 56);

#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
struct MixArgs {
    y: DevicePtr,
    weight: DevicePtr,
    out: DevicePtr,
    rows: i32,
    cols: i32,
    top_k: i32,
    unused: i32,
}
const _: () = assert!(size_of::<MixArgs>() == 40);

#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
struct MixBwdArgs {
    y: DevicePtr,
    weight: DevicePtr,
    dout: DevicePtr,
    dy: DevicePtr,
    dweight: DevicePtr,
    cols: i32,
    top_k: i32,
}
const _: () = assert!(size_of::<MixBwdArgs>() == 48);

#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
struct ExpertGatherArgs {
    x: DevicePtr,
    order: DevicePtr,
    out: DevicePtr,
    rows: i32,
    cols: i32,
    per_row: i32,
    unused: i32,
}
const _: () = assert!(size_of::<ExpertGatherArgs>() == 40);

#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
struct ExpertTilesArgs {
    first: DevicePtr,
    tile: DevicePtr,
    experts: i32,
    tiles: i32,
    height: i32,
    unused: i32,
}
const _: () = assert!(size_of::<ExpertTilesArgs>() == 32);

#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
struct ExpertMatmulArgs {
    x: DevicePtr,
    w: DevicePtr,
    order: DevicePtr,
    tile: DevicePtr,
    y: DevicePtr,
    tiles: i32,
    cols: i32,
    depth: i32,
    vectors: i32,
}
const _: () = assert!(size_of::<ExpertMatmulArgs>() == 56);

#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
struct ExpertDwArgs {
    dy: DevicePtr,
    x: DevicePtr,
    first: DevicePtr,
    dw: DevicePtr,
    rows: i32,
    cols: i32,
    vectors: i32,
    unused: i32,
}
const _: () = assert!(size_of::<ExpertDwArgs>() == 48);

/// A kernel for one size of tile.
#[derive(Debug, Clone, Copy)]
struct Tile {
    /// Forward, of rows, of weights; empty where there is none.
    kernels: [&'static str; 3],
    rows: usize,
    cols: usize,
    threads: usize,
    /// Bytes of dynamic shared memory with waves of 32 and of 64.
    shared: [usize; 2],
}

const SQUARE: Tile = Tile {
    kernels: [
        "expert_matmul_fwd_128x128_bf16",
        "expert_matmul_bwd_dx_128x128_bf16",
        "expert_matmul_bwd_dw_128x128_bf16",
    ],
    rows: 128,
    cols: 128,
    threads: 128,
    shared: [65536, 32768],
};
const SMALL: Tile = Tile {
    kernels: [
        "expert_matmul_fwd_64x64_bf16",
        "expert_matmul_bwd_dx_64x64_bf16",
        "expert_matmul_bwd_dw_64x64_bf16",
    ],
    rows: 64,
    cols: 64,
    threads: 128,
    shared: [65536, 32768],
};
const FLAT: Tile = Tile {
    kernels: ["expert_matmul_fwd_16x64_bf16", "", ""],
    rows: 16,
    cols: 64,
    threads: 128,
    shared: [81920, 20480],
};
const ODD: Tile = Tile {
    kernels: [
        "expert_matmul_fwd_odd_bf16",
        "expert_matmul_bwd_dx_odd_bf16",
        "expert_matmul_bwd_dw_odd_bf16",
    ],
    rows: 32,
    cols: 32,
    threads: 64,
    shared: [0, 0],
};
const SINGLE: Tile = Tile {
    kernels: [
        "expert_matmul_fwd_64x64_f32",
        "expert_matmul_bwd_dx_64x64_f32",
        "expert_matmul_bwd_dw_64x64_f32",
    ],
    rows: 64,
    cols: 64,
    ..ODD
};
const ODD_SINGLE: Tile = Tile {
    kernels: [
        "expert_matmul_fwd_odd_f32",
        "expert_matmul_bwd_dx_odd_f32",
        "expert_matmul_bwd_dw_odd_f32",
    ],
    ..ODD
};

const FORWARD: usize = 0;
const ROWS: usize = 1;
const WEIGHTS: usize = 2;

/// The lowest tile that a product may get: what its scratch is sized for.
const LEAST_ROWS: usize = 16;
/// Numbers that describe a tile of rows.
const TILE_WORDS: usize = 3;

/// The choice and the order of pairs, of the node's logits.
pub fn route(k: &mut Launcher, normalize: bool) {
    let (t, experts) = (k.in_type(0).rows(), k.in_type(0).cols());
    let top_k = k.out_type(1).cols();
    let args = RouteArgs {
        logits: k.input(0),
        weight: k.output(0),
        expert: k.output(1),
        rows: int(t),
        experts: int(experts),
        top_k: int(top_k),
        normalize: i32::from(normalize),
    };
    let rows = THREADS / k.wave();
    k.kernel(MODULE, "route_fwd_f32", [t.div_ceil(rows), 1, 1], THREADS, &args);
    let args = RouteOrderArgs {
        expert: k.output(1),
        order: k.output(2),
        first: k.output(3),
        pairs: int(t * top_k),
        unused: 0,
    };
    k.kernel(MODULE, "route_order", [experts + 1, 1, 1], THREADS, &args);
}

/// The gradient of the logits.
pub fn route_backward(k: &mut Launcher) {
    let (rows, experts) = (k.out_type(0).rows(), k.out_type(0).cols());
    let args = RouteBwdArgs {
        weight: k.input(0),
        expert: k.input(1),
        dweight: k.input(2),
        logits: if k.num_inputs() > 3 { k.input(3) } else { DevicePtr::NULL },
        dlogits: k.output(0),
        rows: int(rows),
        experts: int(experts),
        top_k: int(k.in_type(0).cols()),
        unused: 0,
    };
    let blocks = (rows * experts).div_ceil(THREADS);
    k.kernel(MODULE, "route_bwd_f32", [blocks, 1, 1], THREADS, &args);
}

/// The node's input 0 added over the pairs of each token, weighed if weights are given.
pub fn mix(k: &mut Launcher, weight: Option<DevicePtr>, top_k: usize) {
    let (rows, cols) = (k.out_type(0).rows(), k.out_type(0).cols());
    let args = MixArgs {
        y: k.input(0),
        weight: weight.unwrap_or(DevicePtr::NULL),
        out: k.output(0),
        rows: int(rows),
        cols: int(cols),
        top_k: int(top_k),
        unused: 0,
    };
    by_rows(k, MODULE, ["mix_experts_fwd_f32", "mix_experts_fwd_bf16"], [rows, cols], &args);
}

/// Gradients of the experts' rows and of their weights: inputs `y, weight, dout`, outputs
/// `dy, dweight`.
pub fn mix_backward(k: &mut Launcher) {
    let y = k.in_type(0);
    let args = MixBwdArgs {
        y: k.input(0),
        weight: k.input(1),
        dout: k.input(2),
        dy: k.output(0),
        dweight: k.output(1),
        cols: int(y.cols()),
        top_k: int(k.in_type(1).cols()),
    };
    let kernel = k.typed(["mix_experts_bwd_f32", "mix_experts_bwd_bf16"]);
    // Of the row's length alone, as the order of its sum is.
    let threads = y.cols().div_ceil(group(y.dtype)).next_multiple_of(64).clamp(64, THREADS);
    k.kernel(MODULE, kernel, [y.rows(), 1, 1], threads, &args);
}

/// Tiles of rows of `height` that some pairs of some experts may need.
fn most_tiles(pairs: usize, experts: usize, height: usize) -> usize {
    pairs / height + pairs.min(experts)
}

/// Bytes of `rows` gathered rows, so that what follows is aligned.
fn gathered(rows: usize, x: &TensorType) -> usize {
    (rows * x.cols() * x.dtype.size()).next_multiple_of(64)
}

/// Bytes of scratch for [`forward`] and [`backward_rows`] on rows like those of `x`.
pub fn rows_work(pairs: usize, experts: usize, x: &TensorType) -> usize {
    let tiles = most_tiles(pairs, experts, LEAST_ROWS);
    gathered(pairs, x) + (tiles * TILE_WORDS * size_of::<i32>()).max(1)
}

/// Bytes of scratch for [`backward_weights`].
pub fn weights_work(dy: &TensorType, x: &TensorType) -> usize {
    gathered(dy.rows(), dy) + gathered(dy.rows(), x).max(1)
}

/// Rows of input `from`, of which pair `p` reads `p / per_row`, in the order of experts.
fn gather(k: &mut Launcher, from: usize, pairs: usize, per_row: usize, out: DevicePtr) {
    let cols = k.in_type(from).cols();
    let args = ExpertGatherArgs {
        x: k.input(from),
        order: k.input(2),
        out,
        rows: int(pairs),
        cols: int(cols),
        per_row: int(per_row),
        unused: 0,
    };
    by_rows(k, MODULE, ["expert_gather_f32", "expert_gather_bf16"], [pairs, cols], &args);
}

/// Whether addresses and rows of `cols` elements are multiples of 16 bytes.
fn aligned(size: usize, cols: &[usize], at: &[DevicePtr]) -> bool {
    cols.iter().all(|c| (c * size).is_multiple_of(16)) && at.iter().all(|p| p.0.is_multiple_of(16))
}

/// The tile for `rows` rows per expert, of those that have the kernel.
fn tile(dtype: DType, aligned: bool, rows: usize, kernel: usize) -> Tile {
    match (dtype, aligned) {
        (DType::BF16, false) => ODD,
        (DType::BF16, true) if rows <= 16 && !FLAT.kernels[kernel].is_empty() => FLAT,
        (DType::BF16, true) if rows < 96 => SMALL,
        (DType::BF16, true) => SQUARE,
        (_, true) => SINGLE,
        (_, false) => ODD_SINGLE,
    }
}

/// Output 0 = rows of input 0 by the matrices of input 1, pair by pair.
fn rows_product(k: &mut Launcher, experts: usize, per_row: usize, kernel: usize) {
    let (x, y) = (k.in_type(0), k.out_type(0));
    let (pairs, depth, cols) = (y.rows(), x.cols(), y.cols());
    if pairs == 0 || cols == 0 {
        return;
    }
    let size = x.dtype.size();
    let whole = aligned(size, &[depth, cols], &[k.input(1), k.output(0), k.work()]);
    let tile = tile(x.dtype, whole, pairs.div_ceil(experts), kernel);
    let tiles = most_tiles(pairs, experts, tile.rows);
    let (rows, table) = (k.work(), k.work().offset(gathered(pairs, x)));
    gather(k, 0, pairs, per_row, rows);
    let args = ExpertTilesArgs {
        first: k.input(3),
        tile: table,
        experts: int(experts),
        tiles: int(tiles),
        height: int(tile.rows),
        unused: 0,
    };
    k.kernel(MODULE, "expert_tiles", [tiles.div_ceil(64), 1, 1], 64, &args);
    let args = ExpertMatmulArgs {
        x: rows,
        w: k.input(1),
        order: k.input(2),
        tile: table,
        y: k.output(0),
        tiles: int(tiles),
        cols: int(cols),
        depth: int(depth),
        vectors: i32::from(whole),
    };
    let shared = tile.shared[usize::from(k.wave() == 64)];
    let grid = [tiles * cols.div_ceil(tile.cols), 1, 1];
    k.kernel_with_shared(MODULE, tile.kernels[kernel], grid, tile.threads, &args, shared);
}

/// `y[p] = x[p / rows_per_token] W_eᵀ`: inputs `x, w, order, first`, output 0.
pub fn forward(k: &mut Launcher, experts: usize, rows_per_token: usize) {
    rows_product(k, experts, rows_per_token, FORWARD);
}

/// `d[p] = dy[p] W_e`: inputs `dy, w, order, first`, output 0.
pub fn backward_rows(k: &mut Launcher, experts: usize) {
    rows_product(k, experts, 1, ROWS);
}

/// `dw_e += Σ dy[p]ᵀ x[p / rows_per_token]`: inputs `dy, x, order, first`, output 1.
pub fn backward_weights(k: &mut Launcher, experts: usize, rows_per_token: usize) {
    let (dy, x) = (k.in_type(0), k.in_type(1));
    let (pairs, n, i) = (dy.rows(), dy.cols(), x.cols());
    let (left, right) = (k.work(), k.work().offset(gathered(pairs, dy)));
    gather(k, 0, pairs, 1, left);
    gather(k, 1, pairs, rows_per_token, right);
    let whole = aligned(dy.dtype.size(), &[n, i], &[left, right, k.output(1)]);
    let tile = tile(dy.dtype, whole, n.min(i), WEIGHTS);
    let args = ExpertDwArgs {
        dy: left,
        x: right,
        first: k.input(3),
        dw: k.output(1),
        rows: int(n),
        cols: int(i),
        vectors: i32::from(whole),
        unused: 0,
    };
    let shared = tile.shared[usize::from(k.wave() == 64)];
    let grid = [experts * n.div_ceil(tile.rows) * i.div_ceil(tile.cols), 1, 1];
    k.kernel_with_shared(MODULE, tile.kernels[WEIGHTS], grid, tile.threads, &args, shared);
}
