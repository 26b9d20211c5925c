//! Vectors of texts that were seen before. Bounded: when it is full, the half that was not asked for
//! longest goes. What it holds never changes a result, only the time it takes.

use std::collections::HashMap;
use std::sync::Arc;

/// Texts with their vectors.
#[derive(Debug)]
pub(super) struct Cache {
    entries: HashMap<Box<str>, (Arc<[f32]>, u64)>,
    clock: u64,
    /// Most texts.
    capacity: usize,
    /// Longer texts are not kept, in bytes.
    longest: usize,
}

impl Cache {
    pub(super) fn new(capacity: usize, longest: usize) -> Self {
        Cache { entries: HashMap::new(), clock: 0, capacity, longest }
    }

    /// The vector of a text, if it is here.
    pub(super) fn get(&mut self, text: &str) -> Option<Arc<[f32]>> {
        self.clock += 1;
        let (vector, last_use) = self.entries.get_mut(text)?;
        *last_use = self.clock;
        Some(vector.clone())
    }

    /// Keeps the vector of a text.
    pub(super) fn put(&mut self, text: &str, vector: Arc<[f32]>) {
        if text.len() > self.longest || self.capacity == 0 {
            return;
        }
        if self.entries.len() >= self.capacity && !self.entries.contains_key(text) {
            let mut uses: Vec<u64> = self.entries.values().map(|(_, last_use)| *last_use).collect();
            let middle = uses.len() / 2;
            let (_, &mut median, _) = uses.select_nth_unstable(middle);
            self.entries.retain(|_, (_, last_use)| *last_use > median);
        }
        self.clock += 1;
        self.entries.insert(text.into(), (vector, self.clock));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_and_keeps_what_is_used() {
        let mut cache = Cache::new(8, 10);
        cache.put("a text that is too long", Arc::from([1.0]));
        assert!(cache.get("a text that is too long").is_none());
        for i in 0..100 {
            cache.put(&i.to_string(), Arc::from([i as f32]));
            assert!(cache.entries.len() <= 8);
            assert_eq!(cache.get("0").as_deref(), Some(&[0.0][..]), "after {i}");
            assert_eq!(cache.get(&i.to_string()).as_deref(), Some(&[i as f32][..]));
        }
        assert!(cache.get("50").is_none());
    }
}
