//! `grpo-rt sft`: supervised warm start on the reference answers, since a model that never emits
//! the format earns no reward. Loss on the answer and its end of turn only.

use crate::base::Result;
use crate::grpo::optim::{optimizer_step, zero_gradients};
use crate::grpo::pack::{TrainCompletion, TrainGroup, micro_batches, pack};
use crate::grpo::update::{MicroResult, supervised_micro_batch};
use crate::ops::linear_logprob::HeadSettings;
use crate::train::checkpoint::{self, RunState, Shelf};
use crate::train::evaluate::{load_rows, name_skipped};
use crate::train::fit;
use crate::train::interrupt;
use crate::train::options::Options;
use crate::train::runlog::{RunLog, open_run_dir};
use crate::train::settings::{SftSettings, check_paths};
use crate::train::step::{
    check_rates, dropout, memory_metrics, optimizer_settings, rate_metrics, schedule,
};
use crate::train::stream::{RowOrder, prefetch};
use crate::train::trainable::trainable_table;
use crate::train::workspace::Prepared;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Runs the command; returns the run's folder.
///
/// # Errors
/// If options, model or data are wrong, memory is too small, or a file cannot be written.
pub fn sft(options: &Options) -> Result<PathBuf> {
    let s = SftSettings::from_options(options)?;
    check_paths(options)?;
    interrupt::watch();
    let resume = open_run_dir(&s.output)?;
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
    let total = t.length.steps(rows.len().div_ceil(per_step));
    let mut state = match &resume {
        Some(dir) => checkpoint::load(dir, &w.model, &mut w.arena)?,
        None => RunState { skipped_rows: loaded.skipped_rows as u64, ..RunState::default() },
    };
    let dir = &s.output.run_dir;
    let resumed = resume.is_some().then_some(state.step);
    let mut log = RunLog::open(options, dir, &s.logging, total, resumed)?;
    log.describe_model(&s.model.path)?;
    let (schedule, optimizer) = (schedule(t, total), optimizer_settings(t));
    let head = Arc::new(HeadSettings { temperature: 1.0, forbidden: w.forbidden_tokens() });
    let w = &w;
    let order = RowOrder::new(rows.len(), t.seed, s.data.shuffle);
    let stopped = std::thread::scope(|scope| -> Result<bool> {
        let batches =
            prefetch(scope, &rows, &w.encoder, order, state.cursor, per_step, s.data.strict);
        while state.step < total {
            let start = Instant::now();
            let batch = batches.recv().expect("the stream ends only with an error")?;
            let waited = start.elapsed().as_secs_f64();
            name_skipped(&batch.skipped);
            let mut groups = Vec::with_capacity(batch.prompts.len());
            for (i, (row, prompt)) in batch.prompts.iter().enumerate() {
                let ids = w.encoder.chat.encode_answer(&rows[*row].answer)?;
                let completion = TrainCompletion {
                    ids,
                    advantage: 1.0,
                    sample: i as u32,
                    ..TrainCompletion::default()
                };
                groups.push(TrainGroup { prompt: prompt.clone(), completions: vec![completion] });
            }
            let answer: usize = groups.iter().map(|g| g.completions[0].ids.len()).sum();
            for g in &mut groups {
                g.completions[0].weight = 1.0 / answer as f32;
            }
            state.num_tokens += groups.iter().map(|g| g.rows() as u64 + 1).sum::<u64>();
            zero_gradients(&w.model.params, &w.arena)?;
            let mut sum = MicroResult::default();
            let drop = dropout(&training, t.seed, state.step);
            for micro in micro_batches(groups, t.micro_batch_tokens) {
                let r = supervised_micro_batch(
                    &w.learner(state.step),
                    &pack(&micro),
                    &head,
                    drop,
                    t.recompute,
                )?;
                sum.loss += r.loss;
                sum.entropy.extend(r.entropy);
                sum.recomputed += r.recomputed;
                sum.train_seconds += r.train_seconds;
            }
            let rates = schedule.rates(state.step);
            let begin = Instant::now();
            let norm =
                optimizer_step(&w.model.params, &w.arena, &optimizer, rates, state.step + 1)?;
            let updated = begin.elapsed().as_secs_f64();
            state.step += 1;
            state.cursor = batch.cursor;
            state.skipped_rows += batch.skipped.len() as u64;
            let entropy = sum.entropy.iter().map(|&e| f64::from(e)).sum::<f64>()
                / sum.entropy.len().max(1) as f64;
            let mut values: Vec<(String, f64)> = vec![
                ("loss".into(), sum.loss),
                ("grad_norm".into(), norm),
                ("entropy".into(), entropy),
                ("num_tokens".into(), state.num_tokens as f64),
                ("step_time".into(), start.elapsed().as_secs_f64()),
                ("time/wait_for_data".into(), waited),
                ("time/forward_backward".into(), sum.train_seconds),
                ("time/optimizer".into(), updated),
                ("perf/recomputed_gflop".into(), sum.recomputed * 1e-9),
                ("data/skipped_rows".into(), state.skipped_rows as f64),
            ];
            values.splice(2..2, rate_metrics(t, rates));
            values.extend(memory_metrics(w));
            let last = state.step == total;
            let epoch = state.cursor as f64 / rows.len() as f64;
            log.step(state.step, epoch, values, last)?;
            let due = s.output.save_steps.is_some_and(|n| state.step.is_multiple_of(n));
            let stop = (interrupt::asked() || log.stop_reason().is_some()) && !last;
            if due || last || stop {
                let keep = s.output.save_total_limit;
                log.flush()?;
                let shelf = Shelf { run_dir: dir, max_steps: total, keep, reference: None };
                checkpoint::save(&shelf, &w.model, &w.arena, &state, &log.history)?;
            }
            if stop {
                return Ok(true);
            }
        }
        Ok(false)
    })?;
    if !stopped {
        checkpoint::save_model(dir, &w.model, &w.arena)?;
        log.summarise(total, per_step)?;
    }
    let alert = log.stop_reason().cloned();
    log.finish()?;
    if stopped {
        return Err(interrupt::stopped(alert.as_ref(), &dir.display().to_string()));
    }
    Ok(dir.clone())
}
