//! One process that answers lines with lines: started in a group of its own, written to and read from on
//! threads of its own, so that no process can keep a caller longer than the caller allows. Knows nothing
//! of rewards; trackers speak to their clients through it, too.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child as Process, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Longest answer that is read.
const LONGEST: u64 = 64 << 20;
/// How often a silent process is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// What a process gets to end by itself once its requests have ended.
const GRACE: Duration = Duration::from_millis(500);
/// Lines of standard error that an error may show, and those that are handed on at a time.
const TAIL: usize = 8;
const HANDED_ON: usize = 20;
/// Most bytes of such a line.
const LINE: usize = 400;

/// Groups of processes that are running: what ends the program at once ends them too.
static RUNNING: Mutex<Vec<u32>> = Mutex::new(Vec::new());

/// Ends every process that was started here, at once.
pub fn end_all() {
    let groups = std::mem::take(&mut *RUNNING.lock().unwrap_or_else(PoisonError::into_inner));
    groups.into_iter().for_each(kill_group);
}

/// Ends all processes of a group. The shell's own `kill` reaches a group without a call into the system's
/// library; where there is none, the process itself is ended by its handle afterwards.
fn kill_group(group: u32) {
    let kill = format!("kill -9 -{group}");
    let mut shell = Command::new("sh");
    shell.args(["-c", &kill]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // Fails if the group has ended already.
    let _ = shell.status();
}

/// What processes have written to standard error.
#[derive(Debug, Default)]
pub struct Said {
    tail: VecDeque<String>,
    lines: Vec<String>,
    left_out: usize,
}

impl Said {
    fn add(&mut self, line: String) {
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(line.clone());
        match self.lines.len() < HANDED_ON {
            true => self.lines.push(line),
            false => self.left_out += 1,
        }
    }
    /// Lines since the last call; of many the first.
    pub fn take(&mut self) -> Vec<String> {
        let mut lines = std::mem::take(&mut self.lines);
        if self.left_out > 0 {
            lines.push(format!("({} more lines)", std::mem::take(&mut self.left_out)));
        }
        lines
    }
    /// The last lines.
    pub fn last(&self) -> Option<String> {
        let lines: Vec<&str> = self.tail.iter().map(String::as_str).collect();
        (!lines.is_empty()).then(|| lines.join("\n"))
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Lost {
    /// The limit was over.
    Late,
    /// The process is gone; how it ended.
    Ended(String),
    /// What came is no line of text.
    Garbled(&'static str),
}

enum Heard {
    Line(String),
    Garbled(&'static str),
}

/// A running process.
pub struct Child {
    process: Process,
    group: u32,
    requests: Option<Sender<String>>,
    answers: Receiver<Heard>,
}

impl Child {
    /// Starts the program; its standard error goes to `said`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(mut command: Command, said: Arc<Mutex<Said>>) -> std::io::Result<Child> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own: Ctrl-C of a terminal asks the run to stop, not the reward.
        let mut process = command.process_group(0).spawn()?;
        let group = process.id();
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).push(group);
        let (stdin, stdout, stderr) =
            (process.stdin.take(), process.stdout.take(), process.stderr.take());
        let (requests, to_write) = channel();
        let (heard, answers) = sync_channel(16);
        let child = Child { process, group, requests: Some(requests), answers };
        let thread = || std::thread::Builder::new().name("lines".into());
        if let (Some(stdin), Some(stdout), Some(stderr)) = (stdin, stdout, stderr) {
            thread().spawn(move || write_lines(stdin, &to_write))?;
            thread().spawn(move || read_lines(stdout, &heard))?;
            thread().spawn(move || keep_lines(stderr, &said))?;
        }
        Ok(child)
    }

    /// Sends a line and waits for one.
    ///
    /// # Errors
    /// If there is none within the limit.
    pub fn ask(&mut self, line: String, limit: Duration) -> Result<String, Lost> {
        let sent = self.requests.as_ref().is_some_and(|r| r.send(line).is_ok());
        if !sent {
            return Err(Lost::Ended(self.status()));
        }
        self.hear(limit)
    }

    /// Waits for a line.
    ///
    /// # Errors
    /// If there is none within the limit.
    pub fn hear(&mut self, limit: Duration) -> Result<String, Lost> {
        let start = Instant::now();
        let mut gone = false;
        loop {
            let left = limit.saturating_sub(start.elapsed());
            match self.answers.recv_timeout(left.min(LOOK)) {
                Ok(Heard::Line(line)) => return Ok(line),
                Ok(Heard::Garbled(what)) => return Err(Lost::Garbled(what)),
                Err(RecvTimeoutError::Disconnected) => return Err(Lost::Ended(self.status())),
                // Its children may hold the pipe open, so that no end comes.
                Err(RecvTimeoutError::Timeout) if gone => return Err(Lost::Ended(self.status())),
                Err(RecvTimeoutError::Timeout) if left.is_zero() => return Err(Lost::Late),
                Err(RecvTimeoutError::Timeout) => {
                    gone = matches!(self.process.try_wait(), Ok(Some(_)));
                }
            }
        }
    }

    /// How the process ended; ends it if it only closed its output.
    fn status(&mut self) -> String {
        let start = Instant::now();
        while start.elapsed() < GRACE {
            match self.process.try_wait() {
                Ok(Some(status)) => return status.to_string(),
                Ok(None) => std::thread::sleep(Duration::from_millis(5)),
                Err(e) => return e.to_string(),
            }
        }
        "it closed its standard output".into()
    }

    /// Ends the process and everything that it has started.
    pub fn kill(mut self) {
        self.requests = None;
        self.end();
    }

    fn end(&mut self) {
        // The number is nobody else's as long as the group has members or its leader is not waited for.
        kill_group(self.group);
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).retain(|g| *g != self.group);
        // Fails if it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.requests.take().is_some() {
            // The end of its requests asks it to end; what it still says is nobody's.
            let start = Instant::now();
            let left = || GRACE.saturating_sub(start.elapsed());
            while self.answers.recv_timeout(left()).is_ok() {}
            self.end();
        }
    }
}

fn write_lines(mut stdin: ChildStdin, lines: &Receiver<String>) {
    for line in lines {
        let written = stdin.write_all(line.as_bytes()).and_then(|()| stdin.write_all(b"\n"));
        // A process that has ended is noticed by who waits for its answer.
        if written.and_then(|()| stdin.flush()).is_err() {
            return;
        }
    }
}

fn read_lines(stdout: ChildStdout, heard: &SyncSender<Heard>) {
    let mut stdout = BufReader::new(stdout);
    loop {
        let mut line = Vec::new();
        let read = stdout.by_ref().take(LONGEST).read_until(b'\n', &mut line);
        if !read.is_ok_and(|n| n > 0) {
            return;
        }
        let whole = line.pop() == Some(b'\n');
        if !whole && (line.len() as u64) + 1 < LONGEST {
            return; // it ended in the middle of a line
        }
        let line = match whole {
            true => String::from_utf8(line).map(Heard::Line),
            false => Ok(Heard::Garbled("a line of more than 64 MiB")),
        };
        let line = line.unwrap_or(Heard::Garbled("a line that is not UTF-8"));
        if heard.send(line).is_err() || !whole {
            return;
        }
    }
}

/// Keeps lines of standard error, cut where they are long.
fn keep_lines(stderr: ChildStderr, said: &Mutex<Said>) {
    let mut stderr = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        let read = stderr.by_ref().take(LINE as u64).read_until(b'\n', &mut line);
        if !read.is_ok_and(|n| n > 0) {
            return;
        }
        let text = String::from_utf8_lossy(&line).trim_end().to_string();
        if !text.is_empty() {
            said.lock().unwrap_or_else(PoisonError::into_inner).add(text);
        }
        line.clear();
    }
}
