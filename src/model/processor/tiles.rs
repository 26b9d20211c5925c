//! Images of InternVL: an image becomes a grid of square tiles whose shape is close to its own, and a
//! small picture of the whole behind them. Two layouts share this: InternVL's own code (`dynamic_preprocess`:
//! Pillow, then torchvision's ToTensor and Normalize) and transformers (`GotOcr2ImageProcessor`, with
//! torchvision's arithmetic or Pillow's). A frame of a video is one tile. A setting that would change
//! pixels is followed or refused, never ignored.
//!
//! Shapes: the patches of a visual are `[tiles * S * S, 3 * patch²]`: tiles in order, patches of a tile row by
//! row, values of a patch channel, row, column (the order of the tower's convolution).

use crate::base::{Error, Result};
use crate::io::image::pillow_resize::pillow_resize;
use crate::io::image::torch_resize::torch_resize;
use crate::io::image::{Filter, Image};
use crate::model::config::keys::Keys;
use crate::model::positions::TokenRun;
use crate::model::processor::qwen_image::{ImageProcessorSettings, value_table};
use crate::model::processor::{
    ImageBackend, ProcessorOptions, Visual, VisualProcessor, VisualText, fingerprint,
};
use std::borrow::Cow;

/// Mean of ImageNet's training images (`IMAGENET_MEAN` in InternVL's code).
pub const IMAGENET_MEAN: [f64; 3] = [0.485, 0.456, 0.406];
/// Standard deviation of ImageNet's training images.
pub const IMAGENET_STD: [f64; 3] = [0.229, 0.224, 0.225];
/// Where a feature goes, in the text of both layouts.
pub const CONTEXT: &str = "<IMG_CONTEXT>";
/// Before and after the features of an image or a frame.
pub const MARKS: [&str; 2] = ["<img>", "</img>"];
/// What chat templates write for a video.
pub const VIDEO: &str = "<video>";
/// Patches per side of a feature.
const MERGE: usize = 2;

/// How pixels become numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Pixels {
    /// Resampling filter.
    pub resample: Filter,
    /// Mean per channel, of rescaled pixels.
    pub mean: [f64; 3],
    /// Standard deviation per channel, of rescaled pixels.
    pub std: [f64; 3],
    /// Factor of a pixel before normalisation.
    pub rescale_factor: f64,
}

impl Default for Pixels {
    fn default() -> Self {
        Pixels {
            resample: Filter::Bicubic,
            mean: IMAGENET_MEAN,
            std: IMAGENET_STD,
            rescale_factor: 1.0 / 255.0,
        }
    }
}

impl Pixels {
    /// Reads an object of a `preprocessor_config.json` of transformers whose tiles must have `side`
    /// pixels per side. Defaults are those of the classes, CLIP's mean and deviation among them.
    ///
    /// # Errors
    /// If a key has a value that cannot be followed.
    pub fn read(keys: &Keys, side: usize) -> Result<Self> {
        for key in ["do_resize", "do_rescale", "do_normalize"] {
            if !keys.boolean(key, true)? {
                return Err(keys.wrong(key, "true"));
            }
        }
        if keys.boolean("do_center_crop", false)? {
            return Err(keys.wrong("do_center_crop", "false"));
        }
        if let Some(size) = keys.object("size")? {
            for key in ["height", "width"] {
                if size.size(key, side)? != side {
                    return Err(size.wrong(key, format!("{side}, the vision tower's image_size")));
                }
            }
        }
        let clip = ImageProcessorSettings::default();
        let channels = |key: &str, default: [f64; 3]| match keys.floats(key)? {
            None => Ok(default),
            Some(list) => <[f64; 3]>::try_from(list).map_err(|_| keys.wrong(key, "three numbers")),
        };
        let resample = keys.size("resample", Filter::Bicubic.pil() as usize)?;
        let pixels = Pixels {
            resample: Filter::from_pil(resample as u64).ok_or_else(|| {
                keys.wrong("resample", "1 (Lanczos), 2 (bilinear) or 3 (bicubic)")
            })?,
            mean: channels("image_mean", clip.image_mean)?,
            std: channels("image_std", clip.image_std)?,
            rescale_factor: keys.float("rescale_factor", clip.rescale_factor)?,
        };
        if pixels.rescale_factor == 0.0 {
            return Err(keys.wrong("rescale_factor", "a number above 0"));
        }
        if pixels.std.contains(&0.0) {
            return Err(keys.wrong("image_std", "numbers above 0"));
        }
        Ok(pixels)
    }

