//! Qwen2.5-VL (Bai et al., arXiv 2502.13923): keys of config.json, the window order of vision patches,
//! the list of parameters, presets. Tensors and ops are in [`net`].
//!
//! Legend: T tokens, P patches, M merged units (one per image token; `merge`² patches each), D head
//! size. Patches of an image come from the processor unit by unit, so every reordering below moves
//! whole units.

pub mod net; // the vision tower as a list of ops

use super::naming::NamePairs;
use super::preset::{Preset, TextSizes, model_config, text_config, tower_config};
use super::qwen_patches::{merged_grid, push_frame};
use super::tower_keys::{read_axial_theta, read_heads, read_output_width, read_patching};
use super::{Architecture, BoxUnits, Family, NewTokenizer, Patching, VisionTower};
use crate::base::{HostTensor, Result};
use crate::model::config::keys::Keys;
use crate::model::config::text::{
    TextDefaults, bos_id, eos_ids, mrope_section, read_text, token_id,
};
use crate::model::config::{TokenIds, VlmConfig};
use crate::model::decoder::TextConfig;
use crate::model::decoder::names::IN_MODEL;
use crate::model::net::Net;
use crate::model::positions::PositionRule;
use crate::model::processor::qwen_image::ImageProcessorSettings;
use crate::model::processor::qwen_video::{QwenProcessor, VideoStyle, new_files};
use crate::model::processor::{ProcessorOptions, VisualProcessor};
use crate::model::rope::mrope_axes;
use crate::model::spec::{ParamList, ParamSpec, Part};
use crate::ops::Slot;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

/// The family.
#[derive(Debug)]
pub struct Qwen25Vl;

/// Defaults are those of transformers' Qwen2_5_VLTextConfig, and of Qwen2VLTextConfig.
const TEXT: TextDefaults = TextDefaults {
    sizes: [8192, 29568, 80, 64, 8, 152_064, 32_768],
    rms_norm_eps: 1e-5,
    rope_theta: 1e6,
    head_dim: 0,
    qkv_bias: true,
    qk_norm: false,
    names: IN_MODEL,
};

/// Default of `mrope_section` in Qwen2_5_VLRotaryEmbedding, and in Qwen2VLRotaryEmbedding.
const MROPE_SECTION: [usize; 3] = [16, 24, 24];

/// eps of every norm in the vision tower: written into transformers' Qwen2_5_VLVisionBlock and
/// Qwen2_5_VLPatchMerger, no key of config.json changes it.
const VISION_RMS_NORM_EPS: f64 = 1e-6;

/// Default of `vision_config.tokens_per_second`.
const TOKENS_PER_SECOND: usize = 4;

impl Family for Qwen25Vl {
    fn model_type(&self) -> &'static str {
        "qwen2_5_vl"
    }

    fn boxes(&self) -> BoxUnits {
        BoxUnits::SeenPixels
    }

    fn vlm_r1_converts_boxes(&self) -> bool {
        true
    }
    fn architecture(&self) -> &'static str {
        "Qwen2_5_VLForConditionalGeneration"
    }
    fn names(&self) -> NamePairs {
        &[
            ("model.visual.", "visual."),
            ("model.language_model.layers.", "model.layers."),
            ("model.language_model.embed_tokens.", "model.embed_tokens."),
            ("model.language_model.norm.", "model.norm."),
            ("lm_head.", "lm_head."),
        ]
    }

    fn vision_modules(&self) -> &'static [&'static str] {
        &["visual"]
    }

    fn read(&self, top: &Keys) -> Result<Architecture> {
        let (text, tokens) = read_language_model(top)?;
        let vision = read_vision(&top.object_or_empty("vision_config")?, text.hidden_size)?;
        Ok(Architecture { text, vision: Arc::new(vision), tokens, positions: PositionRule::Grid })
    }

    fn processor(
        &self,
        dir: Option<&Path>,
        config: &VlmConfig,
        options: &ProcessorOptions,
    ) -> Result<Box<dyn VisualProcessor>> {
        let images = ImageProcessorSettings::published(config.vision.patching());
        Ok(Box::new(QwenProcessor::new(dir, images, video_style(&config.raw), options)?))
    }

    fn new_config(&self, preset: &Preset, tokenizer: &NewTokenizer) -> Result<Value> {
        new_config(preset, tokenizer)
    }

    fn processor_files(&self, config: &VlmConfig) -> Result<Vec<(&'static str, Value)>> {
        let settings = ImageProcessorSettings::published(config.vision.patching());
        let context = config.text.max_position_embeddings;
        Ok(new_files(settings, video_style(&config.raw), context, "Qwen2_5_VLProcessor"))
    }
}

