//! Layouts and damaged files of the decoder. Pixels are compared with Pillow in
//! `tests/golden_image.rs`.

use super::pillow_resize::pillow_resize;
use super::torch_resize::torch_resize;
use super::*;

fn sample(width: usize, height: usize) -> Image {
    let byte = |i: usize| (i.wrapping_mul(2_654_435_761) >> 7) as u8;
    Image::new(width, height, (0..width * height * 3).map(byte).collect()).unwrap()
}

fn jpeg_bytes(image: &Image) -> Vec<u8> {
    let mut out = Vec::new();
    image::ImageEncoder::write_image(
        image::codecs::jpeg::JpegEncoder::new(&mut out),
        &image.rgb,
        image.width as u32,
        image.height as u32,
        image::ExtendedColorType::Rgb8,
    )
    .unwrap();
    out
}

#[test]
fn png_round_trips() {
    let image = sample(13, 7);
    assert_eq!(decode(&encode_png(&image).unwrap()).unwrap(), image);
}

#[test]
fn files_that_are_not_images_say_what_they_are() {
    let text = |b: &[u8]| decode(b).unwrap_err().to_string();
    assert!(text(b"").contains("0 bytes"));
    assert!(text(b"<!DOCTYPE html>").contains("HTML"));
    assert!(text(b"version https://git-lfs.github.com/spec/v1").contains("LFS"));
    assert!(text(b"hello world").contains("68 65 6c"));
    assert!(text(b"II*\0").contains("PNG"), "a TIFF file is not read");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.png");
    assert_eq!(open(&path).unwrap_err().exit_code(), 4);
    std::fs::write(&path, b"").unwrap();
    let e = open(&path).unwrap_err();
    assert!(e.to_string().contains("a.png") && e.hint_text().is_some());
    assert_eq!(e.exit_code(), 3);
}

#[test]
fn every_truncation_is_an_error_and_no_damage_panics() {
    for whole in [encode_png(&sample(40, 30)).unwrap(), jpeg_bytes(&sample(40, 30))] {
        assert!(decode(&whole).is_ok());
        // The last bytes (PNG's end chunk, JPEG's end marker) hold no pixels.
        for n in (0..whole.len() - 16).step_by(7) {
            let e = decode(&whole[..n]).unwrap_err();
            assert!(e.hint_text().is_some(), "cut at {n}");
        }
        for at in (2..whole.len()).step_by(3) {
            let mut bad = whole.clone();
            bad[at] ^= 0x5a;
            let _ = decode(&bad);
        }
    }
}

#[test]
fn bombs_are_refused_before_they_are_allocated() {
    // A PNG header of 2^31-1 by 2^31-1 pixels, and the same idea as a GIF.
    let mut png = encode_png(&sample(1, 1)).unwrap();
    png[16..24].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff]);
    assert!(decode(&png).is_err());
    assert!(check_size(13_377, 13_377).is_ok());
    let e = check_size(13_378, 13_378).unwrap_err().to_string();
    assert!(e.contains("178956970"), "{e}");
    assert!(check_size(u64::MAX, 2).is_err());
    assert!(check_size(0, 2).is_err());
    assert!(pillow_resize(&sample(2, 2), 100_000, 100_000, Filter::Bicubic).is_err());
    assert!(torch_resize(&sample(2, 2), 0, 1, Filter::Bicubic).is_err());
}

#[test]
fn alpha_is_dropped_or_laid_over_white() {
    let mut out = Vec::new();
    let rgba = [10, 20, 30, 0, 10, 20, 30, 255, 10, 20, 30, 128];
    image::ImageEncoder::write_image(
        image::codecs::png::PngEncoder::new(&mut out),
        &rgba,
        3,
        1,
        image::ExtendedColorType::Rgba8,
    )
    .unwrap();
    assert_eq!(decode(&out).unwrap().rgb, [10, 20, 30, 10, 20, 30, 10, 20, 30]);
    let white = decode_with(&out, Alpha::OverWhite).unwrap().rgb;
    assert_eq!(white[..6], [255, 255, 255, 10, 20, 30]);
    assert_eq!(white[6..], [132, 137, 142]);
}

#[test]
fn a_constant_image_stays_constant() {
    let grey = Image::new(9, 11, vec![77; 297]).unwrap();
    for filter in [Filter::Bilinear, Filter::Bicubic, Filter::Lanczos] {
        for resize in [pillow_resize, torch_resize] {
            let out = resize(&grey, 28, 5, filter).unwrap();
            assert!(out.rgb.iter().all(|&v| v == 77), "{filter:?}");
            assert_eq!((out.width, out.height), (28, 5));
        }
    }
}

#[test]
fn images_must_have_their_pixels() {
    assert!(Image::new(0, 3, vec![]).is_err());
    assert!(Image::new(2, 2, vec![0; 11]).is_err());
    assert!(Image::new(usize::MAX, 2, vec![0; 12]).is_err());
}
