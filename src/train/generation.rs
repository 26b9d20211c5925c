//! From prompts to scored completions: rollout, text, rewards. A group is scored as soon as it is
//! finished, while the engine goes on with the others; what comes out does not depend on when. Shared
//! by training and evaluation; updates nothing.

use crate::base::Result;
use crate::io::dataset::{Part, Row};
use crate::model::families::Family;
use crate::model::prompt::Prompt;
use crate::model::vision_store::VisionWeights;
use crate::ops::linear_logprob::HeadSettings;
use crate::ops::sample::SamplingSettings as Draw;
use crate::reward::{
    BoxSpace, ImageSizes, RewardSet, RewardSettings as RewardOptions, Sample, Scores,
};
use crate::rollout::engine::GroupDone;
use crate::rollout::scheduler::Counts;
use crate::rollout::{Completion, Engine, EngineSettings, Generated, Request, head_settings};
use crate::settings::{RewardSettings, SamplingSettings};
use crate::train::interrupt;
use crate::train::workspace::Workspace;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// Tokens at a completion's end that are searched for stop strings.
const STOP_WINDOW: usize = 32;

/// How a command's completions are made.
#[derive(Debug, Clone)]
pub struct RolloutSettings {
    /// How tokens are drawn.
    pub sampling: Arc<Draw>,
    /// Most tokens of a completion.
    pub max_completion_length: usize,
    /// Texts that end a completion.
    pub stop: Vec<String>,
    /// What holds for all of them.
    pub engine: EngineSettings,
}

impl RolloutSettings {
    /// The same, taking the most likely token.
    pub fn greedy(mut self) -> Self {
        self.sampling = Arc::new(Draw { temperature: 0.0, ..(*self.sampling).clone() });
        self
    }
    /// Temperature and forbidden tokens, as training must use them too.
    pub fn head(&self) -> HeadSettings {
        head_settings(&self.sampling, &self.engine.forbidden)
    }
}

/// How tokens are drawn, from the command's settings.
pub fn drawn(s: &SamplingSettings) -> Draw {
    Draw {
        temperature: if s.greedy { 0.0 } else { s.temperature as f32 },
        top_p: s.top_p as f32,
        top_k: s.top_k,
        min_p: s.min_p.unwrap_or(0.0) as f32,
        repetition_penalty: s.repetition_penalty as f32,
    }
}

/// Rollout settings from the command's.
pub fn rollout_settings(w: &Workspace, s: &SamplingSettings, seed: u64) -> RolloutSettings {
    RolloutSettings {
        sampling: Arc::new(drawn(s)),
        max_completion_length: s.max_completion_length,
        stop: s.stop.clone(),
        engine: EngineSettings {
            eos: w.model.config.tokens.eos.clone(),
            ignore_eos: s.ignore_eos,
            forbidden: w.forbidden_tokens(),
            seed,
            step: 0,
            max_num_seqs: s.max_num_seqs,
            max_num_batched_tokens: s.max_num_batched_tokens,
            max_pages: None,
        },
    }
}

/// The rewards of a run with a model of this family; processes of rewards are started.
///
/// # Errors
/// If a name is unknown, settings contradict each other, or a process cannot be started.
pub fn reward_set(
    s: &RewardSettings,
    max_completion_length: usize,
    family: &dyn Family,
) -> Result<RewardSet> {
    let mut options = RewardOptions { max_completion_length, ..s.told.clone() };
    if options.box_space == BoxSpace::Auto {
        options.box_space = BoxSpace::of_family(family, options.compat);
    }
    RewardSet::from_names(&s.names, Some(s.weights.clone()), &options)
}

