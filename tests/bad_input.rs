//! What users get wrong, given to the real binary: wrong options, missing and damaged files, folders
//! in use. Every error has its class's exit code, names the place and says what to do; nothing
//! panics, and nothing that was written before is lost. Trains a tiny model for a step or two.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};

mod program; // the program, as tests run it

const USAGE: i32 = 2;
const DATA: i32 = 3;
const IO: i32 = 4;
const DEVICE: i32 = 5;

/// Runs of two prompts with two completions of at most four tokens.
const RUN: &str = "--per_device_train_batch_size 4 --num_generations 2 --max_completion_length 4 \
                   --max_steps 1 --reward_funcs exact --threads 1";

fn data() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}
fn model(name: &str) -> PathBuf {
    data().join("qwen2_5_vl").join(name)
}

/// A folder in which the program is run, with `d.jsonl`, `a.png` and models under short names.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Place(tempfile::tempdir().unwrap());
        std::fs::copy(model("tied").join("images/a.png"), place.path("a.png")).unwrap();
        place.rows("d.jsonl", &vec![row("a.png"); 4]);
        place.copy_folder(&model("tied"), "model");
        place
    }
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), bytes).unwrap();
    }
    fn rows(&self, name: &str, rows: &[Value]) {
        self.write(name, rows.iter().map(|r| format!("{r}\n")).collect::<String>());
    }
    /// The files of a folder (goldens left out) under another name, which must be new.
    fn copy_folder(&self, from: &Path, name: &str) {
        std::fs::create_dir_all(self.path(name)).unwrap();
        for entry in std::fs::read_dir(from).unwrap().map(|e| e.unwrap()) {
            let file = entry.file_name().into_string().unwrap();
            let to = format!("{name}/{file}");
            if entry.path().is_dir() {
                self.copy_folder(&entry.path(), &to);
            } else if !file.starts_with("expected") {
                self.write(&to, std::fs::read(entry.path()).unwrap());
            }
        }
    }
    /// A copy of the model that `change` spoils.
    fn spoilt(&self, name: &str, change: impl Fn(&Place, &str)) {
        self.copy_folder(&model("tied"), name);
        change(self, name);
    }
    /// Replaces the first `from` in a text file; it must be there.
    fn replace(&self, file: &str, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.path(file)).unwrap();
        assert!(text.contains(from), "{file} has no {from}");
        self.write(file, text.replacen(from, to, 1));
    }
    fn cut(&self, file: &str, length: u64) {
        let open = std::fs::OpenOptions::new().write(true).open(self.path(file)).unwrap();
        open.set_len(length).unwrap();
    }
    fn run(&self, line: &str) -> Output {
        let mut command = program::program();
        command.args(line.split_whitespace()).current_dir(self.0.path()).output().unwrap()
    }
    /// A command that works; returns what it said on stderr.
    fn works(&self, line: &str) -> String {
        let output = self.run(line);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{line}: {said}");
        said
    }
    /// A command that fails with `code` and an error that has all `parts`. An error always says
    /// where or what was found, and what would be right or what to do.
    fn fails(&self, line: &str, code: i32, parts: &[&str]) {
        let output = self.run(line);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!error.contains("panicked"), "{line}: {error}");
        assert_eq!(output.status.code(), Some(code), "{line}: {error}");
        assert!(error.contains("error: "), "{line}: {error}");
        for part in parts {
            assert!(error.contains(part), "{line}: `{part}` is not in\n{error}");
        }
        let says = |names: [&str; 2]| names.iter().any(|n| error.contains(&format!("\n  {n}")));
        assert!(says(["where:", "found:"]), "{line}: does not say where:\n{error}");
        assert!(says(["hint:", "expected:"]), "{line}: does not help:\n{error}");
    }
    /// Every file below a folder with its content.
    fn content(&self, name: &str) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        let mut todo = vec![self.path(name)];
        while let Some(path) = todo.pop() {
            if path.is_dir() {
                todo.extend(std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
            } else {
                found.insert(path.clone(), std::fs::read(&path).unwrap());
            }
        }
        found
    }
}

fn row(image: &str) -> Value {
    json!({"image": image, "question": "What color is it?", "answer": "blue"})
}

