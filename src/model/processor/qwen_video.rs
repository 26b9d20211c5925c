//! Videos of the Qwen-VL families to patches, equal to transformers' `Qwen2VLVideoProcessor` and
//! `Qwen3VLVideoProcessor` to the bit, and how they stand in a chat. Frames were chosen before; no file
//! is decoded here.
//!
//! Frames go in groups of `temporal_patch_size` to one patch in time; the last is repeated where they do
//! not divide.

use crate::base::{Error, Result};
use crate::io::dataset::PixelLimits;
use crate::io::image::Image;
use crate::io::video::sampling::{FrameCount, FrameSampling};
use crate::model::positions::TokenRun;
use crate::model::processor::qwen_image::{ImageProcessorSettings, QwenImageProcessor};
use crate::model::processor::settings_file::read_settings;
use crate::model::processor::smart_resize::{smart_resize, whole_video_resize};
use crate::model::processor::{
    Clip, ImageBackend, ProcessorOptions, Visual, VisualProcessor, VisualText, fingerprint,
};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::path::Path;

/// File of the settings in transformers 4; where neither it nor `video_processor` of
/// processor_config.json is there, those of images count.
const VIDEO_FILE: &str = "video_preprocessor_config.json";
/// Frames taken per second where nothing says how many (qwen-vl-utils).
const DEFAULT_FPS: f64 = 2.0;

/// How a family treats videos.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum VideoStyle {
    /// Pixel limits hold for each frame; frames are one position apart (Qwen2-VL).
    Frames,
    /// As above; positions follow the clock (Qwen2.5-VL).
    Clock {
        /// Positions per second (`vision_config.tokens_per_second`).
        tokens_per_second: usize,
    },
    /// Pixel limits hold for the whole video; every patch in time is a run of tokens of its own with
    /// its time written before it (Qwen3-VL).
    Timestamps,
}

impl VideoStyle {
    fn class(self) -> &'static str {
        match self {
            VideoStyle::Timestamps => "Qwen3VLVideoProcessor",
            _ => "Qwen2VLVideoProcessor",
        }
    }

    /// What the class has for keys that are missing.
    fn class_settings(self) -> ImageProcessorSettings {
        match self {
            VideoStyle::Timestamps => ImageProcessorSettings {
                min_pixels: 128 * 32 * 32,
                max_pixels: 32 * 32 * 768,
                patch_size: 16,
                image_mean: [0.5; 3],
                image_std: [0.5; 3],
                ..Default::default()
            },
            _ => ImageProcessorSettings {
                min_pixels: 128 * 28 * 28,
                max_pixels: 28 * 28 * 768,
                ..Default::default()
            },
        }
    }

    /// `max_video_tokens` of the class.
    fn class_tokens(self) -> u64 {
        match self {
            VideoStyle::Timestamps => 768,
            _ => 128_000,
        }
    }
}

/// Everything that decides pixels and tokens of a video.
#[derive(Debug, Clone, PartialEq)]
pub struct QwenVideoSettings {
    /// Sizes, limits and values, with the meanings that `style` gives the limits.
    pub pixels: ImageProcessorSettings,
    /// How the family treats videos.
    pub style: VideoStyle,
    /// `max_video_tokens`, if `cap_pixels_per_frame` makes it count.
    pub max_video_tokens: Option<u64>,
    /// `do_sample_frames`: whether frames are chosen from the video at all.
    pub sample_frames: bool,
    /// Frames to choose per second, if the settings say so.
    pub fps: Option<f64>,
    /// Frames to choose, if the settings say so.
    pub num_frames: Option<usize>,
    /// Least frames to choose by `fps`.
    pub min_frames: usize,
    /// Most frames to choose by `fps`.
    pub max_frames: usize,
}

