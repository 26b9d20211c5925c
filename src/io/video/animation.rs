//! Animated GIF and WebP files as videos. Every frame is the whole picture as a viewer shows it at
//! that time, laid over white where it is transparent. Counting frames decodes them one by one; no
//! more than two pictures are in memory. Frames of a WebP file that ask to be blended with what is
//! below come out up to 1 of 255 darker: the decoder's rounding.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::time::Instant;

use ::image::codecs::gif::GifDecoder;
use ::image::codecs::webp::WebPDecoder;
use ::image::{AnimationDecoder, Frame, Frames, ImageDecoder, ImageFormat, Limits};

use super::ffmpeg::TIME_LIMIT;
use super::{Take, VideoInfo};
use crate::base::{Error, Result};
use crate::io::image::{Image, MAX_PIXELS, over_white};

/// Delays below this many milliseconds mean "as browsers do it"...
const LEAST_DELAY: f64 = 20.0;
/// ...which is this many (the rule of browsers and of ffmpeg).
const USUAL_DELAY: f64 = 100.0;

fn broken(detail: impl std::fmt::Display) -> Error {
    Error::data("the animation cannot be decoded")
        .expected("a complete GIF or WebP file")
        .found(detail.to_string())
        .hint("the file is truncated or damaged; replace it, or remove its row from the data set")
}

/// An animation being decoded, and when to give up.
struct Reading {
    width: u32,
    height: u32,
    frames: Frames<'static>,
    start: Instant,
}

impl Reading {
    fn open(path: &Path, format: ImageFormat) -> Result<Reading> {
        let file = File::open(path).map_err(broken)?;
        let file = BufReader::new(file);
        // Two pictures of 4 bytes a pixel, as in io::image.
        let mut limits = Limits::default();
        limits.max_alloc = Some(MAX_PIXELS * 16);
        let ((width, height), frames) = match format {
            ImageFormat::WebP => {
                let decoder = WebPDecoder::new(file).map_err(broken)?;
                if !decoder.has_animation() {
                    return Err(Error::data("a still picture stands where a video should be")
                        .expected("an animated WebP file")
                        .found("one without animation")
                        .hint("name it in the column `image`"));
                }
                (sized(decoder.dimensions())?, decoder.into_frames())
            }
            _ => {
                let mut decoder = GifDecoder::new(file).map_err(broken)?;
                let size = sized(decoder.dimensions())?;
                decoder.set_limits(limits).map_err(broken)?;
                (size, decoder.into_frames())
            }
        };
        Ok(Reading { width, height, frames, start: Instant::now() })
    }

    fn next(&mut self) -> Result<Option<Frame>> {
        if self.start.elapsed() > TIME_LIMIT {
            return Err(Error::data("decoding the animation took too long")
                .expected(format!("at most {} s", TIME_LIMIT.as_secs()))
                .hint("scale the animation down, or make it shorter"));
        }
        self.frames.next().transpose().map_err(broken)
    }
}

fn sized((width, height): (u32, u32)) -> Result<(u32, u32)> {
    if (1..=MAX_PIXELS).contains(&(u64::from(width) * u64::from(height))) {
        return Ok((width, height));
    }
    Err(Error::data("the frames of the animation have a size that cannot be used")
        .expected(format!("1 to {MAX_PIXELS} pixels"))
        .found(format!("{width} x {height}")))
}

/// Counts the frames and adds up their delays.
pub(super) fn probe(path: &Path, format: ImageFormat) -> Result<VideoInfo> {
    let mut reading = Reading::open(path, format)?;
    let (mut frames, mut milliseconds) = (0usize, 0.0);
    while let Some(frame) = reading.next()? {
        let (numerator, denominator) = frame.delay().numer_denom_ms();
        let delay = f64::from(numerator) / f64::from(denominator.max(1));
        milliseconds += if delay < LEAST_DELAY { USUAL_DELAY } else { delay };
        frames += 1;
    }
    let duration = milliseconds / 1000.0;
    Ok(VideoInfo {
        frames,
        fps: if frames > 0 { frames as f64 / duration } else { 0.0 },
        width: reading.width as usize,
        height: reading.height as usize,
        duration,
    })
}

/// Decodes up to the last wanted frame (ascending numbers).
pub(super) fn each_frame(
    path: &Path,
    format: ImageFormat,
    wanted: &[usize],
    take: Take<'_>,
) -> Result<()> {
    let mut reading = Reading::open(path, format)?;
    let mut at = 0;
    for &index in wanted {
        let frame = loop {
            let Some(frame) = reading.next()? else {
                return Err(broken(format!("{at} frames, and frame {index} is wanted")));
            };
            at += 1;
            if at == index + 1 {
                break frame;
            }
        };
        take(index, over(&frame)?)?;
    }
    Ok(())
}

/// The picture of a frame over white.
fn over(frame: &Frame) -> Result<Image> {
    let pixels = frame.buffer();
    let (width, height) = (pixels.width() as usize, pixels.height() as usize);
    let pixel = |p: &[u8]| [0, 1, 2].map(|c| over_white(p[c], p[3]));
    Image::new(width, height, pixels.as_raw().chunks_exact(4).flat_map(pixel).collect())
}
