//! What a path given as a data set is: one file, a folder of `save_to_disk`, or a folder of files with splits.
//! Looks at names and at the small files that describe a folder; no row is read here.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::DatasetOptions;
use super::{arrow_ipc, parquet};
use crate::base::{Error, Result};

/// A file with rows.
#[derive(Debug, Clone)]
pub(super) struct DataFile {
    pub(super) path: PathBuf,
    pub(super) format: Format,
    /// Types of the columns as `datasets` names them, where a folder has them.
    pub(super) features: Option<Value>,
}

/// How a file holds its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    JsonLines,
    JsonList,
    Arrow,
    Parquet,
}

/// Files that `datasets` puts beside the rows.
const DICT: &str = "dataset_dict.json";
const STATE: &str = "state.json";
const INFO: &str = "dataset_info.json";
/// Other JSON files that hold no rows.
const NO_DATA: [&str; 4] = [DICT, STATE, INFO, "dataset_infos.json"];
/// Endings of data files; a folder's are those of the first kind that it has.
const ENDINGS: [&[&str]; 4] = [&["parquet"], &["arrow"], &["jsonl", "ndjson"], &["json"]];
/// Names that one split goes by.
const ALIASES: [&[&str]; 3] =
    [&["train", "training"], &["validation", "val", "valid", "dev", "eval"], &["test", "testing"]];
/// Splits that a run takes when it is not told which: of training, and of measuring.
const PREFERRED: [&[&str]; 2] = [&["train"], &["validation", "test"]];
/// Largest description of a folder.
const MAX_DESCRIPTION: u64 = 256 << 20;
/// Folders below the one that is named.
const MAX_DEPTH: usize = 4;

/// The files of one of the paths that were given, and whether it had splits to choose from.
pub(super) fn files_of(path: &Path, options: &DatasetOptions) -> Result<(Vec<DataFile>, bool)> {
    if options.saved_by_datasets && !(path.join(STATE).is_file() || path.join(DICT).is_file()) {
        return Err(Error::usage("this is no folder of `save_to_disk`")
            .key("use_huggingface_dataset")
            .expected(format!("a folder with {STATE} or {DICT} in it"))
            .found(path.display().to_string())
            .hint("leave --use_huggingface_dataset out: the format is seen from the files"));
    }
    if !path.is_dir() {
        let format = format_of(path)?;
        return Ok((vec![DataFile { path: path.to_owned(), format, features: None }], false));
    }
    if path.join(DICT).is_file() {
        let folders = splits_of_dict(path)?;
        let chosen = choose(path, &folders, options)?;
        return saved(&path.join(&folders[chosen])).map(|files| (files, true));
    }
    if path.join(STATE).is_file() {
        return saved_split(path, options);
    }
    let found = walk(path)?;
    let names: Vec<String> = found.iter().map(|(split, _)| split.clone()).collect();
    let mut splits = names.clone();
    splits.sort();
    splits.dedup();
    let chosen = choose(path, &splits, options)?;
    let files = found.into_iter().filter(|(split, _)| *split == splits[chosen]);
    let file = |(_, path): (String, PathBuf)| {
        let format = format_of(&path)?;
        Ok(DataFile { path, format, features: None })
    };
    let named = splits.iter().any(|s| !s.is_empty());
    Ok((files.map(file).collect::<Result<_>>()?, named))
}

fn description(path: &Path) -> Result<Value> {
    let io = |e: std::io::Error| Error::io("cannot read the description of the data set", path, &e);
    let mut text = String::new();
    let file = File::open(path).map_err(io)?;
    file.take(MAX_DESCRIPTION).read_to_string(&mut text).map_err(io)?;
    serde_json::from_str(&text).map_err(|e| {
        Error::data("the description of the data set is not JSON").file(path).found(e.to_string())
    })
}

/// A name that stays in its folder.
fn simple(name: &str, file: &Path) -> Result<String> {
    match name.is_empty() || name == ".." || name == "." || name.contains(['/', '\\', '\0']) {
        false => Ok(name.to_owned()),
        true => Err(Error::data("the description of the data set names a path")
            .file(file)
            .expected("names of files and folders beside it")
            .found(format!("{name:?}"))),
    }
}

