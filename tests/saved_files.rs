//! Folders that a run saves are those of PEFT and transformers: names and shapes of tensors, keys of
//! the configuration, companions. Loading them in Python is done by `tools/golden/families/roundtrip.py`.

use std::path::{Path, PathBuf};

use grpo_rt::base::{DType, HostTensor};
use grpo_rt::io::safetensors::{Checkpoint, save};
use grpo_rt::mem::Arena;
use grpo_rt::model::config::VlmConfig;
use grpo_rt::model::lora::{LoraConfig, resolve_targets};
use grpo_rt::model::params::Training;
use grpo_rt::model::vlm::Vlm;
use serde_json::{Value, json};

mod program; // the program, as tests run it

const TIED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/qwen2_5_vl/tied");
const SHARDED: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/qwen2_5_vl/tied_bf16_sharded");

/// Runs the program in `dir` on words separated by spaces; it must work.
fn run(dir: &Path, line: &str) {
    let mut command = program::program();
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

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data");

/// A new adapter on a golden folder, for a preset word or a name of modules.
fn adapted(folder: &Path, word: &str) -> (Vlm, Arena) {
    let config = VlmConfig::from_dir(folder).unwrap();
    let (target_modules, exclude_modules) = resolve_targets(&[word.to_string()], &config).unwrap();
    let lora =
        LoraConfig { r: 2, lora_alpha: 4.0, lora_dropout: 0.0, target_modules, exclude_modules };
    let mut arena = Arena::reserve(16 << 20).unwrap();
    let model = Vlm::load(folder, &Training::Lora(lora), DType::F32, 1, &mut arena)
        .unwrap_or_else(|e| panic!("{} {word}: {e}", folder.display()));
    (model, arena)
}

/// The names that a line stands for: `{A,B}` is one of the words, `{0..3}` a number from 0 to 3.
fn expanded(line: &str) -> Vec<String> {
    let Some((head, rest)) = line.split_once('{') else { return vec![line.to_string()] };
    let (inside, tail) = rest.split_once('}').unwrap();
    let choices: Vec<String> = match inside.split_once("..") {
        Some((first, last)) => {
            let number = |n: &str| n.parse::<usize>().unwrap();
            (number(first)..=number(last)).map(|n| n.to_string()).collect()
        }
        None => inside.split(',').map(str::to_string).collect(),
    };
    choices.iter().flat_map(|c| expanded(&format!("{head}{c}{tail}"))).collect()
}

#[test]
fn adapters_have_the_names_of_every_family() {
    let golden = object(Path::new(DATA).join("peft_names.json"));
    for (name, presets) in golden.as_object().unwrap() {
        let places = [format!("{DATA}/families/{name}"), format!("{DATA}/{name}")];
        let folder = places.iter().map(Path::new).find(|f| f.is_dir()).unwrap();
        for (preset, lines) in presets.as_object().unwrap() {
            let lines = lines.as_array().unwrap().iter().map(|l| l.as_str().unwrap());
            let mut want: Vec<String> = lines.flat_map(expanded).collect();
            want.sort();
            assert!(!want.is_empty(), "{name} {preset}");
            let dir = tempfile::tempdir().unwrap();
            let (model, mut arena) = adapted(folder, preset);
            model.save_adapter(dir.path(), &arena).unwrap();
            let layout = layout(dir.path().join("adapter_model.safetensors"));
            let saved: Vec<String> = layout.into_iter().map(|(n, _)| n).collect();
            assert_eq!(saved, want, "{name} {preset}");
            // What the saved configuration names is the same.
            let lora = LoraConfig::from_dir(dir.path()).unwrap();
            assert_eq!(Some(&lora), model.params.lora(), "{name} {preset}");
            model.load_adapter(dir.path(), &mut arena).unwrap();
        }
    }
    let shapes = |d: &Path| std::fs::read_dir(d).unwrap().map(|e| e.unwrap().path());
    for shape in shapes(&Path::new(DATA).join("families")).flat_map(|family| {
        let all: Vec<PathBuf> = shapes(&family).collect();
        all
    }) {
        let name = shape.strip_prefix(Path::new(DATA).join("families")).unwrap();
        assert!(golden.get(name.to_str().unwrap()).is_some(), "{} is not there", name.display());
    }
}

#[test]
fn an_adapter_that_is_more_than_factors_of_linear_layers_is_refused() {
    let (model, mut arena) = adapted(Path::new(TIED), "q_proj");
    let dir = tempfile::tempdir().unwrap();
    model.save_adapter(dir.path(), &arena).unwrap();
    let file = dir.path().join("adapter_config.json");
    let plain = object(file.clone());
    for (key, value) in [
        ("modules_to_save", json!(["lm_head"])),
        ("layers_to_transform", json!([0])),
        ("layers_to_transform", json!(1)),
        ("target_parameters", json!(["mlp.experts.down_proj"])),
        ("trainable_token_indices", json!({"embed_tokens": [1]})),
        ("lora_bias", json!(true)),
        ("rank_pattern", json!({"q_proj": 8})),
        ("bias", json!("all")),
        ("init_lora_weights", json!("pissa_niter_16")),
    ] {
        let mut changed = plain.clone();
        changed[key] = value;
        std::fs::write(&file, changed.to_string()).unwrap();
        let error = LoraConfig::from_dir(dir.path()).unwrap_err().to_string();
        assert!(error.contains(key), "{error}");
    }
    // A pattern that looks ahead: the modules are those that the weights are of.
    let mut changed = plain.clone();
    changed["target_modules"] = json!(r"^(model\.language_model(?=\.).*\.(q_proj))$");
    std::fs::write(&file, changed.to_string()).unwrap();
    let read = Training::Lora(LoraConfig::from_dir(dir.path()).unwrap());
    let mut other = Arena::reserve(16 << 20).unwrap();
    let again = Vlm::load(Path::new(TIED), &read, DType::F32, 1, &mut other).unwrap();
    again.load_adapter(dir.path(), &mut other).unwrap();
    let names = |m: &Vlm| m.params.trained().map(|p| p.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&again), names(&model));
    // A tensor of anything else is not left out in silence.
    std::fs::write(&file, plain.to_string()).unwrap();
    let weights = dir.path().join("adapter_model.safetensors");
    let stored = Checkpoint::open(&weights).unwrap();
    let mut tensors: Vec<(String, HostTensor)> =
        stored.names().map(|n| (n.to_string(), stored.read(n).unwrap())).collect();
    let more = "base_model.model.model.visual.patch_embed.proj.lora_A.weight";
    tensors.push((more.to_string(), HostTensor::f32([2, 3], vec![0.0; 6])));
    save(&weights, &tensors, &Default::default()).unwrap();
    let error = model.load_adapter(dir.path(), &mut arena).unwrap_err().to_string();
    assert!(error.contains(more), "{error}");
}
