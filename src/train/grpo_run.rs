//! `grpo-rt train`: rollout, rewards, advantages, updates, over and over. One call of [`train`] is
//! one session of a run; the arithmetic lives in `grpo`, the files in `runlog` and `checkpoint`.

mod between; // what is done between two optimizer steps
mod figures; // what is told of completions
mod measure; // evaluation while a run goes on
mod resample; // groups that teach nothing, replaced
mod slice; // what an optimizer step trains on
mod update; // an optimizer step

use crate::base::{Error, ErrorKind, Result};
use crate::grpo::advantage::{advantages, decoupled_advantages};
use crate::grpo::optim::OptimizerSettings;
use crate::grpo::schedule::Schedule;
use crate::io::dataset::Row;
use crate::model::params::{ParamStore, Training};
use crate::model::prompt::Prompt;
use crate::options::Options;
use crate::publish;
use crate::reward::{Progress, RewardSet};
use crate::rollout::Completion;
use crate::settings::{TrainSettings, check_paths};
use crate::train::checkpoint::{self, Loaded, RunState, Window};
use crate::train::fit;
use crate::train::generation::{
    Draws, RolloutSettings, Scored, generate_scored, reward_set, rollout_settings,
};
use crate::train::interrupt;
use crate::train::record;
use crate::train::rows::{load_rows, name_skipped, split_rows};
use crate::train::run_dir::open_run_dir;
use crate::train::run_file::{self, Session};
use crate::train::runlog::RunLog;
use crate::train::step::{
    check_rates, needs_frozen_copy, optimizer_settings, schedule, updates_per_generation,
};
use crate::train::stream::{Batch, RowOrder, prefetch};
use crate::train::trainable::trainable_table;
use crate::train::workspace::{Prepared, Workspace};
use figures::{Named, rollout_figures};
use measure::{check_best, measured_rows};
use resample::{Drawn, Pool, dead_groups};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Instant;

/// Runs the command; returns the run's folder.
///
/// # Errors
/// If options, model or data are wrong, memory is too small, or a file cannot be written.
pub fn train(options: &Options) -> Result<PathBuf> {
    run_file::recorded(|session| train_session(options, session))
}

fn train_session(options: &Options, session: &mut Session) -> Result<PathBuf> {
    let s = TrainSettings::from_options(options)?;
    check_paths(options)?;
    interrupt::watch();
    let mut prepared = Prepared::read(&s.model, &s.machine)?;
    let limit = s.sampling.max_completion_length;
    let rewards = reward_set(&s.rewards, limit, prepared.config.family)?;
    check_best(s.output.best.as_ref(), &rewards, s.validation.num_generations)?;
    let opened = open_run_dir(options, &s.output, session)?;
    publish::check(s.hub.as_ref(), &s.output.run_dir)?;
    let loaded = load_rows(&s.data)?;
    let seed = s.training.seed;
    let eval_rows = s.eval_data.as_ref().map(load_rows).transpose()?.map(|l| l.rows);
    let (rows, eval_rows) = match s.data.val_split_ratio {
        0.0 => (loaded.rows, eval_rows.unwrap_or_default()),
        ratio => split_rows(loaded.rows, ratio, seed)?,
    };
    let eval_rows = measured_rows(&eval_rows, &s.validation);
    prepared.bound_prompts(s.data.max_prompt_length, limit)?;
    fit::check_grpo(options, &prepared, &rows, eval_rows)?;
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
    let resumed = match &opened.from {
        Some(dir) => Some(take_up(dir, &s, &mut w, frozen.as_ref(), rows.len())?),
        None => None,
    };
    let updates = updates_per_generation(&s);
    let per_epoch = (rows.len() / s.grpo.prompts_per_generation).max(1) * updates;
    let total = s.training.length.steps(per_epoch);
    let dir = s.output.run_dir.clone();
    let mut log = RunLog::open(options, &dir, &s.logging, total, resumed.as_ref(), opened.anew)?;
    log.describe_model(&s.model.path)?;
    let rollout = rollout_settings(&w, &s.sampling, seed);
    let skipped_rows = loaded.skipped_rows as u64;
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
        eval_rows,
        total,
        per_epoch,
        saved: resumed.as_ref().map(|r| (r.state.step, r.state.recorded() > r.state.step)),
        current: None,
        state: match resumed {
            Some(resumed) => resumed.state,
            None => RunState { skipped_rows, ..RunState::default() },
        },
    };
    if run.run(&mut log)? {
        let saved = run.saved.is_some();
        let alert = log.stop_reason().cloned();
        log.finish()?;
        return Err(match alert {
            Some(alert) => interrupt::alarmed(&alert, &dir),
            None => interrupt::of_run(&dir, saved, s.output.save_only_model),
        });
    }
    if let Some(best) = run.best_folder()? {
        log.say(&format!("the model is that of {}", best.display()))?;
        checkpoint::verify(&best)?;
        checkpoint::load_model(&best, &w.model, &mut w.arena)?;
    }
    checkpoint::save_model(&dir, &w.model, &w.arena)?;
    log.summarise(total, s.training.batch_size * s.training.gradient_accumulation_steps)?;
    log.finish()?;
    publish::finish(&dir, s.hub.as_ref())?;
    Ok(dir)
}

