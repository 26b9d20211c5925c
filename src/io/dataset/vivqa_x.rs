//! ViVQA-X, Vietnamese questions about COCO 2014 with explanations, as it is published (one JSON list per
//! split: `question`, `image_id`, `image_name`, `explanation`, `answer`, `question_id`, `question_type`,
//! `answer_type`), to rows of VLM-R1's layout. Items are read one by one; no image is opened.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Component, Path};

use serde::Deserializer;
use serde::de::{Error as _, SeqAccess, Visitor};
use serde_json::{Map, Value, json};

use super::row_error::{RowResult, bad, kind_of};
use crate::base::{Error, ErrorKind, Result};
use crate::io::atomic::write_atomic_with;
use crate::io::text::nfc;

/// The system turn that rows get: how to think, and the tags of the answer. The file is there to be
/// read and edited; `--system_prompt` takes another text.
pub const SYSTEM_PROMPT: &str = include_str!("../../../configs/tasks/vqa_nle/system.txt");

/// What stands before a question.
const BEFORE: &str = "<image>\nCâu hỏi: ";
/// Texts that would change what a row means: markers of images, and the tags that rewards read.
const RESERVED: [&str; 6] =
    ["<image>", "<video>", "<answer>", "</answer>", "<explain>", "</explain>"];
/// Columns that are kept for rewards and filters where an item has them.
const KEPT: [&str; 2] = ["question_type", "answer_type"];
/// Missing images that are named.
const NAMED: usize = 5;

/// A published file and how it is converted.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The JSON file.
    pub file: &'a Path,
    /// Folder of the images, or one with `train2014` and `val2014` in it.
    pub image_folder: &'a Path,
    /// System turn of every row.
    pub system_prompt: Option<&'a str>,
    /// The first bad row, or missing image, is an error.
    pub strict: bool,
}

/// What became of a file.
#[derive(Debug, Default)]
pub struct Converted {
    /// Rows that were written.
    pub rows: usize,
    /// Explanations in them.
    pub explanations: usize,
    /// Rows without their image.
    pub missing: usize,
    /// The first names that were not found.
    pub missing_names: Vec<String>,
    /// Rows that say what an earlier one says.
    pub duplicates: usize,
    /// One error per bad row.
    pub bad: Vec<Error>,
}

impl Converted {
    /// Rows that were left out.
    pub fn left_out(&self) -> usize {
        self.missing + self.duplicates + self.bad.len()
    }
}

/// Converts one file to `out`, which is written as a whole or not at all. `stopped` is asked now and
/// then.
///
/// # Errors
/// A file that cannot be read or is no list of objects, a file that cannot be written, no row at all,
/// the first bad row or missing image if strict; of kind interrupted if `stopped`.
pub fn convert(source: &Source, out: &Path, stopped: impl Fn() -> bool) -> Result<Converted> {
    let open = File::open(source.file)
        .map_err(|e| Error::io("cannot open the ViVQA-X file", source.file, &e))?;
    let mut reader = BufReader::with_capacity(1 << 20, open);
    let start = reader
        .fill_buf()
        .map_err(|e| Error::io("cannot read the ViVQA-X file", source.file, &e))?;
    // A byte-order mark is what some editors put before the list.
    let mark = if start.starts_with(b"\xEF\xBB\xBF") { 3 } else { 0 };
    reader.consume(mark);
    let mut conversion = Conversion::of(source);
    write_atomic_with(out, |w| {
        each_item(&mut reader, source.file, |item| {
            if stopped() {
                return Err(Error::new(ErrorKind::Interrupted, "the conversion was stopped")
                    .found("nothing was written"));
            }
            let Some(row) = conversion.take(item)? else { return Ok(()) };
            let e = |e| Error::io("cannot write the rows", out, &e);
            writeln!(w, "{row}").map_err(e)
        })?;
        conversion.check()
    })?;
    Ok(conversion.done)
}

/// Hands over the items of a JSON list, one at a time.
fn each_item(
    reader: impl BufRead,
    file: &Path,
    mut take: impl FnMut(Value) -> Result<()>,
) -> Result<()> {
    let mut failed = None;
    let mut json = serde_json::Deserializer::from_reader(reader);
    let visitor = Items(|item| take(item).map_err(|e| failed = Some(e)).is_ok());
    let read = json.deserialize_seq(visitor).and_then(|()| json.end());
    match (failed, read) {
        (Some(e), _) => Err(e),
        (None, Ok(())) => Ok(()),
        (None, Err(e)) => Err(Error::data("the file is not that of ViVQA-X")
            .file(file)
            .expected(
                "a JSON list of objects with `question`, `image_name`, `explanation`, `answer`",
            )
            .found(e.to_string())
            .hint(
                "fetch the file again: ViVQA-X_train.json, ViVQA-X_val.json or ViVQA-X_test.json",
            )),
    }
}

