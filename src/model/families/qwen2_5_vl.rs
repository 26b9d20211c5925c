//! Qwen2.5-VL (Bai et al., arXiv 2502.13923) as integers and names: M-RoPE positions, the window order of
//! vision patches, rotary tables, the list of parameters. Tensors and ops never appear here.
//!
//! Legend: T tokens, P patches, M merged units (one per image token; `merge`² patches each), D head size.
//! Patches of an image come from the processor unit by unit: a unit's `merge`² patches are neighbours in
//! memory, so every reordering below moves whole units.

use super::{Naming, ParamSpec, Part};
use crate::base::{Error, Result};
pub mod net; // the model as a list of ops

use crate::model::config::{TextConfig, VisionConfig, VlmConfig};

/// Name prefix of PEFT adapters: `base_model.model.<canonical module>.lora_A.weight`.
pub const PEFT_PREFIX: &str = "base_model.model.";

/// M-RoPE positions (temporal, height, width) of `len` tokens and the difference between the next
/// position and `len` (`rope_deltas`: token `n >= len` has the position `n + delta` on every axis).
///
/// `images` lists (first token, grid in patches `[t, h, w]`) in order. Text advances all axes by one per
/// token; an image starts at the running position and advances it by the longer side of its merged
/// grid, whatever its `t` is (`get_rope_index` of transformers 5).
///
/// # Errors
/// If a grid does not divide by `merge`, or if spans overlap or pass the end.
pub fn rope_index(
    len: usize,
    images: &[(usize, [usize; 3])],
    merge: usize,
) -> Result<(Vec<[i32; 3]>, i32)> {
    let mut positions = Vec::with_capacity(len);
    let mut next = 0i32;
    for (i, &(start, grid)) in images.iter().enumerate() {
        let [t, h, w] = merged_grid(grid, merge, i)?;
        if start < positions.len() || start + t * h * w > len {
            return Err(Error::data("image tokens do not fit the sequence")
                .at(format!("image {}", i + 1))
                .expected(format!(
                    "{} tokens between token {} and token {len}",
                    t * h * w,
                    positions.len()
                ))
                .found(format!("a first token at {start}"))
                .hint("raise max_prompt_length, or lower max_pixels: images cannot be truncated"));
        }
        push_text(&mut positions, &mut next, start);
        for unit in 0..t * h * w {
            let (frame, row, column) = (unit / (h * w), unit / w % h, unit % w);
            positions.push([next + frame as i32, next + row as i32, next + column as i32]);
        }
        next += h.max(w) as i32;
    }
    push_text(&mut positions, &mut next, len);
    let largest = positions.iter().flatten().max().copied().unwrap_or(-1);
    Ok((positions, largest + 1 - len as i32))
}

fn push_text(positions: &mut Vec<[i32; 3]>, next: &mut i32, end: usize) {
    while positions.len() < end {
        positions.push([*next; 3]);
        *next += 1;
    }
}

/// Grid in merged units; the temporal axis is not merged.
fn merged_grid([t, h, w]: [usize; 3], merge: usize, image: usize) -> Result<[usize; 3]> {
    if t == 0 || h == 0 || w == 0 || h % merge != 0 || w % merge != 0 {
        return Err(Error::data("image grid does not divide into merged units")
            .at(format!("image {}", image + 1))
            .expected(format!("[t, h, w] with h and w positive multiples of {merge}"))
            .found(format!("{:?}", [t, h, w])));
    }
    Ok([t, h / merge, w / merge])
}

/// The order in which the vision tower works on the patches of a batch of images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VisionLayout {
    /// `[M]`: merged unit (processor order) at each place of the window order.
    pub window_index: Vec<u32>,
    /// `[P]`: patch (processor order) at each place of the window order; the row gather before block 0.
    pub patch_order: Vec<u32>,
    /// `[M]`: inverse of `window_index`; the row gather after the merger, back to token order.
    pub reverse: Vec<u32>,
    /// Attention segments (first patch, patches) of window blocks, in window order.
    pub window_segments: Vec<(usize, usize)>,
    /// Attention segments of full blocks: one per image and frame.
    pub full_segments: Vec<(usize, usize)>,
    /// `[P]`: (row, column) in patches of each patch, in window order.
    pub rope_pos: Vec<[i32; 2]>,
}

