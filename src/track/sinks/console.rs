//! The console: one line that overwrites itself on a terminal, one line per row anywhere else.
//! Nothing but numbers that are in the row (and the clock) is shown, and nothing with `--quiet`.

use super::Sink;
use crate::base::{Error, Result};
use crate::track::health::Turn;
use crate::track::{Event, MetricRow, terminal};
use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Instant;

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConsoleOptions {
    /// Optimizer steps of the whole run.
    pub total_steps: u64,
    /// `--quiet`: print nothing.
    pub quiet: bool,
    /// Overwrite one line instead of printing one per row.
    pub overwrite: bool,
    /// Columns of the terminal; longer lines are cut when overwriting.
    pub columns: usize,
}

impl ConsoleOptions {
    /// Overwrites if standard error is a terminal; takes the width from `COLUMNS` (120 if unset).
    pub fn detect(total_steps: u64, quiet: bool) -> Self {
        let columns = std::env::var("COLUMNS").ok().and_then(|c| c.parse().ok()).unwrap_or(120);
        ConsoleOptions { total_steps, quiet, overwrite: std::io::stderr().is_terminal(), columns }
    }
}

/// Shows progress.
pub struct ConsoleSink {
    options: ConsoleOptions,
    out: Box<dyn Write + Send>,
    /// (step, seconds of the step, tokens so far) of the last rows, for rate and time left.
    recent: VecDeque<(u64, f64, f64)>,
    last: Instant,
    /// Characters of the line that stands unfinished on the terminal.
    standing: usize,
    /// A file: a dashboard hides nothing of it.
    is_file: bool,
}

/// Rows that rate and time left are averaged over.
const WINDOW: usize = 20;

impl ConsoleSink {
    /// Progress on standard error, which keeps standard output for results.
    pub fn new(options: ConsoleOptions) -> Self {
        Self::to_writer(options, Box::new(std::io::stderr()))
    }

    /// Progress on `out`.
    pub fn to_writer(options: ConsoleOptions, out: Box<dyn Write + Send>) -> Self {
        let recent = VecDeque::with_capacity(WINDOW);
        ConsoleSink { options, out, recent, last: Instant::now(), standing: 0, is_file: false }
    }

    /// What a console would show, line by line, appended to a file, with `--quiet` too.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub fn to_log(options: ConsoleOptions, path: &Path) -> Result<Self> {
        let file = OpenOptions::new().append(true).create(true).open(path);
        let file = file.map_err(|e| Error::io("cannot write the run's log", path, &e))?;
        let options = ConsoleOptions { quiet: false, overwrite: false, ..options };
        Ok(ConsoleSink { is_file: true, ..Self::to_writer(options, Box::new(file)) })
    }

    /// Whether a line is not to be seen: `--quiet` leaves warnings, and a dashboard has lines of its own.
    fn silent(&self, text: &str) -> bool {
        let quiet = self.options.quiet && !text.starts_with("warning:");
        quiet || !self.is_file && terminal::is_taken()
    }

    /// Prints a message above the progress line; with `--quiet` only one that begins with `warning:`.
    ///
    /// # Errors
    /// If the console cannot be written.
    pub fn message(&mut self, text: &str) -> Result<()> {
        if self.silent(text) {
            return Ok(());
        }
        let blank = if self.standing > 0 { "\r\x1b[K" } else { "" };
        self.standing = 0;
        self.write(&format!("{blank}{text}\n"))
    }

    fn write(&mut self, text: &str) -> Result<()> {
        let written = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
        match written {
            // Whoever read the output is gone (`| head`): the run goes on in silence.
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => {
                self.options.quiet = true;
                Ok(())
            }
            other => other.map_err(|e| Error::io("cannot show progress", "standard error", &e)),
        }
    }

    fn remember(&mut self, row: &MetricRow) {
        let clock = self.last.elapsed().as_secs_f64();
        self.last = Instant::now();
        let seconds = row.get("step_time").unwrap_or(clock);
        let tokens = row.get("num_tokens").unwrap_or(f64::NAN);
        if self.recent.len() == WINDOW {
            self.recent.pop_front();
        }
        self.recent.push_back((row.step, seconds, tokens));
    }

    fn train_line(&self, row: &MetricRow) -> String {
        let total = self.options.total_steps.max(row.step);
        let mut parts = vec![format!("step {}/{total}", row.step)];
        if let Some(r) = row.get("reward") {
            let spread = row.get("reward_std").map_or(String::new(), |s| format!(" ±{s:.2}"));
            parts.push(format!("reward {r:.3}{spread}"));
        }
        for (label, name) in [
            ("length", "completions/mean_length"),
            ("kl", "kl"),
            ("loss", "loss"),
            ("grad", "grad_norm"),
        ] {
            if let Some(v) = row.get(name) {
                parts.push(format!("{label} {}", short(v)));
            }
        }
        let n = self.recent.len() as f64;
        let per_step = self.recent.iter().map(|r| r.1).sum::<f64>() / n;
        if let (Some(first), Some(last)) = (self.recent.front(), self.recent.back()) {
            // The tokens of the first row were counted before it: they are no part of the window.
            // A row stands for all steps since the one before it; `step_time` is their mean.
            let pairs = self.recent.iter().zip(self.recent.iter().skip(1));
            let seconds: f64 = pairs.map(|(a, b)| (b.0 - a.0) as f64 * b.1).sum();
            let rate = (last.2 - first.2) / seconds;
            if rate.is_finite() && rate > 0.0 {
                parts.push(format!("{} tok/s", short(rate)));
            }
        }
        if per_step.is_finite() {
            parts.push(format!("{} s/step", short(per_step)));
            parts.push(format!("left {}", duration(per_step * (total - row.step) as f64)));
        }
        parts.join("  ")
    }

    fn eval_line(row: &MetricRow) -> String {
        let mut line = format!("eval at step {}", row.step);
        for (name, value) in row.values.iter().filter(|(_, v)| !v.is_nan()) {
            line += &format!("  {} {}", name.trim_start_matches("eval_"), short(*value));
        }
        line
    }
}

