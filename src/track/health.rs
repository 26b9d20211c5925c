//! What goes wrong in a run and can be seen in its metrics: rules as data ([`RULES`]), looked at row by row.
//! A pure function of the rows: reading the rows of a former session again gives the same state. A
//! trouble is told when it begins and when it is over, not in between. Nothing here stops a run.

mod repetition; // what completions say twice
mod rules; // the table

pub use repetition::repeated_share;
pub use rules::{RULES, Rule, Test};

use super::step_log::{OfStep, StepLog};
use crate::track::MetricRow;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Name of the count of steps whose loss or gradient is no number; in a row only if there are any.
pub const NON_FINITE: &str = "health/non_finite_steps";

/// Whether a trouble began or is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Turn {
    /// It began.
    Begun,
    /// It is over.
    Over,
}

/// A trouble that began or is over; a line of `health.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    /// Optimizer step of the row that showed it.
    pub step: u64,
    /// Name of the rule.
    pub name: String,
    /// Whether it began or is over.
    pub state: Turn,
    /// What was looked at: its mean over the rule's rows; None if that is no finite number.
    pub value: Option<f64>,
    /// What happened, with the figures.
    pub message: String,
    /// What to do about it.
    pub advice: String,
    /// Where the documentation says more.
    pub link: String,
}

impl Alert {
    /// One line for the person who watches.
    pub fn line(&self) -> String {
        let Alert { step, name, message, advice, link, .. } = self;
        match self.state {
            Turn::Begun => format!("health: {message} (step {step}); {advice}; {link}"),
            Turn::Over => format!("health: `{name}` is over (step {step}): {message}"),
        }
    }
}

/// `health.jsonl` of a run.
pub type AlertLog = StepLog<Alert>;

impl OfStep for Alert {
    const FILE: &'static str = "health.jsonl";
    fn step(&self) -> u64 {
        self.step
    }
}

/// What a rule has seen.
#[derive(Debug, Clone, Default)]
struct Seen {
    /// Values of the last rows, and those of the rule's unit.
    window: VecDeque<(f64, f64)>,
    /// Mean of the first full window.
    start: Option<f64>,
    /// Highest mean of a window, and highest unit; None before the first full one.
    best: Option<(f64, f64)>,
    on: bool,
    ever: bool,
}

/// Looks at rows, one after the other.
#[derive(Debug, Clone)]
pub struct Health {
    rules: &'static [Rule],
    seen: Vec<Seen>,
}

impl Default for Health {
    fn default() -> Self {
        Health { rules: RULES, seen: vec![Seen::default(); RULES.len()] }
    }
}

impl Health {
    /// The state after these rows.
    pub fn after(rows: &[MetricRow]) -> Health {
        let mut health = Health::default();
        for row in rows {
            health.look(row);
        }
        health
    }

    /// Looks at the next row; returns what began or ended with it. Rows of evaluations say nothing.
    pub fn look(&mut self, row: &MetricRow) -> Vec<Alert> {
        if row.is_eval() {
            return Vec::new();
        }
        let pairs = self.rules.iter().zip(&mut self.seen);
        pairs.filter_map(|(rule, seen)| seen.look(rule, row)).collect()
    }

    /// `health/active`, the number of troubles that are on, and `health/<name>` (1 while it is on) of
    /// those that there have been.
    pub fn figures(&self) -> Vec<(String, f64)> {
        let pairs = || self.rules.iter().zip(&self.seen);
        let active = pairs().filter(|(_, s)| s.on).count() as f64;
        let one = |(rule, s): (&Rule, &Seen)| {
            (format!("health/{}", rule.name), f64::from(u8::from(s.on)))
        };
        let ever = pairs().filter(|(_, s)| s.ever).map(one);
        std::iter::once(("health/active".to_string(), active)).chain(ever).collect()
    }
}

impl Seen {
    fn look(&mut self, rule: &Rule, row: &MetricRow) -> Option<Alert> {
        let value = rule.value(row)?;
        let unit = rule.unit().and_then(|name| row.get(name)).unwrap_or(0.0);
        if self.window.len() == rule.window {
            self.window.pop_front();
        }
        self.window.push_back((value, unit));
        if self.window.len() < rule.window {
            return None;
        }
        let n = rule.window as f64;
        let mean = self.window.iter().map(|w| w.0).sum::<f64>() / n;
        let unit = self.window.iter().map(|w| w.1).sum::<f64>() / n;
        let start = *self.start.get_or_insert(mean);
        let best = self.best.map_or((mean, unit), |b| (b.0.max(mean), b.1.max(unit)));
        self.best = Some(best);
        let (bad, good) = rule.test.judge(mean, start, best);
        let turned = if self.on { good } else { bad };
        if !turned {
            return None;
        }
        self.on = !self.on;
        self.ever = true;
        Some(rule.alert(row.step, mean, if self.on { Turn::Begun } else { Turn::Over }))
    }
}

#[cfg(test)]
mod tests;
