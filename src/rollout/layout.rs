//! How a rollout divides the space above the weights, and which passes it will have: asked by the
//! engine before its first pass, and by plans that never run one. The same functions answer both, so
//! that a plan is what happens. Pure bookkeeping and planning; runs no tape.

use crate::base::{Result, Target};
use crate::model::config::VlmConfig;
use crate::model::panels::panel_bytes;
use crate::model::params::ParamStore;
use crate::model::prompt::Prompt;
use crate::model::vision_store::{encoding_bytes, passes};
use crate::ops::attention::{Segment, Span};
use crate::rollout::need::{
    DrawShape, PassShape, decoder_bytes, most_rows, page_bytes, pass_bytes,
};
use crate::rollout::pages::{PAGE_ROWS, Pages};
use crate::rollout::scheduler::{Counts, GroupSize, Limits, Piece, Scheduler};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// What a call of the engine is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Prompts with their completions.
    pub groups: &'a [(&'a Prompt, GroupSize)],
    /// Completions that are decoded at a time.
    pub max_num_seqs: usize,
    /// Rows of a pass.
    pub max_num_batched_tokens: usize,
    /// Most pages of the KV cache; as many as are useful and fit if `None`.
    pub max_pages: Option<usize>,
    /// How tokens are drawn.
    pub draw: &'a DrawShape,
}

/// What requests that are not known yet may ask for.
#[derive(Debug, Clone)]
pub struct Service {
    /// Completions that are decoded at a time.
    pub max_num_seqs: usize,
    /// Rows of a pass.
    pub max_num_batched_tokens: usize,
    /// Most tokens of a prompt and its completion.
    pub context: usize,
    /// Most pages of the KV cache; as many as are useful and fit if `None`.
    pub max_pages: Option<usize>,
    /// The images that take most to encode together: patches in time, height and width of each.
    pub grids: Vec<[usize; 3]>,
    /// How tokens are drawn at the most expensive.
    pub draw: DrawShape,
}

/// How the space above the weights is divided, from the bottom: packed weights, KV cache, a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Limits of the scheduler.
    pub limits: Limits,
    /// Pages without which not even one completion can be finished.
    pub least: usize,
    /// Pages that the completions which live at a time can use.
    pub useful: usize,
    /// Pages that fit beside the largest pass.
    pub fit: usize,
    /// Bytes of a page in all layers.
    pub page_bytes: usize,
    /// Bytes of the packed weights; 0 if they are not packed.
    pub panel_bytes: usize,
    /// Bytes that are kept free for the largest pass.
    pub pass_bytes: usize,
}

impl Layout {
    /// Divides `free` bytes: the cache takes what is useful, the packed weights what is left, and
    /// the largest pass must fit above both. Where not even one completion fits, the layout is that
    /// of one completion, and `fit` is less than `least`.
    ///
    /// # Errors
    /// If an image does not fit the model.
    pub fn of(
        config: &VlmConfig,
        params: &ParamStore,
        wanted: &Wanted,
        free: usize,
    ) -> Result<Self> {
        let sizes: Vec<GroupSize> = wanted.groups.iter().map(|(_, size)| *size).collect();
        let least = sizes.iter().map(GroupSize::least_pages).max().unwrap_or(1);
        let most = wanted.max_pages.unwrap_or(usize::MAX);
        let useful = useful_pages(&sizes, wanted.max_num_seqs).min(most);
        let completions = sizes.iter().map(|g| g.completions).sum();
        let sequences = wanted.max_num_seqs.min(completions).max(1);
        let prompts = sizes.iter().map(|g| g.prompt).sum();
        let rows = most_rows(wanted.max_num_batched_tokens, prompts, sequences);
        let page = page_bytes(config, params);
        let images = wanted.groups.iter().flat_map(|(prompt, _)| &prompt.visuals);
        let distinct: BTreeMap<u128, [usize; 3]> =
            images.map(|i| (i.content, i.grid_thw)).collect();
        let grids = distinct.into_values().collect();
        let draw = wanted.draw.clone();
        let shape = PassShape { rows, draws: sequences, pages: least, grids, draw };
        let pass = pass_bytes(config, params, &shape)?;
        let fit = free.saturating_sub(pass) / page;
        let pages = useful.max(least).min(fit).max(least);
        let left = free.saturating_sub(pass + pages * page);
        let packed = panel_bytes(params, &config.text.head_name());
        // Kernels read the weights as they are.
        let packs = params.target() == Target::Cpu;
        Ok(Layout {
            limits: Limits { pages, sequences, rows },
            least,
            useful,
            fit,
            page_bytes: page,
            panel_bytes: if packs && packed <= left { packed } else { 0 },
            pass_bytes: pass,
        })
    }

