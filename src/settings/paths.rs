//! Whether what the options read from is there, asked before any work is done. Reads no file.

use std::path::PathBuf;

use super::BASE;
use crate::base::Result;
use crate::io::remote::is_url;
use crate::options::{Kind, OPTIONS, Options};

/// Checks that every file and folder the options read from exists, before any work is done.
///
/// # Errors
/// The option, where its value came from, and what to do.
pub fn check_paths(o: &Options) -> Result<()> {
    const WRITTEN: [&str; 7] =
        ["output_dir", "logging_dir", "out", "out_dir", "config", "html", "to"];
    // What `eval` compares with may be a word.
    const COMPARED: [&str; 2] = ["baseline", "compare"];
    // A bare name is looked for on the PATH by whoever runs it.
    const PROGRAMS: [&str; 1] = ["python"];
    for opt in OPTIONS.iter().filter(|opt| opt.accepted_by(o.command())) {
        let paths = match opt.kind {
            Kind::Path | Kind::BoolOrPath => o.path(opt.name).into_iter().collect(),
            Kind::List(Kind::Path) => o.paths(opt.name),
            Kind::List(Kind::PathOrUrl) => {
                let named = o.texts(opt.name).into_iter().filter(|text| !is_url(text));
                named.map(PathBuf::from).collect()
            }
            _ => Vec::new(),
        };
        if WRITTEN.contains(&opt.name) || PROGRAMS.contains(&opt.name) {
            continue;
        }
        let word = |p: &PathBuf| COMPARED.contains(&opt.name) && p.as_os_str() == BASE;
        let Some(missing) = paths.iter().find(|p| !p.exists() && !word(p)) else { continue };
        let error = o
            .wrong(opt.name, format!("`{}` names something that does not exist", opt.name))
            .expected("an existing file or folder")
            .found(missing.display().to_string());
        // `org/name` is a repository of the hub, which the program resolves before it asks here.
        let hub = super::hub::repository(&missing.display().to_string());
        return Err(match hub.filter(|_| opt.name == "model_name_or_path") {
            Some(id) => error.hint(format!("fetch it first: hf download {}", id.as_str())),
            None => error.hint("paths start from the folder the program is run in"),
        });
    }
    Ok(())
}
