//! Rotary position embedding (Su et al., arXiv 2104.09864), in both ways that models pair the dimensions
//! of a head: halves (`rotate_half` of transformers) or neighbours (the paper's, and GLM's). The tables
//! of cosines and sines are inputs (one row per token), so text, 2-D vision and M-RoPE are one op;
//! positions are never computed here. The backward pass is the same op, turning the other way.

use super::cpu::rows::rows_per_task;
use super::cpu::vectorised;
use super::shapes::{beside, bytes, require, same_float, same_statistic};
use super::{Backward, Case, Cost, Fill, Io, Op, OpSpec, Real, Slot, Stored, TensorType};
use super::{Launcher, gpu};
use crate::base::{DType, Result, Tolerance};
use crate::device::DevicePtr;
use half::bf16;
use rayon::prelude::*;
use std::sync::Arc;

/// Row of the op table.
pub static SPEC: OpSpec = OpSpec {
    name: "rope",
    doc: "x[T,N*D], cos[T,R/2], sin[T,R/2] to y[T,N*D]: R columns of every head turned by its token's angles",
    cases,
    tolerance: Tolerance::rel(5e-7),
    bf16_roundings: 1,
    bench,
};

/// Which two columns of a head turn together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairing {
    /// Column `j` with column `j + R/2`.
    Halves,
    /// Column `2j` with column `2j + 1`.
    Neighbours,
}

/// Inputs `x[T,N*D]`, `cos[T,R/2]`, `sin[T,R/2]`; output `y[T,N*D]`. Columns of a head from R on are
/// copied.
#[derive(Debug, Clone, Copy)]
pub struct Rope {
    /// D.
    pub head_dim: usize,
    /// R, even, at most D.
    pub rotary_dim: usize,
    /// Which columns turn together.
    pub pairing: Pairing,
    /// Turn by minus the angle: the backward pass.
    pub inverse: bool,
}

/// As in the kernels.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct RopeArgs {
    x: DevicePtr,
    cos: DevicePtr,
    sin: DevicePtr,
    y: DevicePtr,
    rows: i32,
    heads: i32,
    head_dim: i32,
    half: i32,
    sign: f32,
    unused: i32,
}
const _: () = assert!(size_of::<RopeArgs>() == 56);

impl Op for Rope {
    fn name(&self) -> &'static str {
        if self.inverse { "rope_bwd" } else { "rope" }
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let (d, r) = (self.head_dim, self.rotary_dim);
        let table = |x: &TensorType, t: &TensorType| {
            let singles_or_doubles = same_statistic(&[t]) && x.dtype != DType::BF16;
            t.rows() == x.rows() && t.cols() == r / 2 && (singles_or_doubles || beside(x, &[t]))
        };
        let ok = (1..=d).contains(&r)
            && r.is_multiple_of(2)
            && matches!(inputs, [x, cos, sin] if same_float(&[x]) && x.cols().is_multiple_of(d)
                && table(x, cos) && table(x, sin) && cos.dtype == sin.dtype);
        require(ok, self.name(), inputs, &format!("x[T,N*{d}], cos[T,{r}/2], sin[T,{r}/2]"))?;
        Ok(vec![inputs[0].clone()])
    }
    fn run(&self, io: &Io) {
        match (io.in_type(0).dtype, io.in_type(1).dtype) {
            (DType::F64, DType::F64) => self.reference::<f64, f64>(io),
            (DType::F64, _) => self.reference::<f64, f32>(io),
            (_, DType::F64) => self.reference::<f32, f64>(io),
            (DType::BF16, _) => self.fast::<bf16>(io),
            _ => self.fast::<f32>(io),
        }
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        let (x, table) = (k.in_type(0), k.in_type(1));
        require(beside(x, &[table]), self.name(), &[x, table], "tables of singles")?;
        let (heads, half) = (x.cols() / self.head_dim, self.rotary_dim / 2);
        let args = RopeArgs {
            x: k.input(0),
            cos: k.input(1),
            sin: k.input(2),
            y: k.output(0),
            rows: gpu::int(x.rows()),
            heads: gpu::int(heads),
            head_dim: gpu::int(self.head_dim),
            half: gpu::int(half),
            sign: if self.inverse { -1.0 } else { 1.0 },
            unused: 0,
        };
        let names = match self.pairing {
            Pairing::Halves => ["rope_f32", "rope_bf16"],
            Pairing::Neighbours => ["rope_neighbours_f32", "rope_neighbours_bf16"],
        };
        // Groups of pairs, then groups of what is copied.
        let work = half.next_multiple_of(gpu::group(x.dtype)) + self.head_dim - self.rotary_dim;
        gpu::by_rows(k, "rope", names, [x.rows() * heads, work], &args);
        Ok(())
    }
    fn backward(&self, b: &mut Backward) -> Result<Vec<Option<Slot>>> {
        let Some(dy) = b.grads[0] else { return Ok(vec![None; 3]) };
        let back = Rope { inverse: !self.inverse, ..*self };
        let (cos, sin) = (b.inputs[1], b.inputs[2]);
        let dx = if b.needs[0] { Some(b.emit1(back, &[dy, cos, sin])?) } else { None };
        Ok(vec![dx, None, None])
    }
    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost { flops: 3.0 * inputs[0].len() as f64, bytes: bytes(inputs, outputs) }
    }
}

