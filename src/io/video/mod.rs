//! Videos: what a file, an animated picture or a list of frames says of itself, and the frames that
//! are wanted of it, as the pictures that a full decode in order gives. Which frames are wanted is
//! decided in between (`sampling`), so unwanted ones are never kept, and memory is bounded by the
//! wanted ones. No video library is linked: files go through the `ffmpeg` programs of the machine, if
//! it has them; animated GIF and WebP and folders of frames need nothing.

mod animation; // GIF and WebP
pub mod ffmpeg; // files, by programs found at run time
mod frames; // folders and lists of picture files
pub mod sampling; // which frames: the rules of the families
pub mod wishes; // what options and rows want of those rules

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::base::{Error, Result};
use crate::io::image::{Image, MAX_PIXELS};
use ::image::ImageFormat;
use ffmpeg::Ffmpeg;

/// Frames per second of a list of frames that says nothing (qwen-vl-utils' `sample_fps`).
pub const LIST_FPS: f64 = 2.0;
/// Most bytes of pixels that [`Video::frames`] gives at once.
pub const MAX_KEPT_BYTES: u64 = 4 << 30;

/// Where a video comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum VideoSource {
    /// A video file, an animated GIF or WebP file, or a folder of frames.
    Path(PathBuf),
    /// Picture files, one per frame, in order.
    Frames(Vec<PathBuf>),
}

impl VideoSource {
    /// The file or folder; of picture files, the first and how many more there are.
    pub fn name(&self) -> String {
        match self {
            VideoSource::Path(path) => path.display().to_string(),
            VideoSource::Frames(files) => {
                let first = files.first().map_or(String::new(), |f| f.display().to_string());
                format!("{first} and {} more", files.len().saturating_sub(1))
            }
        }
    }

    /// Sees whether the files exist; opens none.
    ///
    /// # Errors
    /// Of kind data: a file that is missing or empty, a folder without frames.
    pub fn check(&self) -> Result<()> {
        let folder = |path: &Path| frames::of_folder(path).map(|_| ());
        let file = |path: &Path| {
            let e = Error::data("a video cannot be read")
                .expected("a video file or a folder of frames");
            match std::fs::metadata(path) {
                Ok(m) if m.is_file() && m.len() > 0 => Ok(()),
                Ok(m) => Err(e.found(format!(
                    "{} is {}",
                    path.display(),
                    if m.is_file() { "an empty file" } else { "not a file" }
                ))),
                Err(why) => Err(e
                    .found(format!("{}: {why}", path.display()))
                    .hint("set --image_folders to the folder that video paths are relative to")),
            }
        };
        match self {
            VideoSource::Path(path) if path.is_dir() => folder(path),
            VideoSource::Path(path) => file(path),
            VideoSource::Frames(list) => list.iter().try_for_each(|p| file(p)),
        }
    }

    /// The path, or that of the first frame; for messages.
    pub fn path(&self) -> &Path {
        match self {
            VideoSource::Path(path) => path,
            VideoSource::Frames(list) => list.first().map_or(Path::new(""), |p| p),
        }
    }
}

/// What is known of a video before its pixels are decoded.
#[derive(Debug, Clone, PartialEq)]
pub struct VideoInfo {
    /// Frames that a full decode gives, at least 1.
    pub frames: usize,
    /// Frames per second, on average; above 0.
    pub fps: f64,
    /// Pixels per row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Seconds.
    pub duration: f64,
}

/// A video that was looked at and can give its frames.
#[derive(Debug)]
pub struct Video {
    /// What it says of itself.
    pub info: VideoInfo,
    decoder: Decoder,
}

#[derive(Debug)]
enum Decoder {
    Program(Ffmpeg, PathBuf),
    Animation(PathBuf, ImageFormat),
    List(Vec<PathBuf>),
}

impl Video {
    /// Looks at a video. `list_fps` is the rate of a folder or list of frames ([`LIST_FPS`] if
    /// `None`); files have their own.
    ///
    /// # Errors
    /// Of kind data or io, naming the file: a file that is missing, empty, truncated, no video, or
    /// too large; a folder without frames; no `ffmpeg` program for a file that needs one.
    pub fn open(source: &VideoSource, list_fps: Option<f64>) -> Result<Video> {
        let list = match source {
            VideoSource::Frames(list) => list.clone(),
            VideoSource::Path(path) if path.is_dir() => frames::of_folder(path)?,
            VideoSource::Path(path) => return Video::open_file(path, None),
        };
        let info = frames::probe(&list, list_fps.unwrap_or(LIST_FPS))?;
        check_info(&info).map_err(|e| e.file(source.path()))?;
        Ok(Video { info, decoder: Decoder::List(list) })
    }

    /// [`Video::open`] of a file with programs that were found before (`None` looks for them if the
    /// file needs them).
    ///
    /// # Errors
    /// As [`Video::open`].
    pub fn open_file(path: &Path, programs: Option<Ffmpeg>) -> Result<Video> {
        let go = || {
            let (info, decoder) = match format_of(path)? {
                Some(format) => {
                    (animation::probe(path, format)?, Decoder::Animation(path.to_owned(), format))
                }
                None => {
                    let programs = programs.map_or_else(Ffmpeg::find, Ok)?;
                    (programs.probe(path)?, Decoder::Program(programs, path.to_owned()))
                }
            };
            check_info(&info)?;
            Ok(Video { info, decoder })
        };
        go().map_err(|e: Error| e.file(path))
    }

