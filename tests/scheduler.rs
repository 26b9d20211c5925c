//! The scheduler of the rollout against a naive model of its cache: whatever the groups and the
//! limits, every completion gets its tokens, every segment sees exactly the rows that it should, and
//! no limit is passed. Runs no model.

use std::collections::{BTreeMap, BTreeSet};

use grpo_rt::rollout::pages::PAGE_ROWS;
use grpo_rt::rollout::scheduler::{GroupSize, Limits, Piece, Scheduler};
use proptest::prelude::*;

/// Whose token a row of the cache holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Owner {
    Prompt(usize),
    Completion(usize),
}

/// What is known without looking into the scheduler.
struct Model<'a> {
    limits: Limits,
    sizes: &'a [GroupSize],
    /// Group of each completion.
    groups: Vec<usize>,
    /// Tokens after which each completion ends.
    lengths: &'a [usize],
    /// Tokens that each completion has.
    tokens: Vec<usize>,
    /// What was written last to each row of the cache.
    rows: BTreeMap<usize, (Owner, usize)>,
    /// Rows of completions that were forwarded, those computed again included.
    own_rows: usize,
}

impl Model<'_> {
    fn owner(piece: &Piece) -> Owner {
        piece.sequence.map_or(Owner::Prompt(piece.group), Owner::Completion)
    }

    /// Rows that the keys of a piece name, in their order.
    fn seen(piece: &Piece) -> Vec<usize> {
        piece.keys.iter().flat_map(|k| k.start..k.start + k.len).collect()
    }

    /// All keys of a pass are written before any of its queries is answered.
    fn write(&mut self, pass: &[Piece]) {
        let mut written = BTreeSet::new();
        for piece in pass {
            if piece.cache_rows.is_empty() {
                // Only a last prompt row, asked again for a sibling that came later.
                let last = self.sizes[piece.group].prompt - 1;
                assert_eq!((piece.sequence, piece.first, piece.len), (None, last, 1));
                assert!(!piece.draws.is_empty());
                continue;
            }
            assert_eq!(piece.cache_rows.len(), piece.len);
            for (i, &row) in piece.cache_rows.iter().enumerate() {
                assert!(row < self.limits.pages * PAGE_ROWS, "row {row} is outside of the pool");
                assert!(written.insert(row), "row {row} is written twice in a pass");
                self.rows.insert(row, (Self::owner(piece), piece.first + i));
            }
        }
    }

    /// Every segment sees its prompt and its own tokens, in order, and nothing else.
    fn check_keys(&self, pass: &[Piece]) {
        let mut pages: BTreeMap<usize, Owner> = BTreeMap::new();
        for piece in pass {
            let end = piece.first + piece.len;
            let group = Owner::Prompt(piece.group);
            let prompt = |n| (0..n).map(move |i| (group, i));
            let want: Vec<(Owner, usize)> = match piece.sequence {
                None => prompt(end).collect(),
                Some(id) => prompt(self.sizes[piece.group].prompt)
                    .chain((0..end).map(|i| (Owner::Completion(id), i)))
                    .collect(),
            };
            let seen = Self::seen(piece);
            let got: Vec<_> = seen.iter().filter_map(|r| self.rows.get(r).copied()).collect();
            assert_eq!(got, want, "keys of {piece:?}");
            for (row, (owner, _)) in seen.iter().zip(want) {
                let other = *pages.entry(row / PAGE_ROWS).or_insert(owner);
                assert_eq!(other, owner, "a page with two owners");
            }
        }
    }

    /// A token is drawn where the last one of a completion is cached, and nowhere else.
    fn check_draws(&self, pass: &[Piece]) {
        let mut drawing = BTreeSet::new();
        for piece in pass {
            let end = piece.first + piece.len;
            assert!(piece.len > 0);
            match piece.sequence {
                Some(id) => {
                    assert_eq!(self.groups[id], piece.group);
                    assert!(end <= self.tokens[id]);
                    let draws = if end == self.tokens[id] { vec![id] } else { vec![] };
                    assert_eq!(piece.draws, draws);
                }
                None => {
                    let whole = end == self.sizes[piece.group].prompt;
                    assert!(piece.draws.is_empty() || whole, "a prompt is not at its end");
                    for &id in &piece.draws {
                        assert_eq!((self.groups[id], self.tokens[id]), (piece.group, 0));
                    }
                }
            }
            assert!(piece.draws.iter().all(|id| drawing.insert(*id)), "drawn twice in a pass");
        }
    }

    /// Completions in a pass and its rows keep to the limits.
    fn check_limits(&self, pass: &[Piece]) {
        let own = pass.iter().filter_map(|p| p.sequence);
        let live: BTreeSet<usize> =
            pass.iter().flat_map(|p| &p.draws).copied().chain(own).collect();
        assert!(live.len() <= self.limits.sequences, "{} completions", live.len());
        let rows: usize = pass.iter().map(|p| p.len).sum();
        assert!(rows <= self.limits.rows.max(live.len()), "{rows} rows");
        let pages: BTreeSet<usize> =
            pass.iter().flat_map(Self::seen).map(|r| r / PAGE_ROWS).collect();
        assert!(pages.len() <= self.limits.pages);
    }
}

