//! The run on the whole terminal (`--tui`): curves, phases, memory, completions, alerts, log lines. A sink
//! like the others; it shows what it was told and the terminal is given back however the program ends. It
//! never stops or changes a run, except that Ctrl-C means what it always means.

mod draw; // state to screen
mod screen; // the terminal and its keys
mod state; // what is shown

pub use state::{DashboardState, Key};

use super::Sink;
use crate::base::{Error, Result};
use crate::track::{Event, MetricRow, terminal};
use std::io::IsTerminal;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Shows events on the terminal.
pub struct DashboardSink {
    state: Arc<Mutex<DashboardState>>,
    thread: Option<JoinHandle<()>>,
}

impl DashboardSink {
    /// Takes the terminal. None, with a line that says so, where there is none: a run that was started by
    /// a job scheduler is shown on the plain console. `history` are rows of former sessions; `stop` is
    /// what Ctrl-C means, which the terminal passes on as a key.
    ///
    /// # Errors
    /// If the terminal refuses.
    pub fn open(
        title: &str,
        steps: u64,
        history: &[MetricRow],
        stop: fn(),
    ) -> Result<Option<DashboardSink>> {
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
        let shown = state.clone();
        terminal::take(move |line| lock(&shown).line(line), screen::give_back);
        let refused = |e: std::io::Error| {
            terminal::restore();
            Error::device("the terminal cannot be filled")
                .key("tui")
                .found(e.to_string())
                .hint("leave out --tui; the console has the same figures, line by line")
        };
        screen::take_over().map_err(refused)?;
        let shown = state.clone();
        let thread = std::thread::Builder::new()
            .name("dashboard".into())
            .spawn(move || screen::show(&shown, stop))
            .map_err(refused)?;
        Ok(Some(DashboardSink { state, thread: Some(thread) }))
    }

    fn end(&mut self) {
        terminal::restore();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Sink for DashboardSink {
    fn take(&mut self, event: &Event) -> Result<()> {
        lock(&self.state).take(event);
        Ok(())
    }
    fn close(&mut self) -> Result<()> {
        let was_shown = terminal::is_taken();
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
