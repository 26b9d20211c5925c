//! Options of the algorithm, and the arithmetic of groups and batches.

use super::*;

pub(super) fn grpo(o: &Options, training: &TrainingSettings) -> Result<GrpoSettings> {
    let group = count(o, "num_generations");
    // TRL: the default of steps_per_generation is gradient_accumulation_steps.
    let steps = o.count("steps_per_generation").unwrap_or(training.gradient_accumulation_steps);
    let accumulation = training.gradient_accumulation_steps;
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
    let epsilon_low = float(o, "epsilon");
    Ok(GrpoSettings {
        num_generations: group,
        steps_per_generation: steps,
        generation_batch_size: batch,
        prompts_per_generation: batch / group,
        num_iterations: count(o, "num_iterations"),
        beta: float(o, "beta"),
        epsilon_low,
        epsilon_high: o.float("epsilon_high").unwrap_or(epsilon_low),
        use_bias_correction_kl: o.flag("use_bias_correction_kl"),
        loss_type: match o.text("loss_type") {
            Some("grpo") => LossType::Grpo,
            _ => LossType::Dapo,
        },
        scale_rewards: match o.text("scale_rewards") {
            Some("batch") => ScaleRewards::Batch,
            Some("none") => ScaleRewards::None,
            _ => ScaleRewards::Group,
        },
        mask_truncated_completions: o.flag("mask_truncated_completions"),
        share_prompt: o.flag("share_prompt"),
    })
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
