//! Numbers of many rows in a few: least, median, 95th percentile, greatest, mean, and how they are
//! spread. Order of the rows never matters.

use serde::Serialize;

/// Bars of a histogram at most.
const BARS: usize = 24;

/// How some numbers are spread.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// How many numbers.
    pub count: usize,
    /// The least.
    pub min: f64,
    /// Half of them are at most this (nearest rank).
    pub median: f64,
    /// 95 % of them are at most this (nearest rank).
    pub p95: f64,
    /// The greatest.
    pub max: f64,
    /// Their mean.
    pub mean: f64,
}

impl Spread {
    /// Of finite numbers; `None` if there is none.
    pub fn of(numbers: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let sorted = sorted(numbers);
        Some(Spread {
            count: sorted.len(),
            min: *sorted.first()?,
            median: percentile(&sorted, 50),
            p95: percentile(&sorted, 95),
            max: *sorted.last()?,
            mean: sorted.iter().sum::<f64>() / sorted.len() as f64,
        })
    }
}

/// Finite numbers, ascending.
pub(super) fn sorted(numbers: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut all: Vec<f64> = numbers.into_iter().filter(|n| n.is_finite()).collect();
    all.sort_by(f64::total_cmp);
    all
}

/// The least of ascending numbers that `share` percent of them do not exceed.
pub(super) fn percentile(sorted: &[f64], share: usize) -> f64 {
    let rank = (sorted.len() * share).div_ceil(100).max(1);
    sorted[rank - 1]
}

/// Bars of equal width; what is far beyond the 95th percentile is counted apart, so that one odd
/// number does not hide all others.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Histogram {
    /// Where the first bar begins.
    pub from: f64,
    /// Width of a bar: 1, 2 or 5 times a power of ten.
    pub width: f64,
    /// Numbers in each bar, its lower edge included.
    pub counts: Vec<usize>,
    /// Numbers right of the last bar.
    pub beyond: usize,
}

impl Histogram {
    /// Of finite numbers; bars are at least `least` wide. `None` if there is no number.
    pub fn of(numbers: impl IntoIterator<Item = f64>, least: f64) -> Option<Histogram> {
        let sorted = sorted(numbers);
        let (low, high) = (*sorted.first()?, *sorted.last()?);
        let most = high.min(low + 4.0 * (percentile(&sorted, 95) - low));
        let top = if most > low { most } else { high };
        let width = round_up(((top - low) / BARS as f64).max(least));
        let from = (low / width).floor() * width;
        let bar = |n: f64| ((n - from) / width).floor() as usize;
        let mut counts = vec![0; (bar(top) + 1).min(BARS + 2)];
        let mut beyond = 0;
        for n in sorted {
            match counts.get_mut(bar(n)) {
                Some(count) => *count += 1,
                None => beyond += 1,
            }
        }
        Some(Histogram { from, width, counts, beyond })
    }
}

/// The next of 1, 2, 5, 10, 20, 50 and so on.
fn round_up(width: f64) -> f64 {
    let power = 10f64.powf(width.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().find(|s| width <= s * power * (1.0 + 1e-9));
    step.unwrap_or(10.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads_are_by_nearest_rank() {
        let s = Spread::of((1..=100).rev().map(f64::from)).unwrap();
        let expected =
            Spread { count: 100, min: 1.0, median: 50.0, p95: 95.0, max: 100.0, mean: 50.5 };
        assert_eq!(s, expected);
        let one = Spread::of([7.0, f64::NAN]).unwrap();
        assert_eq!((one.count, one.median, one.p95), (1, 7.0, 7.0));
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn histograms_count_everything() {
        let h = Histogram::of((0..100).map(f64::from), 1.0).unwrap();
        assert_eq!((h.from, h.width, h.beyond), (0.0, 5.0, 0));
        assert_eq!(h.counts, [5; 20]);
        let h = Histogram::of([3.0, 3.0], 1.0).unwrap();
        assert_eq!((h.from, h.width, h.counts, h.beyond), (3.0, 1.0, vec![2], 0));
        // One of a hundred is far away.
        let far = (0..99).map(f64::from).chain([1e7]);
        let h = Histogram::of(far, 1.0).unwrap();
        assert_eq!((h.beyond, h.counts.iter().sum::<usize>()), (1, 99));
        assert!(h.counts.len() <= BARS + 2 && h.width <= 20.0);
        assert_eq!(Histogram::of([], 1.0), None);
        for n in [0.0, 1e-9, 5e18] {
            let h = Histogram::of([n, 2.0 * n, 3.0 * n], 1e-12).unwrap();
            assert_eq!(h.counts.iter().sum::<usize>() + h.beyond, 3, "{n}");
        }
    }
}