/// Videos by the clock of config.json, which was read and checked before.
fn video_style(config: &Value) -> VideoStyle {
    let rate = config["vision_config"]["tokens_per_second"].as_u64();
    VideoStyle::Clock { tokens_per_second: rate.map_or(TOKENS_PER_SECOND, |n| n as usize) }
}

/// The language model and the token ids. M-RoPE: whole heads turn, neighbouring frequencies share an axis.
///
/// # Errors
/// If a key has a wrong value.
pub(super) fn read_language_model(top: &Keys) -> Result<(TextConfig, TokenIds)> {
    // transformers 4 has the text keys at the top level
    let keys = top.object("text_config")?.unwrap_or_else(|| top.clone());
    let mut text = read_text(top, &keys, &TEXT)?;
    text.rope.axes = mrope_axes(mrope_section(&keys, MROPE_SECTION, text.head_dim)?);
    let tokens = read_tokens(top, &keys, text.vocab_size)?;
    Ok((text, tokens))
}

/// Token ids under the keys that the Qwen-VL families share; defaults are those of transformers'
/// Qwen2_5_VLConfig and Qwen2_5_VLTextConfig.
///
/// # Errors
/// If an id is not below the vocabulary's size.
pub fn read_tokens(top: &Keys, text: &Keys, vocab_size: usize) -> Result<TokenIds> {
    let special = |key, default| token_id(top, key, default, vocab_size);
    Ok(TokenIds {
        image: special("image_token_id", 151_655)?,
        video: Some(special("video_token_id", 151_656)?),
        marks: vec![
            special("vision_start_token_id", 151_652)?,
            special("vision_end_token_id", 151_653)?,
        ],
        eos: eos_ids(text, &[151_645])?,
        bos: bos_id(text, Some(151_643))?,
        pad: text.id("pad_token_id")?,
    })
}

/// The vision tower and its connector.
#[derive(Debug, Clone, PartialEq)]
pub struct VisionConfig {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the gated MLP.
    pub intermediate_size: usize,
    /// Blocks.
    pub depth: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// How pixels become patches and patches features.
    pub patching: Patching,
    /// Pixels per side of an attention window.
    pub window_size: usize,
    /// Blocks that attend to the whole image; the others attend inside windows.
    pub fullatt_block_indexes: Vec<usize>,
    /// Width of the connector's output: the language model's `hidden_size`.
    pub out_hidden_size: usize,
    /// Added to the mean square in RMSNorm; a constant of the architecture, not a key.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Temporal positions per second of video.
    pub tokens_per_second: usize,
}

impl VisionConfig {
    /// Size of a head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_heads
    }
    /// Merged units per side of an attention window.
    pub fn window_units(&self) -> usize {
        self.window_size / self.patching.merge / self.patching.side
    }
    /// True if block `index` attends to the whole image.
    pub fn is_full_attention(&self, index: usize) -> bool {
        self.fullatt_block_indexes.contains(&index)
    }
}

impl VisionTower for VisionConfig {
    fn parameters(&self) -> Vec<ParamSpec> {
        vision_parameters(self)
    }
    fn encode(&self, net: &mut Net, pixels: HostTensor, grids: &[[usize; 3]]) -> Result<Vec<Slot>> {
        Ok(vec![net::encode(net, self, pixels, grids)?])
    }
    fn patching(&self) -> Patching {
        self.patching
    }
}

