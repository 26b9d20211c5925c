//! `grpo-rt sft`: hands the options to the fine-tuning loop, which prints and writes everything
//! itself.

use super::Outcome;
use crate::base::Result;
use crate::options::Options;
use crate::train::sft_run;

/// Trains on given answers.
///
/// # Errors
/// What the run returns.
pub fn sft(options: &Options) -> Result<Outcome> {
    sft_run::sft(options).map(Outcome::Run)
}
