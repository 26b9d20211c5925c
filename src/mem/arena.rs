//! One block of memory for a whole run: persistent tensors (weights, adapters, gradients,
//! optimizer) at the bottom, and above them the space that the phases of a step use in turn
//! (KV cache and decode activations, then training activations). Records the highest byte that was
//! ever bound, so that the planner's prediction can be checked against it.

use crate::base::{DType, Error, Result};
use crate::device::{HostArena, RawView};
use crate::mem::plan::aligned;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A range of the arena that holds one tensor for the whole run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// Byte offset in the arena.
    pub offset: usize,
    /// Number of elements.
    pub elements: usize,
    /// Element type.
    pub dtype: DType,
}

/// Bytes for people, and exactly: a need may be just above the budget.
fn size(bytes: usize) -> String {
    format!("{bytes} bytes ({:.1} MiB)", bytes as f64 / 1048576.0)
}

/// The one allocation of a run.
#[derive(Debug)]
pub struct Arena {
    host: HostArena,
    persistent: usize,
    planned_peak: AtomicUsize,
    actual_peak: AtomicUsize,
}

impl Arena {
    /// Reserves `bytes`; they are committed as they are touched.
    ///
    /// # Errors
    /// Kind device if the reservation is refused.
    pub fn reserve(bytes: usize) -> Result<Self> {
        Ok(Arena {
            host: HostArena::reserve(bytes)?,
            persistent: 0,
            planned_peak: AtomicUsize::new(0),
            actual_peak: AtomicUsize::new(0),
        })
    }

    /// Takes room for a tensor that lives as long as the run, zeroed.
    ///
    /// # Errors
    /// Kind device if the arena is full.
    pub fn persist(&mut self, elements: usize, dtype: DType) -> Result<Region> {
        let offset = self.persistent;
        let end = offset + aligned(elements * dtype.size());
        self.check_fits(end, "the weights, gradients and optimizer state")?;
        self.persistent = end;
        self.note_planned(end);
        self.note_bound(end);
        Ok(Region { offset, elements, dtype })
    }

    /// Reserved bytes.
    pub fn capacity(&self) -> usize {
        self.host.capacity()
    }

    /// Where the space that the phases share begins, in bytes.
    pub fn shared_base(&self) -> usize {
        self.persistent
    }

    /// Bytes of the space that the phases share.
    pub fn shared_room(&self) -> usize {
        self.host.capacity().saturating_sub(self.persistent)
    }

    /// Refuses a plan that ends beyond the arena.
    ///
    /// # Errors
    /// Kind device, naming the bytes that are missing and what to lower.
    pub fn check_fits(&self, end: usize, what: &str) -> Result<()> {
        if end <= self.host.capacity() {
            return Ok(());
        }
        Err(Error::device(format!("the memory budget is too small for {what}"))
            .expected(format!("at most {}, the budget", size(self.host.capacity())))
            .found(format!("{} are needed", size(end)))
            .hint("raise --memory_budget, or lower --micro_batch_tokens, --per_device_train_batch_size, --max_completion_length or --max_pixels"))
    }

    /// A view of a persistent tensor.
    pub fn region(&self, r: Region) -> RawView {
        self.note_bound(r.offset + aligned(r.elements * r.dtype.size()));
        self.host.view(r.offset, r.elements, r.dtype)
    }

    /// A view at any offset; counts towards the actual peak.
    pub fn bind(&self, offset: usize, elements: usize, dtype: DType) -> RawView {
        self.note_bound(offset + aligned(elements * dtype.size()));
        self.host.view(offset, elements, dtype)
    }

    /// Announces that a plan will use the arena up to byte `end`, before it does.
    pub fn note_planned(&self, end: usize) {
        self.planned_peak.fetch_max(end, Ordering::Relaxed);
    }

    fn note_bound(&self, end: usize) {
        self.actual_peak.fetch_max(end, Ordering::Relaxed);
    }

    /// The end of the highest range that any plan announced, in bytes.
    pub fn planned_peak(&self) -> usize {
        self.planned_peak.load(Ordering::Relaxed)
    }

    /// The end of the highest range that was ever bound, in bytes.
    pub fn actual_peak(&self) -> usize {
        self.actual_peak.load(Ordering::Relaxed)
    }

    /// Copies the elements of a persistent tensor out.
    pub fn read<T: bytemuck::Pod>(&self, r: Region) -> Vec<T> {
        // SAFETY: `&self` and no node running; the copy ends before anybody can write.
        unsafe { self.region(r).slice::<T>() }.to_vec()
    }

    /// Hands the bytes of a persistent tensor over, a few at a time.
    ///
    /// # Errors
    /// What `take` returns.
    pub fn stream(&self, r: Region, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        const PIECE: usize = 1 << 20;
        let bytes = r.elements * r.dtype.size();
        for at in (0..bytes).step_by(PIECE) {
            let elements = PIECE.min(bytes - at);
            let piece = Region { offset: r.offset + at, elements, dtype: DType::U8 };
            take(&self.read::<u8>(piece))?;
        }
        Ok(())
    }

    /// Overwrites a persistent tensor. Panics if `data` has another length.
    pub fn write<T: bytemuck::Pod>(&mut self, r: Region, data: &[T]) {
        // SAFETY: `&mut self`: nobody else has a view in use.
        unsafe { self.region(r).slice_mut::<T>() }.copy_from_slice(data);
    }
}
