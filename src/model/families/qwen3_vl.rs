//! Qwen3-VL (Qwen team, arXiv 2511.21631): keys of config.json, the learned places of patches, the list
//! of parameters, presets. Tensors and ops are in [`net`].

pub mod net; // the vision tower as a list of ops

use super::naming::{AS_MODULES, NamePairs};
use super::preset::{Preset, TowerSizes, model_config, text_config, tower_config};
use super::qwen2_5_vl::{read_tokens, token_keys};
use super::tower_keys::{
    read_axial_theta, read_gelu, read_heads, read_output_width, read_patching,
};
use super::{Architecture, Family, NewTokenizer, Patching, VisionTower};
use crate::base::{HostTensor, Result};
use crate::model::config::keys::Keys;
use crate::model::config::text::{
    TextDefaults, bos_id, eos_ids, mrope_section, read_text, rope_keys,
};
use crate::model::config::{TokenIds, VlmConfig};
use crate::model::decoder::TextConfig;
use crate::model::decoder::names::IN_MODEL;
use crate::model::net::Net;
use crate::model::positions::PositionRule;
use crate::model::processor::qwen_image::ImageProcessorSettings;
use crate::model::processor::qwen_video::{QwenProcessor, VideoStyle, new_files};
use crate::model::processor::{ProcessorOptions, VisualProcessor};
use crate::model::rope::mrope_interleaved_axes;
use crate::model::spec::{ParamList, ParamSpec, Part};
use crate::ops::Slot;
use crate::ops::gelu::GeluKind;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

/// The family.
#[derive(Debug)]
pub struct Qwen3Vl;

/// Defaults are those of transformers' Qwen3VLTextConfig.
const TEXT: TextDefaults = TextDefaults {
    sizes: [4096, 22016, 32, 32, 32, 151_936, 128_000],
    rms_norm_eps: 1e-6,
    rope_theta: 500_000.0,
    head_dim: 128,
    qkv_bias: false,
    qk_norm: true,
    names: IN_MODEL,
};

/// Default of `mrope_section` in Qwen3VLTextRotaryEmbedding.
const MROPE_SECTION: [usize; 3] = [24, 20, 20];

impl Family for Qwen3Vl {
    fn model_type(&self) -> &'static str {
        "qwen3_vl"
    }

    fn vlm_r1_converts_boxes(&self) -> bool {
        true
    }
    fn architecture(&self) -> &'static str {
        "Qwen3VLForConditionalGeneration"
    }
    fn names(&self) -> NamePairs {
        AS_MODULES
    }
    fn vision_modules(&self) -> &'static [&'static str] {
        &["visual"]
    }

    fn read(&self, top: &Keys) -> Result<Architecture> {
        let keys = top.object_or_empty("text_config")?;
        architecture(top, &keys, read_interleaved_text(top, &keys, &TEXT)?)
    }

    fn processor(
        &self,
        dir: Option<&Path>,
        config: &VlmConfig,
        options: &ProcessorOptions,
    ) -> Result<Box<dyn VisualProcessor>> {
        let images = published_images(config.vision.patching());
        Ok(Box::new(QwenProcessor::new(dir, images, VideoStyle::Timestamps, options)?))
    }

    fn new_config(&self, preset: &Preset, tokenizer: &NewTokenizer) -> Result<Value> {
        new_config(self, preset, tokenizer)
    }

    fn processor_files(&self, config: &VlmConfig) -> Result<Vec<(&'static str, Value)>> {
        let images = published_images(config.vision.patching());
        let context = config.text.max_position_embeddings;
        Ok(new_files(images, VideoStyle::Timestamps, context, "Qwen3VLProcessor"))
    }
}

/// The published settings of images.
fn published_images(patching: Patching) -> ImageProcessorSettings {
    ImageProcessorSettings {
        min_pixels: 65_536,
        max_pixels: 16_777_216,
        image_mean: [0.5; 3],
        image_std: [0.5; 3],
        ..ImageProcessorSettings::published(patching)
    }
}

/// The language model: M-RoPE whose axes take turns, norms of queries and keys, no bias.
///
/// # Errors
/// If a key has a wrong value.
pub(super) fn read_interleaved_text(
    top: &Keys,
    keys: &Keys,
    defaults: &TextDefaults,
) -> Result<TextConfig> {
    if keys.boolean("attention_bias", false)? {
        return Err(keys.wrong("attention_bias", "false"));
    }
    let rope = rope_keys(keys)?;
    if !rope.boolean("mrope_interleaved", true)? {
        return Err(rope.wrong("mrope_interleaved", "true"));
    }
    let mut text = read_text(top, keys, defaults)?;
    let section = mrope_section(keys, MROPE_SECTION, text.head_dim)?;
    text.rope.axes = mrope_interleaved_axes(section);
    // As in transformers 5, the outer key decides where both are there.
    if top.get("tie_word_embeddings").is_some() {
        text.tie_word_embeddings = top.boolean("tie_word_embeddings", false)?;
    }
    Ok(text)
}

