//! Packed copies of the decoder's weights, for the time of a rollout: decoding multiplies by the same
//! weights at every token, and reads panels from end to end. The plain weights stay what they are;
//! a result has the same bits with panels and without.

use crate::base::Result;
use crate::mem::plan::aligned;
use crate::mem::{Arena, Region};
use crate::model::params::{Param, ParamStore};
use crate::model::spec::Part;
use crate::ops::Emit;
use crate::ops::pack_weights::{PackWeights, panel_type, panels};
use std::collections::HashMap;
use std::sync::Arc;

/// Where the packed weights lie.
#[derive(Debug, Clone)]
pub struct Panels {
    /// By the place of the plain value.
    regions: HashMap<usize, Region>,
    /// First byte of the arena after them.
    pub end: usize,
}

/// Weights of the products of the decoder; the embedding is one if it is the head too.
fn packed<'a>(params: &'a ParamStore, head: &'a str) -> impl Iterator<Item = &'a Param> {
    params.all().iter().filter(move |p| (p.linear && p.part == Part::Language) || p.name == head)
}

/// Words of a parameter's panels.
fn words(p: &Param) -> usize {
    panels(p.place.value.dtype, p.shape[1], p.shape[0])
}

/// Bytes that [`Panels::pack`] takes.
pub fn panel_bytes(params: &ParamStore, head: &str) -> usize {
    packed(params, head).map(|p| aligned(4 * words(p))).sum()
}

impl Panels {
    /// Packs the weights into the arena from byte `base` on; `head` names those of the head.
    ///
    /// # Errors
    /// If they do not fit.
    pub fn pack(params: &ParamStore, head: &str, arena: &Arena, base: usize) -> Result<Self> {
        let mut tape = params.tape();
        let (mut regions, mut end) = (HashMap::new(), base);
        for p in packed(params, head) {
            let dtype = panel_type(p.place.value.dtype);
            let region = Region { offset: end, elements: words(p), dtype };
            end += aligned(4 * region.elements);
            regions.insert(p.place.value.offset, region);
            let plain = tape.fixed(p.place.value, &p.shape);
            let to = tape.fixed(region, &[1, region.elements]);
            tape.emit_into(Arc::new(PackWeights), &[plain], &[to])?;
        }
        arena.check_fits(end, "the packed weights of a rollout")?;
        arena.note_planned(end);
        let plan = tape.plan();
        tape.run(&plan, arena, end)?;
        Ok(Panels { regions, end })
    }

    /// The panels of a parameter, if it is packed.
    pub fn get(&self, p: &Param) -> Option<Region> {
        self.regions.get(&p.place.value.offset).copied()
    }
}
