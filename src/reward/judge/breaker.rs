//! What keeps a judge that is down from costing every question its time limit: after some questions in a
//! row without an answer, one at a time is tried, and seldom; the others are refused at once until it is
//! answered. Asks nothing.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Questions in a row without an answer that open the breaker.
const MISSES: u32 = 3;
/// Times that the pause before a probe is doubled.
const DOUBLINGS: u32 = 5;

#[derive(Debug, Default)]
struct State {
    misses: u32,
    /// When the next probe is due, if the breaker is open.
    open: Option<Instant>,
    /// Probes in a row without an answer.
    probes: u32,
    probing: bool,
}

/// See the file.
#[derive(Debug)]
pub(super) struct Breaker {
    state: Mutex<State>,
    changed: Condvar,
    /// From the opening to the first probe.
    pause: Duration,
}

/// Whether a question may be asked.
pub(super) enum Admission<'a> {
    Ask(Turn<'a>),
    Refused,
}

/// A question that may be asked; one that is dropped without a word was not answered.
pub(super) struct Turn<'a> {
    breaker: &'a Breaker,
    probe: bool,
    settled: bool,
}

impl Breaker {
    pub(super) fn new(pause: Duration) -> Breaker {
        Breaker { state: Mutex::default(), changed: Condvar::new(), pause }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks, refuses, or waits for what a probe comes to.
    pub(super) fn admit(&self) -> Admission<'_> {
        let mut state = self.lock();
        while state.probing {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let probe = match state.open {
            None => false,
            Some(due) if Instant::now() < due => return Admission::Refused,
            Some(_) => true,
        };
        state.probing = probe;
        Admission::Ask(Turn { breaker: self, probe, settled: false })
    }

    /// Takes the end of a question; true if it changed whether questions are asked.
    fn settle(&self, probe: bool, answered: bool) -> bool {
        let mut state = self.lock();
        let was_open = state.open.is_some();
        if answered {
            *state = State { probing: state.probing, ..State::default() };
        } else {
            state.misses += 1;
            if probe {
                state.probes = (state.probes + 1).min(DOUBLINGS);
            }
            if probe || (state.misses >= MISSES && !was_open) {
                state.open = Some(Instant::now() + self.pause * (1 << state.probes));
            }
        }
        if probe {
            state.probing = false;
            self.changed.notify_all();
        }
        was_open != state.open.is_some()
    }
}

impl Turn<'_> {
    pub(super) fn is_probe(&self) -> bool {
        self.probe
    }
    /// The judge answered; true if it did not before.
    pub(super) fn answered(&mut self) -> bool {
        self.settled = true;
        self.breaker.settle(self.probe, true)
    }
    /// The judge did not answer; true if it is left alone from now on.
    pub(super) fn missed(&mut self) -> bool {
        self.settled = true;
        self.breaker.settle(self.probe, false)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if !self.settled {
            self.breaker.settle(self.probe, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(b: &Breaker) -> Option<Turn<'_>> {
        match b.admit() {
            Admission::Ask(turn) => Some(turn),
            Admission::Refused => None,
        }
    }

    #[test]
    fn some_misses_in_a_row_open_it_and_an_answered_probe_closes_it() {
        let b = Breaker::new(Duration::from_millis(1));
        assert!(!turn(&b).unwrap().missed());
        assert!(!turn(&b).unwrap().missed());
        assert!(!turn(&b).unwrap().answered(), "an answer between them begins the row anew");
        let missed: Vec<bool> = (0..3).map(|_| turn(&b).unwrap().missed()).collect();
        assert_eq!(missed, [false, false, true]);
        std::thread::sleep(Duration::from_millis(5));
        let mut probe = turn(&b).unwrap();
        assert!(probe.is_probe() && probe.answered());
        assert!(!turn(&b).unwrap().is_probe());
    }

    #[test]
    fn while_it_is_open_questions_are_refused() {
        let b = Breaker::new(Duration::from_secs(3600));
        (0..3).for_each(|_| drop(turn(&b).unwrap()));
        assert!(turn(&b).is_none());
    }

    #[test]
    fn others_wait_for_a_probe_and_share_its_fate() {
        let b = Breaker::new(Duration::ZERO);
        (0..3).for_each(|_| drop(turn(&b)));
        let mut probe = turn(&b).unwrap();
        assert!(probe.is_probe());
        std::thread::scope(|scope| {
            let other = scope.spawn(|| turn(&b).map(|t| t.is_probe()));
            assert!(probe.answered());
            assert_eq!(other.join().unwrap(), Some(false));
        });
    }
}
