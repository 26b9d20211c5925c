//! Whether a run will fit its memory, asked before its first step: the heaviest rollout and the
//! heaviest micro-batch that are known of are planned, nothing is run. A run that will not fit is
//! refused with the nearest settings that do, which were planned too.
//!
//! What is known of the data: the first rows that the run will draw and the row with the longest
//! text are encoded. `max_prompt_length` makes it a bound: the longest of those prompts is
//! lengthened to it. A later row with larger images than any of those can still need more.

pub(super) mod search; // settings that fit, nearest first

use crate::base::{Error, Result, Target};
use crate::grpo::pack::{TrainCompletion, TrainGroup, pack};
use crate::grpo::update::{MicroPlan, grpo_plan, supervised_bytes, trains_vision};
use crate::io::dataset::{Part, Row};
use crate::mem::plan::aligned;
use crate::mem::{Arena, Recompute};
use crate::model::config::VlmConfig;
use crate::model::params::{ParamStore, Training};
use crate::model::processor::Visual;
use crate::model::prompt::Prompt;
use crate::model::vision_store::feature_bytes;
use crate::model::vlm;
use crate::ops::linear_logprob::HeadSettings;
use crate::options::Options;
use crate::rollout::head_settings;
use crate::rollout::need::{DrawShape, RolloutShape, least_bytes};
use crate::settings::{DataSettings, MachineSettings, ModelSettings, SftSettings, TrainSettings};
use crate::train::generation::drawn;
use crate::train::step::{
    Moment, dropout, needs_frozen_copy, slices_per_generation, update_settings,
    updates_per_generation,
};
use crate::train::stream::RowOrder;
use crate::train::workspace::{Prepared, training_of, vision_cache};
use std::sync::Arc;

/// Rows that are encoded to know the data, beside the one with the longest text.
const LOOKED_AT: usize = 8;

/// What is known of the data.
#[derive(Debug)]
pub(super) struct Known {
    /// The longest prompt.
    pub prompt: Arc<Prompt>,
    /// Tokens of the longest answer (supervised).
    pub answer: usize,
    /// Rows that were encoded; none if the prompt is assumed.
    pub rows: usize,
}

/// A model, and the memory that a run of it has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ground<'a> {
    pub config: &'a VlmConfig,
    /// What tapes will run on.
    pub target: Target,
    /// Bytes that may be planned with, where the user has set no budget.
    pub budget: usize,
}

impl<'a> Ground<'a> {
    fn of(prepared: &'a Prepared) -> Self {
        let budget = prepared.budget(&MachineSettings::default());
        Ground { config: &prepared.config, target: prepared.target(), budget }
    }
    /// Bytes that may be planned with.
    pub fn budget(&self, machine: &MachineSettings) -> usize {
        machine.memory_budget.map_or(self.budget, |bytes| bytes as usize)
    }
}

/// Bytes of the heaviest step by phase; the phases share the space above the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Need {
    /// Weights, gradients, moments and a frozen reference.
    pub weights: usize,
    /// Cache and activations of a rollout.
    pub rollout: usize,
    /// A micro-batch.
    pub update: usize,
    /// What there is.
    pub budget: usize,
}

impl Need {
    pub fn total(self) -> usize {
        self.weights + self.rollout.max(self.update)
    }
    pub fn fits(self) -> bool {
        self.total() <= self.budget
    }
    /// Room above the weights, for plans that depend on it.
    fn room(self) -> usize {
        self.budget.saturating_sub(self.weights)
    }
    /// The phase that does not fit.
    pub fn what(self) -> &'static str {
        match self {
            n if n.weights > n.budget => "the weights, gradients and optimizer state",
            n if n.rollout > n.update => "the rollout of one group of completions",
            _ => "one micro-batch",
        }
    }
}

/// Refuses a GRPO run that will not fit, its evaluations on `measured` rows included.
///
/// # Errors
/// Kind device, with settings that fit.
pub fn check_grpo(
    options: &Options,
    prepared: &Prepared,
    rows: &[Row],
    measured: &[Row],
) -> Result<()> {
    let s = TrainSettings::from_options(options)?;
    let order = RowOrder::new(rows.len(), s.training.data_seed, s.data.shuffle);
    let Some(known) = look(prepared, rows, order, &s.data, false) else { return Ok(()) };
    let first = RowOrder::new(measured.len().max(1), s.training.seed, false);
    let held_out = match measured {
        [] => None,
        rows => look(prepared, rows, first, &s.data, false),
    };
    let need = |o: &Options| {
        let mut need = grpo_need(o, Ground::of(prepared), &known)?;
        if let Some(held_out) = &held_out {
            need.rollout = need.rollout.max(eval_need(o, Ground::of(prepared), held_out)?);
        }
        Ok(need)
    };
    let longer = held_out.as_ref().filter(|h| h.prompt.len() > known.prompt.len());
    check(options, longer.unwrap_or(&known), &need)
}

