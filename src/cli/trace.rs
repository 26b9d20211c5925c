//! `grpo-rt trace`: one pass over a chat, with its intermediate tensors in a safetensors file for
//! comparison with other programs.

use super::Outcome;
use super::output::print;
use crate::base::Result;
use crate::options::Options;
use crate::settings::TraceSettings;
use crate::train::trace::trace_to_file;

/// Writes the tensors of one pass.
///
/// # Errors
/// Wrong options, and what the pass returns.
pub fn trace(options: &Options) -> Result<Outcome> {
    let settings = TraceSettings::from_options(options)?;
    trace_to_file(&settings)?;
    if !settings.quiet {
        print(&format!("wrote {}\n", settings.out.display()));
    }
    Ok(Outcome::Done)
}
