//! The CPU as a device: one anonymous mapping that holds every tensor of a run. Pages are
//! committed by the system when they are first touched, so a large capacity costs nothing until
//! the plan uses it. Nothing here allocates after the mapping is made.

use crate::base::{DType, Error, Result};

/// Alignment of every tensor in an arena: one cache line, and one AVX-512 register.
pub const ARENA_ALIGN: usize = 64;

/// One block of host memory that all tensors share.
#[derive(Debug)]
pub struct HostArena {
    map: memmap2::MmapMut,
}

impl HostArena {
    /// Reserves `bytes` of zeroed address space.
    ///
    /// # Errors
    /// Kind device if the system refuses the reservation.
    pub fn reserve(bytes: usize) -> Result<Self> {
        let map = memmap2::MmapOptions::new()
            .len(bytes.max(ARENA_ALIGN))
            .no_reserve_swap()
            .map_anon()
            .map_err(|e| {
                Error::device("cannot reserve memory for the arena")
                    .expected(format!("{bytes} bytes"))
                    .found(e.to_string())
                    .hint("lower --memory_budget, the batch or the image size")
            })?;
        // Large pages: weights are read from end to end at every token, and a miss of the address
        // cache per 4 KiB costs a third of the memory's rate. A system without them says no.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(HostArena { map })
    }

    /// Reserved bytes.
    pub fn capacity(&self) -> usize {
        self.map.len()
    }

    /// A view of `elements` elements of `dtype` at `offset` bytes. Panics if it leaves the arena
    /// or `offset` is not a multiple of [`ARENA_ALIGN`].
    pub fn view(&self, offset: usize, elements: usize, dtype: DType) -> RawView {
        let bytes = elements * dtype.size();
        assert!(offset.is_multiple_of(ARENA_ALIGN), "offset {offset} is not aligned");
        assert!(offset + bytes <= self.map.len(), "view leaves the arena");
        // SAFETY: the range was just checked to lie inside the mapping.
        let ptr = unsafe { self.map.as_ptr().add(offset) }.cast_mut();
        RawView { ptr, elements, dtype }
    }
}

/// A typed range of an arena. Copies of it may exist; who may read and write at a given moment is
/// decided by the plan (live slots never overlap) and by the executor (one node at a time).
#[derive(Debug, Clone, Copy)]
pub struct RawView {
    ptr: *mut u8,
    elements: usize,
    dtype: DType,
}

// SAFETY: a view is an address range; the executor hands out references to it for the duration of
// one node only, and nodes run one after another.
unsafe impl Send for RawView {}
// SAFETY: as above.
unsafe impl Sync for RawView {}

impl RawView {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.elements
    }
    /// True if there are no elements.
    pub fn is_empty(&self) -> bool {
        self.elements == 0
    }
    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }
    /// True if the two ranges share a byte.
    pub fn overlaps(&self, other: &RawView) -> bool {
        let range = |v: &RawView| (v.ptr as usize, v.ptr as usize + v.elements * v.dtype.size());
        let ((a0, a1), (b0, b1)) = (range(self), range(other));
        a0 < b1 && b0 < a1 && a0 != a1 && b0 != b1
    }
    /// The elements, for reading. Panics if `T` has another size than the element type.
    ///
    /// # Safety
    /// Nobody may write to the range while the slice lives, and the arena must outlive it.
    pub unsafe fn slice<'a, T: bytemuck::Pod>(&self) -> &'a [T] {
        assert_eq!(size_of::<T>(), self.dtype.size(), "{:?}", self.dtype);
        // SAFETY: in bounds and aligned by construction (`HostArena::view`), any bit pattern is a
        // valid `T` (Pod); exclusivity is the caller's promise.
        unsafe { std::slice::from_raw_parts(self.ptr.cast::<T>(), self.elements) }
    }
    /// The elements, for writing. Panics if `T` has another size than the element type.
    ///
    /// # Safety
    /// Nobody else may read or write the range while the slice lives, and the arena must outlive it.
    pub unsafe fn slice_mut<'a, T: bytemuck::Pod>(&self) -> &'a mut [T] {
        assert_eq!(size_of::<T>(), self.dtype.size(), "{:?}", self.dtype);
        // SAFETY: as in `slice`.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.cast::<T>(), self.elements) }
    }
}