impl QwenVideoSettings {
    /// Those of the class, for patches as those of images.
    pub fn of_class(style: VideoStyle, images: &ImageProcessorSettings) -> Self {
        let pixels = ImageProcessorSettings {
            patch_size: images.patch_size,
            temporal_patch_size: images.temporal_patch_size,
            merge_size: images.merge_size,
            ..style.class_settings()
        };
        let sample_frames = style == VideoStyle::Timestamps;
        QwenVideoSettings {
            pixels,
            style,
            max_video_tokens: None,
            sample_frames,
            fps: sample_frames.then_some(2.0),
            num_frames: None,
            min_frames: 4,
            max_frames: 768,
        }
    }

    /// Reads the settings of a model folder as transformers 5 does: `video_processor` of
    /// processor_config.json, video_preprocessor_config.json, or what images have.
    ///
    /// # Errors
    /// If none of the files is there or a key has a value that cannot be followed.
    pub fn from_dir(dir: &Path, style: VideoStyle) -> Result<Self> {
        let (file, config) = read_settings(dir, "video_processor", &[VIDEO_FILE])?;
        Self::from_json(&config, style).map_err(|e| e.file(dir.join(file)))
    }

    /// Reads the object of a video_preprocessor_config.json.
    ///
    /// # Errors
    /// If it belongs to another processor, or a key has a value of the wrong type.
    pub fn from_json(config: &Value, style: VideoStyle) -> Result<Self> {
        let class = ("video_processor_type", &[style.class()][..]);
        let pixels = ImageProcessorSettings::read(config, &style.class_settings(), class)?;
        let missing = Self::of_class(style, &pixels);
        let number = |key: &str| match config.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(v) => match v.as_f64().filter(|n| *n > 0.0) {
                Some(n) => Ok(Some(n)),
                None => Err(wrong(key, "a number above 0", v)),
            },
        };
        let flag = |key: &str, missing: bool| match config.get(key) {
            None | Some(Value::Null) => Ok(missing),
            Some(v) => v.as_bool().ok_or_else(|| wrong(key, "true or false", v)),
        };
        let whole = |key: &str| number(key).map(|n| n.map(|n| n as usize));
        let tokens = whole("max_video_tokens")?.map_or(style.class_tokens(), |n| n as u64);
        Ok(QwenVideoSettings {
            max_video_tokens: flag("cap_pixels_per_frame", false)?.then_some(tokens),
            sample_frames: flag("do_sample_frames", missing.sample_frames)?,
            fps: number("fps")?.or(missing.fps),
            num_frames: whole("num_frames")?,
            min_frames: whole("min_frames")?.unwrap_or(missing.min_frames),
            max_frames: whole("max_frames")?.unwrap_or(missing.max_frames),
            pixels,
            ..missing
        })
    }

    /// The object of a video_preprocessor_config.json.
    pub fn to_json(&self) -> Value {
        let p = &self.pixels;
        json!({
            "video_processor_type": self.style.class(),
            "cap_pixels_per_frame": self.max_video_tokens.is_some(),
            "do_convert_rgb": true,
            "do_normalize": p.do_normalize,
            "do_rescale": p.do_rescale,
            "do_resize": p.do_resize,
            "do_sample_frames": self.sample_frames,
            "fps": self.fps,
            "image_mean": p.image_mean,
            "image_std": p.image_std,
            "max_frames": self.max_frames,
            "max_video_tokens": self.max_video_tokens.unwrap_or(self.style.class_tokens()),
            "merge_size": p.merge_size,
            "min_frames": self.min_frames,
            "num_frames": self.num_frames,
            "patch_size": p.patch_size,
            "resample": p.resample.pil(),
            "rescale_factor": p.rescale_factor,
            "size": { "shortest_edge": p.min_pixels, "longest_edge": p.max_pixels },
            "temporal_patch_size": p.temporal_patch_size,
        })
    }

    /// Those of a new model: two frames a second, and at most half of a context of `tokens`.
    pub fn within_context(
        style: VideoStyle,
        images: &ImageProcessorSettings,
        tokens: usize,
    ) -> Self {
        let unit = (images.patch_size * images.merge_size).pow(2) as u64;
        let class = Self::of_class(style, images);
        let half = tokens as u64 / 2;
        let (max_pixels, cap) = match style {
            // a patch in time has the pixels of all its frames
            VideoStyle::Timestamps => (half * unit * images.temporal_patch_size as u64, None),
            _ => (class.pixels.max_pixels.min(half * unit), Some(half)),
        };
        let pixels =
            ImageProcessorSettings { min_pixels: images.min_pixels, max_pixels, ..class.pixels };
        let max_frames = (tokens / 32).max(4); // at the least size of a frame they still fit
        QwenVideoSettings {
            pixels,
            max_video_tokens: cap,
            sample_frames: true,
            fps: Some(2.0),
            max_frames: max_frames.min(class.max_frames),
            ..class
        }
    }

    /// Frames that are taken where nobody wishes otherwise: the rule of the class, two a second if the
    /// settings leave the choice to the caller (what qwen-vl-utils then does).
    pub fn sampling(&self) -> FrameSampling {
        let (min_frames, max_frames) = (self.min_frames, self.max_frames);
        let rate = FrameCount::PerSecond(self.fps.unwrap_or(DEFAULT_FPS));
        let count = self.num_frames.map_or(rate, FrameCount::Number);
        match self.style {
            VideoStyle::Timestamps => FrameSampling::Qwen3Vl { count, min_frames, max_frames },
            _ => {
                let temporal_patch_size = self.pixels.temporal_patch_size;
                FrameSampling::Qwen2Vl { count, min_frames, max_frames, temporal_patch_size }
            }
        }
    }

    /// Height and width to which `frames` frames of this size are resized.
    fn resized(
        &self,
        frames: usize,
        (height, width): (usize, usize),
        limits: &FrameLimits,
    ) -> Result<(usize, usize)> {
        let p = &self.pixels;
        let factor = p.patch_size * p.merge_size;
        let (unit, n, t) = ((factor * factor) as u64, frames as u64, p.temporal_patch_size as u64);
        let floor = |min: u64| (min as f64 * 1.05) as u64;
        if self.style == VideoStyle::Timestamps {
            let min = limits.min.map_or(p.min_pixels, |min| min * n);
            let share = |tokens: u64| (tokens * unit).min(p.max_pixels / n).max(floor(min)) * n;
            let class = self.max_video_tokens.map_or(p.max_pixels, share);
            let max = limits.max.map_or(class, |max| max * n);
            let max = limits.total.map_or(max, |total| max.min(total * t));
            return whole_video_resize(
                [frames, height, width],
                p.temporal_patch_size,
                factor,
                (min, max),
            );
        }
        let min = limits.min.unwrap_or(p.min_pixels);
        let max = limits.max.unwrap_or(p.max_pixels);
        let class = self.max_video_tokens.map(|tokens| ((tokens * unit) as f64 * 0.9) as u64);
        let max = match limits.total.or(class) {
            None => max,
            Some(total) => max.min(total * t / n).max(floor(min)),
        };
        smart_resize(height, width, factor, min, max)
    }
}

