//! Gradient of keys and values. A task is a run of key rows and one key head: each gradient row
//! has one writer, which visits segments, heads of the group and queries in order. Queries come in
//! blocks of 64 by their position, so that a pair of bf16 holds the same two queries whether the
//! segment's prompt lies before them or is shared.

use super::panel::{NO_ROW, Source, pack_across, pack_along, pack_rows, per_unit, units};
use super::product::{Kernels, LANES, MAX_ROWS, Product, Start};
use super::softmax::{Scored, key_gradients};
use super::{B, Lanes, Task, floats, tasks, with_scratch};
use crate::ops::Stored;
use crate::ops::attention::{Attention, Segment};
use crate::ops::cpu::rows::ColumnWriter;
use crate::ops::cpu::{Isa, vectorised};
use rayon::prelude::*;
use std::ops::Range;

/// What the gradient of the keys is made of.
#[derive(Clone, Copy)]
struct Inputs<'a, T> {
    q: &'a [T],
    k: &'a [T],
    v: &'a [T],
    dout: &'a [T],
    lse: &'a [f32],
    delta: &'a [f32],
}

/// `[q, k, v, do]` and `[lse, delta]` to `dk` and `dv`.
pub fn backward_dkv<T: Stored>(
    a: &Attention,
    [q, k, v, dout]: [&[T]; 4],
    [lse, delta]: [&[f32]; 2],
    dk: &mut [T],
    dv: &mut [T],
) {
    let cols = a.kv_heads * a.head_dim;
    let rows = k.len() / cols;
    let (dk, dv) = (ColumnWriter::new(dk, rows, cols), ColumnWriter::new(dv, rows, cols));
    let inputs = Inputs { q, k, v, dout, lse, delta };
    tasks(rows, a.kv_heads, 1, 4).into_par_iter().for_each(|task| one(a, inputs, [dk, dv], &task));
}

/// Scratch memory of a task.
struct Room<'a> {
    /// Rows of keys and of values, `[rows][units(d)]`.
    k: &'a mut [u32],
    v: &'a mut [u32],
    /// A block of queries and of their outputs' gradients, across and along.
    q: &'a mut [u32],
    dout: &'a mut [u32],
    q_along: &'a mut [u32],
    dout_along: &'a mut [u32],
    /// Sums of the gradients, `[rows][width]`.
    dk: &'a mut [f32],
    dv: &'a mut [f32],
    /// Of a tile: scores and gradients of the weights, then the weights and the scores' gradients.
    scores: &'a mut [Lanes],
    dp: &'a mut [Lanes],
    p: &'a mut [u32],
    ds: &'a mut [u32],
}

fn one<T: Stored>(a: &Attention, inputs: Inputs<T>, out: [ColumnWriter<T>; 2], task: &Task) {
    let (d, m) = (a.head_dim, a.kv_heads);
    let run = &task.queries; // of key rows, here
    let (rows, width, depth) = (run.len(), d.next_multiple_of(LANES), units::<T>(d));
    let (tile, across, along) = (MAX_ROWS * B, depth * B, units::<T>(B) * width);
    let weights = tile / per_unit::<T>();
    let sizes = [
        rows * depth,
        rows * depth,
        across,
        across,
        along,
        along,
        rows * width,
        rows * width,
        tile,
        tile,
        weights,
        weights,
    ];
    with_scratch(sizes, |[k, v, q, dout, q_along, dout_along, dk, dv, scores, dp, p, ds]| {
        let mut room = Room {
            k,
            v,
            q,
            dout,
            q_along,
            dout_along,
            dk: floats(dk),
            dv: floats(dv),
            scores: bytemuck::cast_slice_mut(scores),
            dp: bytemuck::cast_slice_mut(dp),
            p,
            ds,
        };
        let keys = |x| Source { x, stride: m * d, column: task.kv * d, d };
        pack_rows(room.k, keys(inputs.k), run.clone());
        pack_rows(room.v, keys(inputs.v), run.clone());
        room.dk.fill(0.0);
        room.dv.fill(0.0);
        for segment in a.segments.iter() {
            let mut position = 0; // of the span's first key within the segment
            for span in &segment.keys {
                let (lo, hi) = (span.start.max(run.start), (span.start + span.len).min(run.end));
                if lo < hi {
                    let keys = Keys {
                        rows: lo - run.start..hi - run.start,
                        position: position + lo - span.start,
                    };
                    for g in 0..a.heads / m {
                        let h = task.kv * (a.heads / m) + g;
                        visit(&mut room, a, inputs, (segment, &keys, h));
                    }
                }
                position += span.len;
            }
        }
        let sums = [(&*room.dk, a.scale as f32), (&*room.dv, 1.0)];
        vectorised(
            #[inline(always)]
            || {
                for (r, row) in run.clone().enumerate() {
                    for (out, (sums, scale)) in out.iter().zip(sums) {
                        // SAFETY: the key rows and the head of a task are its own.
                        let to = unsafe { out.row(row, task.kv * d..(task.kv + 1) * d) };
                        for (to, x) in to.iter_mut().zip(&sums[r * width..]) {
                            *to = T::store(x * scale + 0.0);
                        }
                    }
                }
            },
        );
    });
}

