//! One block of memory for a whole run: persistent tensors (weights, adapters, gradients,
//! optimizer) at the bottom, and above them the space that the phases of a step use in turn
//! (KV cache and decode activations, then training activations). Records the highest byte that was
//! ever bound, so that the planner's prediction can be checked against it.

use crate::base::{DType, Error, Result, Target};
use crate::device::{Command, Device, DeviceArena, DevicePtr, HostArena, RawView};
use crate::mem::plan::aligned;
use bytemuck::Pod;
use std::sync::Arc;
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

/// Where the bytes lie.
#[derive(Debug)]
enum Memory {
    /// In this machine's memory.
    Host(HostArena),
    /// On a device.
    Device(DeviceArena),
    /// Nowhere: places can be taken and tapes planned, nothing can be read or run.
    Planned { bytes: usize, target: Target },
}

/// The one allocation of a run.
#[derive(Debug)]
pub struct Arena {
    memory: Memory,
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
        Ok(Self::over(Memory::Host(HostArena::reserve(bytes)?)))
    }

    /// Takes `bytes` of a device's memory, or reserves them here if there is no device.
    ///
    /// # Errors
    /// Kind device if there is not enough memory.
    pub fn on(device: Option<&Arc<dyn Device>>, bytes: usize) -> Result<Self> {
        match device {
            None => Self::reserve(bytes),
            Some(device) => Ok(Self::over(Memory::Device(DeviceArena::reserve(device, bytes)?))),
        }
    }

    /// An arena of `bytes` without memory, to plan with.
    pub fn planned(bytes: usize, target: Target) -> Self {
        Self::over(Memory::Planned { bytes, target })
    }

    fn over(memory: Memory) -> Self {
        Arena {
            memory,
            persistent: 0,
            planned_peak: AtomicUsize::new(0),
            actual_peak: AtomicUsize::new(0),
        }
    }

    /// The device, if the arena is on one.
    pub fn device(&self) -> Option<&Arc<dyn Device>> {
        match &self.memory {
            Memory::Device(d) => Some(d.device()),
            _ => None,
        }
    }

    /// What tapes over this arena run on.
    pub fn target(&self) -> Target {
        match &self.memory {
            Memory::Host(_) => Target::Cpu,
            Memory::Device(_) => Target::Gpu,
            Memory::Planned { target, .. } => *target,
        }
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
        // A host's pages are zero when they are first touched.
        if let Memory::Device(d) = &self.memory {
            let (to, bytes) = (d.at(offset, end - offset), end - offset);
            d.device().submit(&[Command::Fill { to, byte: 0, bytes }])?;
        }
        Ok(Region { offset, elements, dtype })
    }

    /// Reserved bytes.
    pub fn capacity(&self) -> usize {
        match &self.memory {
            Memory::Host(h) => h.capacity(),
            Memory::Device(d) => d.capacity(),
            Memory::Planned { bytes, .. } => *bytes,
        }
    }

    /// Where the space that the phases share begins, in bytes.
    pub fn shared_base(&self) -> usize {
        self.persistent
    }

    /// Bytes of the space that the phases share.
    pub fn shared_room(&self) -> usize {
        self.capacity().saturating_sub(self.persistent)
    }

    /// Refuses a plan that ends beyond the arena.
    ///
    /// # Errors
    /// Kind device, naming the bytes that are missing and what to lower.
    pub fn check_fits(&self, end: usize, what: &str) -> Result<()> {
        if end <= self.capacity() {
            return Ok(());
        }
        Err(Error::device(format!("the memory budget is too small for {what}"))
            .expected(format!("at most {}, the budget", size(self.capacity())))
            .found(format!("{} are needed", size(end)))
            .hint("raise --memory_budget, or lower --micro_batch_tokens, --per_device_train_batch_size, --max_completion_length or --max_pixels"))
    }

    /// A view of host memory at any offset; counts towards the actual peak. Panics if the arena is
    /// not in host memory.
    pub fn bind(&self, offset: usize, elements: usize, dtype: DType) -> RawView {
        self.note_bound(offset + aligned(elements * dtype.size()));
        match &self.memory {
            Memory::Host(h) => h.view(offset, elements, dtype),
            _ => panic!("a view of an arena that is not in host memory"),
        }
    }

    /// The address on the device of some bytes at any offset; counts towards the actual peak. Panics
    /// if the arena is not on a device.
    pub fn address(&self, offset: usize, bytes: usize) -> DevicePtr {
        self.note_bound(offset + aligned(bytes));
        match &self.memory {
            Memory::Device(d) => d.at(offset, bytes),
            _ => panic!("a device address in an arena that is not on a device"),
        }
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

    /// Copies the elements of a tensor out. Panics if `T` has another size than its elements.
    ///
    /// # Errors
    /// Kind device if the device failed.
    pub fn read<T: Pod>(&self, r: Region) -> Result<Vec<T>> {
        assert_eq!(size_of::<T>(), r.dtype.size(), "{:?}", r.dtype);
        let bytes = r.elements * r.dtype.size();
        match &self.memory {
            Memory::Device(d) => {
                let mut data = vec![T::zeroed(); r.elements];
                let from = self.address(r.offset, bytes);
                d.device().download(from, bytemuck::cast_slice_mut(&mut data))?;
                Ok(data)
            }
            // SAFETY: `&self` and no node running; the copy ends before anybody can write.
            _ => Ok(unsafe { self.bind(r.offset, r.elements, r.dtype).slice::<T>() }.to_vec()),
        }
    }

    /// Hands the bytes of a persistent tensor over, a few at a time.
    ///
    /// # Errors
    /// What `take` returns, or kind device if the device failed.
    pub fn stream(&self, r: Region, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let piece = match &self.memory {
            // A copy from a device costs microseconds however small it is.
            Memory::Device(_) => 16 << 20,
            _ => 1 << 20,
        };
        let bytes = r.elements * r.dtype.size();
        for at in (0..bytes).step_by(piece) {
            let elements = piece.min(bytes - at);
            let piece = Region { offset: r.offset + at, elements, dtype: DType::U8 };
            take(&self.read::<u8>(piece)?)?;
        }
        Ok(())
    }

    /// Overwrites a tensor. Panics if `data` has another length.
    ///
    /// # Errors
    /// Kind device if the device failed.
    pub fn write<T: Pod>(&mut self, r: Region, data: &[T]) -> Result<()> {
        // SAFETY: `&mut self`: nobody else has a view in use.
        unsafe { self.fill(r, data) }
    }

    /// Overwrites a tensor that nobody else looks at: an input of a tape that is about to run. Panics
    /// if `data` has another length.
    ///
    /// # Safety
    /// No node is running on the range, and no slice of it is alive.
    ///
    /// # Errors
    /// Kind device if the device failed.
    pub unsafe fn fill<T: Pod>(&self, r: Region, data: &[T]) -> Result<()> {
        assert_eq!((size_of::<T>(), data.len()), (r.dtype.size(), r.elements), "{:?}", r.dtype);
        match &self.memory {
            Memory::Device(d) => {
                let to = self.address(r.offset, size_of_val(data));
                d.device().upload(to, bytemuck::cast_slice(data))
            }
            _ => {
                let view = self.bind(r.offset, r.elements, r.dtype);
                // SAFETY: the caller's promise.
                unsafe { view.slice_mut::<T>() }.copy_from_slice(data);
                Ok(())
            }
        }
    }
}
