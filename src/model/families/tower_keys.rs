//! Keys of vision towers whose heads turn by rows and columns (Qwen2-VL and what followed it, GLM-4.1V),
//! with the checks that are the same in all of them. Defaults differ and are arguments here.

use super::Patching;
use crate::base::Result;
use crate::model::config::keys::Keys;
use crate::ops::gelu::GeluKind;

/// Default of `vision_config.rope_parameters.rope_theta`.
pub const VISION_ROPE_THETA: f64 = 10_000.0;

/// Width of the connector's output under `key`, which must be the language model's.
///
/// # Errors
/// If it is not.
pub fn read_output_width(keys: &Keys, key: &str, default: usize, text: usize) -> Result<usize> {
    match keys.size(key, default)? == text {
        true => Ok(text),
        false => Err(keys.wrong(key, format!("the language model's hidden_size {text}"))),
    }
}

/// `num_heads` of a tower whose heads turn by rows and columns: their size must divide by 4.
///
/// # Errors
/// If it does not, or `head_dim` contradicts it.
pub fn read_heads(keys: &Keys, default: usize, (width_key, width): (&str, usize)) -> Result<usize> {
    let heads = keys.size("num_heads", default)?;
    if !width.is_multiple_of(heads) || !(width / heads).is_multiple_of(4) {
        return Err(
            keys.wrong("num_heads", format!("{width_key} {width} in parts that divide by 4"))
        );
    }
    // transformers would turn another number of dimensions than a head has
    if keys.size("head_dim", width / heads)? != width / heads {
        return Err(keys.wrong("head_dim", format!("{width_key} / num_heads = {}", width / heads)));
    }
    Ok(heads)
}

/// `patch_size`, `temporal_patch_size`, `spatial_merge_size`; three channels.
///
/// # Errors
/// If a value cannot be used.
pub fn read_patching(keys: &Keys, side: usize) -> Result<Patching> {
    keys.must_be_size("in_channels", 3)?;
    Ok(Patching {
        side: keys.size("patch_size", side)?,
        frames: keys.size("temporal_patch_size", 2)?,
        merge: keys.size("spatial_merge_size", 2)?,
    })
}

/// `rope_parameters.rope_theta` of a vision tower that turns by rows and columns.
///
/// # Errors
/// If it names another rotation.
pub fn read_axial_theta(keys: &Keys) -> Result<f64> {
    let rope = keys.object_or_empty("rope_parameters")?;
    rope.must_be("rope_type", "axial")?;
    match rope.float("rope_theta", VISION_ROPE_THETA)? {
        theta if theta > 1.0 => Ok(theta),
        _ => Err(rope.wrong("rope_theta", "a number above 1")),
    }
}

/// The activation that a key names.
///
/// # Errors
/// If it is none of the forms of GELU.
pub fn read_gelu(keys: &Keys, key: &str, default: GeluKind) -> Result<GeluKind> {
    const KINDS: [(&str, GeluKind); 3] = [
        ("gelu", GeluKind::Erf),
        ("gelu_pytorch_tanh", GeluKind::Tanh),
        ("quick_gelu", GeluKind::Quick),
    ];
    let Some(name) = keys.string(key)? else { return Ok(default) };
    KINDS
        .iter()
        .find_map(|&(n, kind)| (n == name).then_some(kind))
        .ok_or_else(|| keys.wrong(key, "gelu, gelu_pytorch_tanh or quick_gelu"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::path::Path;

    #[test]
    fn keys_that_contradict_the_tower_are_named() {
        let path = Path::new("config.json");
        let with = |value: &Value, read: &dyn Fn(&Keys) -> Result<()>| {
            read(&Keys::of(value, path).unwrap()).map_err(|e| e.to_string())
        };
        let heads = |keys: &Keys| read_heads(keys, 4, ("hidden_size", 64)).map(|_| ());
        let theta = |keys: &Keys| read_axial_theta(keys).map(|_| ());
        with(&json!({"head_dim": 16}), &heads).unwrap();
        assert!(with(&json!({"head_dim": 8}), &heads).unwrap_err().contains("head_dim"));
        assert!(with(&json!({"num_heads": 32}), &heads).unwrap_err().contains("divide by 4"));
        with(&json!({}), &theta).unwrap();
        for rope in [json!({"rope_theta": 1.0}), json!({"rope_type": "default"})] {
            assert!(with(&json!({"rope_parameters": rope}), &theta).is_err());
        }
    }
}
