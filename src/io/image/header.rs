//! What an image file says of itself beside its pixels: format, mode, orientation. Decodes no pixel and
//! never decides what a model sees.

use super::{Result, broken, not_an_image};
use image::metadata::Orientation;
use image::{ColorType, ImageDecoder, ImageFormat, ImageReader};
use std::io::Cursor;

/// What stands in the header of an image file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// `PNG`, `JPEG`, `WebP`, `GIF` or `BMP`.
    pub format: &'static str,
    /// Channels by Pillow's names (`RGB`, `RGBA`, `L`, `LA`, `P`, `CMYK`), with `16-bit` behind deep ones.
    pub mode: &'static str,
    /// Width in pixels, as the file has it.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// EXIF wants it turned or mirrored, which neither Pillow nor this program does.
    pub turned: bool,
}

/// Reads the header of an image file.
///
/// # Errors
/// Of kind data, if the bytes are empty, of another format, or damaged.
pub fn header(bytes: &[u8]) -> Result<Header> {
    let format = image::guess_format(bytes).map_err(|_| not_an_image(bytes))?;
    let name = match format {
        ImageFormat::Png => "PNG",
        ImageFormat::Jpeg => "JPEG",
        ImageFormat::WebP => "WebP",
        ImageFormat::Gif => "GIF",
        ImageFormat::Bmp => "BMP",
        _ => return Err(not_an_image(bytes)),
    };
    let mut decoder =
        ImageReader::with_format(Cursor::new(bytes), format).into_decoder().map_err(broken)?;
    // A damaged EXIF block is no damaged image.
    let turned = decoder.orientation().is_ok_and(|o| o != Orientation::NoTransforms);
    let (width, height) = decoder.dimensions();
    let stored = match format {
        ImageFormat::Png => mode_of_png(bytes),
        ImageFormat::Jpeg => mode_of_jpeg(bytes),
        ImageFormat::Gif => Some("P"),
        _ => None,
    };
    let mode = stored.unwrap_or_else(|| mode_of_pixels(decoder.color_type()));
    Ok(Header { format: name, mode, width, height, turned })
}

/// Decoders expand palettes, so the mode is read where the file has it: depth and colour type are
/// bytes 24 and 25 (PNG specification, 11.2.2).
fn mode_of_png(bytes: &[u8]) -> Option<&'static str> {
    match (bytes.get(24)?, bytes.get(25)?) {
        (16, 0) => Some("L 16-bit"),
        (16, 2) => Some("RGB 16-bit"),
        (16, 4) => Some("LA 16-bit"),
        (16, 6) => Some("RGBA 16-bit"),
        (_, 0) => Some("L"),
        (_, 2) => Some("RGB"),
        (_, 3) => Some("P"),
        (_, 4) => Some("LA"),
        (_, 6) => Some("RGBA"),
        _ => None,
    }
}

/// The number of components of the frame header (ITU T.81, B.2.2): segments are walked up to it.
fn mode_of_jpeg(bytes: &[u8]) -> Option<&'static str> {
    let mut at = 2;
    loop {
        let marker = *bytes.get(at + 1)?;
        if *bytes.get(at)? != 0xFF {
            return None;
        }
        let length = u16::from_be_bytes([*bytes.get(at + 2)?, *bytes.get(at + 3)?]) as usize;
        // DHT, JPG and DAC lie among the frame headers.
        if (0xC0..=0xCF).contains(&marker) && ![0xC4, 0xC8, 0xCC].contains(&marker) {
            return match bytes.get(at + 9)? {
                1 => Some("L"),
                3 => Some("RGB"),
                4 => Some("CMYK"),
                _ => None,
            };
        }
        at += 2 + length.max(2);
    }
}

fn mode_of_pixels(color: ColorType) -> &'static str {
    match color {
        ColorType::L8 => "L",
        ColorType::La8 => "LA",
        ColorType::Rgb8 => "RGB",
        ColorType::Rgba8 => "RGBA",
        ColorType::L16 => "L 16-bit",
        ColorType::La16 => "LA 16-bit",
        ColorType::Rgb16 => "RGB 16-bit",
        ColorType::Rgba16 => "RGBA 16-bit",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_published_formats() {
        for (name, format, mode, turned) in [
            ("rgb_160x120.jpg", "JPEG", "RGB", false),
            ("grey_64x49.jpg", "JPEG", "L", false),
            ("cmyk_30x32.jpg", "JPEG", "CMYK", false),
            ("progressive_83x90.jpg", "JPEG", "RGB", false),
            ("orientation_40x24.jpg", "JPEG", "RGB", true),
            ("rgb_33x70.png", "PNG", "RGB", false),
            ("rgba_45x38.png", "PNG", "RGBA", false),
            ("grey_40x40.png", "PNG", "L", false),
            ("grey_alpha_20x20.png", "PNG", "LA", false),
            ("palette_31x57.png", "PNG", "P", false),
            ("rgb16_24x22.png", "PNG", "RGB 16-bit", false),
            ("rgb_37x29.bmp", "BMP", "RGB", false),
            ("anim_30x31.gif", "GIF", "P", false),
            ("lossless_36x34.webp", "WebP", "RGB", false),
        ] {
            let path = format!("{}/tests/data/image/{name}", env!("CARGO_MANIFEST_DIR"));
            let found = header(&std::fs::read(path).unwrap()).unwrap();
            assert_eq!((found.format, found.mode, found.turned), (format, mode, turned), "{name}");
            let size = format!("_{}x{}.", found.width, found.height);
            assert!(name.contains(&size), "{name}: {size}");
        }
        for bytes in [&b""[..], b"<html>", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a"] {
            assert_eq!(header(bytes).unwrap_err().exit_code(), 3);
        }
    }
}
