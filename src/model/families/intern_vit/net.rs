//! InternViT and its connector as a list of ops (module names and equations as in InternVL's
//! `modeling_intern_vit.py` and transformers' `modeling_internvl.py`). Wiring only.
//!
//! N tiles, P patches, H width, S rows of a tile: its patches and the class token in front of them.

use super::{CONNECTOR_EPS, MERGE, NormType, VisionConfig};
use crate::base::{HostTensor, Result};
use crate::model::decoder::names::Qkv;
use crate::model::families::VisionTower;
use crate::model::net::{AttentionShape, Net};
use crate::ops::Slot;
use crate::ops::embed::Embed;
use crate::ops::gather_rows::GatherRows;
use crate::ops::gelu::{Gelu, GeluKind};
use crate::ops::matmul::Matmul;
use crate::ops::scale_columns::ScaleColumns;

/// Patches of all tiles, row by row, `[P, patch values]` to features in token order.
pub(super) fn encode(
    net: &mut Net,
    v: &VisionConfig,
    pixels: HostTensor,
    grids: &[[usize; 3]],
) -> Result<Slot> {
    let tiles = v.tiles(grids)?;
    let rows = v.tile_patches() + 1;
    let mut x = embeddings(net, v, pixels, tiles)?;
    let blocks: Vec<(usize, usize)> = (0..tiles).map(|tile| (tile * rows, rows)).collect();
    let shape = AttentionShape::of_blocks(v.num_heads, v.head_dim(), &blocks, None);
    for i in 0..v.depth {
        net.tape.begin_segment(format!("visual.blocks.{i}"));
        x = block(net, v, i, x, &shape)?;
        net.tape.name(x, format!("visual.blocks.{i}"));
    }
    net.tape.begin_segment("visual.connector");
    let x = connector(net, v, x, tiles)?;
    net.tape.end_segment();
    Ok(net.tape.name(x, "visual.connector"))
}

/// Rows of patches with the class token before those of each tile, plus their places `[N*S,H]`.
fn embeddings(net: &mut Net, v: &VisionConfig, pixels: HostTensor, tiles: usize) -> Result<Slot> {
    let (h, patches) = (v.hidden_size, v.tile_patches());
    let at = |name: &str| format!("{}.{name}", v.names.root);
    let x = net.tape.activation(pixels);
    let module = at(v.names.patches);
    let w = net.param(&format!("{module}.weight"), Some(&[h, v.patch_values()]))?;
    let b = net.param(&format!("{module}.bias"), None)?;
    let x = net.tape.op(Matmul { bias: true, ..Matmul::default() }, &[x, w, b])?;
    net.tape.name(x, "visual.patch_embed");
    let of_tile = |tile: usize| {
        let first = (tile * patches) as i32;
        std::iter::once(0).chain((first..first + patches as i32).map(|row| -(row + 1)))
    };
    let order = net.tape.indices((0..tiles).flat_map(of_tile).collect());
    let class = net.param(&at(v.names.class_token), Some(&[1, h]))?;
    let x = net.tape.op(Embed, &[class, x, order])?;
    let table = net.param(&at(v.names.positions), Some(&[patches + 1, h]))?;
    let places = net.tape.indices((0..tiles).flat_map(|_| 0..=patches as i32).collect());
    let places = net.tape.op(Embed, &[table, places])?;
    net.add(x, places)
}

fn block(
    net: &mut Net,
    v: &VisionConfig,
    number: usize,
    x: Slot,
    shape: &AttentionShape,
) -> Result<Slot> {
    let names = v.names;
    let at = |module: &str| format!("{}.{}.{number}.{module}", names.root, names.layers);
    let h = norm(net, v, x, &at(names.norms[0]))?;
    let [mut q, mut k, value] = match names.qkv {
        Qkv::Separate([q, k, v]) => {
            [net.linear(h, &at(q))?, net.linear(h, &at(k))?, net.linear(h, &at(v))?]
        }
        Qkv::Fused { module, .. } => {
            let fused = net.linear(h, &at(module))?;
            let parts = net.split(fused, 1, &[v.hidden_size; 3])?;
            [parts[0], parts[1], parts[2]]
        }
    };
    if let Some(eps) = v.qk_norm_eps {
        q = net.rms_norm(q, &at(names.qk_norms[0]), eps)?;
        k = net.rms_norm(k, &at(names.qk_norms[1]), eps)?;
    }
    let a = net.attention([q, k, value], shape, None)?;
    let a = net.linear(a, &at(names.attention_out))?;
    let a = scaled(net, a, &at(names.scales[0]))?;
    let x = net.add(x, a)?;
    let h = norm(net, v, x, &at(names.norms[1]))?;
    let h = net.linear(h, &at("mlp.fc1"))?;
    let h = net.tape.op(Gelu { kind: GeluKind::Erf }, &[h])?;
    let h = net.linear(h, &at("mlp.fc2"))?;
    let h = scaled(net, h, &at(names.scales[1]))?;
    net.add(x, h)
}

fn norm(net: &mut Net, v: &VisionConfig, x: Slot, module: &str) -> Result<Slot> {
    match v.norm {
        NormType::Layer => net.layer_norm(x, module, v.norm_eps),
        NormType::Rms => net.rms_norm(x, module, v.norm_eps),
    }
}

/// Columns times the layer scale of this name.
fn scaled(net: &mut Net, x: Slot, name: &str) -> Result<Slot> {
    let scale = net.param(name, None)?;
    net.tape.op(ScaleColumns, &[x, scale])
}

/// Drops the class tokens, puts the patches of each feature side by side, and carries them into the
/// language model.
fn connector(net: &mut Net, v: &VisionConfig, x: Slot, tiles: usize) -> Result<Slot> {
    let rows = v.tile_patches() + 1;
    let shuffled = v.shuffled();
    let order = (0..tiles).flat_map(|tile| shuffled.iter().map(move |r| (tile * rows + r) as i32));
    let order = net.tape.indices(order.collect());
    let x = net.tape.op(GatherRows, &[x, order])?;
    let x = net.tape.view(x, &[tiles * v.tile_features(), v.hidden_size * MERGE * MERGE])?;
    let [norm, first, second] = v.names.connector;
    let x = net.layer_norm(x, norm, CONNECTOR_EPS)?;
    let x = net.linear(x, first)?;
    let x = net.tape.op(Gelu { kind: GeluKind::Erf }, &[x])?;
    net.linear(x, second)
}
