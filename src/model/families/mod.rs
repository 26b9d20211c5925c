//! Model families: what differs between architectures, one short file each, and what they are asked.
//! Code above this folder never branches on a family; it asks a [`Family`] or the [`VisionTower`] and
//! reads [`TextConfig`]. No tensor is ever touched in this file.

pub mod glm4v; // GLM-4.1V: interpolated places, partial rotation, norms around every block
pub mod glm4v_9b; // glm-4v-9b in its own layout
pub mod intern_vit; // vision tower of InternVL, with its connector
pub mod internvl; // InternVL in the layout of transformers
pub mod internvl_chat; // InternVL in the layout of its own code
pub mod internvl_language; // language models of InternVL
pub mod naming; // module paths and names on disk
pub mod preset; // sizes of new models, shared keys of their config.json
pub mod qwen2_5_vl; // Qwen2.5-VL: windowed vision tower, M-RoPE
pub mod qwen2_vl; // Qwen2-VL: whole frames, M-RoPE
pub mod qwen3_vl; // Qwen3-VL: learned places, features of several depths
pub mod qwen3_vl_moe; // Qwen3-VL with a mixture of experts
pub mod qwen_patches; // order and positions of patches that come unit by unit
pub mod tower_keys; // keys of vision towers that several families have

use crate::base::{Error, HostTensor, Result};
use crate::io::text::ChatTemplate;
use crate::model::config::keys::Keys;
use crate::model::config::{TokenIds, VlmConfig};
use crate::model::decoder::TextConfig;
use crate::model::net::Net;
use crate::model::positions::PositionRule;
use crate::model::processor::{ProcessorOptions, VisualProcessor};
use crate::model::spec::ParamSpec;
use crate::ops::Slot;
use naming::NamePairs;
use preset::Preset;
use serde_json::Value;
use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

/// Every family, in the order in which `--help` lists them.
pub static FAMILIES: &[&dyn Family] = &[
    &qwen2_vl::Qwen2Vl,
    &qwen2_5_vl::Qwen25Vl,
    &qwen3_vl::Qwen3Vl,
    &qwen3_vl_moe::Qwen3VlMoe,
    &internvl_chat::InternVlChat,
    &internvl::InternVl,
    &glm4v::Glm4v,
    &glm4v_9b::Glm4v9b,
];

/// What numbers of a box count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BoxUnits {
    /// Pixels of the image as the model sees it.
    SeenPixels,
    /// Thousandths of the image's width and height.
    Thousand,
}

/// What an architecture's config.json says.
#[derive(Debug, Clone)]
pub struct Architecture {
    /// The language model.
    pub text: TextConfig,
    /// The vision tower with its connector.
    pub vision: Arc<dyn VisionTower>,
    /// Token ids with a meaning.
    pub tokens: TokenIds,
    /// How tokens get positions.
    pub positions: PositionRule,
}

