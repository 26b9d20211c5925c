//! InternVL in the layout of its own code, `InternVLChatModel` (InternVL 1.5 to 3.5, Vintern): keys of
//! config.json, ids of tokens that it leaves out, chat layout, tiles, presets. The vision tower is
//! [`intern_vit`](super::intern_vit)'s, the language model one of those in
//! [`internvl_language`](super::internvl_language).
//!
//! Left out of training on purpose: stochastic depth (`drop_path_rate`), a regulariser of pre-training.

use super::intern_vit::{CHAT_NAMES, MERGE, NormType, VisionConfig, norm_type};
use super::internvl_language::{new_qwen2, read_by_class};
use super::naming::NamePairs;
use super::preset::Preset;
use super::{Architecture, Family, NewTokenizer};
use crate::base::{Error, Result};
use crate::io::text::{ChatTemplate, added_ids};
use crate::io::video::sampling::FrameSampling;
use crate::model::config::keys::{Keys, read_json};
use crate::model::config::text::{bos_id, eos_ids};
use crate::model::config::{TokenIds, VlmConfig};
use crate::model::decoder::names::{AS_LANGUAGE_MODEL, INTERNLM2_AS_LANGUAGE_MODEL, TextNames};
use crate::model::positions::PositionRule;
use crate::model::processor::settings_file::PREPROCESSOR_FILE;
use crate::model::processor::tiles::{
    Arithmetic, CONTEXT, MARKS, Pixels, TileProcessor, TileSettings,
};
use crate::model::processor::{ProcessorOptions, VisualProcessor};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

/// The family.
#[derive(Debug)]
pub struct InternVlChat;

/// Frames of a video on the models' pages.
const SEGMENTS: usize = 8;

impl Family for InternVlChat {
    fn model_type(&self) -> &'static str {
        "internvl_chat"
    }
    fn architecture(&self) -> &'static str {
        "InternVLChatModel"
    }
    fn names(&self) -> NamePairs {
        &[
            ("vision_model.", "vision_model."),
            ("language_model.", "language_model."),
            ("mlp1.", "mlp1."),
        ]
    }
    fn vision_modules(&self) -> &'static [&'static str] {
        &["vision_model", "mlp1"]
    }

    fn read(&self, top: &Keys) -> Result<Architecture> {
        let keys = top.object_or_empty("llm_config")?;
        let text = read_by_class(&keys, names)?;
        let vision = read_vision(top, text.hidden_size)?;
        tile_numbers(top)?;
        // config.json names no token of images; see `find_tokens`. Nothing is asked of the stand-in
        // where there is no tokenizer.
        let tokens = TokenIds {
            eos: eos_ids(&keys, &[])?,
            bos: bos_id(&keys, None)?,
            pad: keys.id("pad_token_id")?,
            ..TokenIds::default()
        };
        let positions = PositionRule::Sequential;
        Ok(Architecture { text, vision: Arc::new(vision), tokens, positions })
    }

    fn find_tokens(&self, dir: &Path, vocab_size: usize, tokens: &mut TokenIds) -> Result<()> {
        let Some(ids) = added_ids(dir)? else { return Ok(()) };
        let id = |token: &str| match ids.get(token) {
            Some(&id) if (id as usize) < vocab_size => Ok(id),
            found => Err(Error::data("the tokenizer does not fit the model")
                .file(dir)
                .key(token)
                .expected(format!("an added token with an id below vocab_size {vocab_size}"))
                .found(found.map_or("no such token".to_string(), |id| format!("id {id}")))
                .hint("config.json and tokenizer are not of one model; fetch both again")),
        };
        tokens.image = id(CONTEXT)?;
        tokens.marks = MARKS.iter().map(|mark| id(mark)).collect::<Result<_>>()?;
        // As `chat` of the class stops; generation_config.json wins where it says something.
        tokens.eos = vec![id(self.end_of_turn())?];
        Ok(())
    }

    /// The folder's own template if it marks images as the class does, else the layout that `template`
    /// of config.json names, as `chat` of the class takes it. Published folders have a template of their
    /// language model, which knows no images.
    fn template(&self, dir: &Path, config: &VlmConfig) -> Result<ChatTemplate> {
        let own = ChatTemplate::from_dir(dir);
        let path = dir.join("config.json");
        let keys = Keys::of(&config.raw, &path)?;
        let Some(name) = keys.string("template")? else { return own };
        if let Ok(own) = own
            && own.source().contains(CONTEXT)
            && own.source().contains(MARKS[0])
        {
            return Ok(own);
        }
        ChatTemplate::builtin(name).map_err(|e| e.file(&path).key("template"))?.with_tokens_of(dir)
    }

    fn processor(
        &self,
        dir: Option<&Path>,
        config: &VlmConfig,
        options: &ProcessorOptions,
    ) -> Result<Box<dyn VisualProcessor>> {
        if let Some(dir) = dir {
            check_preprocessor(&dir.join(PREPROCESSOR_FILE))?;
        }
        Ok(Box::new(processor(config, options)?))
    }

    fn new_config(&self, preset: &Preset, tokenizer: &NewTokenizer) -> Result<Value> {
        new_config(preset, tokenizer)
    }

    fn processor_files(&self, config: &VlmConfig) -> Result<Vec<(&'static str, Value)>> {
        let side = &config.raw["force_image_size"];
        let pixels = Pixels::default();
        let content = json!({
            "crop_size": side,
            "do_center_crop": true,
            "do_normalize": true,
            "do_resize": true,
            "feature_extractor_type": "CLIPFeatureExtractor",
            "image_mean": pixels.mean,
            "image_std": pixels.std,
            "resample": pixels.resample.pil(),
            "size": side,
        });
        Ok(vec![(PREPROCESSOR_FILE, content)])
    }
}

