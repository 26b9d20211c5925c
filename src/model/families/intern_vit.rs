//! InternViT, the vision tower of InternVL, with its connector (Chen et al., arXiv 2312.14238 and 2404.16821):
//! sizes, module names of both published layouts, the list of parameters, the order of the pixel shuffle.
//! One file for both layouts: they differ in names and in whether queries, keys and values are one module.
//! Keys of config.json are read by the families; tensors and ops are in [`net`].
//!
//! Legend: N tiles of all visuals, S patches per side of a tile, H width, `merge` = 2 patches per side of a
//! feature.

pub mod net; // the vision tower as a list of ops

use super::{Patching, VisionTower};
use crate::base::{Error, HostTensor, Result};
use crate::model::config::keys::Keys;
use crate::model::decoder::names::Qkv;
use crate::model::net::Net;
use crate::model::spec::{ParamList, ParamSpec, Part};
use crate::ops::Slot;

/// Patches per side of what becomes one feature: `1 / downsample_ratio`.
pub const MERGE: usize = 2;
/// eps of the connector's layer norm: torch's default, which no key of config.json changes.
pub const CONNECTOR_EPS: f64 = 1e-5;

/// How a layout names the tower's modules and tensors.
#[derive(Debug, PartialEq)]
pub struct VisionNames {
    /// The tower; the names below down to `scales` are relative to it or to a layer of it.
    pub root: &'static str,
    /// The row in front of the patches of every tile.
    pub class_token: &'static str,
    /// Position table.
    pub positions: &'static str,
    /// Convolution that makes patches to rows.
    pub patches: &'static str,
    /// List of layers.
    pub layers: &'static str,
    /// Norms before attention and before the MLP.
    pub norms: [&'static str; 2],
    /// Projections to queries, keys and values.
    pub qkv: Qkv,
    /// Norms of queries and keys, where there are such.
    pub qk_norms: [&'static str; 2],
    /// Projection out of attention.
    pub attention_out: &'static str,
    /// Layer scales of attention and of the MLP.
    pub scales: [&'static str; 2],
    /// Norm and two linear layers of the connector: whole paths.
    pub connector: [&'static str; 3],
}

/// Names of the remote-code class `InternVLChatModel`.
pub static CHAT_NAMES: VisionNames = VisionNames {
    root: "vision_model",
    class_token: "embeddings.class_embedding",
    positions: "embeddings.position_embedding",
    patches: "embeddings.patch_embedding",
    layers: "encoder.layers",
    norms: ["norm1", "norm2"],
    qkv: Qkv::Fused { module: "attn.qkv", by_key_head: false },
    qk_norms: ["attn.q_norm", "attn.k_norm"],
    attention_out: "attn.proj",
    scales: ["ls1", "ls2"],
    connector: ["mlp1.0", "mlp1.1", "mlp1.3"],
};

/// Names of transformers' `InternVLForConditionalGeneration`.
pub static TRANSFORMERS_NAMES: VisionNames = VisionNames {
    root: "model.vision_tower",
    class_token: "embeddings.cls_token",
    positions: "embeddings.position_embeddings",
    patches: "embeddings.patch_embeddings.projection",
    layers: "encoder.layer",
    norms: ["layernorm_before", "layernorm_after"],
    qkv: Qkv::Separate(["attention.q_proj", "attention.k_proj", "attention.v_proj"]),
    qk_norms: ["attention.q_norm", "attention.k_norm"],
    attention_out: "attention.projection_layer",
    scales: ["lambda_1", "lambda_2"],
    connector: [
        "model.multi_modal_projector.layer_norm",
        "model.multi_modal_projector.linear_1",
        "model.multi_modal_projector.linear_2",
    ],
};

/// Norms of the blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormType {
    /// With weight and bias (InternViT-300M).
    Layer,
    /// Root mean square, with weight (InternViT-6B).
    Rms,
}

/// The vision tower and its connector.
#[derive(Debug, Clone, PartialEq)]
pub struct VisionConfig {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Blocks.
    pub depth: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Pixels per side of a patch.
    pub patch_size: usize,
    /// Patches per side of a tile; even.
    pub grid: usize,
    /// Norms of the blocks.
    pub norm: NormType,
    /// eps of the norms of the blocks.
    pub norm_eps: f64,
    /// Whether the projections to queries, keys and values have a bias.
    pub qkv_bias: bool,
    /// eps of the norm of queries and keys over all heads together, where there is one.
    pub qk_norm_eps: Option<f64>,
    /// Whether features come column by column (`ps_version` v1) instead of row by row.
    pub by_columns: bool,
    /// Width of the features: the language model's.
    pub out_hidden_size: usize,
    /// Names of modules.
    pub names: &'static VisionNames,
}

impl VisionConfig {
    /// Pixels per side of a tile.
    pub fn tile_side(&self) -> usize {
        self.grid * self.patch_size
    }
    /// Patches of a tile.
    pub fn tile_patches(&self) -> usize {
        self.grid * self.grid
    }
    /// Features of a tile.
    pub fn tile_features(&self) -> usize {
        self.tile_patches() / (MERGE * MERGE)
    }
    /// Size of a head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_heads
    }

    /// Rows of a tile, class token first, in the order in which the connector reads them: the four
    /// patches of a feature side by side, upper pair first.
    pub fn shuffled(&self) -> Vec<usize> {
        let units = self.grid / MERGE;
        let mut rows = Vec::with_capacity(self.tile_patches());
        for unit in 0..units * units {
            let (a, b) = (unit / units, unit % units);
            let (top, left) = if self.by_columns { (b, a) } else { (a, b) };
            for k in 0..MERGE * MERGE {
                let (row, column) = (top * MERGE + k / MERGE, left * MERGE + k % MERGE);
                rows.push(1 + row * self.grid + column);
            }
        }
        rows
    }

    /// Tiles of visuals of these grids.
    ///
    /// # Errors
    /// If a grid is not one of tiles of this tower.
    pub fn tiles(&self, grids: &[[usize; 3]]) -> Result<usize> {
        for (i, grid) in grids.iter().enumerate() {
            if grid[0] == 0 || grid[1..] != [self.grid; 2] {
                return Err(Error::data("a tile does not fit the vision tower")
                    .at(format!("image {}", i + 1))
                    .expected(format!("tiles of {0} x {0} patches", self.grid))
                    .found(format!("{grid:?}")));
            }
        }
        Ok(grids.iter().map(|g| g[0]).sum())
    }

    /// Checks what both layouts must keep.
    ///
    /// # Errors
    /// If sizes do not divide; keys of `keys` are named.
    pub fn check(&self, keys: &Keys, heads_key: &str, side: usize) -> Result<()> {
        if !self.hidden_size.is_multiple_of(self.num_heads) {
            let expected = format!("a divisor of hidden_size {}", self.hidden_size);
            return Err(keys.wrong(heads_key, expected));
        }
        if self.grid == 0 || !self.grid.is_multiple_of(MERGE) || side != self.tile_side() {
            let unit = self.patch_size * MERGE;
            return Err(keys.wrong("image_size", format!("a multiple of {unit} (two patches)")));
        }
        Ok(())
    }
}

/// Reads `norm_type`.
///
/// # Errors
/// If there is no such norm.
pub fn norm_type(keys: &Keys, default: NormType) -> Result<NormType> {
    match keys.string("norm_type")? {
        None => Ok(default),
        Some("layer_norm") => Ok(NormType::Layer),
        Some("rms_norm") => Ok(NormType::Rms),
        Some(_) => Err(keys.wrong("norm_type", "layer_norm or rms_norm")),
    }
}

impl VisionTower for VisionConfig {
    fn parameters(&self) -> Vec<ParamSpec> {
        parameters(self)
    }
    fn encode(&self, net: &mut Net, pixels: HostTensor, grids: &[[usize; 3]]) -> Result<Vec<Slot>> {
        Ok(vec![net::encode(net, self, pixels, grids)?])
    }
    fn patching(&self) -> Patching {
        Patching { side: self.patch_size, frames: 1, merge: MERGE }
    }
}

/// In the order of `named_parameters`.
fn parameters(v: &VisionConfig) -> Vec<ParamSpec> {
    let (h, names) = (v.hidden_size, v.names);
    let mut list = ParamList::new(names.root, Part::Vision);
    list.push(names.class_token, &[1, 1, h]);
    list.push(names.positions, &[1, v.tile_patches() + 1, h]);
    list.push(&format!("{}.weight", names.patches), &[h, 3, v.patch_size, v.patch_size]);
    list.push(&format!("{}.bias", names.patches), &[h]);
    for i in 0..v.depth {
        list.prefix = format!("{}.{}.{i}", names.root, names.layers);
        push_layer(&mut list, v);
    }
    list.prefix.clear();
    list.part = Part::Connector;
    let [norm, first, second] = names.connector;
    let unit = h * MERGE * MERGE;
    list.push(&format!("{norm}.weight"), &[unit]);
    list.push(&format!("{norm}.bias"), &[unit]);
    list.linear(first, unit, v.out_hidden_size, true);
    list.linear(second, v.out_hidden_size, v.out_hidden_size, true);
    list.list
}

fn push_layer(list: &mut ParamList, v: &VisionConfig) {
    let (h, names) = (v.hidden_size, v.names);
    for scale in names.scales {
        list.push(scale, &[h]);
    }
    match names.qkv {
        Qkv::Separate(modules) => modules.iter().for_each(|m| list.linear(m, h, h, v.qkv_bias)),
        Qkv::Fused { module, .. } => list.linear(module, h, 3 * h, v.qkv_bias),
    }
    list.linear(names.attention_out, h, h, true);
    if v.qk_norm_eps.is_some() {
        for norm in names.qk_norms {
            list.push(&format!("{norm}.weight"), &[h]);
        }
    }
    list.linear("mlp.fc1", h, v.intermediate_size, true);
    list.linear("mlp.fc2", v.intermediate_size, h, true);
    for norm in names.norms {
        list.push(&format!("{norm}.weight"), &[h]);
        if v.norm == NormType::Layer {
            list.push(&format!("{norm}.bias"), &[h]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tower(grid: usize, by_columns: bool) -> VisionConfig {
        VisionConfig {
            hidden_size: 8,
            intermediate_size: 8,
            depth: 1,
            num_heads: 2,
            patch_size: 3,
            grid,
            norm: NormType::Layer,
            norm_eps: 1e-6,
            qkv_bias: true,
            qk_norm_eps: None,
            by_columns,
            out_hidden_size: 8,
            names: &CHAT_NAMES,
        }
    }

    #[test]
    fn the_pixel_shuffle_takes_blocks_in_either_order() {
        let rows = tower(4, false).shuffled();
        assert_eq!(rows[..8], [1, 2, 5, 6, 3, 4, 7, 8]);
        // Version 1 leaves the second feature where the third belongs.
        let columns = tower(4, true).shuffled();
        assert_eq!(columns[..8], [1, 2, 5, 6, 9, 10, 13, 14]);
        let mut sorted = columns.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (1..17).collect::<Vec<_>>());
    }

    #[test]
    fn other_grids_than_the_position_table_are_refused() {
        let v = tower(4, false);
        assert_eq!(v.tiles(&[[3, 4, 4], [1, 4, 4]]).unwrap(), 4);
        assert_eq!(v.feature_rows([3, 4, 4]), 12);
        let error = v.tiles(&[[1, 4, 4], [1, 4, 6]]).unwrap_err().to_string();
        assert!(error.contains("image 2") && error.contains("4 x 4"), "{error}");
    }
}
