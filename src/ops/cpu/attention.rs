//! Fast f32 form of the attention op. Query rows are cut into tiles, one task each; keys are packed
//! block by block into `[D][64]` panels so that 64 scores are computed side by side. Each score is
//! one chain of fused multiply-adds over the head, each output element one chain over the keys of
//! a block: a row's bits do not depend on the tile it fell into, nor on the number of threads.

use crate::ops::attention::{Attention, KEY_BLOCK, Segment};
use crate::ops::cpu::simd::vectorised;
use crate::ops::cpu::vecmath::{exp, lane_tree};
use rayon::prelude::*;

const B: usize = KEY_BLOCK;
/// Query rows per task: enough to pay for packing a key block, few enough to feed all threads.
const TILE: usize = 32;
/// Queries whose rank-1 updates of the key gradient are applied together.
const BATCH: usize = 8;

type Lanes = [f32; B];

/// Packs `count` key rows transposed: `panel[d][j] = x[rows[j]][column + d]`, zero beyond `count`.
fn pack_transposed(panel: &mut [f32], x: &[f32], rows: &[usize], stride: usize, column: usize) {
    panel.fill(0.0);
    let d = panel.len() / B;
    for (j, &r) in rows.iter().enumerate() {
        for (c, &v) in x[r * stride + column..][..d].iter().enumerate() {
            panel[c * B + j] = v;
        }
    }
}

/// Packs key rows as they are: `panel[j][d]`, zero beyond the last.
fn pack_rows(panel: &mut [f32], x: &[f32], rows: &[usize], stride: usize, column: usize) {
    let d = panel.len() / B;
    panel[rows.len() * d..].fill(0.0);
    for (dst, &r) in panel.chunks_exact_mut(d).zip(rows) {
        dst.copy_from_slice(&x[r * stride + column..][..d]);
    }
}

/// `out[j] = Σ_d a[d] · panel[d][j]`.
#[inline(always)]
fn scores(a: &[f32], panel: &[f32]) -> Lanes {
    let mut acc = [0.0; B];
    for (&x, row) in a.iter().zip(panel.chunks_exact(B)) {
        for (s, &k) in acc.iter_mut().zip(row) {
            *s = x.mul_add(k, *s);
        }
    }
    acc
}

/// `out[c] += Σ_j p[j] · rows[j][c]`.
#[inline(always)]
fn weighted_rows(out: &mut [f32], p: &Lanes, rows: &[f32]) {
    let d = out.len();
    let mut c = 0;
    while c < d {
        let n = (d - c).min(32);
        let mut acc = [0.0; 32];
        acc[..n].copy_from_slice(&out[c..c + n]);
        if n == 32 {
            for (&x, row) in p.iter().zip(rows.chunks_exact(d)) {
                for (s, &v) in acc.iter_mut().zip(&row[c..c + 32]) {
                    *s = x.mul_add(v, *s);
                }
            }
        } else {
            for (&x, row) in p.iter().zip(rows.chunks_exact(d)) {
                for (s, &v) in acc[..n].iter_mut().zip(&row[c..c + n]) {
                    *s = x.mul_add(v, *s);
                }
            }
        }
        out[c..c + n].copy_from_slice(&acc[..n]);
        c += n;
    }
}

/// Sum of 64 lanes in one fixed tree.
#[inline(always)]
fn lane_sum(p: &Lanes) -> f32 {
    let mut t = [0.0; 16];
    for (i, s) in t.iter_mut().enumerate() {
        *s = (p[i] + p[i + 16]) + (p[i + 32] + p[i + 48]);
    }
    lane_tree(t)
}

/// Softmax weights of one block from its scores: `exp(s·scale − shift)` for visible keys, else 0.
#[inline(always)]
fn weights(s: &mut Lanes, visible: usize, scale: f32, shift: f32) {
    for (j, x) in s.iter_mut().enumerate() {
        let w = exp((*x * scale - shift).min(88.0));
        *x = if j < visible { w } else { 0.0 };
    }
}

/// A task: `len` query rows of a segment, from its row `first`.
struct Tile<'a> {
    segment: &'a Segment,
    first: usize,
    len: usize,
}

fn tiles(a: &Attention) -> Vec<Tile<'_>> {
    let mut out = Vec::new();
    for segment in a.segments.iter() {
        for first in (0..segment.queries.len).step_by(TILE) {
            let len = TILE.min(segment.queries.len - first);
            out.push(Tile { segment, first, len });
        }
    }
    out
}

/// Cuts a row-major matrix into the rows of each tile.
fn split<'t, 'a, 's>(
    tiles: &'t [Tile<'s>],
    mut x: &'a mut [f32],
    cols: usize,
) -> Vec<(&'t Tile<'s>, &'a mut [f32])> {
    tiles
        .iter()
        .map(|t| {
            let (head, tail) = std::mem::take(&mut x).split_at_mut(t.len * cols);
            x = tail;
            (t, head)
        })
        .collect()
}

