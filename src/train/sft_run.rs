//! `grpo-rt sft`: supervised warm start on the reference answers, since a model that never emits
//! the format earns no reward. Loss on the answer and its end of turn only.

use crate::base::{Error, ErrorKind, Result};
use crate::grpo::optim::{OptimizerSettings, optimizer_step, zero_gradients};
use crate::grpo::pack::{TrainCompletion, TrainGroup, micro_batches, pack};
use crate::grpo::schedule::Schedule;
use crate::grpo::update::{MicroResult, supervised_micro_batch};
use crate::io::dataset::Row;
use crate::model::params::Training;
use crate::ops::linear_logprob::HeadSettings;
use crate::options::Options;
use crate::publish;
use crate::settings::{SftSettings, check_paths};
use crate::train::checkpoint::{self, RunState, Shelf};
use crate::train::fit;
use crate::train::interrupt;
use crate::train::rows::{load_rows, name_skipped};
use crate::train::run_dir::open_run_dir;
use crate::train::run_file::{self, Session};
use crate::train::runlog::RunLog;
use crate::train::step::{
    check_rates, dropout, memory_metrics, optimizer_settings, rate_metrics, schedule,
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
pub fn sft(options: &Options) -> Result<PathBuf> {
    run_file::recorded(|session| sft_session(options, session))
}

fn sft_session(options: &Options, session: &mut Session) -> Result<PathBuf> {
    let s = SftSettings::from_options(options)?;
    check_paths(options)?;
    interrupt::watch();
    let opened = open_run_dir(options, &s.output, session)?;
    publish::check(s.hub.as_ref(), &s.output.run_dir)?;
    let loaded = load_rows(&s.data)?;
    let rows = loaded.rows;
    let t = &s.training;
    let mut prepared = Prepared::read(&s.model, &s.machine)?;
    prepared.bound_prompts(s.data.max_prompt_length, 1)?;
    fit::check_sft(options, &prepared, &rows)?;
    let training = prepared.training.clone();
    let mut w = prepared.open(&s.model, &s.machine, t.seed)?;
    if s.logging.print_trainable {
        eprint!("{}", trainable_table(&w.model.params));
    }
    check_rates(t, &w.model.params)?;
    let per_step = t.batch_size * t.gradient_accumulation_steps;
    let per_epoch = rows.len().div_ceil(per_step);
    let total = t.length.steps(per_epoch);
    let resumed = match &opened.from {
        Some(dir) => Some(checkpoint::load(dir, &w.model, &mut w.arena)?),
        None => None,
    };
    let dir = s.output.run_dir.clone();
    let mut log = RunLog::open(options, &dir, &s.logging, total, resumed.as_ref(), opened.anew)?;
    log.describe_model(&s.model.path)?;
    let skipped_rows = loaded.skipped_rows as u64;
    let head = HeadSettings { temperature: 1.0, forbidden: w.forbidden_tokens() };
    let mut run = SftRun {
        settings: &s,
        training: &training,
        workspace: &w,
        rows: &rows,
        head: Arc::new(head),
        schedule: schedule(t, total),
        optimizer: optimizer_settings(t),
        total,
        per_epoch,
        saved: resumed.as_ref().map(|r| r.state.step),
        state: match resumed {
            Some(resumed) => RunState { pending: Vec::new(), ..resumed.state },
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
    checkpoint::save_model(&dir, &w.model, &w.arena)?;
    log.summarise(total, per_step)?;
    log.finish()?;
    publish::finish(&dir, s.hub.as_ref())?;
    Ok(dir)
}

/// A run in progress.
struct SftRun<'a> {
    settings: &'a SftSettings,
    training: &'a Training,
    workspace: &'a Workspace,
    rows: &'a [Row],
    head: Arc<HeadSettings>,
    schedule: Schedule,
    optimizer: OptimizerSettings,
    /// Optimizer steps of the run.
    total: usize,
    /// Optimizer steps of an epoch.
    per_epoch: usize,
    /// Step of the checkpoint that was saved last.
    saved: Option<usize>,
    state: RunState,
}

impl SftRun<'_> {
    /// Trains to the end, or until the user asks to stop (true).
    fn run(&mut self, log: &mut RunLog) -> Result<bool> {
        let (s, t) = (self.settings, &self.settings.training);
        let order = RowOrder::new(self.rows.len(), t.data_seed, s.data.shuffle);
        let (rows, encoder, cursor) = (self.rows, &self.workspace.encoder, self.state.cursor);
        let n = t.batch_size * t.gradient_accumulation_steps;
        std::thread::scope(|scope| {
            let batches = prefetch(scope, rows, encoder, order, cursor, n, s.data.strict);
            match self.steps(&batches, log) {
                Err(e) if e.kind() == ErrorKind::Interrupted => {
                    if self.state.step > 0 {
                        self.save(log)?;
                    }
                    Ok(true)
                }
                ended => ended.map(|()| false),
            }
        })
    }

    /// Trains to the end. A step that it is stopped in is as if it had not begun.
    fn steps(&mut self, batches: &Receiver<Result<Batch>>, log: &mut RunLog) -> Result<()> {
        loop {
            if self.settings.output.save.due(self.state.step, self.per_epoch, self.total) {
                self.save(log)?;
            }
            if self.state.step >= self.total {
                return Ok(());
            }
            log.check()?;
            let start = Instant::now();
            let batch = batches.recv().map_err(|_| ended())??;
            self.update(batch, start, log)?;
        }
    }

    /// One optimizer step.
    fn update(&mut self, batch: Batch, start: Instant, log: &mut RunLog) -> Result<()> {
        let waited = start.elapsed().as_secs_f64();
        let (w, t) = (self.workspace, &self.settings.training);
        name_skipped(&batch.skipped);
        let groups = self.groups(&batch)?;
        let tokens = groups.iter().map(|g| g.rows() as u64 + 1).sum::<u64>();
        zero_gradients(&w.model.params, &w.arena)?;
        let mut sum = MicroResult::default();
        let drop = dropout(self.training, t.seed, self.state.step);
        let learner = w.learner(self.state.step);
        for micro in micro_batches(groups, t.micro_batch_tokens) {
            interrupt::check()?;
            let packed = pack(&micro);
            let r = supervised_micro_batch(&learner, &packed, &self.head, drop, t.recompute)?;
            sum.loss += r.loss;
            sum.entropy.extend(r.entropy);
            sum.recomputed += r.recomputed;
            sum.train_seconds += r.train_seconds;
        }
        let rates = self.schedule.rates(self.state.step);
        let begin = Instant::now();
        let norm =
            optimizer_step(&w.model.params, &w.arena, &self.optimizer, rates, self.state.step + 1)?;
        let updated = begin.elapsed().as_secs_f64();
        self.state.step += 1;
        self.state.num_tokens += tokens;
        self.state.cursor = batch.cursor;
        self.state.skipped_rows += batch.skipped.len() as u64;
        let entropy = sum.entropy.iter().map(|&e| f64::from(e)).sum::<f64>()
            / sum.entropy.len().max(1) as f64;
        let mut values: Vec<(String, f64)> = vec![
            ("loss".into(), sum.loss),
            ("grad_norm".into(), norm),
            ("entropy".into(), entropy),
            ("num_tokens".into(), self.state.num_tokens as f64),
            ("step_time".into(), start.elapsed().as_secs_f64()),
            ("time/wait_for_data".into(), waited),
            ("time/forward_backward".into(), sum.train_seconds),
            ("time/optimizer".into(), updated),
            ("perf/recomputed_gflop".into(), sum.recomputed * 1e-9),
            ("data/skipped_rows".into(), self.state.skipped_rows as f64),
        ];
        values.splice(2..2, rate_metrics(t, rates));
        values.extend(memory_metrics(w));
        log.step(self.state.step, self.epoch(), values, self.state.step == self.total)?;
        Ok(())
    }

    /// The answers of a batch, each token of them weighing the same.
    fn groups(&self, batch: &Batch) -> Result<Vec<TrainGroup>> {
        let chat = &self.workspace.encoder.chat;
        let mut groups = Vec::with_capacity(batch.prompts.len());
        for (i, (row, prompt)) in batch.prompts.iter().enumerate() {
            let completion = TrainCompletion {
                ids: chat.encode_answer(&self.rows[*row].answer)?,
                advantage: 1.0,
                sample: i as u32,
                ..TrainCompletion::default()
            };
            groups.push(TrainGroup { prompt: prompt.clone(), completions: vec![completion] });
        }
        let tokens: usize = groups.iter().map(|g| g.completions[0].ids.len()).sum();
        for g in &mut groups {
            g.completions[0].weight = 1.0 / tokens as f32;
        }
        Ok(groups)
    }

    /// Passes over the data so far.
    fn epoch(&self) -> f64 {
        self.state.cursor as f64 / self.rows.len() as f64
    }

    /// Writes a checkpoint, unless there is one of this step.
    fn save(&mut self, log: &mut RunLog) -> Result<()> {
        if self.saved == Some(self.state.step) {
            return Ok(());
        }
        let (s, w) = (self.settings, self.workspace);
        let shelf = Shelf {
            run_dir: &s.output.run_dir,
            max_steps: self.total,
            epoch: self.epoch(),
            keep: s.output.save_total_limit,
            only_model: s.output.save_only_model,
            reference: None,
        };
        log.flush()?;
        let state = RunState { pending: log.pending(), ..self.state.clone() };
        checkpoint::save(&shelf, &w.model, &w.arena, &state, &log.history)?;
        self.saved = Some(self.state.step);
        Ok(())
    }
}

fn ended() -> Error {
    Error::internal("the stream of rows ended without an error")
}