/// Refuses a supervised run that will not fit.
///
/// # Errors
/// Kind device, with settings that fit.
pub fn check_sft(options: &Options, prepared: &Prepared, rows: &[Row]) -> Result<()> {
    let s = SftSettings::from_options(options)?;
    let order = RowOrder::new(rows.len(), s.training.data_seed, s.data.shuffle);
    let Some(known) = look(prepared, rows, order, &s.data, true) else { return Ok(()) };
    check(options, &known, &|o| sft_need(o, Ground::of(prepared), &known))
}

/// Encodes some rows and keeps the longest; `None` if none of them is good (the run will say why).
fn look(
    prepared: &Prepared,
    rows: &[Row],
    mut order: RowOrder,
    data: &DataSettings,
    answers: bool,
) -> Option<Known> {
    let text = |m: &[Part]| -> usize {
        m.iter().map(|p| if let Part::Text(t) = p { t.len() } else { 0 }).sum()
    };
    let length = |r: &Row| r.messages.iter().map(|m| text(&m.content)).sum::<usize>();
    let longest_text = (0..rows.len()).max_by_key(|&i| length(&rows[i]));
    let mut at: Vec<usize> = (0..rows.len().min(LOOKED_AT)).map(|c| order.row(c)).collect();
    at.extend(longest_text);
    at.sort_unstable();
    at.dedup();
    let encoder = &prepared.encoder;
    let prompts: Vec<Prompt> =
        at.iter().filter_map(|&i| encoder.encode_row(&rows[i]).ok()).collect();
    let count = prompts.len();
    let prompt = prompts.into_iter().max_by_key(|p| (p.len(), p.visual_tokens()))?;
    let longest_answer = rows.iter().map(|r| r.answer.as_str()).max_by_key(|a| a.len());
    let answer = match longest_answer.filter(|_| answers) {
        Some(text) => encoder.chat.encode_answer(text).ok()?.len(),
        None => 0,
    };
    let prompt = match data.max_prompt_length {
        Some(limit) => lengthened(prompt, limit, prepared)?,
        None => prompt,
    };
    Some(Known { prompt: Arc::new(prompt), answer, rows: count })
}

/// The prompt with more text, up to `limit` tokens or the end of the context.
fn lengthened(p: Prompt, limit: usize, prepared: &Prepared) -> Option<Prompt> {
    let room = prepared.encoder.max_positions().saturating_sub(p.next_position as usize);
    let more = limit.saturating_sub(p.len()).min(room);
    let last = *p.ids.last()?;
    let ids = p.ids.into_iter().chain(std::iter::repeat_n(last, more)).collect();
    Prompt::new(ids, p.visuals, p.starts, prepared.config.positions, p.text).ok()
}

/// Refuses what does not fit, naming what does.
fn check(options: &Options, known: &Known, need: &search::NeedOf) -> Result<()> {
    let found = need(options)?;
    match found.fits() {
        true => Ok(()),
        false => Err(refusal(found, known).hint(search::hint(options, need)?)),
    }
}

/// The error for what does not fit; the hint is missing.
pub(super) fn refusal(found: Need, known: &Known) -> Error {
    let mib = |bytes: usize| format!("{:.1} MiB", bytes as f64 / 1048576.0);
    let phases = match found.rollout {
        0 => String::new(),
        bytes => format!(", {} for a rollout", mib(bytes)),
    };
    let prompt = match known.rows {
        0 => "assumed prompt".to_string(),
        1 => "longest prompt in the row that was looked at".to_string(),
        rows => format!("longest prompt in the {rows} rows that were looked at"),
    };
    Error::device(format!("the memory budget is too small for {}", found.what()))
        .key("memory_budget")
        .expected(format!("at most {} bytes ({}), the budget", found.budget, mib(found.budget)))
        .found(format!(
            "{} bytes ({}) are needed: {} for weights, gradients and optimizer state{phases}, {} \
             for a micro-batch; the {prompt} has {} tokens",
            found.total(),
            mib(found.total()),
            mib(found.weights),
            mib(found.update),
            known.prompt.len(),
        ))
}

