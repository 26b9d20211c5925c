//! Means with their intervals, pass@k and majority votes, as pure functions of scores. Samples of one row
//! are not independent, so rows are what is counted and drawn. Draws are Philox's: the same numbers on
//! every machine, with any number of threads.

use crate::base::{Philox, RngDomain};
use rayon::prelude::*;

/// Where a mean may lie.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// How it was computed: `wilson` or `bootstrap`.
    pub method: &'static str,
}

/// How intervals are computed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Precision {
    /// Confidence, between 0.5 and 0.999.
    pub level: f64,
    /// Draws of the bootstrap and of permutations.
    pub draws: usize,
    /// Root of the draws.
    pub seed: u64,
}

/// What a column of scores comes to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// Mean over samples; NaN if there are none.
    pub mean: f64,
    /// Standard deviation over samples, with n - 1; NaN below two.
    pub sd: f64,
    /// Interval of the mean; none below two rows.
    pub interval: Option<Interval>,
    /// Samples that have a score.
    pub judged: usize,
    /// Rows that have such a sample.
    pub rows: usize,
}

/// Whether every score is 0 or 1, and there are some.
pub fn binary(rows: &[Vec<f64>]) -> bool {
    let mut all = rows.iter().flatten().peekable();
    all.peek().is_some() && all.all(|s| *s == 0.0 || *s == 1.0)
}

/// Mean and interval of scores, given by row. Rows whose samples are all 0 or all 1, of equal numbers, are
/// throws of one coin and get Wilson's interval; everything else the percentiles of a bootstrap that draws whole rows (a cluster bootstrap: Davison and
/// Hinkley, "Bootstrap Methods and their Application", 1997, section 3.8).
pub fn summary(rows: &[Vec<f64>], p: Precision) -> Summary {
    let scored: Vec<&Vec<f64>> = rows.iter().filter(|r| !r.is_empty()).collect();
    let judged: usize = scored.iter().map(|r| r.len()).sum();
    let mean = scored.iter().copied().flatten().sum::<f64>() / judged as f64;
    let square = scored.iter().copied().flatten().map(|s| (s - mean) * (s - mean)).sum::<f64>();
    let sd = if judged > 1 { (square / (judged - 1) as f64).sqrt() } else { f64::NAN };
    let interval = if scored.len() < 2 {
        None
    } else if let Some(right) = coins(&scored) {
        Some(wilson(right, scored.len(), p.level))
    } else {
        let clusters: Vec<(f64, usize)> =
            scored.iter().map(|r| (r.iter().sum::<f64>(), r.len())).collect();
        Some(bootstrap(&clusters, p))
    };
    Summary { mean, sd, interval, judged, rows: scored.len() }
}

/// Rows that are right, if every row has as many samples as the others and all of them agree on 0 or 1.
fn coins(rows: &[&Vec<f64>]) -> Option<usize> {
    let alike = |row: &&Vec<f64>| {
        row.len() == rows[0].len()
            && (row.iter().all(|s| *s == 0.0) || row.iter().all(|s| *s == 1.0))
    };
    rows.iter().all(alike).then(|| rows.iter().filter(|row| row[0] == 1.0).count())
}

/// Wilson's score interval of a share `k / n`, n at least 1 (E. B. Wilson, JASA 22, 1927):
/// `(p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n)`.
pub fn wilson(k: usize, n: usize, level: f64) -> Interval {
    let (n, p) = (n as f64, k as f64 / n as f64);
    let z = normal_quantile(0.5 + level / 2.0);
    let (z2, scale) = (z * z, 1.0 + z * z / n);
    let centre = (p + z2 / (2.0 * n)) / scale;
    let half = z / scale * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    // At 0 and 1 the ends are exact; rounding must not pass them.
    let low = if k == 0 { 0.0 } else { (centre - half).max(0.0) };
    let high = if p == 1.0 { 1.0 } else { (centre + half).min(1.0) };
    Interval { low, high, method: "wilson" }
}