/// The rest of config.json around a language model.
///
/// # Errors
/// If a key has a wrong value.
pub(super) fn architecture(top: &Keys, keys: &Keys, text: TextConfig) -> Result<Architecture> {
    let vision = read_vision(&top.object_or_empty("vision_config")?, &text)?;
    let tokens = TokenIds {
        eos: eos_ids(keys, &[])?,
        bos: bos_id(keys, None)?,
        ..read_tokens(top, keys, text.vocab_size)?
    };
    Ok(Architecture { text, vision: Arc::new(vision), tokens, positions: PositionRule::Grid })
}

/// The vision tower and its connectors.
#[derive(Debug, Clone, PartialEq)]
pub struct VisionConfig {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Activation inside the MLP.
    pub hidden_act: GeluKind,
    /// Blocks.
    pub depth: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// How pixels become patches and patches features.
    pub patching: Patching,
    /// Rows of the table of learned places (`num_position_embeddings`).
    pub places: usize,
    /// Blocks whose output becomes a further level of features, ascending.
    pub deepstack: Vec<usize>,
    /// Width of the connectors' output: the language model's `hidden_size`.
    pub out_hidden_size: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
}

impl VisionConfig {
    /// Size of a head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_heads
    }
}

impl VisionTower for VisionConfig {
    fn parameters(&self) -> Vec<ParamSpec> {
        vision_parameters(self)
    }
    fn encode(&self, net: &mut Net, pixels: HostTensor, grids: &[[usize; 3]]) -> Result<Vec<Slot>> {
        net::encode(net, self, pixels, grids)
    }
    fn levels(&self) -> usize {
        1 + self.deepstack.len()
    }
    fn patching(&self) -> Patching {
        self.patching
    }
}

/// Defaults are those of transformers' Qwen3VLVisionConfig.
///
/// # Errors
/// If a value cannot be used.
pub fn read_vision(keys: &Keys, text: &TextConfig) -> Result<VisionConfig> {
    let hidden_size = keys.size("hidden_size", 1152)?;
    let depth = keys.size("depth", 27)?;
    let deepstack = keys.sizes("deepstack_visual_indexes")?.unwrap_or_else(|| vec![8, 16, 24]);
    let ascending = deepstack.windows(2).all(|w| w[0] < w[1]);
    if !ascending || deepstack.iter().any(|&i| i >= depth) || deepstack.len() > text.num_layers {
        let expected = format!(
            "ascending numbers below depth {depth}, no more than {} language layers",
            text.num_layers
        );
        return Err(keys.wrong("deepstack_visual_indexes", expected));
    }
    Ok(VisionConfig {
        hidden_size,
        intermediate_size: keys.size("intermediate_size", 4304)?,
        hidden_act: read_gelu(keys, "hidden_act", GeluKind::Tanh)?,
        depth,
        num_heads: read_heads(keys, 16, ("hidden_size", hidden_size))?,
        patching: read_patching(keys, 16)?,
        places: keys.size("num_position_embeddings", 2304)?,
        deepstack,
        out_hidden_size: read_output_width(keys, "out_hidden_size", 3584, text.hidden_size)?,
        rope_theta: read_axial_theta(keys)?,
    })
}

/// Rows of the table of places for each patch, four taps, and their weights.
#[derive(Debug, Clone, PartialEq)]
pub struct PlaceTaps {
    /// `[P * 4]`.
    pub index: Vec<i32>,
    /// `[P, 4]`.
    pub weight: Vec<f32>,
}

/// Places of the patches at `positions` (row, column) of each frame of `grids`: the table is a square
/// whose corners lie on the corners of the frame, read bilinearly (`align_corners`), in
/// the single-precision steps of transformers' `get_vision_interpolation_indices_and_weights`.
pub fn place_taps(positions: &[[i32; 2]], grids: &[[usize; 3]], places: usize) -> PlaceTaps {
    let side = places.isqrt();
    let mut taps = PlaceTaps { index: Vec::new(), weight: Vec::new() };
    let mut rest = positions;
    for &[t, h, w] in grids {
        let (of_grid, after) = rest.split_at(t * h * w);
        rest = after;
        for &[row, column] in of_grid {
            let (rows, columns) = (axis_taps(row, h, side), axis_taps(column, w, side));
            for (r, row_weight) in rows {
                for (c, column_weight) in columns {
                    taps.index.push((r * side + c) as i32);
                    taps.weight.push(row_weight * column_weight);
                }
            }
        }
    }
    taps
}