/// Parameters at the places they will have, with the bytes that they and the features of images take;
/// nothing is read.
pub(super) fn places(
    ground: Ground,
    training: &Training,
    model: &ModelSettings,
    machine: &MachineSettings,
) -> Result<(ParamStore, usize)> {
    let (config, float) = (ground.config, model.dtype);
    let bytes = vlm::model_bytes(config, training, float);
    let mut arena = Arena::planned(bytes, ground.target);
    let params = vlm::place(config, training, float, &mut arena)?;
    let weights = arena.shared_base();
    let row = feature_bytes(config, float);
    let features =
        vision_cache(machine, ground.budget(machine).saturating_sub(weights)) / row * row;
    Ok((params, weights + aligned(features)))
}

/// How a run draws its tokens. Of those that are never drawn, what the tokenizer adds is left out:
/// device tables are rounded up by more.
pub(super) fn draw_shape(config: &VlmConfig, s: &TrainSettings, prompt: usize) -> DrawShape {
    let (t, sampling) = (&config.tokens, drawn(&s.sampling));
    let forbidden = t.placeholders();
    DrawShape {
        head: Arc::new(head_settings(&sampling, &forbidden)),
        sampling: Arc::new(sampling),
        seen: prompt + s.sampling.max_completion_length,
        mixed: false,
    }
}

/// Bytes of a copy of what is trained, the reference of the KL penalty.
pub(super) fn frozen_bytes(params: &ParamStore) -> usize {
    params.trained().map(|p| aligned(p.len() * p.place.value.dtype.size())).sum()
}

/// What the heaviest step of a GRPO run needs at the least: completions are decoded one after the
/// other if there is no room for more.
pub(super) fn grpo_need(o: &Options, ground: Ground, known: &Known) -> Result<Need> {
    let s = TrainSettings::from_options(o)?;
    let training = training_of(&s.model, ground.config)?;
    let (params, mut weights) = places(ground, &training, &s.model, &s.machine)?;
    if needs_frozen_copy(&s, &training) {
        weights += frozen_bytes(&params);
    }
    let mut need = Need { weights, rollout: 0, update: 0, budget: ground.budget(&s.machine) };
    let draw = draw_shape(ground.config, &s, known.prompt.len());
    let shape = RolloutShape {
        prompt: &known.prompt,
        prompts: s.grpo.prompts_per_generation,
        completions: s.grpo.generation_batch_size,
        completion_length: s.sampling.max_completion_length,
        max_num_seqs: s.sampling.max_num_seqs,
        max_num_batched_tokens: s.sampling.max_num_batched_tokens,
        draw: &draw,
    };
    need.rollout = least_bytes(ground.config, &params, &shape)?;
    let update =
        Update { config: ground.config, params: &params, settings: &s, training: &training };
    need.update = update.least(&known.prompt, need.room())?;
    Ok(need)
}

/// Bytes of an evaluation's rollout, at the least.
fn eval_need(o: &Options, ground: Ground, known: &Known) -> Result<usize> {
    let s = TrainSettings::from_options(o)?;
    let training = training_of(&s.model, ground.config)?;
    let (params, _) = places(ground, &training, &s.model, &s.machine)?;
    let m = &s.validation;
    let mut draw = draw_shape(ground.config, &s, known.prompt.len());
    draw.sampling = Arc::new(drawn(&m.sampling));
    let prompts = (m.batch_size / m.num_generations).max(1);
    let shape = RolloutShape {
        prompt: &known.prompt,
        prompts,
        completions: prompts * m.num_generations,
        completion_length: m.sampling.max_completion_length,
        max_num_seqs: m.sampling.max_num_seqs,
        max_num_batched_tokens: m.sampling.max_num_batched_tokens,
        draw: &draw,
    };
    least_bytes(ground.config, &params, &shape)
}

/// The updates of a GRPO run, planned from shapes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Update<'a> {
    pub config: &'a VlmConfig,
    pub params: &'a ParamStore,
    pub settings: &'a TrainSettings,
    pub training: &'a Training,
}