/// Keys in one block of a segment that query `i` sees.
fn visible_in(segment: &Segment, i: usize, block: usize) -> usize {
    segment.visible(i).saturating_sub(block).min(B)
}

/// See [`Attention`]: `[q, k, v]` to `o` and `lse`.
pub fn forward(a: &Attention, [q, k, v]: [&[f32]; 3], o: &mut [f32], lse: &mut [f32]) {
    let (d, n, m) = (a.head_dim, a.heads, a.kv_heads);
    let tiles = tiles(a);
    let work: Vec<_> = split(&tiles, o, n * d).into_iter().zip(split(&tiles, lse, n)).collect();
    work.into_par_iter().for_each(|((tile, o), (_, lse))| {
        let rows: Vec<usize> = tile.segment.key_rows().collect();
        let (mut kt, mut vb) = (vec![0.0; d * B], vec![0.0; B * d]);
        let group = n / m;
        let scale = a.scale as f32;
        let mut top = vec![f32::NEG_INFINITY; tile.len * group];
        let mut sum = vec![0.0f32; tile.len * group];
        let most = tile.segment.visible(tile.first + tile.len - 1);
        o.fill(0.0);
        for kv in 0..m {
            top.fill(f32::NEG_INFINITY);
            sum.fill(0.0);
            for block in (0..most).step_by(B) {
                let keys = &rows[block..rows.len().min(block + B)];
                pack_transposed(&mut kt, k, keys, m * d, kv * d);
                pack_rows(&mut vb, v, keys, m * d, kv * d);
                vectorised(
                    #[inline(always)]
                    || {
                        for i in 0..tile.len {
                            let seen = visible_in(tile.segment, tile.first + i, block);
                            if seen == 0 {
                                continue;
                            }
                            let t = tile.segment.queries.start + tile.first + i;
                            for g in 0..group {
                                let h = kv * group + g;
                                let mut s = scores(&q[(t * n + h) * d..][..d], &kt);
                                let state = i * group + g;
                                let before = top[state];
                                let peak = s[..seen].iter().fold(before, |m, x| m.max(x * scale));
                                weights(&mut s, seen, scale, peak);
                                let out = &mut o[(i * n + h) * d..][..d];
                                if block > 0 {
                                    let shrink = exp(before - peak);
                                    sum[state] *= shrink;
                                    out.iter_mut().for_each(|x| *x *= shrink);
                                }
                                sum[state] += lane_sum(&s);
                                top[state] = peak;
                                weighted_rows(out, &s, &vb);
                            }
                        }
                    },
                );
            }
            for i in 0..tile.len {
                for g in 0..group {
                    let (h, state) = (kv * group + g, i * group + g);
                    let inv = 1.0 / sum[state];
                    o[(i * n + h) * d..][..d].iter_mut().for_each(|x| *x *= inv);
                    lse[i * n + h] = top[state] + sum[state].ln();
                }
            }
        }
    });
}

/// `[q, k, v, o, lse, do]` to `dq` and `delta`.
pub fn backward_dq(
    a: &Attention,
    [q, k, v, o, lse, dout]: [&[f32]; 6],
    dq: &mut [f32],
    delta: &mut [f32],
) {
    let (d, n, m) = (a.head_dim, a.heads, a.kv_heads);
    let tiles = tiles(a);
    let work: Vec<_> = split(&tiles, dq, n * d).into_iter().zip(split(&tiles, delta, n)).collect();
    work.into_par_iter().for_each(|((tile, dq), (_, delta))| {
        let rows: Vec<usize> = tile.segment.key_rows().collect();
        let (mut kt, mut vt, mut kb) = (vec![0.0; d * B], vec![0.0; d * B], vec![0.0; B * d]);
        let group = n / m;
        let scale = a.scale as f32;
        let first = tile.segment.queries.start + tile.first;
        let most = tile.segment.visible(tile.first + tile.len - 1);
        dq.fill(0.0);
        for (x, (o, g)) in delta
            .iter_mut()
            .zip(o[first * n * d..].chunks_exact(d).zip(dout[first * n * d..].chunks_exact(d)))
        {
            *x = o.iter().zip(g).fold(0.0, |s, (a, b)| s + a * b);
        }
        for kv in 0..m {
            for block in (0..most).step_by(B) {
                let keys = &rows[block..rows.len().min(block + B)];
                pack_transposed(&mut kt, k, keys, m * d, kv * d);
                pack_transposed(&mut vt, v, keys, m * d, kv * d);
                pack_rows(&mut kb, k, keys, m * d, kv * d);
                vectorised(
                    #[inline(always)]
                    || {
                        for i in 0..tile.len {
                            let seen = visible_in(tile.segment, tile.first + i, block);
                            if seen == 0 {
                                continue;
                            }
                            for h in kv * group..(kv + 1) * group {
                                let (local, th) = (i * n + h, (first + i) * n + h);
                                let mut p = scores(&q[th * d..][..d], &kt);
                                weights(&mut p, seen, scale, lse[th]);
                                let dp = scores(&dout[th * d..][..d], &vt);
                                for (p, dp) in p.iter_mut().zip(&dp) {
                                    *p = *p * (dp - delta[local]) * scale;
                                }
                                weighted_rows(&mut dq[local * d..][..d], &p, &kb);
                            }
                        }
                    },
                );
            }
        }
    });
}

