//! The largest micro-batch and KV cache that fit a device: sizes are planned until one more does not
//! fit. Whatever is named was planned.

use crate::base::Result;
use crate::mem::Recompute;
use crate::model::prompt::Prompt;
use crate::rollout::layout::Layout;
use crate::rollout::pages::{PAGE_ROWS, Pages};
use crate::train::fit::{Mix, Update};
use std::sync::Arc;

/// Decoder rows beyond which no larger micro-batch is looked for: it would be no faster.
pub const MOST_ROWS: usize = 65_536;

/// A micro-batch that fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fitting {
    /// Groups with all their completions at full length.
    pub groups: usize,
    /// Decoder rows: what `--micro_batch_tokens` counts.
    pub rows: usize,
    /// Larger ones may fit too: nothing above [`MOST_ROWS`] was tried.
    pub more: bool,
}

/// What would still fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Largest {
    /// The largest micro-batch of which nothing is recomputed; `None` if not even one group fits.
    pub kept: Option<Fitting>,
    /// The largest micro-batch of which everything that can be is recomputed.
    pub recomputed: Option<Fitting>,
    /// Rows of the largest KV cache.
    pub cache_rows: usize,
    /// Completions of full length that such a cache holds at a time, with their prompts.
    pub cache_sequences: usize,
}

impl Largest {
    /// Looks for them in `room` bytes above what stays.
    pub(in crate::train) fn find(
        update: &Update,
        prompt: &Arc<Prompt>,
        layout: &Layout,
        room: usize,
    ) -> Result<Self> {
        let length = update.settings.sampling.max_completion_length;
        let (n, _) = update.slice();
        let rows = prompt.len() + n * (length - 1);
        // Patches of a tower that is trained are inputs of the tape, and weigh while it is planned.
        let most = if update.trains_vision() { MOST_ROWS / 4 } else { MOST_ROWS };
        let cap = (most / rows).max(1);
        let largest = |when| -> Result<Option<Fitting>> {
            let peak = |groups| {
                let planned = update.plan(prompt, Mix { groups, length }, when, room)?;
                Ok(planned.plan.peak())
            };
            let found = most_that_fit(peak, room, cap)?;
            Ok(found.map(|groups| Fitting { groups, rows: groups * rows, more: groups == cap }))
        };
        let kept = largest(Recompute::Never)?;
        let recomputed = match kept {
            Some(f) if f.more => kept,
            _ => largest(Recompute::Always)?,
        };
        let n = update.settings.grpo.num_generations;
        let own = Pages::needed(length - 1);
        let group = Pages::needed(prompt.len()) + n * own;
        let rest = (layout.fit % group).saturating_sub(Pages::needed(prompt.len()));
        let rest = if own == 0 { 0 } else { (rest / own).min(n) };
        Ok(Largest {
            kept,
            recomputed,
            cache_rows: layout.fit * PAGE_ROWS,
            cache_sequences: layout.fit / group * n + rest,
        })
    }
}

/// The largest count up to `cap` whose peak is at most `room`, for a peak that grows nearly in
/// proportion: the next count to try is where a line through what is known meets the room.
fn most_that_fit(
    mut peak: impl FnMut(usize) -> Result<usize>,
    room: usize,
    cap: usize,
) -> Result<Option<usize>> {
    let one = peak(1)?;
    if one > room {
        return Ok(None);
    }
    let (mut fits, mut fails, mut next) = (1, cap + 1, 2);
    while fails - fits > 1 {
        let count = next.clamp(fits + 1, fails - 1);
        let bytes = peak(count)?;
        *if bytes <= room { &mut fits } else { &mut fails } = count;
        let slope = bytes.saturating_sub(one).max(count - 1) / (count - 1);
        next = 1 + (room - one) / slope;
        // The line says that the last count that fits is the largest: ask the one after it.
        next = if next == fits { fits + 1 } else { next };
    }
    Ok(Some(fits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_count_is_found_in_a_few_plans() {
        for (first, slope, bend) in [(100, 10, 0), (5, 7, 3), (1, 1, 0), (40, 100, 20)] {
            for room in [0, 50, 100, 109, 110, 999, 12_345] {
                let of = |n: usize| first + slope * (n - 1) + bend * (n / 3);
                let mut asked = 0;
                let peak = |n: usize| {
                    asked += 1;
                    Ok(of(n))
                };
                let found = most_that_fit(peak, room, 500).unwrap();
                let wanted = (1..=500).rev().find(|n| of(*n) <= room);
                assert_eq!(found, wanted, "{first} {slope} {bend} {room}");
                assert!(asked <= 9, "{asked} plans");
            }
        }
    }
}