/// Loads a checkpoint and sees whether it is one of this run.
fn take_up(
    dir: &Path,
    s: &TrainSettings,
    w: &mut Workspace,
    frozen: Option<&ParamStore>,
    rows: usize,
) -> Result<Loaded> {
    if let (Some(_), Some(reference)) = (s.grpo.sync, frozen) {
        checkpoint::load_reference(dir, &w.model, reference, &mut w.arena)?;
    }
    let loaded = checkpoint::load(dir, &w.model, &mut w.arena)?;
    if let Some(window) = &loaded.state.window {
        let vocabulary = w.model.config.text.vocab_size;
        check_window(window, s, rows, vocabulary).map_err(|e| e.file(dir))?;
    }
    Ok(loaded)
}

/// Refuses completions of a checkpoint that are not of this run's groups and rows.
fn check_window(w: &Window, s: &TrainSettings, rows: usize, vocabulary: usize) -> Result<()> {
    let (prompts, n) = (s.grpo.prompts_per_generation, s.grpo.num_generations);
    let whole = |c: &Completion| {
        !c.ids.is_empty()
            && c.ids.len() == c.logps.len()
            && (c.statistics.is_empty() || c.statistics.len() == c.ids.len())
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
    /// Rows on which rewards are measured; none if that is not asked.
    eval_rows: &'a [Row],
    rollout: RolloutSettings,
    schedule: Schedule,
    optimizer: OptimizerSettings,
    /// Optimizer steps of the run.
    total: usize,
    /// Optimizer steps of an epoch.
    per_epoch: usize,
    /// Completions that are being trained on.
    current: Option<Rollout>,
    /// The checkpoint that was saved last: its step, and whether completions came with it that no
    /// step had been taken on.
    saved: Option<(usize, bool)>,
    /// Where the run stands; `window` and `pending` are filled in when it is saved.
    state: RunState,
}

impl<'a> GrpoRun<'a> {
    /// Trains to the end, or until the user asks to stop (true).
    fn run(&mut self, log: &mut RunLog) -> Result<bool> {
        let s = self.settings;
        let order = RowOrder::new(self.rows.len(), s.training.data_seed, s.data.shuffle);
        let (rows, encoder) = (self.rows, &self.workspace.encoder);
        let (cursor, n) = (self.state.cursor, s.grpo.prompts_per_generation);
        std::thread::scope(|scope| {
            let batches = prefetch(scope, rows, encoder, order, cursor, n, s.data.strict);
            self.reopen_window()?;
            match self.steps(&batches, log) {
                Err(e) if e.kind() == ErrorKind::Interrupted => {
                    self.save_stopped(log)?;
                    Ok(true)
                }
                ended => ended.map(|()| false),
            }
        })
    }

    /// Trains to the end. Whatever it is stopped in is as if it had not begun.
    fn steps(&mut self, batches: &Receiver<Result<Batch>>, log: &mut RunLog) -> Result<()> {
        let updates = updates_per_generation(self.settings);
        loop {
            self.between_steps(log)?;
            if self.state.step >= self.total {
                return Ok(());
            }
            log.check()?;
            let mut rollout = match self.current.take() {
                Some(rollout) => rollout,
                None => {
                    let before = self.state.clone();
                    let drawn = self.next_rollout(batches, log);
                    drawn.inspect_err(|_| self.state = before)?
                }
            };
            let updated = self.update(&mut rollout, log);
            self.current = (rollout.window.used < updates).then_some(rollout);
            updated?;
        }
    }

    /// The completions that a checkpoint was in the middle of.
    fn reopen_window(&mut self) -> Result<()> {
        self.state.pending = Vec::new();
        let Some(mut window) = self.state.window.take() else { return Ok(()) };
        let encode = |&r: &usize| self.workspace.encoder.encode_row(&self.rows[r]).map(Arc::new);
        let prompts = window.rows.iter().map(encode).collect::<Result<_>>()?;
        let metrics = std::mem::take(&mut window.metrics);
        let metrics = metrics.into_iter().map(|(name, value)| (name, value.0)).collect();
        let seconds = window.seconds;
        self.current = Some(Rollout { window, prompts, metrics, seconds });
        Ok(())
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
        let mut metrics: Named =
            rollout_figures(&scored, self.rewards, g.num_generations, drawing.failures);
        metrics.extend(penalty);
        if g.sampling_batches > 1 {
            metrics.extend(drawing.named());
        }
        metrics.push(("time/wait_for_data".into(), waited));
        self.record(&rows, &scored, &adv.values, log)?;
        let dead = dead_groups(&scored.scores.total, g.num_generations);
        let completions = scored.completions;
        let advantages = adv.values;
        let window = Window { rows: numbers, completions, advantages, dead, ..Window::default() };
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
}
