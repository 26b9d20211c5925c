//! Matrix multiplication of f32 matrices with any strides. Every element of the result is ONE
//! chain of fused multiply-adds over ascending `k`, `c = fma(a[i,k], b[k,j], c)`; its bits
//! therefore depend on its row of A and its column of B only, never on the size of the batch, the
//! blocking, the number of threads or the instruction set. No sum is ever split over `k`.
//!
//! Blocking follows Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication"
//! (ACM TOMS 2008): a block of A is packed once and stays in the second-level cache; panels of B
//! are packed one at a time and stay in the first-level cache while all of the block passes by.

use super::gemm_kernels::{Kernels, MAX_MR, MAX_NR, Tile, pack};
use super::gemm_thin;
use super::simd::{Isa, vectorised};
use crate::ops::Real;
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;
use std::cell::RefCell;
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
    fn assert_inside(&self) {
        if self.rows > 0 && self.cols > 0 {
            let last = (self.rows - 1) * self.row_stride + (self.cols - 1) * self.col_stride;
            assert!(last < self.data.len(), "matrix leaves its memory");
        }
    }
}

/// `c = a·b`, or `c += a·b` with `accumulate` (the chain then starts from `c`). `a` is `[m, k]`,
/// `b` is `[k, n]`, row `i` of the result is `c[i*ldc..][..n]`. Uses all threads of the current
/// rayon pool. Panics if the shapes do not fit.
pub fn gemm_f32(a: Mat<f32>, b: Mat<f32>, c: &mut [f32], ldc: usize, accumulate: bool) {
    gemm_on(Isa::best(), rayon::current_num_threads(), a, b, c, ldc, accumulate);
}

/// [`gemm_f32`] on the calling thread, for use inside a parallel loop. Same bits.
pub fn gemm_f32_serial(a: Mat<f32>, b: Mat<f32>, c: &mut [f32], ldc: usize, accumulate: bool) {
    gemm_on(Isa::best(), 1, a, b, c, ldc, accumulate);
}

/// [`gemm_f32`] for any floating-point type, on the calling thread and without blocking, with the
/// same chain per element: the reference.
pub fn gemm_real<T: Real>(a: Mat<T>, b: Mat<T>, c: &mut [T], ldc: usize, accumulate: bool) {
    check_shapes(&a, &b, c, ldc);
    vectorised(
        #[inline(always)]
        || {
            for i in 0..a.rows {
                let row = &mut c[i * ldc..][..b.cols];
                if !accumulate {
                    row.fill(T::zero());
                }
                for k in 0..a.cols {
                    let x = a.at(i, k);
                    if b.col_stride == 1 {
                        let b_row = &b.data[k * b.row_stride..][..b.cols];
                        for (c, &b) in row.iter_mut().zip(b_row) {
                            *c = x.mul_add(b, *c);
                        }
                    } else {
                        for (j, c) in row.iter_mut().enumerate() {
                            *c = x.mul_add(b.at(k, j), *c);
                        }
                    }
                }
            }
        },
    );
}

fn check_shapes<T: Copy>(a: &Mat<T>, b: &Mat<T>, c: &[T], ldc: usize) {
    assert_eq!(a.cols, b.rows, "inner sizes differ");
    a.assert_inside();
    b.assert_inside();
    if a.rows > 0 && b.cols > 0 {
        assert!(ldc >= b.cols && c.len() >= (a.rows - 1) * ldc + b.cols, "output is too small");
    }
}

/// Multiplications below this count are not worth waking a thread for (a few microseconds).
const SERIAL_BELOW: usize = 1 << 18;
/// Steps of `k` per packed block: a panel of B (32 columns) then takes 32 KiB.
const KC: usize = 256;
/// Rows per packed block of A: with `KC` steps 288 KiB, a third of a second-level cache.
const MC: usize = 288;
/// Columns per task: enough that packing A does not count.
const NC: usize = 512;
/// Up to this many rows A is read in place: packing it would cost as much as using it.
const UNPACKED_ROWS: usize = 8;

