//! Layers of a model on a tape. A [`Net`] looks parameters up by module name and appends op nodes;
//! it computes nothing. Families call it to wire their blocks together.
//!
//! T tokens, H hidden, N query heads, M key heads, D head size, P patches.

use crate::base::{HostTensor, Result};
use crate::mem::Region;
use crate::model::panels::Panels;
use crate::model::params::ParamStore;
use crate::model::rope::RopeTables;
use crate::ops::add::Add;
use crate::ops::attention::{Attention, Segment, Span};
use crate::ops::dropout::Dropout;
use crate::ops::gelu::{Gelu, GeluKind};
use crate::ops::kv_write::KvWrite;
use crate::ops::layer_norm::LayerNorm;
use crate::ops::matmul::{Lora, Matmul};
use crate::ops::rms_norm::RmsNorm;
use crate::ops::rope::{Pairing, Rope};
use crate::ops::split::Split;
use crate::ops::swiglu::Swiglu;
use crate::ops::{Emit, Slot};
use crate::tape::Tape;
use std::sync::Arc;

/// Random masks on adapter inputs while training.
#[derive(Debug, Clone, Copy)]
pub struct AdapterDropout {
    /// Probability of dropping.
    pub p: f64,
    /// Seed of the run.
    pub seed: u64,
    /// Training step.
    pub step: u32,
    /// `[T,2]`: (sample, token) of each row, so that masks do not depend on packing.
    pub keys: Slot,
}

/// Keys and values of one layer's past tokens.
#[derive(Debug, Clone, Copy)]
pub struct LayerCache {
    /// `[S, M*D]`.
    pub k: Region,
    /// `[S, M*D]`.
    pub v: Region,
    /// S.
    pub rows: usize,
}

/// How queries and keys are turned by their positions.
#[derive(Debug, Clone, Copy)]
pub struct Rotation {
    /// Tables `[T, rotary_dim / 2]`.
    pub cos: Slot,
    /// Tables `[T, rotary_dim / 2]`.
    pub sin: Slot,
    /// Dimensions of a head that turn.
    pub rotary_dim: usize,
    /// Which two turn together.
    pub pairing: Pairing,
}

/// Who attends to whom in one layer, and with which rotation.
#[derive(Debug, Clone)]
pub struct AttentionShape {
    /// Query heads N.
    pub heads: usize,
    /// Key heads M.
    pub kv_heads: usize,
    /// Head size D.
    pub head_dim: usize,
    /// Spans of every query.
    pub segments: Arc<Vec<Segment>>,
    /// Rotation; `None` where positions are learned.
    pub rotation: Option<Rotation>,
}

impl AttentionShape {
    /// Blocks (first row, rows) whose rows all see each other, as in vision towers.
    pub fn of_blocks(
        heads: usize,
        head_dim: usize,
        blocks: &[(usize, usize)],
        rotation: Option<Rotation>,
    ) -> Self {
        let whole = |&(start, len): &(usize, usize)| {
            let span = Span { start, len };
            Segment { queries: span, keys: vec![span], causal: false }
        };
        let segments = Arc::new(blocks.iter().map(whole).collect());
        AttentionShape { heads, kv_heads: heads, head_dim, segments, rotation }
    }
}

/// Layers of one set of weights on one tape.
pub struct Net<'a> {
    /// Where nodes go.
    pub tape: &'a mut Tape,
    /// The weights.
    pub params: &'a ParamStore,
    /// False switches adapters off: the reference model.
    pub adapter: bool,
    /// Dropout on adapter inputs, if any.
    pub dropout: Option<AdapterDropout>,
    /// Packed weights to use instead of the plain ones (decoding).
    pub panels: Option<&'a Panels>,
    site: u32,
}

impl<'a> Net<'a> {
    /// Layers of `params` on `tape`, adapters on, no dropout.
    pub fn new(tape: &'a mut Tape, params: &'a ParamStore) -> Self {
        Net { tape, params, adapter: true, dropout: None, panels: None, site: 0 }
    }

    /// The slot of a parameter under a given shape (its own if `None`).
    ///
    /// # Errors
    /// If the model has no such parameter.
    pub fn param(&mut self, name: &str, shape: Option<&[usize]>) -> Result<Slot> {
        let p = self.params.need(name)?;
        Ok(self.tape.param(p.place, shape.unwrap_or(&p.shape)))
    }

