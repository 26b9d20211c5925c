//! `grpo-rt runs ...`: which runs there are, what became of them, their files and models. Each command
//! reads its options here and hands on to `runs`; nothing is trained and, but for `delete`, nothing removed.

mod logs; // the log, and what is added to it
mod screen; // tables and words for a terminal
mod texts; // runs, checkpoints and comparisons as text

use super::Outcome;
use super::output::{counted, print};
use crate::base::{Error, Result};
use crate::io::atomic::write_atomic;
use crate::options::Options;
use crate::runs::compare::{compare as held_against, render};
use crate::runs::curves::Curves;
use crate::runs::view::{Entry, checkpoint, details, entry};
use crate::runs::{Run, checkpoints as kept, delete as deletion, fetch as copies};
use crate::track::report::write_report;
use crate::web::pages;
use crate::web::server::{Limits, Listen, Stop};
use screen::{Screen, size, value};
use serde::Serialize;
use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;

/// Points of a curve in text, and of one in a page.
const POINTS_OF_TEXT: usize = 32;
const POINTS_OF_PAGE: usize = 400;

/// The folder that runs are looked for in.
fn root(o: &Options) -> PathBuf {
    o.path("output_dir").unwrap_or_else(|| ".".into())
}

/// Names that were given, as words or with `--run_id`.
fn names(o: &Options) -> Vec<String> {
    o.texts("run").into_iter().chain(o.text("run_id").map(str::to_string)).collect()
}

/// The one name that a command needs.
fn one_name(o: &Options) -> Result<String> {
    let mut all = names(o);
    match all.len() {
        1 => Ok(all.remove(0)),
        n => Err(Error::usage(format!("`{}` needs one run", o.command().name()))
            .key("run")
            .found(if n == 0 { "none".into() } else { all.join(" ") })
            .hint("grpo-rt runs list shows the runs; give one by its id or its folder")),
    }
}

fn one(o: &Options) -> Result<Run> {
    crate::runs::find(&root(o), &one_name(o)?)
}

fn print_json(value: &impl Serialize) -> Result<Outcome> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Error::internal(format!("what was found is no JSON: {e}")))?;
    print(&(text + "\n"));
    Ok(Outcome::Done)
}

/// `runs list`.
pub fn list(o: &Options) -> Result<Outcome> {
    let states = o.texts("state");
    let runs = crate::runs::list(&root(o))?;
    let all = runs.len();
    let shown =
        runs.iter().filter(|r| states.is_empty() || states.iter().any(|s| s == r.state.name()));
    let mut entries: Vec<Entry> = shown.map(entry).collect();
    sort(&mut entries, o.text("sort").unwrap_or("started"));
    if o.flag("json") {
        return print_json(&entries);
    }
    if entries.is_empty() {
        let why = match all {
            0 => "no runs".to_string(),
            n => format!("none of {} in that state", counted(n, "run")),
        };
        print(&format!(
            "{why} in {} (three folders deep); --output_dir names another folder\n",
            root(o).display()
        ));
        return Ok(Outcome::Done);
    }
    print(&texts::list(&entries, &Screen::of_stdout()));
    Ok(Outcome::Done)
}

/// The newest, the best, the longest come last: nearest to the prompt.
fn sort(entries: &mut [Entry], by: &str) {
    let number = |v: Option<f64>| v.unwrap_or(f64::NEG_INFINITY);
    entries.sort_by(|a, b| match by {
        "id" => a.run_id.cmp(&b.run_id),
        "state" => a.state.cmp(b.state),
        "reward" => number(a.last).total_cmp(&number(b.last)),
        "best" => number(a.best).total_cmp(&number(b.best)),
        "step" => a.step.cmp(&b.step),
        "duration" => a.seconds.cmp(&b.seconds),
        _ => a.started.cmp(&b.started),
    });
}

/// `runs show`.
pub fn show(o: &Options) -> Result<Outcome> {
    let run = one(o)?;
    let curves = Curves::of(&run)?;
    let all = details(&run, entry(&run), &curves)?;
    if o.flag("json") {
        return print_json(&all);
    }
    print(&texts::show(&all, &curves, &Screen::of_stdout()));
    Ok(Outcome::Done)
}

/// `runs compare`.
pub fn compare(o: &Options) -> Result<Outcome> {
    let names = names(o);
    if names.len() < 2 {
        return Err(Error::usage("a comparison needs at least two runs")
            .key("run")
            .found(if names.is_empty() { "none".into() } else { names.join(" ") })
            .hint("grpo-rt runs compare RUN RUN"));
    }
    let runs: Vec<Run> =
        names.iter().map(|n| crate::runs::find(&root(o), n)).collect::<Result<_>>()?;
    let html = o.path("html");
    let points = if html.is_some() || o.flag("json") { POINTS_OF_PAGE } else { POINTS_OF_TEXT };
    let found = held_against(&runs, points)?;
    if let Some(path) = &html {
        write_atomic(path, render(&found).as_bytes())?;
    }
    if o.flag("json") {
        return print_json(&found);
    }
    print(&texts::compare(&found, &Screen::of_stdout()));
    if let Some(path) = html {
        print(&format!("\nwrote {}\n", path.display()));
    }
    Ok(Outcome::Done)
}

