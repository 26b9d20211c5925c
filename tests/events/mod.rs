//! A reader of TensorBoard's event files that believes nothing: checksums, lengths and field numbers are
//! those of TFRecord, `event.proto` and `summary.proto`, and anything else is a failed test.

use std::path::Path;

/// What an event shows.
#[derive(Debug, Clone, PartialEq)]
pub enum Shown {
    /// `file_version`.
    Version(String),
    /// A session starts: later steps of earlier files are void.
    Start,
    /// A number.
    Scalar(f32),
    /// A text, with the plugin that shows it.
    Text(String),
    /// Count of the values, and counts by bucket.
    Histogram(f64, Vec<f64>),
    /// Width, height, file.
    Image(u64, u64, Vec<u8>),
}

/// An event.
#[derive(Debug, Clone, PartialEq)]
pub struct Read {
    /// Step.
    pub step: u64,
    /// Name; empty for a version or a start.
    pub tag: String,
    /// What it shows.
    pub shown: Shown,
}

/// Every event of every file in a folder, file after file.
pub fn read_folder(dir: &Path) -> Vec<Read> {
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    files.iter().flat_map(|f| read(&std::fs::read(f).unwrap())).collect()
}

/// CRC-32C one bit at a time (RFC 3720), masked as TFRecord masks it.
fn masked_crc(data: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in data {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    (!crc).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn word(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes.try_into().unwrap())
}

/// The events of a file.
pub fn read(mut bytes: &[u8]) -> Vec<Read> {
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        assert_eq!(word(&bytes[8..12]), masked_crc(&bytes[..8]), "checksum of a length");
        let payload = &bytes[12..12 + length];
        assert_eq!(word(&bytes[12 + length..16 + length]), masked_crc(payload), "checksum");
        out.extend(event(payload));
        bytes = &bytes[16 + length..];
    }
    assert!(matches!(out[0].shown, Shown::Version(_)), "a file begins with its version");
    out
}

/// A field of a message.
enum Field<'a> {
    Number(u64),
    Fixed(&'a [u8]),
    Bytes(&'a [u8]),
}

impl<'a> Field<'a> {
    fn number(&self) -> u64 {
        let Field::Number(n) = self else { panic!("no number") };
        *n
    }
    fn bytes(&self) -> &'a [u8] {
        let Field::Bytes(b) = self else { panic!("no bytes") };
        b
    }
    fn text(&self) -> String {
        String::from_utf8(self.bytes().to_vec()).unwrap()
    }
    fn double(&self) -> f64 {
        let Field::Fixed(b) = self else { panic!("no double") };
        f64::from_le_bytes((*b).try_into().unwrap())
    }
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = bytes[0];
        *bytes = &bytes[1..];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return value;
        }
    }
    panic!("a number of more than 64 bits")
}

fn fields(mut bytes: &[u8]) -> Vec<(u64, Field<'_>)> {
    let mut out = Vec::new();
    let cut = |bytes: &mut &[u8], n: usize| -> usize {
        assert!(n <= bytes.len(), "a field beyond its message");
        n
    };
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        let length = match tag & 7 {
            0 => {
                out.push((tag >> 3, Field::Number(varint(&mut bytes))));
                continue;
            }
            1 => 8,
            5 => 4,
            2 => varint(&mut bytes) as usize,
            other => panic!("wire type {other}"),
        };
        let n = cut(&mut bytes, length);
        let (value, rest) = bytes.split_at(n);
        let field = if tag & 7 == 2 { Field::Bytes(value) } else { Field::Fixed(value) };
        out.push((tag >> 3, field));
        bytes = rest;
    }
    out
}

fn event(payload: &[u8]) -> Vec<Read> {
    let (mut step, mut found) = (0, Vec::new());
    for (number, field) in fields(payload) {
        match number {
            1 => assert!(field.double() > 1e9, "seconds since 1970"),
            2 => step = field.number(),
            3 => found.push((String::new(), Shown::Version(field.text()))),
            5 => {
                for (number, value) in fields(field.bytes()) {
                    assert_eq!(number, 1, "a summary has values");
                    found.push(summary_value(value.bytes()));
                }
            }
            7 => {
                let status: Vec<_> = fields(field.bytes());
                assert!(status.len() == 1 && status[0].0 == 1 && status[0].1.number() == 1);
                found.push((String::new(), Shown::Start));
            }
            other => panic!("field {other} of an event"),
        }
    }
    assert_eq!(found.len(), 1, "an event shows one thing");
    found.into_iter().map(|(tag, shown)| Read { step, tag, shown }).collect()
}

fn summary_value(bytes: &[u8]) -> (String, Shown) {
    let (mut tag, mut shown, mut plugin) = (String::new(), None, None);
    for (number, field) in fields(bytes) {
        match number {
            1 => tag = field.text(),
            2 => {
                let Field::Fixed(b) = field else { panic!("no float") };
                shown = Some(Shown::Scalar(f32::from_le_bytes(b.try_into().unwrap())));
            }
            4 => shown = Some(image(field.bytes())),
            5 => shown = Some(histogram(field.bytes())),
            8 => shown = Some(text(field.bytes())),
            9 => {
                let metadata = fields(field.bytes());
                plugin = Some(fields(metadata[0].1.bytes())[0].1.text());
            }
            other => panic!("field {other} of a value"),
        }
    }
    let shown = shown.expect("a value shows something");
    let is_text = matches!(shown, Shown::Text(_));
    assert_eq!(plugin.as_deref(), is_text.then_some("text"), "{tag}");
    (tag, shown)
}

fn image(bytes: &[u8]) -> Shown {
    let (mut width, mut height, mut file) = (0, 0, Vec::new());
    for (number, field) in fields(bytes) {
        match number {
            1 => height = field.number(),
            2 => width = field.number(),
            3 => assert_eq!(field.number(), 3, "RGB"),
            4 => file = field.bytes().to_vec(),
            other => panic!("field {other} of an image"),
        }
    }
    Shown::Image(width, height, file)
}

fn histogram(bytes: &[u8]) -> Shown {
    let (mut count, mut limits, mut counts) = (0.0, Vec::new(), Vec::new());
    let doubles = |b: &[u8]| -> Vec<f64> {
        b.chunks_exact(8).map(|c| f64::from_le_bytes(c.try_into().unwrap())).collect()
    };
    for (number, field) in fields(bytes) {
        match number {
            1 | 2 | 4 | 5 => assert!(field.double().is_finite()),
            3 => count = field.double(),
            6 => limits = doubles(field.bytes()),
            7 => counts = doubles(field.bytes()),
            other => panic!("field {other} of a histogram"),
        }
    }
    assert_eq!(limits.len(), counts.len());
    assert_eq!(counts.iter().sum::<f64>(), count);
    Shown::Histogram(count, counts)
}

/// A tensor of one text.
fn text(bytes: &[u8]) -> Shown {
    let mut found = None;
    for (number, field) in fields(bytes) {
        match number {
            1 => assert_eq!(field.number(), 7, "DT_STRING"),
            2 => assert_eq!(fields(field.bytes()).len(), 1, "one dimension"),
            8 => found = Some(field.text()),
            other => panic!("field {other} of a tensor"),
        }
    }
    Shown::Text(found.expect("a text"))
}