impl Rope {
    /// Turns whole heads, by halves.
    pub fn new(head_dim: usize) -> Self {
        Rope { head_dim, rotary_dim: head_dim, pairing: Pairing::Halves, inverse: false }
    }

    /// The columns of a head that turn as pair `j`.
    fn pair(&self, j: usize) -> (usize, usize) {
        match self.pairing {
            Pairing::Halves => (j, j + self.rotary_dim / 2),
            Pairing::Neighbours => (2 * j, 2 * j + 1),
        }
    }

    /// The definition: `y1 = x1 cos - x2 sin`, `y2 = x2 cos + x1 sin`.
    fn reference<T: Real, U: Real>(&self, io: &Io) {
        let (x, cos, sin) = (io.input::<T>(0), io.input::<U>(1), io.input::<U>(2));
        let y = io.output::<T>(0);
        let (heads, half) = (io.in_type(0).cols() / self.head_dim, self.rotary_dim / 2);
        let sign = T::of(if self.inverse { -1.0 } else { 1.0 });
        y.copy_from_slice(x);
        let d = self.head_dim;
        for (i, (y, x)) in y.chunks_mut(d).zip(x.chunks(d)).enumerate() {
            let t = i / heads;
            for j in 0..half {
                let (c, s) = (cos[t * half + j].wide(), sin[t * half + j].wide());
                let (c, s) = (T::of(c), sign * T::of(s));
                let (first, second) = self.pair(j);
                y[first] = x[first] * c - x[second] * s;
                y[second] = x[second] * c + x[first] * s;
            }
        }
    }

    fn fast<S: Stored>(&self, io: &Io) {
        let (x, y, cols) = (io.input::<S>(0), io.output::<S>(0), io.in_type(0).cols());
        let (cos, sin) = (io.input::<f32>(1), io.input::<f32>(2));
        let (d, r, half) = (self.head_dim, self.rotary_dim, self.rotary_dim / 2);
        let pairing = self.pairing;
        let sign = if self.inverse { -1.0 } else { 1.0 };
        let rows = rows_per_task(cols);
        (
            y.par_chunks_mut(rows * cols),
            x.par_chunks(rows * cols),
            cos.par_chunks(rows * half),
            sin.par_chunks(rows * half),
        )
            .into_par_iter()
            .for_each(|(y, x, cos, sin)| {
                vectorised(
                    #[inline(always)]
                    || {
                        for (t, (y, x)) in y.chunks_mut(cols).zip(x.chunks(cols)).enumerate() {
                            let at = t * half..(t + 1) * half;
                            let (cos, sin) = (&cos[at.clone()], &sin[at]);
                            for (y, x) in y.chunks_mut(d).zip(x.chunks(d)) {
                                match pairing {
                                    Pairing::Halves => {
                                        turn_halves(&x[..r], cos, sin, sign, &mut y[..r]);
                                    }
                                    Pairing::Neighbours => {
                                        turn_neighbours(&x[..r], cos, sin, sign, &mut y[..r]);
                                    }
                                }
                                y[r..].copy_from_slice(&x[r..]);
                            }
                        }
                    },
                );
            });
    }
}