/// Rows of a task that are neighbours among a segment's keys.
struct Keys {
    rows: Range<usize>,
    /// Position of the first.
    position: usize,
}

/// A block of queries: columns `columns` are query rows that exist.
struct Block {
    columns: Range<usize>,
    /// The first column that sees the key at position 0; negative positions are before the block.
    sees: isize,
    lse: Lanes,
    delta: Lanes,
}

/// Adds what the queries of a segment give to its keys under one head.
fn visit<T: Stored>(
    room: &mut Room,
    a: &Attention,
    inputs: Inputs<T>,
    (segment, keys, h): (&Segment, &Keys, usize),
) {
    let (d, n) = (a.head_dim, a.heads);
    let width = d.next_multiple_of(LANES);
    let queries = segment.queries;
    // Query i has position `offset + i`; column 0 of the first block has an even one.
    let offset = if segment.causal { segment.num_keys() - queries.len } else { 0 };
    let pad = offset % 2;
    let first = if segment.causal { (keys.position.max(offset) - offset + pad) / B * B } else { 0 };
    let heads = |x| Source { x, stride: d, column: 0, d };
    let kernels = Kernels::best::<T>();
    for at in (first..queries.len + pad).step_by(B) {
        let columns = pad.saturating_sub(at)..B.min(queries.len + pad - at);
        let mut rows = [NO_ROW; B];
        let mut block = Block {
            columns: columns.clone(),
            sees: if segment.causal {
                pad as isize - (offset + at) as isize
            } else {
                isize::MIN / 2
            },
            lse: [0.0; B],
            delta: [0.0; B],
        };
        for j in columns.clone() {
            rows[j] = (queries.start + at + j - pad) * n + h;
            block.lse[j] = inputs.lse[rows[j]];
            block.delta[j] = inputs.delta[rows[j]];
        }
        let rows = &rows[..columns.end];
        pack_across(room.q, heads(inputs.q), rows, 0);
        pack_across(room.dout, heads(inputs.dout), rows, 0);
        pack_along(room.q_along, width, heads(inputs.q), rows, 0);
        pack_along(room.dout_along, width, heads(inputs.dout), rows, 0);
        add_block::<T>(room, &block, keys, kernels, (width, a.scale as f32));
    }
}

/// Adds a packed block of queries to the gradients of the keys that it sees.
fn add_block<T: Stored>(
    room: &mut Room,
    block: &Block,
    keys: &Keys,
    kernels: &Kernels,
    (width, scale): (usize, f32),
) {
    let (depth, per) = (room.q.len() / B, per_unit::<T>());
    for r in keys.rows.clone().step_by(MAX_ROWS) {
        let rows = MAX_ROWS.min(keys.rows.end - r);
        let position = (keys.position + r - keys.rows.start) as isize;
        let sees = |i: usize| {
            (block.sees + position + i as isize).max(block.columns.start as isize) as usize
        };
        let (from, to) = (sees(0) / LANES, block.columns.end.div_ceil(LANES));
        if sees(0) >= block.columns.end {
            break; // later keys are seen by even fewer
        }
        let inner = |a: &[u32], b: &[u32], c: &mut [Lanes]| {
            kernels.multiply(Product {
                rows,
                vectors: to - from,
                steps: depth,
                a: &a[r * depth..],
                a_stride: depth,
                b: &b[from * LANES..],
                b_stride: B,
                c: &mut c.as_flattened_mut()[from * LANES..],
                c_stride: B,
                start: Start::Zero,
            });
        };
        inner(room.k, room.q, room.scores);
        inner(room.v, room.dout, room.dp);
        let tile = Scored { scores: &room.scores[..rows], dp: &room.dp[..rows], scale };
        let end = block.columns.end;
        let seen = std::array::from_fn(|i| sees(i).min(end)..end);
        let to = [&mut *room.p, &mut *room.ds].map(bytemuck::cast_slice_mut::<u32, T>);
        key_gradients(Isa::best(), tile, &seen, [&block.lse, &block.delta], to);
        let skip = from * LANES / per;
        let outer = |a: &[u32], b: &[u32], c: &mut [f32]| {
            kernels.multiply(Product {
                rows,
                vectors: width / LANES,
                steps: block.columns.end.div_ceil(per) - skip,
                a: &a[skip..],
                a_stride: B / per,
                b: &b[skip * width..],
                b_stride: width,
                c: &mut c[r * width..],
                c_stride: width,
                start: Start::Scaled(&[1.0; MAX_ROWS]),
            });
        };
        outer(room.p, room.dout_along, room.dv);
        outer(room.ds, room.q_along, room.dk);
    }
}
