//! `grpo-rt infer`: prints what a model answers to one chat, one paragraph per answer. Tokens and
//! log-probabilities go to the file of `--out`, never to the screen.

use super::Outcome;
use super::output::print;
use crate::base::Result;
use crate::train::infer as answers;
use crate::train::options::Options;
use crate::train::settings::InferSettings;

/// Answers a chat.
///
/// # Errors
/// Wrong options, and what the answering returns.
pub fn infer(options: &Options) -> Result<Outcome> {
    let answers = answers::infer(&InferSettings::from_options(options)?)?;
    let texts: Vec<&str> = answers.iter().map(|a| a.text.as_str()).collect();
    print(&format!("{}\n", texts.join("\n\n")));
    Ok(Outcome::Done)
}