#[inline(always)]
fn turn_halves<S: Stored>(x: &[S], cos: &[f32], sin: &[f32], sign: f32, y: &mut [S]) {
    let half = cos.len();
    let (x1, x2) = x.split_at(half);
    let (y1, y2) = y.split_at_mut(half);
    let (x2, y2, sin) = (&x2[..half], &mut y2[..half], &sin[..half]);
    for j in 0..half {
        let s = sign * sin[j];
        // Two roundings of the products and one of the sum, as in the reference.
        let (a, b) = (x1[j].load(), x2[j].load());
        y1[j] = S::store(a * cos[j] - b * s);
        y2[j] = S::store(b * cos[j] + a * s);
    }
}

#[inline(always)]
fn turn_neighbours<S: Stored>(x: &[S], cos: &[f32], sin: &[f32], sign: f32, y: &mut [S]) {
    let tables = cos.iter().zip(sin);
    for ((y, x), (&c, &s)) in y.chunks_exact_mut(2).zip(x.chunks_exact(2)).zip(tables) {
        let s = sign * s;
        let (a, b) = (x[0].load(), x[1].load());
        y[0] = S::store(a * c - b * s);
        y[1] = S::store(b * c + a * s);
    }
}

fn cases() -> Vec<Case> {
    let case = |label, t: usize, heads: usize, rope: Rope| {
        let half = rope.rotary_dim / 2;
        let angle =
            |i: usize| (i / half) as f64 * 1e4f64.powf(-((i % half) as f64) / (2 * half) as f64);
        let table =
            |f: fn(f64) -> f64| Fill::Values((0..t * half).map(|i| f(angle(i))).collect()).beside();
        Case {
            label,
            op: Arc::new(rope),
            inputs: vec![
                (vec![t, heads * rope.head_dim], Fill::Normal(1.0), true),
                (vec![t, half], table(f64::cos), false),
                (vec![t, half], table(f64::sin), false),
            ],
        }
    };
    let part = |head_dim, rotary_dim| Rope { rotary_dim, ..Rope::new(head_dim) };
    let neighbours = |rope| Rope { pairing: Pairing::Neighbours, ..rope };
    vec![
        case("one head", 5, 1, Rope::new(16)),
        case("odd half", 7, 3, Rope::new(10)),
        case("smallest head", 3, 2, Rope::new(2)),
        case("several tasks", 90, 5, Rope::new(80)),
        case("half of every head", 6, 3, part(64, 32)),
        case("an odd part of odd heads", 5, 2, part(23, 6)),
        case("neighbours", 9, 2, neighbours(Rope::new(32))),
        case("neighbours, odd half", 4, 3, neighbours(Rope::new(10))),
        case("neighbours, half of every head", 90, 3, neighbours(part(128, 64))),
        case("neighbours, an odd part of odd heads", 5, 2, neighbours(part(23, 6))),
    ]
}

/// Sizes of real models.
fn bench() -> Vec<Case> {
    let case = |label, rope: Rope| Case {
        label,
        op: Arc::new(rope),
        inputs: vec![
            (vec![4096, 16 * rope.head_dim], Fill::Normal(1.0), true),
            (vec![4096, rope.rotary_dim / 2], Fill::Normal(1.0).beside(), false),
            (vec![4096, rope.rotary_dim / 2], Fill::Normal(1.0).beside(), false),
        ],
    };
    let neighbours = Rope { rotary_dim: 64, pairing: Pairing::Neighbours, ..Rope::new(128) };
    vec![
        case("16 heads of 128, 4096 tokens", Rope::new(128)),
        case("16 heads of 128, 32 pairs of neighbours, 4096 tokens", neighbours),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_turn_swaps_the_halves() {
        let mut y = [0.0; 4];
        turn_halves(&[1.0, 2.0, 3.0, 4.0], &[0.0, 0.0], &[1.0, 1.0], 1.0, &mut y);
        assert_eq!(y, [-3.0, -4.0, 1.0, 2.0]);
    }

    #[test]
    fn a_quarter_turn_swaps_neighbours() {
        let mut y = [0.0; 4];
        turn_neighbours(&[1.0, 2.0, 3.0, 4.0], &[0.0, 0.0], &[1.0, 1.0], 1.0, &mut y);
        assert_eq!(y, [-2.0, 1.0, -4.0, 3.0]);
    }

    #[test]
    fn heads_must_divide_the_columns() {
        let x = TensorType::matrix(3, 20, DType::F32);
        let table = TensorType::matrix(3, 4, DType::F32);
        let e = Rope::new(8).infer(&[&x, &table, &table]).unwrap_err();
        assert!(e.one_line().contains("rope") && e.one_line().contains("[3, 20]"), "{e}");
    }
}
