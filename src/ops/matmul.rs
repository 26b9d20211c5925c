//! `y = x Wᵀ (+ x' Aᵀ s Bᵀ) (+ b)`: every linear layer. The low-rank product is an argument of the
//! same op, computed as a longer inner product (columns of `A`'s output appended to those of `x`),
//! so that an adapter whose `B` is zero changes no bit and the base model is the same op without
//! it. Every element is one chain of fused multiply-adds over the inner index, ascending; its bits
//! do not depend on the other rows.
//!
//! T tokens, K inner size, N outputs, R rank.

use crate::base::{DType, Error, Result, Tolerance};
use crate::device::DevicePtr;
use crate::ops::cpu::gemm::{Element, Factor, Finish, Mat, Term, gemm, gemm_real};
use crate::ops::cpu::vectorised;
use crate::ops::gpu;
use crate::ops::gpu::matmul::{Lie, Out, Pair, Product, column_sum, product};
use crate::ops::pack_weights::panels;
use crate::ops::{
    Backward, Case, Cost, Fill, Io, Launcher, Op, OpClass, OpSpec, Slot, Stored, TensorType,
};
use half::bf16;
use std::sync::Arc;

/// Low-rank adapter of a linear layer (LoRA, arXiv 2106.09685).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lora {
    /// `lora_alpha / r`.
    pub scale: f64,
    /// True if the adapter reads an input of its own (a dropped-out copy of `x`).
    pub own_input: bool,
}

/// Inputs: `x[T,K]`, `w[N,K]`, then `b[N]` if `bias`, then `A[R,K]`, `B[N,R]` and, if the adapter
/// has its own input, `x'[T,K]`. Outputs: `y[T,N]` and with an adapter `s x' Aᵀ [T,R]`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Matmul {
    /// Whether a bias is added.
    pub bias: bool,
    /// The adapter, if any.
    pub lora: Option<Lora>,
    /// N, if `w` comes as panels ([`crate::ops::pack_weights`]); such a product has no derivative.
    pub panels: Option<usize>,
    /// Whether `y` is of the statistics' type (logits, routers) instead of the activations'. Its
    /// gradient is rounded to the activations' type before it meets other matrices.
    pub wide: bool,
}

impl Matmul {
    fn lora_at(&self) -> usize {
        2 + usize::from(self.bias)
    }
    fn lora_x(&self, l: Lora) -> usize {
        if l.own_input { self.lora_at() + 2 } else { 0 }
    }
    fn outputs(&self, w: &TensorType) -> usize {
        self.panels.unwrap_or(w.rows())
    }

    /// The definition.
    fn fwd(&self, io: &Io) {
        let (t, k, n) = (io.in_type(0).rows(), io.in_type(0).cols(), io.out_type(0).cols());
        let (x, w) = (Mat::row_major(io.input::<f64>(0), t, k), io.input::<f64>(1));
        let y = io.output::<f64>(0);
        gemm_real(x, Mat::row_major(w, n, k).t(), y, n, false);
        if let Some(l) = self.lora {
            let at = self.lora_at();
            let r = io.in_type(at).rows();
            let xl = Mat::row_major(io.input::<f64>(self.lora_x(l)), t, k);
            let s = io.output::<f64>(1);
            gemm_real(xl, Mat::row_major(io.input::<f64>(at), r, k).t(), s, r, false);
            s.iter_mut().for_each(|v| *v *= l.scale);
            let b = Mat::row_major(io.input::<f64>(at + 1), n, r);
            gemm_real(Mat::row_major(s, t, r), b.t(), y, n, true);
        }
        if self.bias {
            let b = io.input::<f64>(2);
            for row in y.chunks_exact_mut(n) {
                row.iter_mut().zip(b).for_each(|(y, b)| *y += *b);
            }
        }
    }

    fn fwd_fast<S: Element>(&self, io: &Io) {
        let (t, k, n) = (io.in_type(0).rows(), io.in_type(0).cols(), io.out_type(0).cols());
        let factor = match self.panels {
            Some(n) => Factor::Panels { words: io.input::<S::Word>(1), k, n },
            None => transposed(io.input::<S>(1), n, k),
        };
        let mut terms = vec![Term { a: Mat::row_major(io.input::<S>(0), t, k), b: factor }];
        if let Some(l) = self.lora {
            let at = self.lora_at();
            let r = io.in_type(at).rows();
            let a = Mat::row_major(io.input::<S>(self.lora_x(l)), t, k);
            let low = [Term { a, b: transposed(io.input::<S>(at), r, k) }];
            let s = io.output::<S>(1);
            gemm(&low, Finish::Scale(l.scale as f32), s, r, false);
            let b = transposed(io.input::<S>(at + 1), n, r);
            terms.push(Term { a: Mat::row_major(s, t, r), b });
        }
        let finish = if self.bias { Finish::Bias(io.input(2)) } else { Finish::Plain };
        match io.out_type(0).dtype {
            DType::BF16 => gemm(&terms, finish, io.output::<bf16>(0), n, false),
            _ => gemm(&terms, finish, io.output::<f32>(0), n, false),
        }
    }
}