/// Calls a function on every element of a list until it returns false.
struct Items<F>(F);

impl<'de, F: FnMut(Value) -> bool> Visitor<'de> for Items<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> std::result::Result<(), A::Error> {
        while let Some(item) = list.next_element()? {
            if !(self.0)(item) {
                return Err(A::Error::custom("stopped"));
            }
        }
        Ok(())
    }
}

/// What has been read of a file.
struct Conversion<'a> {
    source: &'a Source<'a>,
    /// Items read.
    read: usize,
    done: Converted,
    /// What rows say.
    said: HashSet<String>,
    /// Rows by the id of their question.
    ids: HashMap<String, usize>,
}

impl<'a> Conversion<'a> {
    fn of(source: &'a Source<'a>) -> Self {
        Conversion {
            source,
            read: 0,
            done: Converted::default(),
            said: HashSet::new(),
            ids: HashMap::new(),
        }
    }

    /// The row of an item; `None` if it is left out.
    fn take(&mut self, item: Value) -> Result<Option<Value>> {
        self.read += 1;
        let row = self.read;
        let file = self.source.file;
        match self.row_of(&item).map_err(|e| e.in_row(file, row)) {
            Ok(Found::Row { row, explanations }) => {
                self.done.rows += 1;
                self.done.explanations += explanations;
                Ok(Some(row))
            }
            Ok(Found::Again) => {
                self.done.duplicates += 1;
                Ok(None)
            }
            Ok(Found::NoImage(name)) if self.source.strict => {
                Err(self.no_image(&name).file(file).row(row).key("image_name"))
            }
            Ok(Found::NoImage(name)) => {
                self.done.missing += 1;
                if self.done.missing_names.len() < NAMED {
                    self.done.missing_names.push(name);
                }
                Ok(None)
            }
            Err(e) if self.source.strict => Err(e),
            Err(e) => {
                self.done.bad.push(e);
                Ok(None)
            }
        }
    }

    fn no_image(&self, name: &str) -> Error {
        Error::data("an image is missing")
            .expected(format!(
                "the file in {0}, {0}/train2014 or {0}/val2014",
                self.source.image_folder.display()
            ))
            .found(format!("no {name}"))
            .hint("give the folder of COCO 2014 as --image_folders")
    }

    /// That something came of the file.
    fn check(&self) -> Result<()> {
        if self.done.rows > 0 {
            return Ok(());
        }
        let e = Error::data("no row could be converted").file(self.source.file);
        Err(match (self.done.missing_names.first(), self.done.bad.first()) {
            (Some(name), _) => {
                let why = self.no_image(name);
                e.found(format!(
                    "{} rows without their image; {}",
                    self.done.missing,
                    why.one_line()
                ))
            }
            (None, Some(first)) => e.found(format!(
                "{} bad rows; the first: {}",
                self.done.bad.len(),
                first.one_line()
            )),
            (None, None) => e.found("an empty list"),
        })
    }

    fn row_of(&mut self, item: &Value) -> RowResult<Found> {
        let Value::Object(item) = item else {
            return Err(Error::data("the row is not an object").found(kind_of(item)).into());
        };
        let question = text_of(item, "question")?;
        let answer = text_of(item, "answer")?;
        let explanations = explanations_of(item)?;
        let id = self.id_of(item)?;
        let image = match find_image(item, self.source.image_folder)? {
            Ok(path) => path,
            Err(name) => return Ok(Found::NoImage(name)),
        };
        // Control characters are not in these texts any more.
        let parts = [image.clone(), question.clone(), answer.clone(), explanations.join("\u{1}")];
        if !self.said.insert(parts.join("\u{2}")) {
            return Ok(Found::Again);
        }
        self.note(&id)?;
        let mut turns = Vec::new();
        if let Some(system) = self.source.system_prompt {
            turns.push(json!({"from": "system", "value": system}));
        }
        turns.push(json!({"from": "human", "value": format!("{BEFORE}{question}")}));
        let first = &explanations[0];
        let said = format!("<answer>{answer}</answer><explain>{first}</explain>");
        turns.push(json!({"from": "gpt", "value": said}));
        let mut row = json!({
            "id": id,
            "image": image,
            "conversations": turns,
            "question": question,
            "answer": answer,
            "explanations": explanations,
        });
        for key in KEPT {
            if let Some(Value::String(text)) = item.get(key) {
                row[key] = json!(clean(text));
            }
        }
        Ok(Found::Row { row, explanations: explanations.len() })
    }

