//! `grpo-rt train`: hands the options to the GRPO loop, which prints and writes everything itself.

use super::Outcome;
use crate::base::Result;
use crate::options::Options;
use crate::settings::{RunLength, TrainSettings, Warmup};
use crate::train::grpo_run;

/// Trains with GRPO.
///
/// # Errors
/// What the run returns.
pub fn train(options: &Options) -> Result<Outcome> {
    let s = TrainSettings::from_options(options)?;
    if !s.logging.quiet {
        remarks(options, &s).iter().for_each(|line| eprintln!("{line}"));
    }
    grpo_run::train(options).map(Outcome::Run)
}

/// What follows from the options together and is easily overlooked.
fn remarks(o: &Options, s: &TrainSettings) -> Vec<String> {
    let mut lines = Vec::new();
    let (steps, accumulation) =
        (s.grpo.steps_per_generation, s.training.gradient_accumulation_steps);
    if o.count("steps_per_generation").is_none() && steps > accumulation {
        lines.push(format!(
            "{} completions are generated at a time, {} prompts with {} each, for {} optimizer steps",
            s.grpo.generation_batch_size,
            s.grpo.prompts_per_generation,
            s.grpo.num_generations,
            steps / accumulation,
        ));
    }
    if let (RunLength::Steps(total), Warmup::Steps(warm)) =
        (s.training.length, s.training.optimizer.warmup)
        && warm > total
    {
        lines.push(format!(
            "the warm-up of {warm} steps is longer than the run of {total}: the learning rate ends at \
             {:.1e}, below its peak",
            s.training.optimizer.learning_rate * (total - 1) as f64 / warm as f64
        ));
    }
    lines
}
