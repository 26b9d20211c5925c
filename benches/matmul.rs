//! Prints the rate of the CPU's matrix multiplication at sizes of real models, in f32 and bf16,
//! beside the peak of the arithmetic units that it measures first. Measures only; asserts nothing.
//!
//! `cargo bench --bench matmul [-- FILTER]`; threads by `RAYON_NUM_THREADS`.

use grpo_rt::ops::Stored;
use grpo_rt::ops::cpu::gemm::{Element, Factor, Finish, Mat, Term, gemm, pack_panels, panel_words};
use half::bf16;
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

fn numbers<S: Stored>(n: usize) -> Vec<S> {
    (0..n).map(|i| S::store(((i * 2654435761) >> 8 & 0xffff) as f32 / 65536.0 - 0.5)).collect()
}

/// Seconds of `x·Wᵀ` (forward), of the same with packed weights, of `dY·W` (to the input) and of
/// `dYᵀ·X` (to the weight) of one linear layer. Results are of the type of the operands but for the
/// last, which is a gradient.
fn seconds<S: Element>(m: usize, n: usize, k: usize) -> [f64; 4] {
    let (x, w, dy) = (numbers::<S>(m * k), numbers::<S>(n * k), numbers::<S>(m * n));
    let (x, w, dy) =
        (Mat::row_major(&x, m, k), Mat::row_major(&w, n, k), Mat::row_major(&dy, m, n));
    let mut words: Vec<S::Word> = vec![bytemuck::Zeroable::zeroed(); panel_words::<S>(k, n)];
    pack_panels(w.t(), &mut words);
    let (mut y, mut dx, mut dw) =
        (vec![S::store(0.0); m * n], vec![S::store(0.0); m * k], vec![0f32; n * k]);
    let plain = |a, b| [Term { a, b: Factor::Matrix(b) }];
    let packed = [Term { a: x, b: Factor::Panels { words: &words, k, n } }];
    [
        best(|| gemm(&plain(black_box(x), w.t()), Finish::Plain, &mut y, n, false)),
        best(|| gemm(black_box(&packed), Finish::Plain, &mut y, n, false)),
        best(|| gemm(&plain(black_box(dy), w), Finish::Plain, &mut dx, k, false)),
        best(|| gemm(&plain(black_box(dy).t(), x), Finish::Plain, &mut dw, k, true)),
    ]
}

fn row<S: Element>(label: &str, m: usize, n: usize, k: usize, peak: f64) {
    let flops = 2.0 * (m * n * k) as f64;
    let rates = seconds::<S>(m, n, k).map(|t| flops / t / 1e9);
    let bytes = size_of::<S>() as f64 * (m * n + m * k + n * k) as f64;
    println!(
        "{label:<10} {:<8} {m:>5} x{n:>7} x{k:>5}: x·wᵀ {:6.1}  packed {:6.1}  dy·w {:6.1}  dyᵀ·x {:6.1} GFLOP/s  best {:3.0} % of {peak:.0}, packed reads {:5.1} GB/s",
        S::DTYPE.torch_name(),
        rates[0],
        rates[1],
        rates[2],
        rates[3],
        rates.iter().fold(0.0f64, |a, b| a.max(*b)) / peak * 100.0,
        rates[1] / flops * bytes,
    );
}

/// GFLOP/s of products whose operands never leave the nearest cache: what the units can do.
fn peak<S: Element>() -> f64 {
    let (m, n, k) = (12, 64, 256);
    let threads = rayon::current_num_threads();
    let one = || {
        let (x, w) = (numbers::<S>(m * k), numbers::<S>(n * k));
        let mut words: Vec<S::Word> = vec![bytemuck::Zeroable::zeroed(); panel_words::<S>(k, n)];
        pack_panels(Mat::row_major(&w, n, k).t(), &mut words);
        let term =
            [Term { a: Mat::row_major(&x, m, k), b: Factor::Panels { words: &words, k, n } }];
        let mut y = vec![0f32; m * n];
        let t = Instant::now();
        for _ in 0..20_000 {
            gemm(black_box(&term), Finish::Plain, &mut y, n, false);
        }
        20_000.0 * 2.0 * (m * n * k) as f64 / t.elapsed().as_secs_f64() / 1e9
    };
    (0..3)
        .map(|_| {
            std::thread::scope(|s| {
                let all: Vec<_> = (0..threads).map(|_| s.spawn(one)).collect();
                all.into_iter().map(|t| t.join().expect("no panic")).sum::<f64>()
            })
        })
        .fold(0.0, f64::max)
}

fn main() {
    let filter = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    let (single, half) = (peak::<f32>(), peak::<bf16>());
    println!(
        "{} threads; in the nearest cache: float32 {single:.0}, bfloat16 {half:.0} GFLOP/s",
        rayon::current_num_threads()
    );
    for (label, m, n, k) in [
        ("square", 512, 512, 512),
        ("square", 1536, 1536, 1536),
        ("mlp", 480, 8192, 2048),
        ("head", 1024, 1024, 256),
        ("lora", 1024, 16, 2048),
        ("small", 200, 256, 128),
        ("decode 64", 64, 8192, 2048),
        ("decode 16", 16, 8192, 2048),
        ("decode 16", 16, 151_936, 256),
        ("decode 8", 8, 8192, 2048),
        ("decode 1", 1, 8192, 2048),
    ] {
        if label.contains(&filter) {
            row::<f32>(label, m, n, k, single);
            row::<bf16>(label, m, n, k, half);
        }
    }
}
