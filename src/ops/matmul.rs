//! `y = x Wᵀ (+ x' Aᵀ s Bᵀ) (+ b)`: every linear layer. The low-rank product is an argument of the
//! same op, computed as a longer inner product (columns of `A`'s output appended to those of `x`),
//! so that an adapter whose `B` is zero changes no bit and the base model is the same op without
//! it. Every element is one chain of fused multiply-adds over the inner index, ascending; its bits
//! do not depend on the other rows.
//!
//! T tokens, K inner size, N outputs, R rank.

use crate::base::{DType, Error, Result, Tolerance};
use crate::ops::cpu::gemm::Mat;
use crate::ops::{Backward, Case, Cost, Fill, Io, Op, OpClass, OpSpec, Real, Slot, TensorType};
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
}

impl Matmul {
    fn lora_at(&self) -> usize {
        2 + usize::from(self.bias)
    }
    fn lora_x(&self, l: Lora) -> usize {
        if l.own_input { self.lora_at() + 2 } else { 0 }
    }
    fn fwd<T: Real>(&self, io: &Io) {
        let (t, k, n) = (io.in_type(0).rows(), io.in_type(0).cols(), io.out_type(0).cols());
        let (x, w) = (Mat::row_major(io.input::<T>(0), t, k), io.input::<T>(1));
        let y = io.output::<T>(0);
        T::gemm(x, Mat::row_major(w, n, k).t(), y, n, false);
        if let Some(l) = self.lora {
            let at = self.lora_at();
            let r = io.in_type(at).rows();
            let xl = Mat::row_major(io.input::<T>(self.lora_x(l)), t, k);
            let s = io.output::<T>(1);
            T::gemm(xl, Mat::row_major(io.input::<T>(at), r, k).t(), s, r, false);
            s.iter_mut().for_each(|v| *v *= T::of(l.scale));
            let b = Mat::row_major(io.input::<T>(at + 1), n, r);
            T::gemm(Mat::row_major(s, t, r), b.t(), y, n, true);
        }
        if self.bias {
            let b = io.input::<T>(2);
            for row in y.chunks_exact_mut(n) {
                row.iter_mut().zip(b).for_each(|(y, b)| *y += *b);
            }
        }
    }
}

/// Runs `f32` or `f64` code by the node's type.
macro_rules! by_float {
    ($io:expr, $self:ident . $f:ident) => {
        match $io.float_type() {
            DType::F64 => $self.$f::<f64>($io),
            _ => $self.$f::<f32>($io),
        }
    };
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
        let n = w.rows();
        let mut ok = x.cols() == w.cols() && (!self.bias || inputs[2].len() == n);
        let mut out = vec![TensorType::matrix(x.rows(), n, x.dtype)];
        if let Some(l) = self.lora {
            let (a, b) = (inputs[self.lora_at()], inputs[self.lora_at() + 1]);
            let own = !l.own_input || inputs[self.lora_x(l)].shape == x.shape;
            ok &= a.cols() == x.cols() && b.rows() == n && b.cols() == a.rows() && own;
            out.push(TensorType::matrix(x.rows(), a.rows(), x.dtype));
        }
        if ok { Ok(out) } else { Err(misfit("matmul", inputs)) }
    }
    fn run(&self, io: &Io) {
        by_float!(io, self.fwd);
    }
    fn backward(&self, b: &mut Backward) -> Result<Vec<Option<Slot>>> {
        let Some(dy) = b.grads[0] else { return Ok(vec![None; b.inputs.len()]) };
        let mut out = vec![None; b.inputs.len()];
        let (x, w) = (b.inputs[0], b.inputs[1]);
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
    fn go<T: Real>(&self, io: &Io) {
        let (t, k) = (io.out_type(0).rows(), io.out_type(0).cols());
        let dx = io.output::<T>(0);
        for (i, pair) in (0..io.num_inputs()).step_by(2).enumerate() {
            let n = io.in_type(pair).cols();
            let dy = Mat::row_major(io.input::<T>(pair), t, n);
            T::gemm(dy, Mat::row_major(io.input::<T>(pair + 1), n, k), dx, k, i > 0);
        }
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
        by_float!(io, self.go);
    }
}

/// `ds = scale · dy B`. Inputs: `dy[T,N]`, `B[N,R]`.
#[derive(Debug, Clone, Copy)]
struct MatmulDs {
    scale: f64,
}

impl MatmulDs {
    fn go<T: Real>(&self, io: &Io) {
        let (t, n, r) = (io.in_type(0).rows(), io.in_type(0).cols(), io.out_type(0).cols());
        let ds = io.output::<T>(0);
        let dy = Mat::row_major(io.input::<T>(0), t, n);
        T::gemm(dy, Mat::row_major(io.input::<T>(1), n, r), ds, r, false);
        ds.iter_mut().for_each(|v| *v *= T::of(self.scale));
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
        by_float!(io, self.go);
    }
}

fn dw<T: Real>(io: &Io) {
    let (t, n, k) = (io.in_type(0).rows(), io.in_type(0).cols(), io.in_type(1).cols());
    let dy = Mat::row_major(io.input::<T>(0), t, n);
    T::gemm(dy.t(), Mat::row_major(io.input::<T>(1), t, k), io.output::<T>(0), k, true);
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
            DType::F64 => dw::<f64>(io),
            _ => dw::<f32>(io),
        }
    }
}

/// `db += Σ_t dy[t]`. Input: `dy[T,N]`; updates `db[N]`. Rows are added in order.
#[derive(Debug, Clone, Copy)]
struct ColumnSum;

impl ColumnSum {
    fn go<T: Real>(&self, io: &Io) {
        let db = io.output::<T>(0);
        for row in io.input::<T>(0).chunks_exact(db.len()) {
            db.iter_mut().zip(row).for_each(|(b, d)| *b += *d);
        }
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
        by_float!(io, self.go);
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
        case("bias, many rows", 40, 24, 17, Matmul { bias: true, lora: None }, 0),
        case("adapter", 6, 10, 12, Matmul { bias: false, lora: lora(false) }, 3),
        case(
            "adapter with bias and own input",
            6,
            10,
            12,
            Matmul { bias: true, lora: lora(true) },
            3,
        ),
        case("inner size over one panel", 3, 700, 5, Matmul::default(), 0),
        case("several tasks", 97, 70, 130, Matmul { bias: true, lora: lora(false) }, 8),
    ]
}

/// Row of the op table.
pub static SPEC: OpSpec = OpSpec {
    name: "matmul",
    doc: "linear layer with optional bias and low-rank adapter",
    cases,
    tolerance: Tolerance { abs: 1e-6, rel: 2e-6 },
};