fn gemm_on(
    isa: Isa,
    threads: usize,
    a: Mat<f32>,
    b: Mat<f32>,
    c: &mut [f32],
    ldc: usize,
    accumulate: bool,
) {
    check_shapes(&a, &b, c, ldc);
    let (m, n, k) = (a.rows, b.cols, a.cols);
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 {
        if !accumulate {
            c.chunks_mut(ldc).take(m).for_each(|row| row[..n].fill(0.0));
        }
        return;
    }
    let kernels = Kernels::of(isa);
    let nr = 2 * kernels.lanes;
    let threads = if m * n * k < SERIAL_BELOW { 1 } else { threads };
    let (mc, nc) = task_size(m, n, threads, kernels.mr, nr);
    let (down, across) = (m.div_ceil(mc), n.div_ceil(nc));
    let out = Out { c: c.as_mut_ptr(), ldc, accumulate };
    let task = |index: usize| {
        // Neighbouring tasks share a block of columns: those are the long side of the weights.
        let (i, j) = (index % down * mc, index / down * nc);
        let rows = i..(i + mc).min(m);
        let cols = j..(j + nc).min(n);
        // SAFETY: tasks have disjoint rows or columns, all inside C by `check_shapes`.
        unsafe { multiply_block(isa, a, b, rows, cols, out) };
    };
    if threads == 1 {
        (0..down * across).for_each(task);
    } else {
        (0..down * across).into_par_iter().with_max_len(1).for_each(task);
    }
}

/// Rows and columns of one task: near `MC` x `NC`, evenly divided, and small enough that every
/// thread gets several.
fn task_size(m: usize, n: usize, threads: usize, mr: usize, nr: usize) -> (usize, usize) {
    let even = |size: usize, most: usize, step: usize| {
        size.div_ceil(size.div_ceil(most)).next_multiple_of(step)
    };
    let (mut mc, mut nc) = (even(m, MC, mr), even(n, NC, nr));
    while threads > 1 && m.div_ceil(mc) * n.div_ceil(nc) < 4 * threads {
        if nc >= 4 * nr {
            nc = even(n, nc / 2, nr);
        } else if mc >= 4 * mr {
            mc = even(m, mc / 2, mr);
        } else {
            break;
        }
    }
    (mc, nc)
}

/// The output, shared by all tasks.
#[derive(Clone, Copy)]
struct Out {
    c: *mut f32,
    ldc: usize,
    accumulate: bool,
}
// SAFETY: tasks write disjoint elements (see `gemm_on`).
unsafe impl Send for Out {}
// SAFETY: as above.
unsafe impl Sync for Out {}

/// One aligned vector of a pack buffer.
#[derive(Clone, Copy, Zeroable, Pod)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// Pack buffers of a thread, grown once to the largest block.
#[derive(Default)]
struct Buffers {
    a: Vec<Line>,
    b: Vec<Line>,
}

fn grown(buffer: &mut Vec<Line>, len: usize) -> &mut [f32] {
    let lines = len.div_ceil(16);
    if buffer.len() < lines {
        buffer.resize(lines, Line::zeroed());
    }
    bytemuck::cast_slice_mut(buffer)
}

thread_local! {
    static BUFFERS: RefCell<Buffers> = RefCell::default();
}

