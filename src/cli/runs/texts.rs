//! Runs, checkpoints and comparisons as text. Reads nothing: everything shown was found by `runs`.

use super::screen::{Color, Column, Screen, color_of, cut, duration, plain, size, table, value};
use super::{POINTS_OF_TEXT, figure};
use crate::runs::compare::Comparison;
use crate::runs::curves::{Curves, sparkline};
use crate::runs::view::{CheckpointOf, Details, Entry};
use std::path::PathBuf;

/// Figures with a curve in the text of a run; the others are counted.
const CURVES: [&str; 12] = [
    "reward",
    "reward_std",
    "frac_reward_zero_std",
    "eval_reward",
    "loss",
    "entropy",
    "kl",
    "grad_norm",
    "completions/mean_length",
    "completions/clipped_ratio",
    "step_time",
    "learning_rate",
];

/// Files or settings that are listed before "and more".
const LISTED: usize = 12;

/// `a 2026-01-31 23:59`: a moment without its seconds.
fn moment(text: &str) -> String {
    text.get(..16).map_or(String::new(), |t| t.replace('T', " "))
}

fn steps(e: &Entry) -> String {
    if e.max_steps == 0 { e.step.to_string() } else { format!("{}/{}", e.step, e.max_steps) }
}

/// `runs list`.
pub fn list(entries: &[Entry], screen: &Screen) -> String {
    let column = |head, right, spare| Column { head, right, spare };
    let columns = [
        column("RUN", false, 0),
        column("STATE", false, 0),
        column("STEP", true, 1),
        column("REWARD", true, 2),
        column("BEST", true, 4),
        column("STARTED (UTC)", false, 5),
        column("DURATION", true, 3),
        column("MODEL", false, 7),
        column("FOLDER", false, 6),
    ];
    // The loss of a supervised run is no reward; it says what it is.
    let shown = |e: &Entry, v: Option<f64>| match e.figure {
        "loss" if v.is_some() => format!("loss {}", figure(v)),
        _ => figure(v),
    };
    let row = |e: &Entry| {
        let model = e.model.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        vec![
            plain(&e.run_id),
            e.state.to_string(),
            steps(e),
            shown(e, e.last),
            shown(e, e.best),
            moment(&e.started),
            duration(e.seconds),
            plain(model),
            plain(&e.dir),
        ]
    };
    let rows: Vec<Vec<String>> = entries.iter().map(row).collect();
    let mut out = table(&columns, &rows, screen, |r, c, cell| match c {
        1 => screen.paint(&cell, color_of(entries[r].state)),
        _ => cell,
    });
    for e in entries {
        if let Some(note) = &e.note {
            out += &fit(&format!("{}: {}", plain(&e.run_id), plain(note)), screen);
        }
    }
    out
}

/// A line, cut to the screen.
fn fit(text: &str, screen: &Screen) -> String {
    cut(text, screen.columns) + "\n"
}

/// `runs show`.
pub fn show(d: &Details, curves: &Curves, screen: &Screen) -> String {
    let e = &d.entry;
    let state = screen.paint(e.state, color_of(e.state));
    let title = screen.paint(&plain(&e.run_id), Color::Bold);
    let mut out = format!("{title}  {state}  step {}  {}\n", steps(e), duration(e.seconds));
    let mut fact = |name: &str, value: &str| {
        if !value.is_empty() {
            out += &fit(&format!("{name:<10}{}", plain(value)), screen);
        }
    };
    fact("why", e.note.as_deref().unwrap_or_default());
    fact("name", e.run_name.as_deref().unwrap_or_default());
    fact("folder", &e.dir);
    fact("model", &e.model);
    fact("started", &moment(&e.started));
    fact("last sign", &moment(&e.updated));
    if e.pid > 0 {
        fact("process", &format!("{} on {}", e.pid, e.host));
    }
    fact("command", &d.command_line.join(" "));
    out += &figures(d, curves, screen);
    if !d.changed.is_empty() {
        out += &heading("settings that are not the default", screen);
        let row = |(name, value, default): &(String, Option<String>, Option<String>)| {
            let text = |v: &Option<String>| plain(v.as_deref().unwrap_or("-"));
            vec![plain(name), text(value), text(default)]
        };
        let rows: Vec<Vec<String>> = d.changed.iter().map(row).collect();
        let columns = ["SETTING", "VALUE", "DEFAULT"];
        let columns = columns.map(|head| Column { head, right: false, spare: 0 });
        out += &table(&columns, &rows, screen, |_, _, cell| cell);
    }
    if !d.alerts.is_empty() {
        out += &heading("alerts", screen);
        for a in &d.alerts {
            let text = format!("step {}: {} ({}); {}", a.step, a.message, a.state, a.advice);
            out += &fit(&plain(&text), screen);
        }
    }
    if !d.checkpoints.is_empty() {
        out += &heading("checkpoints", screen);
        out += &checkpoints(&d.checkpoints, &[], false, screen);
    }
    out += &heading("files", screen);
    let row = |(name, bytes): &(String, u64)| vec![plain(name), size(*bytes)];
    let rows: Vec<Vec<String>> = d.files.iter().map(row).collect();
    let columns = [
        Column { head: "FILE", right: false, spare: 0 },
        Column { head: "SIZE", right: true, spare: 0 },
    ];
    out + &table(&columns, &rows, screen, |_, _, cell| cell)
}

fn heading(text: &str, screen: &Screen) -> String {
    format!("\n{}\n", screen.paint(text, Color::Bold))
}

