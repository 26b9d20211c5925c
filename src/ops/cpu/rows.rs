//! How loops over rows and elements are cut into tasks for threads. The cut depends on sizes only,
//! never on the number of threads, so that whatever is summed per task is summed the same way.

/// Numbers per task: 64 KiB of f32, several times what it costs to hand a task to a thread.
pub const CHUNK: usize = 16 * 1024;

/// Columns per task where all rows are folded into one: a few cache lines of every row.
pub const COLUMNS: usize = 128;

/// Rows per task, for rows of `cols` numbers.
pub fn rows_per_task(cols: usize) -> usize {
    (CHUNK / cols.max(1)).max(1)
}

/// Calls `f(columns)` for blocks of columns in parallel, for code that folds rows in order.
pub fn for_column_blocks(cols: usize, f: impl Fn(std::ops::Range<usize>) + Sync) {
    use rayon::prelude::*;
    (0..cols.div_ceil(COLUMNS))
        .into_par_iter()
        .for_each(|b| f(b * COLUMNS..((b + 1) * COLUMNS).min(cols)));
}

/// A matrix that tasks write to in disjoint blocks of columns.
#[derive(Clone, Copy)]
pub struct ColumnWriter<T> {
    data: *mut T,
    rows: usize,
    cols: usize,
}
// SAFETY: `row` is unsafe; its callers promise disjoint ranges.
unsafe impl<T: Send> Send for ColumnWriter<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for ColumnWriter<T> {}

impl<T> ColumnWriter<T> {
    /// A dense row-major matrix. Panics if `data` has another length.
    pub fn new(data: &mut [T], rows: usize, cols: usize) -> Self {
        assert_eq!(data.len(), rows * cols, "matrix has another size");
        ColumnWriter { data: data.as_mut_ptr(), rows, cols }
    }
    /// A part of one row. Panics if it leaves the matrix.
    ///
    /// # Safety
    /// The matrix outlives the slice, and nobody else uses these elements meanwhile.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)] // disjoint by the caller's promise
    pub unsafe fn row(&self, row: usize, columns: std::ops::Range<usize>) -> &mut [T] {
        assert!(row < self.rows && columns.start <= columns.end && columns.end <= self.cols);
        // SAFETY: inside the matrix by the assertion, exclusive by the caller's promise.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.data.add(row * self.cols + columns.start),
                columns.len(),
            )
        }
    }
}
