//! The thread that writes what a run has to tell: metrics, completions, samples for the report, lines
//! for the person who watches. It writes in the order it is told and computes nothing; training waits
//! for it only in [`Writer::flush`], or when it is hundreds of entries behind.

use crate::base::{Error, Result};
use crate::track::{Event, Sink, Sinks};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Events that may wait.
const WAITING: usize = 256;

enum Message {
    Write(Event),
    /// Answered when everything before it is written.
    Flush(Sender<()>),
}

type Failure = Arc<Mutex<Option<Error>>>;

/// Hands events to the thread. What was handed over is written even if the writer is dropped.
pub struct Writer {
    send: Option<SyncSender<Message>>,
    thread: Option<JoinHandle<Sinks>>,
    failure: Failure,
}

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system has no thread left.
    pub fn start(sinks: Sinks) -> Result<Self> {
        let (send, receive) = sync_channel(WAITING);
        let failure = Failure::default();
        let place = failure.clone();
        let thread = std::thread::Builder::new()
            .name("writer".into())
            .spawn(move || serve(sinks, &receive, &place))
            .map_err(|e| Error::device("cannot start a thread").found(e.to_string()))?;
        Ok(Writer { send: Some(send), thread: Some(thread), failure })
    }

    /// Hands an event over.
    ///
    /// # Errors
    /// If an earlier one could not be written; nothing is written after a failure.
    pub fn write(&self, event: Event) -> Result<()> {
        self.failed()?;
        self.send(Message::Write(event))
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
    pub fn finish(mut self) -> Result<Sinks> {
        self.send = None;
        let sinks = match self.thread.take().map(JoinHandle::join) {
            Some(Ok(sinks)) => sinks,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => return Err(gone()),
        };
        self.failed()?;
        Ok(sinks)
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
fn serve(mut sinks: Sinks, receive: &Receiver<Message>, failure: &Failure) -> Sinks {
    let mut broken = false;
    for message in receive {
        match message {
            Message::Write(event) if !broken => {
                if let Err(e) = sinks.take(&event) {
                    *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(e);
                    broken = true;
                }
            }
            Message::Write(_) => {}
            // Nobody waits any more if it fails.
            Message::Flush(done) => drop(done.send(())),
        }
    }
    sinks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::track::MetricRow;

    /// Keeps the steps it is told, and fails on step 3.
    struct Kept(Arc<Mutex<Vec<u64>>>);

    impl Sink for Kept {
        fn take(&mut self, event: &Event) -> Result<()> {
            let Event::Row(row) = event else { return Ok(()) };
            self.0.lock().unwrap().push(row.step);
            if row.step == 3 { Err(Error::data("the disk is full")) } else { Ok(()) }
        }
        fn close(&mut self) -> Result<()> {
            Ok(())
        }
    }

    fn writer() -> (Writer, Arc<Mutex<Vec<u64>>>) {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let sinks = Sinks(vec![Box::new(Kept(kept.clone()))]);
        (Writer::start(sinks).unwrap(), kept)
    }

    fn row(step: u64) -> Event {
        Event::Row(MetricRow::new(step, 0.0))
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
