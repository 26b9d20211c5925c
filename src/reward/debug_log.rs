//! The debug log in VLM-R1's form (`DEBUG_MODE=true`, `LOG_PATH`): what each completion was, what it was
//! compared with and what it earned, as text for people. It decides nothing: a log that cannot be opened
//! is an error before the run, one that cannot be written later is a warning and a count.

use super::Sample;
use crate::base::{Error, Result};
use serde_json::Value;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Which block a reward writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Score, and the method of comparison.
    Method,
    /// Score.
    Score,
    /// Score, of completions that earn nothing or less.
    Punished,
    /// One head for a batch, then whether each completion has the format.
    Format,
}

/// Rewards of VLM-R1 and where it writes them: the form, and what stands behind the path, or goes before
/// its `.txt` if it begins so. Rewards that are not here write their name before the `.txt`.
const PLACES: [(&str, Form, &str); 8] = [
    ("accuracy", Form::Method, ""),
    ("detection", Form::Method, ""),
    ("iou", Form::Score, ""),
    ("format", Form::Format, "_format"),
    ("box_format", Form::Format, "_format"),
    ("repetition", Form::Punished, ".txt_repetition.txt"),
    ("length", Form::Score, ".txt_cosine.txt"),
    ("cosine_scaled", Form::Score, ".txt_cosine.txt"),
];

/// Where the rewards of a set are written.
#[derive(Debug)]
pub struct DebugLog {
    /// One per reward, in order.
    places: Vec<Place>,
    /// The option `accu_reward_method`, where a row has none of its own.
    method: String,
    /// Groups are scored side by side; a block is written whole. Holds what is to be told.
    writer: Mutex<Vec<String>>,
    lost: AtomicU64,
}

#[derive(Debug)]
struct Place {
    name: String,
    form: Form,
    path: PathBuf,
    file: File,
}

impl DebugLog {
    /// Opens the files of these rewards at `path` to append to them. For answers in JSON they are named as
    /// VLM-R1's branch for visual questions names them: `_format_vqa`, `_accuracy_vqa`, `_reasoning_vqa`.
    ///
    /// # Errors
    /// If one cannot be opened.
    pub fn open(path: &Path, names: &[&str], method: &str, json: bool) -> Result<Self> {
        let place = |name: &&str| {
            let known = PLACES.iter().find(|(n, _, _)| n == name);
            let plain: String =
                name.chars().map(|c| if c.is_alphanumeric() { c } else { '_' }).collect();
            let (form, path) = match known {
                _ if json => {
                    (known.map_or(Form::Score, |k| k.1), beside(path, &format!("_{plain}_vqa")))
                }
                Some((_, form, suffix)) => (*form, beside(path, suffix)),
                None => (Form::Score, beside(path, &format!("_{plain}"))),
            };
            let file = OpenOptions::new().create(true).append(true).open(&path).map_err(|e| {
                Error::io("cannot write the debug log", &path, &e)
                    .hint("set LOG_PATH to a file that can be written, or leave DEBUG_MODE unset")
            })?;
            Ok(Place { name: name.to_string(), form, path, file })
        };
        Ok(DebugLog {
            places: names.iter().map(place).collect::<Result<_>>()?,
            method: method.to_string(),
            writer: Mutex::default(),
            lost: AtomicU64::new(0),
        })
    }