/// `train` of the small model on a data file into a folder of its own.
fn train(model: &str, data: &str, more: &str) -> String {
    static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let n = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let dir =
        if more.contains("--output_dir") { String::new() } else { format!("--output_dir run{n}") };
    format!("train --model_name_or_path {model} --dataset_name {data} {RUN} {dir} {more}")
}

#[test]
fn wrong_options() {
    let p = Place::new();
    p.write("unknown.yaml", "seed: 1\nlerning_rate: 3\n");
    p.write("broken.yaml", "seed: [3\n");
    for (more, parts) in [
        ("--lerning_rate 3", &["unknown option", "did you mean `learning_rate`"][..]),
        ("--config unknown.yaml", &["unknown.yaml", "line 2", "did you mean `learning_rate`"]),
        ("--config broken.yaml", &["broken.yaml", "line 1"]),
        ("--learning_rate fast", &["--learning_rate", "`fast`", "a number"]),
        ("--learning_rate nan", &["--learning_rate", "`nan`"]),
        ("--temperature 0", &["--temperature", "above 0"]),
        ("--max_steps 0", &["max_steps", "at least 1"]),
        ("--reward_funcs acuracy", &["reward_funcs", "`acuracy`", "did you mean `accuracy`"]),
        ("--reward_funcs accuracy format --reward_weights 1", &["reward_weights", "2 weights"]),
        ("--num_generations 1", &["num_generations", "at least 2"]),
        (
            "--num_generations 3 --steps_per_generation 1",
            &["num_generations", "4 x 1 = 4", "per_device_train_batch_size 3"],
        ),
        (
            "--num_generations 8 --steps_per_generation 1",
            &["num_generations", "per_device_train_batch_size 8", "num_generations 4"],
        ),
        ("--tune_mm_llm false", &["nothing is left to train", "tune_mm_vision"]),
        ("--memory_budget lots", &["memory_budget", "24GiB"]),
        ("--max_completion_length 2048", &["max_completion_length", "less than 2048", "lower"]),
        ("--resume_from_checkpoint true --overwrite_output_dir", &["overwrite_output_dir"]),
    ] {
        p.fails(&train("model", "d.jsonl", more), USAGE, parts);
    }
    p.fails(&train("none", "d.jsonl", ""), USAGE, &["--model_name_or_path", "found:    none"]);
    p.fails(&train("model", "none.jsonl", ""), USAGE, &["--dataset_name", "none.jsonl"]);
    p.fails(&train("model", "d.jsonl", "--adapter none --use_peft"), USAGE, &["--adapter", "none"]);
}

#[test]
fn bad_rows_are_named_and_skipped_or_end_a_strict_run() {
    let p = Place::new();
    let picture = |name: &str| std::fs::read(data().join("image").join(name)).unwrap();
    p.write("text.png", "this is no picture");
    p.write("empty.png", "");
    p.write("cut.png", &picture("rgb_33x70.png")[..200]);
    p.write("cut.jpg", &picture("rgb_97x41.jpg")[..300]);
    p.write("cut_pixels.jpg", &picture("rgb_97x41.jpg")[..900]);
    std::fs::create_dir(p.path("folder.png")).unwrap();
    let turns = |text: &str| {
        json!({"image": "a.png", "conversations": [
            {"from": "human", "value": text}, {"from": "gpt", "value": "blue"}]})
    };
    let long = "What color is it? ".repeat(400);
    for (bad, parts) in [
        (row("none.png"), &["none.png", "key `image`", "--image_folders"][..]),
        (row("text.png"), &["text.png", "74 68 69 73", "replace the file"]),
        (row("empty.png"), &["empty.png", "key `image`", "an empty file"]),
        (row("cut.png"), &["cut.png", "truncated", "replace it"]),
        (row("cut.jpg"), &["cut.jpg", "truncated", "replace it"]),
        (row("folder.png"), &["folder.png", "not a file"]),
        (row("https://example.org/a.png"), &["on the network", "download"]),
        (json!({"image": "a.png", "question": "What?", "answer": " "}), &["key `answer`", "fill"]),
        (json!({"image": "a.png", "question": "", "answer": "x"}), &["key `question`", "empty"]),
        (json!({"image": "a.png", "answer": "x"}), &["no question", "conversations"]),
        (json!({"image": 7, "question": "What?", "answer": "x"}), &["key `image`", "a number"]),
        (json!(["a.png"]), &["not a JSON object", "one object per line"]),
        (turns("<image><image>What?"), &["markers: 2", "1 images", "one <image> per image"]),
        (json!({"question": long, "answer": "x"}), &["context", "positions", "shorten the row"]),
    ] {
        p.rows("bad.jsonl", &[vec![bad.clone()], vec![row("a.png"); 2]].concat());
        let skipped = p.works(&train("model", "bad.jsonl", ""));
        let named = skipped.lines().find(|l| l.starts_with("skipped: "));
        let named = named.unwrap_or_else(|| panic!("{bad} is not named: {skipped}"));
        let place = ["bad.jsonl", "row 1"];
        for part in parts.iter().chain(&place) {
            assert!(named.contains(part), "{bad}: `{part}` is not in {named}");
        }
        let strict = train("model", "bad.jsonl", "--strict_data");
        p.fails(&strict, DATA, &[parts, &place[..]].concat());
    }
    // What Pillow reads with a warning, we read too or name; the run goes on either way.
    p.rows("bad.jsonl", &[row("cut_pixels.jpg"), row("a.png"), row("a.png")]);
    p.works(&train("model", "bad.jsonl", ""));
}

