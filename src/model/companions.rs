//! The files beside the weights that make a folder a model for every other program: configuration,
//! tokenizer, chat template, processors. They are copied; only the type in config.json is rewritten.

use crate::base::{DType, Error, Result};
use crate::io::atomic::write_atomic;
use serde_json::Value;
use std::path::Path;

/// Files of the tokenizer and the processors.
const OF_PROMPTS: [&str; 12] = [
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
];

/// Whether a file is one of those that stand beside the weights of a model or an adapter.
pub fn is_companion(name: &str) -> bool {
    const OTHERS: [&str; 3] = ["config.json", "generation_config.json", "README.md"];
    OF_PROMPTS.contains(&name) || OTHERS.contains(&name)
}

/// Copies what prompts are made with.
///
/// # Errors
/// If a file cannot be copied.
pub fn copy_processor(from: &Path, to: &Path) -> Result<()> {
    OF_PROMPTS.iter().try_for_each(|name| copy(from, to, name))
}

/// Copies what a model is loaded with: the configuration, saying of what type the weights beside it are
/// now (`None` leaves what it says), generation settings, prompts, and classes of its own (`auto_map`).
///
/// # Errors
/// If a file cannot be copied.
pub fn copy_model(from: &Path, to: &Path, dtype: Option<DType>) -> Result<()> {
    copy_processor(from, to)?;
    copy(from, to, "generation_config.json")?;
    let config = from.join("config.json");
    let text =
        std::fs::read_to_string(&config).map_err(|e| Error::io("cannot read", &config, &e))?;
    let mut json: Value = serde_json::from_str(&text)
        .map_err(|e| Error::data("config.json is not JSON").file(&config).found(e.to_string()))?;
    if json.get("auto_map").is_some() {
        copy_classes(from, to)?;
    }
    if let Some(dtype) = dtype {
        set_dtype(&mut json, dtype);
    }
    let text = serde_json::to_string_pretty(&json).expect("a JSON value prints");
    write_atomic(to.join("config.json"), text.as_bytes())
}

fn copy(from: &Path, to: &Path, name: &str) -> Result<()> {
    let file = from.join(name);
    if !file.is_file() {
        return Ok(());
    }
    std::fs::copy(&file, to.join(name)).map(|_| ()).map_err(|e| Error::io("cannot copy", &file, &e))
}

/// Copies the Python files of a folder with classes of its own: nothing here reads them, but no other
/// program loads the folder without them.
fn copy_classes(from: &Path, to: &Path) -> Result<()> {
    let wrong = |e: std::io::Error| Error::io("cannot copy the model's classes", from, &e);
    for entry in std::fs::read_dir(from).map_err(wrong)? {
        let path = entry.map_err(wrong)?.path();
        if let Some(name) = path.file_name().filter(|_| path.extension().is_some_and(|e| e == "py"))
        {
            std::fs::copy(&path, to.join(name)).map_err(wrong)?;
        }
    }
    Ok(())
}

fn set_dtype(json: &mut Value, float: DType) {
    let Some(map) = json.as_object_mut() else { return };
    for (key, value) in map.iter_mut() {
        match key.as_str() {
            "dtype" | "torch_dtype" => *value = float.torch_name().into(),
            "text_config" | "vision_config" | "llm_config" => set_dtype(value, float),
            _ => {}
        }
    }
}
