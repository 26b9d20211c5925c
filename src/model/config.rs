//! Reads and writes config.json of vision-language models, in the layouts of transformers 4 (text keys at
//! the top level) and 5 (`text_config`, `rope_parameters`). A value that this program would have to
//! ignore is an error here; nothing is ever guessed from tensor shapes.

mod keys; // typed access to the keys of a JSON object

use crate::base::{DType, Error, Result};
use keys::{Keys, read_json};
use serde_json::{Value, json};
use std::path::Path;

/// A model architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Qwen2.5-VL, `Qwen2_5_VLForConditionalGeneration`.
    Qwen25Vl,
}

/// Known families: (family, `model_type`, `architectures` entry).
pub const FAMILIES: [(Family, &str, &str); 1] =
    [(Family::Qwen25Vl, "qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration")];

impl Family {
    /// `model_type` in config.json.
    pub fn model_type(self) -> &'static str {
        match self {
            Family::Qwen25Vl => "qwen2_5_vl",
        }
    }
    /// Class name in `architectures` of config.json.
    pub fn architecture(self) -> &'static str {
        match self {
            Family::Qwen25Vl => "Qwen2_5_VLForConditionalGeneration",
        }
    }
}

/// The language model.
#[derive(Debug, Clone, PartialEq)]
pub struct TextConfig {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the gated MLP.
    pub intermediate_size: usize,
    /// Decoder layers (`num_hidden_layers`).
    pub num_layers: usize,
    /// Query heads (`num_attention_heads`).
    pub num_heads: usize,
    /// Key and value heads; divides `num_heads`.
    pub num_kv_heads: usize,
    /// Size of a head: `hidden_size / num_heads`.
    pub head_dim: usize,
    /// Rows of the embedding; at least the tokenizer's vocabulary.
    pub vocab_size: usize,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Frequencies turned by the temporal, height and width position; sums to `head_dim / 2`.
    pub mrope_section: [usize; 3],
    /// The head is the embedding.
    pub tie_word_embeddings: bool,
    /// Longest sequence the model was made for.
    pub max_position_embeddings: usize,
}

/// Activation of the gated MLPs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x * sigmoid(x).
    Silu,
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
    /// Pixels per side of a patch.
    pub patch_size: usize,
    /// Frames per patch.
    pub temporal_patch_size: usize,
    /// Colour channels.
    pub in_channels: usize,
    /// Patches per side of a merged unit.
    pub spatial_merge_size: usize,
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
    /// Activation of the MLP.
    pub hidden_act: Activation,
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
        self.window_size / self.spatial_merge_size / self.patch_size
    }
    /// True if block `index` attends to the whole image.
    pub fn is_full_attention(&self, index: usize) -> bool {
        self.fullatt_block_indexes.contains(&index)
    }
    /// Numbers in one row of `pixel_values`: channels x frames x rows x columns.
    pub fn patch_values(&self) -> usize {
        self.in_channels * self.temporal_patch_size * self.patch_size * self.patch_size
    }
}

/// Token ids with a meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenIds {
    /// Placeholder of one merged unit of an image.
    pub image: u32,
    /// Placeholder of one merged unit of a video.
    pub video: u32,
    /// Before the placeholders.
    pub vision_start: u32,
    /// After the placeholders.
    pub vision_end: u32,
    /// Tokens that end a completion; generation_config.json wins over config.json.
    pub eos: Vec<u32>,
    /// Beginning of text, if there is one.
    pub bos: Option<u32>,
    /// Padding, if there is one.
    pub pad: Option<u32>,
}

/// A vision-language model's config.json.
#[derive(Debug, Clone, PartialEq)]
pub struct VlmConfig {
    /// Architecture.
    pub family: Family,
    /// Language model.
    pub text: TextConfig,
    /// Vision tower.
    pub vision: VisionConfig,
    /// Token ids.
    pub tokens: TokenIds,
    /// Element type of the stored weights, if the file says so.
    pub dtype: Option<DType>,
    /// The file as it was read (null for presets).
    pub raw: Value,
}

