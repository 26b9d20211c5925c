//! `grpo-rt merge`: makes an adapter part of its base model and says what came out.

use super::Outcome;
use super::output::{check_output_dir, counted, print};
use crate::base::Result;
use crate::options::Options;
use crate::publish::merging::merge_adapter;
use crate::settings::MergeSettings;

/// Merges.
///
/// # Errors
/// Wrong options, and what the merging returns.
pub fn merge(options: &Options) -> Result<Outcome> {
    let s = MergeSettings::from_options(options)?;
    check_output_dir(&s.output_dir, s.overwrite)?;
    let merged = merge_adapter(&s)?;
    if !s.quiet {
        print(&format!(
            "wrote {}: {} changed, {}, {:.2} GB\n",
            s.output_dir.display(),
            counted(merged.layers, "layer"),
            counted(merged.tensors, "tensor"),
            merged.bytes as f64 / 1e9
        ));
    }
    Ok(Outcome::Done)
}
