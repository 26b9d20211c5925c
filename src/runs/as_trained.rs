//! Runs whose models are asked again: the options of `infer`, `serve` and `eval` with the model of a run, and
//! with what it was trained with where the command line says nothing else. Asks nothing.

use super::{Run, SETTINGS};
use crate::base::Result;
use crate::options::{OPTIONS, Options, REWARDS, Value};

/// Options that hold for answers of the model, too.
const SEEN: [&str; 12] = [
    "dtype",
    "min_pixels",
    "max_pixels",
    "max_anyres_num",
    "video_fps",
    "num_frames",
    "min_frames",
    "max_frames",
    "dynamic_sample",
    "video_min_pixels",
    "video_max_pixels",
    "column",
];
/// What stands around questions. A command that names a task has those of that.
const PROMPTS: [&str; 3] = ["task_type", "question_template", "system_prompt"];

/// The options as if they had named the model of a run, its prompts, limits of pixels and rewards: those
/// that the command takes and does not give itself.
///
/// # Errors
/// If the run has no model yet, or its base is not there.
pub fn as_trained(run: &Run, options: &Options) -> Result<Options> {
    let (model, adapter) = run.model()?;
    let text = |path: std::path::PathBuf| Value::Text(path.display().to_string());
    let mut o = options.clone().replaced("run_id", Value::Unset);
    o = o.replaced("model_name_or_path", text(model));
    if let Some(adapter) = adapter.filter(|_| !options.changed("adapter")) {
        o = o.replaced("adapter", text(adapter));
    }
    let own_task = options.changed("task_type");
    let own_rewards = own_task || options.changed("reward_funcs");
    let file = run.dir.join(SETTINGS);
    for opt in OPTIONS.iter().filter(|opt| opt.accepted_by(options.command())) {
        let wanted = SEEN.contains(&opt.name)
            || !own_task && PROMPTS.contains(&opt.name)
            || !own_rewards && opt.group == REWARDS;
        if wanted
            && !options.changed(opt.name)
            && let Some(value) = run.settings.get(opt.name)
        {
            o = o.inherited(opt.name, value, &file);
        }
    }
    Ok(o)
}
