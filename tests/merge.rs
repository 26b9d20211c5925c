//! `grpo-rt merge`: a merged model answers as the adapter on its base, under the names of the base, in its
//! types and shards; adapters of other models are refused by name. Loading it in Python is done by
//! `tools/golden/families/merged.py`.

use std::path::{Path, PathBuf};
use std::process::Output;

use grpo_rt::base::DType;
use grpo_rt::io::safetensors::Checkpoint;
use serde_json::{Value, json};

mod program; // the program, as tests run it

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data");

fn run(dir: &Path, line: &str) -> Output {
    let mut command = program::program();
    // Nothing of the machine's own cache is seen.
    command.env("HF_HUB_CACHE", dir.join("no-cache")).env("HF_HUB_OFFLINE", "1");
    command.args(line.split_whitespace()).current_dir(dir).output().unwrap()
}

fn works(dir: &Path, line: &str) -> String {
    let output = run(dir, line);
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn refused(dir: &Path, line: &str, code: i32, parts: &[&str]) {
    let output = run(dir, line);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{line}: {error}");
    for part in parts.iter().chain(&["hint"]) {
        assert!(error.contains(part), "{line}: `{part}` is not in\n{error}");
    }
}

/// A folder with an adapter `run` trained on a golden model; the factors are far from zero.
fn trained(model: &str, change: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let row = json!({"image": format!("{DATA}/{model}/images/a.png"), "question": "What?", "answer": "red"});
    std::fs::write(dir.path().join("rows.jsonl"), format!("{row}\n")).unwrap();
    let line = format!(
        "sft --model {DATA}/{model} --dataset_name rows.jsonl --max_steps 3 --batch_size 1 --lr 5e-2 \
         --use_peft --lora_r 3 --lora_alpha 7 --lora_dropout 0 --output_dir run --quiet {change}"
    );
    works(dir.path(), &line);
    dir
}

/// The logits of a chat with one picture.
fn logits(dir: &Path, model: &str, golden: &str, more: &str) -> Vec<f32> {
    let messages = format!("{DATA}/{golden}/messages_one.json");
    works(
        dir,
        &format!("trace --model {model} --messages {messages} --out t.safetensors --quiet {more}"),
    );
    Checkpoint::open(dir.join("t.safetensors")).unwrap().read_f32("logits").unwrap().1
}

/// Largest difference, relative to the largest value.
fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = a.iter().fold(0f32, |m, x| m.max(x.abs()));
    a.iter().zip(b).fold(0f32, |m, (x, y)| m.max((x - y).abs())) / largest
}

fn names(dir: impl AsRef<Path>) -> Vec<(String, Vec<usize>, DType)> {
    let file = Checkpoint::open(dir).unwrap();
    let one = |n: &str| (n.to_string(), file.shape(n).unwrap().to_vec(), file.dtype(n).unwrap());
    file.names().map(one).collect()
}

#[test]
fn a_merged_model_says_what_the_adapter_says() {
    for (golden, targets) in [
        ("qwen2_5_vl/tied", "language vision connector"),
        ("qwen2_5_vl/untied", "q_proj v_proj"),
        ("families/qwen3_vl/untied", "language"),
        ("families/internvl_chat/internlm2", "language vision"),
        ("families/glm4v_9b/published", "language"),
    ] {
        let folder = trained(golden, &format!("--lora_target_modules {targets}"));
        let (dir, base) = (folder.path(), format!("{DATA}/{golden}"));
        let said = works(dir, "merge --adapter run --output_dir merged");
        assert!(said.contains("wrote merged") && said.contains("changed"), "{said}");
        assert_eq!(names(dir.join("merged")), names(&base), "{golden}");
        let plain = logits(dir, &base, golden, "");
        let adapted = logits(dir, &base, golden, "--adapter run");
        let merged = logits(dir, "merged", golden, "");
        let (moved, off) = (difference(&adapted, &plain), difference(&adapted, &merged));
        assert!(moved > 1e-2, "{golden}: the adapter does something, {moved}");
        assert!(off < 2e-5, "{golden}: {off}");
        for name in ["config.json", "tokenizer_config.json", "README.md"] {
            assert!(dir.join("merged").join(name).is_file(), "{golden}: {name}");
        }
        assert!(!dir.join("merged/adapter_config.json").exists());
    }
}

