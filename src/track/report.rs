//! `report.html`: a run on one page. One file without scripts from elsewhere, fonts or requests;
//! every text in it is escaped, because models and data sets write most of it.

mod alerts;
mod bars;
mod page;

use crate::base::{Error, Result};
use crate::io::html::compact;
use crate::track::health::{Alert, AlertLog};
use crate::track::{MetricRow, SampleGroup, SampleLog, read_metrics};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Everything a report shows. Empty parts leave their section out.
#[derive(Debug, Clone, Default)]
pub struct ReportInput {
    /// Name of the run.
    pub title: String,
    /// Options and their values.
    pub settings: Vec<(String, String)>,
    /// Rows in the order of their steps. `time/*` are seconds, `memory/*` bytes; `eval_*` rows are
    /// evaluations.
    pub metrics: Vec<MetricRow>,
    /// Total rewards of the completions of a step.
    pub rewards: Vec<(u64, Vec<f64>)>,
    /// Groups to show, in the order of their steps.
    pub groups: Vec<SampleGroup>,
    /// Alerts in the order of their steps.
    pub alerts: Vec<Alert>,
    /// Key figures. `before/<name>` and `after/<name>` become a line of the evaluation table.
    pub summary: Vec<(String, String)>,
}

/// The page as text.
pub fn render(input: &ReportInput) -> String {
    page::render(input)
}

/// Groups that a report rebuilt from files shows at most; more make a page nobody scrolls.
const GROUPS_SHOWN: usize = 12;

/// Rebuilds the report of a run from `metrics.jsonl`, `samples.jsonl` and `config.resolved.yaml`
/// in `output_dir`; the last two may be missing.
pub fn report_from_dir(output_dir: impl AsRef<Path>) -> Result<String> {
    let dir = output_dir.as_ref();
    let metrics_file = dir.join("metrics.jsonl");
    if !metrics_file.exists() {
        return Err(Error::data("there is no run to report on")
            .file(dir)
            .expected("a folder with metrics.jsonl")
            .hint("give the output_dir of a run, or one run below it"));
    }
    let metrics = read_metrics(metrics_file)?;
    let samples = SampleLog::new(dir).read()?;
    let mut rewards: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    for g in &samples {
        let totals = g.completions.iter().filter_map(|c| c.total);
        rewards.entry(g.step).or_default().extend(totals);
    }
    let absolute = std::path::absolute(dir).unwrap_or_else(|_| dir.to_path_buf());
    let title = absolute.file_name().map_or("run".into(), |n| n.to_string_lossy().into_owned());
    Ok(render(&ReportInput {
        title,
        settings: read_settings(&dir.join("config.resolved.yaml"))?,
        summary: summarise(&metrics),
        metrics,
        rewards: rewards.into_iter().collect(),
        groups: spread(samples, GROUPS_SHOWN),
        alerts: AlertLog::new(dir).read()?,
    }))
}

/// [`report_from_dir`], written to `<output_dir>/report.html` in one move.
pub fn write_report(output_dir: impl AsRef<Path>) -> Result<PathBuf> {
    let dir = output_dir.as_ref();
    let html = report_from_dir(dir)?;
    let path = dir.join("report.html");
    let part = dir.join(format!(".report.html.{}.part", std::process::id()));
    std::fs::write(&part, html)
        .and_then(|()| std::fs::rename(&part, &path))
        .map_err(|e| Error::io("cannot write the report", &path, &e))?;
    Ok(path)
}

/// At most `n` items, evenly spread, the first and the last among them.
fn spread<T>(items: Vec<T>, n: usize) -> Vec<T> {
    let len = items.len();
    if len <= n {
        return items;
    }
    let mut wanted = (0..n).map(|i| i * (len - 1) / (n - 1)).peekable();
    let keep = |(i, item)| (wanted.peek() == Some(&i)).then(|| (wanted.next(), item).1);
    items.into_iter().enumerate().filter_map(keep).collect()
}

fn read_settings(path: &Path) -> Result<Vec<(String, String)>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io("cannot read the configuration", path, &e)),
    };
    let tree: Value = serde_saphyr::from_str(&text).map_err(|e| {
        Error::data("the configuration is not YAML").file(path).found(e.to_string())
    })?;
    let mut out = Vec::new();
    flatten("", &tree, &mut out);
    Ok(out)
}

/// Nested mappings as dotted names, everything else as one value.
fn flatten(prefix: &str, tree: &Value, out: &mut Vec<(String, String)>) {
    match tree {
        Value::Object(map) => {
            for (key, value) in map {
                let dot = if prefix.is_empty() { "" } else { "." };
                flatten(&format!("{prefix}{dot}{key}"), value, out);
            }
        }
        Value::String(s) => out.push((prefix.to_string(), s.clone())),
        other => out.push((prefix.to_string(), other.to_string())),
    }
}

/// Key figures that follow from the metrics alone.
fn summarise(metrics: &[MetricRow]) -> Vec<(String, String)> {
    let (evals, train): (Vec<_>, Vec<_>) = metrics.iter().partition(|r| r.is_eval());
    let mut out: Vec<(String, String)> = Vec::new();
    let mut add = |name: &str, value: String| out.push((name.to_string(), value));
    if let Some(last) = train.last() {
        add("steps", last.step.to_string());
        add("epochs", format!("{:.2}", last.epoch));
        if let Some(tokens) = last.get("num_tokens") {
            add("tokens", compact(tokens));
        }
    }
    let rewards: Vec<f64> = train.iter().filter_map(|r| r.get("reward")).collect();
    if !rewards.is_empty() {
        // One step is noise: the mean of a tenth of the run, at least one step.
        let n = (rewards.len() / 10).max(1);
        let mean = |part: &[f64]| format!("{:.3}", part.iter().sum::<f64>() / part.len() as f64);
        add("reward at start", mean(&rewards[..n]));
        add("reward at end", mean(&rewards[rewards.len() - n..]));
    }
    let seconds: f64 = train.iter().filter_map(|r| r.get("step_time")).sum();
    if seconds > 0.0 {
        add("time in steps", page::clock(seconds));
    }
    if let (Some(first), Some(last)) = (evals.first(), evals.last())
        && first.step < last.step
    {
        for (when, row) in [("before", first), ("after", last)] {
            for (name, value) in &row.values {
                add(&format!("{when}/{}", name.trim_start_matches("eval_")), format!("{value:.4}"));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests;
