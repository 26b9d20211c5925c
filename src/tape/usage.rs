//! What the memory of a planned tape is for: peaks of its two halves, and what lies there at the
//! busiest node. Reads a tape and its plan, changes neither.

use crate::mem::plan::aligned;
use crate::tape::{Place, Tape, TapePlan};

/// What a tensor of a tape is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// Filled from the host: pixels, indices, tables, columns of the loss.
    Input,
    /// Made by the forward pass and read by the reverse walk.
    Kept,
    /// Of the language-model head: tiles of logits and their sums.
    Head,
    /// Everything else: made and read within a few nodes.
    Working,
}

/// Bytes of a planned tape.
#[derive(Debug, Clone, PartialEq)]
pub struct Usage {
    /// Bytes above the base that the tape touches.
    pub peak: usize,
    /// The same for the nodes of the forward pass; all of them where there is no reverse walk.
    pub forward: usize,
    /// The same for the nodes of the reverse walk; 0 if there is none.
    pub backward: usize,
    /// What is alive at the node where most is, by purpose, largest first.
    pub busiest: Vec<(Purpose, usize)>,
    /// Floating-point operations of all nodes, repeated ones included.
    pub flops: f64,
    /// Floating-point operations that run a second time.
    pub recomputed: f64,
}

impl Usage {
    /// Bytes below the peak that nothing needs at the busiest node: gaps between tensors.
    pub fn gaps(&self) -> usize {
        self.peak.saturating_sub(self.busiest.iter().map(|(_, bytes)| bytes).sum())
    }
}

impl Tape {
    /// What the memory of this tape is for, under a plan of it.
    pub fn usage(&self, plan: &TapePlan) -> Usage {
        let split = self.forward.unwrap_or(self.nodes.len()) as u32;
        let lifetimes = self.lifetimes();
        let (mut forward, mut backward) = (0, 0);
        let mut change = vec![0i64; self.nodes.len() + 2];
        for (slot, l) in lifetimes.iter().filter(|(_, l)| l.bytes > 0) {
            let end = plan.offset(*slot).map_or(0, |o| o + aligned(l.bytes));
            if l.first < split {
                forward = forward.max(end);
            }
            if l.last >= split && self.forward.is_some() {
                backward = backward.max(end);
            }
            change[l.first as usize] += aligned(l.bytes) as i64;
            change[l.last as usize + 1] -= aligned(l.bytes) as i64;
        }
        let (mut live, mut most, mut node) = (0, 0, 0);
        for (n, c) in change.iter().enumerate() {
            live += c;
            if live > most {
                (most, node) = (live, n as u32);
            }
        }
        let mut busiest = [Purpose::Input, Purpose::Kept, Purpose::Head, Purpose::Working]
            .map(|purpose| (purpose, 0))
            .to_vec();
        for (slot, l) in lifetimes.iter().filter(|(_, l)| l.first <= node && node <= l.last) {
            let purpose = self.purpose(slot.0 as usize, l.first, l.last, split);
            busiest[purpose as usize].1 += aligned(l.bytes);
        }
        busiest.retain(|(_, bytes)| *bytes > 0);
        busiest.sort_by_key(|(purpose, bytes)| (std::cmp::Reverse(*bytes), *purpose));
        let flops = self.nodes.iter().map(|n| self.cost(n).flops).sum();
        let recomputed = plan.recomputed;
        Usage { peak: plan.peak, forward, backward, busiest, flops, recomputed }
    }

    fn purpose(&self, slot: usize, first: u32, last: u32, split: u32) -> Purpose {
        let maker = self.nodes.get(first as usize).and_then(|n| n.op.as_ref());
        match &self.slots[slot].place {
            Place::Input(_) => Purpose::Input,
            _ if maker.is_some_and(|op| op.name().starts_with("linear_logprob")) => Purpose::Head,
            _ if first < split && last >= split && !self.slots[slot].keep => Purpose::Kept,
            _ => Purpose::Working,
        }
    }
}
