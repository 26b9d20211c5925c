//! Times the kernels that `tools/compare/torch_kernels.py` holds against torch's: prints lines
//! `name seconds gflops`. Measures only; asserts nothing.
//!
//! `cargo bench --bench compare`; threads by `RAYON_NUM_THREADS`.

use grpo_rt::ops::attention::{Attention, Segment, Span};
use grpo_rt::ops::cpu::attention::{backward_dkv, backward_dq, forward};
use grpo_rt::ops::cpu::gemm::{Element, Factor, Finish, Mat, Term, gemm};
use half::bf16;
use std::hint::black_box;
use std::sync::Arc;
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

fn numbers<S: Element>(n: usize, seed: usize) -> Vec<S> {
    let number = |i: usize| ((i + seed).wrapping_mul(2654435761) >> 8 & 0xffff) as f32;
    (0..n).map(|i| S::store(number(i) / 65536.0 - 0.5)).collect()
}

fn report(name: &str, seconds: f64, flops: f64) {
    println!("{name} {seconds} {}", flops / seconds / 1e9);
}

/// A linear layer: `x[m,k] · w[n,k]ᵀ`, both as they lie, the result in the type of the operands.
fn matmul<S: Element>(name: &str, m: usize, n: usize, k: usize) {
    let (x, w) = (numbers::<S>(m * k, 1), numbers::<S>(n * k, 2));
    let b = Factor::Matrix(Mat::row_major(&w, n, k).t());
    let term = [Term { a: Mat::row_major(&x, m, k), b }];
    let mut y = vec![S::store(0.0); m * n];
    let seconds = best(|| gemm(black_box(&term), Finish::Plain, &mut y, n, false));
    report(name, seconds, 2.0 * (m * n * k) as f64);
}

/// Causal attention of `s` tokens over `h` heads of `d`; operations of visible pairs, ten per number
/// and pair for the backward pass.
fn attention(s: usize, h: usize, d: usize) {
    let all = Span { start: 0, len: s };
    let a = Attention {
        heads: h,
        kv_heads: h,
        head_dim: d,
        scale: (d as f64).powf(-0.5),
        segments: Arc::new(vec![Segment { queries: all, keys: vec![all], causal: true }]),
    };
    let [q, k, v, dout] = [1, 2, 3, 4].map(|i| numbers::<bf16>(s * h * d, i));
    let [mut o, mut dq, mut dk, mut dv] = [0; 4].map(|_| vec![bf16::ZERO; s * h * d]);
    let [mut lse, mut delta] = [0; 2].map(|_| vec![0f32; s * h]);
    let flops = 2.0 * (s * s * h * d) as f64;
    let seconds = best(|| forward(&a, [&q, &k, &v], &mut o, &mut lse));
    report(&format!("attention_bf16_s{s}_d{d}_h{h}_causal"), seconds, flops);
    let seconds = best(|| {
        backward_dq(&a, [&q, &k, &v, &o, &dout], &lse, &mut dq, &mut delta);
        backward_dkv(&a, [&q[..], &k, &v, &dout], [&lse, &delta], &mut dk, &mut dv);
    });
    report(&format!("attention_backward_bf16_s{s}_d{d}_h{h}_causal"), seconds, 2.5 * flops);
}

fn main() {
    for (size, m, n, k) in [("1536", 1536, 1536, 1536), ("480x8192x2048", 480, 8192, 2048)] {
        matmul::<f32>(&format!("matmul_f32_{size}"), m, n, k);
        matmul::<bf16>(&format!("matmul_bf16_{size}"), m, n, k);
    }
    attention(1024, 16, 64);
}
