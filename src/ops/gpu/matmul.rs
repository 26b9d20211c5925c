//! Launches of `kernels/common/matmul.cu`: which kernel and tile a product of one or two terms gets.
//! The choice goes by size and device alone and changes no bit of the result. Computes nothing.

use crate::base::{DType, Error, Result};
use crate::device::DevicePtr;
use crate::ops::gpu::int;
use crate::ops::launch::Launcher;
use bytemuck::{Pod, Zeroable};

const MODULE: &str = "matmul";

#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
struct MatmulArgs {
    a: DevicePtr,
    b: DevicePtr,
    a2: DevicePtr,
    b2: DevicePtr,
    bias: DevicePtr,
    y: DevicePtr,
    stride_a: i64,
    stride_b: i64,
    stride_a2: i64,
    stride_b2: i64,
    rows: i32,
    cols: i32,
    depth: i32,
    depth2: i32,
    scale: f32,
    out: i32,
    vectors: i32,
    unused: i32,
}
const _: () = assert!(size_of::<MatmulArgs>() == 112);

#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
struct ColumnSumArgs {
    dy: DevicePtr,
    db: DevicePtr,
    rows: i32,
    cols: i32,
}
const _: () = assert!(size_of::<ColumnSumArgs>() == 24);

/// Whose kernels compute a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MatmulImpl {
    /// Those of this repository: one ascending chain per element.
    #[default]
    Own,
    /// The vendor's library. Rows may then depend on their batch, so rollout and training need not
    /// agree to the bit: a yardstick, and a choice for those who want it.
    Vendor,
}

/// How the factors of `C = A B` lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// `A[rows, depth]` and `B[cols, depth]`: activations and weights.
    Forward,
    /// `A[rows, depth]` and `B[depth, cols]`: gradients and weights.
    Dx,
    /// `A[depth, rows]` and `B[depth, cols]`: gradients and activations.
    Dw,
}

/// What becomes of a sum; the numbers of `MatmulOut`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Out {
    /// Rounded to the factors' type.
    Store = 0,
    /// Kept in single precision.
    Wide = 1,
    /// Added to what is there, in single precision.
    Add = 2,
}

/// A pair of factors and the length of the inner product.
#[derive(Debug, Clone, Copy)]
pub struct Pair {
    /// The left factor.
    pub a: DevicePtr,
    /// The right factor.
    pub b: DevicePtr,
    /// Inner elements.
    pub depth: usize,
}

/// `C = scale (A B + A' B') + bias`.
#[derive(Debug, Clone, Copy)]
pub struct Product {
    /// How the factors lie.
    pub lie: Lie,
    /// The first term.
    pub first: Pair,
    /// The second term, which continues each element's chain.
    pub second: Option<Pair>,
    /// One single per column.
    pub bias: Option<DevicePtr>,
    /// Factor of the sums.
    pub scale: f32,
    /// The result `[rows, cols]`.
    pub y: DevicePtr,
    /// What is written there.
    pub out: Out,
    /// Rows of the result.
    pub rows: usize,
    /// Columns of the result.
    pub cols: usize,
}

/// A kernel for one size of tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tile {
    /// Kernels for [`Lie::Forward`], [`Lie::Dx`], [`Lie::Dw`]; empty where there is none.
    kernels: [&'static str; 3],
    rows: usize,
    cols: usize,
    threads: usize,
    /// Bytes of dynamic shared memory with waves of 32 and of 64.
    shared: [usize; 2],
    /// Share of the arithmetic rate that a full device reaches with it, in hundredths.
    rate: usize,
}

