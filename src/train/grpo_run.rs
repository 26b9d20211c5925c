//! `grpo-rt train`: rollout, rewards, advantages, updates, over and over. One call of [`train`] is
//! one session of a run; the arithmetic lives in `grpo`, the files in `runlog` and `checkpoint`.

use crate::base::{Error, Result};
use crate::grpo::advantage::{ScaleRewards, advantages, mean, std_dev};
use crate::grpo::optim::{OptimizerSettings, optimizer_step, zero_gradients};
use crate::grpo::pack::{TrainCompletion, TrainGroup, micro_batches, pack, unshared};
use crate::grpo::schedule::Schedule;
use crate::grpo::stats::token_stats;
use crate::grpo::update::{MicroResult, grpo_micro_batch};
use crate::grpo::weigh::{Counted, LossType, token_weights};
use crate::io::dataset::Row;
use crate::model::params::{ParamStore, Training};
use crate::model::prompt::Prompt;
use crate::ops::grpo_loss::GrpoLoss;
use crate::reward::RewardSet;
use crate::rollout::Completion;
use crate::train::checkpoint::{self, RunState, Window};
use crate::train::evaluate::{Evaluation, load_rows, name_skipped, split_rows};
use crate::train::fit;
use crate::train::generation::{
    Draws, RolloutSettings, Scored, generate_scored, reward_set, rollout_settings,
};
use crate::train::interrupt;
use crate::train::options::Options;
use crate::train::record;
use crate::train::runlog::{RunLog, open_run_dir};
use crate::train::settings::{self, TrainSettings, check_paths};
use crate::train::sinks::MetricRow;
use crate::train::step::{
    dropout, grpo_loss, memory_metrics, needs_frozen_copy, optimizer_settings, schedule,
    slices_per_generation, update_settings, updates_per_generation,
};
use crate::train::stream::{Batch, RowOrder, prefetch};
use crate::train::trainable::trainable_table;
use crate::train::workspace::{Prepared, Workspace};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Instant;

/// Runs the command; returns the run's folder.
///
/// # Errors
/// If options, model or data are wrong, memory is too small, or a file cannot be written.
pub fn train(options: &Options) -> Result<PathBuf> {
    let s = TrainSettings::from_options(options)?;
    check_paths(options)?;
    interrupt::watch();
    let rewards = reward_set(&s.rewards, s.sampling.max_completion_length)?;
    let resume = open_run_dir(&s.output)?;
    let loaded = load_rows(&s.data)?;
    let seed = s.training.seed;
    let eval_rows = s.eval_data.as_ref().map(load_rows).transpose()?.map(|l| l.rows);
    let (rows, eval_rows) = match s.data.val_split_ratio {
        0.0 => (loaded.rows, eval_rows),
        ratio => {
            let (train, eval) = split_rows(loaded.rows, ratio, seed)?;
            (train, Some(eval))
        }
    };
    let mut prepared = Prepared::read(&s.model, &s.machine)?;
    prepared.bound_prompts(s.data.max_prompt_length, s.sampling.max_completion_length)?;
    fit::check_grpo(options, &prepared, &rows)?;
    let training = prepared.training.clone();
    let mut w = prepared.open(&s.model, &s.machine, seed)?;
    if s.logging.print_trainable {
        eprint!("{}", trainable_table(&w.model.params));
    }
    let frozen = match needs_frozen_copy(&s, &training) {
        true => Some(w.model.params.frozen_copy(&mut w.arena)?),
        false => None,
    };
    let state = match &resume {
        Some(dir) => checkpoint::load(dir, &w.model, &mut w.arena)?,
        None => RunState { skipped_rows: loaded.skipped_rows as u64, ..RunState::default() },
    };
    let updates = updates_per_generation(&s);
    if let (Some(dir), Some(window)) = (&resume, &state.window) {
        let vocabulary = w.model.config.text.vocab_size;
        check_window(window, &s, rows.len(), vocabulary).map_err(|e| e.file(dir))?;
    }
    let per_epoch = (rows.len() / s.grpo.prompts_per_generation).max(1) * updates;
    let total = s.training.length.steps(per_epoch);
    let dir = s.output.run_dir.clone();
    let resumed = resume.is_some().then_some(state.step);
    let mut log = RunLog::open(options, &dir, &s.logging, total, resumed)?;
    let rollout = rollout_settings(&w, &s.sampling, seed);
    let mut run = GrpoRun {
        schedule: schedule(&s.training, total),
        optimizer: optimizer_settings(&s.training),
        loss: grpo_loss(&s),
        rollout,
        settings: &s,
        training: &training,
        workspace: &w,
        rewards: &rewards,
        frozen: frozen.as_ref(),
        rows: &rows,
        total,
        state,
    };
    let stopped = run.run(&mut log)?;
    if !stopped {
        checkpoint::save_model(&dir, &w.model, &w.arena)?;
    }
    if let (Some(rows), false) = (&eval_rows, stopped) {
        run.evaluate(rows, &mut log)?;
    }
    log.finish()?;
    if stopped {
        return Err(interrupt::error(&dir.display().to_string()));
    }
    Ok(dir)
}

