//! From what a data set holds to what a model reads: images and videos to patches, chats to token ids.
//! Nothing here runs a model.

pub mod chat; // messages to token ids with runs of visual tokens
pub mod glm; // images and videos of GLM-4.1V
pub mod qwen_image; // images of Qwen2-VL and what followed it, to patches
pub mod qwen_video; // videos of the same
pub mod settings_file; // where processors keep their settings
pub mod smart_resize; // sizes that divide into patches
pub mod square; // images of one fixed size
pub mod tiles; // images of InternVL cut into tiles, frames of its videos

use crate::base::{Error, Result};
use crate::io::dataset::PixelLimits;
use crate::io::image::Image;
use crate::io::video::VideoInfo;
use crate::io::video::sampling::FrameSampling;
use crate::model::positions::TokenRun;
use std::fmt::Debug;
use std::hash::{DefaultHasher, Hasher};

/// Whose arithmetic resizes and normalises.
///
/// Since transformers 5 the class name in a config does not choose: `Qwen2VLImageProcessor`,
/// `..Fast` and `..Pil` all load as the torchvision class, unless `backend="pil"` is passed.
/// Up to transformers 4.5x `Qwen2VLImageProcessor` was the Pillow class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ImageBackend {
    /// The "fast" classes of transformers 5: 16-bit weights, rescale and normalise fused.
    #[default]
    Torchvision,
    /// The "slow" classes: 22-bit weights, rescale, then normalise.
    Pillow,
}

/// What a user may change of a processor; `None` keeps what the checkpoint says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ProcessorOptions {
    /// `--min_pixels`.
    pub min_pixels: Option<u64>,
    /// `--max_pixels`.
    pub max_pixels: Option<u64>,
    /// `--max_anyres_num`: most tiles of an image, where the family cuts tiles.
    pub max_tiles: Option<usize>,
    /// Whose arithmetic.
    pub backend: Option<ImageBackend>,
}

/// An image or a video as the vision tower takes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Visual {
    /// `[patches, patch_dim]`, in the order that the tower reads; empty where only sizes are known.
    pub patches: Vec<f32>,
    /// Length of a patch.
    pub patch_dim: usize,
    /// Patches in time (or tiles), height and width.
    pub grid_thw: [usize; 3],
    /// Width and height of what was given.
    pub original: (usize, usize),
    /// Width and height that were cut into patches.
    pub resized: (usize, usize),
    /// Fingerprint of the pixels that were cut: visuals with the same one are encoded once.
    pub content: u128,
    /// Runs of tokens that stand for its features, in order.
    pub runs: Vec<TokenRun>,
    /// Seconds at which its frames begin, where it is a video; empty for an image.
    pub seconds: Vec<f64>,
}

impl Visual {
    /// Number of patches.
    pub fn patches(&self) -> usize {
        self.grid_thw.iter().product()
    }
    /// Number of features: tokens of all its runs.
    pub fn rows(&self) -> usize {
        self.runs.iter().map(|r| r.tokens).sum()
    }
}

/// Frames that were chosen of a video.
#[derive(Debug, Clone, Copy)]
pub struct Clip<'a> {
    /// Their pixels, all of one size.
    pub frames: &'a [Image],
    /// Their numbers in the video.
    pub indices: &'a [usize],
    /// Length and rate of the whole video.
    pub info: &'a VideoInfo,
    /// Frames of fewer pixels are enlarged; `None` keeps the processor's limit.
    pub min_pixels: Option<usize>,
    /// Frames of more pixels are made smaller; `None` keeps the processor's limit.
    pub max_pixels: Option<usize>,
    /// Most pixels of all frames together; `None` keeps the processor's limit.
    pub total_pixels: Option<usize>,
}

impl Clip<'_> {
    /// Seconds at which a frame of the video begins.
    pub fn second(&self, index: usize) -> f64 {
        index as f64 / self.info.fps
    }
}

fn no_videos() -> Error {
    Error::data("models of this family take no videos")
        .expected("images")
        .found("a video")
        .hint("remove the row, or give its frames as images")
}

/// How a visual stands in the text of a chat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VisualText {
    /// What the chat template writes for it.
    pub written: String,
    /// What is tokenised instead, with one placeholder token per run.
    pub text: String,
    /// Tokens that each placeholder becomes.
    pub runs: Vec<usize>,
}

impl VisualText {
    /// A placeholder that stays as the template wrote it.
    pub fn placeholder(token: &str, visual: &Visual) -> Self {
        let runs = visual.runs.iter().map(|r| r.tokens).collect();
        VisualText { written: token.into(), text: token.into(), runs }
    }
}

/// Turns images and videos into what a family's vision tower takes.
pub trait VisualProcessor: Debug + Send + Sync {
    /// Resizes, normalises and cuts an image.
    ///
    /// # Errors
    /// If its size cannot be processed.
    fn image(&self, image: &Image) -> Result<Visual>;

    /// [`VisualProcessor::image`] with limits of its pixels that go before those of the settings, where a
    /// row has its own.
    ///
    /// # Errors
    /// As [`VisualProcessor::image`], and if the family knows no such limits.
    fn image_within(&self, image: &Image, min: Option<u64>, max: Option<u64>) -> Result<Visual> {
        match (min, max) {
            (None, None) => self.image(image),
            (Some(limit), _) => Err(no_pixel_limits("min_pixels", limit)),
            (None, Some(limit)) => Err(no_pixel_limits("max_pixels", limit)),
        }
    }

    /// The visual of an image of this width and height, without its pixels: to plan with.
    ///
    /// # Errors
    /// As [`VisualProcessor::image`].
    fn image_shape(&self, width: usize, height: usize) -> Result<Visual>;

    /// The visual of [`VisualProcessor::image_within`], without its pixels.
    ///
    /// # Errors
    /// As [`VisualProcessor::image_within`].
    fn image_shape_within(&self, size: (usize, usize), limits: PixelLimits) -> Result<Visual> {
        match (limits.min, limits.max) {
            (None, None) => self.image_shape(size.0, size.1),
            (Some(limit), _) => Err(no_pixel_limits("min_pixels", limit)),
            (None, Some(limit)) => Err(no_pixel_limits("max_pixels", limit)),
        }
    }

    /// Which frames of a video are taken, where nobody wishes otherwise.
    ///
    /// # Errors
    /// If the family takes no videos.
    fn sampling(&self) -> Result<FrameSampling> {
        Err(no_videos())
    }

    /// Resizes, normalises and cuts the frames of a video.
    ///
    /// # Errors
    /// If the family takes no videos, or their size cannot be processed.
    fn video(&self, _: &Clip) -> Result<Visual> {
        Err(no_videos())
    }

    /// How a visual of this processor stands in a chat.
    fn text(&self, visual: &Visual) -> VisualText;
}

/// The error of a row's own limits where a family has none.
fn no_pixel_limits(key: &str, limit: u64) -> Error {
    Error::data("the images of this family have no limit of pixels")
        .key(key)
        .expected("no such limit: images become tiles or squares of one size")
        .found(limit.to_string())
}

/// 128 bits of the pixels of some images: two SipHash values, from different beginnings.
pub fn fingerprint<'a>(images: impl IntoIterator<Item = &'a Image> + Clone) -> u128 {
    let half = |salt: u8| {
        let mut h = DefaultHasher::new();
        h.write_u8(salt);
        for image in images.clone() {
            h.write_usize(image.width);
            h.write(&image.rgb);
        }
        u128::from(h.finish())
    };
    half(0) << 64 | half(1)
}
