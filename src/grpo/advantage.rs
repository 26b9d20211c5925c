//! Rewards to advantages: how much better than its group a completion did (DeepSeekMath, arXiv
//! 2402.03300, section 4.1.2; scale modes as TRL 1.16 `scale_rewards`).

/// What advantages are divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScaleRewards {
    /// The standard deviation of the group.
    Group,
    /// The standard deviation of all rewards of the batch.
    Batch,
    /// Nothing (Dr. GRPO, arXiv 2503.20783).
    None,
}

/// Added to the standard deviation (TRL).
const EPSILON: f64 = 1e-4;

/// Advantages of one generation batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Advantages {
    /// One per completion, group after group; 0 for completions without a reward.
    pub values: Vec<f64>,
    /// Standard deviation of each group, if at least two of its completions have a reward.
    pub group_std: Vec<f64>,
}

/// Advantages of rewards in groups of `n`. `None` is a completion that no reward judged: it counts
/// in no mean and gets advantage 0.
pub fn advantages(rewards: &[Option<f64>], n: usize, scale: ScaleRewards) -> Advantages {
    let present: Vec<f64> = rewards.iter().flatten().copied().collect();
    let batch_std = std_dev(&present);
    let mut values = Vec::with_capacity(rewards.len());
    let mut group_std = Vec::new();
    for group in rewards.chunks(n) {
        let known: Vec<f64> = group.iter().flatten().copied().collect();
        let mean = mean(&known);
        let std = std_dev(&known);
        group_std.push(std);
        let divisor = match scale {
            ScaleRewards::Group => std + EPSILON,
            ScaleRewards::Batch => batch_std + EPSILON,
            ScaleRewards::None => 1.0,
        };
        values.extend(group.iter().map(|r| r.map_or(0.0, |r| (r - mean) / divisor)));
    }
    Advantages { values, group_std }
}

/// Mean; 0 of nothing.
pub fn mean(x: &[f64]) -> f64 {
    if x.is_empty() { 0.0 } else { x.iter().sum::<f64>() / x.len() as f64 }
}

/// Unbiased standard deviation (divisor n − 1, as `torch.std`); 0 of fewer than two.
pub fn std_dev(x: &[f64]) -> f64 {
    if x.len() < 2 {
        return 0.0;
    }
    let m = mean(x);
    (x.iter().map(|v| (v - m) * (v - m)).sum::<f64>() / (x.len() - 1) as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_centred_and_scaled() {
        let r = [Some(1.0), Some(0.0), Some(3.0), Some(3.0), None, Some(2.0)];
        let a = advantages(&r, 2, ScaleRewards::Group);
        let s = 0.5f64.sqrt();
        assert!((a.values[0] - 0.5 / (s + 1e-4)).abs() < 1e-12);
        assert_eq!(a.values[0], -a.values[1]);
        assert_eq!(&a.values[2..], &[0.0; 4], "equal rewards, or one reward alone, teach nothing");
        assert_eq!(a.group_std, vec![s, 0.0, 0.0]);
        assert_eq!(advantages(&r, 2, ScaleRewards::None).values[..2], [0.5, -0.5]);
    }
}