/// Runs everything to its end; returns the scheduler and the rows of completions that it forwarded.
fn play(sizes: &[GroupSize], lengths: &[usize], limits: Limits) -> (Scheduler, usize) {
    let groups: Vec<usize> =
        sizes.iter().enumerate().flat_map(|(g, s)| vec![g; s.completions]).collect();
    let (tokens, rows) = (vec![0; groups.len()], BTreeMap::new());
    let mut model = Model { limits, sizes, groups, lengths, tokens, rows, own_rows: 0 };
    let mut scheduler = Scheduler::new(limits, sizes);
    for _ in 0..200_000 {
        let pass = scheduler.next_pass();
        if pass.is_empty() {
            for (id, &length) in lengths.iter().enumerate() {
                assert_eq!(scheduler.tokens(id), length, "completion {id}");
            }
            assert_eq!(scheduler.used_pages(), 0, "pages that nobody gave back");
            assert!(scheduler.next_pass().is_empty(), "the end is the end");
            return (scheduler, model.own_rows);
        }
        assert!(scheduler.used_pages() <= limits.pages);
        model.write(&pass);
        model.check_keys(&pass);
        model.check_draws(&pass);
        model.check_limits(&pass);
        model.own_rows +=
            pass.iter().filter(|p| p.sequence.is_some()).map(|p| p.len).sum::<usize>();
        for id in pass.into_iter().flat_map(|p| p.draws) {
            model.tokens[id] += 1;
            scheduler.drawn(id, model.tokens[id] == model.lengths[id]);
        }
    }
    panic!("no end with {limits:?}, {sizes:?}, {lengths:?}");
}

/// Groups, and for each completion the share of its limit at which it ends.
fn groups() -> impl Strategy<Value = (Vec<GroupSize>, Vec<usize>)> {
    let group = (1..70usize, 1..6usize, 1..60usize);
    prop::collection::vec(group, 1..6).prop_flat_map(|list| {
        let sizes: Vec<GroupSize> = list
            .into_iter()
            .map(|(prompt, completions, max_tokens)| GroupSize { prompt, completions, max_tokens })
            .collect();
        let ends: Vec<_> =
            sizes.iter().flat_map(|s| vec![1..s.max_tokens + 1; s.completions]).collect();
        (Just(sizes), ends)
    })
}

fn least(sizes: &[GroupSize]) -> usize {
    sizes.iter().map(GroupSize::least_pages).max().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

    #[test]
    fn every_completion_gets_its_tokens_within_the_limits(
        (sizes, lengths) in groups(),
        more in 0..12usize,
        sequences in 1..12usize,
        rows in prop_oneof![1..8usize, 1..200usize],
    ) {
        let limits = Limits { pages: least(&sizes) + more, sequences, rows };
        let (scheduler, own_rows) = play(&sizes, &lengths, limits);
        let counts = scheduler.counts();
        prop_assert!(counts.peak_pages <= limits.pages && counts.peak_sequences <= sequences);
        // All tokens but a completion's last are forwarded, more often only after a preemption.
        let once: usize = lengths.iter().map(|n| n - 1).sum();
        prop_assert!(own_rows >= once);
        if counts.preemptions == 0 {
            prop_assert_eq!(own_rows, once);
        }
    }

    #[test]
    fn with_memory_for_all_nothing_is_forwarded_twice(
        (sizes, lengths) in groups(),
        sequences in 1..12usize,
        rows in prop_oneof![1..8usize, 1..200usize],
    ) {
        let all: usize = sizes.iter().map(GroupSize::all_pages).sum();
        // Admission keeps a page free for each running completion.
        let limits = Limits { pages: all + lengths.len() + 1, sequences, rows };
        let counts = play(&sizes, &lengths, limits).0.counts();
        let prompts: usize = sizes.iter().map(|s| s.prompt).sum();
        prop_assert_eq!(counts.prompts, sizes.len() as u64);
        prop_assert_eq!((counts.prompt_rows, counts.preemptions), (prompts as u64, 0));
    }
}

#[test]
fn what_came_last_makes_way_and_comes_back() {
    // Two pages for the prompt, three for the tokens of one completion; four completions.
    let sizes = [GroupSize { prompt: 20, completions: 4, max_tokens: 40 }];
    let limits = Limits { pages: 5, sequences: 4, rows: 64 };
    let (scheduler, own_rows) = play(&sizes, &[40; 4], limits);
    let counts = scheduler.counts();
    assert!(counts.preemptions >= 3 && own_rows > 4 * 39, "{counts:?}");
    assert_eq!((counts.prompts, counts.peak_pages), (1, 5), "the prompt stays while it is used");
}

#[test]
#[should_panic(expected = "does not fit the pages")]
fn a_group_that_never_fits_is_refused() {
    let size = GroupSize { prompt: 20, completions: 1, max_tokens: 18 };
    Scheduler::new(Limits { pages: 3, sequences: 1, rows: 1 }, &[size]);
}
