//! What the launches of several ops have in common: grids over groups of 16 bytes, and kernels that
//! more than one op uses. An op's own arguments are in its own file; no arithmetic is here.

pub mod attention; // softmax over key spans
pub mod experts; // mixtures of experts
pub mod fold; // sums over rows
pub mod grpo_loss; // the policy loss
pub mod linear_logprob; // the language-model head
pub mod matmul; // products of the linear layers
pub mod rows; // rows by index, and back
pub mod sample; // the sampler

use crate::base::DType;
use crate::ops::Launcher;
use bytemuck::Pod;

/// Threads of a block, where a thread owns a group.
const THREADS: usize = 256;

/// Elements in 16 bytes: what a thread moves at a time.
pub fn group(dtype: DType) -> usize {
    16 / dtype.size()
}

/// A size as kernels take it. Panics above 2^31: no tensor of one device has such a dimension.
pub fn int(n: usize) -> i32 {
    i32::try_from(n).expect("a dimension of a kernel's argument fits 31 bits")
}

/// Launches a kernel with a thread per group of `n` elements of the node's type; `names` are those for
/// singles and bf16.
pub fn flat(
    k: &mut Launcher,
    module: &'static str,
    names: [&'static str; 2],
    n: usize,
    args: &impl Pod,
) {
    let blocks = n.div_ceil(group(k.float_type()) * THREADS);
    k.kernel(module, k.typed(names), [blocks, 1, 1], THREADS, args);
}

/// Launches a kernel with a thread per group of each of `rows` rows of `cols` elements.
pub fn by_rows(
    k: &mut Launcher,
    module: &'static str,
    names: [&'static str; 2],
    [rows, cols]: [usize; 2],
    args: &impl Pod,
) {
    let groups = rows * cols.div_ceil(group(k.float_type()));
    assert!(i32::try_from(groups).is_ok(), "{module}: {rows} x {cols} has more than 2^31 groups");
    k.kernel(module, k.typed(names), [groups.div_ceil(THREADS), 1, 1], THREADS, args);
}

/// Groups of a row that a thread of a norm keeps in registers: `NORM_HELD` of norms.cu.
const NORM_HELD: usize = 4;

/// Threads of the block that owns a row of a norm: as few as hold the row in registers. Depends on the
/// row's length alone, as the order of its sums does.
pub fn norm_threads(cols: usize, dtype: DType) -> usize {
    cols.div_ceil(group(dtype) * NORM_HELD).next_multiple_of(64).clamp(64, 512)
}
