//! Dynamic sampling (DAPO, arXiv 2503.14476, section 3.2): groups whose rewards are all equal teach
//! nothing and are replaced by those of further prompts, as long as the budget lasts. Chooses groups
//! and counts; generates nothing.

use crate::grpo::advantage::group_std;
use crate::model::prompt::Prompt;
use crate::reward::Scores;
use crate::rollout::scheduler::Counts;
use crate::train::generation::Scored;
use std::sync::Arc;

/// A spread of rewards below it is none.
const NO_SPREAD: f64 = 1e-8;

/// Whether the rewards of each group of `n` are all equal.
pub(super) fn dead_groups(total: &[Option<f64>], n: usize) -> Vec<bool> {
    group_std(total, n).into_iter().map(|s| s < NO_SPREAD).collect()
}

/// Prompts that were drawn together, with what came of them.
#[derive(Default)]
pub(super) struct Drawn {
    /// Row and prompt of each group.
    pub prompts: Vec<(usize, Arc<Prompt>)>,
    /// Their completions.
    pub scored: Scored,
}

/// What became of the groups that were drawn.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Drawing {
    /// Batches that were drawn.
    pub batches: usize,
    /// Groups without a spread that were left out.
    pub dropped: usize,
    /// Groups with a spread that were more than enough.
    pub surplus: usize,
    /// Groups without a spread that were taken, for want of others.
    pub dead: usize,
    /// Rewards that failed on groups that were left out.
    pub failures: usize,
}

impl Drawing {
    /// Names and values as logged.
    pub fn named(&self) -> Vec<(String, f64)> {
        let all = [
            ("batches", self.batches),
            ("dropped_groups", self.dropped),
            ("surplus_groups", self.surplus),
            ("dead_groups", self.dead),
        ];
        all.iter().map(|(n, v)| (format!("dynamic_sampling/{n}"), *v as f64)).collect()
    }
}

/// Groups of a whole batch out of several that were drawn one after the other.
pub(super) struct Pool {
    wanted: usize,
    per_group: usize,
    drawn: Vec<Drawn>,
}

impl Pool {
    /// A pool for a batch of `wanted` groups of `per_group` completions.
    pub fn new(wanted: usize, per_group: usize) -> Self {
        Pool { wanted, per_group, drawn: Vec::new() }
    }

    /// Takes in a batch.
    pub fn add(&mut self, drawn: Drawn) {
        self.drawn.push(drawn);
    }

    /// Whether another batch is needed.
    pub fn lacks(&self) -> bool {
        let alive = |d: &Drawn| {
            let dead = dead_groups(&d.scored.scores.total, self.per_group);
            dead.iter().filter(|d| !**d).count()
        };
        self.drawn.iter().map(alive).sum::<usize>() < self.wanted
    }

    /// The batch: groups with a spread in the order in which they were drawn, filled up by the first
    /// ones without.
    pub fn choose(self) -> (Drawn, Drawing) {
        let n = self.per_group;
        let marks: Vec<Vec<bool>> =
            self.drawn.iter().map(|d| dead_groups(&d.scored.scores.total, n)).collect();
        let all = marks.concat();
        let alive = all.iter().filter(|dead| !**dead).count();
        let (mut take, mut fill) = (alive.min(self.wanted), self.wanted.saturating_sub(alive));
        let mut figures = Drawing { batches: self.drawn.len(), dead: fill, ..Drawing::default() };
        figures.surplus = alive - take;
        figures.dropped = all.len() - alive - fill;
        let mut chosen = |dead: bool| {
            let left = if dead { &mut fill } else { &mut take };
            let takes = *left > 0;
            *left -= usize::from(takes);
            takes
        };
        let mut parts = Vec::new();
        for (drawn, marks) in self.drawn.into_iter().zip(&marks) {
            let chosen: Vec<bool> = marks.iter().map(|&dead| chosen(dead)).collect();
            let failures = drawn.scored.scores.failures.len();
            let part = keep(drawn, &chosen, n);
            figures.failures += failures - part.scored.scores.failures.len();
            parts.push(part);
        }
        (join(parts), figures)
    }
}

/// The groups that are marked.
fn keep(drawn: Drawn, chosen: &[bool], n: usize) -> Drawn {
    fn marked<T>(all: Vec<T>, chosen: &[bool], n: usize) -> Vec<T> {
        all.into_iter().enumerate().filter(|(i, _)| chosen[i / n]).map(|(_, x)| x).collect()
    }
    let Drawn { prompts, mut scored } = drawn;
    let mut scores = scored.scores;
    scores.total = marked(scores.total, chosen, n);
    scores.per_reward = scores.per_reward.into_iter().map(|c| marked(c, chosen, n)).collect();
    for (_, column) in &mut scores.aside.columns {
        *column = marked(std::mem::take(column), chosen, n);
    }
    scores.failures.retain(|f| chosen[f.sample / n]);
    for f in &mut scores.failures {
        let before = chosen[..f.sample / n].iter().filter(|c| !**c).count();
        f.sample -= before * n;
    }
    scored.scores = scores;
    scored.completions = marked(scored.completions, chosen, 1);
    scored.texts = marked(scored.texts, chosen, n);
    Drawn { prompts: marked(prompts, chosen, 1), scored }
}

