//! GLM-4.1V (GLM-V team, arXiv 2507.01006), `Glm4vForConditionalGeneration` of transformers: keys of
//! config.json, the list of parameters, presets. Tensors and ops are in [`net`], the interpolation of
//! the position table in [`taps`].

pub mod net; // the vision tower as a list of ops
pub mod taps; // rows and weights of the interpolated position table

use super::naming::{AS_MODULES, NamePairs};
use super::preset::{Preset, model_config, text_config, tower_config};
use super::tower_keys::{read_axial_theta, read_heads, read_output_width, read_patching};
use super::{Architecture, Family, NewTokenizer, Patching, VisionTower};
use crate::base::{HostTensor, Result};
use crate::model::config::keys::Keys;
use crate::model::config::text::{
    TextDefaults, bos_id, eos_ids, mrope_section, read_text, rotary_dim, token_id,
};
use crate::model::config::{TokenIds, VlmConfig};
use crate::model::decoder::names::GLM4_IN_MODEL;
use crate::model::decoder::{TextConfig, TextRope};
use crate::model::net::Net;
use crate::model::positions::PositionRule;
use crate::model::processor::glm::{self, GlmProcessor};
use crate::model::processor::{ProcessorOptions, VisualProcessor};
use crate::model::rope::mrope_axes;
use crate::model::spec::{ParamList, ParamSpec, Part};
use crate::ops::Slot;
use crate::ops::rope::Pairing;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

/// The family.
#[derive(Debug)]
pub struct Glm4v;

/// Defaults are those of transformers' Glm4vTextConfig.
const TEXT: TextDefaults = TextDefaults {
    sizes: [4096, 13696, 40, 32, 2, 151_552, 32_768],
    rms_norm_eps: 1e-5,
    rope_theta: 1e4,
    head_dim: 0,
    qkv_bias: true,
    qk_norm: false,
    names: GLM4_IN_MODEL,
};

/// Default of `mrope_section` in Glm4vTextRotaryEmbedding.
const MROPE_SECTION: [usize; 3] = [8, 12, 12];

impl Family for Glm4v {
    fn model_type(&self) -> &'static str {
        "glm4v"
    }
    fn architecture(&self) -> &'static str {
        "Glm4vForConditionalGeneration"
    }
    fn names(&self) -> NamePairs {
        AS_MODULES
    }
    fn vision_modules(&self) -> &'static [&'static str] {
        &["visual"]
    }

    /// The template writes nothing after an answer; the text ends there, or the next role begins.
    fn end_of_turn(&self) -> &'static str {
        "<|endoftext|>"
    }

    fn read(&self, top: &Keys) -> Result<Architecture> {
        let keys = top.object_or_empty("text_config")?;
        let text = read_language_model(top, &keys)?;
        let vision = read_vision(&top.object_or_empty("vision_config")?, text.hidden_size)?;
        let tokens = read_tokens(top, &keys, text.vocab_size)?;
        Ok(Architecture { text, vision: Arc::new(vision), tokens, positions: PositionRule::Grid })
    }

    fn processor(
        &self,
        dir: Option<&Path>,
        config: &VlmConfig,
        options: &ProcessorOptions,
    ) -> Result<Box<dyn VisualProcessor>> {
        Ok(Box::new(GlmProcessor::new(dir, config.vision.patching(), options)?))
    }

    fn new_config(&self, preset: &Preset, tokenizer: &NewTokenizer) -> Result<Value> {
        new_config(preset, tokenizer)
    }

    fn processor_files(&self, config: &VlmConfig) -> Result<Vec<(&'static str, Value)>> {
        Ok(glm::new_files(config.vision.patching(), config.text.max_position_embeddings))
    }
}

/// Part of a head turns, in pairs of neighbours; neighbouring frequencies share an axis.
fn read_language_model(top: &Keys, keys: &Keys) -> Result<TextConfig> {
    let text = read_text(top, keys, &TEXT)?;
    let rotary_dim = rotary_dim(keys, text.head_dim)?;
    let axes = mrope_axes(mrope_section(keys, MROPE_SECTION, rotary_dim)?);
    let rope = TextRope { rotary_dim, pairing: Pairing::Neighbours, axes, ..text.rope };
    Ok(TextConfig { rope, post_norms: true, ..text })
}

