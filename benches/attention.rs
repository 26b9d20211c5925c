//! Prints the rate of attention, forward and backward, in singles and bf16: causal passes of 1,024
//! tokens, a group that shares its prompt, and decoding. Measures only; asserts nothing.
//!
//! `cargo bench --bench attention [-- FILTER]`; threads by `RAYON_NUM_THREADS`. Rates count
//! `4 D` operations per visible pair and head forward, ten backward, however often a score is
//! computed again.

use grpo_rt::ops::attention::{Attention, Segment, Span};
use grpo_rt::ops::cpu::attention::{backward_dkv, backward_dq, forward};
use grpo_rt::ops::{Op, Stored, TensorType};
use half::bf16;
use std::sync::Arc;
use std::time::Instant;

/// Seconds of the best run: at least five runs and a second.
fn best(mut f: impl FnMut()) -> f64 {
    f();
    let (mut best, start, mut runs) = (f64::MAX, Instant::now(), 0);
    while runs < 5 || start.elapsed().as_secs_f64() < 1.0 {
        let t = Instant::now();
        f();
        best = best.min(t.elapsed().as_secs_f64());
        runs += 1;
    }
    best
}

fn numbers<T: Stored>(n: usize, seed: usize) -> Vec<T> {
    let number = |i: usize| ((i + seed).wrapping_mul(2654435761) >> 8 & 0xffff) as f32;
    (0..n).map(|i| T::store(number(i) / 16384.0 - 2.0)).collect()
}

fn bench<T: Stored>(label: &str, a: &Attention, with_backward: bool) {
    let queries: usize = a.segments.iter().map(|s| s.queries.len).sum();
    let spans = a.segments.iter().flat_map(|s| &s.keys);
    let keys = spans.map(|s| s.start + s.len).max().unwrap_or(0);
    let (cols, kv_cols) = (a.heads * a.head_dim, a.kv_heads * a.head_dim);
    let q = numbers::<T>(queries * cols, 1);
    let [k, v] = [2, 3].map(|i| numbers::<T>(keys * kv_cols, i));
    let dout = numbers::<T>(queries * cols, 4);
    let mut o = vec![T::store(0.0); queries * cols];
    let [mut lse, mut delta] = [0; 2].map(|_| vec![0.0; queries * a.heads]);
    let types = [(queries, cols), (keys, kv_cols), (keys, kv_cols)]
        .map(|(rows, cols)| TensorType::matrix(rows, cols, T::DTYPE));
    let flops = a.cost(&types.each_ref(), &[]).flops;
    let mut line = format!("{label:<24} {:<5}", T::DTYPE.safetensors_name());
    let mut report = |what: &str, seconds: f64, flops: f64| {
        line += &format!("  {what} {:8.3} ms {:6.1} GFLOP/s", seconds * 1e3, flops / seconds / 1e9);
    };
    let t = best(|| forward(a, [&q, &k, &v], &mut o, &mut lse));
    report("forward", t, flops);
    if with_backward {
        let mut dq = vec![T::store(0.0); queries * cols];
        let [mut dk, mut dv] = [0; 2].map(|_| vec![T::store(0.0); keys * kv_cols]);
        let t_q = best(|| backward_dq(a, [&q, &k, &v, &o, &dout], &lse, &mut dq, &mut delta));
        let inputs = [&q[..], &k, &v, &dout];
        let t_kv = best(|| backward_dkv(a, inputs, [&lse, &delta], &mut dk, &mut dv));
        report("dq", t_q, flops);
        report("dkv", t_kv, flops * 1.5);
        report("backward", t_q + t_kv, flops * 2.5);
    }
    println!("{line}");
}

fn attention(heads: usize, kv_heads: usize, head_dim: usize, segments: Vec<Segment>) -> Attention {
    let scale = (head_dim as f64).powf(-0.5);
    Attention { heads, kv_heads, head_dim, scale, segments: Arc::new(segments) }
}

fn segment(start: usize, len: usize, keys: &[(usize, usize)]) -> Segment {
    let keys = keys.iter().map(|&(start, len)| Span { start, len }).collect();
    Segment { queries: Span { start, len }, keys, causal: true }
}

fn main() {
    let filter = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    println!("{} threads", rayon::current_num_threads());
    let causal = |n| vec![segment(0, n, &[(0, n)])];
    let own = |i: usize, len: usize, prompt: usize| (prompt + i * len, len);
    let group = |prompt: usize, members: usize, len: usize| -> Vec<Segment> {
        let completion =
            |i| segment(own(i, len, prompt).0, len, &[(0, prompt), own(i, len, prompt)]);
        [segment(0, prompt, &[(0, prompt)])]
            .into_iter()
            .chain((0..members).map(completion))
            .collect()
    };
    let decoding = |prompt: usize, members: usize, len: usize| -> Vec<Segment> {
        (0..members).map(|i| segment(i, 1, &[(0, prompt), own(i, len, prompt)])).collect()
    };
    let cases = [
        ("causal 1024 d64 h16", attention(16, 16, 64, causal(1024)), true),
        ("causal 1024 d128 h16/2", attention(16, 2, 128, causal(1024)), true),
        ("causal 1024 d80 h16", attention(16, 16, 80, causal(1024)), true),
        ("causal 100 d64 h2", attention(2, 2, 64, causal(100)), true),
        ("group 300+8x40 d64 h4/2", attention(4, 2, 64, group(300, 8, 40)), true),
        ("decode 16x(1000+64) h4", attention(4, 4, 64, decoding(1000, 16, 64)), false),
        ("decode 1x1064 h4", attention(4, 4, 64, decoding(1000, 1, 64)), false),
    ];
    for (label, a, with_backward) in &cases {
        if label.contains(&filter) {
            bench::<f32>(label, a, *with_backward);
            bench::<bf16>(label, a, *with_backward);
        }
    }
}
