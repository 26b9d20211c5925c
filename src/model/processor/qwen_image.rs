//! Images of the Qwen-VL families to patches, equal to transformers' `Qwen2VLImageProcessor` to
//! the bit, with torchvision's arithmetic (what AutoProcessor loads) or Pillow's. A setting of the
//! checkpoint that would change pixels is followed or refused, never ignored.
//!
//! Shapes: T patches of one image (`t * h * w` of its grid), patch_dim = 3 * temporal_patch_size *
//! patch_size², laid out channel, time, row, column.

use crate::base::{Error, Result};
use crate::io::dataset::PixelLimits;
use crate::io::image::pillow_resize::pillow_resize;
use crate::io::image::torch_resize::torch_resize;
use crate::io::image::{Filter, Image};
use crate::model::families::Patching;
use crate::model::positions::TokenRun;
use crate::model::processor::settings_file::read_settings;
pub use crate::model::processor::smart_resize::{MAX_ASPECT_RATIO, smart_resize};
use crate::model::processor::{
    ImageBackend, ProcessorOptions, Visual, VisualProcessor, VisualText, fingerprint,
};
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::path::Path;

/// Mean of CLIP's training images, as in transformers' `OPENAI_CLIP_MEAN`.
pub const OPENAI_CLIP_MEAN: [f64; 3] = [0.48145466, 0.4578275, 0.40821073];
/// Standard deviation of CLIP's training images, as in transformers' `OPENAI_CLIP_STD`.
pub const OPENAI_CLIP_STD: [f64; 3] = [0.26862954, 0.26130258, 0.27577711];

/// Class limits of transformers, for a config that has none: `56 * 56` and `28 * 28 * 1280`.
const CLASS_PIXELS: (u64, u64) = (56 * 56, 28 * 28 * 1280);
/// Names of the class, with either arithmetic.
const IMAGE_CLASSES: [&str; 4] = [
    "Qwen2VLImageProcessor",
    "Qwen2VLImageProcessorFast",
    "Qwen2VLImageProcessorPil",
    "Qwen2_5_VLImageProcessor",
];

/// Everything that decides pixels, with the names of `preprocessor_config.json`. The default is the
/// published Qwen2.5-VL.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageProcessorSettings {
    /// Images with fewer pixels are enlarged.
    pub min_pixels: u64,
    /// Images with more pixels are made smaller.
    pub max_pixels: u64,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Frames per patch; an image is repeated.
    pub temporal_patch_size: usize,
    /// Patches per side that become one token of the language model.
    pub merge_size: usize,
    /// Mean per channel, of rescaled pixels.
    pub image_mean: [f64; 3],
    /// Standard deviation per channel, of rescaled pixels.
    pub image_std: [f64; 3],
    /// Factor of a pixel before normalisation.
    pub rescale_factor: f64,
    /// Whether images are resized to whole patches and pixel limits.
    pub do_resize: bool,
    /// Whether pixels are multiplied by `rescale_factor`.
    pub do_rescale: bool,
    /// Whether mean and standard deviation are applied.
    pub do_normalize: bool,
    /// Resampling filter.
    pub resample: Filter,
}

impl Default for ImageProcessorSettings {
    fn default() -> Self {
        ImageProcessorSettings {
            min_pixels: 3136,
            max_pixels: 12_845_056,
            patch_size: 14,
            temporal_patch_size: 2,
            merge_size: 2,
            image_mean: OPENAI_CLIP_MEAN,
            image_std: OPENAI_CLIP_STD,
            rescale_factor: 1.0 / 255.0,
            do_resize: true,
            do_rescale: true,
            do_normalize: true,
            resample: Filter::Bicubic,
        }
    }
}

/// Turns images into patches.
#[derive(Debug, Clone)]
pub struct QwenImageProcessor {
    settings: ImageProcessorSettings,
    backend: ImageBackend,
    /// Normalised value of every pixel value, per channel.
    table: [[f32; 256]; 3],
}

impl QwenImageProcessor {
    /// A processor with torchvision's arithmetic.
    ///
    /// # Errors
    /// If a size, limit or standard deviation is 0.
    pub fn new(settings: ImageProcessorSettings) -> Result<Self> {
        settings.check()?;
        let backend = ImageBackend::default();
        let table = value_table(&settings, backend);
        Ok(QwenImageProcessor { settings, backend, table })
    }

