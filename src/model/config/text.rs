//! Keys of language models that several families share: the names that transformers gives them, with
//! the checks that are the same everywhere. Defaults differ between families and are arguments here.

use super::keys::Keys;
use crate::base::Result;
use crate::model::decoder::names::TextNames;
use crate::model::decoder::{TextConfig, TextRope};
use serde_json::Value;

/// What a family takes a missing key for, and what its language model always does.
#[derive(Debug, Clone)]
pub struct TextDefaults {
    /// `hidden_size`, `intermediate_size`, `num_hidden_layers`, `num_attention_heads`,
    /// `num_key_value_heads`, `vocab_size`, `max_position_embeddings`.
    pub sizes: [usize; 7],
    /// `rms_norm_eps`.
    pub rms_norm_eps: f64,
    /// `rope_theta`.
    pub rope_theta: f64,
    /// `head_dim`; 0: `hidden_size / num_attention_heads`, and no other value is allowed.
    pub head_dim: usize,
    /// Whether the class has biases in the projections to queries, keys and values.
    pub qkv_bias: bool,
    /// Whether the class has norms of queries and keys.
    pub qk_norm: bool,
    /// Names of its modules.
    pub names: TextNames,
}

/// Default of `rope_theta` and the others is what the class of transformers has, so that a file that
/// leaves a key out means the same here. The rotation is [`TextRope::plain`]: families with M-RoPE
/// replace it.
///
/// # Errors
/// If a value has the wrong type or cannot be used.
pub fn read_text(top: &Keys, keys: &Keys, d: &TextDefaults) -> Result<TextConfig> {
    let hidden_size = keys.size("hidden_size", d.sizes[0])?;
    let num_layers = keys.size("num_hidden_layers", d.sizes[2])?;
    let num_heads = keys.size("num_attention_heads", d.sizes[3])?;
    let num_kv_heads = match keys.has_null("num_key_value_heads") {
        true => num_heads,
        false => keys.size("num_key_value_heads", d.sizes[4])?,
    };
    keys.must_be("hidden_act", "silu")?;
    check_sliding_window(keys, num_layers)?;
    keys.must_be_zero(&["attention_dropout"])?;
    if num_heads % num_kv_heads != 0 {
        return Err(keys.wrong("num_key_value_heads", format!("a divisor of {num_heads}")));
    }
    let head_dim = read_head_dim(keys, hidden_size, num_heads, d.head_dim)?;
    Ok(TextConfig {
        hidden_size,
        intermediate_size: keys.size("intermediate_size", d.sizes[1])?,
        num_layers,
        num_heads,
        num_kv_heads,
        head_dim,
        vocab_size: keys.size("vocab_size", d.sizes[5])?,
        rms_norm_eps: keys.float("rms_norm_eps", d.rms_norm_eps)?,
        rope: TextRope::plain(head_dim, read_theta(keys, d.rope_theta)?),
        qkv_bias: d.qkv_bias,
        qk_norm: d.qk_norm,
        post_norms: false,
        experts: None,
        tie_word_embeddings: top.boolean("tie_word_embeddings", false)?
            || keys.boolean("tie_word_embeddings", false)?,
        max_position_embeddings: keys.size("max_position_embeddings", d.sizes[6])?,
        names: d.names,
    })
}

fn read_head_dim(keys: &Keys, hidden: usize, heads: usize, default: usize) -> Result<usize> {
    let quotient = hidden / heads;
    if default > 0 {
        let head_dim = keys.size("head_dim", default)?;
        return match head_dim.is_multiple_of(2) {
            true => Ok(head_dim),
            false => Err(keys.wrong("head_dim", "an even number")),
        };
    }
    if !hidden.is_multiple_of(heads) || !quotient.is_multiple_of(2) {
        return Err(
            keys.wrong("num_attention_heads", format!("hidden_size {hidden} in even parts"))
        );
    }
    if keys.size("head_dim", quotient)? != quotient {
        let expected = format!("hidden_size / num_attention_heads = {quotient}");
        return Err(keys.wrong("head_dim", expected));
    }
    Ok(quotient)
}

/// A layer slides if `layer_types` says so, or by `use_sliding_window` from `max_window_layers` on.
fn check_sliding_window(keys: &Keys, num_layers: usize) -> Result<()> {
    let hint = "models with sliding-window layers are not supported";
    if let Some(types) = keys.get("layer_types") {
        let full = |t: &Value| t.as_str() == Some("full_attention");
        if !types.as_array().is_some_and(|types| types.iter().all(full)) {
            return Err(keys.wrong("layer_types", "only full_attention").hint(hint));
        }
        return Ok(());
    }
    let slides = keys.boolean("use_sliding_window", false)?
        && !keys.has_null("sliding_window")
        && keys.size_or_zero("max_window_layers", 80)? < num_layers;
    match slides {
        true => Err(keys.wrong("use_sliding_window", "false").hint(hint)),
        false => Ok(()),
    }
}

