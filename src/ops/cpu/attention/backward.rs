//! Gradient of the queries, and `delta`. Walks the same blocks as the forward pass; no row reads
//! what another row computed.

use super::panel::{Source, pack_across, pack_along, pack_rows, per_unit, units};
use super::product::{Kernels, LANES, MAX_ROWS, Product, Start};
use super::softmax::{Scored, query_gradients};
use super::{B, Batch, Lanes, Task, Walk, floats, tasks, with_scratch};
use crate::ops::Stored;
use crate::ops::attention::Attention;
use crate::ops::cpu::rows::ColumnWriter;
use crate::ops::cpu::vecmath::dot;
use crate::ops::cpu::{Isa, vectorised};
use rayon::prelude::*;

/// `[q, k, v, o, do]` and `lse` to `dq` and `delta`.
pub fn backward_dq<T: Stored>(
    a: &Attention,
    inputs: [&[T]; 5],
    lse: &[f32],
    dq: &mut [T],
    delta: &mut [f32],
) {
    let (d, n, m) = (a.head_dim, a.heads, a.kv_heads);
    let rows = lse.len() / n;
    let dq = ColumnWriter::new(dq, rows, n * d);
    let delta = ColumnWriter::new(delta, rows, n);
    tasks(rows, m, n / m, 2).into_par_iter().for_each(|task| one(a, inputs, lse, dq, delta, &task));
}

/// Scratch memory of a task.
struct Room<'a> {
    /// Query rows and their outputs' gradients, `[rows][units(d)]`.
    q: &'a mut [u32],
    dout: &'a mut [u32],
    /// A block of keys and of values across, `[units(d)][64]`; keys along, `[units(64)][width]`.
    k: &'a mut [u32],
    v: &'a mut [u32],
    k_along: &'a mut [u32],
    /// Sums of the gradient, `[rows][width]`.
    dq: &'a mut [f32],
    /// Per row.
    lse: &'a mut [f32],
    delta: &'a mut [f32],
    /// Of a tile: scores, gradients of the weights, gradients of the scores.
    scores: &'a mut [Lanes],
    dp: &'a mut [Lanes],
    ds: &'a mut [u32],
}

fn one<T: Stored>(
    a: &Attention,
    [q, k, v, o, dout]: [&[T]; 5],
    lse: &[f32],
    dq: ColumnWriter<T>,
    delta: ColumnWriter<f32>,
    task: &Task,
) {
    let (d, n, m) = (a.head_dim, a.heads, a.kv_heads);
    let group = n / m;
    let (rows, width, depth) =
        (task.queries.len() * group, d.next_multiple_of(LANES), units::<T>(d));
    let (tile, across) = (MAX_ROWS * B, depth * B);
    let along = units::<T>(B) * width;
    let sizes = [
        rows * depth,
        rows * depth,
        across,
        across,
        along,
        rows * width,
        rows,
        rows,
        tile,
        tile,
        tile / per_unit::<T>(),
    ];
    with_scratch(sizes, |[qs, gs, ks, vs, k_along, acc, lses, deltas, scores, dp, ds]| {
        let mut room = Room {
            q: qs,
            dout: gs,
            k: ks,
            v: vs,
            k_along,
            dq: floats(acc),
            lse: floats(lses),
            delta: floats(deltas),
            scores: bytemuck::cast_slice_mut(scores),
            dp: bytemuck::cast_slice_mut(dp),
            ds,
        };
        let of_row = |r: usize| (task.queries.start + r / group) * n + task.kv * group + r % group;
        let heads = |x| Source { x, stride: d, column: 0, d };
        pack_rows(room.q, heads(q), (0..rows).map(of_row));
        pack_rows(room.dout, heads(dout), (0..rows).map(of_row));
        for r in 0..rows {
            room.lse[r] = lse[of_row(r)];
            room.delta[r] = product_sum(heads(o).row(of_row(r)), heads(dout).row(of_row(r)));
        }
        room.dq.fill(0.0);
        let keys = |x| Source { x, stride: m * d, column: task.kv * d, d };
        let (k, v) = (keys(k), keys(v));
        let walk = Walk::new(a, &task.queries);
        let kernels = Kernels::best::<T>();
        walk.for_each(|batch| {
            pack_across(room.k, k, batch.keys, batch.known);
            pack_across(room.v, v, batch.keys, batch.known);
            pack_along(room.k_along, width, k, batch.keys, batch.known);
            block::<T>(&mut room, &walk, batch, kernels, (group, width, a.scale as f32));
        });
        let h = task.kv * group;
        vectorised(
            #[inline(always)]
            || {
                for (i, t) in task.queries.clone().enumerate() {
                    // SAFETY: the rows and heads of a task are its own.
                    let (dq, delta) =
                        unsafe { (dq.row(t, h * d..(h + group) * d), delta.row(t, h..h + group)) };
                    delta.copy_from_slice(&room.delta[i * group..][..group]);
                    for (g, dq) in dq.chunks_exact_mut(d).enumerate() {
                        for (to, x) in dq.iter_mut().zip(&room.dq[(i * group + g) * width..]) {
                            *to = T::store(x * a.scale as f32 + 0.0);
                        }
                    }
                }
            },
        );
    });
}

