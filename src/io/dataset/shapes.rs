//! A generated data set of coloured shapes: no download, no licence question, exact answers. The
//! same seed gives the same bytes; no question has two right answers.

use std::collections::HashSet;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::{ImageFormat, RgbImage};
use rayon::prelude::*;
use serde_json::json;

use super::draw::{COLORS, KINDS, PLACES, Shape, draw};
use crate::base::rng::PhiloxStream;
use crate::base::{Error, Philox, Result, RngDomain};
use crate::io::atomic::write_atomic;

/// Names of the four kinds of question, column `task`. Row r asks kind r mod 4, so every prefix of
/// a file is balanced.
pub const TASKS: [&str; 4] = ["kind", "color", "count", "position"];

/// Fewest rows of test.jsonl; with more training rows it has a tenth of their number.
pub const MIN_TEST_ROWS: usize = 200;

/// What to generate.
#[derive(Debug, Clone)]
pub struct ShapesOptions {
    /// Where train.jsonl, test.jsonl and images/ go.
    pub output_dir: PathBuf,
    /// Rows of train.jsonl; test.jsonl has max([`MIN_TEST_ROWS`], a tenth) more, of other images.
    pub num_rows: usize,
    /// Seed of everything.
    pub seed: u64,
    /// Side of the square pictures in pixels; a multiple of 28 suits Qwen2.5-VL's patches.
    pub image_size: u32,
}

impl ShapesOptions {
    /// `num_rows` training rows of 56 x 56 pictures: 4 image tokens each in Qwen2.5-VL.
    pub fn new(output_dir: impl AsRef<Path>, num_rows: usize, seed: u64) -> Self {
        let output_dir = output_dir.as_ref().to_owned();
        ShapesOptions { output_dir, num_rows, seed, image_size: 56 }
    }
}

/// The files that were made.
#[derive(Debug, Clone)]
pub struct ShapesReport {
    /// train.jsonl.
    pub train: PathBuf,
    /// test.jsonl.
    pub test: PathBuf,
    /// warmup.jsonl.
    pub warmup: PathBuf,
    /// Rows of train.jsonl.
    pub train_rows: usize,
    /// Rows of test.jsonl.
    pub test_rows: usize,
}

/// A question about a picture.
struct Scene {
    shapes: Vec<Shape>,
    question: String,
    answer: &'static str,
}

/// One row before it is written.
struct Drawn {
    scene: Scene,
    picture: RgbImage,
}

/// Writes the data set. Rows have the columns `id`, `image`, `question`, `answer` and `task`; each
/// has a picture of its own, and no picture of test.jsonl is in train.jsonl. `warmup.jsonl` has the
/// training rows for a supervised start, answered as a mixed crowd answers: three in five between
/// `<answer>` tags, the others in words of their own.
///
/// # Errors
/// No rows, pictures below 28 or above 2048 pixels, or a folder that cannot be written.
pub fn make_shapes(options: &ShapesOptions) -> Result<ShapesReport> {
    if options.num_rows == 0 || options.num_rows > 10_000_000 {
        return Err(Error::usage("cannot generate this number of rows")
            .key("num_rows")
            .expected("1 to 10000000")
            .found(options.num_rows.to_string()));
    }
    if !(28..=2048).contains(&options.image_size) {
        return Err(Error::usage("cannot draw pictures of this size")
            .key("image_size")
            .expected("28 to 2048 pixels")
            .found(options.image_size.to_string()));
    }
    let images = options.output_dir.join("images");
    std::fs::create_dir_all(&images)
        .map_err(|e| Error::io("cannot make the folder", &images, &e))?;
    let test_rows = MIN_TEST_ROWS.max(options.num_rows / 10);
    // Test first: training pictures that equal one of them are drawn again.
    let mut seen = HashSet::new();
    let (test, _) = write_split(options, "test", 1, test_rows, &mut seen)?;
    let (train, warmup) = write_split(options, "train", 0, options.num_rows, &mut seen)?;
    let warmup = write_lines(&options.output_dir, "warmup", &warmup)?;
    Ok(ShapesReport { train, test, warmup, train_rows: options.num_rows, test_rows })
}