/// A micro-batch that was planned.
#[derive(Debug, Clone)]
pub struct Planned {
    /// Groups of completions.
    pub groups: usize,
    /// Decoder rows.
    pub rows: usize,
    /// Tokens in the loss.
    pub tokens: usize,
    /// Grids of its distinct images.
    pub grids: Vec<[usize; 3]>,
    /// Bytes and work.
    pub plan: MicroPlan,
}

impl Update<'_> {
    /// The heaviest micro-batch, where there is `room`.
    pub fn heaviest(&self, prompt: &Arc<Prompt>, room: usize) -> Result<Planned> {
        let mut heaviest: Option<Planned> = None;
        for mix in self.mixes(prompt) {
            let found = self.plan(prompt, mix, self.settings.training.recompute, room)?;
            if heaviest.as_ref().is_none_or(|h| found.plan.peak() > h.plan.peak()) {
                heaviest = Some(found);
            }
        }
        Ok(heaviest.expect("there is at least one mix"))
    }

    /// Bytes of the heaviest micro-batch, where there is `room`: at most that many if it fits, and
    /// otherwise as few as there can be. Does not look for the cheapest way to fit.
    pub fn least(&self, prompt: &Arc<Prompt>, room: usize) -> Result<usize> {
        let peak = |mix, when| self.plan(prompt, mix, when, room).map(|p| p.plan.peak());
        let mut most = 0;
        for mix in self.mixes(prompt) {
            let bytes = match self.settings.training.recompute {
                Recompute::Auto => {
                    let plain = peak(mix, Recompute::Never)?;
                    let fits = plain <= room;
                    if fits { plain } else { plain.min(peak(mix, Recompute::Always)?) }
                }
                when => peak(mix, when)?,
            };
            most = most.max(bytes);
        }
        Ok(most)
    }

    fn mixes(&self, prompt: &Prompt) -> Vec<Mix> {
        let s = self.settings;
        let (n, groups) = self.slice();
        let longest = s.sampling.max_completion_length;
        mixes(prompt.len(), n, longest, s.training.micro_batch_tokens, groups)
    }

    /// Completions of a group of one optimizer step, and such groups. Without a shared prompt, a
    /// completion is a group.
    pub fn slice(&self) -> (usize, usize) {
        let s = self.settings;
        let completions = s.grpo.generation_batch_size / slices_per_generation(s);
        let n = s.grpo.num_generations.min(completions).max(1);
        // A slice that is no part of a group may end in the next one.
        let straddles = completions < s.grpo.num_generations
            && !s.grpo.num_generations.is_multiple_of(completions.max(1));
        match s.grpo.share_prompt {
            true => (n, completions.div_ceil(n) + usize::from(straddles)),
            false => (1, completions),
        }
    }

    /// Whether gradients flow through the vision tower or its projector.
    pub fn trains_vision(&self) -> bool {
        trains_vision(self.params)
    }

    /// Plans one kind of micro-batch; of the updates after a rollout, the one that takes most.
    pub fn plan(
        &self,
        prompt: &Arc<Prompt>,
        mix: Mix,
        recompute: Recompute,
        room: usize,
    ) -> Result<Planned> {
        let s = self.settings;
        let (n, _) = self.slice();
        let alone = if s.grpo.share_prompt { 1 } else { s.grpo.num_generations };
        let packed = pack(&mix.groups(prompt, n, alone));
        let drop = dropout(self.training, s.training.seed, 0);
        let frozen = needs_frozen_copy(s, self.training).then_some(self.params);
        let mut most: Option<MicroPlan> = None;
        for first in [true, false] {
            let head = Arc::new(HeadSettings::default());
            let now = Moment { frozen, dropout: drop, first, ..Moment::default() };
            let mut update = update_settings(s, head, now);
            update.recompute = recompute;
            if !first && (updates_per_generation(s) == 1 || drop.is_some()) {
                continue;
            }
            let plan = grpo_plan(self.config, self.params, &packed, &update, room)?;
            if most.as_ref().is_none_or(|m| plan.peak() > m.peak()) {
                most = Some(plan);
            }
        }
        Ok(Planned {
            groups: mix.groups,
            rows: packed.input.index.len(),
            tokens: packed.targets.len(),
            grids: packed.visuals.grids(),
            plan: most.expect("the first update is always planned"),
        })
    }
}