#[test]
fn sums_are_rounded_once_to_the_type_of_the_files() {
    let base = "qwen2_5_vl/tied_bf16_sharded";
    let folder = trained(base, "--lora_target_modules q_proj up_proj");
    let dir = folder.path();
    works(dir, "merge --adapter run --output_dir merged --max_shard_size 40KB --quiet");
    assert!(dir.join("merged/model.safetensors.index.json").is_file());
    assert!(!dir.join("merged/model.safetensors").exists());
    let original = Checkpoint::open(format!("{DATA}/{base}")).unwrap();
    let merged = Checkpoint::open(dir.join("merged")).unwrap();
    let adapter = Checkpoint::open(dir.join("run/adapter_model.safetensors")).unwrap();
    let mut changed = 0;
    for (name, shape, dtype) in names(format!("{DATA}/{base}")) {
        assert_eq!(merged.dtype(&name).unwrap(), dtype, "{name}");
        let target = name.ends_with("q_proj.weight") || name.ends_with("up_proj.weight");
        if !target || name.contains("visual") {
            assert!(merged.bytes(&name).unwrap() == original.bytes(&name).unwrap(), "{name}");
            continue;
        }
        changed += 1;
        let module =
            name.strip_suffix(".weight").unwrap().replacen("model.", "model.language_model.", 1);
        let factor = |f: &str| {
            adapter.read_f32(&format!("base_model.model.{module}.lora_{f}.weight")).unwrap().1
        };
        let (a, b) = (factor("A"), factor("B"));
        let (old, new) = (original.read_f32(&name).unwrap().1, merged.read_f32(&name).unwrap().1);
        for (i, (w, found)) in old.iter().zip(&new).enumerate() {
            let (row, column) = (i / shape[1], i % shape[1]);
            let sum: f64 = (0..3)
                .map(|k| f64::from(b[row * 3 + k]) * f64::from(a[k * shape[1] + column]))
                .sum();
            let exact = f64::from(*w) + 7.0 / 3.0 * sum;
            // Half a unit in the last place of bf16, and what single precision adds.
            let limit = exact.abs() / 256.0 + 1e-6 * (w.abs() as f64 + (7.0 / 3.0 * sum).abs());
            assert!((f64::from(*found) - exact).abs() <= limit, "{name} {i}: {found} {exact}");
        }
    }
    assert_eq!(changed, 4);
    works(dir, "merge --adapter run --output_dir single --dtype float32 --quiet");
    let single = Checkpoint::open(dir.join("single")).unwrap();
    assert!(single.names().all(|n| single.dtype(n).unwrap() == DType::F32));
    let config: Value =
        serde_json::from_str(&std::fs::read_to_string(dir.join("single/config.json")).unwrap())
            .unwrap();
    assert!(config.to_string().contains("float32") && !config.to_string().contains("bfloat16"));
}

/// Copies a folder's files.
fn copy(from: PathBuf, to: PathBuf) {
    std::fs::create_dir(&to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten().filter(|e| e.path().is_file()) {
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn adapters_of_other_models_are_refused_by_name() {
    let golden = "qwen2_5_vl/tied";
    let folder = trained(golden, "--lora_target_modules q_proj v_proj");
    let dir = folder.path();
    let other = format!("{DATA}/families/qwen2_vl/tied");
    let line = format!("merge --adapter run --output_dir out --model {other}");
    refused(dir, &line, 3, &["trained on another model", "qwen2_5_vl", "qwen2_vl"]);
    // Without a folder of the recorded base, names and shapes decide.
    copy(dir.join("run"), dir.join("moved"));
    let config = dir.join("moved/adapter_config.json");
    let mut json: Value = serde_json::from_str(&std::fs::read_to_string(&config).unwrap()).unwrap();
    json["base_model_name_or_path"] = json!("nobody/nothing");
    std::fs::write(&config, json.to_string()).unwrap();
    let line = "merge --adapter moved --output_dir out";
    refused(
        dir,
        line,
        2,
        &["base model is not on this machine", "nobody/nothing", "--model_name_or_path"],
    );
    let internvl = format!("{DATA}/families/internvl_chat/internlm2");
    let line = format!("merge --adapter moved --output_dir out --model {internvl}");
    refused(dir, &line, 3, &["no place in the model", "lora_A"]);
    json["r"] = json!(4);
    std::fs::write(&config, json.to_string()).unwrap();
    let line = format!("merge --adapter moved --output_dir out --model {DATA}/{golden}");
    let output = run(dir, &line);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(3) && error.contains("rank 4"), "{error}");
    // A model is no adapter, and neither of the two may be written over.
    let line = format!("merge --adapter {DATA}/{golden} --output_dir out");
    refused(dir, &line, 4, &["adapter_config.json"]);
    let line = "merge --adapter run --output_dir run --overwrite_output_dir";
    refused(dir, line, 2, &["overwrite the adapter"]);
    refused(dir, "merge --adapter run --output_dir run", 2, &["not empty"]);
}

#[test]
fn runs_of_whole_models_have_nothing_to_merge() {
    let folder = trained("qwen2_5_vl/tied", "");
    let dir = folder.path();
    let line = format!(
        "sft --model {DATA}/qwen2_5_vl/tied --dataset_name rows.jsonl --max_steps 1 --batch_size 1 \
         --output_dir full --max_shard_size 40KB --quiet"
    );
    works(dir, &line);
    assert!(dir.join("full/model.safetensors.index.json").is_file(), "max_shard_size of a run");
    assert_eq!(names(dir.join("full")), names(format!("{DATA}/qwen2_5_vl/tied")));
    refused(dir, "merge --adapter full --output_dir out", 2, &["not an adapter"]);
}
