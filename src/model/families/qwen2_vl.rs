//! Qwen2-VL (Wang et al., arXiv 2409.12191): keys of config.json, the list of parameters, presets.
//! Tensors and ops are in [`net`].

pub mod net; // the vision tower as a list of ops

use super::naming::NamePairs;
use super::qwen2_5_vl::{Qwen25Vl, read_mrope_text, read_tokens};
use super::{Architecture, Family, NewTokenizer, Patching, VisionTower};
use crate::base::{Error, HostTensor, Result};
use crate::model::config::VlmConfig;
use crate::model::config::keys::Keys;
use crate::model::config::text::TextDefaults;
use crate::model::decoder::names::IN_MODEL;
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

/// Defaults are those of transformers' Qwen2VLTextConfig.
const TEXT: TextDefaults = TextDefaults {
    sizes: [8192, 29568, 80, 64, 8, 152_064, 32_768],
    rms_norm_eps: 1e-5,
    rope_theta: 1e6,
    head_dim: 0,
    qkv_bias: true,
    qk_norm: false,
    names: IN_MODEL,
};

/// Default of `mrope_section` in Qwen2VLRotaryEmbedding.
const MROPE_SECTION: [usize; 3] = [16, 24, 24];
/// Default of `vision_config.rope_parameters.rope_theta`.
pub const VISION_ROPE_THETA: f64 = 10_000.0;

impl Family for Qwen2Vl {
    fn name(&self) -> &'static str {
        "qwen2_vl"
    }
    fn model_type(&self) -> &'static str {
        "qwen2_vl"
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
        // transformers 4 has the text keys at the top level
        let keys = top.object("text_config")?.unwrap_or_else(|| top.clone());
        let text = read_mrope_text(top, &keys, &TEXT, MROPE_SECTION)?;
        let vision = top.object("vision_config")?.unwrap_or_else(|| top.empty("vision_config"));
        let vision = read_vision(&vision, text.hidden_size)?;
        let tokens = read_tokens(top, &keys, text.vocab_size)?;
        Ok(Architecture { text, vision: Arc::new(vision), tokens, positions: PositionRule::Grid })
    }

    fn processor(
        &self,
        dir: &Path,
        _: &VlmConfig,
        options: &ProcessorOptions,
    ) -> Result<Box<dyn VisualProcessor>> {
        Ok(Box::new(QwenProcessor::from_dir(dir, VideoStyle::Frames, options)?))
    }

    fn default_processor(
        &self,
        config: &VlmConfig,
        options: &ProcessorOptions,
    ) -> Result<Box<dyn VisualProcessor>> {
        let settings = ImageProcessorSettings::published(config.vision.patching());
        Ok(Box::new(QwenProcessor::published(settings, VideoStyle::Frames, options)?))
    }

    fn preset(&self, size: &str, tokenizer: &NewTokenizer) -> Result<Value> {
        preset(size, tokenizer)
    }

    fn processor_files(&self, config: &VlmConfig) -> Vec<(&'static str, Value)> {
        let settings = ImageProcessorSettings::published(config.vision.patching());
        let context = config.text.max_position_embeddings;
        new_files(settings, VideoStyle::Frames, context, "Qwen2VLProcessor")
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
    fn feature_rows(&self, grid: [usize; 3]) -> usize {
        grid.iter().product::<usize>() / (self.patching.merge * self.patching.merge)
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
    let num_heads = read_heads(keys, embed_dim, "embed_dim")?;
    let out_hidden_size = keys.size("hidden_size", 3584)?;
    if out_hidden_size != text_hidden {
        let expected = format!("the language model's hidden_size {text_hidden}");
        return Err(keys.wrong("hidden_size", expected));
    }
    Ok(VisionConfig {
        embed_dim,
        intermediate_size: embed_dim * keys.size("mlp_ratio", 4)?,
        hidden_act: read_gelu(keys, "hidden_act", GeluKind::Quick)?,
        depth: keys.size("depth", 32)?,
        num_heads,
        patching: read_patching(keys, 14)?,
        out_hidden_size,
        rope_theta: read_axial_theta(keys)?,
    })
}

/// `num_heads` of a tower whose heads turn by rows and columns: their size must divide by 4.
///
/// # Errors
/// If it does not, or `head_dim` contradicts it.
pub fn read_heads(keys: &Keys, width: usize, width_key: &str) -> Result<usize> {
    let heads = keys.size("num_heads", 16)?;
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
    if keys.size("in_channels", 3)? != 3 {
        return Err(keys.wrong("in_channels", "3"));
    }
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
    let rope = keys.object("rope_parameters")?.unwrap_or_else(|| keys.empty("rope_parameters"));
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

/// config.json of a new model, in the layout of transformers 5.
fn preset(size: &str, tokenizer: &NewTokenizer) -> Result<Value> {
    let (text, vision) = match size {
        "tiny" => ([128, 384, 4, 4, 2, 2048], [96, 4, 4, 3]),
        "small" => ([384, 1152, 8, 6, 2, 8192], [256, 6, 4, 4]),
        other => {
            return Err(Error::usage("unknown model preset")
                .expected("tiny or small")
                .found(other));
        }
    };
    let quarter = text[0] / text[3] / 8; // the proportion of the published models: 16 of 64, 24, 24
    let id = tokenizer.id;
    let end_of_text = id("<|endoftext|>")?;
    Ok(json!({
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "dtype": "float32",
        "image_token_id": id("<|image_pad|>")?,
        "model_type": "qwen2_vl",
        "text_config": {
            "attention_dropout": 0.0,
            "bos_token_id": end_of_text,
            "dtype": "float32",
            "eos_token_id": [id("<|im_end|>")?, end_of_text],
            "hidden_act": "silu",
            "hidden_size": text[0],
            "initializer_range": 0.02,
            "intermediate_size": text[1],
            "layer_types": vec!["full_attention"; text[2]],
            "max_position_embeddings": text[5],
            "model_type": "qwen2_vl_text",
            "num_attention_heads": text[3],
            "num_hidden_layers": text[2],
            "num_key_value_heads": text[4],
            "pad_token_id": end_of_text,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "mrope_section": [quarter, quarter * 3 / 2, quarter * 3 / 2],
                "rope_theta": 1e6,
                "rope_type": "default",
            },
            "sliding_window": null,
            "use_cache": true,
            "use_sliding_window": false,
            "vocab_size": tokenizer.vocab_size,
        },
        "tie_word_embeddings": true,
        "video_token_id": id("<|video_pad|>")?,
        "vision_config": {
            "depth": vision[1],
            "dtype": "float32",
            "embed_dim": vision[0],
            "hidden_act": "quick_gelu",
            "hidden_size": text[0],
            "in_channels": 3,
            "initializer_range": 0.02,
            "mlp_ratio": vision[3],
            "model_type": "qwen2_vl_vision",
            "num_heads": vision[2],
            "patch_size": 14,
            "rope_parameters": { "rope_theta": VISION_ROPE_THETA, "rope_type": "axial" },
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        "vision_end_token_id": id("<|vision_end|>")?,
        "vision_start_token_id": id("<|vision_start|>")?,
    }))
}
