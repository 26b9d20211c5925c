//! A matrix as matrix multiplication sees it: somebody else's memory and two strides. Owns nothing.

use std::ops::Range;

/// A matrix in somebody else's memory; element (i, j) is `data[i*row_stride + j*col_stride]`.
#[derive(Debug, Clone, Copy)]
pub struct Mat<'a, T> {
    /// Holds at least the last element.
    pub data: &'a [T],
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// Distance of two rows.
    pub row_stride: usize,
    /// Distance of two columns.
    pub col_stride: usize,
}

impl<'a, T: Copy> Mat<'a, T> {
    /// A dense row-major matrix. Panics if `data` is too short.
    pub fn row_major(data: &'a [T], rows: usize, cols: usize) -> Self {
        Self::with_stride(data, rows, cols, cols)
    }
    /// A row-major matrix whose rows lie `row_stride` apart. Panics if `data` is too short.
    pub fn with_stride(data: &'a [T], rows: usize, cols: usize, row_stride: usize) -> Self {
        let m = Mat { data, rows, cols, row_stride, col_stride: 1 };
        m.assert_inside();
        m
    }
    /// The transposed matrix, over the same memory.
    pub fn t(self) -> Self {
        Mat {
            data: self.data,
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
        }
    }
    /// A part of the matrix. Panics if it leaves the matrix.
    pub fn block(self, rows: Range<usize>, cols: Range<usize>) -> Self {
        assert!(rows.end <= self.rows && cols.end <= self.cols, "block leaves the matrix");
        let at = (rows.start * self.row_stride + cols.start * self.col_stride).min(self.data.len());
        Mat { data: &self.data[at..], rows: rows.len(), cols: cols.len(), ..self }
    }
    /// One element.
    #[inline(always)]
    pub fn at(&self, i: usize, j: usize) -> T {
        self.data[i * self.row_stride + j * self.col_stride]
    }
    pub(super) fn assert_inside(&self) {
        if self.rows > 0 && self.cols > 0 {
            let last = (self.rows - 1) * self.row_stride + (self.cols - 1) * self.col_stride;
            assert!(last < self.data.len(), "matrix leaves its memory");
        }
    }
}
