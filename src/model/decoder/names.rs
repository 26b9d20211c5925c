//! How language models name their modules: tables, nothing else. A new language model that computes
//! what [`decoder`](super) computes is a new table here.

/// Names of a language model inside a family's class.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TextNames {
    /// Token embedding.
    pub embed: &'static str,
    /// List of layers.
    pub layers: &'static str,
    /// Last norm.
    pub norm: &'static str,
    /// Head, where it is not tied.
    pub head: &'static str,
    /// Modules of a layer.
    pub block: &'static BlockNames,
}

/// Names inside a layer.
#[derive(Debug, PartialEq)]
pub struct BlockNames {
    /// Norm before attention.
    pub attention_norm: &'static str,
    /// Projections to queries, keys and values.
    pub qkv: Qkv,
    /// Norms of each head's queries and keys, where there are such.
    pub qk_norms: [&'static str; 2],
    /// Projection out of attention.
    pub attention_out: &'static str,
    /// Norm before the MLP.
    pub mlp_norm: &'static str,
    /// Gate and value of the MLP.
    pub gate_up: GateUp,
    /// Projection out of the MLP.
    pub down: &'static str,
    /// Norms after attention and after the MLP, where there are such.
    pub post_norms: [&'static str; 2],
}

/// Projections to queries, keys and values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Qkv {
    /// Three modules.
    Separate([&'static str; 3]),
    /// One module.
    Fused {
        /// Its name.
        module: &'static str,
        /// Rows grouped by key head, each with its queries, key and value; else all queries first.
        by_key_head: bool,
    },
}

/// Gate and value of a gated MLP.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum GateUp {
    /// Two modules.
    Separate([&'static str; 2]),
    /// One module, the gate's rows first.
    Fused(&'static str),
}

/// Names inside a layer whose MLP is a mixture of experts.
#[derive(Debug, PartialEq)]
pub struct ExpertNames {
    /// Chooses experts: a module.
    pub router: &'static str,
    /// Gates and values of all experts `[E, 2I, H]`, the gate's rows first: a parameter.
    pub gate_up: &'static str,
    /// Projections out of all experts `[E, H, I]`: a parameter.
    pub down: &'static str,
}

/// Qwen3's mixture of experts in transformers 5.
pub static FUSED_EXPERTS: ExpertNames = ExpertNames {
    router: "mlp.gate",
    gate_up: "mlp.experts.gate_up_proj",
    down: "mlp.experts.down_proj",
};

/// Llama's names: Qwen2 and Qwen3.
pub static LLAMA: BlockNames = BlockNames {
    attention_norm: "input_layernorm",
    qkv: Qkv::Separate(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    qk_norms: ["self_attn.q_norm", "self_attn.k_norm"],
    attention_out: "self_attn.o_proj",
    mlp_norm: "post_attention_layernorm",
    gate_up: GateUp::Separate(["mlp.gate_proj", "mlp.up_proj"]),
    down: "mlp.down_proj",
    post_norms: [""; 2],
};

/// A language model inside a class of transformers that holds `model` and `lm_head`.
pub static IN_MODEL: TextNames = TextNames {
    embed: "model.language_model.embed_tokens",
    layers: "model.language_model.layers",
    norm: "model.language_model.norm",
    head: "lm_head",
    block: &LLAMA,
};

/// InternLM2's names, with fused projections.
pub static INTERNLM2: BlockNames = BlockNames {
    attention_norm: "attention_norm",
    qkv: Qkv::Fused { module: "attention.wqkv", by_key_head: true },
    qk_norms: [""; 2],
    attention_out: "attention.wo",
    mlp_norm: "ffn_norm",
    gate_up: GateUp::Separate(["feed_forward.w1", "feed_forward.w3"]),
    down: "feed_forward.w2",
    post_norms: [""; 2],
};

/// A whole causal language model as the module `language_model` (InternVL's own class).
pub static AS_LANGUAGE_MODEL: TextNames = TextNames {
    embed: "language_model.model.embed_tokens",
    layers: "language_model.model.layers",
    norm: "language_model.model.norm",
    head: "language_model.lm_head",
    block: &LLAMA,
};

/// InternLM2 as the module `language_model`.
pub static INTERNLM2_AS_LANGUAGE_MODEL: TextNames = TextNames {
    embed: "language_model.model.tok_embeddings",
    head: "language_model.output",
    block: &INTERNLM2,
    ..AS_LANGUAGE_MODEL
};
