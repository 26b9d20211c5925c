//! One micro-batch: reference pass, forward, loss, backward. Builds tapes, plans them, runs them;
//! gradients are added to the parameters' own places.

use crate::base::{DType, HostTensor, Result};
use crate::grpo::pack::Packed;
use crate::mem::{Arena, Recompute};
use crate::model::config::VlmConfig;
use crate::model::families::qwen2_5_vl::net::{head, text, vision};
use crate::model::net::{AdapterDropout, Net};
use crate::model::params::ParamStore;
use crate::ops::Slot;
use crate::ops::gather_rows::GatherRows;
use crate::ops::grpo_loss::GrpoLoss;
use crate::ops::linear_logprob::{HeadSettings, LinearLogprob};
use crate::tape::Tape;
use std::sync::Arc;
use std::time::Instant;

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
    /// Which activations are recomputed instead of kept; decides memory and time, no bit.
    pub recompute: Recompute,
    /// Take the ratio from the pass itself instead of the sampled log-probabilities: with dropout
    /// the first update after a rollout is on policy only in this sense.
    pub on_policy: bool,
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
    /// Floating-point operations that ran twice for want of memory.
    pub recomputed: f64,
    /// Seconds of the reference pass.
    pub reference_seconds: f64,
    /// Seconds of forward and backward.
    pub train_seconds: f64,
}

/// Builds the decoder pass; returns log-probability and entropy slots of the wanted tokens.
fn forward(
    tape: &mut Tape,
    config: &VlmConfig,
    params: &ParamStore,
    packed: &Packed,
    settings: &Arc<HeadSettings>,
    adapter: bool,
    dropout: Option<DropoutSettings>,
) -> Result<(Slot, Slot)> {
    let mut net = Net::new(tape, params);
    net.adapter = adapter;
    let mut input = packed.input.clone();
    if let Some((pixels, grids)) = &packed.images {
        input.vision = Some(vision(&mut net, config, pixels.clone(), grids)?);
    }
    if let Some(d) = dropout {
        let keys = HostTensor::i32([packed.keys.len() / 2, 2], packed.keys.clone());
        let keys = net.tape.input(keys);
        net.dropout = Some(AdapterDropout { p: d.p, seed: d.seed, step: d.step, keys });
    }
    let hidden = text(&mut net, config, &input)?;
    let w = head(&mut net, config)?;
    let rows = tape.indices(packed.rows.clone());
    let hidden = tape.op(GatherRows, &[hidden, rows])?;
    let targets = tape.indices(packed.targets.clone());
    let out = tape.ops(LinearLogprob { head: settings.clone() }, &[hidden, w, targets])?;
    tape.keep(out[0]);
    tape.keep(out[2]);
    Ok((out[0], out[2]))
}

/// Log-probabilities and entropies of the wanted tokens, nothing trained.
///
/// # Errors
/// If the pass does not fit the arena.
pub fn log_probs(
    config: &VlmConfig,
    params: &ParamStore,
    arena: &Arena,
    packed: &Packed,
    head: &Arc<HeadSettings>,
    adapter: bool,
) -> Result<(Vec<f32>, Vec<f32>)> {
    let mut tape = Tape::new(DType::F32);
    let (logp, entropy) = forward(&mut tape, config, params, packed, head, adapter, None)?;
    let plan = tape.plan();
    let run = tape.run(&plan, arena, arena.shared_base())?;
    Ok((run.f32(logp), run.f32(entropy)))
}

/// Runs one GRPO micro-batch and adds its gradients.
///
/// # Errors
/// If the pass does not fit the arena.
pub fn grpo_micro_batch(
    config: &VlmConfig,
    params: &ParamStore,
    arena: &Arena,
    packed: &Packed,
    s: &UpdateSettings,
) -> Result<MicroResult> {
    let start = Instant::now();
    let reference = match s.reference {
        Reference::None => Vec::new(),
        Reference::AdapterOff => log_probs(config, params, arena, packed, &s.head, false)?.0,
        Reference::Frozen(other) => log_probs(config, other, arena, packed, &s.head, true)?.0,
    };
    let reference_seconds = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let Pass { mut tape, logp, entropy, loss } = grpo_pass(config, params, packed, s, &reference)?;
    let plan = tape.plan_within(arena.shared_room(), s.recompute);
    let run = tape.run(&plan, arena, arena.shared_base())?;
    let logps = run.f32(logp);
    Ok(MicroResult {
        loss: f64::from(run.f32(loss)[0]),
        old: if s.on_policy { logps.clone() } else { packed.old.clone() },
        logp: logps,
        reference,
        entropy: run.f32(entropy),
        recomputed: plan.recomputed,
        reference_seconds,
        train_seconds: start.elapsed().as_secs_f64(),
    })
}