/// `runs report`.
pub fn report(o: &Options) -> Result<Outcome> {
    let path = write_report(&one(o)?.dir)?;
    print(&format!("wrote {}\n", path.display()));
    Ok(Outcome::Done)
}

/// `runs delete`.
pub fn delete(o: &Options) -> Result<Outcome> {
    let names = names(o);
    if names.is_empty() {
        one_name(o)?;
    }
    // Every run is found and looked at before the first file goes.
    let mut doomed = Vec::new();
    for name in &names {
        let run = crate::runs::find(&root(o), name)?;
        doomed.push((deletion::doomed(&run)?, run));
    }
    for (all, run) in &doomed {
        print(&format!(
            "{}: {}, {} in {}\n",
            screen::plain(&run.run_id),
            counted(all.files.len(), "file"),
            size(all.bytes),
            run.dir.display()
        ));
        if !all.left.is_empty() {
            print(&texts::left(&all.left));
        }
    }
    if !o.flag("yes") && !agreed("remove them? [y/N] ")? {
        print("nothing was removed\n");
        return Ok(Outcome::Done);
    }
    for (all, run) in &doomed {
        let gone = deletion::delete(run, all)?;
        let folder = if gone { "with its folder" } else { "its folder stays" };
        print(&format!("removed {}, {folder}\n", screen::plain(&run.run_id)));
    }
    Ok(Outcome::Done)
}

/// Asks a person.
///
/// # Errors
/// If there is nobody to ask.
fn agreed(question: &str) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Err(
            Error::usage("there is nobody to ask").hint("add --yes to remove without asking")
        );
    }
    print(question);
    let _ = std::io::stdout().flush();
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    Ok(read.is_ok() && matches!(line.trim().to_lowercase().as_str(), "y" | "yes"))
}

/// `runs logs`.
pub fn logs(o: &Options) -> Result<Outcome> {
    let run = one(o)?;
    logs::print_log(&run, o.count("lines").unwrap_or(0), o.flag("follow"))?;
    Ok(Outcome::Done)
}

/// `runs checkpoints`.
pub fn checkpoints(o: &Options) -> Result<Outcome> {
    let run = one(o)?;
    let mut all = run.checkpoints()?;
    let mut verified = Vec::new();
    if o.flag("verify") {
        for c in all.iter_mut().filter(|c| c.health.is_none()) {
            match kept::verify(&c.path) {
                Ok(true) => verified.push(c.step),
                Ok(false) => {}
                Err(e) => c.health = Some(e.one_line()),
            }
        }
    }
    let all: Vec<_> = all.into_iter().map(checkpoint).collect();
    if o.flag("json") {
        return print_json(&all);
    }
    print(&texts::checkpoints(&all, &verified, o.flag("verify"), &Screen::of_stdout()));
    Ok(Outcome::Done)
}

/// `runs fetch`.
pub fn fetch(o: &Options) -> Result<Outcome> {
    let name = one_name(o)?;
    let root = root(o);
    // A colon may be part of a name: the whole is tried first.
    let (run, step) = match (crate::runs::find(&root, &name), name.rsplit_once(':')) {
        (Ok(run), _) => (run, None),
        (Err(_), Some((name, step))) => (crate::runs::find(&root, name)?, Some(step)),
        (Err(e), None) => return Err(e),
    };
    let to = o.path("to").ok_or_else(|| Error::internal("`to` is required"))?;
    let done = copies::fetch(&run, step, &to)?;
    print(&format!(
        "copied {} ({}, {}{}) to {}\n",
        done.from.display(),
        done.kind.name(),
        size(done.bytes),
        if done.verified { ", sums agree" } else { "" },
        to.display()
    ));
    Ok(Outcome::Done)
}

/// `runs serve`.
pub fn serve(o: &Options) -> Result<Outcome> {
    let port = o.count("port").and_then(|p| u16::try_from(p).ok());
    let port =
        port.ok_or_else(|| o.wrong("port", "there is no such port").expected("0 to 65535"))?;
    let listen = Listen {
        host: o.text("host").unwrap_or("127.0.0.1").into(),
        port,
        token: o.text("token").map(str::to_string),
        open: &[],
        browser: true,
        limits: Limits { body: 64 << 10, ..Limits::default() },
    };
    let root = root(o);
    // A folder that cannot be read is told now, not to the first browser.
    let count = crate::runs::list(&root)?.len();
    let bound = listen.bind()?;
    print(&format!(
        "{} of {} at {}\nCtrl-C ends the server\n",
        counted(count, "run"),
        root.display(),
        bound.url()
    ));
    if !bound.address().ip().is_loopback() {
        super::output::print_warning(
            "everybody who reaches this address and has the token sees prompts, images and completions; \
             the token is sent unencrypted",
        );
    }
    bound.serve(pages::router(&root), &Stop::default())?;
    Ok(Outcome::Done)
}

/// A figure of a table; a dash for none.
fn figure(v: Option<f64>) -> String {
    v.map_or("-".into(), value)
}
