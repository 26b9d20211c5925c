//! VLM-R1's `weighted_sum`: how well boxes lie and how complete they are, after a greedy matching.

/// Overlap from which on two boxes are a pair.
const PAIRED: f64 = 0.5;
/// Weights of position and completeness (`detection_score`: alpha 0.7, beta 0, gamma 0.3).
const WEIGHTS: [f64; 2] = [0.7, 0.3];

/// A named box and its reference box.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Pair {
    pub named: usize,
    pub truth: usize,
    pub iou: f64,
}

/// Pairs of most overlap first, each box once; of equals the first named, then the first reference.
pub(super) fn greedy(named: usize, truth: usize, iou: impl Fn(usize, usize) -> f64) -> Vec<Pair> {
    let all = (0..named).flat_map(|n| (0..truth).map(move |t| (n, t)));
    let pairs = all.map(|(n, t)| Pair { named: n, truth: t, iou: iou(n, t) });
    let mut pairs: Vec<Pair> = pairs.filter(|p| p.iou >= PAIRED).collect();
    pairs.sort_by(|a, b| b.iou.total_cmp(&a.iou));
    let (mut free_named, mut free_truth) = (vec![true; named], vec![true; truth]);
    pairs.retain(|p| {
        let free = free_named[p.named] && free_truth[p.truth];
        if free {
            (free_named[p.named], free_truth[p.truth]) = (false, false);
        }
        free
    });
    pairs
}

/// The sum of `pairs` pairs that overlap by `overlap` together, of `named` boxes and `truth` references,
/// both at least one.
pub(super) fn sum(overlap: f64, pairs: usize, truth: usize, named: usize) -> f64 {
    let missed = (truth - pairs) as f64 / truth as f64;
    let wrong = (named - pairs) as f64 / named as f64;
    let complete = 1.0 - (missed + wrong) / 2.0;
    WEIGHTS[0] * (overlap / truth as f64) + WEIGHTS[1] * complete
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greedy_takes_the_best_first_and_each_box_once() {
        let overlaps = [[0.6, 0.9], [0.8, 0.9], [0.4, 0.4]];
        let pairs = greedy(3, 2, |n, t| overlaps[n][t]);
        let want = [(0, 1, 0.9), (1, 0, 0.8)].map(|(named, truth, iou)| Pair { named, truth, iou });
        assert_eq!(pairs, want);
        assert!(greedy(0, 2, |_, _| 1.0).is_empty());
    }

    #[test]
    fn nothing_right_is_nothing_earned() {
        assert_eq!(sum(0.0, 0, 3, 5), 0.0);
        assert!((sum(2.0, 2, 2, 2) - 1.0).abs() < 1e-12);
        assert!((sum(1.0, 1, 2, 1) - (0.35 + 0.3 * 0.75)).abs() < 1e-12);
    }
}
