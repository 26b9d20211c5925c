//! One optimizer step on a slice of a rollout: passes, optimizer, coefficients that follow, the
//! reference that follows, metrics, checkpoint. Generates nothing.

use super::slice::{Slice, Slicing};
use super::{GrpoRun, Rollout};
use crate::base::{Error, Result};
use crate::grpo::control::EntropyState;
use crate::grpo::optim::{optimizer_step, sync_reference, zero_gradients};
use crate::grpo::pack::{Packed, TrainCompletion, TrainGroup, micro_batches, pack, unshared};
use crate::grpo::stats::{TokenColumns, TokenStats, token_stats};
use crate::grpo::update::{MicroResult, grpo_micro_batch, log_probs, reference_log_probs};
use crate::model::prompt::Prompt;
use crate::ops::grpo_loss::GrpoLoss;
use crate::track::Event;
use crate::train::generation::Scored;
use crate::train::interrupt;
use crate::train::runlog::RunLog;
use crate::train::step::{
    Moment, dropout, memory_metrics, rate_metrics, reference_version, slices_per_generation,
    update_settings,
};
use std::sync::Arc;
use std::time::Instant;

impl GrpoRun<'_> {
    /// One optimizer step on the next slice of the rollout. Nothing has changed if it fails before the
    /// optimizer is reached, as it does when the user asks to stop.
    pub(super) fn update(&mut self, rollout: &mut Rollout, log: &mut RunLog) -> Result<()> {
        let start = Instant::now();
        let (s, w) = (self.settings, self.workspace);
        let slicing = Slicing::new(s, rollout, rollout.window.used % slices_per_generation(s));
        let first_pass = rollout.window.used == 0;
        let coef = self.applied_entropy_coef();
        let entropies = match s.grpo.entropy.top_quantile < 1.0 {
            true => Some(self.entropies(&slicing, first_pass)?),
            false => None,
        };
        let slice = slicing.make(entropies.as_deref(), coef);
        let threshold = slice.threshold;
        zero_gradients(&w.model.params, &w.arena)?;
        let (loss, sum, counted) = self.passes(slice, first_pass)?;
        let rates = self.schedule.rates(self.state.step);
        let begin = Instant::now();
        let norm =
            optimizer_step(&w.model.params, &w.arena, &self.optimizer, rates, self.state.step + 1)?;
        let optimizer_seconds = begin.elapsed().as_secs_f64();
        self.state.step += 1;
        rollout.window.used += 1;
        self.sync()?;
        let mut values: Vec<(String, f64)> =
            vec![("loss".into(), sum.micro.loss - sum.micro.bonus), ("grad_norm".into(), norm)];
        values.extend(rate_metrics(&s.training, rates));
        let rolled = std::mem::take(&mut rollout.seconds);
        values.append(&mut rollout.metrics);
        let stats = sum.token_stats(&loss, &counted);
        values.extend(stats.named());
        values.extend(self.follow(&stats, &sum));
        values.extend(threshold.map(|t| ("entropy_threshold".to_string(), f64::from(t))));
        if first_pass {
            let (mean, max) = sum.logp_difference();
            values.push(("sampling/logp_diff_max".into(), max));
            values.push(("sampling/sampling_logp_difference/mean".into(), mean));
            values.push(("sampling/sampling_logp_difference/max".into(), max));
        }
        values.extend([
            ("num_tokens".to_string(), self.state.num_tokens as f64),
            ("step_time".to_string(), start.elapsed().as_secs_f64() + rolled),
            ("train/vision_images".to_string(), sum.micro.vision_images as f64),
            ("train/prompt_forwards".to_string(), sum.micro.prompt_forwards as f64),
            ("time/reference".to_string(), sum.micro.reference_seconds),
            ("time/forward_backward".to_string(), sum.micro.train_seconds),
            ("time/optimizer".to_string(), optimizer_seconds),
            ("perf/recomputed_gflop".to_string(), sum.micro.recomputed * 1e-9),
            ("data/skipped_rows".to_string(), self.state.skipped_rows as f64),
        ]);
        values.extend(memory_metrics(w));
        let last = self.state.step == self.total;
        log.step(self.state.step, self.epoch(), values, last)?;
        if log.wants_histograms() && (last || log.is_due(self.state.step)) {
            sum.histograms(self.state.step).into_iter().try_for_each(|h| log.write(h))?;
        }
        Ok(())
    }

    /// Forward and backward passes over a slice; the loss that was used, what they found, and which
    /// completions count.
    fn passes(&self, slice: Slice, first: bool) -> Result<(GrpoLoss, Sum, Vec<bool>)> {
        let (s, w) = (self.settings, self.workspace);
        let now = Moment {
            frozen: self.frozen,
            frozen_version: reference_version(s, self.state.step),
            dropout: dropout(self.training, s.training.seed, self.state.step),
            first,
            beta: self.state.beta,
        };
        let update = update_settings(s, Arc::new(self.rollout.head()), now);
        let mut sum = Sum::default();
        let learner = w.learner(self.state.step);
        for micro in self.micro_batches(slice.groups) {
            interrupt::check()?;
            let packed = pack(&micro);
            let r = grpo_micro_batch(&learner, &packed, &update)?;
            sum.add(r, &packed);
            sum.completions.extend(micro.iter().flat_map(|g| &g.completions).map(|c| c.ids.len()));
        }
        Ok((update.loss, sum, slice.counted))
    }

    fn micro_batches(&self, groups: Vec<TrainGroup>) -> Vec<Vec<TrainGroup>> {
        let s = self.settings;
        let groups = if s.grpo.share_prompt { groups } else { unshared(groups) };
        micro_batches(groups, s.training.micro_batch_tokens)
    }

    /// What entropy is rewarded with in this update; `None` if it never is.
    fn applied_entropy_coef(&self) -> Option<f64> {
        let e = &self.settings.grpo.entropy;
        let applied = match e.control {
            Some(control) => control.applied(&self.entropy_state()),
            None => e.coef,
        };
        e.rewarded().then_some(applied)
    }

    fn entropy_state(&self) -> EntropyState {
        let coef = self.settings.grpo.entropy.coef;
        self.state.entropy.unwrap_or(EntropyState { coef, last: None })
    }

    /// Entropies of the policy on the slice's completions: on the first update those of the rollout,
    /// which had the same weights, later those of a pass of their own.
    fn entropies(&self, slicing: &Slicing, first: bool) -> Result<Vec<Vec<f32>>> {
        if first && let Some(known) = slicing.sampled_entropies() {
            return Ok(known);
        }
        let learner = self.workspace.learner(self.state.step);
        let head = Arc::new(self.rollout.head());
        let mut measured = Vec::new();
        for micro in self.micro_batches(slicing.to_measure()) {
            interrupt::check()?;
            measured.extend(log_probs(&learner, &pack(&micro), &head, true)?.1);
        }
        Ok(slicing.measured_entropies(&measured))
    }

    /// Moves the reference, if it is time.
    fn sync(&self) -> Result<()> {
        let (w, step) = (self.workspace, self.state.step);
        match (self.settings.grpo.sync, self.frozen) {
            (Some(sync), Some(reference)) if step.is_multiple_of(sync.steps) => {
                sync_reference(reference, &w.model.params, &w.arena, sync.share)
            }
            _ => Ok(()),
        }
    }

    /// Lets coefficients follow what the update found; returns them for the metrics.
    fn follow(&mut self, stats: &TokenStats, sum: &Sum) -> Vec<(String, f64)> {
        let g = &self.settings.grpo;
        let mut values = Vec::new();
        if let Some(term) = g.kl.filter(|k| !k.in_reward)
            && let (Some(control), Some(kl)) = (term.control, stats.kl)
        {
            let beta = self.state.beta.unwrap_or(term.beta);
            values.push(("kl_coef".to_string(), beta));
            self.state.beta = Some(control.next(beta, kl, sum.completions.len()));
        }
        if g.entropy.rewarded() {
            values.push(("policy_loss".to_string(), sum.micro.loss));
            let mut coef = g.entropy.coef;
            if let Some(control) = g.entropy.control {
                let state = self.entropy_state();
                let next = sum.kept_entropy().map_or(state, |e| control.next(&state, e));
                coef = next.coef;
                self.state.entropy = Some(next);
            }
            values.push(("entropy_coef".to_string(), coef));
        }
        values
    }

    /// Takes the KL off the rewards of a rollout, token by token summed over each completion; returns
    /// what was found for the metrics.
    ///
    /// # Errors
    /// If the reference's pass does not fit the arena.
    pub(super) fn penalise(
        &mut self,
        prompts: &[Arc<Prompt>],
        scored: &Scored,
    ) -> Result<Penalised> {
        let mut total = scored.scores.total.clone();
        let Some(term) = self.settings.grpo.kl.filter(|k| k.in_reward) else {
            return Ok((total, Vec::new()));
        };
        let (s, w) = (self.settings, self.workspace);
        let head = Arc::new(self.rollout.head());
        let (frozen, step) = (self.frozen, self.state.step);
        let now =
            Moment { frozen, frozen_version: reference_version(s, step), ..Moment::default() };
        let reference = update_settings(s, head.clone(), now).reference;
        let group = |(prompt, group): (&Arc<Prompt>, &Vec<_>)| TrainGroup {
            prompt: prompt.clone(),
            completions: group
                .iter()
                .map(|c: &crate::rollout::Completion| TrainCompletion {
                    ids: c.ids.clone(),
                    old_logps: c.logps.clone(),
                    ..TrainCompletion::default()
                })
                .collect(),
        };
        let groups = prompts.iter().zip(&scored.completions).map(group).collect();
        let beta = self.state.beta.unwrap_or(term.beta);
        let (mut at, mut sum, mut tokens) = (0, 0.0, 0usize);
        for micro in self.micro_batches(groups) {
            interrupt::check()?;
            let packed = pack(&micro);
            let found = reference_log_probs(&w.learner(step), &packed, &head, reference)?;
            for range in packed.starts.windows(2).map(|w| w[0] as usize..w[1] as usize) {
                let token = |t: usize| term.estimator.value(packed.old[t].into(), found[t].into());
                let own: f64 = range.clone().map(token).sum();
                total[at] = total[at].map(|r| r - beta * own);
                (at, sum, tokens) = (at + 1, sum + own, tokens + range.len());
            }
        }
        if at != total.len() {
            return Err(Error::internal("completions were lost on the way to the reference"));
        }
        let kl = sum / tokens.max(1) as f64;
        if let Some(control) = term.control {
            self.state.beta = Some(control.next(beta, kl, total.len()));
        }
        Ok((total, vec![("kl".into(), kl), ("kl_coef".into(), beta)]))
    }
}