/// Computes the elements `rows` x `cols` of the output.
///
/// # Safety
/// Nobody else may access these elements, and they must lie inside the output.
unsafe fn multiply_block(
    isa: Isa,
    a: Mat<f32>,
    b: Mat<f32>,
    rows: Range<usize>,
    cols: Range<usize>,
    out: Out,
) {
    if gemm_thin::fits(isa, rows.len(), &b) {
        let a = a.block(rows.clone(), 0..a.cols);
        // SAFETY: by this function's contract.
        return BUFFERS.with_borrow_mut(|buffers| unsafe {
            let c = (out.c.add(rows.start * out.ldc), out.ldc, out.accumulate);
            gemm_thin::multiply(a, b, cols, c, grown(&mut buffers.a, gemm_thin::scratch(&a)));
        });
    }
    let kernels = Kernels::of(isa);
    let (k, m, nr) = (a.cols, rows.len(), 2 * kernels.lanes);
    let kc = k.div_ceil(k.div_ceil(KC)).next_multiple_of(8).min(k);
    let packed = m > UNPACKED_ROWS;
    BUFFERS.with_borrow_mut(|buffers| {
        let pack_a = grown(&mut buffers.a, if packed { kc * m } else { 0 });
        let pack_b = grown(&mut buffers.b, kc * nr);
        for k0 in (0..k).step_by(kc) {
            let kk = kc.min(k - k0);
            if packed {
                for i in (0..m).step_by(kernels.mr) {
                    let h = kernels.mr.min(m - i);
                    let src = &a.data[(rows.start + i) * a.row_stride + k0 * a.col_stride..];
                    pack(src, (a.row_stride, a.col_stride), (h, h), kk, &mut pack_a[i * kk..]);
                }
            }
            for j in cols.clone().step_by(nr) {
                let w = nr.min(cols.end - j);
                let vectors = w.div_ceil(kernels.lanes);
                let src = &b.data[j * b.col_stride + k0 * b.row_stride..];
                let padded = vectors * kernels.lanes;
                pack(src, (b.col_stride, b.row_stride), (w, padded), kk, pack_b);
                for i in (0..m).step_by(kernels.mr) {
                    let h = kernels.mr.min(m - i);
                    let a_at = if packed {
                        pack_a[i * kk..].as_ptr()
                    } else {
                        a.data[(rows.start + i) * a.row_stride + k0 * a.col_stride..].as_ptr()
                    };
                    let tile = Tile {
                        k: kk,
                        a: a_at,
                        a_row: a.row_stride,
                        a_step: a.col_stride,
                        b: pack_b.as_ptr(),
                        // SAFETY: inside the output by this function's contract.
                        c: unsafe { out.c.add((rows.start + i) * out.ldc + j) },
                        ldc: out.ldc,
                        load: out.accumulate || k0 > 0,
                    };
                    let kernel = kernels.get(packed, vectors, h);
                    // SAFETY: the kernel fits the machine (`Kernels::of` an available set); A and
                    // B hold `kk` steps of `h` rows and `padded` columns; C is ours.
                    unsafe {
                        if w == padded {
                            kernel(tile);
                        } else {
                            run_narrow(tile, kernel, h, w);
                        }
                    }
                }
            }
        }
    });
}

