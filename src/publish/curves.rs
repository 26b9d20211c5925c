//! The curves of a run as one picture without a page: an SVG file that shows alone. Values that are
//! not finite leave gaps.

use crate::io::html::{Frame, escape};
use crate::track::MetricRow;
use std::fmt::Write;

/// What is drawn, where there is such a metric: name and title.
const CURVES: [(&str, &str); 6] = [
    ("reward", "Mean reward"),
    ("completions/mean_length", "Length of completions, tokens"),
    ("kl", "KL to the reference"),
    ("entropy", "Entropy, nats per token"),
    ("loss", "Loss"),
    ("grad_norm", "Gradient norm"),
];
/// Curves of a picture.
const MOST: usize = 4;
/// Size of one chart: the frame's own, and its title.
const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 190.0;
const TITLE: f64 = 24.0;
/// More points than pixels only cost bytes.
const MAX_POINTS: usize = 400;

const STYLE: &str = "text{font:11px system-ui,sans-serif;fill:#66655f}.t{font-size:13px;fill:#222}\
.ylab{text-anchor:end}.xlab{text-anchor:middle}.grid{stroke:#e2e1db}.axis{stroke:#b5b4ab}\
.cross{display:none}polyline{fill:none;stroke:#2a78d6;stroke-width:2;stroke-linejoin:round}";

/// The picture; `None` if there is no curve to draw.
pub(super) fn svg(rows: &[&MetricRow]) -> Option<String> {
    let charts: Vec<String> =
        CURVES.iter().filter_map(|(name, title)| chart(rows, name, title)).take(MOST).collect();
    if charts.is_empty() {
        return None;
    }
    let columns = charts.len().min(2);
    let (width, height) =
        (WIDTH * columns as f64, (HEIGHT + TITLE) * charts.len().div_ceil(columns) as f64);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         width=\"{width}\" height=\"{height}\"><style>{STYLE}</style>\
         <rect width=\"100%\" height=\"100%\" fill=\"#fdfdfc\"/>\n"
    );
    for (i, chart) in charts.iter().enumerate() {
        let x = (i % columns) as f64 * WIDTH;
        let y = (i / columns) as f64 * (HEIGHT + TITLE);
        let _ = writeln!(out, "<g transform=\"translate({x},{y})\">{chart}</g>");
    }
    Some(out + "</svg>\n")
}

fn chart(rows: &[&MetricRow], name: &str, title: &str) -> Option<String> {
    let points: Vec<(f64, f64)> = rows
        .iter()
        .filter_map(|r| Some((r.step as f64, r.get(name)?)))
        .filter(|p| p.1.is_finite())
        .collect();
    let (first, last) = (points.first()?.0, points.last()?.0);
    if first == last {
        return None;
    }
    let low = points.iter().map(|p| p.1).fold(f64::INFINITY, f64::min);
    let high = points.iter().map(|p| p.1).fold(f64::NEG_INFINITY, f64::max);
    // A curve that never moves is drawn in the middle.
    let margin = if high > low { 0.05 * (high - low) } else { 0.5 * high.abs().max(1.0) };
    let frame = Frame { x: (first, last), y: (low - margin, high + margin) };
    let place = format!("<svg x=\"0\" y=\"{TITLE}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" ");
    let mut out = format!("<text class=\"t\" x=\"12\" y=\"17\">{}</text>", escape(title));
    out += &frame.open(title, true).replacen("<svg ", &place, 1);
    let every = points.len().div_ceil(MAX_POINTS);
    let line: Vec<String> = points
        .chunks(every)
        .map(|c| {
            let mean = c.iter().map(|p| p.1).sum::<f64>() / c.len() as f64;
            format!("{:.1},{:.1}", frame.px(c[c.len() / 2].0), frame.py(mean))
        })
        .collect();
    let _ = write!(out, "<polyline points=\"{}\"/></svg>", line.join(" "));
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_are_drawn_where_there_are_numbers() {
        let mut rows = Vec::new();
        for step in 1..=3 {
            let mut row = MetricRow::new(step, 0.0);
            row.push("reward", step as f64);
            row.push("kl", f64::NAN);
            row.push("loss", 0.5);
            rows.push(row);
        }
        let rows: Vec<&MetricRow> = rows.iter().collect();
        let text = svg(&rows).unwrap();
        assert_eq!(text.matches("<polyline").count(), 2);
        assert!(!text.contains("NaN") && text.contains("Mean reward") && !text.contains("KL"));
        assert_eq!(svg(&rows[..1]), None);
    }
}
