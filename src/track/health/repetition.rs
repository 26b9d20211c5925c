//! How much of a completion it has said before: the figure behind the alert `repetition`. Rewards nothing;
//! the reward of that name is VLM-R1's.

use std::collections::HashSet;

/// Tokens that are compared together.
const RUN: usize = 4;

/// Share of the runs of four tokens that have come before in the same completion, 0 to 1; None of a
/// completion too short to repeat itself.
pub fn repeated_share(tokens: &[u32]) -> Option<f64> {
    let runs = tokens.windows(RUN);
    let count = runs.len();
    if count < RUN {
        return None;
    }
    let distinct: HashSet<&[u32]> = runs.collect();
    Some(1.0 - distinct.len() as f64 / count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_runs_are_counted() {
        let fresh: Vec<u32> = (0..20).collect();
        assert_eq!(repeated_share(&fresh), Some(0.0));
        assert_eq!(repeated_share(&[7; 23]), Some(0.95));
        let twice: Vec<u32> = (0..10).chain(0..10).collect();
        assert_eq!(repeated_share(&twice), Some(1.0 - 10.0 / 17.0));
        assert_eq!(repeated_share(&[1, 2, 3, 4, 5, 6]), None);
    }
}
