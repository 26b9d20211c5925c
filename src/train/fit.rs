//! Whether a run will fit its memory, asked before its first step: the heaviest rollout and the
//! heaviest micro-batch that are known of are planned, nothing is run. A run that will not fit is
//! refused with the nearest settings that do, which were planned too.
//!
//! What is known of the data: the first rows that the run will draw and the row with the longest
//! text are encoded. `max_prompt_length` makes it a bound: the longest of those prompts is
//! lengthened to it. A later row with larger images than any of those can still need more.

mod search; // settings that fit, nearest first

use crate::base::{Error, Result};
use crate::grpo::pack::{TrainCompletion, TrainGroup, pack};
use crate::grpo::update::{Reference, UpdateSettings, grpo_bytes, supervised_bytes};
use crate::io::dataset::{Part, Row};
use crate::mem::Arena;
use crate::mem::plan::aligned;
use crate::model::params::{ParamStore, Training};
use crate::model::processor::qwen_image::ProcessedImage;
use crate::model::prompt::Prompt;
use crate::model::vlm;
use crate::ops::grpo_loss::GrpoLoss;
use crate::ops::linear_logprob::HeadSettings;
use crate::rollout::need::{RolloutShape, least_bytes};
use crate::train::options::Options;
use crate::train::settings::{
    DataSettings, MachineSettings, ModelSettings, SftSettings, TrainSettings,
};
use crate::train::step::dropout;
use crate::train::stream::RowOrder;
use crate::train::workspace::{Prepared, training_of, vision_cache};
use std::sync::Arc;

/// Rows that are encoded to know the data, beside the one with the longest text.
const LOOKED_AT: usize = 8;

/// What is known of the data.
#[derive(Debug)]
struct Known {
    /// The longest prompt.
    prompt: Arc<Prompt>,
    /// Tokens of the longest answer (supervised).
    answer: usize,
    /// Rows that were encoded.
    rows: usize,
}

/// Bytes of the heaviest step by phase; the phases share the space above the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Need {
    /// Weights, gradients, moments and a frozen reference.
    weights: usize,
    /// Cache and activations of a rollout.
    rollout: usize,
    /// A micro-batch.
    update: usize,
    /// What there is.
    budget: usize,
}

impl Need {
    fn total(self) -> usize {
        self.weights + self.rollout.max(self.update)
    }
    fn fits(self) -> bool {
        self.total() <= self.budget
    }
    /// Room above the weights, for plans that depend on it.
    fn room(self) -> usize {
        self.budget.saturating_sub(self.weights)
    }
    /// The phase that does not fit.
    fn what(self) -> &'static str {
        match self {
            n if n.weights > n.budget => "the weights, gradients and optimizer state",
            n if n.rollout > n.update => "the rollout of one group of completions",
            _ => "one micro-batch",
        }
    }
}

/// Refuses a GRPO run that will not fit.
///
/// # Errors
/// Kind device, with settings that fit.
pub fn check_grpo(options: &Options, prepared: &Prepared, rows: &[Row]) -> Result<()> {
    let s = TrainSettings::from_options(options)?;
    let order = RowOrder::new(rows.len(), s.training.seed, s.data.shuffle);
    let Some(known) = look(prepared, rows, order, &s.data, false) else { return Ok(()) };
    check(options, &known, &|o| grpo_need(o, prepared, &known))
}

/// Refuses a supervised run that will not fit.
///
/// # Errors
/// Kind device, with settings that fit.
pub fn check_sft(options: &Options, prepared: &Prepared, rows: &[Row]) -> Result<()> {
    let s = SftSettings::from_options(options)?;
    let order = RowOrder::new(rows.len(), s.training.seed, s.data.shuffle);
    let Some(known) = look(prepared, rows, order, &s.data, true) else { return Ok(()) };
    check(options, &known, &|o| sft_need(o, prepared, &known))
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
    let prompt = prompts
        .into_iter()
        .max_by_key(|p| (p.len(), p.spans.iter().map(|s| s.1).sum::<usize>()))?;
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
    let merge = prepared.config.vision.spatial_merge_size;
    Prompt::new(ids, p.images, p.spans, merge, p.text).ok()
}

/// Refuses what does not fit, naming what does.
fn check(options: &Options, known: &Known, need: &search::NeedOf) -> Result<()> {
    let found = need(options)?;
    if found.fits() {
        return Ok(());
    }
    let mib = |bytes: usize| format!("{:.1} MiB", bytes as f64 / 1048576.0);
    let phases = match found.rollout {
        0 => String::new(),
        bytes => format!(", {} for a rollout", mib(bytes)),
    };
    let longest = match known.rows {
        1 => "in the row that was looked at".to_string(),
        rows => format!("in the {rows} rows that were looked at"),
    };
    Err(Error::device(format!("the memory budget is too small for {}", found.what()))
        .key("memory_budget")
        .expected(format!("at most {} bytes ({}), the budget", found.budget, mib(found.budget)))
        .found(format!(
            "{} bytes ({}) are needed: {} for weights, gradients and optimizer state{phases}, {} \
             for a micro-batch; the longest prompt {longest} has {} tokens",
            found.total(),
            mib(found.total()),
            mib(found.weights),
            mib(found.update),
            known.prompt.len(),
        ))
        .hint(search::hint(options, need)?))
}