/// Refuses completions of a checkpoint that are not of this run's groups and rows.
fn check_window(w: &Window, s: &TrainSettings, rows: usize, vocabulary: usize) -> Result<()> {
    let (prompts, n) = (s.grpo.prompts_per_generation, s.grpo.num_generations);
    let whole = |c: &Completion| {
        !c.ids.is_empty()
            && c.ids.len() == c.logps.len()
            && c.ids.iter().all(|&id| (id as usize) < vocabulary)
    };
    let fits = w.rows.len() == prompts
        && w.rows.iter().all(|&r| r < rows)
        && w.completions.len() == prompts
        && w.completions.iter().all(|group| group.len() == n && group.iter().all(whole))
        && w.advantages.len() == prompts * n
        && w.used < updates_per_generation(s);
    if fits {
        return Ok(());
    }
    Err(Error::data("the checkpoint's completions do not fit this run")
        .expected(format!("{prompts} prompts of {rows} rows, with {n} completions each"))
        .found(format!(
            "{} prompts, up to row {}",
            w.rows.len(),
            w.rows.iter().max().map_or(0, |r| r + 1)
        ))
        .hint("resume with the options and the data of the run"))
}

/// Completions that are being trained on, with everything that is known about them.
struct Rollout {
    window: Window,
    prompts: Vec<Arc<Prompt>>,
    /// Figures of the rollout, logged with the first update on it.
    metrics: Vec<(String, f64)>,
    /// Seconds that it took, counted with the first update on it.
    seconds: f64,
}

/// A run in progress.
struct GrpoRun<'a> {
    settings: &'a TrainSettings,
    training: &'a Training,
    workspace: &'a Workspace,
    rewards: &'a RewardSet,
    frozen: Option<&'a ParamStore>,
    rows: &'a [Row],
    rollout: RolloutSettings,
    loss: GrpoLoss,
    schedule: Schedule,
    optimizer: OptimizerSettings,
    total: usize,
    state: RunState,
}

impl<'a> GrpoRun<'a> {
    /// Trains to the end, or until the user asks to stop (true).
    fn run(&mut self, log: &mut RunLog) -> Result<bool> {
        let s = self.settings;
        let order = RowOrder::new(self.rows.len(), s.training.seed, s.data.shuffle);
        let (rows, encoder) = (self.rows, &self.workspace.encoder);
        let (cursor, n) = (self.state.cursor, s.grpo.prompts_per_generation);
        let updates = updates_per_generation(s);
        std::thread::scope(|scope| {
            let batches = prefetch(scope, rows, encoder, order, cursor, n, s.data.strict);
            let mut current = self.reopen_window()?;
            while self.state.step < self.total {
                let mut rollout = match current.take() {
                    Some(r) => r,
                    None => self.next_rollout(&batches, log)?,
                };
                if self.update(&mut rollout, log)? {
                    return Ok(true);
                }
                current = (rollout.window.used < updates).then_some(rollout);
            }
            Ok(false)
        })
    }

    /// The completions that a checkpoint was in the middle of.
    fn reopen_window(&mut self) -> Result<Option<Rollout>> {
        let Some(window) = self.state.window.take() else { return Ok(None) };
        let encode = |&r: &usize| self.workspace.encoder.encode_row(&self.rows[r]).map(Arc::new);
        let prompts = window.rows.iter().map(encode).collect::<Result<_>>()?;
        Ok(Some(Rollout { window, prompts, metrics: Vec::new(), seconds: 0.0 }))
    }

