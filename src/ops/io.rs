//! What a running op sees: its inputs for reading and its outputs for writing, as typed slices.
//! Checks once per node that outputs overlap nothing else of the node.

use crate::base::DType;
use crate::device::RawView;
use crate::ops::TensorType;
use bytemuck::Pod;
use std::cell::Cell;

/// The bound slots of one node.
pub struct Io<'a> {
    inputs: &'a [(RawView, &'a TensorType)],
    outputs: &'a [(RawView, &'a TensorType)],
    taken: Cell<u64>,
}

impl<'a> Io<'a> {
    /// Binds a node.
    ///
    /// Panics if an output overlaps another slot of the node: that would be a defect of the plan.
    ///
    /// # Safety
    /// For the life of the `Io`, no other code may touch the ranges of `inputs` and `outputs`
    /// except to read the inputs.
    pub unsafe fn new(
        inputs: &'a [(RawView, &'a TensorType)],
        outputs: &'a [(RawView, &'a TensorType)],
    ) -> Self {
        for (i, (o, _)) in outputs.iter().enumerate() {
            let clash = inputs.iter().any(|(v, _)| v.overlaps(o))
                || outputs[..i].iter().any(|(v, _)| v.overlaps(o));
            assert!(!clash, "output {i} overlaps another slot of its node");
        }
        Io { inputs, outputs, taken: Cell::new(0) }
    }

    /// Number of inputs.
    pub fn num_inputs(&self) -> usize {
        self.inputs.len()
    }
    /// Number of outputs.
    pub fn num_outputs(&self) -> usize {
        self.outputs.len()
    }
    /// Type of input `i`.
    pub fn in_type(&self, i: usize) -> &'a TensorType {
        self.inputs[i].1
    }
    /// Type of output `i`.
    pub fn out_type(&self, i: usize) -> &'a TensorType {
        self.outputs[i].1
    }
    /// The floating-point type the node computes in: that of its first floating-point slot.
    pub fn float_type(&self) -> DType {
        self.inputs
            .iter()
            .chain(self.outputs)
            .map(|(_, t)| t.dtype)
            .find(|d| matches!(d, DType::F32 | DType::F64 | DType::BF16))
            .unwrap_or(DType::F32)
    }
    /// Elements of input `i`. Panics if `T` does not have the slot's element size.
    pub fn input<T: Pod>(&self, i: usize) -> &'a [T] {
        // SAFETY: `new`'s caller promised that inputs are only read; outputs do not overlap them.
        unsafe { self.inputs[i].0.slice() }
    }
    /// Elements of output `i`, once. Panics on the second call for the same output.
    #[allow(clippy::mut_from_ref)] // exclusive by the `taken` mark
    pub fn output<T: Pod>(&self, i: usize) -> &'a mut [T] {
        let bit = 1u64 << i;
        assert_eq!(self.taken.get() & bit, 0, "output {i} was taken twice");
        self.taken.set(self.taken.get() | bit);
        // SAFETY: `new`'s caller promised exclusive outputs, and this is the only reference.
        unsafe { self.outputs[i].0.slice_mut() }
    }
}
