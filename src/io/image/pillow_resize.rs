//! Pillow's `Image.resize` for 8-bit RGB, to the bit (libImaging/Resample.c): double weights
//! rounded to 22 bits of fraction, horizontal pass first, 8 bits between the passes. Reducing gaps
//! and crop boxes are not here.

use super::convolve::{Filter, Pass, resize, round_half_away, weights_f64};
use super::{Image, check_size};
use crate::base::Result;

/// Pillow's `PRECISION_BITS`: 32 bits less 8 of the pixel and 2 of head room.
const PRECISION_BITS: u32 = 32 - 8 - 2;

/// The image in the new size.
///
/// # Errors
/// If a side is 0 or the result has more pixels than [`super::MAX_PIXELS`].
pub fn pillow_resize(image: &Image, width: usize, height: usize, filter: Filter) -> Result<Image> {
    check_size(width as u64, height as u64)?;
    let pass = |from: usize, to: usize| {
        let fixed = |w: &f64| round_half_away(*w * f64::from(1u32 << PRECISION_BITS));
        let weights = weights_f64(filter, from, to).map(fixed);
        (from != to).then_some(Pass { weights, bits: PRECISION_BITS })
    };
    let (horizontal, vertical) = (pass(image.width, width), pass(image.height, height));
    Ok(resize(image, width, height, horizontal.as_ref(), vertical.as_ref()))
}
