//! Words and tables for a terminal: aligned, coloured only where that is wanted, cut to its width. Control
//! characters of names never reach it.

use ratatui::text::Span;
use std::io::IsTerminal;

/// What text is made for.
#[derive(Debug, Clone, Copy)]
pub struct Screen {
    /// Columns; `usize::MAX` for files and pipes.
    pub columns: usize,
    /// Whether colours are shown.
    pub color: bool,
}

impl Screen {
    /// Of standard output: its width (or `COLUMNS`), colours unless `NO_COLOR` is set. A pipe has neither.
    pub fn of_stdout() -> Screen {
        let terminal = std::io::stdout().is_terminal();
        let said = std::env::var("COLUMNS").ok().and_then(|c| c.parse().ok());
        let own = || ratatui::crossterm::terminal::size().ok().map(|(w, _)| usize::from(w));
        let columns = if terminal { said.or_else(own) } else { said };
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|t| t == "dumb");
        Screen {
            columns: columns.filter(|c| *c > 0).unwrap_or(usize::MAX),
            color: terminal && !no_color && !dumb,
        }
    }

    /// Text in a colour of the terminal.
    pub fn paint(&self, text: &str, color: Color) -> String {
        match self.color {
            true => format!("\x1b[{}m{text}\x1b[0m", color as u8),
            false => text.to_string(),
        }
    }
}

/// Colours by their numbers in terminals.
#[derive(Debug, Clone, Copy)]
pub enum Color {
    /// Titles.
    Bold = 1,
    /// Troubles.
    Red = 31,
    /// What is well.
    Green = 32,
    /// What was stopped.
    Yellow = 33,
    /// What goes on.
    Blue = 34,
}

/// The colour of a state.
pub fn color_of(state: &str) -> Color {
    match state {
        "running" => Color::Blue,
        "done" => Color::Green,
        "failed" => Color::Red,
        _ => Color::Yellow,
    }
}

/// Text without what moves a cursor or turns the reading direction.
pub fn plain(text: &str) -> String {
    let harmful = |c: char| {
        c.is_control()
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
    };
    text.chars().map(|c| if harmful(c) { '\u{fffd}' } else { c }).collect()
}

/// Columns that a text takes.
pub fn width(text: &str) -> usize {
    Span::raw(text).width()
}

/// A column of a table.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// Its heading.
    pub head: &'static str,
    /// Numbers stand at the right.
    pub right: bool,
    /// Where there is no room, columns go from the highest number on; 0 never goes and is cut instead.
    pub spare: u8,
}

/// A table as aligned lines. Cells are shown as they are ([`plain`] is theirs who make them); `paint`
/// colours a padded cell by its row and column.
pub fn table(
    columns: &[Column],
    rows: &[Vec<String>],
    screen: &Screen,
    paint: impl Fn(usize, usize, String) -> String,
) -> String {
    let widths = |shown: &[usize]| -> Vec<usize> {
        let widest = |c: &usize| {
            let cells = rows.iter().map(|r| width(&r[*c]));
            cells.chain([width(columns[*c].head)]).max().unwrap_or(0)
        };
        shown.iter().map(widest).collect()
    };
    let total = |w: &[usize]| w.iter().sum::<usize>() + 2 * w.len().saturating_sub(1);
    let mut shown: Vec<usize> = (0..columns.len()).collect();
    while total(&widths(&shown)) > screen.columns {
        let most = shown.iter().copied().max_by_key(|c| columns[*c].spare);
        match most.filter(|c| columns[*c].spare > 0) {
            Some(c) => shown.retain(|s| *s != c),
            None => break,
        }
    }
    let mut w = widths(&shown);
    // What is still too wide is cut where it is widest.
    while total(&w) > screen.columns {
        let Some(widest) = w.iter_mut().max_by_key(|w| **w).filter(|w| **w > 4) else { break };
        *widest -= 1;
    }
    let line = |cells: Vec<String>| cells.join("  ").trim_end().to_string() + "\n";
    let pad = |text: &str, i: usize| {
        let text = cut(text, w[i]);
        let blanks = " ".repeat(w[i].saturating_sub(width(&text)));
        if columns[shown[i]].right { blanks + &text } else { text + &blanks }
    };
    let head = shown.iter().enumerate().map(|(i, c)| pad(columns[*c].head, i)).collect();
    let mut out = line(head);
    for (r, row) in rows.iter().enumerate() {
        let cells = shown.iter().enumerate();
        out += &line(cells.map(|(i, c)| paint(r, *c, pad(&row[*c], i))).collect());
    }
    out
}

