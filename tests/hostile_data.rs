//! Data files made to harm: cut off, flipped bits, lying lengths, bombs, paths that lead away. Reading them is
//! an error or a skipped row, never a panic that gets out, never memory without bound. Memory is held against
//! the peak of this process.

use std::path::{Path, PathBuf};

use grpo_rt::base::{ErrorKind, Result};
use grpo_rt::io::dataset::{DatasetOptions, Loaded, load};
use grpo_rt::io::image::Alpha;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/datasets").join(name)
}

fn read(path: &Path) -> Result<Loaded> {
    load(&path.display().to_string(), &DatasetOptions::default())
}

/// Most memory that this process ever had, in MiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap_or("VmHWM: 0 kB");
    line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// Reads a file that may hold anything, and its images.
fn tried(path: &Path) -> Result<usize> {
    let loaded = read(path)?;
    for row in &loaded.rows {
        for image in &row.images {
            let _ = image.open(Alpha::Drop); // an error is as good as an image
        }
    }
    Ok(loaded.rows.len())
}

/// A generator of its own, so that a failure can be repeated (Marsaglia's xorshift).
struct Xorshift(u64);

impl Xorshift {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

/// Panics inside of the format's libraries are caught; their messages are not wanted here.
fn without_messages<T>(run: impl FnOnce() -> T) -> T {
    std::panic::set_hook(Box::new(|_| {}));
    let result = run();
    let _ = std::panic::take_hook();
    result
}

/// Sees that reading mutated files ends, in errors of kind data or io, or in rows.
fn mutated(name: &str, ending: &str) {
    let whole = std::fs::read(data(name)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(format!("rows.{ending}"));
    let check = |bytes: &[u8], what: &str| -> bool {
        std::fs::write(&path, bytes).unwrap();
        match tried(&path) {
            Ok(rows) => {
                assert!(rows <= 100_000, "{what}: {rows} rows");
                true
            }
            Err(e) => {
                let kind = e.kind();
                assert!(
                    matches!(kind, ErrorKind::Data | ErrorKind::Io | ErrorKind::Usage),
                    "{what}: {e}"
                );
                false
            }
        }
    };
    let (cuts, flips) = without_messages(|| {
        let step = (whole.len() / 500).max(1);
        let cuts = (0..whole.len())
            .step_by(step)
            .filter(|n| check(&whole[..*n], &format!("cut at {n}")))
            .count();
        let mut random = Xorshift(0x9E37_79B9_7F4A_7C15);
        let flip = |i: &usize| {
            let mut bytes = whole.clone();
            let at = random.below(bytes.len());
            // Half of them in the descriptions, which are at the ends of the files.
            let at = if i.is_multiple_of(2) { at } else { at % 2500.min(bytes.len()) };
            let at = if i % 4 == 3 { bytes.len() - 1 - at } else { at };
            bytes[at] ^= 1 << random.below(8);
            check(&bytes, &format!("byte {at}"))
        };
        (cuts, (0..2000).filter(flip).count())
    });
    assert!(check(&whole, "the whole file"));
    assert!(flips > 100, "{flips} of 2000 flipped files were read: too few to be a test of rows");
    // The end of a Parquet file is its description; an Arrow stream may end between two batches.
    assert!(cuts <= 1 + whole.len() / 100, "{cuts} cut files were read as if they were whole");
    assert!(peak() < 4096, "{} MiB", peak());
}

#[test]
fn mutated_parquet_files() {
    mutated("hub/data/test-00000-of-00001.parquet", "parquet");
}

#[test]
fn mutated_arrow_streams() {
    mutated("saved/test/data-00000-of-00001.arrow", "arrow");
}

#[test]
fn mutated_arrow_files() {
    mutated("rows.arrow", "arrow");
}

#[test]
fn a_page_that_unpacks_to_hundreds_of_megabytes_is_refused() {
    let before = peak();
    let e = read(&data("bomb.parquet")).unwrap_err();
    assert!(e.to_string().contains("a page of 6291"), "{e}");
    assert!(peak() < before + 64, "{} MiB, then {}", before, peak());
}

#[test]
fn folders_whose_description_leads_away() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    for name in ["../../etc/passwd", "/etc/passwd", "..", "", "a\\u0000b"] {
        write("state.json", &format!("{{\"_data_files\": [{{\"filename\": \"{name}\"}}]}}"));
        let e = read(dir.path()).unwrap_err().to_string();
        assert!(e.contains("names a path"), "{e}");
    }
    write("dataset_dict.json", r#"{"splits": ["../../etc"]}"#);
    assert!(read(dir.path()).unwrap_err().to_string().contains("names a path"));
    write("dataset_dict.json", r#"{"splits": []}"#);
    assert!(read(dir.path()).unwrap_err().to_string().contains("no splits"));
    write("dataset_dict.json", "[[[[");
    assert!(read(dir.path()).unwrap_err().to_string().contains("not JSON"));
}

#[test]
fn rows_that_lead_away_and_images_that_lie() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("images");
    std::fs::create_dir(&folder).unwrap();
    // A PNG of 60000 x 60000 pixels, by its header.
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
    png.extend_from_slice(&60000u32.to_be_bytes());
    png.extend_from_slice(&60000u32.to_be_bytes());
    png.extend_from_slice(b"\x08\x02\0\0\0\0\0\0\0");
    std::fs::write(folder.join("huge.png"), png).unwrap();
    std::fs::write(dir.path().join("secret.png"), "secret").unwrap();
    let outside = dir.path().join("secret.png").display().to_string();
    let row = |image: &str| {
        format!("{{\"image\": \"{image}\", \"question\": \"?\", \"answer\": \"x\"}}\n")
    };
    let nested = format!("{}1{}\n", "[".repeat(100_000), "]".repeat(100_000));
    let lines = [
        row("../secret.png"),
        row("a/../../secret.png"),
        row(&outside),
        row("/etc/passwd"),
        row("."),
        row("/dev/zero"),
        nested,
        row("huge.png"),
    ];
    let file = dir.path().join("rows.jsonl");
    std::fs::write(&file, lines.concat()).unwrap();
    let options = DatasetOptions { image_folders: vec![folder], ..Default::default() };
    let loaded = load(&file.display().to_string(), &options).unwrap();
    assert_eq!((loaded.rows.len(), loaded.skipped_rows), (1, 7));
    for (i, word) in
        ["outside", "outside", "outside", "outside", "not a file", "outside", "not JSON"]
            .iter()
            .enumerate()
    {
        let e = loaded.skipped[i].to_string();
        assert!(e.contains(word) && e.contains(&format!("row {}", i + 1)), "{e}");
    }
    let e = loaded.rows[0].images[0].open(Alpha::Drop).unwrap_err().to_string();
    assert!(e.contains("huge.png"), "{e}");
    assert!(peak() < 4096);
}

#[test]
fn errors_of_a_million_bad_rows_have_a_bound() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rows.jsonl");
    let mut text = "{}\n".repeat(200_000);
    text.push_str("{\"question\": \"?\", \"answer\": \"x\"}\n");
    std::fs::write(&file, text).unwrap();
    let loaded = read(&file).unwrap();
    assert_eq!((loaded.rows.len(), loaded.skipped_rows), (1, 200_000));
    assert_eq!(loaded.skipped.len(), 10_000);
}
