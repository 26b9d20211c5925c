//! InternVL in the layout of transformers, `InternVLForConditionalGeneration`: keys of config.json,
//! settings of its processors, presets. The vision tower is [`intern_vit`](super::intern_vit)'s, the
//! language model one of those in [`internvl_language`](super::internvl_language).

use super::intern_vit::{MERGE, NormType, TRANSFORMERS_NAMES, VisionConfig, norm_type};
use super::internvl_language::{new_qwen2, read_by_type};
use super::naming::NamePairs;
use super::preset::{Preset, model_config};
use super::{Architecture, Family, NewTokenizer};
use crate::base::Result;
use crate::io::text::added_ids;
use crate::io::video::sampling::{FrameCount, FrameSampling};
use crate::model::config::keys::{Keys, read_json};
use crate::model::config::text::{bos_id, eos_ids, token_id};
use crate::model::config::{TokenIds, VlmConfig};
use crate::model::decoder::names::IN_MODEL;
use crate::model::positions::PositionRule;
use crate::model::processor::settings_file::{PREPROCESSOR_FILE, PROCESSOR_FILE, read_settings};
use crate::model::processor::tiles::{
    Arithmetic, MARKS, Pixels, TileProcessor, TileSettings, VIDEO,
};
use crate::model::processor::{ImageBackend, ProcessorOptions, VisualProcessor};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

/// The family.
#[derive(Debug)]
pub struct InternVl;

/// eps of the norms of queries and keys: the class makes them with its own default.
const QK_NORM_EPS: f64 = 1e-6;
/// File of the settings of videos in transformers 4.
const VIDEO_FILE: &str = "video_preprocessor_config.json";
/// Frames of a video where neither settings nor options say a number: what the model's page asks for. (The
/// class has no number, and takes every frame unless it is asked to choose.)
const SAMPLING: FrameSampling = FrameSampling::InternVl { count: FrameCount::Number(8) };
/// Image processors whose arithmetic this is; which of them a file names does not choose a backend, as
/// in transformers 5.
const IMAGE_PROCESSORS: [&str; 3] =
    ["GotOcr2ImageProcessor", "GotOcr2ImageProcessorFast", "GotOcr2ImageProcessorPil"];

impl Family for InternVl {
    fn model_type(&self) -> &'static str {
        "internvl"
    }
    fn architecture(&self) -> &'static str {
        "InternVLForConditionalGeneration"
    }
    fn names(&self) -> NamePairs {
        &[
            ("model.vision_tower.", "vision_tower."),
            ("model.multi_modal_projector.", "multi_modal_projector."),
            ("model.language_model.", "language_model.model."),
            ("lm_head.", "language_model.lm_head."),
        ]
    }
    fn vision_modules(&self) -> &'static [&'static str] {
        &["vision_tower", "multi_modal_projector"]
    }

    fn read(&self, top: &Keys) -> Result<Architecture> {
        let keys = top.object_or_empty("text_config")?;
        let text = read_by_type(top, &keys, IN_MODEL)?;
        let vision = read_vision(top, text.hidden_size)?;
        let tokens = TokenIds {
            image: token_id(top, "image_token_id", 151_667, text.vocab_size)?,
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
        let below = |id: &u32| (*id as usize) < vocab_size;
        let id = |token: &str| ids.get(token).copied().filter(below);
        tokens.marks = MARKS.iter().chain(&[VIDEO]).filter_map(|mark| id(mark)).collect();
        if tokens.eos.is_empty() {
            tokens.eos = id(self.end_of_turn()).into_iter().collect();
        }
        Ok(())
    }

    fn processor(
        &self,
        dir: Option<&Path>,
        config: &VlmConfig,
        options: &ProcessorOptions,
    ) -> Result<Box<dyn VisualProcessor>> {
        Ok(Box::new(processor(dir, config, options)?))
    }

    fn new_config(&self, preset: &Preset, tokenizer: &NewTokenizer) -> Result<Value> {
        new_config(preset, tokenizer)
    }

    fn processor_files(&self, config: &VlmConfig) -> Result<Vec<(&'static str, Value)>> {
        Ok(processor_files(&vision_of(config)?, config.text.max_position_embeddings))
    }
}

/// The processor of images and frames of a model folder, or of the published models.
///
/// # Errors
/// If its settings are missing or cannot be followed, or options contradict them.
pub fn processor(
    dir: Option<&Path>,
    config: &VlmConfig,
    options: &ProcessorOptions,
) -> Result<TileProcessor> {
    let vision = vision_of(config)?;
    let settings = match dir {
        Some(dir) => settings_of(dir, &vision)?,
        None => published(&vision),
    };
    TileProcessor::new(settings.with_options(options)?)
}

