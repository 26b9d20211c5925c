//! Options that may name a repository of the hub instead of a path (`Qwen/Qwen2.5-VL-3B-Instruct`): they
//! become paths here, once, before anything else looks at them. A path that exists always wins.

use crate::base::{Error, Result};
use crate::io::checkpoints::list_checkpoints;
use crate::io::hub::{Hub, RepoId, RepoKind};
use crate::options::{Command, Kind, OPTIONS, Options, Value};
use std::path::{Path, PathBuf};

const MODELS: &[RepoKind] = &[RepoKind::Model];
const SETTINGS: &[RepoKind] = &[RepoKind::Model, RepoKind::Settings];
const ADAPTERS: &[RepoKind] = &[RepoKind::Adapter];
const ROWS: &[RepoKind] = &[RepoKind::Dataset];
const EITHER: &[RepoKind] = &[RepoKind::Model, RepoKind::Adapter];

/// Options that may name a repository, and of what kinds.
const REPOSITORIES: [(&str, &[RepoKind]); 7] = [
    ("model_name_or_path", MODELS),
    ("sentence_encoder", MODELS),
    ("adapter", ADAPTERS),
    ("dataset_name", ROWS),
    ("eval_dataset", ROWS),
    ("baseline", EITHER),
    ("compare", EITHER),
];

/// Endings of data files: `data/train.jsonl` is a path, though it could be a repository's name.
const FILES: [&str; 9] =
    ["jsonl", "json", "parquet", "arrow", "csv", "tsv", "gz", "safetensors", "yaml"];

/// The options with every name of a repository replaced by the folder it lies in on this machine, and
/// an `adapter` that is a run's folder by the adapter in it. What is not in the cache is fetched by the
/// user's client of the hub.
///
/// # Errors
/// If a repository is not here and cannot be fetched, or `model_revision` is given for a folder.
pub fn resolve_repositories(options: &Options) -> Result<Options> {
    let mut hub = None;
    let mut resolved = options.clone();
    for (name, kinds) in REPOSITORIES {
        let Some(opt) = OPTIONS.iter().find(|o| o.name == name) else { continue };
        if !opt.accepted_by(options.command()) {
            continue;
        }
        // Without weights a model can be planned with, and prompts be looked at.
        let weightless = matches!(options.command(), Command::Plan | Command::Inspect);
        let kinds = if weightless && kinds == MODELS { SETTINGS } else { kinds };
        let revision = if name == "model_name_or_path" { revision(options)? } else { None };
        let mut place = |text: &str| -> Result<String> {
            let Some(id) = repository(text) else { return Ok(text.to_string()) };
            let hub = hub.get_or_insert_with(Hub::from_env);
            let dir = hub.resolve(&id, kinds, revision).map_err(|e| e.key(name))?;
            Ok(dir.display().to_string())
        };
        let value = match (opt.kind, options.get(name)) {
            (Kind::List(_), Value::List(items)) => {
                let one = |v: &Value| match v {
                    Value::Text(text) => place(text).map(Value::Text),
                    other => Ok(other.clone()),
                };
                Value::List(items.iter().map(one).collect::<Result<_>>()?)
            }
            (_, Value::Text(text)) => Value::Text(place(text)?),
            (_, other) => other.clone(),
        };
        resolved = resolved.replaced(name, value);
    }
    if OPTIONS.iter().any(|o| o.name == "adapter" && o.accepted_by(options.command()))
        && let Some(given) = resolved.path("adapter")
    {
        let found = adapter_in(&given)?.display().to_string();
        resolved = resolved.replaced("adapter", Value::Text(found));
    }
    Ok(resolved)
}

/// The repository that a text names, if it is not the path of something.
pub fn repository(text: &str) -> Option<RepoId> {
    let path = Path::new(text);
    let file = path.extension().is_some_and(|e| FILES.iter().any(|f| e == *f));
    if file || path.exists() { None } else { RepoId::parse(text) }
}

/// The revision of the model, which only a repository has.
fn revision(o: &Options) -> Result<Option<&str>> {
    let Some(revision) = o.text("model_revision") else { return Ok(None) };
    match o.text("model_name_or_path").and_then(repository) {
        Some(_) => Ok(Some(revision)),
        None => Err(o
            .wrong("model_revision", "`model_revision` would do nothing: the model is a folder")
            .expected("a model_name_or_path such as Qwen/Qwen2.5-VL-3B-Instruct")
            .hint("leave the option out")),
    }
}

/// The folder of an adapter: the one given, or in a run's folder the last checkpoint that has one. A
/// folder without any is returned as it is: whoever opens it says what is missing.
///
/// # Errors
/// If the folder cannot be read.
pub fn adapter_in(dir: &Path) -> Result<PathBuf> {
    const CONFIG: &str = "adapter_config.json";
    if dir.join(CONFIG).is_file() || !dir.is_dir() {
        return Ok(dir.to_path_buf());
    }
    let checkpoints = list_checkpoints(dir)?;
    if let Some((_, last)) = checkpoints.iter().rev().find(|(_, path)| path.join(CONFIG).is_file())
    {
        return Ok(last.clone());
    }
    if checkpoints.iter().any(|(_, path)| path.join("config.json").is_file()) {
        return Err(Error::usage("this run trained weights of the model itself, not an adapter")
            .file(dir)
            .key("adapter")
            .hint("its folder and its checkpoints are whole models: give one as the model"));
    }
    Ok(dir.to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_folders_are_no_repositories() {
        assert!(repository("Qwen/Qwen2.5-VL-3B-Instruct").is_some());
        for path in ["data/train.jsonl", "src/train", "rows/part.parquet", "m", "./org/name"] {
            assert_eq!(repository(path), None, "{path}");
        }
    }

    #[test]
    fn the_adapter_of_a_run_is_that_of_its_last_checkpoint() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path();
        for (step, config) in [(2, "adapter_config.json"), (10, "adapter_config.json"), (9, "x")] {
            let dir = run.join(format!("checkpoint-{step}"));
            std::fs::create_dir(&dir).unwrap();
            std::fs::write(dir.join("grpo_rt_state.json"), "{}").unwrap();
            std::fs::write(dir.join(config), "{}").unwrap();
        }
        assert_eq!(adapter_in(run).unwrap(), run.join("checkpoint-10"));
        std::fs::write(run.join("adapter_config.json"), "{}").unwrap();
        assert_eq!(adapter_in(run).unwrap(), run);
        assert_eq!(adapter_in(&run.join("gone")).unwrap(), run.join("gone"));
    }
}
