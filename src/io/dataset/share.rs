//! Shares of data files: the first, the last or some of the rows of a file, as mixtures of data sets have
//! them. Reads no row.

use crate::base::{Error, Philox, Result, RngDomain};

/// Which rows of a file are taken; they stay in the file's order.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum Share {
    /// Every row.
    #[default]
    All,
    /// The first ones.
    First(Amount),
    /// The last ones.
    Last(Amount),
    /// Ones that are drawn by a seed.
    Drawn(Amount),
}

/// How many rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Amount {
    /// So many, or all if there are fewer.
    Rows(usize),
    /// So many of a hundred, rounded up.
    Percent(f64),
}

/// What a share may look like.
pub const SHARES: &str =
    "all, first:N, end:N or random:N, where N is a number of rows or of percent, such as 50%";

impl Share {
    /// Reads `all`, `first:100`, `end:20%` or `random:50%` (VLM-R1's `sampling_strategy`).
    ///
    /// # Errors
    /// Of kind usage, for every other text.
    pub fn parse(text: &str) -> Result<Share> {
        let wrong = || {
            Error::usage("a share of a data file is not understood")
                .key("dataset_shares")
                .expected(SHARES)
                .found(format!("{text:?}"))
        };
        if text == "all" {
            return Ok(Share::All);
        }
        let (kind, amount) = text.split_once(':').ok_or_else(wrong)?;
        let amount = match amount.strip_suffix('%') {
            Some(percent) => {
                let percent: f64 = percent.trim().parse().map_err(|_| wrong())?;
                if !(percent > 0.0 && percent <= 100.0) {
                    return Err(wrong());
                }
                Amount::Percent(percent)
            }
            None => {
                let rows = amount.trim().parse().ok().filter(|rows| *rows > 0);
                Amount::Rows(rows.ok_or_else(wrong)?)
            }
        };
        match kind {
            "first" => Ok(Share::First(amount)),
            "end" => Ok(Share::Last(amount)),
            "random" => Ok(Share::Drawn(amount)),
            _ => Err(wrong()),
        }
    }

    /// Whether each of `rows` rows is taken; `seed` and the number of the file decide what is drawn.
    pub(super) fn of(self, rows: usize, seed: u64, file: usize) -> Vec<bool> {
        let (from, taken) = match self {
            Share::All => (0, rows),
            Share::First(amount) => (0, amount.of(rows)),
            Share::Last(amount) => (rows - amount.of(rows), amount.of(rows)),
            Share::Drawn(amount) => return drawn(rows, amount.of(rows), seed, file),
        };
        (0..rows).map(|i| (from..from + taken).contains(&i)).collect()
    }
}

impl Amount {
    fn of(self, rows: usize) -> usize {
        match self {
            Amount::Rows(n) => n.min(rows),
            // 7 % of 100 rows are 7, though 0.07 * 100 is a little more.
            Amount::Percent(p) => ((rows as f64 * p / 100.0 - 1e-9).ceil() as usize).min(rows),
        }
    }
}

fn drawn(rows: usize, taken: usize, seed: u64, file: usize) -> Vec<bool> {
    let mut order: Vec<usize> = (0..rows).collect();
    // Orders of epochs are streams (epoch, 0), rows that are not trained on are (0, 1).
    Philox::new(seed, RngDomain::Shuffle).stream(0, 2 + file as u32).shuffle(&mut order);
    let mut chosen = vec![false; rows];
    order.into_iter().take(taken).for_each(|i| chosen[i] = true);
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(text: &str, rows: usize) -> Vec<usize> {
        let chosen = Share::parse(text).unwrap().of(rows, 1, 0);
        (0..rows).filter(|i| chosen[*i]).collect()
    }

    #[test]
    fn shares_are_those_of_their_names() {
        assert_eq!(taken("all", 3), [0, 1, 2]);
        assert_eq!(taken("first:2", 5), [0, 1]);
        assert_eq!(taken("end:2", 5), [3, 4]);
        assert_eq!(taken("first:9", 5).len(), 5);
        assert_eq!(taken("end:30%", 5), [3, 4], "rounded up");
        for percent in 1..=100 {
            assert_eq!(taken(&format!("first:{percent}%"), 100).len(), percent);
        }
        assert_eq!(taken("random:50%", 0), Vec::<usize>::new());
    }

    #[test]
    fn what_is_drawn_depends_on_seed_and_file_alone() {
        let share = Share::parse("random:50%").unwrap();
        let one = share.of(100, 1, 0);
        assert_eq!(one.iter().filter(|c| **c).count(), 50);
        assert_eq!(one, share.of(100, 1, 0));
        assert_ne!(one, share.of(100, 2, 0));
        assert_ne!(one, share.of(100, 1, 1));
        assert_ne!(one, Share::parse("first:50").unwrap().of(100, 1, 0));
    }

    #[test]
    fn other_texts_are_refused_with_the_right_ones() {
        for text in [
            "",
            "some",
            "first",
            "first:",
            "first:0",
            "first:-1",
            "first:1.5",
            "end:0%",
            "end:101%",
            "half:50%",
            "random:x%",
            "random:NaN%",
        ] {
            let e = Share::parse(text).unwrap_err();
            assert!(e.exit_code() == 2 && e.to_string().contains("random:N"), "{text}: {e}");
        }
    }
}