/// Batches one after the other.
pub(super) fn join(parts: Vec<Drawn>) -> Drawn {
    let mut parts = parts.into_iter();
    let Some(mut all) = parts.next() else { return Drawn::default() };
    for part in parts {
        all.prompts.extend(part.prompts);
        let (to, from) = (&mut all.scored, part.scored);
        to.completions.extend(from.completions);
        to.texts.extend(from.texts);
        let scores = std::mem::take(&mut to.scores);
        to.scores = Scores::joined([scores, from.scores]);
        to.counts = Counts {
            passes: to.counts.passes + from.counts.passes,
            prompts: to.counts.prompts + from.counts.prompts,
            prompt_rows: to.counts.prompt_rows + from.counts.prompt_rows,
            preemptions: to.counts.preemptions + from.counts.preemptions,
            peak_pages: to.counts.peak_pages.max(from.counts.peak_pages),
            peak_sequences: to.counts.peak_sequences.max(from.counts.peak_sequences),
        };
        to.vision_images += from.vision_images;
        to.rollout_seconds += from.rollout_seconds;
        to.reward_seconds += from.reward_seconds;
        to.wait_seconds += from.wait_seconds;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Error;
    use crate::model::positions::PositionRule;
    use crate::reward::{Aside, RewardFailure};
    use crate::rollout::{Completion, Finish};

    /// Groups of two completions with these rewards; rows count from `first`.
    fn drawn(first: usize, rewards: &[[f64; 2]], failing: Option<usize>) -> Drawn {
        let completion = |token: usize| Completion {
            ids: vec![token as u32],
            logps: vec![0.0],
            statistics: vec![[0.0; 2]],
            finish: Finish::Eos,
        };
        let prompt =
            || Prompt::new(vec![1], vec![], vec![], PositionRule::Grid, String::new()).unwrap();
        let flat: Vec<Option<f64>> = rewards.concat().into_iter().map(Some).collect();
        let failure = |sample| RewardFailure { reward: 0, sample, error: Error::data("no judge") };
        let rows = first..first + rewards.len();
        let beside = rows.clone().flat_map(|r| [r.into(), r.into()]).collect();
        Drawn {
            prompts: rows.clone().map(|r| (r, Arc::new(prompt()))).collect(),
            scored: Scored {
                completions: rows.clone().map(|r| vec![completion(r), completion(r)]).collect(),
                texts: rows.flat_map(|r| [format!("{r}a"), format!("{r}b")]).collect(),
                scores: Scores {
                    per_reward: vec![flat.clone()],
                    total: flat,
                    failures: failing.into_iter().map(failure).collect(),
                    aside: Aside { columns: vec![("of".into(), beside)], figures: Vec::new() },
                },
                counts: Counts { passes: 3, ..Counts::default() },
                vision_images: 1,
                rollout_seconds: 1.0,
                reward_seconds: 1.0,
                wait_seconds: 1.0,
            },
        }
    }

    fn rows(d: &Drawn) -> Vec<usize> {
        d.prompts.iter().map(|(r, _)| *r).collect()
    }

    #[test]
    fn dead_groups_are_replaced_while_the_budget_lasts() {
        let mut pool = Pool::new(3, 2);
        pool.add(drawn(0, &[[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]], Some(4)));
        assert!(pool.lacks());
        pool.add(drawn(3, &[[0.5, 0.0], [2.0, 2.0], [0.0, 3.0]], Some(5)));
        assert!(!pool.lacks());
        let (batch, figures) = pool.choose();
        assert_eq!(rows(&batch), [1, 3, 5]);
        assert_eq!(batch.scored.texts, ["1a", "1b", "3a", "3b", "5a", "5b"]);
        let total: Vec<f64> = batch.scored.scores.total.iter().flatten().copied().collect();
        assert_eq!(total, [1.0, 0.0, 0.5, 0.0, 0.0, 3.0]);
        assert_eq!(batch.scored.scores.failures.iter().map(|f| f.sample).collect::<Vec<_>>(), [5]);
        assert_eq!(batch.scored.counts.passes, 6);
        let expected = Drawing { batches: 2, dropped: 3, failures: 1, ..Drawing::default() };
        assert_eq!(figures, expected);
    }

    #[test]
    fn what_is_missing_is_filled_up_and_what_is_too_much_is_left() {
        let mut pool = Pool::new(2, 2);
        pool.add(drawn(0, &[[1.0, 1.0], [0.0, 0.0]], None));
        pool.add(drawn(2, &[[1.0, 1.0], [0.0, 1.0]], None));
        assert!(pool.lacks());
        let (batch, figures) = pool.choose();
        assert_eq!(rows(&batch), [0, 3]);
        assert_eq!((figures.dead, figures.dropped, figures.surplus), (1, 2, 0));
        let mut pool = Pool::new(2, 2);
        pool.add(drawn(0, &[[1.0, 0.0], [0.0, 1.0], [3.0, 1.0]], None));
        let (batch, figures) = pool.choose();
        assert_eq!(rows(&batch), [0, 1]);
        assert_eq!((figures.dead, figures.dropped, figures.surplus), (0, 0, 1));
    }
}