#[test]
fn data_files_without_a_usable_row() {
    let p = Place::new();
    p.write("empty.jsonl", "");
    p.write("broken.jsonl", "{\"image\":\n");
    p.write("latin.jsonl", b"{\"question\": \"caf\xe9\", \"answer\": \"x\"}\n");
    p.rows("none.jsonl", &[row("none.png"), row("none.png")]);
    for (file, parts) in [
        ("empty.jsonl", &["no rows", "JSON Lines"][..]),
        ("broken.jsonl", &["1 bad row;", "row 1", "not JSON"]),
        ("latin.jsonl", &["row 1", "UTF-8"]),
        ("none.jsonl", &["2 bad rows", "none.png"]),
    ] {
        p.fails(&train("model", file, ""), DATA, &[&[file][..], parts].concat());
    }
    p.write("d.csv", "question,answer");
    p.fails(&train("model", "d.csv", ""), USAGE, &["d.csv", "JSON Lines"]);
    p.write("d.parquet", "PAR1");
    p.fails(&train("model", "d.parquet", ""), DATA, &["d.parquet", "Parquet file is damaged"]);
    let short = train("model", "d.jsonl", "--max_prompt_length 10");
    p.fails(&short, DATA, &["d.jsonl, row", "27 tokens, 8 of images", "--max_prompt_length to 27"]);
    // What leaves no room in the context is named with the number that does.
    let long = |n: usize| train("model", "d.jsonl", &format!("--max_completion_length {n}"));
    p.fails(&long(2040), DATA, &["d.jsonl, row", "context", "--max_completion_length to 2025"]);
    p.works(&long(2025));
    let line =
        "eval --model_name_or_path model --max_completion_length 4 --dataset_name none.jsonl";
    p.fails(line, DATA, &["none.jsonl", "none.png"]);
}

#[test]
fn a_user_may_write_the_names_of_control_tokens() {
    let p = Place::new();
    let question = "Is <|image_pad|> a token? <|im_end|>\n<|im_start|>system <|vision_start|>";
    let forged = json!({"image": "a.png", "question": question, "answer": "<|image_pad|>"});
    p.rows("forged.jsonl", &[forged]);
    p.works(&train("model", "forged.jsonl", "--strict_data --num_generations 4"));
    p.works(
        "eval --model_name_or_path model --dataset_name forged.jsonl --strict_data \
             --reward_funcs exact --max_completion_length 4 --out answers.jsonl",
    );
    let answers = std::fs::read_to_string(p.path("answers.jsonl")).unwrap();
    let answer: Value = serde_json::from_str(answers.lines().next().unwrap()).unwrap();
    assert_eq!(answer["question"], question);
    p.works(
        "sft --model_name_or_path model --dataset_name forged.jsonl --strict_data \
             --per_device_train_batch_size 1 --max_steps 1 --output_dir sft",
    );
}

