//! GLM-4.1V's vision tower as a list of ops: an interpolated position table, gated blocks without
//! biases, a convolution over every unit of patches, a gated connector (arXiv 2507.01006; module names
//! and equations as in transformers `modeling_glm4v.py`). Wiring only.
//!
//! P patches, M merged units, H hidden.

use super::VisionConfig;
use super::taps::{TAPS, bicubic_taps};
use crate::base::{HostTensor, Result};
use crate::model::families::qwen_patches::frames;
use crate::model::net::{AttentionShape, Net};
use crate::model::rope::RopeTables;
use crate::ops::Slot;
use crate::ops::gelu::{Gelu, GeluKind};
use crate::ops::transpose_columns::TransposeColumns;
use crate::ops::weighted_rows::WeightedRows;

/// eps of the connector's norm: torch's default, no key of config.json changes it.
const LAYER_NORM_EPS: f64 = 1e-5;

/// Patches of all visuals (processor order) `[P, patch values]` to features `[M,H]` in token order.
pub(super) fn encode(
    net: &mut Net,
    v: &VisionConfig,
    pixels: HostTensor,
    grids: &[[usize; 3]],
) -> Result<Slot> {
    let (positions, segments) = frames(grids, v.patching.merge)?;
    let x = net.tape.activation(pixels);
    let x = net.patch_projection(x, "model.visual.patch_embed.proj")?;
    net.tape.name(x, "visual.patch_embed");
    let x = net.rms_norm(x, "model.visual.post_conv_layernorm", v.rms_norm_eps)?;
    let places = place_embeddings(net, v, grids, &positions)?;
    let mut x = net.add(x, places)?;
    let tables = RopeTables::of_grid(&positions, v.head_dim(), v.rope_theta);
    let rotation = Some(net.rotation(tables));
    let shape = AttentionShape::of_blocks(v.num_heads, v.head_dim(), &segments, rotation);
    for i in 0..v.depth {
        let m = format!("model.visual.blocks.{i}");
        net.tape.begin_segment(format!("visual.blocks.{i}"));
        let h = net.rms_norm(x, &format!("{m}.norm1"), v.rms_norm_eps)?;
        let qkv = net.linear(h, &format!("{m}.attn.qkv"))?;
        let qkv = net.split(qkv, 1, &[v.hidden_size; 3])?;
        let a = net.attention([qkv[0], qkv[1], qkv[2]], &shape, None)?;
        let a = net.linear(a, &format!("{m}.attn.proj"))?;
        x = net.add(x, a)?;
        let h = net.rms_norm(x, &format!("{m}.norm2"), v.rms_norm_eps)?;
        let h = net.gated_mlp(h, &format!("{m}.mlp"))?;
        x = net.add(x, h)?;
        net.tape.name(x, format!("visual.blocks.{i}"));
    }
    net.tape.begin_segment("visual.merger");
    let x = downsample(net, v, x)?;
    let x = net.linear(x, "model.visual.merger.proj")?;
    let x = net.layer_norm(x, "model.visual.merger.post_projection_norm", LAYER_NORM_EPS)?;
    let x = net.tape.op(Gelu { kind: GeluKind::Erf }, &[x])?;
    let x = net.gated_mlp(x, "model.visual.merger")?;
    net.tape.end_segment();
    Ok(net.tape.name(x, "visual.merger"))
}

/// The position table at the place of every patch, `[P,H]`.
fn place_embeddings(
    net: &mut Net,
    v: &VisionConfig,
    grids: &[[usize; 3]],
    positions: &[[i32; 2]],
) -> Result<Slot> {
    let (index, weight) = bicubic_taps(v.table_side(), grids, positions);
    let table = net.param("model.visual.embeddings.position_embedding.weight", None)?;
    let index = net.tape.indices(index);
    let weight = net.tape.input(HostTensor::f32([positions.len(), TAPS], weight));
    net.tape.op(WeightedRows { taps: TAPS }, &[table, index, weight])
}

/// A convolution over every unit: its patches are neighbours, the weight has channels outside.
fn downsample(net: &mut Net, v: &VisionConfig, x: Slot) -> Result<Slot> {
    let x = net.rms_norm(x, "model.visual.post_layernorm", v.rms_norm_eps)?;
    let unit = v.patching.merge * v.patching.merge;
    let rows = net.tape.ty(x).rows() / unit;
    let x = net.tape.view(x, &[rows, unit * v.hidden_size])?;
    let x = net.tape.op(TransposeColumns { rows: unit, cols: v.hidden_size }, &[x])?;
    net.patch_projection(x, "model.visual.downsample")
}
