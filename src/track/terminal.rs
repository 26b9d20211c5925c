//! The one terminal of the program, and who may write on it. While somebody fills the whole of it (the
//! dashboard), lines for the person who watches go there; however the program ends, it is given back.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

/// Takes a line for the person who watches.
type Listener = Arc<dyn Fn(&str) + Send + Sync>;

/// Who fills the terminal.
struct Holder {
    line: Listener,
    give_back: fn(),
}

static TAKEN: AtomicBool = AtomicBool::new(false);
static HOLDER: Mutex<Option<Holder>> = Mutex::new(None);
/// What a panic said while nobody could read it.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());
static HOOK: Once = Once::new();

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether somebody fills the terminal, so that nobody else may write on it.
pub fn is_taken() -> bool {
    TAKEN.load(Ordering::SeqCst)
}

/// From now on lines are given to `line`; `give_back` is called once, when the terminal is wanted back.
pub(super) fn take(line: impl Fn(&str) + Send + Sync + 'static, give_back: fn()) {
    HOOK.call_once(keep_panics);
    *lock(&HOLDER) = Some(Holder { line: Arc::new(line), give_back });
    TAKEN.store(true, Ordering::SeqCst);
}

/// Prints a line to standard error, or gives it to whoever fills the terminal.
pub fn tell(line: &str) {
    let listener = lock(&HOLDER).as_ref().filter(|_| is_taken()).map(|h| h.line.clone());
    match listener {
        Some(listener) => listener(line),
        // The terminal may be what went away (SIGHUP): then nobody reads this.
        None => drop(writeln!(std::io::stderr(), "{line}")),
    }
}

/// Gives the terminal back, if somebody fills it; may be called at any time and from any thread.
pub fn restore() {
    if TAKEN.swap(false, Ordering::SeqCst) {
        if let Some(holder) = lock(&HOLDER).take() {
            (holder.give_back)();
        }
        for said in std::mem::take(&mut *lock(&PANICS)) {
            eprintln!("{said}");
        }
    }
}

/// While the terminal is filled, what a panic says is kept until it can be read.
fn keep_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| match is_taken() {
        true => lock(&PANICS).push(info.to_string()),
        false => before(info),
    }));
}
