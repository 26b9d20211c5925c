//! Token ids and rendered chats against transformers, exactly. The tokenizer is one that this
//! program trained; its files are committed and must come out the same from the same texts.

use std::path::{Path, PathBuf};

use grpo_rt::io::dataset::{Message, Part};
use grpo_rt::io::text::{ChatTemplate, Tokenizer, TrainedTokenizer, train_bpe};
use grpo_rt::model::config::TokenIds;
use grpo_rt::model::processor::VisualText;
use grpo_rt::model::processor::chat::ChatEncoder;
use serde_json::{Map, Value};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/text")
}

fn golden() -> Value {
    let text = std::fs::read_to_string(folder().join("golden.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn tokenizer() -> Tokenizer {
    Tokenizer::from_dir(folder().join("tokenizer")).unwrap()
}

/// The texts that the committed tokenizer was trained on.
fn trained() -> TrainedTokenizer {
    let text = std::fs::read_to_string(folder().join("train.txt")).unwrap();
    train_bpe(text.lines().map(|l| format!("{l}\n")), 768).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// To make the files again (then run tools/golden/text.py):
/// `cargo test --release --test golden_text -- --ignored write_tokenizer`
#[test]
#[ignore = "writes tests/data/text/tokenizer"]
fn write_tokenizer() {
    trained().save(folder().join("tokenizer")).unwrap();
}

#[test]
fn training_gives_the_committed_files() {
    let dir = tempfile::tempdir().unwrap();
    trained().save(dir.path()).unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
        let made = std::fs::read_to_string(dir.path().join(name)).unwrap();
        let committed = std::fs::read_to_string(folder().join("tokenizer").join(name)).unwrap();
        assert!(made == committed, "{name} differs from the committed file");
    }
}

#[test]
fn ids_and_texts_are_those_of_transformers() {
    let (t, golden) = (tokenizer(), golden());
    assert_eq!(t.vocab_size(), golden["vocab_size"].as_u64().unwrap() as usize);
    for (name, id) in golden["special"].as_object().unwrap() {
        assert_eq!(t.token_id(name), Some(id.as_u64().unwrap() as u32), "{name}");
    }
    let cases = golden["texts"].as_array().unwrap();
    assert!(cases.len() >= 15);
    for case in cases {
        let text = case["text"].as_str().unwrap();
        assert_eq!(t.encode(text).unwrap(), ids(&case["ids"]), "{text:?}");
        assert_eq!(t.encode_ordinary(text).unwrap(), ids(&case["ordinary"]), "{text:?}");
        let back = t.decode(&ids(&case["ids"]), false);
        assert_eq!(back, case["decoded"].as_str().unwrap());
        let back = t.decode(&ids(&case["ids"]), true);
        assert_eq!(back, case["decoded_skip_special"].as_str().unwrap());
    }
}

/// Messages of a case: content lists with text and images, as datasets give them.
fn messages(case: &Value) -> Vec<Message> {
    let mut images = 0;
    let mut part = |p: &Value| match p["type"].as_str() {
        Some("image") => {
            images += 1;
            Part::Image(images - 1)
        }
        _ => Part::Text(p["text"].as_str().unwrap().to_owned()),
    };
    case["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| Message {
            role: m["role"].as_str().unwrap().to_owned(),
            content: m["content"].as_array().unwrap().iter().map(&mut part).collect(),
        })
        .collect()
}

#[test]
fn chats_are_those_of_the_transformers_processor() {
    let golden = golden();
    let t = tokenizer();
    let pad = t.token_id("<|image_pad|>").unwrap();
    let template = ChatTemplate::from_dir(folder().join("tokenizer")).unwrap();
    let ids_of = TokenIds { image: pad, ..TokenIds::default() };
    let encoder = ChatEncoder::new(t.clone(), template, &ids_of, "<|im_end|>").unwrap();
    let image = |&n: &usize| {
        let pad = "<|image_pad|>".to_string();
        VisualText { written: pad.clone(), text: pad, runs: vec![n] }
    };
    let cases = golden["chats"].as_array().unwrap();
    assert!(cases.len() >= 8);
    for case in cases {
        let generate = case["add_generation_prompt"].as_bool().unwrap();
        let tokens: Vec<usize> =
            ids(&case["image_tokens"]).into_iter().map(|n| n as usize).collect();
        let images: Vec<VisualText> = tokens.iter().map(image).collect();
        let p = encoder.encode(&messages(case), &images, generate).unwrap();
        assert_eq!(p.text, case["text"].as_str().unwrap());
        assert_eq!(p.ids, ids(&case["ids"]), "{}", p.text);
        assert_eq!(p.starts.len(), tokens.len());
        assert!(
            p.starts.iter().zip(&tokens).all(|(&s, &n)| p.ids[s..s + n].iter().all(|&i| i == pad))
        );
    }
}

#[test]
fn templates_render_as_jinja_does() {
    for case in golden()["templates"].as_array().unwrap() {
        let source = case["template"].as_str().unwrap();
        let template = ChatTemplate::from_source("golden", source).unwrap();
        let messages = case["messages"].as_array().unwrap();
        let extra: Map<String, Value> = case["extra"].as_object().unwrap().clone();
        let text = template.render(messages, true, &extra).unwrap();
        assert_eq!(text, case["text"].as_str().unwrap(), "{source}");
    }
}
