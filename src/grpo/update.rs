//! One micro-batch: reference pass, forward, loss, backward. Builds tapes, plans them, runs them;
//! gradients are added to the parameters' own places.

use crate::base::{HostTensor, Result};
use crate::grpo::pack::Packed;
use crate::mem::Arena;
use crate::model::config::VlmConfig;
use crate::model::families::Part;
use crate::model::families::qwen2_5_vl::net::{head, text, vision};
use crate::model::net::{AdapterDropout, Net};
use crate::model::params::ParamStore;
use crate::model::processor::qwen_image::ProcessedImage;
use crate::model::vision_store::{VisionStore, VisionWeights};
use crate::ops::Slot;
use crate::ops::gather_rows::GatherRows;
use crate::ops::grpo_loss::GrpoLoss;
use crate::ops::linear_logprob::{HeadSettings, LinearLogprob};
use crate::tape::Tape;
use std::sync::Arc;
use std::time::Instant;

/// The model that a pass runs, and where.
#[derive(Debug, Clone, Copy)]
pub struct Learner<'a> {
    /// Shapes.
    pub config: &'a VlmConfig,
    /// Weights.
    pub params: &'a ParamStore,
    /// Memory.
    pub arena: &'a Arena,
    /// Features of images, for a tower that is not trained.
    pub vision: &'a VisionStore,
    /// State of the tower.
    pub vision_weights: VisionWeights,
}

impl Learner<'_> {
    /// Whether gradients flow through the vision tower or its projector.
    pub fn trains_vision(&self) -> bool {
        self.params.trained().any(|p| matches!(p.part, Part::Vision | Part::Connector))
    }
}

/// Dropout of a training pass, before the tape exists.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DropoutSettings {
    /// Probability.
    pub p: f64,
    /// Seed of the run.
    pub seed: u64,
    /// Training step.
    pub step: u32,
}

/// Whose log-probabilities the KL penalty compares with.
#[derive(Debug, Clone, Copy)]
pub enum Reference<'a> {
    /// Nobody's: there is no penalty.
    None,
    /// The same weights with adapters off.
    AdapterOff,
    /// A frozen copy.
    Frozen(&'a ParamStore),
}

/// What a micro-batch is trained with.
#[derive(Debug, Clone)]
pub struct UpdateSettings<'a> {
    /// The loss.
    pub loss: GrpoLoss,
    /// Temperature and forbidden tokens, those of the rollout.
    pub head: Arc<HeadSettings>,
    /// Reference of the KL penalty.
    pub reference: Reference<'a>,
    /// Dropout on adapter inputs.
    pub dropout: Option<DropoutSettings>,
    /// Take the ratio from the pass itself instead of the sampled log-probabilities: with dropout
    /// the first update after a rollout is on policy only in this sense.
    pub on_policy: bool,
    /// The weights are those of the rollout: its log-probabilities and log-sum-exps are used, and
    /// checked in the backward pass.
    pub known: bool,
}

/// What a micro-batch leaves behind, per wanted token, in the order of [`Packed`].
#[derive(Debug, Clone, Default)]
pub struct MicroResult {
    /// Weighted sum of token losses.
    pub loss: f64,
    /// Log-probabilities under the policy.
    pub logp: Vec<f32>,
    /// Log-probabilities that the ratio was taken against.
    pub old: Vec<f32>,
    /// Log-probabilities under the reference; empty without one.
    pub reference: Vec<f32>,
    /// Entropy of the policy.
    pub entropy: Vec<f32>,
    /// Images that went through the vision tower for this micro-batch, in all passes.
    pub vision_images: u64,
    /// Prompts that were forwarded, in the pass that trains.
    pub prompt_forwards: u64,
    /// Seconds of the reference pass.
    pub reference_seconds: f64,
    /// Seconds of forward and backward.
    pub train_seconds: f64,
}

/// Builds the decoder pass; returns log-probability and entropy slots of the wanted tokens.
fn forward(
    on: &Learner,
    packed: &Packed,
    settings: &Arc<HeadSettings>,
    adapter: bool,
    dropout: Option<DropoutSettings>,
    known: bool,
) -> Result<(Tape, Slot, Slot)> {
    let mut input = packed.input.clone();
    let in_tape = on.trains_vision();
    let images: Vec<_> = packed.images.images().iter().map(|(i, rows)| (i, *rows)).collect();
    if !in_tape && !images.is_empty() {
        let place = (on.arena, on.arena.shared_base());
        let weights = on.vision_weights;
        let rows = on.vision.features((on.config, on.params), place, &images, weights)?;
        point_into_store(&mut input.index, &images, &rows);
    }
    let mut tape = Tape::new(on.params.float_type());
    let mut net = Net::new(&mut tape, on.params);
    net.adapter = adapter;
    input.vision = match packed.images.pixels() {
        Some((pixels, grids)) if in_tape => Some(vision(&mut net, on.config, pixels, &grids)?),
        Some(_) => Some(on.vision.slot(net.tape)),
        None => None,
    };
    if let Some(d) = dropout {
        let keys = HostTensor::i32([packed.keys.len() / 2, 2], packed.keys.clone());
        let keys = net.tape.input(keys);
        net.dropout = Some(AdapterDropout { p: d.p, seed: d.seed, step: d.step, keys });
    }
    let hidden = text(&mut net, on.config, &input)?;
    let w = head(&mut net, on.config)?;
    let rows = tape.indices(packed.rows.clone());
    let hidden = tape.op(GatherRows, &[hidden, rows])?;
    let mut inputs = vec![hidden, w, tape.indices(packed.targets.clone())];
    if known {
        inputs.extend([&packed.old, &packed.lse, &packed.entropy].map(|v| column(&mut tape, v)));
    }
    let out = tape.ops(LinearLogprob { head: settings.clone(), known }, &inputs)?;
    tape.keep(out[0]);
    tape.keep(out[2]);
    Ok((tape, out[0], out[2]))
}