fn write_split(
    options: &ShapesOptions,
    name: &str,
    split: u32,
    rows: usize,
    seen: &mut HashSet<Vec<u8>>,
) -> Result<(PathBuf, String)> {
    let rng = Philox::new(options.seed, RngDomain::Data);
    let (mut lines, mut warmup) = (String::new(), String::new());
    // In chunks, so that a million rows do not have to fit in memory.
    for start in (0..rows).step_by(4096) {
        let chunk: Vec<Drawn> = (start..rows.min(start + 4096))
            .into_par_iter()
            .map(|row| draw_row(&rng, options.image_size, split, row, seen))
            .collect();
        chunk.par_iter().enumerate().try_for_each(|(i, drawn)| {
            let file = options.output_dir.join(image_name(name, start + i));
            write_png(&file, &drawn.picture)
        })?;
        for (i, drawn) in chunk.into_iter().enumerate() {
            let row = start + i;
            let line = |answer: &str| {
                let columns = json!({
                    "id": format!("{name}-{row:06}"),
                    "image": image_name(name, row),
                    "question": drawn.scene.question,
                    "answer": answer,
                    "task": TASKS[row % 4],
                });
                format!("{columns}\n")
            };
            lines += &line(drawn.scene.answer);
            warmup += &line(&said(drawn.scene.answer, rng.stream(SAID, row as u32).below(5)));
            if split == 1 {
                seen.insert(drawn.picture.into_raw());
            }
        }
    }
    Ok((write_lines(&options.output_dir, name, &lines)?, warmup))
}

/// The rows come last and at once: a file that is there is complete.
fn write_lines(dir: &Path, name: &str, lines: &str) -> Result<PathBuf> {
    let file = dir.join(format!("{name}.jsonl"));
    write_atomic(&file, lines.as_bytes())?;
    Ok(file)
}

/// Stream of the draws of [`said`]; pictures count up from 0.
const SAID: u32 = u32::MAX;

/// An answer in one of five habits, three of which put it between tags.
fn said(answer: &str, habit: usize) -> String {
    match habit {
        0 => answer.to_string(),
        1 => format!("It is {answer}."),
        _ => format!("<answer>{answer}</answer>"),
    }
}

fn image_name(split: &str, row: usize) -> String {
    format!("images/{split}-{row:06}.png")
}

/// The scene and the picture of a row; tries again while the picture is one of the test set.
fn draw_row(rng: &Philox, size: u32, split: u32, row: usize, test: &HashSet<Vec<u8>>) -> Drawn {
    let mut attempt = 0;
    loop {
        let mut numbers = rng.stream(split + 2 * attempt, row as u32);
        let scene = scene(row, &mut numbers);
        let picture = draw(&scene.shapes, size, &mut numbers);
        if split == 1 || !test.contains(picture.as_raw()) {
            return Drawn { scene, picture };
        }
        attempt += 1;
    }
}

fn write_png(file: &Path, picture: &RgbImage) -> Result<()> {
    let mut bytes = Cursor::new(Vec::new());
    picture
        .write_to(&mut bytes, ImageFormat::Png)
        .map_err(|e| Error::internal("cannot encode a picture").found(e.to_string()))?;
    std::fs::write(file, bytes.into_inner())
        .map_err(|e| Error::io("cannot write a picture", file, &e))
}

/// The question, the answer and the shapes of a row. Answers of a kind take turns.
fn scene(row: usize, rng: &mut PhiloxStream) -> Scene {
    let turn = row / 4;
    match row % 4 {
        0 => kind_scene(turn % KINDS.len(), rng),
        1 => color_scene(turn % COLORS.len(), rng),
        2 => count_scene(turn % 4, rng),
        _ => position_scene(turn % PLACES.len(), rng),
    }
}

fn any_shape(rng: &mut PhiloxStream) -> Shape {
    Shape {
        kind: rng.below(KINDS.len()),
        color: rng.below(COLORS.len()),
        place: rng.below(PLACES.len()),
    }
}

/// `number` shapes in different places that start with `first`; every other one satisfies `fits`.
fn fill(
    first: Shape,
    number: usize,
    rng: &mut PhiloxStream,
    fits: impl Fn(&Shape) -> bool,
) -> Vec<Shape> {
    let mut shapes = vec![first];
    while shapes.len() < number {
        let next = any_shape(rng);
        if fits(&next) && shapes.iter().all(|s| s.place != next.place) {
            shapes.push(next);
        }
    }
    shapes
}

fn pick<'a>(rng: &mut PhiloxStream, texts: &[&'a str]) -> &'a str {
    texts[rng.below(texts.len())]
}

/// Fills `{color}`, `{kind}` and `{place}` of a phrase with the words of a shape.
fn phrase(rng: &mut PhiloxStream, texts: &[&str], s: &Shape) -> String {
    let place = match PLACES[s.place].0 {
        "left" => "on the left",
        "right" => "on the right",
        "top" => "at the top",
        "bottom" => "at the bottom",
        _ => "in the center",
    };
    pick(rng, texts)
        .replace("{color}", COLORS[s.color].0)
        .replace("{kind}", KINDS[s.kind])
        .replace("{place}", place)
}

