//! The reverse walk: appends to a tape the nodes that compute gradients. It decides nothing about
//! memory and knows no op by name, except the sum of two gradients of one slot.

use crate::base::Result;
use crate::ops::accumulate::Accumulate;
use crate::ops::add::Add;
use crate::ops::{Backward, Emit, Slot};
use crate::tape::Tape;
use std::collections::HashMap;
use std::sync::Arc;

/// Gradients of slots after the reverse walk.
#[derive(Debug, Default)]
pub struct Gradients {
    of: HashMap<Slot, Slot>,
}

impl Gradients {
    /// The gradient of a slot that is not a parameter, if one flowed into it.
    pub fn of(&self, s: Slot) -> Option<Slot> {
        self.of.get(&s).copied()
    }

    fn add(&mut self, tape: &mut Tape, s: Slot, g: Slot) -> Result<()> {
        let g = match self.of.get(&s) {
            Some(&before) => tape.op(Add, &[before, g])?,
            None => g,
        };
        self.of.insert(s, g);
        Ok(())
    }
}

impl Tape {
    /// Appends the backward nodes for all nodes so far, given the gradients of some slots.
    /// Gradients of parameters are added to their own places.
    ///
    /// # Errors
    /// If an op's backward rule refuses its slots.
    pub fn backward(&mut self, seeds: &[(Slot, Slot)]) -> Result<Gradients> {
        self.forward.get_or_insert(self.nodes.len());
        let mut grads = Gradients::default();
        for &(s, g) in seeds {
            grads.add(self, s, g)?;
        }
        for n in (0..self.nodes.len()).rev() {
            let node = self.nodes[n].clone();
            let needs: Vec<bool> =
                node.inputs.iter().map(|s| self.slots[s.0 as usize].needs_grad).collect();
            let dout: Vec<Option<Slot>> = node.outputs.iter().map(|&s| grads.of(s)).collect();
            if !needs.iter().any(|&x| x) || dout.iter().all(Option::is_none) {
                continue;
            }
            let Some(op) = node.op else {
                let of = node.inputs[0];
                let shape = self.ty(of).shape.clone();
                if let Some(g) = dout[0] {
                    let g = self.view(g, &shape)?;
                    match self.param_grads.get(&of).copied() {
                        Some(place) => self.emit_into(Arc::new(Accumulate), &[g], &[place])?,
                        None => grads.add(self, of, g)?,
                    }
                }
                continue;
            };
            let param_grads: Vec<Option<Slot>> =
                node.inputs.iter().map(|s| self.param_grads.get(s).copied()).collect();
            let din = op.backward(&mut Backward {
                tape: self,
                inputs: &node.inputs,
                outputs: &node.outputs,
                grads: &dout,
                needs: &needs,
                param_grads: &param_grads,
            })?;
            for ((&s, g), param) in node.inputs.iter().zip(din).zip(param_grads) {
                match (g, param) {
                    (Some(g), Some(place)) => {
                        self.emit_into(Arc::new(Accumulate), &[g], &[place])?
                    }
                    (Some(g), None) => grads.add(self, s, g)?,
                    (None, _) => {}
                }
            }
        }
        Ok(grads)
    }
}
