//! Which rows go into the next pass. Prompts are forwarded once for all their completions, in pieces
//! if they are long; a place that a finished completion leaves is taken at once; when the pages of
//! the KV cache run out, the completions that came last give theirs back and are computed again
//! later. Nothing of this changes a bit of any completion. Pure bookkeeping: no tensor, no tape.

use crate::ops::attention::Span;
use crate::rollout::pages::{PageTable, Pages};

/// Limits of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Pages of the KV cache.
    pub pages: usize,
    /// Completions that are decoded at a time, at least 1.
    pub sequences: usize,
    /// Rows of a pass, at least 1; more only if more completions than this are live.
    pub rows: usize,
}

/// What is asked of the scheduler: one prompt with its completions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupSize {
    /// Tokens of the prompt, at least 1.
    pub prompt: usize,
    /// Completions.
    pub completions: usize,
    /// Most tokens of a completion, at least 1.
    pub max_tokens: usize,
}

impl GroupSize {
    /// Pages without which not even one completion of the group can be finished.
    pub fn least_pages(&self) -> usize {
        Pages::needed(self.prompt) + Pages::needed(self.max_tokens - 1)
    }
    /// Pages with which all completions of the group can live together.
    pub fn all_pages(&self) -> usize {
        Pages::needed(self.prompt) + self.completions * Pages::needed(self.max_tokens - 1)
    }
}

/// Rows of a pass that are one query segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The group whose prompt they belong to or follow.
    pub group: usize,
    /// The completion whose own tokens they are; `None` for rows of the prompt.
    pub sequence: Option<usize>,
    /// First token: of the prompt, or of the completion.
    pub first: usize,
    /// Tokens.
    pub len: usize,
    /// Keys that the segment sees, its own included, in order of position.
    pub keys: Vec<Span>,
    /// Row of the cache for the keys of each token; empty if they are there already.
    pub cache_rows: Vec<usize>,
    /// Completions that draw their next token from the last row.
    pub draws: Vec<usize>,
}

/// What happened so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Passes.
    pub passes: u64,
    /// Prompts that were forwarded to their end.
    pub prompts: u64,
    /// Rows of prompts that were forwarded.
    pub prompt_rows: u64,
    /// Completions that had to give their pages back.
    pub preemptions: u64,
    /// Most pages in use.
    pub peak_pages: usize,
    /// Most completions in one pass.
    pub peak_sequences: usize,
}

#[derive(Debug, Clone)]
struct Group {
    size: GroupSize,
    pages: PageTable,
    /// Prompt rows in the cache.
    cached: usize,
    running: usize,
    unfinished: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Running,
    Finished,
}

#[derive(Debug, Clone)]
struct Sequence {
    group: usize,
    state: State,
    tokens: usize,
    pages: PageTable,
    /// Own rows in the cache.
    cached: usize,
}

/// The state of all groups of a call.
#[derive(Debug, Clone)]
pub struct Scheduler {
    limits: Limits,
    pages: Pages,
    groups: Vec<Group>,
    sequences: Vec<Sequence>,
    /// Running completions in order of admission.
    running: Vec<usize>,
    counts: Counts,
}

