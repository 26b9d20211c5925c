//! Launches of the language-model head (`kernels/common/logprob.cu`): one kernel walks the vocabulary
//! for the forward pass; the backward pass takes it in chunks, three products each. Chunks, grids and
//! kernels are chosen by sizes alone and change no bit of a log-probability. Computes nothing.

use crate::base::{DType, Result};
use crate::device::DevicePtr;
use crate::ops::cpu::logsumexp::VOCAB_TILE;
use crate::ops::gpu::int;
use crate::ops::linear_logprob::{BWD_FRESH, HeadSettings};
use crate::ops::{Launcher, TensorType};
use std::sync::Arc;

const MODULE: &str = "logprob";
/// Rows and columns of a block's product.
const BLOCK: usize = 128;
/// Columns of a strip: `GRT_VOCAB_STRIP`.
const STRIP: usize = 128;
/// Numbers of a statistic: top, sum, weighted sum.
const NUMBERS: usize = 3;
/// Kind of the table of forbidden tokens.
const FORBIDDEN_TABLE: u32 = 1;

/// The table of forbidden tokens, as `grt_forbidden` reads it: the number of tiles that it knows,
/// where the tokens of each begin and those of the last one end, the tokens.
pub fn forbidden_words(forbidden: &[u32]) -> Vec<i32> {
    let tiles = forbidden.last().map_or(0, |&t| t as usize / VOCAB_TILE + 1);
    let before = |tile: usize| forbidden.partition_point(|&t| (t as usize) < tile * VOCAB_TILE);
    let mut words = vec![int(tiles)];
    words.extend((0..=tiles).map(|tile| int(tiles + 2 + before(tile))));
    words.extend(forbidden.iter().map(|&t| t as i32));
    words
}

/// Identity of [`forbidden_words`].
pub fn forbidden_key(head: &Arc<HeadSettings>) -> (usize, u32) {
    (Arc::as_ptr(head) as usize, FORBIDDEN_TABLE)
}

/// As in the kernels.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct LogprobFwdArgs {
    h: DevicePtr,
    w: DevicePtr,
    target: DevicePtr,
    table: DevicePtr,
    logp: DevicePtr,
    lse: DevicePtr,
    entropy: DevicePtr,
    parts: DevicePtr,
    rows: i32,
    hidden: i32,
    vocab: i32,
    tiles: i32,
    inv_temperature: f32,
    unused: i32,
}
const _: () = assert!(size_of::<LogprobFwdArgs>() == 88);

/// As in the kernels.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct LogprobBwdArgs {
    h: DevicePtr,
    w: DevicePtr,
    target: DevicePtr,
    lse: DevicePtr,
    dlogp: DevicePtr,
    held_entropy: DevicePtr,
    dentropy: DevicePtr,
    table: DevicePtr,
    dh: DevicePtr,
    active: DevicePtr,
    dz: DevicePtr,
    strips: DevicePtr,
    sums: DevicePtr,
    dw: DevicePtr,
    logp: DevicePtr,
    entropy: DevicePtr,
    parts: DevicePtr,
    logits: DevicePtr,
    index: DevicePtr,
    count: DevicePtr,
    rows: i32,
    hidden: i32,
    vocab: i32,
    tiles: i32,
    first: i32,
    cols: i32,
    stride: i32,
    check: i32,
    inv_temperature: f32,
    unused: i32,
}
const _: () = assert!(size_of::<LogprobBwdArgs>() == 200);

