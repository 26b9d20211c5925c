//! The page around the charts: key figures, sections, sample groups, settings. Every string that
//! comes from outside passes [`escape`] on its way into the page.

use super::ReportInput;
use super::alerts::alerts;
use super::bars::{memory_by_phase, reward_spread, time_by_phase};
use crate::io::data_url::data_url;
use crate::io::html::{SCRIPT, STYLE, Series, compact, escape, line_chart};
use crate::track::{MetricRow, SampleCompletion, SampleGroup};
use std::collections::BTreeSet;
use std::fmt::Write;

/// Seconds as `1 h 02 min`, `3 min 05 s` or `12.3 s`.
pub fn clock(seconds: f64) -> String {
    let s = seconds.round() as u64;
    match s {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {:02} s", s / 60, s % 60),
        _ => format!("{} h {:02} min", s / 3600, s / 60 % 60),
    }
}

/// Bytes in binary units.
pub fn bytes(n: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut n = n;
    let mut unit = 0;
    while n >= 1024.0 && unit + 1 < units.len() {
        n /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n:.0} B") } else { format!("{n:.2} {}", units[unit]) }
}

/// The page.
pub fn render(input: &ReportInput) -> String {
    let (evals, train): (Vec<&MetricRow>, Vec<&MetricRow>) =
        input.metrics.iter().partition(|r| r.is_eval());
    let mut curves = Curves { train: &train, evals: &evals, shown: BTreeSet::new() };
    let sections = [
        ("health", "Health", alerts(&input.alerts)),
        ("rewards", "Rewards", charts(curves.rewards() + &reward_spread(&input.rewards))),
        ("evaluation", "Evaluation", evaluation(input, &mut curves)),
        ("policy", "Policy", charts(curves.policy())),
        ("completions", "Completions", charts(curves.completions())),
        ("time", "Time and memory", charts(curves.time() + &memory_by_phase(&train))),
        ("other", "Other metrics", curves.others()),
        ("samples", "Samples", input.groups.iter().rev().enumerate().map(group).collect()),
        ("settings", "Settings", settings(&input.settings)),
    ];
    let mut nav = String::new();
    let mut body = String::new();
    for (id, title, html) in sections.iter().filter(|(_, _, html)| !html.is_empty()) {
        let _ = write!(nav, "<a href=\"#{id}\">{title}</a>");
        let _ = write!(body, "<section id=\"{id}\"><h2>{title}</h2>\n{html}</section>\n");
    }
    let title = escape(&input.title);
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <title>{title} · grpo-rt</title>\n<style>\n{}</style></head><body><main>\n\
         <h1>{title}</h1><p class=\"sub\">{}</p><nav>{nav}</nav>\n{}\n{body}</main>\n\
         <script>\n{}</script></body></html>\n",
        STYLE,
        subtitle(&train),
        tiles(&input.summary),
        SCRIPT,
    )
}

fn subtitle(train: &[&MetricRow]) -> String {
    match (train.first(), train.last()) {
        (Some(a), Some(b)) => {
            format!("GRPO run, steps {} to {}, {:.2} epochs", a.step, b.step, b.epoch)
        }
        _ => "GRPO run without a finished step".to_string(),
    }
}

fn tiles(summary: &[(String, String)]) -> String {
    let plain =
        |(name, _): &&(String, String)| !name.starts_with("before/") && !name.starts_with("after/");
    let tile = |(name, value): &(String, String)| {
        format!("<div class=\"tile\"><span>{}</span><b>{}</b></div>", escape(name), escape(value))
    };
    let all: String = summary.iter().filter(plain).map(tile).collect();
    if all.is_empty() { all } else { format!("<div class=\"tiles\">{all}</div>") }
}

fn charts(html: String) -> String {
    if html.is_empty() { html } else { format!("<div class=\"charts\">\n{html}</div>\n") }
}

/// Draws metrics by name and remembers which ones have been drawn.
struct Curves<'a> {
    train: &'a [&'a MetricRow],
    evals: &'a [&'a MetricRow],
    shown: BTreeSet<String>,
}