    /// The weights of a product, and their number of outputs if they are packed.
    ///
    /// # Errors
    /// If the model has no such parameter.
    pub fn weight(&mut self, name: &str) -> Result<(Slot, Option<usize>)> {
        let p = self.params.need(name)?;
        match self.panels.and_then(|all| all.get(p)) {
            Some(region) => Ok((self.tape.fixed(region, &[1, region.elements]), Some(p.shape[0]))),
            None => Ok((self.tape.param(p.place, &p.shape), None)),
        }
    }

    /// `x Wᵀ (+ b)` of a module, with its adapter. `[T,K]` to `[T,N]`.
    ///
    /// # Errors
    /// If the model has no such module or shapes do not fit.
    pub fn linear(&mut self, x: Slot, module: &str) -> Result<Slot> {
        let (w, panels) = self.weight(&format!("{module}.weight"))?;
        let mut inputs = vec![x, w];
        let bias = self.params.get(&format!("{module}.bias")).is_some();
        if bias {
            inputs.push(self.param(&format!("{module}.bias"), None)?);
        }
        let mut lora = None;
        let factor = format!("{module}.lora_A.weight");
        let covered = self.adapter && self.params.get(&factor).is_some();
        if let Some(config) = self.params.lora().filter(|_| covered) {
            let scale = config.scale();
            inputs.push(self.param(&factor, None)?);
            inputs.push(self.param(&format!("{module}.lora_B.weight"), None)?);
            let own_input = self.dropout.is_some();
            if let Some(d) = self.dropout {
                self.site += 1;
                let op = Dropout {
                    p: d.p,
                    seed: d.seed,
                    step: d.step,
                    site: self.site,
                    is_backward: false,
                };
                inputs.push(self.tape.op(op, &[x, d.keys])?);
            }
            lora = Some(Lora { scale, own_input });
        }
        Ok(self.tape.ops(Matmul { bias, lora, panels, wide: false }, &inputs)?[0])
    }

    /// RMS norm of a module.
    ///
    /// # Errors
    /// If the model has no such module.
    pub fn rms_norm(&mut self, x: Slot, module: &str, eps: f64) -> Result<Slot> {
        let w = self.param(&format!("{module}.weight"), None)?;
        Ok(self.tape.ops(RmsNorm { eps }, &[x, w])?[0])
    }

    /// RMS norm of every head of `[T,N*D]`, with one weight `[D]` for all of them.
    ///
    /// # Errors
    /// If the model has no such module, or heads do not divide the columns.
    pub fn head_norm(&mut self, x: Slot, module: &str, head_dim: usize, eps: f64) -> Result<Slot> {
        let shape = self.tape.ty(x).shape.clone();
        let rows = shape.iter().product::<usize>() / head_dim;
        let heads = self.tape.view(x, &[rows, head_dim])?;
        let normed = self.rms_norm(heads, module, eps)?;
        self.tape.view(normed, &shape)
    }

    /// Layer norm of a module, with weight and bias.
    ///
    /// # Errors
    /// If the model has no such module.
    pub fn layer_norm(&mut self, x: Slot, module: &str, eps: f64) -> Result<Slot> {
        let w = self.param(&format!("{module}.weight"), None)?;
        let b = self.param(&format!("{module}.bias"), None)?;
        Ok(self.tape.ops(LayerNorm { eps }, &[x, w, b])?[0])
    }

    /// Columns in parts: `[T, groups * Σ sizes]` to `[T, groups * size]` each.
    ///
    /// # Errors
    /// If the sizes are not those of the columns.
    pub fn split(&mut self, x: Slot, groups: usize, sizes: &[usize]) -> Result<Vec<Slot>> {
        self.tape.ops(Split { groups, sizes: sizes.to_vec() }, &[x])
    }

    /// `silu(gate) · up`.
    ///
    /// # Errors
    /// If shapes differ.
    pub fn swiglu(&mut self, gate: Slot, up: Slot) -> Result<Slot> {
        self.tape.op(Swiglu, &[gate, up])
    }