/// Rewards less the KL of each completion, and what was found for the metrics.
type Penalised = (Vec<Option<f64>>, Vec<(String, f64)>);

/// Results of all micro-batches of an update.
#[derive(Default)]
struct Sum {
    micro: MicroResult,
    sampled: Vec<f32>,
    keep: Vec<f32>,
    advantage: Vec<f32>,
    completions: Vec<usize>,
}

impl Sum {
    fn add(&mut self, r: MicroResult, packed: &Packed) {
        self.micro.loss += r.loss;
        self.micro.bonus += r.bonus;
        self.micro.logp.extend(r.logp);
        self.micro.old.extend(r.old);
        self.micro.reference.extend(r.reference);
        self.micro.entropy.extend(r.entropy);
        self.micro.vision_images += r.vision_images;
        self.micro.prompt_forwards += r.prompt_forwards;
        self.micro.recomputed += r.recomputed;
        self.micro.reference_seconds += r.reference_seconds;
        self.micro.train_seconds += r.train_seconds;
        self.sampled.extend(&packed.old);
        self.keep.extend(&packed.keep);
        self.advantage.extend(&packed.advantage);
    }

    /// Mean and largest difference between the log-probability at sampling and in the first pass over it.
    fn logp_difference(&self) -> (f64, f64) {
        let pairs = self.micro.logp.iter().zip(&self.sampled);
        let differences = || pairs.clone().map(|(a, b)| f64::from((a - b).abs()));
        let mean = differences().sum::<f64>() / self.micro.logp.len().max(1) as f64;
        (mean, differences().fold(0.0, f64::max))
    }

