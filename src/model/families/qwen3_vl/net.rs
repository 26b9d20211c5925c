//! Qwen3-VL's vision tower as a list of ops: learned places, attention over whole frames, plain MLPs,
//! one merger at the end and one for each level between (arXiv 2511.21631; module names and equations
//! as in transformers `modeling_qwen3_vl.py`). Wiring only.
//!
//! P patches, M merged units, H hidden.

use super::{VisionConfig, place_taps};
use crate::base::{HostTensor, Result};
use crate::model::families::qwen_patches::frames;
use crate::model::net::{AttentionShape, Net};
use crate::model::rope::RopeTables;
use crate::ops::Slot;
use crate::ops::gelu::GeluKind;
use crate::ops::weighted_rows::WeightedRows;

/// eps of every norm in the tower: written into transformers' Qwen3VLVisionBlock and
/// Qwen3VLVisionPatchMerger, no key of config.json changes it.
const LAYER_NORM_EPS: f64 = 1e-6;

/// Patches of all images `[P, patch values]` to features `[M,H]` of every level, all unit by unit.
pub(super) fn encode(
    net: &mut Net,
    v: &VisionConfig,
    pixels: HostTensor,
    grids: &[[usize; 3]],
) -> Result<Vec<Slot>> {
    let (positions, segments) = frames(grids, v.patching.merge)?;
    let x = net.tape.activation(pixels);
    let x = net.patch_projection(x, "model.visual.patch_embed.proj")?;
    net.tape.name(x, "visual.patch_embed");
    let places = places(net, v, &positions, grids)?;
    let mut x = net.add(x, places)?;
    let tables = RopeTables::of_grid(&positions, v.head_dim(), v.rope_theta);
    let rotation = Some(net.rotation(tables));
    let shape = AttentionShape::of_blocks(v.num_heads, v.head_dim(), &segments, rotation);
    let mut levels = Vec::new();
    for i in 0..v.depth {
        let m = format!("model.visual.blocks.{i}");
        net.tape.begin_segment(format!("visual.blocks.{i}"));
        let h = net.layer_norm(x, &format!("{m}.norm1"), LAYER_NORM_EPS)?;
        let qkv = net.linear(h, &format!("{m}.attn.qkv"))?;
        let qkv = net.split(qkv, 1, &[v.hidden_size; 3])?;
        let a = net.attention([qkv[0], qkv[1], qkv[2]], &shape, None)?;
        let a = net.linear(a, &format!("{m}.attn.proj"))?;
        x = net.add(x, a)?;
        let h = net.layer_norm(x, &format!("{m}.norm2"), LAYER_NORM_EPS)?;
        let linears = [format!("{m}.mlp.linear_fc1"), format!("{m}.mlp.linear_fc2")];
        let h = net.gelu_mlp(h, &linears, v.hidden_act)?;
        x = net.add(x, h)?;
        net.tape.name(x, format!("visual.blocks.{i}"));
        if let Some(level) = v.deepstack.iter().position(|&block| block == i) {
            net.tape.begin_segment(format!("visual.deepstack.{level}"));
            levels.push(merge(net, v, x, &format!("deepstack_merger_list.{level}"), true)?);
        }
    }
    net.tape.begin_segment("visual.merger");
    let last = merge(net, v, x, "merger", false)?;
    net.tape.end_segment();
    levels.insert(0, net.tape.name(last, "visual.merger"));
    Ok(levels)
}

/// Learned places of all patches `[P,H]`.
fn places(
    net: &mut Net,
    v: &VisionConfig,
    positions: &[[i32; 2]],
    grids: &[[usize; 3]],
) -> Result<Slot> {
    let taps = place_taps(positions, grids, v.places);
    let table = net.param("model.visual.pos_embed.weight", None)?;
    let index = net.tape.indices(taps.index);
    let weight = net.tape.input(HostTensor::f32([positions.len(), 4], taps.weight));
    net.tape.op(WeightedRows { taps: 4 }, &[table, index, weight])
}

/// A connector: units of patches to features. The norm is of whole units where `after` is set, else of
/// patches.
fn merge(net: &mut Net, v: &VisionConfig, x: Slot, module: &str, after: bool) -> Result<Slot> {
    let module = format!("model.visual.{module}");
    let norm = format!("{module}.norm");
    let unit = v.patching.merge * v.patching.merge;
    let shape = [net.tape.ty(x).rows() / unit, v.hidden_size * unit];
    let x = match after {
        true => {
            let x = net.tape.view(x, &shape)?;
            net.layer_norm(x, &norm, LAYER_NORM_EPS)?
        }
        false => {
            let x = net.layer_norm(x, &norm, LAYER_NORM_EPS)?;
            net.tape.view(x, &shape)?
        }
    };
    let linears = [format!("{module}.linear_fc1"), format!("{module}.linear_fc2")];
    net.gelu_mlp(x, &linears, GeluKind::Erf)
}