    /// Generates, scores and turns rewards into advantages.
    fn next_rollout(
        &mut self,
        batches: &Receiver<Result<Batch>>,
        log: &mut RunLog,
    ) -> Result<Rollout> {
        let start = Instant::now();
        let batch = batches.recv().expect("the stream ends only with an error")?;
        let waited = start.elapsed().as_secs_f64();
        name_skipped(&batch.skipped);
        let g = &self.settings.grpo;
        let prompts: Vec<Arc<Prompt>> = batch.prompts.iter().map(|(_, p)| p.clone()).collect();
        let rows: Vec<&Row> = batch.prompts.iter().map(|(r, _)| &self.rows[*r]).collect();
        let scored = generate_scored(
            self.workspace,
            &self.rollout,
            self.rewards,
            &rows,
            &prompts,
            Draws {
                per_prompt: g.num_generations,
                step: self.state.generations,
                first_sample: 0,
                vision_weights: self.workspace.learner(self.state.step).vision_weights,
            },
        )?;
        for f in scored.scores.failures.iter().take(3) {
            log.say(&format!("a reward failed: {}", f.error.one_line()))?;
        }
        let scale = match g.scale_rewards {
            settings::ScaleRewards::Group => ScaleRewards::Group,
            settings::ScaleRewards::Batch => ScaleRewards::Batch,
            settings::ScaleRewards::None => ScaleRewards::None,
        };
        let adv = advantages(&scored.scores.total, g.num_generations, scale);
        self.state.cursor = batch.cursor;
        self.state.skipped_rows += batch.skipped.len() as u64;
        self.state.generations += 1;
        let tokens: usize = prompts.iter().map(|p| p.len() * g.num_generations).sum::<usize>()
            + scored.completions.iter().flatten().map(|c| c.ids.len()).sum::<usize>();
        self.state.num_tokens += tokens as u64;
        let mut metrics = self.rollout_metrics(&scored, &adv.group_std);
        metrics.push(("time/wait_for_data".into(), waited));
        self.record(&rows, &scored, &adv.values, log)?;
        let window = Window {
            rows: batch.prompts.iter().map(|(r, _)| *r).collect(),
            completions: scored.completions,
            advantages: adv.values,
            used: 0,
        };
        Ok(Rollout { window, prompts, metrics, seconds: start.elapsed().as_secs_f64() })
    }

    /// Figures of a rollout under TRL's names.
    fn rollout_metrics(&self, scored: &Scored, group_std: &[f64]) -> Vec<(String, f64)> {
        let all: Vec<_> = scored.completions.iter().flatten().collect();
        let lengths: Vec<f64> = all.iter().map(|c| c.ids.len() as f64).collect();
        let ended: Vec<f64> =
            all.iter().filter(|c| !c.truncated()).map(|c| c.ids.len() as f64).collect();
        let known: Vec<f64> = scored.scores.total.iter().flatten().copied().collect();
        let dead = group_std.iter().filter(|s| **s < 1e-8).count() as f64;
        let min = |v: &[f64]| v.iter().copied().reduce(f64::min).unwrap_or(f64::NAN);
        let max = |v: &[f64]| v.iter().copied().reduce(f64::max).unwrap_or(f64::NAN);
        let mut out: Vec<(String, f64)> = vec![
            ("reward".into(), mean(&known)),
            ("reward_std".into(), std_dev(&known)),
            ("frac_reward_zero_std".into(), dead / group_std.len().max(1) as f64),
        ];
        for (name, column) in self.rewards.names().iter().zip(&scored.scores.per_reward) {
            let column: Vec<f64> = column.iter().flatten().copied().collect();
            out.push((format!("rewards/{name}/mean"), mean(&column)));
            out.push((format!("rewards/{name}/std"), std_dev(&column)));
        }
        let clipped = 1.0 - ended.len() as f64 / lengths.len().max(1) as f64;
        let seconds = scored.rollout_seconds;
        let figures = [
            ("completions/mean_length", mean(&lengths)),
            ("completions/min_length", min(&lengths)),
            ("completions/max_length", max(&lengths)),
            (
                "completions/mean_terminated_length",
                if ended.is_empty() { 0.0 } else { mean(&ended) },
            ),
            ("completions/min_terminated_length", if ended.is_empty() { 0.0 } else { min(&ended) }),
            ("completions/max_terminated_length", if ended.is_empty() { 0.0 } else { max(&ended) }),
            ("completions/clipped_ratio", clipped),
            ("rewards/failed", scored.scores.failures.len() as f64),
            ("rollout/vision_images", scored.vision_images as f64),
            ("rollout/prompt_prefills", scored.counts.prompts as f64),
            ("rollout/passes", scored.counts.passes as f64),
            ("rollout/preemptions", scored.counts.preemptions as f64),
            ("perf/rollout_tokens_per_second", lengths.iter().sum::<f64>() / seconds),
            ("time/rollout", seconds),
            ("time/reward", scored.reward_seconds),
            ("time/wait_for_rewards", scored.wait_seconds),
        ];
        out.extend(figures.map(|(n, v)| (n.to_string(), v)));
        out
    }

