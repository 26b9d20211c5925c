//! Fast form of the attention op for singles and bf16. A task is a run of query rows (or key rows,
//! for their gradient) and one key head; keys are packed block by block and serve all rows of the
//! task that see the same ones, so siblings of a group share the packed prompt. Each score is one
//! chain over the head, each output element one chain over the keys of a block: a row's bits
//! depend neither on its task, nor on its neighbours, nor on threads or instruction set.
//!
//! On bf16 inputs every product is one of bf16 pairs with sums of singles; softmax weights and
//! score gradients are rounded to bf16 for the products, everything else stays in singles and is
//! rounded once where it is stored. Outputs add `+ 0.0`: how many zeros a chain was lengthened by
//! shows in nothing but the sign of a zero.

mod backward;
mod backward_keys;
mod forward;
mod panel;
mod product;
mod softmax;

pub use backward::backward_dq;
pub use backward_keys::backward_dkv;
pub use forward::forward;

use crate::ops::attention::{Attention, KEY_BLOCK, Segment};
use bytemuck::{Pod, Zeroable};
use product::LANES;
use std::cell::RefCell;
use std::ops::Range;

const B: usize = KEY_BLOCK;
/// One row of scores against a block.
type Lanes = [f32; B];
/// Most rows of a task: a multiple of a tile's, enough that packing keys does not count.
const MAX_TASK_ROWS: usize = 252;

/// A run of query rows and one key head.
struct Task {
    kv: usize,
    queries: Range<usize>,
}

/// Cuts `rows` rows of `kv_heads` heads, `weight` tile rows each, into tasks: few enough to share
/// packed blocks, enough to feed all threads. No result depends on the cut.
fn tasks(rows: usize, kv_heads: usize, weight: usize, per_thread: usize) -> Vec<Task> {
    let wanted = per_thread * rayon::current_num_threads();
    let step = (rows * kv_heads).div_ceil(wanted).clamp(1, (MAX_TASK_ROWS / weight).max(1));
    let runs = (0..rows).step_by(step).map(|at| at..(at + step).min(rows));
    (0..kv_heads).flat_map(|kv| runs.clone().map(move |queries| Task { kv, queries })).collect()
}

/// Consecutive query rows and a block of keys that they see, at least the first of it.
struct Batch<'a> {
    /// Position of the block's first key.
    block: usize,
    /// Rows of the keys; at most [`B`].
    keys: &'a [usize],
    /// How many of the first keys are those of the batch before.
    known: usize,
    /// The query rows.
    queries: Range<usize>,
}

/// The queries of one segment in a task.
struct Member<'a> {
    segment: &'a Segment,
    queries: Range<usize>,
}

impl Member<'_> {
    /// How many keys query row `t` sees.
    fn visible(&self, t: usize) -> usize {
        self.segment.visible(t - self.segment.queries.start)
    }
    /// The query rows that see a key at position `block`.
    fn seeing(&self, block: usize) -> Range<usize> {
        let last = self.visible(self.queries.end - 1);
        let hidden = if last <= block {
            self.queries.len()
        } else if self.segment.causal {
            (block + 1).saturating_sub(self.visible(self.queries.start))
        } else {
            0
        };
        self.queries.start + hidden..self.queries.end
    }
    /// Rows of the keys in a block that any of the queries sees.
    fn keys(&self, block: usize, rows: &mut Vec<usize>) {
        let end = self.visible(self.queries.end - 1).min(block + B);
        let mut position = 0;
        rows.clear();
        for span in &self.segment.keys {
            let (from, to) = (block.max(position), end.min(position + span.len));
            if from < to {
                rows.extend(span.start + from - position..span.start + to - position);
            }
            position += span.len;
        }
    }
}

/// What the query rows of a task see.
struct Walk<'a> {
    members: Vec<Member<'a>>,
    first: usize,
    /// Keys that each query row sees.
    visible: Vec<usize>,
}

impl<'a> Walk<'a> {
    fn new(a: &'a Attention, queries: &Range<usize>) -> Self {
        let end = |s: &Segment| s.queries.start + s.queries.len;
        let from = a.segments.partition_point(|s| end(s) <= queries.start);
        let members: Vec<_> = a.segments[from..]
            .iter()
            .take_while(|s| s.queries.start < queries.end)
            .map(|segment| {
                let own = segment.queries.start.max(queries.start)..end(segment).min(queries.end);
                Member { segment, queries: own }
            })
            .filter(|m| !m.queries.is_empty())
            .collect();
        let visible =
            members.iter().flat_map(|m| m.queries.clone().map(|t| m.visible(t))).collect();
        Walk { members, first: queries.start, visible }
    }

    /// How many keys of a block a query row sees.
    #[inline(always)]
    fn seen(&self, t: usize, block: usize) -> usize {
        self.visible[t - self.first].saturating_sub(block).min(B)
    }

    /// Visits the blocks in order, each with all rows that see some of it; neighbours whose block
    /// has the same keys come together.
    fn for_each(&self, mut f: impl FnMut(&Batch)) {
        let most = self.visible.iter().copied().max().unwrap_or(0);
        let (mut keys, mut next) = (Vec::with_capacity(B), Vec::with_capacity(B));
        for block in (0..most).step_by(B) {
            let (mut queries, mut known) = (0..0, 0);
            for m in &self.members {
                let seeing = m.seeing(block);
                if seeing.is_empty() {
                    continue;
                }
                m.keys(block, &mut next);
                if seeing.start == queries.end && next == keys {
                    queries.end = seeing.end;
                    continue;
                }
                if !queries.is_empty() {
                    f(&Batch { block, keys: &keys, known, queries });
                }
                known = keys.iter().zip(&next).take_while(|(a, b)| a == b).count();
                std::mem::swap(&mut keys, &mut next);
                queries = seeing;
            }
            if !queries.is_empty() {
                f(&Batch { block, keys: &keys, known, queries });
            }
        }
    }
}

/// A cache line, so that scratch memory starts on one.
#[derive(Clone, Copy, Zeroable, Pod)]
#[repr(C, align(64))]
struct Line([u32; LANES]);

thread_local! {
    static SCRATCH: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// Lends pieces of the thread's scratch memory, of these numbers of units, each from the start of
/// a cache line and with whatever was there before.
fn with_scratch<const N: usize>(sizes: [usize; N], f: impl FnOnce([&mut [u32]; N])) {
    SCRATCH.with_borrow_mut(|lines| {
        let total = sizes.iter().map(|n| n.div_ceil(LANES)).sum();
        if lines.len() < total {
            lines.resize(total, Line([0; LANES]));
        }
        let mut rest: &mut [u32] = bytemuck::cast_slice_mut(lines);
        f(sizes.map(|n| {
            let (piece, tail) = std::mem::take(&mut rest).split_at_mut(n.next_multiple_of(LANES));
            rest = tail;
            &mut piece[..n]
        }));
    });
}

/// Scratch memory as numbers.
fn floats(x: &mut [u32]) -> &mut [f32] {
    bytemuck::cast_slice_mut(x)
}
