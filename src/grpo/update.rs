//! One micro-batch: reference pass, forward, loss, backward. Builds tapes, plans them, runs them;
//! gradients are added to the parameters' own places.

use crate::base::{HostTensor, Result};
use crate::grpo::pack::Packed;
use crate::mem::{Arena, Recompute};
use crate::model::config::VlmConfig;
use crate::model::decoder::{head, text};
use crate::model::net::{AdapterDropout, Net};
use crate::model::params::ParamStore;
use crate::model::prompt::VisualStack;
use crate::model::spec::Part;
use crate::model::vision_store::{VisionStore, VisionWeights, blank_pixels, stand_in};
use crate::ops::Slot;
use crate::ops::gather_rows::GatherRows;
use crate::ops::grpo_loss::GrpoLoss;
use crate::ops::linear_logprob::{HeadSettings, LinearLogprob};
use crate::tape::{Tape, Usage};
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
        trains_vision(self.params)
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
    /// A copy that does not move with the policy.
    Frozen {
        /// Its weights.
        params: &'a ParamStore,
        /// Their state, for features of images.
        version: VisionWeights,
    },
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
    /// Which activations are recomputed instead of kept; decides memory and time, no bit.
    pub recompute: Recompute,
    /// Take the ratio from the pass itself instead of the sampled log-probabilities: with dropout
    /// the first update after a rollout is on policy only in this sense.
    pub on_policy: bool,
    /// The weights are those of the rollout: its log-probabilities and log-sum-exps are used, and
    /// checked in the backward pass.
    pub known: bool,
    /// The entropy is rewarded, by the column `bonus` of the batch.
    pub bonus: bool,
    /// A pass before the update reads log-probabilities or entropies; only its memory matters here.
    pub measured: bool,
}

/// What a micro-batch leaves behind, per wanted token, in the order of [`Packed`].
#[derive(Debug, Clone, Default)]
pub struct MicroResult {
    /// Weighted sum of token losses, with the KL and without the entropy's reward.
    pub loss: f64,
    /// The entropy's reward.
    pub bonus: f64,
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
    /// Floating-point operations that ran twice for want of memory.
    pub recomputed: f64,
    /// Seconds of the reference pass.
    pub reference_seconds: f64,
    /// Seconds of forward and backward.
    pub train_seconds: f64,
}

/// Where a pass has the features of its images from.
enum Features<'a> {
    /// From the tower, in the same tape.
    Tape,
    /// From these rows of the store, by image.
    Store(&'a VisionStore, Vec<usize>),
    /// From nowhere: the tape is only planned.
    Planned,
    /// From the tower, in a tape that is only planned: images need no pixels.
    PlannedTape,
}

/// A micro-batch and what it runs on.
struct Pass<'a> {
    config: &'a VlmConfig,
    params: &'a ParamStore,
    packed: &'a Packed,
    features: Features<'a>,
}

/// Whether gradients flow through the vision tower or its projector.
pub fn trains_vision(params: &ParamStore) -> bool {
    params.trained().any(|p| matches!(p.part, Part::Vision | Part::Connector))
}

/// A pass ready to run; encodes the images that its tower does not train on and the store lacks.
fn pass<'a>(on: &Learner<'a>, packed: &'a Packed) -> Result<Pass<'a>> {
    let images: Vec<_> = packed.visuals.visuals().iter().collect();
    let features = if on.trains_vision() || images.is_empty() {
        Features::Tape
    } else {
        let place = (on.arena, on.arena.shared_base());
        let model = (on.config, on.params);
        Features::Store(on.vision, on.vision.features(model, place, &images, on.vision_weights)?)
    };
    Ok(Pass { config: on.config, params: on.params, packed, features })
}

/// The same pass before there are weights: it can be planned, not run.
fn planned<'a>(config: &'a VlmConfig, params: &'a ParamStore, packed: &'a Packed) -> Pass<'a> {
    let features = match trains_vision(params) {
        true => Features::PlannedTape,
        false => Features::Planned,
    };
    Pass { config, params, packed, features }
}

