//! What the dashboard shows, built from events. Knows no terminal and no clock: the same events give the
//! same screen.

use crate::track::health::Turn;
use crate::track::{CompletionTable, Event, MetricRow};
use std::collections::VecDeque;

/// Curves that come first; those of single rewards follow, then the rest.
const FIRST: &[&str] = &["reward", "loss", "kl", "entropy", "completions/mean_length"];
/// Other metrics that are curves.
const OTHERS: &[&str] = &[
    "reward_std",
    "frac_reward_zero_std",
    "completions/clipped_ratio",
    "grad_norm",
    "learning_rate",
    "perf/rollout_tokens_per_second",
    "step_time",
    "eval_reward",
];
/// Lines that are kept.
const LINES: usize = 100;
/// Rows that the time left is estimated from.
const RECENT: usize = 20;
/// Points of a curve; beyond them every second one goes.
const POINTS: usize = 8192;

/// A key that changes what is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// The next curve.
    Next,
    /// The one before.
    Previous,
    /// What the keys do.
    Help,
}

/// Name of a metric, its steps and values.
pub(super) type Curve = (String, Vec<(f64, f64)>);

/// A completion, as it is shown.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Said {
    pub(super) step: u64,
    pub(super) prompt: String,
    pub(super) text: String,
    pub(super) scores: String,
}

/// Everything that is on the screen.
#[derive(Debug, Clone, Default)]
pub struct DashboardState {
    pub(super) title: String,
    pub(super) total: u64,
    pub(super) colour: bool,
    pub(super) step: u64,
    pub(super) epoch: f64,
    pub(super) curves: Vec<Curve>,
    /// Seconds of the last step by phase.
    pub(super) phases: Vec<(String, f64)>,
    /// Bytes by region.
    pub(super) memory: Vec<(String, f64)>,
    pub(super) said: Option<Said>,
    /// Alerts that are on: name and message.
    pub(super) alerts: Vec<(String, String)>,
    pub(super) lines: VecDeque<String>,
    pub(super) selected: usize,
    pub(super) help: bool,
    recent: VecDeque<f64>,
    last_row: String,
    changed: bool,
}

impl DashboardState {
    /// A run that has not begun, of so many steps; colourless where colour is not wanted.
    pub fn new(title: &str, steps: u64, colour: bool) -> Self {
        DashboardState {
            title: plain(title),
            total: steps,
            colour,
            changed: true,
            ..DashboardState::default()
        }
    }

    /// Takes an event; what it does not show, it ignores.
    pub fn take(&mut self, event: &Event) {
        match event {
            Event::Line(text) => self.line(text),
            Event::Row(row) => self.row(row),
            Event::Completions(t) => self.completion(t),
            Event::Alert(a) => {
                self.alerts.retain(|(name, _)| *name != a.name);
                if a.state == Turn::Begun {
                    self.alerts.push((a.name.clone(), a.message.clone()));
                }
                self.line(&a.line());
            }
            _ => {}
        }
    }

    /// A key was pressed.
    pub fn press(&mut self, key: Key) {
        let n = self.curves.len().max(1);
        match key {
            Key::Next => self.selected = (self.selected + 1) % n,
            Key::Previous => self.selected = (self.selected + n - 1) % n,
            Key::Help => self.help = !self.help,
        }
        self.changed = true;
    }

    /// Whether something has come since the last [`DashboardState::seen`].
    pub(super) fn is_changed(&self) -> bool {
        self.changed
    }

    /// What is to be drawn now.
    pub(super) fn seen(&mut self) -> DashboardState {
        self.changed = false;
        self.clone()
    }

    /// What the plain console shows of it once the screen is gone.
    pub(super) fn last_lines(&self) -> Vec<String> {
        let row = Some(self.last_row.clone()).filter(|r| !r.is_empty());
        let alerts = self.alerts.iter().map(|(_, message)| format!("health: {message}"));
        row.into_iter().chain(alerts).collect()
    }

    /// A line of the log.
    pub(super) fn line(&mut self, text: &str) {
        for line in text.lines().map(plain).filter(|l| !l.is_empty()) {
            if self.lines.len() == LINES {
                self.lines.pop_front();
            }
            self.lines.push_back(line);
        }
        self.changed = true;
    }

