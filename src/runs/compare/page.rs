//! The comparison as one HTML file without requests: settings that differ, figures side by side, curves
//! of all runs in one frame. Every text from outside is escaped.

use super::{Comparison, Course};
use crate::io::html::{SCRIPT, STYLE, Series, compact, escape, line_chart};
use std::fmt::Write;

/// Figures whose curves open the page; the rest is folded away.
const OPEN: usize = 12;

/// The page as text.
pub fn render(c: &Comparison) -> String {
    let title = escape(&c.runs.join(" · "));
    let charts: Vec<String> = c.figures.iter().enumerate().map(|(i, _)| chart(c, i)).collect();
    let (first, rest) = charts.split_at(charts.len().min(OPEN));
    let more = match rest.concat() {
        empty if empty.is_empty() => empty,
        html => format!(
            "<details class=\"more\"><summary><b>{} more</b></summary><div class=\"charts\">{html}</div></details>",
            rest.len()
        ),
    };
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <title>{title} · grpo-rt</title>\n<style>\n{STYLE}</style></head><body><main>\n\
         <h1>{title}</h1><p class=\"sub\">{} runs side by side</p>\n\
         <section><h2>Settings that differ</h2>{}</section>\n\
         <section><h2>Curves</h2><div class=\"charts\">{}</div>{more}</section>\n\
         <section><h2>Figures, start to end</h2>{}</section>\n\
         </main>\n<script>\n{SCRIPT}</script></body></html>\n",
        c.runs.len(),
        settings(c),
        first.concat(),
        figures(c),
    )
}

fn head(c: &Comparison, first: &str) -> String {
    let cells: String = c.runs.iter().map(|r| format!("<th>{}</th>", escape(r))).collect();
    format!("<tr><th>{first}</th>{cells}</tr>")
}

fn settings(c: &Comparison) -> String {
    if c.settings.is_empty() {
        return "<p class=\"sub\">None: the runs were started alike.</p>".into();
    }
    let cell = |v: &Option<String>| {
        format!("<td><code>{}</code></td>", escape(v.as_deref().unwrap_or("–")))
    };
    let row = |(name, values): &(String, Vec<Option<String>>)| {
        let cells: String = values.iter().map(cell).collect();
        format!("<tr><td>{}</td>{cells}</tr>", escape(name))
    };
    let rows: String = c.settings.iter().map(row).collect();
    format!("<div class=\"card\"><table>{}{rows}</table></div>", head(c, "setting"))
}

fn figures(c: &Comparison) -> String {
    let cell = |v: &Option<Course>| match v {
        Some(v) => {
            format!("<td class=\"num\">{} → <b>{}</b></td>", compact(v.start), compact(v.end))
        }
        None => "<td>–</td>".to_string(),
    };
    let mut rows = String::new();
    for figure in &c.figures {
        let cells: String = figure.runs.iter().map(cell).collect();
        let _ = write!(rows, "<tr><td>{}</td>{cells}</tr>", escape(&figure.name));
    }
    format!("<div class=\"card\"><table>{}{rows}</table></div>", head(c, "figure"))
}

/// All runs' curves of one figure.
fn chart(c: &Comparison, figure: usize) -> String {
    let figure = &c.figures[figure];
    let series = figure.runs.iter().zip(&c.runs).map(|(course, name)| {
        let curve = course.as_ref().map(|v| &v.curve);
        let column = curve.and_then(|t| t.columns.first());
        let points = curve.into_iter().zip(column).flat_map(|(t, column)| {
            let pairs = t.step.iter().zip(&column.mean);
            pairs.filter_map(|(step, v)| Some((*step as f64, (*v)?)))
        });
        Series { name: name.clone(), points: points.collect(), band: Vec::new() }
    });
    line_chart(&figure.name, &series.collect::<Vec<_>>())
}