/// The processor of images and frames: all its settings are in config.json.
///
/// # Errors
/// If options contradict them.
pub fn processor(config: &VlmConfig, options: &ProcessorOptions) -> Result<TileProcessor> {
    let keys = Keys::of(&config.raw, Path::new("config.json"))?;
    TileProcessor::new(tiles(&keys)?.with_options(options)?)
}

fn names(class: &'static str) -> TextNames {
    match class {
        "InternLM2ForCausalLM" => INTERNLM2_AS_LANGUAGE_MODEL,
        _ => AS_LANGUAGE_MODEL,
    }
}

/// Defaults are those of InternVisionConfig (InternViT-6B) and InternVLChatConfig.
fn read_vision(top: &Keys, text_hidden: usize) -> Result<VisionConfig> {
    let keys = top.object_or_empty("vision_config")?;
    keys.must_be("hidden_act", "gelu")?;
    keys.must_be_zero(&["dropout", "attention_dropout"])?;
    keys.must_be_size("num_channels", 3)?;
    check_top(top)?;
    let patch_size = keys.size("patch_size", 14)?;
    let side = keys.size("image_size", 224)?;
    if top.size("force_image_size", side)? != side {
        return Err(top.wrong("force_image_size", format!("{side}, as vision_config.image_size")));
    }
    let norm_eps = keys.float("layer_norm_eps", 1e-6)?;
    let vision = VisionConfig {
        hidden_size: keys.size("hidden_size", 3200)?,
        intermediate_size: keys.size("intermediate_size", 12_800)?,
        depth: keys.size("num_hidden_layers", 48)?,
        num_heads: keys.size("num_attention_heads", 25)?,
        patch_size,
        grid: side / patch_size,
        norm: norm_type(&keys, NormType::Rms)?,
        norm_eps,
        qkv_bias: keys.boolean("qkv_bias", false)?,
        qk_norm_eps: keys.boolean("qk_normalization", true)?.then_some(norm_eps),
        by_columns: top.string("ps_version")?.unwrap_or("v1") == "v1",
        out_hidden_size: text_hidden,
        names: &CHAT_NAMES,
    };
    vision.check(&keys, "num_attention_heads", side)?;
    Ok(vision)
}

/// Keys of the whole model with one value that is supported.
fn check_top(top: &Keys) -> Result<()> {
    if top.float("downsample_ratio", 0.5)? * MERGE as f64 != 1.0 {
        return Err(top.wrong("downsample_ratio", "0.5"));
    }
    if top.get("select_layer").is_some_and(|v| v.as_i64() != Some(-1)) {
        return Err(top.wrong("select_layer", "-1, the last layer"));
    }
    if !matches!(top.string("ps_version")?, None | Some("v1" | "v2")) {
        return Err(top.wrong("ps_version", "v1 or v2"));
    }
    if top.boolean("pad2square", false)? {
        return Err(top.wrong("pad2square", "false"));
    }
    for key in ["use_backbone_lora", "use_llm_lora"] {
        if top.size_or_zero(key, 0)? != 0 {
            let hint = "merge the adapter into the weights, or give it as an adapter";
            return Err(top.wrong(key, "0").hint(hint));
        }
    }
    Ok(())
}

