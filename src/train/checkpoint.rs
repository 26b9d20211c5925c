//! Checkpoints: the model in the field's files, the trainer's state in Hugging Face's keys, and
//! what an exact continuation needs in files of our own. A checkpoint is there in full or not at all.

use crate::base::{Error, Result};
use crate::grpo::control::EntropyState;
use crate::io::atomic;
use crate::io::safetensors::{self, Checkpoint, TensorSpec};
use crate::mem::{Arena, Region};
use crate::model::params::{Param, ParamStore, streamed, write_values};
use crate::model::vlm::Vlm;
use crate::rollout::Completion;
use crate::train::sinks::MetricRow;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Our own file beside the usual ones.
const STATE: &str = "grpo_rt_state.json";
/// Moments of AdamW by canonical parameter name.
const OPTIMIZER: &str = "grpo_rt_optimizer.safetensors";

/// A reference that follows the policy, by canonical parameter name.
const REFERENCE: &str = "grpo_rt_reference.safetensors";

/// Where a run stands between two optimizer steps.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    /// Optimizer steps done.
    pub step: usize,
    /// Rows of the data set consumed.
    pub cursor: usize,
    /// Prompt and completion tokens seen.
    pub num_tokens: u64,
    /// Rows passed over.
    pub skipped_rows: u64,
    /// Rollouts done.
    pub generations: u32,
    /// Weight of the KL, where it follows the KL.
    #[serde(default)]
    pub beta: Option<f64>,
    /// Reward of entropy, where it follows the entropy.
    #[serde(default)]
    pub entropy: Option<EntropyState>,
    /// Completions that are still being trained on.
    pub window: Option<Window>,
}

/// Completions of one rollout and how far they have been used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// Rows of the prompts.
    pub rows: Vec<usize>,
    /// Completions of each prompt.
    pub completions: Vec<Vec<Completion>>,
    /// Advantage of each completion, group after group.
    pub advantages: Vec<f64>,
    /// Whether the rewards of each group were all equal; empty in old checkpoints.
    #[serde(default)]
    pub dead: Vec<bool>,
    /// Optimizer steps already taken on them.
    pub used: usize,
}

