//! Where a run stands, as a file can say it: to the bit, numbers that are none included. Holds data,
//! decides nothing.

use crate::grpo::control::EntropyState;
use crate::rollout::Completion;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A number that JSON keeps to the bit; NaN and infinities are texts there.
#[derive(Debug, Clone, Copy)]
pub struct Exact(pub f64);

impl PartialEq for Exact {
    /// Equal bits: NaN equals itself.
    fn eq(&self, other: &Self) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl Serialize for Exact {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if self.0.is_finite() { s.serialize_f64(self.0) } else { s.collect_str(&self.0) }
    }
}

impl<'de> Deserialize<'de> for Exact {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Number(f64),
            Text(String),
        }
        match Either::deserialize(d)? {
            Either::Number(v) => Ok(Exact(v)),
            Either::Text(t) => t.parse().map(Exact).map_err(serde::de::Error::custom),
        }
    }
}

/// Figures by name, each with one value per optimizer step.
pub type Figures = Vec<(String, Vec<Exact>)>;

/// The evaluation that was best so far.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// What it measured.
    pub metric: f64,
    /// After how many optimizer steps.
    pub step: usize,
}

/// Where a run stands between two optimizer steps.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    /// Optimizer steps done.
    pub step: usize,
    /// Rows of the data set consumed.
    pub cursor: usize,
    /// Prompt and completion tokens seen.
    pub num_tokens: u64,
    /// Rows passed over.
    pub skipped_rows: u64,
    /// Rollouts done.
    pub generations: u32,
    /// Weight of the KL, where it follows the KL.
    #[serde(default)]
    pub beta: Option<f64>,
    /// Reward of entropy, where it follows the entropy.
    #[serde(default)]
    pub entropy: Option<EntropyState>,
    /// Completions that are still being trained on.
    pub window: Option<Window>,
    /// Figures of the steps since the last line of metrics.
    #[serde(default)]
    pub pending: Figures,
    /// The best evaluation.
    #[serde(default)]
    pub best: Option<Best>,
    /// Files of the checkpoint, this one included; empty in checkpoints without checksums.
    #[serde(default)]
    pub files: Vec<String>,
}

impl RunState {
    /// The last optimizer step for which completions were drawn and recorded.
    pub fn recorded(&self) -> usize {
        self.step + usize::from(self.window.as_ref().is_some_and(|w| w.used == 0))
    }

    /// Whether there is anything in it that the start of a run has not.
    pub fn has_begun(&self) -> bool {
        self.step > 0 || self.window.is_some()
    }
}

/// Completions of one rollout and how far they have been used.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// Rows of the prompts.
    pub rows: Vec<usize>,
    /// Completions of each prompt.
    pub completions: Vec<Vec<Completion>>,
    /// Advantage of each completion, group after group.
    pub advantages: Vec<f64>,
    /// Whether the rewards of each group were all equal; empty in old checkpoints.
    #[serde(default)]
    pub dead: Vec<bool>,
    /// Optimizer steps already taken on them.
    pub used: usize,
    /// Figures of the rollout, until they are logged with the first of those steps.
    #[serde(default)]
    pub metrics: Vec<(String, Exact)>,
    /// Seconds of the rollout, likewise.
    #[serde(default)]
    pub seconds: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_to_the_bit() {
        // Of random numbers some are read one bit off by a parser that is quick rather than right.
        let hard = [0.1, f64::MAX, f64::EPSILON, 1.0 / 3.0, -0.0, 5e-324];
        let odd = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
        let mut bits = 0x9E37_79B9_7F4A_7C15u64;
        let drawn = std::iter::repeat_with(|| {
            bits = bits
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            f64::from_bits(bits)
        });
        let values: Vec<Exact> = hard
            .into_iter()
            .chain(odd)
            .chain(drawn.filter(|v| !v.is_nan()).take(2000))
            .map(Exact)
            .collect();
        let state = RunState {
            pending: vec![("loss".into(), values.clone())],
            window: Some(Window {
                advantages: values.iter().map(|v| v.0).filter(|v| v.is_finite()).collect(),
                metrics: values.iter().map(|v| ("m".to_string(), *v)).collect(),
                ..Window::default()
            }),
            ..RunState::default()
        };
        let text = serde_json::to_string(&state).unwrap();
        let back: RunState = serde_json::from_str(&text).unwrap();
        assert_eq!(back, state);
        assert_eq!(serde_json::to_string(&back).unwrap(), text);
    }

    #[test]
    fn a_rollout_that_was_not_trained_on_is_recorded_ahead() {
        let at = |used| RunState {
            step: 4,
            window: Some(Window { used, ..Window::default() }),
            ..RunState::default()
        };
        assert_eq!((at(0).recorded(), at(1).recorded()), (5, 4));
        assert_eq!(RunState { step: 4, ..RunState::default() }.recorded(), 4);
        assert!(!RunState::default().has_begun() && at(0).has_begun());
    }

    #[test]
    fn states_of_older_versions_are_read() {
        let old = r#"{"step":3,"cursor":12,"num_tokens":9,"skipped_rows":0,"generations":2,"window":null}"#;
        let state: RunState = serde_json::from_str(old).unwrap();
        assert!(state.step == 3 && state.files.is_empty() && state.pending.is_empty());
    }
}
