//! What a rollout needs, planned from shapes before there are weights: the one place that knows how
//! much memory the engine takes. Runs nothing.

use crate::base::Result;
use crate::model::config::VlmConfig;
use crate::model::decoder::{TextInput, logits, text};
use crate::model::net::Net;
use crate::model::params::ParamStore;
use crate::model::prompt::Prompt;
use crate::model::vision_store::{PATCHES_PER_PASS, encoding_bytes, stand_in};
use crate::ops::attention::{Segment, Span};
use crate::ops::gather_rows::GatherRows;
use crate::ops::linear_logprob::HeadSettings;
use crate::ops::sample::{Sample, SampleRow, SamplingSettings};
use crate::rollout::cache::{KvPool, kv_bytes};
use crate::rollout::pages::{PAGE_ROWS, Pages};
use crate::rollout::scheduler::GroupSize;
use std::sync::Arc;

/// Bytes of one page of the KV cache in all layers.
pub fn page_bytes(config: &VlmConfig, params: &ParamStore) -> usize {
    kv_bytes(&config.text, params.float_type(), PAGE_ROWS)
}

/// How tokens are drawn, as far as it takes memory on a device.
#[derive(Debug, Clone, Default)]
pub struct DrawShape {
    /// Tokens that are never drawn.
    pub head: Arc<HeadSettings>,
    /// Truncation and penalty.
    pub sampling: Arc<SamplingSettings>,
    /// Most distinct tokens that a row has seen, where there is a penalty.
    pub seen: usize,
    /// Rows of a pass are drawn in several ways: by ops of their own, from copies of their logits.
    pub mixed: bool,
}

impl DrawShape {
    fn sample(&self, rows: usize) -> Sample {
        let penalises = self.sampling.repetition_penalty != 1.0;
        let seen = if penalises { (0..self.seen as u32).collect() } else { Vec::new() };
        Sample {
            head: self.head.clone(),
            settings: self.sampling.clone(),
            rows: Arc::new(vec![SampleRow { seen, ..SampleRow::default() }; rows]),
            seed: 0,
        }
    }
}

/// The largest pass of a call.
#[derive(Debug, Clone)]
pub struct PassShape {
    /// Decoder rows.
    pub rows: usize,
    /// Tokens that are drawn.
    pub draws: usize,
    /// Most pages that the keys of a row lie on.
    pub pages: usize,
    /// The distinct images: patches in time, height and width of each.
    pub grids: Vec<[usize; 3]>,
    /// How they are drawn.
    pub draw: DrawShape,
}

/// Rows of the largest pass: what is allowed, but never more than all prompts together have, nor fewer
/// than one for every completion.
pub fn most_rows(max_num_batched_tokens: usize, prompts: usize, sequences: usize) -> usize {
    max_num_batched_tokens.min(prompts).max(sequences)
}

impl PassShape {
    /// Segments of rows that each decode one completion, with keys on pages that are no neighbours,
    /// and one of what rows are left: those with the longest index tables.
    fn segments(&self) -> Vec<Segment> {
        let page = Span { start: 0, len: PAGE_ROWS };
        let one = self.draws.min(self.rows.saturating_sub(1));
        let segment = |start: usize, len: usize| Segment {
            queries: Span { start, len },
            keys: vec![page; self.pages.max(Pages::needed(len))],
            causal: true,
        };
        (0..one).map(|i| segment(i, 1)).chain([segment(one, self.rows - one)]).collect()
    }
}

/// Peak of a decoder pass with these segments over `cache` rows of keys, that draws `draws` tokens,
/// above the cache.
///
/// # Errors
/// If a segment leaves the rows.
pub fn decoder_bytes(
    config: &VlmConfig,
    params: &ParamStore,
    (segments, cache): (Vec<Segment>, usize),
    (draws, draw): (usize, &DrawShape),
) -> Result<usize> {
    let float = params.float_type();
    let mut tape = params.tape();
    let rows = segments.iter().map(|s| s.queries.len).sum();
    let store = stand_in(&mut tape, config);
    // A cache at places that no parameter has.
    let base = usize::MAX / 2 / 64 * 64;
    let input = TextInput {
        index: vec![0; rows],
        vision: store,
        positions: vec![[0; 3]; rows],
        segments: Arc::new(segments),
        cache: Some((KvPool::layout(&config.text, float, base, cache).layers, vec![0; rows])),
        read: None,
    };
    let hidden = text(&mut Net::new(&mut tape, params), &config.text, &input)?;
    if draws > 0 {
        let last = tape.indices(vec![0; draws]);
        let hidden = tape.op(GatherRows, &[hidden, last])?;
        let mut logits = logits(&mut Net::new(&mut tape, params), &config.text, hidden)?;
        if draw.mixed {
            let rows = tape.indices((0..draws as i32).collect());
            logits = tape.op(GatherRows, &[logits, rows])?;
        }
        for slot in tape.ops(draw.sample(draws), &[logits])? {
            tape.keep(slot);
        }
    }
    Ok(tape.plan().peak)
}

/// Peak of a pass above the cache: that of the decoder, or of the largest images that are encoded
/// together.
///
/// # Errors
/// If an image does not fit the model.
pub fn pass_bytes(config: &VlmConfig, params: &ParamStore, shape: &PassShape) -> Result<usize> {
    let patches = |grid: &[usize; 3]| grid.iter().product::<usize>();
    let mut grids = shape.grids.clone();
    grids.sort_by_key(|g| std::cmp::Reverse((patches(g), *g)));
    let mut together = 0;
    let several = grids.iter().take_while(|g| {
        let before = together;
        together += patches(g);
        before < PATCHES_PER_PASS
    });
    grids = several.copied().collect();
    let segments = (shape.segments(), PAGE_ROWS);
    let decoder = decoder_bytes(config, params, segments, (shape.draws, &shape.draw))?;
    Ok(decoder.max(encoding_bytes(config, params, &grids)?))
}

/// The heaviest rollout that is expected.
#[derive(Debug, Clone, Copy)]
pub struct RolloutShape<'a> {
    /// Stands for every prompt: the longest.
    pub prompt: &'a Prompt,
    /// Number of prompts.
    pub prompts: usize,
    /// Completions of all prompts.
    pub completions: usize,
    /// Most tokens of a completion.
    pub completion_length: usize,
    /// Completions that are decoded at a time.
    pub max_num_seqs: usize,
    /// Rows of a pass.
    pub max_num_batched_tokens: usize,
    /// How tokens are drawn.
    pub draw: &'a DrawShape,
}

/// Least bytes above the weights with which the engine can do it: one completion after the other. With
/// more it decodes more of them together.
///
/// # Errors
/// If the prompt does not fit the model.
pub fn least_bytes(config: &VlmConfig, params: &ParamStore, s: &RolloutShape) -> Result<usize> {
    let group =
        GroupSize { prompt: s.prompt.len(), completions: 1, max_tokens: s.completion_length };
    let draws = s.max_num_seqs.min(s.completions).max(1);
    let shape = PassShape {
        rows: most_rows(s.max_num_batched_tokens, s.prompt.len() * s.prompts, draws),
        draws,
        pages: group.least_pages(),
        grids: s.prompt.visuals.iter().map(|i| i.grid_thw).collect::<Vec<_>>().repeat(s.prompts),
        draw: s.draw.clone(),
    };
    Ok(group.least_pages() * page_bytes(config, params) + pass_bytes(config, params, &shape)?)
}
