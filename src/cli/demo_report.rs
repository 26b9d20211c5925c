//! The report of the demo: that of its GRPO run, with what was measured on unseen images before and
//! after. Computes no metric.

use std::collections::BTreeMap;
use std::path::Path;

use crate::base::Result;
use crate::io::atomic::write_atomic;
use crate::options::{OPTIONS, Options};
use crate::track::health::AlertLog;
use crate::track::report::{ReportInput, render};
use crate::track::{MetricRow, SampleGroup, SampleLog, read_metrics};

/// Groups of completions on the page.
const GROUPS_SHOWN: usize = 12;

/// Writes the report of the run in `run_dir` to `file`. `accuracy` has keys such as
/// `greedy_before_grpo`.
///
/// # Errors
/// A run without metrics, or a file that cannot be written.
pub fn write(
    file: &Path,
    run_dir: &Path,
    options: &Options,
    accuracy: &[(&str, f64)],
) -> Result<()> {
    let metrics = read_metrics(run_dir.join("metrics.jsonl"))?;
    let groups = SampleLog::new(run_dir).read()?;
    let mut rewards: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    for group in &groups {
        let totals = group.completions.iter().filter_map(|c| c.total);
        rewards.entry(group.step).or_default().extend(totals);
    }
    let page = render(&ReportInput {
        title: "grpo-rt demo".into(),
        settings: settings(options),
        summary: summary(&metrics, accuracy),
        metrics,
        rewards: rewards.into_iter().collect(),
        groups: spread(groups),
        alerts: AlertLog::new(run_dir).read()?,
    });
    write_atomic(file, page.as_bytes())
}

/// Every option of the run with its value.
fn settings(options: &Options) -> Vec<(String, String)> {
    let taken = OPTIONS.iter().filter(|o| o.accepted_by(options.command()));
    taken.map(|o| (o.name.to_string(), options.get(o.name).to_yaml())).collect()
}

fn summary(metrics: &[MetricRow], accuracy: &[(&str, f64)]) -> Vec<(String, String)> {
    let mut out = Vec::new();
    if let Some(last) = metrics.iter().rev().find(|r| !r.is_eval()) {
        out.push(("GRPO steps".to_string(), last.step.to_string()));
    }
    for (key, value) in accuracy {
        let when = if key.contains("_before_") { "before" } else { "after" };
        let how = if key.starts_with("greedy") { "greedy" } else { "sampled" };
        out.push((format!("{how}, {when} GRPO"), format!("{:.1} %", 100.0 * value)));
        out.push((format!("{when}/accuracy, {how}"), format!("{value:.4}")));
    }
    out
}

/// Some of the groups, evenly spread over the run, the first and the last among them.
fn spread(groups: Vec<SampleGroup>) -> Vec<SampleGroup> {
    let most = groups.len().saturating_sub(1);
    let shown = GROUPS_SHOWN.min(groups.len());
    let wanted: Vec<usize> = (0..shown).map(|i| i * most / (shown - 1).max(1)).collect();
    let kept = groups.into_iter().enumerate().filter(|(i, _)| wanted.contains(i));
    kept.map(|(_, group)| group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Command;

    #[test]
    fn the_page_has_both_sides_of_the_run() {
        let dir = tempfile::tempdir().unwrap();
        let rows = "{\"step\":1,\"epoch\":0.1,\"reward\":0.25}\n{\"step\":2,\"epoch\":0.2,\"reward\":0.5}\n";
        std::fs::write(dir.path().join("metrics.jsonl"), rows).unwrap();
        let log = SampleLog::new(dir.path());
        for step in 1..=20 {
            let prompt = format!("question {step}?");
            log.append(&SampleGroup { step, prompt, ..Default::default() }).unwrap();
        }
        let file = dir.path().join("report.html");
        let accuracy = [("greedy_before_grpo", 0.5), ("greedy_after_grpo", 0.75)];
        let options = Options::defaults(Command::Train);
        write(&file, dir.path(), &options, &accuracy).unwrap();
        let page = std::fs::read_to_string(file).unwrap();
        for part in
            ["grpo-rt demo", "75.0 %", "0.5000", "num_generations", "question 1?", "question 20?"]
        {
            assert!(page.contains(part), "{part}");
        }
    }

    #[test]
    fn few_groups_are_all_shown() {
        for n in [0, 1, 2, 12, 13, 40] {
            let groups: Vec<SampleGroup> =
                (0..n).map(|step| SampleGroup { step, ..Default::default() }).collect();
            let shown = spread(groups);
            assert_eq!(shown.len(), GROUPS_SHOWN.min(n as usize), "{n}");
            assert_eq!(shown.last().map(|g| g.step), n.checked_sub(1));
        }
    }
}
