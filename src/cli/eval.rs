//! `grpo-rt eval`: measures a model's rewards on a data file and prints them. Completions go to the
//! file of `--out`, never to the screen.

use super::Outcome;
use super::output::print;
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
    let rewards = rewards.map(|(name, value)| format!("{name:<width$}  {value:.4}\n"));
    rewards.collect::<String>()
        + &format!(
            "{} completions, {:.1} tokens on average, {:.1} s\n",
            report.samples, report.mean_length, report.seconds
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rewards_stand_in_a_column() {
        let report = EvalReport {
            accuracy: 0.5,
            per_reward: vec![("exact".into(), 0.5), ("format".into(), 1.0)],
            clipped: 0.0,
            skipped: 0,
            samples: 200,
            mean_length: 2.25,
            seconds: 1.5,
        };
        let text = lines(&report);
        assert_eq!(text.lines().next(), Some("exact   0.5000"));
        assert!(text.ends_with("200 completions, 2.2 tokens on average, 1.5 s\n"), "{text}");
    }
}
