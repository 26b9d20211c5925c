//! What the machine can do at most, measured with the simplest loops: multiply-adds per second and
//! bytes per second, on all threads. Measures nothing of the program.

use grpo_rt::ops::cpu::vectorised;
use rayon::prelude::*;
use std::hint::black_box;
use std::time::Instant;

/// Limits of the machine.
#[derive(Debug, Clone, Copy)]
pub struct Machine {
    /// Operations per second of fused multiply-adds in singles (two each).
    pub f32_flops: f64,
    /// Operations per second of dot products of pairs of bf16 added to singles (four each); that of
    /// singles if the machine has no such instruction.
    pub bf16_flops: f64,
    /// Bytes per second, read or copied, whichever is faster.
    pub bandwidth: f64,
}

/// Seconds of the best of several runs.
fn best(mut f: impl FnMut()) -> f64 {
    f();
    let (start, mut best) = (Instant::now(), f64::MAX);
    while start.elapsed().as_secs_f64() < 0.5 {
        let t = Instant::now();
        f();
        best = best.min(t.elapsed().as_secs_f64());
    }
    best
}

/// Rounds of the arithmetic loops.
const ROUNDS: usize = 1 << 20;
/// Independent sums, to hide the latency of one.
const SUMS: usize = 12;

fn multiply_adds() {
    let (x, y) = black_box((0.999f32, 0.001f32));
    let sums = vectorised(
        #[inline(always)]
        || {
            let mut sums = [1f32; SUMS * 16];
            for _ in 0..ROUNDS {
                for sum in &mut sums {
                    *sum = sum.mul_add(x, y);
                }
            }
            sums
        },
    );
    black_box(sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
fn bf16_dot_products() {
    use std::arch::x86_64::*;
    let ones = black_box(_mm512_set1_ps(0.001));
    let pairs = _mm512_cvtne2ps_pbh(ones, ones);
    let mut sums = [_mm512_setzero_ps(); SUMS];
    for _ in 0..ROUNDS {
        for sum in &mut sums {
            *sum = _mm512_dpbf16_ps(*sum, pairs, pairs);
        }
    }
    black_box(sums);
}

/// Operations per second of the bf16 dot product instruction, if the machine has it.
fn bf16_flops() -> Option<f64> {
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx512bf16") && std::is_x86_feature_detected!("avx512f") {
        // SAFETY: the machine has the instructions.
        let t = best(|| drop(rayon::broadcast(|_| unsafe { bf16_dot_products() })));
        let count = ROUNDS * SUMS * 64 * rayon::current_num_threads();
        return Some(count as f64 / t);
    }
    None
}

fn bandwidth() -> f64 {
    const N: usize = 32 << 20;
    let from = vec![1f32; N];
    let mut to = vec![0f32; N];
    let piece = N.div_ceil(rayon::current_num_threads());
    let copy = best(|| {
        to.par_chunks_mut(piece).zip(from.par_chunks(piece)).for_each(|(to, from)| {
            to.copy_from_slice(black_box(from));
        });
    });
    let read = best(|| {
        from.par_chunks(piece).for_each(|x| {
            let sum = vectorised(
                #[inline(always)]
                || {
                    let mut sums = [0f32; 64];
                    for x in x.as_chunks::<64>().0 {
                        for (s, x) in sums.iter_mut().zip(x) {
                            *s += x;
                        }
                    }
                    sums
                },
            );
            black_box(sum);
        });
    });
    let bytes = (N * size_of::<f32>()) as f64;
    (bytes / read).max(2.0 * bytes / copy)
}

/// Measures the machine.
pub fn measure() -> Machine {
    let t = best(|| drop(rayon::broadcast(|_| multiply_adds())));
    let f32_flops = (ROUNDS * SUMS * 32 * rayon::current_num_threads()) as f64 / t;
    let bf16_flops = bf16_flops().unwrap_or(f32_flops);
    Machine { f32_flops, bf16_flops, bandwidth: bandwidth() }
}
