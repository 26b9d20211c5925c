//! Softmax attention over key spans, the one attention of the program: causal text, full and
//! windowed vision attention, prompts shared by a group, and decoding over a KV cache differ only
//! in their [`Segment`]s. Keys are walked in blocks of [`KEY_BLOCK`] by their position within the
//! segment, whatever rows they lie in, so a query's bits depend on nothing but its own keys.
//!
//! T query rows, S key rows, N query heads, M key heads (N a multiple of M), D head size.

use crate::base::{DType, Error, Result, Tolerance};
use crate::ops::cpu::attention as fast;
use crate::ops::gpu::attention as gpu;
use crate::ops::{
    Backward, Case, Cost, Fill, Io, Launcher, Op, OpClass, OpSpec, Real, Slot, Stored, TensorType,
};
use half::bf16;
use std::sync::Arc;

/// Keys per block of the walk.
pub const KEY_BLOCK: usize = 64;

/// Consecutive rows of the key and value inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First row.
    pub start: usize,
    /// Number of rows.
    pub len: usize,
}

/// Consecutive query rows that see the same keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// The query rows.
    pub queries: Span,
    /// The key rows, in order of position.
    pub keys: Vec<Span>,
    /// True if the last `queries.len` keys are the queries' own and a query sees only the keys up
    /// to its own.
    pub causal: bool,
}

impl Segment {
    /// Number of keys.
    pub fn num_keys(&self) -> usize {
        self.keys.iter().map(|s| s.len).sum()
    }
    /// How many keys query `i` of the segment sees.
    pub fn visible(&self, i: usize) -> usize {
        let n = self.num_keys();
        if self.causal { n - self.queries.len + i + 1 } else { n }
    }
    /// The row of each key, in order of position.
    pub fn key_rows(&self) -> impl Iterator<Item = usize> + '_ {
        self.keys.iter().flat_map(|s| s.start..s.start + s.len)
    }
}

/// Inputs: `q[T,N*D]`, `k[S,M*D]`, `v[S,M*D]`. Outputs: `o[T,N*D]` of their type and `lse[T,N]`, the
/// logarithm of the softmax denominator, of the statistics' type.
#[derive(Debug, Clone)]
pub struct Attention {
    /// Query heads N.
    pub heads: usize,
    /// Key heads M.
    pub kv_heads: usize,
    /// Head size D.
    pub head_dim: usize,
    /// Factor on the scores, usually `1/sqrt(D)`; positive.
    pub scale: f64,
    /// Who sees what; query rows in order, each row in exactly one segment.
    pub segments: Arc<Vec<Segment>>,
}

impl Attention {
    fn check(&self, inputs: &[&TensorType]) -> Result<()> {
        let (q, k) = (inputs[0], inputs[1]);
        let bad = |what: String| Err(Error::internal(format!("attention: {what}")));
        let d = self.head_dim;
        if q.cols() != self.heads * d || k.cols() != self.kv_heads * d || k.shape != inputs[2].shape
        {
            return bad(format!(
                "shapes {:?} {:?} for {} heads of {d}",
                q.shape, k.shape, self.heads
            ));
        }
        if self.scale <= 0.0 {
            return bad(format!("scale {}, expected a positive one", self.scale));
        }
        let mut next = 0;
        for s in self.segments.iter() {
            if s.queries.start != next {
                return bad(format!("segment starts at row {} instead of {next}", s.queries.start));
            }
            next += s.queries.len;
            if s.keys.iter().any(|p| p.start + p.len > k.rows()) {
                return bad(format!("keys {:?} leave the {} rows", s.keys, k.rows()));
            }
            if s.num_keys() == 0 || (s.causal && s.num_keys() < s.queries.len) {
                return bad(format!("{} keys for {} queries", s.num_keys(), s.queries.len));
            }
        }
        if next == q.rows() {
            Ok(())
        } else {
            bad(format!("segments cover {next} of {} rows", q.rows()))
        }
    }

    /// Identity of one of the kernels' tables: 0 for queries, 1 for keys. They depend on how many
    /// heads share a key head.
    fn table(&self, kind: u32) -> Option<(usize, u32)> {
        let group = (self.heads / self.kv_heads) as u32;
        Some((Arc::as_ptr(&self.segments) as usize, 2 * group + kind))
    }

    fn fast<T: Stored>(&self, io: &Io) {
        let inputs = std::array::from_fn(|i| io.input::<T>(i));
        fast::forward(self, inputs, io.output(0), io.output(1));
    }

