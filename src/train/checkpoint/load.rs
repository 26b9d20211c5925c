//! Loading a checkpoint: weights, adapters, moments and the rows of metrics that lead up to it. Trusts
//! nothing that was not looked at by `shelf::inspect` before.

use super::save::reference_tensors;
use super::state::RunState;
use super::{OPTIMIZER, REFERENCE, STATE, TRAINER};
use crate::base::{Error, Result};
use crate::io::safetensors::Checkpoint;
use crate::mem::Arena;
use crate::model::params::{ParamStore, write_values};
use crate::model::vlm::Vlm;
use crate::track::{MetricRow, row_of_json};
use serde_json::Value;
use std::path::Path;

/// What a run goes on from, beside weights and moments.
#[derive(Debug, Clone, Default)]
pub struct Loaded {
    /// Where the run stands.
    pub state: RunState,
    /// Every row of metrics that led there.
    pub history: Vec<MetricRow>,
}

/// Puts a checkpoint's weights, adapters and moments into the model's places and returns the state.
///
/// # Errors
/// If the folder is no checkpoint, is damaged, or belongs to a run that trained something else.
pub fn load(dir: &Path, model: &Vlm, arena: &mut Arena) -> Result<Loaded> {
    let state = read_state(dir)?;
    load_model(dir, model, arena)?;
    load_moments(dir, model, arena)?;
    Ok(Loaded { state, history: read_history(dir)? })
}

/// Puts a checkpoint's weights or adapters into the model's places.
///
/// # Errors
/// If a file is missing or is one of another model.
pub fn load_model(dir: &Path, model: &Vlm, arena: &mut Arena) -> Result<()> {
    if model.params.lora().is_some() {
        return model.load_adapter(dir, arena);
    }
    let weights = Checkpoint::open(dir)?;
    model.params.load(arena, &weights, |p| Some(model.file_name(&p.name)))?;
    Ok(())
}

/// The state of a checkpoint.
///
/// # Errors
/// If there is none, or it is damaged.
pub(super) fn read_state(dir: &Path) -> Result<RunState> {
    let file = dir.join(STATE);
    let text = std::fs::read_to_string(&file).map_err(|e| {
        Error::io("this folder is not a checkpoint that can be continued", &file, &e)
            .hint("give a checkpoint-<step> folder of a grpo-rt run, or `true` for the latest")
    })?;
    serde_json::from_str(&text).map_err(|e| {
        Error::data("the checkpoint's state is damaged")
            .file(&file)
            .found(e.to_string())
            .hint("name an older checkpoint with --resume_from_checkpoint PATH")
    })
}

/// The rows of metrics that led to a checkpoint.
fn read_history(dir: &Path) -> Result<Vec<MetricRow>> {
    let file = dir.join(TRAINER);
    let text = std::fs::read_to_string(&file)
        .map_err(|e| Error::io("cannot read the checkpoint's metrics", &file, &e))?;
    let mut whole: Value = serde_json::from_str(&text).map_err(|e| {
        Error::data("the checkpoint's metrics are damaged")
            .file(&file)
            .found(e.to_string())
            .hint("name an older checkpoint with --resume_from_checkpoint PATH")
    })?;
    let rows = whole["log_history"].take();
    let rows = match rows {
        Value::Array(rows) => rows,
        _ => Vec::new(),
    };
    let row = |v| if let Value::Object(o) = v { row_of_json(o) } else { None };
    Ok(rows.into_iter().filter_map(row).collect())
}

fn load_moments(dir: &Path, model: &Vlm, arena: &mut Arena) -> Result<()> {
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
    Ok(())
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