impl VlmConfig {
    /// Reads `config.json` and, if it is there, `generation_config.json` of a model folder.
    ///
    /// # Errors
    /// If config.json is missing or malformed, or describes a model that cannot run here.
    pub fn from_dir(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let path = dir.join("config.json");
        if !path.is_file() && dir.join("adapter_config.json").is_file() {
            return Err(Error::data("the folder holds an adapter, not a model")
                .file(dir)
                .expected("config.json")
                .found("adapter_config.json")
                .hint("give the base model as the model and this folder as the adapter"));
        }
        let mut config = Self::from_json(read_json(&path)?, &path)?;
        let path = dir.join("generation_config.json");
        if path.is_file() {
            let value = read_json(&path)?;
            let keys = Keys::of(&value, &path)?;
            if let Some(eos) = keys.ids("eos_token_id")? {
                config.tokens.eos = eos;
            }
            config.tokens.bos = keys.id("bos_token_id")?.or(config.tokens.bos);
            config.tokens.pad = keys.id("pad_token_id")?.or(config.tokens.pad);
        }
        Ok(config)
    }

    /// Reads the configuration of a model folder, or one file of it.
    ///
    /// # Errors
    /// As [`VlmConfig::from_dir`].
    pub fn from_path(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        match path.is_file() {
            true => Self::from_json(read_json(path)?, path),
            false => Self::from_dir(path),
        }
    }

    /// Reads the content of config.json; `file` is named in errors.
    ///
    /// # Errors
    /// If the family is unknown, a key has a wrong value, or the model uses something that this program
    /// does not do (sliding windows, quantised weights, other activations or rotary types).
    pub fn from_json(value: Value, file: impl AsRef<Path>) -> Result<Self> {
        let top = Keys::of(&value, file.as_ref())?;
        let family = family(&top)?;
        if top.get("quantization_config").is_some() {
            return Err(top
                .wrong("quantization_config", "unquantised weights")
                .hint("use the checkpoint in bfloat16 or float32 that this one was made from"));
        }
        // transformers 4 has the text keys at the top level
        let text_keys = top.object("text_config")?.unwrap_or_else(|| top.clone());
        let vision_keys =
            top.object("vision_config")?.unwrap_or_else(|| top.empty("vision_config"));
        let text = read_text(&top, &text_keys)?;
        let vision = read_vision(&vision_keys, text.hidden_size)?;
        let tokens = read_tokens(&top, &text_keys, text.vocab_size)?;
        let dtype = read_dtype(&top, &text_keys)?;
        Ok(VlmConfig { family, text, vision, tokens, dtype, raw: value })
    }

    /// A new model's configuration: `tiny` (1.5 M parameters without the embedding, trains on a CPU in
    /// minutes) or `small` (21 M). `vocab_size` is the number of embedding rows.
    ///
    /// # Errors
    /// If there is no such preset, or a token id is not below `vocab_size`.
    pub fn preset(name: &str, vocab_size: usize, tokens: TokenIds) -> Result<Self> {
        let (text, vision) = match name {
            "tiny" => ([128, 384, 4, 4, 2, 2048], [96, 256, 4, 4]),
            "small" => ([384, 1152, 8, 6, 2, 8192], [256, 768, 6, 4]),
            other => {
                return Err(Error::usage("unknown model preset")
                    .expected("tiny or small")
                    .found(other));
            }
        };
        let head_dim = text[0] / text[3];
        let quarter = head_dim / 8; // the proportion of the published models: 16 of 64, 24, 24
        let text = TextConfig {
            hidden_size: text[0],
            intermediate_size: text[1],
            num_layers: text[2],
            num_heads: text[3],
            num_kv_heads: text[4],
            head_dim,
            vocab_size,
            rms_norm_eps: 1e-6,
            rope_theta: 1e6,
            mrope_section: [quarter, quarter * 3 / 2, quarter * 3 / 2],
            tie_word_embeddings: true,
            max_position_embeddings: text[5],
        };
        let vision = VisionConfig {
            hidden_size: vision[0],
            intermediate_size: vision[1],
            depth: vision[2],
            num_heads: vision[3],
            patch_size: 14,
            temporal_patch_size: 2,
            in_channels: 3,
            spatial_merge_size: 2,
            window_size: 56,
            fullatt_block_indexes: vec![vision[2] / 2 - 1, vision[2] - 1],
            out_hidden_size: text.hidden_size,
            rms_norm_eps: VISION_RMS_NORM_EPS,
            rope_theta: VISION_ROPE_THETA,
            hidden_act: Activation::Silu,
            tokens_per_second: 4,
        };
        let config = VlmConfig {
            family: Family::Qwen25Vl,
            text,
            vision,
            tokens,
            dtype: Some(DType::F32),
            raw: Value::Null,
        };
        // One set of checks for files and presets.
        VlmConfig::from_json(config.to_json(), "preset")
            .map(|checked| VlmConfig { raw: Value::Null, ..checked })
    }

