//! The language model of every family: one decoder whose differences are data. Sizes and switches
//! ([`TextConfig`]), the names of its modules ([`TextNames`]), its parameters, and its ops in order.
//! Appends nodes; computes nothing, and no family is named here.
//!
//! T tokens, H hidden, N query heads, M key heads, D head size, F inner width, V vocabulary.

pub mod names; // how language models name their modules

use crate::base::Result;
use crate::model::net::{AttentionShape, LayerCache, Net, Rotation};
use crate::model::rope::{RopeTables, rope_inv_freq};
use crate::model::spec::{ParamList, ParamSpec, Part};
use crate::ops::Slot;
use crate::ops::add_rows::AddRows;
use crate::ops::attention::Segment;
use crate::ops::embed::Embed;
use crate::ops::expert_matmul::ExpertMatmul;
use crate::ops::gather_rows::GatherRows;
use crate::ops::matmul::Matmul;
use crate::ops::mix_experts::MixExperts;
use crate::ops::rope::Pairing;
use crate::ops::route::Route;
use names::{ExpertNames, GateUp, Qkv, TextNames};
use std::sync::Arc;

/// The rotation of queries and keys.
#[derive(Debug, Clone, PartialEq)]
pub struct TextRope {
    /// Base of the frequencies.
    pub theta: f64,
    /// Dimensions of a head that turn, from the first on.
    pub rotary_dim: usize,
    /// Which two dimensions turn together.
    pub pairing: Pairing,
    /// Per frequency (`rotary_dim / 2`): the position axis that turns it (0 temporal, 1 height,
    /// 2 width); all 0 without M-RoPE.
    pub axes: Vec<usize>,
}

impl TextRope {
    /// The rotation of a head of `dim` by one position: all of it, halves together.
    pub fn plain(dim: usize, theta: f64) -> Self {
        TextRope { theta, rotary_dim: dim, pairing: Pairing::Halves, axes: vec![0; dim / 2] }
    }

    /// Tables `[T, rotary_dim / 2]`.
    pub fn tables(&self, positions: &[[i32; 3]]) -> RopeTables {
        RopeTables::new(positions, &rope_inv_freq(self.rotary_dim, self.theta), &self.axes)
    }
}

/// A mixture of experts in place of the MLP of some layers. The weights of a token's experts are
/// divided by their sum.
#[derive(Debug, Clone, PartialEq)]
pub struct Experts {
    /// Experts of a layer, E.
    pub count: usize,
    /// Experts of a token.
    pub per_token: usize,
    /// Width inside an expert, I.
    pub intermediate_size: usize,
    /// Per layer: whether it has experts.
    pub layers: Vec<bool>,
    /// Names of their parameters.
    pub names: &'static ExpertNames,
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
    /// Size of a head.
    pub head_dim: usize,
    /// Rows of the embedding; at least the tokenizer's vocabulary.
    pub vocab_size: usize,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f64,
    /// Rotation of queries and keys.
    pub rope: TextRope,
    /// Whether the projections to queries, keys and values have a bias.
    pub qkv_bias: bool,
    /// Whether each head's queries and keys go through an RMSNorm (Qwen3).
    pub qk_norm: bool,
    /// Whether attention and MLP are followed by a norm as well as preceded by one (GLM-4).
    pub post_norms: bool,
    /// Experts, where there are such.
    pub experts: Option<Experts>,
    /// The head is the embedding.
    pub tie_word_embeddings: bool,
    /// Longest sequence the model was made for.
    pub max_position_embeddings: usize,
    /// Names of its modules.
    pub names: TextNames,
}

impl TextConfig {
    /// Name of the head's weights `[V,H]`: the embedding, if tied.
    pub fn head_name(&self) -> String {
        let module = if self.tie_word_embeddings { self.names.embed } else { self.names.head };
        format!("{module}.weight")
    }

