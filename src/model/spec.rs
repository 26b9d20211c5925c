//! Which parameters a model has: names, shapes, the part of the model. Vision towers and the decoder
//! list them here; no parameter has a place or a value yet.

/// The part of a model that a parameter belongs to; freezing and learning rates are set per part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// The vision tower without its connector.
    Vision,
    /// The layers that carry image features into the language model (`merger`, `mlp1`).
    Connector,
    /// The language model with its token embedding, without the head.
    Language,
    /// The language-model head, if it is not tied to the embedding.
    Head,
}

/// One parameter of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamSpec {
    /// Canonical name: the module path in the class that config.json names.
    pub name: String,
    /// Sizes, outermost first, as stored on disk.
    pub shape: Vec<usize>,
    /// The part of the model.
    pub part: Part,
    /// True for the weights of a linear layer: what an adapter can be put on.
    pub linear: bool,
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

/// Collects the parameters of a part of a model under a prefix.
#[derive(Debug)]
pub struct ParamList {
    /// Module path that names are relative to; empty for none.
    pub prefix: String,
    /// The part of the model.
    pub part: Part,
    /// What was collected.
    pub list: Vec<ParamSpec>,
}

impl ParamList {
    /// An empty list.
    pub fn new(prefix: impl Into<String>, part: Part) -> Self {
        ParamList { prefix: prefix.into(), part, list: Vec::new() }
    }
    /// A parameter that is no linear layer's weight.
    pub fn push(&mut self, name: &str, shape: &[usize]) {
        let name = self.full(name);
        self.list.push(ParamSpec { name, shape: shape.to_vec(), part: self.part, linear: false });
    }
    /// A linear layer.
    pub fn linear(&mut self, name: &str, inputs: usize, outputs: usize, bias: bool) {
        let weight = self.full(&format!("{name}.weight"));
        let (shape, part) = (vec![outputs, inputs], self.part);
        self.list.push(ParamSpec { name: weight, shape, part, linear: true });
        if bias {
            self.push(&format!("{name}.bias"), &[outputs]);
        }
    }
    /// A layer norm.
    pub fn layer_norm(&mut self, name: &str, width: usize) {
        self.push(&format!("{name}.weight"), &[width]);
        self.push(&format!("{name}.bias"), &[width]);
    }
    fn full(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_string() } else { format!("{}.{name}", self.prefix) }
    }
}