/// Defaults are those of transformers' Glm4vConfig. Frames of videos have the image's token, each run
/// between an image's marks; the token of videos only stands in a rendered template.
fn read_tokens(top: &Keys, text: &Keys, vocab_size: usize) -> Result<TokenIds> {
    let special = |key, default| token_id(top, key, default, vocab_size);
    Ok(TokenIds {
        image: special("image_token_id", 151_343)?,
        video: None,
        marks: vec![
            special("image_start_token_id", 151_339)?,
            special("image_end_token_id", 151_340)?,
            special("video_start_token_id", 151_341)?,
            special("video_end_token_id", 151_342)?,
            special("video_token_id", 151_344)?,
        ],
        eos: eos_ids(text, &[])?,
        bos: bos_id(text, None)?,
        pad: text.id("pad_token_id")?,
    })
}

/// The vision tower and its connector.
#[derive(Debug, Clone, PartialEq)]
pub struct VisionConfig {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the connector's gated MLP; that of the blocks is `out_hidden_size`.
    pub intermediate_size: usize,
    /// Blocks.
    pub depth: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Whether the packed projection to queries, keys and values has a bias.
    pub attention_bias: bool,
    /// Pixels per side of the image whose patches the position table has.
    pub image_size: usize,
    /// How pixels become patches and patches features.
    pub patching: Patching,
    /// Width of the connector: the language model's `hidden_size`.
    pub out_hidden_size: usize,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
}