impl Scheduler {
    /// Everything waiting. Panics if a group cannot be finished with the pages there are.
    pub fn new(limits: Limits, sizes: &[GroupSize]) -> Self {
        let (mut groups, mut sequences) = (Vec::new(), Vec::new());
        for (group, &size) in sizes.iter().enumerate() {
            assert!(size.least_pages() <= limits.pages, "group {group} does not fit the pages");
            groups.push(Group {
                size,
                pages: PageTable::default(),
                cached: 0,
                running: 0,
                unfinished: size.completions,
            });
            for _ in 0..size.completions {
                sequences.push(Sequence {
                    group,
                    state: State::Waiting,
                    tokens: 0,
                    pages: PageTable::default(),
                    cached: 0,
                });
            }
        }
        Scheduler {
            limits,
            pages: Pages::new(limits.pages),
            groups,
            sequences,
            running: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// What happened so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Tokens that a completion has.
    pub fn tokens(&self, sequence: usize) -> usize {
        self.sequences[sequence].tokens
    }

    /// Pages that prompts and completions hold; none when everything is finished.
    pub fn used_pages(&self) -> usize {
        self.pages.used()
    }

    /// The rows of the next pass; empty when everything is finished. Its keys count as cached from
    /// now on, and every completion in `draws` must be answered by [`Scheduler::drawn`].
    pub fn next_pass(&mut self) -> Vec<Piece> {
        let mut pass = Vec::new();
        let mut rows = self.decode(&mut pass);
        while rows < self.limits.rows || pass.is_empty() {
            let Some(piece) = self.admit(self.limits.rows.saturating_sub(rows).max(1)) else {
                break;
            };
            rows += piece.len;
            pass.push(piece);
        }
        if !pass.is_empty() {
            self.counts.passes += 1;
            self.counts.peak_pages = self.counts.peak_pages.max(self.pages.used());
            self.counts.peak_sequences = self.counts.peak_sequences.max(self.running.len());
        }
        pass
    }

    /// A completion has a token more; `ends` says that it was its last.
    pub fn drawn(&mut self, sequence: usize, ends: bool) {
        let s = &mut self.sequences[sequence];
        s.tokens += 1;
        if !ends {
            return;
        }
        s.state = State::Finished;
        self.pages.release(&mut s.pages);
        let group = &mut self.groups[s.group];
        group.running -= 1;
        group.unfinished -= 1;
        if group.unfinished == 0 {
            self.pages.release(&mut group.pages);
        }
        self.running.retain(|&r| r != sequence);
    }

    /// Pieces of the running completions; returns their rows.
    fn decode(&mut self, pass: &mut Vec<Piece>) -> usize {
        let (mut next, mut rows) = (0, 0);
        while let Some(&id) = self.running.get(next) {
            let s = &self.sequences[id];
            let (first, tokens) = (s.cached, s.tokens);
            // A single next token always fits; what was preempted is computed again in pieces.
            let room = self.limits.rows.saturating_sub(rows).max(1);
            let len = (tokens - first).min(room);
            if !self.make_room(id, first + len) {
                // It gave its own pages back and stands no longer in the list.
                continue;
            }
            rows += len;
            pass.push(self.own_piece(id, first, len));
            next += 1;
        }
        rows
    }

    /// Gives a running completion pages for `rows` own rows. When there are none left, prompts that
    /// nobody uses go first, then the completions that were admitted last. False if it was its own
    /// turn to go.
    fn make_room(&mut self, id: usize, rows: usize) -> bool {
        loop {
            let table = &mut self.sequences[id].pages;
            if self.pages.grow(table, rows) {
                return true;
            }
            if self.drop_idle_prompt(usize::MAX) {
                continue;
            }
            let last = *self.running.last().expect("the one that asks is running");
            self.preempt(last);
            if last == id {
                return false;
            }
        }
    }

    /// Gives back the pages of the last prompt that no running completion needs.
    fn drop_idle_prompt(&mut self, but: usize) -> bool {
        let idle = (0..self.groups.len()).rev().find(|&g| {
            let group = &self.groups[g];
            g != but && group.running == 0 && group.pages != PageTable::default()
        });
        if let Some(g) = idle {
            self.pages.release(&mut self.groups[g].pages);
            self.groups[g].cached = 0;
        }
        idle.is_some()
    }

    fn preempt(&mut self, id: usize) {
        let s = &mut self.sequences[id];
        self.pages.release(&mut s.pages);
        (s.cached, s.state) = (0, State::Waiting);
        self.groups[s.group].running -= 1;
        self.running.retain(|&r| r != id);
        self.counts.preemptions += 1;
    }

    /// A piece of at most `room` rows for the completion that has waited longest, if there is a
    /// place and there are pages for it.
    fn admit(&mut self, room: usize) -> Option<Piece> {
        if self.running.len() >= self.limits.sequences {
            return None;
        }
        let id = self.sequences.iter().position(|s| s.state == State::Waiting)?;
        let g = self.sequences[id].group;
        // Each running completion will soon want another page.
        let spare = if self.running.is_empty() { 0 } else { self.running.len() + 1 };
        let (prompt, tokens) = (self.groups[g].size.prompt, self.sequences[id].tokens);
        let held = self.groups[g].pages != PageTable::default();
        let wanted = Pages::needed(tokens) + if held { 0 } else { Pages::needed(prompt) };
        while self.pages.free() < wanted + spare {
            if !self.drop_idle_prompt(g) {
                return None;
            }
        }
        if self.groups[g].cached < prompt {
            return Some(self.prompt_piece(g, room));
        }
        self.start(id);
        if tokens > 0 {
            let len = tokens.min(room);
            let fits = self.make_room(id, len);
            debug_assert!(fits, "the pages were counted");
            return Some(self.own_piece(id, 0, len));
        }
        // The prompt is there, only its last hidden state is not: a sibling that comes later.
        let group = &self.groups[g];
        Some(Piece {
            group: g,
            sequence: None,
            first: prompt - 1,
            len: 1,
            keys: group.pages.spans(prompt),
            cache_rows: Vec::new(),
            draws: vec![id],
        })
    }

    fn start(&mut self, id: usize) {
        self.sequences[id].state = State::Running;
        self.groups[self.sequences[id].group].running += 1;
        self.running.push(id);
    }

    /// The next rows of a prompt; with the last one, its completions begin.
    fn prompt_piece(&mut self, g: usize, room: usize) -> Piece {
        let prompt = self.groups[g].size.prompt;
        let group = &mut self.groups[g];
        let fits = self.pages.grow(&mut group.pages, prompt);
        debug_assert!(fits, "the pages were counted");
        let (first, len) = (group.cached, room.min(prompt - group.cached));
        group.cached += len;
        let cached = group.cached;
        let keys = group.pages.spans(cached);
        let cache_rows = (first..cached).map(|i| group.pages.row(i)).collect();
        self.counts.prompt_rows += len as u64;
        let mut draws = Vec::new();
        if cached == prompt {
            self.counts.prompts += 1;
            let fresh = |s: &Sequence| s.group == g && s.state == State::Waiting && s.tokens == 0;
            let places = self.limits.sequences - self.running.len();
            draws = (0..self.sequences.len())
                .filter(|&id| fresh(&self.sequences[id]))
                .take(places)
                .collect();
            draws.iter().for_each(|&id| self.start(id));
        }
        Piece { group: g, sequence: None, first, len, keys, cache_rows, draws }
    }

    /// Own tokens of a completion; with the last one it draws the next.
    fn own_piece(&mut self, id: usize, first: usize, len: usize) -> Piece {
        let s = &mut self.sequences[id];
        s.cached = first + len;
        let group = &self.groups[s.group];
        let mut keys = group.pages.spans(group.size.prompt);
        keys.extend(s.pages.spans(s.cached));
        Piece {
            group: s.group,
            sequence: Some(id),
            first,
            len,
            keys,
            cache_rows: (first..s.cached).map(|i| s.pages.row(i)).collect(),
            draws: if s.cached == s.tokens { vec![id] } else { Vec::new() },
        }
    }
}
