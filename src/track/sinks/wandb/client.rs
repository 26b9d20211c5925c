//! The client's process and the thread that speaks to it. Telling never waits: what the client cannot take
//! in time is counted and left out. Knows nothing of events.

use crate::base::{Error, Result};
use crate::reward::process::{Child, Lost, Said};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// The program; see the file.
const WORKER: &str = include_str!("worker.py");
/// Requests that may wait, and their bytes.
const WAITING: usize = 256;
const WAITING_BYTES: u64 = 256 << 20;
/// Errors that are told one by one; later ones are only counted.
const TOLD: u64 = 3;

/// Most time that the client gets.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// To be loaded.
    pub load: Duration,
    /// To begin a run: it may have to reach its server.
    pub begin: Duration,
    /// To take something.
    pub tell: Duration,
    /// To send what is left at the end.
    pub finish: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Limits { load: seconds(120), begin: seconds(300), tell: seconds(60), finish: seconds(300) }
    }
}

/// What the thread and its owner share.
#[derive(Default)]
struct Shared {
    lost: Arc<AtomicU64>,
    waiting: AtomicU64,
    dead: AtomicBool,
    notices: Mutex<Vec<String>>,
    said: Arc<Mutex<Said>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running client, or none.
pub(super) struct Client {
    shared: Arc<Shared>,
    limits: Limits,
    /// Before the run has begun.
    child: Option<Child>,
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

/// A request that waits.
struct Job {
    request: Value,
    bytes: u64,
    limit: Duration,
}

impl Client {
    /// Starts the process and waits until the client is loaded.
    pub(super) fn start(python: &Path, limits: Limits) -> Result<Client> {
        let shared = Arc::new(Shared::default());
        let mut command = Command::new(python);
        command.args(["-u", "-c", WORKER]);
        let refused = |what: &str| Error::usage(what).key("report_to").file(python);
        let other =
            "or name a Python that has it (--python PATH), or leave wandb out of --report_to";
        let mut child = Child::start(command, shared.said.clone()).map_err(|e| {
            refused("Python cannot be started, so the wandb client cannot be asked")
                .found(e.to_string())
                .hint(format!("install Python and `pip install wandb`, {other}"))
        })?;
        let line = child.hear(limits.load).map_err(|lost| {
            refused("the wandb client cannot be loaded")
                .found(shared.how(&lost))
                .hint(format!("try `{} -c 'import wandb'`, {other}", python.display()))
        })?;
        let told: Value = serde_json::from_str(&line).unwrap_or_default();
        if told["ready"].is_string() {
            return Ok(Client { shared, limits, child: Some(child), jobs: None, thread: None });
        }
        let found = |key: &str| told[key].as_str().map(str::to_string);
        Err(match found("missing") {
            Some(missing) => refused("the wandb client is not installed")
                .found(missing)
                .hint(format!("`{} -m pip install wandb`, {other}", python.display())),
            None => refused("the wandb client cannot be loaded")
                .found(found("failed").unwrap_or(line))
                .hint(format!("try `{} -c 'import wandb'`, {other}", python.display())),
        })
    }

    /// No client: nothing is told and nothing lost.
    pub(super) fn none(why: String) -> Client {
        let shared = Arc::new(Shared::default());
        shared.dead.store(true, Ordering::Relaxed);
        lock(&shared.notices).push(why);
        Client { shared, limits: Limits::default(), child: None, jobs: None, thread: None }
    }

    /// Begins the run; returns what the client says of it. From here on a thread speaks to it.
    pub(super) fn begin(&mut self, mut request: Value) -> Result<Value> {
        let Some(mut child) = self.child.take() else { return Ok(Value::Null) };
        request["op"] = "init".into();
        let failed = |found: String| {
            Error::usage("the wandb client does not begin a run").found(found).hint(
                "log in with `wandb login`, or keep the run on this machine with WANDB_MODE=offline",
            )
        };
        let answer = ask(&mut child, &request, 0, self.limits.begin)
            .map_err(|lost| failed(self.shared.how(&lost)))?;
        if let Some(error) = answer["error"].as_str() {
            return Err(failed(error.to_string()));
        }
        let (jobs, receive) = sync_channel(WAITING);
        let shared = self.shared.clone();
        let thread = std::thread::Builder::new()
            .name("wandb".into())
            .spawn(move || serve(child, &receive, &shared))
            .map_err(|e| Error::device("cannot start a thread").found(e.to_string()))?;
        (self.jobs, self.thread) = (Some(jobs), Some(thread));
        let mut known = answer;
        if let Some(object) = known.as_object_mut() {
            object.shift_remove("id_of_request");
        }
        Ok(known)
    }

