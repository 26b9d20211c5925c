//! Floor 4: the tape: a list of op nodes over slots that have no memory yet. Model code appends
//! nodes, the reverse walk appends the backward nodes, the planner gives every slot an offset,
//! the executor binds the arena and runs. Nothing runs while a tape is built.

pub mod backward; // the reverse walk
pub mod check; // one op on a tape of its own, for tests
pub mod conformance; // a backend against the f64 reference
pub mod exec; // plan, bind, run
pub mod measure; // how long an op takes
pub mod rate; // how fast a device copies and multiplies
pub mod recompute; // forward nodes that run again in the reverse walk
pub mod usage; // what a planned tape's memory is for

pub use exec::{Run, TapePlan};
pub use usage::{Purpose, Usage};

use crate::base::{DType, Error, HostTensor, Result, Target, TensorData};
use crate::mem::Region;
use crate::ops::{Emit, Op, ParamRef, Slot, Stored, TensorType};
use std::collections::HashMap;
use std::sync::Arc;

/// Where the bytes of a slot come from.
#[derive(Debug, Clone)]
pub enum Place {
    /// Planned: written by a node, given an offset by the planner.
    Planned,
    /// Planned, filled from the host before the first node.
    Input(HostTensor),
    /// Fixed in the arena: a parameter, a gradient, a KV cache.
    Fixed(Region),
    /// The same bytes as another slot under another shape.
    View(Slot),
}

/// A tensor of the tape.
#[derive(Debug, Clone)]
pub struct SlotInfo {
    /// Shape and element type.
    pub ty: TensorType,
    /// Where its bytes come from.
    pub place: Place,
    /// True if a gradient must flow into it.
    pub needs_grad: bool,
    /// True if the host reads it after the run.
    pub keep: bool,
    /// Name for traces.
    pub name: Option<String>,
}

/// One operation.
#[derive(Debug, Clone)]
pub struct Node {
    /// The op with its attributes; `None` for a view, which does nothing.
    pub op: Option<Arc<dyn Op>>,
    /// Slots read.
    pub inputs: Vec<Slot>,
    /// Slots written (fresh) or updated (accumulated).
    pub outputs: Vec<Slot>,
    /// The index table that its kernels read, on tapes for devices.
    pub table: Option<Slot>,
    /// Scratch of its kernels, on tapes for devices.
    pub work: Option<Slot>,
}

impl Node {
    /// All slots that must have a place while the node runs.
    pub fn slots(&self) -> impl Iterator<Item = Slot> + '_ {
        let own = self.table.iter().chain(&self.work);
        self.inputs.iter().chain(&self.outputs).chain(own).copied()
    }
}

/// Index tables are rounded up to as many words: a decoding pass whose tables grow by little is laid
/// out, and launched, like the one before it.
const TABLE_WORDS: usize = 1024;

/// The list.
#[derive(Debug, Clone)]
pub struct Tape {
    float: DType,
    target: Target,
    slots: Vec<SlotInfo>,
    nodes: Vec<Node>,
    fixed: HashMap<(usize, Vec<usize>), Slot>,
    param_grads: HashMap<Slot, Slot>,
    tables: HashMap<(usize, u32), Slot>,
    segments: Vec<(usize, Option<String>)>,
    forward: Option<usize>,
}

impl Tape {
    /// An empty tape with activations in `float` (F32 or BF16; F64 for gradient checks).
    pub fn new(float: DType) -> Self {
        Self::on(float, Target::Cpu)
    }

    /// An empty tape that will run on `target`.
    pub fn on(float: DType, target: Target) -> Self {
        Tape {
            float,
            target,
            slots: Vec::new(),
            nodes: Vec::new(),
            fixed: HashMap::new(),
            param_grads: HashMap::new(),
            tables: HashMap::new(),
            segments: Vec::new(),
            forward: None,
        }
    }

