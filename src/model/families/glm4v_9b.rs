//! glm-4v-9b in its own layout (`ChatGLMForConditionalGeneration` of the published code; GLM team, arXiv
//! 2406.12793): keys of config.json, the list of parameters, presets. Tensors and ops are in [`net`].
//!
//! The text of a chat has `<|begin_of_image|><|endoftext|><|end_of_image|>` for an image, and the
//! published code puts the features in the place of all three. Here `<|begin_of_image|>` alone stands
//! for every feature: `<|endoftext|>` ends a completion, so it may be sampled, and what a placeholder is
//! may not. The decoder reads the features, never these ids.

pub mod net; // the vision tower as a list of ops

use super::naming::NamePairs;
use super::preset::Preset;
use super::{Architecture, Family, NewTokenizer, Patching, VisionTower};
use crate::base::{Error, HostTensor, Result};
use crate::io::text::ChatTemplate;
use crate::model::config::keys::Keys;
use crate::model::config::text::{bos_id, eos_ids, token_id};
use crate::model::config::{TokenIds, VlmConfig};
use crate::model::decoder::names::IN_CHATGLM;
use crate::model::decoder::{TextConfig, TextRope};
use crate::model::net::Net;
use crate::model::positions::PositionRule;
use crate::model::processor::square::{SquareProcessor, SquareSettings};
use crate::model::processor::{ProcessorOptions, VisualProcessor};
use crate::model::spec::{ParamList, ParamSpec, Part};
use crate::ops::Slot;
use crate::ops::rope::Pairing;
use net::MERGE;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

/// The family.
#[derive(Debug)]
pub struct Glm4v9b;

/// Features of an image beside those of its patches: one before, one after.
const FRAME: usize = 2;
/// Base of the rotary frequencies where `rope_ratio` is 1.
const ROPE_THETA: f64 = 10_000.0;

impl Family for Glm4v9b {
    fn name(&self) -> &'static str {
        "glm4v_9b"
    }
    fn model_type(&self) -> &'static str {
        "chatglm"
    }
    fn architecture(&self) -> &'static str {
        "ChatGLMModel"
    }
    fn names(&self) -> NamePairs {
        &[("transformer.", "transformer.")]
    }
    fn vision_modules(&self) -> &'static [&'static str] {
        &["vision"]
    }

    /// The template writes nothing after an answer; the text ends there, or the next role begins.
    fn end_of_turn(&self) -> &'static str {
        "<|endoftext|>"
    }

    /// The published folder's template knows no images: its code writes them.
    fn template(&self, _: &Path, _: &VlmConfig) -> Result<ChatTemplate> {
        ChatTemplate::builtin("glm-4v-9b")
    }

    fn read(&self, top: &Keys) -> Result<Architecture> {
        let text = read_language_model(top)?;
        let Some(vision) = top.object("vision_config")? else {
            return Err(top
                .wrong("vision_config", "an object")
                .hint("a ChatGLM without it reads no images; glm-4v-9b has it"));
        };
        let vision = read_vision(&vision, &text)?;
        let special = |key, default| token_id(top, key, default, text.vocab_size);
        let tokens = TokenIds {
            image: special("boi_token_id", 151_339)?,
            video: None,
            marks: vec![special("eoi_token_id", 151_340)?],
            eos: eos_ids(top, &[151_329, 151_336, 151_338])?,
            bos: bos_id(top, None)?,
            pad: top.id("pad_token_id")?,
        };
        Ok(Architecture { text, vision: Arc::new(vision), tokens, positions: PositionRule::Shared })
    }

    /// The folder has no settings of images: sizes are those of config.json, the rest is code.
    fn processor(
        &self,
        _: Option<&Path>,
        config: &VlmConfig,
        options: &ProcessorOptions,
    ) -> Result<Box<dyn VisualProcessor>> {
        let patch = config.vision.patching().side;
        // One frame of the tower's only grid.
        let side = config.raw["vision_config"]["image_size"].as_u64().unwrap_or(0) as usize;
        let settings = SquareSettings {
            side,
            patch,
            merge: MERGE,
            extra: FRAME,
            written: "<|begin_of_image|><|endoftext|><|end_of_image|>",
            placeholder: "<|begin_of_image|>",
        };
        Ok(Box::new(SquareProcessor::new(settings, options)?))
    }

    fn new_config(&self, preset: &Preset, tokenizer: &NewTokenizer) -> Result<Value> {
        new_config(preset, tokenizer)
    }

    fn processor_files(&self, _: &VlmConfig) -> Result<Vec<(&'static str, Value)>> {
        Ok(Vec::new())
    }
}

