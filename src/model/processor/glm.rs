//! Images and videos of GLM-4.1V to patches, equal to transformers' `Glm4vImageProcessor` and
//! `Glm4vVideoProcessor`, and how they stand in a chat: the patches of Qwen2-VL, with limits that count
//! the pixels of all frames, those of an image that is repeated to fill a patch as well. Frames were
//! chosen before; no file is decoded here.
//!
//! A video stands in the text as one image after another, each followed by its second.

use super::qwen_image::{ImageProcessorSettings, QwenImageProcessor};
use super::settings_file::read_settings;
use super::smart_resize::whole_video_resize;
use super::{
    Clip, ImageBackend, ProcessorOptions, Visual, VisualProcessor, VisualText, fingerprint,
};
use crate::base::{Error, Result};
use crate::io::dataset::PixelLimits;
use crate::io::image::Image;
use crate::io::video::sampling::FrameSampling;
use crate::model::families::Patching;
use crate::model::positions::TokenRun;
use serde_json::Value;
use std::path::Path;

/// `size.longest_edge` of the published GLM-4.1V: the default of its `smart_resize`.
const PUBLISHED_MAX_PIXELS: u64 = 28 * 28 * 2 * 6144;
/// Limits of Glm4vImageProcessor, for settings that have none.
const IMAGE_PIXELS: (u64, u64) = (112 * 112, 28 * 28 * 15_000);
/// Limits of Glm4vVideoProcessor, for settings that have none.
const VIDEO_PIXELS: (u64, u64) = (112 * 112, 28 * 28 * 2 * 30_000);
/// Frames per second and longest video of Glm4vVideoProcessor, in seconds.
const VIDEO_CLOCK: (f64, f64) = (2.0, 300.0);
/// Key and names of the class.
const IMAGE_CLASS: (&str, &[&str]) = (
    "image_processor_type",
    &["Glm4vImageProcessor", "Glm4vImageProcessorFast", "Glm4vImageProcessorPil"],
);
/// Key and name of the class.
const VIDEO_CLASS: (&str, &[&str]) = ("video_processor_type", &["Glm4vVideoProcessor"]);
/// File of the settings of videos where processor_config.json has none.
const VIDEO_FILE: &str = "video_preprocessor_config.json";

/// Turns images and frames into patches.
#[derive(Debug, Clone)]
pub struct GlmProcessor {
    images: QwenImageProcessor,
    /// Its settings are those of videos, its arithmetic always torchvision's.
    videos: QwenImageProcessor,
    sampling: FrameSampling,
}

impl GlmProcessor {
    /// With the settings of a model folder, or without one with those of published models for patches
    /// of this shape.
    ///
    /// # Errors
    /// If settings are missing, of other classes or cannot be followed, or options contradict them.
    pub fn new(dir: Option<&Path>, patching: Patching, options: &ProcessorOptions) -> Result<Self> {
        match dir {
            Some(dir) => Self::from_dir(dir, options),
            None => Self::published(patching, options),
        }
    }

    fn from_dir(dir: &Path, options: &ProcessorOptions) -> Result<Self> {
        let (file, config) = read_settings(dir, "image_processor", &[])?;
        let images = image_settings(&config).map_err(|e| e.file(dir.join(file)))?;
        let (file, config) = read_settings(dir, "video_processor", &[VIDEO_FILE])?;
        let videos = video_settings(&config).map_err(|e| e.file(dir.join(file)))?;
        Self::of(images, videos, options)
    }

    fn published(patching: Patching, options: &ProcessorOptions) -> Result<Self> {
        let images = published(patching);
        let (min_pixels, max_pixels) = VIDEO_PIXELS;
        let videos = ImageProcessorSettings { min_pixels, max_pixels, ..images.clone() };
        let (fps, max_duration) = VIDEO_CLOCK;
        Self::of(images, (videos, FrameSampling::Glm4v { fps, max_duration }), options)
    }

    fn of(
        images: ImageProcessorSettings,
        (videos, sampling): (ImageProcessorSettings, FrameSampling),
        options: &ProcessorOptions,
    ) -> Result<Self> {
        // Options count the pixels of the image, settings those of all its frames.
        let counted = |limit: Option<u64>| limit.map(|n| n * images.temporal_patch_size as u64);
        let options = ProcessorOptions {
            min_pixels: counted(options.min_pixels),
            max_pixels: counted(options.max_pixels),
            ..options.clone()
        };
        Ok(GlmProcessor {
            images: QwenImageProcessor::new(images)?.with_options(&options)?,
            videos: QwenImageProcessor::new(videos)?.with_backend(ImageBackend::Torchvision),
            sampling,
        })
    }