/// Turns rows of a pass's own features into rows of the store, where image `i` begins at `rows[i]`.
fn point_into_store(index: &mut [i32], images: &[(&Arc<ProcessedImage>, usize)], rows: &[usize]) {
    let moved: Vec<usize> =
        images.iter().zip(rows).flat_map(|((_, n), &first)| first..first + n).collect();
    for i in index.iter_mut().filter(|i| **i < 0) {
        *i = -(moved[!*i as usize] as i32 + 1);
    }
}

fn column(tape: &mut Tape, values: &[f32]) -> Slot {
    tape.input(HostTensor::f32([values.len(), 1], values.to_vec()))
}

/// Log-probabilities and entropies of the wanted tokens, nothing trained.
///
/// # Errors
/// If the pass does not fit the arena.
pub fn log_probs(
    on: &Learner,
    packed: &Packed,
    head: &Arc<HeadSettings>,
    adapter: bool,
) -> Result<(Vec<f32>, Vec<f32>)> {
    let (tape, logp, entropy) = forward(on, packed, head, adapter, None, false)?;
    let plan = tape.plan();
    let run = tape.run(&plan, on.arena, on.arena.shared_base())?;
    Ok((run.f32(logp), run.f32(entropy)))
}

/// Images that passes have encoded since `before`, those of the training tape included.
fn images_since(on: &Learner, before: u64, packed: &Packed) -> u64 {
    let in_tape = if on.trains_vision() { packed.images.images().len() as u64 } else { 0 };
    on.vision.encoded() - before + in_tape
}

/// Runs one GRPO micro-batch and adds its gradients.
///
/// # Errors
/// If the pass does not fit the arena.
pub fn grpo_micro_batch(on: &Learner, packed: &Packed, s: &UpdateSettings) -> Result<MicroResult> {
    let start = Instant::now();
    let encoded = on.vision.encoded();
    let reference = match s.reference {
        Reference::None => Vec::new(),
        Reference::AdapterOff => log_probs(on, packed, &s.head, false)?.0,
        Reference::Frozen(params) => {
            let frozen = Learner { params, vision_weights: 0, ..*on };
            log_probs(&frozen, packed, &s.head, true)?.0
        }
    };
    let reference_seconds = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let known = s.known && packed.lse.len() == packed.targets.len();
    let (mut tape, logp, entropy) = forward(on, packed, &s.head, true, s.dropout, known)?;
    let old = if s.on_policy { logp } else { column(&mut tape, &packed.old) };
    let advantage = column(&mut tape, &packed.advantage);
    let weight = column(&mut tape, &packed.weight);
    let mut inputs = vec![logp, old, advantage, weight];
    if !reference.is_empty() {
        inputs.push(column(&mut tape, &reference));
    }
    let loss = tape.op(s.loss, &inputs)?;
    tape.keep(loss);
    let one = column(&mut tape, &[1.0]);
    tape.backward(&[(loss, one)])?;
    let plan = tape.plan();
    let run = tape.run(&plan, on.arena, on.arena.shared_base())?;
    let logps = run.f32(logp);
    Ok(MicroResult {
        loss: f64::from(run.f32(loss)[0]),
        old: if s.on_policy { logps.clone() } else { packed.old.clone() },
        logp: logps,
        reference,
        entropy: run.f32(entropy),
        vision_images: images_since(on, encoded, packed),
        prompt_forwards: packed.prompts as u64,
        reference_seconds,
        train_seconds: start.elapsed().as_secs_f64(),
    })
}

/// Runs one supervised micro-batch: loss `Σ weight · −logp`; adds its gradients.
///
/// # Errors
/// If the pass does not fit the arena.
pub fn supervised_micro_batch(
    on: &Learner,
    packed: &Packed,
    head: &Arc<HeadSettings>,
    dropout: Option<DropoutSettings>,
) -> Result<MicroResult> {
    let start = Instant::now();
    let encoded = on.vision.encoded();
    let (mut tape, logp, entropy) = forward(on, packed, head, true, dropout, false)?;
    let slope: Vec<f32> = packed.weight.iter().map(|w| -w).collect();
    let seed = tape.input(HostTensor::f32([slope.len(), 1], slope));
    tape.backward(&[(logp, seed)])?;
    let plan = tape.plan();
    let run = tape.run(&plan, on.arena, on.arena.shared_base())?;
    let logps = run.f32(logp);
    let loss = logps.iter().zip(&packed.weight).map(|(l, w)| -f64::from(*l) * f64::from(*w)).sum();
    Ok(MicroResult {
        loss,
        logp: logps,
        entropy: run.f32(entropy),
        vision_images: images_since(on, encoded, packed),
        prompt_forwards: packed.prompts as u64,
        train_seconds: start.elapsed().as_secs_f64(),
        ..MicroResult::default()
    })
}
