//! `grpo-rt data convert vivqa-x`: published files to rows, one file each, and what was left out.

use super::Outcome;
use super::output::{counted, print, print_warning, shell_word};
use crate::base::{Error, Result};
use crate::io::dataset::vivqa_x::{Converted, Source, convert};
use crate::options::Options;
use crate::settings::ConvertSettings;
use crate::train::interrupt;
use std::path::Path;

/// Bad rows that are named.
const NAMED: usize = 5;

/// Converts the files.
///
/// # Errors
/// Wrong options, a file that is there already, and what the conversion returns.
pub fn vivqa_x(options: &Options) -> Result<Outcome> {
    let s = ConvertSettings::from_options(options)?;
    for (_, out) in &s.files {
        check_file(out, s.overwrite)?;
    }
    interrupt::watch();
    for ((file, out), image_folder) in s.files.iter().zip(&s.image_folders) {
        if let Some(folder) = out.parent().filter(|f| !f.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder)
                .map_err(|e| Error::io("cannot make the output folder", folder, &e))?;
        }
        let system_prompt = s.system_prompt.as_deref();
        let source = Source { file, image_folder, system_prompt, strict: s.strict };
        let done = convert(&source, out, interrupt::asked)?;
        warn(&done);
        if !s.quiet {
            print(&line(file, out, &done));
        }
    }
    if !s.quiet {
        let (first, folder) = (&s.files[0].1, &s.image_folders[0]);
        let word = |p: &Path| shell_word(&p.display().to_string());
        print(&format!(
            "paths of images start from the image folder; to look at the rows:\n  \
             grpo-rt data inspect --dataset_name {} --image_folders {}\n",
            word(first),
            word(folder)
        ));
    }
    Ok(Outcome::Done)
}

fn check_file(out: &Path, overwrite: bool) -> Result<()> {
    if out.exists() && !overwrite {
        return Err(Error::usage("the output file is there already")
            .file(out)
            .hint("give another place, or add --overwrite_output_dir to replace it"));
    }
    Ok(())
}

/// Names the first rows that were left out.
fn warn(done: &Converted) {
    for e in done.bad.iter().take(NAMED) {
        print_warning(&e.one_line());
    }
    if done.bad.len() > NAMED {
        print_warning(&format!("{} more bad rows", done.bad.len() - NAMED));
    }
    if !done.missing_names.is_empty() {
        print_warning(&format!("images that are missing: {}", done.missing_names.join(", ")));
    }
}

fn line(file: &Path, out: &Path, done: &Converted) -> String {
    let left: Vec<String> = [
        (done.missing, "without their image"),
        (done.duplicates, "said before"),
        (done.bad.len(), "bad"),
    ]
    .iter()
    .filter(|(n, _)| *n > 0)
    .map(|(n, what)| format!("{n} {what}"))
    .collect();
    let left = match left.as_slice() {
        [] => String::new(),
        parts => format!("; {} left out: {}", counted(done.left_out(), "row"), parts.join(", ")),
    };
    format!(
        "{} -> {}: {}, {}{left}\n",
        file.display(),
        out.display(),
        counted(done.rows, "row"),
        counted(done.explanations, "explanation"),
    )
}
