//! The linear layers of a mixture of experts: every (token, choice) pair's row times the matrix of
//! the pair's expert. Experts are walked in order, their rows brought together a block at a time;
//! each element is the chain of fused multiply-adds that [`super::matmul`] has, so a row's bits are
//! those of a linear layer with that expert's weights, whatever else is in the batch. Who goes where
//! is data (see [`super::route`]); an expert that nobody chose costs nothing.
//!
//! T tokens, K experts of a token, E experts, I inner size, N outputs. Pair `p = t K + k`.

use super::cpu::gemm::{Element, Factor, Finish, Mat, Term, gemm, gemm_real};
use super::gpu::experts;
use super::mix_experts::SumPairs;
use super::shapes::{is_index, require, same_float};
use super::{
    Backward, Case, Cost, Fill, Io, Launcher, Op, OpClass, OpSpec, Slot, Stored, TensorType,
};
use crate::base::{DType, Result, Tolerance};
use half::bf16;
use std::sync::Arc;

/// Row of the op table.
pub static SPEC: OpSpec = OpSpec {
    name: "expert_matmul",
    doc: "x[T or TK,I], w[EN,I], order[TK,1], first[E+1,1] to y[TK,N]: each pair by its expert",
    cases,
    tolerance: Tolerance { abs: 1e-6, rel: 2e-6 },
    bf16_roundings: 2,
    bench,
};

/// Inputs `x` (`[T,I]`, or `[TK,I]` with one row per pair), `w[EN,I]` (expert `e` has rows
/// `eN..(e+1)N`), `order[TK,1]`, `first[E+1,1]` of [`super::route::Route`]; outputs `y[TK,N]` in the
/// order of pairs, and work space.
#[derive(Debug, Clone, Copy)]
pub struct ExpertMatmul {
    /// E.
    pub experts: usize,
    /// Pairs that read a row of `x`: K if `x` has a row per token, 1 if it has one per pair. Pair `p`
    /// reads row `p / rows_per_token`.
    pub rows_per_token: usize,
}

/// Inputs `dy[TK,N]`, `w`, `order`, `first`; outputs `d[TK,I]`, the gradient of the row that each
/// pair read, and work space.
#[derive(Debug, Clone, Copy)]
struct ExpertMatmulDx {
    experts: usize,
}

/// Inputs `dy[TK,N]`, `x`, `order`, `first`; makes work space and adds to `dw[EN,I]`.
#[derive(Debug, Clone, Copy)]
struct ExpertMatmulDw {
    experts: usize,
    rows_per_token: usize,
}

/// Rows of an expert that are brought together at a time: enough that packing the expert's matrix
/// costs little beside the product. Even, because products of bf16 are added in twos.
const BLOCK: usize = 512;

/// Work space for the rows of a block, of `columns` in all; the reference needs none.
fn work(pairs: usize, columns: usize, dtype: DType) -> TensorType {
    let rows = if dtype == DType::F64 { 0 } else { pairs.min(BLOCK) };
    TensorType::matrix(rows, columns, dtype)
}

/// The pairs by expert.
#[derive(Clone, Copy)]
struct Pairs<'a> {
    order: &'a [i32],
    first: &'a [i32],
}

impl<'a> Pairs<'a> {
    /// Inputs 2 and 3 of a node. Panics if an expert's part leaves the list, or a pair has none: the
    /// result would have holes.
    fn of(io: &Io<'a>) -> Self {
        let (order, first) = (io.input::<i32>(2), io.input::<i32>(3));
        let whole = first[0] == 0 && first[first.len() - 1] as usize == order.len();
        assert!(whole, "the experts' parts are not the whole list of pairs");
        Pairs { order, first }
    }
    /// All experts with the pairs of each.
    fn experts(self) -> impl Iterator<Item = (usize, &'a [i32])> {
        let parts = self.first.windows(2).enumerate();
        parts.map(move |(e, w)| (e, &self.order[w[0] as usize..w[1] as usize]))
    }
    /// The same in blocks.
    fn blocks(self) -> impl Iterator<Item = (usize, &'a [i32])> {
        self.experts().flat_map(|(e, pairs)| pairs.chunks(BLOCK).map(move |c| (e, c)))
    }
}

/// Brings the rows together that some pairs read.
fn gather<S: Copy>(x: &[S], cols: usize, per_row: usize, pairs: &[i32], to: &mut [S]) {
    for (to, &p) in to.chunks_exact_mut(cols).zip(pairs) {
        to.copy_from_slice(&x[p as usize / per_row * cols..][..cols]);
    }
}