    /// The id of the question; of an item that has none, its place.
    fn id_of(&self, item: &Map<String, Value>) -> RowResult<String> {
        match item.get("question_id") {
            Some(Value::String(id)) if !id.trim().is_empty() => Ok(clean(id)),
            Some(Value::Number(id)) => Ok(id.to_string()),
            None | Some(Value::Null) => {
                let stem = self.source.file.file_stem().unwrap_or_default();
                Ok(format!("{}-{}", stem.to_string_lossy(), self.read))
            }
            Some(other) => Err(bad("an id is neither text nor number", "question_id")
                .found(if other.is_string() { "an empty text" } else { kind_of(other) })),
        }
    }

    /// Refuses the id of an earlier row.
    fn note(&mut self, id: &str) -> RowResult<()> {
        match self.ids.get(id) {
            None => {
                self.ids.insert(id.to_owned(), self.read);
                Ok(())
            }
            Some(earlier) => {
                Err(bad("an id stands twice, with something else to say", "question_id")
                    .expected("one item per question")
                    .found(format!("{id}, as in row {earlier}")))
            }
        }
    }
}

/// What an item is.
enum Found {
    Row {
        row: Value,
        explanations: usize,
    },
    /// It was there before.
    Again,
    /// Its image is not there.
    NoImage(String),
}

