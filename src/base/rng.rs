//! Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): every
//! random number of a run is a pure function of (seed, domain, step, sample, index). No generator
//! state exists, so threads, batches and resumes cannot change a draw.

/// What a random number is for; two domains never share a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum RngDomain {
    /// Initial weights.
    Init = 1,
    /// Token sampling in rollout.
    Sample = 2,
    /// Dropout masks.
    Dropout = 3,
    /// Order of the data set.
    Shuffle = 4,
    /// Generated data sets.
    Data = 5,
    /// Test inputs.
    Test = 6,
    /// Resampling of measured scores.
    Resampling = 7,
}

/// Counter-based generator with a fixed key.
#[derive(Debug, Clone, Copy)]
pub struct Philox {
    key: [u32; 2],
}

impl Philox {
    /// The generator of one run (`seed`) and one use (`domain`).
    pub fn new(seed: u64, domain: RngDomain) -> Self {
        // The domain goes through one multiplication so that nearby seeds and domains never meet.
        let mixed = seed ^ (domain as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        Philox { key: [mixed as u32, (mixed >> 32) as u32] }
    }

    /// The key, for kernels that draw at the same counters.
    pub fn key(&self) -> [u32; 2] {
        self.key
    }

    /// Four random words at a counter.
    pub fn at(&self, step: u32, sample: u32, token: u32, lane: u32) -> [u32; 4] {
        let mut c = [token, sample, step, lane];
        let mut k = self.key;
        for _ in 0..10 {
            let p0 = 0xD251_1F53u64 * u64::from(c[0]);
            let p1 = 0xCD9E_8D57u64 * u64::from(c[2]);
            c = [
                (p1 >> 32) as u32 ^ c[1] ^ k[0],
                p1 as u32,
                (p0 >> 32) as u32 ^ c[3] ^ k[1],
                p0 as u32,
            ];
            k = [k[0].wrapping_add(0x9E37_79B9), k[1].wrapping_add(0xBB67_AE85)];
        }
        c
    }

    /// What [`Philox::at`] gives at `N` lanes from `first` on, for loops that are compiled to vector
    /// code: `key` is (step, sample, token).
    #[inline(always)]
    #[allow(clippy::needless_range_loop, clippy::many_single_char_names)] // four words side by side
    pub fn consecutive<const N: usize>(&self, key: [u32; 3], first: u32) -> [[u32; 4]; N] {
        let [step, sample, token] = key;
        // One counter word of all lanes after the other, in 64 bits each: the products need them,
        // and what a round leaves in the upper halves is never looked at.
        let (mut a, mut b) = ([u64::from(token); N], [u64::from(sample); N]);
        let (mut c, mut d) = ([u64::from(step); N], [0; N]);
        for (i, d) in d.iter_mut().enumerate() {
            *d = u64::from(first.wrapping_add(i as u32));
        }
        let mut k = self.key;
        for _ in 0..10 {
            for i in 0..N {
                let p0 = 0xD251_1F53u64 * (a[i] & 0xffff_ffff);
                let p1 = 0xCD9E_8D57u64 * (c[i] & 0xffff_ffff);
                (a[i], b[i]) = ((p1 >> 32) ^ b[i] ^ u64::from(k[0]), p1);
                (c[i], d[i]) = ((p0 >> 32) ^ d[i] ^ u64::from(k[1]), p0);
            }
            k = [k[0].wrapping_add(0x9E37_79B9), k[1].wrapping_add(0xBB67_AE85)];
        }
        let mut words = [[0; 4]; N];
        for (i, words) in words.iter_mut().enumerate() {
            *words = [a[i] as u32, b[i] as u32, c[i] as u32, d[i] as u32];
        }
        words
    }

    /// A uniform number in [0, 1) with 24 bits.
    pub fn uniform(&self, step: u32, sample: u32, token: u32) -> f32 {
        unit(self.at(step, sample, token, 0)[0])
    }

    /// A sequence of numbers that belongs to (step, sample).
    pub fn stream(&self, step: u32, sample: u32) -> PhiloxStream {
        PhiloxStream { rng: *self, step, sample, next: 0, buffer: [0; 4], used: 4 }
    }
}

fn unit(word: u32) -> f32 {
    (word >> 8) as f32 * (1.0 / (1 << 24) as f32)
}

/// Numbers drawn one after another from one (step, sample) of a [`Philox`].
#[derive(Debug, Clone)]
pub struct PhiloxStream {
    rng: Philox,
    step: u32,
    sample: u32,
    next: u64,
    buffer: [u32; 4],
    used: usize,
}

impl PhiloxStream {
    /// The next random word.
    pub fn word(&mut self) -> u32 {
        if self.used == 4 {
            self.buffer =
                self.rng.at(self.step, self.sample, self.next as u32, (self.next >> 32) as u32);
            self.next += 1;
            self.used = 0;
        }
        self.used += 1;
        self.buffer[self.used - 1]
    }
    /// Uniform in [0, 1).
    pub fn uniform(&mut self) -> f32 {
        unit(self.word())
    }
    /// Uniform integer in `0..n` (n > 0), without modulo bias that a test could see (64-bit scaling).
    pub fn below(&mut self, n: usize) -> usize {
        let wide = (u64::from(self.word()) << 32) | u64::from(self.word());
        ((u128::from(wide) * n as u128) >> 64) as usize
    }
    /// Standard normal (Box-Muller).
    pub fn normal(&mut self) -> f32 {
        let u = 1.0 - self.uniform(); // (0, 1]: the logarithm stays finite
        let v = self.uniform();
        (-2.0 * f64::from(u).ln()).sqrt() as f32
            * (std::f64::consts::TAU * f64::from(v)).cos() as f32
    }
    /// Fisher-Yates shuffle.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_known_answers() {
        // Known-answer vectors of the Random123 distribution (kat_vectors, philox4x32 10).
        let zero = Philox { key: [0, 0] };
        assert_eq!(zero.at(0, 0, 0, 0), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        let ones = Philox { key: [u32::MAX, u32::MAX] };
        assert_eq!(
            ones.at(u32::MAX, u32::MAX, u32::MAX, u32::MAX),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
    }

    #[test]
    fn lanes_side_by_side_are_those_one_by_one() {
        let rng = Philox::new(77, RngDomain::Test);
        for first in [0, 5 << 16, u32::MAX - 3] {
            let lane = |i: u32| rng.at(3, u32::MAX, 9, first.wrapping_add(i));
            let want: Vec<[u32; 4]> = (0..16).map(lane).collect();
            assert_eq!(rng.consecutive::<16>([3, u32::MAX, 9], first).to_vec(), want);
        }
    }

    #[test]
    fn moments_and_bounds() {
        let mut s = Philox::new(7, RngDomain::Test).stream(0, 0);
        let n = 20_000;
        let (mut sum, mut sq) = (0.0, 0.0);
        for _ in 0..n {
            let x = f64::from(s.normal());
            sum += x;
            sq += x * x;
        }
        assert!((sum / f64::from(n)).abs() < 0.03);
        assert!((sq / f64::from(n) - 1.0).abs() < 0.05);
        assert!((0..1000).all(|_| s.below(7) < 7));
    }
}