    /// Divides `free` bytes for requests that are not known yet: the largest pass first, then the
    /// packed weights if they leave the cache most of the rest, then the cache.
    ///
    /// # Errors
    /// If an image does not fit the model.
    pub fn of_service(
        config: &VlmConfig,
        params: &ParamStore,
        service: &Service,
        free: usize,
    ) -> Result<Self> {
        let sequences = service.max_num_seqs.max(1);
        // A prompt and a completion each end on a page of their own.
        let least = Pages::needed(service.context) + 1;
        let shape = PassShape {
            rows: service.max_num_batched_tokens.max(sequences),
            draws: sequences,
            pages: least,
            grids: service.grids.clone(),
            draw: service.draw.clone(),
        };
        let (page, pass) = (page_bytes(config, params), pass_bytes(config, params, &shape)?);
        let useful = (sequences * least).min(service.max_pages.unwrap_or(usize::MAX)).max(least);
        let left = free.saturating_sub(pass);
        let packed = panel_bytes(params, &config.text.head_name());
        let packs = params.target() == Target::Cpu
            && (packed <= left / 4 || packed + useful * page <= left);
        let panels = if packs { packed } else { 0 };
        let fit = (left - panels) / page;
        Ok(Layout {
            limits: Limits { pages: useful.min(fit).max(least), sequences, rows: shape.rows },
            least,
            useful,
            fit,
            page_bytes: page,
            panel_bytes: panels,
            pass_bytes: pass,
        })
    }

    /// Bytes of the KV cache.
    pub fn cache_bytes(&self) -> usize {
        self.limits.pages * self.page_bytes
    }

    /// Whether at least one completion at a time fits.
    pub fn fits(&self) -> bool {
        self.fit >= self.least
    }
}

/// Pages that the completions which live at a time can use, if the largest groups meet.
fn useful_pages(sizes: &[GroupSize], max_num_seqs: usize) -> usize {
    let mut sizes: Vec<&GroupSize> = sizes.iter().collect();
    sizes.sort_by_key(|g| std::cmp::Reverse(g.all_pages()));
    let (mut pages, mut live) = (0, 0);
    for g in sizes {
        if live >= max_num_seqs {
            // A group that waits for the last place of another has its prompt in the cache already.
            return pages + g.least_pages();
        }
        pages += g.all_pages();
        live += g.completions;
    }
    pages
}

/// A pass, cut where the images of its prompts would not fit `store` rows together. No piece needs
/// keys of a later one.
pub fn parts<'p, 'q>(
    pass: &'p [Piece],
    prompt: impl Fn(usize) -> &'q Prompt,
    store: usize,
) -> Vec<&'p [Piece]> {
    let (mut parts, mut first) = (Vec::new(), 0);
    let mut images: BTreeMap<u128, usize> = BTreeMap::new();
    for (i, piece) in pass.iter().enumerate().filter(|(_, p)| p.sequence.is_none()) {
        let own = prompt(piece.group).visuals.iter();
        let own: BTreeMap<u128, usize> = own.map(|v| (v.content, v.rows())).collect();
        let new = own.iter().filter(|(content, _)| !images.contains_key(content));
        let rows = images.values().chain(new.map(|(_, n)| n)).sum::<usize>();
        if i > first && rows > store {
            parts.push(&pass[first..i]);
            first = i;
            images.clear();
        }
        images.extend(own);
    }
    parts.push(&pass[first..]);
    parts
}

/// Peaks of the passes of a rollout above its cache, in bytes, and what the scheduler did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rehearsal {
    /// Encoding images.
    pub encode: usize,
    /// Passes with rows of a prompt.
    pub prefill: usize,
    /// Passes of next tokens only.
    pub decode: usize,
    /// What the scheduler did.
    pub counts: Counts,
}

/// A pass that no other exceeds.
#[derive(Debug)]
struct Largest {
    segments: Vec<Segment>,
    /// Rows, tokens that are drawn, spans of keys.
    size: [usize; 3],
}

