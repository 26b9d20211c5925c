//! New models: sizes by the name of a preset, and the keys of config.json that several families have
//! alike, in the layout of transformers 5 with keys in alphabetical order. No file is read or written
//! here.

use super::tower_keys::VISION_ROPE_THETA;
use super::{Family, NewTokenizer};
use crate::base::{Error, Result};

use serde_json::{Value, json};

/// Sizes of a new language model.
#[derive(Debug, Clone, Copy)]
pub struct TextSizes {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Layers.
    pub num_layers: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Key and value heads.
    pub num_kv_heads: usize,
    /// Most positions.
    pub context: usize,
}

impl TextSizes {
    /// Size of a head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_heads
    }
}

/// Sizes of a new vision tower.
#[derive(Debug, Clone, Copy)]
pub struct TowerSizes {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Blocks.
    pub depth: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Pixels per side of an image, where a tower has a table of one size.
    pub image_size: usize,
}

/// Sizes of a new model.
#[derive(Debug)]
pub struct Preset {
    /// Name in `grpo-rt init --preset`.
    pub name: &'static str,
    /// The language model.
    pub text: TextSizes,
    /// The vision tower; a family says where its own differs.
    pub tower: TowerSizes,
    /// Place in [`PRESETS`].
    place: usize,
}

/// Every preset.
pub static PRESETS: [Preset; 2] = [
    Preset {
        name: "tiny",
        text: TextSizes {
            hidden_size: 128,
            intermediate_size: 384,
            num_layers: 4,
            num_heads: 4,
            num_kv_heads: 2,
            context: 2048,
        },
        tower: TowerSizes {
            hidden_size: 96,
            intermediate_size: 256,
            depth: 4,
            num_heads: 4,
            image_size: 112,
        },
        place: 0,
    },
    Preset {
        name: "small",
        text: TextSizes {
            hidden_size: 384,
            intermediate_size: 1152,
            num_layers: 8,
            num_heads: 6,
            num_kv_heads: 2,
            context: 8192,
        },
        tower: TowerSizes {
            hidden_size: 256,
            intermediate_size: 768,
            depth: 6,
            num_heads: 4,
            image_size: 224,
        },
        place: 1,
    },
];

impl Preset {
    /// The preset of a name.
    ///
    /// # Errors
    /// If there is none, with the names of those there are.
    pub fn named(name: &str) -> Result<&'static Preset> {
        PRESETS.iter().find(|p| p.name == name).ok_or_else(|| {
            let known = PRESETS.each_ref().map(|p| p.name).join(" or ");
            Error::usage("unknown model preset").expected(known).found(name)
        })
    }

    /// The value for this preset, of a family's values for [`PRESETS`] in order.
    pub fn of<T: Copy>(&self, values: [T; PRESETS.len()]) -> T {
        values[self.place]
    }
}

/// config.json of a family; `own` are its further keys.
pub fn model_config(family: &dyn Family, text: Value, vision: Value, own: Value) -> Value {
    let shared = json!({
        "architectures": [family.architecture()],
        "dtype": "float32",
        "model_type": family.model_type(),
        "text_config": text,
        "tie_word_embeddings": true,
        "vision_config": vision,
    });
    with(shared, own)
}

/// A language model by transformers' names, without the keys that say the type of its weights; `own` are
/// the keys that its class has beside these.
///
/// # Errors
/// If the tokenizer lacks the end of text.
pub fn text_config(
    text: &TextSizes,
    model_type: &str,
    tokenizer: &NewTokenizer,
    own: Value,
) -> Result<Value> {
    let shared = json!({
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "hidden_size": text.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": text.intermediate_size,
        "max_position_embeddings": text.context,
        "model_type": model_type,
        "num_attention_heads": text.num_heads,
        "num_hidden_layers": text.num_layers,
        "num_key_value_heads": text.num_kv_heads,
        "pad_token_id": (tokenizer.id)("<|endoftext|>")?,
        "use_cache": true,
        "vocab_size": tokenizer.vocab_size,
    });
    Ok(with(shared, own))
}

/// A vision tower whose heads turn by rows and columns, without its widths, which families name
/// differently; `own` are the keys that its class has beside these.
pub fn tower_config(tower: &TowerSizes, model_type: &str, own: Value) -> Value {
    let shared = json!({
        "depth": tower.depth,
        "dtype": "float32",
        "in_channels": 3,
        "initializer_range": 0.02,
        "model_type": model_type,
        "num_heads": tower.num_heads,
        "rope_parameters": { "rope_theta": VISION_ROPE_THETA, "rope_type": "axial" },
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    });
    with(shared, own)
}

/// The keys of both objects, in alphabetical order; `own` wins.
pub fn with(mut shared: Value, own: Value) -> Value {
    if let (Some(all), Value::Object(own)) = (shared.as_object_mut(), own) {
        all.extend(own);
        all.sort_keys();
    }
    shared
}
