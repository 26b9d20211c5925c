//! What a rollout needs at least, planned from shapes before there are weights: the one place that
//! knows how much memory the engine takes. Runs nothing.

use crate::base::{DType, Result};
use crate::mem::Region;
use crate::mem::plan::aligned;
use crate::model::config::VlmConfig;
use crate::model::families::qwen2_5_vl::net::{TextInput, head, text, vision};
use crate::model::net::{LayerCache, Net};
use crate::model::params::ParamStore;
use crate::model::prompt::{Prompt, stack_images};
use crate::ops::attention::{Segment, Span};
use crate::ops::gather_rows::GatherRows;
use crate::ops::linear_logprob::HeadSettings;
use crate::ops::matmul::Matmul;
use crate::ops::sample::{Sample, SampleRow, SamplingSettings};
use crate::rollout::cache::kv_row_bytes;
use crate::tape::Tape;
use std::sync::Arc;

/// The heaviest rollout that is expected.
#[derive(Debug, Clone, Copy)]
pub struct RolloutShape<'a> {
    /// Stands for every prompt: the longest.
    pub prompt: &'a Prompt,
    /// Prompts that are answered together if there is memory for it.
    pub prompts: usize,
    /// Completions per prompt.
    pub completions: usize,
    /// Most tokens of a completion.
    pub completion_length: usize,
    /// Most prompt tokens of one prefill pass; a longer prompt has a pass of its own.
    pub prefill_tokens: usize,
}

/// Bytes above the weights that the engine takes where `free` are free: at most that many if the
/// rollout fits. More free memory lets more prompts be answered together, which takes more.
///
/// # Errors
/// If the prompt does not fit the model.
pub fn least_bytes(
    config: &VlmConfig,
    params: &ParamStore,
    shape: &RolloutShape,
    free: usize,
) -> Result<usize> {
    let tokens = shape.prompt.len();
    let rows = tokens + shape.completions * shape.completion_length;
    let row_bytes = kv_row_bytes(&config.text);
    // As in the engine: half of the free space is for the cache.
    let group = rows * row_bytes;
    let wave = (free / 2 / group).clamp(1, shape.prompts.max(1));
    let prefilled = (shape.prefill_tokens / tokens).clamp(1, wave);
    let columns = config.text.num_kv_heads * config.text.head_dim;
    let cache_rows = wave * rows;
    let layer = aligned(cache_rows * columns * DType::F32.size());
    let cache = 2 * config.text.num_layers * layer;
    let pass = |input: Pass| pass_bytes(config, params, cache_rows, &input);
    let prefill =
        pass(Pass { prompt: shape.prompt, sequences: prefilled, drawn: shape.completions })?;
    let decode = pass(Pass {
        prompt: &Prompt { ids: vec![0], positions: vec![[0; 3]], ..empty() },
        sequences: wave * shape.completions,
        drawn: 1,
    })?;
    Ok((2 * group).max(cache + prefill.max(decode)))
}

fn empty() -> Prompt {
    Prompt {
        ids: Vec::new(),
        images: Vec::new(),
        spans: Vec::new(),
        positions: Vec::new(),
        next_position: 0,
        text: String::new(),
    }
}

/// One forward pass: the same tokens `sequences` times, `drawn` new tokens after each.
struct Pass<'a> {
    prompt: &'a Prompt,
    sequences: usize,
    drawn: usize,
}

/// Peak of a pass above a cache of `rows` rows.
fn pass_bytes(config: &VlmConfig, params: &ParamStore, rows: usize, pass: &Pass) -> Result<usize> {
    let mut tape = Tape::new(DType::F32);
    let mut net = Net::new(&mut tape, params);
    let prompts = || std::iter::repeat_n(pass.prompt, pass.sequences);
    let features = match stack_images(prompts()) {
        Some((pixels, grids)) => Some(vision(&mut net, config, pixels, &grids)?),
        None => None,
    };
    let length = pass.prompt.len();
    let segment = |i: usize| {
        let span = Span { start: i * length, len: length };
        Segment { queries: span, keys: vec![Span { start: 0, len: length }], causal: true }
    };
    let index = prompts().enumerate().flat_map(|(i, p)| p.index(i * p.num_features()));
    let input = TextInput {
        index: index.collect(),
        vision: features,
        positions: prompts().flat_map(|p| p.positions.clone()).collect(),
        segments: Arc::new((0..pass.sequences).map(segment).collect()),
        cache: Some((cache(config, params, rows), vec![0; length * pass.sequences])),
    };
    let hidden = text(&mut net, config, &input)?;
    let w = head(&mut net, config)?;
    let count = pass.sequences * pass.drawn;
    let last = tape.indices(vec![0; count]);
    let hidden = tape.op(GatherRows, &[hidden, last])?;
    let logits = tape.op(Matmul::default(), &[hidden, w])?;
    let sample = Sample {
        head: Arc::new(HeadSettings::default()),
        settings: Arc::new(SamplingSettings::default()),
        rows: Arc::new(vec![SampleRow::default(); count]),
        seed: 0,
    };
    let drawn = tape.ops(sample, &[logits])?;
    tape.keep(drawn[0]);
    tape.keep(drawn[1]);
    Ok(tape.plan().peak)
}

/// A cache at places that no parameter has.
fn cache(config: &VlmConfig, params: &ParamStore, rows: usize) -> Vec<LayerCache> {
    let end = |r: Region| r.offset + aligned(r.elements * r.dtype.size());
    let mut offset = params.all().iter().map(|p| end(p.place.value)).max().unwrap_or(0);
    let elements = rows * config.text.num_kv_heads * config.text.head_dim;
    let mut next = || {
        let region = Region { offset, elements, dtype: DType::F32 };
        offset = end(region);
        region
    };
    (0..config.text.num_layers).map(|_| LayerCache { k: next(), v: next(), rows }).collect()
}