/// Keys that change what the published code computes, with the only value that is done here; a missing
/// key has it too.
const SWITCHES: [(&str, bool); 9] = [
    ("add_bias_linear", false),
    ("apply_residual_connection_post_layernorm", false),
    ("fp32_residual_connection", false),
    ("interleaved_qkv", false),
    ("original_rope", true),
    ("post_layer_norm", true),
    ("prefix_projection", false),
    ("rmsnorm", true),
    ("tie_word_embeddings", false),
];

/// Defaults are those of the published ChatGLMConfig.
fn read_language_model(keys: &Keys) -> Result<TextConfig> {
    for (key, only) in SWITCHES {
        if keys.boolean(key, only)? != only {
            return Err(keys.wrong(key, only.to_string()));
        }
    }
    keys.must_be_zero(&["attention_dropout", "hidden_dropout"])?;
    if keys.size_or_zero("pre_seq_len", 0)? != 0 {
        return Err(keys.wrong("pre_seq_len", "null").hint("learned prefixes are not supported"));
    }
    let num_heads = keys.size("num_attention_heads", 32)?;
    let num_kv_heads = match keys.boolean("multi_query_attention", false)? {
        true => keys.size("multi_query_group_num", 1)?,
        false => num_heads,
    };
    if num_heads % num_kv_heads != 0 {
        return Err(keys.wrong("multi_query_group_num", format!("a divisor of {num_heads}")));
    }
    let head_dim = keys.size("kv_channels", 128)?;
    if !head_dim.is_multiple_of(4) {
        return Err(keys.wrong("kv_channels", "a multiple of 4: half of it turns, in pairs"));
    }
    let theta = ROPE_THETA * keys.float("rope_ratio", 1.0)?;
    if theta <= 1.0 {
        return Err(keys.wrong("rope_ratio", "a number above 0.0001"));
    }
    let pairing = Pairing::Neighbours;
    Ok(TextConfig {
        hidden_size: keys.size("hidden_size", 4096)?,
        intermediate_size: keys.size("ffn_hidden_size", 13_696)?,
        num_layers: keys.size("num_layers", 28)?,
        num_heads,
        num_kv_heads,
        head_dim,
        vocab_size: keys.size("padded_vocab_size", 65_024)?,
        rms_norm_eps: keys.float("layernorm_epsilon", 1e-5)?,
        rope: TextRope { pairing, ..TextRope::plain(head_dim / 2, theta) },
        qkv_bias: keys.boolean("add_qkv_bias", false)?,
        qk_norm: false,
        post_norms: false,
        experts: None,
        tie_word_embeddings: false,
        max_position_embeddings: keys.size("seq_length", 2048)?,
        names: IN_CHATGLM,
    })
}

/// The vision tower and its connector.
#[derive(Debug, Clone, PartialEq)]
pub struct VisionConfig {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Blocks (`num_hidden_layers`).
    pub depth: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Pixels per side of every image.
    pub image_size: usize,
    /// Pixels per side of a patch.
    pub patch_size: usize,
    /// Added to the variance in the blocks' norms.
    pub layer_norm_eps: f64,
    /// Features are divided by it.
    pub scaling_factor: f64,
    /// Width of the connector: the language model's `hidden_size`.
    pub text_hidden: usize,
    /// Width inside the connector's gated MLP: the language model's `ffn_hidden_size`.
    pub text_intermediate: usize,
}

impl VisionConfig {
    /// Patches per side of an image.
    pub fn side(&self) -> usize {
        self.image_size / self.patch_size
    }
}

impl VisionTower for VisionConfig {
    fn parameters(&self) -> Vec<ParamSpec> {
        vision_parameters(self)
    }

    fn encode(&self, net: &mut Net, pixels: HostTensor, grids: &[[usize; 3]]) -> Result<Vec<Slot>> {
        let own = [1, self.side(), self.side()];
        if let Some(other) = grids.iter().find(|grid| **grid != own) {
            return Err(Error::data("an image has another size than the model's")
                .expected(format!("{own:?} patches"))
                .found(format!("{other:?}")));
        }
        Ok(vec![net::encode(net, self, pixels, grids.len())?])
    }

    fn feature_rows(&self, [images, h, w]: [usize; 3]) -> usize {
        images * (h * w / (MERGE * MERGE) + FRAME)
    }

    fn patching(&self) -> Patching {
        Patching { side: self.patch_size, frames: 1, merge: MERGE }
    }
}

