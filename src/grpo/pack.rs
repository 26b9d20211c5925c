//! Groups of completions to one decoder pass. A prompt is forwarded once for its whole group: each
//! completion's segment sees the prompt's keys and its own. Nothing is padded.

use crate::model::decoder::TextInput;
use crate::model::prompt::{Prompt, VisualStack};
use crate::ops::attention::{Segment, Span};
use std::sync::Arc;

/// A completion with what the loss needs of it.
#[derive(Debug, Clone, Default)]
pub struct TrainCompletion {
    /// Its tokens.
    pub ids: Vec<u32>,
    /// Log-probability of each token when it was sampled; empty where there is none (supervised).
    pub old_logps: Vec<f32>,
    /// Log-sum-exp and entropy of each token's distribution when it was sampled; empty if unknown.
    pub statistics: Vec<[f32; 2]>,
    /// Advantage of every token.
    pub advantage: f32,
    /// Weight of every token in the loss.
    pub weight: f32,
    /// Number within the step: key of dropout masks.
    pub sample: u32,
    /// Which tokens' policy terms count; empty if all do.
    pub keep: Vec<bool>,
    /// What the entropy of every token that is kept is rewarded with in the loss.
    pub bonus: f32,
}

/// A prompt and those of its completions that are trained on.
#[derive(Debug, Clone)]
pub struct TrainGroup {
    /// The prompt.
    pub prompt: Arc<Prompt>,
    /// Its completions.
    pub completions: Vec<TrainCompletion>,
}

impl TrainGroup {
    /// Decoder rows of the group.
    pub fn rows(&self) -> usize {
        let own: usize = self.completions.iter().map(|c| c.ids.len().saturating_sub(1)).sum();
        self.prompt.len() + own
    }
}

/// One decoder pass and the tokens whose log-probability is wanted.
#[derive(Debug, Clone)]
pub struct Packed {
    /// Images and videos, each distinct one once.
    pub visuals: VisualStack,
    /// The decoder's input, with rows of the features of `visuals`; its `vision` slot is filled in when
    /// the tape is built.
    pub input: TextInput,
    /// Prompts that are forwarded.
    pub prompts: usize,
    /// Hidden row that predicts each wanted token.
    pub rows: Vec<i32>,
    /// The wanted tokens.
    pub targets: Vec<i32>,
    /// Per wanted token: log-probability at sampling.
    pub old: Vec<f32>,
    /// Per wanted token: log-sum-exp at sampling, where all completions have it; else empty.
    pub lse: Vec<f32>,
    /// Per wanted token: entropy at sampling, as `lse`.
    pub entropy: Vec<f32>,
    /// Per wanted token: advantage.
    pub advantage: Vec<f32>,
    /// Per wanted token: weight in the loss.
    pub weight: Vec<f32>,
    /// Per wanted token: 1 if its policy term counts, else 0.
    pub keep: Vec<f32>,
    /// Per wanted token: what its entropy is rewarded with.
    pub bonus: Vec<f32>,
    /// First wanted token of each completion, and the number of wanted tokens.
    pub starts: Vec<i32>,
    /// Per decoder row: (sample, token), the key of dropout masks.
    pub keys: Vec<i32>,
}

/// Packs groups into one pass.
pub fn pack(groups: &[TrainGroup]) -> Packed {
    let mut p = Packed {
        visuals: VisualStack::default(),
        input: TextInput {
            index: Vec::new(),
            vision: Vec::new(),
            positions: Vec::new(),
            segments: Arc::new(Vec::new()),
            cache: None,
            read: None,
        },
        prompts: groups.len(),
        rows: Vec::new(),
        targets: Vec::new(),
        old: Vec::new(),
        lse: Vec::new(),
        entropy: Vec::new(),
        advantage: Vec::new(),
        weight: Vec::new(),
        keep: Vec::new(),
        bonus: Vec::new(),
        starts: vec![0],
        keys: Vec::new(),
    };
    let mut segments = Vec::new();
    for g in groups {
        let start = p.input.index.len();
        let prompt = Span { start, len: g.prompt.len() };
        p.input.index.extend(p.visuals.place_prompt(&g.prompt));
        p.input.positions.extend(&g.prompt.positions);
        segments.push(Segment { queries: prompt, keys: vec![prompt], causal: true });
        let first = g.completions.first().map_or(0, |c| c.sample);
        // Prompt rows are shared: they take the key of the group's first completion, negated.
        p.keys.extend((0..prompt.len).flat_map(|t| [-(first as i32) - 1, t as i32]));
        for c in &g.completions {
            p.push_completion(c, &g.prompt, prompt, &mut segments);
        }
    }
    p.input.segments = Arc::new(segments);
    if p.lse.len() != p.targets.len() {
        (p.lse, p.entropy) = (Vec::new(), Vec::new());
    }
    p
}

impl Packed {
    fn push_completion(
        &mut self,
        c: &TrainCompletion,
        prompt: &Prompt,
        prompt_span: Span,
        segments: &mut Vec<Segment>,
    ) {
        let Some((_, forwarded)) = c.ids.split_last() else { return };
        let own = Span { start: self.input.index.len(), len: forwarded.len() };
        self.input.index.extend(forwarded.iter().map(|&t| t as i32));
        self.input.positions.extend(prompt.positions_after(0, own.len));
        self.keys.extend((0..own.len).flat_map(|t| [c.sample as i32, t as i32]));
        if own.len > 0 {
            let keys = vec![prompt_span, own];
            segments.push(Segment { queries: own, keys, causal: true });
        }
        for (j, &token) in c.ids.iter().enumerate() {
            let row = match j {
                0 => prompt_span.start + prompt_span.len - 1,
                _ => own.start + j - 1,
            };
            self.rows.push(row as i32);
            self.targets.push(token as i32);
            self.old.push(c.old_logps.get(j).copied().unwrap_or(0.0));
            self.lse.extend(c.statistics.get(j).map(|s| s[0]));
            self.entropy.extend(c.statistics.get(j).map(|s| s[1]));
            self.advantage.push(c.advantage);
            self.weight.push(c.weight);
            let keep = c.keep.get(j).copied().unwrap_or(true);
            self.keep.push(f32::from(u8::from(keep)));
            self.bonus.push(if keep { c.bonus } else { 0.0 });
        }
        self.starts.push(self.targets.len() as i32);
    }
}

/// Groups of one completion each: every completion with a prompt of its own.
pub fn unshared(groups: Vec<TrainGroup>) -> Vec<TrainGroup> {
    let alone =
        |prompt: &Arc<Prompt>, c| TrainGroup { prompt: prompt.clone(), completions: vec![c] };
    groups
        .into_iter()
        .flat_map(|g| g.completions.into_iter().map(move |c| alone(&g.prompt, c)))
        .collect()
}

/// Cuts groups into micro-batches of at most `budget` decoder rows, in order; a larger group has one
/// of its own.
pub fn micro_batches(groups: Vec<TrainGroup>, budget: usize) -> Vec<Vec<TrainGroup>> {
    let mut out: Vec<Vec<TrainGroup>> = Vec::new();
    let mut rows = 0;
    for g in groups {
        if out.is_empty() || rows + g.rows() > budget {
            out.push(Vec::new());
            rows = 0;
        }
        rows += g.rows();
        out.last_mut().expect("just pushed").push(g);
    }
    out
}
