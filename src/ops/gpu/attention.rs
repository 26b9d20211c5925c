//! Launches of the attention kernels (`attention.cu`, `attention_bwd.cu`) and the index tables that they
//! read: query tiles with their key spans, and key tiles with the segments that see them. Which tile a
//! row falls in changes no bit. Computes no attention.

use super::int;
use crate::base::{DType, Error, Result};
use crate::device::DevicePtr;
use crate::ops::Launcher;
use crate::ops::attention::{Attention, KEY_BLOCK, Segment};
use bytemuck::{Pod, Zeroable};

#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
struct AttnFwdArgs {
    q: DevicePtr,
    k: DevicePtr,
    v: DevicePtr,
    o: DevicePtr,
    lse: DevicePtr,
    table: DevicePtr,
    heads: i32,
    kv_heads: i32,
    head_dim: i32,
    first_item: i32,
    scale_log2: f32,
    unused: i32,
}
const _: () = assert!(size_of::<AttnFwdArgs>() == 72);

#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
struct AttnDqArgs {
    q: DevicePtr,
    k: DevicePtr,
    v: DevicePtr,
    o: DevicePtr,
    lse: DevicePtr,
    dout: DevicePtr,
    dq: DevicePtr,
    delta: DevicePtr,
    table: DevicePtr,
    heads: i32,
    kv_heads: i32,
    head_dim: i32,
    first_item: i32,
    scale: f32,
    scale_log2: f32,
}
const _: () = assert!(size_of::<AttnDqArgs>() == 96);

#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
struct AttnDkvArgs {
    q: DevicePtr,
    k: DevicePtr,
    v: DevicePtr,
    lse: DevicePtr,
    dout: DevicePtr,
    delta: DevicePtr,
    dk: DevicePtr,
    dv: DevicePtr,
    table: DevicePtr,
    heads: i32,
    kv_heads: i32,
    head_dim: i32,
    unused: i32,
    scale: f32,
    scale_log2: f32,
}
const _: () = assert!(size_of::<AttnDkvArgs>() == 96);

/// Kernels for one head size and the smaller ones above the next.
struct Instance {
    head_dim: usize,
    /// For each of [`HEIGHTS`].
    forward: [&'static str; 3],
    dq: &'static str,
    dkv: &'static str,
}

/// Packed rows of the forward tiles, tallest first.
const HEIGHTS: [usize; 3] = [128, 64, 16];
/// Rows of the tiles of `attention_bwd_dq` and of its and the forward kernel for singles.
const DQ_ROWS: usize = 64;
const F32_ROWS: usize = 32;
/// `ATTN_F32_THREADS` and `ATTN_WAVES`.
const F32_THREADS: usize = 128;
const WAVES: usize = 4;
/// `ATTN_DKV_KEYS` and `ATTN_DKV_QUERIES`.
const DKV_KEYS: usize = 64;
const DKV_QUERIES: usize = 32;
/// `ATTN_ITEM_WORDS` and `ATTN_KEY_ITEM_WORDS`.
const ITEM_WORDS: usize = 6;
const KEY_ITEM_WORDS: usize = 4;

const INSTANCES: [Instance; 6] = [
    Instance {
        head_dim: 16,
        forward: [
            "attention_fwd_m128_d16_bf16",
            "attention_fwd_m64_d16_bf16",
            "attention_fwd_m16_d16_bf16",
        ],
        dq: "attention_bwd_dq_d16_bf16",
        dkv: "attention_bwd_dkv_d16_bf16",
    },
    Instance {
        head_dim: 32,
        forward: [
            "attention_fwd_m128_d32_bf16",
            "attention_fwd_m64_d32_bf16",
            "attention_fwd_m16_d32_bf16",
        ],
        dq: "attention_bwd_dq_d32_bf16",
        dkv: "attention_bwd_dkv_d32_bf16",
    },
    Instance {
        head_dim: 64,
        forward: [
            "attention_fwd_m128_d64_bf16",
            "attention_fwd_m64_d64_bf16",
            "attention_fwd_m16_d64_bf16",
        ],
        dq: "attention_bwd_dq_d64_bf16",
        dkv: "attention_bwd_dkv_d64_bf16",
    },
    Instance {
        head_dim: 80,
        forward: [
            "attention_fwd_m128_d80_bf16",
            "attention_fwd_m64_d80_bf16",
            "attention_fwd_m16_d80_bf16",
        ],
        dq: "attention_bwd_dq_d80_bf16",
        dkv: "attention_bwd_dkv_d80_bf16",
    },
    Instance {
        head_dim: 96,
        forward: [
            "attention_fwd_m128_d96_bf16",
            "attention_fwd_m64_d96_bf16",
            "attention_fwd_m16_d96_bf16",
        ],
        dq: "attention_bwd_dq_d96_bf16",
        dkv: "attention_bwd_dkv_d96_bf16",
    },
    Instance {
        head_dim: 128,
        forward: [
            "attention_fwd_m128_d128_bf16",
            "attention_fwd_m64_d128_bf16",
            "attention_fwd_m16_d128_bf16",
        ],
        dq: "attention_bwd_dq_d128_bf16",
        dkv: "attention_bwd_dkv_d128_bf16",
    },
];

/// The kernels for a head size.
fn instance(head_dim: usize) -> Result<&'static Instance> {
    INSTANCES.iter().find(|i| i.head_dim >= head_dim).ok_or_else(|| {
        Error::internal(format!("attention: head size {head_dim}, the kernels go up to 128"))
    })
}