/// Parameters at the places they will have, with the bytes they take; nothing is read.
fn places(
    prepared: &Prepared,
    training: &Training,
    model: &ModelSettings,
    machine: &MachineSettings,
) -> Result<(ParamStore, usize)> {
    let (config, float) = (&prepared.config, model.dtype);
    let bytes = vlm::model_bytes(config, training, float);
    let mut arena = Arena::planned(bytes, prepared.target());
    let params = vlm::place(config, training, float, &mut arena)?;
    let weights = arena.shared_base();
    let row = config.text.hidden_size * float.size();
    let features =
        vision_cache(machine, prepared.budget(machine).saturating_sub(weights)) / row * row;
    Ok((params, weights + aligned(features)))
}

fn grpo_need(o: &Options, prepared: &Prepared, known: &Known) -> Result<Need> {
    let s = TrainSettings::from_options(o)?;
    let training = training_of(&s.model)?;
    let (params, mut weights) = places(prepared, &training, &s.model, &s.machine)?;
    let penalised = s.grpo.beta != 0.0;
    let fresh_adapter = training.lora().is_some() && s.model.adapter.is_none();
    if penalised && !fresh_adapter {
        weights +=
            params.trained().map(|p| aligned(p.len() * p.place.value.dtype.size())).sum::<usize>();
    }
    let mut need = Need { weights, rollout: 0, update: 0, budget: prepared.budget(&s.machine) };
    let shape = RolloutShape {
        prompt: &known.prompt,
        prompts: s.grpo.prompts_per_generation,
        completions: s.grpo.generation_batch_size,
        completion_length: s.sampling.max_completion_length,
        max_num_seqs: s.sampling.max_num_seqs,
        max_num_batched_tokens: s.sampling.max_num_batched_tokens,
    };
    need.rollout = least_bytes(&prepared.config, &params, &shape)?;
    let update = UpdateSettings {
        loss: GrpoLoss { epsilon: 0.2, epsilon_high: 0.2, beta: s.grpo.beta, kl_ratio: false },
        head: Arc::new(HeadSettings::default()),
        reference: if penalised { Reference::AdapterOff } else { Reference::None },
        dropout: dropout(&training, s.training.seed, 0),
        recompute: s.training.recompute,
        on_policy: false,
        known: false,
    };
    let slices = s.grpo.steps_per_generation / s.training.gradient_accumulation_steps;
    let groups = s.grpo.prompts_per_generation.div_ceil(slices.max(1));
    let (n, length) = (s.grpo.num_generations, s.sampling.max_completion_length);
    for m in mixes(known.prompt.len(), n, length, s.training.micro_batch_tokens, groups) {
        let packed = pack(&m.groups(&known.prompt, n));
        let bytes = grpo_bytes(&prepared.config, &params, &packed, &update, need.room())?;
        need.update = need.update.max(bytes);
    }
    Ok(need)
}

fn sft_need(o: &Options, prepared: &Prepared, known: &Known) -> Result<Need> {
    let s = SftSettings::from_options(o)?;
    let training = training_of(&s.model)?;
    let (params, weights) = places(prepared, &training, &s.model, &s.machine)?;
    let mut need = Need { weights, rollout: 0, update: 0, budget: prepared.budget(&s.machine) };
    let t = &s.training;
    let (head, drop) = (Arc::new(HeadSettings::default()), dropout(&training, t.seed, 0));
    let rows = t.batch_size * t.gradient_accumulation_steps;
    for m in mixes(known.prompt.len(), 1, known.answer, t.micro_batch_tokens, rows) {
        let packed = pack(&m.groups(&known.prompt, 1));
        let (config, room) = (&prepared.config, need.room());
        let bytes = supervised_bytes(config, &params, &packed, &head, drop, t.recompute, room)?;
        need.update = need.update.max(bytes);
    }
    Ok(need)
}

/// Groups of one size in a micro-batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mix {
    groups: usize,
    /// Tokens of each completion.
    length: usize,
}

impl Mix {
    fn groups(self, prompt: &Arc<Prompt>, n: usize) -> Vec<TrainGroup> {
        let completion = |i: usize| TrainCompletion {
            ids: vec![0; self.length],
            old_logps: Vec::new(),
            statistics: Vec::new(),
            advantage: 1.0,
            weight: 1.0,
            sample: i as u32,
        };
        let group = |i: usize| TrainGroup {
            prompt: Arc::new(with_other_images(prompt, i)),
            completions: (0..n).map(completion).collect(),
        };
        (0..self.groups).map(group).collect()
    }
}

/// The prompt with images of the same sizes and another content: equal ones would be encoded once.
fn with_other_images(prompt: &Prompt, number: usize) -> Prompt {
    let other = |(i, image): (usize, &Arc<ProcessedImage>)| {
        let content = (number * prompt.images.len() + i) as u128;
        Arc::new(ProcessedImage { content, ..(**image).clone() })
    };
    Prompt { images: prompt.images.iter().enumerate().map(other).collect(), ..prompt.clone() }
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
