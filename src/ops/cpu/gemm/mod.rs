//! Matrix multiplication of f32 or bf16 matrices with any strides. Every element of the result is
//! ONE chain over ascending `k`: for f32 `c = fma(a[i,k], b[k,j], c)`; for bf16 two products at a
//! time, the odd one first, each added to an f32 sum and rounded (the products are exact), as the
//! processor's dot product of bf16 pairs does. A result's bits therefore depend on its row of A and
//! its column of B only, never on the size of the batch, the blocking, the number of threads or
//! the instruction set (denormal sums apart, which the bf16 instruction flushes to zero). No sum is
//! ever split over `k`.
//!
//! Both factors are packed once per call into panels that a register tile reads from end to end
//! (Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", ACM TOMS 2008); B
//! may come packed already ([`Factor::Panels`]): decoding reads the same weights at every token.

mod mat; // matrices with strides
mod pack; // panels
mod strips; // few rows, weights as they lie
mod tiles; // register tiles, one set per instruction set

pub use mat::Mat;
pub use pack::{Element, panel_words};

use super::simd::{Isa, vectorised};
use crate::base::DType;
use crate::ops::{Real, Stored};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;
use std::cell::Cell;
use std::ops::Range;
use tiles::{LANES, MAX_MR, PANEL, Tile};

/// The right factor of a product, `[k, n]`.
#[derive(Debug, Clone, Copy)]
pub enum Factor<'a, S: Element> {
    /// As it lies in memory.
    Matrix(Mat<'a, S>),
    /// Packed by [`pack_panels`].
    Panels {
        /// `panel_words::<S>(k, n)` of them.
        words: &'a [S::Word],
        /// Inner size.
        k: usize,
        /// Columns.
        n: usize,
    },
}

impl<S: Element> Factor<'_, S> {
    fn shape(&self) -> (usize, usize) {
        match self {
            Factor::Matrix(m) => (m.rows, m.cols),
            Factor::Panels { k, n, .. } => (*k, *n),
        }
    }
}

/// One product of a sum of products.
#[derive(Debug, Clone, Copy)]
pub struct Term<'a, S: Element> {
    /// `[m, k]`.
    pub a: Mat<'a, S>,
    /// `[k, n]`.
    pub b: Factor<'a, S>,
}

/// What happens to a sum when it is complete, before it is rounded to the type of the output.
#[derive(Debug, Clone, Copy)]
pub enum Finish<'a> {
    /// Nothing.
    Plain,
    /// One number per column is added.
    Bias(&'a [f32]),
    /// It is multiplied.
    Scale(f32),
}

/// `c = finish(Σ a·b)`, the sum starting from what is in `c` with `accumulate`; row `i` of the
/// result is `c[i*ldc..][..n]`. The sums of an element form one chain, term after term; it is
/// rounded to the type of `c` once. Uses all threads of the current rayon pool. Panics if the
/// shapes do not fit.
pub fn gemm<S: Element, O: Stored>(
    terms: &[Term<S>],
    finish: Finish,
    c: &mut [O],
    ldc: usize,
    accumulate: bool,
) {
    gemm_on(Isa::best(), rayon::current_num_threads(), terms, finish, c, ldc, accumulate);
}

/// [`gemm`] of two f32 matrices.
pub fn gemm_f32(a: Mat<f32>, b: Mat<f32>, c: &mut [f32], ldc: usize, accumulate: bool) {
    gemm(&[Term { a, b: Factor::Matrix(b) }], Finish::Plain, c, ldc, accumulate);
}

/// Packs a right factor `[k, n]` for [`Factor::Panels`], on all threads of the current rayon pool.
/// Panics if `words` is not `panel_words::<S>(k, n)` long.
pub fn pack_panels<S: Element>(b: Mat<S>, words: &mut [S::Word]) {
    b.assert_inside();
    let steps = S::steps(b.rows);
    assert_eq!(words.len(), panel_words::<S>(b.rows, b.cols), "panels have another size");
    if steps == 0 {
        return;
    }
    words.par_chunks_mut(steps * PANEL).enumerate().for_each(|(p, words)| {
        pack::panel(&b, p * PANEL, words);
    });
}