/// Bytes of shared memory beside the tiles, with waves of 32 and of 64: asserted in the kernels.
const FORWARD_REST: [[usize; 2]; 3] = [[5760, 11904], [4224, 7296], [4096, 7168]];
const DQ_REST: usize = 3712;
const DKV_REST: usize = 3840;
const F32_REST: usize = 8448;
const F32_DKV_REST: usize = 4288;

/// Bytes of bf16 rows of the padded head size.
fn tile(rows: usize, width: usize) -> usize {
    2 * rows * width
}

/// Shared memory of the forward kernel for tiles of `HEIGHTS[which]` rows.
fn forward_shared(which: usize, width: usize, wave: usize) -> usize {
    let stages = if wave == 32 { 2 } else { 1 };
    let queries = match which {
        // Waves of 64, and tiles of one fragment per wave, keep the queries in registers.
        0 if wave == 32 => tile(HEIGHTS[0], width),
        2 => tile(HEIGHTS[2], width),
        _ => 0,
    };
    queries + 2 * stages * tile(KEY_BLOCK, width) + FORWARD_REST[which][usize::from(wave == 64)]
}

/// Shared memory of the kernels for singles: rows of one more than the head size.
fn f32_shared(rest: usize, head_dim: usize) -> usize {
    rest + 3 * F32_ROWS * (head_dim + 1) * size_of::<f32>()
}

/// How many query tiles of each height the segments make.
fn count_items(segments: &[Segment], group: usize) -> [usize; 3] {
    let mut counts = [0; 3];
    for s in segments {
        let rows = s.queries.len * group;
        counts[0] += rows / HEIGHTS[0];
        if rows % HEIGHTS[0] > 0 {
            counts[height(rows % HEIGHTS[0])] += 1;
        }
    }
    counts
}

/// The height of tile for `rows` packed rows that are left: an index of [`HEIGHTS`].
fn height(rows: usize) -> usize {
    HEIGHTS.iter().rposition(|&h| rows <= h).unwrap_or(0)
}

