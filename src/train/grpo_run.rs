//! `grpo-rt train`: rollout, rewards, advantages, updates, over and over. One call of [`train`] is
//! one session of a run; the arithmetic lives in `grpo`, the files in `runlog` and `checkpoint`.

mod resample; // groups that teach nothing, replaced
mod slice; // what an optimizer step trains on
mod update; // an optimizer step

use crate::base::{Error, Result};
use crate::grpo::advantage::{advantages, decoupled_advantages, mean};
use crate::grpo::optim::OptimizerSettings;
use crate::grpo::schedule::Schedule;
use crate::io::dataset::Row;
use crate::model::params::{ParamStore, Training};
use crate::model::prompt::Prompt;
use crate::reward::set::mean_std;
use crate::reward::{Progress, RewardSet};
use crate::rollout::Completion;
use crate::train::checkpoint::{self, RunState, Window};
use crate::train::evaluate::{Evaluation, load_rows, name_skipped, split_rows};
use crate::train::fit;
use crate::train::generation::{
    Draws, RolloutSettings, Scored, generate_scored, reward_set, rollout_settings,
};
use crate::train::health::repeated_share;
use crate::train::interrupt;
use crate::train::options::Options;
use crate::train::record;
use crate::train::runlog::{RunLog, open_run_dir};
use crate::train::settings::{TrainSettings, check_paths};
use crate::train::sinks::MetricRow;
use crate::train::step::{
    check_rates, needs_frozen_copy, optimizer_settings, schedule, updates_per_generation,
};
use crate::train::stream::{Batch, RowOrder, prefetch};
use crate::train::trainable::trainable_table;
use crate::train::workspace::{Prepared, Workspace};
use resample::{Drawn, Pool, dead_groups};
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
    let mut prepared = Prepared::read(&s.model, &s.machine)?;
    let limit = s.sampling.max_completion_length;
    let rewards = reward_set(&s.rewards, limit, prepared.config.family.name())?;
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
    prepared.bound_prompts(s.data.max_prompt_length, limit)?;
    fit::check_grpo(options, &prepared, &rows)?;
    let training = prepared.training.clone();
    let mut w = prepared.open(&s.model, &s.machine, seed)?;
    if s.logging.print_trainable {
        eprint!("{}", trainable_table(&w.model.params));
    }
    check_rates(&s.training, &w.model.params)?;
    let frozen = match needs_frozen_copy(&s, &training) {
        true => Some(w.model.params.frozen_copy(&mut w.arena)?),
        false => None,
    };
    let state = match &resume {
        Some(dir) => {
            if let (Some(_), Some(reference)) = (s.grpo.sync, &frozen) {
                checkpoint::load_reference(dir, &w.model, reference, &mut w.arena)?;
            }
            checkpoint::load(dir, &w.model, &mut w.arena)?
        }
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
    log.describe_model(&s.model.path)?;
    let rollout = rollout_settings(&w, &s.sampling, seed);
    let mut run = GrpoRun {
        schedule: schedule(&s.training, total),
        optimizer: optimizer_settings(&s.training),
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
        let t = &s.training;
        log.summarise(total, t.batch_size * t.gradient_accumulation_steps)?;
    }
    if let (Some(rows), false) = (&eval_rows, stopped) {
        run.evaluate(rows, &mut log)?;
    }
    let alert = log.stop_reason().cloned();
    log.finish()?;
    if stopped {
        return Err(interrupt::stopped(alert.as_ref(), &dir.display().to_string()));
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
        && (w.dead.is_empty() || w.dead.len() == prompts)
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
        let g = &self.settings.grpo;
        let mut pool = Pool::new(g.prompts_per_generation, g.num_generations);
        let mut waited = 0.0;
        for _ in 0..g.sampling_batches {
            let begin = Instant::now();
            let batch = batches.recv().expect("the stream ends only with an error")?;
            waited += begin.elapsed().as_secs_f64();
            pool.add(self.draw(batch, log)?);
            if g.sampling_batches == 1 || !pool.lacks() {
                break;
            }
        }
        let (drawn, drawing) = pool.choose();
        let Drawn { prompts, scored } = drawn;
        let (numbers, prompts): (Vec<usize>, Vec<Arc<Prompt>>) = prompts.into_iter().unzip();
        let rows: Vec<&Row> = numbers.iter().map(|r| &self.rows[*r]).collect();
        let (total, penalty) = self.penalise(&prompts, &scored)?;
        let adv = match g.decoupled {
            true => {
                let (weights, scores) = (&self.settings.rewards.weights, &scored.scores);
                decoupled_advantages(&scores.per_reward, weights, &total, g.num_generations)
            }
            false => advantages(&total, g.num_generations, g.estimator),
        };
        let mut metrics = self.rollout_metrics(&scored, drawing.failures);
        metrics.extend(penalty);
        if g.sampling_batches > 1 {
            metrics.extend(drawing.named());
        }
        metrics.push(("time/wait_for_data".into(), waited));
        self.record(&rows, &scored, &adv.values, log)?;
        let dead = dead_groups(&scored.scores.total, g.num_generations);
        let completions = scored.completions;
        let window = Window { rows: numbers, completions, advantages: adv.values, dead, used: 0 };
        Ok(Rollout { window, prompts, metrics, seconds: start.elapsed().as_secs_f64() })
    }

    /// Generates and scores completions of a batch of prompts.
    fn draw(&mut self, batch: Batch, log: &mut RunLog) -> Result<Drawn> {
        name_skipped(&batch.skipped);
        let n = self.settings.grpo.num_generations;
        let prompts: Vec<Arc<Prompt>> = batch.prompts.iter().map(|(_, p)| p.clone()).collect();
        let rows: Vec<&Row> = batch.prompts.iter().map(|(r, _)| &self.rows[*r]).collect();
        self.rewards.begin(Progress {
            step: self.state.step as u64,
            max_steps: self.total as u64,
            epoch: self.state.cursor as f64 / self.rows.len() as f64,
        });
        let scored = generate_scored(
            self.workspace,
            &self.rollout,
            self.rewards,
            &rows,
            &prompts,
            Draws {
                per_prompt: n,
                step: self.state.generations,
                first_sample: 0,
                vision_weights: self.workspace.learner(self.state.step).vision_weights,
            },
        )?;
        for f in scored.scores.failures.iter().take(3) {
            log.say(&format!("a reward failed: {}", f.error.one_line()))?;
        }
        for line in self.rewards.notices() {
            log.say(&line)?;
        }
        self.state.cursor = batch.cursor;
        self.state.skipped_rows += batch.skipped.len() as u64;
        self.state.generations += 1;
        let tokens: usize = prompts.iter().map(|p| p.len() * n).sum::<usize>()
            + scored.completions.iter().flatten().map(|c| c.ids.len()).sum::<usize>();
        self.state.num_tokens += tokens as u64;
        Ok(Drawn { prompts: batch.prompts, scored })
    }

    /// Figures of a rollout under TRL's names.
    fn rollout_metrics(&self, scored: &Scored, failures: usize) -> Vec<(String, f64)> {
        let dead = dead_groups(&scored.scores.total, self.settings.grpo.num_generations);
        let all: Vec<_> = scored.completions.iter().flatten().collect();
        let lengths: Vec<f64> = all.iter().map(|c| c.ids.len() as f64).collect();
        let ended: Vec<f64> =
            all.iter().filter(|c| !c.truncated()).map(|c| c.ids.len() as f64).collect();
        // NaN where nothing was judged: no verdict is no 0.
        let (reward, reward_std) = mean_std(&scored.scores.total);
        let min = |v: &[f64]| v.iter().copied().reduce(f64::min).unwrap_or(f64::NAN);
        let max = |v: &[f64]| v.iter().copied().reduce(f64::max).unwrap_or(f64::NAN);
        let mut out: Vec<(String, f64)> = vec![
            ("reward".into(), reward),
            ("reward_std".into(), reward_std),
            (
                "frac_reward_zero_std".into(),
                dead.iter().filter(|d| **d).count() as f64 / dead.len().max(1) as f64,
            ),
        ];
        for (name, column) in self.rewards.names().iter().zip(&scored.scores.per_reward) {
            let (mean, std) = mean_std(column);
            out.push((format!("rewards/{name}/mean"), mean));
            out.push((format!("rewards/{name}/std"), std));
        }
        let repeated: Vec<f64> = all.iter().filter_map(|c| repeated_share(&c.ids)).collect();
        let judged = all.len() * self.rewards.names().len();
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
            ("completions/repetition", mean(&repeated)),
            ("rewards/failed_ratio", scored.scores.failures.len() as f64 / judged.max(1) as f64),
            ("rewards/failed", (scored.scores.failures.len() + failures) as f64),
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
        out.extend(self.rewards.figures());
        for (name, value) in scored.scores.aside.means() {
            // A figure of the user's never mixes with one of ours.
            let taken = out.iter().any(|(n, _)| *n == name);
            out.push((if taken { format!("logged/{name}") } else { name }, value));
        }
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
        if log.is_due(step) || step + updates > self.total {
            log.write(batch.completions(&self.settings.output.run_dir))?;
            for line in batch.printed(logging.print_completions, logging.unique_prompts) {
                log.say(&line)?;
            }
            if log.wants_histograms() {
                batch.histograms().into_iter().try_for_each(|h| log.write(h))?;
            }
        }
        Ok(())
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
        for (name, value) in &report.figures {
            row.push(format!("eval_{name}"), *value);
        }
        row.push("eval_completions/mean_length", report.mean_length);
        row.push("eval_runtime", report.seconds);
        log.log(row)
    }
}