/// `y[p] = x[p / per_row] B` for all pairs, where `factor(e)` is the B of expert `e`.
fn products<'a, S: Element>(
    io: &Io,
    (depth, cols): (usize, usize),
    per_row: usize,
    factor: impl Fn(usize) -> Mat<'a, S>,
) {
    let (x, y, work) = (io.input::<S>(0), io.output::<S>(0), io.output::<S>(1));
    for (e, pairs) in Pairs::of(io).blocks() {
        let (rows, sums) = work.split_at_mut(pairs.len() * depth);
        gather(x, depth, per_row, pairs, rows);
        let a = Mat::row_major(rows, pairs.len(), depth);
        let terms = [Term { a, b: Factor::Matrix(factor(e)) }];
        let sums = &mut sums[..pairs.len() * cols];
        gemm(&terms, Finish::Plain, sums, cols, false);
        for (sum, &p) in sums.chunks_exact(cols).zip(pairs) {
            y[p as usize * cols..][..cols].copy_from_slice(sum);
        }
    }
}

/// The definition of [`products`].
fn products_real<'a>(
    io: &Io,
    (depth, cols): (usize, usize),
    per_row: usize,
    factor: impl Fn(usize) -> Mat<'a, f64>,
) {
    let (x, y) = (io.input::<f64>(0), io.output::<f64>(0));
    for (e, pairs) in Pairs::of(io).experts() {
        for &p in pairs {
            let row = Mat::row_major(&x[p as usize / per_row * depth..], 1, depth);
            gemm_real(row, factor(e), &mut y[p as usize * cols..][..cols], cols, false);
        }
    }
}

/// Expert `e`'s matrix `[N, I]`.
fn weights<S: Copy>(w: &[S], e: usize, n: usize, i: usize) -> Mat<'_, S> {
    Mat::row_major(&w[e * n * i..], n, i)
}

/// Whether `order` and `first` list `pairs` pairs of `experts` experts.
fn listed(order: &TensorType, first: &TensorType, pairs: usize, experts: usize) -> bool {
    is_index(order, pairs, 1) && is_index(first, experts + 1, 1)
}

fn cost(pairs: usize, experts: usize, sizes: (usize, usize), dtype: DType) -> Cost {
    let (i, n) = sizes;
    let numbers = pairs * (i + n) + pairs.min(experts) * n * i;
    Cost {
        flops: 2.0 * pairs as f64 * (n * i) as f64,
        bytes: (numbers * dtype.size() + 4 * (pairs + experts + 1)) as f64,
    }
}

impl Op for ExpertMatmul {
    fn name(&self) -> &'static str {
        "expert_matmul"
    }
    fn class(&self) -> OpClass {
        OpClass::Matmul
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let ok = matches!(inputs, [x, w, order, first] if same_float(&[x, w])
            && x.cols() == w.cols() && self.experts > 0 && w.rows().is_multiple_of(self.experts)
            && listed(order, first, x.rows() * self.rows_per_token, self.experts));
        require(ok, self.name(), inputs, "x[T,I], w[EN,I], order[TK,1], first[E+1,1]")?;
        let (x, pairs) = (inputs[0], inputs[2].rows());
        let n = inputs[1].rows() / self.experts;
        let y = TensorType::matrix(pairs, n, x.dtype);
        Ok(vec![y, work(pairs, x.cols() + n, x.dtype)])
    }
    fn run(&self, io: &Io) {
        let sizes @ (i, n) = (io.in_type(0).cols(), io.out_type(0).cols());
        let per_row = self.rows_per_token;
        match io.float_type() {
            DType::F64 => products_real(io, sizes, per_row, |e| weights(io.input(1), e, n, i).t()),
            DType::BF16 => {
                products::<bf16>(io, sizes, per_row, |e| weights(io.input(1), e, n, i).t());
            }
            _ => products::<f32>(io, sizes, per_row, |e| weights(io.input(1), e, n, i).t()),
        }
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        experts::forward(k, self.experts, self.rows_per_token);
        Ok(())
    }
    fn gpu_work(&self, inputs: &[&TensorType], _: &[&TensorType]) -> usize {
        experts::rows_work(inputs[2].rows(), self.experts, inputs[0])
    }
    fn backward(&self, b: &mut Backward) -> Result<Vec<Option<Slot>>> {
        let Some(dy) = b.grads[0] else { return Ok(vec![None; 4]) };
        let &[x, w, order, first] = b.inputs else { unreachable!("`infer` takes four inputs") };
        let (experts, rows_per_token) = (self.experts, self.rows_per_token);
        if let Some(grad) = b.param_grads[1] {
            let op = ExpertMatmulDw { experts, rows_per_token };
            b.emit_into(op, &[dy, x, order, first], &[grad])?;
        }
        if !b.needs[0] {
            return Ok(vec![None; 4]);
        }
        let mut dx = b.emit1(ExpertMatmulDx { experts }, &[dy, w, order, first])?;
        if rows_per_token > 1 {
            dx = b.emit1(SumPairs { top_k: rows_per_token }, &[dx])?;
        }
        Ok(vec![Some(dx), None, None, None])
    }
    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let sizes = (inputs[0].cols(), outputs[0].cols());
        cost(inputs[2].rows(), self.experts, sizes, inputs[0].dtype)
    }
}

