//! `think_answer_graded`: parts of a reward for a think block, an answer block and their order, as the
//! video-action project on Qwen-VL pays them. It never judges the content.

use crate::base::Result;
use crate::reward::tags::{has_words, is_visible, only_block};
use crate::reward::{Reward, Sample};

/// 0.3 for the think block, 0.3 for the answer block, 0.4 for both in order: 0 to 1. A block counts if
/// its tags stand once each, it says something, and the other does not begin or end inside it.
#[derive(Debug, Clone, Copy)]
pub struct ThinkAnswerGraded;

fn graded(text: &str) -> f64 {
    let think = only_block(text, "think", &["answer"]).filter(|b| has_words(b.inside));
    let answer = only_block(text, "answer", &["think"]).filter(|b| is_visible(b.inside));
    match (think, answer) {
        (Some(t), Some(a)) if t.end <= a.start => 1.0,
        (Some(_), Some(_)) => 0.6,
        (Some(_), None) | (None, Some(_)) => 0.3,
        (None, None) => 0.0,
    }
}

impl Reward for ThinkAnswerGraded {
    fn name(&self) -> &str {
        "think_answer_graded"
    }
    fn score(&self, samples: &[Sample<'_>]) -> Vec<Result<Option<f64>>> {
        samples.iter().map(|s| Ok(Some(graded(s.completion)))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_order() {
        for (said, score) in [
            ("<think>a</think><answer>b</answer>", 1.0),
            ("So: <think>a</think> then <answer>b</answer>.", 1.0),
            ("<answer>b</answer><think>a</think>", 0.6),
            ("<think>a</think> b", 0.3),
            ("<answer>b</answer>", 0.3),
            ("<think></think><answer>b</answer>", 0.3),
            ("<think>a</think><answer> </answer>", 0.3),
            ("<think></think><answer></answer>", 0.0),
            ("<think>a</think><answer>b</answer><answer>c</answer>", 0.3),
            ("<think>a<answer>b</answer></think>", 0.3),
            ("<think>a</think><think>a</think><answer>b</answer>", 0.3),
            ("<think>a<answer>b</think>c</answer>", 0.0),
            ("</think>a<think></answer>b<answer>", 0.0),
            ("<THINK>a</THINK><answer>b</answer>", 0.3),
            ("", 0.0),
        ] {
            assert_eq!(graded(said), score, "{said}");
        }
    }
}