/// Settings of a model folder.
fn settings_of(dir: &Path, vision: &VisionConfig) -> Result<TileSettings> {
    let (file, value) = read_settings(dir, "image_processor", &[])?;
    let path = dir.join(file);
    let keys = Keys::of(&value, &path)?;
    if keys.string("image_processor_type")?.is_some_and(|t| !IMAGE_PROCESSORS.contains(&t)) {
        return Err(keys.wrong("image_processor_type", IMAGE_PROCESSORS.join(", ")));
    }
    check_tokens_of_a_tile(dir, vision)?;
    let pixels = Pixels::read(&keys, vision.tile_side())?;
    // Defaults of the class.
    let (least, most) = (keys.size("min_patches", 1)?, keys.size("max_patches", 12)?);
    if least > most {
        return Err(keys.wrong("max_patches", format!("at least {least}")));
    }
    let class = || (pixels.clone(), SAMPLING);
    let (frame_pixels, sampling) = video_settings(dir, vision)?.unwrap_or_else(class);
    Ok(TileSettings {
        min_tiles: least,
        max_tiles: most,
        pixels,
        frame_pixels,
        sampling,
        ..published(vision)
    })
}

/// The tower as config.json has it.
fn vision_of(config: &VlmConfig) -> Result<VisionConfig> {
    let keys = Keys::of(&config.raw, Path::new("config.json"))?;
    read_vision(&keys, config.text.hidden_size)
}

/// Defaults are those of InternVLVisionConfig and InternVLConfig.
fn read_vision(top: &Keys, text_hidden: usize) -> Result<VisionConfig> {
    let keys = top.object_or_empty("vision_config")?;
    check_top(top)?;
    keys.must_be("hidden_act", "gelu")?;
    keys.must_be_zero(&["hidden_dropout_prob", "attention_dropout", "projection_dropout"])?;
    for (key, only) in [
        ("use_absolute_position_embeddings", true),
        ("use_mean_pooling", true),
        ("use_mask_token", false),
    ] {
        if keys.boolean(key, only)? != only {
            return Err(keys.wrong(key, only.to_string()));
        }
    }
    keys.must_be_size("num_channels", 3)?;
    let patch_size = square(&keys, "patch_size", 14)?;
    let side = square(&keys, "image_size", 448)?;
    let vision = VisionConfig {
        hidden_size: keys.size("hidden_size", 1024)?,
        intermediate_size: keys.size("intermediate_size", 4096)?,
        depth: keys.size("num_hidden_layers", 24)?,
        num_heads: keys.size("num_attention_heads", 16)?,
        patch_size,
        grid: side / patch_size,
        norm: norm_type(&keys, NormType::Layer)?,
        norm_eps: keys.float("layer_norm_eps", 1e-6)?,
        qkv_bias: keys.boolean("attention_bias", false)?,
        qk_norm_eps: keys.boolean("use_qk_norm", false)?.then_some(QK_NORM_EPS),
        by_columns: false,
        out_hidden_size: text_hidden,
        names: &TRANSFORMERS_NAMES,
    };
    vision.check(&keys, "num_attention_heads", side)?;
    Ok(vision)
}

/// Keys of the whole model with one value that is supported.
fn check_top(top: &Keys) -> Result<()> {
    if top.float("downsample_ratio", 0.5)? * MERGE as f64 != 1.0 {
        return Err(top.wrong("downsample_ratio", "0.5"));
    }
    top.must_be("projector_hidden_act", "gelu")?;
    top.must_be("vision_feature_select_strategy", "default")?;
    if top.get("vision_feature_layer").is_some_and(|v| v.as_i64() != Some(-1)) {
        return Err(top.wrong("vision_feature_layer", "-1, the last layer"));
    }
    Ok(())
}

/// A size that is written as one number, or as two equal ones.
fn square(keys: &Keys, key: &str, default: usize) -> Result<usize> {
    if !keys.get(key).is_some_and(Value::is_array) {
        return keys.size(key, default);
    }
    match keys.sizes(key)?.as_deref() {
        Some(&[a, b]) if a == b && a > 0 => Ok(a),
        _ => Err(keys.wrong(key, "two equal numbers above 0")),
    }
}

/// Settings of the published models.
fn published(vision: &VisionConfig) -> TileSettings {
    let torchvision = Arithmetic::Processor(ImageBackend::Torchvision);
    TileSettings {
        side: vision.tile_side(),
        patch_size: vision.patch_size,
        min_tiles: 1,
        max_tiles: 12,
        // The processor asks its image processor for tiles whatever `crop_to_patches` says, and that
        // one always adds the picture of the whole.
        thumbnail: true,
        writes_marks: true,
        pixels: Pixels::default(),
        arithmetic: torchvision,
        frame_pixels: Pixels::default(),
        // transformers has no other processor of videos.
        frame_arithmetic: torchvision,
        sampling: SAMPLING,
    }
}

/// `image_seq_length` says how many tokens the processor writes for a tile: as many as there are features.
fn check_tokens_of_a_tile(dir: &Path, vision: &VisionConfig) -> Result<()> {
    let path = dir.join(PROCESSOR_FILE);
    if !path.is_file() {
        return Ok(());
    }
    let value = read_json(&path)?;
    let keys = Keys::of(&value, &path)?;
    let features = vision.tile_features();
    match keys.size("image_seq_length", features)? == features {
        true => Ok(()),
        false => Err(keys.wrong("image_seq_length", format!("{features}, the features of a tile"))),
    }
}

