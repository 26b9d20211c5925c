//! Images of the rows: sizes, formats, and which of them are the same picture. Every distinct image is
//! read once, decoded, hashed and dropped, so memory holds one picture per thread (of the large ones, one
//! at all).

use super::broken::in_row;
use super::counts::{Histogram, Spread};
use super::in_parallel;
use crate::base::{Error, Result};
use crate::io::dataset::{ImageRef, Row};
use crate::io::image::{self, Alpha};
use crate::model::processor::fingerprint;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

/// Pictures that are named in a list.
const NAMED: usize = 20;
/// Names that are given of each.
const NAMES: usize = 5;

/// Images of more pixels are decoded one at a time, whatever the number of threads.
const LARGE: u64 = 16_000_000;
/// Whose turn it is to decode one of them. Decoding hands no work to other threads, so nobody waits for
/// what waits here.
static TURN: Mutex<()> = Mutex::new(());

/// What is kept of an image.
#[derive(Debug, Clone)]
struct Picture {
    content: u128,
    width: usize,
    height: usize,
    header: image::Header,
}

/// What is known of every image of some rows.
pub(super) struct Shown {
    places: HashMap<String, usize>,
    pictures: Vec<Result<Picture>>,
}

/// Looks at every distinct image of the rows.
///
/// # Errors
/// After Ctrl-C; an image that cannot be read is no error here.
pub(super) fn look(rows: &[&Row]) -> Result<Shown> {
    let mut places = HashMap::new();
    let mut distinct = Vec::new();
    for image in rows.iter().flat_map(|row| &row.images) {
        places.entry(image.name()).or_insert_with(|| {
            distinct.push(image);
            distinct.len() - 1
        });
    }
    Ok(Shown { places, pictures: in_parallel(&distinct, |image| look_at(image))? })
}

fn look_at(image: &ImageRef) -> Result<Picture> {
    let bytes = image.bytes()?;
    let read = || {
        let header = image::header(&bytes)?;
        let large = u64::from(header.width) * u64::from(header.height) > LARGE;
        let _alone = large.then(|| TURN.lock().unwrap_or_else(PoisonError::into_inner));
        let pixels = image::decode_with(&bytes, Alpha::OverWhite)?;
        let content = fingerprint([&pixels]);
        Ok(Picture { content, width: pixels.width, height: pixels.height, header })
    };
    read().map_err(|e: Error| e.at(image.name()))
}

impl Shown {
    fn of(&self, row: &Row) -> impl Iterator<Item = &Result<Picture>> {
        row.images.iter().map(|image| &self.pictures[self.places[&image.name()]])
    }
    fn good(&self, row: &Row) -> impl Iterator<Item = &Picture> {
        self.of(row).filter_map(|p| p.as_ref().ok())
    }
    /// The error of the first image of a row that cannot be read.
    pub(super) fn error_of(&self, row: &Row) -> Option<Error> {
        let wrong = self.of(row).find_map(|p| p.as_ref().err())?;
        Some(in_row(row, "image", wrong))
    }
    /// Widths and heights of the images of a row.
    pub(super) fn sizes(&self, row: &Row) -> Vec<(usize, usize)> {
        self.good(row).map(|p| (p.width, p.height)).collect()
    }
    /// What the images of a row show.
    pub(super) fn contents(&self, row: &Row) -> Vec<u128> {
        self.good(row).map(|p| p.content).collect()
    }
}

/// Images of a data set.
#[derive(Debug, Clone, Serialize)]
pub struct Pictures {
    /// Images of all rows together.
    pub references: usize,
    /// Distinct names (files).
    pub names: usize,
    /// Distinct pictures, by their pixels.
    pub pictures: usize,
    /// Rows by their number of images.
    pub per_row: BTreeMap<usize, usize>,
    /// Rows that show a picture which another row shows too.
    pub rows_sharing: usize,
    /// Pictures that most rows show, where they are several.
    pub most_shared: Vec<Copies>,
    /// Pictures that have several names.
    pub copied: usize,
    /// The first of them.
    pub copies: Vec<Copies>,
    /// Widths of the distinct files, in pixels.
    pub width: Option<Spread>,
    /// Their heights.
    pub height: Option<Spread>,
    /// Their sizes in millions of pixels.
    pub megapixels: Option<Spread>,
    /// The same as a histogram.
    pub histogram: Option<Histogram>,
    /// Files by format.
    pub formats: BTreeMap<&'static str, usize>,
    /// Files by mode.
    pub modes: BTreeMap<&'static str, usize>,
    /// Files that EXIF wants turned; they are shown to the model as they are.
    pub turned: usize,
}

/// A picture, the names it has, and the rows that show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Copies {
    /// Its first names.
    pub names: Vec<String>,
    /// How many names.
    pub count: usize,
    /// How many rows.
    pub rows: usize,
}

