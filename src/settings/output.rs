//! Where a run is written, what it starts from, which checkpoints there are and which of them stay.
//! Data, and the question whether a step is one after which something is due.

use std::path::PathBuf;

/// What a run starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resume {
    /// From the model.
    No,
    /// From the latest whole checkpoint of the run's folder; from the model if there is none yet.
    Latest,
    /// From this checkpoint.
    From(PathBuf),
}

/// After which optimizer steps something is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Never.
    Never,
    /// After the last.
    Last,
    /// After every so many, and after the last.
    Steps(usize),
    /// At the end of every epoch, and after the last.
    Epochs,
    /// After an evaluation that was better than all before, and after the last.
    Better,
}

impl When {
    /// Whether it is due after `step` of `total` steps, where an epoch has `per_epoch`.
    pub fn due(self, step: usize, per_epoch: usize, total: usize) -> bool {
        let last = step >= total;
        step > 0
            && match self {
                When::Never => false,
                When::Last | When::Better => last,
                When::Steps(n) => last || step.is_multiple_of(n),
                When::Epochs => last || step.is_multiple_of(per_epoch),
            }
    }
}

/// What the best checkpoint is the best in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BestSettings {
    /// A figure of the evaluation, with `eval_`.
    pub metric: String,
    /// More is better.
    pub greater: bool,
}

/// Where a run is written and what it starts from.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputSettings {
    /// Folder of the run: `output_dir`, or `output_dir/run_id`.
    pub run_dir: PathBuf,
    /// Write into a folder that is not empty.
    pub overwrite: bool,
    /// When checkpoints are saved.
    pub save: When,
    /// Checkpoints that are kept, at least 1; `None` is all.
    pub save_total_limit: Option<usize>,
    /// Checkpoints have the model alone and cannot be continued.
    pub save_only_model: bool,
    /// What the best checkpoint is the best in, if that is asked.
    pub best: Option<BestSettings>,
    /// The model that the run ends with is that of the best checkpoint.
    pub load_best: bool,
    /// What the run starts from.
    pub resume: Resume,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_when() {
        let due = |when: When| (0..=7).filter(|&s| when.due(s, 3, 7)).collect::<Vec<_>>();
        assert_eq!(due(When::Never), [0usize; 0]);
        assert_eq!(due(When::Last), [7]);
        assert_eq!(due(When::Better), [7]);
        assert_eq!(due(When::Steps(2)), [2, 4, 6, 7]);
        assert_eq!(due(When::Epochs), [3, 6, 7]);
    }
}