    /// The settings of images.
    pub fn settings(&self) -> &ImageProcessorSettings {
        self.images.settings()
    }

    /// The visual of a clip, without pixels.
    fn clip_shape(&self, clip: &Clip) -> Result<Visual> {
        let n = clip.frames.len();
        let first = clip.frames.first().filter(|first| {
            let size = (first.width, first.height);
            clip.frames.iter().all(|f| (f.width, f.height) == size) && clip.indices.len() == n
        });
        let Some(&Image { width, height, .. }) = first else {
            return Err(Error::data("the frames of a video are no video")
                .expected("at least one frame, all of one size, each with its number")
                .found(format!("{n} frames and {} numbers", clip.indices.len())));
        };
        let s = self.videos.settings();
        let all = |limit: Option<usize>| limit.map(|pixels| (pixels * n) as u64);
        let given = [all(clip.max_pixels), clip.total_pixels.map(|pixels| pixels as u64)];
        let max = given.into_iter().flatten().min().unwrap_or(s.max_pixels);
        let limits = (all(clip.min_pixels).unwrap_or(s.min_pixels).min(max), max);
        let frames = n.div_ceil(s.temporal_patch_size);
        let mut visual = shape(&self.videos, [n, height, width], frames, limits)?;
        // transformers takes every second time, whatever the number of frames of a patch.
        let times: Vec<f64> = clip.indices.iter().step_by(2).map(|&i| clip.second(i)).collect();
        visual.seconds = (0..frames).map(|i| times[i.min(times.len() - 1)]).collect();
        Ok(visual)
    }
}

/// The visual of `n` frames of a size in pixels that become `frames` rows of patches in time.
fn shape(
    cutter: &QwenImageProcessor,
    [n, height, width]: [usize; 3],
    frames: usize,
    limits: (u64, u64),
) -> Result<Visual> {
    let s = cutter.settings();
    let resized = match s.do_resize {
        true => {
            let (temporal, factor) = (s.temporal_patch_size, s.patch_size * s.merge_size);
            let (h, w) = whole_video_resize([n, height, width], temporal, factor, limits)?;
            (w, h)
        }
        false => cutter.resized_size(width, height)?,
    };
    let (rows, columns) = (resized.1 / s.patch_size, resized.0 / s.patch_size);
    let run = TokenRun::of_grid([1, rows / s.merge_size, columns / s.merge_size]);
    Ok(Visual {
        patches: Vec::new(),
        patch_dim: cutter.patch_dim(),
        grid_thw: [frames, rows, columns],
        original: (width, height),
        resized,
        content: 0,
        runs: vec![run; frames],
        seconds: Vec::new(),
    })
}

impl GlmProcessor {
    /// The same with other limits on the pixels of an image.
    fn within(&self, min: Option<u64>, max: Option<u64>) -> Result<Self> {
        // Limits are of one frame, settings of all.
        let frames = self.images.settings().temporal_patch_size as u64;
        let counted = |limit: Option<u64>| limit.map(|n| n.saturating_mul(frames));
        let images = self.images.within(counted(min), counted(max))?;
        Ok(GlmProcessor { images, ..self.clone() })
    }
}

impl VisualProcessor for GlmProcessor {
    fn image(&self, image: &Image) -> Result<Visual> {
        let mut visual = self.image_shape(image.width, image.height)?;
        let resized = self.images.resize(image, visual.resized.0, visual.resized.1)?;
        self.images.cut(&[&resized], &mut visual.patches);
        visual.content = fingerprint([&*resized]);
        Ok(visual)
    }

    fn image_within(&self, image: &Image, min: Option<u64>, max: Option<u64>) -> Result<Visual> {
        self.within(min, max)?.image(image)
    }

    fn image_shape_within(&self, size: (usize, usize), limits: PixelLimits) -> Result<Visual> {
        self.within(limits.min, limits.max)?.image_shape(size.0, size.1)
    }

    fn image_shape(&self, width: usize, height: usize) -> Result<Visual> {
        let s = self.images.settings();
        let frames = [s.temporal_patch_size, height, width];
        shape(&self.images, frames, 1, (s.min_pixels, s.max_pixels))
    }

    fn sampling(&self) -> Result<FrameSampling> {
        Ok(self.sampling.clone())
    }

