//! Language models of InternVL: which class config.json names, and what that class takes missing keys
//! for, and the one of new models. Both layouts ask here; the decoder itself is the one of all families.

use super::NewTokenizer;
use super::preset::{TextSizes, text_config, with};
use crate::base::{Error, Result};
use crate::model::config::keys::Keys;
use crate::model::config::text::{TextDefaults, read_text};
use crate::model::decoder::TextConfig;
use crate::model::decoder::names::{IN_MODEL, TextNames};
use serde_json::{Value, json};

/// One language model.
struct Language {
    /// Its class, in `llm_config.architectures`.
    class: &'static str,
    /// `model_type` of `text_config`; empty where transformers has no such type.
    model_type: &'static str,
    /// Defaults of its configuration class; [`IN_MODEL`] stands for the names, which callers choose.
    defaults: TextDefaults,
    /// Keys that switch on biases which the decoder does not have, with the class's default.
    biases: &'static [(&'static str, bool)],
    /// Whether a missing `num_key_value_heads` means as many as query heads.
    as_many_key_heads: bool,
}

const fn defaults(sizes: [usize; 7], qkv_bias: bool, head_dim: usize) -> TextDefaults {
    TextDefaults {
        sizes,
        rms_norm_eps: 1e-6,
        rope_theta: 1e4,
        head_dim,
        qkv_bias,
        qk_norm: head_dim > 0,
        names: IN_MODEL,
    }
}

/// Defaults of transformers' Qwen2Config, Qwen3Config and LlamaConfig, and of InternLM2Config in
/// InternVL's repository.
static LANGUAGES: [Language; 4] = [
    Language {
        class: "InternLM2ForCausalLM",
        model_type: "",
        defaults: defaults([4096, 11008, 32, 32, 32, 103_168, 2048], false, 0),
        biases: &[("bias", true)],
        as_many_key_heads: true,
    },
    Language {
        class: "Qwen2ForCausalLM",
        model_type: "qwen2",
        defaults: defaults([4096, 22016, 32, 32, 32, 151_936, 32_768], true, 0),
        biases: &[],
        as_many_key_heads: false,
    },
    Language {
        class: "Qwen3ForCausalLM",
        model_type: "qwen3",
        defaults: defaults([4096, 22016, 32, 32, 32, 151_936, 32_768], false, 128),
        biases: &[("attention_bias", false)],
        as_many_key_heads: false,
    },
    Language {
        class: "LlamaForCausalLM",
        model_type: "llama",
        defaults: defaults([4096, 11008, 32, 32, 32, 32_000, 2048], false, 0),
        biases: &[("attention_bias", false), ("mlp_bias", false)],
        as_many_key_heads: true,
    },
];

/// Reads `llm_config` of InternVL's own class, which names the language model's class.
///
/// # Errors
/// If the class is another than those known here, or a key has a wrong value.
pub fn read_by_class(keys: &Keys, names: impl Fn(&'static str) -> TextNames) -> Result<TextConfig> {
    let class = keys.get("architectures").and_then(|v| v.get(0)).and_then(|v| v.as_str());
    let known = LANGUAGES.iter().find(|l| class == Some(l.class));
    let Some(language) = known else {
        return Err(unknown(keys, "architectures", LANGUAGES.iter().map(|l| l.class)));
    };
    keys.must_be("rope_pos_id_version", "default")?;
    // The class ties nothing by itself: only llm_config says whether the head is the embedding.
    read(keys, keys, language, names(language.class))
}

/// Reads `text_config` of transformers' class, which names the language model's type.
///
/// # Errors
/// If the type is another than those that transformers knows and are known here, or a key has a wrong
/// value.
pub fn read_by_type(top: &Keys, keys: &Keys, names: TextNames) -> Result<TextConfig> {
    // The class of transformers takes a missing type for qwen2.
    let model_type = keys.string("model_type")?.unwrap_or("qwen2");
    let types = || LANGUAGES.iter().filter(|l| !l.model_type.is_empty());
    match types().find(|l| model_type == l.model_type) {
        Some(language) => read(top, keys, language, names),
        None => Err(unknown(keys, "model_type", types().map(|l| l.model_type))),
    }
}

fn unknown(keys: &Keys, key: &str, names: impl Iterator<Item = &'static str>) -> Error {
    let names: Vec<&str> = names.collect();
    keys.wrong(key, format!("one of: {}", names.join(", ")))
        .hint("InternVL with another language model is not supported")
}

fn read(top: &Keys, keys: &Keys, language: &Language, names: TextNames) -> Result<TextConfig> {
    for &(key, default) in language.biases {
        if keys.boolean(key, default)? {
            return Err(keys.wrong(key, "false"));
        }
    }
    let mut defaults = TextDefaults { names, ..language.defaults.clone() };
    if language.as_many_key_heads {
        defaults.sizes[4] = keys.size("num_attention_heads", defaults.sizes[3])?;
    }
    read_text(top, keys, &defaults)
}

/// A new Qwen2 with the keys that both layouts have; `own` are those of one of them.
///
/// # Errors
/// If the tokenizer lacks a token.
pub fn new_qwen2(text: &TextSizes, tokenizer: &NewTokenizer, own: Value) -> Result<Value> {
    let shared = json!({
        "bos_token_id": (tokenizer.id)("<|endoftext|>")?,
        "rms_norm_eps": 1e-6,
        "sliding_window": null,
        "tie_word_embeddings": true,
        "use_sliding_window": false,
    });
    text_config(text, "qwen2", tokenizer, with(shared, own))
}
