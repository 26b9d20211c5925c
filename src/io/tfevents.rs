//! TensorBoard event files: TFRecord framing, masked CRC-32C and the few protobuf fields that
//! scalars, text, histograms and images need. Nothing here reads events, and no protobuf library
//! is involved: the field numbers are those of `event.proto` and `summary.proto`.

use crate::base::{Error, Result};
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Writes one event file. Dropping it flushes what it can; call [`EventWriter::flush`] to see errors.
pub struct EventWriter {
    out: BufWriter<File>,
    path: PathBuf,
}

/// Number of event files this process has opened; the last part of their names.
static FILES: AtomicU32 = AtomicU32::new(0);

impl EventWriter {
    /// Opens `events.out.tfevents.<seconds>.<host>.<pid>.<n>` in `dir`, which is made if missing.
    pub fn create(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        std::fs::create_dir_all(dir)
            .map_err(|e| Error::io("cannot create the folder of event files", dir, &e))?;
        let name = format!(
            "events.out.tfevents.{:010}.{}.{}.{}",
            now().floor() as u64,
            host_name(),
            std::process::id(),
            FILES.fetch_add(1, Ordering::Relaxed)
        );
        let path = dir.join(name);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(|e| Error::io("cannot create the event file", &path, &e))?;
        let mut writer = EventWriter { out: BufWriter::new(file), path };
        writer.record(&version_event(now()))?;
        Ok(writer)
    }

    /// The file that is being written.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// One number (stored as f32, as TensorBoard does).
    pub fn scalar(&mut self, tag: &str, step: u64, value: f64) -> Result<()> {
        let mut v = Message::default();
        v.bytes(1, tag.as_bytes());
        v.float(2, value as f32);
        self.summary(step, &v)
    }

    /// Markdown for the Text tab. The tag becomes `<tag>/text_summary`, as PyTorch's writer names it.
    pub fn text(&mut self, tag: &str, step: u64, markdown: &str) -> Result<()> {
        let mut plugin = Message::default();
        plugin.bytes(1, b"text");
        let mut metadata = Message::default();
        metadata.message(1, &plugin);
        let mut dim = Message::default();
        dim.varint_field(1, 1);
        let mut shape = Message::default();
        shape.message(2, &dim);
        let mut tensor = Message::default();
        tensor.varint_field(1, 7); // DT_STRING
        tensor.message(2, &shape);
        tensor.bytes(8, markdown.as_bytes());
        let mut v = Message::default();
        v.bytes(1, format!("{tag}/text_summary").as_bytes());
        v.message(8, &tensor);
        v.message(9, &metadata);
        self.summary(step, &v)
    }

    /// Distribution of `values` (30 buckets of equal width); values that are not finite are left
    /// out, and nothing is written if none remain.
    pub fn histogram(&mut self, tag: &str, step: u64, values: &[f64]) -> Result<()> {
        let finite: Vec<f64> = values.iter().copied().filter(|x| x.is_finite()).collect();
        if finite.is_empty() {
            return Ok(());
        }
        let (limits, counts) = buckets(&finite);
        let mut h = Message::default();
        h.double(1, finite.iter().copied().fold(f64::INFINITY, f64::min));
        h.double(2, finite.iter().copied().fold(f64::NEG_INFINITY, f64::max));
        h.double(3, finite.len() as f64);
        h.double(4, finite.iter().sum());
        h.double(5, finite.iter().map(|x| x * x).sum());
        h.packed_doubles(6, &limits);
        h.packed_doubles(7, &counts);
        let mut v = Message::default();
        v.bytes(1, tag.as_bytes());
        v.message(5, &h);
        self.summary(step, &v)
    }

    /// An image of `width` x `height` pixels, encoded as PNG.
    pub fn image_png(
        &mut self,
        tag: &str,
        step: u64,
        png: &[u8],
        width: u32,
        height: u32,
    ) -> Result<()> {
        let mut image = Message::default();
        image.varint_field(1, u64::from(height));
        image.varint_field(2, u64::from(width));
        image.varint_field(3, 3); // colour space RGB
        image.bytes(4, png);
        let mut v = Message::default();
        v.bytes(1, tag.as_bytes());
        v.message(4, &image);
        self.summary(step, &v)
    }

    /// Tells TensorBoard to forget what earlier files of this folder say about `step` and later;
    /// written when a run resumes.
    pub fn purge_from(&mut self, step: u64) -> Result<()> {
        let mut session = Message::default();
        session.varint_field(1, 1); // SessionLog.START
        let mut e = event(now(), step);
        e.message(7, &session);
        self.record(&e)
    }

    /// Hands everything to the operating system.
    pub fn flush(&mut self) -> Result<()> {
        self.out.flush().map_err(|e| Error::io("cannot write events", &self.path, &e))
    }

    fn summary(&mut self, step: u64, value: &Message) -> Result<()> {
        let mut summary = Message::default();
        summary.message(1, value);
        let mut e = event(now(), step);
        e.message(5, &summary);
        self.record(&e)
    }

    fn record(&mut self, event: &Message) -> Result<()> {
        self.out
            .write_all(&frame(&event.0))
            .map_err(|e| Error::io("cannot write events", &self.path, &e))
    }
}

/// `Event { wall_time, step }`.
fn event(wall_time: f64, step: u64) -> Message {
    let mut e = Message::default();
    e.double(1, wall_time);
    if step != 0 {
        e.varint_field(2, step);
    }
    e
}

/// The first record of every event file.
fn version_event(wall_time: f64) -> Message {
    let mut e = event(wall_time, 0);
    e.bytes(3, b"brain.Event:2");
    e
}

