//! `grpo-rt serve`: answers chats over HTTP until it is stopped, and prints where. The tokens it is told never
//! reach the screen.

use super::Outcome;
use super::output::{print, print_warning};
use crate::base::Result;
use crate::options::Options;
use crate::runs;
use crate::settings::ServeSettings;
use crate::web::chat;

/// Serves a model.
///
/// # Errors
/// Wrong options, and what the serving returns.
pub fn serve(options: &Options) -> Result<Outcome> {
    let mut s = ServeSettings::from_options(options)?;
    if let Some((id, root)) = &s.run {
        let trained = runs::as_trained(&runs::find(root, id)?, options)?;
        s = ServeSettings { run: s.run, ..ServeSettings::from_options(&trained)? };
    }
    if !matches!(s.host.as_str(), "127.0.0.1" | "localhost" | "::1" | "[::1]") && s.token.is_some()
    {
        print_warning(
            "the token and everything that is asked travel unencrypted; put TLS in front",
        );
    }
    chat::serve(&s, &|line| print(line))?;
    Ok(Outcome::Done)
}
