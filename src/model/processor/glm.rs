//! Images and videos of GLM-4.1V: the patches of Qwen2-VL's processor, resized by another rule
//! ([`ResizeRule::Glm4v`]), in the words of transformers' `Glm4vProcessor`. Frames were chosen before;
//! no file is decoded here.
//!
//! A video stands in the text as one image after another, each followed by its second.

use super::qwen_image::{ImageProcessorSettings, QwenImageProcessor, read_settings};
use super::resize_rule::{ResizeRule, glm_sides};
use super::{
    ImageBackend, ProcessorOptions, Visual, VisualProcessor, VisualText, fingerprint,
};
use crate::base::{Error, Result};
use crate::io::image::Image;
use crate::model::families::Patching;
use crate::model::positions::TokenRun;
use serde_json::Value;
use std::path::Path;

/// `size.longest_edge` of the published GLM-4.1V: the default of its `smart_resize`.
const PUBLISHED_MAX_PIXELS: u64 = 28 * 28 * 2 * 6144;
/// Limits of Glm4vImageProcessor and Glm4vVideoProcessor, for settings that have none.
const IMAGE_PIXELS: (u64, u64) = (112 * 112, 28 * 28 * 15_000);
const VIDEO_PIXELS: (u64, u64) = (112 * 112, 28 * 28 * 2 * 30_000);
/// Keys and names of the classes.
const IMAGE_CLASS: (&str, &[&str]) = (
    "image_processor_type",
    &["Glm4vImageProcessor", "Glm4vImageProcessorFast", "Glm4vImageProcessorPil"],
);
const VIDEO_CLASS: (&str, &[&str]) = ("video_processor_type", &["Glm4vVideoProcessor"]);
/// File of the settings of videos where processor_config.json has none.
const VIDEO_FILE: &str = "video_preprocessor_config.json";

/// Turns images and frames into patches.
#[derive(Debug, Clone)]
pub struct GlmProcessor {
    images: QwenImageProcessor,
    /// Its settings are those of videos, its arithmetic always torchvision's.
    frames: QwenImageProcessor,
}

impl GlmProcessor {
    /// Reads the settings of a model folder.
    ///
    /// # Errors
    /// If they are missing, of other classes, or cannot be followed.
    pub fn from_dir(dir: &Path, options: &ProcessorOptions) -> Result<Self> {
        let (file, config) = read_settings(dir, "image_processor", &[])?;
        let path = dir.join(file);
        let images = of_image(&config).map_err(|e| e.file(&path))?;
        let (file, config) = read_settings(dir, "video_processor", &[VIDEO_FILE])?;
        let path = dir.join(file);
        let frames = of_class(&config, VIDEO_PIXELS, VIDEO_CLASS).map_err(|e| e.file(&path))?;
        Self::new(images, frames, options)
    }

    /// A processor of these settings of images and of videos.
    ///
    /// # Errors
    /// If a size, limit or standard deviation is 0.
    pub fn new(
        images: ImageProcessorSettings,
        frames: ImageProcessorSettings,
        options: &ProcessorOptions,
    ) -> Result<Self> {
        Ok(GlmProcessor {
            images: QwenImageProcessor::new(images)?.with_options(options)?,
            frames: QwenImageProcessor::new(frames)?.with_backend(ImageBackend::Torchvision),
        })
    }

    /// The published processor, for patches of this shape.
    ///
    /// # Errors
    /// If options contradict it.
    pub fn published(patching: Patching, options: &ProcessorOptions) -> Result<Self> {
        let images = published(patching);
        let (min_pixels, max_pixels) = VIDEO_PIXELS;
        let frames = ImageProcessorSettings { min_pixels, max_pixels, ..images.clone() };
        Self::new(images, frames, options)
    }

    /// The settings of images.
    pub fn settings(&self) -> &ImageProcessorSettings {
        self.images.settings()
    }