    /// Value of each pixel value in each channel.
    fn table(&self, arithmetic: Arithmetic) -> [[f32; 256]; 3] {
        let backend = match arithmetic {
            Arithmetic::Processor(backend) => backend,
            Arithmetic::Transform => return self.transform_table(),
        };
        let settings = ImageProcessorSettings {
            image_mean: self.mean,
            image_std: self.std,
            rescale_factor: self.rescale_factor,
            ..ImageProcessorSettings::default()
        };
        value_table(&settings, backend)
    }

    /// torchvision's `ToTensor` divides in single precision.
    fn transform_table(&self) -> [[f32; 256]; 3] {
        std::array::from_fn(|c| {
            let (mean, std) = (self.mean[c] as f32, self.std[c] as f32);
            std::array::from_fn(|v| (v as f32 / 255.0 - mean) / std)
        })
    }
}

/// Whose arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arithmetic {
    /// InternVL's own code: Pillow resizes, torchvision's transforms normalise.
    Transform,
    /// A processor class of transformers.
    Processor(ImageBackend),
}

/// Everything that decides tiles.
#[derive(Debug, Clone, PartialEq)]
pub struct TileSettings {
    /// Pixels per side of a tile.
    pub side: usize,
    /// Pixels per side of a patch.
    pub patch_size: usize,
    /// Fewest tiles of an image, without the picture of the whole.
    pub min_tiles: usize,
    /// Most tiles of an image, without the picture of the whole.
    pub max_tiles: usize,
    /// Whether a picture of the whole follows several tiles.
    pub thumbnail: bool,
    /// Whether the processor writes the marks around an image; else the template does.
    pub writes_marks: bool,
    /// Pixels of images.
    pub pixels: Pixels,
    /// Arithmetic of images.
    pub arithmetic: Arithmetic,
    /// Pixels of frames.
    pub frame_pixels: Pixels,
    /// Arithmetic of frames.
    pub frame_arithmetic: Arithmetic,
}

impl TileSettings {
    /// The settings with what a user changed (`--max_anyres_num`).
    ///
    /// # Errors
    /// If a limit of pixels is given: tiles have none.
    pub fn with_options(mut self, options: &ProcessorOptions) -> Result<Self> {
        for (key, limit) in [("min_pixels", options.min_pixels), ("max_pixels", options.max_pixels)]
        {
            if let Some(limit) = limit {
                return Err(Error::usage("images of InternVL have no limit of pixels")
                    .key(key)
                    .expected("no such option: images are cut into tiles of one size")
                    .found(limit.to_string())
                    .hint("max_anyres_num limits the number of tiles"));
            }
        }
        self.max_tiles = options.max_tiles.unwrap_or(self.max_tiles);
        match (self.arithmetic, options.backend) {
            (Arithmetic::Processor(_), Some(backend)) => {
                self.arithmetic = Arithmetic::Processor(backend);
            }
            (Arithmetic::Transform, Some(ImageBackend::Torchvision)) => {
                return Err(Error::usage("InternVL's own code resizes with Pillow")
                    .key("backend")
                    .expected("pillow")
                    .found("torchvision"));
            }
            _ => {}
        }
        Ok(self)
    }
}

/// Cuts images into tiles.
#[derive(Debug, Clone)]
pub struct TileProcessor {
    settings: TileSettings,
    table: [[f32; 256]; 3],
    frame_table: [[f32; 256]; 3],
}