impl Op for ExpertMatmulDx {
    fn name(&self) -> &'static str {
        "expert_matmul_bwd_dx"
    }
    fn class(&self) -> OpClass {
        OpClass::Matmul
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let ok = matches!(inputs, [dy, w, order, first] if same_float(&[dy, w])
            && w.rows() == self.experts * dy.cols()
            && listed(order, first, dy.rows(), self.experts));
        require(ok, self.name(), inputs, "dy[TK,N], w[EN,I], order[TK,1], first[E+1,1]")?;
        let (dy, i) = (inputs[0], inputs[1].cols());
        let d = TensorType::matrix(dy.rows(), i, dy.dtype);
        Ok(vec![d, work(dy.rows(), dy.cols() + i, dy.dtype)])
    }
    fn run(&self, io: &Io) {
        let sizes @ (n, i) = (io.in_type(0).cols(), io.out_type(0).cols());
        match io.float_type() {
            DType::F64 => products_real(io, sizes, 1, |e| weights(io.input(1), e, n, i)),
            DType::BF16 => products::<bf16>(io, sizes, 1, |e| weights(io.input(1), e, n, i)),
            _ => products::<f32>(io, sizes, 1, |e| weights(io.input(1), e, n, i)),
        }
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        experts::backward_rows(k, self.experts);
        Ok(())
    }
    fn gpu_work(&self, inputs: &[&TensorType], _: &[&TensorType]) -> usize {
        experts::rows_work(inputs[2].rows(), self.experts, inputs[0])
    }
    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let sizes = (outputs[0].cols(), inputs[0].cols());
        cost(inputs[2].rows(), self.experts, sizes, inputs[0].dtype)
    }
}

impl ExpertMatmulDw {
    fn go(&self, io: &Io) {
        let (n, i) = (io.in_type(0).cols(), io.in_type(1).cols());
        let (dy, x, dw) = (io.input::<f64>(0), io.input::<f64>(1), io.output::<f64>(1));
        for (e, pairs) in Pairs::of(io).experts() {
            let dw = &mut dw[e * n * i..][..n * i];
            for p in pairs.iter().map(|&p| p as usize) {
                let column = Mat::row_major(&dy[p * n..], 1, n).t();
                let row = Mat::row_major(&x[p / self.rows_per_token * i..], 1, i);
                gemm_real(column, row, dw, i, true);
            }
        }
    }
    fn go_fast<S: Element + Stored>(&self, io: &Io) {
        let (n, i) = (io.in_type(0).cols(), io.in_type(1).cols());
        let (dy, x) = (io.input::<S>(0), io.input::<S>(1));
        let (work, dw) = (io.output::<S>(0), io.output::<f32>(1));
        // Blocks of an expert continue the chains that the ones before them left in `dw`.
        for (e, pairs) in Pairs::of(io).blocks() {
            let (left, right) = work.split_at_mut(pairs.len() * n);
            let right = &mut right[..pairs.len() * i];
            gather(dy, n, 1, pairs, left);
            gather(x, i, self.rows_per_token, pairs, right);
            let a = Mat::row_major(left, pairs.len(), n).t();
            let b = Factor::Matrix(Mat::row_major(right, pairs.len(), i));
            gemm(&[Term { a, b }], Finish::Plain, &mut dw[e * n * i..][..n * i], i, true);
        }
    }
}

