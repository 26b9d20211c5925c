//! `run.json`, what a run says about itself, and `run.lock`, which its process holds while it lives. A
//! lock ends with its process, so whoever reads both knows whether the run is still going: nothing here
//! trusts a written "running" alone.

mod place; // whose lock counts: file system, process

use crate::base::{Error, ErrorKind, Result, utc};
use crate::io::atomic::write_atomic;
use crate::io::tfevents::host_name;
use crate::options::{OPTIONS, Options};
use crate::track::{Event, Sink};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What a run says about itself.
pub const RUN_FILE: &str = "run.json";
/// Locked by the process of the run.
pub const LOCK_FILE: &str = "run.lock";
/// What the console said.
pub const LOG_FILE: &str = "run.log";

/// Least time between two writings of `run.json` while a run goes.
const PAUSE: Duration = Duration::from_secs(2);

/// How far a run says that it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// It goes, or its process ended without a word.
    #[default]
    Running,
    /// The last step is done and the model is written.
    Done,
    /// It ended with an error.
    Failed,
    /// It was asked to stop and has saved.
    Stopped,
}

/// The content of `run.json`. Moments are RFC 3339 in UTC.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunFile {
    /// `--run_id`, or the name of the folder.
    pub run_id: String,
    /// `--run_name`.
    pub run_name: Option<String>,
    /// How far it is.
    pub state: Stage,
    /// The process.
    pub pid: u32,
    /// Its machine.
    pub host: String,
    /// Start of the first session.
    pub started: String,
    /// Start of this session: a resumed run has several.
    pub session_started: String,
    /// Last sign of life.
    pub updated: String,
    /// End of the last session.
    pub finished: Option<String>,
    /// Seconds of the sessions before this one.
    pub seconds_before: u64,
    /// Optimizer steps done.
    pub step: u64,
    /// Optimizer steps of the whole run.
    pub max_steps: u64,
    /// The folder that relative paths start from.
    pub folder: String,
    /// The command line.
    pub command: Vec<String>,
    /// Why it failed, in one line.
    pub error: Option<String>,
}

impl RunFile {
    /// Reads the file of a run's folder; `None` if there is none.
    ///
    /// # Errors
    /// If it cannot be read, or is not what a run writes.
    pub fn read(dir: &Path) -> Result<Option<RunFile>> {
        let path = dir.join(RUN_FILE);
        let text = match std::fs::read(&path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io("cannot read the run's file", &path, &e)),
        };
        serde_json::from_str(&text).map(Some).map_err(|e| {
            Error::data("the run's file is damaged")
                .file(&path)
                .found(e.to_string())
                .hint("remove it: the run is then listed by its other files")
        })
    }

    fn write(&self, dir: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).expect("a run's file prints");
        write_atomic(dir.join(RUN_FILE), text.as_bytes())
    }

    /// Seconds of all sessions: of the present one up to `now` (seconds since 1970).
    pub fn seconds(&self, now: u64) -> u64 {
        let end = self.finished.as_deref().and_then(utc::seconds).unwrap_or(now);
        let begin = utc::seconds(&self.session_started).unwrap_or(end);
        self.seconds_before + end.saturating_sub(begin)
    }
}

/// Seconds since 1970 of this moment; 0 if the clock stands before.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// Whether the process of a run is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// It holds the lock.
    Alive,
    /// Nobody holds the lock.
    Gone,
    /// The run is of another machine, and this file system does not carry its lock to here.
    Elsewhere,
}

/// Whether the process that wrote `file` still holds the lock of the run's folder. Disturbs no run.
pub fn life(dir: &Path, file: &RunFile) -> Life {
    let path = dir.join(LOCK_FILE);
    let here = file.host == host_name();
    let Ok(lock) = File::open(&path) else { return Life::Gone };
    // Shared: readers do not keep each other from looking.
    match lock.try_lock_shared() {
        Err(TryLockError::WouldBlock) => Life::Alive,
        Ok(()) if here || place::carries_locks(dir) => Life::Gone,
        Err(TryLockError::Error(_)) if here && place::is_alive(file.pid) => Life::Alive,
        Err(TryLockError::Error(_)) if here => Life::Gone,
        _ => Life::Elsewhere,
    }
}

/// A session of a run, as its files tell it.
#[derive(Debug, Default)]
pub struct Session {
    held: Option<(PathBuf, File)>,
    /// Folders that were made for it, innermost first.
    made: Vec<PathBuf>,
}