/// Percentile interval of a ratio of sums over clusters `(sum, count)`, which are drawn with replacement.
fn bootstrap(clusters: &[(f64, usize)], p: Precision) -> Interval {
    let means = draws(p, 0, |stream| {
        let (mut sum, mut count) = (0.0, 0);
        for _ in 0..clusters.len() {
            let (s, c) = clusters[stream.below(clusters.len())];
            sum += s;
            count += c;
        }
        sum / count as f64
    });
    let (low, high) = percentiles(means, p.level);
    Interval { low, high, method: "bootstrap" }
}

/// One number per draw; draw number i has a stream of its own, so threads do not matter.
pub(super) fn draws(
    p: Precision,
    purpose: u32,
    one: impl Fn(&mut crate::base::rng::PhiloxStream) -> f64 + Sync,
) -> Vec<f64> {
    let philox = Philox::new(p.seed, RngDomain::Resampling);
    (0..p.draws as u32).into_par_iter().map(|i| one(&mut philox.stream(purpose, i))).collect()
}

/// The ends of the middle share `level` of some numbers (at least one), between neighbours in a straight
/// line, as numpy's `percentile` does.
pub(super) fn percentiles(mut values: Vec<f64>, level: f64) -> (f64, f64) {
    values.sort_unstable_by(f64::total_cmp);
    let at = |q: f64| {
        let place = q * (values.len() - 1) as f64;
        let (below, part) = (place.floor() as usize, place.fract());
        let above = (below + 1).min(values.len() - 1);
        values[below] + part * (values[above] - values[below])
    };
    let tail = (1.0 - level) / 2.0;
    (at(tail), at(1.0 - tail))
}

