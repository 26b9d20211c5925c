//! Options of the algorithm, and the arithmetic of groups and batches.

use super::*;
use crate::grpo::advantage::Estimator;
use crate::grpo::weigh::Average;
use algorithm::{check_loss_options, entropy, estimator, kl, loss, loss_type, sync};

mod algorithm; // loss, penalty, advantages

pub(super) fn grpo(o: &Options, training: &TrainingSettings) -> Result<GrpoSettings> {
    let group = count(o, "num_generations");
    let accumulation = training.gradient_accumulation_steps;
    let steps = steps_per_generation(o, training, group)?;
    if !steps.is_multiple_of(accumulation) {
        return Err(o
            .wrong("steps_per_generation", "optimizer steps would straddle two generations")
            .expected(format!(
                "a multiple of gradient_accumulation_steps, {accumulation}: such as {}",
                steps.next_multiple_of(accumulation)
            )));
    }
    let batch = training.batch_size.checked_mul(steps).ok_or_else(|| {
        o.wrong("per_device_train_batch_size", "the generation batch is too large to count")
    })?;
    if batch % group != 0 {
        return Err(o
            .wrong("num_generations", "groups do not fit into the generation batch")
            .expected(format!(
                "per_device_train_batch_size x steps_per_generation divisible by num_generations: \
                 {} x {steps} = {batch}, by {group}",
                training.batch_size
            ))
            .hint(fitting(training.batch_size, steps, group)));
    }
    let loss_type = loss_type(o);
    check_loss_options(o, loss_type)?;
    let kl = kl(o)?;
    let (estimator, decoupled) = estimator(o, loss_type, kl.as_ref())?;
    let entropy = entropy(o)?;
    let sampling = o.flag("dynamic_sampling");
    if !sampling {
        let why = "groups are not replaced";
        useless(o, &["dynamic_sampling_max_batches"], why, "add --dynamic_sampling")?;
    }
    let drop_dead_groups = o.flag("drop_dead_groups");
    if drop_dead_groups && estimator == Estimator::ReinforcePlusPlus {
        return Err(o
            .wrong("drop_dead_groups", "REINFORCE++ compares with the batch: no group is dead")
            .hint("take --advantage_estimator reinforce_plus_plus_baseline, or leave it out"));
    }
    Ok(GrpoSettings {
        num_generations: group,
        steps_per_generation: steps,
        generation_batch_size: batch,
        prompts_per_generation: batch / group,
        num_iterations: count(o, "num_iterations"),
        loss_type,
        loss: loss(o, loss_type, kl.as_ref(), entropy.top_quantile < 1.0)?,
        average: match loss_type {
            LossType::Grpo | LossType::Sapo | LossType::Gmpo => Average::Completions,
            LossType::Bnpo => Average::Batches(training.batch_size),
            LossType::DrGrpo => Average::Longest(count(o, "max_completion_length")),
            LossType::Luspo | LossType::RewardWeighted => Average::Sums,
            LossType::Dapo | LossType::Cispo | LossType::Vespo => Average::Tokens,
        },
        alpha: match loss_type {
            LossType::RewardWeighted => above_zero(o, "grpo_alpha")?,
            _ => 1.0,
        },
        sync: sync(o, kl.is_some())?,
        kl,
        estimator,
        decoupled,
        entropy,
        sampling_batches: if sampling { count(o, "dynamic_sampling_max_batches") } else { 1 },
        drop_dead_groups,
        mask_truncated_completions: o.flag("mask_truncated_completions"),
        share_prompt: o.flag("share_prompt"),
    })
}

/// Batches per generation. TRL takes gradient_accumulation_steps and refuses what holds no whole groups;
/// here the default is the least multiple of it that does.
fn steps_per_generation(o: &Options, t: &TrainingSettings, group: usize) -> Result<usize> {
    if let Some(total) = o.count("generation_batch_size") {
        if o.count("steps_per_generation").is_some() {
            return Err(o
                .wrong("generation_batch_size", "two options say how much is generated at a time")
                .hint("give one of generation_batch_size and steps_per_generation"));
        }
        if !total.is_multiple_of(t.batch_size) {
            return Err(o
                .wrong("generation_batch_size", "a generation is no whole number of batches")
                .expected(format!("a multiple of per_device_train_batch_size, {}", t.batch_size)));
        }
        return Ok(total / t.batch_size);
    }
    if let Some(steps) = o.count("steps_per_generation") {
        return Ok(steps);
    }
    let step = t
        .batch_size
        .checked_mul(t.gradient_accumulation_steps)
        .ok_or_else(|| o.wrong("per_device_train_batch_size", "the batch is too large to count"))?;
    let (mut a, mut b) = (step, group);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    Ok(t.gradient_accumulation_steps * (group / a))
}

/// The nearest values of either setting with which groups fit into the generation batch.
fn fitting(batch: usize, steps: usize, group: usize) -> String {
    // Absurd numbers are not worth a long search.
    const FAR: usize = 100_000;
    let fits = |b: &usize| b.checked_mul(steps).is_some_and(|total| total.is_multiple_of(group));
    let below = (1..batch).rev().take(FAR).find(fits);
    let above = (batch + 1..).take(FAR).find(fits);
    let batches: Vec<String> = below.into_iter().chain(above).map(|b| b.to_string()).collect();
    let total = batch * steps;
    let below = (2..group).rev().take(FAR).find(|g| total.is_multiple_of(*g));
    let above = (group + 1..=total).take(FAR).find(|g| total.is_multiple_of(*g));
    let groups: Vec<String> = below.into_iter().chain(above).map(|g| g.to_string()).collect();
    if batches.is_empty() {
        return "take a per_device_train_batch_size that is a multiple of num_generations".into();
    }
    let mut hint = format!("per_device_train_batch_size {} would work", batches.join(" or "));
    if !groups.is_empty() {
        hint += &format!("; so would num_generations {}", groups.join(" or "));
    }
    hint
}
