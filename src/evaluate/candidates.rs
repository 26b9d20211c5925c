//! What is measured in one go: the model of the options, what it is compared with, and further ones; each a
//! model, an adapter on the model, or answers that were measured before. Loads nothing.

use super::answers::{Answer, read};
use crate::base::{Error, Result};
use crate::io::hub::repo_of_snapshot;
use crate::settings::{BASE, EvalSettings, ModelSettings, adapter_in};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Where answers come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// A model is asked.
    Model(Box<ModelSettings>),
    /// They were measured before.
    Earlier(PathBuf),
}

/// One thing that is measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// Its name in tables; no two are the same.
    pub name: String,
    /// Where its answers come from.
    pub source: Source,
}

/// What is measured and which of them are the model of the options and what it is compared with.
#[derive(Debug, Clone, PartialEq)]
pub struct Lineup {
    /// In the order in which they are measured and shown.
    pub all: Vec<Candidate>,
    /// The model of the options.
    pub main: usize,
    /// What the others are compared with, if anything.
    pub reference: Option<usize>,
}

/// Sorts out what the options name.
///
/// # Errors
/// If a path is neither a model, nor an adapter, nor answers.
pub fn lineup(s: &EvalSettings) -> Result<Lineup> {
    let mut all = Vec::new();
    if let Some(path) = &s.measures.baseline {
        all.push(candidate("baseline", path, &s.model)?);
    }
    let main = all.len();
    let of_main = s.model.adapter.as_deref().unwrap_or(&s.model.path);
    all.push(Candidate {
        name: name_of(of_main),
        source: Source::Model(Box::new(s.model.clone())),
    });
    for path in &s.measures.compare {
        all.push(candidate("compare", path, &s.model)?);
    }
    let names: Vec<String> = all.iter().map(|c| c.name.clone()).collect();
    for (i, c) in all.iter_mut().enumerate() {
        let same = names[..i].iter().filter(|n| **n == c.name).count();
        if same > 0 {
            c.name += &format!(" ({})", same + 1);
        }
    }
    let reference = (all.len() > 1).then_some(0);
    Ok(Lineup { all, main, reference })
}

fn candidate(key: &str, path: &Path, model: &ModelSettings) -> Result<Candidate> {
    let with = |path: &Path, adapter: Option<PathBuf>| {
        let settings = ModelSettings { path: path.to_path_buf(), adapter, ..model.clone() };
        Source::Model(Box::new(settings))
    };
    if path.as_os_str() == BASE {
        if model.adapter.is_none() {
            return Err(Error::usage("`base` is the model without its adapter, and there is none")
                .key(key)
                .hint("add --adapter, or name a model"));
        }
        return Ok(Candidate { name: name_of(&model.path), source: with(&model.path, None) });
    }
    let answers = if path.is_dir() { path.join("answers.jsonl") } else { path.to_path_buf() };
    let adapter = adapter_in(path).ok().filter(|dir| dir.join("adapter_config.json").is_file());
    let source = if answers.is_file() {
        Source::Earlier(answers)
    } else if let Some(adapter) = adapter {
        with(&model.path, Some(adapter))
    } else if path.join("config.json").is_file() {
        with(path, None)
    } else {
        return Err(Error::usage("this is nothing to compare with")
            .key(key)
            .expected("a model, an adapter, a run's folder, answers of `eval`, or `base`")
            .found(path.display().to_string())
            .hint("models have a config.json, adapters an adapter_config.json"));
    };
    Ok(Candidate { name: name_of(path), source })
}

/// A repository's name, or the last part of a path; checkpoints are named with their run.
fn name_of(path: &Path) -> String {
    let full = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    if let Some((id, _)) = repo_of_snapshot(&full) {
        return id.as_str().to_string();
    }
    let last =
        |p: &Path| p.file_name().map_or("model".into(), |n| n.to_string_lossy().into_owned());
    let name = last(&full);
    match full.parent() {
        Some(run) if name.starts_with("checkpoint-") || name == "answers.jsonl" => {
            format!("{}/{name}", last(run))
        }
        _ => name,
    }
}

/// Answers that were measured before: of the file's only model, or of the one its results call main.
///
/// # Errors
/// If the file cannot be read, holds none, or holds several models and does not say which is meant.
pub fn earlier(file: &Path) -> Result<Vec<Answer>> {
    let mut answers: Vec<Answer> = read(file)?.into_iter().map(|(_, a)| a).collect();
    let results = file.with_file_name("results.json");
    let said = std::fs::read_to_string(results).ok();
    let said: Option<Value> = said.and_then(|text| serde_json::from_str(&text).ok());
    let mut names: Vec<String> = answers.iter().map(|a| a.model.clone()).collect();
    names.sort();
    names.dedup();
    let main =
        said.as_ref().and_then(|v| v["main"].as_str()).filter(|m| names.iter().any(|n| n == m));
    let chosen = match (names.as_slice(), main) {
        ([], _) => {
            return Err(Error::data("there are no answers in this file").file(file));
        }
        ([one], _) => one.clone(),
        (_, Some(main)) => main.to_string(),
        (many, None) => {
            return Err(Error::data("the file has answers of several models")
                .file(file)
                .expected("one model, or results.json beside it that says which is meant")
                .found(many.join(", ")));
        }
    };
    answers.retain(|a| a.model == chosen);
    Ok(answers)
}