const WIDE: Tile = Tile {
    kernels: [
        "matmul_fwd_128x256_bf16",
        "matmul_bwd_dx_128x256_bf16",
        "matmul_bwd_dw_128x256_bf16",
    ],
    rows: 128,
    cols: 256,
    threads: 256,
    shared: [98304, 49152],
    rate: 100,
};
const SQUARE: Tile = Tile {
    kernels: [
        "matmul_fwd_128x128_bf16",
        "matmul_bwd_dx_128x128_bf16",
        "matmul_bwd_dw_128x128_bf16",
    ],
    rows: 128,
    cols: 128,
    threads: 128,
    shared: [65536, 32768],
    rate: 90,
};
const SMALL: Tile = Tile {
    kernels: ["matmul_fwd_64x64_bf16", "matmul_bwd_dx_64x64_bf16", "matmul_bwd_dw_64x64_bf16"],
    rows: 64,
    cols: 64,
    threads: 128,
    shared: [65536, 32768],
    rate: 60,
};
const NARROW: Tile = Tile {
    kernels: ["matmul_fwd_64x16_bf16", "matmul_bwd_dx_64x16_bf16", "matmul_bwd_dw_64x16_bf16"],
    rows: 64,
    cols: 16,
    threads: 128,
    shared: [61440, 40960],
    rate: 20,
};
const FLAT: Tile = Tile {
    kernels: ["matmul_fwd_16x64_bf16", "", "matmul_bwd_dw_16x64_bf16"],
    rows: 16,
    cols: 64,
    threads: 128,
    shared: [81920, 20480],
    rate: 20,
};
const THIN: Tile = Tile {
    kernels: ["matmul_fwd_16x16_bf16", "", ""],
    rows: 16,
    cols: 16,
    threads: 192,
    shared: [65536, 65536],
    rate: 10,
};
const SQUARE_BY_8: Tile = Tile {
    kernels: [
        "matmul_fwd_128x128_by8_bf16",
        "matmul_bwd_dx_128x128_by8_bf16",
        "matmul_bwd_dw_128x128_by8_bf16",
    ],
    ..SQUARE
};
const SMALL_BY_8: Tile = Tile {
    kernels: [
        "matmul_fwd_64x64_by8_bf16",
        "matmul_bwd_dx_64x64_by8_bf16",
        "matmul_bwd_dw_64x64_by8_bf16",
    ],
    ..SMALL
};
const ODD: Tile = Tile {
    kernels: ["matmul_fwd_odd_bf16", "matmul_bwd_dx_odd_bf16", "matmul_bwd_dw_odd_bf16"],
    rows: 32,
    cols: 32,
    threads: 64,
    shared: [0, 0],
    rate: 10,
};
const SQUARE_F32: Tile = Tile {
    kernels: ["matmul_fwd_128x128_f32", "matmul_bwd_dx_128x128_f32", "matmul_bwd_dw_128x128_f32"],
    rows: 128,
    cols: 128,
    threads: 256,
    shared: [0, 0],
    rate: 100,
};
const SMALL_F32: Tile = Tile {
    kernels: ["matmul_fwd_32x32_f32", "matmul_bwd_dx_32x32_f32", "matmul_bwd_dw_32x32_f32"],
    rows: 32,
    cols: 32,
    threads: 64,
    shared: [0, 0],
    rate: 50,
};
const ODD_F32: Tile = Tile {
    kernels: ["matmul_fwd_odd_f32", "matmul_bwd_dx_odd_f32", "matmul_bwd_dw_odd_f32"],
    ..SMALL_F32
};

impl Product {
    /// `y = A B` with `y` of `[rows, cols]`, rounded to the factors' type.
    pub fn new(lie: Lie, first: Pair, y: DevicePtr, [rows, cols]: [usize; 2]) -> Self {
        let (second, bias, scale, out) = (None, None, 1.0, Out::Store);
        Product { lie, first, second, bias, scale, y, out, rows, cols }
    }
    /// The same times a number.
    #[must_use]
    pub fn scaled(self, scale: f64) -> Self {
        Product { scale: scale as f32, ..self }
    }

    fn pairs(&self) -> impl Iterator<Item = &Pair> {
        std::iter::once(&self.first).chain(&self.second)
    }

    /// Whether rows and addresses of all factors are multiples of `unit` bytes.
    fn aligned(&self, size: usize, unit: usize) -> bool {
        let fits = |n: usize| (n * size).is_multiple_of(unit);
        let at = |p: DevicePtr| p.0.is_multiple_of(unit as u64);
        self.pairs().all(|p| {
            let (a, b) = self.row_lengths(p);
            fits(a) && fits(b) && at(p.a) && at(p.b)
        })
    }

    /// Elements of a row in memory of each factor.
    fn row_lengths(&self, p: &Pair) -> (usize, usize) {
        match self.lie {
            Lie::Forward => (p.depth, p.depth),
            Lie::Dx => (p.depth, self.cols),
            Lie::Dw => (self.rows, self.cols),
        }
    }

    /// The tile with the least estimated time among some.
    fn fastest(&self, units: usize, tiles: &[Tile]) -> Tile {
        let time = |t: &Tile| {
            let count = self.rows.div_ceil(t.rows) * self.cols.div_ceil(t.cols);
            count.div_ceil(units) * t.rows * t.cols * 100 / t.rate
        };
        *tiles.iter().min_by_key(|t| time(t)).expect("there are tiles to choose from")
    }

    fn tile_bf16(&self, units: usize) -> Tile {
        // Few rows: the weights' stream is what takes time, so many blocks must read it. A tile of 64
        // columns reads the rows less often, if there are enough of them for all units.
        let many_columns = self.cols / 64 * 4 >= units * 3;
        match (self.lie, self.rows, self.cols) {
            (Lie::Forward, 0..=16, _) if many_columns => FLAT,
            (Lie::Forward, 0..=16, _) => THIN,
            (Lie::Dw, 0..=16, _) => FLAT,
            (_, _, 0..=16) => NARROW,
            (Lie::Forward, 0..=64, _) if !many_columns => NARROW,
            _ => self.fastest(units, &[WIDE, SQUARE, SMALL]),
        }
    }