/// Completions of some prompts with what they earned.
#[derive(Debug, Default)]
pub struct Scored {
    /// Completions of each prompt.
    pub completions: Vec<Vec<Completion>>,
    /// Their texts, prompt after prompt, special tokens removed.
    pub texts: Vec<String>,
    /// Their rewards, in the same order.
    pub scores: Scores,
    /// What the engine did.
    pub counts: Counts,
    /// Images that the vision tower encoded.
    pub vision_images: u64,
    /// Seconds of rollout.
    pub rollout_seconds: f64,
    /// Seconds of rewards, summed over the groups; most of them pass during the rollout.
    pub reward_seconds: f64,
    /// Seconds from the end of the rollout to the last score.
    pub wait_seconds: f64,
}

/// The user's last question as text, images left out.
pub fn question(row: &Row) -> String {
    let last = row.messages.iter().rev().find(|m| m.role == "user");
    let parts = last.map(|m| m.content.as_slice()).unwrap_or_default();
    parts
        .iter()
        .filter_map(|p| if let Part::Text(t) = p { Some(t.as_str()) } else { None })
        .collect()
}

/// Which completions: their random keys, and the state of the vision tower.
#[derive(Debug, Clone, Copy, Default)]
pub struct Draws {
    /// Completions per prompt.
    pub per_prompt: usize,
    /// Step of their random keys.
    pub step: u32,
    /// Sample number of the first; the others follow.
    pub first_sample: u32,
    /// Whose image features.
    pub vision_weights: VisionWeights,
}

/// Generates completions of each prompt; `group_done` hears of each prompt that has all of its own.
///
/// # Errors
/// If a prompt or the memory does not allow it, or the user asked to stop.
pub fn generate(
    w: &Workspace,
    settings: &RolloutSettings,
    prompts: &[Arc<Prompt>],
    draws: Draws,
    group_done: Option<GroupDone>,
) -> Result<Generated> {
    let requests: Vec<Request> = prompts
        .iter()
        .enumerate()
        .map(|(i, prompt)| Request {
            prompt: prompt.clone(),
            completions: draws.per_prompt,
            sampling: settings.sampling.clone(),
            max_tokens: settings.max_completion_length,
            first_sample: draws.first_sample + (i * draws.per_prompt) as u32,
            seed: None,
            adapter: true,
        })
        .collect();
    let engine = EngineSettings { step: draws.step, ..settings.engine.clone() };
    let mut engine = Engine::new(&w.model, &w.arena, &w.vision, engine);
    engine.vision_weights = draws.vision_weights;
    engine.group_done = group_done;
    engine.cancelled = Some(&interrupt::asked);
    generate_with(engine, w, &settings.stop, &requests)
}

/// Lets an engine answer requests whose completions end at one of these texts, too.
///
/// # Errors
/// If a prompt or the memory does not allow it.
pub fn generate_with(
    engine: Engine<'_>,
    w: &Workspace,
    stop: &[String],
    requests: &[Request],
) -> Result<Generated> {
    let tokenizer = &w.encoder.chat.tokenizer;
    let check = |ids: &[u32]| {
        let tail = tokenizer.decode(&ids[ids.len().saturating_sub(STOP_WINDOW)..], true);
        stop.iter().any(|s| tail.contains(s))
    };
    let mut engine: Engine<'_> = engine;
    if !stop.is_empty() {
        engine.stop = Some(&check);
    }
    engine.generate(requests)
}

/// Groups that are scored at a time: a judge takes its time, and not that of a processor.
const SCORERS: usize = 4;

/// A finished group: its number, its completions.
type Finished = (usize, Vec<Completion>);

/// What scoring came to.
#[derive(Debug, Default)]
struct Judged {
    texts: Vec<String>,
    scores: Scores,
    seconds: f64,
}

/// A row with the sizes of its images, as its prompt has them.
struct Asked<'a> {
    row: &'a Row,
    images: Vec<ImageSizes>,
}

/// Sizes of a prompt's images, in order; videos are none.
fn image_sizes(prompt: &Prompt) -> Vec<ImageSizes> {
    let images = prompt.visuals.iter().filter(|v| v.seconds.is_empty());
    let sizes = |(width, height)| [width, height];
    images.map(|v| ImageSizes { original: sizes(v.original), seen: sizes(v.resized) }).collect()
}