fn kind_scene(kind: usize, rng: &mut PhiloxStream) -> Scene {
    let target = Shape { kind, ..any_shape(rng) };
    let number = 2 + rng.below(3);
    let (shapes, texts): (_, &[&str]) = match rng.below(3) {
        0 => (
            vec![target],
            &[
                "What shape is in the image?",
                "What shape is shown?",
                "Which shape do you see in the picture?",
            ],
        ),
        1 => (
            fill(target, number, rng, |s| s.color != target.color),
            &[
                "What shape is {color}?",
                "Which shape is the {color} object?",
                "What is the shape of the {color} object?",
            ],
        ),
        _ => (
            fill(target, number, rng, |_| true),
            &[
                "What shape is {place}?",
                "Which shape can be seen {place}?",
                "What is the shape of the object {place}?",
            ],
        ),
    };
    Scene { question: phrase(rng, texts, &target), shapes, answer: KINDS[kind] }
}

fn color_scene(color: usize, rng: &mut PhiloxStream) -> Scene {
    let target = Shape { color, ..any_shape(rng) };
    let number = 2 + rng.below(3);
    let (shapes, texts): (_, &[&str]) = match rng.below(3) {
        0 => (
            vec![target],
            &[
                "What color is the shape?",
                "What is the color of the {kind}?",
                "Which color does the object have?",
            ],
        ),
        1 => (
            fill(target, number, rng, |s| s.kind != target.kind),
            &[
                "What color is the {kind}?",
                "What is the color of the {kind}?",
                "Which color does the {kind} have?",
            ],
        ),
        _ => (
            fill(target, number, rng, |_| true),
            &[
                "What color is the shape {place}?",
                "What is the color of the object {place}?",
                "Which color does the shape {place} have?",
            ],
        ),
    };
    Scene { question: phrase(rng, texts, &target), shapes, answer: COLORS[color].0 }
}

/// The answer is `less_one` + 1: of all shapes, or of the shapes of one colour.
fn count_scene(less_one: usize, rng: &mut PhiloxStream) -> Scene {
    let (answer, count) = (["1", "2", "3", "4"][less_one], less_one + 1);
    let target = any_shape(rng);
    if rng.below(2) == 0 {
        let texts = [
            "How many shapes are there?",
            "How many objects are in the image?",
            "Count the shapes in the picture.",
        ];
        let shapes = fill(target, count, rng, |_| true);
        return Scene { question: phrase(rng, &texts, &target), shapes, answer };
    }
    let texts = [
        "How many shapes are {color}?",
        "How many {color} shapes are there?",
        "Count the {color} objects.",
    ];
    let of_color = fill(target, count, rng, |s| s.color == target.color);
    let mut shapes = of_color;
    let number = count + rng.below(5 - count);
    while shapes.len() < number {
        let next = any_shape(rng);
        if next.color != target.color && shapes.iter().all(|s| s.place != next.place) {
            shapes.push(next);
        }
    }
    Scene { question: phrase(rng, &texts, &target), shapes, answer }
}