/// Runs a tile whose last columns do not exist, by way of a copy.
///
/// # Safety
/// As for `kernel`, with only `w` columns of C.
unsafe fn run_narrow(tile: Tile, kernel: super::gemm_kernels::Kernel, h: usize, w: usize) {
    let mut copy = [0f32; MAX_MR * MAX_NR];
    // SAFETY: `h` rows of `w` columns of C exist; the copy holds any tile.
    unsafe {
        if tile.load {
            for i in 0..h {
                let row = std::slice::from_raw_parts(tile.c.add(i * tile.ldc), w);
                copy[i * MAX_NR..][..w].copy_from_slice(row);
            }
        }
        kernel(Tile { c: copy.as_mut_ptr(), ldc: MAX_NR, ..tile });
        for i in 0..h {
            let row = std::slice::from_raw_parts_mut(tile.c.add(i * tile.ldc), w);
            row.copy_from_slice(&copy[i * MAX_NR..][..w]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Philox, RngDomain};

    fn normals(n: usize, stream: u32) -> Vec<f32> {
        let mut s = Philox::new(11, RngDomain::Test).stream(0, stream);
        (0..n).map(|_| s.normal()).collect()
    }

    /// The definition, with nothing in common with the code above but `mul_add`.
    fn chain(a: &Mat<f32>, b: &Mat<f32>, i: usize, j: usize, start: f32) -> f32 {
        (0..a.cols).fold(start, |c, k| a.at(i, k).mul_add(b.at(k, j), c))
    }

    fn check(isa: Isa, threads: usize, a: Mat<f32>, b: Mat<f32>, ldc: usize) {
        let start = normals(a.rows * ldc, 3);
        for accumulate in [false, true] {
            let mut c = start.clone();
            gemm_on(isa, threads, a, b, &mut c, ldc, accumulate);
            for i in 0..a.rows {
                for j in 0..ldc {
                    let s = start[i * ldc + j];
                    let want = match (j < b.cols, accumulate) {
                        (true, true) => chain(&a, &b, i, j, s),
                        (true, false) => chain(&a, &b, i, j, 0.0),
                        (false, _) => s, // not ours
                    };
                    let got = c[i * ldc + j];
                    assert!(
                        got.to_bits() == want.to_bits(),
                        "{isa:?} {}x{}x{} at {i},{j}: {got} {want}",
                        a.rows,
                        b.cols,
                        a.cols
                    );
                }
            }
        }
    }

    #[test]
    fn every_form_is_the_naive_chain_to_the_bit() {
        let shapes = [
            (1, 1, 1),
            (1, 33, 7),
            (2, 31, 300),
            (5, 64, 64),
            (8, 17, 513),
            (9, 16, 40),
            (12, 32, 256),
            (13, 100, 257),
            (25, 8, 31),
            (16, 45, 67),
            (40, 47, 530),
            (301, 70, 9),
        ];
        for isa in Isa::available() {
            for (m, n, k) in shapes {
                let (x, w) = (normals(m * k, 1), normals(n * k, 2));
                let (a, at) = (Mat::row_major(&x, m, k), Mat::row_major(&x, k, m).t());
                let (b, bt) = (Mat::row_major(&w, k, n), Mat::row_major(&w, n, k).t());
                for (a, b) in [(a, b), (a, bt), (at, b), (at, bt)] {
                    check(isa, 1, a, b, n);
                }
                check(isa, 2, a, bt, n + 3);
            }
        }
    }

    #[test]
    fn strides_and_blocks() {
        let (m, n, k) = (21, 35, 77);
        let (x, w) = (normals(40 * 100, 1), normals(90 * 100, 2));
        let a = Mat::with_stride(&x, 40, 90, 100).block(3..3 + m, 5..5 + k);
        let b = Mat::with_stride(&w, 90, 60, 100).block(2..2 + k, 7..7 + n);
        // Every second row and third column of a larger matrix.
        let odd = Mat { data: &w[..], rows: k, cols: n, row_stride: 2, col_stride: 200 };
        for isa in Isa::available() {
            check(isa, 1, a, b, n + 1);
            check(isa, 2, a, odd, n);
        }
    }

    #[test]
    fn threads_and_batch_do_not_change_a_row() {
        let (m, n, k) = (37, 1100, 320);
        let (x, w) = (normals(m * k, 1), normals(n * k, 2));
        let (a, b) = (Mat::row_major(&x, m, k), Mat::row_major(&w, n, k).t());
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut c = vec![0.0; m * n];
            pool.install(|| gemm_f32(a, b, &mut c, n, false));
            c
        };
        let whole = with(1);
        assert_eq!(whole, with(2));
        assert_eq!(whole, with(3));
        for i in [0, 17, 36] {
            let mut row = vec![0.0; n];
            gemm_f32(a.block(i..i + 1, 0..k), b, &mut row, n, false);
            assert_eq!(row, whole[i * n..][..n]);
            gemm_f32_serial(a.block(i..i + 1, 0..k), b, &mut row, n, false);
            assert_eq!(row, whole[i * n..][..n]);
        }
        let mut real = vec![0.0; m * n];
        gemm_real(a, b, &mut real, n, false);
        assert_eq!(real, whole);
    }

    #[test]
    fn empty_matrices() {
        let (x, w): (Vec<f32>, Vec<f32>) = (vec![], vec![]);
        let mut c = vec![7.0; 6];
        let (a, b) = (Mat::row_major(&x, 2, 0), Mat::row_major(&w, 0, 3));
        gemm_f32(a, b, &mut c, 3, true);
        assert_eq!(c, [7.0; 6]);
        gemm_f32(a, b, &mut c, 3, false);
        assert_eq!(c, [0.0; 6]);
        gemm_f32(Mat::row_major(&x, 0, 5), Mat::row_major(&[0.0; 15], 5, 3), &mut [], 3, false);
    }
}
