//! What an optimizer step is made of in either kind of run, from the settings: the optimizer's
//! constants, the learning rate's course, dropout, loss and reference, and the memory figures that go
//! into the metrics. Runs and plans ask the same functions.

use crate::base::{Error, Result};
use crate::device::MatmulImpl;
use crate::grpo::optim::{OptimizerSettings, Rates};
use crate::grpo::schedule::{Schedule, ScheduleKind};
use crate::grpo::update::{DropoutSettings, Reference, UpdateSettings};
use crate::model::params::{ParamStore, Training};
use crate::model::spec::Part;
use crate::model::vision_store::VisionWeights;
use crate::ops::linear_logprob::HeadSettings;
use crate::settings::{Scheduler, TrainSettings, TrainingSettings};
use crate::train::workspace::Workspace;
use std::sync::Arc;

/// The optimizer's constants from the settings.
pub fn optimizer_settings(t: &TrainingSettings) -> OptimizerSettings {
    OptimizerSettings {
        beta1: t.optimizer.beta1,
        beta2: t.optimizer.beta2,
        epsilon: t.optimizer.epsilon,
        weight_decay: t.optimizer.weight_decay,
        max_grad_norm: t.optimizer.max_grad_norm.unwrap_or(0.0),
    }
}

/// The learning rate's course from the settings.
pub fn schedule(t: &TrainingSettings, total_steps: usize) -> Schedule {
    Schedule {
        kind: match t.optimizer.scheduler {
            Scheduler::Constant => ScheduleKind::Constant,
            Scheduler::ConstantWithWarmup => ScheduleKind::ConstantWithWarmup,
            Scheduler::Linear => ScheduleKind::Linear,
            Scheduler::Cosine => ScheduleKind::Cosine,
        },
        peak: t.optimizer.learning_rate,
        vision_peak: t.optimizer.vision_learning_rate,
        connector_peak: t.optimizer.connector_learning_rate,
        warmup_steps: t.optimizer.warmup.steps(total_steps),
        total_steps,
    }
}

/// Dropout of a training step, if adapters have any.
pub fn dropout(training: &Training, seed: u64, step: usize) -> Option<DropoutSettings> {
    let p = training.lora().map_or(0.0, |l| l.lora_dropout);
    (p > 0.0).then_some(DropoutSettings { p, seed, step: step as u32 })
}

/// Optimizer steps that are taken on the completions of one rollout.
pub fn updates_per_generation(s: &TrainSettings) -> usize {
    slices_per_generation(s) * s.grpo.num_iterations
}

/// Parts that the completions of one rollout are cut into, one per optimizer step.
pub fn slices_per_generation(s: &TrainSettings) -> usize {
    (s.grpo.steps_per_generation / s.training.gradient_accumulation_steps).max(1)
}

/// Refuses a learning rate for a part that is not trained.
///
/// # Errors
/// Kind usage, with the option.
pub fn check_rates(t: &TrainingSettings, params: &ParamStore) -> Result<()> {
    let o = &t.optimizer;
    let rates = [
        ("vision_learning_rate", o.vision_learning_rate, Part::Vision),
        ("connector_learning_rate", o.connector_learning_rate, Part::Connector),
    ];
    for (name, rate, part) in rates {
        if rate.is_some() && !params.trained().any(|p| p.part == part) {
            return Err(Error::usage(format!(
                "`{name}` would do nothing: that part is not trained"
            ))
            .key(name)
            .hint("add --tune_mm_vision or --tune_mm_mlp, or choose adapters that cover it"));
        }
    }
    Ok(())
}

/// The learning rates of a step for the metrics: one, and those of parts that have their own.
pub fn rate_metrics(t: &TrainingSettings, rates: Rates) -> Vec<(String, f64)> {
    let o = &t.optimizer;
    let own = [
        ("learning_rate/vision", o.vision_learning_rate.map(|_| rates.vision)),
        ("learning_rate/connector", o.connector_learning_rate.map(|_| rates.connector)),
    ];
    let mut all = vec![("learning_rate".to_string(), rates.language)];
    all.extend(own.into_iter().filter_map(|(name, rate)| Some((name.to_string(), rate?))));
    all
}

