//! Image files to RGB pixels, as Pillow's `Image.open(..).convert("RGB")` gives them, and resizing
//! that equals Pillow's and torchvision's to the bit. EXIF orientation is never applied (Pillow does
//! not either), and no file can make this allocate more than Pillow's bomb limit allows.

mod convolve;
mod header;
#[cfg(feature = "jpeg-exact")]
mod jpeg;
pub mod pillow_resize;
pub mod torch_resize;

pub use convolve::Filter;
pub use header::{Header, header};

use crate::base::{Error, Result};
use image::{ColorType, DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};
use std::io::{Cursor, Read};
use std::path::Path;

/// Above this many pixels Pillow raises `DecompressionBombError` (2 * `Image.MAX_IMAGE_PIXELS`).
pub const MAX_PIXELS: u64 = 178_956_970;

/// Longest image file that is read: a 16-bit RGBA image of [`MAX_PIXELS`] without compression is longer, but
/// nobody keeps such files.
pub const MAX_FILE_BYTES: u64 = 1 << 30;

/// An RGB image, 8 bits per channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Pixels per row, at least 1.
    pub width: usize,
    /// Rows, at least 1.
    pub height: usize,
    /// `height * width * 3` bytes: rows from the top, R G B per pixel.
    pub rgb: Vec<u8>,
}

impl Image {
    /// An image of these pixels.
    ///
    /// # Errors
    /// If a side is 0 or `rgb` is not `width * height * 3` bytes long.
    pub fn new(width: usize, height: usize, rgb: Vec<u8>) -> Result<Image> {
        let bytes = width.checked_mul(height).and_then(|n| n.checked_mul(3));
        if width == 0 || height == 0 || bytes != Some(rgb.len()) {
            return Err(Error::data("the pixels do not fit the size of the image")
                .expected(format!("{width} x {height} x 3 bytes, both sides at least 1"))
                .found(format!("{} bytes", rgb.len())));
        }
        Ok(Image { width, height, rgb })
    }
}

/// What becomes of transparency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Alpha {
    /// The alpha channel is dropped: Pillow's `convert("RGB")`, and image processors up to
    /// transformers 4.
    #[default]
    Drop,
    /// The image is laid over white, as `convert_to_rgb` of transformers 5 and `to_rgb` of
    /// qwen-vl-utils do.
    OverWhite,
}

/// Reads and decodes an image file; transparency is dropped.
///
/// # Errors
/// If the file cannot be read, or as [`decode`], naming the file.
pub fn open(path: impl AsRef<Path>) -> Result<Image> {
    open_with(path, Alpha::Drop)
}

/// [`open`] with a choice of what becomes of transparency.
///
/// # Errors
/// As [`open`].
pub fn open_with(path: impl AsRef<Path>, alpha: Alpha) -> Result<Image> {
    let path = path.as_ref();
    decode_with(&read_file(path)?, alpha).map_err(|e| e.file(path))
}

/// The bytes of an image file.
///
/// # Errors
/// If it cannot be read, or is longer than [`MAX_FILE_BYTES`].
pub fn read_file(path: &Path) -> Result<Vec<u8>> {
    let io = |e: std::io::Error| {
        let error = Error::io("cannot read the image", path, &e);
        match e.kind() {
            std::io::ErrorKind::NotFound => {
                error.hint("check the image folder option and the paths in the data set")
            }
            _ => error,
        }
    };
    let file = std::fs::File::open(path).map_err(io)?;
    let mut bytes = Vec::new();
    // What is no file (a pipe, a device) may have no end.
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(io)?;
    match bytes.len() as u64 > MAX_FILE_BYTES {
        true => Err(too_long(bytes.len() as u64).file(path)),
        false => Ok(bytes),
    }
}

/// The error of an image of too many bytes.
pub(in crate::io) fn too_long(len: u64) -> Error {
    Error::data("the image file is too long")
        .expected(format!("at most {MAX_FILE_BYTES} bytes"))
        .found(format!("{len} bytes"))
        .hint("scale the image down before training")
}

