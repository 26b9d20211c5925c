//! Data sets by name and by list: `--dataset_name assy07` with a registry that says where its rows and
//! pictures are, and the YAML lists of files that VLM-R1 has. They become paths here, once, before
//! anything else looks at them; a path that exists always wins. Reads no row.

use crate::base::{Error, Result};
use crate::io::dataset::Share;
use crate::options::{OPTIONS, Options, Source, Value};
use serde_json::Value as Json;
use std::path::Path;

/// One name or list, as paths.
#[derive(Debug, Default, PartialEq)]
struct Found {
    files: Vec<File>,
    /// Where its pictures are, if the registry says so.
    folder: Option<String>,
}

#[derive(Debug, PartialEq)]
struct File {
    path: String,
    /// Which rows of it are taken, as `dataset_shares` has it; `None` is not said.
    share: Option<String>,
}

impl File {
    fn whole(path: &str) -> File {
        File { path: path.to_string(), share: None }
    }
}

/// The options with every name of a data set replaced by its file, and every list by its files. Image
/// folders of a registry are taken where the options name none.
///
/// # Errors
/// If a registry or list cannot be read or lacks a path, or a registry was named and has not the name.
pub fn resolve_data_sets(options: &Options) -> Result<Options> {
    let taken =
        |name: &str| OPTIONS.iter().any(|o| o.name == name && o.accepted_by(options.command()));
    if !taken("dataset_registry") {
        return Ok(options.clone());
    }
    let names = options.texts("dataset_name");
    let found: Vec<Found> = names.iter().map(|n| find(options, n)).collect::<Result<_>>()?;
    let unchanged = found.iter().zip(&names).all(|(f, n)| f.files[..] == [File::whole(n)]);
    if unchanged && found.iter().all(|f| f.folder.is_none()) {
        return Ok(options.clone());
    }
    let list = |texts: Vec<String>| Value::List(texts.into_iter().map(Value::Text).collect());
    let folders: Option<Vec<String>> =
        found.iter().flat_map(|f| f.files.iter().map(|_| f.folder.clone())).collect();
    let files: Vec<File> = found.into_iter().flat_map(|f| f.files).collect();
    let mut resolved = options.clone();
    if let Some(folders) = folders.filter(|_| options.paths("image_folders").is_empty()) {
        resolved = resolved.replaced("image_folders", list(folders));
    }
    if files.iter().any(|f| f.share.is_some()) {
        if !options.texts("dataset_shares").is_empty() {
            return Err(options
                .wrong("dataset_shares", "the names of the data sets say shares of their own")
                .hint("give the shares in one of the two places"));
        }
        let share = |f: &File| f.share.clone().unwrap_or_else(|| "all".into());
        resolved = resolved.replaced("dataset_shares", list(files.iter().map(share).collect()));
    }
    Ok(resolved.replaced("dataset_name", list(files.into_iter().map(|f| f.path).collect())))
}

/// What one text of `dataset_name` stands for.
fn find(o: &Options, text: &str) -> Result<Found> {
    let path = Path::new(text);
    let ending = path.extension().and_then(|e| e.to_str());
    if path.is_file() && matches!(ending, Some("yaml" | "yml")) {
        return listed(path);
    }
    let itself = Found { files: vec![File::whole(text)], folder: None };
    let registry = o.text("dataset_registry").unwrap_or_default();
    let named = *o.source("dataset_registry") != Source::Default;
    if path.exists() || text.contains('/') || (!named && !Path::new(registry).is_file()) {
        return Ok(itself);
    }
    match registered(o, Path::new(registry), text)? {
        Some(found) => Ok(found),
        None => Ok(itself),
    }
}

/// A data set of the registry: `{name: {annotation_path, data_path}}`, the fields of Qwen-VL's
/// `data_dict`; `name%50` draws half of its rows, as there. `None` if it has not the name and the name
/// may be a path.
fn registered(o: &Options, registry: &Path, name: &str) -> Result<Option<Found>> {
    let table = read(registry)?;
    let place = |e: Error| e.file(registry).key(name);
    let (name, share) = match name.split_once('%') {
        Some((name, percent)) => (name, Some(format!("random:{percent}%"))),
        None => (name, None),
    };
    let Some(entry) = table.get(name) else {
        let names: Vec<&String> = table.as_object().into_iter().flat_map(|t| t.keys()).collect();
        if names.is_empty() || Path::new(name).extension().is_some() {
            return Ok(None);
        }
        let names: Vec<&str> = names.into_iter().map(String::as_str).collect();
        return Err(o
            .wrong("dataset_name", format!("`{name}` is neither a path nor in the registry"))
            .expected(format!("a path, or one of: {}", names.join(", ")))
            .hint(format!("add it to {}", registry.display())));
    };
    let text = |key: &str| entry[key].as_str().map(str::to_string);
    let file = text("annotation_path").ok_or_else(|| {
        place(Error::usage("a data set of the registry has no rows")).expected(
            "annotation_path: the file of its rows, and data_path: their folder of images",
        )
    })?;
    let folder = text("data_path").filter(|p| !p.is_empty());
    Ok(Some(Found { files: vec![File { path: file, share }], folder }))
}