/// Scores the completions of one row.
fn score_group(
    rewards: &RewardSet,
    asked: &Asked<'_>,
    group: &[Completion],
    texts: Vec<String>,
) -> Judged {
    let start = Instant::now();
    let row = asked.row;
    let question = question(row);
    let samples: Vec<Sample> = group
        .iter()
        .zip(&texts)
        .map(|(c, text)| Sample {
            completion: text,
            completion_ids: &c.ids,
            prompt: &question,
            answer: &row.answer,
            messages: &row.messages,
            columns: &row.columns,
            images: &asked.images,
            truncated: c.truncated(),
        })
        .collect();
    let scores = rewards.score_all(&samples);
    Judged { texts, scores, seconds: start.elapsed().as_secs_f64() }
}

/// Runs `work`, which announces the groups of `asked` as they are finished, and scores them
/// meanwhile; returns what came of the work and of all groups, in their order.
fn score_during<T>(
    rewards: &RewardSet,
    asked: &[Asked<'_>],
    text: &(dyn Fn(&[u32]) -> String + Sync),
    work: impl FnOnce(GroupDone) -> Result<T>,
) -> Result<(T, Judged)> {
    let (send, receive) = channel::<Finished>();
    let receive = Mutex::new(receive);
    let next = || receive.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).recv();
    let scorer = || {
        let mut judged = Vec::new();
        while let Ok((i, group)) = next() {
            let texts = group.iter().map(|c| text(&c.ids)).collect();
            judged.push((i, score_group(rewards, &asked[i], &group, texts)));
        }
        judged
    };
    std::thread::scope(|scope| {
        let scorers: Vec<_> = (0..SCORERS.min(asked.len())).map(|_| scope.spawn(scorer)).collect();
        let announce = |i: usize, group: &[Completion]| {
            // It fails only if all scorers have panicked, which joining them tells.
            let _ = send.send((i, group.to_vec()));
        };
        let worked = work(&announce);
        drop(send);
        let mut parts: Vec<(usize, Judged)> = Vec::with_capacity(asked.len());
        for scorer in scorers {
            match scorer.join() {
                Ok(some) => parts.extend(some),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        parts.sort_by_key(|(i, _)| *i);
        let mut all = Judged::default();
        let mut scores = Vec::with_capacity(parts.len());
        for (_, part) in parts {
            all.texts.extend(part.texts);
            all.seconds += part.seconds;
            scores.push(part.scores);
        }
        all.scores = Scores::joined(scores);
        Ok((worked?, all))
    })
}

/// Generates and scores.
///
/// # Errors
/// As [`generate`].
pub fn generate_scored(
    w: &Workspace,
    settings: &RolloutSettings,
    rewards: &RewardSet,
    rows: &[&Row],
    prompts: &[Arc<Prompt>],
    draws: Draws,
) -> Result<Scored> {
    let start = Instant::now();
    let text = |ids: &[u32]| w.encoder.chat.tokenizer.decode(ids, true);
    let asked = rows.iter().zip(prompts);
    let asked: Vec<Asked> =
        asked.map(|(row, prompt)| Asked { row, images: image_sizes(prompt) }).collect();
    let ((generated, rollout_seconds), judged) = score_during(rewards, &asked, &text, |done| {
        let generated = generate(w, settings, prompts, draws, Some(done))?;
        Ok((generated, start.elapsed().as_secs_f64()))
    })?;
    Ok(Scored {
        completions: generated.completions,
        texts: judged.texts,
        scores: judged.scores,
        counts: generated.counts,
        vision_images: generated.vision_images,
        rollout_seconds,
        reward_seconds: judged.seconds,
        wait_seconds: start.elapsed().as_secs_f64() - rollout_seconds,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Error;
    use crate::model::processor::Visual;
    use crate::reward::Reward;
    use crate::rollout::Finish;
    use std::sync::mpsc::Sender;
    use std::time::Duration;

    /// Says that it was called; scores the first token, and fails on 7.
    struct Announcing(Mutex<Sender<u32>>);

    impl Reward for Announcing {
        fn name(&self) -> &str {
            "announcing"
        }
        fn score(&self, samples: &[Sample<'_>]) -> Vec<Result<Option<f64>>> {
            let first = |s: &Sample| s.completion_ids[0];
            self.0.lock().unwrap().send(first(&samples[0])).unwrap();
            let one = |s: &Sample| match first(s) {
                7 => Err(Error::data("seven")),
                token => Ok(Some(f64::from(token))),
            };
            samples.iter().map(one).collect()
        }
    }

    fn row() -> Row {
        Row {
            file: "rows.jsonl".into(),
            row: 1,
            id: "1".into(),
            images: Vec::new(),
            videos: Vec::new(),
            pixels: Default::default(),
            messages: Vec::new(),
            answer: "red".into(),
            columns: Default::default(),
        }
    }

    fn group(tokens: [u32; 2]) -> Vec<Completion> {
        let one = |t| Completion {
            ids: vec![t],
            logps: vec![0.0],
            statistics: vec![[0.0; 2]],
            finish: Finish::Eos,
        };
        tokens.map(one).into()
    }

    #[test]
    fn groups_are_scored_while_others_are_not_finished_and_end_up_in_order() {
        let (send, called) = channel();
        let reward: Box<dyn Reward> = Box::new(Announcing(Mutex::new(send)));
        let rewards = RewardSet::new(vec![reward], None).unwrap();
        let row = row();
        let text = |ids: &[u32]| ids[0].to_string();
        let asked = [0, 1, 2].map(|_| Asked { row: &row, images: Vec::new() });
        let ((), judged) = score_during(&rewards, &asked, &text, |done| {
            for (i, tokens) in [(2, [5, 6]), (0, [1, 7]), (1, [3, 4])] {
                done(i, &group(tokens));
                // The work goes on only after the reward has been called.
                let first = called.recv_timeout(Duration::from_secs(60)).expect("scored meanwhile");
                assert_eq!(first, tokens[0]);
            }
            Ok(())
        })
        .unwrap();
        assert_eq!(judged.texts, ["1", "7", "3", "4", "5", "6"]);
        let total = [Some(1.0), None, Some(3.0), Some(4.0), Some(5.0), Some(6.0)];
        assert_eq!(judged.scores.total, total);
        let failures: Vec<usize> = judged.scores.failures.iter().map(|f| f.sample).collect();
        assert_eq!(failures, [1]);
    }

    #[test]
    fn rewards_see_the_sizes_of_images_and_not_of_videos() {
        let visual = |original, resized, seconds| {
            let (patches, runs) = (Vec::new(), Vec::new());
            let grid_thw = [1, 2, 2];
            Arc::new(Visual {
                patches,
                patch_dim: 4,
                grid_thw,
                original,
                resized,
                content: 0,
                runs,
                seconds,
            })
        };
        let prompt = Prompt {
            ids: Vec::new(),
            visuals: vec![
                visual((640, 480), (56, 28), Vec::new()),
                visual((320, 240), (28, 28), vec![0.0, 0.5]),
                visual((7, 9), (28, 56), Vec::new()),
            ],
            starts: Vec::new(),
            positions: Vec::new(),
            next_position: 0,
            text: String::new(),
        };
        let sizes = |original, seen| ImageSizes { original, seen };
        let want = [sizes([640, 480], [56, 28]), sizes([7, 9], [28, 56])];
        assert_eq!(image_sizes(&prompt), want);
    }

    #[test]
    fn an_error_of_the_work_ends_the_scoring() {
        let rewards =
            RewardSet::from_names(&["accuracy"], None, &RewardOptions::default()).unwrap();
        let row = row();
        let asked = [Asked { row: &row, images: Vec::new() }];
        let failed: Result<((), Judged)> =
            score_during(&rewards, &asked, &|_| String::new(), |_| Err(Error::data("no memory")));
        assert!(failed.unwrap_err().one_line().contains("no memory"));
    }
}
