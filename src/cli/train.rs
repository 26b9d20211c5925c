//! `grpo-rt train`: hands the options to the GRPO loop, which prints and writes everything itself.

use super::Outcome;
use crate::base::Result;
use crate::train::grpo_run;
use crate::train::options::Options;
use crate::train::settings::TrainSettings;

/// Trains with GRPO.
///
/// # Errors
/// What the run returns.
pub fn train(options: &Options) -> Result<Outcome> {
    let s = TrainSettings::from_options(options)?;
    let (steps, accumulation) =
        (s.grpo.steps_per_generation, s.training.gradient_accumulation_steps);
    if options.count("steps_per_generation").is_none() && steps > accumulation && !s.logging.quiet {
        eprintln!(
            "{} completions are generated at a time, {} prompts with {} each, for {} optimizer steps",
            s.grpo.generation_batch_size,
            s.grpo.prompts_per_generation,
            s.grpo.num_generations,
            steps / accumulation,
        );
    }
    grpo_run::train(options).map(Outcome::Run)
}
