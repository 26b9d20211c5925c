//! Which rows go into the next pass. Prompts are forwarded once for all their completions, in pieces
//! if they are long; a place that a finished completion leaves is taken at once; when the pages of
//! the KV cache run out, the completions that came last give theirs back and are computed again
//! later. Groups may come and go while others run. Nothing of this changes a bit of any completion.
//! Pure bookkeeping: no tensor, no tape.

use crate::ops::attention::Span;
use crate::rollout::pages::{PageTable, Pages};
use std::collections::BTreeMap;
use std::ops::Range;

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
    /// Its completions.
    sequences: Range<usize>,
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

/// The state of all groups that it was given and has not been told to forget.
#[derive(Debug, Clone)]
pub struct Scheduler {
    limits: Limits,
    pages: Pages,
    /// By number: in the order in which they came.
    groups: BTreeMap<usize, Group>,
    sequences: BTreeMap<usize, Sequence>,
    /// Numbers of the next group and the next completion.
    next: (usize, usize),
    /// Running completions in order of admission.
    running: Vec<usize>,
    counts: Counts,
}

impl Scheduler {
    /// Everything waiting; groups and completions are numbered in order. Panics if a group cannot be
    /// finished with the pages there are.
    pub fn new(limits: Limits, sizes: &[GroupSize]) -> Self {
        let mut scheduler = Scheduler {
            limits,
            pages: Pages::new(limits.pages),
            groups: BTreeMap::new(),
            sequences: BTreeMap::new(),
            next: (0, 0),
            running: Vec::new(),
            counts: Counts::default(),
        };
        for &size in sizes {
            scheduler.add(size);
        }
        scheduler
    }

    /// One more group, waiting behind the others; returns its number and those of its completions.
    /// Panics if it cannot be finished with the pages there are.
    pub fn add(&mut self, size: GroupSize) -> (usize, Range<usize>) {
        let (group, first) = self.next;
        assert!(size.least_pages() <= self.limits.pages, "group {group} does not fit the pages");
        let sequences = first..first + size.completions;
        self.next = (group + 1, sequences.end);
        let own = Group {
            size,
            pages: PageTable::default(),
            cached: 0,
            sequences: sequences.clone(),
            running: 0,
            unfinished: size.completions,
        };
        self.groups.insert(group, own);
        for id in sequences.clone() {
            let pages = PageTable::default();
            let fresh = Sequence { group, state: State::Waiting, tokens: 0, pages, cached: 0 };
            self.sequences.insert(id, fresh);
        }
        (group, sequences)
    }

    /// Forgets a group, finished or not: what it holds is free. Between passes only: none of its
    /// completions may be waiting for [`Scheduler::drawn`].
    pub fn remove(&mut self, group: usize) {
        for id in self.group(group).sequences.clone() {
            if self.sequence(id).state != State::Finished {
                self.end(id);
            }
            self.sequences.remove(&id);
        }
        self.groups.remove(&group);
    }

    fn group(&self, group: usize) -> &Group {
        &self.groups[&group]
    }
    fn group_mut(&mut self, group: usize) -> &mut Group {
        self.groups.get_mut(&group).expect("groups are asked for until they are removed")
    }
    fn sequence(&self, id: usize) -> &Sequence {
        &self.sequences[&id]
    }
    fn sequence_mut(&mut self, id: usize) -> &mut Sequence {
        self.sequences.get_mut(&id).expect("completions are asked for until they are removed")
    }