    /// The frames of these numbers, in the order asked for; numbers may repeat.
    ///
    /// # Errors
    /// As [`Video::each_frame`], and if the pixels would take more than [`MAX_KEPT_BYTES`].
    pub fn frames(&self, indices: &[usize]) -> Result<Vec<Image>> {
        let bytes = indices.len() as u64 * (self.info.width * self.info.height * 3) as u64;
        if bytes > MAX_KEPT_BYTES {
            return Err(Error::data("the frames of the video are too large together")
                .file(self.path())
                .expected(format!("at most {MAX_KEPT_BYTES} bytes"))
                .found(format!(
                    "{} frames of {} x {}: {bytes} bytes",
                    indices.len(),
                    self.info.width,
                    self.info.height
                ))
                .hint("lower --max_frames or --video_fps, or scale the video down"));
        }
        let mut kept: Vec<(usize, Image)> = Vec::new();
        self.each_frame(indices, |index, image| {
            kept.push((index, image));
            Ok(())
        })?;
        let mut uses: Vec<usize> = indices.to_vec();
        uses.sort_unstable();
        // A picture that is asked for once is moved, not copied.
        let once =
            |i: usize| uses.partition_point(|u| *u <= i) - uses.partition_point(|u| *u < i) == 1;
        let take = |i: &usize| {
            let place = kept.binary_search_by_key(i, |(index, _)| *index);
            let place = place.map_err(|_| Error::internal("a wanted frame was not decoded"))?;
            let image = &mut kept[place].1;
            if once(*i) {
                let empty = Image { width: 0, height: 0, rgb: Vec::new() };
                return Ok(std::mem::replace(image, empty));
            }
            Ok(image.clone())
        };
        indices.iter().map(take).collect()
    }

    /// Gives the frames of these numbers to `take`, each once, by ascending number, as they are
    /// decoded: nothing is kept here, so a caller that scales them down needs little memory.
    ///
    /// # Errors
    /// A number that the video does not have, a video that is damaged or ends early, a decoder that
    /// takes too long, or what `take` says.
    pub fn each_frame(
        &self,
        indices: &[usize],
        mut take: impl FnMut(usize, Image) -> Result<()>,
    ) -> Result<()> {
        let mut wanted = indices.to_vec();
        wanted.sort_unstable();
        wanted.dedup();
        let Some(&last) = wanted.last() else { return Ok(()) };
        if last >= self.info.frames {
            return Err(Error::data("the video does not have the wanted frame")
                .file(self.path())
                .expected(format!("numbers up to {}", self.info.frames - 1))
                .found(last.to_string()));
        }
        let result = match &self.decoder {
            Decoder::Program(programs, path) => {
                programs.each_frame(path, &self.info, &wanted, &mut take)
            }
            Decoder::Animation(path, format) => {
                animation::each_frame(path, *format, &wanted, &mut take)
            }
            Decoder::List(list) => return frames::each_frame(list, &self.info, &wanted, &mut take),
        };
        result.map_err(|e| e.file(self.path()))
    }

    fn path(&self) -> &Path {
        match &self.decoder {
            Decoder::Program(_, path) | Decoder::Animation(path, _) => path,
            Decoder::List(list) => &list[0],
        }
    }
}

/// What a frame is given to.
type Take<'a> = &'a mut dyn FnMut(usize, Image) -> Result<()>;

/// Refuses sizes that only a hostile file has, before anything is decoded.
fn check_info(info: &VideoInfo) -> Result<()> {
    let pixels = (info.width as u64).checked_mul(info.height as u64);
    if info.frames == 0 || !(info.fps.is_finite() && info.fps > 0.0) {
        return Err(Error::data("the video has no frames, or no rate")
            .expected("at least one frame, and a rate above 0")
            .found(format!("{} frames at {} per second", info.frames, info.fps)));
    }
    if !pixels.is_some_and(|n| (1..=MAX_PIXELS).contains(&n)) {
        return Err(Error::data("the frames of the video have a size that cannot be used")
            .expected(format!("1 to {MAX_PIXELS} pixels"))
            .found(format!("{} x {}", info.width, info.height)));
    }
    Ok(())
}

/// The format of an animated picture by its first bytes; `None` for what may be a video file.
fn format_of(path: &Path) -> Result<Option<ImageFormat>> {
    let unreadable = |e: &std::io::Error| Error::data("cannot read the video").found(e.to_string());
    let mut start = Vec::new();
    let file = File::open(path).map_err(|e| unreadable(&e))?;
    file.take(64).read_to_end(&mut start).map_err(|e| unreadable(&e))?;
    if start.is_empty() {
        return Err(Error::data("the video is an empty file").expected("a video file"));
    }
    match ::image::guess_format(&start) {
        Ok(format @ (ImageFormat::Gif | ImageFormat::WebP)) => Ok(Some(format)),
        // BMP and others have magic numbers of two bytes, which a raw stream may have by chance.
        Ok(ImageFormat::Png | ImageFormat::Jpeg) => {
            Err(Error::data("a still picture stands where a video should be")
                .expected("a video file, an animated GIF or WebP, or a folder of frames")
                .found("a PNG or JPEG file")
                .hint("name it in the column `image`, or its folder in the column `video`"))
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests;