    /// Completions for the files and, now and then, a group for the report.
    fn record(&self, rows: &[&Row], scored: &Scored, adv: &[f64], log: &RunLog) -> Result<()> {
        let step = self.state.step + 1;
        let logging = &self.settings.logging;
        let names: Vec<String> = self.rewards.names().iter().map(|n| n.to_string()).collect();
        let batch = record::Recorded { step, rows, scored, advantages: adv, rewards: &names };
        // A dozen groups tell the story of a run; the first and the last are among them.
        let updates = updates_per_generation(self.settings);
        let generations = self.total.div_ceil(updates).max(1);
        let now = self.state.generations as usize;
        if (now - 1).is_multiple_of(generations.div_ceil(12)) || now == generations {
            log.write(batch.sample_group(0))?;
        }
        if step.is_multiple_of(logging.steps) || step + updates > self.total {
            log.write(batch.completions(&self.settings.output.run_dir))?;
            for line in batch.printed(logging.print_completions) {
                log.say(&line)?;
            }
        }
        Ok(())
    }

    /// One optimizer step on the next slice of the rollout; true if the user asked to stop.
    fn update(&mut self, rollout: &mut Rollout, log: &mut RunLog) -> Result<bool> {
        let start = Instant::now();
        let (s, w) = (self.settings, self.workspace);
        let slices = slices_per_generation(s);
        let slice = rollout.window.used % slices;
        let first_pass = rollout.window.used == 0;
        let (groups, counted) = self.slice_groups(rollout, slice, slices);
        zero_gradients(&w.model.params, &w.arena)?;
        let drop = dropout(self.training, s.training.seed, self.state.step);
        let head = Arc::new(self.rollout.head());
        let update = update_settings(s, head, self.frozen, drop, first_pass);
        let mut sum = Sum::default();
        let groups = if s.grpo.share_prompt { groups } else { unshared(groups) };
        let learner = w.learner(self.state.step);
        for micro in micro_batches(groups, s.training.micro_batch_tokens) {
            let packed = pack(&micro);
            let r = grpo_micro_batch(&learner, &packed, &update)?;
            sum.add(r, &packed.old, &packed.advantage);
            sum.completions.extend(micro.iter().flat_map(|g| &g.completions).map(|c| c.ids.len()));
        }
        let rate = self.schedule.rate(self.state.step);
        let begin = Instant::now();
        let norm =
            optimizer_step(&w.model.params, &w.arena, &self.optimizer, rate, self.state.step + 1)?;
        let optimizer_seconds = begin.elapsed().as_secs_f64();
        self.state.step += 1;
        rollout.window.used += 1;
        let mut values: Vec<(String, f64)> = vec![
            ("loss".into(), sum.micro.loss),
            ("grad_norm".into(), norm),
            ("learning_rate".into(), rate),
        ];
        let rolled = std::mem::take(&mut rollout.seconds);
        values.append(&mut rollout.metrics);
        values.extend(sum.token_metrics(&self.loss, &counted));
        if first_pass {
            values.push(("sampling/logp_diff_max".into(), sum.logp_diff_max()));
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
        let epoch = self.state.cursor as f64 / self.rows.len() as f64;
        log.step(self.state.step, epoch, values, last)?;
        let due = s.output.save_steps.is_some_and(|n| self.state.step.is_multiple_of(n));
        let stop = interrupt::asked() && !last;
        if due || last || stop {
            let unfinished = rollout.window.used < updates_per_generation(s);
            self.state.window = unfinished.then(|| rollout.window.clone());
            let (keep, dir) = (s.output.save_total_limit, &s.output.run_dir);
            log.flush()?;
            checkpoint::save(dir, &w.model, &w.arena, &self.state, &log.history, self.total, keep)?;
            self.state.window = None;
        }
        Ok(stop)
    }

    /// The groups of a slice, with weights over the whole slice; completions that teach nothing are
    /// left out of the pass, not out of the weights.
    fn slice_groups(
        &self,
        r: &Rollout,
        slice: usize,
        slices: usize,
    ) -> (Vec<TrainGroup>, Vec<bool>) {
        let s = &self.settings.grpo;
        let n = s.num_generations;
        let total = r.prompts.len() * n;
        let range = total * slice / slices..total * (slice + 1) / slices;
        let all: Vec<Counted> = r
            .window
            .completions
            .iter()
            .flatten()
            .map(|c| Counted {
                tokens: c.ids.len(),
                counted: !(s.mask_truncated_completions && c.truncated()),
            })
            .collect();
        let weights = match s.loss_type {
            settings::LossType::Grpo => token_weights(&all[range.clone()], LossType::Grpo),
            settings::LossType::Dapo => {
                // TRL divides by the tokens of the whole rollout, per slice of it.
                let w = token_weights(&all, LossType::Dapo);
                w[range.clone()].iter().map(|w| w * slices as f64).collect()
            }
        };
        let mut groups: Vec<TrainGroup> = Vec::new();
        let mut counted = Vec::new();
        let mut owner = None;
        for i in range.clone() {
            let (group, c) = (i / n, &r.window.completions[i / n][i % n]);
            let (advantage, weight) = (r.window.advantages[i], weights[i - range.start]);
            if weight == 0.0 || (advantage == 0.0 && s.beta == 0.0) {
                continue;
            }
            if owner != Some(group) {
                let prompt = r.prompts[group].clone();
                groups.push(TrainGroup { prompt, completions: Vec::new() });
                owner = Some(group);
            }
            counted.push(all[i].counted);
            if let Some(g) = groups.last_mut() {
                g.completions.push(TrainCompletion {
                    ids: c.ids.clone(),
                    old_logps: c.logps.clone(),
                    statistics: c.statistics.clone(),
                    advantage: advantage as f32,
                    weight: weight as f32,
                    sample: i as u32,
                });
            }
        }
        (groups, counted)
    }

    /// Greedy rewards on held-out rows, logged as `eval_*`.
    fn evaluate(&self, rows: &[Row], log: &mut RunLog) -> Result<()> {
        let evaluation = Evaluation {
            workspace: self.workspace,
            rollout: self.rollout.clone().greedy(),
            vision_weights: self.workspace.learner(self.state.step).vision_weights,
            rewards: self.rewards,
            samples: 1,
            batch: self.settings.grpo.generation_batch_size.max(32),
            strict: self.settings.eval_data.as_ref().is_some_and(|d| d.strict),
        };
        let report = evaluation.run(rows, |_, _| Ok(()))?;
        let epoch = self.state.cursor as f64 / self.rows.len() as f64;
        let mut row = MetricRow::new(self.state.step as u64, epoch);
        for (name, value) in &report.per_reward {
            row.push(format!("eval_rewards/{name}/mean"), *value);
        }
        row.push("eval_completions/mean_length", report.mean_length);
        row.push("eval_runtime", report.seconds);
        log.log(row)
    }
}

/// Results of all micro-batches of an update.
#[derive(Default)]
struct Sum {
    micro: MicroResult,
    sampled: Vec<f32>,
    advantage: Vec<f32>,
    completions: Vec<usize>,
}

impl Sum {
    fn add(&mut self, r: MicroResult, sampled: &[f32], advantage: &[f32]) {
        self.micro.loss += r.loss;
        self.micro.logp.extend(r.logp);
        self.micro.old.extend(r.old);
        self.micro.reference.extend(r.reference);
        self.micro.entropy.extend(r.entropy);
        self.micro.vision_images += r.vision_images;
        self.micro.prompt_forwards += r.prompt_forwards;
        self.micro.recomputed += r.recomputed;
        self.micro.reference_seconds += r.reference_seconds;
        self.micro.train_seconds += r.train_seconds;
        self.sampled.extend(sampled);
        self.advantage.extend(advantage);
    }

    /// Largest difference between the log-probability at sampling and in the first pass over it.
    fn logp_diff_max(&self) -> f64 {
        let differences = self.micro.logp.iter().zip(&self.sampled).map(|(a, b)| (a - b).abs());
        f64::from(differences.fold(0.0f32, f32::max))
    }

    fn token_metrics(&self, loss: &GrpoLoss, counted: &[bool]) -> Vec<(String, f64)> {
        let m = &self.micro;
        let reference = (!m.reference.is_empty()).then_some(m.reference.as_slice());
        let stats = token_stats(
            loss,
            &m.logp,
            &m.old,
            reference,
            &self.advantage,
            &m.entropy,
            &self.completions,
            counted,
        );
        stats.named()
    }
}