/// A text in at most `most` columns, its middle left out.
pub fn cut(text: &str, most: usize) -> String {
    if width(text) <= most {
        return text.to_string();
    }
    let letters: Vec<char> = text.chars().collect();
    let mut keep = letters.len();
    loop {
        keep = keep.saturating_sub(1);
        let (front, back) = (keep.div_ceil(2), keep / 2);
        let short: String =
            letters[..front].iter().chain(&['…']).chain(&letters[letters.len() - back..]).collect();
        if width(&short) <= most || keep == 0 {
            return short;
        }
    }
}

/// A number in at most about seven characters.
pub fn value(v: f64) -> String {
    let a = v.abs();
    match a {
        _ if v == 0.0 => "0".into(),
        _ if !v.is_finite() => v.to_string(),
        1e6.. => format!("{v:.2e}"),
        1e4.. => format!("{:.1}k", v / 1e3),
        100.0.. => format!("{v:.0}"),
        10.0.. => format!("{v:.1}"),
        1e-3.. => format!("{v:.3}"),
        _ => format!("{v:.1e}"),
    }
}

/// Bytes in binary units.
pub fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let unit = (0..4).take_while(|i| bytes >> (10 * (i + 1)) > 0).count();
    let n = bytes as f64 / f64::powi(1024.0, unit as i32);
    if unit == 0 { format!("{bytes} B") } else { format!("{n:.1} {}", units[unit]) }
}

/// Seconds as `3d 04:05`, `1:02:03` or `02:03`.
pub fn duration(seconds: u64) -> String {
    let (d, h, m, s) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    match (d, h) {
        (0, 0) => format!("{m:02}:{s:02}"),
        (0, _) => format!("{h}:{m:02}:{s:02}"),
        _ => format!("{d}d {h:02}:{m:02}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned_and_give_up_columns_before_they_cut() {
        let columns = [
            Column { head: "id", right: false, spare: 0 },
            Column { head: "n", right: true, spare: 1 },
            Column { head: "folder", right: false, spare: 2 },
        ];
        let rows = vec![
            vec!["a".into(), "10".into(), "x/y".into()],
            vec!["日本".into(), "7".into(), "z".into()],
        ];
        let show = |columns_of: usize| {
            let screen = Screen { columns: columns_of, color: false };
            table(&columns, &rows, &screen, |_, _, cell| cell)
        };
        assert_eq!(show(usize::MAX), "id     n  folder\na     10  x/y\n日本   7  z\n");
        assert_eq!(show(10), "id     n\na     10\n日本   7\n");
        assert_eq!(show(4), "id\na\n日本\n");
    }

    #[test]
    fn harmful_letters_do_not_pass_and_long_texts_lose_their_middle() {
        assert_eq!(plain("a\x1b[31m\u{202e}b\n"), "a\u{fffd}[31m\u{fffd}b\u{fffd}");
        assert_eq!(
            (cut("abcdefgh", 5), cut("abc", 3), cut("日本語", 4)),
            ("ab…gh".into(), "abc".into(), "日…".into())
        );
    }

    #[test]
    fn numbers_sizes_and_times_are_short() {
        let shown = [0.0, -1234567.0, 12345.0, 123.4, 1.2345, 1e-5].map(value);
        assert_eq!(shown, ["0", "-1.23e6", "12.3k", "123", "1.234", "1.0e-5"]);
        let sizes = [0, 1023, 1536, 5 << 30].map(size);
        assert_eq!(sizes, ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]);
        let times = [59, 3725, 90_061].map(duration);
        assert_eq!(times, ["00:59", "1:02:05", "1d 01:01"]);
    }
}
