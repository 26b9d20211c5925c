//! Sentence encoders and Match-F1 against sentence-transformers: tiny random encoders that are committed,
//! and the published all-MiniLM-L6-v2, which is too large for the repository
//! (tools/golden/fetch_sentence_encoder.sh fetches it).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use grpo_rt::io::safetensors::Checkpoint;
use grpo_rt::model::encoder::SentenceEncoder;
use grpo_rt::reward::steps::{Matcher, Matching, Similarity};
use serde_json::Value;

/// The largest difference of an element of an embedding, and of a figure of Match-F1.
const TOLERANCE: f64 = 1e-5;

const TINY: [&str; 3] = ["tiny_bert", "tiny_roberta", "tiny_xlm_roberta"];
const PUBLISHED: &str = "all-MiniLM-L6-v2";

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/sentence_encoder").join(name)
}

fn read(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(data(name)).unwrap()).unwrap()
}

fn texts() -> Vec<String> {
    serde_json::from_value(read("texts.json")).unwrap()
}

/// Folder of the published encoder, or why there is none.
fn published() -> Result<PathBuf, String> {
    let variable = std::env::var_os("GRPO_RT_SENTENCE_ENCODER");
    let dir = variable.clone().map_or_else(
        || {
            let fetched = Path::new("target/sentence_encoder").join(PUBLISHED);
            Path::new(env!("CARGO_MANIFEST_DIR")).join(fetched)
        },
        PathBuf::from,
    );
    if dir.join("model.safetensors").is_file() {
        return Ok(dir);
    }
    let why = format!("{} has no model.safetensors", dir.display());
    assert!(variable.is_none(), "GRPO_RT_SENTENCE_ENCODER is set, but {why}");
    Err(format!("{why}: run tools/golden/fetch_sentence_encoder.sh"))
}

/// Every text's vector is that of sentence-transformers, all texts at once and each alone.
fn compare_embeddings(name: &str, dir: &Path) {
    let golden = Checkpoint::open(data(&format!("{name}.safetensors"))).unwrap();
    let (shape, want) = golden.read_f32("embeddings").unwrap();
    let texts = texts();
    assert_eq!(shape[0], texts.len());
    let encoder = SentenceEncoder::open(dir).unwrap();
    let got = encoder.embed(&texts).unwrap();
    let mut worst = 0.0f64;
    for ((text, got), want) in texts.iter().zip(&got).zip(want.chunks(shape[1])) {
        assert_eq!(got.len(), want.len());
        for (a, b) in got.iter().zip(want) {
            let difference = f64::from((a - b).abs());
            worst = worst.max(difference);
            assert!(difference <= TOLERANCE, "{name}: {a} instead of {b} for {text:?}");
        }
    }
    println!("{name}: largest difference {worst:e}");
}

