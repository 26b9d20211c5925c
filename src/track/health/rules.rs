//! The table of troubles: what each looks at, when it is on and off again, and what to do about it. A new
//! rule is a paragraph here, and a section of docs/tuning.md under its name.

use super::{Alert, NON_FINITE, Turn};
use crate::track::MetricRow;

/// A trouble and how it is noticed.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// Its name: `health/<name>` among the metrics.
    pub name: &'static str,
    /// The metric it looks at; with a `*`, the first one that begins and ends so and has `format` between.
    pub looks_at: &'static str,
    /// When it is on. Asked about the mean over `window` rows that have the metric.
    pub test: Test,
    /// Rows.
    pub window: usize,
    /// What happens, in a few words.
    pub message: &'static str,
    /// What to do about it.
    pub advice: &'static str,
}

/// When a trouble begins, and when it is over: the second limit is further away than the first, so that a
/// figure that wavers around one of them is told once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Test {
    /// Above the first limit; over at or below the second.
    Above(f64, f64),
    /// Below the first limit; over at or above the second.
    Below(f64, f64),
    /// Above so many times what it was in the first window.
    AboveStart(f64, f64),
    /// Below so many times what it was in the first window.
    BelowStart(f64, f64),
    /// Fallen from its best by more than so many times the highest mean of another metric.
    Fallen(f64, f64, &'static str),
}

impl Test {
    /// Whether it begins, and whether it is over.
    pub(super) fn judge(self, mean: f64, start: f64, best: (f64, f64)) -> (bool, bool) {
        match self {
            Test::Above(on, off) => (mean > on, mean <= off),
            Test::Below(on, off) => (mean < on, mean >= off),
            Test::AboveStart(on, off) => (mean > on * start, mean <= off * start),
            Test::BelowStart(on, off) => (mean < on * start, mean >= off * start),
            Test::Fallen(on, off, _) => {
                let fallen = best.0 - mean;
                (fallen > on * best.1, fallen <= off * best.1)
            }
        }
    }

    /// The first limit, in words.
    fn limit(self) -> String {
        match self {
            Test::Above(on, _) => format!("limit {on}"),
            Test::Below(on, _) => format!("at least {on} expected"),
            Test::AboveStart(on, _) => format!("limit {on} times its start"),
            Test::BelowStart(on, _) => format!("at least {on} times its start expected"),
            Test::Fallen(on, _, unit) => format!("more than {on} times `{unit}` below its best"),
        }
    }
}

impl Rule {
    /// What a row says about it. A missing figure says nothing; an infinite one counts.
    pub(super) fn value(&self, row: &MetricRow) -> Option<f64> {
        match self.looks_at.split_once('*') {
            None if self.looks_at == NON_FINITE => Some(row.get(NON_FINITE).unwrap_or(0.0)),
            None => row.get(self.looks_at),
            Some((begin, end)) => {
                let fits = |name: &str| {
                    let between = name.strip_prefix(begin).and_then(|n| n.strip_suffix(end));
                    between.is_some_and(|n| n.contains("format"))
                };
                row.values.iter().find(|(n, v)| fits(n) && !v.is_nan()).map(|(_, v)| *v)
            }
        }
    }

    /// The metric in whose size the test measures.
    pub(super) fn unit(&self) -> Option<&'static str> {
        match self.test {
            Test::Fallen(_, _, unit) => Some(unit),
            _ => None,
        }
    }

    /// Where the documentation says more: a heading that reads as the name does.
    pub fn link(&self) -> String {
        format!("docs/tuning.md#{}", self.name.replace('_', "-"))
    }

    pub(super) fn alert(&self, step: u64, mean: f64, state: Turn) -> Alert {
        let over = match self.window {
            1 => String::new(),
            n => format!(" over {n} rows"),
        };
        let shown = (mean * 1e4).round() / 1e4;
        let figures = format!("`{}` {shown}{over}, {}", self.looks_at, self.test.limit());
        let message = match state {
            Turn::Begun => format!("{}: {figures}", self.message),
            Turn::Over => figures,
        };
        Alert {
            step,
            name: self.name.into(),
            state,
            value: mean.is_finite().then_some(mean),
            message,
            advice: self.advice.into(),
            link: self.link(),
        }
    }
}

/// Every trouble.
pub static RULES: &[Rule] = &[
    Rule {
        name: "non_finite",
        looks_at: NON_FINITE,
        test: Test::Above(0.0, 0.0),
        window: 1,
        message: "loss or gradient is not a finite number",
        advice: "go back to the last checkpoint with a lower --learning_rate",
    },
    Rule {
        name: "reward_collapse",
        looks_at: "reward",
        test: Test::Fallen(0.5, 0.25, "reward_std"),
        window: 10,
        message: "the reward has fallen from its best",
        advice: "go back to a checkpoint before the fall; lower --learning_rate or raise --beta",
    },
    Rule {
        name: "entropy_collapse",
        looks_at: "entropy",
        test: Test::BelowStart(0.1, 0.2),
        window: 10,
        message: "completions have become nearly certain, so a group no longer differs",
        advice: "raise --temperature, --entropy_coef or --epsilon_high, or stop here",
    },
    Rule {
        name: "length_explosion",
        looks_at: "completions/mean_length",
        test: Test::AboveStart(2.5, 2.0),
        window: 10,
        message: "completions grow longer and longer",
        advice: "use --loss_type dr_grpo or dapo, or a reward that counts the length",
    },
    Rule {
        name: "repetition",
        looks_at: "completions/repetition",
        test: Test::Above(0.5, 0.3),
        window: 5,
        message: "completions repeat themselves",
        advice: "add the reward `repetition`, lower --temperature or the --learning_rate",
    },
    Rule {
        name: "dead_groups",
        looks_at: "frac_reward_zero_std",
        test: Test::Above(0.895, 0.795),
        window: 10,
        message: "in nearly all groups every completion earns the same, so nothing is learned",
        advice: "if the reward is high the task is solved; else warm up with `sft`, take easier rows, raise \
                 --num_generations or --temperature",
    },
    Rule {
        name: "truncation",
        looks_at: "completions/clipped_ratio",
        test: Test::Above(0.5, 0.4),
        window: 5,
        message: "most completions are cut at the limit before they have answered",
        advice: "raise --max_completion_length, or use --mask_truncated_completions",
    },
    Rule {
        name: "format_zero",
        looks_at: "rewards/*/mean",
        test: Test::Below(0.01, 0.05),
        window: 20,
        message: "no completion has the format that is rewarded",
        advice: "say the format in the prompt (--task_type, --system_prompt), or warm up with `sft`",
    },
    Rule {
        name: "kl_explosion",
        looks_at: "kl",
        test: Test::Above(1.0, 0.5),
        window: 5,
        message: "the policy has left its reference far behind",
        advice: "lower --learning_rate or raise --beta",
    },
    Rule {
        name: "reward_failures",
        looks_at: "rewards/failed_ratio",
        test: Test::Above(0.1, 0.05),
        window: 3,
        message: "rewards fail on many completions",
        advice: "the lines `a reward failed` say why",
    },
];
