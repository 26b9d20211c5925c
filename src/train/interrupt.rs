//! Ctrl-C and SIGTERM: the first asks the run to stop after the present piece of work and to save,
//! the second ends the program at once.

use crate::base::{Error, ErrorKind};
use crate::train::health::Alert;
use crate::train::sinks::{restore_terminal, tell};
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
        restore_terminal();
        crate::reward::process::end_all();
        std::process::exit(130);
    }
    tell("\nstopping after this step; once more to stop at once");
}

/// True once the user has asked to stop.
pub fn asked() -> bool {
    ASKED.load(Ordering::SeqCst)
}

/// The error that ends a run which was stopped by its user, or by an alert.
pub fn stopped(alert: Option<&Alert>, saved: &str) -> Error {
    let Some(alert) = alert.filter(|_| !asked()) else { return error(saved) };
    Error::new(ErrorKind::Interrupted, format!("the run was stopped by the alert `{}`", alert.name))
        .found(&alert.message)
        .hint(format!("{}; see {}; {saved} has a checkpoint", alert.advice, alert.link))
}

/// The error that ends a stopped run.
pub fn error(saved: &str) -> Error {
    Error::new(ErrorKind::Interrupted, "the run was stopped")
        .found(format!("everything up to here is kept in {saved}"))
        .hint("continue with --resume_from_checkpoint true")
}
