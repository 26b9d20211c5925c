//! Sizes that divide into patches: the arithmetic of transformers' `smart_resize`, for images and for
//! whole videos. Numbers only; no pixel is touched.

use crate::base::{Error, Result};

/// Largest ratio of the sides that is accepted.
pub const MAX_ASPECT_RATIO: f64 = 200.0;

/// Sides that are multiples of `factor`, hold between `min_pixels` and `max_pixels` pixels and keep
/// the aspect ratio as well as that allows: `smart_resize` of transformers, with Python's rounding
/// of halves to even. Takes and returns height, then width.
///
/// # Errors
/// If a side is 0 or the aspect ratio is above 200.
pub fn smart_resize(
    height: usize,
    width: usize,
    factor: usize,
    min_pixels: u64,
    max_pixels: u64,
) -> Result<(usize, usize)> {
    let (h, w, f) = (height as f64, width as f64, factor as f64);
    if height == 0 || width == 0 || factor == 0 {
        return Err(Error::data("an image or patch without pixels cannot be resized")
            .found(format!("{width} x {height}, factor {factor}")));
    }
    let ratio = h.max(w) / h.min(w);
    if ratio > MAX_ASPECT_RATIO {
        return Err(Error::data("the image is too long and thin")
            .expected(format!("an aspect ratio of at most {MAX_ASPECT_RATIO}"))
            .found(format!("{width} x {height}, a ratio of {ratio}"))
            .hint("crop or pad the image, or remove its row from the data set"));
    }
    // Whole numbers below 2^53, as doubles; Python has integers here.
    let (mut h_bar, mut w_bar) = ((h / f).round_ties_even() * f, (w / f).round_ties_even() * f);
    let pixels = h_bar * w_bar;
    if pixels > max_pixels as f64 {
        let beta = ((h * w) / max_pixels as f64).sqrt();
        h_bar = f.max((h / beta / f).floor() * f);
        w_bar = f.max((w / beta / f).floor() * f);
    } else if pixels < min_pixels as f64 {
        let beta = (min_pixels as f64 / (h * w)).sqrt();
        h_bar = (h * beta / f).ceil() * f;
        w_bar = (w * beta / f).ceil() * f;
    }
    if h_bar < f || w_bar < f {
        return Err(Error::data("the image is smaller than one patch")
            .expected(format!("a min_pixels of at least {}", factor * factor))
            .found(format!("{width} x {height} with min_pixels {min_pixels}")));
    }
    Ok((h_bar as usize, w_bar as usize))
}

/// `smart_resize` of transformers' Qwen3VLVideoProcessor: limits hold for all frames together, and
/// sides below one unit are enlarged first.
///
/// # Errors
/// If there are fewer frames than one patch has, or the sides cannot be.
pub fn whole_video_resize(
    [frames, height, width]: [usize; 3],
    temporal: usize,
    factor: usize,
    (min_pixels, max_pixels): (u64, u64),
) -> Result<(usize, usize)> {
    if frames < temporal {
        return Err(Error::data("the video has too few frames")
            .expected(format!("at least {temporal}"))
            .found(frames.to_string()));
    }
    let (mut height, mut width, f) = (height, width, factor as f64);
    if height > 0 && width > 0 && (height < factor || width < factor) {
        let scale = (f / height as f64).max(f / width as f64);
        height = (height as f64 * scale) as usize;
        width = (width as f64 * scale) as usize;
    }
    // Without limits: checks the sides and rounds them.
    let (h_bar, w_bar) = smart_resize(height, width, factor, 1, u64::MAX)?;
    let t = temporal as f64;
    let t_bar = ((frames as f64 / t).round_ties_even() * t) as u64;
    let (pixels, n) = (t_bar * (h_bar * w_bar) as u64, frames as f64);
    let (h, w) = (height as f64, width as f64);
    if pixels > max_pixels {
        let beta = ((n * h * w) / max_pixels as f64).sqrt();
        let side = |s: f64| f.max((s / beta / f).floor() * f) as usize;
        return Ok((side(h), side(w)));
    }
    if pixels < min_pixels {
        let beta = (min_pixels as f64 / (n * h * w)).sqrt();
        let side = |s: f64| ((s * beta / f).ceil() * f) as usize;
        return Ok((side(h), side(w)));
    }
    Ok((h_bar, w_bar))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_the_classes() {
        // computed with transformers 5.23
        let whole = |n, h, w, min, max| whole_video_resize([n, h, w], 2, 32, (min, max)).unwrap();
        assert_eq!(whole(5, 480, 640, 131_072, 786_432), (320, 448));
        assert_eq!(whole(4, 20, 50, 131_072, 25_165_824), (128, 288));
        assert_eq!(whole(8, 480, 640, 131_072, 25_165_824), (480, 640));
        assert!(whole_video_resize([1, 64, 64], 2, 32, (1, 1 << 20)).is_err());
    }
}