    /// `x + y`.
    ///
    /// # Errors
    /// If shapes differ.
    pub fn add(&mut self, x: Slot, y: Slot) -> Result<Slot> {
        self.tape.op(Add, &[x, y])
    }

    /// Gated MLP: `down(silu(gate(x)) · up(x))`.
    ///
    /// # Errors
    /// If the model has no such module.
    pub fn gated_mlp(&mut self, x: Slot, module: &str) -> Result<Slot> {
        let gate = self.linear(x, &format!("{module}.gate_proj"))?;
        let up = self.linear(x, &format!("{module}.up_proj"))?;
        let h = self.swiglu(gate, up)?;
        self.linear(h, &format!("{module}.down_proj"))
    }

    /// `W2 gelu(W1 x)` of two modules.
    ///
    /// # Errors
    /// If the model has no such modules.
    pub fn gelu_mlp(&mut self, x: Slot, modules: &[String; 2], kind: GeluKind) -> Result<Slot> {
        let h = self.linear(x, &modules[0])?;
        let h = self.tape.op(Gelu { kind }, &[h])?;
        self.linear(h, &modules[1])
    }

    /// A convolution whose kernel is one patch, with its bias if it has one: patches
    /// `[P, channels * kernel]` to `[P,H]`. The weights lie `[H, channels, kernel..]`.
    ///
    /// # Errors
    /// If the model has no such module or the patches have another size.
    pub fn patch_projection(&mut self, patches: Slot, module: &str) -> Result<Slot> {
        let name = format!("{module}.weight");
        let (outputs, values) = {
            let p = self.params.need(&name)?;
            (p.shape[0], p.len() / p.shape[0])
        };
        let mut inputs = vec![patches, self.param(&name, Some(&[outputs, values]))?];
        let bias = self.params.get(&format!("{module}.bias")).is_some();
        if bias {
            inputs.push(self.param(&format!("{module}.bias"), None)?);
        }
        self.tape.op(Matmul { bias, ..Matmul::default() }, &inputs)
    }

    /// Rotation tables as inputs of the tape.
    pub fn rope_tables(&mut self, t: RopeTables) -> (Slot, Slot) {
        let rows = t.cos.len() / t.half;
        let cos = self.tape.input(HostTensor::f32([rows, t.half], t.cos));
        let sin = self.tape.input(HostTensor::f32([rows, t.half], t.sin));
        (cos, sin)
    }

    /// The rotation of whole heads, halves together, by these tables.
    pub fn rotation(&mut self, t: RopeTables) -> Rotation {
        let rotary_dim = 2 * t.half;
        let (cos, sin) = self.rope_tables(t);
        Rotation { cos, sin, rotary_dim, pairing: Pairing::Halves }
    }

    /// Rotates queries and keys and attends; with a cache, new keys and values are written to
    /// their rows first and the spans name rows of the cache. `[T,N*D]`, twice `[T,M*D]` to `[T,N*D]`.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn attention(
        &mut self,
        [q, k, v]: [Slot; 3],
        shape: &AttentionShape,
        cache: Option<(LayerCache, Slot)>,
    ) -> Result<Slot> {
        let (mut q, mut k, mut v) = (q, k, v);
        if let Some(Rotation { cos, sin, rotary_dim, pairing }) = shape.rotation {
            let rope = Rope { head_dim: shape.head_dim, rotary_dim, pairing, inverse: false };
            q = self.tape.op(rope, &[q, cos, sin])?;
            k = self.tape.op(rope, &[k, cos, sin])?;
        }
        if let Some((cache, rows)) = cache {
            let columns = shape.kv_heads * shape.head_dim;
            for (x, region) in [(&mut k, cache.k), (&mut v, cache.v)] {
                let slot = self.tape.fixed(region, &[cache.rows, columns]);
                self.tape.emit_into(Arc::new(KvWrite), &[*x, rows], &[slot])?;
                *x = slot;
            }
        }
        let op = Attention {
            heads: shape.heads,
            kv_heads: shape.kv_heads,
            head_dim: shape.head_dim,
            scale: 1.0 / (shape.head_dim as f64).sqrt(),
            segments: shape.segments.clone(),
        };
        Ok(self.tape.ops(op, &[q, k, v])?[0])
    }
}