/// A family of models: reads its files, makes its processors, writes new models.
pub trait Family: Sync + Debug {
    /// Name in `grpo-rt init --family`, and of the row of
    /// [`SpecialTokens`](crate::io::text::SpecialTokens) that a new model's tokenizer has.
    fn name(&self) -> &'static str {
        self.model_type()
    }

    /// `model_type` of config.json.
    fn model_type(&self) -> &'static str;

    /// Class in `architectures` of config.json.
    fn architecture(&self) -> &'static str;

    /// Reads config.json.
    ///
    /// # Errors
    /// If a key has a wrong value, or the model uses something that this program does not do.
    fn read(&self, top: &Keys) -> Result<Architecture>;

    /// Completes token ids with those that config.json leaves out and the tokenizer's files name. Without
    /// such files (a plan needs none) nothing changes.
    ///
    /// # Errors
    /// If a file is damaged, or the tokenizer lacks a token that the family needs.
    fn find_tokens(&self, _dir: &Path, _vocab_size: usize, _: &mut TokenIds) -> Result<()> {
        Ok(())
    }

    /// Prefixes of parameter names: as modules, and on disk.
    fn names(&self) -> NamePairs;

    /// Parts of module paths that belong to the vision tower and the connector: PEFT matches names of
    /// target modules anywhere, so an adapter of the language model names what it leaves out.
    fn vision_modules(&self) -> &'static [&'static str];

    /// Units of the boxes that its makers taught it.
    fn boxes(&self) -> BoxUnits {
        BoxUnits::Thousand
    }

    /// Whether VLM-R1 converts its boxes from pixels that the model sees to those of the file: it does so
    /// in its module for Qwen, whatever the version, and in no other.
    fn vlm_r1_converts_boxes(&self) -> bool {
        false
    }

    /// The token that ends the assistant's turn.
    fn end_of_turn(&self) -> &'static str {
        "<|im_end|>"
    }

    /// The chat template of a model folder; its own file, unless the family's folders have none that
    /// knows images.
    ///
    /// # Errors
    /// If there is none, or it cannot be parsed.
    fn template(&self, dir: &Path, _: &VlmConfig) -> Result<ChatTemplate> {
        ChatTemplate::from_dir(dir)
    }

    /// The processor of images and videos, with the settings of a model folder; without a folder (a plan
    /// needs none), with those of the published models.
    ///
    /// # Errors
    /// If the folder has no settings, they cannot be followed, or options contradict them.
    fn processor(
        &self,
        dir: Option<&Path>,
        config: &VlmConfig,
        options: &ProcessorOptions,
    ) -> Result<Box<dyn VisualProcessor>>;

    /// config.json of a new model of a preset's sizes, for a tokenizer with these ids.
    ///
    /// # Errors
    /// If the tokenizer lacks a token that the family needs.
    fn new_config(&self, preset: &Preset, tokenizer: &NewTokenizer) -> Result<Value>;

    /// Files of a new model beside config.json, weights and tokenizer: name and content.
    ///
    /// # Errors
    /// If a key of config.json has a wrong value.
    fn processor_files(&self, config: &VlmConfig) -> Result<Vec<(&'static str, Value)>>;
}

/// What a new model's configuration needs to know of its tokenizer.
pub struct NewTokenizer<'a> {
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Id of a control token.
    pub id: &'a dyn Fn(&str) -> Result<u32>,
}

/// The family that `name` means on the command line.
///
/// # Errors
/// If there is none, with the list of those there are.
pub fn family_named(name: &str) -> Result<&'static dyn Family> {
    FAMILIES.iter().copied().find(|f| f.name() == name).ok_or_else(|| {
        let known: Vec<&str> = FAMILIES.iter().map(|f| f.name()).collect();
        Error::usage("unknown model family")
            .key("family")
            .expected(format!("one of: {}", known.join(", ")))
            .found(name)
    })
}

/// A vision tower with its connector: pixels to features that the language model reads.
pub trait VisionTower: Debug + Send + Sync {
    /// Its parameters, with canonical names.
    fn parameters(&self) -> Vec<ParamSpec>;

    /// Patches of all visuals `[P, patch_values]` to features `[M,H]` in token order, one slot per
    /// level: the first replaces embeddings, level `i + 1` is added after decoder layer `i`.
    ///
    /// # Errors
    /// If the patches do not fit the grids or the model.
    fn encode(&self, net: &mut Net, pixels: HostTensor, grids: &[[usize; 3]]) -> Result<Vec<Slot>>;

    /// Feature rows of a visual of this grid (frames or tiles, rows, columns, in patches).
    fn feature_rows(&self, grid: [usize; 3]) -> usize {
        grid.iter().product::<usize>() / self.patching().merge.pow(2)
    }

    /// Levels of features.
    fn levels(&self) -> usize {
        1
    }

    /// How pixels become patches and patches features.
    fn patching(&self) -> Patching;

    /// Numbers in one patch: channels x frames x rows x columns.
    fn patch_values(&self) -> usize {
        let p = self.patching();
        3 * p.frames * p.side * p.side
    }
}

/// How pixels become patches and patches features.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patching {
    /// Pixels per side of a patch.
    pub side: usize,
    /// Frames in a patch.
    pub frames: usize,
    /// Patches per side of what becomes one feature.
    pub merge: usize,
}

/// Every parameter of a model with canonical names, the vision tower's first. A tied head is not
/// listed: it is the embedding.
pub fn parameters(config: &VlmConfig) -> Vec<ParamSpec> {
    let mut list = config.vision.parameters();
    list.extend(config.text.parameters());
    list
}
