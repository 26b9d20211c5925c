//! report.html of an evaluation: tables with intervals as bars, comparisons, and rows with their images,
//! to be filtered. One file without requests; every text of a model or a data set passes [`escape`].

use super::answers::{Answer, rows as by_row};
use super::paired::Comparison;
use super::results::Results;
use super::statistics::Summary;
use super::tables::{ModelTable, Versus};
use crate::base::Result;
use crate::io::data_url::data_url;
use crate::io::dataset::{ImageRef, Row};
use crate::io::html::{STYLE, compact, escape};
use crate::io::image::{Alpha, Filter, encode_jpeg, pillow_resize};
use std::collections::HashMap;
use std::fmt::Write;

const MORE_STYLE: &str = "\
.ci{position:relative;display:inline-block;width:180px;height:12px;background:var(--plane);border-radius:3px;vertical-align:middle}\
.ci i{position:absolute;top:2px;height:8px;background:var(--c0);opacity:.45;border-radius:2px;min-width:1px}\
.ci b{position:absolute;top:0;width:2px;height:12px;background:var(--ink)}\
.flow{overflow-x:auto;margin-bottom:12px}.filters{display:flex;flex-wrap:wrap;gap:8px;margin:0 0 12px}\
.filters button{font:inherit;color:inherit;background:var(--card);border:1px solid var(--line);border-radius:8px;padding:4px 12px;cursor:pointer}\
.filters button[aria-pressed=true]{border-color:var(--c0);box-shadow:inset 0 0 0 1px var(--c0)}\
.gone{display:none}.note{color:var(--soft);font-size:13px}\n";

/// Longest side of a picture on the page, in pixels.
const SIDE: usize = 320;
/// Values of a column that are shown.
const VALUES: usize = 60;
/// Characters of a completion that are shown.
const LONG: usize = 6000;

/// What is shown.
pub(super) struct Shown<'a> {
    /// The figures.
    pub(super) results: &'a Results,
    /// The data.
    pub(super) rows: &'a [Row],
    /// Answers of each model.
    pub(super) answers: &'a [Vec<Answer>],
    /// Names of the models.
    pub(super) names: &'a [&'a str],
}

/// The page, with at most `limit` rows of the data.
pub(super) fn render(shown: &Shown, limit: usize) -> String {
    let r = shown.results;
    let sections = [
        ("figures", "Figures", figures(r)),
        ("comparisons", "Comparisons", r.versus.iter().map(|v| versus(v, r.level)).collect()),
        ("groups", "By column", groups(r)),
        ("rows", "Rows", rows(shown, limit)),
        ("settings", "Settings", settings(r)),
    ];
    let (mut nav, mut body) = (String::new(), String::new());
    for (id, title, html) in sections.iter().filter(|(_, _, html)| !html.is_empty()) {
        let _ = write!(nav, "<a href=\"#{id}\">{title}</a>");
        let _ = write!(body, "<section id=\"{id}\"><h2>{title}</h2>\n{html}</section>\n");
    }
    let title = escape(&r.main);
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <title>{title} · evaluation · grpo-rt</title>\n<style>\n{STYLE}{MORE_STYLE}</style></head><body><main>\n\
         <h1>{title}</h1><p class=\"sub\">Evaluation, intervals of {} %, {} bad rows</p><nav>{nav}</nav>\n\
         {body}</main>\n<script>\n{}</script></body></html>\n",
        compact(100.0 * r.level),
        r.skipped,
        include_str!("page.js"),
    )
}

fn table(head: &[&str], rows: &str) -> String {
    let head: String = head.iter().map(|h| format!("<th>{}</th>", escape(h))).collect();
    format!("<div class=\"card flow\"><table><tr>{head}</tr>{rows}</table></div>\n")
}

fn cell(text: &str) -> String {
    format!("<td>{}</td>", escape(text))
}

fn number(value: f64) -> String {
    let text = if value.is_finite() { format!("{value:.4}") } else { "–".into() };
    format!("<td class=\"num\">{text}</td>")
}

/// The range that bars of these summaries share: 0 to 1, or more if they need it.
fn range<'a>(all: impl Iterator<Item = &'a Summary>) -> (f64, f64) {
    all.fold((0.0, 1.0), |(low, high): (f64, f64), s| {
        let ends = s.interval.map_or([s.mean, s.mean], |i| [i.low, i.high]);
        let [a, b] = ends.map(|e| if e.is_finite() { e } else { 0.0 });
        (low.min(a), high.max(b))
    })
}

/// Mean, interval and bar.
fn measured(s: &Summary, (low, high): (f64, f64)) -> String {
    let place = |v: f64| 100.0 * ((v - low) / (high - low)).clamp(0.0, 1.0);
    let Some(i) = s.interval.filter(|_| s.mean.is_finite()) else {
        return format!("{}<td></td><td></td>", number(s.mean));
    };
    format!(
        "{}<td class=\"num\">{:.4} to {:.4}</td><td><span class=\"ci\" title=\"{}\">\
         <i style=\"left:{:.2}%;width:{:.2}%\"></i><b style=\"left:{:.2}%\"></b></span></td>",
        number(s.mean),
        i.low,
        i.high,
        escape(i.method),
        place(i.low),
        place(i.high) - place(i.low),
        place(s.mean),
    )
}