fn splits_of_dict(folder: &Path) -> Result<Vec<String>> {
    let file = folder.join(DICT);
    let dict = description(&file)?;
    let names = dict["splits"].as_array().cloned().unwrap_or_default();
    let names = names.iter().filter_map(Value::as_str).map(|n| simple(n, &file));
    let names = names.collect::<Result<Vec<_>>>()?;
    match names.is_empty() {
        false => Ok(names),
        true => Err(Error::data("the data set has no splits")
            .file(&file)
            .expected("{\"splits\": [\"train\", ...]}")
            .found(dict.to_string().chars().take(80).collect::<String>())),
    }
}

/// A folder of one saved data set, which knows the split that it was.
fn saved_split(path: &Path, options: &DatasetOptions) -> Result<(Vec<DataFile>, bool)> {
    let state = description(&path.join(STATE))?;
    let split = state["_split"].as_str().unwrap_or_default().to_owned();
    let named = !split.is_empty();
    if named {
        choose(path, &[split], options)?;
    }
    saved(path).map(|files| (files, named))
}

/// The shards of a saved data set, in their order.
fn saved(folder: &Path) -> Result<Vec<DataFile>> {
    let file = folder.join(STATE);
    let state = description(&file)?;
    let info = folder.join(INFO);
    let features =
        if info.is_file() { Some(description(&info)?["features"].clone()) } else { None };
    let shards = state["_data_files"].as_array().cloned().unwrap_or_default();
    let shard = |v: &Value| {
        let name = simple(v["filename"].as_str().unwrap_or_default(), &file)?;
        Ok(DataFile { path: folder.join(name), format: Format::Arrow, features: features.clone() })
    };
    let shards = shards.iter().map(shard).collect::<Result<Vec<_>>>()?;
    match shards.is_empty() {
        false => Ok(shards),
        true => Err(Error::data("the saved data set has no files")
            .file(&file)
            .expected("{\"_data_files\": [{\"filename\": \"data-00000-of-00001.arrow\"}], ...}")),
    }
}

/// Files with rows below a folder, each with the split that its name tells (none: an empty text), in the
/// order of their paths.
fn walk(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut all = Vec::new();
    let mut todo = vec![(folder.to_owned(), 0)];
    while let Some((here, depth)) = todo.pop() {
        let io = |e: std::io::Error| Error::io("cannot read the folder", &here, &e);
        for entry in std::fs::read_dir(&here).map_err(io)? {
            let entry = entry.map_err(io)?;
            let hidden = entry.file_name().to_string_lossy().starts_with('.');
            let path = entry.path();
            if hidden {
                continue;
            } else if path.is_dir() && depth < MAX_DEPTH {
                todo.push((path, depth + 1));
            } else if path.is_file() {
                all.push(path);
            }
        }
    }
    all.sort();
    let data = |path: &&PathBuf, endings: &[&str]| {
        let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        endings.contains(&ending) && !NO_DATA.contains(&name)
    };
    let kind = ENDINGS.iter().find(|e| all.iter().any(|p| data(&p, e)));
    let Some(endings) = kind else {
        return Err(Error::usage("the folder has no data files")
            .file(folder)
            .expected("a folder of `save_to_disk`, or files that end in .parquet, .arrow, .jsonl or .json")
            .found(format!("{} files of other kinds", all.len())));
    };
    let split = |path: &PathBuf| split_of(path.strip_prefix(folder).unwrap_or(path));
    Ok(all.iter().filter(|p| data(p, endings)).map(|p| (split(p), p.clone())).collect())
}

