//! The planner: lifetimes in, byte offsets out. A pure function; it never sees a device, a tensor
//! or an op. Same input, same plan.
//!
//! Greedy by size (Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference",
//! arXiv 2001.03288): the largest tensor is placed first, each at the lowest gap between the
//! already placed tensors that are alive at the same time ("best fit": the tightest gap wins).

use crate::device::cpu::ARENA_ALIGN;

/// When a tensor is alive, in node numbers, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    /// Size in bytes; 0 takes no place.
    pub bytes: usize,
    /// The node that writes it first.
    pub first: u32,
    /// The node that reads it last.
    pub last: u32,
}

/// Where each tensor lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Byte offset of each lifetime, relative to the planned region, multiples of the alignment.
    pub offsets: Vec<usize>,
    /// Bytes of the region that the plan touches.
    pub peak: usize,
}

/// Rounds up to the arena's alignment.
pub const fn aligned(bytes: usize) -> usize {
    bytes.next_multiple_of(ARENA_ALIGN)
}

/// Assigns an offset to every lifetime so that no two that are alive together overlap.
pub fn plan_offsets(lifetimes: &[Lifetime]) -> Plan {
    let mut order: Vec<usize> = (0..lifetimes.len()).collect();
    // Ties broken by birth, then by number: the plan is a function of its input alone.
    order.sort_by_key(|&i| (std::cmp::Reverse(lifetimes[i].bytes), lifetimes[i].first, i));
    let mut offsets = vec![0; lifetimes.len()];
    let mut peak = 0;
    let mut placed: Vec<usize> = Vec::new(); // sorted by offset
    for i in order {
        let l = lifetimes[i];
        if l.bytes == 0 {
            continue;
        }
        let need = aligned(l.bytes);
        let (mut best, mut best_gap) = (None, usize::MAX);
        let mut end = 0;
        for &j in &placed {
            let o = lifetimes[j];
            if o.last < l.first || l.last < o.first {
                continue;
            }
            if offsets[j] > end {
                let gap = offsets[j] - end;
                if gap >= need && gap < best_gap {
                    (best, best_gap) = (Some(end), gap);
                }
            }
            end = end.max(offsets[j] + aligned(o.bytes));
        }
        offsets[i] = best.unwrap_or(end);
        peak = peak.max(offsets[i] + need);
        let at = placed.partition_point(|&j| offsets[j] < offsets[i]);
        placed.insert(at, i);
    }
    Plan { offsets, peak }
}

/// The least any plan can need: the largest sum of sizes alive at one node.
pub fn lower_bound(lifetimes: &[Lifetime]) -> usize {
    let end = lifetimes.iter().map(|l| l.last as usize + 1).max().unwrap_or(0);
    let mut change = vec![0i64; end + 1];
    for l in lifetimes {
        change[l.first as usize] += aligned(l.bytes) as i64;
        change[l.last as usize + 1] -= aligned(l.bytes) as i64;
    }
    let (mut live, mut most) = (0, 0);
    for c in change {
        live += c;
        most = most.max(live);
    }
    most as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_needs_two_buffers() {
        let l: Vec<Lifetime> =
            (0..10).map(|i| Lifetime { bytes: 100, first: i, last: i + 1 }).collect();
        let p = plan_offsets(&l);
        assert_eq!(p.peak, 256);
        assert_eq!(lower_bound(&l), 256);
    }
}