/// A tape whose loss has been walked back, and the slots that the host reads.
struct Built {
    tape: Tape,
    logp: Slot,
    entropy: Slot,
    loss: Slot,
}

fn column(tape: &mut Tape, values: &[f32]) -> Slot {
    tape.input(HostTensor::f32([values.len(), 1], values.to_vec()))
}

/// The rows that are named, ascending and each once; `rows` become places in that list.
fn distinct(rows: &mut [i32]) -> Vec<i32> {
    let mut list = rows.to_vec();
    list.sort_unstable();
    list.dedup();
    for row in rows {
        *row = list.partition_point(|r| r < row) as i32;
    }
    list
}

/// Turns rows of a pass's own features into rows of the store, where image `i` begins at `rows[i]`.
fn point_into_store(index: &mut [i32], visuals: &VisualStack, rows: &[usize]) {
    let visuals = visuals.visuals().iter().zip(rows);
    let moved: Vec<usize> = visuals.flat_map(|(v, &first)| first..first + v.rows()).collect();
    for i in index.iter_mut().filter(|i| **i < 0) {
        *i = -(moved[!*i as usize] as i32 + 1);
    }
}

impl Pass<'_> {
    /// Decoder and head; returns log-probability and entropy slots of the wanted tokens.
    fn forward(
        &self,
        head_settings: &Arc<HeadSettings>,
        adapter: bool,
        dropout: Option<DropoutSettings>,
        [known, bonus]: [bool; 2],
    ) -> Result<(Tape, Slot, Slot)> {
        let (config, packed) = (self.config, self.packed);
        let mut tape = self.params.tape();
        let mut net = Net::new(&mut tape, self.params);
        net.adapter = adapter;
        let mut input = packed.input.clone();
        let grids = packed.visuals.grids();
        input.vision = match &self.features {
            _ if grids.is_empty() => Vec::new(),
            Features::Tape => match packed.visuals.pixels() {
                Some((pixels, grids)) => config.vision.encode(&mut net, pixels, &grids)?,
                None => Vec::new(),
            },
            Features::PlannedTape => {
                config.vision.encode(&mut net, blank_pixels(config, &grids), &grids)?
            }
            Features::Store(store, rows) => {
                point_into_store(&mut input.index, &packed.visuals, rows);
                store.slots(net.tape)
            }
            Features::Planned => stand_in(net.tape, config),
        };
        if let Some(d) = dropout {
            let keys = HostTensor::i32([packed.keys.len() / 2, 2], packed.keys.clone());
            let keys = net.tape.input(keys);
            net.dropout = Some(AdapterDropout { p: d.p, seed: d.seed, step: d.step, keys });
        }
        let mut rows = packed.rows.clone();
        // Masks of dropout go by the rows of the pass: with them no layer may leave rows out.
        if dropout.is_none() {
            input.read = Some(distinct(&mut rows));
        }
        let hidden = text(&mut net, &config.text, &input)?;
        let w = head(&mut net, &config.text)?;
        let rows = tape.indices(rows);
        let hidden = tape.op(GatherRows, &[hidden, rows])?;
        let mut inputs = vec![hidden, w, tape.indices(packed.targets.clone())];
        if known {
            let columns = [&packed.old, &packed.lse, &packed.entropy];
            inputs.extend(columns.map(|v| column(&mut tape, v)));
        }
        let op = LinearLogprob { head: head_settings.clone(), known, bonus };
        let out = tape.ops(op, &inputs)?;
        tape.keep(out[0]);
        tape.keep(out[2]);
        Ok((tape, out[0], out[2]))
    }

    /// Forward, loss and reverse walk of GRPO.
    fn grpo(&self, s: &UpdateSettings, reference: &[f32]) -> Result<Built> {
        let known = s.known && self.packed.lse.len() == self.packed.targets.len();
        let (mut tape, logp, entropy) = self.forward(&s.head, true, s.dropout, [known, s.bonus])?;
        let old = if s.on_policy { logp } else { column(&mut tape, &self.packed.old) };
        let advantage = column(&mut tape, &self.packed.advantage);
        let weight = column(&mut tape, &self.packed.weight);
        let mut inputs = vec![logp, old, advantage, weight];
        if s.loss.kl.is_some() {
            inputs.push(column(&mut tape, reference));
        }
        if s.loss.sampled {
            inputs.push(column(&mut tape, &self.packed.old));
        }
        if s.loss.keep {
            inputs.push(column(&mut tape, &self.packed.keep));
        }
        if s.loss.needs_starts() {
            inputs.push(tape.indices(self.packed.starts.clone()));
        }
        let loss = tape.op(s.loss, &inputs)?;
        tape.keep(loss);
        let mut seeds = vec![(loss, column(&mut tape, &[1.0]))];
        if s.bonus {
            let slope: Vec<f32> = self.packed.bonus.iter().map(|b| -b).collect();
            seeds.push((entropy, column(&mut tape, &slope)));
        }
        tape.backward(&seeds)?;
        Ok(Built { tape, logp, entropy, loss })
    }

    /// Forward and reverse walk of `Σ weight · −logp`.
    fn supervised(
        &self,
        head: &Arc<HeadSettings>,
        dropout: Option<DropoutSettings>,
    ) -> Result<Built> {
        let (mut tape, logp, entropy) = self.forward(head, true, dropout, [false; 2])?;
        let slope: Vec<f32> = self.packed.weight.iter().map(|w| -w).collect();
        let seed = column(&mut tape, &slope);
        tape.backward(&[(logp, seed)])?;
        Ok(Built { tape, logp, entropy, loss: logp })
    }
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
    let (tape, logp, entropy) = pass(on, packed)?.forward(head, adapter, None, [false; 2])?;
    let plan = tape.plan();
    let run = tape.run(&plan, on.arena, on.arena.shared_base())?;
    Ok((run.f32(logp)?, run.f32(entropy)?))
}