/// Appends the key spans of a segment (two words each, see `attn_key_row`) and then, for each block of
/// keys, the place of its first span. Returns the place of block 0. Word 0 has the place `base`.
fn append_keys(words: &mut Vec<i32>, base: usize, segment: &Segment) -> usize {
    let first = base + words.len();
    let (mut position, mut ends) = (0, Vec::new());
    for span in segment.keys.iter().filter(|s| s.len > 0) {
        words.push(int(position + span.len));
        words.push(int(span.start) - int(position));
        position += span.len;
        ends.push(position);
    }
    let blocks = base + words.len();
    let mut span = 0;
    for at in (0..position).step_by(KEY_BLOCK) {
        span += ends[span..].iter().take_while(|&&end| end <= at).count();
        words.push(int(first + 2 * span));
    }
    blocks
}

/// The table of the forward kernel and of the queries' gradient: tiles of each height, those with most
/// keys first, then keys.
pub fn query_table(a: &Attention) -> Vec<i32> {
    let group = a.heads / a.kv_heads;
    let base = ITEM_WORDS * count_items(&a.segments, group).iter().sum::<usize>();
    let mut items: [Vec<(usize, [i32; ITEM_WORDS])>; 3] = Default::default();
    let mut keys = Vec::new();
    for s in a.segments.iter().filter(|s| s.queries.len > 0) {
        let blocks = append_keys(&mut keys, base, s);
        let rows = s.queries.len * group;
        for first in (0..rows).step_by(HEIGHTS[0]) {
            let n = HEIGHTS[0].min(rows - first);
            let words = [s.queries.start, first, n, s.visible(0), s.causal.into(), blocks].map(int);
            items[height(n)].push((s.visible((first + n - 1) / group), words));
        }
    }
    items.iter_mut().for_each(|i| i.sort_by_key(|(seen, _)| std::cmp::Reverse(*seen)));
    let mut words: Vec<i32> = items.iter().flatten().flat_map(|(_, w)| *w).collect();
    words.append(&mut keys);
    words
}

/// Keys of a segment that lie in consecutive rows.
struct Use<'a> {
    segment: &'a Segment,
    /// Order of the segment.
    number: usize,
    rows: std::ops::Range<usize>,
    /// Position of the first.
    position: usize,
}

fn uses(segments: &[Segment]) -> Vec<Use<'_>> {
    let mut uses = Vec::new();
    for (number, segment) in segments.iter().enumerate() {
        let mut position = 0;
        for span in segment.keys.iter().filter(|s| s.len > 0) {
            let rows = span.start..span.start + span.len;
            uses.push(Use { segment, number, rows, position });
            position += span.len;
        }
    }
    uses
}

/// Cuts the key rows, from 0 to the last one that anybody sees, into tiles of rows with the same viewers.
fn key_tiles(uses: &[Use]) -> Vec<std::ops::Range<usize>> {
    let mut cuts: Vec<usize> =
        uses.iter().flat_map(|u| [u.rows.start, u.rows.end]).chain([0]).collect();
    cuts.sort_unstable();
    cuts.dedup();
    let tiles = |w: &[usize]| {
        let end = w[1];
        (w[0]..end).step_by(DKV_KEYS).map(move |at| at..end.min(at + DKV_KEYS)).collect::<Vec<_>>()
    };
    cuts.windows(2).flat_map(tiles).collect()
}

/// What the kernel needs to know of a segment that sees the key at `position`, if any query does: see
/// `attn_viewer`. The last word is the number of blocks of queries.
fn viewer(s: &Segment, position: usize) -> Option<[i32; 6]> {
    // Query i has position `offset + i`, and sees the keys up to there.
    let offset = if s.causal { s.num_keys() - s.queries.len } else { 0 };
    let from = if s.causal { position.saturating_sub(offset) } else { 0 };
    if from >= s.queries.len {
        return None;
    }
    let first = int((offset + from) / DKV_QUERIES * DKV_QUERIES) - int(offset);
    let blocks = (int(s.queries.len) - first).unsigned_abs().div_ceil(DKV_QUERIES as u32);
    let sees = int(s.visible(0)) - int(position);
    let (row, n) = (int(s.queries.start), int(s.queries.len));
    Some([row, n, sees, s.causal.into(), first, blocks as i32])
}