impl Curves<'_> {
    fn points(&mut self, name: &str) -> Vec<(f64, f64)> {
        self.shown.insert(name.to_string());
        let rows = if name.starts_with("eval_") { self.evals } else { self.train };
        let value = |r: &&MetricRow| Some((r.step as f64, r.get(name)?));
        rows.iter().filter_map(value).filter(|p| p.1.is_finite()).collect()
    }

    /// A line with a band from one metric to another.
    fn between(&mut self, title: &str, name: &str, low: &str, high: &str) -> String {
        let (low, high) = (self.points(low), self.points(high));
        let same = low.len() == high.len();
        let band = low.iter().zip(&high).filter(|_| same).map(|(l, h)| (l.0, l.1, h.1)).collect();
        line_chart(title, &[Series { name: title.into(), points: self.points(name), band }])
    }

    /// A line with a band of one standard deviation on either side.
    fn spread(&mut self, title: &str, name: &str, std: &str) -> Series {
        let (points, std) = (self.points(name), self.points(std));
        let mut band = Vec::new();
        if points.len() == std.len() {
            band = points.iter().zip(&std).map(|(p, s)| (p.0, p.1 - s.1, p.1 + s.1)).collect();
        }
        Series { name: title.into(), points, band }
    }

    fn single(&mut self, title: &str, name: &str) -> String {
        let points = self.points(name);
        line_chart(title, &[Series { name: title.into(), points, band: Vec::new() }])
    }

    /// Names of the training metrics, in the order of their first appearance.
    fn names(&self, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let mut seen = BTreeSet::new();
        let all = self.train.iter().flat_map(|r| r.values.iter().map(|(n, _)| n));
        all.filter(|n| wanted(n) && seen.insert(n.as_str())).cloned().collect()
    }

    fn rewards(&mut self) -> String {
        let train = self.spread("training", "reward", "reward_std");
        let eval = self.spread("evaluation", "eval_reward", "");
        let mut html = line_chart("Reward, mean ± std", &[train, eval]);
        for mean in self.names(|n| n.starts_with("rewards/") && n.ends_with("/mean")) {
            let stem = mean.trim_end_matches("/mean");
            let title = format!("Reward: {}", stem.trim_start_matches("rewards/"));
            let series = self.spread(&title, &mean, &format!("{stem}/std"));
            html += &line_chart(&title, &[series]);
        }
        html + &self.single("Groups without a spread, share", "frac_reward_zero_std")
    }

    fn policy(&mut self) -> String {
        let mut html = self.single("Loss", "loss");
        html += &self.single("KL to the reference", "kl");
        html += &self.single("Entropy, nats per token", "entropy");
        let clips: Vec<Series> = self
            .names(|n| n.starts_with("clip_ratio/") && n.ends_with("_mean"))
            .into_iter()
            .map(|n| Series {
                name: n.trim_start_matches("clip_ratio/").into(),
                points: self.points(&n),
                band: Vec::new(),
            })
            .collect();
        html += &line_chart("Clipped tokens, share", &clips);
        html += &self.single("Gradient norm", "grad_norm");
        html += &self.single("Learning rate", "learning_rate");
        html + &self.single("Rollout against training, max |Δ logp|", "sampling/logp_diff_max")
    }

    fn completions(&mut self) -> String {
        let at = |what: &str| format!("completions/{what}_length");
        let html = self.between(
            "Length in tokens, mean (min to max)",
            &at("mean"),
            &at("min"),
            &at("max"),
        );
        html + &self.single("Cut off at the limit, share", "completions/clipped_ratio")
    }

    fn time(&mut self) -> String {
        // The section of alerts tells these.
        for n in self.names(|n| n.starts_with("health/")) {
            self.shown.insert(n);
        }
        for n in self.names(|n| n.starts_with("time/") || n.starts_with("memory/")) {
            self.shown.insert(n);
        }
        time_by_phase(self.train) + &self.single("Step time, seconds", "step_time")
    }

    fn others(&mut self) -> String {
        let left = self.names(|n| !n.starts_with("eval_"));
        let left: Vec<String> = left.into_iter().filter(|n| !self.shown.contains(n)).collect();
        let html: String = left.iter().map(|n| self.single(n, n)).collect();
        if html.is_empty() {
            return html;
        }
        let count = html.matches("<figure").count();
        format!(
            "<details class=\"more\"><summary><b>{count} more</b><span class=\"q\">{}</span>\
             </summary>{}</details>\n",
            escape(&left.join(", ")),
            charts(html)
        )
    }
}