    /// Its parameters, with canonical names.
    pub fn parameters(&self) -> Vec<ParamSpec> {
        let h = self.hidden_size;
        let mut list = ParamList::new("", Part::Language);
        list.push(&format!("{}.weight", self.names.embed), &[self.vocab_size, h]);
        for i in 0..self.num_layers {
            list.prefix = format!("{}.{i}", self.names.layers);
            self.push_layer(&mut list, i);
        }
        list.prefix.clear();
        list.push(&format!("{}.weight", self.names.norm), &[h]);
        if !self.tie_word_embeddings {
            list.part = Part::Head;
            list.push(&self.head_name(), &[self.vocab_size, h]);
        }
        list.list
    }

    /// The experts of a layer, if it has any.
    fn experts_of(&self, layer: usize) -> Option<&Experts> {
        self.experts.as_ref().filter(|experts| experts.layers[layer])
    }

    fn push_layer(&self, list: &mut ParamList, number: usize) {
        let (b, h) = (self.names.block, self.hidden_size);
        let [q, kv, _] = self.qkv_columns();
        match b.qkv {
            Qkv::Separate([q_proj, k_proj, v_proj]) => {
                list.linear(q_proj, h, q, self.qkv_bias);
                list.linear(k_proj, h, kv, self.qkv_bias);
                list.linear(v_proj, h, kv, self.qkv_bias);
            }
            Qkv::Fused { module, .. } => list.linear(module, h, q + 2 * kv, self.qkv_bias),
        }
        list.linear(b.attention_out, q, h, false);
        if self.qk_norm {
            for norm in b.qk_norms {
                list.push(&format!("{norm}.weight"), &[self.head_dim]);
            }
        }
        match self.experts_of(number) {
            Some(experts) => push_experts(list, experts, h),
            None => self.push_mlp(list),
        }
        let norms = if self.post_norms { &b.post_norms[..] } else { &[] };
        for norm in [b.attention_norm, b.mlp_norm].iter().chain(norms) {
            list.push(&format!("{norm}.weight"), &[h]);
        }
    }

    fn push_mlp(&self, list: &mut ParamList) {
        let (b, h, f) = (self.names.block, self.hidden_size, self.intermediate_size);
        match b.gate_up {
            GateUp::Separate(modules) => {
                modules.iter().for_each(|m| list.linear(m, h, f, false));
            }
            GateUp::Fused(module) => list.linear(module, h, 2 * f, false),
        }
        list.linear(b.down, f, h, false);
    }

    /// Columns of queries, keys and values.
    fn qkv_columns(&self) -> [usize; 3] {
        let kv = self.num_kv_heads * self.head_dim;
        [self.num_heads * self.head_dim, kv, kv]
    }

    /// Last parts of the names of an attention block's linear layers.
    pub fn attention_linears(&self) -> Vec<&'static str> {
        let b = self.names.block;
        let mut modules = match b.qkv {
            Qkv::Separate(list) => list.to_vec(),
            Qkv::Fused { module, .. } => vec![module],
        };
        modules.push(b.attention_out);
        modules.into_iter().map(last_part).collect()
    }

    /// Last parts of the names of an MLP's linear layers.
    pub fn mlp_linears(&self) -> Vec<&'static str> {
        let b = self.names.block;
        let mut modules = match b.gate_up {
            GateUp::Separate(list) => list.to_vec(),
            GateUp::Fused(module) => vec![module],
        };
        modules.push(b.down);
        modules.into_iter().map(last_part).collect()
    }
}

/// None of them is a linear layer: PEFT finds no module to put an adapter on.
fn push_experts(list: &mut ParamList, e: &Experts, hidden: usize) {
    list.push(e.names.gate_up, &[e.count, 2 * e.intermediate_size, hidden]);
    list.push(e.names.down, &[e.count, hidden, e.intermediate_size]);
    list.push(&format!("{}.weight", e.names.router), &[e.count, hidden]);
}