/// Defaults are those of transformers' Qwen2_5_VLVisionConfig. `in_chans` and `spatial_patch_size` of the
/// published files are not read there either.
///
/// # Errors
/// If a value cannot be used.
pub fn read_vision(keys: &Keys, text_hidden: usize) -> Result<VisionConfig> {
    let hidden_size = keys.size("hidden_size", 3584)?;
    keys.must_be("hidden_act", "silu")?;
    let vision = VisionConfig {
        hidden_size,
        intermediate_size: keys.size("intermediate_size", 3420)?,
        depth: keys.size("depth", 32)?,
        num_heads: read_heads(keys, 16, ("hidden_size", hidden_size))?,
        patching: read_patching(keys, 14)?,
        window_size: keys.size("window_size", 112)?,
        fullatt_block_indexes: keys
            .sizes("fullatt_block_indexes")?
            .unwrap_or_else(|| vec![7, 15, 23, 31]),
        out_hidden_size: read_output_width(keys, "out_hidden_size", 3584, text_hidden)?,
        rms_norm_eps: VISION_RMS_NORM_EPS,
        rope_theta: read_axial_theta(keys)?,
        tokens_per_second: keys.size("tokens_per_second", TOKENS_PER_SECOND)?,
    };
    if vision.window_units() == 0 {
        let unit = vision.patching.side * vision.patching.merge;
        return Err(keys.wrong("window_size", format!("at least one merged unit, {unit} pixels")));
    }
    Ok(vision)
}

/// The order in which the vision tower works on the patches of a batch of images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VisionLayout {
    /// `[M]`: merged unit (processor order) at each place of the window order.
    pub window_index: Vec<u32>,
    /// `[P]`: patch (processor order) at each place of the window order; the row gather before block 0.
    pub patch_order: Vec<u32>,
    /// `[M]`: inverse of `window_index`; the row gather after the merger, back to token order.
    pub reverse: Vec<u32>,
    /// Attention segments (first patch, patches) of window blocks, in window order.
    pub window_segments: Vec<(usize, usize)>,
    /// Attention segments of full blocks: one per image and frame.
    pub full_segments: Vec<(usize, usize)>,
    /// `[P]`: (row, column) in patches of each patch, in window order.
    pub rope_pos: Vec<[i32; 2]>,
}

/// Lays out images of `grids` (`[t, h, w]` in patches each). Windows of
/// [`VisionConfig::window_units`] merged units per side are cut from the upper left;
/// those at the right and lower edges are smaller.
///
/// # Errors
/// If a grid does not divide by the merge size.
pub fn vision_layout(grids: &[[usize; 3]], cfg: &VisionConfig) -> Result<VisionLayout> {
    let merge = cfg.patching.merge;
    let side = cfg.window_units();
    let unit_patches = merge * merge;
    let mut window_index = Vec::new();
    let mut window_segments = Vec::new();
    let mut full_segments = Vec::new();
    let mut processor_pos: Vec<[i32; 2]> = Vec::new();
    for (i, &grid) in grids.iter().enumerate() {
        let [t, h, w] = merged_grid(grid, merge, i)?;
        for _ in 0..t {
            let base = processor_pos.len() / unit_patches;
            full_segments.push((processor_pos.len(), h * w * unit_patches));
            push_frame(&mut processor_pos, h, w, merge);
            for (top, left) in windows(h, w, side) {
                let start = window_index.len();
                for row in top..(top + side).min(h) {
                    let columns = left..(left + side).min(w);
                    window_index.extend(columns.map(|column| (base + row * w + column) as u32));
                }
                let units = window_index.len() - start;
                window_segments.push((start * unit_patches, units * unit_patches));
            }
        }
    }
    let mut reverse = vec![0; window_index.len()];
    for (place, &unit) in window_index.iter().enumerate() {
        reverse[unit as usize] = place as u32;
    }
    let patch_order: Vec<u32> = window_index
        .iter()
        .flat_map(|&unit| (0..unit_patches as u32).map(move |k| unit * unit_patches as u32 + k))
        .collect();
    let rope_pos = patch_order.iter().map(|&p| processor_pos[p as usize]).collect();
    Ok(VisionLayout {
        window_index,
        patch_order,
        reverse,
        window_segments,
        full_segments,
        rope_pos,
    })
}