/// `Wᵀ` of weights `[rows, cols]`, or of any matrix.
fn transposed<S: Element>(w: &[S], rows: usize, cols: usize) -> Factor<'_, S> {
    Factor::Matrix(Mat::row_major(w, rows, cols).t())
}

fn misfit(op: &str, inputs: &[&TensorType]) -> Error {
    let shapes: Vec<_> = inputs.iter().map(|t| &t.shape).collect();
    Error::internal(format!("{op}: shapes do not fit")).found(format!("{shapes:?}"))
}

impl Op for Matmul {
    fn name(&self) -> &'static str {
        "matmul"
    }
    fn class(&self) -> OpClass {
        OpClass::Matmul
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let (x, w) = (inputs[0], inputs[1]);
        let n = self.outputs(w);
        let mut ok = !self.bias || (inputs[2].len() == n && inputs[2].dtype == x.dtype.statistic());
        ok &= match self.panels {
            Some(n) => x.dtype != DType::F64 && w.len() == panels(x.dtype, x.cols(), n),
            None => x.cols() == w.cols() && x.dtype == w.dtype,
        };
        let dtype = if self.wide { x.dtype.statistic() } else { x.dtype };
        let mut out = vec![TensorType::matrix(x.rows(), n, dtype)];
        if let Some(l) = self.lora {
            let (a, b) = (inputs[self.lora_at()], inputs[self.lora_at() + 1]);
            let own = !l.own_input || inputs[self.lora_x(l)].shape == x.shape;
            ok &= a.cols() == x.cols() && b.rows() == n && b.cols() == a.rows() && own;
            ok &= a.dtype == x.dtype && b.dtype == x.dtype;
            out.push(TensorType::matrix(x.rows(), a.rows(), x.dtype));
        }
        if ok { Ok(out) } else { Err(misfit("matmul", inputs)) }
    }
    fn run(&self, io: &Io) {
        match io.float_type() {
            DType::F64 => self.fwd(io),
            DType::BF16 => self.fwd_fast::<bf16>(io),
            _ => self.fwd_fast::<f32>(io),
        }
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        if self.panels.is_some() {
            return Err(Error::internal(
                "panels are the CPU's; a device takes weights as they are",
            ));
        }
        let (x, y) = (k.in_type(0), k.out_type(0));
        let mut second = None;
        if let Some(l) = self.lora {
            let at = self.lora_at();
            let rank = k.in_type(at).rows();
            let (a, b) = (k.input(at), k.input(at + 1));
            let low = Pair { a: k.input(self.lora_x(l)), b: a, depth: x.cols() };
            let s = k.output(1);
            let low = Product::new(Lie::Forward, low, s, [x.rows(), rank]).scaled(l.scale);
            product(k, &low);
            second = Some(Pair { a: s, b, depth: rank });
        }
        let first = Pair { a: k.input(0), b: k.input(1), depth: x.cols() };
        let p = Product {
            second,
            bias: self.bias.then(|| k.input(2)),
            out: if self.wide { Out::Wide } else { Out::Store },
            ..Product::new(Lie::Forward, first, k.output(0), [y.rows(), y.cols()])
        };
        product(k, &p);
        Ok(())
    }
    fn backward(&self, b: &mut Backward) -> Result<Vec<Option<Slot>>> {
        if self.panels.is_some() {
            return Err(Error::internal("a product that only decoding uses has no derivative"));
        }
        let Some(mut dy) = b.grads[0] else { return Ok(vec![None; b.inputs.len()]) };
        let mut out = vec![None; b.inputs.len()];
        let (x, w) = (b.inputs[0], b.inputs[1]);
        if b.tape.tensor_type(dy).dtype != b.tape.tensor_type(x).dtype {
            dy = b.emit1(Narrow, &[dy])?;
        }
        if let Some(g) = b.param_grads[1] {
            b.emit_into(MatmulDw, &[dy, x], &[g])?;
        }
        if self.bias
            && let Some(g) = b.param_grads[2]
        {
            b.emit_into(ColumnSum, &[dy], &[g])?;
        }
        let mut dx_inputs = vec![dy, w];
        if let Some(l) = self.lora {
            let at = self.lora_at();
            let (a, bb) = (b.inputs[at], b.inputs[at + 1]);
            let xl = b.inputs[self.lora_x(l)];
            let ds = b.emit1(MatmulDs { scale: l.scale }, &[dy, bb])?;
            if let Some(g) = b.param_grads[at] {
                b.emit_into(MatmulDw, &[ds, xl], &[g])?;
            }
            if let Some(g) = b.param_grads[at + 1] {
                b.emit_into(MatmulDw, &[dy, b.outputs[1]], &[g])?;
            }
            if !l.own_input {
                dx_inputs.extend([ds, a]);
            } else if b.needs[at + 2] {
                out[at + 2] = Some(b.emit1(MatmulDx, &[ds, a])?);
            }
        }
        if b.needs[0] {
            out[0] = Some(b.emit1(MatmulDx, &dx_inputs)?);
        }
        Ok(out)
    }
    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let (t, k, n) = (inputs[0].rows(), inputs[0].cols(), outputs[0].cols());
        let r = self.lora.map_or(0, |_| inputs[self.lora_at()].rows());
        let size = |t: &&TensorType| (t.len() * t.dtype.size()) as f64;
        Cost {
            flops: 2.0 * t as f64 * (k * n + r * (k + n)) as f64,
            bytes: inputs.iter().map(size).sum::<f64>() + outputs.iter().map(size).sum::<f64>(),
        }
    }
}

