//! Qwen2-VL's vision tower as a list of ops: attention over whole frames, plain MLPs, merger (arXiv
//! 2409.12191; module names and equations as in transformers `modeling_qwen2_vl.py`). Wiring only.
//!
//! P patches, M merged units, H hidden.

use super::VisionConfig;
use crate::base::{HostTensor, Result};
use crate::model::families::qwen_patches::frames;
use crate::model::net::{AttentionShape, Net};
use crate::model::rope::RopeTables;
use crate::ops::Slot;
use crate::ops::gelu::GeluKind;

/// eps of every norm in the tower: written into transformers' Qwen2VLVisionBlock and PatchMerger, no
/// key of config.json changes it.
const LAYER_NORM_EPS: f64 = 1e-6;

/// Patches of all images `[P, patch values]` to features `[M,H]`, both unit by unit.
pub(super) fn encode(
    net: &mut Net,
    v: &VisionConfig,
    pixels: HostTensor,
    grids: &[[usize; 3]],
) -> Result<Slot> {
    let (positions, segments) = frames(grids, v.patching.merge)?;
    let x = net.tape.activation(pixels);
    let mut x = net.patch_projection(x, "model.visual.patch_embed.proj")?;
    net.tape.name(x, "visual.patch_embed");
    let tables = RopeTables::of_grid(&positions, v.head_dim(), v.rope_theta);
    let rotation = Some(net.rotation(tables));
    let shape = AttentionShape::of_blocks(v.num_heads, v.head_dim(), &segments, rotation);
    for i in 0..v.depth {
        let m = format!("model.visual.blocks.{i}");
        net.tape.begin_segment(format!("visual.blocks.{i}"));
        let h = net.layer_norm(x, &format!("{m}.norm1"), LAYER_NORM_EPS)?;
        let qkv = net.linear(h, &format!("{m}.attn.qkv"))?;
        let qkv = net.split(qkv, 1, &[v.embed_dim; 3])?;
        let a = net.attention([qkv[0], qkv[1], qkv[2]], &shape, None)?;
        let a = net.linear(a, &format!("{m}.attn.proj"))?;
        x = net.add(x, a)?;
        let h = net.layer_norm(x, &format!("{m}.norm2"), LAYER_NORM_EPS)?;
        let linears = [format!("{m}.mlp.fc1"), format!("{m}.mlp.fc2")];
        let h = net.gelu_mlp(h, &linears, v.hidden_act)?;
        x = net.add(x, h)?;
        net.tape.name(x, format!("visual.blocks.{i}"));
    }
    net.tape.begin_segment("visual.merger");
    let x = net.layer_norm(x, "model.visual.merger.ln_q", LAYER_NORM_EPS)?;
    let unit = v.patching.merge * v.patching.merge;
    let x = net.tape.view(x, &[positions.len() / unit, v.embed_dim * unit])?;
    let linears = ["model.visual.merger.mlp.0".into(), "model.visual.merger.mlp.2".into()];
    let x = net.gelu_mlp(x, &linears, GeluKind::Erf)?;
    net.tape.end_segment();
    Ok(net.tape.name(x, "visual.merger"))
}