/// What decides how a micro-batch is trained, beside the settings.
#[derive(Debug, Clone, Copy, Default)]
pub struct Moment<'a> {
    /// A copy of what is trained, if the reference needs one.
    pub frozen: Option<&'a ParamStore>,
    /// State of its weights, for features of images.
    pub frozen_version: VisionWeights,
    /// Dropout of the step.
    pub dropout: Option<DropoutSettings>,
    /// The first update after a rollout.
    pub first: bool,
    /// The weight of the KL now, if it is not the one of the settings.
    pub beta: Option<f64>,
}

/// What the micro-batches of an update are trained with.
pub fn update_settings<'a>(
    s: &TrainSettings,
    head: Arc<HeadSettings>,
    now: Moment<'a>,
) -> UpdateSettings<'a> {
    let mut loss = s.grpo.loss;
    if let (Some(term), Some(beta)) = (&mut loss.kl, now.beta) {
        term.beta = beta;
    }
    let (drops, updates) = (now.dropout.is_some(), updates_per_generation(s));
    UpdateSettings {
        loss,
        head,
        reference: match (now.frozen, s.grpo.kl.is_some()) {
            (_, false) => Reference::None,
            (Some(params), true) => Reference::Frozen { params, version: now.frozen_version },
            (None, true) => Reference::AdapterOff,
        },
        dropout: now.dropout,
        recompute: s.training.recompute,
        on_policy: drops && updates == 1,
        known: !drops && now.first,
        bonus: s.grpo.entropy.rewarded(),
        // With dropout all updates are planned as one.
        measured: s.grpo.entropy.top_quantile < 1.0 && updates > 1 && (!now.first || drops),
    }
}

/// Whether the reference of the KL penalty is a copy of what is trained: the weights without a fresh
/// adapter need none, unless they are to follow it.
pub fn needs_frozen_copy(s: &TrainSettings, training: &Training) -> bool {
    let fresh_adapter = training.lora().is_some() && s.model.adapter.is_none();
    s.grpo.kl.is_some() && (!fresh_adapter || s.grpo.sync.is_some())
}

/// State of a reference that follows the policy after `step` steps, for features of images: 0 is that of
/// the first weights, and none is that of a policy.
pub fn reference_version(s: &TrainSettings, step: usize) -> VisionWeights {
    let moved = s.grpo.sync.map_or(0, |sync| step - step % sync.steps);
    if moved == 0 { 0 } else { (1 << 40) + moved as VisionWeights }
}

/// Bytes by region, and what the device says about itself if there is one, for the metrics.
pub fn memory_metrics(w: &Workspace) -> Vec<(String, f64)> {
    let mut figures = vec![
        ("memory/weights_and_optimizer".into(), w.arena.shared_base() as f64),
        ("memory/planned_peak".into(), w.arena.planned_peak() as f64),
        ("memory/actual_peak".into(), w.arena.actual_peak() as f64),
    ];
    if let (Some(device), Some(telemetry)) = (w.arena.device(), &w.telemetry) {
        let said = telemetry.read();
        // The driver itself knows the memory, whoever else is silent.
        let used = said.memory_used.ok().or_else(|| {
            let (free, total) = device.memory().ok()?;
            Some(total.saturating_sub(free) as f64)
        });
        let vendor = device.properties().matmul == MatmulImpl::Vendor;
        let known = [
            ("device/matmul_vendor", Some(f64::from(u8::from(vendor)))),
            ("device/memory_used", used),
            ("device/power", said.power.ok()),
            ("device/utilization", said.utilization.ok()),
        ];
        figures.extend(known.into_iter().filter_map(|(n, v)| Some((n.to_string(), v?))));
    }
    figures
}