/// `dx = dy W (+ ds A)`. Inputs: `dy[T,N]`, `w[N,K]` and with an adapter `ds[T,R]`, `A[R,K]`.
#[derive(Debug, Clone, Copy)]
struct MatmulDx;

impl MatmulDx {
    fn go(&self, io: &Io) {
        let (t, k) = (io.out_type(0).rows(), io.out_type(0).cols());
        let dx = io.output::<f64>(0);
        for pair in (0..io.num_inputs()).step_by(2) {
            let n = io.in_type(pair).cols();
            let dy = Mat::row_major(io.input::<f64>(pair), t, n);
            gemm_real(dy, Mat::row_major(io.input::<f64>(pair + 1), n, k), dx, k, pair > 0);
        }
    }
    fn go_fast<S: Element>(&self, io: &Io) {
        let (t, k) = (io.out_type(0).rows(), io.out_type(0).cols());
        let terms: Vec<Term<S>> = (0..io.num_inputs())
            .step_by(2)
            .map(|pair| {
                let n = io.in_type(pair).cols();
                let b = Factor::Matrix(Mat::row_major(io.input::<S>(pair + 1), n, k));
                Term { a: Mat::row_major(io.input::<S>(pair), t, n), b }
            })
            .collect();
        gemm(&terms, Finish::Plain, io.output::<S>(0), k, false);
    }
}

impl Op for MatmulDx {
    fn name(&self) -> &'static str {
        "matmul_bwd_dx"
    }
    fn infer(&self, i: &[&TensorType]) -> Result<Vec<TensorType>> {
        Ok(vec![TensorType::matrix(i[0].rows(), i[1].cols(), i[0].dtype)])
    }
    fn run(&self, io: &Io) {
        match io.float_type() {
            DType::F64 => self.go(io),
            DType::BF16 => self.go_fast::<bf16>(io),
            _ => self.go_fast::<f32>(io),
        }
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        let dx = k.out_type(0);
        let pair = |k: &Launcher, i: usize| {
            let depth = k.in_type(i).cols();
            Pair { a: k.input(i), b: k.input(i + 1), depth }
        };
        let p = Product::new(Lie::Dx, pair(k, 0), k.output(0), [dx.rows(), dx.cols()]);
        let second = (k.num_inputs() > 2).then(|| pair(k, 2));
        product(k, &Product { second, ..p });
        Ok(())
    }
}

/// `ds = scale · dy B`. Inputs: `dy[T,N]`, `B[N,R]`.
#[derive(Debug, Clone, Copy)]
struct MatmulDs {
    scale: f64,
}

