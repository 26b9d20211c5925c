//! Which sides an image or a video is resized to: the rules of transformers' processors that cut patches
//! unit by unit, with what else those classes do not share (their names and default limits). Sizes
//! alone; no pixel is ever touched here.

use super::qwen_image::{MAX_ASPECT_RATIO, smart_resize};
use crate::base::{Error, Result};

/// Whose rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ResizeRule {
    /// `Qwen2VLImageProcessor`: limits count the pixels of one frame.
    #[default]
    Qwen2Vl,
    /// `Glm4vImageProcessor`: limits count the pixels of all frames that enter, and images below one
    /// unit are enlarged to it first.
    Glm4v,
}

impl ResizeRule {
    /// Values of `image_processor_type`, the one to write first.
    pub fn classes(self) -> &'static [&'static str] {
        match self {
            ResizeRule::Qwen2Vl => &[
                "Qwen2VLImageProcessor",
                "Qwen2VLImageProcessorFast",
                "Qwen2VLImageProcessorPil",
                "Qwen2_5_VLImageProcessor",
            ],
            ResizeRule::Glm4v => {
                &["Glm4vImageProcessor", "Glm4vImageProcessorFast", "Glm4vImageProcessorPil"]
            }
        }
    }

    /// Limits of transformers' class, for settings that have none.
    pub fn class_pixels(self) -> (u64, u64) {
        match self {
            ResizeRule::Qwen2Vl => (56 * 56, 28 * 28 * 1280),
            ResizeRule::Glm4v => (112 * 112, 28 * 28 * 15_000),
        }
    }

    /// How often the limits count a pixel of an image that becomes `frames` frames.
    pub fn counted(self, frames: usize) -> u64 {
        match self {
            ResizeRule::Qwen2Vl => 1,
            ResizeRule::Glm4v => frames as u64,
        }
    }

    /// Height and width to resize an image to that is repeated to fill patches of `frames` frames.
    ///
    /// # Errors
    /// If a side is 0 or the aspect ratio is above [`MAX_ASPECT_RATIO`].
    pub fn image_sides(
        self,
        (height, width): (usize, usize),
        (factor, frames): (usize, usize),
        (min_pixels, max_pixels): (u64, u64),
    ) -> Result<(usize, usize)> {
        match self {
            ResizeRule::Qwen2Vl => smart_resize(height, width, factor, min_pixels, max_pixels),
            ResizeRule::Glm4v => {
                let patch = (factor, frames);
                glm_sides((frames, height, width), patch, (min_pixels, max_pixels))
            }
        }
    }
}

/// Height and width for `frames` frames of this size: multiples of `factor` such that the pixels of all
/// frames, rounded to whole patches in time, are between the limits (`smart_resize` of transformers'
/// glm4v, with Python's rounding of halves to even).
///
/// # Errors
/// If there are fewer frames than a patch has, a side is 0, or the aspect ratio is above 200.
pub fn glm_sides(
    (frames, height, width): (usize, usize, usize),
    (factor, patch_frames): (usize, usize),
    (min_pixels, max_pixels): (u64, u64),
) -> Result<(usize, usize)> {
    if height == 0 || width == 0 || factor == 0 {
        return Err(Error::data("an image or patch without pixels cannot be resized")
            .found(format!("{width} x {height}, factor {factor}")));
    }
    if frames < patch_frames {
        return Err(Error::data("the video is shorter than one patch")
            .expected(format!("at least {patch_frames} frames"))
            .found(frames.to_string()));
    }
    let (mut h, mut w, f, t) = (height as f64, width as f64, factor as f64, frames as f64);
    if h < f || w < f {
        let scale = (f / h).max(f / w);
        (h, w) = ((h * scale).trunc(), (w * scale).trunc());
    }
    let ratio = h.max(w) / h.min(w);
    if ratio > MAX_ASPECT_RATIO {
        return Err(Error::data("the image is too long and thin")
            .expected(format!("an aspect ratio of at most {MAX_ASPECT_RATIO}"))
            .found(format!("{width} x {height}, a ratio of {ratio}"))
            .hint("crop or pad the image, or remove its row from the data set"));
    }
    let p = patch_frames as f64;
    let (mut h_bar, mut w_bar) = ((h / f).round_ties_even() * f, (w / f).round_ties_even() * f);
    let pixels = (t / p).round_ties_even() * p * h_bar * w_bar;
    if pixels > max_pixels as f64 {
        let beta = (t * h * w / max_pixels as f64).sqrt();
        h_bar = f.max((h / beta / f).floor() * f);
        w_bar = f.max((w / beta / f).floor() * f);
    } else if pixels < min_pixels as f64 {
        let beta = (min_pixels as f64 / (t * h * w)).sqrt();
        h_bar = (h * beta / f).ceil() * f;
        w_bar = (w * beta / f).ceil() * f;
    }
    Ok((h_bar as usize, w_bar as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn glm_counts_the_pixels_of_all_frames() {
        // Computed with transformers 5.23.
        let wide = |t, h, w| glm_sides((t, h, w), (28, 2), (12_544, 9_633_792)).unwrap();
        let narrow = |t, h, w| glm_sides((t, h, w), (28, 2), (5000, 20_000)).unwrap();
        assert_eq!((wide(2, 70, 98), narrow(2, 70, 98)), ((56, 112), (56, 112)));
        assert_eq!((wide(2, 10, 10), narrow(2, 10, 10)), ((84, 84), (56, 56)));
        assert_eq!((wide(2, 480, 640), narrow(2, 480, 640)), ((476, 644), (84, 112)));
        assert_eq!((wide(2, 1, 150), narrow(2, 1, 150)), ((28, 4200), (28, 1204)));
        assert_eq!((wide(2, 4000, 3000), narrow(2, 4000, 3000)), ((2520, 1876), (112, 84)));
        assert_eq!((wide(16, 480, 640), narrow(16, 480, 640)), ((476, 644), (28, 28)));
        assert_eq!((wide(3, 100, 100), narrow(3, 100, 100)), ((112, 112), (56, 56)));
    }

    #[test]
    fn sizes_that_cannot_be_are_errors() {
        let sides = |t, h, w| glm_sides((t, h, w), (28, 2), (1, 10_000));
        assert!(sides(2, 0, 5).is_err());
        assert!(sides(1, 50, 50).unwrap_err().to_string().contains("2 frames"));
        assert!(sides(2, 30, 9000).unwrap_err().to_string().contains("200"));
    }
}
