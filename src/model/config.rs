//! Reads config.json of vision-language models. Which family it is, is decided here, by `model_type` and
//! `architectures` and never by a folder's name; what its keys mean, in the family's file. A value that
//! this program would have to ignore is an error; nothing is ever guessed from tensor shapes.

pub mod keys; // typed access to the keys of a JSON object
pub mod text; // keys of language models that families share

use crate::base::{DType, Error, Result};
use crate::model::decoder::TextConfig;
use crate::model::families::preset::Preset;
use crate::model::families::{Architecture, FAMILIES, Family, NewTokenizer, VisionTower};
use crate::model::positions::PositionRule;
use keys::{Keys, read_json};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;

/// Token ids with a meaning.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenIds {
    /// Stands for one feature of an image.
    pub image: u32,
    /// Stands for one feature of a video, where the family has such a token.
    pub video: Option<u32>,
    /// Around them, and others that only a processor writes.
    pub marks: Vec<u32>,
    /// Tokens that end a completion; generation_config.json wins over config.json.
    pub eos: Vec<u32>,
    /// Beginning of text, if there is one.
    pub bos: Option<u32>,
    /// Padding, if there is one.
    pub pad: Option<u32>,
}

impl TokenIds {
    /// Tokens that only a processor writes and no completion may contain: placeholders and what is
    /// around them, ascending.
    pub fn placeholders(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = self.marks.iter().copied().chain([self.image]).collect();
        ids.extend(self.video);
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

/// A vision-language model's config.json.
#[derive(Debug, Clone)]
pub struct VlmConfig {
    /// Architecture.
    pub family: &'static dyn Family,
    /// Language model.
    pub text: TextConfig,
    /// Vision tower and connector.
    pub vision: Arc<dyn VisionTower>,
    /// Token ids.
    pub tokens: TokenIds,
    /// How tokens get positions.
    pub positions: PositionRule,
    /// Element type of the stored weights, if the file says so.
    pub dtype: Option<DType>,
    /// The file as it was read.
    pub raw: Value,
}

impl VlmConfig {
    /// Reads `config.json` and, if it is there, `generation_config.json` of a model folder.
    ///
    /// # Errors
    /// If config.json is missing or malformed, or describes a model that cannot run here.
    pub fn from_dir(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let path = dir.join("config.json");
        if !path.is_file() && dir.join("adapter_config.json").is_file() {
            return Err(Error::data("the folder holds an adapter, not a model")
                .file(dir)
                .expected("config.json")
                .found("adapter_config.json")
                .hint("give the base model as the model and this folder as the adapter"));
        }
        let mut config = Self::from_json(read_json(&path)?, &path)?;
        config.family.find_tokens(dir, config.text.vocab_size, &mut config.tokens)?;
        let path = dir.join("generation_config.json");
        if path.is_file() {
            let value = read_json(&path)?;
            let keys = Keys::of(&value, &path)?;
            if let Some(eos) = keys.ids("eos_token_id")? {
                config.tokens.eos = eos;
            }
            config.tokens.bos = keys.id("bos_token_id")?.or(config.tokens.bos);
            config.tokens.pad = keys.id("pad_token_id")?.or(config.tokens.pad);
        }
        Ok(config)
    }

    /// Reads the configuration of a model folder, or one file of it.
    ///
    /// # Errors
    /// As [`VlmConfig::from_dir`].
    pub fn from_path(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        match path.is_file() {
            true => Self::from_json(read_json(path)?, path),
            false => Self::from_dir(path),
        }
    }

    /// Reads the content of config.json; `file` is named in errors.
    ///
    /// # Errors
    /// If the family is unknown, a key has a wrong value, or the model uses something that this program
    /// does not do (sliding windows, quantised weights, other activations or rotary types).
    pub fn from_json(value: Value, file: impl AsRef<Path>) -> Result<Self> {
        let top = Keys::of(&value, file.as_ref())?;
        let family = family(&top)?;
        if top.get("quantization_config").is_some() {
            return Err(top
                .wrong("quantization_config", "unquantised weights")
                .hint("use the checkpoint in bfloat16 or float32 that this one was made from"));
        }
        let Architecture { text, vision, tokens, positions } = family.read(&top)?;
        let dtype = read_dtype(&top)?;
        Ok(VlmConfig { family, text, vision, tokens, positions, dtype, raw: value })
    }

    /// A new model's configuration: `tiny` (about 1.5 M parameters without the embedding, trains on a
    /// CPU in minutes) or `small` (about 21 M).
    ///
    /// # Errors
    /// If there is no such preset, or a token id is not below the vocabulary's size.
    pub fn preset(
        family: &'static dyn Family,
        size: &str,
        tokenizer: &NewTokenizer,
    ) -> Result<Self> {
        // One set of checks for files and presets.
        let config = family.new_config(Preset::named(size)?, tokenizer)?;
        VlmConfig::from_json(config, "preset")
    }
}

/// Objects of config.json that may say the type of the weights.
const DTYPE_OBJECTS: [&str; 3] = ["text_config", "llm_config", "language_config"];

/// The family whose `model_type` or class the file names.
fn family(top: &Keys) -> Result<&'static dyn Family> {
    let model_type = top.string("model_type")?;
    let architecture = top.get("architectures").and_then(|v| v.get(0)).and_then(Value::as_str);
    let by_type = FAMILIES.iter().filter(|f| model_type == Some(f.model_type()));
    let candidates: Vec<&&dyn Family> = by_type.collect();
    let of_class = |f: &&&dyn Family| architecture == Some(f.architecture());
    // Two families may share a type; then the class decides, as it does where there is no type.
    let found = match (candidates.as_slice(), model_type) {
        ([one], _) => Some(*one),
        ([], None) => FAMILIES.iter().find(|f| of_class(f)),
        (several, _) => several.iter().find(|f| of_class(f)).copied(),
    };
    found.copied().ok_or_else(|| {
        let known = FAMILIES.iter().map(|f| format!("{} ({})", f.model_type(), f.architecture()));
        Error::data("unknown model family")
            .file(top.file)
            .key("model_type")
            .expected(format!("one of: {}", known.collect::<Vec<_>>().join(", ")))
            .found(match (model_type, architecture) {
                (None, None) => "neither model_type nor architectures".to_string(),
                (kind, class) => {
                    format!("{} ({})", kind.unwrap_or("no type"), class.unwrap_or("no class"))
                }
            })
            .hint("the family is read from config.json alone; the folder's name means nothing")
    })
}

fn read_dtype(top: &Keys) -> Result<Option<DType>> {
    let mut places = vec![top.clone()];
    for name in DTYPE_OBJECTS {
        places.extend(top.object(name)?);
    }
    for keys in &places {
        for key in ["dtype", "torch_dtype"] {
            if let Some(name) = keys.string(key)? {
                return DType::from_torch_name(name)
                    .map(Some)
                    .map_err(|_| keys.wrong(key, "float32, bfloat16 or float16"));
            }
        }
    }
    Ok(None)
}
