//! Rewards to advantages: how much better than others a completion did (DeepSeekMath, arXiv
//! 2402.03300, section 4.1.2; scale modes as TRL 1.16 `scale_rewards`). Trains nothing.

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

/// What a reward is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Estimator {
    /// The mean of its group, then divided by something.
    Grpo(ScaleRewards),
    /// The mean of the others of its group (RLOO, arXiv 2402.14740, section 3.2).
    Rloo,
    /// The mean of the batch, divided by its standard deviation (REINFORCE++, arXiv 2501.03262, eq. 8;
    /// here over completions, which all have one reward).
    ReinforcePlusPlus,
    /// The mean of its group; then normalised over the batch (REINFORCE++ with baseline, ibid., eq. 10
    /// and 11).
    ReinforcePlusPlusBaseline,
    /// The best of a group gets its lead over the second best, the others nothing: the leave-one-out
    /// estimate of the gradient of pass@k with k the size of the group (Tang et al., arXiv
    /// 2503.19595, eq. 8; verl's `grpo_passk`).
    PassK(ScaleRewards),
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

/// Standard deviation of each group of `n` rewards; 0 of fewer than two.
pub fn group_std(rewards: &[Option<f64>], n: usize) -> Vec<f64> {
    rewards.chunks(n).map(|group| std_dev(&known(group))).collect()
}

fn known(rewards: &[Option<f64>]) -> Vec<f64> {
    rewards.iter().flatten().copied().collect()
}

/// Advantages of rewards in groups of `n`. `None` is a completion that no reward judged: it counts
/// in no mean and gets advantage 0.
pub fn advantages(rewards: &[Option<f64>], n: usize, estimator: Estimator) -> Advantages {
    let present = known(rewards);
    let divisor = |scale, group: f64| match scale {
        ScaleRewards::Group => group + EPSILON,
        ScaleRewards::Batch => std_dev(&present) + EPSILON,
        ScaleRewards::None => 1.0,
    };
    let stds = group_std(rewards, n);
    let mut values = Vec::with_capacity(rewards.len());
    for (group, &std) in rewards.chunks(n).zip(&stds) {
        let known = known(group);
        let mean = mean(&known);
        let mut push =
            |f: &dyn Fn(f64) -> f64| values.extend(group.iter().map(|r| r.map_or(0.0, f)));
        match estimator {
            Estimator::Grpo(scale) => {
                let divisor = divisor(scale, std);
                push(&|r| (r - mean) / divisor);
            }
            Estimator::Rloo => {
                let others = known.len().saturating_sub(1).max(1) as f64;
                push(&|r| (r - mean) * known.len() as f64 / others);
            }
            Estimator::ReinforcePlusPlus => push(&|r| r),
            Estimator::ReinforcePlusPlusBaseline => push(&|r| r - mean),
            Estimator::PassK(scale) => values.extend(leads(group, divisor(scale, std))),
        }
    }
    if matches!(estimator, Estimator::ReinforcePlusPlus | Estimator::ReinforcePlusPlusBaseline) {
        normalise(&mut values, rewards);
    }
    Advantages { values, group_std: stds }
}

/// The lead of a group's best over its second, for the best alone.
fn leads(group: &[Option<f64>], divisor: f64) -> Vec<f64> {
    let (mut best, mut second) = (None::<(usize, f64)>, None::<f64>);
    for (i, r) in group.iter().enumerate().filter_map(|(i, r)| Some((i, (*r)?))) {
        match best {
            Some((_, top)) if r <= top => second = Some(second.map_or(r, |s| s.max(r))),
            _ => {
                second = best.map(|(_, top)| top);
                best = Some((i, r));
            }
        }
    }
    let mut out = vec![0.0; group.len()];
    if let (Some((i, top)), Some(second)) = (best, second) {
        out[i] = (top - second) / divisor;
    }
    out
}

