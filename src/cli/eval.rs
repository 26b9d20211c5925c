//! `grpo-rt eval`: measures models' rewards on data and prints them. Completions go to files, never to the
//! screen.

use std::fmt::Write;

use super::Outcome;
use super::output::{counted, print};
use crate::base::Result;
use crate::evaluate::evaluate;
use crate::evaluate::paired::Comparison;
use crate::evaluate::results::Results;
use crate::evaluate::statistics::Summary;
use crate::evaluate::tables::{ModelTable, Versus};
use crate::options::Options;
use crate::runs;
use crate::train::evaluation::EvalReport;

/// Evaluates models.
///
/// # Errors
/// What the evaluation returns.
pub fn eval(options: &Options) -> Result<Outcome> {
    let measured =
        match options.text("run_id").filter(|_| options.path("model_name_or_path").is_none()) {
            Some(id) => {
                let root = options.path("output_dir").unwrap_or_default();
                evaluate(&runs::as_trained(&runs::find(&root, id)?, options)?)?
            }
            None => evaluate(options)?,
        };
    let mut text = String::new();
    let several = measured.results.models.len() > 1;
    for m in &measured.results.models {
        if several {
            let _ = writeln!(text, "{}:", m.name);
        }
        text += &model(m);
    }
    text += &counts(&measured.report);
    text += &measured.results.versus.iter().map(versus).collect::<String>();
    if let Some(dir) = options.path("out_dir") {
        let _ =
            writeln!(text, "results.json, answers.jsonl and report.html are in {}", dir.display());
    }
    note_judged(&measured.results, &mut text);
    print(&text);
    Ok(Outcome::Measured(measured.report))
}

/// Mean and interval.
fn figure(s: &Summary) -> String {
    match s.interval {
        _ if s.mean.is_nan() => "not judged".into(),
        Some(i) => format!("{:.4}  [{:.4}, {:.4}]", s.mean, i.low, i.high),
        None => format!("{:.4}", s.mean),
    }
}

/// One line per reward, then what else was measured, then tables of columns.
fn model(m: &ModelTable) -> String {
    let mut lines: Vec<(String, String)> = Vec::new();
    for r in &m.rewards {
        lines.push((r.name.clone(), figure(&r.summary)));
        for (k, pass, vote) in &r.at_k {
            lines.push((format!("{} pass@{k}", r.name), figure(pass)));
            lines.push((format!("{} majority@{k}", r.name), figure(vote)));
        }
    }
    for (column, values) in &m.groups {
        for g in values {
            for (r, s) in m.rewards.iter().zip(&g.rewards) {
                let rows = counted(g.rows, "row");
                lines.push((
                    format!("{column}={} {} ({rows})", one_line(&g.value), r.name),
                    figure(s),
                ));
            }
        }
    }
    let width = lines.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    lines.iter().map(|(name, value)| format!("{name:<width$}  {value}\n")).collect()
}

fn one_line(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(60).collect()
}

/// What was measured.
fn counts(report: &EvalReport) -> String {
    let mut text = format!(
        "{} completions, {:.1} tokens on average, {:.1} % cut off, {:.1} s\n",
        report.samples,
        report.mean_length,
        100.0 * report.clipped,
        report.seconds
    );
    for (name, value) in report.figures.iter().filter(|(_, value)| *value != 0.0) {
        let _ = writeln!(text, "{name}: {value}");
    }
    if report.skipped > 0 {
        let _ = writeln!(text, "{} left out: see the warnings", counted(report.skipped, "bad row"));
    }
    text
}

/// Rewards that judged only some of the samples.
fn note_judged(results: &Results, text: &mut String) {
    for m in &results.models {
        for r in m.rewards.iter().filter(|r| r.summary.judged < m.samples) {
            let _ = writeln!(
                text,
                "{}: {} judged {} of {} completions",
                m.name, r.name, r.summary.judged, m.samples
            );
        }
    }
}

fn versus(v: &Versus) -> String {
    let line = |(name, c): &(String, Comparison)| {
        let interval =
            c.interval.map_or(String::new(), |i| format!(" [{:+.4}, {:+.4}]", i.low, i.high));
        let p = if c.p < 1e-4 { "p < 0.0001".into() } else { format!("p = {:.4}", c.p) };
        format!(
            "  {name}: {:.4} to {:.4}, {:+.4}{interval}, {p} ({}); {} better, {} worse, {} the same\n",
            c.before,
            c.after,
            c.after - c.before,
            c.test,
            c.wins,
            c.losses,
            c.ties
        )
    };
    let alone = match v.unpaired {
        0 => String::new(),
        n => format!(" ({} only in one of them)", counted(n, "row")),
    };
    let lines: String = v.rewards.iter().map(line).collect();
    format!("{} against {}{alone}:\n{lines}", v.models[1], v.models[0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::statistics::Interval;
    use crate::evaluate::tables::RewardTable;

    #[test]
    fn rewards_stand_in_a_column() {
        let summary = |mean, interval: Option<[f64; 2]>| Summary {
            mean,
            sd: 0.5,
            interval: interval.map(|[low, high]| Interval { low, high, method: "wilson" }),
            judged: 200,
            rows: 200,
        };
        let reward = |name: &str, s| RewardTable {
            name: name.into(),
            summary: s,
            binary: true,
            at_k: vec![(2, summary(0.75, None), summary(0.5, None))],
        };
        let table = ModelTable {
            name: "m".into(),
            rewards: vec![
                reward("exact", summary(0.5, Some([0.4, 0.6]))),
                reward("judge", summary(f64::NAN, None)),
            ],
            samples: 200,
            rows: 200,
            length: [2.25; 3],
            truncated: summary(0.125, None),
            groups: Vec::new(),
        };
        let text = model(&table);
        assert_eq!(text.lines().next(), Some("exact             0.5000  [0.4000, 0.6000]"));
        assert!(text.contains("exact pass@2      0.7500\n"), "{text}");
        assert!(text.contains("judge             not judged\n"), "{text}");
        let report = EvalReport {
            accuracy: 0.5,
            per_reward: vec![("exact".into(), 0.5)],
            figures: vec![
                ("rewards/judge/asked".into(), 0.0),
                ("rewards/judge/unanswered".into(), 200.0),
            ],
            samples: 200,
            skipped: 1,
            mean_length: 2.25,
            clipped: 0.125,
            seconds: 1.5,
        };
        let text = counts(&report);
        assert!(text.contains("200 completions, 2.2 tokens on average, 12.5 % cut off, 1.5 s\n"));
        assert!(text.contains("rewards/judge/unanswered: 200\n") && !text.contains("asked"));
        assert!(text.ends_with("1 bad row left out: see the warnings\n"), "{text}");
    }
}