/// Fewest and most tiles of an image; defaults are those of InternVLChatConfig.
fn tile_numbers(top: &Keys) -> Result<(usize, usize)> {
    if !top.boolean("dynamic_image_size", false)? {
        return Ok((1, 1));
    }
    let least = top.size("min_dynamic_patch", 1)?;
    let most = top.size("max_dynamic_patch", 6)?;
    match least <= most {
        true => Ok((least, most)),
        false => Err(top.wrong("max_dynamic_patch", format!("at least {least}"))),
    }
}

fn tiles(top: &Keys) -> Result<TileSettings> {
    let vision = read_vision(top, 1)?;
    let (min_tiles, max_tiles) = tile_numbers(top)?;
    Ok(TileSettings {
        side: vision.tile_side(),
        patch_size: vision.patch_size,
        min_tiles,
        max_tiles,
        thumbnail: top.boolean("use_thumbnail", false)?,
        writes_marks: false,
        pixels: Pixels::default(),
        arithmetic: Arithmetic::Transform,
        frame_pixels: Pixels::default(),
        frame_arithmetic: Arithmetic::Transform,
        sampling: FrameSampling::InternVlSegments { num_segments: SEGMENTS },
    })
}

/// InternVL's code normalises with constants; a file that says otherwise is of another model.
fn check_preprocessor(file: &Path) -> Result<()> {
    if !file.is_file() {
        return Ok(());
    }
    let value = read_json(file)?;
    let keys = Keys::of(&value, file)?;
    let pixels = Pixels::default();
    for (key, constant) in [("image_mean", pixels.mean), ("image_std", pixels.std)] {
        if keys.floats(key)?.is_some_and(|list| list != constant) {
            return Err(keys.wrong(key, format!("{constant:?}, which InternVL's code has")));
        }
    }
    Ok(())
}

/// Most tiles of an image, of each preset.
const MOST_TILES: [usize; 2] = [4, 6];

/// config.json of a new model with a Qwen2 language model, with the keys of the published ones.
fn new_config(preset: &Preset, tokenizer: &NewTokenizer) -> Result<Value> {
    let Preset { text, tower, .. } = preset;
    let language = json!({
        "architectures": ["Qwen2ForCausalLM"],
        "eos_token_id": (tokenizer.id)("<|im_end|>")?,
        "rope_scaling": null,
        "rope_theta": 1e6,
        "torch_dtype": "float32",
    });
    Ok(json!({
        "architectures": ["InternVLChatModel"],
        "downsample_ratio": 0.5,
        "dynamic_image_size": true,
        "force_image_size": tower.image_size,
        "llm_config": new_qwen2(text, tokenizer, language)?,
        "max_dynamic_patch": preset.of(MOST_TILES),
        "min_dynamic_patch": 1,
        "model_type": "internvl_chat",
        "pad2square": false,
        "ps_version": "v2",
        "select_layer": -1,
        "template": "internvl2_5",
        "torch_dtype": "float32",
        "use_backbone_lora": 0,
        "use_llm_lora": 0,
        "use_thumbnail": true,
        "vision_config": {
            "architectures": ["InternVisionModel"],
            "attention_dropout": 0.0,
            "drop_path_rate": 0.0,
            "dropout": 0.0,
            "hidden_act": "gelu",
            "hidden_size": tower.hidden_size,
            "image_size": tower.image_size,
            "initializer_factor": 1.0,
            "initializer_range": 0.02,
            "intermediate_size": tower.intermediate_size,
            "layer_norm_eps": 1e-6,
            "model_type": "intern_vit_6b",
            "norm_type": "layer_norm",
            "num_attention_heads": tower.num_heads,
            "num_channels": 3,
            "num_hidden_layers": tower.depth,
            "patch_size": 14,
            "qk_normalization": false,
            "qkv_bias": true,
            "torch_dtype": "float32",
            "use_flash_attn": false,
        },
    }))
}