fn figures(d: &Details, curves: &Curves, screen: &Screen) -> String {
    if d.figures.is_empty() {
        return heading("no figures yet", screen);
    }
    let of_reward = |n: &str| n.starts_with("rewards/") && n.ends_with("/mean");
    let shown = |n: &str| CURVES.contains(&n) || of_reward(n);
    let rows: Vec<Vec<String>> = d
        .figures
        .iter()
        .filter(|f| shown(&f.name))
        .map(|f| {
            let thin = curves.thin(&[&f.name], POINTS_OF_TEXT);
            let line = thin.columns.first().map_or(String::new(), |c| sparkline(&c.mean));
            vec![plain(&f.name), value(f.last), value(f.low), value(f.high), line]
        })
        .collect();
    let column = |head, right, spare| Column { head, right, spare };
    let columns = [
        column("FIGURE", false, 0),
        column("LAST", true, 0),
        column("LOW", true, 2),
        column("HIGH", true, 2),
        column("COURSE", false, 1),
    ];
    let mut out = heading("figures", screen) + &table(&columns, &rows, screen, |_, _, cell| cell);
    let more = d.figures.len() - rows.len();
    if more > 0 {
        out += &format!("and {more} more: --json has them all\n");
    }
    out
}

/// `runs checkpoints`.
pub fn checkpoints(all: &[CheckpointOf], verified: &[u64], asked: bool, screen: &Screen) -> String {
    if all.is_empty() {
        return "no checkpoints\n".into();
    }
    let state = |c: &CheckpointOf| match &c.damaged {
        Some(_) => "damaged",
        None if verified.contains(&c.step) => "whole, sums agree",
        None if asked => "whole, no sums",
        None => "whole",
    };
    let row = |c: &CheckpointOf| {
        let best = if c.best { "best" } else { "" };
        vec![
            c.step.to_string(),
            size(c.bytes),
            c.kind.into(),
            state(c).into(),
            best.into(),
            plain(&c.path),
        ]
    };
    let rows: Vec<Vec<String>> = all.iter().map(row).collect();
    let column = |head, right, spare| Column { head, right, spare };
    let columns = [
        column("STEP", true, 0),
        column("SIZE", true, 1),
        column("KIND", false, 2),
        column("STATE", false, 0),
        column("", false, 0),
        column("FOLDER", false, 3),
    ];
    let mut out = table(&columns, &rows, screen, |r, c, cell| match (c, &all[r].damaged) {
        (3, Some(_)) => screen.paint(&cell, Color::Red),
        _ => cell,
    });
    for c in all {
        if let Some(why) = &c.damaged {
            out += &format!("step {}: {}\n", c.step, plain(why));
        }
    }
    out
}

/// `runs compare`.
pub fn compare(c: &Comparison, screen: &Screen) -> String {
    // Headings are data here, so they are a row of the table.
    let columns: Vec<Column> =
        (0..=c.runs.len()).map(|_| Column { head: "", right: false, spare: 0 }).collect();
    let runs = |first: &str| -> Vec<String> {
        std::iter::once(first.to_string()).chain(c.runs.iter().map(|r| plain(r))).collect()
    };
    let bold = |r: usize, _: usize, cell: String| {
        if r == 0 { screen.paint(&cell, Color::Bold) } else { cell }
    };
    let lines = |rows: Vec<Vec<String>>| {
        let text = table(&columns, &rows, screen, bold);
        text.split_once('\n').map_or(String::new(), |(_, rest)| rest.to_string())
    };
    let mut settings = vec![runs("SETTING")];
    for (name, values) in &c.settings {
        let cells = values.iter().map(|v| plain(v.as_deref().unwrap_or("-")));
        settings.push(std::iter::once(plain(name)).chain(cells).collect());
    }
    let mut out = match c.settings.is_empty() {
        true => "the runs were started alike\n".to_string(),
        false => lines(settings),
    };
    let of_reward = |n: &str| n.starts_with("rewards/") && n.ends_with("/mean");
    let mut rows = vec![runs("FIGURE, start -> end")];
    for f in c.figures.iter().filter(|f| CURVES.contains(&f.name.as_str()) || of_reward(&f.name)) {
        let told = f.runs.iter().map(|v| match v {
            Some(v) => format!("{} -> {}", value(v.start), value(v.end)),
            None => "-".into(),
        });
        rows.push(std::iter::once(plain(&f.name)).chain(told).collect());
        let drawn = f.runs.iter().map(|v| {
            let column = v.as_ref().and_then(|v| v.curve.columns.first());
            // A page's curve has more points than a line of text.
            let wide = |c: &crate::runs::curves::Column| c.mean.len() > POINTS_OF_TEXT;
            column.filter(|c| !wide(c)).map_or(String::new(), |c| sparkline(&c.mean))
        });
        let drawn: Vec<String> = drawn.collect();
        if drawn.iter().any(|d| !d.is_empty()) {
            rows.push(std::iter::once(String::new()).chain(drawn).collect());
        }
    }
    out += "\n";
    out + &lines(rows)
}

/// Files that a deletion leaves.
pub fn left(files: &[PathBuf]) -> String {
    let mut out = String::from("  not the run's, stays:\n");
    for file in files.iter().take(LISTED) {
        out += &format!("    {}\n", plain(&file.display().to_string()));
    }
    if files.len() > LISTED {
        out += &format!("    and {} more\n", files.len() - LISTED);
    }
    out
}
