//! Configuration files: YAML, TOML or JSON with flat keys, read into texts with their line. Knows
//! nothing of which options exist.

use std::fmt;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value as Json;

use crate::base::{Error, Result};

/// One key of a configuration file.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The key as it is written.
    pub key: String,
    /// Line of the key (1-based), where it can be found.
    pub line: Option<usize>,
    /// Its value.
    pub value: Raw,
}

/// A value of a configuration file, as the texts that flags would give.
#[derive(Debug, Clone, PartialEq)]
pub enum Raw {
    /// `null`: as if the key were not there.
    Null,
    /// A scalar.
    One(String),
    /// A sequence of scalars.
    Many(Vec<String>),
    /// A mapping or a deeper nesting; configuration files are flat.
    Nested,
}

/// Reads a configuration file; the ending decides the format.
///
/// # Errors
/// A missing file, an unknown ending, bad syntax, a key given twice.
pub fn read(path: &Path) -> Result<Vec<Entry>> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| Error::io("cannot read the configuration file", path, &e))?;
    let ending = path.extension().and_then(|e| e.to_str()).unwrap_or("").to_ascii_lowercase();
    let parsed = match ending.as_str() {
        "yaml" | "yml" if blank(&text) => Ok(Pairs(Vec::new())),
        "yaml" | "yml" => serde_saphyr::from_str(&text).map_err(|e| e.to_string()),
        "toml" => toml::from_str(&text).map_err(|e| e.to_string()),
        "json" => serde_json::from_str(&text).map_err(|e| e.to_string()),
        _ => {
            return Err(Error::usage("the format of the configuration file is unknown")
                .file(path)
                .expected("a name that ends in .yaml, .yml, .toml or .json"));
        }
    };
    let Pairs(pairs) = parsed.map_err(|message| {
        Error::usage("cannot understand the configuration file")
            .file(path)
            .expected("`option: value` pairs")
            .found(message.trim_end())
    })?;
    let mut entries: Vec<Entry> = Vec::with_capacity(pairs.len());
    for (key, value) in pairs {
        if entries.iter().any(|e| e.key == key) {
            return Err(Error::usage("a key stands twice in the configuration file")
                .file(path)
                .key(key)
                .hint("keep one of the two"));
        }
        let line = line_of(&text, &key);
        entries.push(Entry { key, line, value: raw(&value) });
    }
    Ok(entries)
}

/// Whether a YAML text has nothing but comments.
fn blank(text: &str) -> bool {
    text.lines().all(|l| {
        let l = l.trim();
        l.is_empty() || l.starts_with('#') || l == "---"
    })
}

/// A value as the texts that flags would give.
pub fn raw(value: &Json) -> Raw {
    let scalar = |v: &Json| match v {
        Json::String(s) => Some(s.clone()),
        Json::Bool(b) => Some(b.to_string()),
        Json::Number(n) => Some(n.to_string()),
        Json::Null | Json::Array(_) | Json::Object(_) => None,
    };
    match value {
        Json::Null => Raw::Null,
        Json::Object(_) => Raw::Nested,
        Json::Array(items) => match items.iter().map(scalar).collect() {
            Some(texts) => Raw::Many(texts),
            None => Raw::Nested,
        },
        one => scalar(one).map_or(Raw::Null, Raw::One),
    }
}

/// The first line on which `key` begins a pair. The parsers do not keep places of keys in flat
/// maps, and in a flat file the first such line is the right one.
fn line_of(text: &str, key: &str) -> Option<usize> {
    let begins = |line: &str| {
        let line = line.trim_start_matches(|c: char| c.is_whitespace() || c == '{' || c == ',');
        let rest = match line.strip_prefix(['"', '\'']) {
            Some(quoted) => quoted.strip_prefix(key).and_then(|r| r.strip_prefix(['"', '\''])),
            None => line.strip_prefix(key),
        };
        rest.is_some_and(|r| r.trim_start().starts_with([':', '=']))
    };
    text.lines().position(begins).map(|i| i + 1)
}

/// A map in file order that keeps repeated keys, so that they can be reported.
struct Pairs(Vec<(String, Json)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Pairs;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of options to values")
            }
            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(name: &str, text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    #[test]
    fn the_three_formats_say_the_same() {
        let yaml = "# c\nlearning_rate: 1e-6\nuse_peft: true\nstop: ['a', \"b\"]\nmin_p: null\n";
        let toml = "# c\nlearning_rate = 1e-6\nuse_peft = true\nstop = ['a', \"b\"]\n";
        let json = "{\n\"learning_rate\": 1e-6,\n\"use_peft\": true,\n\"stop\": [\"a\", \"b\"]}";
        for (name, text) in [("a.yaml", yaml), ("a.toml", toml), ("a.json", json)] {
            let (_folder, path) = write(name, text);
            let got = read(&path).unwrap();
            let find = |k: &str| got.iter().find(|e| e.key == k).unwrap().clone();
            assert_eq!(find("learning_rate").line, Some(2), "{name}");
            let Raw::One(rate) = find("learning_rate").value else { panic!("{name}") };
            assert_eq!(rate.parse::<f64>().unwrap(), 1e-6);
            assert_eq!(find("use_peft").value, Raw::One("true".into()));
            assert_eq!(find("stop").value, Raw::Many(vec!["a".into(), "b".into()]));
        }
        let (_folder, path) = write("a.yaml", yaml);
        assert_eq!(read(&path).unwrap()[3].value, Raw::Null);
    }

    #[test]
    fn an_empty_file_has_no_keys() {
        for name in ["a.yaml", "a.yml", "a.toml"] {
            let (_folder, path) = write(name, "# nothing\n");
            assert_eq!(read(&path).unwrap(), []);
        }
    }

    #[test]
    fn bad_files_are_errors_with_a_place() {
        for (name, text) in [
            ("a.yaml", "beta: 1\nbeta: 2\n"),
            ("a.toml", "beta = 1\nbeta = 2\n"),
            ("a.json", "{\"beta\": 1, \"beta\": 2}"),
            ("a.yaml", "- beta\n"),
            ("a.toml", "beta = \n"),
            ("a.txt", "beta: 1\n"),
        ] {
            let (_folder, path) = write(name, text);
            let error = read(&path).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{name} {text}");
            assert!(error.to_string().contains(name), "{error}");
        }
        let missing = read(Path::new("no/such/file.yaml")).unwrap_err();
        assert_eq!(missing.exit_code(), 4);
    }
}
