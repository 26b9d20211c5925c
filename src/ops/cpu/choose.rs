//! Choosing one of many by weight `e^z`: in order of position, or in order of falling weight after
//! truncation to the most likely. Works in time linear in the number of items: nothing here sorts
//! more than a few of them. Weights are singles, their sums doubles; a choice is a function of `z`
//! and the arguments alone.

use super::simd::vectorised;
use super::vecmath::{exp, max, sum};

/// Items whose largest is kept, so that most of them are never looked at one by one.
const BLOCK: usize = 64;
/// Items whose weights are added in singles.
const TILE: usize = 1024;
/// So few candidates are sorted.
const FEW: usize = 32;

/// Which items may be chosen, all conditions in this order.
#[derive(Debug, Clone, Copy)]
pub struct Truncation {
    /// The most likely ones; 0: all.
    pub top_k: usize,
    /// The fewest that together have this share of what is left; 1: all.
    pub top_p: f64,
    /// Those at least this fraction as likely as the most likely; 0: all.
    pub min_p: f64,
}

/// An item, ordered by falling `z`, then by position.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Candidate {
    order: u64,
    weight: f32,
}

impl Candidate {
    #[inline(always)]
    fn new(z: f32, at: usize, top: f32) -> Self {
        // Flipped so that the unsigned order is that of falling numbers.
        let bits = z.to_bits();
        let rising = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
        Candidate { order: u64::from(!rising) << 32 | at as u64, weight: exp(z - top) }
    }
    fn at(&self) -> usize {
        self.order as u32 as usize
    }
}

/// Memory that a thread uses for one row after the other.
#[derive(Debug, Default)]
pub struct Scratch {
    tops: Vec<f32>,
    candidates: Vec<Candidate>,
}

/// Position of the first of the largest, 0 if there is none.
pub fn first_largest(z: &[f32]) -> usize {
    let top = vectorised(
        #[inline(always)]
        || max(z),
    );
    z.iter().position(|&z| z == top).unwrap_or(0)
}

/// The first position at which the running sum of `e^(z - top)` passes `target`; the last one with
/// a weight if none does.
pub fn by_position(z: &[f32], top: f32, target: f64) -> usize {
    let mut weights = [0f32; TILE];
    let (mut passed, mut last) = (0.0, 0);
    for (i, z) in z.chunks(TILE).enumerate() {
        let weights = &mut weights[..z.len()];
        let mass = vectorised(
            #[inline(always)]
            || {
                for (w, &z) in weights.iter_mut().zip(z) {
                    *w = exp(z - top);
                }
                f64::from(sum(weights))
            },
        );
        if passed + mass <= target {
            passed += mass;
            last = weights.iter().rposition(|&w| w > 0.0).map_or(last, |j| i * TILE + j);
            continue;
        }
        let mut sum = passed;
        for (j, &w) in weights.iter().enumerate().filter(|(_, w)| **w > 0.0) {
            sum += f64::from(w);
            last = i * TILE + j;
            if sum > target {
                return last;
            }
        }
        passed = sum;
    }
    last
}

/// Sum of `e^(z - top)`, as [`by_position`] adds it up.
pub fn mass(z: &[f32], top: f32) -> f64 {
    let mut weights = [0f32; TILE];
    let tile = |z: &[f32]| {
        let weights = &mut weights[..z.len()];
        vectorised(
            #[inline(always)]
            || {
                for (w, &z) in weights.iter_mut().zip(z) {
                    *w = exp(z - top);
                }
                f64::from(sum(weights))
            },
        )
    };
    z.chunks(TILE).map(tile).sum()
}

/// Among the items above `floor` that `truncation` leaves, in order of falling `z`, the first at
/// which the running share of the weight passes `u` (in `0..1`). Panics if there are none.
pub fn by_weight(
    z: &[f32],
    floor: f32,
    truncation: &Truncation,
    u: f64,
    scratch: &mut Scratch,
) -> usize {
    let Scratch { tops, candidates } = scratch;
    tops.clear();
    vectorised(
        #[inline(always)]
        || tops.extend(z.chunks(BLOCK).map(max)),
    );
    let top = tops.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
    let t = truncation;
    if t.top_k > 0 {
        gather(z, tops, at_least_k(tops, t.top_k).max(floor.next_up()), top, candidates);
        if candidates.len() > t.top_k {
            candidates.select_nth_unstable_by_key(t.top_k, |c| c.order);
            candidates.truncate(t.top_k);
        }
        if t.top_p < 1.0 {
            let target = t.top_p * total(candidates);
            let kept = lead(candidates, |sum| sum >= target);
            candidates.truncate(kept);
        }
    } else if t.top_p < 1.0 {
        let target = t.top_p * mass(z, top);
        let mut depth = 4.0;
        loop {
            let lowest = (top - depth).max(floor.next_up());
            gather(z, tops, lowest, top, candidates);
            if total(candidates) >= target || lowest == floor.next_up() || depth > 128.0 {
                break;
            }
            depth *= 2.0;
        }
        let kept = lead(candidates, |sum| sum >= target);
        candidates.truncate(kept);
    } else {
        // Beyond 105 below the top, weights are 0.
        let depth = if t.min_p > 0.0 { 0.1 - t.min_p.ln() as f32 } else { 105.0 };
        gather(z, tops, (top - depth).max(floor.next_up()), top, candidates);
    }
    if t.min_p > 0.0 {
        let lowest = f64::from(top) + t.min_p.ln();
        candidates.retain(|c| f64::from(z[c.at()]) >= lowest);
    }
    let target = u * total(candidates);
    let chosen = lead(candidates, |sum| sum > target);
    candidates[chosen - 1].at()
}

