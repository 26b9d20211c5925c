//! Qwen2.5-VL as a list of ops: windowed vision tower, merger, decoder with grouped-query attention
//! and M-RoPE (arXiv 2502.13923; module names and equations as in transformers
//! `modeling_qwen2_5_vl.py`). Wiring only.
//!
//! P patches, M merged units, T tokens, H hidden.

use super::{VisionLayout, text_rope_tables, vision_layout, vision_rope_tables};
use crate::base::{HostTensor, Result};
use crate::model::config::VlmConfig;
use crate::model::net::{AttentionShape, LayerCache, Net};
use crate::ops::Slot;
use crate::ops::attention::{Segment, Span};
use crate::ops::embed::Embed;
use crate::ops::gather_rows::GatherRows;
use crate::ops::gelu::{Gelu, GeluKind};
use crate::ops::matmul::Matmul;
use crate::ops::split::Split;
use std::sync::Arc;

/// Tokens of a decoder pass.
#[derive(Debug, Clone)]
pub struct TextInput {
    /// `[T]`: token id, or `-(row + 1)` for a row of `vision`.
    pub index: Vec<i32>,
    /// Image features `[M,H]`, if any image is in the pass.
    pub vision: Option<Slot>,
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

/// Vision tower and merger: patches of all images (processor order) `[P, patch values]` to
/// features `[M,H]` in token order.
///
/// # Errors
/// If the patches do not fit the grids or the model.
pub fn vision(
    net: &mut Net,
    cfg: &VlmConfig,
    pixels: HostTensor,
    grids: &[[usize; 3]],
) -> Result<Slot> {
    let v = &cfg.vision;
    let layout: VisionLayout = vision_layout(grids, v)?;
    let signed = |rows: &[u32]| rows.iter().map(|&r| r as i32).collect();
    let x = net.tape.activation(pixels);
    let order = net.tape.indices(signed(&layout.patch_order));
    let x = net.tape.op(GatherRows, &[x, order])?;
    let w = net
        .param("model.visual.patch_embed.proj.weight", Some(&[v.hidden_size, v.patch_values()]))?;
    let mut x = net.tape.op(Matmul::default(), &[x, w])?;
    net.tape.name(x, "visual.patch_embed");
    let (cos, sin) = net.rope_tables(vision_rope_tables(&layout.rope_pos, v));
    let shape = |segments: &[(usize, usize)]| AttentionShape {
        heads: v.num_heads,
        kv_heads: v.num_heads,
        head_dim: v.head_dim(),
        segments: Arc::new(segments.iter().map(|&s| whole(s)).collect()),
        cos,
        sin,
    };
    let (windowed, full) = (shape(&layout.window_segments), shape(&layout.full_segments));
    for i in 0..v.depth {
        let m = format!("model.visual.blocks.{i}");
        net.tape.begin_segment(format!("visual.blocks.{i}"));
        let h = net.rms_norm(x, &format!("{m}.norm1"), v.rms_norm_eps)?;
        let qkv = net.linear(h, &format!("{m}.attn.qkv"))?;
        let qkv = net.tape.ops(Split::columns(&[v.hidden_size; 3]), &[qkv])?;
        let shape = if v.is_full_attention(i) { &full } else { &windowed };
        let a = net.attention([qkv[0], qkv[1], qkv[2]], shape, None)?;
        let a = net.linear(a, &format!("{m}.attn.proj"))?;
        x = net.add(x, a)?;
        let h = net.rms_norm(x, &format!("{m}.norm2"), v.rms_norm_eps)?;
        let h = net.gated_mlp(h, &format!("{m}.mlp"))?;
        x = net.add(x, h)?;
        net.tape.name(x, format!("visual.blocks.{i}"));
    }
    net.tape.begin_segment("visual.merger");
    let x = net.rms_norm(x, "model.visual.merger.ln_q", v.rms_norm_eps)?;
    let unit = v.spatial_merge_size * v.spatial_merge_size;
    let rows = layout.window_index.len();
    let x = net.tape.view(x, &[rows, v.hidden_size * unit])?;
    let x = net.linear(x, "model.visual.merger.mlp.0")?;
    let x = net.tape.op(Gelu { kind: GeluKind::Erf }, &[x])?;
    let x = net.linear(x, "model.visual.merger.mlp.2")?;
    let back = net.tape.indices(signed(&layout.reverse));
    let x = net.tape.op(GatherRows, &[x, back])?;
    net.tape.end_segment();
    Ok(net.tape.name(x, "visual.merger"))
}

/// A segment that attends to itself, in both directions.
fn whole((start, len): (usize, usize)) -> Segment {
    let span = Span { start, len };
    Segment { queries: span, keys: vec![span], causal: false }
}

/// Decoder: tokens to final hidden states `[T,H]` of the rows that are read, after the last norm.
///
/// # Errors
/// If the input does not fit the model.
pub fn text(net: &mut Net, cfg: &VlmConfig, input: &TextInput) -> Result<Slot> {
    let t = &cfg.text;
    let table = net.param("model.language_model.embed_tokens.weight", None)?;
    let index = net.tape.indices(input.index.clone());
    let mut embed = vec![table];
    embed.extend(input.vision);
    embed.push(index);
    let mut x = net.tape.op(Embed, &embed)?;
    net.tape.name(x, "embed");
    let (cos, sin) = net.rope_tables(text_rope_tables(&input.positions, t));
    let shape = AttentionShape {
        heads: t.num_heads,
        kv_heads: t.num_kv_heads,
        head_dim: t.head_dim,
        segments: input.segments.clone(),
        cos,
        sin,
    };
    let rows = input.cache.as_ref().map(|(_, rows)| net.tape.indices(rows.clone()));
    for i in 0..t.num_layers {
        let m = format!("model.language_model.layers.{i}");
        net.tape.begin_segment(format!("layers.{i}"));
        let h = net.rms_norm(x, &format!("{m}.input_layernorm"), t.rms_norm_eps)?;
        let q = net.linear(h, &format!("{m}.self_attn.q_proj"))?;
        let k = net.linear(h, &format!("{m}.self_attn.k_proj"))?;
        let v = net.linear(h, &format!("{m}.self_attn.v_proj"))?;
        let cache = input.cache.as_ref().zip(rows).map(|((layers, _), rows)| (layers[i], rows));
        let mut a = net.attention([q, k, v], &shape, cache)?;
        if let (Some(read), true) = (&input.read, i + 1 == t.num_layers) {
            let read = net.tape.indices(read.clone());
            a = net.tape.op(GatherRows, &[a, read])?;
            x = net.tape.op(GatherRows, &[x, read])?;
        }
        let a = net.linear(a, &format!("{m}.self_attn.o_proj"))?;
        x = net.add(x, a)?;
        let h = net.rms_norm(x, &format!("{m}.post_attention_layernorm"), t.rms_norm_eps)?;
        let h = net.gated_mlp(h, &format!("{m}.mlp"))?;
        x = net.add(x, h)?;
        net.tape.name(x, format!("layers.{i}"));
    }
    net.tape.end_segment();
    let x = net.rms_norm(x, "model.language_model.norm", t.rms_norm_eps)?;
    Ok(net.tape.name(x, "norm"))
}

/// Name of the language-model head's weights `[V,H]`: the embedding, if tied.
pub fn head_name(cfg: &VlmConfig) -> &'static str {
    match cfg.text.tie_word_embeddings {
        true => "model.language_model.embed_tokens.weight",
        false => "lm_head.weight",
    }
}

/// The slot of the language-model head's weights `[V,H]`.
///
/// # Errors
/// If the model has none.
pub fn head(net: &mut Net, cfg: &VlmConfig) -> Result<Slot> {
    net.param(head_name(cfg), None)
}

/// Raw logits `[T,V]` of hidden states, in the type of statistics.
///
/// # Errors
/// If the model has no head.
pub fn logits(net: &mut Net, cfg: &VlmConfig, hidden: Slot) -> Result<Slot> {
    let (w, panels) = net.weight(head_name(cfg))?;
    net.tape.op(Matmul { panels, wide: true, ..Matmul::default() }, &[hidden, w])
}
