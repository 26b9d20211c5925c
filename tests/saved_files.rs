//! Folders that a run saves are those of PEFT and transformers: names and shapes of tensors, keys of
//! the configuration, companions. Loading them in Python is done by `tools/golden/peft_roundtrip.py`.

use std::path::{Path, PathBuf};
use std::process::Command;

use grpo_rt::io::safetensors::Checkpoint;
use serde_json::{Value, json};

const TIED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/qwen2_5_vl/tied");
const SHARDED: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/qwen2_5_vl/tied_bf16_sharded");

/// Runs the program in `dir` on words separated by spaces; it must work.
fn run(dir: &Path, line: &str) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_grpo-rt"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("GRPO_RT_")) {
        command.env_remove(name);
    }
    let output = command.args(line.split_whitespace()).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A folder with `rows.jsonl` over the golden's images, and two steps trained on it from `model`.
fn trained(model: &str, change: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let rows: String = ["a.png", "b.png"]
        .iter()
        .map(|n| json!({"image": format!("{TIED}/images/{n}"), "question": "What?", "answer": "red"}))
        .map(|row| format!("{row}\n"))
        .collect();
    std::fs::write(dir.path().join("rows.jsonl"), rows).unwrap();
    run(
        dir.path(),
        &format!(
            "sft --model {model} --dataset_name rows.jsonl --max_steps 2 --batch_size 2 --lr 1e-2 \
             --save_steps 1 --output_dir run --quiet {change}"
        ),
    );
    dir
}

fn object(file: PathBuf) -> Value {
    let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    serde_json::from_str(&text).unwrap()
}

/// Names with shapes, sorted.
fn layout(dir: impl AsRef<Path>) -> Vec<(String, Vec<usize>)> {
    let file = Checkpoint::open(dir).unwrap();
    let shape = |n: &str| file.read_f32(n).unwrap().0;
    let mut all: Vec<_> = file.names().map(|n| (n.to_string(), shape(n))).collect();
    all.sort();
    all
}

/// (inputs, outputs) of a linear layer of the golden's language model.
fn sizes(module: &str) -> (usize, usize) {
    match module {
        "self_attn.q_proj" | "self_attn.o_proj" => (64, 64),
        "self_attn.k_proj" | "self_attn.v_proj" => (64, 32),
        "mlp.gate_proj" | "mlp.up_proj" => (64, 32),
        "mlp.down_proj" => (32, 64),
        other => panic!("{other}"),
    }
}

#[test]
fn an_adapter_is_a_folder_of_peft() {
    let modules = ["self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj"];
    let dir = trained(
        TIED,
        "--use_peft --lora_r 3 --lora_alpha 5 --lora_dropout 0.1 \
         --lora_target_modules q_proj,v_proj,down_proj",
    );
    let mut want = Vec::new();
    for (layer, module) in (0..2).flat_map(|l| modules.map(|m| (l, m))) {
        let (inputs, outputs) = sizes(module);
        let name = format!("base_model.model.model.language_model.layers.{layer}.{module}");
        want.push((format!("{name}.lora_A.weight"), vec![3, inputs]));
        want.push((format!("{name}.lora_B.weight"), vec![outputs, 3]));
    }
    want.sort();
    let golden =
        layout(Path::new(TIED).with_file_name("tied_lora").join("adapter_model.safetensors"));
    assert_eq!(want, golden, "PEFT wrote the golden adapter for the same modules");
    for folder in ["run", "run/checkpoint-1", "run/checkpoint-2"] {
        let folder = dir.path().join(folder);
        assert_eq!(layout(folder.join("adapter_model.safetensors")), want);
        let config = object(folder.join("adapter_config.json"));
        for (key, value) in [
            ("peft_type", json!("LORA")),
            ("task_type", json!("CAUSAL_LM")),
            ("r", json!(3)),
            ("lora_alpha", json!(5.0)),
            ("lora_dropout", json!(0.1)),
            ("target_modules", json!(["q_proj", "v_proj", "down_proj"])),
            ("exclude_modules", json!(r".*(visual)\..*")),
            ("bias", json!("none")),
            ("inference_mode", json!(true)),
            ("use_rslora", json!(false)),
            ("use_dora", json!(false)),
        ] {
            assert_eq!(config[key], value, "{key}");
        }
        let base = config["base_model_name_or_path"].as_str().unwrap();
        assert!(Path::new(base).join("config.json").is_file(), "{base}");
        assert!(
            folder.join("tokenizer.json").is_file()
                && folder.join("preprocessor_config.json").is_file()
        );
        let weights = ["model.safetensors", "config.json", "generation_config.json"];
        assert!(weights.iter().all(|n| !folder.join(n).exists()), "an adapter folder is no model");
    }
    // Two steps have moved both factors.
    let read = |folder: &str, name: &str| {
        let file = dir.path().join(folder).join("adapter_model.safetensors");
        Checkpoint::open(file).unwrap().read_f32(name).unwrap().1
    };
    for (name, _) in &want {
        assert!(read("run/checkpoint-1", name) != read("run/checkpoint-2", name), "{name}");
        assert_eq!(read("run/checkpoint-2", name), read("run", name));
    }
    // And it is read back: training goes on from it, an evaluation takes it.
    run(
        dir.path(),
        &format!(
            "sft --model {TIED} --adapter run --dataset_name rows.jsonl --max_steps 1 --batch_size 2 \
             --output_dir next --quiet"
        ),
    );
    assert_eq!(layout(dir.path().join("next/adapter_model.safetensors")), want);
    run(
        dir.path(),
        &format!(
            "trace --model {TIED} --adapter next --messages {TIED}/messages.json --out t --quiet"
        ),
    );
}

#[test]
fn a_model_is_a_folder_of_transformers() {
    for (model, companions) in [
        (TIED, ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]),
        (SHARDED, ["tokenizer.json", "preprocessor_config.json", "generation_config.json"]),
    ] {
        let dir = trained(model, "--tune_mm_vision --tune_mm_mlp");
        for folder in ["run", "run/checkpoint-1", "run/checkpoint-2"] {
            let folder = dir.path().join(folder);
            assert_eq!(layout(&folder), layout(model), "{}", folder.display());
            for name in companions {
                let read = |dir: &Path| std::fs::read(dir.join(name)).unwrap();
                assert!(read(&folder) == read(Path::new(model)), "{name}");
            }
            let (config, mut original) =
                (object(folder.join("config.json")), object(Path::new(model).join("config.json")));
            for key in ["dtype", "torch_dtype"] {
                for part in ["", "/text_config", "/vision_config"] {
                    let place = original.pointer_mut(&format!("{part}/{key}"));
                    place.into_iter().for_each(|v| *v = json!("float32"));
                }
            }
            assert_eq!(config, original, "nothing but the type is another");
            let head = std::fs::read(folder.join("model.safetensors")).unwrap();
            let length = u64::from_le_bytes(head[..8].try_into().unwrap()) as usize;
            let header: Value = serde_json::from_slice(&head[8..8 + length]).unwrap();
            assert_eq!(header["__metadata__"]["format"], "pt", "transformers wants to know");
            let tensors = header.as_object().unwrap().iter().filter(|(n, _)| *n != "__metadata__");
            assert!(tensors.into_iter().all(|(_, t)| t["dtype"] == "F32"));
        }
        run(
            dir.path(),
            &format!("trace --model run --messages {TIED}/messages.json --out t --quiet"),
        );
    }
}
