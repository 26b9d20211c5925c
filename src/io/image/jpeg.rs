//! JPEG through libjpeg-turbo's arithmetic (mozjpeg), which gives Pillow's pixels to the bit: slow
//! integer DCT, fancy upsampling. The library reports errors by unwinding; that is caught here and
//! never leaves this file, and a file that ends early is an error, never a half-grey image.

use super::{Image, broken, check_size};
use crate::base::Result;
use mozjpeg::{ColorSpace, Decompress};
use std::cell::Cell;
use std::io::{self, BufRead, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Decodes grey, YCbCr, RGB, CMYK and YCCK files to RGB.
pub(super) fn decode(bytes: &[u8]) -> Result<Image> {
    // mozjpeg unwinds with `resume_unwind`, which does not call the panic hook: nothing is printed.
    match catch_unwind(AssertUnwindSafe(|| decode_or_unwind(bytes))) {
        Ok(result) => result,
        Err(payload) => Err(broken(match payload.downcast::<String>() {
            Ok(text) => *text,
            Err(_) => "libjpeg gave up".into(),
        })),
    }
}

fn decode_or_unwind(bytes: &[u8]) -> Result<Image> {
    let starved = Cell::new(false);
    let reader = Watched { rest: bytes, starved: &starved };
    let header = Decompress::new_reader(reader).map_err(broken)?;
    let (width, height) = header.size();
    check_size(width as u64, height as u64)?;
    let space = match header.color_space() {
        ColorSpace::JCS_GRAYSCALE => ColorSpace::JCS_GRAYSCALE,
        ColorSpace::JCS_CMYK | ColorSpace::JCS_YCCK => ColorSpace::JCS_CMYK,
        _ => ColorSpace::JCS_RGB,
    };
    let mut started = header.to_colorspace(space).map_err(broken)?;
    let raw: Vec<u8> = started.read_scanlines().map_err(broken)?;
    if starved.get() {
        return Err(broken("a JPEG file that ends before its last row of pixels"));
    }
    let rgb = match space {
        ColorSpace::JCS_GRAYSCALE => raw.iter().flat_map(|&v| [v; 3]).collect(),
        ColorSpace::JCS_CMYK => raw.chunks_exact(4).flat_map(cmyk_to_rgb).collect(),
        _ => raw,
    };
    Image::new(width, height, rgb)
}

/// Pillow reads CMYK files inverted (rawmode `CMYK;I`), then `cmyk2rgb` of libImaging/Convert.c.
fn cmyk_to_rgb(p: &[u8]) -> [u8; 3] {
    let no_black = i32::from(p[3]);
    let channel = |ink: u8| {
        let x = i32::from(255 - ink) * no_black + 128;
        (no_black - (((x >> 8) + x) >> 8)).clamp(0, 255) as u8
    };
    [channel(p[0]), channel(p[1]), channel(p[2])]
}

/// A reader over the file that notices when the decoder asks for bytes past its end; the library
/// itself would invent an end marker and paint the rest grey.
struct Watched<'a> {
    rest: &'a [u8],
    starved: &'a Cell<bool>,
}

impl Read for Watched<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.rest.read(buf)
    }
}

impl BufRead for Watched<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.rest.is_empty() {
            self.starved.set(true);
        }
        Ok(self.rest)
    }
    fn consume(&mut self, n: usize) {
        self.rest = &self.rest[n.min(self.rest.len())..];
    }
}