impl MatmulDs {
    fn go(&self, io: &Io) {
        let (t, n, r) = (io.in_type(0).rows(), io.in_type(0).cols(), io.out_type(0).cols());
        let ds = io.output::<f64>(0);
        let dy = Mat::row_major(io.input::<f64>(0), t, n);
        gemm_real(dy, Mat::row_major(io.input::<f64>(1), n, r), ds, r, false);
        ds.iter_mut().for_each(|v| *v *= self.scale);
    }
    fn go_fast<S: Element>(&self, io: &Io) {
        let (t, n, r) = (io.in_type(0).rows(), io.in_type(0).cols(), io.out_type(0).cols());
        let b = Factor::Matrix(Mat::row_major(io.input::<S>(1), n, r));
        let term = [Term { a: Mat::row_major(io.input::<S>(0), t, n), b }];
        gemm(&term, Finish::Scale(self.scale as f32), io.output::<S>(0), r, false);
    }
}

impl Op for MatmulDs {
    fn name(&self) -> &'static str {
        "matmul_bwd_ds"
    }
    fn infer(&self, i: &[&TensorType]) -> Result<Vec<TensorType>> {
        Ok(vec![TensorType::matrix(i[0].rows(), i[1].cols(), i[0].dtype)])
    }
    fn run(&self, io: &Io) {
        match io.float_type() {
            DType::F64 => self.go(io),
            DType::BF16 => self.go_fast::<bf16>(io),
            _ => self.go_fast::<f32>(io),
        }
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        let (dy, ds) = (k.in_type(0), k.out_type(0));
        let pair = Pair { a: k.input(0), b: k.input(1), depth: dy.cols() };
        let p = Product::new(Lie::Dx, pair, k.output(0), [ds.rows(), ds.cols()]);
        product(k, &p.scaled(self.scale));
        Ok(())
    }
}

fn dw_fast<S: Element>(io: &Io) {
    let (t, n, k) = (io.in_type(0).rows(), io.in_type(0).cols(), io.in_type(1).cols());
    let dy = Mat::row_major(io.input::<S>(0), t, n);
    let term = [Term { a: dy.t(), b: Factor::Matrix(Mat::row_major(io.input::<S>(1), t, k)) }];
    gemm(&term, Finish::Plain, io.output::<f32>(0), k, true);
}

fn dw(io: &Io) {
    let (t, n, k) = (io.in_type(0).rows(), io.in_type(0).cols(), io.in_type(1).cols());
    let dy = Mat::row_major(io.input::<f64>(0), t, n);
    gemm_real(dy.t(), Mat::row_major(io.input::<f64>(1), t, k), io.output::<f64>(0), k, true);
}

/// `dw += dyᵀ x`. Inputs: `dy[T,N]`, `x[T,K]`; updates `dw[N,K]`.
#[derive(Debug, Clone, Copy)]
struct MatmulDw;

impl Op for MatmulDw {
    fn name(&self) -> &'static str {
        "matmul_bwd_dw"
    }
    fn infer(&self, _: &[&TensorType]) -> Result<Vec<TensorType>> {
        Ok(vec![])
    }
    fn run(&self, io: &Io) {
        match io.float_type() {
            DType::F64 => dw(io),
            DType::BF16 => dw_fast::<bf16>(io),
            _ => dw_fast::<f32>(io),
        }
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        let (dy, x) = (k.in_type(0), k.in_type(1));
        let pair = Pair { a: k.input(0), b: k.input(1), depth: dy.rows() };
        let p = Product::new(Lie::Dw, pair, k.output(0), [dy.cols(), x.cols()]);
        product(k, &Product { out: Out::Add, ..p });
        Ok(())
    }
}

/// `db += Σ_t dy[t]`. Input: `dy[T,N]`; updates `db[N]`. Rows are added in order.
#[derive(Debug, Clone, Copy)]
struct ColumnSum;

impl ColumnSum {
    fn go(io: &Io) {
        let db = io.output::<f64>(0);
        for row in io.input::<f64>(0).chunks_exact(db.len()) {
            db.iter_mut().zip(row).for_each(|(b, d)| *b += *d);
        }
    }
    fn go_fast<S: Stored>(io: &Io) {
        let db = io.output::<f32>(0);
        let dy = io.input::<S>(0);
        vectorised(
            #[inline(always)]
            || {
                for row in dy.chunks_exact(db.len()) {
                    db.iter_mut().zip(row).for_each(|(b, d)| *b += d.load());
                }
            },
        );
    }
}