/// The table of the keys' gradient: tiles of key rows, those with most viewers first, then viewers.
pub fn key_table(a: &Attention) -> Vec<i32> {
    let group = int(a.heads / a.kv_heads);
    let mut uses = uses(&a.segments);
    let tiles = key_tiles(&uses);
    uses.sort_by_key(|u| u.rows.start);
    let (mut waiting, mut active) = (uses.iter().peekable(), Vec::new());
    let (mut items, mut viewers) = (Vec::new(), Vec::new());
    for tile in tiles.iter() {
        active.retain(|u: &&Use| u.rows.end > tile.start);
        while let Some(u) = waiting.next_if(|u| u.rows.start <= tile.start) {
            active.push(u);
        }
        active.sort_by_key(|u| (u.number, u.position));
        let place = KEY_ITEM_WORDS * tiles.len() + viewers.len();
        let mut blocks = 0;
        for u in &active {
            if let Some(words) = viewer(u.segment, u.position + tile.start - u.rows.start) {
                viewers.extend(words);
                blocks += words[5] * group;
            }
        }
        items.push([int(tile.start), int(tile.len()), int(place), blocks]);
    }
    items.sort_by_key(|i| std::cmp::Reverse(i[3]));
    items.into_iter().flatten().chain(viewers).collect()
}

/// Launches the forward pass; see [`Attention`] for inputs and outputs.
///
/// # Errors
/// If the head size is above 128.
pub fn forward(a: &Attention, k: &mut Launcher) -> Result<()> {
    let instance = instance(a.head_dim)?;
    let counts = count_items(&a.segments, a.heads / a.kv_heads);
    let mut args = AttnFwdArgs {
        q: k.input(0),
        k: k.input(1),
        v: k.input(2),
        o: k.output(0),
        lse: k.output(1),
        table: k.table(),
        heads: int(a.heads),
        kv_heads: int(a.kv_heads),
        head_dim: int(a.head_dim),
        first_item: 0,
        scale_log2: scale_log2(a),
        unused: 0,
    };
    check_rows(a, k)?;
    if k.float_type() != DType::BF16 {
        let grid = [counts.iter().sum::<usize>() * a.kv_heads, HEIGHTS[0] / F32_ROWS, 1];
        let shared = f32_shared(F32_REST, a.head_dim);
        k.kernel_with_shared("attention", "attention_fwd_f32", grid, F32_THREADS, &args, shared);
        return Ok(());
    }
    let threads = WAVES * k.wave();
    for (which, (kernel, count)) in instance.forward.into_iter().zip(counts).enumerate() {
        let shared = forward_shared(which, instance.head_dim, k.wave());
        let grid = [count * a.kv_heads, 1, 1];
        k.kernel_with_shared("attention", kernel, grid, threads, &args, shared);
        args.first_item += int(count);
    }
    Ok(())
}

/// Launches the queries' gradient: inputs `q, k, v, o, lse, do`, outputs `dq, delta`.
///
/// # Errors
/// If the head size is above 128.
pub fn backward_dq(a: &Attention, k: &mut Launcher) -> Result<()> {
    let instance = instance(a.head_dim)?;
    let args = AttnDqArgs {
        q: k.input(0),
        k: k.input(1),
        v: k.input(2),
        o: k.input(3),
        lse: k.input(4),
        dout: k.input(5),
        dq: k.output(0),
        delta: k.output(1),
        table: k.table(),
        heads: int(a.heads),
        kv_heads: int(a.kv_heads),
        head_dim: int(a.head_dim),
        first_item: 0,
        scale: a.scale as f32,
        scale_log2: scale_log2(a),
    };
    check_rows(a, k)?;
    let items = count_items(&a.segments, a.heads / a.kv_heads).iter().sum::<usize>() * a.kv_heads;
    let (kernel, parts, threads, shared) = if k.float_type() == DType::BF16 {
        let (width, wave) = (instance.head_dim, k.wave());
        // Two stages of 64 keys, or one of 32.
        let keys = if wave == 32 { 4 * tile(64, width) } else { 2 * tile(32, width) };
        let shared = 2 * tile(DQ_ROWS, width) + DQ_REST + keys;
        (instance.dq, HEIGHTS[0] / DQ_ROWS, WAVES * wave, shared)
    } else {
        let shared = f32_shared(F32_REST, a.head_dim);
        ("attention_bwd_dq_f32", HEIGHTS[0] / F32_ROWS, F32_THREADS, shared)
    };
    k.kernel_with_shared("attention_bwd", kernel, [items, parts, 1], threads, &args, shared);
    Ok(())
}