    /// Tells the client something, if it can take it.
    pub(super) fn tell(&mut self, request: Value) {
        let limit = self.limits.tell;
        self.send(request, limit);
    }

    fn send(&mut self, request: Value, limit: Duration) {
        let Some(jobs) = &self.jobs else { return };
        let bytes = request.to_string().len() as u64;
        let room = self.shared.waiting.load(Ordering::Relaxed) + bytes <= WAITING_BYTES;
        let dead = self.shared.dead.load(Ordering::Relaxed);
        self.shared.waiting.fetch_add(bytes, Ordering::Relaxed);
        if dead || !room || jobs.try_send(Job { request, bytes, limit }).is_err() {
            self.shared.waiting.fetch_sub(bytes, Ordering::Relaxed);
            if self.shared.lost.fetch_add(1, Ordering::Relaxed) == 0 && !dead {
                self.notice("warning: wandb is too slow; some of the run is not sent".into());
            }
        }
    }

    /// Ends the run and waits for it within its limit. A second call does nothing.
    pub(super) fn finish(&mut self, exit_code: i32) {
        let Some(jobs) = self.jobs.take() else { return };
        let request = json!({"op": "finish", "exit_code": exit_code});
        // Waits only while the thread works off what is before it, each within its limit.
        let _ = jobs.send(Job { request, bytes: 0, limit: self.limits.finish });
        drop(jobs);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }

    /// Something that the person who watches should see.
    pub(super) fn notice(&self, line: String) {
        lock(&self.shared.notices).push(line);
    }

    /// What there is to be seen since the last call.
    pub(super) fn notices(&self) -> Vec<String> {
        let mut lines = std::mem::take(&mut *lock(&self.shared.notices));
        lines.extend(lock(&self.shared.said).take());
        lines
    }

    pub(super) fn lost(&self) -> Arc<AtomicU64> {
        self.shared.lost.clone()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Reached without a `finish` only if the run has failed.
        self.limits.finish = self.limits.finish.min(Duration::from_secs(30));
        self.finish(1);
    }
}

impl Shared {
    /// Why there is no answer, in words.
    fn how(&self, lost: &Lost) -> String {
        let how = match lost {
            Lost::Late => "no answer in time".to_string(),
            Lost::Ended(how) => format!("the client ended: {how}"),
            Lost::Garbled(what) => format!("it answered {what}"),
        };
        match lock(&self.said).last() {
            Some(last) => format!("{how}; it said: {last}"),
            None => how,
        }
    }
}

/// A request and its answer.
fn ask(
    child: &mut Child,
    request: &Value,
    id: u64,
    limit: Duration,
) -> std::result::Result<Value, Lost> {
    let mut request = request.clone();
    request["id_of_request"] = id.into();
    let line = child.ask(request.to_string(), limit)?;
    let answer: Value =
        serde_json::from_str(&line).map_err(|_| Lost::Garbled("a line that is not JSON"))?;
    match answer["id_of_request"].as_u64() == Some(id) {
        true => Ok(answer),
        false => Err(Lost::Garbled("another request")),
    }
}

/// The thread: tells the client one thing after the other, until it is lost or the run ends.
fn serve(child: Child, jobs: &Receiver<Job>, shared: &Shared) {
    let mut child = Some(child);
    let mut errors = 0;
    for (id, job) in (1..).zip(jobs) {
        let counted = job.request["op"] != "finish";
        let answer = child.as_mut().map(|c| ask(c, &job.request, id, job.limit));
        shared.waiting.fetch_sub(job.bytes, Ordering::Relaxed);
        let notice = |line: String| lock(&shared.notices).push(line);
        let failed = match answer {
            None => true,
            Some(Ok(answer)) => {
                if let Some(warning) = answer["warning"].as_str().filter(|_| errors < TOLD) {
                    errors += 1;
                    notice(format!("warning: wandb: {warning}"));
                }
                let error = answer["error"].as_str();
                if let Some(error) = error {
                    errors += 1;
                    if errors <= TOLD {
                        notice(format!(
                            "warning: wandb did not take `{}`: {error}",
                            job.request["op"]
                        ));
                    }
                }
                error.is_some()
            }
            Some(Err(lost)) => {
                shared.dead.store(true, Ordering::Relaxed);
                let how = shared.how(&lost);
                notice(format!("warning: wandb is lost, the run goes on without it: {how}"));
                child.take().into_iter().for_each(Child::kill);
                true
            }
        };
        if failed && counted {
            shared.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}
