//! Qwen3-VL (Qwen team, arXiv 2511.21631): keys of config.json, the learned places of patches, the list
//! of parameters, presets. Tensors and ops are in [`net`].

pub mod net; // the vision tower as a list of ops

use super::naming::NamePairs;
use super::qwen2_5_vl::read_tokens;
use super::qwen2_vl::{VISION_ROPE_THETA, read_axial_theta, read_gelu, read_heads, read_patching};
use super::{Architecture, Family, NewTokenizer, Patching, VisionTower};
use crate::base::{Error, HostTensor, Result};
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
    fn name(&self) -> &'static str {
        "qwen3_vl"
    }
    fn model_type(&self) -> &'static str {
        "qwen3_vl"
    }
    fn architecture(&self) -> &'static str {
        "Qwen3VLForConditionalGeneration"
    }
    fn names(&self) -> NamePairs {
        &[
            ("model.visual.", "model.visual."),
            ("model.language_model.", "model.language_model."),
            ("lm_head.", "lm_head."),
        ]
    }
    fn vision_modules(&self) -> &'static [&'static str] {
        &["visual"]
    }

    fn read(&self, top: &Keys) -> Result<Architecture> {
        let keys = top.object("text_config")?.unwrap_or_else(|| top.empty("text_config"));
        architecture(top, &keys, read_interleaved_text(top, &keys, &TEXT)?)
    }

    fn processor(
        &self,
        dir: &Path,
        _: &VlmConfig,
        options: &ProcessorOptions,
    ) -> Result<Box<dyn VisualProcessor>> {
        Ok(Box::new(QwenProcessor::from_dir(dir, VideoStyle::Timestamps, options)?))
    }

    fn default_processor(
        &self,
        config: &VlmConfig,
        options: &ProcessorOptions,
    ) -> Result<Box<dyn VisualProcessor>> {
        let images = published_images(config.vision.patching());
        Ok(Box::new(QwenProcessor::published(images, VideoStyle::Timestamps, options)?))
    }

    fn preset(&self, size: &str, tokenizer: &NewTokenizer) -> Result<Value> {
        preset(size, tokenizer)
    }

    fn processor_files(&self, config: &VlmConfig) -> Vec<(&'static str, Value)> {
        let images = published_images(config.vision.patching());
        let context = config.text.max_position_embeddings;
        new_files(images, VideoStyle::Timestamps, context, "Qwen3VLProcessor")
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
    let vision = top.object("vision_config")?.unwrap_or_else(|| top.empty("vision_config"));
    let vision = read_vision(&vision, &text)?;
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
    fn feature_rows(&self, grid: [usize; 3]) -> usize {
        grid.iter().product::<usize>() / (self.patching.merge * self.patching.merge)
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
    let out_hidden_size = keys.size("out_hidden_size", 3584)?;
    if out_hidden_size != text.hidden_size {
        let expected = format!("the language model's hidden_size {}", text.hidden_size);
        return Err(keys.wrong("out_hidden_size", expected));
    }
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
        num_heads: read_heads(keys, hidden_size, "hidden_size")?,
        patching: read_patching(keys, 16)?,
        places: keys.size("num_position_embeddings", 2304)?,
        deepstack,
        out_hidden_size,
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

/// config.json of a new model, in the layout of transformers 5.
fn preset(size: &str, tokenizer: &NewTokenizer) -> Result<Value> {
    let (text, vision) = match size {
        "tiny" => (PresetText { sizes: [128, 384, 4, 4, 2, 2048], head_dim: 32 }, [64, 192, 4, 4]),
        "small" => {
            (PresetText { sizes: [384, 1152, 8, 6, 2, 8192], head_dim: 64 }, [256, 768, 6, 4])
        }
        other => return Err(unknown_preset(other)),
    };
    new_config(["Qwen3VLForConditionalGeneration", "qwen3_vl"], text, vision, tokenizer)
}

/// The error for a size that is not there.
pub(super) fn unknown_preset(size: &str) -> Error {
    Error::usage("unknown model preset").expected("tiny or small").found(size)
}

/// Language model of a preset.
pub(super) struct PresetText {
    /// `hidden_size`, `intermediate_size`, layers, query heads, key heads, context.
    pub sizes: [usize; 6],
    /// `head_dim`.
    pub head_dim: usize,
}

/// config.json of class and `model_type`; `vision` is width, inner width, blocks, heads.
pub(super) fn new_config(
    [class, model_type]: [&str; 2],
    PresetText { sizes: text, head_dim }: PresetText,
    vision: [usize; 4],
    tokenizer: &NewTokenizer,
) -> Result<Value> {
    let third = head_dim / 2 / 3; // the proportion of the published models: 24, 20, 20 of 64
    let id = tokenizer.id;
    let end_of_text = id("<|endoftext|>")?;
    Ok(json!({
        "architectures": [class],
        "dtype": "float32",
        "image_token_id": id("<|image_pad|>")?,
        "model_type": model_type,
        "text_config": {
            "attention_bias": false,
            "attention_dropout": 0.0,
            "bos_token_id": end_of_text,
            "dtype": "float32",
            "eos_token_id": [id("<|im_end|>")?, end_of_text],
            "head_dim": head_dim,
            "hidden_act": "silu",
            "hidden_size": text[0],
            "initializer_range": 0.02,
            "intermediate_size": text[1],
            "max_position_embeddings": text[5],
            "model_type": format!("{model_type}_text"),
            "num_attention_heads": text[3],
            "num_hidden_layers": text[2],
            "num_key_value_heads": text[4],
            "pad_token_id": end_of_text,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "mrope_interleaved": true,
                "mrope_section": [head_dim / 2 - 2 * third, third, third],
                "rope_theta": 5e6,
                "rope_type": "default",
            },
            "tie_word_embeddings": true,
            "use_cache": true,
            "vocab_size": tokenizer.vocab_size,
        },
        "tie_word_embeddings": true,
        "video_token_id": id("<|video_pad|>")?,
        "vision_config": {
            "deepstack_visual_indexes": [vision[2] / 3, vision[2] * 2 / 3],
            "depth": vision[2],
            "dtype": "float32",
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": vision[0],
            "in_channels": 3,
            "initializer_range": 0.02,
            "intermediate_size": vision[1],
            "model_type": format!("{model_type}_vision"),
            "num_heads": vision[3],
            "num_position_embeddings": 256,
            "out_hidden_size": text[0],
            "patch_size": 16,
            "rope_parameters": { "rope_theta": VISION_ROPE_THETA, "rope_type": "axial" },
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        "vision_end_token_id": id("<|vision_end|>")?,
        "vision_start_token_id": id("<|vision_start|>")?,
    }))
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
