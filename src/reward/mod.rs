//! Floor 6: what a completion earns. The [`Reward`] trait, the table of built-in rewards and their
//! weighted sum. A reward never sees a tensor, never touches the model that is trained and never
//! ends a run: what it cannot judge costs that sample only.

pub mod answer; // what counts as the same answer
pub mod aside; // what rewards are told and say beside samples and scores
pub mod boxes; // boxes on images
pub mod builtin; // one file per reward
pub mod completion; // where the parts of a completion stand
pub mod debug_log; // what was scored, as text for people
pub mod judge; // a language model that is asked
pub mod loose_json; // JSON as a published reward reads it
pub mod math; // when two mathematical texts are one answer
pub mod process; // rewards that other programs compute
pub mod set; // several rewards, weighted
pub mod settings; // what rewards can be told
pub mod steps; // which steps of two lists say the same
pub mod tags; // tagged text, strictly

pub use aside::{Aside, Progress};
pub use boxes::BoxSpace;
pub use judge::Judge;
pub use set::{RewardFailure, RewardSet, Scores};
pub use settings::{AnswerFormat, Compat, RewardSettings};

use crate::base::{Error, Result};
use crate::io::dataset::Message;
use serde_json::{Map, Value};

/// One completion with everything a reward may look at.
#[derive(Debug, Clone, Copy)]
pub struct Sample<'a> {
    /// Text of the completion, special tokens removed.
    pub completion: &'a str,
    /// Token ids of the completion, the end token included if there is one.
    pub completion_ids: &'a [u32],
    /// The user's question as text.
    pub prompt: &'a str,
    /// Reference answer of the row; empty if the row has none.
    pub answer: &'a str,
    /// The chat before the completion.
    pub messages: &'a [Message],
    /// Every column of the row, as it was read.
    pub columns: &'a Map<String, Value>,
    /// Images of the prompt, in order.
    pub images: &'a [ImageSizes],
    /// The completion hit its length limit before the end token.
    pub truncated: bool,
}

/// Width and height of an image, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageSizes {
    /// In its file.
    pub original: [usize; 2],
    /// As the model sees it; boxes that a model of Qwen's names are in these pixels.
    pub seen: [usize; 2],
}