    /// Reads the settings of a model folder as transformers 5 does: `image_processor` of
    /// `processor_config.json` if it is there, otherwise `preprocessor_config.json`.
    ///
    /// # Errors
    /// If neither file is there or a key has a value that cannot be followed.
    pub fn from_dir(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let (file, config) = read_settings(dir, "image_processor", &[])?;
        let path = dir.join(file);
        let settings = ImageProcessorSettings::from_json(&config).map_err(|e| e.file(&path))?;
        Self::new(settings).map_err(|e| e.file(&path))
    }

    /// The same processor with other arithmetic.
    pub fn with_backend(mut self, backend: ImageBackend) -> Self {
        self.backend = backend;
        self.table = value_table(&self.settings, backend);
        self
    }

    /// The same processor with what a user changed (`--min_pixels`, `--max_pixels`).
    ///
    /// # Errors
    /// If a limit is 0.
    pub fn with_options(mut self, options: &ProcessorOptions) -> Result<Self> {
        self.settings.min_pixels = options.min_pixels.unwrap_or(self.settings.min_pixels);
        self.settings.max_pixels = options.max_pixels.unwrap_or(self.settings.max_pixels);
        self.settings.check()?;
        let backend = options.backend.unwrap_or(self.backend);
        Ok(self.with_backend(backend))
    }

    /// The same processor with other limits of an image's pixels, where they are given.
    ///
    /// # Errors
    /// If a limit is 0, or they contradict each other.
    pub(super) fn within(&self, min: Option<u64>, max: Option<u64>) -> Result<Self> {
        let options =
            ProcessorOptions { min_pixels: min, max_pixels: max, ..ProcessorOptions::default() };
        self.clone().with_options(&options)
    }

    /// The settings in force.
    pub fn settings(&self) -> &ImageProcessorSettings {
        &self.settings
    }

    /// Whose arithmetic is in force.
    pub fn backend(&self) -> ImageBackend {
        self.backend
    }

    /// Length of a patch.
    pub fn patch_dim(&self) -> usize {
        let s = &self.settings;
        3 * s.temporal_patch_size * s.patch_size * s.patch_size
    }

    /// Tokens that an image of this grid takes in the prompt.
    pub fn num_image_tokens(&self, grid_thw: [usize; 3]) -> usize {
        grid_thw.iter().product::<usize>() / (self.settings.merge_size * self.settings.merge_size)
    }

    /// The grid of an image of this width and height, without touching pixels.
    ///
    /// # Errors
    /// As [`QwenImageProcessor::process`].
    pub fn grid_of(&self, width: usize, height: usize) -> Result<[usize; 3]> {
        let (w, h) = self.resized_size(width, height)?;
        Ok([1, h / self.settings.patch_size, w / self.settings.patch_size])
    }

    /// Resizes, normalises and cuts an image.
    ///
    /// # Errors
    /// If one side is more than 200 times the other, or if `do_resize` is off and a side is no
    /// multiple of `patch_size * merge_size`.
    pub fn process(&self, image: &Image) -> Result<Visual> {
        let mut visual = self.shape_of(image.width, image.height)?;
        let (width, height) = visual.resized;
        let resized = self.resize(image, width, height)?;
        self.cut(&[&resized], &mut visual.patches);
        visual.content = fingerprint([&*resized]);
        Ok(visual)
    }

