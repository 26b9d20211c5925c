//! The figures of a run as columns, thinned to as many points as somebody can see. Computes means,
//! lows and highs of neighbours and nothing else.

use super::Run;
use crate::base::Result;
use crate::track::MetricRow;
use serde::Serialize;
use std::collections::HashMap;

/// Rows of a run, column by column.
#[derive(Debug, Clone, Default)]
pub struct Curves {
    /// Optimizer step of each row.
    step: Vec<u64>,
    /// Seconds of training up to each row.
    seconds: Vec<f64>,
    /// Names in the order of their first appearance.
    names: Vec<String>,
    /// Values by name, one per row; NaN where a row has none. Short columns end before the last row.
    columns: HashMap<String, Vec<f64>>,
}

/// Columns with as many points as were asked for. All lists are equally long; None where no row of a
/// point has the figure.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Thin {
    /// Rows that there are.
    pub rows: usize,
    /// Optimizer step of the last row of each point.
    pub step: Vec<u64>,
    /// Seconds of training up to there.
    pub seconds: Vec<f64>,
    /// The columns that were asked for and are there.
    pub columns: Vec<Column>,
}

/// A figure of [`Thin`].
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Mean of the rows of a point.
    pub mean: Vec<Option<f64>>,
    /// The lowest of them; empty if every point is one row.
    pub low: Vec<Option<f64>>,
    /// The highest.
    pub high: Vec<Option<f64>>,
}

impl Curves {
    /// The figures of a run.
    ///
    /// # Errors
    /// If its file is there and cannot be read.
    pub fn of(run: &Run) -> Result<Curves> {
        let mut curves = Curves::default();
        run.metrics()?.iter().for_each(|row| curves.push(row));
        Ok(curves)
    }

    /// Adds a row.
    pub fn push(&mut self, row: &MetricRow) {
        let at = self.step.len();
        let before = (self.step.last().copied().unwrap_or(0), self.seconds.last().copied());
        // A row stands for every step since the one before; `step_time` is their mean.
        let steps = row.step.saturating_sub(before.0) as f64;
        let passed = row.get("step_time").filter(|t| t.is_finite()).unwrap_or(0.0) * steps;
        self.step.push(row.step);
        self.seconds.push(before.1.unwrap_or(0.0) + passed);
        for (name, value) in [("epoch", row.epoch)]
            .into_iter()
            .chain(row.values.iter().map(|(n, v)| (n.as_str(), *v)))
        {
            if !self.columns.contains_key(name) {
                self.names.push(name.to_string());
                self.columns.insert(name.to_string(), Vec::new());
            }
            let column = self.columns.get_mut(name).expect("it was made above");
            column.resize(at, f64::NAN);
            column.push(value);
        }
    }

    /// Rows.
    pub fn len(&self) -> usize {
        self.step.len()
    }
    /// Whether nothing was logged.
    pub fn is_empty(&self) -> bool {
        self.step.is_empty()
    }
    /// Names of the figures in the order of their first appearance.
    pub fn names(&self) -> &[String] {
        &self.names
    }
    /// The finite values of a figure, in the order of the rows.
    pub fn values(&self, name: &str) -> Vec<f64> {
        let column = self.columns.get(name).into_iter().flatten();
        column.copied().filter(|v| v.is_finite()).collect()
    }

    /// The figures `names` at most `points` times, neighbouring rows taken together.
    pub fn thin(&self, names: &[&str], points: usize) -> Thin {
        let n = self.len();
        let size = n.div_ceil(points.max(1)).max(1);
        let ends: Vec<usize> = (0..n.div_ceil(size)).map(|i| ((i + 1) * size).min(n)).collect();
        let known = names.iter().filter_map(|name| Some((*name, self.columns.get(*name)?)));
        Thin {
            rows: n,
            step: ends.iter().map(|e| self.step[e - 1]).collect(),
            seconds: ends.iter().map(|e| self.seconds[e - 1]).collect(),
            columns: known.map(|(name, values)| column(name, values, &ends, size)).collect(),
        }
    }
}