    /// Appends what the samples earned: `scores[r][i]` of reward `r`. Samples that a reward did not judge
    /// are left out.
    pub fn write(&self, samples: &[Sample<'_>], scores: &[Vec<Option<f64>>]) {
        let time = stamp(SystemTime::now());
        for (place, column) in self.places.iter().zip(scores) {
            let text = self.blocks(place, samples, column, &time);
            let mut told = self.writer.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            if let Err(e) = (&place.file).write_all(text.as_bytes())
                && self.lost.fetch_add(1, Ordering::Relaxed) == 0
            {
                let at = place.path.display();
                told.push(format!("warning: the debug log is not complete: {at}: {e}"));
            }
        }
    }

    /// Batches of a reward that could not be written.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Lines for the person who watches, since the last call.
    pub fn notices(&self) -> Vec<String> {
        std::mem::take(&mut *self.writer.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }

    fn blocks(
        &self,
        place: &Place,
        samples: &[Sample<'_>],
        scores: &[Option<f64>],
        time: &str,
    ) -> String {
        let judged = samples.iter().zip(scores).filter_map(|(s, score)| Some((s, (*score)?)));
        let mut text = String::new();
        for (s, score) in judged {
            // Writing to a string cannot fail.
            let _ = match place.form {
                Form::Format => format_block(&mut text, s, score, time),
                Form::Punished if score > 0.0 => Ok(()),
                form => self.score_block(&mut text, s, (form, score), (&place.name, time)),
            };
        }
        text
    }

    fn score_block(
        &self,
        out: &mut String,
        s: &Sample<'_>,
        (form, score): (Form, f64),
        (name, time): (&str, &str),
    ) -> std::fmt::Result {
        let known = PLACES.iter().any(|(n, _, _)| *n == name);
        let title = if known { "Accuracy" } else { name };
        writeln!(out, "------------- {time} {title} reward: {score:?} -------------")?;
        if form == Form::Method {
            let method = s.columns.get("accu_reward_method").and_then(Value::as_str);
            writeln!(out, "accu_reward_method: {}", method.unwrap_or(&self.method))?;
        }
        writeln!(out, "image_path: {}", image_path(s))?;
        writeln!(out, "problem: {}", s.prompt)?;
        writeln!(out, "Content: {}", s.completion)?;
        writeln!(out, "Solution: {}", s.answer)
    }
}

/// VLM-R1's block of the format reward; the head stands once for a batch.
fn format_block(out: &mut String, s: &Sample<'_>, score: f64, time: &str) -> std::fmt::Result {
    if out.is_empty() {
        writeln!(out, "------------- {time} Format reward -------------")?;
    }
    writeln!(out, "Content: {}", s.completion)?;
    writeln!(out, "Has format: {}", if score > 0.0 { "True" } else { "False" })
}

/// `debug_log.txt` with a suffix: VLM-R1 puts `_format` before `.txt`, and others behind it.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    if suffix.is_empty() {
        return path.to_path_buf();
    }
    let mut name = path.file_stem().unwrap_or_default().to_os_string();
    let plain = path.extension().is_none_or(|e| e != "txt");
    match suffix.strip_prefix(".txt") {
        // Behind all of the name, whatever its end is.
        Some(behind) => {
            name = path.file_name().unwrap_or_default().to_os_string();
            name.push(behind);
        }
        // A name without `.txt` gets the suffix at its end.
        None if plain => {
            name = path.file_name().unwrap_or_default().to_os_string();
            name.push(suffix);
        }
        None => {
            name.push(suffix);
            name.push(".txt");
        }
    }
    path.with_file_name(name)
}

/// The row's image paths as Python writes a list of them.
fn image_path(s: &Sample<'_>) -> String {
    let quoted = |v: &Value| match v.as_str() {
        Some(text) => format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'")),
        None => v.to_string(),
    };
    match s.columns.get("image_path").or_else(|| s.columns.get("image")) {
        None | Some(Value::Null) => "None".to_string(),
        Some(Value::Array(list)) => {
            format!("[{}]", list.iter().map(quoted).collect::<Vec<_>>().join(", "))
        }
        Some(one) => format!("[{}]", quoted(one)),
    }
}

/// Day of the month, hour, minute, second and microsecond in UTC (`%d-%H-%M-%S-%f`).
fn stamp(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Days since 1 March of the year 0 in eras of 400 years, after Howard Hinnant's `civil_from_days`.
    let of_era = (days + 719_468) % 146_097;
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{day:02}-{hour:02}-{minute:02}-{second:02}-{:06}", since.subsec_micros())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reward::test_sample;
    use serde_json::{Map, json};
    use std::time::Duration;

    #[test]
    fn the_form_is_that_of_vlm_r1() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("debug_log.txt");
        let names = ["accuracy", "format", "repetition", "cosine_scaled", "my.py:f", "iou"];
        let log = DebugLog::open(&path, &names, "default", false).unwrap();
        let mut columns = Map::new();
        columns.insert("image".into(), json!(["a.jpg", "it's.jpg"]));
        let first = Sample { prompt: "What?", ..test_sample("<x>\nred", "red", &[], &columns) };
        let mut other = Map::new();
        other.insert("accu_reward_method".into(), json!("mcq"));
        let second = Sample { prompt: "Which?", ..test_sample("B", "A", &[], &other) };
        let both = |a, b| vec![a, b];
        let scores = [
            both(Some(1.0), Some(0.0)),
            both(Some(1.0), Some(0.0)),
            both(Some(0.5), Some(-0.25)),
            both(None, Some(-0.75)),
            both(Some(2.0), None),
            both(None, None),
        ];
        log.write(&[first, second], &scores);
        let read = |name: &str| {
            let text = std::fs::read_to_string(folder.path().join(name)).unwrap();
            // Times are 18 characters: 21-14-03-09-123456.
            let bare = |l: &str| match l.strip_prefix("------------- ") {
                Some(rest) => format!("- {}", &rest[19..]),
                None => l.to_string(),
            };
            text.lines().map(bare).collect::<Vec<_>>().join("\n")
        };
        assert_eq!(
            read("debug_log.txt"),
            "- Accuracy reward: 1.0 -------------\naccu_reward_method: default\n\
             image_path: ['a.jpg', 'it\\'s.jpg']\nproblem: What?\nContent: <x>\nred\nSolution: red\n\
             - Accuracy reward: 0.0 -------------\naccu_reward_method: mcq\nimage_path: None\n\
             problem: Which?\nContent: B\nSolution: A"
        );
        assert_eq!(
            read("debug_log_format.txt"),
            "- Format reward -------------\nContent: <x>\nred\nHas format: True\nContent: B\n\
             Has format: False"
        );
        let tail = "image_path: None\nproblem: Which?\nContent: B\nSolution: A";
        let block = |head: &str| format!("- {head} -------------\n{tail}");
        assert_eq!(read("debug_log.txt_repetition.txt"), block("Accuracy reward: -0.25"));
        assert_eq!(read("debug_log.txt_cosine.txt"), block("Accuracy reward: -0.75"));
        assert!(read("debug_log_my_py_f.txt").starts_with("- my.py:f reward: 2.0 -------------\n"));
        assert_eq!(log.lost(), 0);
    }