/// The normal distribution's value below which a share `q` lies, 0.5 <= q < 1, to 1e-14: bisection of
/// `Φ(x) = 1/2 + φ(x) (x + x³/3 + x⁵/(3·5) + ...)` (Marsaglia, J. Stat. Software 11(4), 2004).
pub fn normal_quantile(q: f64) -> f64 {
    let below = |x: f64| {
        let (mut sum, mut term, mut i) = (x, x, 1.0);
        while term > 1e-18 * sum {
            i += 2.0;
            term *= x * x / i;
            sum += term;
        }
        0.5 + sum * (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt()
    };
    let (mut low, mut high) = (0.0, 8.0);
    for _ in 0..80 {
        let middle = 0.5 * (low + high);
        if below(middle) < q { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

/// The chance that at least one of `k` samples is right, without bias from `n` of which `c` are
/// (Chen et al., "Evaluating large language models trained on code", 2021, arXiv 2107.03374, section
/// 2.1): `1 - C(n-c, k) / C(n, k)`, as a product that never overflows. `1 <= k <= n`.
pub fn pass_at_k(n: usize, c: usize, k: usize) -> f64 {
    if n - c < k {
        return 1.0;
    }
    1.0 - (n - c + 1..=n).map(|i| 1.0 - k as f64 / i as f64).product::<f64>()
}

/// What the majority of some answers earns: the score of the first sample that gives the answer given
/// most often; between equals the one given first. No answer at all earns 0.
pub fn majority(answers: &[Option<String>], scores: &[Option<f64>]) -> Option<f64> {
    let mut counts: Vec<(&str, usize, usize)> = Vec::new();
    for (i, said) in answers.iter().enumerate() {
        let Some(said) = said else { continue };
        match counts.iter_mut().find(|(text, ..)| text == said) {
            Some((_, count, _)) => *count += 1,
            None => counts.push((said, 1, i)),
        }
    }
    let most = counts.iter().map(|c| c.1).max();
    match counts.iter().find(|c| Some(c.1) == most) {
        Some((_, _, first)) => scores[*first],
        None => Some(0.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    const P: Precision = Precision { level: 0.95, draws: 20_000, seed: 1 };

    /// Made by tools/golden/evaluation.py with scipy.
    fn golden(part: &str) -> Vec<Value> {
        let text = include_str!("../../tests/data/evaluation/statistics.json");
        let all: Value = serde_json::from_str(text).unwrap();
        all[part].as_array().unwrap().clone()
    }
    fn number(v: &Value, key: &str) -> f64 {
        v[key].as_f64().unwrap()
    }
    fn near(found: f64, wanted: f64) {
        assert!((found - wanted).abs() < 1e-10, "{found} {wanted}");
    }

    #[test]
    fn shares_have_the_interval_of_scipy() {
        for case in golden("wilson") {
            let count = |key| number(&case, key) as usize;
            let found = wilson(count("k"), count("n"), number(&case, "level"));
            near(found.low, number(&case, "low"));
            near(found.high, number(&case, "high"));
        }
        for case in golden("quantiles") {
            near(normal_quantile(number(&case, "q")), number(&case, "z"));
        }
    }

    #[test]
    fn pass_at_k_counts_every_choice() {
        for case in golden("pass_at_k") {
            let count = |key| number(&case, key) as usize;
            near(pass_at_k(count("n"), count("c"), count("k")), number(&case, "value"));
        }
    }

    #[test]
    fn a_bootstrap_has_the_width_of_theory() {
        for case in golden("bootstrap") {
            let values: Vec<Vec<f64>> = case["rows"]
                .as_array()
                .unwrap()
                .iter()
                .map(|r| r.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect())
                .collect();
            let s = summary(&values, P);
            let interval = s.interval.unwrap();
            assert_eq!(interval.method, "bootstrap");
            near(s.mean, number(&case, "mean"));
            near(s.sd, number(&case, "sd"));
            // Both are draws: ends agree to a few hundredths of the width.
            let width = number(&case, "high") - number(&case, "low");
            assert!(
                (interval.low - number(&case, "low")).abs() < 0.04 * width,
                "{interval:?} {case}"
            );
            assert!((interval.high - number(&case, "high")).abs() < 0.04 * width, "{interval:?}");
            assert_eq!(summary(&values, P), s, "the same draws");
            // Means of 0/1 scores lie on a lattice, where other draws may have the same ends.
            if !binary(&values) {
                assert_ne!(summary(&values, Precision { seed: 2, ..P }), s);
            }
        }
    }

    #[test]
    fn methods_follow_the_scores() {
        let rows = |v: &[f64]| v.iter().map(|s| vec![*s]).collect::<Vec<_>>();
        let method = |r: &[Vec<f64>]| summary(r, P).interval.map(|i| i.method);
        assert_eq!(method(&rows(&[0.0, 1.0, 1.0])), Some("wilson"));
        assert_eq!(method(&rows(&[0.0, 0.5])), Some("bootstrap"));
        assert_eq!(method(&[vec![0.0, 1.0], vec![1.0, 1.0]]), Some("bootstrap"));
        // Samples that agree say no more than one of them.
        let twice = summary(&[vec![0.0, 0.0], vec![0.0, 0.0]], P).interval;
        assert_eq!(twice, summary(&rows(&[0.0, 0.0]), P).interval);
        assert_eq!(twice.map(|i| i.method), Some("wilson"));
        assert_eq!(method(&[vec![0.0], vec![1.0, 1.0]]), Some("bootstrap"));
        assert_eq!(method(&rows(&[1.0])), None);
        let none = summary(&[vec![], vec![]], P);
        assert!(none.mean.is_nan() && none.judged == 0 && none.interval.is_none());
        assert_eq!(summary(&[vec![1.0], vec![], vec![0.0]], P).rows, 2);
        assert!(binary(&rows(&[0.0, 1.0])) && !binary(&rows(&[0.0, 2.0])) && !binary(&[]));
    }

    #[test]
    fn majorities_vote() {
        let said = |v: &[&str]| -> Vec<Option<String>> {
            v.iter().map(|s| (!s.is_empty()).then(|| s.to_string())).collect()
        };
        let scores = [Some(0.0), Some(1.0), Some(1.0)];
        assert_eq!(majority(&said(&["a", "b", "b"]), &scores), Some(1.0));
        assert_eq!(majority(&said(&["a", "b", "c"]), &scores), Some(0.0));
        assert_eq!(majority(&said(&["", "b", ""]), &scores), Some(1.0));
        assert_eq!(majority(&said(&["", "", ""]), &scores), Some(0.0));
        assert_eq!(majority(&said(&["a", "a"]), &[None, Some(1.0)]), None);
    }
}
