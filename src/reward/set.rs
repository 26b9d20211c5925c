//! Several rewards and their weights: scored side by side, summed as TRL sums them. The order of
//! threads never shows in the result, and one reward's failure never touches another sample.

use super::debug_log::DebugLog;
use super::process::{OwnReward, Source, unique_names};
use super::{AnswerFormat, Aside, Progress, Reward, RewardSettings, Sample, reward_by_name};
use crate::base::{Error, Result};
use std::sync::{Mutex, PoisonError};

/// Rewards with one weight each.
pub struct RewardSet {
    rewards: Vec<Box<dyn Reward>>,
    weights: Vec<f64>,
    log: Option<DebugLog>,
    /// Where the run is.
    progress: Mutex<Progress>,
}

/// A reward that could not judge a sample.
#[derive(Debug)]
pub struct RewardFailure {
    /// Index of the reward in the set.
    pub reward: usize,
    /// Index of the sample in the batch.
    pub sample: usize,
    /// Why.
    pub error: Error,
}

/// What a batch earned.
#[derive(Debug, Default)]
pub struct Scores {
    /// `per_reward[r][i]`: unweighted score of sample `i` by reward `r`; None if not judged.
    pub per_reward: Vec<Vec<Option<f64>>>,
    /// Weighted sum over the rewards that judged the sample. None, and so outside its group's
    /// statistics, if no reward judged it or if one failed on it: a sum with a part missing by
    /// accident would punish the completion for it.
    pub total: Vec<Option<f64>>,
    /// Failures, by reward, then by sample.
    pub failures: Vec<RewardFailure>,
    /// What rewards said besides.
    pub aside: Aside,
}

impl Scores {
    /// Scores of a batch from those of its parts, in order: what scoring it at once would give.
    pub fn joined(parts: impl IntoIterator<Item = Scores>) -> Scores {
        let mut all = Scores::default();
        for part in parts {
            let before = all.total.len();
            all.per_reward.resize_with(part.per_reward.len(), Vec::new);
            for (column, more) in all.per_reward.iter_mut().zip(part.per_reward) {
                column.extend(more);
            }
            all.aside.append(before, part.aside, part.total.len());
            all.total.extend(part.total);
            let moved = |f: RewardFailure| RewardFailure { sample: f.sample + before, ..f };
            all.failures.extend(part.failures.into_iter().map(moved));
        }
        all.failures.sort_by_key(|f| (f.reward, f.sample));
        all
    }
}

impl RewardSet {
    /// `weights` of None weighs every reward 1. Names must differ: they are columns later.
    pub fn new(rewards: Vec<Box<dyn Reward>>, weights: Option<Vec<f64>>) -> Result<Self> {
        if rewards.is_empty() {
            return Err(Error::usage("no reward to train on")
                .key("reward_funcs")
                .expected("at least one reward")
                .hint("for example --reward_funcs accuracy format"));
        }
        for (i, r) in rewards.iter().enumerate() {
            if rewards[..i].iter().any(|q| q.name() == r.name()) {
                return Err(Error::usage("the same reward twice")
                    .key("reward_funcs")
                    .found(format!("`{}` more than once", r.name()))
                    .hint("name it once and give it a larger weight in reward_weights"));
            }
        }
        let weights = weights.unwrap_or_else(|| vec![1.0; rewards.len()]);
        if weights.len() != rewards.len() {
            let names: Vec<&str> = rewards.iter().map(|r| r.name()).collect();
            return Err(Error::usage("the number of weights is not the number of rewards")
                .key("reward_weights")
                .expected(format!("{} weights, for {}", names.len(), names.join(", ")))
                .found(format!("{} weights", weights.len())));
        }
        if let Some(w) = weights.iter().find(|w| !w.is_finite()) {
            return Err(Error::usage("a weight is not a number")
                .key("reward_weights")
                .expected("finite numbers")
                .found(w.to_string()));
        }
        Ok(RewardSet { rewards, weights, log: None, progress: Mutex::default() })
    }

