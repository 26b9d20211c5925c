//! Charts made of rectangles: time by phase, memory by phase, and how rewards are spread. Long
//! runs are binned; a bin shows the mean of its steps, never their sum.

use super::page::bytes;
use crate::io::html::{Frame, compact, escape, padded, range};
use crate::track::MetricRow;
use std::fmt::Write;

/// Bars that a chart of one card's width can show.
const MAX_BARS: usize = 60;
/// Phases with a colour of their own; the rest is summed up as "other".
const MAX_PHASES: usize = 8;

/// Stacked bars of every `time/*` metric (seconds) over the steps, with a table of shares.
pub fn time_by_phase(rows: &[&MetricRow]) -> String {
    let timed: Vec<&MetricRow> =
        rows.iter().copied().filter(|r| !phases(r, "time/").is_empty()).collect();
    let mut totals: Vec<(String, f64)> = Vec::new();
    for r in &timed {
        for (name, v) in phases(r, "time/") {
            match totals.iter_mut().find(|(n, _)| n == name) {
                Some((_, sum)) => *sum += v,
                None => totals.push((name.to_string(), v)),
            }
        }
    }
    let all: f64 = totals.iter().map(|t| t.1).sum();
    if timed.is_empty() || all <= 0.0 {
        return String::new();
    }
    // Phases keep the order in which the step reports them; only a crowd is cut by size.
    if totals.len() > MAX_PHASES {
        let mut sizes: Vec<f64> = totals.iter().map(|t| t.1).collect();
        sizes.sort_by(|a, b| b.total_cmp(a));
        let least = sizes[MAX_PHASES - 2];
        let rest: f64 = totals.iter().filter(|t| t.1 < least).map(|t| t.1).sum();
        totals.retain(|t| t.1 >= least);
        totals.truncate(MAX_PHASES - 1);
        totals.push(("other".into(), rest));
    }
    let names: Vec<&str> = totals.iter().map(|t| t.0.as_str()).collect();
    let bins: Vec<(u64, u64, Vec<f64>)> = timed
        .chunks(timed.len().div_ceil(MAX_BARS))
        .map(|c| (c[0].step, c[c.len() - 1].step, mean_phases(c, &names)))
        .collect();
    let table: String = totals
        .iter()
        .enumerate()
        .map(|(i, (name, sum))| {
            format!(
                "<tr><td><i class=\"b{i}\"></i>{}</td><td>{} s</td><td>{:.1} %</td></tr>",
                escape(name),
                compact(sum / timed.len() as f64),
                100.0 * sum / all
            )
        })
        .collect();
    format!(
        "<figure class=\"card\"><figcaption><b>Seconds per step</b><span class=\"read\">{} s</span>\
         </figcaption>{}</figure><div class=\"card\"><table class=\"shares\"><tr><th>phase</th>\
         <th>mean</th><th>share</th></tr>{table}</table></div>\n",
        compact(all / timed.len() as f64),
        stacked(&bins, &names)
    )
}

/// Names below a prefix and their finite values.
fn phases<'a>(row: &'a MetricRow, prefix: &str) -> Vec<(&'a str, f64)> {
    let strip = |(n, v): &'a (String, f64)| Some((n.strip_prefix(prefix)?, *v));
    row.values.iter().filter_map(strip).filter(|(_, v)| v.is_finite()).collect()
}

/// Mean seconds of each named phase; what has no name of its own goes to "other", the last.
fn mean_phases(rows: &[&MetricRow], names: &[&str]) -> Vec<f64> {
    let mut sums = vec![0.0; names.len()];
    for r in rows {
        for (name, v) in phases(r, "time/") {
            let i = names.iter().position(|n| *n == name).unwrap_or(names.len() - 1);
            sums[i] += v.max(0.0);
        }
    }
    sums.iter().map(|s| s / rows.len() as f64).collect()
}

fn stacked(bins: &[(u64, u64, Vec<f64>)], names: &[&str]) -> String {
    let top = bins.iter().map(|b| b.2.iter().sum::<f64>()).fold(0.0, f64::max);
    let n = bins.len() as f64;
    let frame = Frame { x: (0.0, n), y: (0.0, top * 1.05) };
    let mut svg = frame.open("seconds per step by phase", false);
    let width = (frame.px(1.0) - frame.px(0.0)) * if n > 30.0 { 0.85 } else { 0.7 };
    for (i, (from, to, values)) in bins.iter().enumerate() {
        let x = frame.px(i as f64 + 0.5) - width / 2.0;
        let mut below = 0.0;
        for (p, v) in values.iter().enumerate().filter(|(_, v)| **v > 0.0) {
            let (y, bottom) = (frame.py(below + v), frame.py(below));
            below += v;
            let _ = write!(
                svg,
                "<rect class=\"f{p}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" \
                 height=\"{:.1}\"><title>{}: {} {} s</title></rect>",
                bottom - y,
                span(*from, *to),
                escape(names[p]),
                compact(*v)
            );
        }
    }
    step_labels(&mut svg, &frame, bins.iter().map(|b| b.1).collect());
    svg + "</svg>"
}