/// Upper limits and counts of 30 equal buckets over the range of `values` (not empty, finite).
fn buckets(values: &[f64]) -> (Vec<f64>, Vec<f64>) {
    const N: usize = 30; // TensorBoard redraws histograms with 30 bins anyway
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let width = (high - low) / N as f64;
    if width.is_nan() || width <= 0.0 || !width.is_finite() {
        // One value, or a range beyond f64: a single bucket around all of it. The first limit
        // closes an empty bucket below, since TensorBoard reads lower edges from its neighbour.
        let margin = (low.abs() * 1e-9).max(1e-12);
        return (vec![low - margin, high + margin], vec![0.0, values.len() as f64]);
    }
    let mut limits = vec![low];
    limits.extend((1..N).map(|i| low + width * i as f64));
    limits.push(high);
    let mut counts = vec![0.0; N + 1];
    for v in values {
        let i = ((v - low) / width) as usize;
        counts[1 + i.min(N - 1)] += 1.0;
    }
    (limits, counts)
}

/// A protobuf message under construction.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut v: u64) {
        while v >= 0x80 {
            self.0.push(v as u8 | 0x80);
            v >>= 7;
        }
        self.0.push(v as u8);
    }
    fn tag(&mut self, field: u64, wire: u64) {
        self.varint(field << 3 | wire);
    }
    fn varint_field(&mut self, field: u64, v: u64) {
        self.tag(field, 0);
        self.varint(v);
    }
    fn double(&mut self, field: u64, v: f64) {
        self.tag(field, 1);
        self.0.extend(v.to_le_bytes());
    }
    fn float(&mut self, field: u64, v: f32) {
        self.tag(field, 5);
        self.0.extend(v.to_le_bytes());
    }
    fn bytes(&mut self, field: u64, v: &[u8]) {
        self.tag(field, 2);
        self.varint(v.len() as u64);
        self.0.extend(v);
    }
    fn message(&mut self, field: u64, m: &Message) {
        self.bytes(field, &m.0);
    }
    fn packed_doubles(&mut self, field: u64, v: &[f64]) {
        let raw: Vec<u8> = v.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.bytes(field, &raw);
    }
}

/// One TFRecord: length, its checksum, payload, its checksum, all little-endian.
fn frame(payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u64).to_le_bytes();
    let mut out = Vec::with_capacity(payload.len() + 16);
    out.extend(length);
    out.extend(masked_crc(&length).to_le_bytes());
    out.extend(payload);
    out.extend(masked_crc(payload).to_le_bytes());
    out
}

/// CRC-32C, rotated and offset so that a checksum of data that holds checksums stays strong
/// (`tensorflow/core/lib/hash/crc32c.h`).
fn masked_crc(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0u32; 256];
    let mut i = 0;
    while i < 256 {
        let mut c = i as u32;
        let mut bit = 0;
        while bit < 8 {
            // Castagnoli polynomial, bits reversed (RFC 3720, section 12.1).
            c = if c & 1 == 1 { c >> 1 ^ 0x82f6_3b78 } else { c >> 1 };
            bit += 1;
        }
        table[i] = c;
        i += 1;
    }
    table
};

fn crc32c(data: &[u8]) -> u32 {
    !data.iter().fold(!0u32, |c, b| CRC_TABLE[((c ^ u32::from(*b)) & 0xff) as usize] ^ c >> 8)
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// Name of this machine, for file names only; `localhost` where it cannot be read.
pub fn host_name() -> String {
    let raw = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .or_else(|_| std::env::var("HOSTNAME").map_err(std::io::Error::other))
        .unwrap_or_default();
    let fit = |c: &char| c.is_ascii_alphanumeric() || *c == '-' || *c == '_';
    let name: String = raw.trim().chars().filter(fit).take(64).collect();
    if name.is_empty() { "localhost".to_string() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn crc_known_answers() {
        // RFC 3720, appendix B.4, and the usual check value.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        let up: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(&up), 0x46dd_794e);
    }

    #[test]
    fn records_equal_tensorboards_to_the_byte() {
        // RecordWriter of tensorboard 2.21.0 on Event(wall_time=1.5, ...); printed by
        // `tools/golden/sinks.py --records`.
        assert_eq!(hex(&frame(&version_event(1.5).0)), VERSION_RECORD);
        let mut v = Message::default();
        v.bytes(1, b"train/loss");
        v.float(2, -0.25);
        let mut summary = Message::default();
        summary.message(1, &v);
        let mut e = event(1.5, 300);
        e.message(5, &summary);
        assert_eq!(hex(&frame(&e.0)), SCALAR_RECORD);
    }

    const VERSION_RECORD: &str =
        "1800000000000000a37f4b2209000000000000f83f1a0d627261696e2e4576656e743a322a28646c";
    const SCALAR_RECORD: &str = "2100000000000000017becf609000000000000f83f10ac022a130a110a0a747261696e2f6c6f737315000080be395467ae";

    #[test]
    fn buckets_count_every_value_once() {
        for values in [
            vec![0.0, 0.1, 0.2, 1.0],
            vec![3.0; 5],
            vec![-1e300, 1e300],
            vec![f64::MIN, f64::MAX],
            vec![0.0],
        ] {
            let (limits, counts) = buckets(&values);
            assert_eq!(limits.len(), counts.len());
            assert_eq!(counts.iter().sum::<f64>(), values.len() as f64);
            assert!(limits.windows(2).all(|w| w[0] < w[1]), "{limits:?}");
        }
    }

    #[test]
    fn two_writers_in_one_second_get_two_files() {
        let dir = tempfile::tempdir().unwrap();
        let a = EventWriter::create(dir.path()).unwrap();
        let b = EventWriter::create(dir.path()).unwrap();
        assert_ne!(a.path(), b.path());
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert_eq!(EventWriter::create(&file).err().unwrap().exit_code(), 4);
    }
}
