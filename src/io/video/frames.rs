//! Videos that are picture files, one per frame: the frames of a folder in the order of the numbers in
//! their names, and reading the wanted ones. Files that are no pictures by their ending are left
//! alone; all frames of a video have one size.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};

use super::{Take, VideoInfo};
use crate::base::{Error, Result};
use crate::io::image::{self, Alpha};

/// Endings of frames.
const ENDINGS: [&str; 6] = ["png", "jpg", "jpeg", "webp", "gif", "bmp"];

/// Picture files of a folder in natural order: `f2.png` before `f10.png`. Subfolders and hidden
/// files do not count.
///
/// # Errors
/// A folder that cannot be read, or holds no picture.
pub(super) fn of_folder(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder)
        .and_then(Iterator::collect::<std::io::Result<Vec<_>>>)
        .map_err(|e| Error::io("cannot read the folder of frames", folder, &e))?;
    let is_frame = |p: &PathBuf| {
        let ending = p.extension().map(|e| e.to_string_lossy().to_lowercase());
        let hidden = p.file_name().is_none_or(|n| n.as_encoded_bytes().starts_with(b"."));
        !hidden && ending.is_some_and(|e| ENDINGS.contains(&e.as_str())) && p.is_file()
    };
    let mut list: Vec<PathBuf> = entries.iter().map(|e| e.path()).filter(is_frame).collect();
    if list.is_empty() {
        return Err(Error::data("the folder of a video has no frames")
            .file(folder)
            .expected(format!("picture files: {}", ENDINGS.join(", ")))
            .found(format!("{} other entries", entries.len())));
    }
    list.sort_by(|a, b| natural(&name(a), &name(b)));
    Ok(list)
}

fn name(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Order of names in which runs of digits are numbers; names that differ in zeros alone are ordered
/// as texts, so that the order is total.
pub(super) fn natural(a: &str, b: &str) -> Ordering {
    let (mut x, mut y) = (a, b);
    loop {
        let (digits_x, digits_y) = (digits(x), digits(y));
        if !digits_x.is_empty() && !digits_y.is_empty() {
            let (n, m) = (digits_x.trim_start_matches('0'), digits_y.trim_start_matches('0'));
            let order = n.len().cmp(&m.len()).then_with(|| n.cmp(m));
            if order != Ordering::Equal {
                return order;
            }
            (x, y) = (&x[digits_x.len()..], &y[digits_y.len()..]);
            continue;
        }
        let (mut rest_x, mut rest_y) = (x.chars(), y.chars());
        match (rest_x.next(), rest_y.next()) {
            (Some(c), Some(d)) if c == d => (x, y) = (rest_x.as_str(), rest_y.as_str()),
            (None, None) => return a.cmp(b),
            (c, d) => return c.cmp(&d),
        }
    }
}

/// The digits that a text begins with.
fn digits(text: &str) -> &str {
    &text[..text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len()]
}

/// What a list of frames is, by the header of its first one.
///
/// # Errors
/// An empty list, or a first frame that cannot be read.
pub(super) fn probe(list: &[PathBuf], fps: f64) -> Result<VideoInfo> {
    let Some(first) = list.first() else {
        return Err(Error::data("the video has no frames").expected("at least one picture file"));
    };
    let unreadable =
        |e: String| Error::data("the first frame of the video cannot be read").file(first).found(e);
    let (width, height) = ::image::ImageReader::open(first)
        .and_then(|r| r.with_guessed_format())
        .map_err(|e| unreadable(e.to_string()))?
        .into_dimensions()
        .map_err(|e| unreadable(e.to_string()))?;
    let frames = list.len();
    let (width, height) = (width as usize, height as usize);
    Ok(VideoInfo { frames, fps, width, height, duration: frames as f64 / fps })
}

/// Reads the wanted frames (ascending numbers below the length of the list).
pub(super) fn each_frame(
    list: &[PathBuf],
    info: &VideoInfo,
    wanted: &[usize],
    take: Take<'_>,
) -> Result<()> {
    for &i in wanted {
        let frame = image::open_with(&list[i], Alpha::OverWhite)?;
        if (frame.width, frame.height) != (info.width, info.height) {
            return Err(Error::data("the frames of the video differ in size")
                .file(&list[i])
                .expected(format!("{} x {}, as the first frame", info.width, info.height))
                .found(format!("{} x {}", frame.width, frame.height)));
        }
        take(i, frame)?;
    }
    Ok(())
}