fn last_part(module: &'static str) -> &'static str {
    module.rsplit('.').next().unwrap_or(module)
}

/// Tokens of a decoder pass.
#[derive(Debug, Clone)]
pub struct TextInput {
    /// `[T]`: token id, or `-(row + 1)` for a row of `vision`.
    pub index: Vec<i32>,
    /// Features of visuals `[M,H]`, one slot per level; empty if there is none in the pass.
    pub vision: Vec<Slot>,
    /// `[T]`: temporal, height and width position.
    pub positions: Vec<[i32; 3]>,
    /// Who attends to whom; rows of this pass, or of the cache if there is one.
    pub segments: Arc<Vec<Segment>>,
    /// Per layer the cache and, once, the cache row of each token.
    pub cache: Option<(Vec<LayerCache>, Vec<i32>)>,
    /// Rows whose hidden state is read, ascending, each once; all rows if `None`. What the last layer
    /// would do to the others after its attention is left out.
    pub read: Option<Vec<i32>>,
}

/// Decoder: tokens to final hidden states `[T,H]` of the rows that are read, after the last norm.
///
/// # Errors
/// If the input does not fit the model.
pub fn text(net: &mut Net, t: &TextConfig, input: &TextInput) -> Result<Slot> {
    let table = net.param(&format!("{}.weight", t.names.embed), None)?;
    let index = net.tape.indices(input.index.clone());
    let mut embed = vec![table];
    embed.extend(input.vision.first());
    embed.push(index);
    let mut x = net.tape.op(Embed, &embed)?;
    net.tape.name(x, "embed");
    let (cos, sin) = net.rope_tables(t.rope.tables(&input.positions));
    let shape = AttentionShape {
        heads: t.num_heads,
        kv_heads: t.num_kv_heads,
        head_dim: t.head_dim,
        segments: input.segments.clone(),
        rotation: Some(Rotation {
            cos,
            sin,
            rotary_dim: t.rope.rotary_dim,
            pairing: t.rope.pairing,
        }),
    };
    let rows = input.cache.as_ref().map(|(_, rows)| net.tape.indices(rows.clone()));
    for i in 0..t.num_layers {
        net.tape.begin_segment(format!("layers.{i}"));
        let cache = input.cache.as_ref().zip(rows).map(|((layers, _), rows)| (layers[i], rows));
        let read = input.read.as_ref().filter(|_| i + 1 == t.num_layers);
        x = layer(net, t, i, x, &shape, cache, read)?;
        if let Some(&level) = input.vision.get(i + 1) {
            let index = match read {
                Some(rows) => {
                    let of_read = rows.iter().map(|&r| input.index[r as usize]).collect();
                    net.tape.indices(of_read)
                }
                None => index,
            };
            x = net.tape.op(AddRows, &[x, level, index])?;
        }
        net.tape.name(x, format!("layers.{i}"));
    }
    net.tape.end_segment();
    let x = net.rms_norm(x, t.names.norm, t.rms_norm_eps)?;
    Ok(net.tape.name(x, "norm"))
}

/// One layer; only the rows in `read` leave its attention, if they are given.
fn layer(
    net: &mut Net,
    t: &TextConfig,
    number: usize,
    x: Slot,
    shape: &AttentionShape,
    cache: Option<(LayerCache, Slot)>,
    read: Option<&Vec<i32>>,
) -> Result<Slot> {
    let (b, eps) = (t.names.block, t.rms_norm_eps);
    let at = |module: &str| format!("{}.{number}.{module}", t.names.layers);
    let mut x = x;
    let h = net.rms_norm(x, &at(b.attention_norm), eps)?;
    let [mut q, mut k, v] = queries_keys_values(net, t, h, &at)?;
    if t.qk_norm {
        q = net.head_norm(q, &at(b.qk_norms[0]), t.head_dim, eps)?;
        k = net.head_norm(k, &at(b.qk_norms[1]), t.head_dim, eps)?;
    }
    let mut a = net.attention([q, k, v], shape, cache)?;
    if let Some(read) = read {
        let read = net.tape.indices(read.clone());
        a = net.tape.op(GatherRows, &[a, read])?;
        x = net.tape.op(GatherRows, &[x, read])?;
    }
    a = net.linear(a, &at(b.attention_out))?;
    if t.post_norms {
        a = net.rms_norm(a, &at(b.post_norms[0]), eps)?;
    }
    x = net.add(x, a)?;
    let h = net.rms_norm(x, &at(b.mlp_norm), eps)?;
    let mut h = match t.experts_of(number) {
        Some(experts) => mixture(net, experts, h, &at)?,
        None => mlp(net, t, h, &at)?,
    };
    if t.post_norms {
        h = net.rms_norm(h, &at(b.post_norms[1]), eps)?;
    }
    net.add(x, h)
}

fn queries_keys_values(
    net: &mut Net,
    t: &TextConfig,
    x: Slot,
    at: &dyn Fn(&str) -> String,
) -> Result<[Slot; 3]> {
    match t.names.block.qkv {
        Qkv::Separate([q, k, v]) => {
            Ok([net.linear(x, &at(q))?, net.linear(x, &at(k))?, net.linear(x, &at(v))?])
        }
        Qkv::Fused { module, by_key_head } => {
            let groups = if by_key_head { t.num_kv_heads } else { 1 };
            let sizes = t.qkv_columns().map(|columns| columns / groups);
            let fused = net.linear(x, &at(module))?;
            let parts = net.split(fused, groups, &sizes)?;
            Ok([parts[0], parts[1], parts[2]])
        }
    }
}

/// Gated MLP: `down(silu(gate(x)) · up(x))`.
fn mlp(net: &mut Net, t: &TextConfig, x: Slot, at: &dyn Fn(&str) -> String) -> Result<Slot> {
    let b = t.names.block;
    let h = match b.gate_up {
        GateUp::Separate([gate, up]) => {
            let (gate, up) = (net.linear(x, &at(gate))?, net.linear(x, &at(up))?);
            net.swiglu(gate, up)?
        }
        GateUp::Fused(module) => {
            let fused = net.linear(x, &at(module))?;
            let parts = net.split(fused, 1, &[t.intermediate_size; 2])?;
            net.swiglu(parts[0], parts[1])?
        }
    };
    net.linear(h, &at(b.down))
}

/// The experts that the router chooses for each row, weighed and added.
fn mixture(net: &mut Net, e: &Experts, x: Slot, at: &dyn Fn(&str) -> String) -> Result<Slot> {
    let (inner, hidden) = (e.intermediate_size, net.tape.ty(x).cols());
    let router = net.param(&format!("{}.weight", at(e.names.router)), None)?;
    let logits = net.tape.op(Matmul { wide: true, ..Matmul::default() }, &[x, router])?;
    let routes = net.tape.ops(Route { top_k: e.per_token, normalize: true }, &[logits])?;
    let (weight, order, first) = (routes[0], routes[2], routes[3]);
    let product = |rows_per_token| ExpertMatmul { experts: e.count, rows_per_token };
    let gate_up = net.param(&at(e.names.gate_up), Some(&[e.count * 2 * inner, hidden]))?;
    let both = net.tape.ops(product(e.per_token), &[x, gate_up, order, first])?[0];
    let parts = net.split(both, 1, &[inner; 2])?;
    let h = net.swiglu(parts[0], parts[1])?;
    let down = net.param(&at(e.names.down), Some(&[e.count * hidden, inner]))?;
    let y = net.tape.ops(product(1), &[h, down, order, first])?[0];
    net.tape.op(MixExperts { top_k: e.per_token }, &[y, weight])
}

/// The slot of the language-model head's weights `[V,H]`.
///
/// # Errors
/// If the model has none.
pub fn head(net: &mut Net, t: &TextConfig) -> Result<Slot> {
    net.param(&t.head_name(), None)
}

/// Raw logits `[T,V]` of hidden states, in the type of statistics.
///
/// # Errors
/// If the model has no head.
pub fn logits(net: &mut Net, t: &TextConfig, hidden: Slot) -> Result<Slot> {
    let (w, panels) = net.weight(&t.head_name())?;
    net.tape.op(Matmul { panels, wide: true, ..Matmul::default() }, &[hidden, w])
}
