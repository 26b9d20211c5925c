//! What to compute twice so that a step fits: given what each segment of a step would free at what
//! work, and a function that plans a choice, picks a cheap choice whose planned peak fits. A pure
//! function; it never sees a tape, a tensor or an op.
//!
//! Keeping some activations and recomputing the others is Chen et al., "Training Deep Nets with
//! Sublinear Memory Cost", arXiv 1604.06174; choosing by work per byte is Korthikanti et al.,
//! "Reducing Activation Recomputation in Large Transformer Models", arXiv 2205.05198.

/// When activations are recomputed in the reverse walk instead of being kept for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Recompute {
    /// Never: everything that the reverse walk reads is kept.
    Never,
    /// As little as makes the step fit its memory; nothing if it fits anyway.
    #[default]
    Auto,
    /// Everything that can be recomputed.
    Always,
}

/// What a segment gives and takes at one level of recomputation, everything of the lower levels
/// included.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Level {
    /// Bytes that need not be kept until the reverse walk.
    pub bytes: usize,
    /// Work that is done again, in floating-point operations.
    pub work: f64,
}

/// A choice and what came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Pick {
    /// Level of each segment; 0 recomputes nothing, `k` is entry `k - 1` of the segment's levels.
    pub levels: Vec<usize>,
    /// Peak that was planned for these levels.
    pub peak: usize,
}

/// One segment going from a level up to another.
#[derive(Debug, Clone, Copy)]
struct Raise {
    segment: usize,
    from: usize,
    to: usize,
    bytes: usize,
    work: f64,
}

impl Raise {
    fn work_per_byte(&self) -> f64 {
        self.work / self.bytes as f64
    }
}

/// How often a plan is tried to take back something that turned out not to be needed.
const TAKE_BACKS: usize = 8;

/// The highest level of each segment that frees anything more than the levels below it.
pub fn all(segments: &[Vec<Level>]) -> Vec<usize> {
    segments.iter().map(|levels| raises(0, levels).last().map_or(0, |r| r.to)).collect()
}

/// Picks levels whose peak is at most `budget`, cheap in work per freed byte. `peak` plans a choice.
/// If not even everything together fits, the better of nothing and everything is returned.
pub fn pick(
    segments: &[Vec<Level>],
    budget: usize,
    mut peak: impl FnMut(&[usize]) -> usize,
) -> Pick {
    let mut order: Vec<Raise> =
        segments.iter().enumerate().flat_map(|(i, levels)| raises(i, levels)).collect();
    // Raises of one segment have rising work per byte, so a lower one never comes after a higher
    // one. Among equals the first segments come first: the reverse walk reaches them last, when
    // all that later segments kept is gone.
    order.sort_by(|a, b| a.work_per_byte().total_cmp(&b.work_per_byte()));
    let levels_of = |count: usize| {
        let mut levels = vec![0; segments.len()];
        order[..count].iter().for_each(|r| levels[r.segment] = r.to);
        levels
    };
    let mut plan = |count: usize| {
        let levels = levels_of(count);
        Pick { peak: peak(&levels), levels }
    };
    let none = plan(0);
    if none.peak <= budget || order.is_empty() {
        return none;
    }
    let every = plan(order.len());
    if every.peak > budget {
        return if every.peak < none.peak { every } else { none };
    }
    let (mut misses, mut count, mut best) = (0, order.len(), every);
    while count - misses > 1 {
        let middle = misses + (count - misses) / 2;
        let tried = plan(middle);
        if tried.peak <= budget {
            (count, best) = (middle, tried);
        } else {
            misses = middle;
        }
    }
    take_back(&order[..count], best, budget, peak)
}

/// Leaves out raises that the last, perhaps large, one made superfluous: the dearest first.
fn take_back(
    taken: &[Raise],
    mut best: Pick,
    budget: usize,
    mut peak: impl FnMut(&[usize]) -> usize,
) -> Pick {
    let mut dearest: Vec<&Raise> = taken.iter().collect();
    dearest.sort_by(|a, b| b.work.total_cmp(&a.work));
    let mut left = TAKE_BACKS;
    for r in dearest {
        if left == 0 {
            break;
        }
        if best.levels[r.segment] != r.to || r.bytes > budget - best.peak {
            continue;
        }
        left -= 1;
        let mut levels = best.levels.clone();
        levels[r.segment] = r.from;
        let tried = Pick { peak: peak(&levels), levels };
        if tried.peak <= budget {
            best = tried;
        }
    }
    best
}

/// The raises of a segment that are worth their work: levels that free nothing more are skipped,
/// and so is a level that is dearer per byte than the next higher one (lower convex hull).
fn raises(segment: usize, levels: &[Level]) -> Vec<Raise> {
    let mut hull: Vec<Raise> = Vec::new();
    for (i, level) in levels.iter().enumerate() {
        let mut next = Raise { segment, from: 0, to: i + 1, bytes: level.bytes, work: level.work };
        let freed: usize = hull.iter().map(|r| r.bytes).sum();
        if level.bytes <= freed {
            continue;
        }
        loop {
            let (freed, done) = hull.iter().fold((0, 0.0), |(b, w), r| (b + r.bytes, w + r.work));
            next.from = hull.last().map_or(0, |r| r.to);
            next.bytes = level.bytes - freed;
            next.work = (level.work - done).max(0.0);
            match hull.last() {
                Some(r) if r.work_per_byte() >= next.work_per_byte() => hull.pop(),
                _ => break,
            };
        }
        hull.push(next);
    }
    hull
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(bytes: usize, work: f64) -> Level {
        Level { bytes, work }
    }

    #[test]
    fn the_cheapest_bytes_are_taken_and_no_more() {
        let layer = vec![level(10, 1.0), level(30, 41.0)];
        let segments = vec![layer.clone(), layer.clone(), layer];
        let peak = |levels: &[usize]| 100 - levels.iter().map(|l| [0, 10, 30][*l]).sum::<usize>();
        assert_eq!(pick(&segments, 100, peak).levels, [0, 0, 0]);
        assert_eq!(pick(&segments, 85, peak).levels, [1, 1, 0]);
        assert_eq!(pick(&segments, 70, peak).levels, [1, 1, 1]);
        assert_eq!(pick(&segments, 50, peak).levels, [2, 1, 1]);
        assert_eq!(pick(&segments, 10, peak).levels, [2, 2, 2]);
        assert_eq!(pick(&segments, 9, peak), Pick { levels: vec![2, 2, 2], peak: 10 });
    }

    #[test]
    fn what_the_last_one_made_superfluous_is_taken_back() {
        let segments = vec![vec![level(5, 1.0)], vec![level(100, 90.0)]];
        let peak = |l: &[usize]| 200 - 5 * l[0] - 100 * l[1];
        assert_eq!(pick(&segments, 100, peak).levels, [0, 1]);
    }

    #[test]
    fn levels_that_are_dearer_than_the_next_are_skipped() {
        let dear = vec![level(10, 50.0), level(10, 60.0), level(100, 100.0)];
        let raises = raises(0, &dear);
        assert_eq!(raises.len(), 1);
        assert_eq!((raises[0].from, raises[0].to, raises[0].bytes), (0, 3, 100));
        assert_eq!(all(&[dear, vec![], vec![level(3, 1.0), level(3, 2.0)]]), [3, 0, 1]);
    }
}
