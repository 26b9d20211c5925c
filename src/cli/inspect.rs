//! `grpo-rt data inspect`: what a data set holds, as text, as one JSON object, as a page. Trains nothing
//! and changes nothing.

mod text; // the report for people

use super::Outcome;
use super::output::print;
use crate::base::{Error, Result};
use crate::inspect::inspect as look;
use crate::options::Options;
use crate::settings::InspectSettings;

/// Inspects a data set.
///
/// # Errors
/// Wrong options, and what the inspection returns.
pub fn inspect(options: &Options) -> Result<Outcome> {
    let settings = InspectSettings::from_options(options)?;
    let found = look(&settings)?;
    if settings.json {
        let json = serde_json::to_string_pretty(&found)
            .map_err(|e| Error::internal(format!("the inspection is no JSON: {e}")))?;
        print(&format!("{json}\n"));
    } else {
        let mut report = text::of(&found);
        if let Some(page) = &settings.page {
            report += &format!("\nwrote {}\n", page.display());
        }
        print(&report);
    }
    Ok(Outcome::Done)
}
