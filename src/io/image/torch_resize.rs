//! torchvision's `resize(uint8, antialias=True)` on the CPU, to the bit: torch rounds the weights
//! to 16-bit integers with as many bits of fraction as the largest weight of the pass allows
//! (aten/src/ATen/native/cpu/UpSampleKernel.cpp, `_compute_index_ranges_int16_weights`). Its AVX2,
//! AVX-512 and generic kernels sum the same integers, so bicubic and Lanczos depend neither on the
//! processor nor on the memory format; bilinear is what torchvision gives with AVX2 or on Arm (on
//! older x86 it goes through floats, which is never done here).

use super::convolve::{Filter, Order, Pass, Weights, resize, round_half_away, weights_f64};
use super::{Image, check_size};
use crate::base::Result;

/// The image in the new size.
///
/// # Errors
/// If a side is 0 or the result has more pixels than [`super::MAX_PIXELS`].
pub fn torch_resize(image: &Image, width: usize, height: usize, filter: Filter) -> Result<Image> {
    check_size(width as u64, height as u64)?;
    let pass =
        |from: usize, to: usize| (from != to).then(|| int16_pass(&weights_f64(filter, from, to)));
    let (horizontal, vertical) = (pass(image.width, width), pass(image.height, height));
    Ok(resize(image, (width, height), horizontal.as_ref(), vertical.as_ref(), Order::RowsFirst))
}

/// Rounds weights to 16 bits with the most bits of fraction (at most 22) for which the largest
/// still fits.
fn int16_pass(weights: &Weights<f64>) -> Pass {
    let largest = weights.weights.iter().copied().fold(0.0f64, f64::max);
    let fits = |bits: u32| (0.5 + largest * f64::from(1u32 << bits)) < f64::from(1u32 << 15);
    let bits = (0..22).find(|&bits| !fits(bits + 1)).unwrap_or(22);
    let scale = f64::from(1u32 << bits);
    Pass { weights: weights.map(|w| round_half_away(*w * scale)), bits }
}
