//! The vision tower of glm-4v-9b as a list of ops: learned places, blocks whose norms follow attention
//! and MLP, a convolution of 2 x 2 patches, a gated connector, a learned row before and after each image
//! (module names and equations as in the published `visual.py` and `modeling_chatglm.py`, and in vLLM's
//! `glm4v.py`). Wiring only.
//!
//! N images, S patches per side, P = N·S² patches, H hidden.

use super::VisionConfig;
use crate::base::{HostTensor, Result};
use crate::model::net::{AttentionShape, Net};
use crate::ops::Slot;
use crate::ops::embed::Embed;
use crate::ops::gather_rows::GatherRows;
use crate::ops::gelu::{Gelu, GeluKind};
use crate::ops::scale_columns::ScaleColumns;
use crate::ops::transpose_columns::TransposeColumns;

/// Patches per side that become one feature: the kernel of the published code's convolution.
pub(super) const MERGE: usize = 2;
/// eps of the connector's norm: torch's default, no key of config.json changes it.
const LAYER_NORM_EPS: f64 = 1e-5;

/// Patches of `images` images `[P, patch values]`, row by row, to features
/// `[N * (S² / 4 + 2), H]` in token order.
pub(super) fn encode(
    net: &mut Net,
    v: &VisionConfig,
    pixels: HostTensor,
    images: usize,
) -> Result<Slot> {
    let patches = v.side() * v.side();
    let mut x = embed(net, v, pixels, images)?;
    let blocks: Vec<(usize, usize)> =
        (0..images).map(|i| (i * (patches + 1), patches + 1)).collect();
    let head_dim = v.hidden_size / v.num_heads;
    let shape = AttentionShape::of_blocks(v.num_heads, head_dim, &blocks, None);
    for i in 0..v.depth {
        let m = format!("transformer.vision.transformer.layers.{i}");
        net.tape.begin_segment(format!("vision.layers.{i}"));
        let qkv = net.linear(x, &format!("{m}.attention.query_key_value"))?;
        let qkv = net.split(qkv, 1, &[v.hidden_size; 3])?;
        let a = net.attention([qkv[0], qkv[1], qkv[2]], &shape, None)?;
        let a = net.linear(a, &format!("{m}.attention.dense"))?;
        let a = net.layer_norm(a, &format!("{m}.input_layernorm"), v.layer_norm_eps)?;
        x = net.add(x, a)?;
        let mlp = ["fc1", "fc2"].map(|linear| format!("{m}.mlp.{linear}"));
        let h = net.gelu_mlp(x, &mlp, GeluKind::Erf)?;
        let h = net.layer_norm(h, &format!("{m}.post_attention_layernorm"), v.layer_norm_eps)?;
        x = net.add(x, h)?;
        net.tape.name(x, format!("vision.layers.{i}"));
    }
    net.tape.begin_segment("vision.linear_proj");
    let x = downsample(net, v, x, images)?;
    let x = connect(net, x)?;
    let x = frame(net, x, images)?;
    let inverse =
        HostTensor::f32([v.text_hidden], vec![(1.0 / v.scaling_factor) as f32; v.text_hidden]);
    let inverse = net.tape.input(inverse);
    let x = net.tape.op(ScaleColumns, &[x, inverse])?;
    net.tape.end_segment();
    Ok(net.tape.name(x, "vision.linear_proj"))
}

/// A class row and the patches of every image, each with its place: `[N * (S² + 1), H]`.
fn embed(net: &mut Net, v: &VisionConfig, pixels: HostTensor, images: usize) -> Result<Slot> {
    const MODULE: &str = "transformer.vision.patch_embedding";
    let patches = (v.side() * v.side()) as i32;
    let x = net.tape.activation(pixels);
    let x = net.patch_projection(x, &format!("{MODULE}.proj"))?;
    net.tape.name(x, "vision.patch_embed");
    let class = net.param(&format!("{MODULE}.cls_embedding"), None)?;
    let rows = |i: i32| (-1..patches).map(move |p| if p < 0 { 0 } else { -(i * patches + p + 1) });
    let index = net.tape.indices((0..images as i32).flat_map(rows).collect());
    let x = net.tape.op(Embed, &[class, x, index])?;
    let table = net.param(&format!("{MODULE}.position_embedding.weight"), None)?;
    let index = net.tape.indices((0..images).flat_map(|_| 0..=patches).collect());
    let places = net.tape.op(Embed, &[table, index])?;
    net.add(x, places)
}

/// Leaves the class rows out and takes every 2 x 2 patches together: `[N * S² / 4, text hidden]`.
fn downsample(net: &mut Net, v: &VisionConfig, x: Slot, images: usize) -> Result<Slot> {
    let (side, units) = (v.side(), v.side() / MERGE);
    let patch = |image: usize, unit: usize, k: usize| {
        let row = unit / units * MERGE + k / MERGE;
        let column = unit % units * MERGE + k % MERGE;
        (image * (side * side + 1) + 1 + row * side + column) as i32
    };
    let order = (0..images).flat_map(|image| {
        (0..units * units)
            .flat_map(move |unit| (0..MERGE * MERGE).map(move |k| patch(image, unit, k)))
    });
    let order = net.tape.indices(order.collect());
    let x = net.tape.op(GatherRows, &[x, order])?;
    let unit = MERGE * MERGE;
    let x = net.tape.view(x, &[images * units * units, unit * v.hidden_size])?;
    // The weight has channels outside and places inside.
    let x = net.tape.op(TransposeColumns { rows: unit, cols: v.hidden_size }, &[x])?;
    net.patch_projection(x, "transformer.vision.conv")
}

/// The gated connector.
fn connect(net: &mut Net, x: Slot) -> Result<Slot> {
    let m = "transformer.vision.linear_proj";
    let x = net.linear(x, &format!("{m}.linear_proj"))?;
    let x = net.layer_norm(x, &format!("{m}.norm1"), LAYER_NORM_EPS)?;
    let x = net.tape.op(Gelu { kind: GeluKind::Erf }, &[x])?;
    let gate = net.linear(x, &format!("{m}.gate_proj"))?;
    let value = net.linear(x, &format!("{m}.dense_h_to_4h"))?;
    let x = net.swiglu(gate, value)?;
    net.linear(x, &format!("{m}.dense_4h_to_h"))
}

/// The learned rows before and after the features of every image.
fn frame(net: &mut Net, x: Slot, images: usize) -> Result<Slot> {
    let (rows, hidden) = (net.tape.ty(x).rows() / images, net.tape.ty(x).cols());
    let begin = net.param("transformer.vision.boi", Some(&[1, hidden]))?;
    let end = net.param("transformer.vision.eoi", Some(&[1, hidden]))?;
    let taken =
        |image: usize, rows: usize| (0..rows).map(move |row| -((image * rows + row + 1) as i32));
    let index = (0..images).flat_map(|i| std::iter::once(0).chain(taken(i, rows))).collect();
    let index = net.tape.indices(index);
    let x = net.tape.op(Embed, &[begin, x, index])?;
    let index = (0..images).flat_map(|i| taken(i, rows + 1).chain(std::iter::once(0))).collect();
    let index = net.tape.indices(index);
    net.tape.op(Embed, &[end, x, index])
}
