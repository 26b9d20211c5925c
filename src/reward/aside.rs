//! What a reward is told beside its samples (where the run is) and what it says beside its scores
//! (columns for the completions file, figures for the metrics). Scores nothing.

use serde_json::Value;

/// Where the run is when completions are scored; all zero outside of training.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Progress {
    /// Optimizer steps done.
    pub step: u64,
    /// Optimizer steps of the whole run.
    pub max_steps: u64,
    /// Passes over the data set so far.
    pub epoch: f64,
}

/// What rewards said beside their scores (`log_extra` and `log_metric` of TRL).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Aside {
    /// Columns by name, one value per sample of the batch.
    pub columns: Vec<(String, Vec<Value>)>,
    /// Figures in the order in which they were said; a name may come more than once.
    pub figures: Vec<(String, f64)>,
}

impl Aside {
    /// Adds what was said of `theirs` samples that follow `own` samples of this one. A column that only
    /// one of both has is filled with nulls.
    pub fn append(&mut self, own: usize, other: Aside, theirs: usize) {
        for (name, _) in &other.columns {
            if !self.columns.iter().any(|(n, _)| n == name) {
                self.columns.push((name.clone(), vec![Value::Null; own]));
            }
        }
        for (name, values) in other.columns {
            if let Some((_, column)) = self.columns.iter_mut().find(|(n, _)| *n == name) {
                column.extend(values);
            }
        }
        for (_, column) in &mut self.columns {
            column.resize(own + theirs, Value::Null);
        }
        self.figures.extend(other.figures);
    }

    /// Adds what `reward` said of the same samples. A column that another reward has filled already gets
    /// the reward's name before its own.
    pub fn merge(&mut self, reward: &str, other: Aside) {
        for (name, values) in other.columns {
            let taken = self.columns.iter().any(|(n, _)| *n == name);
            self.columns.push((if taken { format!("{reward}/{name}") } else { name }, values));
        }
        self.figures.extend(other.figures);
    }

    /// The mean of each figure, in the order of their names' first appearance.
    pub fn means(&self) -> Vec<(String, f64)> {
        let mut sums: Vec<(String, f64, usize)> = Vec::new();
        for (name, value) in &self.figures {
            match sums.iter_mut().find(|(n, ..)| n == name) {
                Some((_, sum, count)) => (*sum, *count) = (*sum + value, *count + 1),
                None => sums.push((name.clone(), *value, 1)),
            }
        }
        sums.into_iter().map(|(name, sum, n)| (name, sum / n as f64)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn said(column: &str, values: &[i64], figure: f64) -> Aside {
        let values = values.iter().map(|v| json!(v)).collect();
        Aside { columns: vec![(column.into(), values)], figures: vec![("f".into(), figure)] }
    }

    #[test]
    fn parts_of_a_batch_keep_their_places() {
        let mut all = Aside::default();
        all.append(0, said("a", &[1, 2], 1.0), 2);
        all.append(2, said("b", &[3], 4.0), 1);
        all.append(3, Aside::default(), 1);
        let (null, columns) = (Value::Null, &all.columns);
        assert_eq!(columns[0], ("a".into(), vec![json!(1), json!(2), null.clone(), null.clone()]));
        assert_eq!(columns[1], ("b".into(), vec![null.clone(), null.clone(), json!(3), null]));
        assert_eq!(all.means(), [("f".to_string(), 2.5)]);
    }

    #[test]
    fn two_rewards_may_use_one_name() {
        let mut all = said("a", &[1], 1.0);
        all.merge("second", said("a", &[2], 2.0));
        let names: Vec<&str> = all.columns.iter().map(|(n, _)| n.as_str()).collect();
        assert_eq!(names, ["a", "second/a"]);
    }
}