/// Scores completions.
pub trait Reward: Send + Sync {
    /// Name in metrics (`rewards/<name>/mean`) and in the completions file.
    fn name(&self) -> &str;
    /// One result per sample, in order, each a function of its sample and those of its group alone: a
    /// batch is handed over group by group as groups are finished, from several threads at a time.
    /// `Ok(None)`: this reward does not judge this sample, which
    /// then lives on its other rewards. `Err`: the sample is dropped from its group, counted and
    /// named in the log.
    fn score(&self, samples: &[Sample<'_>]) -> Vec<Result<Option<f64>>>;

    /// As [`Reward::score`], told where the run is, with a place for what is said beside the scores.
    fn score_at(
        &self,
        samples: &[Sample<'_>],
        _progress: Progress,
        _aside: &mut Aside,
    ) -> Vec<Result<Option<f64>>> {
        self.score(samples)
    }

    /// Figures since the last call, logged as `rewards/<name>/<figure>`: time limits hit, processes
    /// started again, judges that did not answer.
    fn figures(&self) -> Vec<(String, f64)> {
        Vec::new()
    }

    /// Lines for the person who watches, since the last call: what a program printed, why a judge is
    /// not heard.
    fn notices(&self) -> Vec<String> {
        Vec::new()
    }
}

/// One line of the table of rewards.
pub struct RewardEntry {
    /// Name that `--reward_funcs` takes.
    pub name: &'static str,
    /// What it pays for, in one line.
    pub doc: &'static str,
    /// Builds it; fails on settings that make no sense.
    pub build: fn(&RewardSettings) -> Result<Box<dyn Reward>>,
}

/// Every built-in reward. A new one is a file in `builtin/` and a line here.
pub static REWARDS: &[RewardEntry] = &[
    RewardEntry {
        name: "accuracy",
        doc: "1 if the last <answer> after the reasoning is the reference answer, else 0",
        build: |s| Ok(Box::new(builtin::Accuracy::new(s)?)),
    },
    RewardEntry {
        name: "action_iou",
        doc: "overlap of the answer's list of actions, `(1) ... (2) ...`, with the reference's",
        build: |s| Ok(Box::new(builtin::ActionIou::new(s.answer_format)?)),
    },
    RewardEntry {
        name: "box_format",
        doc: "1 if the completion is reasoning and answer in the answer_format, with a box in the answer, else 0",
        build: |s| Ok(Box::new(builtin::BoxFormat::new(s)?)),
    },
    RewardEntry {
        name: "correctness",
        doc: "2 if the last <answer> after the reasoning is the reference answer, else 0",
        build: |s| Ok(Box::new(builtin::Correctness::new(s)?)),
    },
    RewardEntry {
        name: "cosine_scaled",
        doc: "right answers earn more the shorter, wrong ones lose less the longer, along a cosine",
        build: |s| Ok(Box::new(builtin::CosineScaled::new(s, reward_by_name("accuracy", s)?)?)),
    },
    RewardEntry {
        name: "detection",
        doc: "boxes with labels against the reference's: mAP, odLength, weighted_sum (accu_reward_method)",
        build: |s| Ok(Box::new(builtin::Detection::new(s)?)),
    },
    RewardEntry {
        name: "exact",
        doc: "1 if the whole completion is the reference answer, else 0 (for prompts without tags)",
        build: |_| Ok(Box::new(builtin::Exact)),
    },
    RewardEntry {
        name: "explanation",
        doc: "0 to 1: how far <explain> says what a reference explanation says, by words and by meaning",
        build: |s| Ok(Box::new(builtin::Explanation::new(s)?)),
    },
    RewardEntry {
        name: "format",
        doc: "1 if the completion is reasoning and answer in the answer_format and nothing else, else 0",
        build: |s| Ok(Box::new(builtin::Format::new(s)?)),
    },
    RewardEntry {
        name: "iou",
        doc: "overlap of the answer's one box with the reference box",
        build: |s| Ok(Box::new(builtin::Iou::new(s)?)),
    },
    RewardEntry {
        name: "judge",
        doc: "1 if a language model (--judge_url) finds the answer the same as the reference, else 0",
        build: |s| Ok(Box::new(judge::JudgeReward::new(s)?)),
    },
    RewardEntry {
        name: "length",
        doc: "0 up to max_completion_length - soft_overlong_cache tokens, then linearly down to -1",
        build: |s| Ok(Box::new(builtin::Length::new("length", s)?)),
    },
    RewardEntry {
        name: "math",
        doc: "1 if the answer is mathematics equivalent to the reference, else 0",
        build: |s| Ok(Box::new(builtin::Math::new(s))),
    },
    RewardEntry {
        name: "mcq",
        doc: "1 if the answer is the reference's choice, by letter or text, else 0",
        build: |s| Ok(Box::new(builtin::Mcq::new(s)?)),
    },
    RewardEntry {
        name: "reasoning",
        doc: "0 to 1: Match-F1 of the reasoning steps with the row's reference_steps",
        build: |s| Ok(Box::new(builtin::Reasoning::new(s)?)),
    },
    RewardEntry {
        name: "repetition",
        doc: "down to -1 for a completion that says the same over and over",
        build: |s| Ok(Box::new(builtin::Repetition::new(s)?)),
    },
    RewardEntry {
        name: "soft_format",
        doc: "0.5 if the completion begins with <reasoning>, then <answer>, each once, else 0",
        build: |s| Ok(Box::new(builtin::SoftFormat::new(s.compat)?)),
    },
    RewardEntry {
        name: "soft_overlong",
        doc: "the same as `length`, under TRL's name",
        build: |s| Ok(Box::new(builtin::Length::new("soft_overlong", s)?)),
    },
    RewardEntry {
        name: "strict_format",
        doc: "0.5 if <reasoning> and <answer> have each tag on its own line and nothing around, else 0",
        build: |s| Ok(Box::new(builtin::StrictFormat::new(s.compat)?)),
    },
    RewardEntry {
        name: "think_answer_graded",
        doc: "0.3 for a think block, 0.3 for an answer block, 0.4 for their order",
        build: |_| Ok(Box::new(builtin::ThinkAnswerGraded)),
    },
    RewardEntry {
        name: "xmlcount",
        doc: "0.125 for each tag of <reasoning> and <answer> in its place, less text behind the answer",
        build: |s| Ok(Box::new(builtin::XmlCount { compat: s.compat })),
    },
    RewardEntry {
        name: "yes_no",
        doc: "1 if the answer is yes or no as the reference, else 0",
        build: |s| Ok(Box::new(builtin::YesNo::new(s)?)),
    },
];

/// The built-in reward called `name`. An unknown name is a usage error that lists the known ones.
pub fn reward_by_name(name: &str, settings: &RewardSettings) -> Result<Box<dyn Reward>> {
    if let Some(entry) = REWARDS.iter().find(|e| e.name == name) {
        return (entry.build)(settings);
    }
    let known: Vec<&str> = REWARDS.iter().map(|e| e.name).collect();
    let nearest = known.iter().map(|k| (edit_distance(name, k), *k)).min();
    let hint = match nearest {
        // A third of the letters wrong is still a typing error; more is another word.
        Some((d, k)) if 3 * d <= k.len().max(3) + 2 => format!("did you mean `{k}`?"),
        _ => "see `grpo-rt train --help` for what each of them pays for".to_string(),
    };
    Err(Error::usage("unknown reward")
        .key("reward_funcs")
        .expected(format!("one of {}", known.join(", ")))
        .found(format!("`{name}`"))
        .hint(hint))
}

/// Levenshtein distance in characters.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let best = (diagonal + usize::from(x != *y)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = row[j + 1];
            row[j + 1] = best;
        }
    }
    row[b.len()]
}