fn sft_need(o: &Options, ground: Ground, known: &Known) -> Result<Need> {
    let s = SftSettings::from_options(o)?;
    let training = training_of(&s.model, ground.config)?;
    let (params, weights) = places(ground, &training, &s.model, &s.machine)?;
    let mut need = Need { weights, rollout: 0, update: 0, budget: ground.budget(&s.machine) };
    let t = &s.training;
    let (head, drop) = (Arc::new(HeadSettings::default()), dropout(&training, t.seed, 0));
    let rows = t.batch_size * t.gradient_accumulation_steps;
    for m in mixes(known.prompt.len(), 1, known.answer, t.micro_batch_tokens, rows) {
        let packed = pack(&m.groups(&known.prompt, 1, 1));
        let (config, room) = (ground.config, need.room());
        let bytes = supervised_bytes(config, &params, &packed, &head, drop, t.recompute, room)?;
        need.update = need.update.max(bytes);
    }
    Ok(need)
}

/// Groups of one size in a micro-batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mix {
    pub groups: usize,
    /// Tokens of each completion.
    pub length: usize,
}

impl Mix {
    /// Groups of `n` completions; each `alone` of them have the same images.
    fn groups(self, prompt: &Arc<Prompt>, n: usize, alone: usize) -> Vec<TrainGroup> {
        let completion = |i: usize| TrainCompletion {
            ids: vec![0; self.length],
            statistics: vec![[0.0; 2]; self.length],
            advantage: 1.0,
            weight: 1.0,
            sample: i as u32,
            ..TrainCompletion::default()
        };
        let group = |i: usize| TrainGroup {
            prompt: Arc::new(with_other_images(prompt, i / alone)),
            completions: (0..n).map(completion).collect(),
        };
        (0..self.groups).map(group).collect()
    }
}

/// The prompt with images of the same sizes and another content, without pixels: equal ones would be
/// encoded once.
pub(super) fn with_other_images(prompt: &Prompt, number: usize) -> Prompt {
    let other = |(i, visual): (usize, &Arc<Visual>)| {
        let content = (number * prompt.visuals.len() + i) as u128;
        let (runs, seconds) = (visual.runs.clone(), visual.seconds.clone());
        Arc::new(Visual { content, patches: Vec::new(), runs, seconds, ..**visual })
    };
    Prompt {
        visuals: prompt.visuals.iter().enumerate().map(other).collect(),
        ids: prompt.ids.clone(),
        starts: prompt.starts.clone(),
        positions: prompt.positions.clone(),
        next_position: prompt.next_position,
        text: String::new(),
    }
}

/// The micro-batches of at most `budget` rows that can be heaviest: as few groups as fill it with
/// the longest completions (most tokens in the loss), one more of shorter completions, and as many
/// prompts as fit (most images). A group that is larger than the budget is alone.
fn mixes(prompt: usize, n: usize, longest: usize, budget: usize, available: usize) -> Vec<Mix> {
    let rows = |length: usize| prompt + n * length.saturating_sub(1);
    let full = (budget / rows(longest)).clamp(1, available.max(1));
    let mut mixes = vec![Mix { groups: full, length: longest }];
    let many = (budget / prompt).min(available);
    for groups in [full + 1, many] {
        let length = 1 + (budget / groups.max(1)).saturating_sub(prompt) / n;
        if groups > full && groups <= many {
            mixes.push(Mix { groups, length: length.min(longest) });
        }
    }
    mixes.dedup();
    mixes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixes_fill_the_micro_batch_and_no_more() {
        assert_eq!(mixes(100, 4, 51, 200, 8)[0], Mix { groups: 1, length: 51 });
        for (prompt, n, longest, budget, available) in
            [(100, 4, 51, 1000, 8), (27, 2, 4, 4096, 2), (300, 8, 512, 4096, 64), (9, 1, 1, 9, 3)]
        {
            let found = mixes(prompt, n, longest, budget, available);
            for m in &found {
                let rows = m.groups * (prompt + n * (m.length - 1));
                assert!(m.groups <= available && m.length <= longest, "{m:?}");
                assert!(rows <= budget || m.groups == 1, "{m:?} has {rows} rows");
            }
            let most = found.iter().map(|m| m.groups).max().unwrap();
            assert_eq!(most, (budget / prompt).min(available).max(1), "{found:?}");
        }
    }
}
