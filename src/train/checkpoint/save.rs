//! Writing a checkpoint: into a hidden folder that is renamed when everything in it is on the disk.
//! What was saved before is not touched until then, and a failed attempt leaves nothing.

use super::state::{Best, RunState};
use super::sums::write_sums;
use super::{OPTIMIZER, REFERENCE, STATE, TRAINER, remove_oldest};
use crate::base::{Error, Result};
use crate::io::safetensors::TensorSpec;
use crate::io::{atomic, safetensors};
use crate::mem::{Arena, Region};
use crate::model::params::{Param, ParamStore, streamed};
use crate::model::vlm::Vlm;
use crate::track::{MetricRow, json_row};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Where checkpoints go, and how many of them stay.
#[derive(Debug, Clone, Copy)]
pub struct Shelf<'a> {
    /// The run's folder.
    pub run_dir: &'a Path,
    /// Steps of the whole run.
    pub max_steps: usize,
    /// Passes over the data so far.
    pub epoch: f64,
    /// The oldest beyond so many are removed.
    pub keep: Option<usize>,
    /// The model alone: nothing that a run could be continued from.
    pub only_model: bool,
    /// A reference that is saved, too: one that no longer is what the run began with.
    pub reference: Option<&'a ParamStore>,
}

impl Shelf<'_> {
    /// The folder of a step.
    pub fn folder(&self, step: usize) -> PathBuf {
        self.run_dir.join(format!("checkpoint-{step}"))
    }
}

/// Writes `checkpoint-<step>` into the run's folder and removes the oldest beyond those that stay.
///
/// # Errors
/// If a file cannot be written; nothing is left of the attempt then.
pub fn save(
    shelf: &Shelf,
    model: &Vlm,
    arena: &Arena,
    state: &RunState,
    history: &[MetricRow],
) -> Result<PathBuf> {
    let target = shelf.folder(state.step);
    let part = shelf.run_dir.join(format!(".checkpoint-{}.part", state.step));
    let write = || -> Result<()> {
        if part.exists() {
            std::fs::remove_dir_all(&part).map_err(|e| Error::io("cannot clear", &part, &e))?;
        }
        std::fs::create_dir_all(&part).map_err(|e| Error::io("cannot create", &part, &e))?;
        save_model(&part, model, arena)?;
        let trainer = trainer_state(shelf, state, history);
        let text = serde_json::to_string_pretty(&trainer).expect("a JSON value prints");
        atomic::write_atomic(part.join(TRAINER), text.as_bytes())?;
        if !shelf.only_model {
            save_optimizer(&part, shelf, model, arena)?;
            save_state(&part, state)?;
        }
        write_sums(&part, &names(&part)?)?;
        atomic::commit_dir(&part, &target)
    };
    if let Err(e) = write() {
        // The error that matters is the first one; what cannot be removed is only litter.
        let _ = std::fs::remove_dir_all(&part);
        return Err(e.at(format!("checkpoint of step {}", state.step)));
    }
    if let Some(keep) = shelf.keep {
        remove_oldest(shelf.run_dir, keep, state.step, state.best.map(|b| b.step))?;
    }
    Ok(target)
}

/// Writes the model, or its adapter, as a folder that loads in the usual tools.
///
/// # Errors
/// If a file cannot be written.
pub fn save_model(dir: &Path, model: &Vlm, arena: &Arena) -> Result<()> {
    let adapter = model.params.lora().is_some();
    if adapter {
        model.save_adapter(dir, arena)?;
    } else {
        model.save_weights(dir, arena)?;
    }
    model.copy_companions(dir, !adapter)
}

fn save_optimizer(part: &Path, shelf: &Shelf, model: &Vlm, arena: &Arena) -> Result<()> {
    let moments = moments(model);
    let (specs, fetch) = streamed(arena, &moments);
    safetensors::save_with(part.join(OPTIMIZER), &specs, &Default::default(), fetch)?;
    let Some(reference) = shelf.reference else { return Ok(()) };
    let kept = reference_tensors(model, reference)?;
    let (specs, fetch) = streamed(arena, &kept);
    safetensors::save_with(part.join(REFERENCE), &specs, &Default::default(), fetch)
}

/// The state, which names all files: a list of checksums that lost its end is noticed by it.
fn save_state(part: &Path, state: &RunState) -> Result<()> {
    let mut files = names(part)?;
    files.push(STATE.into());
    files.sort();
    let text = serde_json::to_string(&RunState { files, ..state.clone() });
    atomic::write_atomic(part.join(STATE), text.expect("a state prints").as_bytes())
}

/// Names of the files in a folder, sorted.
fn names(dir: &Path) -> Result<Vec<String>> {
    let wrong = |e: std::io::Error| Error::io("cannot read the folder", dir, &e);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(wrong)? {
        let name = entry.map_err(wrong)?.file_name().into_string();
        names.push(name.map_err(|_| Error::internal("a checkpoint's file has no proper name"))?);
    }
    names.sort();
    Ok(names)
}

/// What the optimizer keeps of every trained parameter.
fn moments(model: &Vlm) -> Vec<(TensorSpec, Region)> {
    let mut out = Vec::new();
    for p in model.params.trained() {
        let Some([m, v]) = p.moments else { continue };
        let kept = [("exp_avg", Some(m)), ("exp_avg_sq", Some(v)), ("master", p.master)];
        for (kind, region) in kept {
            let Some(region) = region else { continue };
            let name = format!("{kind}.{}", p.name);
            out.push((TensorSpec { name, dtype: region.dtype, shape: p.shape.clone() }, region));
        }
    }
    out
}

/// The tensors of a reference that are its own.
pub(super) fn reference_tensors(
    model: &Vlm,
    reference: &ParamStore,
) -> Result<Vec<(TensorSpec, Region)>> {
    let own = |p: &Param| -> Result<(TensorSpec, Region)> {
        let region = reference.need(&p.name)?.place.value;
        let (name, shape) = (p.name.clone(), p.shape.clone());
        Ok((TensorSpec { name, dtype: region.dtype, shape }, region))
    };
    model.params.trained().map(own).collect()
}

/// `trainer_state.json` with the keys of transformers' `TrainerState`.
fn trainer_state(shelf: &Shelf, state: &RunState, history: &[MetricRow]) -> Value {
    let log: Vec<Value> = history.iter().map(|row| Value::Object(json_row(row))).collect();
    // As transformers does it, the best step counts as a checkpoint only if there is one.
    let folder = |best: Best| {
        let there = best.step == state.step || shelf.folder(best.step).is_dir();
        there.then(|| shelf.folder(best.step).display().to_string())
    };
    json!({
        "best_global_step": state.best.map(|b| b.step),
        "best_metric": state.best.map(|b| b.metric),
        "best_model_checkpoint": state.best.and_then(folder),
        "epoch": shelf.epoch,
        "global_step": state.step,
        "is_hyper_param_search": false,
        "is_local_process_zero": true,
        "is_world_process_zero": true,
        "log_history": log,
        "max_steps": shelf.max_steps,
        "num_input_tokens_seen": state.num_tokens,
        "total_flos": 0,
        "trial_name": null,
        "trial_params": null,
        "stateful_callbacks": {},
    })
}
