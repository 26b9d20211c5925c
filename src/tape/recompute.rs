//! Recomputation (gradient checkpointing): of a tape with its reverse walk, some forward nodes run
//! a second time just before the walk first reads what they made, so that it need not be kept
//! since the forward pass. The same ops read the same inputs, so every bit stays the same. Views,
//! fixed slots and inputs are never copied; nodes that change something in place are never run
//! twice. Which nodes is `mem::recompute`'s choice; here is what they would free.

use crate::mem::Recompute;
use crate::mem::recompute::{Level, all, pick};
use crate::ops::{Cost, Op, OpClass, Slot, TensorType};
use crate::tape::{Node, Place, SlotInfo, Tape, TapePlan};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// Levels of a segment: what is recomputed from the second on includes all of the first.
const LEVELS: [OpClass; 3] = [OpClass::Elementwise, OpClass::Matmul, OpClass::Attention];

/// Floating-point operations that a byte of memory traffic counts as, to weigh norms against
/// products. Right within a small factor on CPUs; only the order of candidates depends on it.
const WORK_PER_BYTE: f64 = 4.0;

/// Marks of the nodes that run again.
type Chosen = Vec<bool>;

/// A part of the forward pass that can be recomputed as one.
#[derive(Debug, Clone)]
struct Segment {
    nodes: Range<usize>,
    /// Per level: the nodes that run again.
    sets: Vec<Vec<usize>>,
    /// Per level: what that gives and takes.
    levels: Vec<Level>,
}

/// What is known of a tape before anything is chosen.
struct Analysis<'a> {
    tape: &'a Tape,
    /// Forward nodes that may run twice.
    movable: Chosen,
    /// Per slot that owns bytes: the forward node that makes it.
    producer: Vec<Option<usize>>,
    /// Per slot that owns bytes: whether the reverse walk reads it.
    read_back: Vec<bool>,
}

impl Tape {
    /// Plans the tape so that it needs at most `limit` bytes, if recomputing as much as `when`
    /// allows can do that; then the tape has more nodes than before. The plan's peak tells.
    pub fn plan_within(&mut self, limit: usize, when: Recompute) -> TapePlan {
        let plan = self.plan();
        let enough = when == Recompute::Auto && plan.peak <= limit;
        let Some(forward) = self.forward.filter(|_| when != Recompute::Never && !enough) else {
            return plan;
        };
        let segments = Analysis::of(self, forward).segments(forward);
        let levels: Vec<Vec<Level>> = segments.iter().map(|s| s.levels.clone()).collect();
        let chosen = match when {
            Recompute::Always => all(&levels),
            _ => {
                pick(&levels, limit, |choice| match choice.iter().all(|l| *l == 0) {
                    true => plan.peak,
                    false => self.peak_with(forward, &segments, choice),
                })
                .levels
            }
        };
        if chosen.iter().all(|l| *l == 0) {
            return plan;
        }
        let before = self.recompute(forward, &segments, &chosen);
        let again = segments.iter().zip(&chosen).filter(|(_, level)| **level > 0);
        let again = again.flat_map(|(s, level)| &s.sets[level - 1]);
        let mut plan = self.plan();
        plan.recomputed = again.map(|&n| self.cost(&before[n]).flops).sum();
        plan
    }

    /// What a node costs; a view costs nothing.
    pub(super) fn cost(&self, node: &Node) -> Cost {
        let types = |s: &[Slot]| -> Vec<&TensorType> { s.iter().map(|&s| self.ty(s)).collect() };
        let cost = |op: &Arc<dyn Op>| op.cost(&types(&node.inputs), &types(&node.outputs));
        node.op.as_ref().map_or(Cost::default(), cost)
    }

    /// Peak that the tape would have with a choice; leaves the tape as it is.
    fn peak_with(&mut self, forward: usize, segments: &[Segment], choice: &[usize]) -> usize {
        let slots = self.slots.len();
        let before = self.recompute(forward, segments, choice);
        let peak = self.plan().peak;
        self.nodes = before;
        self.slots.truncate(slots);
        peak
    }

