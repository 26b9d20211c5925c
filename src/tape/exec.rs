//! Turns a tape into a plan, binds the plan to the arena and runs the nodes in order. Allocates no
//! tensor: everything lies in the arena.

use crate::base::{DType, HostTensor, Result, TensorData};
use crate::device::RawView;
use crate::mem::{Arena, Lifetime, Plan, plan_offsets};
use crate::ops::{Io, Slot, Stored, TensorType};
use crate::tape::{Node, Place, Tape};
use half::bf16;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Offsets of a tape's planned slots.
#[derive(Debug, Clone)]
pub struct TapePlan {
    offsets: Vec<Option<usize>>,
    /// Bytes above the base that the tape touches.
    pub peak: usize,
    /// Floating-point operations that run a second time (see [`Tape::plan_within`]).
    pub recomputed: f64,
}

impl TapePlan {
    /// Byte offset of a planned slot, relative to the base; `None` for fixed slots and views.
    pub fn offset(&self, s: Slot) -> Option<usize> {
        self.offsets[s.0 as usize]
    }
}

impl Tape {
    /// When each planned slot is alive: (slot, lifetime).
    pub fn lifetimes(&self) -> Vec<(Slot, Lifetime)> {
        let mut span: Vec<Option<(u32, u32)>> = vec![None; self.slots.len()];
        for (n, node) in self.nodes.iter().enumerate() {
            for &s in node.inputs.iter().chain(&node.outputs) {
                let root = self.root(s).0 as usize;
                let born = match self.slots[root].place {
                    Place::Input(_) => 0,
                    _ => n as u32,
                };
                let (first, _) = span[root].unwrap_or((born, 0));
                span[root] = Some((first, n as u32));
            }
        }
        let end = self.nodes.len() as u32;
        let mut out = Vec::new();
        for (i, info) in self.slots.iter().enumerate() {
            if matches!(info.place, Place::Fixed(_) | Place::View(_)) {
                continue;
            }
            let kept = if info.keep { Some((0, end)) } else { None };
            let Some((first, last)) = span[i].or(kept) else { continue };
            let last = if info.keep { end } else { last };
            let bytes = info.ty.len() * info.ty.dtype.size();
            out.push((Slot(i as u32), Lifetime { bytes, first, last }));
        }
        out
    }

    /// Gives every planned slot an offset.
    pub fn plan(&self) -> TapePlan {
        let lifetimes = self.lifetimes();
        let only: Vec<Lifetime> = lifetimes.iter().map(|&(_, l)| l).collect();
        let Plan { offsets, peak } = plan_offsets(&only);
        let mut by_slot = vec![None; self.slots.len()];
        for ((s, _), o) in lifetimes.iter().zip(offsets) {
            by_slot[s.0 as usize] = Some(o);
        }
        TapePlan { offsets: by_slot, peak, recomputed: 0.0 }
    }

    /// Runs all nodes with the plan's region starting at byte `base` of the arena.
    ///
    /// # Errors
    /// Kind device if the plan does not fit the arena.
    pub fn run<'a>(&'a self, plan: &'a TapePlan, arena: &'a Arena, base: usize) -> Result<Run<'a>> {
        arena.check_fits(base + plan.peak, "one step")?;
        arena.note_planned(base + plan.peak);
        let mut run = Run { tape: self, plan, arena, base, by_op: BTreeMap::new() };
        for (i, info) in self.slots.iter().enumerate() {
            if let (Place::Input(t), Some(_)) = (&info.place, plan.offsets[i]) {
                run.upload(Slot(i as u32), t);
            }
        }
        // On a thread of the pool: from outside, every op would be handed over and waited for asleep.
        rayon::scope(|_| self.nodes.iter().for_each(|node| run.node(node)));
        Ok(run)
    }
}

/// A tape that has run; its kept slots can be read until the arena is used again.
#[derive(Debug)]
pub struct Run<'a> {
    tape: &'a Tape,
    plan: &'a TapePlan,
    arena: &'a Arena,
    base: usize,
    by_op: BTreeMap<&'static str, Duration>,
}

impl Run<'_> {
    fn node(&mut self, node: &Node) {
        let Some(op) = &node.op else { return };
        let bind = |s: &Slot| (self.view(*s), self.tape.ty(*s));
        let inputs: Vec<(RawView, &TensorType)> = node.inputs.iter().map(bind).collect();
        let outputs: Vec<(RawView, &TensorType)> = node.outputs.iter().map(bind).collect();
        let start = Instant::now();
        // SAFETY: nodes run one after another, and the plan keeps every other live slot out of the
        // ranges that this node writes.
        op.run(&unsafe { Io::new(&inputs, &outputs) });
        *self.by_op.entry(op.name()).or_default() += start.elapsed();
    }

    fn view(&self, s: Slot) -> RawView {
        let ty = self.tape.ty(s);
        let root = self.tape.root(s);
        match &self.tape.slots()[root.0 as usize].place {
            Place::Fixed(r) => self.arena.region(*r),
            _ => {
                let offset = self.plan.offset(root).expect("a used slot has an offset");
                self.arena.bind(self.base + offset, ty.len(), ty.dtype)
            }
        }
    }

    fn upload(&mut self, s: Slot, t: &HostTensor) {
        let view = self.view(s);
        // SAFETY: no node is running; the slice ends with the statement.
        unsafe {
            match &t.data {
                TensorData::F64(v) => view.slice_mut::<f64>().copy_from_slice(v),
                TensorData::F32(v) => view.slice_mut::<f32>().copy_from_slice(v),
                TensorData::BF16(v) => view.slice_mut::<bf16>().copy_from_slice(v),
                TensorData::I32(v) => view.slice_mut::<i32>().copy_from_slice(v),
                other => panic!("inputs are floats or 32-bit integers, not {other:?}"),
            }
        }
    }

    /// Elements of a slot as singles (kept, or fixed). Panics if the slot holds integers.
    pub fn f32(&self, s: Slot) -> Vec<f32> {
        let view = self.view(s);
        // SAFETY: no node is running; the slice ends with the statement.
        unsafe {
            match view.dtype() {
                DType::F32 => view.slice::<f32>().to_vec(),
                DType::F64 => view.slice::<f64>().iter().map(|&x| x as f32).collect(),
                DType::BF16 => view.slice::<bf16>().iter().map(|&x| x.load()).collect(),
                other => panic!("slot holds {other:?}"),
            }
        }
    }

    /// Elements of a slot as doubles. Panics if the slot holds integers.
    pub fn f64(&self, s: Slot) -> Vec<f64> {
        let view = self.view(s);
        // SAFETY: no node is running; the slice ends with the statement.
        unsafe {
            match view.dtype() {
                DType::F32 => view.slice::<f32>().iter().map(|&x| f64::from(x)).collect(),
                DType::F64 => view.slice::<f64>().to_vec(),
                DType::BF16 => view.slice::<bf16>().iter().map(|&x| f64::from(x.load())).collect(),
                other => panic!("slot holds {other:?}"),
            }
        }
    }

    /// Elements of a slot of 32-bit integers.
    pub fn i32(&self, s: Slot) -> Vec<i32> {
        // SAFETY: no node is running; the slice ends with the statement.
        unsafe { self.view(s).slice::<i32>().to_vec() }
    }

    /// Time spent in each op.
    pub fn seconds_by_op(&self) -> impl Iterator<Item = (&'static str, f64)> + '_ {
        self.by_op.iter().map(|(k, v)| (*k, v.as_secs_f64()))
    }
}
