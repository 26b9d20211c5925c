//! The run on the whole terminal (`--tui`): curves, phases, memory, completions, alerts, log lines. A sink
//! like the others; it shows what it was told and the terminal is given back however the program ends. It
//! never stops or changes a run, except that Ctrl-C means what it always means.

mod draw; // state to screen
mod screen; // the terminal and its keys
mod state; // what is shown

pub use state::{DashboardState, Key};

use super::{Event, MetricRow, Sink};
use crate::base::{Error, Result};
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::thread::JoinHandle;

/// Whether the terminal is ours at the moment. There is one terminal, so there is one of this.
static SHOWN: AtomicBool = AtomicBool::new(false);
/// What is shown on it.
static STATE: Mutex<Option<Arc<Mutex<DashboardState>>>> = Mutex::new(None);
/// What a panic said while nobody could read it.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());
static HOOK: Once = Once::new();

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the terminal shows the dashboard, so that nobody else may write on it.
pub(super) fn is_shown() -> bool {
    SHOWN.load(Ordering::SeqCst)
}

/// Prints a line to standard error, or among the lines of the dashboard while that is shown.
pub fn tell(line: &str) {
    let state = lock(&STATE).clone().filter(|_| is_shown());
    match state {
        Some(state) => lock(&state).line(line),
        // The terminal may be what went away (SIGHUP): then nobody reads this.
        None => drop(writeln!(std::io::stderr(), "{line}")),
    }
}

/// Gives the terminal back, if the dashboard has it; may be called at any time and from any thread.
pub fn restore_terminal() {
    if SHOWN.swap(false, Ordering::SeqCst) {
        screen::give_back();
        for said in std::mem::take(&mut *lock(&PANICS)) {
            eprintln!("{said}");
        }
    }
}

/// Shows events on the terminal.
pub struct DashboardSink {
    state: Arc<Mutex<DashboardState>>,
    thread: Option<JoinHandle<()>>,
}

impl DashboardSink {
    /// Takes the terminal. None, with a line that says so, where there is none: a run that was started by
    /// a job scheduler is shown on the plain console. `history` are rows of former sessions.
    ///
    /// # Errors
    /// If the terminal refuses.
    pub fn open(title: &str, steps: u64, history: &[MetricRow]) -> Result<Option<DashboardSink>> {
        let dumb = std::env::var("TERM").is_ok_and(|t| t == "dumb");
        if dumb || !std::io::stderr().is_terminal() || !std::io::stdin().is_terminal() {
            eprintln!("--tui: no terminal here, so the run is shown line by line");
            return Ok(None);
        }
        // The convention of no-color.org.
        let plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        let mut state = DashboardState::new(title, steps, !plain);
        history.iter().for_each(|row| state.row(row));
        let state = Arc::new(Mutex::new(state));
        HOOK.call_once(keep_panics);
        *lock(&STATE) = Some(state.clone());
        SHOWN.store(true, Ordering::SeqCst);
        let refused = |e: std::io::Error| {
            restore_terminal();
            Error::device("the terminal cannot be filled")
                .key("tui")
                .found(e.to_string())
                .hint("leave out --tui; the console has the same figures, line by line")
        };
        screen::take_over().map_err(refused)?;
        let shown = state.clone();
        let thread = std::thread::Builder::new()
            .name("dashboard".into())
            .spawn(move || screen::show(&shown))
            .map_err(refused)?;
        Ok(Some(DashboardSink { state, thread: Some(thread) }))
    }

    fn end(&mut self) {
        restore_terminal();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        *lock(&STATE) = None;
    }
}

impl Sink for DashboardSink {
    fn take(&mut self, event: &Event) -> Result<()> {
        lock(&self.state).take(event);
        Ok(())
    }
    fn close(&mut self) -> Result<()> {
        let was_shown = is_shown();
        self.end();
        // What stood on the screen last is gone with it.
        let last = lock(&self.state).last_lines();
        if was_shown {
            last.iter().for_each(|line| eprintln!("{line}"));
        }
        Ok(())
    }
}

impl Drop for DashboardSink {
    fn drop(&mut self) {
        self.end();
    }
}

/// While the dashboard is shown, what a panic says is kept until it can be read.
fn keep_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| match is_shown() {
        true => lock(&PANICS).push(info.to_string()),
        false => before(info),
    }));
}
