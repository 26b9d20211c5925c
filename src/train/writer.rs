//! The thread that writes what a run has to tell: metrics, completions, samples for the report, lines
//! for the person who watches. It writes in the order it is told and computes nothing; training waits
//! for it only in [`Writer::flush`], or when it is hundreds of entries behind.

use crate::base::{Error, Result};
use crate::io::completions::{self, CompletionRecord};
use crate::io::dataset::ImageRef;
use crate::io::image::{self, Alpha};
use crate::train::report::{SampleGroup, SampleLog};
use crate::train::sinks::{ConsoleSink, MetricRow, Sink, Sinks};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Entries that may wait.
const WAITING: usize = 256;

/// Something to write.
#[derive(Debug)]
pub enum Entry {
    /// A line for the person who watches.
    Line(String),
    /// A row of metrics.
    Row(MetricRow),
    /// A group for the report, and its images.
    Sample(SampleGroup, Vec<ImageRef>),
    /// A parquet file of completions.
    Completions {
        /// The file.
        path: PathBuf,
        /// Names of the rewards.
        rewards: Vec<String>,
        /// One per completion.
        records: Vec<CompletionRecord>,
    },
}

/// Where entries go.
pub struct Targets {
    /// Metrics.
    pub sinks: Sinks,
    /// Metrics and lines.
    pub console: ConsoleSink,
    /// Samples.
    pub samples: SampleLog,
}

impl Targets {
    fn write(&mut self, entry: Entry) -> Result<()> {
        match entry {
            Entry::Line(text) => self.console.message(&text),
            Entry::Row(row) => {
                self.sinks.log(&row)?;
                self.console.log(&row)
            }
            Entry::Sample(mut group, images) => {
                let png = |i: &ImageRef| image::encode_png(&i.open(Alpha::Drop)?);
                group.images_png = images.iter().map(png).collect::<Result<_>>()?;
                self.samples.append(&group)
            }
            Entry::Completions { path, rewards, records } => {
                completions::write(path, &rewards, &records)
            }
        }
    }
}

enum Message {
    Write(Entry),
    /// Answered when everything before it is written.
    Flush(Sender<()>),
}

type Failure = Arc<Mutex<Option<Error>>>;

/// Hands entries to the thread. What was handed over is written even if the writer is dropped.
pub struct Writer {
    send: Option<SyncSender<Message>>,
    thread: Option<JoinHandle<Targets>>,
    failure: Failure,
}

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system has no thread left.
    pub fn start(targets: Targets) -> Result<Self> {
        let (send, receive) = sync_channel(WAITING);
        let failure = Failure::default();
        let place = failure.clone();
        let thread = std::thread::Builder::new()
            .name("writer".into())
            .spawn(move || serve(targets, &receive, &place))
            .map_err(|e| Error::device("cannot start a thread").found(e.to_string()))?;
        Ok(Writer { send: Some(send), thread: Some(thread), failure })
    }

    /// Hands an entry over.
    ///
    /// # Errors
    /// If an earlier one could not be written; nothing is written after a failure.
    pub fn write(&self, entry: Entry) -> Result<()> {
        self.failed()?;
        self.send(Message::Write(entry))
    }

    /// Returns when everything handed over is written.
    ///
    /// # Errors
    /// If something could not be written.
    pub fn flush(&self) -> Result<()> {
        let (done, wait) = channel();
        self.send(Message::Flush(done))?;
        wait.recv().map_err(|_| gone())?;
        self.failed()
    }

    /// Writes what is left and ends the thread.
    ///
    /// # Errors
    /// If something could not be written.
    pub fn finish(mut self) -> Result<Targets> {
        self.send = None;
        let targets = match self.thread.take().map(JoinHandle::join) {
            Some(Ok(targets)) => targets,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => return Err(gone()),
        };
        self.failed()?;
        Ok(targets)
    }

    fn send(&self, message: Message) -> Result<()> {
        let send = self.send.as_ref().ok_or_else(gone)?;
        send.send(message).map_err(|_| gone())
    }

    fn failed(&self) -> Result<()> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.send = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has printed itself; here another error is on its way already.
            let _ = thread.join();
        }
    }
}

fn gone() -> Error {
    Error::internal("the thread that writes the run's files has ended too early")
}

/// The thread: writes until nobody can send, or until something fails.
fn serve(mut targets: Targets, receive: &Receiver<Message>, failure: &Failure) -> Targets {
    let mut broken = false;
    for message in receive {
        match message {
            Message::Write(entry) if !broken => {
                if let Err(e) = targets.write(entry) {
                    *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(e);
                    broken = true;
                }
            }
            Message::Write(_) => {}
            // Nobody waits any more if it fails.
            Message::Flush(done) => drop(done.send(())),
        }
    }
    targets
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::sinks::ConsoleOptions;

    /// Keeps the steps it is told, and fails on step 3.
    struct Kept(Arc<Mutex<Vec<u64>>>);

    impl Sink for Kept {
        fn log(&mut self, row: &MetricRow) -> Result<()> {
            self.0.lock().unwrap().push(row.step);
            if row.step == 3 { Err(Error::data("the disk is full")) } else { Ok(()) }
        }
        fn close(&mut self) -> Result<()> {
            Ok(())
        }
    }

    fn writer() -> (Writer, Arc<Mutex<Vec<u64>>>) {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let targets = Targets {
            sinks: Sinks(vec![Box::new(Kept(kept.clone()))]),
            console: ConsoleSink::new(ConsoleOptions::detect(9, true)),
            samples: SampleLog::new("never written"),
        };
        (Writer::start(targets).unwrap(), kept)
    }

    fn row(step: u64) -> Entry {
        Entry::Row(MetricRow::new(step, 0.0))
    }

    #[test]
    fn a_flush_and_a_drop_see_everything_in_order() {
        let (w, kept) = writer();
        (1..3).for_each(|s| w.write(row(s)).unwrap());
        w.flush().unwrap();
        assert_eq!(*kept.lock().unwrap(), [1, 2]);
        w.write(row(4)).unwrap();
        drop(w);
        assert_eq!(*kept.lock().unwrap(), [1, 2, 4]);
    }

    #[test]
    fn a_failure_is_told_once_and_ends_the_writing() {
        let (w, kept) = writer();
        w.write(row(3)).unwrap();
        assert!(w.flush().unwrap_err().one_line().contains("the disk is full"));
        w.write(row(4)).unwrap();
        assert!(w.finish().is_ok());
        assert_eq!(*kept.lock().unwrap(), [3]);
    }

    #[test]
    fn a_failure_that_nobody_asked_for_is_told_at_the_end() {
        let (w, _) = writer();
        w.write(row(3)).unwrap();
        let end = w.finish().err().expect("the failure");
        assert!(end.one_line().contains("the disk is full"));
    }
}
