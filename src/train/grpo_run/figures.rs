//! What is told of scored completions, under TRL's names: of a rollout that is trained on, and of an
//! evaluation. Counts and averages; keeps nothing.

use super::resample::dead_groups;
use crate::grpo::advantage::mean;
use crate::reward::RewardSet;
use crate::reward::set::mean_std;
use crate::track::health::repeated_share;
use crate::train::generation::Scored;

/// Names and values in the order in which they are logged.
pub(super) type Named = Vec<(String, f64)>;

/// Rewards and lengths of completions in groups of `n`; `failures` of rewards on groups that were left
/// out count, too.
pub(super) fn completion_figures(
    scored: &Scored,
    rewards: &[&str],
    n: usize,
    failures: usize,
) -> Named {
    let dead = dead_groups(&scored.scores.total, n);
    let all: Vec<_> = scored.completions.iter().flatten().collect();
    let lengths: Vec<f64> = all.iter().map(|c| c.ids.len() as f64).collect();
    let ended: Vec<f64> =
        all.iter().filter(|c| !c.truncated()).map(|c| c.ids.len() as f64).collect();
    // NaN where nothing was judged: no verdict is no 0.
    let (reward, reward_std) = mean_std(&scored.scores.total);
    let min = |v: &[f64]| v.iter().copied().reduce(f64::min).unwrap_or(f64::NAN);
    let max = |v: &[f64]| v.iter().copied().reduce(f64::max).unwrap_or(f64::NAN);
    let mut out: Named = vec![("reward".into(), reward), ("reward_std".into(), reward_std)];
    // One answer alone has no spread to speak of.
    if n > 1 {
        let share = dead.iter().filter(|d| **d).count() as f64 / dead.len().max(1) as f64;
        out.push(("frac_reward_zero_std".into(), share));
    }
    for (name, column) in rewards.iter().zip(&scored.scores.per_reward) {
        let (mean, std) = mean_std(column);
        out.push((format!("rewards/{name}/mean"), mean));
        out.push((format!("rewards/{name}/std"), std));
    }
    let repeated: Vec<f64> = all.iter().filter_map(|c| repeated_share(&c.ids)).collect();
    let judged = all.len() * rewards.len();
    let clipped = 1.0 - ended.len() as f64 / lengths.len().max(1) as f64;
    let of_ended = |f: &dyn Fn(&[f64]) -> f64| if ended.is_empty() { 0.0 } else { f(&ended) };
    let figures = [
        ("completions/mean_length", mean(&lengths)),
        ("completions/min_length", min(&lengths)),
        ("completions/max_length", max(&lengths)),
        ("completions/mean_terminated_length", of_ended(&mean)),
        ("completions/min_terminated_length", of_ended(&min)),
        ("completions/max_terminated_length", of_ended(&max)),
        ("completions/clipped_ratio", clipped),
        ("completions/repetition", mean(&repeated)),
        ("rewards/failed_ratio", scored.scores.failures.len() as f64 / judged.max(1) as f64),
        ("rewards/failed", (scored.scores.failures.len() + failures) as f64),
    ];
    out.extend(figures.map(|(n, v)| (n.to_string(), v)));
    out
}

/// What rewards say of themselves and log of their samples.
pub(super) fn add_reward_figures(out: &mut Named, rewards: &RewardSet, scored: &Scored) {
    out.extend(rewards.figures());
    for (name, value) in scored.scores.aside.means() {
        // A figure of the user's never mixes with one of ours.
        let taken = out.iter().any(|(n, _)| *n == name);
        out.push((if taken { format!("logged/{name}") } else { name }, value));
    }
}

/// Figures of a rollout that is trained on.
pub(super) fn rollout_figures(
    scored: &Scored,
    rewards: &RewardSet,
    n: usize,
    failures: usize,
) -> Named {
    let mut out = completion_figures(scored, &rewards.names(), n, failures);
    let tokens: usize = scored.completions.iter().flatten().map(|c| c.ids.len()).sum();
    let seconds = scored.rollout_seconds;
    let figures = [
        ("rollout/vision_images", scored.vision_images as f64),
        ("rollout/prompt_prefills", scored.counts.prompts as f64),
        ("rollout/passes", scored.counts.passes as f64),
        ("rollout/preemptions", scored.counts.preemptions as f64),
        ("perf/rollout_tokens_per_second", tokens as f64 / seconds),
        ("time/rollout", seconds),
        ("time/reward", scored.reward_seconds),
        ("time/wait_for_rewards", scored.wait_seconds),
    ];
    out.extend(figures.map(|(n, v)| (n.to_string(), v)));
    add_reward_figures(&mut out, rewards, scored);
    out
}
