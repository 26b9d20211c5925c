//! Two models on the same rows: differences, what became better and worse, and how likely so much
//! difference is by chance alone. Pure functions of pairs of scores.

use super::statistics::{Interval, Precision, draws, percentiles};

/// How two models compare on one reward.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// Rows that both judged.
    pub pairs: usize,
    /// Mean of the first over these rows.
    pub before: f64,
    /// Mean of the second.
    pub after: f64,
    /// Interval of the difference `after - before`, by a bootstrap of rows; none below two.
    pub interval: Option<Interval>,
    /// Two-sided probability of at least this difference if the two are alike.
    pub p: f64,
    /// `mcnemar` or `permutation`.
    pub test: &'static str,
    /// Rows where the second earned more, less, and the same.
    pub wins: usize,
    /// Rows where it earned less.
    pub losses: usize,
    /// Rows where it earned the same.
    pub ties: usize,
}

/// Differences up to this many are permuted in every way.
const EXACT: usize = 16;

/// Compares pairs `(before, after)` of rows' mean scores. Where all are 0 or 1, the test is McNemar's, exact;
/// otherwise signs of the differences are turned over, in every way where these are few, else at random.
pub fn compare(pairs: &[(f64, f64)], p: Precision) -> Comparison {
    let n = pairs.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| pairs.iter().map(of).sum::<f64>() / n;
    let differences: Vec<f64> = pairs.iter().map(|(a, b)| b - a).collect();
    let wins = differences.iter().filter(|d| **d > 0.0).count();
    let losses = differences.iter().filter(|d| **d < 0.0).count();
    let zero_or_one = |s: f64| s == 0.0 || s == 1.0;
    let binary = pairs.iter().all(|(a, b)| zero_or_one(*a) && zero_or_one(*b));
    let (p_value, test) = match binary {
        true => (mcnemar(wins, losses), "mcnemar"),
        false => (permutation(&differences, p), "permutation"),
    };
    let interval = (pairs.len() > 1).then(|| {
        let means = draws(p, 1, |stream| {
            let drawn =
                (0..differences.len()).map(|_| differences[stream.below(differences.len())]);
            drawn.sum::<f64>() / n
        });
        let (low, high) = percentiles(means, p.level);
        Interval { low, high, method: "bootstrap" }
    });
    Comparison {
        pairs: pairs.len(),
        before: mean(|p| p.0),
        after: mean(|p| p.1),
        interval,
        p: p_value,
        test,
        wins,
        losses,
        ties: pairs.len() - wins - losses,
    }
}

/// McNemar's test, exact (Q. McNemar, Psychometrika 12, 1947): of the pairs that differ, each kind has
/// the chance one half, so `p = min(1, 2 P(X <= min(b, c)))` with X binomial in `b + c` throws.
pub fn mcnemar(b: usize, c: usize) -> f64 {
    let n = b + c;
    if b == c {
        return 1.0;
    }
    // Sums of logarithms: 2^-n vanishes long before n does.
    let mut logarithm = -(n as f64) * std::f64::consts::LN_2;
    let mut sum = logarithm.exp();
    for i in 0..b.min(c) {
        logarithm += ((n - i) as f64).ln() - ((i + 1) as f64).ln();
        sum += logarithm.exp();
    }
    (2.0 * sum).min(1.0)
}

/// Fisher's sign-flip test of a mean of 0 (R. A. Fisher, "The Design of Experiments", 1935, section 21):
/// the share of sign patterns whose sum is at least as far from 0. Draws count the observed pattern, so
/// that p is never 0 (Phipson and Smyth 2010).
pub fn permutation(differences: &[f64], p: Precision) -> f64 {
    let moved: Vec<f64> = differences.iter().copied().filter(|d| *d != 0.0).collect();
    let seen = moved.iter().sum::<f64>().abs();
    // Sums of the same numbers in another order differ by rounding.
    let enough = seen - 1e-9 * moved.iter().map(|d| d.abs()).sum::<f64>();
    if moved.len() <= EXACT {
        let all = 1u32 << moved.len();
        let sum = |signs: u32| {
            let signed = |(i, d): (usize, &f64)| if signs >> i & 1 == 1 { -d } else { *d };
            moved.iter().enumerate().map(signed).sum::<f64>()
        };
        let count = (0..all).filter(|signs| sum(*signs).abs() >= enough).count();
        return count as f64 / f64::from(all);
    }
    let sums = draws(p, 2, |stream| {
        let mut sum = 0.0;
        for part in moved.chunks(32) {
            let word = stream.word();
            let signed = |(i, d): (usize, &f64)| if word >> i & 1 == 1 { -d } else { *d };
            sum += part.iter().enumerate().map(signed).sum::<f64>();
        }
        sum.abs()
    });
    (1 + sums.iter().filter(|s| **s >= enough).count()) as f64 / (1 + sums.len()) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    const P: Precision = Precision { level: 0.95, draws: 20_000, seed: 3 };

    fn golden(part: &str) -> Vec<Value> {
        let text = include_str!("../../tests/data/evaluation/statistics.json");
        let all: Value = serde_json::from_str(text).unwrap();
        all[part].as_array().unwrap().clone()
    }
    fn numbers(v: &Value) -> Vec<f64> {
        v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
    }

    #[test]
    fn mcnemar_is_the_binomial_test_of_scipy() {
        for case in golden("mcnemar") {
            let count = |key: &str| case[key].as_u64().unwrap() as usize;
            let (found, wanted) = (mcnemar(count("b"), count("c")), case["p"].as_f64().unwrap());
            assert!((found - wanted).abs() <= 1e-9 * wanted, "{found} {case}");
        }
    }

    #[test]
    fn permutations_are_those_of_scipy() {
        for case in golden("permutation") {
            let differences = numbers(&case["differences"]);
            let (found, wanted) = (permutation(&differences, P), case["p"].as_f64().unwrap());
            // Beyond a few differences both are draws: within five standard errors of a share.
            let error = match differences.len() <= EXACT {
                true => 1e-9,
                false => 5.0 * (2.0 * wanted * (1.0 - wanted) / P.draws as f64).sqrt() + 1e-4,
            };
            assert!((found - wanted).abs() <= error, "{found} {case}");
        }
    }

    #[test]
    fn wins_losses_and_ties_are_counted() {
        let pairs = [(0.0, 1.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (0.0, 0.0)];
        let c = compare(&pairs, P);
        assert_eq!((c.pairs, c.wins, c.losses, c.ties, c.test), (5, 2, 1, 2, "mcnemar"));
        assert_eq!((c.before, c.after, c.p), (0.4, 0.6, 1.0));
        let interval = c.interval.unwrap();
        assert!(interval.low < 0.0 && interval.high > 0.2, "{interval:?}");
        let graded = compare(&[(0.5, 1.0), (0.25, 0.5)], P);
        assert_eq!((graded.test, graded.p), ("permutation", 0.5));
        let alike = compare(&[(0.5, 0.5), (0.25, 0.25)], P);
        assert_eq!((alike.p, alike.ties), (1.0, 2));
    }
}