    /// The floating-point type of the tape's activations.
    pub fn float_type(&self) -> DType {
        self.float
    }
    /// What the tape will run on.
    pub fn target(&self) -> Target {
        self.target
    }
    /// All slots, by number.
    pub fn slots(&self) -> &[SlotInfo] {
        &self.slots
    }
    /// All nodes, in the order they run.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }
    /// Shape and element type of a slot.
    pub fn ty(&self, s: Slot) -> &TensorType {
        &self.slots[s.0 as usize].ty
    }
    /// Gives a slot a name for traces.
    pub fn name(&mut self, s: Slot, name: impl Into<String>) -> Slot {
        self.slots[s.0 as usize].name = Some(name.into());
        s
    }
    /// Keeps a slot alive to the end of the run, so that the host can read it.
    pub fn keep(&mut self, s: Slot) -> Slot {
        let root = self.root(s);
        self.slots[root.0 as usize].keep = true;
        s
    }
    /// Asks for the gradient of an input (tests and traces; parameters ask by themselves).
    pub fn require_grad(&mut self, s: Slot) {
        self.slots[s.0 as usize].needs_grad = true;
    }

    /// The nodes from here on, up to the next mark, are a segment: what recomputation decides about
    /// together (a decoder layer, a block of the vision tower). What other segments read of it is
    /// always kept.
    pub fn begin_segment(&mut self, name: impl Into<String>) {
        self.segments.push((self.nodes.len(), Some(name.into())));
    }
    /// The nodes from here on belong to no segment: nothing of them is recomputed.
    pub fn end_segment(&mut self) {
        self.segments.push((self.nodes.len(), None));
    }

    fn push(&mut self, ty: TensorType, place: Place, needs_grad: bool) -> Slot {
        let s = Slot(self.slots.len() as u32);
        self.slots.push(SlotInfo { ty, place, needs_grad, keep: false, name: None });
        s
    }

    /// A slot filled from the host with activations (pixels, hidden states): singles are rounded to
    /// the tape's floating-point type.
    pub fn activation(&mut self, tensor: HostTensor) -> Slot {
        let tensor = match (tensor.data, self.float) {
            (TensorData::F32(v), DType::BF16) => HostTensor::new(
                tensor.shape,
                TensorData::BF16(v.into_iter().map(Stored::store).collect()),
            ),
            (data, _) => HostTensor { shape: tensor.shape, data },
        };
        self.input(tensor)
    }

    /// A slot filled from the host with numbers beside the activations (tables, columns of the
    /// loss): singles stay singles, on a tape of doubles they become doubles.
    pub fn input(&mut self, tensor: HostTensor) -> Slot {
        let tensor = match (tensor.data, self.float) {
            (TensorData::F32(v), DType::F64) => HostTensor::new(
                tensor.shape,
                TensorData::F64(v.into_iter().map(f64::from).collect()),
            ),
            (data, _) => HostTensor { shape: tensor.shape, data },
        };
        let ty = TensorType { shape: tensor.shape.clone(), dtype: tensor.dtype() };
        self.push(ty, Place::Input(tensor), false)
    }

    /// A slot of 32-bit integers with one column (indices).
    pub fn indices(&mut self, values: Vec<i32>) -> Slot {
        self.input(HostTensor::i32([values.len(), 1], values))
    }

    /// A slot at a fixed place of the arena (the same one for the same place and shape).
    pub fn fixed(&mut self, region: Region, shape: &[usize]) -> Slot {
        if let Some(&s) = self.fixed.get(&(region.offset, shape.to_vec())) {
            return s;
        }
        let ty = TensorType { shape: shape.to_vec(), dtype: region.dtype };
        let s = self.push(ty, Place::Fixed(region), false);
        self.fixed.insert((region.offset, shape.to_vec()), s);
        s
    }

    /// The slot of a parameter; it takes part in the reverse walk if it has a gradient.
    pub fn param(&mut self, p: ParamRef, shape: &[usize]) -> Slot {
        let s = self.fixed(p.value, shape);
        if let Some(g) = p.grad
            && !self.param_grads.contains_key(&s)
        {
            let g = self.fixed(g, shape);
            self.param_grads.insert(s, g);
            self.slots[s.0 as usize].needs_grad = true;
        }
        s
    }