    /// An image of this width and height.
    pub(super) fn resize<'a>(
        &self,
        image: &'a Image,
        width: usize,
        height: usize,
    ) -> Result<Cow<'a, Image>> {
        if (width, height) == (image.width, image.height) {
            return Ok(Cow::Borrowed(image));
        }
        let filter = self.settings.resample;
        Ok(Cow::Owned(match self.backend {
            ImageBackend::Torchvision => torch_resize(image, width, height, filter)?,
            ImageBackend::Pillow => pillow_resize(image, width, height, filter)?,
        }))
    }

    /// The visual of an image of this size, without pixels.
    fn shape_of(&self, width: usize, height: usize) -> Result<Visual> {
        let resized = self.resized_size(width, height)?;
        let (patch, merge) = (self.settings.patch_size, self.settings.merge_size);
        let grid = [1, resized.1 / patch, resized.0 / patch];
        Ok(Visual {
            patches: Vec::new(),
            patch_dim: self.patch_dim(),
            grid_thw: grid,
            original: (width, height),
            resized,
            content: 0,
            runs: vec![TokenRun::of_grid([1, grid[1] / merge, grid[2] / merge])],
            seconds: Vec::new(),
        })
    }

    /// Width and height that are cut into patches.
    pub(super) fn resized_size(&self, width: usize, height: usize) -> Result<(usize, usize)> {
        let s = &self.settings;
        let factor = s.patch_size * s.merge_size;
        if s.do_resize {
            let (h, w) = smart_resize(height, width, factor, s.min_pixels, s.max_pixels)?;
            return Ok((w, h));
        }
        if [width, height].iter().any(|&side| side == 0 || !side.is_multiple_of(factor)) {
            return Err(Error::data("the image does not divide into patches")
                .expected(format!("sides that are multiples of {factor}"))
                .found(format!("{width} x {height}"))
                .hint("set do_resize to true in preprocessor_config.json"));
        }
        Ok((width, height))
    }

    /// Patches of up to `temporal_patch_size` frames whose sides divide; the last is repeated. Order of
    /// patches: merged blocks by row, then column; within a block rows, then columns.
    pub(super) fn cut(&self, frames: &[&Image], out: &mut Vec<f32>) {
        let (p, m) = (self.settings.patch_size, self.settings.merge_size);
        let (rows, columns) = (frames[0].height / p, frames[0].width / p);
        out.reserve(rows * columns * self.patch_dim());
        for block_row in (0..rows).step_by(m) {
            for block_column in (0..columns).step_by(m) {
                for y in block_row..block_row + m {
                    for x in block_column..block_column + m {
                        self.push_patch(frames, x * p, y * p, out);
                    }
                }
            }
        }
    }

    /// One patch: in every channel the frames one after another.
    fn push_patch(&self, frames: &[&Image], left: usize, top: usize, out: &mut Vec<f32>) {
        let p = self.settings.patch_size;
        for (channel, table) in self.table.iter().enumerate() {
            for image in frames {
                for y in top..top + p {
                    let row = &image.rgb[(y * image.width + left) * 3..][..p * 3];
                    out.extend(row.chunks_exact(3).map(|px| table[usize::from(px[channel])]));
                }
            }
            let last = out.len() - p * p..out.len();
            for _ in frames.len()..self.settings.temporal_patch_size {
                out.extend_from_within(last.clone());
            }
        }
    }
}

/// Value of each of the 256 pixel values in each channel, in the order of operations of the backend.
pub(super) fn value_table(s: &ImageProcessorSettings, backend: ImageBackend) -> [[f32; 256]; 3] {
    let mut table = [[0f32; 256]; 3];
    for (c, row) in table.iter_mut().enumerate() {
        let (mean, std) = (s.image_mean[c] as f32, s.image_std[c] as f32);
        // The fast class folds the factor into mean and std, as single-precision tensors times a
        // scalar that torch first rounds to single precision.
        let unscale = (1.0 / s.rescale_factor) as f32;
        for (v, out) in row.iter_mut().enumerate() {
            let x = v as f32;
            *out = match (backend, s.do_rescale, s.do_normalize) {
                (_, false, false) => x,
                (_, false, true) => (x - mean) / std,
                (ImageBackend::Torchvision, true, true) => (x - mean * unscale) / (std * unscale),
                (ImageBackend::Torchvision, true, false) => x * s.rescale_factor as f32,
                // numpy rescales in double precision and rounds once.
                (ImageBackend::Pillow, true, normalize) => {
                    let x = (v as f64 * s.rescale_factor) as f32;
                    if normalize { (x - mean) / std } else { x }
                }
            };
        }
    }
    table
}