/// What a row or an option says of the pixels of a video.
#[derive(Debug, Clone, Copy, Default)]
struct FrameLimits {
    /// Of a frame.
    min: Option<u64>,
    /// Of a frame.
    max: Option<u64>,
    /// Of all patches in time together, as qwen-vl-utils counts `total_pixels`.
    total: Option<u64>,
}

impl FrameLimits {
    fn of(clip: &Clip) -> Self {
        let of = |n: Option<usize>| n.map(|n| n as u64);
        FrameLimits {
            min: of(clip.min_pixels),
            max: of(clip.max_pixels),
            total: of(clip.total_pixels),
        }
    }
}

/// Turns frames into patches.
#[derive(Debug, Clone)]
pub struct QwenVideoProcessor {
    settings: QwenVideoSettings,
    /// Cuts frames; its settings are those of videos.
    cutter: QwenImageProcessor,
}

impl QwenVideoProcessor {
    /// A processor; the arithmetic is always torchvision's, as transformers has no other for videos.
    ///
    /// # Errors
    /// If a size, limit or standard deviation is 0.
    pub fn new(settings: QwenVideoSettings) -> Result<Self> {
        let cutter = QwenImageProcessor::new(settings.pixels.clone())?
            .with_backend(ImageBackend::Torchvision);
        Ok(QwenVideoProcessor { settings, cutter })
    }