/// Pairs and figures of fifty pairs of step lists.
fn compare_steps(name: &str, dir: &Path) {
    let golden = read(&format!("{name}_steps.json"));
    let encoder = SentenceEncoder::shared(dir).unwrap();
    let threshold = golden["threshold"].as_f64().unwrap();
    let rows = golden["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 50);
    let of = |similarity: &Similarity, threshold, order_weight, row: &Value| -> Matching {
        let list = |key: &str| -> Vec<String> { serde_json::from_value(row[key].clone()).unwrap() };
        let (predicted, reference) = (list("predicted"), list("reference"));
        let matcher =
            Matcher { similarity: similarity.clone(), threshold, order_weight, most_words: None };
        matcher.compare(&predicted, &reference).unwrap()
    };
    let near = |a: f64, b: &Value| (a - b.as_f64().unwrap()).abs() <= TOLERANCE;
    let by_meaning = Similarity::Encoder(encoder);
    for (i, row) in rows.iter().enumerate() {
        let pairs = |key: &str| -> Vec<(usize, usize)> {
            serde_json::from_value(row[key].clone()).unwrap()
        };
        let plain = of(&by_meaning, threshold, 0.0, row);
        assert_eq!(plain.pairs, pairs("pairs"), "{name} row {i}");
        assert!(near(plain.f1, &row["f1"]), "{name} row {i}: {} for {}", plain.f1, row["f1"]);
        let weight = golden["order_weight"].as_f64().unwrap();
        let ordered = of(&by_meaning, threshold, weight, row);
        assert!(near(ordered.score, &row["ordered"]), "{name} row {i}: {}", ordered.score);
        let words = of(&Similarity::PythonWords, 0.3, 0.0, row);
        assert_eq!(words.pairs, pairs("word_pairs"), "{name} row {i}");
        assert!(near(words.f1, &row["word_f1"]), "{name} row {i}: {}", words.f1);
    }
}

#[test]
fn tiny_encoders_give_the_embeddings_of_sentence_transformers() {
    for name in TINY {
        compare_embeddings(name, &data(name));
    }
}

#[test]
fn tiny_encoders_give_the_match_f1_of_sentence_transformers() {
    for name in TINY {
        compare_steps(name, &data(name));
    }
}

#[test]
fn the_published_encoder_gives_the_embeddings_of_sentence_transformers() {
    match published() {
        Ok(dir) => compare_embeddings(PUBLISHED, &dir),
        Err(why) => eprintln!("skipped: {why}"),
    }
}

#[test]
fn the_published_encoder_gives_the_match_f1_of_sentence_transformers() {
    match published() {
        Ok(dir) => compare_steps(PUBLISHED, &dir),
        Err(why) => eprintln!("skipped: {why}"),
    }
}

fn bits(vectors: &[Arc<[f32]>]) -> Vec<Vec<u32>> {
    vectors.iter().map(|v| v.iter().map(|x| x.to_bits()).collect()).collect()
}

#[test]
fn a_vector_depends_on_its_text_alone() {
    let texts = texts();
    for name in TINY {
        let all = bits(&SentenceEncoder::open(data(name)).unwrap().embed(&texts).unwrap());
        let alone = SentenceEncoder::open(data(name)).unwrap();
        for (text, want) in texts.iter().zip(&all) {
            assert_eq!(&bits(&alone.embed(&[text]).unwrap())[0], want, "{name} {text:?}");
        }
        let many: Vec<&String> = texts.iter().rev().cycle().take(700).collect();
        let few_threads = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let encoder = few_threads.install(|| SentenceEncoder::open(data(name)).unwrap());
        let backwards = bits(&encoder.embed(&many).unwrap());
        for (i, got) in backwards.iter().enumerate() {
            assert_eq!(got, &all[texts.len() - 1 - i % texts.len()], "{name} {:?}", many[i]);
        }
    }
}

/// Threads of the program's own pool may ask, all at a time: none waits for itself.
#[test]
fn many_threads_ask_at_a_time() {
    use rayon::prelude::*;
    let texts = texts();
    let encoder = SentenceEncoder::open(data("tiny_bert")).unwrap();
    let want = bits(&encoder.embed(&texts).unwrap());
    let fresh = SentenceEncoder::open(data("tiny_bert")).unwrap();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap();
    let got: Vec<Vec<Vec<u32>>> = pool.install(|| {
        (0..32).into_par_iter().map(|i| bits(&fresh.embed(&texts[i % 5..]).unwrap())).collect()
    });
    for (i, got) in got.iter().enumerate() {
        assert_eq!(got[..], want[i % 5..]);
    }
}

#[test]
fn a_folder_is_opened_once() {
    let one = SentenceEncoder::shared(data("tiny_bert")).unwrap();
    let two = SentenceEncoder::shared(data("tiny_roberta").join("../tiny_bert")).unwrap();
    assert!(Arc::ptr_eq(&one, &two));
    assert!(!Arc::ptr_eq(&one, &SentenceEncoder::shared(data("tiny_roberta")).unwrap()));
}

/// A copy of the tiny encoder in a folder of its own.
fn copied(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut rest = vec![(data(name), dir.path().to_owned())];
    while let Some((from, to)) = rest.pop() {
        std::fs::create_dir_all(&to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            let copy = to.join(path.file_name().unwrap());
            match path.is_dir() {
                true => rest.push((path, copy)),
                false => drop(std::fs::copy(path, copy).unwrap()),
            }
        }
    }
    dir
}

/// A copy with one file replaced by a text, and the error of opening it.
fn refused(file: &str, text: &str) -> String {
    let dir = copied("tiny_bert");
    std::fs::write(dir.path().join(file), text).unwrap();
    SentenceEncoder::open(dir.path()).unwrap_err().one_line()
}

/// Older layouts of the same encoder: `vocab.txt`, `max_seq_length` of sentence_bert_config.json, keys
/// of pooling one by one, tensors behind a prefix with the old names of norms.
#[test]
fn older_layouts_give_the_same_vectors() {
    let dir = copied("tiny_bert");
    let at = |name: &str| dir.path().join(name);
    let read = |name: &str| -> Value {
        serde_json::from_str(&std::fs::read_to_string(at(name)).unwrap()).unwrap()
    };
    let json = read("tokenizer.json");
    let mut pieces: Vec<(u64, String)> = json["model"]["vocab"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(piece, id)| (id.as_u64().unwrap(), piece.clone()))
        .collect();
    pieces.sort();
    let lines: String = pieces.iter().map(|(_, piece)| format!("{piece}\n")).collect();
    std::fs::write(at("vocab.txt"), lines).unwrap();
    std::fs::remove_file(at("tokenizer.json")).unwrap();
    let mut config = read("tokenizer_config.json");
    config["model_max_length"] = 512.into();
    std::fs::write(at("tokenizer_config.json"), config.to_string()).unwrap();
    let bert = r#"{"max_seq_length": 24, "do_lower_case": false}"#;
    std::fs::write(at("sentence_bert_config.json"), bert).unwrap();
    let pooling = r#"{"word_embedding_dimension": 32, "pooling_mode_mean_tokens": true, "pooling_mode_cls_token": false}"#;
    std::fs::write(at("1_Pooling/config.json"), pooling).unwrap();
    let file = Checkpoint::open(dir.path()).unwrap();
    let older = |name: &str| {
        let name = name.replace("LayerNorm.weight", "LayerNorm.gamma");
        format!("bert.{}", name.replace("LayerNorm.bias", "LayerNorm.beta"))
    };
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = file
        .names()
        .map(|n| (older(n), file.shape(n).unwrap().to_vec(), file.bytes(n).unwrap().to_vec()))
        .collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let dtype = safetensors::Dtype::F32;
        (name, safetensors::tensor::TensorView::new(dtype, shape.clone(), bytes).unwrap())
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    drop(file);
    std::fs::write(at("model.safetensors"), bytes).unwrap();
    compare_embeddings("tiny_bert", dir.path());
}

#[test]
fn wrong_folders_are_refused_with_the_way_out() {
    let e = SentenceEncoder::open(data("nothing")).unwrap_err();
    assert_eq!(e.exit_code(), 3);
    assert!(e.one_line().contains("SentenceTransformer"), "{}", e.one_line());
    let e = SentenceEncoder::open(data("texts.json")).unwrap_err().one_line();
    assert!(e.contains("found: a file"), "{e}");
    let e = refused("config.json", r#"{"model_type": "mpnet"}"#);
    assert!(e.contains("mpnet") && e.contains("all-MiniLM-L6-v2"), "{e}");
    let e = refused("sentence_bert_config.json", r#"{"max_seq_length": 41}"#);
    assert!(e.contains("max_seq_length") && e.contains("at most 40"), "{e}");
    let e = refused("sentence_bert_config.json", r#"{"max_seq_length": 1}"#);
    assert!(e.contains("more than 2"), "{e}");
    let config = std::fs::read_to_string(data("tiny_bert/config.json")).unwrap();
    let e = refused("config.json", &config.replace("_size\": 48", "_size\": 49"));
    assert!(e.contains("intermediate.dense.weight") && e.contains("[49, 32]"), "{e}");
    let e = refused("config.json", &config.replace("layers\": 2", "layers\": 3"));
    assert!(e.contains("encoder.layer.2"), "{e}");
    let e = refused("tokenizer.json", "{");
    assert!(e.contains("tokenizer.json"), "{e}");
    let dir = copied("tiny_bert");
    let weights = dir.path().join("model.safetensors");
    std::fs::rename(&weights, dir.path().join("pytorch_model.bin")).unwrap();
    let e = SentenceEncoder::open(dir.path()).unwrap_err().one_line();
    assert!(e.contains("pickled") && e.contains("python -c"), "{e}");
    std::fs::remove_file(dir.path().join("pytorch_model.bin")).unwrap();
    let e = SentenceEncoder::open(dir.path()).unwrap_err().one_line();
    assert!(e.contains("model.safetensors"), "{e}");
}

/// A token without a row is an error of the text, not a panic.
#[test]
fn a_foreign_tokenizer_is_noticed() {
    let dir = copied("tiny_bert");
    let file = dir.path().join("tokenizer.json");
    let text = std::fs::read_to_string(&file).unwrap();
    let mut json: Value = serde_json::from_str(&text).unwrap();
    json["model"]["vocab"]["zebra"] = 70000.into();
    std::fs::write(&file, json.to_string()).unwrap();
    let encoder = SentenceEncoder::open(dir.path()).unwrap();
    assert!(encoder.embed(&["a red ball"]).is_ok());
    let e = encoder.embed(&["a zebra"]).unwrap_err().one_line();
    assert!(e.contains("70000") && e.contains("another model"), "{e}");
}