    /// Puts copies of the chosen nodes in front of the backward nodes that read what they make.
    /// Returns the nodes as they were.
    fn recompute(&mut self, forward: usize, segments: &[Segment], choice: &[usize]) -> Vec<Node> {
        let mut chosen = vec![false; forward];
        for (s, &level) in segments.iter().zip(choice) {
            if level > 0 {
                s.sets[level - 1].iter().for_each(|&n| chosen[n] = true);
            }
        }
        let before = std::mem::take(&mut self.nodes);
        let producer = producers(self, &before[..forward]);
        let mut nodes = before[..forward].to_vec();
        let mut copies = Copies { chosen, producer, made: HashMap::new() };
        for node in &before[forward..] {
            let inputs =
                node.inputs.iter().map(|&s| copies.of(self, &before, &mut nodes, s)).collect();
            nodes.push(Node { inputs, ..node.clone() });
        }
        self.nodes = nodes;
        before
    }
}

/// Copies of slots, made when they are first asked for.
struct Copies {
    chosen: Chosen,
    producer: Vec<Option<usize>>,
    made: HashMap<Slot, Slot>,
}

impl Copies {
    /// The slot to read in place of `s`: itself, or a copy, whose nodes are appended first. Calls
    /// itself only within a segment.
    fn of(&mut self, tape: &mut Tape, before: &[Node], nodes: &mut Vec<Node>, s: Slot) -> Slot {
        if let Some(&copy) = self.made.get(&s) {
            return copy;
        }
        let root = tape.root(s);
        let n = match self.producer.get(root.0 as usize) {
            Some(&Some(n)) if self.chosen[n] => n,
            _ => return s,
        };
        if !self.made.contains_key(&root) {
            let inputs: Vec<Slot> =
                before[n].inputs.iter().map(|&i| self.of(tape, before, nodes, i)).collect();
            let outputs: Vec<Slot> =
                before[n].outputs.iter().map(|&o| self.push(tape, o, Place::Planned)).collect();
            let work = before[n].work.map(|w| self.push(tape, w, Place::Planned));
            nodes.push(Node { inputs, outputs, work, ..before[n].clone() });
        }
        let root = self.made[&root];
        match self.made.get(&s) {
            Some(&copy) => copy,
            None => self.push(tape, s, Place::View(root)),
        }
    }

    /// A slot as `s`, in another place, that stands for it.
    fn push(&mut self, tape: &mut Tape, s: Slot, place: Place) -> Slot {
        let ty = tape.ty(s).clone();
        let copy = Slot(tape.slots.len() as u32);
        tape.slots.push(SlotInfo { ty, place, needs_grad: false, keep: false, name: None });
        self.made.insert(s, copy);
        copy
    }
}

/// The node among `nodes` that makes each slot.
fn producers(tape: &Tape, nodes: &[Node]) -> Vec<Option<usize>> {
    let mut producer = vec![None; tape.slots.len()];
    for (n, node) in nodes.iter().enumerate().filter(|(_, node)| node.op.is_some()) {
        for s in &node.outputs {
            producer[s.0 as usize] = Some(n);
        }
    }
    producer
}

impl<'a> Analysis<'a> {
    fn of(tape: &'a Tape, forward: usize) -> Self {
        let producer = producers(tape, &tape.nodes[..forward]);
        let mut read_back = vec![false; tape.slots.len()];
        for s in tape.nodes[forward..].iter().flat_map(|n| &n.inputs) {
            read_back[tape.root(*s).0 as usize] = true;
        }
        let movable = movable(tape, forward, &producer);
        Analysis { tape, movable, producer, read_back }
    }

    /// The segments of which anything can be recomputed.
    fn segments(&self, forward: usize) -> Vec<Segment> {
        let ends = self.tape.segments.iter().skip(1).map(|(at, _)| *at).chain([forward]);
        let marks = self.tape.segments.iter().zip(ends);
        let ranges = marks.filter(|((_, name), _)| name.is_some()).map(|((at, _), end)| *at..end);
        ranges
            .filter(|nodes| nodes.end <= forward)
            .map(|nodes| self.segment(nodes))
            .filter(|s| !s.sets.iter().all(Vec::is_empty))
            .collect()
    }

    fn segment(&self, nodes: Range<usize>) -> Segment {
        let (kept, _) = self.kept(&nodes, &|_| false);
        let mut segment = Segment { nodes, sets: Vec::new(), levels: Vec::new() };
        for class in LEVELS {
            let set = self.worthwhile(&segment.nodes, class);
            let (bytes, _) = self.kept(&segment.nodes, &|n| set.contains(&n));
            let work = set.iter().map(|&n| self.work(n)).sum();
            segment.levels.push(Level { bytes: kept.saturating_sub(bytes), work });
            segment.sets.push(set);
        }
        segment
    }

