//! Qwen2.5-VL's vision tower as a list of ops: windowed attention, gated MLPs, merger (arXiv
//! 2502.13923; module names and equations as in transformers `modeling_qwen2_5_vl.py`). Wiring only.
//!
//! P patches, M merged units, H hidden.

use super::{VisionConfig, VisionLayout, vision_layout};
use crate::base::{HostTensor, Result};
use crate::model::families::VisionTower;
use crate::model::net::{AttentionShape, Net};
use crate::model::rope::RopeTables;
use crate::ops::Slot;
use crate::ops::gather_rows::GatherRows;
use crate::ops::gelu::{Gelu, GeluKind};
use crate::ops::matmul::Matmul;

/// Patches of all images (processor order) `[P, patch values]` to features `[M,H]` in token order.
pub(super) fn encode(
    net: &mut Net,
    v: &VisionConfig,
    pixels: HostTensor,
    grids: &[[usize; 3]],
) -> Result<Slot> {
    let layout: VisionLayout = vision_layout(grids, v)?;
    let signed = |rows: &[u32]| rows.iter().map(|&r| r as i32).collect();
    let x = net.tape.activation(pixels);
    let order = net.tape.indices(signed(&layout.patch_order));
    let x = net.tape.op(GatherRows, &[x, order])?;
    let w = net
        .param("model.visual.patch_embed.proj.weight", Some(&[v.hidden_size, v.patch_values()]))?;
    let mut x = net.tape.op(Matmul::default(), &[x, w])?;
    net.tape.name(x, "visual.patch_embed");
    let tables = RopeTables::of_grid(&layout.rope_pos, v.head_dim(), v.rope_theta);
    let rotation = Some(net.rotation(tables));
    let shape = |segments: &[(usize, usize)]| {
        AttentionShape::of_blocks(v.num_heads, v.head_dim(), segments, rotation)
    };
    let (windowed, full) = (shape(&layout.window_segments), shape(&layout.full_segments));
    for i in 0..v.depth {
        let m = format!("model.visual.blocks.{i}");
        net.tape.begin_segment(format!("visual.blocks.{i}"));
        let h = net.rms_norm(x, &format!("{m}.norm1"), v.rms_norm_eps)?;
        let qkv = net.linear(h, &format!("{m}.attn.qkv"))?;
        let qkv = net.split(qkv, 1, &[v.hidden_size; 3])?;
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
    let unit = v.patching.merge * v.patching.merge;
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