    /// The same bytes under another shape.
    ///
    /// # Errors
    /// If the element counts differ.
    pub fn view(&mut self, s: Slot, shape: &[usize]) -> Result<Slot> {
        let info = &self.slots[s.0 as usize];
        let ty = TensorType { shape: shape.to_vec(), dtype: info.ty.dtype };
        if ty.len() != info.ty.len() {
            return Err(Error::internal("a view changes the number of elements")
                .expected(format!("{:?}", info.ty.shape))
                .found(format!("{shape:?}")));
        }
        let needs = info.needs_grad;
        let v = self.push(ty, Place::View(s), needs);
        self.nodes.push(Node {
            op: None,
            inputs: vec![s],
            outputs: vec![v],
            table: None,
            work: None,
        });
        Ok(v)
    }

    /// Appends a node with one output.
    ///
    /// # Errors
    /// If the op refuses the inputs.
    pub fn op(&mut self, op: impl Op + 'static, inputs: &[Slot]) -> Result<Slot> {
        Ok(self.emit(Arc::new(op), inputs)?[0])
    }

    /// Appends a node with several outputs.
    ///
    /// # Errors
    /// If the op refuses the inputs.
    pub fn ops(&mut self, op: impl Op + 'static, inputs: &[Slot]) -> Result<Vec<Slot>> {
        self.emit(Arc::new(op), inputs)
    }

    /// The slot of an op's index table, made when it is first asked for.
    fn table_of(&mut self, op: &dyn Op) -> Option<Slot> {
        let key = op.table_key()?;
        if let Some(&slot) = self.tables.get(&key) {
            return Some(slot);
        }
        let mut words = op.table_words();
        words.resize(words.len().next_multiple_of(TABLE_WORDS).max(TABLE_WORDS), 0);
        let tensor = HostTensor::i32([words.len()], words);
        let ty = TensorType { shape: tensor.shape.clone(), dtype: DType::I32 };
        let slot = self.push(ty, Place::Input(tensor), false);
        self.tables.insert(key, slot);
        Some(slot)
    }

    /// A slot for the scratch of an op's kernels.
    fn work_of(&mut self, op: &dyn Op, inputs: &[Slot], outputs: &[Slot]) -> Option<Slot> {
        let types = |slots: &[Slot]| slots.iter().map(|&s| self.ty(s)).collect::<Vec<_>>();
        let bytes = op.gpu_work(&types(inputs), &types(outputs));
        let ty = TensorType { shape: vec![bytes], dtype: DType::U8 };
        (bytes > 0).then(|| self.push(ty, Place::Planned, false))
    }

    /// The slot that owns the bytes of `s`.
    pub fn root(&self, mut s: Slot) -> Slot {
        while let Place::View(of) = self.slots[s.0 as usize].place {
            s = of;
        }
        s
    }
}

impl Emit for Tape {
    fn append(&mut self, op: Arc<dyn Op>, inputs: &[Slot], updated: &[Slot]) -> Result<Vec<Slot>> {
        let types: Vec<&TensorType> = inputs.iter().map(|&s| self.ty(s)).collect();
        let inferred = op.infer(&types)?;
        let needs = inputs.iter().any(|s| self.slots[s.0 as usize].needs_grad);
        let fresh: Vec<Slot> =
            inferred.into_iter().map(|ty| self.push(ty, Place::Planned, needs)).collect();
        let outputs: Vec<Slot> = fresh.iter().chain(updated).copied().collect();
        let (mut table, mut work) = (None, None);
        if self.target == Target::Gpu {
            table = self.table_of(&*op);
            work = self.work_of(&*op, inputs, &outputs);
        }
        self.nodes.push(Node { op: Some(op), inputs: inputs.to_vec(), outputs, table, work });
        Ok(fresh)
    }

    fn tensor_type(&self, slot: Slot) -> &TensorType {
        self.ty(slot)
    }
}