/// Lays out images of `grids` (`[t, h, w]` in patches each). Windows of
/// `window_size / spatial_merge_size / patch_size` merged units per side are cut from the upper left;
/// those at the right and lower edges are smaller.
///
/// # Errors
/// If a grid does not divide by the merge size.
pub fn vision_layout(grids: &[[usize; 3]], cfg: &VisionConfig) -> Result<VisionLayout> {
    let merge = cfg.spatial_merge_size;
    let side = cfg.window_units();
    let unit_patches = merge * merge;
    let mut window_index = Vec::new();
    let mut window_segments = Vec::new();
    let mut full_segments = Vec::new();
    let mut processor_pos: Vec<[i32; 2]> = Vec::new();
    for (i, &grid) in grids.iter().enumerate() {
        let [t, h, w] = merged_grid(grid, merge, i)?;
        for _ in 0..t {
            let base = processor_pos.len() / unit_patches;
            full_segments.push((processor_pos.len(), h * w * unit_patches));
            push_patch_positions(&mut processor_pos, h, w, merge);
            for (top, left) in windows(h, w, side) {
                let start = window_index.len();
                for row in top..(top + side).min(h) {
                    let columns = left..(left + side).min(w);
                    window_index.extend(columns.map(|column| (base + row * w + column) as u32));
                }
                let units = window_index.len() - start;
                window_segments.push((start * unit_patches, units * unit_patches));
            }
        }
    }
    let mut reverse = vec![0; window_index.len()];
    for (place, &unit) in window_index.iter().enumerate() {
        reverse[unit as usize] = place as u32;
    }
    let patch_order: Vec<u32> = window_index
        .iter()
        .flat_map(|&unit| (0..unit_patches as u32).map(move |k| unit * unit_patches as u32 + k))
        .collect();
    let rope_pos = patch_order.iter().map(|&p| processor_pos[p as usize]).collect();
    Ok(VisionLayout {
        window_index,
        patch_order,
        reverse,
        window_segments,
        full_segments,
        rope_pos,
    })
}

/// Upper left corners of the windows of an `h` x `w` grid, row by row.
fn windows(h: usize, w: usize, side: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..h).step_by(side).flat_map(move |top| (0..w).step_by(side).map(move |left| (top, left)))
}

/// (row, column) of the patches of one frame of `h` x `w` merged units, in the processor's order.
fn push_patch_positions(positions: &mut Vec<[i32; 2]>, h: usize, w: usize, merge: usize) {
    for unit in 0..h * w {
        let (top, left) = (unit / w * merge, unit % w * merge);
        for k in 0..merge * merge {
            positions.push([(top + k / merge) as i32, (left + k % merge) as i32]);
        }
    }
}

/// Cosines and sines of rotary positions, `[rows, half]` each. Element `j` of a head is rotated with
/// element `j + half` by the angle of column `j` ("rotate half"), for `half = D / 2`.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeTables {
    /// Columns: half the head size.
    pub half: usize,
    /// Cosines, row-major.
    pub cos: Vec<f32>,
    /// Sines, row-major.
    pub sin: Vec<f32>,
}

impl RopeTables {
    /// `axis_of[j]` names the position axis and `inv_freq[j]` the frequency of column `j`. The angle is
    /// the single-precision product, as in transformers; its cosine is rounded once, from double.
    fn new<const A: usize>(positions: &[[i32; A]], inv_freq: &[f32], axis_of: &[usize]) -> Self {
        let half = inv_freq.len();
        let mut cos = Vec::with_capacity(positions.len() * half);
        let mut sin = Vec::with_capacity(positions.len() * half);
        for position in positions {
            for (&frequency, &axis) in inv_freq.iter().zip(axis_of) {
                let angle = f64::from(position[axis] as f32 * frequency);
                cos.push(angle.cos() as f32);
                sin.push(angle.sin() as f32);
            }
        }
        RopeTables { half, cos, sin }
    }
}

/// `dim / 2` inverse frequencies `theta^(-2i / dim)`, in the single-precision steps of transformers
/// (exponent, power and reciprocal are rounded one after another).
pub fn rope_inv_freq(dim: usize, theta: f64) -> Vec<f32> {
    (0..dim / 2)
        .map(|i| {
            let exponent = (2 * i) as f32 / dim as f32;
            1.0 / (theta.powf(f64::from(exponent)) as f32)
        })
        .collect()
}

/// `[D / 2]`: the position axis (0 temporal, 1 height, 2 width) that turns each frequency
/// (config key `mrope_section`).
pub fn mrope_axes(section: [usize; 3]) -> Vec<usize> {
    section.iter().enumerate().flat_map(|(axis, &n)| std::iter::repeat_n(axis, n)).collect()
}

