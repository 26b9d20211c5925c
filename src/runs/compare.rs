//! Runs side by side: settings that differ and how each figure went. Draws no conclusions.

mod page; // the same as an HTML page

pub use page::render;

use super::Run;
use super::curves::{Curves, Thin};
use crate::base::Result;
use serde::Serialize;
use serde_json::Value;

/// Settings that say where a run is, not what it does.
const OF_PLACE: [&str; 8] = [
    "output_dir",
    "overwrite_output_dir",
    "run_id",
    "run_name",
    "logging_dir",
    "resume_from_checkpoint",
    "quiet",
    "threads",
];

/// Figures that come first, in this order.
const FIRST: [&str; 9] = [
    "reward",
    "reward_std",
    "frac_reward_zero_std",
    "eval_reward",
    "loss",
    "entropy",
    "kl",
    "completions/mean_length",
    "completions/clipped_ratio",
];

/// Runs held against each other.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// Names of the runs; two of one name are told apart by their folders.
    pub runs: Vec<String>,
    /// Settings that are not the same everywhere: name, and the value of each run (None if unset).
    pub settings: Vec<(String, Vec<Option<String>>)>,
    /// Figures that at least one run has.
    pub figures: Vec<Figure>,
}

/// One figure of several runs.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// Its name.
    pub name: String,
    /// How it went in each run; None where it was not logged.
    pub runs: Vec<Option<Course>>,
}

/// How a figure went.
#[derive(Debug, Clone, Serialize)]
pub struct Course {
    /// Mean of the first tenth of its values.
    pub start: f64,
    /// Mean of the last tenth.
    pub end: f64,
    /// The lowest.
    pub low: f64,
    /// The highest.
    pub high: f64,
    /// The last.
    pub last: f64,
    /// The curve.
    pub curve: Thin,
}

/// Holds runs against each other; curves have at most `points` points.
///
/// # Errors
/// If the figures of a run cannot be read.
pub fn compare(runs: &[Run], points: usize) -> Result<Comparison> {
    let curves: Vec<Curves> = runs.iter().map(Curves::of).collect::<Result<_>>()?;
    let mut names: Vec<&str> = FIRST.to_vec();
    for name in curves.iter().flat_map(|c| c.names()) {
        if !names.contains(&name.as_str()) && name != "epoch" {
            names.push(name);
        }
    }
    let figure = |name: &str| Figure {
        name: name.to_string(),
        runs: curves.iter().map(|c| course(c, name, points)).collect(),
    };
    let mut figures: Vec<Figure> = names.into_iter().map(figure).collect();
    figures.retain(|f| f.runs.iter().any(Option::is_some));
    Ok(Comparison { runs: titles(runs), settings: differences(runs), figures })
}

/// Names of runs, with the folder where one name stands twice.
pub fn titles(runs: &[Run]) -> Vec<String> {
    let alone = |r: &Run| runs.iter().filter(|o| o.run_id == r.run_id).count() == 1;
    let title = |r: &Run| match alone(r) {
        true => r.run_id.clone(),
        false => format!("{} ({})", r.run_id, r.dir.display()),
    };
    runs.iter().map(title).collect()
}

/// Settings whose values are not the same in all runs.
pub fn differences(runs: &[Run]) -> Vec<(String, Vec<Option<String>>)> {
    let mut names: Vec<&String> = Vec::new();
    for name in runs.iter().flat_map(|r| r.settings.keys()) {
        if !names.contains(&name) && !OF_PLACE.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let values = |name: &String| runs.iter().map(|r| shown(r.settings.get(name))).collect();
    let rows = names.into_iter().map(|n| (n.clone(), values(n)));
    rows.filter(|(_, v): &(String, Vec<Option<String>>)| v.iter().any(|x| *x != v[0])).collect()
}

/// A setting as a person reads it.
pub fn shown(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::Null => None,
        Value::String(s) => Some(s.clone()),
        Value::Array(items) => {
            let all: Vec<String> = items.iter().filter_map(|i| shown(Some(i))).collect();
            Some(all.join(" "))
        }
        other => Some(other.to_string()),
    }
}

fn course(curves: &Curves, name: &str, points: usize) -> Option<Course> {
    let values = curves.values(name);
    let last = *values.last()?;
    // One step is noise: the mean of a tenth of the run, at least one row.
    let tenth = (values.len() / 10).max(1);
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    Some(Course {
        start: mean(&values[..tenth]),
        end: mean(&values[values.len() - tenth..]),
        low: values.iter().copied().fold(f64::INFINITY, f64::min),
        high: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        last,
        curve: curves.thin(&[name], points),
    })
}