/// [`gemm_f32`] for any floating-point type, on the calling thread and without blocking, with the
/// same chain per element: the reference.
pub fn gemm_real<T: Real>(a: Mat<T>, b: Mat<T>, c: &mut [T], ldc: usize, accumulate: bool) {
    assert_eq!(a.cols, b.rows, "inner sizes differ");
    a.assert_inside();
    b.assert_inside();
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

/// Multiplications below this count are not worth waking a thread for (a few microseconds).
const SERIAL_BELOW: usize = 1 << 18;
/// Packed words of B at a time: a slab of columns that stays in the last-level cache.
const SLAB_WORDS: usize = 1 << 20;
/// Packed words of A at a time.
const ROUND_WORDS: usize = 1 << 22;
/// Packed words of A per task: they stay in the second-level cache while panels of B pass by.
const BLOCK_WORDS: usize = 1 << 17;
/// Panels of B per task, at most.
const TASK_PANELS: usize = 16;

/// The output, shared by all tasks.
#[derive(Clone, Copy)]
struct Out<'a, O> {
    c: *mut O,
    ldc: usize,
    accumulate: bool,
    finish: Finish<'a>,
}
// SAFETY: tasks write disjoint elements (see `gemm_on`).
unsafe impl<O: Send> Send for Out<'_, O> {}
// SAFETY: as above.
unsafe impl<O: Send> Sync for Out<'_, O> {}

impl<O: Stored> Out<'_, O> {
    /// Copies a block of the output out, widened, into rows `stride` apart.
    ///
    /// # Safety
    /// The block lies inside the output and nobody else accesses it.
    #[inline(always)]
    unsafe fn load(
        &self,
        (row, column): (usize, usize),
        (height, width): (usize, usize),
        copy: &mut [f32],
        stride: usize,
    ) {
        for i in 0..height {
            // SAFETY: by the contract.
            let from = unsafe {
                std::slice::from_raw_parts(self.c.add((row + i) * self.ldc + column), width)
            };
            copy[i * stride..].iter_mut().zip(from).for_each(|(x, c)| *x = c.load());
        }
    }

    /// Adds the bias to a block of sums, rounds it and writes it to the output.
    ///
    /// # Safety
    /// As for [`Out::load`].
    #[inline(always)]
    unsafe fn store(
        &self,
        (row, column): (usize, usize),
        (height, width): (usize, usize),
        copy: &[f32],
        stride: usize,
    ) {
        for i in 0..height {
            // SAFETY: by the contract.
            let to = unsafe {
                std::slice::from_raw_parts_mut(self.c.add((row + i) * self.ldc + column), width)
            };
            let from = &copy[i * stride..][..width];
            let pairs = to.iter_mut().zip(from);
            match self.finish {
                Finish::Plain => pairs.for_each(|(c, x)| *c = O::store(*x)),
                Finish::Bias(bias) => {
                    pairs.zip(&bias[column..]).for_each(|((c, x), b)| *c = O::store(x + b));
                }
                Finish::Scale(by) => pairs.for_each(|(c, x)| *c = O::store(x * by)),
            }
        }
    }
}

fn check_shapes<S: Element, O>(terms: &[Term<S>], c: &[O], ldc: usize) -> (usize, usize) {
    let (m, n) = (terms[0].a.rows, terms[0].b.shape().1);
    for t in terms {
        t.a.assert_inside();
        let (k, cols) = t.b.shape();
        assert_eq!((t.a.rows, t.a.cols, cols), (m, k, n), "terms differ in their sizes");
        match &t.b {
            Factor::Matrix(b) => b.assert_inside(),
            Factor::Panels { words, k, n } => {
                assert_eq!(words.len(), panel_words::<S>(*k, *n), "panels have another size");
            }
        }
    }
    if m > 0 && n > 0 {
        assert!(ldc >= n && c.len() >= (m - 1) * ldc + n, "output is too small");
    }
    (m, n)
}

