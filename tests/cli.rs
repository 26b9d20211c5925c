//! The program as users meet it: the real binary, its output, its exit codes and the folders it
//! leaves. Trains nothing.

use std::path::Path;
use std::process::{Command, Output};

use grpo_rt::io::dataset::{DatasetOptions, load};
use grpo_rt::io::safetensors::Checkpoint;
use grpo_rt::io::text::{ChatTemplate, Tokenizer};
use grpo_rt::model::config::VlmConfig;
use grpo_rt::model::processor::VisualProcessor;
use grpo_rt::model::processor::chat::ChatEncoder;
use grpo_rt::model::processor::qwen_image::QwenImageProcessor;
use grpo_rt::options::{Command as Known, help, overview};

mod program; // the program, as tests run it

/// Runs the program in `dir` on words separated by spaces, without options in the environment.
fn run_in(dir: &Path, line: &str) -> Output {
    let mut command = program::program();
    command.args(line.split_whitespace()).current_dir(dir).output().unwrap()
}
fn run(line: &str) -> Output {
    run_in(&std::env::temp_dir(), line)
}
fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}
/// What a command that works prints.
fn said(dir: &Path, line: &str) -> String {
    let output = run_in(dir, line);
    assert!(output.status.success(), "{line}: {}", text(&output.stderr));
    text(&output.stdout)
}
/// A command that fails with `code`, nothing on stdout, and an error with all `parts`.
fn fails(dir: &Path, line: &str, code: i32, parts: &[&str]) {
    let output = run_in(dir, line);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{line}: {error}");
    assert!(error.starts_with("error: "), "{line}: {error}");
    assert!(output.stdout.is_empty(), "{line}: {}", text(&output.stdout));
    for part in parts {
        assert!(error.contains(part), "{line}: `{part}` is not in\n{error}");
    }
}