fn figures(r: &Results) -> String {
    let shared = range(r.models.iter().flat_map(|m| m.rewards.iter().map(|r| &r.summary)));
    let mut body = String::new();
    for m in &r.models {
        for reward in &m.rewards {
            let mut line = |what: &str, s: &Summary| {
                let _ = write!(
                    body,
                    "<tr>{}{}{}<td class=\"num\">{}</td></tr>",
                    cell(&m.name),
                    cell(what),
                    measured(s, shared),
                    s.judged
                );
            };
            line(&reward.name, &reward.summary);
            for (k, pass, vote) in &reward.at_k {
                line(&format!("{} pass@{k}", reward.name), pass);
                line(&format!("{} majority@{k}", reward.name), vote);
            }
        }
    }
    let head = ["model", "reward", "mean", "interval", "", "judged"];
    table(&head, &body) + &lengths(&r.models)
}

fn lengths(models: &[ModelTable]) -> String {
    let line = |m: &ModelTable| {
        let [mean, median, high] = m.length.map(|v| number((v * 10.0).round() / 10.0));
        format!(
            "<tr>{}<td class=\"num\">{}</td><td class=\"num\">{}</td>{mean}{median}{high}{}</tr>",
            cell(&m.name),
            m.rows,
            m.samples,
            number(m.truncated.mean)
        )
    };
    let head = [
        "model",
        "rows",
        "completions",
        "mean length",
        "median",
        "95 of 100 below",
        "cut off, share",
    ];
    table(&head, &models.iter().map(line).collect::<String>())
}

fn versus(v: &Versus, level: f64) -> String {
    let line = |(name, c): &(String, Comparison)| {
        let interval =
            c.interval.map_or(String::new(), |i| format!("{:+.4} to {:+.4}", i.low, i.high));
        let p = if c.p < 1e-4 { "below 0.0001".into() } else { format!("{:.4}", c.p) };
        let counts: String =
            [c.wins, c.losses, c.ties].map(|n| format!("<td class=\"num\">{n}</td>")).concat();
        format!(
            "<tr>{}{}{}<td class=\"num\">{:+.4}</td><td class=\"num\">{interval}</td>\
             <td class=\"num\">{p}</td>{}{counts}</tr>",
            cell(name),
            number(c.before),
            number(c.after),
            c.after - c.before,
            cell(c.test),
        )
    };
    let head = [
        "reward",
        "before",
        "after",
        "difference",
        "interval",
        "p",
        "test",
        "better",
        "worse",
        "same",
    ];
    let lines: String = v.rewards.iter().map(line).collect();
    let alone = match v.unpaired {
        0 => String::new(),
        n => format!(", {n} rows that only one of them has are left out"),
    };
    format!(
        "<p class=\"note\">{} against {}, the same rows, intervals of {} %{alone}</p>{}",
        escape(&v.models[1]),
        escape(&v.models[0]),
        compact(100.0 * level),
        table(&head, &lines)
    )
}

fn groups(r: &Results) -> String {
    let mut html = String::new();
    let Some(first) = r.models.first() else { return html };
    for (number, (column, _)) in first.groups.iter().enumerate() {
        let shared =
            range(r.models.iter().flat_map(|m| m.groups[number].1.iter().flat_map(|g| &g.rewards)));
        let mut body = String::new();
        for m in &r.models {
            for g in m.groups[number].1.iter().take(VALUES) {
                for (reward, s) in m.rewards.iter().zip(&g.rewards) {
                    let _ = write!(
                        body,
                        "<tr>{}<td class=\"num\">{}</td>{}{}{}</tr>",
                        cell(&g.value),
                        g.rows,
                        cell(&m.name),
                        cell(&reward.name),
                        measured(s, shared)
                    );
                }
            }
        }
        let head = [column.as_str(), "rows", "model", "reward", "mean", "interval", ""];
        html += &table(&head, &body);
    }
    html
}

fn settings(r: &Results) -> String {
    let line = |(name, value): &(String, String)| {
        format!("<div><span>{}</span><code>{}</code></div>", escape(name), escape(value))
    };
    let all: String = r.settings.iter().filter(|s| s.1 != "null").map(line).collect();
    format!("<div class=\"card settings\">{all}</div>\n")
}

/// A row with what every model made of it.
struct Told<'a> {
    number: usize,
    models: Vec<(&'a str, &'a [Answer])>,
    changed: bool,
    right: bool,
}

