//! Learning rate over optimizer steps, with the names and formulas of transformers
//! (`get_scheduler`).

use crate::grpo::optim::Rates;

/// Shape of the schedule after warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScheduleKind {
    /// No change, no warm-up.
    Constant,
    /// No change after warm-up.
    ConstantWithWarmup,
    /// Down to 0 in a straight line.
    Linear,
    /// Down to 0 along half a cosine.
    Cosine,
}

/// Learning rate as a function of the step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// Shape.
    pub kind: ScheduleKind,
    /// Highest rate.
    pub peak: f64,
    /// Highest rate of the vision tower; `None` is `peak`.
    pub vision_peak: Option<f64>,
    /// Highest rate of the connector; `None` is `peak`.
    pub connector_peak: Option<f64>,
    /// Steps of linear growth from 0.
    pub warmup_steps: usize,
    /// Steps of the whole run.
    pub total_steps: usize,
}

impl Schedule {
    /// Rate of the optimizer step number `step`, counted from 0.
    pub fn rate(&self, step: usize) -> f64 {
        self.peak * self.factor(step)
    }

    /// Rates of all parts at the optimizer step number `step`, counted from 0.
    pub fn rates(&self, step: usize) -> Rates {
        let (language, factor) = (self.rate(step), self.factor(step));
        let of = |peak: Option<f64>| peak.map_or(language, |p| p * factor);
        Rates { language, vision: of(self.vision_peak), connector: of(self.connector_peak) }
    }

    fn factor(&self, step: usize) -> f64 {
        if self.kind == ScheduleKind::Constant {
            return 1.0;
        }
        if step < self.warmup_steps {
            return step as f64 / self.warmup_steps.max(1) as f64;
        }
        let rest = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let done = (step - self.warmup_steps) as f64 / rest;
        match self.kind {
            ScheduleKind::Constant | ScheduleKind::ConstantWithWarmup => 1.0,
            ScheduleKind::Linear => (1.0 - done).max(0.0),
            ScheduleKind::Cosine => (0.5 * (1.0 + (std::f64::consts::PI * done).cos())).max(0.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_follow_the_same_course_from_their_own_peaks() {
        let s = Schedule {
            kind: ScheduleKind::Linear,
            peak: 1e-4,
            vision_peak: Some(1e-5),
            connector_peak: None,
            warmup_steps: 2,
            total_steps: 12,
        };
        for (step, factor) in [(0, 0.0), (1, 0.5), (2, 1.0), (7, 0.5)] {
            let r = s.rates(step);
            assert_eq!((r.language, r.connector), (1e-4 * factor, 1e-4 * factor));
            assert_eq!(r.vision, 1e-5 * factor);
        }
    }
}
