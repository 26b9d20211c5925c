//! Runs whose models are tried out: where the model of a run is, and what of its settings holds for its
//! answers unless the command line says otherwise. Answers nothing.

use crate::base::{DType, Result};
use crate::options::Options;
use crate::runs::Run;
use crate::settings::ModelSettings;
use serde_json::Value;

/// The model of a run, seen as it was trained: type and limits of pixels are those of the run, unless the
/// command says otherwise.
///
/// # Errors
/// If the run has no model yet, or its base is not there.
pub fn model_of(run: &Run, o: &Options, given: &ModelSettings) -> Result<ModelSettings> {
    let (path, adapter) = run.model()?;
    let mut model = ModelSettings { path, ..given.clone() };
    model.adapter = given.adapter.clone().or(adapter);
    if !o.changed("dtype") && run.setting("dtype") == Some("bfloat16") {
        model.dtype = DType::BF16;
    }
    let number = |name: &str| {
        let value = run.settings.get(name).and_then(Value::as_u64);
        value.filter(|_| !o.changed(name))
    };
    let p = &mut model.processor;
    p.min_pixels = number("min_pixels").or(p.min_pixels);
    p.max_pixels = number("max_pixels").or(p.max_pixels);
    p.max_tiles = number("max_anyres_num").map(|n| n as usize).or(p.max_tiles);
    Ok(model)
}

/// The system message of a run, where the command names none.
pub fn system_of(run: &Run, o: &Options) -> Option<String> {
    let own = o.text("system_prompt").map(str::to_string);
    own.or_else(|| run.setting("system_prompt").map(str::to_string))
}