/// Rows of the data: those that changed first, then wrong ones, then the others, each in their order.
fn rows(shown: &Shown, limit: usize) -> String {
    let r = shown.results;
    let changed: Vec<usize> = r.versus.iter().flat_map(|v| v.changed.iter().map(|c| c.0)).collect();
    let main = shown.names.iter().position(|n| *n == r.main).unwrap_or(0);
    let Some(reward) = r.models.get(main).and_then(|m| m.rewards.first()) else {
        return String::new();
    };
    // Answers that were measured before stand in rows of their own counting: what they say pairs them.
    let maps: Vec<HashMap<_, &[Answer]>> =
        shown.answers.iter().map(|a| by_row(a).map(|row| (row[0].key(), row)).collect()).collect();
    let mut told: Vec<Told> = by_row(&shown.answers[main])
        .map(|row| {
            let found = maps.iter().zip(shown.names);
            let models =
                found.filter_map(|(m, name)| Some((*name, *m.get(&row[0].key())?))).collect();
            let scores: Vec<f64> = row.iter().filter_map(|a| a.score(&reward.name)).collect();
            let mean = scores.iter().sum::<f64>() / scores.len() as f64;
            Told {
                number: row[0].row,
                models,
                changed: changed.contains(&row[0].row),
                right: mean >= 0.5,
            }
        })
        .collect();
    let total = told.len();
    told.sort_by_key(|t| (!t.changed, t.right, t.number));
    told.truncate(limit);
    let count = |what: fn(&Told) -> bool| told.iter().filter(|t| what(t)).count();
    let mut filters =
        vec![("all", told.len()), ("right", count(|t| t.right)), ("wrong", count(|t| !t.right))];
    if !r.versus.is_empty() {
        filters.push(("changed", count(|t| t.changed)));
    }
    let buttons: String = filters
        .iter()
        .map(|(name, n)| {
            format!(
                "<button data-show=\"{name}\" aria-pressed=\"{}\">{name} ({n})</button>",
                *name == "all"
            )
        })
        .collect();
    let note = match total - told.len() {
        0 => String::new(),
        left => format!("; {left} further rows are in answers.jsonl"),
    };
    let all: String = told.iter().map(|t| one(t, shown.rows)).collect();
    format!(
        "<p class=\"note\">Right: {} of 0.5 or more{note}</p><div class=\"filters\">{buttons}</div>{all}",
        escape(&reward.name)
    )
}

fn one(t: &Told, rows: &[Row]) -> String {
    let row = t.number.checked_sub(1).and_then(|i| rows.get(i));
    let images: String = row.into_iter().flat_map(|r| &r.images).map(picture).collect();
    let Some((_, [first, ..])) = t.models.first() else { return String::new() };
    let said: String = t
        .models
        .iter()
        .flat_map(|(name, answers)| answers.iter().map(|a| completion(name, a)))
        .collect();
    let class = format!(
        "{}{}",
        if t.right { " right" } else { " wrong" },
        if t.changed { " changed" } else { "" }
    );
    format!(
        "<details class=\"group row{class}\"><summary><b>{}</b><span class=\"q\">{}</span>\
         <span class=\"read\">{}</span></summary><div class=\"body\"><div>{images}<h3>Question</h3>\
         <p>{}</p><h3>Reference answer</h3><p>{}</p></div><div>{said}</div></div></details>\n",
        escape(&first.id),
        escape(&cut(&first.question.replace('\n', " "), 200)),
        class.trim(),
        escape(&cut(&first.question, LONG)),
        escape(&cut(&first.reference, LONG)),
    )
}

fn completion(name: &str, a: &Answer) -> String {
    let score = |v: Option<f64>| v.map_or("–".to_string(), compact);
    let chips: String = a
        .rewards
        .iter()
        .map(|(name, v)| format!("<span>{} <b>{}</b></span>", escape(name), score(*v)))
        .collect();
    let end = if a.truncated { ", cut off" } else { "" };
    format!(
        "<div class=\"said\"><div class=\"chips\"><span><b>{}</b></span>{chips}<span>{} tokens{end}</span>\
         </div><pre>{}</pre></div>",
        escape(name),
        a.tokens,
        escape(&cut(&a.completion, LONG))
    )
}

fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_string(),
    }
}

/// A small copy of a picture; a word in place of one that cannot be read any more.
fn picture(image: &ImageRef) -> String {
    let name = escape(&image.name());
    match small(image) {
        Ok(jpeg) => {
            format!("<img alt=\"{name}\" src=\"{}\">", data_url("jpeg", &jpeg))
        }
        Err(_) => format!("<p class=\"note\">{name} cannot be shown</p>"),
    }
}

fn small(image: &ImageRef) -> Result<Vec<u8>> {
    let image = image.open(Alpha::OverWhite)?;
    let longest = image.width.max(image.height);
    if longest <= SIDE {
        return encode_jpeg(&image, 85);
    }
    let scaled = |side: usize| (side * SIDE / longest).max(1);
    let small = pillow_resize::pillow_resize(
        &image,
        scaled(image.width),
        scaled(image.height),
        Filter::Bicubic,
    )?;
    encode_jpeg(&small, 85)
}