/// Centres and scales the values of those that have a reward, over the batch.
fn normalise(values: &mut [f64], rewards: &[Option<f64>]) {
    let judged = |v: &[f64]| -> Vec<f64> {
        v.iter().zip(rewards).filter(|(_, r)| r.is_some()).map(|(v, _)| *v).collect()
    };
    let judged = judged(values);
    let (mean, std) = (mean(&judged), std_dev(&judged));
    for (v, r) in values.iter_mut().zip(rewards) {
        *v = if r.is_some() { (*v - mean) / (std + EPSILON) } else { 0.0 };
    }
}

/// Advantages where each reward is normalised within its groups before they are summed (GDPO, arXiv
/// 2601.05242, eq. 4 to 7; TRL 1.16 `multi_objective_aggregation="normalize_then_sum"`).
/// `per_reward[r][i]` is what reward `r` gave sample `i`; `total` says which samples count.
pub fn decoupled_advantages(
    per_reward: &[Vec<Option<f64>>],
    weights: &[f64],
    total: &[Option<f64>],
    n: usize,
) -> Advantages {
    let mut sums = vec![0.0; total.len()];
    for (column, weight) in per_reward.iter().zip(weights) {
        for (g, group) in column.chunks(n).enumerate() {
            let judged = known(group);
            let (mean, std) = (mean(&judged), std_dev(&judged));
            for (i, r) in group.iter().enumerate() {
                sums[g * n + i] += r.map_or(0.0, |r| weight * (r - mean) / (std + EPSILON));
            }
        }
    }
    normalise(&mut sums, total);
    Advantages { values: sums, group_std: group_std(total, n) }
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
        let a = advantages(&r, 2, Estimator::Grpo(ScaleRewards::Group));
        let s = 0.5f64.sqrt();
        assert!((a.values[0] - 0.5 / (s + 1e-4)).abs() < 1e-12);
        assert_eq!(a.values[0], -a.values[1]);
        assert_eq!(&a.values[2..], &[0.0; 4], "equal rewards, or one reward alone, teach nothing");
        assert_eq!(a.group_std, vec![s, 0.0, 0.0]);
        let plain = advantages(&r, 2, Estimator::Grpo(ScaleRewards::None));
        assert_eq!(plain.values[..2], [0.5, -0.5]);
    }

    #[test]
    fn one_is_left_out() {
        let r = [Some(1.0), Some(4.0), Some(7.0), None, Some(5.0), None];
        let a = advantages(&r, 3, Estimator::Rloo).values;
        assert_eq!(a, [1.0 - 5.5, 0.0, 7.0 - 2.5, 0.0, 0.0, 0.0], "alone in its group: nothing");
    }

    #[test]
    fn the_batch_is_normalised() {
        let r = [Some(1.0), Some(2.0), Some(6.0), None, Some(3.0), Some(3.0)];
        for estimator in [Estimator::ReinforcePlusPlus, Estimator::ReinforcePlusPlusBaseline] {
            let a = advantages(&r, 3, estimator).values;
            assert_eq!(a[3], 0.0);
            assert!(mean(&a).abs() < 1e-12, "{a:?}");
        }
        let plain = advantages(&r, 3, Estimator::ReinforcePlusPlus).values;
        assert!((plain[0] - (1.0 - 3.0) / (3.5f64.sqrt() + 1e-4)).abs() < 1e-12, "{plain:?}");
    }

    #[test]
    fn only_the_best_of_a_group_leads() {
        let r = [Some(1.0), Some(5.0), Some(3.0), None, Some(2.0), Some(2.0)];
        let a = advantages(&r, 3, Estimator::PassK(ScaleRewards::None)).values;
        assert_eq!(a, [0.0, 2.0, 0.0, 0.0, 0.0, 0.0]);
        let falling = [Some(5.0), Some(1.0), Some(4.0)];
        let a = advantages(&falling, 3, Estimator::PassK(ScaleRewards::None)).values;
        assert_eq!(a, [1.0, 0.0, 0.0]);
    }
}