/// A list of files: `datasets: [{json_path: ..., sampling_strategy: random:50%}]`, as VLM-R1's data_config
/// has it.
fn listed(file: &Path) -> Result<Found> {
    let list = read(file)?;
    let wrong = |what: &str| Error::usage(what.to_string()).file(file).key("datasets");
    let expected = "a list under `datasets`, each with json_path";
    let entries = list["datasets"].as_array().filter(|a| !a.is_empty());
    let entries =
        entries.ok_or_else(|| wrong("this is no list of data sets").expected(expected))?;
    let one = |entry: &Json| {
        let share = entry["sampling_strategy"].as_str().filter(|s| *s != "all");
        if let Some(share) = share {
            Share::parse(share).map_err(|e| e.file(file).key("sampling_strategy"))?;
        }
        let path = entry["json_path"].as_str();
        let path = path.ok_or_else(|| wrong("an entry has no file").expected(expected))?;
        Ok(File { path: path.to_string(), share: share.map(str::to_string) })
    };
    Ok(Found { files: entries.iter().map(one).collect::<Result<_>>()?, folder: None })
}

fn read(file: &Path) -> Result<Json> {
    let text = std::fs::read_to_string(file)
        .map_err(|e| Error::io("cannot read the names of data sets", file, &e))
        .map_err(|e| {
            e.key("dataset_registry").hint("give a file that exists, or a path of data")
        })?;
    let parsed = match file.extension().and_then(|e| e.to_str()) {
        Some("json") => serde_json::from_str(&text).map_err(|e| e.to_string()),
        _ => serde_saphyr::from_str(&text).map_err(|e| e.to_string()),
    };
    parsed.map_err(|e| Error::usage("cannot understand the names of data sets").file(file).found(e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Command;

    /// What the options become, with files in a folder.
    fn options(files: &[(&str, &str)], names: &str, more: &str) -> Result<Options> {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        files.iter().for_each(|(name, text)| std::fs::write(at(name), text).unwrap());
        let line = format!("--model_name_or_path m --output_dir o --dataset_name {names} {more}");
        let words: Vec<String> = line.replace("HERE", &at("")).split(' ').map(Into::into).collect();
        let words = words.into_iter().filter(|w| !w.is_empty()).collect::<Vec<_>>();
        let o = Options::resolve(Command::Train, &words, std::iter::empty())?;
        resolve_data_sets(&o)
    }

    /// What `dataset_name` and `image_folders` become.
    fn resolved(
        files: &[(&str, &str)],
        names: &str,
        more: &str,
    ) -> Result<(Vec<String>, Vec<String>)> {
        let o = options(files, names, more)?;
        Ok((o.texts("dataset_name"), o.texts("image_folders")))
    }

    const REGISTRY: (&str, &str) = (
        "r.yaml",
        "a:\n  annotation_path: a.jsonl\n  data_path: clips\nb:\n  annotation_path: b.json\n  \
         data_path: more\nc: {}\n",
    );

    #[test]
    fn names_become_files_and_folders() {
        let registry = "--dataset_registry HEREr.yaml";
        let (files, folders) = resolved(&[REGISTRY], "a b", registry).unwrap();
        assert_eq!(
            (files, folders),
            (vec!["a.jsonl".into(), "b.json".into()], vec!["clips".into(), "more".into()])
        );
        let own = format!("{registry} --image_folders mine");
        assert_eq!(resolved(&[REGISTRY], "a", &own).unwrap().1, ["mine"]);
        // Paths, and what cannot be a name, stay.
        for name in ["HEREr", "x.jsonl", "org/name"] {
            let files = [REGISTRY, ("r", "")];
            assert_eq!(resolved(&files, name, registry).unwrap().1, Vec::<String>::new(), "{name}");
        }
        assert_eq!(resolved(&[], "a", "").unwrap().0, ["a"]);
    }

    #[test]
    fn a_name_may_say_how_many_of_a_hundred() {
        let o = options(&[REGISTRY], "a b%50", "--dataset_registry HEREr.yaml").unwrap();
        assert_eq!(o.texts("dataset_name"), ["a.jsonl", "b.json"]);
        assert_eq!(o.texts("dataset_shares"), ["all", "random:50%"]);
        assert_eq!(o.texts("image_folders"), ["clips", "more"]);
    }

    #[test]
    fn wrong_names_are_told_with_the_right_ones() {
        let registry = "--dataset_registry HEREr.yaml";
        for (name, part) in
            [("d", "one of: a, b, c"), ("c", "annotation_path"), ("d%50", "`d` is neither")]
        {
            let error = resolved(&[REGISTRY], name, registry).unwrap_err();
            assert!(error.to_string().contains(part), "{name}: {error}");
        }
        let error = resolved(&[], "a", registry).unwrap_err();
        assert!(error.exit_code() == 4 && error.to_string().contains("r.yaml"), "{error}");
    }

    #[test]
    fn lists_of_files_are_read() {
        let list = "datasets:\n  - json_path: x.jsonl\n    sampling_strategy: all\n  - json_path: y.json\n";
        let (files, _) = resolved(&[("rec.yaml", list)], "HERErec.yaml", "").unwrap();
        assert_eq!(files, ["x.jsonl", "y.json"]);
        let some = |share: &str| {
            format!(
                "datasets:\n  - json_path: x.jsonl\n    sampling_strategy: {share}\n  - json_path: y.json\n"
            )
        };
        let of =
            |share: &str, more: &str| options(&[("rec.yaml", &some(share))], "HERErec.yaml", more);
        let o = of("random:30%", "").unwrap();
        assert_eq!(o.texts("dataset_name"), ["x.jsonl", "y.json"]);
        assert_eq!(o.texts("dataset_shares"), ["random:30%", "all"]);
        let error = of("half", "").unwrap_err();
        assert!(
            error.to_string().contains("rec.yaml") && error.to_string().contains("random:N"),
            "{error}"
        );
        assert!(of("first:5", "--dataset_shares end:1").is_err(), "two places say shares");
        assert!(resolved(&[("rec.yaml", "a: 1\n")], "HERErec.yaml", "").is_err());
    }
}
