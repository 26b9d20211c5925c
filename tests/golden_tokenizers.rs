//! Tokenizers in every file format against the libraries that models were trained with, exactly: small
//! ones that are committed, and the published ones of Qwen2.5, Qwen3 and InternLM2, which are too large
//! for the repository (tools/golden/fetch_tokenizers.sh fetches them).

use std::path::{Path, PathBuf};

use grpo_rt::io::text::Tokenizer;
use serde_json::{Map, Value, json};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn read(file: impl AsRef<Path>) -> Value {
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// Every case of a golden file: ids, ids without control tokens and the way back, where given.
fn compare(t: &Tokenizer, golden: &Value) {
    assert_eq!(t.vocab_size() as u64, golden["vocab_size"].as_u64().unwrap());
    for (name, id) in golden["special"].as_object().unwrap() {
        assert_eq!(t.token_id(name), Some(id.as_u64().unwrap() as u32), "{name}");
    }
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() >= 15);
    for case in cases {
        let (text, want) = (case["text"].as_str().unwrap(), ids(&case["ids"]));
        assert_eq!(t.encode(text).unwrap(), want, "{text:?}");
        if !case["ordinary"].is_null() {
            assert_eq!(t.encode_ordinary(text).unwrap(), ids(&case["ordinary"]), "{text:?}");
        }
        for (key, skip) in [("decoded", false), ("decoded_skip_special", true)] {
            if let Some(back) = case[key].as_str() {
                assert_eq!(t.decode(&want, skip), back, "{key} {text:?}");
                let mut stream = t.decode_stream(skip);
                let mut shown: String = want.iter().filter_map(|id| stream.push(*id)).collect();
                shown += &stream.finish().unwrap_or_default();
                assert_eq!(shown, back, "stream {text:?}");
            }
        }
    }
}

/// Folder of a published tokenizer, or why there is none.
fn published(name: &str) -> Result<PathBuf, String> {
    let root = std::env::var_os("GRPO_RT_TOKENIZERS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tokenizers"),
        PathBuf::from,
    );
    let dir = root.join(name);
    if dir.join("tokenizer.json").is_file() {
        return Ok(dir);
    }
    assert!(
        std::env::var_os("GRPO_RT_TOKENIZERS").is_none(),
        "GRPO_RT_TOKENIZERS is set, but {} has no tokenizer.json",
        dir.display()
    );
    Err(format!("{} has no tokenizer.json: run tools/golden/fetch_tokenizers.sh", dir.display()))
}

fn compare_published(name: &str) {
    let golden = read(data(&format!("tokenizers/{name}.json")));
    match published(name) {
        Ok(dir) => {
            compare(&Tokenizer::from_dir(&dir).unwrap(), &golden);
            if name != "internlm2" {
                compare_older_files(&dir, &golden);
            }
        }
        Err(why) => eprintln!("skipped: {why}"),
    }
}

#[test]
fn qwen2_5_gives_the_ids_of_transformers() {
    compare_published("qwen2_5");
}

#[test]
fn qwen3_gives_the_ids_of_transformers() {
    compare_published("qwen3");
}

#[test]
fn internlm2_gives_the_ids_of_transformers() {
    compare_published("internlm2");
}