impl ImageProcessorSettings {
    /// Reads the object of a `preprocessor_config.json`.
    ///
    /// # Errors
    /// If it belongs to another image processor, or a key has a value of the wrong type.
    pub fn from_json(config: &Value) -> Result<Self> {
        let (min_pixels, max_pixels) = CLASS_PIXELS;
        let missing = Self { min_pixels, max_pixels, ..Self::default() };
        Self::read(config, &missing, ("image_processor_type", &IMAGE_CLASSES))
    }

    /// Reads settings; keys that are not there are as in `default`. `class` is the key of the class and
    /// the values that it may have.
    pub(super) fn read(config: &Value, default: &Self, class: (&str, &[&str])) -> Result<Self> {
        let keys = Keys(config.as_object().ok_or_else(|| {
            Error::data("the processor's settings are not a JSON object").found(config.to_string())
        })?);
        keys.check_class(class)?;
        let (min_pixels, max_pixels) = keys.pixel_limits(default)?;
        Ok(ImageProcessorSettings {
            min_pixels,
            max_pixels,
            patch_size: keys.size("patch_size", default.patch_size)?,
            temporal_patch_size: keys.size("temporal_patch_size", default.temporal_patch_size)?,
            merge_size: keys.size("merge_size", default.merge_size)?,
            image_mean: keys.per_channel("image_mean", default.image_mean)?,
            image_std: keys.per_channel("image_std", default.image_std)?,
            rescale_factor: keys.get(
                "rescale_factor",
                default.rescale_factor,
                "a number",
                Value::as_f64,
            )?,
            do_resize: keys.flag("do_resize")?,
            do_rescale: keys.flag("do_rescale")?,
            do_normalize: keys.flag("do_normalize")?,
            resample: keys.get(
                "resample",
                default.resample,
                "1 (Lanczos), 2 (bilinear) or 3 (bicubic)",
                |v| v.as_u64().and_then(Filter::from_pil),
            )?,
        })
    }

    /// The published settings, for patches of this shape.
    pub fn published(patching: Patching) -> Self {
        ImageProcessorSettings {
            patch_size: patching.side,
            temporal_patch_size: patching.frames,
            merge_size: patching.merge,
            ..ImageProcessorSettings::default()
        }
    }

    /// The same with at least four tokens per image, as published, and at most half of a context of
    /// `tokens`, which leaves room for a question and a completion.
    pub fn within_context(self, tokens: usize) -> Self {
        let unit = (self.patch_size * self.merge_size).pow(2) as u64;
        ImageProcessorSettings {
            min_pixels: 4 * unit,
            max_pixels: self.max_pixels.min(tokens as u64 / 2 * unit),
            ..self
        }
    }

    /// The object of a `preprocessor_config.json` that transformers 4 and 5 load; `class` is that of the
    /// whole processor.
    pub fn to_json(&self, class: &str) -> Value {
        json!({
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": class,
            "do_convert_rgb": true,
            "do_resize": self.do_resize,
            "do_rescale": self.do_rescale,
            "do_normalize": self.do_normalize,
            "resample": self.resample.pil(),
            "rescale_factor": self.rescale_factor,
            "image_mean": self.image_mean,
            "image_std": self.image_std,
            "min_pixels": self.min_pixels,
            "max_pixels": self.max_pixels,
            "size": { "shortest_edge": self.min_pixels, "longest_edge": self.max_pixels },
            "patch_size": self.patch_size,
            "temporal_patch_size": self.temporal_patch_size,
            "merge_size": self.merge_size,
        })
    }

    fn check(&self) -> Result<()> {
        let bad = |key: &str, found: String| {
            Error::usage("an image setting cannot be used")
                .key(key)
                .expected("a number above 0")
                .found(found)
        };
        // A patch above this could only be a mistake, and its square must fit any usize.
        const MAX_SIDE: usize = 4096;
        for (key, n) in [
            ("patch_size", self.patch_size),
            ("temporal_patch_size", self.temporal_patch_size),
            ("merge_size", self.merge_size),
        ] {
            if n == 0 || n > MAX_SIDE {
                return Err(bad(key, n.to_string()).expected(format!("1 to {MAX_SIDE}")));
            }
        }
        for (key, n) in [("min_pixels", self.min_pixels), ("max_pixels", self.max_pixels)] {
            if n == 0 {
                return Err(bad(key, n.to_string()));
            }
        }
        let usable = |x: f64| x != 0.0 && x.is_finite();
        if !self.image_std.iter().all(|&x| usable(x)) {
            return Err(bad("image_std", format!("{:?}", self.image_std)));
        }
        if !usable(self.rescale_factor) {
            return Err(bad("rescale_factor", self.rescale_factor.to_string()));
        }
        Ok(())
    }
}