/// `[q, k, v, lse, do, delta]` to `dk` and `dv`. One task per run of key rows: each gradient row has
/// one writer, which visits the segments in order.
pub fn backward_dkv(a: &Attention, inputs: [&[f32]; 6], dk: &mut [f32], dv: &mut [f32]) {
    let cols = a.kv_heads * a.head_dim;
    let chunk = B / 2 * cols;
    dk.par_chunks_mut(chunk).zip(dv.par_chunks_mut(chunk)).enumerate().for_each(|(c, (dk, dv))| {
        key_rows_gradient(a, inputs, c * (B / 2), dk, dv);
    });
}

/// Gradient of the key rows from `first` on that `dk` and `dv` hold.
fn key_rows_gradient(
    a: &Attention,
    [q, k, v, lse, dout, delta]: [&[f32]; 6],
    first: usize,
    dk: &mut [f32],
    dv: &mut [f32],
) {
    let (d, n, m) = (a.head_dim, a.heads, a.kv_heads);
    let (stride, group, scale) = (m * d, n / m, a.scale as f32);
    let end = first + dk.len() / stride;
    dk.fill(0.0);
    dv.fill(0.0);
    let (mut kt, mut vt) = (vec![0.0; d * B], vec![0.0; d * B]);
    let mut batch = Batch { p: vec![[0.0; B]; BATCH], ds: vec![[0.0; B]; BATCH], at: Vec::new() };
    for segment in a.segments.iter() {
        let mut position = 0; // of the span's first key within the segment
        for span in &segment.keys {
            let (lo, hi) = (span.start.max(first), (span.start + span.len).min(end));
            let key = position + lo.wrapping_sub(span.start);
            position += span.len;
            if lo >= hi {
                continue;
            }
            let rows: Vec<usize> = (lo..hi).collect();
            let range = (lo - first) * stride..(hi - first) * stride;
            let (dk, dv) = (&mut dk[range.clone()], &mut dv[range]);
            for kv in 0..m {
                pack_transposed(&mut kt, k, &rows, stride, kv * d);
                pack_transposed(&mut vt, v, &rows, stride, kv * d);
                vectorised(
                    #[inline(always)]
                    || {
                        for i in 0..segment.queries.len {
                            let seen = segment.visible(i).saturating_sub(key).min(rows.len());
                            if seen == 0 {
                                continue;
                            }
                            for h in kv * group..(kv + 1) * group {
                                let th = (segment.queries.start + i) * n + h;
                                let mut p = scores(&q[th * d..][..d], &kt);
                                weights(&mut p, seen, scale, lse[th]);
                                let mut ds = scores(&dout[th * d..][..d], &vt);
                                for (ds, p) in ds.iter_mut().zip(&p) {
                                    *ds = p * (*ds - delta[th]) * scale;
                                }
                                let slot = batch.at.len();
                                batch.p[slot] = p;
                                batch.ds[slot] = ds;
                                batch.at.push(th);
                                if slot + 1 == BATCH {
                                    batch.flush(q, dout, dk, dv, stride, kv * d, d);
                                }
                            }
                        }
                        batch.flush(q, dout, dk, dv, stride, kv * d, d);
                    },
                );
            }
        }
    }
}

/// Queries whose contributions wait to be added to the key gradients together.
struct Batch {
    p: Vec<Lanes>,
    ds: Vec<Lanes>,
    at: Vec<usize>,
}

impl Batch {
    #[inline(always)]
    #[allow(clippy::too_many_arguments)] // one inner loop, named parts
    fn flush(
        &mut self,
        q: &[f32],
        dout: &[f32],
        dk: &mut [f32],
        dv: &mut [f32],
        stride: usize,
        column: usize,
        d: usize,
    ) {
        for (j, (dk, dv)) in
            dk.chunks_exact_mut(stride).zip(dv.chunks_exact_mut(stride)).enumerate()
        {
            let (dk, dv) = (&mut dk[column..column + d], &mut dv[column..column + d]);
            for (u, &th) in self.at.iter().enumerate() {
                let (ds, p) = (self.ds[u][j], self.p[u][j]);
                if p == 0.0 {
                    continue;
                }
                let rows = q[th * d..][..d].iter().zip(&dout[th * d..][..d]);
                for ((gk, gv), (q, o)) in dk.iter_mut().zip(dv.iter_mut()).zip(rows) {
                    *gk = ds.mul_add(*q, *gk);
                    *gv = p.mul_add(*o, *gv);
                }
            }
        }
        self.at.clear();
    }
}