    fn args(&self, vectors: i32) -> MatmulArgs {
        let none = Pair { a: DevicePtr::NULL, b: DevicePtr::NULL, depth: 0 };
        let (p, q) = (&self.first, self.second.as_ref().unwrap_or(&none));
        let ((a, b), (a2, b2)) = (self.row_lengths(p), self.row_lengths(q));
        MatmulArgs {
            a: p.a,
            b: p.b,
            a2: q.a,
            b2: q.b,
            bias: self.bias.unwrap_or(DevicePtr::NULL),
            y: self.y,
            stride_a: a as i64,
            stride_b: b as i64,
            stride_a2: a2 as i64,
            stride_b2: b2 as i64,
            rows: int(self.rows),
            cols: int(self.cols),
            depth: int(p.depth),
            depth2: int(q.depth),
            scale: self.scale,
            out: self.out as i32,
            vectors,
            unused: 0,
        }
    }
}

/// Enqueues a product whose factors are of the node's type.
///
/// # Errors
/// If the implementation is not there.
pub fn product(k: &mut Launcher, which: MatmulImpl, p: &Product) -> Result<()> {
    match which {
        MatmulImpl::Own => {
            own(k, p);
            Ok(())
        }
        MatmulImpl::Vendor => Err(Error::internal("the vendor's products are not bound yet")
            .hint("use the products of this repository")),
    }
}

fn own(k: &mut Launcher, p: &Product) {
    let units = k.units();
    let tile = match k.float_type() {
        DType::BF16 if p.aligned(2, 16) => p.tile_bf16(units),
        DType::BF16 if p.aligned(2, 8) => p.fastest(units, &[SQUARE_BY_8, SMALL_BY_8]),
        DType::BF16 => ODD,
        _ if p.aligned(4, 16) => p.fastest(units, &[SQUARE_F32, SMALL_F32]),
        _ => ODD_F32,
    };
    on_tile(k, p, &tile);
}

/// All tiles that can compute a product of the node's type: to hold one against another, in bits and in
/// time.
pub fn tiles(k: &Launcher, p: &Product) -> Vec<Tile> {
    let bf16 = k.float_type() == DType::BF16;
    let size = if bf16 { 2 } else { 4 };
    let families: [(usize, &[Tile]); 3] = if bf16 {
        let by_16 = &[WIDE, SQUARE, SMALL, NARROW, FLAT, THIN];
        [(size, &[ODD]), (8, &[SQUARE_BY_8, SMALL_BY_8]), (16, by_16)]
    } else {
        [(size, &[ODD_F32]), (16, &[SQUARE_F32, SMALL_F32]), (16, &[])]
    };
    let fitting = families.iter().filter(|(unit, _)| p.aligned(size, *unit));
    let tiles = fitting.flat_map(|(_, tiles)| tiles.iter().copied());
    tiles.filter(|t| !t.kernels[p.lie as usize].is_empty()).collect()
}

/// Enqueues a product on one of its [`tiles`].
pub fn on_tile(k: &mut Launcher, p: &Product, tile: &Tile) {
    let stored = if k.float_type() == DType::BF16 && p.out == Out::Store { 2 } else { 4 };
    let rows_of =
        |unit: usize| (p.cols * stored).is_multiple_of(unit) && p.y.0.is_multiple_of(unit as u64);
    let vectors = match (rows_of(16), rows_of(4)) {
        (true, _) => 1,
        (_, true) => 2,
        _ => 0,
    };
    let grid = [p.rows.div_ceil(tile.rows) * p.cols.div_ceil(tile.cols), 1, 1];
    let shared = tile.shared[usize::from(k.wave() == 64)];
    let kernel = tile.kernels[p.lie as usize];
    k.kernel_with_shared(MODULE, kernel, grid, tile.threads, &p.args(vectors), shared);
}

/// Columns that a block of the bias gradient adds.
const SUM_COLUMNS: usize = 32;

/// Enqueues `db[cols] += Σ_t dy[t]` of input 0 into output 0.
pub fn column_sum(k: &mut Launcher) {
    let dy = k.in_type(0);
    let args = ColumnSumArgs {
        dy: k.input(0),
        db: k.output(0),
        rows: int(dy.rows()),
        cols: int(dy.cols()),
    };
    let kernel = k.typed(["matmul_bwd_bias_f32", "matmul_bwd_bias_bf16"]);
    let blocks = dy.cols().div_ceil(SUM_COLUMNS);
    k.kernel(MODULE, kernel, [blocks, 1, 1], 256, &args);
}