impl VisualProcessor for QwenImageProcessor {
    fn image(&self, image: &Image) -> Result<Visual> {
        self.process(image)
    }
    fn image_within(&self, image: &Image, min: Option<u64>, max: Option<u64>) -> Result<Visual> {
        self.within(min, max)?.process(image)
    }
    fn image_shape(&self, width: usize, height: usize) -> Result<Visual> {
        self.shape_of(width, height)
    }
    fn image_shape_within(&self, size: (usize, usize), limits: PixelLimits) -> Result<Visual> {
        self.within(limits.min, limits.max)?.shape_of(size.0, size.1)
    }
    fn text(&self, visual: &Visual) -> VisualText {
        VisualText::placeholder("<|image_pad|>", visual)
    }
}

/// Typed access to the keys of the settings; `null` counts as absent, as in transformers.
struct Keys<'a>(&'a Map<String, Value>);

impl Keys<'_> {
    fn get<T>(
        &self,
        key: &str,
        default: T,
        expected: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<T> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(v) => read(v).ok_or_else(|| wrong(key, expected, v)),
        }
    }

    fn size(&self, key: &str, default: usize) -> Result<usize> {
        self.get(key, default, "a whole number", |v| usize::try_from(v.as_u64()?).ok())
    }

    fn flag(&self, key: &str) -> Result<bool> {
        self.get(key, true, "true or false", Value::as_bool)
    }

    /// Three numbers, or one for all channels.
    fn per_channel(&self, key: &str, default: [f64; 3]) -> Result<[f64; 3]> {
        self.get(key, default, "three numbers", |v| match v {
            Value::Array(list) => {
                let list: Option<Vec<f64>> = list.iter().map(Value::as_f64).collect();
                list?.try_into().ok()
            }
            one => one.as_f64().map(|x| [x; 3]),
        })
    }

    /// `min_pixels` and `max_pixels` win over `size.shortest_edge` and `size.longest_edge`; early
    /// configs have the first names inside `size`.
    fn pixel_limits(&self, default: &ImageProcessorSettings) -> Result<(u64, u64)> {
        let empty = Map::new();
        let size = match self.0.get("size") {
            None | Some(Value::Null) => None,
            Some(Value::Object(size)) => Some(size),
            Some(v) => return Err(wrong("size", "shortest_edge and longest_edge", v)),
        };
        let inner = Keys(size.unwrap_or(&empty));
        let limit = |name: &str, edge: &str, class: u64| -> Result<u64> {
            let number =
                |k: &Keys, key: &str| k.get(key, None, "a whole number", |v| v.as_u64().map(Some));
            let places = [number(self, name)?, number(&inner, name)?, number(&inner, edge)?];
            if let Some(n) = places.into_iter().flatten().next() {
                return Ok(n);
            }
            match size {
                // transformers replaces its own limits by what `size` says, and then misses one.
                Some(_) => Err(Error::data("the size has no pixel limit")
                    .key("size")
                    .expected(format!("`{edge}` or `{name}`"))),
                None => Ok(class),
            }
        };
        Ok((
            limit("min_pixels", "shortest_edge", default.min_pixels)?,
            limit("max_pixels", "longest_edge", default.max_pixels)?,
        ))
    }

    fn check_class(&self, (key, classes): (&str, &[&str])) -> Result<()> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(()),
            Some(Value::String(s)) if classes.contains(&s.as_str()) => Ok(()),
            Some(v) => Err(wrong(key, &classes.join(", "), v)
                .hint("the model folder is of another family than Qwen-VL")),
        }
    }
}

fn wrong(key: &str, expected: &str, found: &Value) -> Error {
    Error::data("an image processor setting cannot be followed")
        .key(key)
        .expected(expected)
        .found(found.to_string())
}

#[cfg(test)]
#[path = "qwen_image_tests.rs"]
mod tests;