    /// Distributions over the tokens of the update.
    fn histograms(&self, step: usize) -> [Event; 2] {
        let m = &self.micro;
        let ratio = m.logp.iter().zip(&m.old).map(|(new, old)| f64::from(new - old)).collect();
        let entropy = m.entropy.iter().map(|e| f64::from(*e)).collect();
        [("log_ratio", ratio), ("entropy", entropy)].map(|(name, values)| Event::Histogram {
            name,
            step: step as u64,
            values,
        })
    }

    /// Mean entropy of the tokens whose policy terms count; `None` of none.
    fn kept_entropy(&self) -> Option<f64> {
        let kept = self.micro.entropy.iter().zip(&self.keep).filter(|(_, k)| **k != 0.0);
        let (sum, n) = kept.fold((0.0, 0), |(s, n), (e, _)| (s + f64::from(*e), n + 1));
        (n > 0).then(|| sum / f64::from(n))
    }

    fn token_stats(&self, loss: &GrpoLoss, counted: &[bool]) -> TokenStats {
        let m = &self.micro;
        let columns = TokenColumns {
            logp: &m.logp,
            old: &m.old,
            reference: (!m.reference.is_empty()).then_some(m.reference.as_slice()),
            sampled: loss.sampled.then_some(self.sampled.as_slice()),
            keep: loss.keep.then_some(self.keep.as_slice()),
            advantage: &self.advantage,
            entropy: &m.entropy,
            completions: &self.completions,
            counted,
        };
        token_stats(loss, &columns)
    }
}
