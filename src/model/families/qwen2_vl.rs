//! Qwen2-VL (Wang et al., arXiv 2409.12191): keys of config.json, the list of parameters, presets. The
//! language model is that of [`qwen2_5_vl`](super::qwen2_5_vl); tensors and ops are in [`net`].

pub mod net; // the vision tower as a list of ops

use super::naming::NamePairs;
use super::preset::{Preset, tower_config};
use super::qwen2_5_vl::{Qwen25Vl, new_qwen2_config, read_language_model};
use super::tower_keys::{
    read_axial_theta, read_gelu, read_heads, read_output_width, read_patching,
};
use super::{Architecture, Family, NewTokenizer, Patching, VisionTower};
use crate::base::{HostTensor, Result};
use crate::model::config::VlmConfig;
use crate::model::config::keys::Keys;
use crate::model::net::Net;
use crate::model::positions::PositionRule;
use crate::model::processor::qwen_image::ImageProcessorSettings;
use crate::model::processor::qwen_video::{QwenProcessor, VideoStyle, new_files};
use crate::model::processor::{ProcessorOptions, VisualProcessor};
use crate::model::spec::{ParamList, ParamSpec, Part};
use crate::ops::Slot;
use crate::ops::gelu::GeluKind;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

/// The family.
#[derive(Debug)]
pub struct Qwen2Vl;

impl Family for Qwen2Vl {
    fn model_type(&self) -> &'static str {
        "qwen2_vl"
    }

    fn vlm_r1_converts_boxes(&self) -> bool {
        true
    }
    fn architecture(&self) -> &'static str {
        "Qwen2VLForConditionalGeneration"
    }
    fn names(&self) -> NamePairs {
        Qwen25Vl.names()
    }
    fn vision_modules(&self) -> &'static [&'static str] {
        Qwen25Vl.vision_modules()
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
        Ok(Box::new(QwenProcessor::new(dir, images, VideoStyle::Frames, options)?))
    }

    fn new_config(&self, preset: &Preset, tokenizer: &NewTokenizer) -> Result<Value> {
        new_config(preset, tokenizer)
    }

    fn processor_files(&self, config: &VlmConfig) -> Result<Vec<(&'static str, Value)>> {
        let settings = ImageProcessorSettings::published(config.vision.patching());
        let context = config.text.max_position_embeddings;
        Ok(new_files(settings, VideoStyle::Frames, context, "Qwen2VLProcessor"))
    }
}

/// The vision tower and its connector.
#[derive(Debug, Clone, PartialEq)]
pub struct VisionConfig {
    /// Width of the residual stream (`embed_dim`).
    pub embed_dim: usize,
    /// Width inside the MLP: `embed_dim` times `mlp_ratio`.
    pub intermediate_size: usize,
    /// Activation inside the MLP.
    pub hidden_act: GeluKind,
    /// Blocks.
    pub depth: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// How pixels become patches and patches features.
    pub patching: Patching,
    /// Width of the connector's output (`hidden_size`): the language model's.
    pub out_hidden_size: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
}

impl VisionConfig {
    /// Size of a head.
    pub fn head_dim(&self) -> usize {
        self.embed_dim / self.num_heads
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

/// Defaults are those of transformers' Qwen2VLVisionConfig. `in_chans` and `spatial_patch_size` of the
/// published files are not read there either.
///
/// # Errors
/// If a value cannot be used.
pub fn read_vision(keys: &Keys, text_hidden: usize) -> Result<VisionConfig> {
    let embed_dim = keys.size("embed_dim", 1280)?;
    Ok(VisionConfig {
        embed_dim,
        intermediate_size: embed_dim * keys.size("mlp_ratio", 4)?,
        hidden_act: read_gelu(keys, "hidden_act", GeluKind::Quick)?,
        depth: keys.size("depth", 32)?,
        num_heads: read_heads(keys, 16, ("embed_dim", embed_dim))?,
        patching: read_patching(keys, 14)?,
        out_hidden_size: read_output_width(keys, "hidden_size", 3584, text_hidden)?,
        rope_theta: read_axial_theta(keys)?,
    })
}

/// In the order of transformers' `named_parameters`.
fn vision_parameters(v: &VisionConfig) -> Vec<ParamSpec> {
    let (h, f, p) = (v.embed_dim, v.intermediate_size, v.patching);
    let mut list = ParamList::new("model.visual", Part::Vision);
    list.push("patch_embed.proj.weight", &[h, 3, p.frames, p.side, p.side]);
    for i in 0..v.depth {
        list.prefix = format!("model.visual.blocks.{i}");
        list.layer_norm("norm1", h);
        list.layer_norm("norm2", h);
        list.linear("attn.qkv", h, 3 * h, true);
        list.linear("attn.proj", h, h, true);
        list.linear("mlp.fc1", h, f, true);
        list.linear("mlp.fc2", f, h, true);
    }
    list.prefix = "model.visual.merger".into();
    list.part = Part::Connector;
    let unit = h * p.merge * p.merge;
    list.layer_norm("ln_q", h);
    list.linear("mlp.0", unit, unit, true);
    list.linear("mlp.2", unit, v.out_hidden_size, true);
    list.list
}

/// Width inside the MLP in widths of the tower, of each preset.
const MLP_RATIOS: [usize; 2] = [3, 4];

/// config.json of a new model, in the layout of transformers 5.
fn new_config(preset: &Preset, tokenizer: &NewTokenizer) -> Result<Value> {
    let Preset { text, tower, .. } = preset;
    let vision = json!({
        "embed_dim": tower.hidden_size,
        "hidden_act": "quick_gelu",
        "hidden_size": text.hidden_size,
        "mlp_ratio": preset.of(MLP_RATIOS),
        "patch_size": 14,
    });
    new_qwen2_config(&Qwen2Vl, text, tower_config(tower, "qwen2_vl_vision", vision), tokenizer)
}