    /// The definition.
    fn fwd<T: Real>(&self, io: &Io) {
        let (q, k, v) = (io.input::<T>(0), io.input::<T>(1), io.input::<T>(2));
        let (o, lse) = (io.output::<T>(0), io.output::<T>(1));
        o.fill(T::zero());
        let (d, n, m) = (self.head_dim, self.heads, self.kv_heads);
        for s in self.segments.iter() {
            let rows: Vec<usize> = s.key_rows().collect();
            for i in 0..s.queries.len {
                let t = s.queries.start + i;
                for h in 0..n {
                    let kv = h / (n / m);
                    let at = |row: usize| (row * m + kv) * d;
                    let qh = &q[(t * n + h) * d..][..d];
                    let seen = &rows[..s.visible(i)];
                    let scores: Vec<T> = seen
                        .iter()
                        .map(|&r| dot(qh, &k[at(r)..][..d]) * T::of(self.scale))
                        .collect();
                    let top = scores.iter().fold(T::neg_infinity(), |a, b| a.max(*b));
                    let sum: T = scores.iter().map(|x| (*x - top).exp()).sum();
                    lse[t * n + h] = top + sum.ln();
                    let out = &mut o[(t * n + h) * d..][..d];
                    for (&r, x) in seen.iter().zip(&scores) {
                        let p = (*x - top).exp() / sum;
                        out.iter_mut().zip(&v[at(r)..][..d]).for_each(|(o, v)| *o += p * *v);
                    }
                }
            }
        }
    }
}

fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    a.iter().zip(b).map(|(x, y)| *x * *y).sum()
}

impl Op for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }
    fn class(&self) -> OpClass {
        OpClass::Attention
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        self.check(inputs)?;
        let q = inputs[0];
        let lse = TensorType::matrix(q.rows(), self.heads, q.dtype.statistic());
        Ok(vec![q.clone(), lse])
    }
    fn run(&self, io: &Io) {
        match io.float_type() {
            DType::F64 => self.fwd::<f64>(io),
            DType::BF16 => self.fast::<bf16>(io),
            _ => self.fast::<f32>(io),
        }
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        gpu::forward(self, k)
    }
    fn table_key(&self) -> Option<(usize, u32)> {
        self.table(0)
    }
    fn table_words(&self) -> Vec<i32> {
        gpu::query_table(self)
    }
    fn backward(&self, b: &mut Backward) -> Result<Vec<Option<Slot>>> {
        let Some(dout) = b.grads[0] else { return Ok(vec![None; 3]) };
        let (q, k, v) = (b.inputs[0], b.inputs[1], b.inputs[2]);
        let (o, lse) = (b.outputs[0], b.outputs[1]);
        let dq = AttentionDq(self.clone());
        let made = b.tape.emit(Arc::new(dq), &[q, k, v, o, lse, dout])?;
        let dkv = AttentionDkv(self.clone());
        let dkv = b.tape.emit(Arc::new(dkv), &[q, k, v, lse, dout, made[1]])?;
        Ok(vec![Some(made[0]), Some(dkv[0]), Some(dkv[1])])
    }
    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let pairs: usize = self
            .segments
            .iter()
            .map(|s| (0..s.queries.len).map(|i| s.visible(i)).sum::<usize>())
            .sum();
        let size = |t: &&TensorType| (t.len() * t.dtype.size()) as f64;
        Cost {
            flops: 4.0 * (pairs * self.heads * self.head_dim) as f64,
            bytes: inputs.iter().map(size).sum::<f64>() + outputs.iter().map(size).sum::<f64>(),
        }
    }
}

/// Gradient of the queries. Inputs `q, k, v, o, lse, do`; outputs `dq[T,N*D]` and
/// `delta[T,N] = Σ_d o·do`, which the keys' gradient needs too.
#[derive(Debug, Clone)]
struct AttentionDq(Attention);

impl AttentionDq {
    fn fast<T: Stored>(&self, io: &Io) {
        let inputs = [0, 1, 2, 3, 5].map(|i| io.input::<T>(i));
        fast::backward_dq(&self.0, inputs, io.input(4), io.output(0), io.output(1));
    }