impl Op for ExpertMatmulDw {
    fn name(&self) -> &'static str {
        "expert_matmul_bwd_dw"
    }
    fn class(&self) -> OpClass {
        OpClass::Matmul
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let ok = matches!(inputs, [dy, x, order, first] if same_float(&[dy, x])
            && dy.rows() == x.rows() * self.rows_per_token
            && listed(order, first, dy.rows(), self.experts));
        require(ok, self.name(), inputs, "dy[TK,N], x[T,I], order[TK,1], first[E+1,1]")?;
        let (dy, x) = (inputs[0], inputs[1]);
        Ok(vec![work(dy.rows(), dy.cols() + x.cols(), dy.dtype)])
    }
    fn run(&self, io: &Io) {
        match io.float_type() {
            DType::F64 => self.go(io),
            DType::BF16 => self.go_fast::<bf16>(io),
            _ => self.go_fast::<f32>(io),
        }
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        experts::backward_weights(k, self.experts, self.rows_per_token);
        Ok(())
    }
    fn gpu_work(&self, inputs: &[&TensorType], _: &[&TensorType]) -> usize {
        experts::weights_work(inputs[0], inputs[1])
    }
    fn cost(&self, inputs: &[&TensorType], _: &[&TensorType]) -> Cost {
        let sizes = (inputs[1].cols(), inputs[0].cols());
        cost(inputs[2].rows(), self.experts, sizes, inputs[0].dtype)
    }
}

/// `order` and `first` for the experts of all pairs.
fn sorted(expert: &[usize], experts: usize) -> (Vec<i32>, Vec<i32>) {
    let mut order: Vec<i32> = (0..expert.len() as i32).collect();
    order.sort_by_key(|&p| expert[p as usize]);
    let before = |e: usize| expert.iter().filter(|&&x| x < e).count() as i32;
    (order, (0..=experts).map(before).collect())
}

/// A case of `pairs` rows (`per_row` of them from one row of x) by `experts` matrices `[n, i]`.
fn case(
    label: &'static str,
    [per_row, experts, i, n]: [usize; 4],
    expert: Vec<usize>,
    std: f64,
) -> Case {
    let (order, first) = sorted(&expert, experts);
    Case {
        label,
        op: Arc::new(ExpertMatmul { experts, rows_per_token: per_row }),
        inputs: vec![
            (vec![expert.len() / per_row, i], Fill::Normal(1.0), true),
            (vec![experts * n, i], Fill::Normal(std), true),
            (vec![order.len(), 1], Fill::Ints(order), false),
            (vec![first.len(), 1], Fill::Ints(first), false),
        ],
    }
}

/// `tokens` times K different experts, in no order; 3 must not divide their number.
fn scattered(tokens: usize, k: usize, experts: usize) -> Vec<usize> {
    let of = |t: usize, i: usize| (5 * t * t + 4 * t + 3 * i + 1) % experts;
    (0..tokens * k).map(|p| of(p / k, p % k)).collect()
}

fn cases() -> Vec<Case> {
    vec![
        case("a row per token", [3, 7, 9, 5], scattered(6, 3, 7), 0.3),
        case("a row per pair", [1, 7, 9, 5], scattered(6, 3, 7), 0.3),
        case("experts that nobody chooses", [2, 16, 24, 17], scattered(5, 2, 4), 0.3),
        case("one expert for all", [1, 5, 33, 20], vec![3; 41], 0.3),
        case("one token", [4, 8, 40, 12], vec![6, 1, 7, 0], 0.3),
        case("one expert in all", [1, 1, 16, 16], vec![0; 3], 0.3),
        // Rows that are multiples of 16 bytes, several tiles of a device, uneven shares.
        case("aligned rows", [4, 5, 72, 144], scattered(90, 4, 5), 0.3),
        case(
            "aligned rows of pairs",
            [1, 3, 144, 64],
            (0..400).map(|p| p * p % 7 % 3).collect(),
            0.3,
        ),
        case("aligned rows, decode", [2, 8, 128, 48], scattered(3, 2, 8), 0.3),
        // An expert with more than one block of rows on the CPU.
        case(
            "long lists",
            [2, 2, 10, 6],
            (0..1400).map(|p| usize::from(p % 5 == 0)).collect(),
            0.3,
        ),
    ]
}

/// Sizes of real models: the first product of Qwen3-VL-30B-A3B with as many rows per expert as a packed
/// batch and a decoding pass give, for 16 of its 128 experts.
fn bench() -> Vec<Case> {
    let sizes = [8, 16, 2048, 1536];
    vec![
        case("512 tokens, 8 of 16, 2048 x 1536", sizes, scattered(512, 8, 16), 0.02),
        case("decode, 2 tokens, 8 of 16", sizes, scattered(2, 8, 16), 0.02),
    ]
}
