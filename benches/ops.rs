//! Prints what the machine can do at most, the rate of the CPU's matrix multiplication, and every
//! op of the table at sizes of real models beside its limit, with the time of the best of several
//! runs. Measures only; asserts nothing.
//!
//! `cargo bench --bench ops [-- FILTER]`; threads by `RAYON_NUM_THREADS`.

#[path = "ops/machine.rs"]
mod machine;
#[path = "ops/table.rs"]
mod table;

use grpo_rt::ops::cpu::{Isa, Mat, gemm_f32};
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

fn main() {
    let filter = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    println!("{:?}, {} threads", Isa::best(), rayon::current_num_threads());
    let machine = machine::measure();
    println!(
        "at most {:.0} GFLOP/s in singles, {:.0} GFLOP/s in bf16 dot products, {:.1} GB/s",
        machine.f32_flops / 1e9,
        machine.bf16_flops / 1e9,
        machine.bandwidth / 1e9
    );
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
    table::run(&filter, &machine);
}