/// Rotary tables of the language model, `[T, D / 2]`.
pub fn text_rope_tables(positions: &[[i32; 3]], cfg: &TextConfig) -> RopeTables {
    let inv_freq = rope_inv_freq(cfg.head_dim, cfg.rope_theta);
    RopeTables::new(positions, &inv_freq, &mrope_axes(cfg.mrope_section))
}

/// Rotary tables of the vision tower, `[P, D / 2]`: `D / 4` frequencies turned by the row, then the same
/// by the column. Give [`VisionLayout::rope_pos`].
pub fn vision_rope_tables(positions: &[[i32; 2]], cfg: &VisionConfig) -> RopeTables {
    let one = rope_inv_freq(cfg.head_dim() / 2, cfg.rope_theta);
    let axes: Vec<usize> = (0..2 * one.len()).map(|j| j / one.len()).collect();
    RopeTables::new(positions, &one.repeat(2), &axes)
}

/// Every parameter in the order of transformers' `named_parameters`, with canonical names. A tied head
/// is not listed: it is the embedding.
pub fn parameters(cfg: &VlmConfig) -> Vec<ParamSpec> {
    let mut list = vision_parameters(&cfg.vision);
    list.extend(text_parameters(&cfg.text));
    list
}

fn vision_parameters(v: &VisionConfig) -> Vec<ParamSpec> {
    let (h, f) = (v.hidden_size, v.intermediate_size);
    let mut list =
        ParamList { prefix: "model.visual".into(), part: Part::Vision, list: Vec::new() };
    list.push(
        "patch_embed.proj.weight",
        &[h, v.in_channels, v.temporal_patch_size, v.patch_size, v.patch_size],
    );
    for i in 0..v.depth {
        list.prefix = format!("model.visual.blocks.{i}");
        list.push("norm1.weight", &[h]);
        list.push("norm2.weight", &[h]);
        list.linear("attn.qkv", h, 3 * h, true);
        list.linear("attn.proj", h, h, true);
        list.linear("mlp.gate_proj", h, f, true);
        list.linear("mlp.up_proj", h, f, true);
        list.linear("mlp.down_proj", f, h, true);
    }
    list.prefix = "model.visual.merger".into();
    list.part = Part::Connector;
    let unit = h * v.spatial_merge_size * v.spatial_merge_size;
    list.push("ln_q.weight", &[h]);
    list.linear("mlp.0", unit, unit, true);
    list.linear("mlp.2", unit, v.out_hidden_size, true);
    list.list
}

fn text_parameters(t: &TextConfig) -> Vec<ParamSpec> {
    let (h, f) = (t.hidden_size, t.intermediate_size);
    let (q, kv) = (t.num_heads * t.head_dim, t.num_kv_heads * t.head_dim);
    let root = "model.language_model";
    let mut list = ParamList { prefix: root.into(), part: Part::Language, list: Vec::new() };
    list.push("embed_tokens.weight", &[t.vocab_size, h]);
    for i in 0..t.num_layers {
        list.prefix = format!("{root}.layers.{i}");
        list.linear("self_attn.q_proj", h, q, true);
        list.linear("self_attn.k_proj", h, kv, true);
        list.linear("self_attn.v_proj", h, kv, true);
        list.linear("self_attn.o_proj", q, h, false);
        list.linear("mlp.gate_proj", h, f, false);
        list.linear("mlp.up_proj", h, f, false);
        list.linear("mlp.down_proj", f, h, false);
        list.push("input_layernorm.weight", &[h]);
        list.push("post_attention_layernorm.weight", &[h]);
    }
    list.prefix = root.into();
    list.push("norm.weight", &[h]);
    if !t.tie_word_embeddings {
        list.part = Part::Head;
        list.list.push(ParamSpec {
            name: "lm_head.weight".into(),
            shape: vec![t.vocab_size, h],
            part: Part::Head,
        });
    }
    list.list
}

struct ParamList {
    prefix: String,
    part: Part,
    list: Vec<ParamSpec>,
}

impl ParamList {
    fn push(&mut self, name: &str, shape: &[usize]) {
        let name = format!("{}.{name}", self.prefix);
        self.list.push(ParamSpec { name, shape: shape.to_vec(), part: self.part });
    }
    fn linear(&mut self, name: &str, inputs: usize, outputs: usize, bias: bool) {
        self.push(&format!("{name}.weight"), &[outputs, inputs]);
        if bias {
            self.push(&format!("{name}.bias"), &[outputs]);
        }
    }
}