/// The split that a path tells: the hub's `train-00000-of-00003.parquet`, a known word in the name of the
/// file, or in that of a folder.
fn split_of(path: &Path) -> String {
    let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    if let Some((name, rest)) = stem.rsplit_once("-of-")
        && let Some((split, number)) = name.rsplit_once('-')
        && number.len() == 5
        && number.bytes().all(|b| b.is_ascii_digit())
        && rest.len() >= 5
        && split != "data"
    {
        return split.to_owned();
    }
    let known = |text: &str| {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric());
        words.map(str::to_ascii_lowercase).find_map(|w| {
            ALIASES
                .iter()
                .find(|names| names.contains(&w.as_str()))
                .map(|names| names[0].to_owned())
        })
    };
    let folders = path.parent().into_iter().flat_map(Path::components);
    let mut folders = folders.rev().map(|c| known(&c.as_os_str().to_string_lossy()));
    known(&stem).or_else(|| folders.find_map(|split| split)).unwrap_or_default()
}

/// Which of the splits is meant.
fn choose(path: &Path, splits: &[String], options: &DatasetOptions) -> Result<usize> {
    let same = |a: &str, b: &str| {
        a == b || ALIASES.iter().any(|names| names.contains(&a) && names.contains(&b))
    };
    let find = |name: &str| {
        let exact = splits.iter().position(|s| s == name);
        exact.or_else(|| splits.iter().position(|s| same(s, name)))
    };
    let listed = || {
        let names = splits.iter().map(|s| if s.is_empty() { "(files of no split)" } else { s });
        names.collect::<Vec<_>>().join(", ")
    };
    if let Some(name) = &options.split {
        return find(name).ok_or_else(|| {
            Error::usage("the data set has no such split")
                .file(path)
                .key("dataset_split")
                .expected(format!("one of: {}", listed()))
                .found(name.as_str())
        });
    }
    if splits.len() == 1 {
        return Ok(0);
    }
    let preferred = PREFERRED[usize::from(options.measures)];
    preferred.iter().find_map(|name| find(name)).ok_or_else(|| {
        Error::usage("the data set has several splits")
            .file(path)
            .key("dataset_split")
            .expected(format!("one of: {}", listed()))
            .found("none asked for")
            .hint("add --dataset_split NAME")
    })
}

/// What a file is, by its first bytes; of texts, `[` begins a list unless the name says JSON Lines.
fn format_of(path: &Path) -> Result<Format> {
    // What comes through a pipe comes once: it is lines.
    if std::fs::metadata(path).is_ok_and(|m| !m.is_file()) {
        return Ok(Format::JsonLines);
    }
    let mut first = [0; 256];
    let open = File::open(path).map_err(|e| {
        Error::io("cannot open the data file", path, &e)
            .hint("several files are joined by ':'; grpo-rt data makes one to try")
    })?;
    let mut read = 0;
    while read < first.len() {
        match (&open).read(&mut first[read..]) {
            Ok(0) => break,
            Ok(n) => read += n,
            Err(e) => return Err(Error::io("cannot read the data file", path, &e)),
        }
    }
    let first = &first[..read];
    let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
    let arrow = first.starts_with(arrow_ipc::FILE_MAGIC) || first.starts_with(&[0xff; 4]);
    // A file that is named for a table is read as one, so that what is wrong with it is said.
    Ok(if first.starts_with(parquet::MAGIC) || ending == "parquet" {
        Format::Parquet
    } else if arrow || ending == "arrow" {
        Format::Arrow
    } else if ending != "jsonl" && text_start(first) == Some(b'[') {
        Format::JsonList
    } else {
        Format::JsonLines
    })
}

/// The first byte that is no space.
fn text_start(bytes: &[u8]) -> Option<u8> {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    bytes.iter().copied().find(|b| !b.is_ascii_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_by_the_names_of_files() {
        for (path, split) in [
            ("data/train-00000-of-00003.parquet", "train"),
            ("data/testmini-00000-of-00001-725687bf7a18d64b.parquet", "testmini"),
            ("data-00000-of-00002.arrow", ""),
            ("train/part-7.parquet", "train"),
            ("val.jsonl", "validation"),
            ("my_dev_rows.jsonl", "validation"),
            ("valid/x.parquet", "validation"),
            ("trainer.jsonl", ""),
            ("rows.jsonl", ""),
        ] {
            assert_eq!(split_of(Path::new(path)), split, "{path}");
        }
    }
}