    fn video(&self, clip: &Clip) -> Result<Visual> {
        let mut visual = self.clip_shape(clip)?;
        let (width, height) = visual.resized;
        let resize = |frame| self.videos.resize(frame, width, height);
        let resized = clip.frames.iter().map(resize).collect::<Result<Vec<_>>>()?;
        for group in resized.chunks(self.videos.settings().temporal_patch_size) {
            let group: Vec<&Image> = group.iter().map(|frame| &**frame).collect();
            self.videos.cut(&group, &mut visual.patches);
        }
        // Never that of an image: their settings may differ.
        visual.content = !fingerprint(resized.iter().map(|frame| &**frame));
        Ok(visual)
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

fn image_settings(config: &Value) -> Result<ImageProcessorSettings> {
    settings(config, IMAGE_PIXELS, IMAGE_CLASS)
}

/// Settings of videos and which frames are taken.
fn video_settings(config: &Value) -> Result<(ImageProcessorSettings, FrameSampling)> {
    let number = |key: &str, missing: f64| match config.get(key) {
        None | Some(Value::Null) => Ok(missing),
        Some(v) => v
            .as_f64()
            .filter(|n| *n > 0.0)
            .ok_or_else(|| wrong(key, "a number above 0").found(v.to_string())),
    };
    let (fps, max_duration) =
        (number("fps", VIDEO_CLOCK.0)?, number("max_duration", VIDEO_CLOCK.1)?);
    let sampling = match config.get("do_sample_frames") {
        None | Some(Value::Null | Value::Bool(true)) => FrameSampling::Glm4v { fps, max_duration },
        Some(Value::Bool(false)) => FrameSampling::All,
        Some(v) => return Err(wrong("do_sample_frames", "true or false").found(v.to_string())),
    };
    // A folder without settings of videos has those of images for them.
    let class = if config.get(VIDEO_CLASS.0).is_some() { VIDEO_CLASS } else { IMAGE_CLASS };
    Ok((settings(config, VIDEO_PIXELS, class)?, sampling))
}

/// Settings of a class that has its limits in `size` alone.
fn settings(
    config: &Value,
    (min_pixels, max_pixels): (u64, u64),
    class: (&str, &[&str]),
) -> Result<ImageProcessorSettings> {
    for key in ["min_pixels", "max_pixels"] {
        if let Some(v) = config.get(key).filter(|v| !v.is_null()) {
            return Err(wrong(key, "`size.shortest_edge` and `size.longest_edge`")
                .found(v.to_string())
                .hint("GLM's processors in transformers do not read it; remove it"));
        }
    }
    let missing = ImageProcessorSettings { min_pixels, max_pixels, ..Default::default() };
    ImageProcessorSettings::read(config, &missing, class)
}

fn wrong(key: &str, expected: &str) -> Error {
    Error::data("a processor setting cannot be followed").key(key).expected(expected)
}

/// The published settings of images, for patches of this shape.
pub fn published(patching: Patching) -> ImageProcessorSettings {
    ImageProcessorSettings {
        min_pixels: IMAGE_PIXELS.0,
        max_pixels: PUBLISHED_MAX_PIXELS,
        ..ImageProcessorSettings::published(patching)
    }
}

/// Files of a new model, of images and of videos: at least four tokens each, and at most half of a
/// context of `tokens`.
pub fn new_files(patching: Patching, tokens: usize) -> Vec<(&'static str, Value)> {
    let published = published(patching);
    let unit = ((patching.side * patching.merge).pow(2) * patching.frames) as u64;
    let image = ImageProcessorSettings {
        min_pixels: 4 * unit,
        max_pixels: published.max_pixels.min(tokens as u64 / 2 * unit),
        ..published
    };
    let all = image.to_json("Glm4vProcessor");
    let of_class = |class: (&str, &[&str])| {
        let mut file = all.clone();
        file[class.0] = class.1[0].into();
        if let Some(file) = file.as_object_mut() {
            file.retain(|key, _| {
                let other = key.ends_with("_processor_type") && key != class.0;
                !other && key != "min_pixels" && key != "max_pixels"
            });
        }
        file
    };
    let (image, mut video) = (of_class(IMAGE_CLASS), of_class(VIDEO_CLASS));
    video["do_sample_frames"] = true.into();
    video["fps"] = VIDEO_CLOCK.0.into();
    video["max_duration"] = VIDEO_CLOCK.1.into();
    vec![("preprocessor_config.json", image), (VIDEO_FILE, video)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::video::VideoInfo;
    use serde_json::json;

    const PATCHING: Patching = Patching { side: 14, frames: 2, merge: 2 };

    #[test]
    fn settings_are_those_of_glms_classes() {
        let size = json!({"shortest_edge": 7, "longest_edge": 9});
        let config = json!({"size": size, "image_processor_type": "Glm4vImageProcessor"});
        let s = image_settings(&config).unwrap();
        assert_eq!((s.min_pixels, s.max_pixels), (7, 9));
        assert_eq!(image_settings(&json!({})).unwrap().max_pixels, 11_760_000);
        let e = image_settings(&json!({"max_pixels": 5})).unwrap_err().to_string();
        assert!(e.contains("longest_edge"), "{e}");
        let qwen = json!({"image_processor_type": "Qwen2VLImageProcessor"});
        assert!(image_settings(&qwen).unwrap_err().to_string().contains("Glm4vImageProcessor"));
        assert_eq!(
            video_settings(&json!({"do_sample_frames": false})).unwrap().1,
            FrameSampling::All
        );
        assert!(video_settings(&json!({"fps": 0})).unwrap_err().to_string().contains("fps"));
    }

    #[test]
    fn limits_of_a_user_count_the_pixels_of_the_image() {
        let sides = |min, max, height, width| {
            let options =
                ProcessorOptions { min_pixels: min, max_pixels: max, ..Default::default() };
            let p = GlmProcessor::published(PATCHING, &options).unwrap();
            let (w, h) = p.image_shape(width, height).unwrap().resized;
            (h, w)
        };
        // Computed with transformers 5.23, whose limits are twice these.
        let narrow = |h, w| sides(Some(2500), Some(10_000), h, w);
        assert_eq!((sides(None, None, 70, 98), narrow(70, 98)), ((56, 112), (56, 112)));
        assert_eq!((sides(None, None, 10, 10), narrow(10, 10)), ((84, 84), (56, 56)));
        assert_eq!((sides(None, None, 480, 640), narrow(480, 640)), ((476, 644), (84, 112)));
        assert_eq!((sides(None, None, 1, 150), narrow(1, 150)), ((28, 4200), (28, 1204)));
        assert_eq!((sides(None, None, 4000, 3000), narrow(4000, 3000)), ((2520, 1876), (112, 84)));
    }

    #[test]
    fn a_video_is_one_image_after_another_with_its_second() {
        let p = GlmProcessor::published(PATCHING, &ProcessorOptions::default()).unwrap();
        let frames: Vec<Image> =
            (0..5).map(|i| Image::new(56, 112, vec![i * 9; 56 * 112 * 3]).unwrap()).collect();
        let info = VideoInfo { frames: 9, fps: 2.0, width: 56, height: 112, duration: 4.5 };
        let clip = |n: usize, indices| Clip {
            frames: &frames[..n],
            indices,
            info: &info,
            min_pixels: None,
            max_pixels: None,
            total_pixels: None,
        };
        let visual = p.video(&clip(5, &[0, 1, 3, 4, 7])).unwrap();
        assert_eq!((visual.grid_thw, visual.runs.len()), ([3, 8, 4], 3));
        assert_eq!(visual.seconds, [0.0, 1.5, 3.5]);
        let text = p.text(&visual);
        let frame = |s| format!("<|begin_of_image|><|image|><|end_of_image|>{s}");
        assert_eq!(text.text, [frame(0), frame(1), frame(3)].concat());
        assert_eq!((text.written.as_str(), text.runs), ("<|video|>", vec![8; 3]));
        // the last frame fills its patch; the others are followed by the next
        let still = |patch: usize| {
            let patch = &visual.patches[patch * visual.patch_dim..][..2 * 196];
            patch[0] == patch[196]
        };
        assert!(!still(0) && !still(32) && still(64));
        let small = Clip { max_pixels: Some(784 * 2), ..clip(4, &[0, 1, 2, 3]) };
        assert_eq!(p.video(&small).unwrap().resized, (28, 56));
        assert!(p.video(&clip(1, &[0])).is_err() && p.video(&clip(2, &[0])).is_err());
    }

    #[test]
    fn written_files_are_read_again() {
        let files = new_files(PATCHING, 2048);
        let images = image_settings(&files[0].1).unwrap();
        assert_eq!((images.min_pixels, images.max_pixels), (2 * 784 * 4, 2 * 784 * 1024));
        let (videos, sampling) = video_settings(&files[1].1).unwrap();
        assert_eq!(videos, images);
        assert_eq!(sampling, FrameSampling::Glm4v { fps: 2.0, max_duration: 300.0 });
        assert!(files[1].1.get("image_processor_type").is_none());
    }
}
