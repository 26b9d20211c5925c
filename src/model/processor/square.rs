//! Images of a family whose tower sees one size: a square, cut into patches row by row (glm-4v-9b:
//! `Resize`, `ToTensor` and `Normalize` of torchvision on a Pillow image). The aspect ratio is not kept.

use super::qwen_image::{OPENAI_CLIP_MEAN, OPENAI_CLIP_STD};
use super::{ProcessorOptions, Visual, VisualProcessor, VisualText, fingerprint};
use crate::base::{Error, Result};
use crate::io::image::pillow_resize::pillow_resize;
use crate::io::image::{Filter, Image};
use crate::model::positions::TokenRun;

/// How images are resized and how they stand in a chat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SquareSettings {
    /// Pixels per side.
    pub side: usize,
    /// Pixels per side of a patch; divides `side`.
    pub patch: usize,
    /// Patches per side of what becomes one feature.
    pub merge: usize,
    /// Features of an image that no patch has.
    pub extra: usize,
    /// What the chat template writes for an image.
    pub written: &'static str,
    /// The token that stands for each feature.
    pub placeholder: &'static str,
}

/// Turns images into patches.
#[derive(Debug, Clone)]
pub struct SquareProcessor {
    settings: SquareSettings,
    /// Normalised value of every pixel value, per channel.
    table: [[f32; 256]; 3],
}

impl SquareProcessor {
    /// A processor; there is nothing in it that a user may change.
    ///
    /// # Errors
    /// If options ask for another size.
    pub fn new(settings: SquareSettings, options: &ProcessorOptions) -> Result<Self> {
        for (key, limit) in [("min_pixels", options.min_pixels), ("max_pixels", options.max_pixels)]
        {
            if let Some(limit) = limit {
                return Err(Error::usage("images of this model have one size")
                    .key(key)
                    .expected(format!("nothing: images become {0} x {0} pixels", settings.side))
                    .found(limit.to_string()));
            }
        }
        // In the single-precision steps of torchvision.
        let value = |c: usize, v: usize| {
            (v as f32 / 255.0 - OPENAI_CLIP_MEAN[c] as f32) / OPENAI_CLIP_STD[c] as f32
        };
        let table = std::array::from_fn(|c| std::array::from_fn(|v| value(c, v)));
        Ok(SquareProcessor { settings, table })
    }

    /// Patches of an image of the size, row by row; each channel by channel, row by row.
    fn cut(&self, image: &Image) -> Vec<f32> {
        let (side, p) = (self.settings.side, self.settings.patch);
        let mut out = Vec::with_capacity(3 * side * side);
        for top in (0..side).step_by(p) {
            for left in (0..side).step_by(p) {
                for (channel, table) in self.table.iter().enumerate() {
                    for y in top..top + p {
                        let row = &image.rgb[(y * side + left) * 3..][..p * 3];
                        out.extend(row.chunks_exact(3).map(|px| table[usize::from(px[channel])]));
                    }
                }
            }
        }
        out
    }
}

impl VisualProcessor for SquareProcessor {
    fn image(&self, image: &Image) -> Result<Visual> {
        let side = self.settings.side;
        let mut visual = self.image_shape(image.width, image.height)?;
        let resized = pillow_resize(image, side, side, Filter::Bicubic)?;
        visual.patches = self.cut(&resized);
        visual.content = fingerprint([&resized]);
        Ok(visual)
    }

    fn image_shape(&self, width: usize, height: usize) -> Result<Visual> {
        let s = &self.settings;
        let (patches, units) = (s.side / s.patch, s.side / s.patch / s.merge);
        let grid = [1, units, units];
        Ok(Visual {
            patches: Vec::new(),
            patch_dim: 3 * s.patch * s.patch,
            grid_thw: [1, patches, patches],
            original: (width, height),
            resized: (s.side, s.side),
            content: 0,
            runs: vec![TokenRun { tokens: units * units + s.extra, grid, time_step: 1.0 }],
            seconds: Vec::new(),
        })
    }

    fn text(&self, visual: &Visual) -> VisualText {
        let s = &self.settings;
        let text = VisualText::placeholder(s.placeholder, visual);
        VisualText { written: s.written.into(), ..text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> SquareSettings {
        SquareSettings {
            side: 4,
            patch: 2,
            merge: 2,
            extra: 2,
            written: "<a><b>",
            placeholder: "<a>",
        }
    }

    #[test]
    fn every_image_is_one_square() {
        let p = SquareProcessor::new(settings(), &ProcessorOptions::default()).unwrap();
        let rgb: Vec<u8> = (0..16).flat_map(|i| [i, i + 100, i + 200]).collect();
        let visual = p.image(&Image::new(4, 4, rgb).unwrap()).unwrap();
        assert_eq!((visual.grid_thw, visual.rows(), visual.patch_dim), ([1, 2, 2], 3, 12));
        let red = |v: usize| p.table[0][v];
        let second = &visual.patches[12..];
        assert_eq!(second[..4], [red(2), red(3), red(6), red(7)]);
        assert_eq!(second[4], p.table[1][102]);
        let other = p.image(&Image::new(9, 2, vec![7; 54]).unwrap()).unwrap();
        assert_eq!((other.rows(), other.patches.len(), other.resized), (3, 48, (4, 4)));
        let text = p.text(&visual);
        assert_eq!(
            (text.written.as_str(), text.text.as_str(), text.runs),
            ("<a><b>", "<a>", vec![3])
        );
    }

    #[test]
    fn another_size_is_refused() {
        let options = ProcessorOptions { max_pixels: Some(9), ..Default::default() };
        let e = SquareProcessor::new(settings(), &options).unwrap_err();
        assert!(e.exit_code() == 2 && e.to_string().contains("4 x 4"), "{e}");
    }
}