/// Log-probabilities of the wanted tokens under the reference; nothing without one.
///
/// # Errors
/// If the pass does not fit the arena.
pub fn reference_log_probs(
    on: &Learner,
    packed: &Packed,
    head: &Arc<HeadSettings>,
    reference: Reference,
) -> Result<Vec<f32>> {
    Ok(match reference {
        Reference::None => Vec::new(),
        Reference::AdapterOff => log_probs(on, packed, head, false)?.0,
        Reference::Frozen { params, version } => {
            let frozen = Learner { params, vision_weights: version, ..*on };
            log_probs(&frozen, packed, head, true)?.0
        }
    })
}

/// Images that passes have encoded since `before`, those of the training tape included.
fn images_since(on: &Learner, before: u64, packed: &Packed) -> u64 {
    let in_tape = if on.trains_vision() { packed.visuals.visuals().len() as u64 } else { 0 };
    on.vision.encoded() - before + in_tape
}

/// Runs one GRPO micro-batch and adds its gradients.
///
/// # Errors
/// If the pass does not fit the arena.
pub fn grpo_micro_batch(on: &Learner, packed: &Packed, s: &UpdateSettings) -> Result<MicroResult> {
    let start = Instant::now();
    let encoded = on.vision.encoded();
    let reference = match s.loss.kl {
        Some(_) => reference_log_probs(on, packed, &s.head, s.reference)?,
        None => Vec::new(),
    };
    let reference_seconds = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let Built { mut tape, logp, entropy, loss } = pass(on, packed)?.grpo(s, &reference)?;
    let plan = tape.plan_within(on.arena.shared_room(), s.recompute);
    let run = tape.run(&plan, on.arena, on.arena.shared_base())?;
    let (logps, entropies) = (run.f32(logp)?, run.f32(entropy)?);
    let paid = packed.bonus.iter().zip(&entropies).filter(|_| s.bonus);
    Ok(MicroResult {
        loss: f64::from(run.f32(loss)?[0]),
        bonus: paid.map(|(b, e)| f64::from(*b) * f64::from(*e)).sum(),
        old: if s.on_policy { logps.clone() } else { packed.old.clone() },
        logp: logps,
        reference,
        entropy: entropies,
        vision_images: images_since(on, encoded, packed),
        prompt_forwards: packed.prompts as u64,
        recomputed: plan.recomputed,
        reference_seconds,
        train_seconds: start.elapsed().as_secs_f64(),
    })
}

