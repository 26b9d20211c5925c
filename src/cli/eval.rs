//! `grpo-rt eval`: measures a model's rewards on a data file and prints them. Completions go to the
//! file of `--out`, never to the screen.

use super::Outcome;
use super::output::{counted, print};
use crate::base::Result;
use crate::train::evaluate::{EvalReport, evaluate};
use crate::train::options::Options;

/// Evaluates a model.
///
/// # Errors
/// What the evaluation returns.
pub fn eval(options: &Options) -> Result<Outcome> {
    let report = evaluate(options)?;
    print(&lines(&report));
    Ok(Outcome::Measured(report))
}

/// The report as it is printed: one line per reward, then what was measured.
fn lines(report: &EvalReport) -> String {
    let width = report.per_reward.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let rewards = report.per_reward.iter();
    let rewards = rewards.map(|(name, value)| match value.is_nan() {
        true => format!("{name:<width$}  not judged\n"),
        false => format!("{name:<width$}  {value:.4}\n"),
    });
    let mut text = rewards.collect::<String>()
        + &format!(
            "{} completions, {:.1} tokens on average, {:.1} % cut off, {:.1} s\n",
            report.samples,
            report.mean_length,
            100.0 * report.clipped,
            report.seconds
        );
    for (name, value) in report.figures.iter().filter(|(_, value)| *value != 0.0) {
        text += &format!("{name}: {value}\n");
    }
    if report.skipped > 0 {
        text += &format!("{} left out: see the warnings\n", counted(report.skipped, "bad row"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rewards_stand_in_a_column() {
        let report = EvalReport {
            accuracy: 0.5,
            per_reward: vec![
                ("exact".into(), 0.5),
                ("format".into(), 1.0),
                ("judge".into(), f64::NAN),
            ],
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
        let text = lines(&report);
        assert_eq!(text.lines().next(), Some("exact   0.5000"));
        assert!(text.contains("200 completions, 2.2 tokens on average, 12.5 % cut off, 1.5 s\n"));
        assert!(text.contains("judge   not judged\n"));
        assert!(text.contains("rewards/judge/unanswered: 200\n") && !text.contains("asked"));
        assert!(text.ends_with("1 bad row left out: see the warnings\n"), "{text}");
    }
}