impl TileProcessor {
    /// A processor.
    ///
    /// # Errors
    /// If a tile is not whole features, or the fewest tiles are more than the most.
    pub fn new(settings: TileSettings) -> Result<Self> {
        let s = &settings;
        let bad = |key: &str, expected: String, found: usize| {
            let error = Error::usage("a setting of tiles cannot be used").key(key);
            Err(error.expected(expected).found(found.to_string()))
        };
        if s.min_tiles == 0 || s.min_tiles > s.max_tiles {
            let least = s.min_tiles.max(1);
            return bad("max_anyres_num", format!("at least {least}"), s.max_tiles);
        }
        /// As many as that no checkpoint has; their grids are all tried for every image.
        const MOST: usize = 256;
        if s.max_tiles > MOST {
            return bad("max_anyres_num", format!("at most {MOST}"), s.max_tiles);
        }
        if s.side == 0 || s.patch_size == 0 || !s.side.is_multiple_of(s.patch_size * MERGE) {
            let unit = s.patch_size * MERGE;
            return bad("image_size", format!("a multiple of {unit} (two patches)"), s.side);
        }
        let table = s.pixels.table(s.arithmetic);
        let frame_table = s.frame_pixels.table(s.frame_arithmetic);
        Ok(TileProcessor { settings, table, frame_table })
    }

    /// The settings in force.
    pub fn settings(&self) -> &TileSettings {
        &self.settings
    }

    /// Columns and rows of the tiles of an image.
    pub fn columns_rows(&self, width: usize, height: usize) -> (usize, usize) {
        let s = &self.settings;
        closest_grid((width, height), s.side, s.min_tiles, s.max_tiles)
    }

    /// Tiles of an image, the picture of the whole included.
    pub fn tiles(&self, width: usize, height: usize) -> usize {
        let (columns, rows) = self.columns_rows(width, height);
        let tiles = columns * rows;
        tiles + usize::from(self.settings.thumbnail && tiles > 1)
    }

    /// Frames of a video, each one tile; `seconds` says when each begins. Every frame is a run of tokens
    /// of its own.
    ///
    /// # Errors
    /// If there is no frame, or another number of times.
    pub fn frames(&self, frames: &[Image], seconds: Vec<f64>) -> Result<Visual> {
        let Some(first) = frames.first() else {
            return Err(Error::data("a video has no frames").expected("at least one"));
        };
        if seconds.len() != frames.len() {
            return Err(Error::data("a video's frames and their times differ in number")
                .expected(format!("{} times", frames.len()))
                .found(format!("{} times", seconds.len())));
        }
        let s = &self.settings;
        let mut visual = self.visual((first.width, first.height), (s.side, s.side), frames.len());
        visual.runs = vec![self.run(1); frames.len()];
        visual.seconds = seconds;
        let mut resized = Vec::with_capacity(frames.len());
        for frame in frames {
            let (pixels, arithmetic) = (&s.frame_pixels, s.frame_arithmetic);
            let tile = resize(frame, (s.side, s.side), pixels.resample, arithmetic)?;
            self.cut(&tile, (0, 0), &self.frame_table, &mut visual.patches);
            resized.push(tile);
        }
        visual.content = fingerprint(resized.iter().map(|tile| &**tile));
        Ok(visual)
    }

    /// A visual of as many tiles, without pixels.
    fn visual(&self, original: (usize, usize), resized: (usize, usize), tiles: usize) -> Visual {
        let s = &self.settings;
        let side = s.side / s.patch_size;
        Visual {
            patches: Vec::new(),
            patch_dim: 3 * s.patch_size * s.patch_size,
            grid_thw: [tiles, side, side],
            original,
            resized,
            content: 0,
            runs: vec![self.run(tiles)],
            seconds: Vec::new(),
        }
    }

    fn run(&self, tiles: usize) -> TokenRun {
        let units = self.settings.side / self.settings.patch_size / MERGE;
        TokenRun::of_grid([tiles, units, units])
    }

    /// The patches of the tile with this upper left corner.
    fn cut(
        &self,
        image: &Image,
        (left, top): (usize, usize),
        table: &[[f32; 256]; 3],
        out: &mut Vec<f32>,
    ) {
        let (side, p) = (self.settings.side, self.settings.patch_size);
        for patch in 0..(side / p) * (side / p) {
            let (y, x) = (top + patch / (side / p) * p, left + patch % (side / p) * p);
            for (channel, table) in table.iter().enumerate() {
                for y in y..y + p {
                    let row = &image.rgb[(y * image.width + x) * 3..][..p * 3];
                    out.extend(row.chunks_exact(3).map(|px| table[usize::from(px[channel])]));
                }
            }
        }
    }
}

