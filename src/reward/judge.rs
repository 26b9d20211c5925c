//! A language model that is asked whether two answers are the same, behind any OpenAI-compatible
//! endpoint. A judge that is down, late or talks nonsense gives no verdict: never a 0, never an end of
//! the run. Its key is never written anywhere.

mod breaker; // a judge that does not answer is left alone
mod endpoint; // one question over HTTP
mod question; // what is asked, and how replies are read

use crate::base::{Error, Result};
use crate::reward::answer::{SameAnswer, reference_answer};
use crate::reward::settings::JudgeSettings;
use crate::reward::{AnswerFormat, Reward, RewardSettings, Sample, completion};
use breaker::{Admission, Breaker};
use endpoint::{Endpoint, Reply};
use question::{Asked, Verdict, verdict};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// The pause before the second attempt; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Most messages that wait to be shown.
const NOTICES: usize = 5;

/// What all handles of one judge share.
struct Shared {
    settings: JudgeSettings,
    endpoint: Endpoint,
    /// Verdicts of this run.
    known: Mutex<HashMap<Asked, bool>>,
    breaker: Breaker,
    /// Questions that may still be opened.
    free: Mutex<usize>,
    returned: Condvar,
    notices: Mutex<Vec<String>>,
}

/// Judges in use: handles with the same settings share cache, limits and what is known of its health.
static IN_USE: Mutex<Vec<Weak<Shared>>> = Mutex::new(Vec::new());

/// A handle on the judge. Each counts what was asked through it.
pub struct Judge {
    shared: Arc<Shared>,
    asked: AtomicU64,
    cached: AtomicU64,
    unanswered: AtomicU64,
    nonsense: AtomicU64,
    retries: AtomicU64,
}

/// A question with two answers to compare.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// What was asked of the model.
    pub question: &'a str,
    /// The answer that is right.
    pub reference: &'a str,
    /// The model's answer.
    pub answer: &'a str,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn count(n: &AtomicU64) {
    n.fetch_add(1, Ordering::Relaxed);
}

impl Judge {
    /// A handle on the judge of these settings. Nothing is asked yet.
    ///
    /// # Errors
    /// If the address is none, or the key cannot be sent.
    pub fn open(settings: &JudgeSettings) -> Result<Judge> {
        let mut in_use = lock(&IN_USE);
        in_use.retain(|weak| weak.strong_count() > 0);
        let same = in_use.iter().filter_map(Weak::upgrade).find(|s| s.settings == *settings);
        let shared = match same {
            Some(shared) => shared,
            None => {
                let shared = Arc::new(Shared {
                    endpoint: Endpoint::new(settings)?,
                    known: Mutex::default(),
                    breaker: Breaker::new(settings.time_limit),
                    free: Mutex::new(settings.concurrency.max(1)),
                    returned: Condvar::new(),
                    notices: Mutex::default(),
                    settings: settings.clone(),
                });
                in_use.push(Arc::downgrade(&shared));
                shared
            }
        };
        let zero = AtomicU64::default;
        Ok(Judge {
            shared,
            asked: zero(),
            cached: zero(),
            unanswered: zero(),
            nonsense: zero(),
            retries: zero(),
        })
    }

    /// Whether `answer` says the same as `reference` in reply to `question`; None if there is no verdict:
    /// the judge did not answer within its limit, or not with a verdict. An empty answer is wrong without
    /// being asked about, an empty reference gives no verdict.
    ///
    /// # Errors
    /// None at present: whatever goes wrong is no verdict and counted.
    pub fn same_answer(
        &self,
        question: &str,
        reference: &str,
        answer: &str,
    ) -> Result<Option<bool>> {
        let asked = Asked::new(&Question { question, reference, answer });
        if asked.reference.is_empty() {
            return Ok(None);
        }
        if asked.answer.is_empty() {
            return Ok(Some(false));
        }
        if let Some(known) = lock(&self.shared.known).get(&asked).copied() {
            count(&self.cached);
            return Ok(Some(known));
        }
        let said = self.ask(&asked);
        if let Some(same) = said {
            lock(&self.shared.known).insert(asked, same);
        }
        Ok(said)
    }