impl Session {
    /// Takes the run's folder for this process; makes it if it is not there.
    ///
    /// # Errors
    /// If another process has it, or folder or lock cannot be made.
    pub fn claim(&mut self, dir: &Path) -> Result<()> {
        let absent = |p: &&Path| !p.as_os_str().is_empty() && !p.exists();
        self.made = dir.ancestors().take_while(absent).map(Path::to_path_buf).collect();
        std::fs::create_dir_all(dir).map_err(|e| {
            Error::io("cannot create the run's folder", dir, &e)
                .key("output_dir")
                .hint("give an --output_dir that can be written")
        })?;
        let path = dir.join(LOCK_FILE);
        let file =
            OpenOptions::new().create(true).truncate(false).write(true).read(true).open(&path);
        let file = file.map_err(|e| {
            Error::io("cannot make the lock of the run's folder", &path, &e)
                .hint("give an --output_dir that can be written")
        })?;
        for _ in 0..20 {
            match file.try_lock() {
                Ok(()) => break,
                // Somebody who lists runs holds it for a moment.
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(50)),
                // A file system without locks: the run goes on, and is told by its signs of life.
                Err(TryLockError::Error(_)) => break,
            }
        }
        if matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
            return Err(taken(dir));
        }
        self.held = Some((dir.to_path_buf(), file));
        Ok(())
    }

    /// Writes how the session ended, if it had begun.
    fn end(&self, ended: &Result<PathBuf>) {
        match ended {
            Ok(_) => self.close(Stage::Done, None),
            Err(e) if e.kind() == ErrorKind::Interrupted => self.close(Stage::Stopped, None),
            Err(e) => self.close(Stage::Failed, Some(e)),
        }
        self.leave();
    }

    /// Removes a folder that was made for a run which never began.
    fn leave(&self) {
        let Some((dir, _)) = &self.held else { return };
        let began = dir.join(RUN_FILE).exists() || self.made.is_empty();
        if !began {
            let _ = std::fs::remove_file(dir.join(LOCK_FILE));
            // Only empty folders go by this.
            let _ = self.made.iter().try_for_each(std::fs::remove_dir);
        }
    }

    /// What cannot be written here is left: the run's own end is what its user must hear of.
    fn close(&self, state: Stage, error: Option<&Error>) {
        let Some((dir, _)) = &self.held else { return };
        let Ok(Some(mut file)) = RunFile::read(dir) else { return };
        let ours = file.pid == std::process::id() && file.host == host_name();
        if !ours || file.state != Stage::Running {
            return;
        }
        let now = utc::text(now());
        let said = match error {
            Some(e) => format!("--- {now} failed: {e}\n"),
            None => {
                format!("--- {now} {}\n", if state == Stage::Done { "done" } else { "stopped" })
            }
        };
        (file.state, file.updated, file.finished) = (state, now.clone(), Some(now));
        file.error = error.map(Error::one_line);
        let _ = file.write(dir);
        note(dir, &said);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let panic = Error::internal("the run ended with a panic");
            self.close(Stage::Failed, Some(&panic));
        }
    }
}

/// Runs a session; its end is written whatever it is.
///
/// # Errors
/// Those of `session`.
pub fn recorded(session: impl FnOnce(&mut Session) -> Result<PathBuf>) -> Result<PathBuf> {
    let mut life = Session::default();
    let ended = session(&mut life);
    life.end(&ended);
    ended
}

/// Adds a line about a session to the log; a log that cannot be written ends no run.
fn note(dir: &Path, line: &str) {
    let log = OpenOptions::new().append(true).create(true).open(dir.join(LOG_FILE));
    let _ = log.and_then(|mut log| log.write_all(line.as_bytes()));
}

fn taken(dir: &Path) -> Error {
    let error = Error::usage("another process is writing to the run's folder")
        .file(dir)
        .key("output_dir")
        .hint("wait for it, stop it, or name another folder with --output_dir or --run_id");
    match RunFile::read(dir) {
        Ok(Some(f)) => {
            error.found(format!("process {} on {}, since {}", f.pid, f.host, f.session_started))
        }
        _ => error,
    }
}

/// Keeps step and sign of life of `run.json` while rows come.
pub struct RunFileSink {
    dir: PathBuf,
    file: RunFile,
    written: Instant,
}

impl RunFileSink {
    /// Writes the file of a session that begins, or goes on from step `resumed`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn begin(
        options: &Options,
        dir: &Path,
        max_steps: usize,
        resumed: Option<usize>,
    ) -> Result<Self> {
        let now = now();
        let before = resumed.and_then(|_| RunFile::read(dir).ok().flatten());
        let told = |name: &str| {
            let known = OPTIONS.iter().any(|o| o.name == name);
            known.then(|| options.text(name)).flatten().map(str::to_string)
        };
        let full = std::path::absolute(dir).unwrap_or_else(|_| dir.to_path_buf());
        let named = || full.file_name().map(|n| n.to_string_lossy().into_owned());
        let end_of_session = |f: &RunFile| utc::seconds(&f.updated).unwrap_or(now);
        let file = RunFile {
            run_id: told("run_id").or_else(named).unwrap_or_else(|| "run".into()),
            run_name: told("run_name"),
            state: Stage::Running,
            pid: std::process::id(),
            host: host_name(),
            started: before.as_ref().map_or_else(|| utc::text(now), |b| b.started.clone()),
            session_started: utc::text(now),
            updated: utc::text(now),
            finished: None,
            seconds_before: before.as_ref().map_or(0, |b| b.seconds(end_of_session(b))),
            step: resumed.unwrap_or(0) as u64,
            max_steps: max_steps as u64,
            folder: std::env::current_dir().map_or(String::new(), |d| d.display().to_string()),
            command: std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect(),
            error: None,
        };
        file.write(dir)?;
        note(dir, &format!("--- {} started: {}\n", file.session_started, file.command.join(" ")));
        Ok(RunFileSink { dir: dir.to_path_buf(), file, written: Instant::now() })
    }

    fn write(&mut self) -> Result<()> {
        self.file.updated = utc::text(now());
        self.written = Instant::now();
        self.file.write(&self.dir)
    }
}

impl Sink for RunFileSink {
    fn take(&mut self, event: &Event) -> Result<()> {
        let Event::Row(row) = event else { return Ok(()) };
        self.file.step = self.file.step.max(row.step);
        // A step may take milliseconds, and every writing is synced to the disk.
        if self.written.elapsed() >= PAUSE || row.step == self.file.max_steps {
            self.write()?;
        }
        Ok(())
    }
    fn close(&mut self) -> Result<()> {
        self.write()
    }
}

#[cfg(test)]
mod tests;