/// Upper left corners of the windows of an `h` x `w` grid, row by row.
fn windows(h: usize, w: usize, side: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..h).step_by(side).flat_map(move |top| (0..w).step_by(side).map(move |left| (top, left)))
}

/// In the order of transformers' `named_parameters`.
fn vision_parameters(v: &VisionConfig) -> Vec<ParamSpec> {
    let (h, f, p) = (v.hidden_size, v.intermediate_size, v.patching);
    let mut list = ParamList::new("model.visual", Part::Vision);
    list.push("patch_embed.proj.weight", &[h, 3, p.frames, p.side, p.side]);
    for i in 0..v.depth {
        list.prefix = format!("model.visual.blocks.{i}");
        list.push("norm1.weight", &[h]);
        list.push("norm2.weight", &[h]);
        list.linear("attn.qkv", h, 3 * h, true);
        list.linear("attn.proj", h, h, true);
        list.linear("mlp.gate_proj", h, f, true);
        list.linear("mlp.up_proj", h, f, true);
        list.linear("mlp.down_proj", f, h, true);
    }
    list.prefix = "model.visual.merger".into();
    list.part = Part::Connector;
    let unit = h * p.merge * p.merge;
    list.push("ln_q.weight", &[h]);
    list.linear("mlp.0", unit, unit, true);
    list.linear("mlp.2", unit, v.out_hidden_size, true);
    list.list
}

/// config.json of a new model, in the layout of transformers 5.
fn new_config(preset: &Preset, tokenizer: &NewTokenizer) -> Result<Value> {
    let Preset { text, tower, .. } = preset;
    let vision = json!({
        "fullatt_block_indexes": [tower.depth / 2 - 1, tower.depth - 1],
        "hidden_act": "silu",
        "hidden_size": tower.hidden_size,
        "intermediate_size": tower.intermediate_size,
        "out_hidden_size": text.hidden_size,
        "patch_size": 14,
        "tokens_per_second": TOKENS_PER_SECOND,
        "window_size": 56,
    });
    new_qwen2_config(&Qwen25Vl, text, tower_config(tower, "qwen2_5_vl_vision", vision), tokenizer)
}

/// config.json of a family with this language model.
///
/// # Errors
/// If the tokenizer lacks a token.
pub(super) fn new_qwen2_config(
    family: &dyn Family,
    text: &TextSizes,
    vision: Value,
    tokenizer: &NewTokenizer,
) -> Result<Value> {
    let quarter = text.head_dim() / 8; // the proportion of the published models: 16 of 64, 24, 24
    let id = tokenizer.id;
    let end_of_text = id("<|endoftext|>")?;
    let own = json!({
        "bos_token_id": end_of_text,
        "dtype": "float32",
        "eos_token_id": [id("<|im_end|>")?, end_of_text],
        "layer_types": vec!["full_attention"; text.num_layers],
        "rms_norm_eps": 1e-6,
        "rope_parameters": {
            "mrope_section": [quarter, quarter * 3 / 2, quarter * 3 / 2],
            "rope_theta": 1e6,
            "rope_type": "default",
        },
        "sliding_window": null,
        "use_sliding_window": false,
    });
    let text = text_config(text, &format!("{}_text", family.model_type()), tokenizer, own)?;
    Ok(model_config(family, text, vision, token_keys(tokenizer)?))
}

/// Keys of what [`read_tokens`] reads at the top level.
///
/// # Errors
/// If the tokenizer lacks a token.
pub(super) fn token_keys(tokenizer: &NewTokenizer) -> Result<Value> {
    let id = tokenizer.id;
    Ok(json!({
        "image_token_id": id("<|image_pad|>")?,
        "video_token_id": id("<|video_pad|>")?,
        "vision_end_token_id": id("<|vision_end|>")?,
        "vision_start_token_id": id("<|vision_start|>")?,
    }))
}