/// Launches the gradients of keys and values: inputs `q, k, v, lse, do, delta`, outputs `dk, dv`.
///
/// # Errors
/// If the head size is above 128.
pub fn backward_dkv(a: &Attention, k: &mut Launcher) -> Result<()> {
    let instance = instance(a.head_dim)?;
    let args = AttnDkvArgs {
        q: k.input(0),
        k: k.input(1),
        v: k.input(2),
        lse: k.input(3),
        dout: k.input(4),
        delta: k.input(5),
        dk: k.output(0),
        dv: k.output(1),
        table: k.table(),
        heads: int(a.heads),
        kv_heads: int(a.kv_heads),
        head_dim: int(a.head_dim),
        unused: 0,
        scale: a.scale as f32,
        scale_log2: scale_log2(a),
    };
    check_rows(a, k)?;
    let tiles = key_tiles(&uses(&a.segments));
    let (kernel, parts, threads, shared) = if k.float_type() == DType::BF16 {
        let (width, wave) = (instance.head_dim, k.wave());
        let stages = if wave == 32 { 2 } else { 1 };
        let queries = 2 * stages * tile(DKV_QUERIES, width);
        let shared = 2 * tile(DKV_KEYS, width) + DKV_REST + queries;
        (instance.dkv, 1, WAVES * wave, shared)
    } else {
        let shared = f32_shared(F32_DKV_REST, a.head_dim);
        ("attention_bwd_dkv_f32", DKV_KEYS / F32_ROWS, F32_THREADS, shared)
    };
    let grid = [tiles.len() * a.kv_heads, parts, 1];
    k.kernel_with_shared("attention_bwd", kernel, grid, threads, &args, shared);
    // Nobody sees the rows after the last tile.
    let ty = k.out_type(0);
    let (row, seen) = (ty.cols() * ty.dtype.size(), tiles.last().map_or(0, |t| t.end));
    for i in 0..2 {
        k.fill(k.output(i).offset(seen * row), 0, (ty.rows() - seen) * row);
    }
    Ok(())
}

/// The factor of scores in units of log 2.
fn scale_log2(a: &Attention) -> f32 {
    (a.scale * std::f64::consts::LOG2_E) as f32
}