    /// The same, writing the debug log that the settings name, if they do.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn logged(mut self, settings: &RewardSettings) -> Result<Self> {
        let json = settings.answer_format == AnswerFormat::Json;
        let open = |p| DebugLog::open(p, &self.names(), &settings.accuracy_method, json);
        self.log = settings.debug_log.as_deref().map(open).transpose()?;
        Ok(self)
    }

    /// Rewards by name, in the order given: built-in ones, and those that other programs compute, whose
    /// processes are started; with the debug log of the settings.
    pub fn from_names<S: AsRef<str>>(
        names: &[S],
        weights: Option<Vec<f64>>,
        settings: &RewardSettings,
    ) -> Result<Self> {
        let sources: Vec<Option<Source>> =
            names.iter().map(|n| Source::parse(n.as_ref())).collect::<Result<_>>()?;
        let words: Vec<(&str, Option<&Source>)> =
            names.iter().map(|n| n.as_ref()).zip(sources.iter().map(Option::as_ref)).collect();
        let unique = unique_names(&words);
        let build = |((word, source), name): (&(&str, Option<&Source>), &String)| match source {
            None => reward_by_name(word, settings),
            Some(source) => {
                let own = OwnReward::start(name, Source::clone(source), &settings.process)?;
                Ok(Box::new(own) as Box<dyn Reward>)
            }
        };
        let rewards: Result<Vec<_>> = words.iter().zip(&unique).map(build).collect();
        Self::new(rewards?, weights)?.logged(settings)
    }

    /// Says where the run is, for rewards that depend on it.
    pub fn begin(&self, progress: Progress) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = progress;
    }

    /// Figures of all rewards since the last call, as `rewards/<name>/<figure>`.
    pub fn figures(&self) -> Vec<(String, f64)> {
        let named = |r: &dyn Reward| {
            let name = |figure: String| format!("rewards/{}/{figure}", r.name());
            r.figures().into_iter().map(|(n, v)| (name(n), v)).collect::<Vec<_>>()
        };
        self.rewards.iter().flat_map(|r| named(r.as_ref())).collect()
    }

    /// What all rewards have to say since the last call, one line each.
    pub fn notices(&self) -> Vec<String> {
        let named = |r: &dyn Reward| {
            let line = |text: String| format!("{}: {text}", r.name());
            r.notices().into_iter().map(line).collect::<Vec<_>>()
        };
        let of_log = self.log.iter().flat_map(DebugLog::notices);
        self.rewards.iter().flat_map(|r| named(r.as_ref())).chain(of_log).collect()
    }

    /// Names in order.
    pub fn names(&self) -> Vec<&str> {
        self.rewards.iter().map(|r| r.name()).collect()
    }

    /// Weights in order.
    pub fn weights(&self) -> &[f64] {
        &self.weights
    }

    /// Scores a batch; rewards run side by side on threads of their own, since a reward that waits
    /// (for a judge) must hold no thread that computes.
    pub fn score_all(&self, samples: &[Sample<'_>]) -> Scores {
        let progress = *self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let raw: Vec<(Vec<Result<Option<f64>>>, Aside)> = std::thread::scope(|scope| {
            let others: Vec<_> = self.rewards[1..]
                .iter()
                .map(|r| scope.spawn(move || complete(r.as_ref(), samples, progress)))
                .collect();
            let first = complete(self.rewards[0].as_ref(), samples, progress);
            let others = others.into_iter().map(|t| match t.join() {
                Ok(results) => results,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            std::iter::once(first).chain(others).collect()
        });
        let mut out = Scores { total: vec![None; samples.len()], ..Scores::default() };
        let mut failed = vec![false; samples.len()];
        for (r, (results, aside)) in raw.into_iter().enumerate() {
            out.aside.merge(self.rewards[r].name(), aside);
            let mut column = Vec::with_capacity(samples.len());
            for (i, result) in results.into_iter().enumerate() {
                column.push(match result {
                    Ok(score) => score,
                    Err(error) => {
                        failed[i] = true;
                        out.failures.push(RewardFailure { reward: r, sample: i, error });
                        None
                    }
                });
                if let Some(score) = column[i] {
                    out.total[i] = Some(out.total[i].unwrap_or(0.0) + self.weights[r] * score);
                }
            }
            out.per_reward.push(column);
        }
        for (total, failed) in out.total.iter_mut().zip(failed) {
            if failed {
                *total = None;
            }
        }
        if let Some(log) = &self.log {
            log.write(samples, &out.per_reward);
        }
        out
    }

    /// Metrics of a batch under TRL's names: `rewards/<name>/mean` and `/std` (over the samples
    /// that the reward judged, unbiased), and `rewards/failed`, the number of failures.
    pub fn metrics(&self, scores: &Scores) -> Vec<(String, f64)> {
        let mut out = Vec::new();
        for (r, column) in self.rewards.iter().zip(&scores.per_reward) {
            let (mean, std) = mean_std(column);
            out.push((format!("rewards/{}/mean", r.name()), mean));
            out.push((format!("rewards/{}/std", r.name()), std));
        }
        out.push(("rewards/failed".to_string(), scores.failures.len() as f64));
        if let Some(log) = &self.log {
            out.push(("rewards/debug_log_lost".to_string(), log.lost() as f64));
        }
        out
    }
}

/// The reward's results with its promises checked: one per sample, finite.
fn complete(
    reward: &dyn Reward,
    samples: &[Sample<'_>],
    progress: Progress,
) -> (Vec<Result<Option<f64>>>, Aside) {
    let mut aside = Aside::default();
    let results = reward.score_at(samples, progress, &mut aside);
    if results.len() != samples.len() {
        let found = results.len();
        let error = || {
            Error::data(format!("reward `{}` broke its contract", reward.name()))
                .expected(format!("{} scores, one per sample", samples.len()))
                .found(format!("{found} scores"))
        };
        return (samples.iter().map(|_| Err(error())).collect(), Aside::default());
    }
    let finite = |result: Result<Option<f64>>| match result {
        Ok(Some(x)) if !x.is_finite() => {
            Err(Error::data(format!("reward `{}` is not a finite number", reward.name()))
                .expected("a finite score, or none where the reward does not apply")
                .found(x.to_string()))
        }
        other => other,
    };
    (results.into_iter().map(finite).collect(), aside)
}

/// Mean and unbiased standard deviation of the judged samples; NaN and NaN if there are none, a
/// deviation of 0 for a single one.
pub fn mean_std(column: &[Option<f64>]) -> (f64, f64) {
    let judged: Vec<f64> = column.iter().flatten().copied().collect();
    let n = judged.len() as f64;
    let mean = judged.iter().sum::<f64>() / n;
    if judged.len() < 2 {
        return (mean, if judged.is_empty() { f64::NAN } else { 0.0 });
    }
    let squares: f64 = judged.iter().map(|x| (x - mean) * (x - mean)).sum();
    (mean, (squares / (n - 1.0)).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reward::test_sample;
    use serde_json::Map;

    /// Looks its score up by the completion: "x" fails, "-" is not judged, numbers are scores.
    struct Scripted(&'static str, usize);

    impl Reward for Scripted {
        fn name(&self) -> &str {
            self.0
        }
        fn score(&self, samples: &[Sample<'_>]) -> Vec<Result<Option<f64>>> {
            let one = |s: &Sample<'_>| match s.completion.split(' ').nth(self.1) {
                Some("-") => Ok(None),
                Some("x") => Err(Error::data("the judge is down")),
                Some(t) => Ok(Some(t.parse().unwrap())),
                None => Ok(None),
            };
            samples.iter().filter(|s| s.completion != "lost").map(one).collect()
        }
    }

    fn set(weights: Option<Vec<f64>>) -> Result<RewardSet> {
        RewardSet::new(vec![Box::new(Scripted("a", 0)), Box::new(Scripted("b", 1))], weights)
    }

    #[test]
    fn weighted_sum_skips_what_is_not_judged_and_drops_what_failed() {
        let columns = Map::new();
        let texts = ["1 0.5", "1 -", "- -", "x 1", "- 2", "NaN 1", "1 inf"];
        let samples: Vec<_> = texts.iter().map(|t| test_sample(t, "", &[], &columns)).collect();
        let set = set(Some(vec![2.0, 10.0])).unwrap();
        let s = set.score_all(&samples);
        assert_eq!(s.total, [Some(7.0), Some(2.0), None, None, Some(20.0), None, None]);
        assert_eq!(s.per_reward[0], [Some(1.0), Some(1.0), None, None, None, None, Some(1.0)]);
        let failures: Vec<_> = s.failures.iter().map(|f| (f.reward, f.sample)).collect();
        assert_eq!(failures, [(0, 3), (0, 5), (1, 6)]);
        let m = set.metrics(&s);
        assert_eq!(m[0], ("rewards/a/mean".to_string(), 1.0));
        assert_eq!(m[2], ("rewards/b/mean".to_string(), (0.5 + 1.0 + 2.0 + 1.0) / 4.0));
        assert_eq!(m[4], ("rewards/failed".to_string(), 3.0));
    }

    #[test]
    fn parts_join_to_the_scores_of_the_whole() {
        let columns = Map::new();
        let texts = ["1 0.5", "x -", "- x", "x 1", "- 2"];
        let samples: Vec<_> = texts.iter().map(|t| test_sample(t, "", &[], &columns)).collect();
        let set = set(None).unwrap();
        let whole = set.score_all(&samples);
        let joined = Scores::joined(samples.chunks(2).map(|part| set.score_all(part)));
        assert_eq!((&joined.per_reward, &joined.total), (&whole.per_reward, &whole.total));
        let places =
            |s: &Scores| s.failures.iter().map(|f| (f.reward, f.sample)).collect::<Vec<_>>();
        assert_eq!(places(&joined), [(0, 1), (0, 3), (1, 2)]);
        assert_eq!(places(&joined), places(&whole));
    }

    #[test]
    fn a_reward_that_loses_samples_fails_all_of_them() {
        let columns = Map::new();
        let samples = ["1 1", "lost"].map(|t| test_sample(t, "", &[], &columns));
        let s = set(None).unwrap().score_all(&samples);
        assert_eq!(s.total, [None, None]);
        assert_eq!(s.failures.len(), 4);
        assert!(set(None).unwrap().score_all(&[]).total.is_empty());
    }

    #[test]
    fn same_scores_on_any_number_of_threads() {
        let columns = Map::new();
        let texts: Vec<String> = (0..257).map(|i| format!("0.{i} {}", i % 7)).collect();
        let samples: Vec<_> = texts.iter().map(|t| test_sample(t, "", &[], &columns)).collect();
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let total =
                pool.install(|| set(Some(vec![0.1, 0.3])).unwrap().score_all(&samples).total);
            total.into_iter().map(|t| t.unwrap().to_bits()).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(4));
    }

    #[test]
    fn wrong_sets_are_usage_errors() {
        let err = |r: Result<RewardSet>| r.err().expect("must fail").one_line();
        assert!(err(set(Some(vec![1.0]))).contains("2 weights, for a, b; found: 1 weights"));
        assert!(err(set(Some(vec![1.0, f64::NAN]))).contains("finite"));
        assert!(err(RewardSet::new(vec![], None)).contains("at least one"));
        let twice = RewardSet::from_names(&["format", "format"], None, &RewardSettings::default());
        assert!(err(twice).contains("more than once"));
        let names = ["format", "accuracy"];
        let set = RewardSet::from_names(&names, None, &RewardSettings::default()).unwrap();
        assert_eq!((set.names().as_slice(), set.weights()), (&names[..], &[1.0, 1.0][..]));
    }

    #[test]
    fn the_debug_log_is_written_beside_the_scores() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("debug_log.txt");
        let settings =
            RewardSettings { debug_log: Some(path.clone()), ..RewardSettings::default() };
        let set = RewardSet::from_names(&["format", "accuracy"], None, &settings).unwrap();
        let columns = Map::new();
        let samples = ["<think>a</think><answer>red</answer>", "blue"]
            .map(|t| test_sample(t, "red", &[], &columns));
        let scores = set.score_all(&samples);
        assert_eq!(scores.total, [Some(2.0), Some(0.0)]);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.matches("Accuracy reward: ").count(), 2, "{text}");
        assert!(folder.path().join("debug_log_format.txt").exists());
        let lost = set.metrics(&scores).into_iter().find(|(n, _)| n == "rewards/debug_log_lost");
        assert_eq!(lost.unwrap().1, 0.0);

        let debug_log = Some(folder.path().join("none").join("log.txt"));
        let settings = RewardSettings { debug_log, ..RewardSettings::default() };
        assert!(RewardSet::from_names(&["format"], None, &settings).is_err());
    }

    #[test]
    fn mean_std_of_few() {
        assert!(mean_std(&[None]).0.is_nan());
        assert_eq!(mean_std(&[Some(3.0), None]), (3.0, 0.0));
        assert_eq!(mean_std(&[Some(1.0), Some(3.0)]), (2.0, 2f64.sqrt()));
    }
}
