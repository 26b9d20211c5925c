//! The KV cache: one pool of rows per layer, above the weights in the arena, for the time of a
//! rollout. A prompt's rows are written once and seen by all completions of its group.

use crate::base::{DType, Result};
use crate::mem::plan::aligned;
use crate::mem::{Arena, Region};
use crate::model::config::TextConfig;
use crate::model::net::LayerCache;

/// Rows for keys and values of all layers, from `base` upward in the arena.
#[derive(Debug, Clone)]
pub struct KvPool {
    /// One entry per layer.
    pub layers: Vec<LayerCache>,
    /// End of the pool in the arena, in bytes: where the activations of a pass begin.
    pub end: usize,
}

/// Bytes that one row takes in all layers.
pub fn kv_row_bytes(cfg: &TextConfig) -> usize {
    2 * cfg.num_layers * cfg.num_kv_heads * cfg.head_dim * DType::F32.size()
}

impl KvPool {
    /// Lays out `rows` rows.
    ///
    /// # Errors
    /// Kind device if they do not fit the arena.
    pub fn place(arena: &Arena, cfg: &TextConfig, base: usize, rows: usize) -> Result<Self> {
        let elements = rows * cfg.num_kv_heads * cfg.head_dim;
        let mut end = base;
        let mut next = || {
            let offset = end;
            end += aligned(elements * DType::F32.size());
            Region { offset, elements, dtype: DType::F32 }
        };
        let layers =
            (0..cfg.num_layers).map(|_| LayerCache { k: next(), v: next(), rows }).collect();
        arena.check_fits(end, "the KV cache")?;
        arena.note_planned(end);
        Ok(KvPool { layers, end })
    }
}
