//! What the endpoint is doing, as numbers that any thread may read, and their text for Prometheus. Counts;
//! decides nothing.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// One number per line of the metrics page.
#[derive(Debug, Default)]
pub struct Gauges {
    /// Requests that were let in and have no whole answer yet.
    pub open: AtomicU64,
    /// Completions that are decoded.
    pub running: AtomicU64,
    /// Completions that wait for a place or for pages.
    pub waiting: AtomicU64,
    /// Pages of the KV cache that requests hold.
    pub pages_used: AtomicU64,
    /// Pages of the KV cache.
    pub pages_total: AtomicU64,
    /// Requests that were answered to their end.
    pub answered: AtomicU64,
    /// Requests that were refused.
    pub refused: AtomicU64,
    /// Requests whose client went away.
    pub cancelled: AtomicU64,
    /// Requests that failed here.
    pub failed: AtomicU64,
    /// Tokens of prompts.
    pub prompt_tokens: AtomicU64,
    /// Tokens that were drawn.
    pub completion_tokens: AtomicU64,
    /// Images that the vision tower encoded.
    pub images: AtomicU64,
}

/// Adds to a number.
pub fn add(gauge: &AtomicU64, n: usize) {
    gauge.fetch_add(n as u64, Ordering::Relaxed);
}

/// Sets a number.
pub fn set(gauge: &AtomicU64, n: usize) {
    gauge.store(n as u64, Ordering::Relaxed);
}

impl Gauges {
    /// The text format of Prometheus, version 0.0.4.
    pub fn text(&self) -> String {
        let lines: [(&str, &str, &str, &AtomicU64); 12] = [
            ("requests_open", "gauge", "Requests without a whole answer yet.", &self.open),
            ("completions_running", "gauge", "Completions that are decoded.", &self.running),
            ("completions_waiting", "gauge", "Completions that wait.", &self.waiting),
            ("kv_pages_used", "gauge", "Pages of the KV cache in use.", &self.pages_used),
            ("kv_pages_total", "gauge", "Pages of the KV cache.", &self.pages_total),
            ("requests_answered_total", "counter", "Requests answered.", &self.answered),
            ("requests_refused_total", "counter", "Requests refused.", &self.refused),
            ("requests_cancelled_total", "counter", "Clients that went away.", &self.cancelled),
            ("requests_failed_total", "counter", "Requests that failed.", &self.failed),
            ("prompt_tokens_total", "counter", "Tokens of prompts.", &self.prompt_tokens),
            ("completion_tokens_total", "counter", "Tokens drawn.", &self.completion_tokens),
            ("images_encoded_total", "counter", "Images encoded.", &self.images),
        ];
        let mut text = String::new();
        for (name, kind, help, value) in lines {
            let value = value.load(Ordering::Relaxed);
            let _ = write!(
                text,
                "# HELP grpo_rt_{name} {help}\n# TYPE grpo_rt_{name} {kind}\ngrpo_rt_{name} {value}\n"
            );
        }
        text
    }
}

/// A place among the requests that are open; given back when it is dropped.
#[derive(Debug)]
pub struct Place(Arc<Gauges>);

impl Place {
    /// A place, if fewer than `most` are taken.
    pub fn take(gauges: &Arc<Gauges>, most: usize) -> Option<Place> {
        let below = |n: u64| (n < most as u64).then_some(n + 1);
        let taken = gauges.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, below);
        taken.ok().map(|_| Place(gauges.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_come_back() {
        let gauges = Arc::new(Gauges::default());
        let first = Place::take(&gauges, 2).unwrap();
        let _second = Place::take(&gauges, 2).unwrap();
        assert!(Place::take(&gauges, 2).is_none());
        drop(first);
        assert!(Place::take(&gauges, 2).is_some());
        assert!(gauges.text().contains("\ngrpo_rt_requests_open 1\n"));
    }
}