/// Where checkpoints go, and how many of them stay.
#[derive(Debug, Clone, Copy)]
pub struct Shelf<'a> {
    /// The run's folder.
    pub run_dir: &'a Path,
    /// Steps of the whole run.
    pub max_steps: usize,
    /// The oldest beyond so many are removed.
    pub keep: Option<usize>,
    /// A reference that is saved, too: one that no longer is what the run began with.
    pub reference: Option<&'a ParamStore>,
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
    let (run_dir, max_steps, keep) = (shelf.run_dir, shelf.max_steps, shelf.keep);
    let name = format!("checkpoint-{}", state.step);
    let part = run_dir.join(format!(".{name}.part"));
    let target = run_dir.join(&name);
    let write = || -> Result<()> {
        if part.exists() {
            std::fs::remove_dir_all(&part).map_err(|e| Error::io("cannot clear", &part, &e))?;
        }
        std::fs::create_dir_all(&part).map_err(|e| Error::io("cannot create", &part, &e))?;
        save_model(&part, model, arena)?;
        let moments = moments(model);
        let (specs, fetch) = streamed(arena, &moments);
        safetensors::save_with(part.join(OPTIMIZER), &specs, &Default::default(), fetch)?;
        if let Some(reference) = shelf.reference {
            let kept = reference_tensors(model, reference)?;
            let (specs, fetch) = streamed(arena, &kept);
            safetensors::save_with(part.join(REFERENCE), &specs, &Default::default(), fetch)?;
        }
        let text = serde_json::to_string(state).expect("a state prints");
        atomic::write_atomic(part.join(STATE), text.as_bytes())?;
        let text = serde_json::to_string_pretty(&trainer_state(state, history, max_steps))
            .expect("a JSON value prints");
        atomic::write_atomic(part.join("trainer_state.json"), text.as_bytes())?;
        atomic::commit_dir(&part, &target)
    };
    if let Err(e) = write() {
        // The error that matters is the first one; what cannot be removed is only litter.
        let _ = std::fs::remove_dir_all(&part);
        return Err(e.at(format!("checkpoint of step {}", state.step)));
    }
    if let Some(keep) = keep {
        let all = list(run_dir)?;
        for (_, old) in &all[..all.len().saturating_sub(keep.max(1))] {
            std::fs::remove_dir_all(old)
                .map_err(|e| Error::io("cannot remove an old checkpoint", old, &e))?;
        }
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
fn reference_tensors(model: &Vlm, reference: &ParamStore) -> Result<Vec<(TensorSpec, Region)>> {
    let own = |p: &Param| -> Result<(TensorSpec, Region)> {
        let region = reference.need(&p.name)?.place.value;
        let (name, shape) = (p.name.clone(), p.shape.clone());
        Ok((TensorSpec { name, dtype: region.dtype, shape }, region))
    };
    model.params.trained().map(own).collect()
}

/// Puts the saved reference of a checkpoint into its places.
///
/// # Errors
/// If the checkpoint has none, or one of another run.
pub fn load_reference(
    dir: &Path,
    model: &Vlm,
    reference: &ParamStore,
    arena: &mut Arena,
) -> Result<()> {
    let file = Checkpoint::open(dir.join(REFERENCE)).map_err(|e| {
        e.hint("the run of this checkpoint had no sync_ref_model; use the same options")
    })?;
    for (spec, region) in reference_tensors(model, reference)? {
        let (shape, values) = file.read_f32(&spec.name)?;
        if shape != spec.shape {
            return Err(Error::data("the checkpoint's reference has another shape")
                .file(dir)
                .tensor(&spec.name)
                .expected(format!("{:?}", spec.shape))
                .found(format!("{shape:?}"))
                .hint("resume with the options of the run"));
        }
        write_values(arena, region, &values)?;
    }
    Ok(())
}

/// `trainer_state.json` with the keys of transformers' `TrainerState`.
fn trainer_state(state: &RunState, history: &[MetricRow], max_steps: usize) -> Value {
    let log: Vec<Value> = history
        .iter()
        .map(|row| {
            let mut entry = serde_json::Map::new();
            entry.insert("step".into(), row.step.into());
            entry.insert("epoch".into(), row.epoch.into());
            for (name, value) in &row.values {
                entry.insert(name.clone(), json!(value));
            }
            Value::Object(entry)
        })
        .collect();
    json!({
        "best_global_step": null,
        "best_metric": null,
        "best_model_checkpoint": null,
        "epoch": history.last().map_or(0.0, |r| r.epoch),
        "global_step": state.step,
        "is_hyper_param_search": false,
        "is_local_process_zero": true,
        "is_world_process_zero": true,
        "log_history": log,
        "max_steps": max_steps,
        "num_input_tokens_seen": state.num_tokens,
        "total_flos": 0,
        "trial_name": null,
        "trial_params": null,
        "stateful_callbacks": {},
    })
}

/// Checkpoints of a run, oldest first.
///
/// # Errors
/// If the folder cannot be read; a folder that does not exist has none.
pub fn list(run_dir: &Path) -> Result<Vec<(usize, PathBuf)>> {
    if !run_dir.is_dir() {
        return Ok(Vec::new());
    }
    let entries = std::fs::read_dir(run_dir).map_err(|e| Error::io("cannot read", run_dir, &e))?;
    let mut all: Vec<(usize, PathBuf)> = entries
        .flatten()
        .filter_map(|e| {
            let name = e.file_name().into_string().ok()?;
            let step = name.strip_prefix("checkpoint-")?.parse().ok()?;
            e.path().join(STATE).is_file().then(|| (step, e.path()))
        })
        .collect();
    all.sort_unstable();
    Ok(all)
}

/// Puts a checkpoint's weights, adapters and moments into the model's places and returns the state.
///
/// # Errors
/// If the folder is no checkpoint, is damaged, or belongs to a run that trained something else.
pub fn load(dir: &Path, model: &Vlm, arena: &mut Arena) -> Result<RunState> {
    let file = dir.join(STATE);
    let text = std::fs::read_to_string(&file).map_err(|e| {
        Error::io("this folder is not a checkpoint that can be continued", &file, &e)
            .hint("give a checkpoint-<step> folder of a grpo-rt run, or `true` for the latest")
    })?;
    let state: RunState = serde_json::from_str(&text).map_err(|e| {
        Error::data("the checkpoint's state is damaged")
            .file(&file)
            .found(e.to_string())
            .hint("name an older checkpoint with --resume_from_checkpoint PATH")
    })?;
    if model.params.lora().is_some() {
        model.load_adapter(dir, arena)?;
    } else {
        let weights = Checkpoint::open(dir)?;
        model.params.load(arena, &weights, |p| Some(model.file_name(&p.name)))?;
    }
    let older = "name an older checkpoint with --resume_from_checkpoint PATH";
    let moments = Checkpoint::open(dir.join(OPTIMIZER)).map_err(|e| e.hint(older))?;
    for p in model.params.trained() {
        let Some(places) = p.moments else { continue };
        let master = p.master.map(|m| ("master", m));
        for (kind, region) in
            [("exp_avg", places[0]), ("exp_avg_sq", places[1])].into_iter().chain(master)
        {
            let (shape, data) = moments.read_f32(&format!("{kind}.{}", p.name)).map_err(|e| {
                e.hint(
                    "the checkpoint trained other parameters than this run; use the same options",
                )
            })?;
            if shape != p.shape {
                return Err(Error::data("the checkpoint's optimizer state has another shape")
                    .file(dir)
                    .tensor(&p.name)
                    .expected(format!("{:?}", p.shape))
                    .found(format!("{shape:?}"))
                    .hint("resume with the options of the run"));
            }
            arena.write(region, &data)?;
        }
    }
    Ok(state)
}