/// The two places beside patch `at` of `size`, with their weights.
fn axis_taps(at: i32, size: usize, side: usize) -> [(usize, f32); 2] {
    let source = at as f32 * (side - 1) as f32 / (size - 1).max(1) as f32;
    let floor = source.floor();
    [0.0, 1.0].map(|offset: f32| {
        let weight = (1.0 - (source - floor - offset).abs()).max(0.0);
        (((floor + offset) as usize).min(side - 1), weight)
    })
}

/// In the order of transformers' `named_parameters`.
fn vision_parameters(v: &VisionConfig) -> Vec<ParamSpec> {
    let (h, f, p) = (v.hidden_size, v.intermediate_size, v.patching);
    let mut list = ParamList::new("model.visual", Part::Vision);
    list.push("patch_embed.proj.weight", &[h, 3, p.frames, p.side, p.side]);
    list.push("patch_embed.proj.bias", &[h]);
    list.push("pos_embed.weight", &[v.places, h]);
    for i in 0..v.depth {
        list.prefix = format!("model.visual.blocks.{i}");
        list.layer_norm("norm1", h);
        list.layer_norm("norm2", h);
        list.linear("attn.qkv", h, 3 * h, true);
        list.linear("attn.proj", h, h, true);
        list.linear("mlp.linear_fc1", h, f, true);
        list.linear("mlp.linear_fc2", f, h, true);
    }
    list.part = Part::Connector;
    let unit = h * p.merge * p.merge;
    let deep = (0..v.deepstack.len()).map(|i| (format!("deepstack_merger_list.{i}"), unit));
    for (module, norm) in [("merger".to_string(), h)].into_iter().chain(deep) {
        list.prefix = format!("model.visual.{module}");
        list.layer_norm("norm", norm);
        list.linear("linear_fc1", unit, unit, true);
        list.linear("linear_fc2", unit, v.out_hidden_size, true);
    }
    list.list
}

/// config.json of a new model of this family or [`qwen3_vl_moe`](super::qwen3_vl_moe), in the layout of
/// transformers 5.
///
/// # Errors
/// If the tokenizer lacks a token.
pub(super) fn new_config(
    family: &dyn Family,
    preset: &Preset,
    tokenizer: &NewTokenizer,
) -> Result<Value> {
    let (text, model_type) = (&preset.text, family.model_type());
    let tiny = TowerSizes { hidden_size: 64, intermediate_size: 192, ..preset.tower };
    let tower = preset.of([tiny, preset.tower]);
    let half = text.head_dim() / 2;
    let third = half / 3; // the proportion of the published models: 24, 20, 20 of 64
    let id = tokenizer.id;
    let end_of_text = id("<|endoftext|>")?;
    let own = json!({
        "attention_bias": false,
        "bos_token_id": end_of_text,
        "dtype": "float32",
        "eos_token_id": [id("<|im_end|>")?, end_of_text],
        "head_dim": text.head_dim(),
        "rms_norm_eps": 1e-6,
        "rope_parameters": {
            "mrope_interleaved": true,
            "mrope_section": [half - 2 * third, third, third],
            "rope_theta": 5e6,
            "rope_type": "default",
        },
        "tie_word_embeddings": true,
    });
    let vision = json!({
        "deepstack_visual_indexes": [tower.depth / 3, tower.depth * 2 / 3],
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": tower.hidden_size,
        "intermediate_size": tower.intermediate_size,
        "num_position_embeddings": 256,
        "out_hidden_size": text.hidden_size,
        "patch_size": 16,
    });
    let vision = tower_config(&tower, &format!("{model_type}_vision"), vision);
    let text = text_config(text, &format!("{model_type}_text"), tokenizer, own)?;
    Ok(model_config(family, text, vision, token_keys(tokenizer)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_meet_at_the_corners() {
        // a table of 3 x 3 read for a frame of 2 x 5 patches
        let positions: Vec<[i32; 2]> = (0..10).map(|i| [i / 5, i % 5]).collect();
        let taps = place_taps(&positions, &[[1, 2, 5]], 9);
        let of = |patch: usize| -> Vec<(i32, f32)> {
            let range = 4 * patch..4 * patch + 4;
            let all = taps.index[range.clone()].iter().copied().zip(taps.weight[range].to_vec());
            all.filter(|(_, w)| *w > 0.0).collect()
        };
        assert_eq!((of(0), of(4)), (vec![(0, 1.0)], vec![(2, 1.0)]));
        assert_eq!((of(5), of(9)), (vec![(6, 1.0)], vec![(8, 1.0)]));
        assert_eq!(of(1), [(0, 0.5), (1, 0.5)]);
        // one patch takes the first place
        assert_eq!(place_taps(&[[0, 0]], &[[1, 1, 1]], 9).weight, [1.0, 0.0, 0.0, 0.0]);
    }
}
