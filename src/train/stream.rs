//! Rows of a data set in the order of a run, encoded ahead of time on a thread of their own, which has others
//! to help. The order is a function of the seed and the number of rows consumed; a row that cannot be encoded is
//! passed over, counted and named.

use crate::base::{Error, Philox, Result, RngDomain};
use crate::io::dataset::Row;
use crate::model::prompt::Prompt;
use crate::train::prompts::PromptEncoder;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::Scope;

/// The order in which rows are visited.
#[derive(Debug, Clone)]
pub struct RowOrder {
    rows: usize,
    seed: u64,
    shuffle: bool,
    epoch: Option<(usize, Vec<usize>)>,
}

impl RowOrder {
    /// The order of a run over `rows` rows (at least one).
    pub fn new(rows: usize, seed: u64, shuffle: bool) -> Self {
        RowOrder { rows, seed, shuffle, epoch: None }
    }

    /// The row at a place of the endless sequence of epochs.
    pub fn row(&mut self, cursor: usize) -> usize {
        let (epoch, at) = (cursor / self.rows, cursor % self.rows);
        if !self.shuffle {
            return at;
        }
        if self.epoch.as_ref().is_none_or(|(e, _)| *e != epoch) {
            let mut order: Vec<usize> = (0..self.rows).collect();
            let rng = Philox::new(self.seed, RngDomain::Shuffle);
            rng.stream(epoch as u32, 0).shuffle(&mut order);
            self.epoch = Some((epoch, order));
        }
        self.epoch.as_ref().map_or(at, |(_, order)| order[at])
    }
}

/// Encoded rows.
#[derive(Debug)]
pub struct Batch {
    /// (row number, prompt).
    pub prompts: Vec<(usize, Arc<Prompt>)>,
    /// Why rows were passed over.
    pub skipped: Vec<Error>,
    /// Rows consumed since the beginning of the run, this batch included.
    pub cursor: usize,
}

/// Encodes the next `n` good rows after `cursor`.
///
/// # Errors
/// If a bad row is met and `strict`, or if a whole epoch has no good row.
pub fn next_batch(
    rows: &[Row],
    encoder: &PromptEncoder,
    order: &mut RowOrder,
    mut cursor: usize,
    n: usize,
    strict: bool,
) -> Result<Batch> {
    let (mut prompts, mut skipped) = (Vec::with_capacity(n), Vec::new());
    let mut bad_in_a_row = 0;
    while prompts.len() < n {
        // As many as are missing, so that no row is consumed that one thread would not have.
        let wanted: Vec<usize> =
            (cursor..cursor + n - prompts.len()).map(|c| order.row(c)).collect();
        cursor += wanted.len();
        let chosen: Vec<&Row> = wanted.iter().map(|i| &rows[*i]).collect();
        for (row, prompt) in wanted.into_iter().zip(encoder.encode_rows(&chosen)) {
            match prompt {
                Ok(p) => {
                    prompts.push((row, Arc::new(p)));
                    bad_in_a_row = 0;
                }
                Err(e) if strict => return Err(e),
                Err(e) => {
                    bad_in_a_row += 1;
                    if bad_in_a_row > rows.len() {
                        return Err(Error::data("no row of the data set can be used")
                            .found(e.one_line())
                            .hint(
                                "the last of the errors is shown; mend the rows or the options",
                            ));
                    }
                    skipped.push(e);
                }
            }
        }
    }
    Ok(Batch { prompts, skipped, cursor })
}

/// Encodes batches on a thread, one ahead of the one that is being used.
pub fn prefetch<'scope, 'env: 'scope>(
    scope: &'scope Scope<'scope, 'env>,
    rows: &'env [Row],
    encoder: &'env PromptEncoder,
    mut order: RowOrder,
    mut cursor: usize,
    n: usize,
    strict: bool,
) -> Receiver<Result<Batch>> {
    let (send, receive) = sync_channel(1);
    scope.spawn(move || {
        loop {
            let batch = next_batch(rows, encoder, &mut order, cursor, n, strict);
            let last = batch.is_err();
            if let Ok(b) = &batch {
                cursor = b.cursor;
            }
            if send.send(batch).is_err() || last {
                return;
            }
        }
    });
    receive
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_visits_every_row_in_its_own_order() {
        let mut order = RowOrder::new(10, 3, true);
        let epoch = |order: &mut RowOrder, e: usize| -> Vec<usize> {
            (0..10).map(|i| order.row(e * 10 + i)).collect()
        };
        let (first, second) = (epoch(&mut order, 0), epoch(&mut order, 1));
        assert_ne!(first, second);
        assert_eq!(epoch(&mut order, 0), first, "the order depends on nothing but the cursor");
        let mut sorted = second.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..10).collect::<Vec<_>>());
    }
}