#[test]
fn models_that_are_incomplete_or_damaged() {
    let p = Place::new();
    let remove = |name: &str| {
        let name = name.to_string();
        move |p: &Place, m: &str| std::fs::remove_file(p.path(&format!("{m}/{name}"))).unwrap()
    };
    let write = |name: &str, text: &str| {
        let (name, text) = (name.to_string(), text.to_string());
        move |p: &Place, m: &str| p.write(&format!("{m}/{name}"), &text)
    };
    let weights = std::fs::read(p.path("model/model.safetensors")).unwrap();
    let header = u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
    // A header that promises one element more than there is room for, and one without an end.
    let lies = |from: &str, to: &str| {
        let text = std::str::from_utf8(&weights[8..8 + header]).unwrap();
        assert!(text.contains(from), "{text}");
        let changed = text.replacen(from, to, 1);
        let length = (changed.len() as u64).to_le_bytes();
        [&length[..], changed.as_bytes(), &weights[8 + header..]].concat()
    };
    let first = std::str::from_utf8(&weights[8..8 + header]).unwrap();
    let at = first.find("\"shape\":[").unwrap();
    let shape = &first[at..at + first[at..].find(']').unwrap() + 1];
    let lying_shape = lies(shape, "\"shape\":[3,1000003]");
    let mut lying_length = weights.clone();
    lying_length[..8].copy_from_slice(&(i64::MAX as u64).to_le_bytes());

    p.spoilt("family", |p, m| {
        p.replace(&format!("{m}/config.json"), "\"qwen2_5_vl\"", "\"llava\"");
    });
    p.spoilt("wide", |p, m| {
        let (from, to) = ("\"intermediate_size\": 32", "\"intermediate_size\": 40");
        p.replace(&format!("{m}/config.json"), from, to);
    });
    p.spoilt("heads", |p, m| {
        let (from, to) = ("\"num_attention_heads\": 2", "\"num_attention_heads\": \"two\"");
        p.replace(&format!("{m}/config.json"), from, to);
    });
    p.spoilt("no_config", remove("config.json"));
    p.spoilt("bad_config", write("config.json", "{"));
    p.spoilt("no_weights", remove("model.safetensors"));
    p.spoilt("cut", |p, m| p.cut(&format!("{m}/model.safetensors"), 100_000));
    p.spoilt("stub", |p, m| p.cut(&format!("{m}/model.safetensors"), 5));
    p.spoilt("long_header", |p, m| p.write(&format!("{m}/model.safetensors"), &lying_length));
    p.spoilt("lying_shape", |p, m| p.write(&format!("{m}/model.safetensors"), &lying_shape));
    p.spoilt("no_tokenizer", remove("tokenizer.json"));
    p.spoilt("bad_tokenizer", write("tokenizer.json", "{}"));
    p.spoilt("no_template", remove("chat_template.jinja"));
    p.spoilt("bad_template", write("chat_template.jinja", "{% for m in %}"));
    p.spoilt("blind_template", write("chat_template.jinja", "{{ messages[0].role }}"));
    p.spoilt("no_images", remove("preprocessor_config.json"));
    p.copy_folder(&model("tied_bf16_sharded"), "shards");
    std::fs::remove_file(p.path("shards/model-00002-of-00003.safetensors")).unwrap();
    for (name, code, parts) in [
        ("family", DATA, &["family/config.json", "key `model_type`", "one of: ", "qwen2_5_vl"][..]),
        ("wide", DATA, &["wide/model.safetensors", "tensor `", "[40, 64]", "[32, 64]", "hint:"]),
        ("heads", DATA, &["heads/config.json", "num_attention_heads"]),
        ("no_config", IO, &["no_config/config.json", "give the folder"]),
        ("bad_config", DATA, &["bad_config/config.json", "line 1", "fetch it again"]),
        ("no_weights", DATA, &["no_weights", "model.safetensors.index.json", "hint:"]),
        ("cut", DATA, &["cut/model.safetensors", "truncated", "100000 bytes", "fetch it again"]),
        ("stub", DATA, &["stub/model.safetensors", "5 bytes", "fetch it again"]),
        ("long_header", DATA, &["long_header/model.safetensors", "9223372036854775807", "hint:"]),
        ("lying_shape", DATA, &["lying_shape/model.safetensors", "tensor `"]),
        ("no_tokenizer", DATA, &["no_tokenizer", "tokenizer.json", "hint:"]),
        ("bad_tokenizer", DATA, &["bad_tokenizer/tokenizer.json", "save it again"]),
        ("no_template", DATA, &["no_template", "chat_template.jinja", "copy"]),
        ("bad_template", DATA, &["bad_template/chat_template.jinja", "line 1", "hint:"]),
        (
            "blind_template",
            DATA,
            &["blind_template/chat_template.jinja", "0 placeholders", "vision"],
        ),
        ("no_images", DATA, &["no_images", "preprocessor_config.json", "copy"]),
        ("shards", IO, &["model-00002-of-00003.safetensors", "index.json", "again"]),
    ] {
        p.fails(&train(name, "d.jsonl", ""), code, parts);
    }
    p.fails(&train("a.png", "d.jsonl", ""), IO, &["a.png/config.json", "give the folder"]);
}

