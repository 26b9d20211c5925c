//! Turns a tape into a plan, binds the plan to the arena and runs the nodes in order. Allocates no
//! tensor: everything lies in the arena.

use crate::base::{DType, Error, HostTensor, Result, TensorData};
use crate::device::{Command, RawView};
use crate::mem::{Arena, Lifetime, Plan, Region, plan_offsets};
use crate::ops::launch::{Bound, Launcher};
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
            for s in node.slots() {
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

    /// Runs all nodes with the plan's region starting at byte `base` of the arena. On a device they
    /// are enqueued; reading a slot waits for them.
    ///
    /// # Errors
    /// Kind device if the plan does not fit the arena, or the device failed.
    pub fn run<'a>(&'a self, plan: &'a TapePlan, arena: &'a Arena, base: usize) -> Result<Run<'a>> {
        let mut run = self.bound(plan, arena, base)?;
        if let Some(device) = arena.device() {
            device.submit(&run.commands()?)?;
            return Ok(run);
        }
        // On a thread of the pool: from outside, every op would be handed over and waited for asleep.
        rayon::scope(|_| self.nodes.iter().for_each(|node| run.node(node)));
        Ok(run)
    }

    /// Runs all nodes on a device, one after the other, and measures each command by the device's
    /// clock: name of the op, command, seconds.
    ///
    /// # Errors
    /// As [`Tape::run`]; kind internal if the arena is not on a device.
    pub fn time(
        &self,
        plan: &TapePlan,
        arena: &Arena,
        base: usize,
    ) -> Result<Vec<(&'static str, Command, f64)>> {
        let device = arena.device().ok_or_else(|| Error::internal("the CPU has no such clock"))?;
        let run = self.bound(plan, arena, base)?;
        let mut timed = Vec::new();
        for node in &self.nodes {
            let mut commands = Vec::new();
            run.enqueue(node, &mut commands)?;
            let seconds = device.time(&commands)?;
            let name = node.op.as_ref().map_or("view", |op| op.name());
            timed.extend(commands.into_iter().zip(seconds).map(|(c, s)| (name, c, s)));
        }
        Ok(timed)
    }

    /// Binds the plan to the arena and uploads the inputs.
    fn bound<'a>(&'a self, plan: &'a TapePlan, arena: &'a Arena, base: usize) -> Result<Run<'a>> {
        if self.target != arena.target() {
            return Err(Error::internal("the tape was built for another kind of device")
                .expected(format!("{:?}", arena.target()))
                .found(format!("{:?}", self.target)));
        }
        arena.check_fits(base + plan.peak, "one step")?;
        arena.note_planned(base + plan.peak);
        let run = Run { tape: self, plan, arena, base, by_op: BTreeMap::new() };
        for (i, info) in self.slots.iter().enumerate() {
            if let (Place::Input(t), Some(_)) = (&info.place, plan.offsets[i]) {
                run.upload(Slot(i as u32), t)?;
            }
        }
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

    /// What the nodes launch, in order.
    fn commands(&self) -> Result<Vec<Command>> {
        let mut commands = Vec::new();
        self.tape.nodes.iter().try_for_each(|node| self.enqueue(node, &mut commands))?;
        Ok(commands)
    }

    fn enqueue(&self, node: &Node, commands: &mut Vec<Command>) -> Result<()> {
        let Some(op) = &node.op else { return Ok(()) };
        let bind = |s: &Slot| {
            let r = self.region(*s);
            let at = self.arena.address(r.offset, r.elements * r.dtype.size());
            Bound { at, ty: self.tape.ty(*s) }
        };
        let inputs: Vec<Bound> = node.inputs.iter().map(bind).collect();
        let outputs: Vec<Bound> = node.outputs.iter().map(bind).collect();
        let (table, work) = (node.table.as_ref().map(bind), node.work.as_ref().map(bind));
        let device = self.arena.device().expect("only tapes of devices are enqueued").properties();
        op.launch(&mut Launcher::new(&inputs, &outputs, table, work, device, commands))
    }

    /// Where a slot lies in the arena.
    fn region(&self, s: Slot) -> Region {
        let ty = self.tape.ty(s);
        let root = self.tape.root(s);
        match &self.tape.slots()[root.0 as usize].place {
            Place::Fixed(r) => *r,
            _ => {
                let offset = self.plan.offset(root).expect("a used slot has an offset");
                Region { offset: self.base + offset, elements: ty.len(), dtype: ty.dtype }
            }
        }
    }

    fn view(&self, s: Slot) -> RawView {
        let r = self.region(s);
        self.arena.bind(r.offset, r.elements, r.dtype)
    }

    fn upload(&self, s: Slot, t: &HostTensor) -> Result<()> {
        let r = self.region(s);
        // SAFETY: no node is running, and nobody holds a slice.
        unsafe {
            match &t.data {
                TensorData::F64(v) => self.arena.fill(r, v),
                TensorData::F32(v) => self.arena.fill(r, v),
                TensorData::BF16(v) => self.arena.fill(r, v),
                TensorData::I32(v) => self.arena.fill(r, v),
                other => panic!("inputs are floats or 32-bit integers, not {other:?}"),
            }
        }
    }

    /// Elements of a slot as singles (kept, or fixed). Panics if the slot holds integers.
    ///
    /// # Errors
    /// Kind device if the device failed.
    pub fn f32(&self, s: Slot) -> Result<Vec<f32>> {
        let r = self.region(s);
        Ok(match r.dtype {
            DType::F32 => self.arena.read(r)?,
            DType::F64 => self.arena.read::<f64>(r)?.into_iter().map(|x| x as f32).collect(),
            DType::BF16 => self.arena.read::<bf16>(r)?.into_iter().map(Stored::load).collect(),
            other => panic!("slot holds {other:?}"),
        })
    }

    /// Elements of a slot as doubles. Panics if the slot holds integers.
    ///
    /// # Errors
    /// Kind device if the device failed.
    pub fn f64(&self, s: Slot) -> Result<Vec<f64>> {
        let r = self.region(s);
        match r.dtype {
            DType::F64 => self.arena.read(r),
            _ => Ok(self.f32(s)?.into_iter().map(f64::from).collect()),
        }
    }

    /// Elements of a slot of 32-bit integers.
    ///
    /// # Errors
    /// Kind device if the device failed.
    pub fn i32(&self, s: Slot) -> Result<Vec<i32>> {
        self.arena.read(self.region(s))
    }

    /// Time spent in each op.
    pub fn seconds_by_op(&self) -> impl Iterator<Item = (&'static str, f64)> + '_ {
        self.by_op.iter().map(|(k, v)| (*k, v.as_secs_f64()))
    }
}
