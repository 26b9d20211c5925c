//! Run-time choice of the instruction set for plain Rust loops: one body, compiled for AVX-512,
//! AVX2 and the baseline, picked once. No result ever depends on the choice: loops keep a fixed
//! lane structure, and fused multiply-adds are written as `mul_add`, never left to the compiler.
//!
//! The technique is that of the `pulp` crate: an `#[inline(always)]` body is inlined into a
//! function with `#[target_feature]`, so the compiler vectorises the loop with those instructions.

use std::sync::atomic::{AtomicU8, Ordering};

/// Numbers per accumulator of every vector loop here: one AVX-512 register of f32. Fixed, because
/// the order of a sum is part of its result.
pub const LANES: usize = 16;

/// Instruction sets that bodies are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Isa {
    /// Whatever every machine of the architecture has.
    Baseline = 1,
    /// AVX2 with FMA: Haswell, Zen and later.
    Avx2 = 2,
    /// AVX-512 F, VL, BW and DQ with FMA: Skylake-X, Zen 4 and later.
    Avx512 = 3,
}

impl Isa {
    /// The widest set of this machine; asked once.
    pub fn best() -> Isa {
        static BEST: AtomicU8 = AtomicU8::new(0);
        match BEST.load(Ordering::Relaxed) {
            1 => Isa::Baseline,
            2 => Isa::Avx2,
            3 => Isa::Avx512,
            _ => {
                let isa = *Isa::available().last().unwrap_or(&Isa::Baseline);
                BEST.store(isa as u8, Ordering::Relaxed);
                isa
            }
        }
    }

    /// All sets of this machine, narrowest first.
    pub fn available() -> Vec<Isa> {
        let mut sets = vec![Isa::Baseline];
        #[cfg(target_arch = "x86_64")]
        {
            use std::is_x86_feature_detected as has;
            if has!("avx2") && has!("fma") {
                sets.push(Isa::Avx2);
                if has!("avx512f") && has!("avx512vl") && has!("avx512bw") && has!("avx512dq") {
                    sets.push(Isa::Avx512);
                }
            }
        }
        sets
    }
}

/// True if the machine has the AVX-512 dot product of bf16 pairs (Zen 4, Cooper Lake and later).
pub fn has_bf16_dot() -> bool {
    #[cfg(target_arch = "x86_64")]
    return Isa::best() == Isa::Avx512 && std::is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Runs `body` compiled for the widest instruction set of this machine.
///
/// Write the closure as `#[inline(always)] || …`, and mark every function of our own that it calls
/// `#[inline(always)]`: code that stays a call keeps the baseline instructions. Threads do not
/// inherit the choice, so call this inside a rayon loop, not around it.
#[inline]
pub fn vectorised<R>(body: impl FnMut() -> R) -> R {
    vectorised_on(Isa::best(), body)
}

/// Runs `body` compiled for `isa`. Panics if this machine does not have it.
// `FnMut`, not `FnOnce`: calling a closure by value goes through a shim that would not be inlined.
#[inline]
pub fn vectorised_on<R>(isa: Isa, mut body: impl FnMut() -> R) -> R {
    assert!(isa <= Isa::best() || Isa::available().contains(&isa), "{isa:?} is not available");
    match isa {
        // SAFETY: the assertion above: the machine has these features.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { on_avx512(body) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { on_avx2(body) },
        _ => body(),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
fn on_avx512<R>(mut body: impl FnMut() -> R) -> R {
    body()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn on_avx2<R>(mut body: impl FnMut() -> R) -> R {
    body()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let x: Vec<f32> = (0..1003).map(|i| (i as f32 * 0.37).sin()).collect();
        let run = |isa| {
            vectorised_on(
                isa,
                #[inline(always)]
                || x.iter().map(|&v| v.mul_add(1.1, -0.3).mul_add(v, 0.7)).collect::<Vec<f32>>(),
            )
        };
        let want = run(Isa::Baseline);
        for isa in Isa::available() {
            assert_eq!(run(isa), want, "{isa:?}");
        }
    }
}