/// `rope_parameters` (transformers 5) or `rope_scaling` (transformers 4, which wins where both are
/// there, as in transformers). The type `dynamic` of InternVL's language models is the plain rotation up
/// to `max_position_embeddings` and another only beyond, where no sequence of this program goes: prompts
/// and completions are bounded by it.
///
/// # Errors
/// If the value is not an object, or asks for another rotation than the plain one or M-RoPE.
pub fn rope_keys<'a>(keys: &Keys<'a>) -> Result<Keys<'a>> {
    let rope = match keys.object("rope_scaling")? {
        Some(rope) => rope,
        None => keys.object_or_empty("rope_parameters")?,
    };
    for key in ["rope_type", "type"] {
        if !matches!(rope.string(key)?, None | Some("default" | "mrope" | "dynamic")) {
            return Err(rope.wrong(key, "default or mrope").hint(
                "remove the long-context extension from config.json to use the plain model",
            ));
        }
    }
    Ok(rope)
}

fn read_theta(keys: &Keys, default: f64) -> Result<f64> {
    let rope = rope_keys(keys)?;
    let theta = match rope.get("rope_theta") {
        Some(_) => rope.float("rope_theta", 0.0)?,
        None => keys.float("rope_theta", default)?,
    };
    match theta > 1.0 {
        true => Ok(theta),
        false => Err(keys.wrong("rope_theta", "a number above 1")),
    }
}

/// `partial_rotary_factor`: the dimensions of a head that turn; all where the key is missing.
///
/// # Errors
/// If they are not an even number from 2 to `head_dim`.
pub fn rotary_dim(keys: &Keys, head_dim: usize) -> Result<usize> {
    const KEY: &str = "partial_rotary_factor";
    let rope = rope_keys(keys)?;
    let place = if rope.get(KEY).is_some() { &rope } else { keys };
    let dim = (head_dim as f64 * place.float(KEY, 1.0)?) as usize;
    match (2..=head_dim).contains(&dim) && dim.is_multiple_of(2) {
        true => Ok(dim),
        false => Err(place.wrong(
            KEY,
            format!("a factor that leaves 2 to {head_dim} dimensions of a head, an even number"),
        )),
    }
}

/// `mrope_section`: frequencies turned by the temporal, height and width position.
///
/// # Errors
/// If they are not three, or do not sum to half of `rotary_dim`.
pub fn mrope_section(keys: &Keys, default: [usize; 3], rotary_dim: usize) -> Result<[usize; 3]> {
    let rope = rope_keys(keys)?;
    let section = rope.sizes("mrope_section")?.unwrap_or_else(|| default.to_vec());
    match <[usize; 3]>::try_from(section) {
        Ok(s) if s.iter().sum::<usize>() == rotary_dim / 2 => Ok(s),
        _ => Err(rope.wrong(
            "mrope_section",
            format!("three numbers with the sum {} (half of what turns)", rotary_dim / 2),
        )),
    }
}

/// A token id that must be below the vocabulary's size.
///
/// # Errors
/// If it is not.
pub fn token_id(keys: &Keys, key: &str, default: u32, vocab_size: usize) -> Result<u32> {
    let id = keys.id(key)?.unwrap_or(default);
    match (id as usize) < vocab_size {
        true => Ok(id),
        false => Err(keys.wrong(key, format!("an id below vocab_size {vocab_size}"))),
    }
}

/// `eos_token_id`, one or several; those of the class if the key is missing, none if it is null.
///
/// # Errors
/// If it is no id.
pub fn eos_ids(keys: &Keys, default: &[u32]) -> Result<Vec<u32>> {
    match keys.has_null("eos_token_id") {
        true => Ok(Vec::new()),
        false => Ok(keys.ids("eos_token_id")?.unwrap_or_else(|| default.to_vec())),
    }
}

/// `bos_token_id`; that of the class if the key is missing, none if it is null.
///
/// # Errors
/// If it is no id.
pub fn bos_id(keys: &Keys, default: Option<u32>) -> Result<Option<u32>> {
    match keys.has_null("bos_token_id") {
        true => Ok(None),
        false => Ok(keys.id("bos_token_id")?.or(default)),
    }
}
