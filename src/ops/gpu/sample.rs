//! Launches of the sampler (`kernels/common/sample.cu`): the whole device walks the vocabulary, then a
//! block per row chooses. Computes nothing but the tables that the kernels read.

use crate::base::{Error, Philox, Result, RngDomain};
use crate::device::DevicePtr;
use crate::ops::cpu::logsumexp::VOCAB_TILE;
use crate::ops::gpu::int;
use crate::ops::gpu::linear_logprob::forbidden_words;
use crate::ops::sample::{Sample, SamplingSettings};
use crate::ops::{Launcher, TensorType};
use std::sync::Arc;

const MODULE: &str = "sample";
/// Tiles of the largest vocabulary: `SAMPLE_TILES`.
const MAX_TILES: usize = 1024;
/// Numbers per row and tile: `SAMPLE_PARTS`.
const PARTS: usize = 6;
/// Words per row: `SAMPLE_ROW_WORDS`.
const ROW_WORDS: usize = 5;
/// Kind of the sampler's table.
const SAMPLE_TABLE: u32 = 2;

/// As in the kernels.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct SampleArgs {
    logits: DevicePtr,
    table: DevicePtr,
    token: DevicePtr,
    logp: DevicePtr,
    lse: DevicePtr,
    entropy: DevicePtr,
    parts: DevicePtr,
    z: DevicePtr,
    top_p: f64,
    log_min_p: f64,
    rows: i32,
    vocab: i32,
    tiles: i32,
    row_words: i32,
    top_k: i32,
    greedy: i32,
    keep: i32,
    inv_temperature: f32,
    penalty: f32,
    key0: u32,
    key1: u32,
    inv_penalty: f32,
}
const _: () = assert!(size_of::<SampleArgs>() == 128);

/// Whether tokens are chosen from in order of their logits.
fn truncates(s: &SamplingSettings) -> bool {
    s.temperature != 0.0 && (s.top_k > 0 || s.top_p < 1.0 || s.min_p > 0.0)
}

/// Identity of [`table_words`].
pub fn table_key(op: &Sample) -> (usize, u32) {
    // The settings of the head are in the table too, and differ from tape to tape at most.
    (Arc::as_ptr(&op.rows) as usize, SAMPLE_TABLE)
}

/// Forbidden tokens, then an entry per row (step, sample, token, where its seen tokens begin and end),
/// then the seen tokens of each row, sorted, each once.
pub fn table_words(op: &Sample) -> Vec<i32> {
    let mut words = forbidden_words(&op.head.forbidden);
    let entries = words.len();
    words.resize(entries + ROW_WORDS * op.rows.len(), 0);
    let penalises = op.settings.repetition_penalty != 1.0;
    for (i, row) in op.rows.iter().enumerate() {
        let begin = words.len();
        if penalises {
            let mut seen = row.seen.clone();
            seen.sort_unstable();
            seen.dedup();
            words.extend(seen.iter().map(|&t| t as i32));
        }
        let end = words.len();
        let entry = [row.step as i32, row.sample as i32, row.token as i32, int(begin), int(end)];
        words[entries + ROW_WORDS * i..][..ROW_WORDS].copy_from_slice(&entry);
    }
    words
}

/// Bytes of what is known of the tiles.
fn parts_bytes(rows: usize, tiles: usize) -> usize {
    (rows * tiles * PARTS * 4).next_multiple_of(64)
}

/// Scratch in bytes: what is known of the tiles, and, to cut by order, the logits to choose from.
pub fn work(op: &Sample, inputs: &[&TensorType]) -> usize {
    let (rows, tiles) = (inputs[0].rows(), inputs[0].cols().div_ceil(VOCAB_TILE));
    let kept = if truncates(&op.settings) { rows * tiles * VOCAB_TILE * 4 } else { 0 };
    parts_bytes(rows, tiles) + kept
}

/// Enqueues the node.
///
/// # Errors
/// If the vocabulary has more than 2^20 tokens.
pub fn launch(op: &Sample, k: &mut Launcher) -> Result<()> {
    let (rows, vocab) = (k.in_type(0).rows(), k.in_type(0).cols());
    let tiles = vocab.div_ceil(VOCAB_TILE);
    if tiles > MAX_TILES {
        return Err(Error::usage("the sampler's kernels do not take this vocabulary")
            .expected(format!("at most {} tokens", MAX_TILES * VOCAB_TILE))
            .found(format!("{vocab} tokens")));
    }
    let s = &op.settings;
    let [key0, key1] = Philox::new(op.seed, RngDomain::Sample).key();
    let args = SampleArgs {
        logits: k.input(0),
        table: k.table(),
        token: k.output(0),
        logp: k.output(1),
        lse: k.output(2),
        entropy: k.output(3),
        parts: k.work(),
        z: k.work().offset(parts_bytes(rows, tiles)),
        top_p: f64::from(s.top_p),
        log_min_p: if s.min_p > 0.0 { f64::from(s.min_p).ln() } else { f64::NEG_INFINITY },
        rows: int(rows),
        vocab: int(vocab),
        tiles: int(tiles),
        row_words: int(forbidden_words(&op.head.forbidden).len()),
        top_k: int(s.top_k.min(vocab)),
        greedy: i32::from(s.temperature == 0.0),
        keep: i32::from(truncates(s)),
        inv_temperature: op.head.inv_temperature() as f32,
        penalty: s.repetition_penalty,
        key0,
        key1,
        inv_penalty: 1.0 / s.repetition_penalty,
    };
    let walk = k.typed(["sample_tiles_f32", "sample_tiles_bf16"]);
    k.kernel(MODULE, walk, [tiles, rows, 1], 64, &args);
    if truncates(s) {
        let cut = k.typed(["sample_truncate_f32", "sample_truncate_bf16"]);
        k.kernel(MODULE, cut, [rows, 1, 1], 512, &args);
    } else {
        let pick = k.typed(["sample_pick_f32", "sample_pick_bf16"]);
        k.kernel(MODULE, pick, [rows, 1, 1], 128, &args);
    }
    Ok(())
}
