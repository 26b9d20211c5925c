//! Whether what the options read from is there, asked before any work is done. Reads no file.

use crate::base::Result;
use crate::io::remote::is_url;
use crate::train::options::{Kind, OPTIONS, Options};
use std::path::PathBuf;

/// Checks that every file and folder the options read from exists, before any work is done.
///
/// # Errors
/// The option, where its value came from, and what to do.
pub fn check_paths(o: &Options) -> Result<()> {
    const WRITTEN: [&str; 6] = ["output_dir", "logging_dir", "out", "config", "html", "to"];
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
        let Some(missing) = paths.iter().find(|p| !p.exists()) else { continue };
        let error = o
            .wrong(opt.name, format!("`{}` names something that does not exist", opt.name))
            .expected("an existing file or folder")
            .found(missing.display().to_string());
        // `Qwen/Qwen2.5-VL-3B-Instruct` is a name on the hub, not a folder here.
        let hub = opt.name == "model_name_or_path"
            && missing.is_relative()
            && missing.components().count() == 2;
        return Err(if hub {
            error.hint(format!(
                "nothing is downloaded; fetch it first: hf download {0} --local-dir {0}",
                missing.display()
            ))
        } else {
            error.hint("paths start from the folder the program is run in")
        });
    }
    Ok(())
}
