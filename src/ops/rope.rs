//! Rotary position embedding (Su et al., arXiv 2104.09864) in the rotate-half form of
//! `apply_rotary_pos_emb`: dimension `j` of a head turns with dimension `j + D/2`. The tables of
//! cosines and sines are inputs (one row per token), so text, 2-D vision and M-RoPE are one op;
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
    doc: "x[T,N*D], cos[T,D/2], sin[T,D/2] to y[T,N*D]: every head turned by its token's angles",
    cases,
    tolerance: Tolerance::rel(5e-7),
    bf16_roundings: 1,
    bench,
};

/// Inputs `x[T,N*D]`, `cos[T,D/2]`, `sin[T,D/2]`; output `y[T,N*D]`.
#[derive(Debug, Clone, Copy)]
pub struct Rope {
    /// D, even.
    pub head_dim: usize,
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
    half: i32,
    sign: f32,
}
const _: () = assert!(size_of::<RopeArgs>() == 48);

impl Op for Rope {
    fn name(&self) -> &'static str {
        if self.inverse { "rope_bwd" } else { "rope" }
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let d = self.head_dim;
        let table = |x: &TensorType, t: &TensorType| {
            let singles_or_doubles = same_statistic(&[t]) && x.dtype != DType::BF16;
            t.rows() == x.rows() && t.cols() == d / 2 && (singles_or_doubles || beside(x, &[t]))
        };
        let ok = d > 0
            && d.is_multiple_of(2)
            && matches!(inputs, [x, cos, sin] if same_float(&[x]) && x.cols().is_multiple_of(d)
                && table(x, cos) && table(x, sin) && cos.dtype == sin.dtype);
        require(ok, self.name(), inputs, &format!("x[T,N*{d}], cos[T,{d}/2], sin[T,{d}/2]"))?;
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
        let (heads, half) = (x.cols() / self.head_dim, self.head_dim / 2);
        let args = RopeArgs {
            x: k.input(0),
            cos: k.input(1),
            sin: k.input(2),
            y: k.output(0),
            rows: gpu::int(x.rows()),
            heads: gpu::int(heads),
            half: gpu::int(half),
            sign: if self.inverse { -1.0 } else { 1.0 },
        };
        gpu::by_rows(k, "rope", ["rope_f32", "rope_bf16"], [x.rows() * heads, half], &args);
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
    /// The definition: `y1 = x1 cos - x2 sin`, `y2 = x2 cos + x1 sin`.
    fn reference<T: Real, U: Real>(&self, io: &Io) {
        let (x, cos, sin) = (io.input::<T>(0), io.input::<U>(1), io.input::<U>(2));
        let y = io.output::<T>(0);
        let (cols, half) = (io.in_type(0).cols(), self.head_dim / 2);
        let sign = T::of(if self.inverse { -1.0 } else { 1.0 });
        for (i, (y, x)) in y.chunks_mut(2 * half).zip(x.chunks(2 * half)).enumerate() {
            let t = i / (cols / (2 * half));
            for j in 0..half {
                let (c, s) = (cos[t * half + j].wide(), sin[t * half + j].wide());
                let (c, s) = (T::of(c), sign * T::of(s));
                y[j] = x[j] * c - x[half + j] * s;
                y[half + j] = x[half + j] * c + x[j] * s;
            }
        }
    }

    fn fast<S: Stored>(&self, io: &Io) {
        let (x, y, cols) = (io.input::<S>(0), io.output::<S>(0), io.in_type(0).cols());
        let (cos, sin) = (io.input::<f32>(1), io.input::<f32>(2));
        let (d, half) = (self.head_dim, self.head_dim / 2);
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
                                turn_head(x, cos, sin, sign, y);
                            }
                        }
                    },
                );
            });
    }
}

#[inline(always)]
fn turn_head<S: Stored>(x: &[S], cos: &[f32], sin: &[f32], sign: f32, y: &mut [S]) {
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

fn cases() -> Vec<Case> {
    let case = |label, t: usize, heads: usize, d: usize| {
        let angle =
            |i: usize| (i / (d / 2)) as f64 * 1e4f64.powf(-((i % (d / 2)) as f64) / d as f64);
        let table = |f: fn(f64) -> f64| {
            Fill::Values((0..t * d / 2).map(|i| f(angle(i))).collect()).beside()
        };
        Case {
            label,
            op: Arc::new(Rope { head_dim: d, inverse: false }),
            inputs: vec![
                (vec![t, heads * d], Fill::Normal(1.0), true),
                (vec![t, d / 2], table(f64::cos), false),
                (vec![t, d / 2], table(f64::sin), false),
            ],
        }
    };
    vec![
        case("one head", 5, 1, 16),
        case("odd half", 7, 3, 10),
        case("smallest head", 3, 2, 2),
        case("several tasks", 90, 5, 80),
    ]
}

/// Sizes of real models.
fn bench() -> Vec<Case> {
    vec![Case {
        label: "16 heads of 128, 4096 tokens",
        op: Arc::new(Rope { head_dim: 128, inverse: false }),
        inputs: vec![
            (vec![4096, 2048], Fill::Normal(1.0), true),
            (vec![4096, 64], Fill::Normal(1.0).beside(), false),
            (vec![4096, 64], Fill::Normal(1.0).beside(), false),
        ],
    }]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_turn_swaps_the_halves() {
        let mut y = [0.0; 4];
        turn_head(&[1.0, 2.0, 3.0, 4.0], &[0.0, 0.0], &[1.0, 1.0], 1.0, &mut y);
        assert_eq!(y, [-3.0, -4.0, 1.0, 2.0]);
    }

    #[test]
    fn heads_must_divide_the_columns() {
        let x = TensorType::matrix(3, 20, DType::F32);
        let table = TensorType::matrix(3, 4, DType::F32);
        let e = Rope { head_dim: 8, inverse: false }.infer(&[&x, &table, &table]).unwrap_err();
        assert!(e.one_line().contains("rope") && e.one_line().contains("[3, 20]"), "{e}");
    }
}