/// Bytes above the shared base of a micro-batch, by pass; the passes use the same space in turn.
#[derive(Debug, Clone, PartialEq)]
pub struct MicroPlan {
    /// The passes before the one that trains: of the reference, and to measure; 0 without any.
    pub reference: usize,
    /// Forward, loss and backward.
    pub train: Usage,
}

impl MicroPlan {
    /// The most that any pass takes.
    pub fn peak(&self) -> usize {
        self.reference.max(self.train.peak)
    }
}

/// What [`grpo_micro_batch`] will use where it has `room`: at most that many bytes if it fits. Nothing
/// is run; images need no pixels. Features that a frozen tower would have to make first are not in
/// it: they are `model::vision_store`'s.
///
/// # Errors
/// If the input does not fit the model.
pub fn grpo_plan(
    config: &VlmConfig,
    params: &ParamStore,
    packed: &Packed,
    s: &UpdateSettings,
    room: usize,
) -> Result<MicroPlan> {
    let frozen = Pass { config, params, packed, features: Features::Planned };
    let mut reference = 0;
    if !matches!(s.reference, Reference::None) {
        let adapter = !matches!(s.reference, Reference::AdapterOff);
        reference = frozen.forward(&s.head, adapter, None, [false; 2])?.0.plan().peak;
    }
    if s.measured {
        let policy = planned(config, params, packed);
        let peak = policy.forward(&s.head, true, None, [false; 2])?.0.plan().peak;
        reference = reference.max(peak);
    }
    let columns = vec![0.0; packed.targets.len()];
    let mut built = planned(config, params, packed).grpo(s, &columns)?;
    let plan = built.tape.plan_within(room, s.recompute);
    Ok(MicroPlan { reference, train: built.tape.usage(&plan) })
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
    recompute: Recompute,
) -> Result<MicroResult> {
    let start = Instant::now();
    let encoded = on.vision.encoded();
    let Built { mut tape, logp, entropy, .. } = pass(on, packed)?.supervised(head, dropout)?;
    let plan = tape.plan_within(on.arena.shared_room(), recompute);
    let run = tape.run(&plan, on.arena, on.arena.shared_base())?;
    let logps = run.f32(logp)?;
    let loss = logps.iter().zip(&packed.weight).map(|(l, w)| -f64::from(*l) * f64::from(*w)).sum();
    Ok(MicroResult {
        loss,
        logp: logps,
        entropy: run.f32(entropy)?,
        vision_images: images_since(on, encoded, packed),
        prompt_forwards: packed.prompts as u64,
        recomputed: plan.recomputed,
        train_seconds: start.elapsed().as_secs_f64(),
        ..MicroResult::default()
    })
}

/// Bytes above the shared base that [`supervised_micro_batch`] will use where it has `room`.
/// Nothing is run.
///
/// # Errors
/// If the input does not fit the model.
pub fn supervised_bytes(
    config: &VlmConfig,
    params: &ParamStore,
    packed: &Packed,
    head: &Arc<HeadSettings>,
    dropout: Option<DropoutSettings>,
    recompute: Recompute,
    room: usize,
) -> Result<usize> {
    let mut built = planned(config, params, packed).supervised(head, dropout)?;
    Ok(built.tape.plan_within(room, recompute).peak)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_is_read_twice_is_computed_once() {
        let mut rows = [7, 3, 7, 9, 3];
        assert_eq!(distinct(&mut rows), [3, 7, 9]);
        assert_eq!(rows, [1, 0, 1, 2, 0]);
        assert!(distinct(&mut []).is_empty());
    }
}