    /// The content of a config.json in the layout of transformers 5.
    pub fn to_json(&self) -> Value {
        let (t, v, ids) = (&self.text, &self.vision, &self.tokens);
        let eos = match ids.eos.as_slice() {
            [] => Value::Null,
            [one] => json!(one),
            several => json!(several),
        };
        let dtype = self.dtype.unwrap_or(DType::F32).torch_name();
        json!({
            "architectures": [self.family.architecture()],
            "dtype": dtype,
            "image_token_id": ids.image,
            "model_type": self.family.model_type(),
            "text_config": {
                "attention_dropout": 0.0,
                "bos_token_id": ids.bos,
                "dtype": dtype,
                "eos_token_id": eos,
                "hidden_act": "silu",
                "hidden_size": t.hidden_size,
                "initializer_range": 0.02,
                "intermediate_size": t.intermediate_size,
                "layer_types": vec!["full_attention"; t.num_layers],
                "max_position_embeddings": t.max_position_embeddings,
                "model_type": "qwen2_5_vl_text",
                "num_attention_heads": t.num_heads,
                "num_hidden_layers": t.num_layers,
                "num_key_value_heads": t.num_kv_heads,
                "pad_token_id": ids.pad,
                "rms_norm_eps": t.rms_norm_eps,
                "rope_parameters": {
                    "mrope_section": t.mrope_section,
                    "rope_theta": t.rope_theta,
                    "rope_type": "default",
                },
                "sliding_window": null,
                "use_cache": true,
                "use_sliding_window": false,
                "vocab_size": t.vocab_size,
            },
            "tie_word_embeddings": t.tie_word_embeddings,
            "video_token_id": ids.video,
            "vision_config": {
                "depth": v.depth,
                "dtype": dtype,
                "fullatt_block_indexes": v.fullatt_block_indexes,
                "hidden_act": "silu",
                "hidden_size": v.hidden_size,
                "in_channels": v.in_channels,
                "initializer_range": 0.02,
                "intermediate_size": v.intermediate_size,
                "model_type": "qwen2_5_vl_vision",
                "num_heads": v.num_heads,
                "out_hidden_size": v.out_hidden_size,
                "patch_size": v.patch_size,
                "rope_parameters": { "rope_theta": v.rope_theta, "rope_type": "axial" },
                "spatial_merge_size": v.spatial_merge_size,
                "temporal_patch_size": v.temporal_patch_size,
                "tokens_per_second": v.tokens_per_second,
                "window_size": v.window_size,
            },
            "vision_end_token_id": ids.vision_end,
            "vision_start_token_id": ids.vision_start,
        })
    }
}

/// eps of every norm in the vision tower: written into transformers' Qwen2_5_VLVisionBlock and
/// Qwen2_5_VLPatchMerger, no key of config.json changes it.
const VISION_RMS_NORM_EPS: f64 = 1e-6;
/// Default of `vision_config.rope_parameters.rope_theta`.
const VISION_ROPE_THETA: f64 = 10_000.0;

fn family(top: &Keys) -> Result<Family> {
    let model_type = top.string("model_type")?;
    let architecture = top.get("architectures").and_then(|v| v.get(0)).and_then(Value::as_str);
    for (family, known_type, known_class) in FAMILIES {
        if model_type == Some(known_type)
            || (model_type.is_none() && architecture == Some(known_class))
        {
            return Ok(family);
        }
    }
    let known: Vec<&str> = FAMILIES.iter().map(|f| f.1).collect();
    Err(Error::data("unknown model family")
        .file(top.file)
        .key("model_type")
        .expected(format!("one of: {}", known.join(", ")))
        .found(model_type.or(architecture).unwrap_or("neither model_type nor architectures")))
}