/// `Σ x·y` in the order of [`dot`].
fn product_sum<T: Stored>(x: &[T], y: &[T]) -> f32 {
    const MAX_HEAD: usize = 512;
    let (mut wide_x, mut wide_y) = ([0.0; MAX_HEAD], [0.0; MAX_HEAD]);
    let mut sum = 0.0;
    for (x, y) in x.chunks(MAX_HEAD).zip(y.chunks(MAX_HEAD)) {
        let (wide_x, wide_y) = (&mut wide_x[..x.len()], &mut wide_y[..x.len()]);
        sum += vectorised(
            #[inline(always)]
            || {
                wide_x.iter_mut().zip(x).for_each(|(w, x)| *w = x.load());
                wide_y.iter_mut().zip(y).for_each(|(w, y)| *w = y.load());
                dot(wide_x, wide_y)
            },
        );
    }
    sum
}

/// Adds a packed block to the gradients of the rows that see it.
fn block<T: Stored>(
    room: &mut Room,
    walk: &Walk,
    batch: &Batch,
    kernels: &Kernels,
    (group, width, scale): (usize, usize, f32),
) {
    let depth = room.k.len() / B;
    let first = walk.first;
    let end = (batch.queries.end - first) * group;
    for r in ((batch.queries.start - first) * group..end).step_by(MAX_ROWS) {
        let rows = MAX_ROWS.min(end - r);
        let mut seen = [0; MAX_ROWS];
        for (i, s) in seen[..rows].iter_mut().enumerate() {
            *s = walk.seen(first + (r + i) / group, batch.block);
        }
        let most = seen.iter().copied().max().unwrap_or(0);
        let inner = |a: &[u32], b: &[u32], c: &mut [Lanes]| {
            kernels.multiply(Product {
                rows,
                vectors: most.div_ceil(LANES),
                steps: depth,
                a: &a[r * depth..],
                a_stride: depth,
                b,
                b_stride: B,
                c: c.as_flattened_mut(),
                c_stride: B,
                start: Start::Zero,
            });
        };
        inner(room.q, room.k, room.scores);
        inner(room.dout, room.v, room.dp);
        let tile = Scored { scores: &room.scores[..rows], dp: &room.dp[..rows], scale };
        let statistics = [&room.lse[r..r + rows], &room.delta[r..r + rows]];
        let ds: &mut [T] = bytemuck::cast_slice_mut(room.ds);
        query_gradients(Isa::best(), tile, &seen, statistics, ds);
        kernels.multiply(Product {
            rows,
            vectors: width / LANES,
            steps: most.div_ceil(per_unit::<T>()),
            a: room.ds,
            a_stride: units::<T>(B),
            b: room.k_along,
            b_stride: width,
            c: &mut room.dq[r * width..],
            c_stride: width,
            start: Start::Scaled(&[1.0; MAX_ROWS]),
        });
    }
}