/// The canonical name of a tensor or module that is named in either scheme; None for a name that
/// belongs to neither.
pub fn canonical_name(name: &str) -> Option<String> {
    const CANONICAL: [&str; 3] = ["model.visual.", "model.language_model.", "lm_head."];
    if CANONICAL.iter().any(|p| name.starts_with(p)) {
        return Some(name.into());
    }
    if let Some(rest) = name.strip_prefix("visual.") {
        return Some(format!("model.visual.{rest}"));
    }
    let rest = name.strip_prefix("model.")?;
    let known = ["layers.", "embed_tokens.", "norm."].iter().any(|p| rest.starts_with(p));
    known.then(|| format!("model.language_model.{rest}"))
}

/// The name of a canonical tensor or module in `naming`.
pub fn name_in(naming: Naming, canonical: &str) -> String {
    match naming {
        Naming::Module => canonical.into(),
        Naming::Checkpoint => {
            if let Some(rest) = canonical.strip_prefix("model.visual.") {
                format!("visual.{rest}")
            } else if let Some(rest) = canonical.strip_prefix("model.language_model.") {
                format!("model.{rest}")
            } else {
                canonical.into()
            }
        }
    }
}

/// The naming scheme of a checkpoint, from all its tensor names.
///
/// # Errors
/// If no name belongs to this family, or if both schemes occur.
pub fn detect_naming<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> Result<Naming> {
    let (mut module, mut checkpoint, mut last) = (None, None, String::from("no tensor"));
    for name in names {
        let name = name.as_ref();
        match canonical_name(name) {
            Some(_) if name.starts_with("lm_head.") => {} // the same in both
            Some(canonical) if canonical == name => module = Some(name.to_string()),
            Some(_) => checkpoint = Some(name.to_string()),
            None => last = name.to_string(),
        }
    }
    match (module, checkpoint) {
        (Some(_), None) => Ok(Naming::Module),
        (None, Some(_)) => Ok(Naming::Checkpoint),
        (Some(a), Some(b)) => Err(Error::data("tensor names of two schemes in one checkpoint")
            .expected("either `model.language_model.*` or `model.layers.*`")
            .found(format!("`{a}` and `{b}`"))),
        (None, None) => Err(Error::data("tensor names are not those of Qwen2.5-VL")
            .expected(
                "`visual.*` and `model.layers.*`, or `model.visual.*` and `model.language_model.*`",
            )
            .found(last)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_alone_counts_up() {
        let (positions, delta) = rope_index(3, &[], 2).unwrap();
        assert_eq!((positions, delta), (vec![[0; 3], [1; 3], [2; 3]], 0));
        assert_eq!(rope_index(0, &[], 2).unwrap(), (vec![], 0));
    }

    #[test]
    fn image_spans_are_checked() {
        assert!(rope_index(6, &[(1, [1, 4, 4])], 2).is_ok());
        assert!(rope_index(4, &[(1, [1, 4, 4])], 2).unwrap_err().to_string().contains("image 1"));
        assert!(rope_index(9, &[(0, [1, 4, 4]), (3, [1, 2, 2])], 2).is_err());
        assert!(rope_index(9, &[(0, [1, 3, 4])], 2).is_err());
    }

    #[test]
    fn names_convert_both_ways() {
        for (canonical, old) in [
            ("model.visual.blocks.0.attn.qkv.bias", "visual.blocks.0.attn.qkv.bias"),
            ("model.language_model.layers.1.mlp.up_proj", "model.layers.1.mlp.up_proj"),
            ("model.language_model.norm.weight", "model.norm.weight"),
            ("lm_head.weight", "lm_head.weight"),
        ] {
            assert_eq!(name_in(Naming::Checkpoint, canonical), old);
            assert_eq!(name_in(Naming::Module, canonical), canonical);
            assert_eq!(canonical_name(old).as_deref(), Some(canonical));
            assert_eq!(canonical_name(canonical).as_deref(), Some(canonical));
        }
        assert_eq!(canonical_name("model.vision_tower.x"), None);
        assert!(
            detect_naming(["transformer.h.0"]).unwrap_err().to_string().contains("transformer")
        );
        assert!(detect_naming(["model.norm.weight", "model.visual.merger.ln_q.weight"]).is_err());
    }
}