/// The same tokenizer as `vocab.json`, `merges.txt`, `added_tokens.json` and
/// `special_tokens_map.json`, with and without tokenizer_config.json.
fn compare_older_files(source: &Path, golden: &Value) {
    let whole = read(source.join("tokenizer.json"));
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| std::fs::write(dir.path().join(name), text).unwrap();
    write("vocab.json", whole["model"]["vocab"].to_string());
    let line = |merge: &Value| match merge {
        Value::Array(pair) => {
            format!("{} {}\n", pair[0].as_str().unwrap(), pair[1].as_str().unwrap())
        }
        other => format!("{}\n", other.as_str().unwrap()),
    };
    let merges = whole["model"]["merges"].as_array().unwrap();
    write(
        "merges.txt",
        "#version: 0.2\n".to_owned() + &merges.iter().map(line).collect::<String>(),
    );
    let added = whole["added_tokens"].as_array().unwrap();
    let content = |t: &Value| t["content"].as_str().unwrap().to_owned();
    let by_content: Map<String, Value> =
        added.iter().map(|t| (content(t), t["id"].clone())).collect();
    write("added_tokens.json", Value::Object(by_content).to_string());
    let special: Vec<String> = added.iter().filter(|t| t["special"] == true).map(content).collect();
    write("special_tokens_map.json", json!({"additional_special_tokens": special}).to_string());
    compare(&Tokenizer::from_dir(dir.path()).unwrap(), golden);
    let config = std::fs::read_to_string(source.join("tokenizer_config.json")).unwrap();
    write("tokenizer_config.json", config);
    std::fs::remove_file(dir.path().join("added_tokens.json")).unwrap();
    compare(&Tokenizer::from_dir(dir.path()).unwrap(), golden);
}

#[test]
fn vocabulary_and_merges_give_the_tokenizer_of_tokenizer_json() {
    let mut golden = read(data("text/golden.json"));
    golden["cases"] = golden["texts"].take();
    compare_older_files(&data("text/tokenizer"), &golden);
}

#[test]
fn sentencepiece_models_give_the_ids_of_sentencepiece() {
    for name in ["sentencepiece_plain", "sentencepiece_spaces"] {
        let dir = data(&format!("tokenizers/{name}"));
        compare(&Tokenizer::from_dir(&dir).unwrap(), &read(dir.join("golden.json")));
    }
}

#[test]
fn rank_tables_give_the_ids_of_tiktoken() {
    let dir = data("tokenizers/tiktoken");
    compare(&Tokenizer::from_dir(&dir).unwrap(), &read(dir.join("golden.json")));
}

/// A copy of a small folder with one file changed.
fn damaged(name: &str, file: &str, change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> String {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(data(&format!("tokenizers/{name}"))).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    let path = dir.path().join(file);
    let content = std::fs::read(&path).unwrap();
    std::fs::write(&path, change(content)).unwrap();
    Tokenizer::from_dir(dir.path()).unwrap_err().to_string()
}

#[test]
fn damaged_files_are_named_with_the_place() {
    let cut = |mut bytes: Vec<u8>| {
        bytes.truncate(bytes.len() / 2);
        bytes
    };
    let e = damaged("sentencepiece_plain", "tokenizer.model", cut);
    assert!(e.contains("tokenizer.model") && e.contains("byte"), "{e}");
    let lines = |count: usize| {
        move |bytes: Vec<u8>| {
            bytes.split_inclusive(|b| *b == b'\n').take(count).collect::<Vec<_>>().concat()
        }
    };
    let e = damaged("tiktoken", "tokenizer.model", lines(100));
    assert!(e.contains("tokenizer.model") && e.contains("256 bytes"), "{e}");
    let half_a_line = |bytes: Vec<u8>| bytes[..bytes.len() - 6].to_vec();
    let e = damaged("tiktoken", "tokenizer.model", half_a_line);
    assert!(e.contains("line 700") && e.contains("tokenizer.model"), "{e}");
    // Whole lines are missing: the ids that follow do not fit any more.
    let e = damaged("tiktoken", "tokenizer.model", lines(690));
    assert!(e.contains("expected: id 700") && e.contains("cut off"), "{e}");
    let e = damaged("tiktoken", "tokenizer_config.json", cut);
    assert!(e.contains("tokenizer_config.json") && e.contains("line"), "{e}");
    let moved = |bytes: Vec<u8>| {
        String::from_utf8(bytes)
            .unwrap()
            .replace("[gMASK]", "[GMASK]")
            .replacen("\"7", "\"8", 1)
            .into()
    };
    let e = damaged("tiktoken", "tokenizer_config.json", moved);
    assert!(e.contains("expected: id"), "{e}");
    let e = damaged("tiktoken", "tokenizer.model", |_| b"\x08".to_vec());
    assert!(e.contains("line 1"), "{e}");
}