    #[test]
    fn a_log_that_cannot_be_opened_is_an_error_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("no_such_folder").join("log.txt");
        let error = DebugLog::open(&path, &["accuracy"], "default", false).unwrap_err().one_line();
        assert!(error.contains("log.txt") && error.contains("LOG_PATH"), "{error}");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_is_counted_and_told_once() {
        let log = DebugLog::open(Path::new("/dev/full"), &["iou"], "default", false).unwrap();
        let columns = serde_json::Map::new();
        let samples = [test_sample("a", "b", &[], &columns)];
        log.write(&samples, &[vec![Some(1.0)]]);
        log.write(&samples, &[vec![Some(0.0)]]);
        let told = log.notices();
        assert!(matches!(&told[..], [line] if line.contains("/dev/full")), "{told:?}");
        assert_eq!((log.lost(), log.notices().len()), (2, 0));
    }

    #[test]
    fn names_without_txt() {
        let at = |p: &str, s: &str| beside(Path::new(p), s).display().to_string();
        assert_eq!(at("a/log.txt", "_format"), "a/log_format.txt");
        assert_eq!(at("a/log.out", "_format"), "a/log.out_format");
        assert_eq!(at("log.txt", ".txt_cosine.txt"), "log.txt_cosine.txt");
        assert_eq!(at("log", ".txt_cosine.txt"), "log_cosine.txt");
        assert_eq!(at("log", ""), "log");
    }

    #[test]
    fn times_are_days_of_the_month() {
        let at = |s: u64| stamp(UNIX_EPOCH + Duration::from_secs(s) + Duration::from_micros(42));
        assert_eq!(at(0), "01-00-00-00-000042");
        // 29 February 2024, 12:34:56; 31 December 2025; 1 March 2100.
        assert_eq!(at(1_709_210_096), "29-12-34-56-000042");
        assert_eq!(at(1_767_139_200), "31-00-00-00-000042");
        assert_eq!(at(4_107_542_400), "01-00-00-00-000042");
    }
}