/// A kernel for rows of whole vectors and one for odd rows, each for singles and for bf16; and bytes of
/// dynamic shared memory of each, with waves of 32 and of 64.
struct Product {
    names: [[&'static str; 2]; 2],
    shared: [[[usize; 2]; 2]; 2],
}

/// Shared memory of the plain products.
const PLAIN: [[[usize; 2]; 2]; 2] =
    [[[33792, 33792], [65536, 32768]], [[33792, 33792], [32768, 32768]]];

const FWD: Product = Product {
    names: [
        ["linear_logprob_fwd_f32", "linear_logprob_fwd_bf16"],
        ["linear_logprob_fwd_odd_f32", "linear_logprob_fwd_odd_bf16"],
    ],
    shared: [[[47104, 47104], [77824, 47104]], [[47104, 47104], [47104, 47104]]],
};
const BWD_DZ: Product = Product {
    names: [
        ["linear_logprob_bwd_dz_f32", "linear_logprob_bwd_dz_bf16"],
        ["linear_logprob_bwd_dz_odd_f32", "linear_logprob_bwd_dz_odd_bf16"],
    ],
    shared: [[[37376, 37376], [68096, 37376]], [[37376, 37376], [37376, 37376]]],
};
const BWD_SUMS: Product = Product {
    names: [
        ["linear_logprob_bwd_sums_f32", "linear_logprob_bwd_sums_bf16"],
        ["linear_logprob_bwd_sums_odd_f32", "linear_logprob_bwd_sums_odd_bf16"],
    ],
    shared: PLAIN,
};
const BWD_DW: Product = Product {
    names: [
        ["linear_logprob_bwd_dw_f32", "linear_logprob_bwd_dw_bf16"],
        ["linear_logprob_bwd_dw_odd_f32", "linear_logprob_bwd_dw_odd_bf16"],
    ],
    shared: PLAIN,
};

impl Product {
    /// Launches it with a block per tile.
    fn launch(&self, k: &mut Launcher, [m, n]: [usize; 2], args: &impl bytemuck::Pod) {
        let row = k.in_type(0).cols() * k.in_type(0).dtype.size();
        let odd = usize::from(!row.is_multiple_of(16));
        let bf16 = usize::from(k.float_type() == DType::BF16);
        let shared = self.shared[odd][bf16][usize::from(k.wave() == 64)];
        // Four waves.
        let threads = 4 * k.wave();
        k.kernel_with_shared(MODULE, self.names[odd][bf16], [m * n, 1, 1], threads, args, shared);
    }
}

/// Bytes of statistics of all tiles.
fn parts_bytes(rows: usize, vocab: usize) -> usize {
    rows * vocab.div_ceil(VOCAB_TILE) * NUMBERS * 4
}

/// Scratch of the forward pass: statistics of the tiles, where its tile of logits cannot hold them.
pub fn forward_work(inputs: &[&TensorType], outputs: &[&TensorType]) -> usize {
    let bytes = parts_bytes(inputs[0].rows(), inputs[1].rows());
    let fits = outputs.get(3).is_none_or(|tile| bytes <= tile.len() * tile.dtype.size());
    if fits { 0 } else { bytes }
}

/// Enqueues the forward pass.
pub fn launch_forward(k: &mut Launcher, head: &HeadSettings, known: bool) -> Result<()> {
    let (rows, hidden, vocab) = (k.in_type(0).rows(), k.in_type(0).cols(), k.in_type(1).rows());
    if known {
        for i in 0..3 {
            k.copy(k.output(i), k.input(3 + i), 4 * rows);
        }
        return Ok(());
    }
    let tile = k.out_type(3);
    let parts_fit = parts_bytes(rows, vocab) <= tile.len() * tile.dtype.size();
    let tiles = vocab.div_ceil(VOCAB_TILE);
    let args = LogprobFwdArgs {
        h: k.input(0),
        w: k.input(1),
        target: k.input(2),
        table: k.table(),
        logp: k.output(0),
        lse: k.output(1),
        entropy: k.output(2),
        parts: if parts_fit { k.output(3) } else { k.work() },
        rows: int(rows),
        hidden: int(hidden),
        vocab: int(vocab),
        tiles: int(tiles),
        inv_temperature: head.inv_temperature() as f32,
        unused: 0,
    };
    FWD.launch(k, [rows.div_ceil(BLOCK), tiles], &args);
    k.kernel(MODULE, "linear_logprob_fwd_rows", [rows.div_ceil(64), 1, 1], 64, &args);
    Ok(())
}

/// Places of the backward pass's scratch: statistics of tiles, logits of targets, indices, count; and
/// its size.
fn backward_places(rows: usize, vocab: usize, check: bool) -> [usize; 5] {
    let sizes = [
        if check { parts_bytes(rows, vocab) } else { 0 },
        if check { 4 * rows } else { 0 },
        4 * rows,
        4,
    ];
    let mut places = [0; 5];
    for (i, size) in sizes.into_iter().enumerate() {
        places[i + 1] = (places[i] + size).next_multiple_of(64);
    }
    places
}

/// Scratch of the backward pass in bytes.
pub fn backward_work(inputs: &[&TensorType], check: bool) -> usize {
    backward_places(inputs[0].rows(), inputs[1].rows(), check)[4]
}

/// Enqueues the backward pass.
pub fn launch_backward(
    k: &mut Launcher,
    head: &HeadSettings,
    weight: bool,
    check: bool,
    bonus: bool,
) -> Result<()> {
    let (h, vocab) = (k.in_type(0), k.in_type(1).rows());
    let (rows, hidden) = (h.rows(), h.cols());
    // The gradients of a chunk lie where the CPU keeps a tile of logits: as wide as fits there.
    let stride = k.out_type(2).cols() * 4 / h.dtype.size();
    let chunk = stride / VOCAB_TILE * VOCAB_TILE;
    let [parts, logits, index, count, _] = backward_places(rows, vocab, check);
    let checked = BWD_FRESH + usize::from(weight);
    let mut args = LogprobBwdArgs {
        h: k.input(0),
        w: k.input(1),
        target: k.input(2),
        lse: k.input(3),
        dlogp: k.input(4),
        held_entropy: if bonus { k.input(5) } else { DevicePtr::NULL },
        dentropy: if bonus { k.input(6) } else { DevicePtr::NULL },
        table: k.table(),
        dh: k.output(0),
        active: k.output(1),
        dz: k.output(2),
        strips: k.output(3),
        sums: k.output(4),
        dw: if weight { k.output(BWD_FRESH) } else { DevicePtr::NULL },
        logp: if check { k.output(checked) } else { DevicePtr::NULL },
        entropy: if check { k.output(checked + 1) } else { DevicePtr::NULL },
        parts: k.work().offset(parts),
        logits: k.work().offset(logits),
        index: k.work().offset(index),
        count: k.work().offset(count),
        rows: int(rows),
        hidden: int(hidden),
        vocab: int(vocab),
        tiles: int(vocab.div_ceil(VOCAB_TILE)),
        first: 0,
        cols: 0,
        stride: int(stride),
        check: i32::from(check),
        inv_temperature: head.inv_temperature() as f32,
        unused: 0,
    };
    let gather = k.typed(["linear_logprob_bwd_gather_f32", "linear_logprob_bwd_gather_bf16"]);
    let scatter = k.typed(["linear_logprob_bwd_scatter_f32", "linear_logprob_bwd_scatter_bf16"]);
    k.fill(args.dh, 0, h.len() * h.dtype.size());
    k.kernel(MODULE, "linear_logprob_bwd_rows", [1, 1, 1], 1024, &args);
    k.kernel(MODULE, gather, [rows, 1, 1], 128, &args);
    let blocks = |n: usize| n.div_ceil(BLOCK);
    for first in (0..vocab).step_by(chunk) {
        let cols = chunk.min(vocab - first);
        (args.first, args.cols) = (int(first), int(cols));
        BWD_DZ.launch(k, [blocks(rows), cols.div_ceil(STRIP)], &args);
        BWD_SUMS.launch(k, [blocks(rows), blocks(hidden)], &args);
        if weight {
            BWD_DW.launch(k, [blocks(cols), blocks(hidden)], &args);
        }
    }
    k.kernel(MODULE, scatter, [rows, 1, 1], 128, &args);
    if check {
        k.kernel(MODULE, "linear_logprob_bwd_check", [rows.div_ceil(64), 1, 1], 64, &args);
    }
    Ok(())
}