/// Defaults are those of transformers' Qwen2_5_VLTextConfig.
fn read_text(top: &Keys, keys: &Keys) -> Result<TextConfig> {
    let hidden_size = keys.size("hidden_size", 8192)?;
    let num_layers = keys.size("num_hidden_layers", 80)?;
    let num_heads = keys.size("num_attention_heads", 64)?;
    let num_kv_heads = match keys.has_null("num_key_value_heads") {
        true => num_heads,
        false => keys.size("num_key_value_heads", 8)?,
    };
    keys.must_be("hidden_act", "silu")?;
    check_sliding_window(keys, num_layers)?;
    if keys.float("attention_dropout", 0.0)? != 0.0 {
        return Err(keys.wrong("attention_dropout", "0").hint("set it to 0 in config.json"));
    }
    let head_dim = hidden_size / num_heads;
    if hidden_size % num_heads != 0 || !head_dim.is_multiple_of(2) {
        return Err(
            keys.wrong("num_attention_heads", format!("hidden_size {hidden_size} in even parts"))
        );
    }
    if num_heads % num_kv_heads != 0 {
        return Err(keys.wrong("num_key_value_heads", format!("a divisor of {num_heads}")));
    }
    if keys.size("head_dim", head_dim)? != head_dim {
        return Err(
            keys.wrong("head_dim", format!("hidden_size / num_attention_heads = {head_dim}"))
        );
    }
    let (rope_theta, mrope_section) = read_text_rope(keys, head_dim)?;
    Ok(TextConfig {
        hidden_size,
        intermediate_size: keys.size("intermediate_size", 29568)?,
        num_layers,
        num_heads,
        num_kv_heads,
        head_dim,
        vocab_size: keys.size("vocab_size", 152_064)?,
        rms_norm_eps: keys.float("rms_norm_eps", 1e-5)?,
        rope_theta,
        mrope_section,
        tie_word_embeddings: top.boolean("tie_word_embeddings", false)?
            || keys.boolean("tie_word_embeddings", false)?,
        max_position_embeddings: keys.size("max_position_embeddings", 32_768)?,
    })
}

/// A layer slides if `layer_types` says so, or by `use_sliding_window` from `max_window_layers` on.
fn check_sliding_window(keys: &Keys, num_layers: usize) -> Result<()> {
    let hint = "models with sliding-window layers are not supported";
    if let Some(types) = keys.get("layer_types") {
        let full = |t: &Value| t.as_str() == Some("full_attention");
        if !types.as_array().is_some_and(|types| types.iter().all(full)) {
            return Err(keys.wrong("layer_types", "only full_attention").hint(hint));
        }
        return Ok(());
    }
    let slides = keys.boolean("use_sliding_window", false)?
        && !keys.has_null("sliding_window")
        && keys.size_or_zero("max_window_layers", 80)? < num_layers;
    match slides {
        true => Err(keys.wrong("use_sliding_window", "false").hint(hint)),
        false => Ok(()),
    }
}

/// `rope_parameters` (transformers 5) or `rope_theta` beside `rope_scaling` (transformers 4, which wins
/// where both are there, as in transformers).
fn read_text_rope(keys: &Keys, head_dim: usize) -> Result<(f64, [usize; 3])> {
    let rope = match keys.object("rope_scaling")? {
        Some(rope) => rope,
        None => keys.object("rope_parameters")?.unwrap_or_else(|| keys.empty("rope_parameters")),
    };
    for key in ["rope_type", "type"] {
        if !matches!(rope.string(key)?, None | Some("default" | "mrope")) {
            return Err(rope.wrong(key, "default or mrope").hint(
                "remove the long-context extension from config.json to use the plain model",
            ));
        }
    }
    let theta = match rope.get("rope_theta") {
        Some(_) => rope.float("rope_theta", 0.0)?,
        None => keys.float("rope_theta", 1e6)?,
    };
    if theta <= 1.0 {
        return Err(keys.wrong("rope_theta", "a number above 1"));
    }
    let section = match rope.sizes("mrope_section")? {
        Some(sizes) => sizes,
        None => vec![16, 24, 24], // default in Qwen2_5_VLRotaryEmbedding
    };
    match <[usize; 3]>::try_from(section) {
        Ok(s) if s.iter().sum::<usize>() == head_dim / 2 => Ok((theta, s)),
        _ => Err(rope.wrong(
            "mrope_section",
            format!("three numbers with the sum head_dim / 2 = {}", head_dim / 2),
        )),
    }
}