impl Op for ColumnSum {
    fn name(&self) -> &'static str {
        "matmul_bwd_bias"
    }
    fn infer(&self, _: &[&TensorType]) -> Result<Vec<TensorType>> {
        Ok(vec![])
    }
    fn run(&self, io: &Io) {
        match io.float_type() {
            DType::F64 => Self::go(io),
            DType::BF16 => Self::go_fast::<bf16>(io),
            _ => Self::go_fast::<f32>(io),
        }
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        column_sum(k);
        Ok(())
    }
}

/// Rounds the gradient of a wide product, in singles, to bf16.
#[derive(Debug, Clone, Copy)]
struct Narrow;

/// As in the kernels.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct NarrowArgs {
    x: DevicePtr,
    y: DevicePtr,
    n: i64,
}
const _: () = assert!(size_of::<NarrowArgs>() == 24);

impl Op for Narrow {
    fn name(&self) -> &'static str {
        "matmul_bwd_narrow"
    }
    fn infer(&self, i: &[&TensorType]) -> Result<Vec<TensorType>> {
        if i[0].dtype != DType::F32 {
            return Err(misfit("matmul_bwd_narrow", i));
        }
        Ok(vec![TensorType { shape: i[0].shape.clone(), dtype: DType::BF16 }])
    }
    fn run(&self, io: &Io) {
        let (x, y) = (io.input::<f32>(0), io.output::<bf16>(0));
        y.iter_mut().zip(x).for_each(|(y, &x)| *y = Stored::store(x));
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        let n = k.in_type(0).len();
        let args = NarrowArgs { x: k.input(0), y: k.output(0), n: n as i64 };
        gpu::flat(k, "elementwise", ["matmul_bwd_narrow", ""], n, &args);
        Ok(())
    }
}

fn cases() -> Vec<Case> {
    let case = |label, t: usize, k: usize, n: usize, op: Matmul, r: usize| {
        let mut inputs =
            vec![(vec![t, k], Fill::Normal(1.0), true), (vec![n, k], Fill::Normal(0.3), true)];
        if op.bias {
            inputs.push((vec![n], Fill::Normal(1.0), true));
        }
        if let Some(l) = op.lora {
            inputs.push((vec![r, k], Fill::Normal(0.3), true));
            inputs.push((vec![n, r], Fill::Normal(0.3), true));
            if l.own_input {
                inputs.push((vec![t, k], Fill::Normal(1.0), true));
            }
        }
        Case { label, op: Arc::new(op), inputs }
    };
    let lora = |own_input| Some(Lora { scale: 2.0, own_input });
    vec![
        case("plain", 5, 7, 9, Matmul::default(), 0),
        case("one row", 1, 33, 65, Matmul::default(), 0),
        case("bias, many rows", 40, 24, 17, Matmul { bias: true, ..Matmul::default() }, 0),
        case("adapter", 6, 10, 12, Matmul { lora: lora(false), ..Matmul::default() }, 3),
        case(
            "adapter with bias and own input",
            6,
            10,
            12,
            Matmul { bias: true, lora: lora(true), ..Matmul::default() },
            3,
        ),
        case("wide", 6, 20, 13, Matmul { wide: true, ..Matmul::default() }, 0),
        case("inner size over one panel", 3, 700, 5, Matmul::default(), 0),
        case(
            "several tasks",
            97,
            70,
            130,
            Matmul { bias: true, lora: lora(false), ..Matmul::default() },
            8,
        ),
        // Rows that are multiples of 16 bytes, in several tiles of a device.
        case(
            "aligned rows",
            150,
            72,
            272,
            Matmul { bias: true, lora: lora(true), ..Matmul::default() },
            16,
        ),
        case("aligned rows, decode", 9, 128, 48, Matmul::default(), 0),
    ]
}

/// Sizes of real models.
fn bench() -> Vec<Case> {
    let case = |label, t: usize, k: usize, n: usize| Case {
        label,
        op: Arc::new(Matmul::default()),
        inputs: vec![(vec![t, k], Fill::Normal(1.0), true), (vec![n, k], Fill::Normal(0.02), true)],
    };
    vec![case("512 x 2048 x 2048", 512, 2048, 2048), case("decode, 8 x 8192 x 2048", 8, 2048, 8192)]
}

/// Row of the op table.
pub static SPEC: OpSpec = OpSpec {
    name: "matmul",
    doc: "linear layer with optional bias and low-rank adapter",
    cases,
    tolerance: Tolerance { abs: 1e-6, rel: 2e-6 },
    bf16_roundings: 2,
    bench,
};
