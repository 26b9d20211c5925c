//! Two short measurements for `doctor`: how fast matrices are multiplied and how fast memory is
//! copied. Numbers of a second on a machine that may be busy: a hint, never a benchmark.

use std::hint::black_box;
use std::time::{Duration, Instant};

use rayon::prelude::*;

use crate::ops::cpu::{Mat, gemm_f32};

/// Time for each measurement; the first round, which touches the memory, does not count.
const TIME: Duration = Duration::from_millis(400);

/// Floating-point operations per second (two per multiply-add) of a product of square matrices in
/// single precision, on all threads.
pub fn matmul_flops() -> f64 {
    // Far more work per element than memory can be slow, and a few milliseconds on one core.
    const N: usize = 768;
    let a: Vec<f32> = (0..N * N).map(|i| (i % 17) as f32 - 8.0).collect();
    let b: Vec<f32> = (0..N * N).map(|i| (i % 13) as f32 - 6.0).collect();
    let mut c = vec![0f32; N * N];
    let seconds = best_round(|| {
        gemm_f32(Mat::row_major(&a, N, N), Mat::row_major(&b, N, N), black_box(&mut c), N, false);
    });
    2.0 * (N as f64).powi(3) / seconds
}

/// Bytes per second read and written while a block of memory is copied, on all threads.
pub fn copy_bandwidth() -> f64 {
    // Larger than the caches of most processors, small enough for any machine.
    const BYTES: usize = 128 << 20;
    let n = BYTES / size_of::<f32>();
    let from = vec![1f32; n];
    let mut to = vec![0f32; n];
    let piece = n.div_ceil(rayon::current_num_threads());
    let seconds = best_round(|| {
        let pieces = to.par_chunks_mut(piece).zip(from.par_chunks(piece));
        pieces.for_each(|(to, from)| to.copy_from_slice(black_box(from)));
        black_box(&to);
    });
    2.0 * BYTES as f64 / seconds
}

/// Seconds of the fastest of several rounds: others were disturbed by other programs.
fn best_round(mut round: impl FnMut()) -> f64 {
    round();
    let start = Instant::now();
    let mut best = f64::INFINITY;
    while start.elapsed() < TIME {
        let begin = Instant::now();
        round();
        best = best.min(begin.elapsed().as_secs_f64());
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fastest_round_counts() {
        let mut rounds = 0;
        let seconds = best_round(|| {
            rounds += 1;
            std::thread::sleep(Duration::from_millis(if rounds == 2 { 5 } else { 250 }));
        });
        assert!(rounds >= 3 && (0.005..0.25).contains(&seconds), "{rounds} {seconds}");
    }
}
