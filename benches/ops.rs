//! Prints the rate of the CPU's matrix multiplication and of its memory-bound ops at sizes of
//! real models, with the time of the best of several runs. Measures only; asserts nothing.
//!
//! `cargo bench --bench ops [-- FILTER]`; threads by `RAYON_NUM_THREADS`.

use grpo_rt::base::DType;
use grpo_rt::device::HostArena;
use grpo_rt::mem::plan::aligned;
use grpo_rt::ops::adamw::AdamW;
use grpo_rt::ops::cpu::{Isa, Mat, gemm_f32};
use grpo_rt::ops::dropout::Dropout;
use grpo_rt::ops::*;
use std::hint::black_box;
use std::time::Instant;

/// Seconds of the best run: at least three runs and a third of a second.
fn best(mut f: impl FnMut()) -> f64 {
    f();
    let (mut best, start, mut runs) = (f64::MAX, Instant::now(), 0);
    while runs < 3 || start.elapsed().as_secs_f64() < 0.33 {
        let t = Instant::now();
        f();
        best = best.min(t.elapsed().as_secs_f64());
        runs += 1;
    }
    best
}

fn numbers(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 2654435761) >> 8 & 0xffff) as f32 / 65536.0 - 0.5).collect()
}

/// `x·Wᵀ` (forward), `dY·W` (to the input) and `dYᵀ·X` (to the weight) of one linear layer.
fn bench_gemm(label: &str, m: usize, n: usize, k: usize) {
    let (x, w) = (numbers(m * k), numbers(n * k));
    let mut c = vec![0f32; m * n];
    let flops = 2.0 * (m * n * k) as f64;
    let mut rate = |a: Mat<f32>, b: Mat<f32>| {
        let t = best(|| gemm_f32(black_box(a), b, &mut c, n, false));
        flops / t / 1e9
    };
    let nt = rate(Mat::row_major(&x, m, k), Mat::row_major(&w, n, k).t());
    let nn = rate(Mat::row_major(&x, m, k), Mat::row_major(&w, k, n));
    let tn = rate(Mat::row_major(&x, k, m).t(), Mat::row_major(&w, k, n));
    let read = nt / flops * 4.0 * (m * n + m * k + n * k) as f64;
    println!(
        "gemm {label:<10} {m:>5} x{n:>6} x{k:>5}: a·bᵀ {nt:6.1}  a·b {nn:6.1}  aᵀ·b {tn:6.1} GFLOP/s  ({read:5.1} GB/s)"
    );
}

/// One node over `inputs` (shape, type) and, for ops in place, `in_place` outputs of f32.
fn bench_op(op: &dyn Op, inputs: &[(&[usize], DType)], in_place: &[&[usize]]) {
    let types: Vec<TensorType> =
        inputs.iter().map(|(s, d)| TensorType { shape: s.to_vec(), dtype: *d }).collect();
    let mut outs = op.infer(&types.iter().collect::<Vec<_>>()).expect("shapes fit");
    outs.extend(in_place.iter().map(|s| TensorType { shape: s.to_vec(), dtype: DType::F32 }));
    let all: Vec<&TensorType> = types.iter().chain(&outs).collect();
    let bytes = |t: &TensorType| aligned(t.len() * t.dtype.size());
    let arena = HostArena::reserve(all.iter().map(|t| bytes(t)).sum()).expect("memory");
    let mut at = 0;
    let mut bind = |t| {
        let view = arena.view(at, TensorType::len(t), t.dtype);
        at += bytes(t);
        // SAFETY: the range is new.
        match t.dtype {
            DType::F32 => unsafe { view.slice_mut() }.copy_from_slice(&numbers(t.len())),
            _ => (0..).zip(unsafe { view.slice_mut::<i32>() }).for_each(|(i, x)| *x = i % 97),
        }
        (view, t)
    };
    let i: Vec<_> = types.iter().map(&mut bind).collect();
    let o: Vec<_> = outs.iter().map(&mut bind).collect();
    // SAFETY: one node at a time.
    let t = best(|| op.run(&unsafe { Io::new(&i, &o) }));
    let inferred: Vec<&TensorType> = types.iter().collect();
    let cost = op.cost(&inferred, &outs.iter().collect::<Vec<_>>());
    println!(
        "{:<22} {:>9.3} ms  {:6.1} GB/s  {:6.1} GFLOP/s",
        op.name(),
        t * 1e3,
        cost.bytes / t / 1e9,
        cost.flops / t / 1e9
    );
}

fn bench_ops(filter: &str) {
    let f = DType::F32;
    let (t, h, d): (&[usize], &[usize], &[usize]) = (&[1024, 2048], &[2048], &[1024, 64]);
    let key: &[usize] = &[1024, 2];
    let dropout = Dropout { p: 0.1, seed: 1, step: 1, site: 1, is_backward: false };
    let adamw = AdamW { lr: 1e-9, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, step: 9 };
    type Row<'a> = (&'a dyn Op, &'a [(&'a [usize], DType)], &'a [&'a [usize]]);
    let rows: &[Row] = &[
        (&rms_norm::RmsNorm { eps: 1e-6 }, &[(t, f), (h, f)], &[]),
        (&layer_norm::LayerNorm { eps: 1e-6 }, &[(t, f), (h, f), (h, f)], &[]),
        (&swiglu::Swiglu, &[(t, f), (t, f)], &[]),
        (&gelu::Gelu { kind: gelu::GeluKind::Erf }, &[(t, f)], &[]),
        (&gelu::Gelu { kind: gelu::GeluKind::Tanh }, &[(t, f)], &[]),
        (&gelu::Gelu { kind: gelu::GeluKind::Quick }, &[(t, f)], &[]),
        (&rope::Rope { head_dim: 128, inverse: false }, &[(t, f), (d, f), (d, f)], &[]),
        (&add::Add, &[(t, f), (t, f)], &[]),
        (&embed::Embed, &[(t, f), (&[1024, 1], DType::I32)], &[]),
        (&gather_rows::GatherRows, &[(t, f), (&[1024, 1], DType::I32)], &[]),
        (&dropout, &[(t, f), (key, DType::I32)], &[]),
        (&adamw, &[(t, f), (&[2], f)], &[t, t, t]),
        (&grad_norm::GradNorm { max_norm: 1.0 }, &[(t, f)], &[]),
        (&zero::Zero, &[], &[t]),
        (&grad_norm::GradNorm { max_norm: 1.0 }, &[(&[16384, 2048], f)], &[]),
    ];
    for (op, inputs, in_place) in rows {
        if op.name().contains(filter) {
            bench_op(*op, inputs, in_place);
        }
    }
}

fn main() {
    let filter = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    println!("{:?}, {} threads", Isa::best(), rayon::current_num_threads());
    for (label, m, n, k) in [
        ("square", 512, 512, 512),
        ("square", 1536, 1536, 1536),
        ("mlp", 480, 8192, 2048),
        ("lora", 1024, 16, 2048),
        ("small", 200, 256, 128),
        ("decode 16", 16, 8192, 2048),
        ("decode 8", 8, 8192, 2048),
        ("decode 1", 1, 8192, 2048),
    ] {
        if format!("gemm {label}").contains(&filter) {
            bench_gemm(label, m, n, k);
        }
    }
    bench_ops(&filter);
}