/// "step 3" or "steps 3-7".
fn span(from: u64, to: u64) -> String {
    if from == to { format!("step {from}") } else { format!("steps {from}-{to}") }
}

/// Up to six step numbers below columns of equal width.
fn step_labels(svg: &mut String, frame: &Frame, steps: Vec<u64>) {
    let every = steps.len().div_ceil(6).max(1);
    for (i, step) in steps.iter().enumerate().filter(|(i, _)| i % every == 0) {
        let x = frame.px(i as f64 + 0.5);
        let _ = write!(svg, "<text class=\"xlab\" x=\"{x:.1}\" y=\"184\">{step}</text>");
    }
}

/// Largest value of every `memory/*` metric (bytes) as bars from zero.
pub fn memory_by_phase(rows: &[&MetricRow]) -> String {
    let mut peaks: Vec<(String, f64)> = Vec::new();
    for r in rows {
        for (name, v) in phases(r, "memory/") {
            match peaks.iter_mut().find(|(n, _)| n == name) {
                Some((_, peak)) => *peak = peak.max(v),
                None => peaks.push((name.to_string(), v)),
            }
        }
    }
    let most = peaks.iter().map(|p| p.1).fold(0.0, f64::max);
    if most <= 0.0 {
        return String::new();
    }
    let bar = |(name, v): &(String, f64)| {
        format!(
            "<tr><td>{}</td><td class=\"bar\"><i class=\"b0\" style=\"width:{:.1}%\"></i></td>\
             <td>{}</td></tr>",
            escape(name),
            100.0 * v.max(0.0) / most,
            bytes(*v)
        )
    };
    let bars: String = peaks.iter().map(bar).collect();
    format!(
        "<div class=\"card wide\"><div class=\"cap\"><b>Peak memory by phase</b></div>\
         <table class=\"shares\">{bars}</table></div>\n"
    )
}

/// How rewards are spread: a heat map over the steps, and the first against the last quarter.
pub fn reward_spread(rewards: &[(u64, Vec<f64>)]) -> String {
    let steps: Vec<(u64, Vec<f64>)> = rewards
        .iter()
        .map(|(s, v)| (*s, v.iter().copied().filter(|x| x.is_finite()).collect::<Vec<_>>()))
        .filter(|(_, v)| !v.is_empty())
        .collect();
    if steps.is_empty() {
        return String::new();
    }
    let rows = Rows::of(steps.iter().flat_map(|(_, v)| v.iter().copied()));
    let columns: Vec<(u64, u64, Vec<f64>)> = steps
        .chunks(steps.len().div_ceil(MAX_BARS))
        .map(|c| (c[0].0, c[c.len() - 1].0, rows.shares(c.iter().flat_map(|s| &s.1))))
        .collect();
    let quarter = steps.len().div_ceil(4);
    let first = rows.shares(steps[..quarter].iter().flat_map(|s| &s.1));
    let last = rows.shares(steps[steps.len() - quarter..].iter().flat_map(|s| &s.1));
    heat_map(&columns, &rows) + &two_histograms(&first, &last, &rows)
}

/// The rows of the spread: one per value if there are few values, else equal bins.
struct Rows {
    labels: Vec<String>,
    low: f64,
    width: f64,
    /// Distinct values, if each has its own row.
    values: Option<Vec<f64>>,
}

impl Rows {
    fn of(values: impl Iterator<Item = f64>) -> Rows {
        let mut all: Vec<f64> = values.map(|v| (v * 1e6).round() / 1e6).collect();
        all.sort_by(f64::total_cmp);
        all.dedup();
        if all.len() <= 10 {
            let labels = all.iter().map(|v| compact(*v)).collect();
            return Rows { labels, low: 0.0, width: 1.0, values: Some(all) };
        }
        let n = 12;
        let (low, high) = padded(range(all.into_iter()));
        let width = (high - low) / n as f64;
        let labels =
            (0..n).map(|i| compact(((low + (i as f64 + 0.5) * width) * 1e3).round() / 1e3));
        Rows { labels: labels.collect(), low, width, values: None }
    }