    /// Resizes, normalises and cuts the frames that were chosen of a video; `seconds[i]` is the time of
    /// frame i.
    ///
    /// # Errors
    /// If there are fewer frames than a patch has, or they cannot be resized.
    pub fn video(&self, frames: &[Image], seconds: &[f64]) -> Result<Visual> {
        let first = frames.first().filter(|f| {
            frames.iter().all(|o| (o.width, o.height) == (f.width, f.height))
                && seconds.len() == frames.len()
        });
        let Some(&Image { width, height, .. }) = first else {
            return Err(Error::data("the frames of a video are no video")
                .expected("at least one frame, all of one size, each with its time")
                .found(format!("{} frames and {} times", frames.len(), seconds.len())));
        };
        let mut visual = self.video_shape(width, height, seconds)?;
        let (width, height) = visual.resized;
        let resized = frames
            .iter()
            .map(|frame| self.frames.resize(frame, width, height))
            .collect::<Result<Vec<_>>>()?;
        for group in resized.chunks(self.frames.settings().temporal_patch_size) {
            let group: Vec<&Image> = group.iter().map(|frame| &**frame).collect();
            self.frames.cut(&group, &mut visual.patches);
        }
        // Never that of an image: their settings may differ.
        visual.content = !fingerprint(resized.iter().map(|frame| &**frame));
        Ok(visual)
    }

    /// The visual of frames of this width and height at these times, without pixels.
    ///
    /// # Errors
    /// As [`GlmProcessor::video`].
    pub fn video_shape(&self, width: usize, height: usize, seconds: &[f64]) -> Result<Visual> {
        let s = self.frames.settings();
        let patch = (s.patch_size * s.merge_size, s.temporal_patch_size);
        let resized = match s.do_resize {
            true => {
                let limits = (s.min_pixels, s.max_pixels);
                let (h, w) = glm_sides((seconds.len(), height, width), patch, limits)?;
                (w, h)
            }
            false => self.frames.resized_size(width, height)?,
        };
        // One time for each patch: transformers takes every second one, whatever a patch holds.
        let frames = seconds.len().div_ceil(s.temporal_patch_size);
        let last = seconds.len().saturating_sub(1) / 2 * 2;
        let time = |i: usize| seconds.get((2 * i).min(last)).copied().unwrap_or(0.0);
        let (rows, columns) = (resized.1 / s.patch_size, resized.0 / s.patch_size);
        let run = TokenRun::of_grid([1, rows / s.merge_size, columns / s.merge_size]);
        Ok(Visual {
            patches: Vec::new(),
            patch_dim: self.frames.patch_dim(),
            grid_thw: [frames, rows, columns],
            original: (width, height),
            resized,
            content: 0,
            runs: vec![run; frames],
            seconds: (0..frames).map(time).collect(),
        })
    }
}

/// Settings of images; GLM's class has its limits in `size` alone.
fn of_image(config: &Value) -> Result<ImageProcessorSettings> {
    for key in ["min_pixels", "max_pixels"] {
        if config.get(key).is_some_and(|v| !v.is_null()) {
            return Err(Error::data("an image processor setting cannot be followed")
                .key(key)
                .expected("`size.shortest_edge` and `size.longest_edge`")
                .found(key)
                .hint("Glm4vImageProcessor of transformers does not read it; remove it"));
        }
    }
    of_class(config, IMAGE_PIXELS, IMAGE_CLASS)
}

fn of_class(
    config: &Value,
    (min_pixels, max_pixels): (u64, u64),
    class: (&str, &[&str]),
) -> Result<ImageProcessorSettings> {
    let missing = ImageProcessorSettings {
        min_pixels,
        max_pixels,
        resize_rule: ResizeRule::Glm4v,
        ..ImageProcessorSettings::default()
    };
    ImageProcessorSettings::read(config, &missing, class)
}

/// The published settings of images, for patches of this shape.
pub fn published(patching: Patching) -> ImageProcessorSettings {
    ImageProcessorSettings {
        min_pixels: IMAGE_PIXELS.0,
        max_pixels: PUBLISHED_MAX_PIXELS,
        resize_rule: ResizeRule::Glm4v,
        ..ImageProcessorSettings::published(patching)
    }
}

/// Files of a new model: settings of images and of videos, with the same limits.
pub fn files(settings: &ImageProcessorSettings) -> Vec<(&'static str, Value)> {
    let mut image = settings.to_json("Glm4vProcessor");
    let mut video = image.clone();
    video["video_processor_type"] = VIDEO_CLASS.1[0].into();
    video["do_sample_frames"] = true.into();
    video["fps"] = 2.into();
    video["max_duration"] = 300.into();
    for (file, keys) in [
        (&mut image, &["min_pixels", "max_pixels"][..]),
        (&mut video, &["min_pixels", "max_pixels", IMAGE_CLASS.0]),
    ] {
        keys.iter().for_each(|key| drop(file.as_object_mut().map(|file| file.remove(*key))));
    }
    vec![("preprocessor_config.json", image), (VIDEO_FILE, video)]
}