/// Table of `before/` and `after/` figures, then curves of the evaluations in between.
fn evaluation(input: &ReportInput, curves: &mut Curves<'_>) -> String {
    let find = |key: String| input.summary.iter().find(|(k, _)| *k == key).map(|(_, v)| v.as_str());
    let mut table = String::new();
    for name in input.summary.iter().filter_map(|(k, _)| k.strip_prefix("before/")) {
        let before = find(format!("before/{name}")).unwrap_or("");
        let Some(after) = find(format!("after/{name}")) else { continue };
        let change = match (before.parse::<f64>(), after.parse::<f64>()) {
            (Ok(b), Ok(a)) if a >= b => format!("+{}", compact(a - b)),
            (Ok(b), Ok(a)) => compact(a - b),
            _ => String::new(),
        };
        let cells =
            [before, after, &change].map(|c| format!("<td class=\"num\">{}</td>", escape(c)));
        let _ = write!(table, "<tr><td>{}</td>{}</tr>", escape(name), cells.concat());
    }
    let mut html = String::new();
    if !table.is_empty() {
        html = format!(
            "<div class=\"card\"><table><tr><th>metric</th><th>before</th><th>after</th>\
             <th>change</th></tr>{table}</table></div>\n"
        );
    }
    let mut names: Vec<&String> = Vec::new();
    for (name, _) in curves.evals.iter().flat_map(|r| &r.values) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    for name in names {
        if curves.points(name).len() > 1 {
            html += &curves.single(name.trim_start_matches("eval_"), name);
        }
    }
    charts(html)
}

fn settings(settings: &[(String, String)]) -> String {
    let line = |(name, value): &(String, String)| {
        format!("<div><span>{}</span><code>{}</code></div>", escape(name), escape(value))
    };
    let all: String = settings.iter().map(line).collect();
    if all.is_empty() { all } else { format!("<div class=\"card settings\">{all}</div>\n") }
}

/// One group of completions; the newest (index 0) is open.
fn group((index, g): (usize, &SampleGroup)) -> String {
    let totals: Vec<f64> = g.completions.iter().filter_map(|c| c.total).collect();
    let mean = match totals.len() {
        0 => "not judged".to_string(),
        n => format!("mean reward {}", compact(totals.iter().sum::<f64>() / n as f64)),
    };
    let largest = g.completions.iter().map(|c| c.advantage.abs()).fold(0.0, f64::max);
    let images: String = g
        .images_png
        .iter()
        .map(|png| format!("<img alt=\"image of the prompt\" src=\"{}\">", data_url("png", png)))
        .collect();
    let answer = match g.answer.as_str() {
        "" => String::new(),
        a => format!("<h3>Reference answer</h3><p>{}</p>", escape(a)),
    };
    let said: String = g.completions.iter().map(|c| completion(c, largest)).collect();
    format!(
        "<details class=\"group\"{}><summary><b>step {}</b><span class=\"q\">{}</span>\
         <span class=\"read\">{mean}</span></summary><div class=\"body\"><div>{images}<h3>Prompt</h3>\
         <p>{prompt}</p>{answer}</div><div>{said}</div></div></details>\n",
        if index == 0 { " open" } else { "" },
        g.step,
        escape(&g.prompt.replace('\n', " ")),
        prompt = escape(&g.prompt),
    )
}

/// One completion; colour by the sign of its advantage, strength by its size within the group.
fn completion(c: &SampleCompletion, largest: f64) -> String {
    let (class, arrow) = match c.advantage {
        a if a > 0.0 => (" up", "▲ +"),
        a if a < 0.0 => (" down", "▼ "),
        _ => ("", ""),
    };
    let mix = if largest > 0.0 { 16.0 * c.advantage.abs() / largest } else { 0.0 };
    let score = |v: Option<f64>| v.map_or("–".to_string(), compact);
    let rewards: String = c
        .rewards
        .iter()
        .map(|(name, v)| format!("<span>{} <b>{}</b></span>", escape(name), score(*v)))
        .collect();
    let mut text = escape(&c.text);
    for tag in ["think", "answer"] {
        for slash in ["", "/"] {
            let raw = format!("&lt;{slash}{tag}&gt;");
            text = text.replace(&raw, &format!("<span class=\"tag\">{raw}</span>"));
        }
    }
    format!(
        "<div class=\"said{class}\" style=\"--mix:{mix:.0}%\"><div class=\"chips\">\
         <span>advantage <b class=\"adv\">{arrow}{}</b></span><span>reward <b>{}</b></span>{rewards}\
         <span>{} tokens</span></div><pre>{text}</pre></div>",
        if c.advantage.is_finite() {
            compact((c.advantage * 1e3).round() / 1e3)
        } else {
            "–".into()
        },
        score(c.total),
        c.tokens,
    )
}