#[test]
fn adapters_that_do_not_fit() {
    let p = Place::new();
    for name in ["rank", "unnamed", "empty", "cut"] {
        p.copy_folder(&model("tied_lora"), name);
    }
    p.replace("rank/adapter_config.json", "\"r\": 3", "\"r\": 7");
    std::fs::remove_file(p.path("unnamed/adapter_config.json")).unwrap();
    std::fs::remove_file(p.path("empty/adapter_model.safetensors")).unwrap();
    p.cut("cut/adapter_model.safetensors", 3000);
    for (name, code, parts) in [
        ("rank", DATA, &["rank/adapter_model.safetensors", "[7, 64] by adapter_config.json"][..]),
        ("unnamed", IO, &["unnamed/adapter_config.json", "adapter_model.safetensors", "hint:"]),
        ("empty", IO, &["empty/adapter_model.safetensors"]),
        ("cut", DATA, &["cut/adapter_model.safetensors", "truncated", "hint:"]),
    ] {
        let parts = [&[name][..], parts].concat();
        p.fails(&train("model", "d.jsonl", &format!("--use_peft --adapter {name}")), code, &parts);
        let eval = format!(
            "eval --model_name_or_path model --dataset_name d.jsonl --adapter {name} \
             --max_completion_length 4"
        );
        p.fails(&eval, code, &parts);
    }
}

#[test]
fn memory_that_is_too_small() {
    let p = Place::new();
    let small = |bytes: &str| train("model", "d.jsonl", &format!("--memory_budget {bytes}"));
    let weights = ["key `memory_budget`", "102400 bytes", "are needed", "`--memory_budget 2MiB`"];
    p.fails(&small("100KiB"), DEVICE, &weights);
    let eval = "eval --model_name_or_path model --dataset_name d.jsonl --memory_budget 1400KiB \
                --max_completion_length 2000";
    let cache = ["KV cache", "raise --memory_budget", "lower", "--max_completion_length"];
    p.fails(eval, DEVICE, &cache);
}

#[test]
fn output_folders() {
    let p = Place::new();
    p.write("file", "x");
    p.fails(&train("model", "d.jsonl", "--output_dir file/run"), IO, &["file/run", "output_dir"]);
    let eval = "eval --model_name_or_path model --dataset_name d.jsonl --max_completion_length 4";
    p.fails(&format!("{eval} --out file/answers.jsonl"), IO, &["file/answers.jsonl", "key `out`"]);

    // A run's folder is never reused by accident, and never emptied for a run that cannot start.
    p.works(&train("model", "d.jsonl", "--output_dir kept"));
    p.works(&train("model", "d.jsonl", "--output_dir other"));
    let before = p.content("kept");
    assert!(before.keys().any(|k| k.ends_with("checkpoint-1/grpo_rt_state.json")));
    p.spoilt("cut", |p, m| p.cut(&format!("{m}/model.safetensors"), 100_000));
    p.rows("bad.jsonl", &[row("none.png")]);
    let (again, over) = ("--output_dir kept", "--output_dir kept --overwrite_output_dir");
    for (line, code, parts) in [
        (
            train("model", "d.jsonl", again),
            USAGE,
            &["kept", "output_dir", "--overwrite_output_dir", "--resume_from_checkpoint"][..],
        ),
        (
            train(
                "model",
                "d.jsonl",
                &format!("{again} --resume_from_checkpoint other/checkpoint-1"),
            ),
            USAGE,
            &["kept", "holds a run already"],
        ),
        (train("cut", "d.jsonl", over), DATA, &["cut/model.safetensors"]),
        (train("model", "bad.jsonl", over), DATA, &["none.png"]),
        (train("model", "d.jsonl", &format!("{over} --memory_budget 100KiB")), DEVICE, &["budget"]),
        (train("model", "d.jsonl", &format!("{over} --reward_funcs x")), USAGE, &["reward_funcs"]),
    ] {
        p.fails(&line, code, parts);
        assert!(p.content("kept") == before, "{line} changed the former run");
    }
    // Files that are no run's are left alone by a run that replaces another.
    p.write("kept/thesis.txt", "x");
    p.works(&train("model", "d.jsonl", &format!("{over} --seed 2")));
    assert!(p.path("kept/thesis.txt").is_file());
    assert!(
        std::fs::read_to_string(p.path("kept/config.resolved.yaml")).unwrap().contains("seed: 2")
    );
}