#[allow(clippy::too_many_arguments)] // the public form plus what the tests vary
fn gemm_on<S: Element, O: Stored>(
    isa: Isa,
    threads: usize,
    terms: &[Term<S>],
    finish: Finish,
    c: &mut [O],
    ldc: usize,
    accumulate: bool,
) {
    let (m, n) = check_shapes(terms, c, ldc);
    if m == 0 || n == 0 {
        return;
    }
    if let Finish::Bias(b) = finish {
        assert_eq!(b.len(), n, "bias has another size");
    }
    let steps: usize = terms.iter().map(|t| S::steps(t.a.cols)).sum();
    let threads = if m * n * steps < SERIAL_BELOW { 1 } else { threads };
    let out = Out { c: c.as_mut_ptr(), ldc, accumulate, finish };
    let as_it_lies = terms.iter().all(|t| match t.b {
        Factor::Matrix(b) => strips::fits::<S>(isa, m, &b),
        Factor::Panels { .. } => false,
    });
    if as_it_lies {
        return strips::multiply(threads, terms, (m, n), out);
    }
    let work = Work { isa, threads, terms, n, steps };
    let most = (ROUND_WORDS / steps.max(1)).max(MAX_MR);
    for first in (0..m).step_by(most) {
        work.round(first..(first + most).min(m), out);
    }
}

/// Calls `f(0..count)`, on several threads if asked to.
fn for_all(threads: usize, count: usize, f: impl Fn(usize) + Send + Sync) {
    if threads == 1 || count == 1 {
        (0..count).for_each(f);
    } else {
        (0..count).into_par_iter().with_max_len(1).for_each(f);
    }
}

/// Rows cut into tiles of nearly equal height.
#[derive(Clone, Copy)]
struct TileRows {
    rows: usize,
    tiles: usize,
}

impl TileRows {
    fn new(rows: usize, most: usize) -> Self {
        TileRows { rows, tiles: rows.div_ceil(most) }
    }
    /// First row of tile `t`.
    fn start(&self, t: usize) -> usize {
        t * (self.rows / self.tiles) + t.min(self.rows % self.tiles)
    }
    fn height(&self, t: usize) -> usize {
        self.start(t + 1) - self.start(t)
    }
}

/// A sum of products on its way.
struct Work<'t, 'a, S: Element> {
    isa: Isa,
    threads: usize,
    terms: &'t [Term<'a, S>],
    n: usize,
    /// Steps of all terms together.
    steps: usize,
}

impl<S: Element> Work<'_, '_, S> {
    /// Computes some rows of the result.
    fn round<O: Stored>(&self, rows: Range<usize>, out: Out<O>) {
        let tiles = TileRows::new(rows.len(), S::tiles(self.isa).mr);
        let panels = self.n.div_ceil(PANEL);
        // Slabs of nearly equal size: a small last one would keep the threads waiting.
        let most = (SLAB_WORDS / (self.steps.max(1) * PANEL)).clamp(1, panels);
        let slab = panels.div_ceil(panels.div_ceil(most));
        let mut buffers = BUFFERS.take();
        let a = Shared::new(grown(&mut buffers.a, self.steps * rows.len()));
        for first in (0..panels).step_by(slab) {
            let slab = first..(first + slab).min(panels);
            let b = Shared::new(grown(&mut buffers.b, self.packed_steps() * PANEL * slab.len()));
            let a_tiles = if first == 0 { tiles.tiles } else { 0 };
            let b_panels = if self.packed_steps() > 0 { slab.len() } else { 0 };
            for_all(self.threads, a_tiles + b_panels, |i| match i.checked_sub(a_tiles) {
                None => self.pack_rows(rows.start, tiles, i, a),
                Some(p) => self.pack_panel(slab.start, p, b),
            });
            self.slab(rows.start, tiles, slab, (a, b), out);
        }
        BUFFERS.set(buffers);
    }

