//! What an optimizer step is made of in either kind of run, from the settings: the optimizer's
//! constants, the learning rate's course, dropout, and the memory figures that go into the metrics.

use crate::device::MatmulImpl;
use crate::grpo::optim::OptimizerSettings;
use crate::grpo::schedule::{Schedule, ScheduleKind};
use crate::grpo::update::DropoutSettings;
use crate::model::params::Training;
use crate::train::settings::{Scheduler, TrainingSettings};
use crate::train::workspace::Workspace;

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
