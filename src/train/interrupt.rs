//! Wishes to stop: Ctrl-C (SIGINT), SIGTERM and SIGHUP. The first asks the run to stop at the next
//! moment from which it can go on to the same bits, and to save; the second ends the program at once.

use crate::base::{Error, ErrorKind, Result};
use crate::track::health::Alert;
use crate::track::terminal;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

static ASKED: AtomicBool = AtomicBool::new(false);
static INSTALL: Once = Once::new();

/// Catches the signals from now on.
pub fn watch() {
    INSTALL.call_once(|| {
        let set = ctrlc::set_handler(ask);
        if let Err(e) = set {
            eprintln!("warning: Ctrl-C will not save a checkpoint: {e}");
        }
    });
}

/// What a signal does: the first asks to stop, the second ends the program. A terminal that passes
/// Ctrl-C on as a key calls it, too.
pub fn ask() {
    if ASKED.swap(true, Ordering::SeqCst) {
        terminal::restore();
        crate::reward::process::end_all();
        std::process::exit(130);
    }
    terminal::tell("\nstopping; once more to stop at once");
}

/// True once the user has asked to stop.
pub fn asked() -> bool {
    ASKED.load(Ordering::SeqCst)
}

/// Between two pieces of work: an error of kind [`ErrorKind::Interrupted`] if the user has asked to
/// stop, for whoever can save to catch.
///
/// # Errors
/// That one.
pub fn check() -> Result<()> {
    match asked() {
        true => Err(Error::new(ErrorKind::Interrupted, "the run was stopped")),
        false => Ok(()),
    }
}

/// The error that ends a run which an alert was told to stop.
pub fn alarmed(alert: &Alert, dir: &std::path::Path) -> Error {
    let Alert { name, message, advice, link, .. } = alert;
    Error::new(ErrorKind::Interrupted, format!("the run was stopped by the alert `{name}`"))
        .file(dir)
        .found(message)
        .hint(format!("{advice}; see {link}; the folder has a checkpoint of this step"))
}

/// The error that ends a stopped run or evaluation.
pub fn error(saved: &str) -> Error {
    Error::new(ErrorKind::Interrupted, "the run was stopped")
        .found(format!("everything up to here is kept in {saved}"))
        .hint("continue with --resume_from_checkpoint true")
}

/// The error that ends a stopped run: `saved` says whether it has a checkpoint, `only_model` whether
/// that has the model alone.
pub fn of_run(dir: &std::path::Path, saved: bool, only_model: bool) -> Error {
    match (saved, only_model) {
        (true, false) => error(&dir.display().to_string()),
        (true, true) => error(&dir.display().to_string())
            .hint("checkpoints of --save_only_model are models: a run cannot go on from them"),
        (false, _) => Error::new(ErrorKind::Interrupted, "the run was stopped before its first step")
            .hint("start it again; a command with --resume_from_checkpoint true starts over now, and goes on from a checkpoint as soon as there is one"),
    }
}
