//! Evaluation while a run goes on: answers to held-out rows and what they earn, logged as `eval_*`.
//! Its random keys are its own and the same every time: training draws what it would have drawn
//! without it, and two evaluations differ by the weights alone.

use super::GrpoRun;
use super::figures::{add_reward_figures, completion_figures};
use super::resample::{Drawn, join};
use crate::base::{Error, Result};
use crate::io::dataset::Row;
use crate::reward::{Progress, RewardSet};
use crate::settings::{BestSettings, ValidationSettings};
use crate::track::MetricRow;
use crate::train::checkpoint::Best;
use crate::train::generation::{Draws, RolloutSettings, Scored, drawn, generate_scored};
use crate::train::interrupt;
use crate::train::rows::name_skipped;
use crate::train::runlog::RunLog;
use std::sync::Arc;
use std::time::Instant;

/// Step of the random keys of evaluations: no rollout of a run has it.
const KEYS: u32 = u32::MAX;

/// The first so many rows.
pub(super) fn measured_rows<'r>(rows: &'r [Row], s: &ValidationSettings) -> &'r [Row] {
    &rows[..s.max_rows.unwrap_or(rows.len()).min(rows.len())]
}

/// Refuses a best checkpoint in what is not measured.
///
/// # Errors
/// Kind usage, with what is measured.
pub(super) fn check_best(
    best: Option<&BestSettings>,
    rewards: &RewardSet,
    generations: usize,
) -> Result<()> {
    let Some(best) = best else { return Ok(()) };
    let mut none = Scored::default();
    none.scores.per_reward = vec![Vec::new(); rewards.names().len()];
    let known = completion_figures(&none, &rewards.names(), generations, 0);
    if known.iter().any(|(name, _)| best.metric.strip_prefix("eval_") == Some(name)) {
        return Ok(());
    }
    let names: Vec<&str> = known.iter().map(|(name, _)| name.as_str()).collect();
    Err(Error::usage("no evaluation has this figure")
        .key("metric_for_best_model")
        .expected(format!("one of {}", names.join(", ")))
        .found(best.metric.clone())
        .hint("a loss is not measured: take reward, the default"))
}

impl GrpoRun<'_> {
    /// How answers of evaluations are drawn.
    fn measuring(&self) -> RolloutSettings {
        let sampling = Arc::new(drawn(&self.settings.validation.sampling));
        RolloutSettings { sampling, ..self.rollout.clone() }
    }

    /// Answers all held-out rows and logs what they earn.
    pub(super) fn measure(&mut self, log: &mut RunLog) -> Result<()> {
        let start = Instant::now();
        let m = &self.settings.validation;
        let strict = self.settings.data.strict;
        let (n, measuring) = (m.num_generations, self.measuring());
        let epoch = self.epoch();
        let (step, max_steps) = (self.state.step as u64, self.total as u64);
        self.rewards.begin(Progress { step, max_steps, epoch });
        let (mut parts, mut skipped, mut first_sample) = (Vec::new(), Vec::new(), 0);
        for chunk in self.eval_rows.chunks((m.batch_size / n).max(1)) {
            interrupt::check()?;
            let all: Vec<&Row> = chunk.iter().collect();
            let (mut kept, mut prompts) = (Vec::new(), Vec::new());
            for (row, prompt) in chunk.iter().zip(self.workspace.encoder.encode_rows(&all)) {
                match prompt {
                    Ok(p) => {
                        kept.push(row);
                        prompts.push(Arc::new(p));
                    }
                    Err(e) if strict => return Err(e),
                    Err(e) => skipped.push(e),
                }
            }
            let draws = Draws {
                per_prompt: n,
                step: KEYS,
                // Keys count completions, so that the batch size changes none of them.
                first_sample,
                vision_weights: self.workspace.learner(self.state.step).vision_weights,
            };
            first_sample += (prompts.len() * n) as u32;
            let (w, rewards) = (self.workspace, self.rewards);
            let scored = generate_scored(w, &measuring, rewards, &kept, &prompts, draws)?;
            for f in scored.scores.failures.iter().take(3) {
                log.say(&format!("a reward failed: {}", f.error.one_line()))?;
            }
            for line in self.rewards.notices() {
                log.say(&line)?;
            }
            parts.push(Drawn { prompts: Vec::new(), scored });
        }
        name_skipped(&skipped);
        let seconds = start.elapsed().as_secs_f64();
        let row = self.measured(&join(parts).scored, skipped.len(), (epoch, seconds));
        self.compare(&row, log)?;
        log.log(row)
    }

    /// The row of an evaluation.
    fn measured(&self, scored: &Scored, skipped: usize, (epoch, seconds): (f64, f64)) -> MetricRow {
        let n = self.settings.validation.num_generations;
        let mut figures = completion_figures(scored, &self.rewards.names(), n, 0);
        add_reward_figures(&mut figures, self.rewards, scored);
        let mut row = MetricRow::new(self.state.step as u64, epoch);
        figures.into_iter().for_each(|(name, value)| row.push(format!("eval_{name}"), value));
        let samples = scored.texts.len() as f64;
        row.push("eval_samples", samples);
        row.push("eval_skipped_rows", skipped as f64);
        row.push("eval_runtime", seconds);
        row.push("eval_samples_per_second", samples / seconds);
        row
    }

    /// Remembers an evaluation that is better than all before.
    fn compare(&mut self, row: &MetricRow, log: &RunLog) -> Result<()> {
        let Some(best) = &self.settings.output.best else { return Ok(()) };
        let Some(metric) = row.get(&best.metric) else {
            return log.say(&format!("`{}` has no value: no best checkpoint here", best.metric));
        };
        let better = |old: f64| if best.greater { metric > old } else { metric < old };
        // Before the first step there is nothing to save.
        if self.state.step > 0 && self.state.best.is_none_or(|b| better(b.metric)) {
            self.state.best = Some(Best { metric, step: self.state.step });
        }
        Ok(())
    }
}