    fn shares<'a>(&self, values: impl Iterator<Item = &'a f64>) -> Vec<f64> {
        let n = self.labels.len();
        let mut counts = vec![0.0; n];
        let mut total = 0.0;
        for v in values {
            let i = match &self.values {
                Some(known) => known.partition_point(|k| *k < v - 1e-6),
                None => ((v - self.low) / self.width).max(0.0) as usize,
            };
            counts[i.min(n - 1)] += 1.0;
            total += 1.0;
        }
        counts.iter().map(|c| c / total).collect()
    }
}

fn heat_map(columns: &[(u64, u64, Vec<f64>)], rows: &Rows) -> String {
    let frame = Frame { x: (0.0, columns.len() as f64), y: (0.0, rows.labels.len() as f64) };
    let mut svg = String::from(
        "<svg viewBox=\"0 0 420 190\" role=\"img\" aria-label=\"share of each reward over the steps\">",
    );
    for (r, label) in rows.labels.iter().enumerate() {
        let y = frame.py(r as f64 + 0.5) + 3.5;
        let _ = write!(svg, "<text class=\"ylab\" x=\"40\" y=\"{y:.1}\">{label}</text>");
    }
    let (width, height) = (frame.px(1.0) - frame.px(0.0), frame.py(0.0) - frame.py(1.0));
    for (c, (from, to, shares)) in columns.iter().enumerate() {
        for (r, share) in shares.iter().enumerate().filter(|(_, s)| **s > 0.0) {
            let _ = write!(
                svg,
                "<rect class=\"f0\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.2}\" height=\"{:.1}\" \
                 opacity=\"{:.2}\"><title>{}: reward {} in {:.0} %</title></rect>",
                frame.px(c as f64),
                frame.py(r as f64 + 1.0) + 1.0,
                (width - 0.6).max(0.6),
                (height - 2.0).max(1.0),
                0.08 + 0.92 * share,
                span(*from, *to),
                rows.labels[r],
                100.0 * share
            );
        }
    }
    step_labels(&mut svg, &frame, columns.iter().map(|c| c.1).collect());
    format!(
        "<figure class=\"card\"><figcaption><b>Share of each reward</b><span class=\"read\">stronger: \
         more completions</span></figcaption>{svg}</svg></figure>\n"
    )
}

fn two_histograms(first: &[f64], last: &[f64], rows: &Rows) -> String {
    let top = first.iter().chain(last).copied().fold(0.0, f64::max);
    let frame = Frame { x: (0.0, first.len() as f64), y: (0.0, 100.0 * top * 1.05) };
    let mut svg = frame.open("rewards at the start and at the end", false);
    let slot = frame.px(1.0) - frame.px(0.0);
    let width = (slot * 0.36).min(36.0);
    for (i, label) in rows.labels.iter().enumerate() {
        let middle = frame.px(i as f64 + 0.5);
        let _ = write!(svg, "<text class=\"xlab\" x=\"{middle:.1}\" y=\"184\">{label}</text>");
        for (share, x, color) in [(first[i], middle - width - 1.0, 2), (last[i], middle + 1.0, 0)] {
            let y = frame.py(100.0 * share);
            let _ = write!(
                svg,
                "<rect class=\"f{color}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" \
                 height=\"{:.1}\"><title>reward {label}: {:.1} %</title></rect>",
                frame.py(0.0) - y,
                100.0 * share
            );
        }
    }
    format!(
        "<figure class=\"card\"><figcaption><b>Rewards, % of completions</b></figcaption>\
         <div class=\"legend\"><span><i class=\"b2\"></i>first quarter</span><span><i class=\"b0\">\
         </i>last quarter</span></div>{svg}</svg></figure>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_values_have_rows_of_their_own_and_many_are_binned() {
        let few = Rows::of([0.0, 1.0, 2.0, 1.0].into_iter());
        assert_eq!(few.labels, ["0", "1", "2"]);
        assert_eq!(few.shares([0.0, 1.0, 1.0, 2.0].iter()), [0.25, 0.5, 0.25]);
        let many = Rows::of((0..100).map(f64::from));
        let values: Vec<f64> = (0..100).map(f64::from).collect();
        assert_eq!(many.labels.len(), 12);
        assert!((many.shares(values.iter()).iter().sum::<f64>() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn crowded_phases_are_summed_up_as_other() {
        let values = (0..12).map(|i| (format!("time/p{i}"), f64::from(i))).collect();
        let row = MetricRow { step: 1, epoch: 0.0, values };
        let html = time_by_phase(&[&row]);
        assert!(html.contains("other</td>") && html.contains("p11") && !html.contains("p2<"));
        assert!(html.contains("<span class=\"read\">66 s</span>"), "nothing is lost: {html}");
        assert_eq!(time_by_phase(&[]), "");
    }
}
