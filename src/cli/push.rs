//! `grpo-rt push`: uploads a model by the hub's client, or shows what would be uploaded.

use super::Outcome;
use super::output::print;
use crate::base::Result;
use crate::options::Options;
use crate::publish::{Pushed, push as upload};
use crate::settings::PushSettings;

/// Uploads.
///
/// # Errors
/// Wrong options, and what the upload returns.
pub fn push(options: &Options) -> Result<Outcome> {
    let s = PushSettings::from_options(options)?;
    let pushed = upload(&s)?;
    if s.dry_run || !options.flag("quiet") {
        print(&lines(&pushed, s.repo.as_str()));
    }
    Ok(Outcome::Done)
}

fn lines(p: &Pushed, repo: &str) -> String {
    let width = p.files.iter().map(|f| f.name.len()).max().unwrap_or(0);
    let mut text = match p.done {
        true => format!("uploaded to {repo}:\n"),
        false => format!("would be uploaded to {repo}:\n"),
    };
    for f in &p.files {
        text += &format!("  {:<width$}  {:>14} bytes\n", f.name, f.bytes);
    }
    if !p.left.is_empty() {
        text += &format!("stays here: {}\n", p.left.join(", "));
    }
    if !p.done {
        text += &format!("by links to these files, as: {}\n", p.command);
    }
    text
}