/// Defaults are those of transformers' Qwen2_5_VLVisionConfig. `in_chans` and `spatial_patch_size` of the
/// published files are not read there either.
fn read_vision(keys: &Keys, text_hidden: usize) -> Result<VisionConfig> {
    let hidden_size = keys.size("hidden_size", 3584)?;
    let num_heads = keys.size("num_heads", 16)?;
    keys.must_be("hidden_act", "silu")?;
    if hidden_size % num_heads != 0 || !(hidden_size / num_heads).is_multiple_of(4) {
        return Err(
            keys.wrong("num_heads", format!("hidden_size {hidden_size} in parts that divide by 4"))
        );
    }
    let out_hidden_size = keys.size("out_hidden_size", 3584)?;
    if out_hidden_size != text_hidden {
        return Err(keys
            .wrong("out_hidden_size", format!("the language model's hidden_size {text_hidden}")));
    }
    let rope = keys.object("rope_parameters")?.unwrap_or_else(|| keys.empty("rope_parameters"));
    rope.must_be("rope_type", "axial")?;
    let vision = VisionConfig {
        hidden_size,
        intermediate_size: keys.size("intermediate_size", 3420)?,
        depth: keys.size("depth", 32)?,
        num_heads,
        patch_size: keys.size("patch_size", 14)?,
        temporal_patch_size: keys.size("temporal_patch_size", 2)?,
        in_channels: keys.size("in_channels", 3)?,
        spatial_merge_size: keys.size("spatial_merge_size", 2)?,
        window_size: keys.size("window_size", 112)?,
        fullatt_block_indexes: keys
            .sizes("fullatt_block_indexes")?
            .unwrap_or_else(|| vec![7, 15, 23, 31]),
        out_hidden_size,
        rms_norm_eps: VISION_RMS_NORM_EPS,
        rope_theta: rope.float("rope_theta", VISION_ROPE_THETA)?,
        hidden_act: Activation::Silu,
        tokens_per_second: keys.size("tokens_per_second", 4)?,
    };
    if vision.window_units() == 0 {
        let unit = vision.patch_size * vision.spatial_merge_size;
        return Err(keys.wrong("window_size", format!("at least one merged unit, {unit} pixels")));
    }
    Ok(vision)
}

/// Defaults are those of transformers' Qwen2_5_VLConfig and Qwen2_5_VLTextConfig.
fn read_tokens(top: &Keys, text: &Keys, vocab_size: usize) -> Result<TokenIds> {
    let special = |key, default| -> Result<u32> {
        let id = top.id(key)?.unwrap_or(default);
        match (id as usize) < vocab_size {
            true => Ok(id),
            false => Err(top.wrong(key, format!("an id below vocab_size {vocab_size}"))),
        }
    };
    Ok(TokenIds {
        image: special("image_token_id", 151_655)?,
        video: special("video_token_id", 151_656)?,
        vision_start: special("vision_start_token_id", 151_652)?,
        vision_end: special("vision_end_token_id", 151_653)?,
        eos: match text.has_null("eos_token_id") {
            true => Vec::new(),
            false => text.ids("eos_token_id")?.unwrap_or_else(|| vec![151_645]),
        },
        bos: match text.has_null("bos_token_id") {
            true => None,
            false => text.id("bos_token_id")?.or(Some(151_643)),
        },
        pad: text.id("pad_token_id")?,
    })
}

fn read_dtype(top: &Keys, text: &Keys) -> Result<Option<DType>> {
    for (keys, key) in
        [(top, "dtype"), (top, "torch_dtype"), (text, "dtype"), (text, "torch_dtype")]
    {
        if let Some(name) = keys.string(key)? {
            return DType::from_torch_name(name)
                .map(Some)
                .map_err(|_| keys.wrong(key, "float32, bfloat16 or float16"));
        }
    }
    Ok(None)
}
