//! The KV cache: one pool of rows per layer, above the weights in the arena, for the time of a
//! rollout. A prompt's rows are written once and seen by all completions of its group.

use crate::base::{DType, Result};
use crate::mem::plan::aligned;
use crate::mem::{Arena, Region};
use crate::model::decoder::TextConfig;
use crate::model::net::LayerCache;

/// Rows for keys and values of all layers, from `base` upward in the arena.
#[derive(Debug, Clone)]
pub struct KvPool {
    /// One entry per layer.
    pub layers: Vec<LayerCache>,
    /// End of the pool in the arena, in bytes: where the activations of a pass begin.
    pub end: usize,
}

/// Bytes that `rows` rows take in all layers.
pub fn kv_bytes(cfg: &TextConfig, float: DType, rows: usize) -> usize {
    2 * cfg.num_layers * aligned(rows * cfg.num_kv_heads * cfg.head_dim * float.size())
}

impl KvPool {
    /// Lays out `rows` rows.
    ///
    /// # Errors
    /// Kind device if they do not fit the arena.
    pub fn place(
        arena: &Arena,
        cfg: &TextConfig,
        float: DType,
        base: usize,
        rows: usize,
    ) -> Result<Self> {
        let pool = Self::layout(cfg, float, base, rows);
        arena.check_fits(pool.end, "the KV cache")?;
        arena.note_planned(pool.end);
        Ok(pool)
    }

    /// Where the rows would lie.
    pub fn layout(cfg: &TextConfig, float: DType, base: usize, rows: usize) -> Self {
        let elements = rows * cfg.num_kv_heads * cfg.head_dim;
        let mut end = base;
        let mut next = || {
            let offset = end;
            end += aligned(elements * float.size());
            Region { offset, elements, dtype: float }
        };
        let layers =
            (0..cfg.num_layers).map(|_| LayerCache { k: next(), v: next(), rows }).collect();
        KvPool { layers, end }
    }
}
