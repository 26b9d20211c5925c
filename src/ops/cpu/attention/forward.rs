//! Forward attention: scores of a block, running maximum, weights, weighted sum of the values.
//! No score is ever stored beyond a tile of six rows.

use super::panel::{Source, pack_across, pack_along, pack_rows, per_unit, prefetch, units};
use super::product::{Kernels, LANES, MAX_ROWS, Product, Start};
use super::softmax::{Running, soften};
use super::{B, Batch, Lanes, Task, Walk, floats, tasks, with_scratch};
use crate::ops::Stored;
use crate::ops::attention::Attention;
use crate::ops::cpu::rows::ColumnWriter;
use crate::ops::cpu::vecmath::ln;
use crate::ops::cpu::{Isa, vectorised};
use rayon::prelude::*;

/// See [`Attention`]: `[q, k, v]` to `o` and `lse`.
///
/// The softmax denominator sums the weights before they are rounded to bf16: `lse` is then as good
/// as in singles, which the backward pass and the shared prompt rely on, and the rounding errors
/// of the weights, being independent, cancel in the output as they would in the sum.
pub fn forward<T: Stored>(a: &Attention, [q, k, v]: [&[T]; 3], o: &mut [T], lse: &mut [f32]) {
    let (d, n, m) = (a.head_dim, a.heads, a.kv_heads);
    let rows = lse.len() / n;
    let o = ColumnWriter::new(o, rows, n * d);
    let lse = ColumnWriter::new(lse, rows, n);
    tasks(rows, m, n / m, 2).into_par_iter().for_each(|task| one(a, [q, k, v], o, lse, &task));
}

/// Scratch memory of a task.
struct Room<'a> {
    /// Query rows, `[rows][units(d)]`.
    q: &'a mut [u32],
    /// A block of keys across, `[units(d)][64]`, and of values along, `[units(64)][width]`.
    k: &'a mut [u32],
    v: &'a mut [u32],
    /// Sums of the outputs, `[rows][width]`.
    o: &'a mut [f32],
    /// Running maximum and denominator of each row.
    top: &'a mut [f32],
    sum: &'a mut [f32],
    /// Scores of a tile, and the weights made from them.
    scores: &'a mut [Lanes],
    weights: &'a mut [u32],
}

fn one<T: Stored>(
    a: &Attention,
    [q, k, v]: [&[T]; 3],
    o: ColumnWriter<T>,
    lse: ColumnWriter<f32>,
    task: &Task,
) {
    let (d, n, m) = (a.head_dim, a.heads, a.kv_heads);
    let group = n / m;
    let (rows, width, depth) =
        (task.queries.len() * group, d.next_multiple_of(LANES), units::<T>(d));
    let sizes = [
        rows * depth,
        depth * B,
        units::<T>(B) * width,
        rows * width,
        rows,
        rows,
        MAX_ROWS * B,
        MAX_ROWS * units::<T>(B),
    ];
    with_scratch(sizes, |[qs, ks, vs, os, top, sum, scores, weights]| {
        let mut room = Room {
            q: qs,
            k: ks,
            v: vs,
            o: floats(os),
            top: floats(top),
            sum: floats(sum),
            scores: bytemuck::cast_slice_mut(scores),
            weights,
        };
        room.top.fill(f32::NEG_INFINITY);
        room.sum.fill(0.0);
        let heads = Source { x: q, stride: d, column: 0, d };
        let of_row = |r: usize| (task.queries.start + r / group) * n + task.kv * group + r % group;
        pack_rows(room.q, heads, (0..rows).map(of_row));
        let keys = |x| Source { x, stride: m * d, column: task.kv * d, d };
        let (k, v) = (keys(k), keys(v));
        let walk = Walk::new(a, &task.queries);
        let kernels = Kernels::best::<T>();
        walk.for_each(|batch| {
            prefetch(k, &batch.keys[batch.known..]);
            prefetch(v, &batch.keys[batch.known..]);
            pack_across(room.k, k, batch.keys, batch.known);
            pack_along(room.v, width, v, batch.keys, batch.known);
            attend::<T>(&mut room, &walk, batch, kernels, (group, width, a.scale as f32));
        });
        vectorised(
            #[inline(always)]
            || {
                for (i, t) in task.queries.clone().enumerate() {
                    let h = task.kv * group;
                    // SAFETY: the rows and heads of a task are its own.
                    let (o, lse) =
                        unsafe { (o.row(t, h * d..(h + group) * d), lse.row(t, h..h + group)) };
                    for (g, (o, lse)) in o.chunks_exact_mut(d).zip(lse).enumerate() {
                        let r = i * group + g;
                        let inv = 1.0 / room.sum[r];
                        for (o, x) in o.iter_mut().zip(&room.o[r * width..]) {
                            *o = T::store(x * inv + 0.0);
                        }
                        *lse = room.top[r] + ln(room.sum[r]);
                    }
                }
            },
        );
    });
}

/// Adds a packed block to the outputs of the rows that see it.
fn attend<T: Stored>(
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
        kernels.multiply(Product {
            rows,
            vectors: most.div_ceil(LANES),
            steps: depth,
            a: &room.q[r * depth..],
            a_stride: depth,
            b: room.k,
            b_stride: B,
            c: room.scores.as_flattened_mut(),
            c_stride: B,
            start: Start::Zero,
        });
        let state = Running { top: &mut room.top[r..r + rows], sum: &mut room.sum[r..r + rows] };
        let weights: &mut [T] = bytemuck::cast_slice_mut(room.weights);
        let isa = Isa::best();
        let shrink = soften(isa, &mut room.scores[..rows], &seen, scale, state, weights);
        kernels.multiply(Product {
            rows,
            vectors: width / LANES,
            steps: most.div_ceil(per_unit::<T>()),
            a: room.weights,
            a_stride: units::<T>(B),
            b: room.v,
            b_stride: width,
            c: &mut room.o[r * width..],
            c_stride: width,
            start: if batch.block == 0 { Start::Zero } else { Start::Scaled(&shrink) },
        });
    }
}