/// Composed characters, single spaces, no control characters.
fn clean(text: &str) -> String {
    let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    nfc(&plain).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A text that is one, cleaned.
fn checked(text: &str, key: &str) -> RowResult<String> {
    let text = clean(text);
    if text.is_empty() {
        return Err(bad("a text is empty", key).expected("at least one word"));
    }
    match RESERVED.iter().find(|tag| text.contains(**tag)) {
        None => Ok(text),
        Some(tag) => Err(bad("a text has a tag that the row's own layout uses", key)
            .expected(format!("a text without {tag}"))
            .found(text.chars().take(80).collect::<String>())),
    }
}

fn text_of(item: &Map<String, Value>, key: &str) -> RowResult<String> {
    match item.get(key) {
        Some(Value::String(text)) => checked(text, key),
        // Answers such as 2 are numbers in files that were written by hand.
        Some(Value::Number(n)) if key == "answer" => Ok(n.to_string()),
        other => Err(bad("a field is not a text", key)
            .expected("a text that is not empty")
            .found(other.map_or("no such field", kind_of))),
    }
}

/// All explanations, each once; a single text is a list of one.
fn explanations_of(item: &Map<String, Value>) -> RowResult<Vec<String>> {
    const KEY: &str = "explanation";
    let list = match item.get(KEY).or_else(|| item.get("explanations")) {
        Some(Value::Array(list)) => list.as_slice(),
        Some(one @ Value::String(_)) => std::slice::from_ref(one),
        other => {
            return Err(bad("the explanations are no list", KEY)
                .expected("a list of texts")
                .found(other.map_or("no such field", kind_of)));
        }
    };
    let mut texts = Vec::with_capacity(list.len());
    for (i, value) in list.iter().enumerate() {
        let key = format!("{KEY}[{i}]");
        let Value::String(text) = value else {
            return Err(bad("an explanation is not a text", key).found(kind_of(value)));
        };
        // Translation left some of them empty, beside good ones.
        if clean(text).is_empty() {
            continue;
        }
        let text = checked(text, &key)?;
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    if texts.is_empty() {
        return Err(bad("the row has no explanation", KEY).expected("at least one text"));
    }
    Ok(texts)
}

/// The path of an item's image below `folder`, or the name that was looked for.
fn find_image(
    item: &Map<String, Value>,
    folder: &Path,
) -> RowResult<std::result::Result<String, String>> {
    let mut names = Vec::new();
    match item.get("image_name") {
        Some(Value::String(name)) if !name.is_empty() && !is_id(name) => {
            let inside = |c| matches!(c, Component::Normal(_));
            if !Path::new(name).components().all(inside) {
                return Err(bad("an image lies outside of the image folder", "image_name")
                    .expected("a file name")
                    .found(name.chars().take(80).collect::<String>()));
            }
            names.push(name.clone());
        }
        Some(Value::String(id)) if is_id(id) => names.extend(coco_names(id)),
        None | Some(Value::Null) => {}
        Some(other) => {
            return Err(bad("an image's name is not a text", "image_name")
                .found(if other.is_string() { "an empty text" } else { kind_of(other) }));
        }
    }
    match item.get("image_id") {
        Some(Value::String(id)) if is_id(id) => names.extend(coco_names(id)),
        Some(Value::Number(id)) if is_id(&id.to_string()) => {
            names.extend(coco_names(&id.to_string()));
        }
        None | Some(Value::Null) => {}
        Some(other) if names.is_empty() => {
            return Err(bad("an image's id is no number", "image_id")
                .expected("a whole number of at most 12 digits")
                .found(other.to_string().chars().take(80).collect::<String>()));
        }
        Some(_) => {}
    }
    let Some(first) = names.first().cloned() else {
        return Err(bad("the row names no image", "image_name")
            .expected("`image_name` or `image_id`")
            .found(format!("fields {}", item.keys().cloned().collect::<Vec<_>>().join(", "))));
    };
    let there = |path: &String| {
        std::fs::metadata(folder.join(path)).is_ok_and(|m| m.is_file() && m.len() > 0)
    };
    let places = names.iter().flat_map(|name| {
        let below = ["train2014", "val2014"].map(|split| format!("{split}/{name}"));
        std::iter::once(name.clone()).chain(below)
    });
    Ok(places.into_iter().find(there).ok_or(first))
}

/// Whether a text is the number of a COCO image.
fn is_id(text: &str) -> bool {
    (1..=12).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit())
}

/// The names that an image has in COCO 2014; its number is in one of the two splits only.
fn coco_names(id: &str) -> [String; 3] {
    ["COCO_train2014_", "COCO_val2014_", ""].map(|split| format!("{split}{id:0>12}.jpg"))
}

#[cfg(test)]
mod tests {
    use super::super::{DatasetOptions, load};
    use super::*;

    /// A folder with two images of COCO 2014 and a published file of this text.
    fn folder(text: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in ["train2014/COCO_train2014_000000000042.jpg", "COCO_val2014_000000000544.jpg"] {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"not decoded here").unwrap();
        }
        std::fs::write(dir.path().join("v.json"), text).unwrap();
        dir
    }

    fn converted(text: &str, strict: bool) -> Result<(Converted, Vec<Value>)> {
        let dir = folder(text);
        let (file, out) = (dir.path().join("v.json"), dir.path().join("v.jsonl"));
        let source =
            Source { file: &file, image_folder: dir.path(), system_prompt: Some("S"), strict };
        let done = convert(&source, &out, || false).inspect_err(|_| assert!(!out.exists()))?;
        let loaded = load(
            &out.display().to_string(),
            &DatasetOptions { strict: true, ..Default::default() },
        )?;
        assert_eq!(loaded.rows.len(), done.rows);
        let written = std::fs::read_to_string(&out).unwrap();
        Ok((done, written.lines().map(|l| serde_json::from_str(l).unwrap()).collect()))
    }

    /// An item of these fields beside good ones.
    fn item(fields: &str) -> String {
        format!(
            r#"{{"image_id": "544", "question": "Gì?", "explanation": ["x"], "answer": "a", {fields}}}"#
        )
    }

    #[test]
    fn items_become_rows() {
        let text = "\u{feff}[{\"question\": \" Tie\u{302}\u{301}ng\\ngi\u{300}? \", \"image_id\": \"544\", \
            \"image_name\": \"COCO_val2014_000000000544.jpg\", \"explanation\": [\"mo\u{302}\u{323}t\", \"\", \"hai\", \
            \"một\"], \"answer\": \"có\", \"question_id\": \"544006\", \"question_type\": \"what are\", \
            \"answer_type\": \"other\"}, {\"question\": \"?\", \"image_id\": 42, \"explanation\": \"vì\", \"answer\": 2}]";
        let (done, rows) = converted(text, true).unwrap();
        assert_eq!((done.rows, done.explanations, done.left_out()), (2, 3, 0));
        let expected = json!({
            "id": "544006",
            "image": "COCO_val2014_000000000544.jpg",
            "conversations": [
                {"from": "system", "value": "S"},
                {"from": "human", "value": "<image>\nCâu hỏi: Tiếng gì?"},
                {"from": "gpt", "value": "<answer>có</answer><explain>một</explain>"},
            ],
            "question": "Tiếng gì?",
            "answer": "có",
            "explanations": ["một", "hai"],
            "question_type": "what are",
            "answer_type": "other",
        });
        assert_eq!(rows[0], expected);
        assert_eq!(rows[1]["image"], "train2014/COCO_train2014_000000000042.jpg");
        assert_eq!((&rows[1]["id"], &rows[1]["answer"]), (&json!("v-2"), &json!("2")));
    }

    #[test]
    fn what_cannot_be_a_row_is_counted_and_named() {
        let good = item(r#""question_id": 1"#);
        for (fields, parts) in [
            (r#""question": 3"#, &["key `question`", "a number"][..]),
            (r#""question": " ""#, &["key `question`", "empty"]),
            (r#""question": "<image>?""#, &["key `question`", "without <image>"]),
            (r#""answer": "x</answer>""#, &["key `answer`", "</answer>"]),
            (r#""answer": null"#, &["key `answer`", "null"]),
            (r#""explanation": []"#, &["key `explanation`", "no explanation"]),
            (r#""explanation": ["x", 3]"#, &["key `explanation[1]`", "a number"]),
            (r#""explanation": {}"#, &["an object"]),
            (r#""image_name": "../a.jpg""#, &["key `image_name`", "outside"]),
            (r#""image_name": "/etc/passwd""#, &["outside"]),
            (r#""image_name": 3"#, &["key `image_name`", "a number"]),
            (r#""image_id": "x""#, &["key `image_id`", "12 digits"]),
            (r#""image_id": null"#, &["names no image"]),
            (r#""question_id": [1]"#, &["key `question_id`", "a list"]),
            (r#""question_id": 1, "answer": "b""#, &["stands twice", "as in row 1"]),
        ] {
            let text = format!("[{good}, {}]", item(fields));
            let error = converted(&text, true).unwrap_err();
            assert_eq!(error.exit_code(), 3, "{fields}");
            for part in parts.iter().chain(&["v.json, row 2"]) {
                assert!(error.to_string().contains(part), "{fields}: `{part}` is not in\n{error}");
            }
            let (done, _) = converted(&text, false).unwrap();
            assert_eq!((done.rows, done.bad.len(), done.left_out()), (1, 1, 1), "{fields}");
        }
        let (done, _) = converted(&format!("[{good}, 3, {good}]"), false).unwrap();
        assert_eq!((done.rows, done.bad.len(), done.duplicates), (1, 1, 1));
    }

    #[test]
    fn missing_images_are_left_out_or_refused() {
        let text = format!("[{}, {}]", item(r#""question_id": 1"#), item(r#""image_id": 7"#));
        let (done, rows) = converted(&text, false).unwrap();
        assert_eq!((rows.len(), done.missing), (1, 1));
        assert_eq!(done.missing_names, ["COCO_train2014_000000000007.jpg"]);
        let error = converted(&text, true).unwrap_err().to_string();
        assert!(error.contains("row 2") && error.contains("000000000007.jpg"), "{error}");
        let none = format!("[{}]", item(r#""image_id": 7"#));
        let error = converted(&none, false).unwrap_err().to_string();
        assert!(error.contains("no row could be converted") && error.contains("1 rows"), "{error}");
    }

    #[test]
    fn other_files_are_refused() {
        for (text, part) in [
            ("", "EOF"),
            ("{}", "a list"),
            ("[]", "an empty list"),
            ("[{\"question\"", "EOF"),
            ("[3] x", "trailing"),
            ("[\"\\ud800\"]", "v.json"),
        ] {
            let error = converted(text, false).unwrap_err();
            assert!(error.exit_code() == 3 && error.to_string().contains(part), "{text}: {error}");
        }
        let dir = folder(&format!("[{}]", item("\"a\": 1")));
        let (file, out) = (dir.path().join("v.json"), dir.path().join("v.jsonl"));
        let source =
            Source { file: &file, image_folder: dir.path(), system_prompt: None, strict: false };
        assert_eq!(convert(&source, &out, || true).unwrap_err().exit_code(), 130);
        let invalid = [&b"[{\"question\": \""[..], b"\xff\"}]"].concat();
        std::fs::write(&file, invalid).unwrap();
        assert_eq!(convert(&source, &out, || false).unwrap_err().exit_code(), 3);
        assert!(!out.exists());
    }
}