impl Largest {
    fn of(part: &[Piece]) -> Self {
        let mut start = 0;
        let segment = |p: &Piece| {
            start += p.len;
            let queries = Span { start: start - p.len, len: p.len };
            Segment { queries, keys: p.keys.clone(), causal: true }
        };
        let segments: Vec<Segment> = part.iter().map(segment).collect();
        let draws = part.iter().map(|p| p.draws.len()).sum();
        let spans = part.iter().map(|p| p.keys.len()).sum();
        Largest { segments, size: [start, draws, spans] }
    }

    /// Puts a pass among the largest, unless another exceeds it in everything.
    fn join(self, others: &mut Vec<Largest>) {
        let covers = |a: &Largest, b: &Largest| a.size.iter().zip(b.size).all(|(a, b)| *a >= b);
        if !others.iter().any(|other| covers(other, &self)) {
            others.retain(|other| !covers(&self, other));
            others.push(self);
        }
    }
}

/// Goes through a rollout of which every completion has its full length, and plans its largest
/// passes. Images are encoded when their prompt is first forwarded.
///
/// # Errors
/// If a prompt does not fit the model.
pub fn rehearse(
    config: &VlmConfig,
    params: &ParamStore,
    groups: &[(&Prompt, GroupSize)],
    limits: Limits,
    (store, draw): (usize, &DrawShape),
) -> Result<Rehearsal> {
    let sizes: Vec<GroupSize> = groups.iter().map(|(_, size)| *size).collect();
    let owner: Vec<usize> = sizes
        .iter()
        .enumerate()
        .flat_map(|(g, size)| std::iter::repeat_n(g, size.completions))
        .collect();
    let mut scheduler = Scheduler::new(limits, &sizes);
    let (mut prefill, mut decode) = (Vec::new(), Vec::new());
    let (mut seen, mut encoded) = (HashSet::new(), BTreeSet::new());
    loop {
        let pass = scheduler.next_pass();
        if pass.is_empty() {
            break;
        }
        for part in parts(&pass, |g| groups[g].0, store) {
            let prompts = || part.iter().filter(|p| p.sequence.is_none());
            let images = prompts().flat_map(|p| &groups[p.group].0.visuals);
            let new: Vec<_> = images.filter(|i| seen.insert(i.content)).collect();
            let passes = passes(&new, |i| i.patches()).into_iter();
            encoded.extend(passes.map(|p| p.iter().map(|i| i.grid_thw).collect::<Vec<_>>()));
            let of = if prompts().next().is_some() { &mut prefill } else { &mut decode };
            Largest::of(part).join(of);
            for &id in part.iter().flat_map(|p| &p.draws) {
                let last = scheduler.tokens(id) + 1 >= sizes[owner[id]].max_tokens;
                scheduler.drawn(id, last);
            }
        }
    }
    let cache = limits.pages * PAGE_ROWS;
    let most = |passes: Vec<Largest>| {
        passes.into_iter().try_fold(0, |most: usize, pass| {
            let bytes =
                decoder_bytes(config, params, (pass.segments, cache), (pass.size[1], draw))?;
            Ok(most.max(bytes))
        })
    };
    let encode = encoded.iter().try_fold(0, |most: usize, grids: &Vec<[usize; 3]>| {
        encoding_bytes(config, params, grids).map(|bytes| most.max(bytes))
    })?;
    let (prefill, decode) = (most(prefill)?, most(decode)?);
    Ok(Rehearsal { encode, prefill, decode, counts: scheduler.counts() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_largest_passes_are_left() {
        let mut left = Vec::new();
        for size in [[3, 3, 3], [8, 4, 2], [8, 8, 8], [90, 2, 1], [100, 2, 1], [8, 8, 7]] {
            Largest { segments: Vec::new(), size }.join(&mut left);
        }
        assert_eq!(left.iter().map(|l| l.size).collect::<Vec<_>>(), [[8, 8, 8], [100, 2, 1]]);
    }

    #[test]
    fn groups_that_wait_have_their_prompt_in_the_cache() {
        let group = |completions| GroupSize { prompt: 16, completions, max_tokens: 17 };
        assert_eq!(useful_pages(&[group(4), group(4)], 8), 10);
        assert_eq!(useful_pages(&[group(4), group(4)], 4), 5 + 2);
    }
}
