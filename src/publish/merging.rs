//! `grpo-rt merge`: an adapter made part of its base model, as a folder that loads anywhere. The
//! arithmetic is [`crate::model::merge`]'s; here are the folders and the card.

use crate::base::{Error, Result};
use crate::io::atomic::write_atomic;
use crate::io::hub::{Hub, RepoId, RepoKind, repo_of_snapshot};
use crate::model::merge::{MergeInput, Merged, merge, recorded_base};
use crate::publish::card::{self, Card};
use crate::settings::MergeSettings;
use std::path::{Path, PathBuf};

/// Merges; the folder is complete when this returns.
///
/// # Errors
/// If base or adapter cannot be read or are not of one model, or a file cannot be written.
pub fn merge_adapter(s: &MergeSettings) -> Result<Merged> {
    let recorded = recorded_base(&s.adapter)?;
    let trained_on = recorded.as_deref().map(folder_of).transpose()?.flatten();
    let base = match (&s.model, &trained_on) {
        (Some(given), _) => given.clone(),
        (None, Some(found)) => found.clone(),
        (None, None) => {
            return Err(Error::usage("the adapter's base model is not on this machine")
                .file(&s.adapter)
                .expected("a base_model_name_or_path in adapter_config.json that is here")
                .found(recorded.unwrap_or_else(|| "none".into()))
                .hint("name it: --model_name_or_path FOLDER_OR_ORG/NAME"));
        }
    };
    for (folder, what) in [(&base, "base model"), (&s.adapter, "adapter")] {
        if same(folder, &s.output_dir) {
            return Err(Error::usage(format!("the merged model would overwrite the {what}"))
                .file(folder)
                .key("output_dir")
                .hint("give another --output_dir"));
        }
    }
    std::fs::create_dir_all(&s.output_dir)
        .map_err(|e| Error::io("cannot create the folder", &s.output_dir, &e).key("output_dir"))?;
    let input = MergeInput {
        base: base.clone(),
        adapter: s.adapter.clone(),
        trained_on,
        dtype: s.dtype,
        max_shard_bytes: s.max_shard_bytes,
    };
    let merged = merge(&input, &s.output_dir)?;
    let mut card = Card::of_folder(&run_of(&s.adapter), &s.card)?;
    card.name = card::name_of(&s.output_dir);
    card.base = Some(public_name(&base));
    card.adapter = false;
    card.merged = true;
    card.curves = None;
    write_atomic(s.output_dir.join(card::FILE), card.markdown().as_bytes())?;
    Ok(merged)
}

/// The folder of a run that an adapter is from: its own, or the one above a checkpoint.
fn run_of(adapter: &Path) -> PathBuf {
    let full = std::path::absolute(adapter).unwrap_or_else(|_| adapter.to_path_buf());
    let above = full.parent().filter(|p| p.join("config.resolved.yaml").is_file());
    match full.join("config.resolved.yaml").is_file() {
        true => full,
        false => above.map_or(full.clone(), Path::to_path_buf),
    }
}

/// A model's name as others know it: its repository, or the last part of its path.
fn public_name(dir: &Path) -> String {
    let full = std::path::absolute(dir).unwrap_or_else(|_| dir.to_path_buf());
    match repo_of_snapshot(&full) {
        Some((id, _)) => id.as_str().to_string(),
        None => card::name_of(&full),
    }
}

/// The folder of what an adapter names as its base, if it is on this machine.
fn folder_of(name: &str) -> Result<Option<PathBuf>> {
    let path = PathBuf::from(name);
    if path.join("config.json").is_file() {
        return Ok(Some(path));
    }
    let Some(id) = RepoId::parse(name) else { return Ok(None) };
    Hub::from_env().resolve_offline(&id, RepoKind::Model)
}

fn same(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}