impl VisionConfig {
    /// Size of a head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_heads
    }
    /// Places per side of the position table.
    pub fn table_side(&self) -> usize {
        self.image_size / self.patching.side
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

/// Defaults are those of transformers' Glm4vVisionConfig.
fn read_vision(keys: &Keys, text_hidden: usize) -> Result<VisionConfig> {
    let hidden_size = keys.size("hidden_size", 1536)?;
    keys.must_be("hidden_act", "silu")?;
    keys.must_be_zero(&["attention_dropout"])?;
    let vision = VisionConfig {
        hidden_size,
        intermediate_size: keys.size("intermediate_size", 13_696)?,
        depth: keys.size("depth", 24)?,
        num_heads: read_heads(keys, 12, ("hidden_size", hidden_size))?,
        attention_bias: keys.boolean("attention_bias", false)?,
        image_size: keys.size("image_size", 336)?,
        patching: read_patching(keys, 14)?,
        out_hidden_size: read_output_width(keys, "out_hidden_size", 4096, text_hidden)?,
        rms_norm_eps: keys.float("rms_norm_eps", 1e-5)?,
        rope_theta: read_axial_theta(keys)?,
    };
    if vision.table_side() == 0 {
        return Err(
            keys.wrong("image_size", format!("at least one patch, {}", vision.patching.side))
        );
    }
    Ok(vision)
}

/// In the order of transformers' `named_parameters`.
fn vision_parameters(v: &VisionConfig) -> Vec<ParamSpec> {
    let (h, out, p) = (v.hidden_size, v.out_hidden_size, v.patching);
    let mut list = ParamList::new("model.visual", Part::Vision);
    list.push("embeddings.position_embedding.weight", &[v.table_side() * v.table_side(), h]);
    list.push("patch_embed.proj.weight", &[h, 3, p.frames, p.side, p.side]);
    list.push("patch_embed.proj.bias", &[h]);
    for i in 0..v.depth {
        list.prefix = format!("model.visual.blocks.{i}");
        list.push("norm1.weight", &[h]);
        list.push("norm2.weight", &[h]);
        list.linear("attn.qkv", h, 3 * h, v.attention_bias);
        list.linear("attn.proj", h, h, false);
        push_gated(&mut list, "mlp.", [h, out]);
    }
    list.prefix = "model.visual.merger".into();
    list.part = Part::Connector;
    list.linear("proj", out, out, false);
    list.layer_norm("post_projection_norm", out);
    push_gated(&mut list, "", [out, v.intermediate_size]);
    list.prefix = "model.visual".into();
    list.part = Part::Vision;
    list.push("post_conv_layernorm.weight", &[h]);
    list.push("downsample.weight", &[out, h, p.merge, p.merge]);
    list.push("downsample.bias", &[out]);
    list.push("post_layernorm.weight", &[h]);
    list.list
}

/// A gated MLP without biases.
fn push_gated(list: &mut ParamList, module: &str, [width, inner]: [usize; 2]) {
    list.linear(&format!("{module}gate_proj"), width, inner, false);
    list.linear(&format!("{module}up_proj"), width, inner, false);
    list.linear(&format!("{module}down_proj"), inner, width, false);
}

/// config.json of a new model, in the layout of transformers 5.
fn new_config(preset: &Preset, tokenizer: &NewTokenizer) -> Result<Value> {
    let Preset { text, tower, .. } = preset;
    // Half of a head turns, in the proportion of the published model: 8, 12, 12 frequencies of 128.
    let part = text.head_dim() / 16;
    let id = tokenizer.id;
    let language = json!({
        "dtype": "float32",
        "eos_token_id": [id("<|endoftext|>")?, id("<|user|>")?, id("<|observation|>")?],
        "rms_norm_eps": 1e-5,
        "rope_parameters": {
            "mrope_section": [part, part * 3 / 2, part * 3 / 2],
            "partial_rotary_factor": 0.5,
            "rope_theta": 1e4,
            "rope_type": "default",
        },
        "tie_word_embeddings": true,
    });
    let vision = json!({
        "attention_bias": false,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "hidden_size": tower.hidden_size,
        "image_size": tower.image_size,
        "intermediate_size": tower.intermediate_size,
        "out_hidden_size": text.hidden_size,
        "patch_size": 14,
        "rms_norm_eps": 1e-5,
    });
    let tokens = json!({
        "image_end_token_id": id("<|end_of_image|>")?,
        "image_start_token_id": id("<|begin_of_image|>")?,
        "image_token_id": id("<|image|>")?,
        "video_end_token_id": id("<|end_of_video|>")?,
        "video_start_token_id": id("<|begin_of_video|>")?,
        "video_token_id": id("<|video|>")?,
    });
    let text = text_config(text, "glm4v_text", tokenizer, language)?;
    Ok(model_config(&Glm4v, text, tower_config(tower, "glm4v_vision", vision), tokens))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(size: &str) -> Value {
        let names = crate::io::text::SpecialTokens::of("glm4v").unwrap().tokens;
        let id = |token: &str| Ok(names.iter().position(|n| *n == token).unwrap() as u32);
        new_config(Preset::named(size).unwrap(), &NewTokenizer { vocab_size: 300, id: &id })
            .unwrap()
    }

    #[test]
    fn presets_are_models_of_this_family() {
        for (size, millions) in [("tiny", 1.0..1.7), ("small", 15.0..25.0)] {
            let config = VlmConfig::from_json(made(size), "preset").unwrap();
            let all = super::super::parameters(&config);
            let body = all.iter().filter(|p| !p.name.contains("embed_tokens")).map(ParamSpec::len);
            let body = body.sum::<usize>() as f64 / 1e6;
            assert!(millions.contains(&body), "{size}: {body} million");
            let rope = &config.text.rope;
            assert_eq!(
                (rope.pairing, rope.rotary_dim),
                (Pairing::Neighbours, config.text.head_dim / 2)
            );
            assert_eq!(config.tokens.placeholders(), [10, 11, 12, 13, 14, 15]);
            assert!(config.text.post_norms && config.text.tie_word_embeddings);
        }
    }

    #[test]
    fn values_that_would_be_ignored_are_refused() {
        let fails = |object: &str, key: &str, value: Value| {
            let mut config = made("tiny");
            config[object][key] = value;
            VlmConfig::from_json(config, "config.json").unwrap_err().to_string()
        };
        let vision = |key: &str, value: Value| fails("vision_config", key, value);
        assert!(vision("out_hidden_size", json!(64)).contains("out_hidden_size"));
        assert!(vision("hidden_act", json!("gelu")).contains("silu"));
        assert!(vision("num_heads", json!(5)).contains("num_heads"));
        assert!(vision("image_size", json!(7)).contains("image_size"));
        assert!(vision("attention_dropout", json!(0.1)).contains("attention_dropout"));
        let rope = json!({"partial_rotary_factor": 0.3, "mrope_section": [1, 1, 2]});
        assert!(fails("text_config", "rope_parameters", rope).contains("partial_rotary_factor"));
        let rope = json!({"partial_rotary_factor": 0.5, "mrope_section": [1, 1, 2]});
        assert!(fails("text_config", "rope_parameters", rope).contains("mrope_section"));
    }
}
