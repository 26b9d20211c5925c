//! The terminal: taking it, giving it back, and the thread that draws and hears keys in between. Draws
//! nothing itself.

use super::{DashboardState, Key, lock};
use crate::track::terminal::{is_taken, restore};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::crossterm::{cursor, execute, terminal};
use std::io::{Result, stderr};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long a key is waited for before the screen is looked at again.
const LOOK: Duration = Duration::from_millis(100);
/// At least so often the screen is drawn.
const DRAW: Duration = Duration::from_secs(1);

/// Takes the terminal: no echo, no line buffer, a screen of its own.
pub(super) fn take_over() -> Result<()> {
    terminal::enable_raw_mode()?;
    execute!(stderr(), terminal::EnterAlternateScreen, cursor::Hide)
}

/// Gives it back. Nothing can be done about a terminal that refuses.
pub(super) fn give_back() {
    let _ = execute!(stderr(), cursor::Show, terminal::LeaveAlternateScreen);
    let _ = terminal::disable_raw_mode();
}

/// Draws and hears keys until the terminal is given back. `stop` is what Ctrl-C means.
pub(super) fn show(state: &Mutex<DashboardState>, stop: fn()) {
    // A terminal that fails is left alone: the run goes on with lines.
    if draw_until_left(state, stop).is_err() {
        restore();
    }
}

/// Gives the terminal back when drawing panics, too.
struct Guard;

impl Drop for Guard {
    fn drop(&mut self) {
        restore();
    }
}

fn draw_until_left(state: &Mutex<DashboardState>, stop: fn()) -> Result<()> {
    let _guard = Guard;
    let mut terminal = Terminal::new(CrosstermBackend::new(stderr()))?;
    let mut drawn: Option<Instant> = None;
    while is_taken() {
        let due = drawn.is_none_or(|at| at.elapsed() >= DRAW) || lock(state).is_changed();
        if due {
            let now = lock(state).seen();
            if !is_taken() {
                break;
            }
            terminal.draw(|frame| now.draw(frame))?;
            drawn = Some(Instant::now());
        }
        if !event::poll(LOOK)? {
            continue;
        }
        match event::read()? {
            Event::Key(key) if key.kind != KeyEventKind::Release => pressed(key, state, stop),
            Event::Resize(..) => drawn = None,
            _ => {}
        }
    }
    Ok(())
}

fn pressed(key: KeyEvent, state: &Mutex<DashboardState>, stop: fn()) {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    let meant = match key.code {
        KeyCode::Char('c') if control => return stop(),
        KeyCode::Char('q') | KeyCode::Esc => {
            restore();
            eprintln!("the run goes on, line by line; Ctrl-C stops it and saves");
            return;
        }
        KeyCode::Char(' ') | KeyCode::Right | KeyCode::Down | KeyCode::Tab => Key::Next,
        KeyCode::Left | KeyCode::Up | KeyCode::BackTab => Key::Previous,
        KeyCode::Char('?' | 'h') => Key::Help,
        _ => return,
    };
    lock(state).press(meant);
}
