//! `grpo-rt train`: hands the options to the GRPO loop, which prints and writes everything itself.

use super::Outcome;
use crate::base::Result;
use crate::train::grpo_run;
use crate::train::options::Options;

/// Trains with GRPO.
///
/// # Errors
/// What the run returns.
pub fn train(options: &Options) -> Result<Outcome> {
    grpo_run::train(options).map(Outcome::Run)
}