impl ConsoleSink {
    fn row(&mut self, row: &MetricRow) -> Result<()> {
        if self.options.quiet {
            return Ok(());
        }
        if row.is_eval() {
            return self.message(&Self::eval_line(row));
        }
        self.remember(row);
        if !self.is_file && terminal::is_taken() {
            return Ok(());
        }
        let line = self.train_line(row);
        if !self.options.overwrite {
            return self.write(&(line + "\n"));
        }
        // A line of full width would wrap, and a wrapped line cannot be overwritten.
        let width = self.options.columns.saturating_sub(1);
        let line: String = line.chars().take(width).collect();
        self.standing = line.chars().count();
        self.write(&format!("\r{line}\x1b[K"))
    }
}

impl Sink for ConsoleSink {
    fn take(&mut self, event: &Event) -> Result<()> {
        match event {
            Event::Line(text) => self.message(text),
            Event::Row(row) => self.row(row),
            Event::Alert(alert) if alert.state == Turn::Begun => {
                self.message(&format!("warning: {}", alert.line()))
            }
            Event::Alert(alert) => self.message(&alert.line()),
            Event::Summary { figures, .. } => {
                let shown = figures.iter().map(|(name, v)| format!("{name} {}", short(*v)));
                self.message(&shown.collect::<Vec<_>>().join("  "))
            }
            _ => Ok(()),
        }
    }

    fn close(&mut self) -> Result<()> {
        let standing = std::mem::take(&mut self.standing);
        if standing > 0 { self.write("\n") } else { Ok(()) }
    }
}

/// A number in at most about seven characters.
pub(crate) fn short(v: f64) -> String {
    let a = v.abs();
    if v == 0.0 {
        "0".to_string()
    } else if !v.is_finite() {
        v.to_string()
    } else if a >= 1e6 {
        format!("{:.1}M", v / 1e6)
    } else if a >= 1e4 {
        format!("{:.1}k", v / 1e3)
    } else if a >= 100.0 {
        format!("{v:.0}")
    } else if a >= 10.0 {
        format!("{v:.1}")
    } else if a >= 1e-3 {
        format!("{v:.3}")
    } else {
        format!("{v:.1e}")
    }
}

/// `1:02:03` or `02:03`.
pub(crate) fn duration(seconds: f64) -> String {
    let s = seconds.max(0.0).round() as u64;
    let (h, m, s) = (s / 3600, s / 60 % 60, s % 60);
    if h > 0 { format!("{h}:{m:02}:{s:02}") } else { format!("{m:02}:{s:02}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Screen(Arc<Mutex<Vec<u8>>>);

    impl Write for Screen {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn show(overwrite: bool, quiet: bool, columns: usize) -> String {
        let screen = Screen::default();
        let options = ConsoleOptions { total_steps: 100, quiet, overwrite, columns };
        let mut sink = ConsoleSink::to_writer(options, Box::new(screen.clone()));
        for step in 1..=2 {
            let values = [
                ("reward", 0.5 * step as f64),
                ("reward_std", 0.25),
                ("completions/mean_length", 45.25),
                ("kl", f64::NAN),
                ("loss", -0.0004),
                ("num_tokens", 1000.0 * step as f64),
                ("step_time", 2.0),
            ];
            let values = values.map(|(n, v)| (n.to_string(), v)).to_vec();
            sink.log(&MetricRow { step, epoch: 0.0, values }).unwrap();
        }
        let values = vec![("eval_reward".to_string(), 1.25)];
        sink.log(&MetricRow { step: 2, epoch: 0.0, values }).unwrap();
        sink.close().unwrap();
        String::from_utf8(screen.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn plain_lines() {
        assert_eq!(
            show(false, false, 80),
            "step 1/100  reward 0.500 ±0.25  length 45.2  loss -4.0e-4  2.000 s/step  left 03:18\n\
             step 2/100  reward 1.000 ±0.25  length 45.2  loss -4.0e-4  500 tok/s  2.000 s/step  left 03:16\n\
             eval at step 2  reward 1.250\n"
        );
    }

    #[test]
    fn terminal_line_is_overwritten_cut_and_cleared_before_messages() {
        let text = show(true, false, 21);
        assert_eq!(
            text,
            "\rstep 1/100  reward 0\x1b[K\rstep 2/100  reward 1\x1b[K\r\x1b[Keval at step 2  reward 1.250\n"
        );
    }

    #[test]
    fn quiet_is_silent_and_numbers_are_short() {
        assert_eq!(show(true, true, 80), "");
        let shown = [0.0, -1234567.0, 12345.0, 123.4, 12.34, 1.2345, 1e-5].map(short);
        assert_eq!(shown, ["0", "-1.2M", "12.3k", "123", "12.3", "1.234", "1.0e-5"]);
        assert_eq!((duration(59.6), duration(3725.0)), ("01:00".into(), "1:02:05".into()));
    }
}