    /// The nodes of at most this class that run again: all that are asked for, less those without
    /// which no more is kept (a rotation, say, whose input would be kept for its output).
    fn worthwhile(&self, nodes: &Range<usize>, class: OpClass) -> Vec<usize> {
        let allowed = |n: &usize| {
            let op = self.tape.nodes[*n].op.as_ref();
            self.movable[*n] && op.is_some_and(|op| op.class() <= class)
        };
        let mut set: Vec<usize> = nodes.clone().filter(allowed).collect();
        let (mut least, _) = self.kept(nodes, &|n| set.contains(&n));
        for n in nodes.clone().rev().filter(allowed) {
            let (bytes, _) = self.kept(nodes, &|m| m != n && set.contains(&m));
            if bytes <= least {
                least = bytes;
                set.retain(|&m| m != n);
            }
        }
        let (_, run) = self.kept(nodes, &|n| set.contains(&n));
        run
    }

    /// Bytes that a segment keeps for the reverse walk if the nodes of `again` run again, and those
    /// of them that are asked for.
    fn kept(&self, nodes: &Range<usize>, again: &dyn Fn(usize) -> bool) -> (usize, Vec<usize>) {
        let (mut kept, mut run) = (HashMap::new(), Vec::new());
        let mut asked: HashMap<Slot, ()> = HashMap::new();
        for n in nodes.clone().rev() {
            let node = &self.tape.nodes[n];
            if node.op.is_none() {
                continue;
            }
            let wanted = |s: &&Slot| self.read_back[s.0 as usize] || asked.contains_key(s);
            let outputs: Vec<Slot> = node.outputs.iter().filter(wanted).copied().collect();
            if !outputs.is_empty() && again(n) {
                asked.extend(node.inputs.iter().map(|&s| (self.tape.root(s), ())));
                run.push(n);
            } else {
                kept.extend(outputs.into_iter().map(|s| (s, ())));
            }
        }
        let outside = |s: &Slot| self.producer[s.0 as usize].is_none_or(|n| !nodes.contains(&n));
        let read = nodes.clone().flat_map(|n| &self.tape.nodes[n].inputs);
        let read = read.map(|&s| self.tape.root(s)).filter(|s| self.read_back[s.0 as usize]);
        kept.extend(asked.into_keys().chain(read).filter(outside).map(|s| (s, ())));
        (kept.into_keys().map(|s| self.bytes(s)).sum(), run)
    }

    fn bytes(&self, s: Slot) -> usize {
        let info = &self.tape.slots[s.0 as usize];
        match info.place {
            Place::Fixed(_) => 0,
            _ => info.ty.len() * info.ty.dtype.size(),
        }
    }

    fn work(&self, n: usize) -> f64 {
        let cost = self.tape.cost(&self.tape.nodes[n]);
        cost.flops + WORK_PER_BYTE * cost.bytes
    }
}

/// Which forward nodes may run twice: what they make is fresh and theirs alone, nobody outside
/// their segment reads it, and nothing that they read is changed in place by any node.
fn movable(tape: &Tape, forward: usize, producer: &[Option<usize>]) -> Chosen {
    let mut segment_of = vec![None; forward];
    for (i, (at, name)) in tape.segments.iter().enumerate() {
        segment_of[(*at).min(forward)..].fill(name.as_ref().map(|_| i));
    }
    let mut written = vec![0u32; tape.slots.len()];
    for node in tape.nodes.iter().filter(|n| n.op.is_some()) {
        node.outputs.iter().for_each(|&s| written[tape.root(s).0 as usize] += 1);
    }
    let changed = |s: Slot| {
        let root = tape.root(s).0 as usize;
        let once = u32::from(matches!(tape.slots[root].place, Place::Planned));
        written[root] > once
    };
    let own = |s: &Slot| {
        let info = &tape.slots[s.0 as usize];
        matches!(info.place, Place::Planned) && !info.keep && written[s.0 as usize] == 1
    };
    let mut movable: Chosen = (0..forward)
        .map(|n| {
            let node = &tape.nodes[n];
            node.op.is_some()
                && segment_of[n].is_some()
                && !node.outputs.is_empty()
                && node.outputs.iter().all(own)
                && !node.inputs.iter().any(|&s| changed(s))
        })
        .collect();
    for n in 0..forward {
        for &s in &tape.nodes[n].inputs {
            if let Some(from) = producer[tape.root(s).0 as usize]
                && segment_of[from] != segment_of[n]
            {
                movable[from] = false;
            }
        }
    }
    movable
}