/// Every size must be there: the published code has no defaults.
fn read_vision(keys: &Keys, text: &TextConfig) -> Result<VisionConfig> {
    let size = |key: &str| match keys.get(key) {
        Some(_) => keys.size(key, 0),
        None => Err(keys.wrong(key, "a whole number above 0")),
    };
    let number = |key: &str| match keys.get(key) {
        Some(_) => keys.float(key, 0.0),
        None => Err(keys.wrong(key, "a number")),
    };
    keys.must_be("hidden_act", "gelu")?;
    keys.must_be_zero(&["dropout_prob"])?;
    keys.must_be_size("in_channels", 3)?;
    let vision = VisionConfig {
        hidden_size: size("hidden_size")?,
        intermediate_size: size("intermediate_size")?,
        depth: size("num_hidden_layers")?,
        num_heads: size("num_heads")?,
        image_size: size("image_size")?,
        patch_size: size("patch_size")?,
        layer_norm_eps: number("layer_norm_eps")?,
        scaling_factor: number("scaling_factor")?,
        text_hidden: text.hidden_size,
        text_intermediate: text.intermediate_size,
    };
    if !vision.hidden_size.is_multiple_of(vision.num_heads) {
        let expected = format!("a divisor of hidden_size {}", vision.hidden_size);
        return Err(keys.wrong("num_heads", expected));
    }
    let unit = MERGE * vision.patch_size;
    if !vision.image_size.is_multiple_of(unit) {
        return Err(keys.wrong("image_size", format!("a multiple of {unit}")));
    }
    let places = vision.side() * vision.side() + 1;
    if size("num_positions")? != places {
        return Err(keys.wrong("num_positions", format!("{places}: a class and every patch")));
    }
    if vision.scaling_factor == 0.0 {
        return Err(keys.wrong("scaling_factor", "a number above 0"));
    }
    Ok(vision)
}

/// In the order of the published class.
fn vision_parameters(v: &VisionConfig) -> Vec<ParamSpec> {
    let (h, f, out) = (v.hidden_size, v.intermediate_size, v.text_hidden);
    let mut list = ParamList::new("transformer.vision", Part::Vision);
    list.push("boi", &[1, 1, out]);
    list.push("eoi", &[1, 1, out]);
    list.prefix = "transformer.vision.patch_embedding".into();
    list.push("cls_embedding", &[1, h]);
    list.push("proj.weight", &[h, 3, v.patch_size, v.patch_size]);
    list.push("proj.bias", &[h]);
    list.push("position_embedding.weight", &[v.side() * v.side() + 1, h]);
    for i in 0..v.depth {
        list.prefix = format!("transformer.vision.transformer.layers.{i}");
        list.layer_norm("input_layernorm", h);
        list.linear("attention.query_key_value", h, 3 * h, true);
        list.linear("attention.dense", h, h, true);
        list.layer_norm("post_attention_layernorm", h);
        list.linear("mlp.fc1", h, f, true);
        list.linear("mlp.fc2", f, h, true);
    }
    list.prefix = "transformer.vision".into();
    list.push("conv.weight", &[out, h, MERGE, MERGE]);
    list.push("conv.bias", &[out]);
    list.prefix = "transformer.vision.linear_proj".into();
    list.part = Part::Connector;
    list.linear("linear_proj", out, out, false);
    list.layer_norm("norm1", out);
    list.linear("dense_h_to_4h", out, v.text_intermediate, false);
    list.linear("gate_proj", out, v.text_intermediate, false);
    list.linear("dense_4h_to_h", v.text_intermediate, out, false);
    list.list
}

/// Pixels per side of an image, of each preset. Few features: an image of shapes is small, and one size
/// holds for all.
const IMAGE_SIZES: [usize; 2] = [56, 224];