/// A sample for the tests of rewards: `completion` against `answer`, `tokens` ids long.
#[cfg(test)]
pub(crate) fn test_sample<'a>(
    completion: &'a str,
    answer: &'a str,
    ids: &'a [u32],
    columns: &'a Map<String, Value>,
) -> Sample<'a> {
    Sample {
        completion,
        completion_ids: ids,
        prompt: "",
        answer,
        messages: &[],
        columns,
        images: &[],
        truncated: false,
    }
}

/// Rows of a table of the tests, one JSON object a line.
#[cfg(test)]
pub(crate) fn table_rows(table: &str) -> impl Iterator<Item = Map<String, Value>> + '_ {
    let row = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    table.lines().map(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_builds_under_its_own_name() {
        let settings = RewardSettings {
            judge: Some(judge::test_settings("http://[::1]:9")),
            ..RewardSettings::default()
        };
        for e in REWARDS {
            let r = reward_by_name(e.name, &settings).unwrap();
            assert_eq!(r.name(), e.name);
            assert!(!e.doc.is_empty() && !e.doc.contains('\n'));
        }
        assert!(REWARDS.windows(2).all(|w| w[0].name < w[1].name), "keep the table sorted");
    }

    #[test]
    fn unknown_name_lists_known_ones_and_the_nearest() {
        let message = |name| match reward_by_name(name, &RewardSettings::default()) {
            Ok(_) => panic!("{name} must not exist"),
            Err(e) => e.one_line(),
        };
        let m = message("acuracy");
        assert!(m.contains("did you mean `accuracy`?"), "{m}");
        assert!(m.contains("accuracy, action_iou, ") && m.contains(", length, "), "{m}");
        assert!(message("formt").contains("`format`?"));
        assert!(message("judge").contains("--judge_url"));
        assert!(!message("reasonable").contains("did you mean"));
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("", "abc"), 3);
    }
}
