//! What in a run's folder is the run's: the one list by which `delete` knows what it may remove and
//! `fetch` what a model is made of. Whatever is not in it belongs to somebody else.

use crate::io::safetensors::{ADAPTER_FILE, INDEX_FILE, SINGLE_FILE};
use crate::model::vlm::COMPANIONS;
use std::path::{Path, PathBuf};

/// What runs write beside models and checkpoints.
const RECORDS: [&str; 9] = [
    "run.json",
    "run.lock",
    "run.log",
    "config.resolved.yaml",
    "metrics.jsonl",
    "samples.jsonl",
    "health.jsonl",
    "report.html",
    "trainer_state.json",
];

/// Folders that runs fill, and the beginnings of the names of their files in them.
const FOLDERS: [(&str, &str); 4] = [
    ("completions", "completions_"),
    ("runs", "events.out.tfevents."),
    ("wandb", ""),
    ("inference", "20"), // named by their moment
];

/// What its trackers write there.
const OF_TRACKERS: [&str; 2] = ["train_results.json", "wandb_run.json"];

/// Whether a file name in a run's folder is one of its records.
pub fn is_record(name: &str) -> bool {
    let ours = RECORDS.contains(&name) || OF_TRACKERS.contains(&name);
    ours || (name.starts_with('.') && name.ends_with(".part"))
}

/// Whether a file name is one of those that a saved model is made of.
pub fn is_of_model(name: &str) -> bool {
    let shard = name.starts_with("model-") && name.ends_with(".safetensors");
    let fixed = [ADAPTER_FILE, SINGLE_FILE, INDEX_FILE, "adapter_config.json", "SHA256SUMS"];
    shard || fixed.contains(&name) || COMPANIONS.contains(&name)
}

/// Whether a folder is a checkpoint of a run: by its name and by what is in it.
pub fn is_checkpoint(name: &str, path: &Path) -> bool {
    let name = name.trim_start_matches('.').trim_end_matches(".part");
    let numbered = name.strip_prefix("checkpoint-").is_some_and(|s| s.parse::<u64>().is_ok());
    let ours = ["trainer_state.json", "grpo_rt_state.json", ADAPTER_FILE, SINGLE_FILE, INDEX_FILE];
    let empty = || std::fs::read_dir(path).is_ok_and(|mut d| d.next().is_none());
    numbered && (ours.iter().any(|f| path.join(f).exists()) || empty())
}

/// The files of a folder that a run fills; `None` if it is another folder.
pub fn files_of_folder(name: &str, path: &Path) -> Option<Vec<PathBuf>> {
    let (_, beginning) = FOLDERS.iter().find(|(folder, _)| *folder == name)?;
    let mut found = Vec::new();
    collect(path, &mut found);
    found.retain(|f| f.file_name().is_some_and(|n| n.to_string_lossy().starts_with(beginning)));
    Some(found)
}

/// Every file below a folder; links are files.
pub fn collect(dir: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = std::fs::read_dir(dir).into_iter().flatten().flatten().collect();
    entries.sort_by_key(|e| e.file_name());
    for entry in entries {
        match entry.file_type() {
            Ok(t) if t.is_dir() => collect(&entry.path(), found),
            _ => found.push(entry.path()),
        }
    }
}