    /// The settings in force.
    pub fn settings(&self) -> &QwenVideoSettings {
        &self.settings
    }

    /// Resizes, normalises and cuts frames.
    ///
    /// # Errors
    /// If there is no frame, frames differ in size, or the size cannot be processed.
    pub fn process(&self, clip: &Clip) -> Result<Visual> {
        let sizes = || clip.frames.iter().map(|i| (i.width, i.height));
        let same = sizes().all(|s| Some(s) == sizes().next());
        let Some(size) = sizes().next().filter(|_| same) else {
            let found = sizes().map(|(w, h)| format!("{w} x {h}")).collect::<Vec<_>>();
            return Err(Error::data("the frames of a video are no video")
                .expected("at least one frame, all of one size")
                .found(found.join(", ")));
        };
        let (total, fps) = (clip.info.frames, clip.info.fps);
        let mut visual = self.shape(clip.indices, (total, fps), size, &FrameLimits::of(clip))?;
        let (width, height) = visual.resized;
        let resized: Vec<Cow<Image>> = clip
            .frames
            .iter()
            .map(|image| self.cutter.resize(image, width, height))
            .collect::<Result<_>>()?;
        for group in resized.chunks(self.settings.pixels.temporal_patch_size) {
            let group: Vec<&Image> = group.iter().map(|f| &**f).collect();
            self.cutter.cut(&group, &mut visual.patches);
        }
        // Never that of an image: their settings may differ.
        visual.content = !fingerprint(resized.iter().map(|f| &**f));
        Ok(visual)
    }

    /// The visual of frames `indices` of a video of this length and rate, without pixels.
    fn shape(
        &self,
        indices: &[usize],
        (total, fps): (usize, f64),
        (width, height): (usize, usize),
        limits: &FrameLimits,
    ) -> Result<Visual> {
        let p = &self.settings.pixels;
        let resized = match p.do_resize {
            true => {
                let (h, w) = self.settings.resized(indices.len(), (height, width), limits)?;
                (w, h)
            }
            false => self.cutter.resized_size(width, height)?,
        };
        let (rows, columns) = (resized.1 / p.patch_size, resized.0 / p.patch_size);
        let seconds = self.seconds(indices, fps);
        let grid = [seconds.len(), rows, columns];
        Ok(Visual {
            patches: Vec::new(),
            patch_dim: self.cutter.patch_dim(),
            grid_thw: grid,
            original: (width, height),
            resized,
            content: 0,
            runs: self.runs(grid, indices.len(), total, fps),
            seconds,
        })
    }

    /// Time of every patch in time: of its first frame, or (timestamps) half way to its last.
    fn seconds(&self, indices: &[usize], fps: f64) -> Vec<f64> {
        let temporal = self.settings.pixels.temporal_patch_size;
        let at = |i: usize| i as f64 / fps;
        let of = |group: &[usize]| match self.settings.style {
            // a group that is not full is filled with its last
            VideoStyle::Timestamps => (at(group[0]) + at(group[group.len() - 1])) / 2.0,
            _ => at(group[0]),
        };
        indices.chunks(temporal).map(of).collect()
    }

    fn runs(&self, [t, h, w]: [usize; 3], frames: usize, total: usize, fps: f64) -> Vec<TokenRun> {
        let p = &self.settings.pixels;
        let (h, w) = (h / p.merge_size, w / p.merge_size);
        let whole = TokenRun::of_grid([t, h, w]);
        match self.settings.style {
            VideoStyle::Frames => vec![whole],
            VideoStyle::Timestamps => vec![TokenRun::of_grid([1, h, w]); t],
            VideoStyle::Clock { tokens_per_second } => {
                let sampled_fps = frames as f64 / total as f64 * fps;
                // transformers has the quotient in a single-precision tensor.
                let per_patch = (p.temporal_patch_size as f64 / sampled_fps) as f32;
                vec![TokenRun { time_step: tokens_per_second as f32 * per_patch, ..whole }]
            }
        }
    }

