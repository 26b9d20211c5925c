//! Ctrl-C and SIGTERM: the first asks the run to stop after the present piece of work and to save,
//! the second ends the program at once.

use crate::base::{Error, ErrorKind};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

static ASKED: AtomicBool = AtomicBool::new(false);
static INSTALL: Once = Once::new();

/// Catches the signals from now on.
pub fn watch() {
    INSTALL.call_once(|| {
        let set = ctrlc::set_handler(|| {
            if ASKED.swap(true, Ordering::SeqCst) {
                crate::reward::process::end_all();
                std::process::exit(130);
            }
            eprintln!("\nstopping after this step; once more to stop at once");
        });
        if let Err(e) = set {
            eprintln!("warning: Ctrl-C will not save a checkpoint: {e}");
        }
    });
}

/// True once the user has asked to stop.
pub fn asked() -> bool {
    ASKED.load(Ordering::SeqCst)
}

/// The error that ends a stopped run.
pub fn error(saved: &str) -> Error {
    Error::new(ErrorKind::Interrupted, "the run was stopped")
        .found(format!("everything up to here is kept in {saved}"))
        .hint("continue with --resume_from_checkpoint true")
}