/// Pixels and choice of frames, if the folder has settings for videos.
fn video_settings(dir: &Path, vision: &VisionConfig) -> Result<Option<(Pixels, FrameSampling)>> {
    let nested = match dir.join(PROCESSOR_FILE) {
        path if path.is_file() => read_json(&path)?.get("video_processor").cloned(),
        _ => None,
    };
    let path = dir.join(if nested.is_some() { PROCESSOR_FILE } else { VIDEO_FILE });
    let value = match nested {
        Some(value) => value,
        None if path.is_file() => read_json(&path)?,
        None => return Ok(None),
    };
    let keys = Keys::of(&value, &path)?;
    if !keys.boolean("initial_shift", true)? {
        return Err(keys.wrong("initial_shift", "true"));
    }
    // Of both keys, the class follows the first.
    let sampling = match (keys.get("num_frames"), keys.get("fps")) {
        (Some(_), _) => {
            FrameSampling::InternVl { count: FrameCount::Number(keys.size("num_frames", 1)?) }
        }
        (None, Some(_)) => {
            FrameSampling::InternVl { count: FrameCount::PerSecond(keys.float("fps", 0.0)?) }
        }
        (None, None) => SAMPLING,
    };
    Ok(Some((Pixels::read(&keys, vision.tile_side())?, sampling)))
}

/// The files of `save_pretrained` of transformers 4, which 5 reads too.
fn processor_files(vision: &VisionConfig, context: usize) -> Vec<(&'static str, Value)> {
    let (side, pixels) = (vision.tile_side(), Pixels::default());
    // At most half of the context, which leaves room for a question and a completion.
    let room = (context / 2 / vision.tile_features()).saturating_sub(1).max(1);
    let shared = json!({
        "do_convert_rgb": true,
        "do_normalize": true,
        "do_rescale": true,
        "do_resize": true,
        "image_mean": pixels.mean,
        "image_std": pixels.std,
        "resample": pixels.resample.pil(),
        "rescale_factor": pixels.rescale_factor,
        "size": { "height": side, "width": side },
    });
    let with = |more: Value| {
        let mut all = shared.clone();
        if let (Some(all), Value::Object(more)) = (all.as_object_mut(), more) {
            all.extend(more);
        }
        all
    };
    let image = with(json!({
        "crop_to_patches": false,
        "image_processor_type": "GotOcr2ImageProcessorFast",
        "max_patches": room.min(12),
        "min_patches": 1,
        "processor_class": "InternVLProcessor",
    }));
    let video = with(json!({
        "do_sample_frames": false,
        "initial_shift": true,
        "num_frames": room.min(8),
        "processor_class": "InternVLProcessor",
        "video_processor_type": "InternVLVideoProcessor",
    }));
    let processor = json!({
        "image_seq_length": vision.tile_features(),
        "processor_class": "InternVLProcessor",
    });
    vec![(PREPROCESSOR_FILE, image), (VIDEO_FILE, video), (PROCESSOR_FILE, processor)]
}

/// config.json of a new model with a Qwen2 language model, in the layout of transformers 5.
fn new_config(preset: &Preset, tokenizer: &NewTokenizer) -> Result<Value> {
    let Preset { text, tower, .. } = preset;
    let (patch, side) = (14, tower.image_size);
    let language = json!({
        "dtype": "float32",
        "eos_token_id": [(tokenizer.id)("<|im_end|>")?, (tokenizer.id)("<|endoftext|>")?],
        "layer_types": vec!["full_attention"; text.num_layers],
        "rope_parameters": { "rope_theta": 1e6, "rope_type": "default" },
    });
    let vision = json!({
        "attention_bias": true,
        "attention_dropout": 0.0,
        "dtype": "float32",
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "hidden_size": tower.hidden_size,
        "image_size": [side, side],
        "initializer_range": 0.02,
        "intermediate_size": tower.intermediate_size,
        "layer_norm_eps": 1e-6,
        "layer_scale_init_value": 1.0,
        "model_type": "internvl_vision",
        "norm_type": "layer_norm",
        "num_attention_heads": tower.num_heads,
        "num_channels": 3,
        "num_hidden_layers": tower.depth,
        "patch_size": [patch, patch],
        "projection_dropout": 0.0,
        "use_absolute_position_embeddings": true,
        "use_mask_token": false,
        "use_mean_pooling": true,
        "use_qk_norm": false,
    });
    let own = json!({
        "downsample_ratio": 0.5,
        "image_seq_length": (side / patch / MERGE).pow(2),
        "image_token_id": (tokenizer.id)("<IMG_CONTEXT>")?,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
    });
    Ok(model_config(&InternVl, new_qwen2(text, tokenizer, language)?, vision, own))
}