/// Width and height, by the file's own word; nothing is decoded.
///
/// # Errors
/// If the bytes are no image that can be read.
pub fn dimensions(bytes: &[u8]) -> Result<(u32, u32)> {
    let format = image::guess_format(bytes).map_err(|_| not_an_image(bytes))?;
    ImageReader::with_format(Cursor::new(bytes), format).into_dimensions().map_err(broken)
}

/// Decodes a PNG, JPEG, WebP, GIF (first frame) or BMP file; transparency is dropped.
///
/// # Errors
/// If the bytes are empty, of another format, damaged, truncated, or promise more than
/// [`MAX_PIXELS`].
pub fn decode(bytes: &[u8]) -> Result<Image> {
    decode_with(bytes, Alpha::Drop)
}

/// [`decode`] with a choice of what becomes of transparency.
///
/// # Errors
/// As [`decode`].
pub fn decode_with(bytes: &[u8], alpha: Alpha) -> Result<Image> {
    let format = image::guess_format(bytes).map_err(|_| not_an_image(bytes))?;
    match format {
        ImageFormat::Jpeg => decode_jpeg(bytes),
        ImageFormat::Png | ImageFormat::WebP | ImageFormat::Gif | ImageFormat::Bmp => {
            decode_by_crate(bytes, format, alpha)
        }
        _ => Err(not_an_image(bytes)),
    }
}

#[cfg(feature = "jpeg-exact")]
fn decode_jpeg(bytes: &[u8]) -> Result<Image> {
    jpeg::decode(bytes)
}

/// Without libjpeg's arithmetic channel values differ from Pillow's by up to 4.
#[cfg(not(feature = "jpeg-exact"))]
fn decode_jpeg(bytes: &[u8]) -> Result<Image> {
    decode_by_crate(bytes, ImageFormat::Jpeg, Alpha::Drop)
}

/// The image as a PNG file (8-bit RGB).
///
/// # Errors
/// Of kind internal, if the encoder fails.
pub fn encode_png(image: &Image) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let side = |n: usize| {
        u32::try_from(n).map_err(|_| Error::data("the image is too large for a PNG file"))
    };
    image::ImageEncoder::write_image(
        image::codecs::png::PngEncoder::new(&mut out),
        &image.rgb,
        side(image.width)?,
        side(image.height)?,
        image::ExtendedColorType::Rgb8,
    )
    .map_err(|e| Error::internal(format!("cannot encode the image: {e}")))?;
    Ok(out)
}

/// The image as a JPEG file, for pages that show it; never for a model.
///
/// # Errors
/// A side above 65535, or of kind internal, if the encoder fails.
pub fn encode_jpeg(image: &Image, quality: u8) -> Result<Vec<u8>> {
    let side = |n: usize| {
        u16::try_from(n).map_err(|_| Error::data("the image is too large for a JPEG file"))
    };
    let (width, height) = (side(image.width)?, side(image.height)?);
    let mut out = Vec::new();
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut out, quality)
        .encode(&image.rgb, width.into(), height.into(), image::ExtendedColorType::Rgb8)
        .map_err(|e| Error::internal(format!("cannot encode the image: {e}")))?;
    Ok(out)
}

fn not_an_image(bytes: &[u8]) -> Error {
    let found = match bytes {
        [] => "a file of 0 bytes".to_string(),
        b if b.starts_with(b"<") => "text that looks like HTML or XML".into(),
        b if b.starts_with(b"version https://git-lfs") => "a Git LFS pointer".into(),
        b => {
            let start: Vec<String> = b.iter().take(8).map(|x| format!("{x:02x}")).collect();
            format!("{} bytes that start with {}", b.len(), start.join(" "))
        }
    };
    Error::data("this is not an image that can be read")
        .expected("a PNG, JPEG, WebP, GIF or BMP file")
        .found(found)
        .hint("replace the file, or remove its row from the data set")
}