    fn go<T: Real>(&self, io: &Io) {
        let a = &self.0;
        let (q, k, v) = (io.input::<T>(0), io.input::<T>(1), io.input::<T>(2));
        let (o, lse, dout) = (io.input::<T>(3), io.input::<T>(4), io.input::<T>(5));
        let (dq, delta) = (io.output::<T>(0), io.output::<T>(1));
        dq.fill(T::zero());
        let (d, n, m) = (a.head_dim, a.heads, a.kv_heads);
        for s in a.segments.iter() {
            let rows: Vec<usize> = s.key_rows().collect();
            for i in 0..s.queries.len {
                for h in 0..n {
                    let th = (s.queries.start + i) * n + h;
                    let (qh, doh) = (&q[th * d..][..d], &dout[th * d..][..d]);
                    delta[th] = dot(&o[th * d..][..d], doh);
                    for &r in &rows[..s.visible(i)] {
                        let at = (r * m + h / (n / m)) * d;
                        let kh = &k[at..][..d];
                        let p = (dot(qh, kh) * T::of(a.scale) - lse[th]).exp();
                        let ds = p * (dot(doh, &v[at..][..d]) - delta[th]) * T::of(a.scale);
                        let out = dq[th * d..][..d].iter_mut();
                        out.zip(kh).for_each(|(g, k)| *g += ds * *k);
                    }
                }
            }
        }
    }
}

impl Op for AttentionDq {
    fn name(&self) -> &'static str {
        "attention_bwd_dq"
    }
    fn infer(&self, i: &[&TensorType]) -> Result<Vec<TensorType>> {
        Ok(vec![i[0].clone(), i[4].clone()])
    }
    fn run(&self, io: &Io) {
        match io.float_type() {
            DType::F64 => self.go::<f64>(io),
            DType::BF16 => self.fast::<bf16>(io),
            _ => self.fast::<f32>(io),
        }
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        gpu::backward_dq(&self.0, k)
    }
    fn table_key(&self) -> Option<(usize, u32)> {
        self.0.table(0)
    }
    fn table_words(&self) -> Vec<i32> {
        gpu::query_table(&self.0)
    }
    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let c = self.0.cost(inputs, outputs);
        Cost { flops: c.flops * 1.5, ..c }
    }
}

/// Gradient of keys and values. Inputs `q, k, v, lse, do, delta`; outputs `dk, dv [S,M*D]`.
#[derive(Debug, Clone)]
struct AttentionDkv(Attention);

impl AttentionDkv {
    fn fast<T: Stored>(&self, io: &Io) {
        let inputs = [0, 1, 2, 4].map(|i| io.input::<T>(i));
        let statistics = [io.input(3), io.input(5)];
        fast::backward_dkv(&self.0, inputs, statistics, io.output(0), io.output(1));
    }

    fn go<T: Real>(&self, io: &Io) {
        let a = &self.0;
        let (q, k, v) = (io.input::<T>(0), io.input::<T>(1), io.input::<T>(2));
        let (lse, dout, delta) = (io.input::<T>(3), io.input::<T>(4), io.input::<T>(5));
        let (dk, dv) = (io.output::<T>(0), io.output::<T>(1));
        dk.fill(T::zero());
        dv.fill(T::zero());
        let (d, n, m) = (a.head_dim, a.heads, a.kv_heads);
        for s in a.segments.iter() {
            let rows: Vec<usize> = s.key_rows().collect();
            for i in 0..s.queries.len {
                for h in 0..n {
                    let th = (s.queries.start + i) * n + h;
                    let (qh, doh) = (&q[th * d..][..d], &dout[th * d..][..d]);
                    for &r in &rows[..s.visible(i)] {
                        let at = (r * m + h / (n / m)) * d;
                        let p = (dot(qh, &k[at..][..d]) * T::of(a.scale) - lse[th]).exp();
                        let ds = p * (dot(doh, &v[at..][..d]) - delta[th]) * T::of(a.scale);
                        dk[at..][..d].iter_mut().zip(qh).for_each(|(g, q)| *g += ds * *q);
                        dv[at..][..d].iter_mut().zip(doh).for_each(|(g, o)| *g += p * *o);
                    }
                }
            }
        }
    }
}

impl Op for AttentionDkv {
    fn name(&self) -> &'static str {
        "attention_bwd_dkv"
    }
    fn infer(&self, i: &[&TensorType]) -> Result<Vec<TensorType>> {
        Ok(vec![i[1].clone(), i[2].clone()])
    }
    fn run(&self, io: &Io) {
        match io.float_type() {
            DType::F64 => self.go::<f64>(io),
            DType::BF16 => self.fast::<bf16>(io),
            _ => self.fast::<f32>(io),
        }
    }
    fn launch(&self, k: &mut Launcher) -> Result<()> {
        gpu::backward_dkv(&self.0, k)
    }
    fn table_key(&self) -> Option<(usize, u32)> {
        self.0.table(1)
    }
    fn table_words(&self) -> Vec<i32> {
        gpu::key_table(&self.0)
    }
    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let c = self.0.cost(inputs, outputs);
        Cost { flops: c.flops * 2.0, ..c }
    }
}