/// Bytes above the shared base that [`grpo_micro_batch`] will use where it has `room`: at most that
/// many if it fits. Nothing is run.
///
/// # Errors
/// If the input does not fit the model.
pub fn grpo_bytes(
    config: &VlmConfig,
    params: &ParamStore,
    packed: &Packed,
    s: &UpdateSettings,
    room: usize,
) -> Result<usize> {
    let (mut reference, mut bytes) = (Vec::new(), 0);
    if !matches!(s.reference, Reference::None) {
        let mut tape = Tape::new(DType::F32);
        forward(&mut tape, config, params, packed, &s.head, true, None)?;
        bytes = tape.plan().peak;
        reference = vec![0.0; packed.targets.len()];
    }
    let mut pass = grpo_pass(config, params, packed, s, &reference)?;
    Ok(bytes.max(pass.tape.plan_within(room, s.recompute).peak))
}

/// Forward, loss and reverse walk of a micro-batch, to be planned.
struct Pass {
    tape: Tape,
    logp: Slot,
    entropy: Slot,
    loss: Slot,
}

fn grpo_pass(
    config: &VlmConfig,
    params: &ParamStore,
    packed: &Packed,
    s: &UpdateSettings,
    reference: &[f32],
) -> Result<Pass> {
    let mut tape = Tape::new(DType::F32);
    let (logp, entropy) = forward(&mut tape, config, params, packed, &s.head, true, s.dropout)?;
    let column = |tape: &mut Tape, v: &[f32]| tape.input(HostTensor::f32([v.len(), 1], v.to_vec()));
    let old = if s.on_policy { logp } else { column(&mut tape, &packed.old) };
    let advantage = column(&mut tape, &packed.advantage);
    let weight = column(&mut tape, &packed.weight);
    let mut inputs = vec![logp, old, advantage, weight];
    if !reference.is_empty() {
        inputs.push(column(&mut tape, reference));
    }
    let loss = tape.op(s.loss, &inputs)?;
    tape.keep(loss);
    let one = column(&mut tape, &[1.0]);
    tape.backward(&[(loss, one)])?;
    Ok(Pass { tape, logp, entropy, loss })
}

/// Runs one supervised micro-batch: loss `Σ weight · −logp`; adds its gradients.
///
/// # Errors
/// If the pass does not fit the arena.
pub fn supervised_micro_batch(
    config: &VlmConfig,
    params: &ParamStore,
    arena: &Arena,
    packed: &Packed,
    head: &Arc<HeadSettings>,
    dropout: Option<DropoutSettings>,
    recompute: Recompute,
) -> Result<MicroResult> {
    let start = Instant::now();
    let (mut tape, logp, entropy) = supervised_pass(config, params, packed, head, dropout)?;
    let plan = tape.plan_within(arena.shared_room(), recompute);
    let run = tape.run(&plan, arena, arena.shared_base())?;
    let logps = run.f32(logp);
    let loss = logps.iter().zip(&packed.weight).map(|(l, w)| -f64::from(*l) * f64::from(*w)).sum();
    Ok(MicroResult {
        loss,
        logp: logps,
        entropy: run.f32(entropy),
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
    let (mut tape, _, _) = supervised_pass(config, params, packed, head, dropout)?;
    Ok(tape.plan_within(room, recompute).peak)
}

/// Forward and reverse walk of a supervised micro-batch, with the slots of log-probabilities and
/// entropies.
fn supervised_pass(
    config: &VlmConfig,
    params: &ParamStore,
    packed: &Packed,
    head: &Arc<HeadSettings>,
    dropout: Option<DropoutSettings>,
) -> Result<(Tape, Slot, Slot)> {
    let mut tape = Tape::new(DType::F32);
    let (logp, entropy) = forward(&mut tape, config, params, packed, head, true, dropout)?;
    let slope: Vec<f32> = packed.weight.iter().map(|w| -w).collect();
    let seed = tape.input(HostTensor::f32([slope.len(), 1], slope));
    tape.backward(&[(logp, seed)])?;
    Ok((tape, logp, entropy))
}