/// The images of rows whose images are all good.
pub(super) fn summary(rows: &[&Row], shown: &Shown) -> Pictures {
    let mut per_row = BTreeMap::new();
    // By content, in the order of their first row.
    let mut order: HashMap<u128, usize> = HashMap::new();
    let mut kinds: Vec<Copies> = Vec::new();
    let mut files: Vec<&Picture> = Vec::new();
    let mut named: HashMap<String, ()> = HashMap::new();
    for row in rows {
        *per_row.entry(row.images.len()).or_default() += 1;
        let mut of_row: Vec<usize> = Vec::new();
        for (image, picture) in row.images.iter().zip(shown.good(row)) {
            let kind = *order.entry(picture.content).or_insert_with(|| {
                kinds.push(Copies { names: Vec::new(), count: 0, rows: 0 });
                kinds.len() - 1
            });
            if !of_row.contains(&kind) {
                of_row.push(kind);
                kinds[kind].rows += 1;
            }
            let name = image.name();
            if named.insert(name.clone(), ()).is_none() {
                files.push(picture);
                kinds[kind].count += 1;
                if kinds[kind].names.len() < NAMES {
                    kinds[kind].names.push(name);
                }
            }
        }
    }
    let sharing = |row: &&&Row| shown.contents(row).iter().any(|c| kinds[order[c]].rows > 1);
    let rows_sharing = rows.iter().filter(sharing).count();
    let mut most_shared: Vec<Copies> = kinds.iter().filter(|k| k.rows > 1).cloned().collect();
    most_shared.sort_by_key(|k| std::cmp::Reverse(k.rows));
    most_shared.truncate(NAMES);
    let copies = || kinds.iter().filter(|k| k.count > 1);
    let mut formats = BTreeMap::new();
    let mut modes = BTreeMap::new();
    for p in &files {
        *formats.entry(p.header.format).or_default() += 1;
        *modes.entry(p.header.mode).or_default() += 1;
    }
    let mega = || files.iter().map(|p| (p.width * p.height) as f64 / 1e6);
    Pictures {
        references: rows.iter().map(|row| row.images.len()).sum(),
        names: files.len(),
        pictures: kinds.len(),
        per_row,
        rows_sharing,
        most_shared,
        copied: copies().count(),
        copies: copies().take(NAMED).cloned().collect(),
        width: Spread::of(files.iter().map(|p| p.width as f64)),
        height: Spread::of(files.iter().map(|p| p.height as f64)),
        megapixels: Spread::of(mega()),
        histogram: Histogram::of(mega(), 1e-4),
        formats,
        modes,
        turned: files.iter().filter(|p| p.header.turned).count(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::texts::tests::row;
    use super::*;
    use crate::io::image::Image;
    use serde_json::json;

    #[test]
    fn copies_and_shared_pictures_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let save = |name: &str, width: usize, level: u8| {
            let pixels = Image::new(width, 2, vec![level; width * 6]).unwrap();
            let path = dir.path().join(name);
            std::fs::write(&path, image::encode_png(&pixels).unwrap()).unwrap();
            ImageRef::File(path)
        };
        let (a, b, c) = (save("a.png", 3, 9), save("b.png", 3, 9), save("c.png", 50, 1));
        let broken = dir.path().join("d.png");
        std::fs::write(&broken, b"\x89PNG\r\n\x1a\nrest").unwrap();
        let mut rows: Vec<Row> = (0..5).map(|_| row("", "", json!({}))).collect();
        rows[0].images = vec![a.clone(), c.clone()];
        rows[1].images = vec![b.clone()];
        rows[2].images = vec![a.clone(), a.clone()];
        rows[4].images = vec![ImageRef::File(broken)];
        let rows: Vec<&Row> = rows.iter().collect();
        let shown = look(&rows).unwrap();
        let error = shown.error_of(rows[4]).unwrap();
        assert!(error.to_string().contains("d.png, d.jsonl, row 1, key `image`"), "{error}");
        assert!(rows[..4].iter().all(|row| shown.error_of(row).is_none()));
        let found = summary(&rows[..4], &shown);
        assert_eq!((found.references, found.names, found.pictures), (5, 3, 2));
        assert_eq!(found.per_row, BTreeMap::from([(0, 1), (1, 1), (2, 2)]));
        assert_eq!((found.rows_sharing, found.copied), (3, 1));
        let names = vec![a.name(), b.name()];
        let expected = Copies { names, count: 2, rows: 3 };
        assert_eq!((&found.copies, &found.most_shared), (&vec![expected.clone()], &vec![expected]));
        assert_eq!(found.width.unwrap().max, 50.0);
        assert_eq!(found.formats, BTreeMap::from([("PNG", 3)]));
        assert_eq!((found.modes, found.turned), (BTreeMap::from([("RGB", 3)]), 0));
        assert_eq!(shown.sizes(rows[0]), [(3, 2), (50, 2)]);
    }
}