fn cases() -> Vec<Case> {
    let case = |label, n: usize, m: usize, d: usize, rows: usize, segments: Vec<Segment>| {
        let t = segments.iter().map(|s| s.queries.len).sum::<usize>();
        let op = Attention {
            heads: n,
            kv_heads: m,
            head_dim: d,
            scale: 1.0 / (d as f64).sqrt(),
            segments: Arc::new(segments),
        };
        Case {
            label,
            op: Arc::new(op),
            inputs: vec![
                (vec![t, n * d], Fill::Normal(1.0), true),
                (vec![rows, m * d], Fill::Normal(1.0), true),
                (vec![rows, m * d], Fill::Normal(1.0), true),
            ],
        }
    };
    let seg = |start, len, keys: &[(usize, usize)], causal| Segment {
        queries: Span { start, len },
        keys: keys.iter().map(|&(start, len)| Span { start, len }).collect(),
        causal,
    };
    vec![
        case("causal", 4, 2, 16, 9, vec![seg(0, 9, &[(0, 9)], true)]),
        case(
            "two windows, full",
            3,
            3,
            20,
            11,
            vec![seg(0, 4, &[(0, 4)], false), seg(4, 7, &[(4, 7)], false)],
        ),
        case(
            "prompt shared by three completions",
            4,
            1,
            8,
            70 + 3 + 2 + 5,
            vec![
                seg(0, 70, &[(0, 70)], true),
                seg(70, 3, &[(0, 70), (70, 3)], true),
                seg(73, 2, &[(0, 70), (73, 2)], true),
                seg(75, 5, &[(0, 70), (75, 5)], true),
            ],
        ),
        case(
            "decoding: one query each over scattered rows",
            2,
            1,
            32,
            40,
            vec![seg(0, 1, &[(30, 5), (2, 3)], true), seg(1, 1, &[(10, 20)], true)],
        ),
        case("several blocks of keys", 2, 2, 80, 150, vec![seg(0, 150, &[(0, 150)], true)]),
        // The head sizes that kernels are made for, beside 80: those of the vision towers and decoders.
        case("head size 64", 4, 2, 64, 71, vec![seg(0, 71, &[(0, 71)], true)]),
        case("head size 72", 2, 2, 72, 70, vec![seg(0, 70, &[(0, 70)], false)]),
        case("head size 96", 2, 1, 96, 70, vec![seg(0, 70, &[(0, 70)], true)]),
        // Sizes between those: kernels of the next one, whose last columns are empty.
        case("head size 88", 2, 2, 88, 20, vec![seg(0, 20, &[(0, 20)], false)]),
        case("head size 104", 2, 1, 104, 20, vec![seg(0, 20, &[(0, 20)], true)]),
        case("head size 112", 2, 2, 112, 20, vec![seg(0, 20, &[(0, 20)], false)]),
        case(
            "head size 128, seven heads to one",
            7,
            1,
            128,
            40,
            vec![seg(0, 40, &[(0, 40)], true)],
        ),
    ]
}

/// Sizes of real models.
fn bench() -> Vec<Case> {
    let case = |label, segments: Vec<Segment>, rows: usize| {
        let t = segments.iter().map(|s| s.queries.len).sum();
        let (heads, kv_heads, head_dim) = (16, 2, 128);
        let op = Attention {
            heads,
            kv_heads,
            head_dim,
            scale: (head_dim as f64).powf(-0.5),
            segments: Arc::new(segments),
        };
        let matrix = |rows, cols| (vec![rows, cols], Fill::Normal(1.0), true);
        let (q, k) = (matrix(t, heads * head_dim), matrix(rows, kv_heads * head_dim));
        Case { label, op: Arc::new(op), inputs: vec![q, k.clone(), k] }
    };
    let segment = |start, len, key, keys| Segment {
        queries: Span { start, len },
        keys: vec![Span { start: key, len: keys }],
        causal: true,
    };
    let decode = (0..16).map(|i| segment(i, 1, i * 600, 600)).collect();
    vec![
        case("causal, 1024 tokens", vec![segment(0, 1024, 0, 1024)], 1024),
        case("16 queries of 600 keys", decode, 9600),
    ]
}

/// Row of the op table.
pub static SPEC: OpSpec = OpSpec {
    name: "attention",
    doc: "softmax attention over key spans",
    cases,
    tolerance: Tolerance { abs: 2e-6, rel: 5e-6 },
    bf16_roundings: 2,
    bench,
};
