//! The part of a rollout that one optimizer step trains on: which completions go through the pass, what
//! their tokens count, which tokens' policy terms count at all, what their entropy is rewarded with.
//! Weights are taken over the whole slice, so that micro-batches change nothing. Runs nothing.

use super::Rollout;
use crate::grpo::pack::{TrainCompletion, TrainGroup};
use crate::grpo::weigh::{Average, Counted, entropy_threshold, token_weights};
use crate::rollout::Completion;
use crate::settings::{GrpoSettings, TrainSettings};
use crate::train::step::slices_per_generation;
use std::ops::Range;

/// What an optimizer step trains on.
pub(super) struct Slice {
    /// Prompts with those of their completions that teach something.
    pub groups: Vec<TrainGroup>,
    /// Of each completion in them: whether it counts.
    pub counted: Vec<bool>,
    /// Entropy below which tokens' policy terms count nothing, if only some do.
    pub threshold: Option<f32>,
}

/// A slice before it is made.
pub(super) struct Slicing<'a> {
    settings: &'a TrainSettings,
    rollout: &'a Rollout,
    /// Completions of the whole rollout, group after group.
    all: Vec<Counted>,
    /// Those of the slice.
    range: Range<usize>,
}

impl<'a> Slicing<'a> {
    /// Slice number `slice` of a rollout.
    pub fn new(settings: &'a TrainSettings, rollout: &'a Rollout, slice: usize) -> Self {
        let s = &settings.grpo;
        let n = s.num_generations;
        let slices = slices_per_generation(settings);
        let total = rollout.prompts.len() * n;
        let dead = |i: usize| rollout.window.dead.get(i / n).copied().unwrap_or(false);
        let all = rollout.window.completions.iter().flatten().enumerate();
        let all = all
            .map(|(i, c)| Counted {
                tokens: c.ids.len(),
                counted: !(s.mask_truncated_completions && c.truncated()),
                dropped: s.drop_dead_groups && dead(i),
            })
            .collect();
        let range = total * slice / slices..total * (slice + 1) / slices;
        Slicing { settings, rollout, all, range }
    }

    fn grpo(&self) -> &GrpoSettings {
        &self.settings.grpo
    }

    fn completion(&self, i: usize) -> &Completion {
        let n = self.grpo().num_generations;
        &self.rollout.window.completions[i / n][i % n]
    }

    /// Whether a completion's tokens are among those whose entropies are compared.
    fn valid(&self, i: usize) -> bool {
        self.all[i].counted && !self.all[i].dropped
    }

    /// Entropies of the slice's completions as the rollout found them; none of completions that do not
    /// count. `None` if they are not known.
    pub fn sampled_entropies(&self) -> Option<Vec<Vec<f32>>> {
        let of = |i: usize| -> Option<Vec<f32>> {
            let c = self.completion(i);
            if !self.valid(i) {
                return Some(Vec::new());
            }
            (c.statistics.len() == c.ids.len()).then(|| c.statistics.iter().map(|s| s[1]).collect())
        };
        self.range.clone().map(of).collect()
    }

    /// The groups of all completions whose entropies are compared, to measure them.
    pub fn to_measure(&self) -> Vec<TrainGroup> {
        self.grouped(|i| {
            let c = self.completion(i);
            let completion = TrainCompletion { ids: c.ids.clone(), ..TrainCompletion::default() };
            self.valid(i).then_some(completion)
        })
    }

    /// Measured entropies of [`Slicing::to_measure`], by completion of the slice.
    pub fn measured_entropies(&self, measured: &[f32]) -> Vec<Vec<f32>> {
        let mut at = 0;
        let mut next = |n: usize| {
            at += n;
            measured[at - n..at].to_vec()
        };
        self.range
            .clone()
            .map(|i| if self.valid(i) { next(self.all[i].tokens) } else { vec![] })
            .collect()
    }

    /// Prompts of the slice with those of their completions that `make` makes.
    fn grouped(&self, make: impl Fn(usize) -> Option<TrainCompletion>) -> Vec<TrainGroup> {
        let n = self.grpo().num_generations;
        let mut groups: Vec<TrainGroup> = Vec::new();
        let mut owner = None;
        for i in self.range.clone() {
            let Some(completion) = make(i) else { continue };
            if owner != Some(i / n) {
                let prompt = self.rollout.prompts[i / n].clone();
                groups.push(TrainGroup { prompt, completions: Vec::new() });
                owner = Some(i / n);
            }
            if let Some(g) = groups.last_mut() {
                g.completions.push(completion);
            }
        }
        groups
    }

    fn weights(&self) -> Vec<f64> {
        let (own, s) = (&self.all[self.range.clone()], self.grpo());
        if s.average != Average::Tokens {
            return token_weights(own, s.average);
        }
        // TRL divides by the tokens of the whole rollout, per slice of it.
        let slices = slices_per_generation(self.settings);
        let all = token_weights(&self.all, Average::Tokens);
        all[self.range.clone()].iter().map(|w| w * slices as f64).collect()
    }

    /// What the entropy of every kept token of a completion is rewarded with, where the mean over the
    /// tokens of a batch is rewarded with `coef`.
    fn bonuses(&self, keep: Option<&[Vec<bool>]>, coef: f64) -> Vec<f64> {
        let own = self.all[self.range.clone()].iter().enumerate().map(|(i, c)| {
            let kept = keep.map_or(c.tokens, |k| k[i].iter().filter(|k| **k).count());
            Counted { tokens: kept, ..*c }
        });
        let own: Vec<Counted> = own.collect();
        let batch = self.settings.training.batch_size;
        token_weights(&own, Average::Batches(batch)).into_iter().map(|w| w * coef).collect()
    }

    /// The slice. Completions that teach nothing are left out of the pass, not out of the weights.
    /// `entropies` are those of its completions, if only tokens of high entropy count; `coef` rewards
    /// entropy, if that is done at all.
    pub fn make(&self, entropies: Option<&[Vec<f32>]>, coef: Option<f64>) -> Slice {
        let s = self.grpo();
        let threshold =
            entropies.and_then(|e| entropy_threshold(e.concat(), s.entropy.top_quantile));
        let keep: Option<Vec<Vec<bool>>> = entropies.map(|e| {
            let of = |e: &Vec<f32>| e.iter().map(|&e| threshold.is_some_and(|t| e >= t)).collect();
            e.iter().map(of).collect()
        });
        let weights = self.weights();
        let bonuses = coef.map(|coef| self.bonuses(keep.as_deref(), coef));
        let penalised = s.loss.kl.is_some();
        let make = |i: usize| {
            let (c, at) = (self.completion(i), i - self.range.start);
            let (advantage, weight) = (self.rollout.window.advantages[i], weights[at]);
            let silent = advantage == 0.0 && !penalised && bonuses.is_none();
            (weight != 0.0 && !silent).then(|| TrainCompletion {
                ids: c.ids.clone(),
                old_logps: c.logps.clone(),
                statistics: c.statistics.clone(),
                advantage: (advantage * s.alpha) as f32,
                weight: weight as f32,
                sample: i as u32,
                keep: keep.as_ref().map_or_else(Vec::new, |k| k[at].clone()),
                bonus: bonuses.as_ref().map_or(0.0, |b| b[at]) as f32,
            })
        };
        let groups = self.grouped(make);
        let counted = groups.iter().flat_map(|g| &g.completions);
        let counted = counted.map(|c| self.all[c.sample as usize].counted).collect();
        Slice { groups, counted, threshold }
    }
}
