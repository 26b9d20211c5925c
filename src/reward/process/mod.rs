//! Rewards that other programs compute: a Python function with TRL's signature, or any program that speaks
//! JSON lines. A process that hangs, crashes or talks nonsense is ended and started again, and costs the
//! samples that it was guilty of; it never ends a run.

mod child; // one process that answers lines with lines
mod message; // what the lines say
mod source; // what can be named

pub use child::{Child, Lost, Said, end_all};
pub use source::{Source, unique_names};

use crate::base::{Error, Result};
use crate::reward::settings::ProcessSettings;
use crate::reward::{Aside, Progress, Reward, Sample};
use message::{Answer, Score};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Most time of loading a Python file: libraries of the field take their time.
const LOAD: Duration = Duration::from_secs(300);

/// A reward in processes of its own.
pub struct OwnReward {
    name: String,
    source: Source,
    settings: ProcessSettings,
    /// Processes that nobody uses; None is one that must be started.
    idle: Mutex<Vec<Option<Child>>>,
    returned: Condvar,
    said: Arc<Mutex<Said>>,
    requests: AtomicU64,
    timeouts: AtomicU64,
    restarts: AtomicU64,
    errors: AtomicU64,
}

/// Why samples have no score. Several samples may share one.
#[derive(Debug, Clone)]
struct Fault {
    kind: FaultKind,
    what: &'static str,
    place: Option<String>,
    found: String,
    hint: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FaultKind {
    /// The limit was over.
    Late,
    /// One of the samples was too much for it.
    Failed,
    /// It does not do what a reward does, whatever the sample.
    Wrong,
}

impl Fault {
    fn new(kind: FaultKind, what: &'static str, found: impl Into<String>) -> Fault {
        Fault { kind, what, place: None, found: found.into(), hint: None }
    }
    fn error(&self, name: &str) -> Error {
        let mut e = Error::data(format!("reward `{name}` {}", self.what)).found(&self.found);
        if let Some(place) = &self.place {
            e = e.at(place);
        }
        if let Some(hint) = &self.hint {
            e = e.hint(hint);
        }
        e
    }
}

/// A process in use; it goes back when this is dropped.
struct Lent<'a> {
    reward: &'a OwnReward,
    child: Option<Child>,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let child = self.child.take();
        lock(&self.reward.idle).push(child);
        self.reward.returned.notify_one();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl OwnReward {
    /// Starts its processes and waits until they are ready.
    ///
    /// # Errors
    /// A usage error if one cannot be started, or its function cannot be loaded.
    pub fn start(name: &str, source: Source, settings: &ProcessSettings) -> Result<OwnReward> {
        let reward = OwnReward {
            name: name.to_string(),
            source,
            settings: settings.clone(),
            idle: Mutex::default(),
            returned: Condvar::new(),
            said: Arc::default(),
            requests: AtomicU64::new(0),
            timeouts: AtomicU64::new(0),
            restarts: AtomicU64::new(0),
            errors: AtomicU64::new(0),
        };
        let started: Vec<Result<Child>> = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..settings.workers.max(1))
                .map(|_| scope.spawn(|| reward.start_child()))
                .collect();
            let joined = starts.into_iter().map(|t| t.join());
            joined.map(|r| r.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        for child in started {
            lock(&reward.idle).push(Some(child?));
        }
        Ok(reward)
    }

    /// Starts a process and hears whether it is ready.
    fn start_child(&self) -> Result<Child> {
        let mut child = Child::start(self.source.command(&self.settings), self.said.clone())
            .map_err(|e| self.source.not_started(&self.settings, &e))?;
        if !self.source.greets() {
            return Ok(child);
        }
        let refused = |what: &str, found: String| {
            Error::usage(what).key("reward_funcs").at(&self.name).found(found)
        };
        let line = child.hear(LOAD).map_err(|lost| match lost {
            Lost::Late => refused(
                "a reward was not loaded in time",
                self.with_last_words(format!("not ready after {} s", LOAD.as_secs())),
            ),
            Lost::Ended(how) => {
                refused("the process of a reward ended at its start", self.with_last_words(how))
            }
            Lost::Garbled(what) => refused("a reward does not start as it should", what.into()),
        })?;
        let said: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        if said["ready"] == true {
            return Ok(child);
        }
        let found = said["failed"].as_str().map_or_else(|| line.clone(), str::to_string);
        let mut e = refused("a reward cannot be loaded", found);
        if let Some(place) = said["where"].as_str() {
            e = e.at(place);
        }
        Err(match said["hint"].as_str() {
            Some(hint) => e.hint(hint),
            None => e,
        })
    }

    /// Adds the last lines of standard error.
    fn with_last_words(&self, text: String) -> String {
        match lock(&self.said).last() {
            Some(last) => format!("{text}; it said: {last}"),
            None => text,
        }
    }

    /// A process, as soon as one is free.
    fn lend(&self) -> Lent<'_> {
        let mut idle = lock(&self.idle);
        loop {
            if let Some(child) = idle.pop() {
                return Lent { reward: self, child };
            }
            idle = self.returned.wait(idle).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// One request and its answer. A process that does not answer as it should is ended.
    fn call(
        &self,
        place: &mut Option<Child>,
        samples: &[Sample<'_>],
        progress: Progress,
    ) -> std::result::Result<(Vec<Score>, Aside), Fault> {
        if place.is_none() {
            self.restarts.fetch_add(1, Ordering::Relaxed);
            let started = self.start_child().map_err(|e| {
                // Not a matter of these samples; the next call tries again.
                Fault::new(FaultKind::Wrong, "cannot be started again", e.one_line())
            })?;
            *place = Some(started);
        }
        let id = self.requests.fetch_add(1, Ordering::Relaxed);
        let limit = self.settings.time_limit.saturating_mul(samples.len() as u32);
        let line = message::request(id, samples, progress);
        let answer = match place.as_mut().map(|child| child.ask(line, limit)) {
            Some(Ok(line)) => message::answer(&line, id, samples.len()),
            Some(Err(lost)) => {
                place.take().into_iter().for_each(Child::kill);
                return Err(self.lost(lost));
            }
            None => Answer::Garbled("no process".into()),
        };
        match answer {
            Answer::Scores(scores, aside) => Ok((scores, aside)),
            Answer::Failed { error, place, hint } => {
                Err(Fault { place, hint, ..Fault::new(FaultKind::Failed, "failed", error) })
            }
            Answer::Wrong(found) => {
                let hint = Some("return a list with one number or None for each completion".into());
                let what = "does not return what a reward returns";
                Err(Fault { hint, ..Fault::new(FaultKind::Wrong, what, found) })
            }
            Answer::Garbled(found) => {
                place.take().into_iter().for_each(Child::kill);
                Err(Fault::new(FaultKind::Failed, "gave no answer that can be read", found))
            }
        }
    }

    fn lost(&self, lost: Lost) -> Fault {
        match lost {
            Lost::Late => {
                let limit = self.settings.time_limit.as_secs_f64();
                let found = format!("more than {limit} s for a completion");
                let hint = Some("raise --reward_timeout if this is what it takes".into());
                Fault { hint, ..Fault::new(FaultKind::Late, "took too long", found) }
            }
            Lost::Ended(how) => Fault::new(FaultKind::Failed, "ended", self.with_last_words(how)),
            Lost::Garbled(what) => {
                Fault::new(FaultKind::Failed, "gave no answer that can be read", what)
            }
        }
    }

    /// An error value, counted.
    fn missing(&self, fault: &Fault) -> Error {
        let count = match fault.kind {
            FaultKind::Late => &self.timeouts,
            _ => &self.errors,
        };
        count.fetch_add(1, Ordering::Relaxed);
        fault.error(&self.name)
    }

    /// Scores with errors of single samples counted.
    fn read(&self, scores: Vec<Score>) -> Vec<Result<Option<f64>>> {
        let one = |score: Score| {
            score.map_err(|found| {
                let fault = Fault::new(FaultKind::Failed, "gave a score that is no number", found);
                self.missing(&Fault {
                    hint: Some("a score is a finite number, or None where there is none".into()),
                    ..fault
                })
            })
        };
        scores.into_iter().map(one).collect()
    }
}

impl Reward for OwnReward {
    fn name(&self) -> &str {
        &self.name
    }

    fn score(&self, samples: &[Sample<'_>]) -> Vec<Result<Option<f64>>> {
        self.score_at(samples, Progress::default(), &mut Aside::default())
    }

    fn score_at(
        &self,
        samples: &[Sample<'_>],
        progress: Progress,
        aside: &mut Aside,
    ) -> Vec<Result<Option<f64>>> {
        if samples.is_empty() {
            return Vec::new();
        }
        let mut lent = self.lend();
        let fault = match self.call(&mut lent.child, samples, progress) {
            Ok((scores, said)) => {
                *aside = said;
                return self.read(scores);
            }
            Err(fault) => fault,
        };
        if samples.len() == 1 || fault.kind == FaultKind::Wrong {
            return samples.iter().map(|_| Err(self.missing(&fault))).collect();
        }
        // One by one, so that a sample costs nothing but itself.
        let mut out = Vec::with_capacity(samples.len());
        for (i, sample) in samples.iter().enumerate() {
            match self.call(&mut lent.child, std::slice::from_ref(sample), progress) {
                Ok((scores, said)) => {
                    aside.append(i, said, 1);
                    out.extend(self.read(scores));
                }
                // Nothing to ask: the others would wait for nothing, too.
                Err(fault) if lent.child.is_none() && fault.kind == FaultKind::Wrong => {
                    out.extend(samples[i..].iter().map(|_| Err(self.missing(&fault))));
                    break;
                }
                Err(fault) => {
                    aside.append(i, Aside::default(), 1);
                    out.push(Err(self.missing(&fault)));
                }
            }
        }
        aside.append(out.len(), Aside::default(), 0);
        out
    }

    fn figures(&self) -> Vec<(String, f64)> {
        let taken = |n: &AtomicU64| n.swap(0, Ordering::Relaxed) as f64;
        [("timeouts", &self.timeouts), ("restarts", &self.restarts), ("errors", &self.errors)]
            .map(|(name, n)| (name.to_string(), taken(n)))
            .into()
    }

    fn notices(&self) -> Vec<String> {
        lock(&self.said).take()
    }
}