    /// As [`Judge::same_answer`] for several at a time, in order; questions that stand twice are asked
    /// once.
    pub fn same_answers(&self, questions: &[Question<'_>]) -> Vec<Result<Option<bool>>> {
        let keys: Vec<Asked> = questions.iter().map(Asked::new).collect();
        let first = |i: usize| keys.iter().position(|k| *k == keys[i]).unwrap_or(i);
        let firsts: Vec<usize> = (0..keys.len()).map(first).collect();
        let distinct: Vec<usize> = (0..keys.len()).filter(|&i| firsts[i] == i).collect();
        let next = AtomicUsize::new(0);
        let threads = self.shared.settings.concurrency.clamp(1, distinct.len().max(1));
        let answer = || {
            let mut own = Vec::new();
            while let Some(&i) = distinct.get(next.fetch_add(1, Ordering::Relaxed)) {
                let q = &questions[i];
                own.push((i, self.same_answer(q.question, q.reference, q.answer)));
            }
            own
        };
        let said: HashMap<usize, Result<Option<bool>>> = std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(answer)).collect();
            let mut all = answer();
            for thread in others {
                all.extend(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            }
            all.into_iter().collect()
        });
        let one = |i: &usize| match said.get(i) {
            Some(Ok(verdict)) => Ok(*verdict),
            Some(Err(e)) => Err(Error::data(e.one_line())),
            None => Ok(None),
        };
        firsts.iter().map(one).collect()
    }

    /// Asks, waits and tries again as the settings allow; None without a verdict.
    fn ask(&self, asked: &Asked) -> Option<bool> {
        let shared = &*self.shared;
        let _permit = Permit::take(shared);
        let mut turn = match shared.breaker.admit() {
            Admission::Ask(turn) => turn,
            Admission::Refused => {
                count(&self.unanswered);
                return None;
            }
        };
        count(&self.asked);
        let probe = turn.is_probe();
        match self.attempts(asked, if probe { 0 } else { shared.settings.retries }) {
            Ok(content) => {
                if turn.answered() {
                    shared.notice("the judge answers again".into());
                }
                match verdict(&content) {
                    Verdict::Same(same) => Some(same),
                    Verdict::Nonsense => {
                        count(&self.nonsense);
                        None
                    }
                }
            }
            Err(why) => {
                count(&self.unanswered);
                if turn.missed() {
                    shared.notice(format!(
                        "the judge does not answer ({why}); it is left out until it does"
                    ));
                } else if !probe {
                    shared.notice(format!("the judge gave no answer ({why})"));
                }
                None
            }
        }
    }

    /// The text of the judge's reply, or why there is none.
    fn attempts(&self, asked: &Asked, retries: usize) -> std::result::Result<String, String> {
        let settings = &self.shared.settings;
        let body = asked.request(&settings.model);
        let start = Instant::now();
        let left = || settings.time_limit.saturating_sub(start.elapsed());
        for attempt in 0.. {
            let (why, after) = match self.shared.endpoint.post(&body, left()) {
                Reply::Content(text) => return Ok(text),
                Reply::Refused(why) => return Err(why),
                Reply::Again { why, after } => (why, after),
            };
            let doubled = FIRST_PAUSE.saturating_mul(1 << attempt.min(10));
            let pause = after.unwrap_or(doubled);
            if attempt as usize >= retries || pause >= left() {
                return Err(why);
            }
            count(&self.retries);
            std::thread::sleep(pause);
        }
        Err("no attempt".into())
    }

    /// What was counted through this handle since the last call, for [`Reward::figures`].
    pub fn figures(&self) -> Vec<(String, f64)> {
        let taken = |n: &AtomicU64| n.swap(0, Ordering::Relaxed) as f64;
        let all = [
            ("asked", &self.asked),
            ("cached", &self.cached),
            ("unanswered", &self.unanswered),
            ("nonsense", &self.nonsense),
            ("retries", &self.retries),
        ];
        all.map(|(name, n)| (name.to_string(), taken(n))).into()
    }

    /// What there is to tell since the last call, for [`Reward::notices`].
    pub fn notices(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.shared.notices))
    }
}

impl SameAnswer for Judge {
    fn same_answer(&self, question: &str, reference: &str, answer: &str) -> Result<Option<bool>> {
        Judge::same_answer(self, question, reference, answer)
    }

    fn figures(&self) -> Vec<(String, f64)> {
        Judge::figures(self)
    }

    fn notices(&self) -> Vec<String> {
        Judge::notices(self)
    }
}

impl Shared {
    fn notice(&self, text: String) {
        let mut notices = lock(&self.notices);
        if notices.len() < NOTICES && !notices.contains(&text) {
            notices.push(text);
        }
    }
}

/// The right to have a question open.
struct Permit<'a>(&'a Shared);

impl<'a> Permit<'a> {
    fn take(shared: &'a Shared) -> Permit<'a> {
        let mut free = lock(&shared.free);
        while *free == 0 {
            free = shared.returned.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
        *free -= 1;
        Permit(shared)
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        *lock(&self.0.free) += 1;
        self.0.returned.notify_one();
    }
}

/// `judge`: the judge finds the answer the same as the reference. A completion
/// without the marks of an answer is judged whole, less its reasoning.
pub struct JudgeReward {
    judge: Judge,
    format: AnswerFormat,
}

impl JudgeReward {
    /// A usage error without a judge to ask.
    pub fn new(settings: &RewardSettings) -> Result<JudgeReward> {
        let Some(judge) = &settings.judge else {
            return Err(Error::usage("the reward `judge` has nobody to ask")
                .key("reward_funcs")
                .hint("name an endpoint and a model: --judge_url http://localhost:11434/v1 --judge_model NAME"));
        };
        Ok(JudgeReward { judge: Judge::open(judge)?, format: settings.answer_format })
    }
}

impl Reward for JudgeReward {
    fn name(&self) -> &str {
        "judge"
    }

    fn score(&self, samples: &[Sample<'_>]) -> Vec<Result<Option<f64>>> {
        let said = |s: &Sample| match completion::answer(s.completion, self.format) {
            Some(said) => said.into_owned(),
            None => completion::after_reasoning(s.completion).to_string(),
        };
        let answers: Vec<String> = samples.iter().map(said).collect();
        let questions: Vec<Question<'_>> = samples
            .iter()
            .zip(&answers)
            .map(|(s, answer)| Question {
                question: s.prompt,
                reference: reference_answer(s.answer),
                answer,
            })
            .collect();
        let verdicts = self.judge.same_answers(&questions).into_iter();
        verdicts.map(|verdict| verdict.map(|same| same.map(f64::from))).collect()
    }

    fn figures(&self) -> Vec<(String, f64)> {
        self.judge.figures()
    }

    fn notices(&self) -> Vec<String> {
        self.judge.notices()
    }
}

/// Settings of a judge for tests.
#[cfg(test)]
pub(crate) fn test_settings(url: &str) -> JudgeSettings {
    JudgeSettings {
        url: url.into(),
        model: "m".into(),
        key_variable: "GRPO_RT_NO_SUCH_KEY".into(),
        time_limit: Duration::from_secs(5),
        retries: 0,
        concurrency: 4,
    }
}