fn column(name: &str, values: &[f64], ends: &[usize], size: usize) -> Column {
    let mut out = Column { name: name.into(), ..Column::default() };
    let mut from = 0;
    for &end in ends {
        // A column may end before the rows do.
        let part = &values[from.min(values.len())..end.min(values.len())];
        let part: Vec<f64> = part.iter().copied().filter(|v| v.is_finite()).collect();
        from = end;
        let count = part.len() as f64;
        out.mean.push((!part.is_empty()).then(|| part.iter().sum::<f64>() / count));
        if size > 1 {
            out.low.push(part.iter().copied().reduce(f64::min));
            out.high.push(part.iter().copied().reduce(f64::max));
        }
    }
    out
}

/// A row of block letters as high as the values; blanks where there are none.
pub fn sparkline(values: &[Option<f64>]) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let known = || values.iter().flatten().copied();
    let low = known().fold(f64::INFINITY, f64::min);
    let high = known().fold(f64::NEG_INFINITY, f64::max);
    let block = |v: f64| match high > low {
        true => BLOCKS[(((v - low) / (high - low)) * 7.0).round() as usize],
        false => BLOCKS[3],
    };
    values.iter().map(|v| v.map_or(' ', block)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(step: u64, values: &[(&str, f64)]) -> MetricRow {
        let values = values.iter().map(|(n, v)| (n.to_string(), *v)).collect();
        MetricRow { step, epoch: 0.0, values }
    }

    #[test]
    fn points_are_means_with_lows_and_highs_and_gaps_stay_gaps() {
        let mut c = Curves::default();
        c.push(&row(2, &[("reward", 1.0), ("step_time", 3.0)]));
        c.push(&row(4, &[("reward", 3.0), ("step_time", 1.0), ("kl", f64::NAN)]));
        c.push(&row(4, &[("eval_reward", 9.0)]));
        c.push(&row(6, &[("reward", 5.0), ("step_time", 2.0)]));
        let all = c.thin(&["reward", "kl", "none", "eval_reward"], 100);
        assert_eq!(
            (all.rows, all.step, all.seconds),
            (4, vec![2, 4, 4, 6], vec![6.0, 8.0, 8.0, 12.0])
        );
        let names: Vec<&str> = all.columns.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["reward", "kl", "eval_reward"]);
        assert_eq!(all.columns[0].mean, [Some(1.0), Some(3.0), None, Some(5.0)]);
        assert!(all.columns[0].low.is_empty());
        assert_eq!(all.columns[1].mean, [None; 4]);
        assert_eq!(all.columns[2].mean, [None, None, Some(9.0), None]);
        let two = c.thin(&["reward"], 2);
        assert_eq!(two.step, [4, 6]);
        let reward = &two.columns[0];
        assert_eq!(
            (&reward.mean, &reward.low),
            (&vec![Some(2.0), Some(5.0)], &vec![Some(1.0), Some(5.0)])
        );
        assert_eq!(reward.high, [Some(3.0), Some(5.0)]);
        assert_eq!(c.values("reward"), [1.0, 3.0, 5.0]);
    }

    #[test]
    fn a_hundred_thousand_rows_become_as_many_points_as_fit_a_screen() {
        let mut c = Curves::default();
        (1..=100_000).for_each(|s| c.push(&row(s, &[("reward", s as f64), ("step_time", 1.0)])));
        let thin = c.thin(&["reward"], 600);
        assert!(thin.step.len() <= 600 && thin.step.last() == Some(&100_000));
        assert_eq!(Curves::default().thin(&["reward"], 600), Thin::default());
    }

    #[test]
    fn lines_of_blocks_span_low_to_high() {
        assert_eq!(sparkline(&[Some(0.0), None, Some(1.0), Some(0.5)]), "▁ █▅");
        assert_eq!((sparkline(&[Some(2.0)]), sparkline(&[])), ("▄".into(), String::new()));
    }
}