    /// How a video stands in a chat. The marks that the template writes around a video stay, also
    /// where each of its times gets marks of its own (transformers 5).
    pub fn text(&self, visual: &Visual) -> VisualText {
        const PAD: &str = "<|video_pad|>";
        let mut text = VisualText::placeholder(PAD, visual);
        if self.settings.style == VideoStyle::Timestamps {
            let one = |s: &f64| format!("<{s:.1} seconds><|vision_start|>{PAD}<|vision_end|>");
            text.text = visual.seconds.iter().map(one).collect();
        }
        text
    }
}

/// Images and videos of a Qwen-VL family.
#[derive(Debug, Clone)]
pub struct QwenProcessor {
    /// Of images.
    pub images: QwenImageProcessor,
    /// Of videos.
    pub videos: QwenVideoProcessor,
}

impl QwenProcessor {
    /// With the settings of a model folder, or without one with those of published models.
    ///
    /// # Errors
    /// If settings are missing or cannot be followed, or options contradict them.
    pub fn new(
        dir: Option<&Path>,
        published: ImageProcessorSettings,
        style: VideoStyle,
        options: &ProcessorOptions,
    ) -> Result<Self> {
        let (images, videos) = match dir {
            Some(dir) => {
                (QwenImageProcessor::from_dir(dir)?, QwenVideoSettings::from_dir(dir, style)?)
            }
            None => {
                let videos = QwenVideoSettings::of_class(style, &published);
                (QwenImageProcessor::new(published)?, videos)
            }
        };
        let (images, videos) = (images.with_options(options)?, QwenVideoProcessor::new(videos)?);
        Ok(QwenProcessor { images, videos })
    }
}

/// Processor files of a new model with room for a question and a completion beside its visuals.
pub fn new_files(
    published: ImageProcessorSettings,
    style: VideoStyle,
    context: usize,
    class: &str,
) -> Vec<(&'static str, Value)> {
    let images = published.within_context(context);
    let videos = QwenVideoSettings::within_context(style, &images, context);
    vec![("preprocessor_config.json", images.to_json(class)), (VIDEO_FILE, videos.to_json())]
}

impl VisualProcessor for QwenProcessor {
    fn image(&self, image: &Image) -> Result<Visual> {
        self.images.process(image)
    }
    fn image_within(&self, image: &Image, min: Option<u64>, max: Option<u64>) -> Result<Visual> {
        self.images.image_within(image, min, max)
    }
    fn image_shape(&self, width: usize, height: usize) -> Result<Visual> {
        self.images.image_shape(width, height)
    }
    fn image_shape_within(&self, size: (usize, usize), limits: PixelLimits) -> Result<Visual> {
        self.images.image_shape_within(size, limits)
    }
    fn sampling(&self) -> Result<FrameSampling> {
        Ok(self.videos.settings.sampling())
    }
    fn video(&self, clip: &Clip) -> Result<Visual> {
        self.videos.process(clip)
    }
    fn text(&self, visual: &Visual) -> VisualText {
        match visual.seconds.is_empty() {
            true => self.images.text(visual),
            false => self.videos.text(visual),
        }
    }
}

