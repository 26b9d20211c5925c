//! Step and reward of a run, taken out of its rows without reading every figure in them: a list of a
//! hundred long runs must not take minutes. Draws no conclusions.

use super::METRICS;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// How a run's reward went.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Course {
    /// Step of the last row.
    pub step: u64,
    /// The figure at the last row that has it: reward, or the loss of supervised runs.
    pub last: Option<f64>,
    /// The best of it: the highest reward, the lowest loss.
    pub best: Option<f64>,
    /// Whether the figure is a loss.
    pub is_loss: bool,
    /// The figure from first to last, as a few means.
    pub line: Vec<f64>,
}

/// Means in [`Course::line`] at most.
const MEANS: usize = 48;

/// [`Course`] of the run in `dir`; empty if it logged nothing.
pub fn course(dir: &Path) -> Course {
    let Ok(bytes) = std::fs::read(dir.join(METRICS)) else { return Course::default() };
    let text = String::from_utf8_lossy(&bytes);
    let rewards: Vec<f64> = text.lines().filter_map(|l| figure(l, "\"reward\":")).collect();
    let is_loss = rewards.is_empty();
    let values = match is_loss {
        true => text.lines().filter_map(|l| figure(l, "\"loss\":")).collect(),
        false => rewards,
    };
    let better = |a: f64, b: f64| if is_loss { a.min(b) } else { a.max(b) };
    Course {
        step: text.lines().rev().find_map(|l| figure(l, "\"step\":")).unwrap_or(0.0) as u64,
        last: values.last().copied(),
        best: values.iter().copied().reduce(better),
        is_loss,
        line: values
            .chunks(values.len().div_ceil(MEANS).max(1))
            .map(|part| part.iter().sum::<f64>() / part.len() as f64)
            .collect(),
    }
}

/// Step of the last whole row; `None` if there is none.
pub fn last_step(dir: &Path) -> Option<u64> {
    const TAIL: u64 = 64 << 10;
    let mut file = std::fs::File::open(dir.join(METRICS)).ok()?;
    let from = file.metadata().ok()?.len().saturating_sub(TAIL);
    file.seek(SeekFrom::Start(from)).ok()?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    text.lines().rev().find_map(|l| figure(l, "\"step\":")).map(|s| s as u64)
}

/// The number behind `key` in a row; `None` for null, for none, and for a line that a kill cut.
fn figure(line: &str, key: &str) -> Option<f64> {
    let from = line.find(key).filter(|_| line.ends_with('}'))? + key.len();
    let rest = &line[from..];
    let end = rest.find([',', '}'])?;
    rest[..end].trim().parse().ok().filter(|v: &f64| v.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_in_whole_rows_only() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!((course(dir.path()), last_step(dir.path())), (Course::default(), None));
        let rows = "{\"step\":1,\"epoch\":0.5,\"rewards/a/mean\":9,\"reward\":0.25}\n\
                    {\"step\":2,\"epoch\":1.0,\"reward\":0.75,\"reward_std\":0.1}\n\
                    {\"step\":3,\"epoch\":1.5,\"reward\":null}\n\
                    {\"step\":3,\"epoch\":1.5,\"eval_reward\":7.0}\n\
                    {\"step\":4,\"epoch\":1.5,\"reward\":8";
        std::fs::write(dir.path().join(METRICS), rows).unwrap();
        let c = course(dir.path());
        assert_eq!((c.step, c.last, c.best, c.is_loss), (3, Some(0.75), Some(0.75), false));
        assert_eq!(last_step(dir.path()), Some(3));
        std::fs::write(
            dir.path().join(METRICS),
            "{\"step\":1,\"loss\":2.0}\n{\"step\":2,\"loss\":3.0}\n",
        )
        .unwrap();
        let c = course(dir.path());
        assert_eq!((c.last, c.best, c.is_loss), (Some(3.0), Some(2.0), true));
    }
}
