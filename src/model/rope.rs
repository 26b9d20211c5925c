//! Rotary tables: positions and frequencies to cosines and sines, in the single-precision steps of
//! transformers. Which axis turns which column is data; tensors and ops never appear here.
//!
//! Legend: D rotated dimensions of a head.

/// Cosines and sines of rotary positions, `[rows, half]` each, for `half = D / 2` turned pairs.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeTables {
    /// Columns: pairs that are turned.
    pub half: usize,
    /// Cosines, row-major.
    pub cos: Vec<f32>,
    /// Sines, row-major.
    pub sin: Vec<f32>,
}

impl RopeTables {
    /// `axis_of[j]` names the position axis and `inv_freq[j]` the frequency of column `j`. The angle is
    /// the single-precision product, as in transformers; its cosine is rounded once, from double.
    pub fn new<const A: usize>(
        positions: &[[i32; A]],
        inv_freq: &[f32],
        axis_of: &[usize],
    ) -> Self {
        let half = inv_freq.len();
        let mut cos = Vec::with_capacity(positions.len() * half);
        let mut sin = Vec::with_capacity(positions.len() * half);
        for position in positions {
            for (&frequency, &axis) in inv_freq.iter().zip(axis_of) {
                let angle = f64::from(position[axis] as f32 * frequency);
                cos.push(angle.cos() as f32);
                sin.push(angle.sin() as f32);
            }
        }
        RopeTables { half, cos, sin }
    }

    /// Tables of (row, column) positions: `D / 4` frequencies turned by the row, then the same by the
    /// column. The two-dimensional rotation of vision towers, for a head of `head_dim`.
    pub fn of_grid(positions: &[[i32; 2]], head_dim: usize, theta: f64) -> Self {
        let one = rope_inv_freq(head_dim / 2, theta);
        let axes: Vec<usize> = (0..2 * one.len()).map(|j| j / one.len()).collect();
        RopeTables::new(positions, &one.repeat(2), &axes)
    }
}

/// `dim / 2` inverse frequencies `theta^(-2i / dim)`, in the single-precision steps of transformers
/// (exponent, power and reciprocal are rounded one after another).
pub fn rope_inv_freq(dim: usize, theta: f64) -> Vec<f32> {
    (0..dim / 2)
        .map(|i| {
            let exponent = (2 * i) as f32 / dim as f32;
            1.0 / (theta.powf(f64::from(exponent)) as f32)
        })
        .collect()
}

/// The position axis (0 temporal, 1 height, 2 width) that turns each frequency, where neighbouring
/// frequencies share an axis (config key `mrope_section`).
pub fn mrope_axes(section: [usize; 3]) -> Vec<usize> {
    section.iter().enumerate().flat_map(|(axis, &n)| std::iter::repeat_n(axis, n)).collect()
}

/// As [`mrope_axes`], where the axes take turns (Qwen3-VL, `mrope_interleaved`): frequencies 1, 4, 7..
/// are turned by the height and 2, 5, 8.. by the width until each axis has its number; the temporal
/// position turns the others.
pub fn mrope_interleaved_axes(section: [usize; 3]) -> Vec<usize> {
    let half: usize = section.iter().sum();
    (0..half).map(|i| if i % 3 > 0 && i < 3 * section[i % 3] { i % 3 } else { 0 }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_of_frequencies() {
        assert_eq!(mrope_axes([1, 2, 1]), [0, 1, 1, 2]);
        assert_eq!(mrope_interleaved_axes([2, 2, 2]), [0, 1, 2, 0, 1, 2]);
        assert_eq!(mrope_interleaved_axes([4, 3, 3]), [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]);
        // the published 24, 20, 20: places 60 to 63 are temporal
        let axes = mrope_interleaved_axes([24, 20, 20]);
        let of = |axis| axes.iter().filter(|&&a| a == axis).count();
        assert_eq!(([of(0), of(1), of(2)], axes.len()), ([24, 20, 20], 64));
        assert_eq!(axes[58..], [1, 2, 0, 0, 0, 0]);
    }
}