/// A number that at least `k` items reach, not far below the `k`-th largest.
fn at_least_k(tops: &[f32], k: usize) -> f32 {
    if k > tops.len() {
        return f32::NEG_INFINITY;
    }
    // The k largest blocks have an item each.
    let mut tops = tops.to_vec();
    *tops.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1
}

/// Collects the items that are `lowest` or more.
fn gather(z: &[f32], tops: &[f32], lowest: f32, top: f32, to: &mut Vec<Candidate>) {
    to.clear();
    vectorised(
        #[inline(always)]
        || {
            for (b, (z, _)) in z.chunks(BLOCK).zip(tops).enumerate().filter(|x| *x.1.1 >= lowest) {
                for (i, &z) in z.iter().enumerate().filter(|(_, z)| **z >= lowest) {
                    to.push(Candidate::new(z, b * BLOCK + i, top));
                }
            }
        },
    );
}

fn total(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|c| f64::from(c.weight)).sum()
}

/// Moves the fewest first candidates whose weight is `enough` to the front, the last of them to
/// the end of those, and returns how many they are: at least one, all if it never is.
fn lead(candidates: &mut [Candidate], enough: impl Fn(f64) -> bool) -> usize {
    let (mut from, mut to, mut before) = (0, candidates.len(), 0.0);
    while to - from > FEW {
        let part = &mut candidates[from..to];
        let half = part.len() / 2;
        part.select_nth_unstable_by_key(half, |c| c.order);
        let mass = total(&part[..half]);
        if enough(before + mass) {
            to = from + half;
        } else {
            from += half;
            before += mass;
        }
    }
    candidates[from..to].sort_unstable_by_key(|c| c.order);
    for (i, c) in candidates[from..to].iter().enumerate() {
        before += f64::from(c.weight);
        if enough(before) {
            return from + i + 1;
        }
    }
    to
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Philox, RngDomain};

    /// The definition, with a full sort.
    fn plainly(z: &[f32], floor: f32, t: &Truncation, u: f64) -> usize {
        let mut order: Vec<usize> = (0..z.len()).filter(|&i| z[i] > floor).collect();
        order.sort_by(|&a, &b| z[b].total_cmp(&z[a]).then(a.cmp(&b)));
        let top = f64::from(z[order[0]]);
        let weight = |i: usize| (f64::from(z[i]) - top).exp();
        if t.top_k > 0 {
            order.truncate(t.top_k);
        }
        let total: f64 = order.iter().map(|&i| weight(i)).sum();
        let before = |n: usize| order[..n].iter().map(|&i| weight(i)).sum::<f64>();
        if t.top_p < 1.0 {
            let kept = (0..order.len()).take_while(|&n| before(n) < t.top_p * total).count();
            order.truncate(kept.max(1));
        }
        order.retain(|&i| weight(i) >= t.min_p);
        let total: f64 = order.iter().map(|&i| weight(i)).sum();
        let mut sum = 0.0;
        let hit = order.iter().find(|&&i| {
            sum += weight(i);
            sum > u * total
        });
        *hit.unwrap_or(order.last().unwrap())
    }

    #[test]
    fn truncated_choices_are_those_of_a_full_sort() {
        let mut scratch = Scratch::default();
        let t = |top_k, top_p, min_p| Truncation { top_k, top_p, min_p };
        let truncations = [
            t(1, 1.0, 0.0),
            t(3, 1.0, 0.0),
            t(50, 0.9, 0.0),
            t(3000, 0.99, 0.001),
            t(0, 0.5, 0.0),
            t(0, 0.95, 0.01),
            t(0, 0.999999, 0.0),
            t(0, 1.0, 0.05),
        ];
        let mut different = std::collections::HashSet::new();
        for (round, n) in [1usize, 5, 64, 65, 1000, 5000].into_iter().enumerate() {
            let mut stream = Philox::new(3, RngDomain::Test).stream(9, round as u32);
            // Steps of a quarter, so that many are equal.
            let mut z: Vec<f32> = (0..n).map(|_| (8.0 * stream.normal()).round() / 4.0).collect();
            z.iter_mut().skip(1).step_by(7).for_each(|z| *z = -1e30);
            for (i, t) in truncations.iter().enumerate() {
                for _ in 0..20 {
                    let u = f64::from(stream.uniform());
                    let (got, want) =
                        (by_weight(&z, -1e30, t, u, &mut scratch), plainly(&z, -1e30, t, u));
                    assert_eq!(got, want, "{n} items, {t:?}, {u}");
                    different.insert((n, i, got));
                }
            }
        }
        assert!(different.len() > 300, "{} different choices", different.len());
    }

    #[test]
    fn equal_weights_are_cut_exactly() {
        let z = [0.5f32; 100];
        let mut scratch = Scratch::default();
        for (p, kept) in [(0.5, 50), (0.25, 25), (0.0, 1)] {
            let t = Truncation { top_k: 0, top_p: p, min_p: 0.0 };
            let last = by_weight(&z, -1e30, &t, 0.9999999, &mut scratch);
            assert_eq!(last, kept - 1);
        }
    }

    #[test]
    fn positions_are_passed_in_order() {
        let z: Vec<f32> = (0..3000).map(|i| if i % 3 == 0 { 0.0 } else { -1e30 }).collect();
        assert_eq!(mass(&z, 0.0), 1000.0);
        for (target, want) in [(0.0, 0), (0.5, 0), (1.0, 3), (499.5, 1497), (1000.0, 2997)] {
            assert_eq!(by_position(&z, 0.0, target), want);
        }
        assert_eq!(first_largest(&[1.0, 3.0, -2.0, 3.0]), 1);
    }
}
