//! Evaluation: answers to rows, and what they earn: what a run measures itself by, and `grpo-rt eval` its
//! line-up. Trains nothing.

use crate::base::Result;
use crate::io::dataset::Row;
use crate::model::prompt::Prompt;
use crate::model::vision_store::VisionWeights;
use crate::reward::{Aside, RewardSet, Scores};
use crate::track::terminal::tell;
use crate::train::generation::{Draws, RolloutSettings, Scored, generate_scored};
use crate::train::interrupt;
use crate::train::rows::name_skipped;
use crate::train::workspace::Workspace;
use std::sync::Arc;
use std::time::Instant;

/// What a split earned.
#[derive(Debug, Clone, PartialEq)]
pub struct EvalReport {
    /// Mean of the first reward over all samples.
    pub accuracy: f64,
    /// Mean of each reward over the samples that it judged; NaN if it judged none.
    pub per_reward: Vec<(String, f64)>,
    /// What else rewards had to say: counts of time limits and lost processes, logged figures.
    pub figures: Vec<(String, f64)>,
    /// Completions scored.
    pub samples: usize,
    /// Rows that could not be read.
    pub skipped: usize,
    /// Mean length in tokens.
    pub mean_length: f64,
    /// Share of completions cut by the length limit.
    pub clipped: f64,
    /// Seconds.
    pub seconds: f64,
}

/// Names the first failures of rewards, and passes on what rewards say.
fn name_failures(rewards: &RewardSet, scores: &Scores) {
    const NAMED: usize = 3;
    for f in scores.failures.iter().take(NAMED) {
        tell(&format!("a reward failed: {}", f.error.one_line()));
    }
    rewards.notices().iter().for_each(|line| tell(line));
}

/// Answers and scores rows.
pub struct Evaluation<'a> {
    /// The model.
    pub workspace: &'a Workspace,
    /// How answers are drawn.
    pub rollout: RolloutSettings,
    /// What answers earn.
    pub rewards: &'a RewardSet,
    /// Answers per row.
    pub samples: usize,
    /// Answers per batch of rows; the engine decodes as many of them together as fit.
    pub batch: usize,
    /// Whose image features.
    pub vision_weights: VisionWeights,
    /// Stop at a row that cannot be encoded.
    pub strict: bool,
}

impl Evaluation<'_> {
    /// Answers all rows; `each` sees every batch.
    ///
    /// # Errors
    /// If memory is too small, a row is bad and `strict`, or the user stopped the program.
    pub fn run(
        &self,
        rows: &[Row],
        each: impl FnMut(&[&Row], &Scored) -> Result<()>,
    ) -> Result<EvalReport> {
        self.run_from(rows, 0, each)
    }

    /// [`Evaluation::run`] on the rows that are left after `first` completions of others: each answer is
    /// what it would be in one go.
    ///
    /// # Errors
    /// As [`Evaluation::run`].
    pub fn run_from(
        &self,
        rows: &[Row],
        first: usize,
        mut each: impl FnMut(&[&Row], &Scored) -> Result<()>,
    ) -> Result<EvalReport> {
        let start = Instant::now();
        let names: Vec<String> = self.rewards.names().iter().map(|n| n.to_string()).collect();
        let mut sums = vec![(0.0, 0usize); names.len()];
        let (mut count, mut length, mut clipped) = (0usize, 0usize, 0usize);
        let mut skipped = Vec::new();
        let mut logged = Aside::default();
        for chunk in rows.chunks((self.batch / self.samples).max(1)) {
            if interrupt::asked() {
                return Err(interrupt::error("the files written so far"));
            }
            let mut kept: Vec<&Row> = Vec::new();
            let mut prompts: Vec<Arc<Prompt>> = Vec::new();
            let all: Vec<&Row> = chunk.iter().collect();
            for (row, prompt) in chunk.iter().zip(self.workspace.encoder.encode_rows(&all)) {
                match prompt {
                    Ok(p) => {
                        kept.push(row);
                        prompts.push(Arc::new(p));
                    }
                    Err(e) if self.strict => return Err(e),
                    Err(e) => skipped.push(e),
                }
            }
            let scored = generate_scored(
                self.workspace,
                &self.rollout,
                self.rewards,
                &kept,
                &prompts,
                Draws {
                    per_prompt: self.samples,
                    step: 0,
                    // Random keys count completions, so that the batch size changes none of them.
                    first_sample: (first + count) as u32,
                    vision_weights: self.vision_weights,
                },
            )?;
            for (sum, column) in sums.iter_mut().zip(&scored.scores.per_reward) {
                for score in column.iter().flatten() {
                    *sum = (sum.0 + score, sum.1 + 1);
                }
            }
            for c in scored.completions.iter().flatten() {
                count += 1;
                length += c.ids.len();
                clipped += usize::from(c.truncated());
            }
            name_failures(self.rewards, &scored.scores);
            logged.figures.extend(scored.scores.aside.figures.iter().cloned());
            each(&kept, &scored)?;
        }
        name_skipped(&skipped);
        // No verdict is no 0: the mean of nothing is NaN.
        let mean = |(sum, n): &(f64, usize)| sum / *n as f64;
        let per_reward: Vec<(String, f64)> = names.into_iter().zip(sums.iter().map(mean)).collect();
        let share = |n: usize| if count == 0 { 0.0 } else { n as f64 / count as f64 };
        Ok(EvalReport {
            accuracy: per_reward.first().map_or(0.0, |r| r.1),
            per_reward,
            figures: self.rewards.figures().into_iter().chain(logged.means()).collect(),
            samples: count,
            skipped: skipped.len(),
            mean_length: share(length),
            clipped: share(clipped),
            seconds: start.elapsed().as_secs_f64(),
        })
    }
}