fn wrong(key: &str, expected: &str, found: &Value) -> Error {
    Error::data("a video processor setting cannot be followed")
        .key(key)
        .expected(expected)
        .found(found.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::video::VideoInfo;

    fn processor(style: VideoStyle) -> QwenVideoProcessor {
        let pixels = ImageProcessorSettings {
            min_pixels: 16,
            max_pixels: 4096,
            patch_size: 2,
            ..style.class_settings()
        };
        let settings = QwenVideoSettings::of_class(style, &pixels);
        QwenVideoProcessor::new(QwenVideoSettings { pixels, ..settings }).unwrap()
    }

    fn shape(p: &QwenVideoProcessor, indices: &[usize], video: (usize, f64)) -> Visual {
        p.shape(indices, video, (8, 8), &FrameLimits::default()).unwrap()
    }

    #[test]
    fn limits_of_a_row_go_before_the_settings() {
        let side = |style, limits: FrameLimits| {
            let p = processor(style);
            p.shape(&[0, 1, 2, 3], (4, 2.0), (64, 64), &limits).unwrap().resized.0
        };
        let none = FrameLimits::default();
        assert_eq!(side(VideoStyle::Frames, none), 64);
        assert_eq!(side(VideoStyle::Timestamps, none), 32);
        for style in [VideoStyle::Frames, VideoStyle::Timestamps] {
            assert_eq!(side(style, FrameLimits { max: Some(256), ..none }), 16);
            // two patches in time
            assert_eq!(side(style, FrameLimits { total: Some(512), ..none }), 16);
            assert_eq!(
                side(style, FrameLimits { min: Some(1 << 14), max: Some(1 << 14), ..none }),
                128
            );
        }
    }

    #[test]
    fn a_time_is_written_before_each_patch_in_time() {
        let p = processor(VideoStyle::Timestamps);
        let v = shape(&p, &[0, 1, 2, 3, 4], (5, 2.0));
        assert_eq!((v.grid_thw, v.runs.len(), v.rows()), ([3, 4, 4], 3, 12));
        // Python rounds halves to even: 0.25 and 1.25
        let want = ["0.2", "1.2", "2.0"]
            .map(|s| format!("<{s} seconds><|vision_start|><|video_pad|><|vision_end|>"));
        assert_eq!(p.text(&v).text, want.concat());
        assert_eq!(p.text(&v).runs, [4, 4, 4]);
    }

    #[test]
    fn frames_are_a_clocks_time_apart() {
        let p = processor(VideoStyle::Clock { tokens_per_second: 2 });
        let v = shape(&p, &[0, 2, 4, 6, 8, 10], (11, 3.0));
        let [run] = v.runs[..] else { panic!() };
        assert_eq!((run.grid, run.tokens), ([3, 2, 2], 12));
        assert_eq!(run.time_step, 2.0 * (11.0f64 / 9.0) as f32);
        let v = shape(&processor(VideoStyle::Frames), &[0, 1, 2], (3, 3.0));
        assert_eq!((v.grid_thw, v.runs[0].time_step), ([2, 4, 4], 1.0));
    }

    #[test]
    fn frames_must_be_a_video() {
        let p = processor(VideoStyle::Frames);
        let image = |side: usize| Image::new(side, side, vec![9; 3 * side * side]).unwrap();
        let of = |images: &[Image]| {
            let indices: Vec<usize> = (0..images.len()).collect();
            let frames = images.len().max(1);
            let info = VideoInfo { frames, fps: 2.0, width: 8, height: 8, duration: 1.0 };
            p.process(&Clip {
                frames: images,
                indices: &indices,
                info: &info,
                min_pixels: None,
                max_pixels: None,
                total_pixels: None,
            })
        };
        assert!(of(&[]).is_err());
        assert!(of(&[image(8), image(4)]).unwrap_err().to_string().contains("4 x 4"));
        let one = of(&[image(8)]).unwrap();
        assert_eq!(one.patches, of(&[image(8), image(8)]).unwrap().patches);
        assert_ne!(one.content, p.cutter.process(&image(8)).unwrap().content);
    }

    #[test]
    fn settings_are_read_and_written() {
        for style in [VideoStyle::Frames, VideoStyle::Timestamps] {
            let s = QwenVideoSettings::within_context(style, &style.class_settings(), 2048);
            assert_eq!(QwenVideoSettings::from_json(&s.to_json(), style).unwrap(), s);
        }
        let fails = |v: Value| {
            QwenVideoSettings::from_json(&v, VideoStyle::Frames).unwrap_err().to_string()
        };
        assert!(fails(json!({"fps": 0})).contains("fps"));
        assert!(fails(json!({"do_sample_frames": 1})).contains("do_sample_frames"));
        let other = json!({"video_processor_type": "Glm4vVideoProcessor"});
        assert!(fails(other).contains("Glm4v"));
    }
}