    /// Steps of the terms whose right factor must be packed here.
    fn packed_steps(&self) -> usize {
        let steps = |t: &Term<S>| match t.b {
            Factor::Matrix(b) => S::steps(b.rows),
            Factor::Panels { .. } => 0,
        };
        self.terms.iter().map(steps).sum()
    }

    /// Packs tile `t` of all left factors: term after term, `[steps][height]`.
    fn pack_rows(&self, first: usize, tiles: TileRows, t: usize, a: Shared<S::Word>) {
        let (start, height) = (tiles.start(t), tiles.height(t));
        // SAFETY: tiles are disjoint.
        let words = unsafe { a.slice(start * self.steps, height * self.steps) };
        let mut at = 0;
        for term in self.terms {
            let (k, steps) = (term.a.cols, S::steps(term.a.cols));
            let from = (first + start) * term.a.row_stride;
            let strides = (term.a.row_stride, term.a.col_stride);
            let src = &term.a.data[from.min(term.a.data.len())..];
            S::pack(src, strides, (height, height), k, &mut words[at..][..steps * height]);
            at += steps * height;
        }
    }

    /// Packs panel `p` of the slab of all right factors that are not packed yet, term after term.
    fn pack_panel(&self, first: usize, p: usize, b: Shared<S::Word>) {
        let all = self.packed_steps() * PANEL;
        // SAFETY: panels are disjoint.
        let words = unsafe { b.slice(p * all, all) };
        let mut at = 0;
        for term in self.terms {
            if let Factor::Matrix(m) = &term.b {
                let len = S::steps(m.rows) * PANEL;
                pack::panel(m, (first + p) * PANEL, &mut words[at..][..len]);
                at += len;
            }
        }
    }

    /// Multiplies all tiles with the panels of a slab.
    fn slab<O: Stored>(
        &self,
        first: usize,
        tiles: TileRows,
        slab: Range<usize>,
        (a, b): (Shared<S::Word>, Shared<S::Word>),
        out: Out<O>,
    ) {
        let block = (BLOCK_WORDS / (self.steps * MAX_MR).max(1)).clamp(1, tiles.tiles);
        let down = tiles.tiles.div_ceil(block);
        let wanted = (8 * self.threads).div_ceil(down);
        let group = (slab.len() / wanted).clamp(1, TASK_PANELS);
        let across = slab.len().div_ceil(group);
        for_all(self.threads, down * across, |task| {
            let (i, j) = (task % down * block, task / down * group);
            for p in j..(j + group).min(slab.len()) {
                let last = (i + block).min(tiles.tiles);
                for t in i..last {
                    // The tiles of a block share the work of fetching the next panel.
                    let ahead = (t - i, last - i);
                    // SAFETY: tasks have disjoint tiles or panels, all inside C by `check_shapes`;
                    // packing has ended.
                    unsafe { self.tile((first, tiles, t), (slab.start, p), ahead, (a, b), out) };
                }
            }
        });
    }