/// Kernels count rows times heads in 32 bits.
fn check_rows(a: &Attention, k: &Launcher) -> Result<()> {
    let most = (k.in_type(0).rows() * a.heads).max(k.in_type(1).rows() * a.kv_heads);
    if i32::try_from(most).is_ok() {
        return Ok(());
    }
    Err(Error::internal(format!("attention: {most} heads of rows, the kernels go up to 2^31")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::attention::Span;
    use std::sync::Arc;

    fn segment(queries: (usize, usize), keys: &[(usize, usize)], causal: bool) -> Segment {
        let span = |&(start, len): &(usize, usize)| Span { start, len };
        Segment { queries: span(&queries), keys: keys.iter().map(span).collect(), causal }
    }

    /// A prompt with completions behind it, pages in any order, a window, rows that nobody sees.
    fn attention() -> Attention {
        let mut segments = vec![
            segment((0, 150), &[(0, 150)], true),
            segment((150, 70), &[(0, 150), (150, 70)], true),
            segment((220, 1), &[(320, 16), (0, 0), (240, 16), (300, 3)], true),
            segment((221, 0), &[(5, 1)], true),
            segment((221, 64), &[(400, 64)], false),
        ];
        segments.push(segment((285, 5), &[(0, 150), (256, 40), (10, 7)], true));
        let segments = Arc::new(segments);
        Attention { heads: 6, kv_heads: 2, head_dim: 64, scale: 0.125, segments }
    }

    /// `attn_key_row` of the kernels.
    fn key_row(table: &[i32], blocks: i32, position: i32) -> i32 {
        let mut s = table[(blocks + position / KEY_BLOCK as i32) as usize] as usize;
        while position >= table[s] {
            s += 2;
        }
        position + table[s + 1]
    }

    #[test]
    fn query_tiles_cover_every_row_once_and_find_its_keys() {
        let a = attention();
        let table = query_table(&a);
        let counts = count_items(&a.segments, 3);
        let mut pairs = vec![0; 290 * 3];
        let mut items = table.chunks(ITEM_WORDS);
        for (height, count) in HEIGHTS.into_iter().zip(counts) {
            let mut before = i32::MAX;
            for item in items.by_ref().take(count) {
                let [row, first, n, sees, step, blocks] = item.try_into().unwrap();
                assert!(n as usize <= height && n > 0);
                let s = a.segments.iter().find(|s| s.queries.start as i32 == row).unwrap();
                let s = if s.queries.len == 0 { &a.segments[4] } else { s };
                for r in first..first + n {
                    let i = r / 3;
                    pairs[((row + i) * 3 + r % 3) as usize] += 1;
                    assert_eq!(sees + step * i, s.visible(i as usize) as i32);
                }
                let most = sees + step * ((first + n - 1) / 3);
                assert!(most <= before, "the longest come first");
                before = most;
                for (position, want) in s.key_rows().take(most as usize).enumerate() {
                    assert_eq!(key_row(&table, blocks, position as i32), want as i32);
                }
            }
        }
        assert!(pairs.iter().all(|&n| n == 1), "each packed row is in one tile");
    }

    #[test]
    fn key_tiles_know_every_query_that_sees_a_key() {
        let a = attention();
        let table = key_table(&a);
        let tiles = key_tiles(&uses(&a.segments)).len();
        let rows = 464;
        let mut got = vec![0; 290 * rows];
        let mut covered = vec![0; rows];
        for item in table[..tiles * KEY_ITEM_WORDS].chunks(KEY_ITEM_WORDS) {
            let [row, n, mut word, mut blocks] = item.try_into().unwrap();
            (row..row + n).for_each(|r| covered[r as usize] += 1);
            while blocks > 0 {
                let viewer: [i32; 6] = table[word as usize..][..6].try_into().unwrap();
                let [query, queries, sees, step, first, own] = viewer;
                for i in first.max(0)..(first + own * DKV_QUERIES as i32).min(queries) {
                    for key in 0..n.min(sees + step * i) {
                        got[(query + i) as usize * rows + (row + key) as usize] += 1;
                    }
                }
                blocks -= own * 3;
                word += 6;
            }
            assert_eq!(blocks, 0, "blocks of whole groups of heads");
        }
        assert!(covered.iter().all(|&n| n == 1), "each row is in one tile");
        let mut want = vec![0; 290 * rows];
        for s in a.segments.iter() {
            let keys: Vec<usize> = s.key_rows().collect();
            for i in 0..s.queries.len {
                let seen = &keys[..s.visible(i)];
                seen.iter().for_each(|&r| want[(s.queries.start + i) * rows + r] += 1);
            }
        }
        assert!(got == want, "a query sees other keys");
    }

    #[test]
    fn head_sizes_have_kernels_up_to_128() {
        assert_eq!(
            [1, 16, 17, 72, 128].map(|d| instance(d).unwrap().head_dim),
            [16, 16, 32, 80, 128]
        );
        assert!(instance(129).is_err());
    }
}