#[test]
fn help_and_version_are_on_stdout() {
    let here = std::env::temp_dir();
    assert_eq!(said(&here, "--version"), format!("grpo-rt {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(said(&here, "--help"), overview());
    for &command in Known::ALL {
        assert_eq!(said(&here, &format!("{} --help", command.name())), help(command, false));
        assert_eq!(said(&here, &format!("{} -h all", command.name())), help(command, true));
    }
    // Help wins over whatever else is wrong.
    assert!(said(&here, "train --wrong 3 --help").contains("--num_generations"));
}

#[test]
fn wrong_words_get_a_suggestion_and_exit_code_2() {
    let here = std::env::temp_dir();
    for (line, parts) in [
        ("", &["no command given", "demo, train"][..]),
        ("trian", &["unknown command `trian`", "hint:", "did you mean `train`?"]),
        ("data", &["needs an action", "data make-shapes"]),
        ("train --lerning_rate 1", &["unknown option", "did you mean `learning_rate`?"]),
        ("train --do_sample", &["`train` does not take `do_sample`"]),
        ("demo --num_rows 3", &["`demo` does not take `num_rows`"]),
        ("train --seed x", &["where:    command line, --seed", "found:    `x`"]),
        ("train --seed 1", &["`train` needs `model_name_or_path`", "--model_name_or_path PATH"]),
        ("eval --model m", &["`eval` needs `dataset_name`"]),
        ("init --output_dir o --family llava", &["one of: qwen2_vl, qwen2_5_vl", "`llava`"]),
        ("init --output_dir o", &["--dataset_name"]),
        ("init --output_dir o --vocab_size 10", &["at least 300"]),
        ("data make-shapes --output_dir o --num_rows 0", &["num_rows", "at least 1"]),
        ("doctor extra", &["unexpected argument `extra`"]),
    ] {
        fails(&here, line, 2, parts);
    }
}

#[test]
fn missing_files_are_named_before_any_work() {
    let dir = tempfile::tempdir().unwrap();
    for (line, code, parts) in [
        ("train --config no.yaml", 4, &["no.yaml"][..]),
        ("init --output_dir o --dataset_name no.jsonl", 2, &["no.jsonl", "--dataset_name"]),
        ("init --output_dir o --text_files no.txt", 2, &["no.txt", "--text_files"]),
        (
            "train --model_name_or_path Qwen/Qwen2.5-VL-3B-Instruct --dataset_name d --output_dir o",
            2,
            &["not on this machine", "hf download"],
        ),
        ("trace --model_name_or_path m --messages m.json --out t", 2, &["model_name_or_path"]),
    ] {
        fails(dir.path(), line, code, parts);
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was made");
}

#[test]
fn shapes_and_a_model_for_them_are_made() {
    let dir = tempfile::tempdir().unwrap();
    let shapes = "data make-shapes --output_dir shapes --num_rows 24 --seed 5";
    assert!(said(dir.path(), shapes).contains("24 rows"));
    let rows = |name: &str| {
        let file = dir.path().join("shapes").join(name).display().to_string();
        load(&file, &DatasetOptions { strict: true, ..Default::default() }).unwrap().rows
    };
    assert_eq!((rows("train.jsonl").len(), rows("test.jsonl").len()), (24, 200));
    fails(dir.path(), shapes, 2, &["not empty", "--overwrite_output_dir"]);
    assert!(said(dir.path(), &format!("{shapes} --overwrite_output_dir --quiet")).is_empty());

    let init = "init --dataset_name shapes/train.jsonl --vocab_size 300 --seed 5 --output_dir";
    fails(dir.path(), &format!("{init} m --preset huge"), 2, &["--preset", "one of: tiny, small"]);
    let out = said(dir.path(), &format!("{init} m"));
    assert!(out.contains("qwen2_5_vl tiny") && out.contains("300 tokens"), "{out}");
    let model = dir.path().join("m");
    let config = VlmConfig::from_dir(&model).unwrap();
    let tokenizer = Tokenizer::from_dir(&model).unwrap();
    assert_eq!((config.text.vocab_size, tokenizer.vocab_size()), (300, 300));
    assert!(Checkpoint::open(&model).unwrap().contains("model.embed_tokens.weight"));
    let images = QwenImageProcessor::from_dir(&model).unwrap();
    let template = ChatTemplate::from_dir(&model).unwrap();
    let chat = ChatEncoder::new(tokenizer, template, &config.tokens, "<|im_end|>").unwrap();
    let visual = images.image_shape(56, 56).unwrap();
    let row = &rows("test.jsonl")[0];
    let prompt = chat.encode_prompt(&row.messages, &[images.text(&visual)]).unwrap();
    assert_eq!((prompt.starts.len(), visual.rows()), (1, 4));
    assert!(prompt.ids.iter().all(|id| (*id as usize) < config.text.vocab_size));

    // The same seed gives the same model, whatever the number of threads.
    said(dir.path(), &format!("{init} again --threads 1"));
    for name in ["model.safetensors", "config.json", "tokenizer.json", "preprocessor_config.json"] {
        let read = |folder: &str| std::fs::read(dir.path().join(folder).join(name)).unwrap();
        assert!(read("m") == read("again"), "{name}");
    }
}

#[test]
fn a_tokenizer_is_trained_on_plain_text_too() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.txt"), "red blue red blue green\n".repeat(9)).unwrap();
    let output = run_in(dir.path(), "init --text_files a.txt --output_dir m --quiet");
    assert!(output.status.success() && output.stdout.is_empty());
    // The text has too few pairs for the 1024 tokens that are the default; that is said.
    assert!(text(&output.stderr).starts_with("warning: the texts gave"), "{output:?}");
    assert!(VlmConfig::from_dir(dir.path().join("m")).unwrap().text.vocab_size < 320);
    std::fs::write(dir.path().join("b.jsonl"), "{\"image\": \"x.png\"}\n").unwrap();
    let line = "init --dataset_name b.jsonl --output_dir n";
    let output = run_in(dir.path(), line);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(text(&output.stderr).contains("b.jsonl") && !dir.path().join("n").exists());
}

#[test]
fn the_demo_leaves_folders_with_content_alone() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("grpo-rt-demo")).unwrap();
    std::fs::write(dir.path().join("grpo-rt-demo/thesis.txt"), "x").unwrap();
    fails(dir.path(), "demo", 2, &["grpo-rt-demo", "not empty", "--overwrite_output_dir"]);
}

#[test]
fn doctor_measures_the_machine() {
    let out = said(&std::env::temp_dir(), "doctor");
    for part in ["processor", "GFLOP/s", "GB/s", "proven by emulation", "instructions"] {
        assert!(out.contains(part), "{part}: {out}");
    }
    let out = said(&std::env::temp_dir(), "doctor --json --threads 1");
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["threads_used"], 1);
    assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
    assert!(json["matmul_f32_flops_per_second"].as_f64().unwrap() > 1e6);
    assert!(json["memory_copy_bytes_per_second"].as_f64().unwrap() > 1e6);
}

#[cfg(unix)]
#[test]
fn an_argument_that_is_no_text_is_an_error() {
    use std::os::unix::ffi::OsStrExt;
    let argument = std::ffi::OsStr::from_bytes(&[0x66, 0xff]);
    let output = Command::new(env!("CARGO_BIN_EXE_grpo-rt")).arg(argument).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("not Unicode"));
    assert_eq!(run("--version").status.code(), Some(0));
}