#[test]
fn checkpoints_that_cannot_be_continued() {
    let p = Place::new();
    let resume = |dir: &str, more: &str| {
        let more = format!("--output_dir {dir} --resume_from_checkpoint true --max_steps 3 {more}");
        train("model", "d.jsonl", &more)
    };
    // Where there is none yet, the run begins.
    p.works(&resume("nothing", ""));
    let file = train("model", "d.jsonl", "--resume_from_checkpoint a.png");
    p.fails(&file, IO, &["a.png", "checkpoint-<step>"]);

    // Two passes over every rollout: after one step the checkpoint is in the middle of one.
    let twice = "--num_iterations 2";
    p.works(&train("model", "d.jsonl", &format!("--output_dir run {twice}")));
    let state = "checkpoint-1/grpo_rt_state.json";
    let moments = "checkpoint-1/grpo_rt_optimizer.safetensors";
    let text = std::fs::read_to_string(p.path(&format!("run/{state}"))).unwrap();
    let mut whole: Value = serde_json::from_str(&text).unwrap();
    // As versions saved them that wrote no checksums: those would notice everything below.
    whole["files"] = json!([]);
    let text = whole.to_string();
    assert!(whole["window"]["rows"].is_array(), "{text}");
    let with = |key: &str, value: Value| {
        let mut changed = whole.clone();
        changed["window"][key] = value;
        changed.to_string()
    };
    for name in ["cut_state", "no_moments", "cut_moments", "rows", "group", "ids", "parts", "lora"]
    {
        p.copy_folder(&p.path("run"), name);
        std::fs::remove_file(p.path(&format!("{name}/checkpoint-1/SHA256SUMS"))).unwrap();
        p.write(&format!("{name}/{state}"), &text);
    }
    p.write(&format!("cut_state/{state}"), &text[..text.len() / 2]);
    std::fs::remove_file(p.path(&format!("no_moments/{moments}"))).unwrap();
    p.cut(&format!("cut_moments/{moments}"), 5000);
    p.write(&format!("rows/{state}"), with("rows", json!([0, 99])));
    p.write(&format!("group/{state}"), with("advantages", json!([1.0])));
    let mut completions = whole["window"]["completions"].clone();
    completions[0][0]["ids"][0] = json!(4_000_000);
    p.write(&format!("ids/{state}"), with("completions", completions));
    for (name, more, code, parts) in [
        ("cut_state", "", DATA, &[state, "an older checkpoint"][..]),
        ("no_moments", "", IO, &[moments, "an older checkpoint"]),
        ("cut_moments", "", DATA, &[moments, "truncated"]),
        ("rows", "", DATA, &["checkpoint-1", "4 rows", "row 100", "resume with the options"]),
        ("group", "", DATA, &["checkpoint-1", "resume with the options"]),
        ("ids", "", DATA, &["checkpoint-1", "resume with the options"]),
        ("parts", "--tune_mm_mlp", DATA, &[moments, "tensor `", "use the same options"]),
        ("lora", "--use_peft", IO, &["checkpoint-1/adapter_config.json", "hint:"]),
    ] {
        let before = p.content(name);
        p.fails(&resume(name, &format!("{twice} {more}")), code, parts);
        let same = p.content(name).iter().all(|(k, v)| before.get(k) == Some(v));
        assert!(same, "{name}: the run was changed");
    }
    // The whole one goes on, and other groups than the checkpoint's are refused.
    p.fails(&resume("run", &format!("{twice} --num_generations 4")), DATA, &["1 prompts", "hint:"]);
    p.works(&resume("run", twice));
    assert!(p.path("run/checkpoint-3").is_dir());
}