    /// Computes one tile of the result.
    ///
    /// # Safety
    /// Nobody else may access these elements of the output or write the packed words.
    unsafe fn tile<O: Stored>(
        &self,
        (first, tiles, t): (usize, TileRows, usize),
        (slab, p): (usize, usize),
        (part, parts): (usize, usize),
        (a, b): (Shared<S::Word>, Shared<S::Word>),
        out: Out<O>,
    ) {
        let kernels = S::tiles(self.isa);
        let (start, height) = (tiles.start(t), tiles.height(t));
        let column = (slab + p) * PANEL;
        let width = PANEL.min(self.n - column);
        let vectors = width.div_ceil(LANES);
        // SAFETY: inside the output by the contract.
        let corner = unsafe { out.c.add((first + start) * out.ldc + column) };
        let direct = O::DTYPE == DType::F32 && width == vectors * LANES;
        // Most tiles need no copy: none is zeroed for them.
        let mut copy = if direct { None } else { Some([0f32; MAX_MR * PANEL]) };
        let place = (first + start, column);
        let (c, ldc) = match &mut copy {
            None => (corner.cast::<f32>(), out.ldc),
            Some(copy) => {
                if out.accumulate {
                    // SAFETY: the tile lies inside the output and is ours.
                    unsafe { out.load(place, (height, width), copy, PANEL) };
                }
                (copy.as_mut_ptr(), PANEL)
            }
        };
        let (mut a_at, mut b_at) = (start * self.steps, p * self.packed_steps() * PANEL);
        for (number, term) in self.terms.iter().enumerate() {
            let steps = S::steps(term.a.cols);
            let panel = match &term.b {
                Factor::Panels { words, .. } => words[(slab + p) * steps * PANEL..].as_ptr(),
                Factor::Matrix(_) => {
                    b_at += steps * PANEL;
                    b.at(b_at - steps * PANEL)
                }
            };
            let load = out.accumulate || number > 0;
            let ahead = panel.wrapping_add(steps * PANEL + steps * PANEL / parts * part);
            let ahead_step = PANEL / parts;
            let tile = Tile { steps, a: a.at(a_at), b: panel, ahead, ahead_step, c, ldc, load };
            a_at += steps * height;
            // SAFETY: the kernel fits the machine (`Element::tiles` of an available set); A and B
            // hold `steps` steps of `height` rows and a panel; C is ours, or the copy.
            unsafe { kernels.get(vectors, height)(tile) };
        }
        if let Some(copy) = &copy {
            // SAFETY: as above.
            return unsafe { out.store(place, (height, width), copy, PANEL) };
        }
        for i in 0..height {
            // SAFETY: `height` rows of `width` elements are in the output and ours.
            let row = unsafe { std::slice::from_raw_parts_mut(c.add(i * ldc), width) };
            match out.finish {
                Finish::Plain => break,
                Finish::Bias(bias) => {
                    row.iter_mut().zip(&bias[column..]).for_each(|(x, b)| *x += b);
                }
                Finish::Scale(by) => row.iter_mut().for_each(|x| *x *= by),
            }
        }
    }
}

/// Packed words that tasks write and read.
#[derive(Clone, Copy)]
struct Shared<W> {
    words: *mut W,
    len: usize,
}
// SAFETY: packing tasks write disjoint ranges; nobody writes while tiles read.
unsafe impl<W: Send> Send for Shared<W> {}
// SAFETY: as above.
unsafe impl<W: Send> Sync for Shared<W> {}

impl<W> Shared<W> {
    fn new(words: &mut [W]) -> Self {
        Shared { words: words.as_mut_ptr(), len: words.len() }
    }
    fn at(&self, index: usize) -> *const W {
        debug_assert!(index <= self.len);
        self.words.wrapping_add(index)
    }
    /// # Safety
    /// Nobody else may use the range.
    #[allow(clippy::mut_from_ref)] // disjoint by the caller's promise
    unsafe fn slice(&self, start: usize, len: usize) -> &mut [W] {
        assert!(start + len <= self.len, "packed words are too few");
        // SAFETY: inside by the assertion, exclusive by the contract.
        unsafe { std::slice::from_raw_parts_mut(self.words.add(start), len) }
    }
}

/// One aligned vector of a pack buffer.
#[derive(Clone, Copy, Zeroable, Pod)]
#[repr(C, align(64))]
struct Line([u32; 16]);

/// Pack buffers of a thread, grown once to the largest round.
#[derive(Default)]
struct Buffers {
    a: Vec<Line>,
    b: Vec<Line>,
}

fn grown<W: Pod>(buffer: &mut Vec<Line>, len: usize) -> &mut [W] {
    let lines = len.div_ceil(16);
    if buffer.len() < lines {
        buffer.resize(lines, Line::zeroed());
    }
    &mut bytemuck::cast_slice_mut(buffer)[..len]
}

thread_local! {
    // Taken for the time of a product: one that is started meanwhile on this thread (a stolen
    // task) finds it empty and makes its own.
    static BUFFERS: Cell<Buffers> = Cell::default();
}

#[cfg(test)]
mod tests;
