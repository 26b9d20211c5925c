//! Lists of launches that repeat are captured as a graph and replayed: a decoding pass is hundreds of
//! small kernels, and their launches would take longer than they run. Recognised by what is launched,
//! to the last argument, so whoever builds the lists need not know; a list that never comes again
//! costs one comparison of hashes.

use super::command::Command;
use super::driver::Handle;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Shorter lists are launched as they are.
const WORTH_A_GRAPH: usize = 16;
/// Graphs that are kept: those of a rollout's last widths.
const KEPT: usize = 8;

/// What to do with a list.
#[derive(Debug, PartialEq, Eq)]
pub enum Advice {
    /// Launch it as it is.
    Launch,
    /// Launch it as it is, and capture it: it came twice.
    Capture,
    /// Replay this graph.
    Replay(usize),
}

/// A graph and what it replays.
#[derive(Debug)]
struct Kept {
    commands: Vec<Command>,
    exec: usize,
    used: u64,
}

/// The graphs of a device.
#[derive(Debug, Default)]
pub struct Graphs {
    kept: Vec<Kept>,
    last: Option<u64>,
    clock: u64,
}

fn hash(commands: &[Command]) -> u64 {
    let mut h = DefaultHasher::new();
    commands.hash(&mut h);
    h.finish()
}

impl Graphs {
    /// What to do with a list of commands.
    pub fn advise(&mut self, commands: &[Command]) -> Advice {
        if commands.len() < WORTH_A_GRAPH {
            return Advice::Launch;
        }
        self.clock += 1;
        if let Some(k) = self.kept.iter_mut().find(|k| k.commands == commands) {
            k.used = self.clock;
            return Advice::Replay(k.exec);
        }
        let hash = hash(commands);
        match self.last.replace(hash) == Some(hash) {
            true => Advice::Capture,
            false => Advice::Launch,
        }
    }

    /// Keeps a graph; returns the one that made way for it.
    pub fn keep(&mut self, commands: &[Command], exec: Handle) -> Option<Handle> {
        let old = match self.kept.len() < KEPT {
            true => None,
            false => (0..KEPT).min_by_key(|&i| self.kept[i].used),
        };
        let gone = old.map(|i| self.kept.swap_remove(i).exec as Handle);
        let (commands, used) = (commands.to_vec(), self.clock);
        self.kept.push(Kept { commands, exec: exec as usize, used });
        gone
    }

    /// Forgets all graphs and returns them.
    pub fn drain(&mut self) -> Vec<Handle> {
        self.kept.drain(..).map(|k| k.exec as Handle).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DevicePtr;

    fn list(first: u8) -> Vec<Command> {
        (0..WORTH_A_GRAPH as u8)
            .map(|i| Command::Fill { to: DevicePtr(0), byte: first + i, bytes: 1 })
            .collect()
    }

    #[test]
    fn a_list_is_captured_when_it_repeats_and_then_replayed() {
        let mut graphs = Graphs::default();
        assert_eq!(graphs.advise(&list(0)), Advice::Launch);
        assert_eq!(graphs.advise(&list(1)), Advice::Launch);
        assert_eq!(graphs.advise(&list(1)), Advice::Capture);
        assert_eq!(graphs.keep(&list(1), 7 as Handle), None);
        assert_eq!(graphs.advise(&list(1)), Advice::Replay(7));
        assert_eq!(graphs.advise(&list(1)[1..]), Advice::Launch, "too short for a graph");
    }

    #[test]
    fn the_graph_used_longest_ago_makes_way() {
        let mut graphs = Graphs::default();
        for i in 0..KEPT {
            graphs.advise(&list(i as u8));
            assert_eq!(graphs.keep(&list(i as u8), (i + 1) as Handle), None);
        }
        assert_eq!(graphs.advise(&list(0)), Advice::Replay(1));
        graphs.advise(&list(100));
        assert_eq!(graphs.keep(&list(100), 99 as Handle), Some(2 as Handle));
        assert_eq!(graphs.drain().len(), KEPT);
    }
}