    /// A row of metrics.
    pub(super) fn row(&mut self, row: &MetricRow) {
        let chosen = self.curves.get(self.selected).map(|(name, _)| name.clone());
        for (name, value) in row.values.iter().filter(|(n, v)| is_curve(n) && v.is_finite()) {
            let at = self.curves.iter().position(|(n, _)| n == name);
            let at = at.unwrap_or_else(|| {
                let rank = rank(name);
                let place = self.curves.iter().take_while(|(n, _)| self::rank(n) <= rank).count();
                self.curves.insert(place, (name.clone(), Vec::new()));
                place
            });
            let points = &mut self.curves[at].1;
            points.push((row.step as f64, *value));
            if points.len() > POINTS {
                // The last one stays.
                let odd = (points.len() - 1) % 2;
                let thin = points.iter().enumerate().filter(|(i, _)| i % 2 == odd);
                *points = thin.map(|(_, p)| *p).collect();
            }
        }
        if let Some(name) = chosen {
            self.selected = self.curves.iter().position(|(n, _)| *n == name).unwrap_or(0);
        }
        self.changed = true;
        if row.is_eval() {
            return;
        }
        (self.step, self.epoch) = (row.step, row.epoch);
        let group = |begin: &str| -> Vec<(String, f64)> {
            let rest = |(n, v): &(String, f64)| Some((n.strip_prefix(begin)?.to_string(), *v));
            row.values.iter().filter_map(rest).filter(|(_, v)| v.is_finite()).collect()
        };
        self.phases = group("time/");
        self.memory = group("memory/");
        self.memory.extend(row.get("device/memory_used").map(|v| ("device used".into(), v)));
        if let Some(seconds) = row.get("step_time") {
            if self.recent.len() == RECENT {
                self.recent.pop_front();
            }
            self.recent.push_back(seconds);
        }
        let figures = ["reward", "kl", "loss"].iter();
        let figures = figures.filter_map(|n| Some(format!("{n} {:.4}", row.get(n)?)));
        let figures: Vec<String> = figures.collect();
        self.last_row = format!("step {}/{}  {}", row.step, self.total, figures.join("  "));
    }

    /// Seconds per step, if any are known.
    pub(super) fn seconds_per_step(&self) -> Option<f64> {
        let n = self.recent.len();
        (n > 0).then(|| self.recent.iter().sum::<f64>() / n as f64)
    }

    /// Of a table the completion with the highest advantage: what the run moves towards.
    fn completion(&mut self, t: &CompletionTable) {
        let best = (0..t.records.len())
            .reduce(|a, b| if t.records[b].advantage > t.records[a].advantage { b } else { a });
        let Some(i) = best else { return };
        let r = &t.records[i];
        let score = |v: Option<f64>| v.map_or("none".into(), |v| format!("{v:.2}"));
        let each = t.rewards.iter().zip(&r.rewards);
        let each: Vec<String> = each.map(|(n, v)| format!("{n} {}", score(*v))).collect();
        let total = score(t.totals.get(i).copied().flatten());
        self.said = Some(Said {
            step: t.step,
            prompt: plain(&r.prompt.last().map_or(String::new(), |m| m.to_string())),
            text: plain(&r.completion),
            scores: format!("{}  reward {total}  advantage {:+.2}", each.join("  "), r.advantage),
        });
        self.changed = true;
    }
}

/// Whether a metric is a curve.
fn is_curve(name: &str) -> bool {
    rank(name) < usize::MAX
}

/// Where a curve stands among the others.
fn rank(name: &str) -> usize {
    let among = |list: &[&str]| list.iter().position(|n| *n == name);
    if let Some(i) = among(FIRST) {
        return i;
    }
    if name.starts_with("rewards/") && name.ends_with("/mean") {
        return FIRST.len();
    }
    among(OTHERS).map_or(usize::MAX, |i| FIRST.len() + 1 + i)
}

/// A text on one line without anything that a terminal would obey.
pub(super) fn plain(text: &str) -> String {
    let shown = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(shown).collect::<String>().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(step: u64, values: &[(&str, f64)]) -> MetricRow {
        let values = values.iter().map(|(n, v)| (n.to_string(), *v)).collect();
        MetricRow { step, epoch: 0.0, values }
    }

    #[test]
    fn curves_keep_their_order_and_the_chosen_one_stays_chosen() {
        let mut s = DashboardState::new("a", 9, true);
        s.press(Key::Next);
        assert_eq!(s.selected, 0);
        s.row(&row(1, &[("loss", 0.1), ("grad_norm", 1.0), ("time/x", 1.0)]));
        s.press(Key::Next);
        s.row(&row(2, &[("reward", 1.0), ("rewards/a/mean", 1.0), ("kl", f64::NAN)]));
        let names: Vec<&str> = s.curves.iter().map(|c| c.0.as_str()).collect();
        assert_eq!(names, ["reward", "loss", "rewards/a/mean", "grad_norm"]);
        assert_eq!(s.curves[s.selected].0, "grad_norm");
        s.press(Key::Previous);
        assert_eq!(s.curves[s.selected].0, "rewards/a/mean");
    }

    #[test]
    fn texts_cannot_command_the_terminal_and_lists_are_bounded() {
        let mut s = DashboardState::new("\x1b[2Jrun", 9, true);
        assert_eq!(s.title, "[2Jrun");
        (0..300).for_each(|i| s.line(&format!("line {i}\n\x07")));
        assert_eq!((s.lines.len(), s.lines.back().unwrap().as_str()), (LINES, "line 299"));
        (0..3 * POINTS as u64).for_each(|i| s.row(&row(i, &[("loss", 1.0)])));
        assert!(s.curves[0].1.len() <= POINTS);
        assert_eq!(s.curves[0].1.last().unwrap().0, (3 * POINTS - 1) as f64);
    }
}