/// config.json of a new model, in the published layout.
fn new_config(preset: &Preset, tokenizer: &NewTokenizer) -> Result<Value> {
    let Preset { text, tower, .. } = preset;
    let id = tokenizer.id;
    let end_of_text = id("<|endoftext|>")?;
    let (patch, image_size) = (14, preset.of(IMAGE_SIZES));
    let vision_config = json!({
        "dropout_prob": 0.0,
        "hidden_act": "gelu",
        "hidden_size": tower.hidden_size,
        "image_size": image_size,
        "in_channels": 3,
        "intermediate_size": tower.intermediate_size,
        "layer_norm_eps": 1e-6,
        "num_heads": tower.num_heads,
        "num_hidden_layers": tower.depth,
        "num_positions": (image_size / patch).pow(2) + 1,
        "patch_size": patch,
        // 8 as published is for features of another size than a new model's
        "scaling_factor": 1,
    });
    let code = |file: &str, class: &str| format!("{file}_chatglm.{class}");
    let class = code("modeling", "ChatGLMForConditionalGeneration");
    let auto_map = json!({
        "AutoConfig": code("configuration", "ChatGLMConfig"),
        "AutoModel": class,
        "AutoModelForCausalLM": class,
    });
    Ok(json!({
        "add_bias_linear": false,
        "add_qkv_bias": true,
        "apply_query_key_layer_scaling": true,
        "apply_residual_connection_post_layernorm": false,
        "architectures": ["ChatGLMModel"],
        "attention_dropout": 0.0,
        "attention_softmax_in_fp32": true,
        "auto_map": auto_map,
        "bias_dropout_fusion": true,
        "boi_token_id": id("<|begin_of_image|>")?,
        "eoi_token_id": id("<|end_of_image|>")?,
        "eos_token_id": [end_of_text, id("<|user|>")?, id("<|observation|>")?],
        "ffn_hidden_size": text.intermediate_size,
        "fp32_residual_connection": false,
        "hidden_dropout": 0.0,
        "hidden_size": text.hidden_size,
        "kv_channels": text.head_dim(),
        "layernorm_epsilon": 1e-5,
        "model_type": "chatglm",
        "multi_query_attention": true,
        "multi_query_group_num": text.num_kv_heads,
        "num_attention_heads": text.num_heads,
        "num_layers": text.num_layers,
        "original_rope": true,
        "pad_token_id": end_of_text,
        "padded_vocab_size": tokenizer.vocab_size,
        "post_layer_norm": true,
        "pre_seq_len": null,
        "prefix_projection": false,
        "rmsnorm": true,
        "rope_ratio": 1,
        "seq_length": text.context,
        "tie_word_embeddings": false,
        "torch_dtype": "float32",
        "use_cache": true,
        "vision_config": vision_config,
        "vocab_size": tokenizer.vocab_size,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(size: &str) -> Value {
        let names = crate::io::text::SpecialTokens::of("glm4v_9b").unwrap().tokens;
        let id = |token: &str| Ok(names.iter().position(|n| *n == token).unwrap() as u32);
        new_config(Preset::named(size).unwrap(), &NewTokenizer { vocab_size: 300, id: &id })
            .unwrap()
    }

    #[test]
    fn presets_are_models_of_this_family() {
        for (size, millions) in [("tiny", 1.0..1.7), ("small", 15.0..25.0)] {
            let config = VlmConfig::from_json(made(size), "preset").unwrap();
            let all = super::super::parameters(&config);
            let tables = ["word_embeddings", "output_layer"];
            let body = all.iter().filter(|p| !tables.iter().any(|t| p.name.contains(t)));
            let body = body.map(ParamSpec::len).sum::<usize>() as f64 / 1e6;
            assert!(millions.contains(&body), "{size}: {body} million");
            // An end of text may be sampled, what stands for features may not.
            let tokens = &config.tokens;
            assert_eq!(
                (tokens.placeholders(), tokens.eos.as_slice()),
                (vec![10, 11], &[0, 7, 9][..])
            );
            let processor = Glm4v9b.processor(None, &config, &ProcessorOptions::default()).unwrap();
            let visual = processor.image_shape(640, 480).unwrap();
            assert_eq!(visual.rows(), config.vision.feature_rows(visual.grid_thw));
        }
    }

    #[test]
    fn values_that_would_be_ignored_are_refused() {
        let fails = |change: &dyn Fn(&mut Value)| {
            let mut config = made("tiny");
            change(&mut config);
            VlmConfig::from_json(config, "config.json").unwrap_err().to_string()
        };
        for (key, only) in SWITCHES {
            assert!(fails(&|c| c[key] = json!(!only)).contains(key), "{key}");
        }
        assert!(fails(&|c| c["pre_seq_len"] = json!(4)).contains("pre_seq_len"));
        assert!(fails(&|c| c["kv_channels"] = json!(6)).contains("kv_channels"));
        assert!(fails(&|c| c["vision_config"] = Value::Null).contains("vision_config"));
        for (key, value) in
            [("num_positions", 5), ("image_size", 70), ("num_heads", 7), ("patch_size", 0)]
        {
            assert!(fails(&|c| c["vision_config"][key] = json!(value)).contains(key), "{key}");
        }
    }
}