    /// What happened so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Tokens that a completion has.
    pub fn tokens(&self, sequence: usize) -> usize {
        self.sequence(sequence).tokens
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

    /// Whether anything is left to do.
    pub fn busy(&self) -> bool {
        self.groups.values().any(|g| g.unfinished > 0)
    }

    /// Completions that are decoded, and those that wait.
    pub fn load(&self) -> (usize, usize) {
        let waiting = self.sequences.values().filter(|s| s.state == State::Waiting).count();
        (self.running.len(), waiting)
    }

    /// A completion has a token more; `ends` says that it was its last.
    pub fn drawn(&mut self, sequence: usize, ends: bool) {
        self.sequence_mut(sequence).tokens += 1;
        if ends {
            self.end(sequence);
        }
    }

    /// A completion that is not finished gets no more tokens.
    pub fn end(&mut self, id: usize) {
        let s = self.sequences.get_mut(&id).expect("it is not finished");
        let ran = s.state == State::Running;
        s.state = State::Finished;
        self.pages.release(&mut s.pages);
        let group = self.groups.get_mut(&s.group).expect("a completion has a group");
        group.running -= usize::from(ran);
        group.unfinished -= 1;
        if group.unfinished == 0 {
            self.pages.release(&mut group.pages);
        }
        self.running.retain(|&r| r != id);
    }

    /// Pieces of the running completions; returns their rows.
    fn decode(&mut self, pass: &mut Vec<Piece>) -> usize {
        let (mut next, mut rows) = (0, 0);
        while let Some(&id) = self.running.get(next) {
            let s = self.sequence(id);
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
            let s = self.sequences.get_mut(&id).expect("it is running");
            if self.pages.grow(&mut s.pages, rows) {
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
        let idle = self.groups.iter_mut().rev().find(|(number, group)| {
            **number != but && group.running == 0 && group.pages != PageTable::default()
        });
        let Some((_, group)) = idle else { return false };
        self.pages.release(&mut group.pages);
        group.cached = 0;
        true
    }

    fn preempt(&mut self, id: usize) {
        let s = self.sequences.get_mut(&id).expect("it is running");
        self.pages.release(&mut s.pages);
        (s.cached, s.state) = (0, State::Waiting);
        let group = s.group;
        self.group_mut(group).running -= 1;
        self.running.retain(|&r| r != id);
        self.counts.preemptions += 1;
    }

    /// A piece of at most `room` rows for the completion that has waited longest, if there is a
    /// place and there are pages for it.
    fn admit(&mut self, room: usize) -> Option<Piece> {
        if self.running.len() >= self.limits.sequences {
            return None;
        }
        let mut waiting = self.sequences.iter().filter(|(_, s)| s.state == State::Waiting);
        let (&id, &Sequence { group: g, tokens, .. }) = waiting.next()?;
        // Each running completion will soon want another page.
        let spare = if self.running.is_empty() { 0 } else { self.running.len() + 1 };
        let prompt = self.group(g).size.prompt;
        let held = self.group(g).pages != PageTable::default();
        let wanted = Pages::needed(tokens) + if held { 0 } else { Pages::needed(prompt) };
        while self.pages.free() < wanted + spare {
            if !self.drop_idle_prompt(g) {
                return None;
            }
        }
        if self.group(g).cached < prompt {
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
        let group = self.group(g);
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
        let s = self.sequence_mut(id);
        s.state = State::Running;
        let group = s.group;
        self.group_mut(group).running += 1;
        self.running.push(id);
    }

    /// The next rows of a prompt; with the last one, its completions begin.
    fn prompt_piece(&mut self, g: usize, room: usize) -> Piece {
        let group = self.groups.get_mut(&g).expect("it has a waiting completion");
        let prompt = group.size.prompt;
        let fits = self.pages.grow(&mut group.pages, prompt);
        debug_assert!(fits, "the pages were counted");
        let (first, len) = (group.cached, room.min(prompt - group.cached));
        group.cached += len;
        let cached = group.cached;
        let keys = group.pages.spans(cached);
        let cache_rows = (first..cached).map(|i| group.pages.row(i)).collect();
        let own = group.sequences.clone();
        self.counts.prompt_rows += len as u64;
        let mut draws = Vec::new();
        if cached == prompt {
            self.counts.prompts += 1;
            let fresh = |s: &Sequence| s.state == State::Waiting && s.tokens == 0;
            let places = self.limits.sequences - self.running.len();
            draws = own.filter(|&id| fresh(self.sequence(id))).take(places).collect();
            draws.iter().for_each(|&id| self.start(id));
        }
        Piece { group: g, sequence: None, first, len, keys, cache_rows, draws }
    }

    /// Own tokens of a completion; with the last one it draws the next.
    fn own_piece(&mut self, id: usize, first: usize, len: usize) -> Piece {
        let s = self.sequences.get_mut(&id).expect("it is running");
        s.cached = first + len;
        let group = &self.groups[&s.group];
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