impl VisualProcessor for GlmProcessor {
    fn image(&self, image: &Image) -> Result<Visual> {
        self.images.process(image)
    }
    fn image_shape(&self, width: usize, height: usize) -> Result<Visual> {
        self.images.image_shape(width, height)
    }
    fn text(&self, visual: &Visual) -> VisualText {
        const IMAGE: &str = "<|image|>";
        let image = VisualText::placeholder(IMAGE, visual);
        if visual.seconds.is_empty() {
            return image;
        }
        let frame = |s: &f64| format!("<|begin_of_image|>{IMAGE}<|end_of_image|>{}", s.trunc());
        let text = visual.seconds.iter().map(frame).collect();
        VisualText { written: "<|video|>".into(), text, runs: image.runs }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const PATCHING: Patching = Patching { side: 14, frames: 2, merge: 2 };

    #[test]
    fn settings_are_those_of_glms_classes() {
        let size = json!({"shortest_edge": 7, "longest_edge": 9});
        let s = of_image(&json!({"size": size, "image_processor_type": "Glm4vImageProcessor"}));
        let s = s.unwrap();
        assert_eq!((s.min_pixels, s.max_pixels, s.resize_rule), (7, 9, ResizeRule::Glm4v));
        assert_eq!(of_image(&json!({})).unwrap().max_pixels, 11_760_000);
        let e = of_image(&json!({"max_pixels": 5})).unwrap_err().to_string();
        assert!(e.contains("longest_edge"), "{e}");
        let qwen = json!({"image_processor_type": "Qwen2VLImageProcessor"});
        assert!(of_image(&qwen).unwrap_err().to_string().contains("Glm4vImageProcessor"));
    }

    #[test]
    fn limits_of_a_user_count_the_pixels_of_the_image() {
        let options = ProcessorOptions { max_pixels: Some(784 * 6), ..Default::default() };
        let p = GlmProcessor::published(PATCHING, &options).unwrap();
        assert_eq!(p.settings().max_pixels, 2 * 784 * 6);
        let visual = p.image_shape(280, 280).unwrap();
        assert!(visual.rows() <= 6 && visual.rows() > 2, "{}", visual.rows());
        assert_eq!(p.text(&visual).runs, [visual.rows()]);
    }

    #[test]
    fn a_video_is_one_image_after_another_with_its_second() {
        let p = GlmProcessor::published(PATCHING, &ProcessorOptions::default()).unwrap();
        let frames: Vec<Image> =
            (0..5).map(|i| Image::new(56, 112, vec![i * 9; 56 * 112 * 3]).unwrap()).collect();
        let visual = p.video(&frames, &[0.0, 0.5, 1.0, 1.5, 2.0]).unwrap();
        assert_eq!((visual.grid_thw, visual.runs.len()), ([3, 8, 4], 3));
        assert_eq!(visual.seconds, [0.0, 1.0, 2.0]);
        let text = p.text(&visual);
        let frame = |s| format!("<|begin_of_image|><|image|><|end_of_image|>{s}");
        assert_eq!(text.text, [frame(0), frame(1), frame(2)].concat());
        assert_eq!((text.written.as_str(), text.runs), ("<|video|>", vec![8; 3]));
        // the last frame fills its patch; the others are followed by the next
        let halves = |patch: usize| {
            let patch = &visual.patches[patch * visual.patch_dim..][..2 * 196];
            patch[0] == patch[196]
        };
        assert!(!halves(0) && !halves(32) && halves(64));
        assert!(p.video(&frames[..1], &[0.0]).unwrap_err().to_string().contains("2 frames"));
        assert!(p.video(&frames, &[0.0]).is_err());
    }

    #[test]
    fn written_files_are_read_again() {
        let settings = published(PATCHING).within_context(2048);
        let files = files(&settings);
        for (name, content) in &files {
            assert_eq!(content["size"]["longest_edge"], 2 * 784 * 1024, "{name}");
        }
        assert_eq!(of_image(&files[0].1).unwrap(), settings);
        assert_eq!(of_class(&files[1].1, VIDEO_PIXELS, VIDEO_CLASS).unwrap(), settings);
    }
}
