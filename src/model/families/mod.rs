//! Model families: what differs between architectures, one short file each. What they have in common
//! (parts, parameter descriptions, naming schemes) is here; no tensor is ever touched in this file.

pub mod qwen2_5_vl; // Qwen2.5-VL: index arithmetic, rotary tables, parameter names

/// The part of a model that a parameter belongs to; freezing and learning rates are set per part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// The vision tower without its connector.
    Vision,
    /// The layers that carry image features into the language model (`merger`).
    Connector,
    /// The language model with its token embedding, without the head.
    Language,
    /// The language-model head, if it is not tied to the embedding.
    Head,
}

/// One parameter of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamSpec {
    /// Canonical name: the module path in transformers 5.
    pub name: String,
    /// Sizes, outermost first, as stored on disk.
    pub shape: Vec<usize>,
    /// The part of the model.
    pub part: Part,
}

impl ParamSpec {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }
    /// True if there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// How the tensors of a checkpoint are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// Module paths of transformers >= 4.52 (`model.visual.*`, `model.language_model.*`); also inside PEFT
    /// adapters made with these versions, after `base_model.model.`. The canonical names.
    Module,
    /// Names of the published checkpoints (`visual.*`, `model.layers.*`); `save_pretrained` of
    /// transformers 4 and 5 writes these.
    Checkpoint,
}