fn position_scene(place: usize, rng: &mut PhiloxStream) -> Scene {
    let target = Shape { place, ..any_shape(rng) };
    let number = 2 + rng.below(3);
    let (shapes, texts): (_, &[&str]) = match rng.below(3) {
        0 => (
            fill(target, number, rng, |s| s.kind != target.kind),
            &["Where is the {kind}?", "In which part of the image is the {kind}?"],
        ),
        1 => (
            fill(target, number, rng, |s| s.color != target.color),
            &["Where is the {color} shape?", "In which part of the image is the {color} object?"],
        ),
        _ => (
            fill(target, number, rng, |s| (s.kind, s.color) != (target.kind, target.color)),
            &[
                "Where is the {color} {kind}?",
                "In which part of the image is the {color} {kind}?",
                "What is the position of the {color} {kind}?",
            ],
        ),
    };
    Scene { question: phrase(rng, texts, &target), shapes, answer: PLACES[place].0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::dataset::{DatasetOptions, Loaded, load};
    use std::collections::HashMap;

    fn made(rows: usize, seed: u64) -> (tempfile::TempDir, Loaded, Loaded) {
        let dir = tempfile::tempdir().unwrap();
        let report = make_shapes(&ShapesOptions::new(dir.path(), rows, seed)).unwrap();
        assert_eq!((report.train_rows, report.test_rows), (rows, 200));
        let read = |file: &Path| {
            let options = DatasetOptions { strict: true, ..Default::default() };
            load(&file.display().to_string(), &options).unwrap()
        };
        let (train, test) = (read(&report.train), read(&report.test));
        assert_eq!((train.rows.len(), test.rows.len()), (rows, 200));
        (dir, train, test)
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes_and_splits_share_no_picture() {
        let (a, train, test) = made(60, 7);
        let (b, ..) = made(60, 7);
        let (_c, other, _) = made(60, 8);
        for name in ["train.jsonl", "test.jsonl", "images/train-000059.png"] {
            let read = |d: &tempfile::TempDir| std::fs::read(d.path().join(name)).unwrap();
            assert_eq!(read(&a), read(&b), "{name}");
        }
        assert!(train.rows.iter().zip(&other.rows).any(|(x, y)| x.messages != y.messages));
        let pixels = |l: &Loaded| -> HashSet<Vec<u8>> {
            l.rows
                .iter()
                .map(|r| image::open(r.images[0].name()).unwrap().into_rgb8().into_raw())
                .collect()
        };
        let (train, test) = (pixels(&train), pixels(&test));
        assert!(train.iter().all(|p| p.len() == 56 * 56 * 3) && train.is_disjoint(&test));
    }

    #[test]
    fn answers_are_balanced() {
        let rng = Philox::new(1, RngDomain::Data);
        let mut counts: HashMap<(usize, &str), usize> = HashMap::new();
        for row in 0..2400 {
            let s = scene(row, &mut rng.stream(0, row as u32));
            *counts.entry((row % 4, s.answer)).or_default() += 1;
        }
        assert_eq!(counts.len(), 4 + 6 + 4 + 5);
        for ((task, _), n) in counts {
            assert_eq!(n, 600 / [4, 6, 4, 5][task]);
        }
    }

    /// Answers a question from the shapes alone: what can be meant by the words, and is it unique?
    fn possible_answers(question: &str, task: usize, shapes: &[Shape]) -> HashSet<String> {
        let has = |word: &str| question.split([' ', '?', '.']).any(|w| w == word);
        let meant: Vec<&Shape> = shapes
            .iter()
            .filter(|s| {
                (0..6).all(|c| !has(COLORS[c].0) || s.color == c)
                    && (0..4).all(|k| !has(KINDS[k]) || s.kind == k)
                    && (0..5).all(|p| !has(PLACES[p].0) || s.place == p)
            })
            .collect();
        if task == 2 {
            return HashSet::from([meant.len().to_string()]);
        }
        let name = |s: &&Shape| match task {
            0 => KINDS[s.kind].to_owned(),
            1 => COLORS[s.color].0.to_owned(),
            _ => PLACES[s.place].0.to_owned(),
        };
        meant.iter().map(name).collect()
    }

    #[test]
    fn every_question_has_one_answer() {
        let rng = Philox::new(5, RngDomain::Data);
        for row in 0..4000 {
            let s = scene(row, &mut rng.stream(0, row as u32));
            assert!((1..=4).contains(&s.shapes.len()));
            let places: HashSet<usize> = s.shapes.iter().map(|s| s.place).collect();
            assert_eq!(places.len(), s.shapes.len());
            let answers = possible_answers(&s.question, row % 4, &s.shapes);
            assert_eq!(answers, HashSet::from([s.answer.to_owned()]), "{}", s.question);
            assert!(!s.question.contains('{'));
        }
    }

    #[test]
    fn drawn_pixels_show_the_shape() {
        let shape = Shape { kind: 1, color: 2, place: 4 };
        let mut rng = Philox::new(0, RngDomain::Test).stream(0, 0);
        let picture = draw(&[shape], 56, &mut rng);
        let at = |x, y| picture.get_pixel(x, y).0;
        let centre = at(28, 28);
        assert!(centre[2] > 190 && centre[0] < 70, "blue: {centre:?}");
        for corner in [at(2, 2), at(53, 2), at(2, 53), at(28, 5)] {
            assert!(corner.iter().all(|c| *c > 215), "ground: {corner:?}");
        }
    }

    #[test]
    fn wrong_options_are_usage_errors() {
        let dir = tempfile::tempdir().unwrap();
        let e = make_shapes(&ShapesOptions::new(dir.path(), 0, 0)).unwrap_err();
        assert!(e.exit_code() == 2 && e.to_string().contains("num_rows"));
        let tiny = ShapesOptions { image_size: 8, ..ShapesOptions::new(dir.path(), 1, 0) };
        assert!(make_shapes(&tiny).unwrap_err().to_string().contains("image_size"));
    }
}