fn broken(detail: impl std::fmt::Display) -> Error {
    Error::data("the image cannot be decoded")
        .expected("a complete PNG, JPEG, WebP, GIF or BMP file")
        .found(detail.to_string())
        .hint("the file is truncated or damaged; replace it, or remove its row from the data set")
}

/// Refuses sizes that only a decompression bomb has, before anything is allocated.
fn check_size(width: u64, height: u64) -> Result<()> {
    match width.checked_mul(height) {
        Some(0) => Err(broken("an image without pixels")),
        Some(n) if n <= MAX_PIXELS => Ok(()),
        _ => Err(Error::data("the image has too many pixels")
            .expected(format!("at most {MAX_PIXELS} (Pillow's limit against bombs)"))
            .found(format!("{width} x {height}"))
            .hint("scale the image down before training")),
    }
}

fn decode_by_crate(bytes: &[u8], format: ImageFormat, alpha: Alpha) -> Result<Image> {
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    // 8 bytes per pixel (RGBA, 16 bits) twice: a decoder may hold the last frame and this one.
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_PIXELS * 16);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(broken)?;
    let (w, h) = decoder.dimensions();
    check_size(u64::from(w), u64::from(h))?;
    let color = decoder.color_type();
    let pixels = DynamicImage::from_decoder(decoder).map_err(broken)?;
    let rgb = to_rgb(&pixels, color, alpha);
    Image::new(w as usize, h as usize, rgb)
}

/// Any decoded layout to 8-bit RGB. Of 16-bit channels the high byte counts, as Pillow takes it for
/// colour images (a 16-bit grey image Pillow would clip at 255, which makes it white; that accident
/// is not followed).
fn to_rgb(pixels: &DynamicImage, color: ColorType, alpha: Alpha) -> Vec<u8> {
    let wide: Vec<u8>;
    let raw: &[u8] = match pixels {
        DynamicImage::ImageLuma16(_)
        | DynamicImage::ImageLumaA16(_)
        | DynamicImage::ImageRgb16(_)
        | DynamicImage::ImageRgba16(_) => {
            let high = |pair: &[u8]| (u16::from_ne_bytes([pair[0], pair[1]]) >> 8) as u8;
            wide = pixels.as_bytes().chunks_exact(2).map(high).collect();
            &wide
        }
        _ => pixels.as_bytes(),
    };
    let lay = |v: u8, a: u8| match alpha {
        Alpha::Drop => v,
        Alpha::OverWhite => over_white(v, a),
    };
    match color.channel_count() {
        1 => raw.iter().flat_map(|&v| [v; 3]).collect(),
        2 => raw.chunks_exact(2).flat_map(|p| [lay(p[0], p[1]); 3]).collect(),
        3 => raw.to_vec(),
        _ => {
            let pixel = |p: &[u8]| [lay(p[0], p[3]), lay(p[1], p[3]), lay(p[2], p[3])];
            raw.chunks_exact(4).flat_map(pixel).collect()
        }
    }
}

/// One channel over opaque white in the fixed point of Pillow's `alpha_composite`
/// (libImaging/AlphaComposite.c): 7 extra bits, and division by 255 as shifts.
pub(in crate::io) fn over_white(v: u8, a: u8) -> u8 {
    const BITS: u32 = 7;
    let (v, a) = (u32::from(v), u32::from(a));
    if a == 0 {
        return 255;
    }
    let div255 = |x: u32| ((x >> 8) + x) >> 8;
    // The result is opaque, so the weight of the source is its alpha alone.
    let source = a * 255 * 255 * (1 << BITS) / (255 * a + 255 * (255 - a));
    let white = 255 * (1 << BITS) - source;
    (div255(v * source + 255 * white + (0x80 << BITS)) >> BITS) as u8
}

#[cfg(test)]
mod tests;