impl VisualProcessor for TileProcessor {
    /// Every image of a chat may have the most tiles, as where InternVL's code answers chats; its training
    /// code divides them among the images of a row.
    fn image(&self, image: &Image) -> Result<Visual> {
        let s = &self.settings;
        let mut visual = self.image_shape(image.width, image.height)?;
        let whole = resize(image, visual.resized, s.pixels.resample, s.arithmetic)?;
        let (columns, rows) = (visual.resized.0 / s.side, visual.resized.1 / s.side);
        for tile in 0..columns * rows {
            let corner = (tile % columns * s.side, tile / columns * s.side);
            self.cut(&whole, corner, &self.table, &mut visual.patches);
        }
        let mut seen = vec![whole];
        if visual.grid_thw[0] > columns * rows {
            let small = resize(image, (s.side, s.side), s.pixels.resample, s.arithmetic)?;
            self.cut(&small, (0, 0), &self.table, &mut visual.patches);
            seen.push(small);
        }
        visual.content = fingerprint(seen.iter().map(|part| &**part));
        Ok(visual)
    }

    fn image_shape(&self, width: usize, height: usize) -> Result<Visual> {
        if width == 0 || height == 0 {
            return Err(Error::data("an image without pixels cannot be cut into tiles")
                .found(format!("{width} x {height}")));
        }
        let (columns, rows) = self.columns_rows(width, height);
        let side = self.settings.side;
        let resized = (columns * side, rows * side);
        Ok(self.visual((width, height), resized, self.tiles(width, height)))
    }

    /// The text of a video is that of both references: one line per frame, numbered from 1.
    fn text(&self, visual: &Visual) -> VisualText {
        let runs = visual.runs.iter().map(|r| r.tokens).collect();
        let marked = format!("{}{CONTEXT}{}", MARKS[0], MARKS[1]);
        if !visual.seconds.is_empty() {
            let frame = |i: usize| format!("Frame{}: {marked}", i + 1);
            let lines: Vec<String> = (0..visual.runs.len()).map(frame).collect();
            return VisualText { written: VIDEO.into(), text: lines.join("\n"), runs };
        }
        let text = if self.settings.writes_marks { marked } else { CONTEXT.into() };
        VisualText { written: CONTEXT.into(), text, runs }
    }
}

fn resize(
    image: &Image,
    (width, height): (usize, usize),
    filter: Filter,
    arithmetic: Arithmetic,
) -> Result<Cow<'_, Image>> {
    if (width, height) == (image.width, image.height) {
        return Ok(Cow::Borrowed(image));
    }
    Ok(Cow::Owned(match arithmetic {
        Arithmetic::Processor(ImageBackend::Torchvision) => {
            torch_resize(image, width, height, filter)?
        }
        _ => pillow_resize(image, width, height, filter)?,
    }))
}

/// Columns and rows of a grid of `least` to `most` tiles whose shape is nearest to the image's. Of equally
/// near ones the last in order of their number of tiles wins, if the image has more than half of its
/// pixels (`find_closest_aspect_ratio` of InternVL, `get_optimal_tiled_canvas` of transformers).
pub fn closest_grid(
    (width, height): (usize, usize),
    side: usize,
    least: usize,
    most: usize,
) -> (usize, usize) {
    let mut grids: Vec<(usize, usize)> = (1..=most)
        .flat_map(|columns| (1..=most / columns).map(move |rows| (columns, rows)))
        .filter(|(columns, rows)| columns * rows >= least)
        .collect();
    grids.sort_by_key(|(columns, rows)| columns * rows);
    let (ratio, area) = (width as f64 / height as f64, width as f64 * height as f64);
    let (mut best, mut smallest) = ((1, 1), f64::INFINITY);
    for (columns, rows) in grids {
        let distance = (ratio - columns as f64 / rows as f64).abs();
        let large = || area > 0.5 * (side * side) as f64 * (columns * rows) as f64;
        if distance < smallest || distance == smallest && large() {
            (best, smallest) = ((columns, rows), distance);
        }
    }
    best
}
