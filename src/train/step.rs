//! What an optimizer step is made of in either kind of run, from the settings: the optimizer's
//! constants, the learning rate's course, dropout, loss and reference, and the memory figures that go
//! into the metrics. Runs and plans ask the same functions.

use crate::grpo::optim::OptimizerSettings;
use crate::grpo::schedule::{Schedule, ScheduleKind};
use crate::grpo::update::{DropoutSettings, Reference, UpdateSettings};
use crate::model::params::{ParamStore, Training};
use crate::ops::grpo_loss::GrpoLoss;
use crate::ops::linear_logprob::HeadSettings;
use crate::train::settings::{Scheduler, TrainSettings, TrainingSettings};
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

/// The loss from the settings.
pub fn grpo_loss(s: &TrainSettings) -> GrpoLoss {
    GrpoLoss {
        epsilon: s.grpo.epsilon_low,
        epsilon_high: s.grpo.epsilon_high,
        beta: s.grpo.beta,
        kl_ratio: s.grpo.use_bias_correction_kl,
    }
}

/// What the micro-batches of an update are trained with; `first` says that it is the first one after
/// a rollout, `frozen` is a copy of what is trained, if the reference needs one.
pub fn update_settings<'a>(
    s: &TrainSettings,
    head: Arc<HeadSettings>,
    frozen: Option<&'a ParamStore>,
    dropout: Option<DropoutSettings>,
    first: bool,
) -> UpdateSettings<'a> {
    UpdateSettings {
        loss: grpo_loss(s),
        head,
        reference: match (frozen, s.grpo.beta != 0.0) {
            (_, false) => Reference::None,
            (Some(params), true) => Reference::Frozen(params),
            (None, true) => Reference::AdapterOff,
        },
        dropout,
        recompute: s.training.recompute,
        on_policy: dropout.is_some() && updates_per_generation(s) == 1,
        known: dropout.is_none() && first,
    }
}

/// Whether the reference of the KL penalty is a copy of what is trained: the weights without a fresh
/// adapter need none.
pub fn needs_frozen_copy(s: &TrainSettings, training: &Training) -> bool {
    let fresh_adapter = training.lora().is_some() && s.model.adapter.is_none();
    s.grpo.beta != 0.0 && !fresh_adapter
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
        let known = [
            ("device/memory_used", used),
            ("device/power", said.power.ok()),
            ("device/utilization", said.utilization.ok()),
        ];
        figures.extend(known.into_iter().filter_map(|(n, v)| Some((n.to_string(), v?))));
    }
    figures
}
