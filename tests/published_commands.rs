//! Command lines and configuration files of published projects, as they are printed there, with another
//! program's name: each starts, says what it has in place of other programs, and trains three steps on a
//! small model of its family, with data of its shape. Where a command leaves open which data it is for,
//! or how long it runs, the environment says so.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use serde_json::Value;

mod program; // the program, as tests run it

/// A published command and what is to be seen when it runs.
struct Published {
    /// Who published it.
    of: &'static str,
    /// The script, line by line; `grpo-rt train` stands where their program stood.
    script: &'static str,
    /// Variables that say what the command leaves open.
    environment: &'static [(&'static str, &'static str)],
    /// Folder of the run.
    run: &'static str,
    /// What is said of options of other programs.
    says: &'static [&'static str],
    /// A line of config.resolved.yaml for what the command asks for.
    resolved: &'static [&'static str],
}

const SHORT: &[(&str, &str)] = &[("GRPO_RT_MAX_COMPLETION_LENGTH", "12")];

const VLM_R1: Published = Published {
    of: "VLM-R1 with a Hugging Face data set: basic VQA training",
    script: r#"
grpo-rt train \
    --model_name_or_path "Qwen/Qwen2-VL-7B-Instruct" \
    --dataset_name "/path/to/your/huggingface/dataset" \
    --use_huggingface_dataset \
    --task_type "vqa" \
    --reward_funcs "format" "accuracy" \
    --output_dir "./output/qwen2vl-vqa-grpo" \
    --num_train_epochs 3 \
    --per_device_train_batch_size 4 \
    --gradient_accumulation_steps 4 \
    --learning_rate 1e-5 \
    --logging_steps 10 \
    --save_steps 500 \
    --max_pixels 12845056 \
    --min_pixels 3136
"#,
    environment: SHORT,
    run: "output/qwen2vl-vqa-grpo",
    says: &[],
    resolved: &[
        "task_type: \"vqa\"",
        "max_pixels: 12845056",
        "reward_funcs: [\"format\", \"accuracy\"]",
    ],
};

const VLM_R1_REASONING: Published = Published {
    of: "VLM-R1: reasoning reward, several devices, bf16",
    script: r#"
grpo-rt train \
    --model_name_or_path "Qwen/Qwen2-VL-7B-Instruct" \
    --dataset_name "/path/to/your/huggingface/dataset" \
    --use_huggingface_dataset \
    --task_type "vqa" \
    --reward_funcs "format" "accuracy" "reasoning" \
    --output_dir "./output/qwen2vl-vqa-grpo-reasoning" \
    --num_train_epochs 3 \
    --per_device_train_batch_size 2 \
    --gradient_accumulation_steps 8 \
    --learning_rate 1e-5 \
    --bf16 \
    --logging_steps 10 \
    --save_steps 500
"#,
    environment: SHORT,
    run: "output/qwen2vl-vqa-grpo-reasoning",
    says: &[],
    resolved: &["dtype: \"bfloat16\""],
};

const VLM_R1_ZERO3: Published = Published {
    of: "VLM-R1: DeepSpeed ZeRO-3",
    script: r#"
grpo-rt train \
    --model_name_or_path "Qwen/Qwen2-VL-7B-Instruct" \
    --dataset_name "/path/to/your/huggingface/dataset" \
    --use_huggingface_dataset \
    --task_type "vqa" \
    --reward_funcs "format" "accuracy" "reasoning" \
    --output_dir "./output/qwen2vl-zero3" \
    --deepspeed configs/deepspeed_zero3.json \
    --num_train_epochs 3 \
    --per_device_train_batch_size 1 \
    --gradient_accumulation_steps 16 \
    --learning_rate 1e-5 \
    --bf16 \
    --logging_steps 10 \
    --save_steps 500
"#,
    environment: SHORT,
    run: "output/qwen2vl-zero3",
    says: &["--deepspeed: in place of ZeRO stage 3", "grpo-rt plan"],
    resolved: &["dtype: \"bfloat16\"", "gradient_accumulation_steps: 16"],
};

const VLM_R1_LORA: Published = Published {
    of: "VLM-R1: LoRA",
    script: r#"
grpo-rt train \
    --model_name_or_path "Qwen/Qwen2-VL-7B-Instruct" \
    --dataset_name "/path/to/your/huggingface/dataset" \
    --use_huggingface_dataset \
    --task_type "vqa" \
    --reward_funcs "format" "accuracy" \
    --output_dir "./output/qwen2vl-vqa-lora" \
    --use_peft \
    --lora_r 16 \
    --lora_alpha 32 \
    --lora_dropout 0.05 \
    --target_modules "q_proj" "v_proj" "k_proj" "o_proj" \
    --num_train_epochs 3 \
    --per_device_train_batch_size 4 \
    --learning_rate 2e-4
"#,
    environment: SHORT,
    run: "output/qwen2vl-vqa-lora",
    // Four completions a batch, eight a group, no accumulation: whole groups are generated.
    says: &["8 completions are generated at a time, 1 prompts with 8 each, for 2 optimizer steps"],
    resolved: &["lora_target_modules: [\"q_proj\", \"v_proj\", \"k_proj\", \"o_proj\"]"],
};

const VLM_R1_SCRIPT: Published = Published {
    of: "VLM-R1: train_vqa.sh",
    script: r#"
#!/bin/bash

# Configuration
MODEL="Qwen/Qwen2-VL-7B-Instruct"
DATASET="/path/to/your/huggingface/dataset"
OUTPUT="./output/qwen2vl-vqa-20260101_000000"
NUM_GPUS=4

# Enable debug logging
export DEBUG_MODE=true
export LOG_PATH="$OUTPUT/training_debug.txt"

# Create output directory
mkdir -p $OUTPUT

grpo-rt train \
    --model_name_or_path $MODEL \
    --dataset_name $DATASET \
    --use_huggingface_dataset \
    --task_type "vqa" \
    --reward_funcs "format" "accuracy" "reasoning" \
    --output_dir $OUTPUT \
    --num_train_epochs 3 \
    --per_device_train_batch_size 2 \
    --gradient_accumulation_steps 8 \
    --learning_rate 1e-5 \
    --bf16 \
    --logging_steps 10 \
    --save_steps 500 \
    --save_total_limit 3 \
    --warmup_steps 100 \
    --max_grad_norm 1.0 \
    --logging_dir $OUTPUT/logs \
    --report_to "tensorboard" \
    2>&1 | tee $OUTPUT/training.log

echo "Training completed! Output saved to: $OUTPUT"
"#,
    environment: SHORT,
    run: "output/qwen2vl-vqa-20260101_000000",
    says: &["Training completed!", "warm-up"],
    resolved: &["save_total_limit: 3", "warmup_steps: 100", "report_to: [\"tensorboard\"]"],
};

const INTERNVL: Published = Published {
    of: "VLM-R1: run_grpo_rec_internvl.sh, changed for one device as the project on ViVQA-X did",
    script: r#"
grpo-rt train \
    --deepspeed local_scripts/zero2.json \
    --output_dir checkpoints/rl/internvl-rec \
    --resume_from_checkpoint True \
    --model_name_or_path OpenGVLab/InternVL2_5-1B \
    --data_file_paths data/refcoco_train.jsonl \
    --image_folders data/images \
    --is_reward_customized_from_vlm_module True \
    --task_type rec \
    --per_device_train_batch_size 1 \
    --gradient_accumulation_steps 2 \
    --gradient_checkpointing false \
    --logging_steps 1 \
    --num_train_epochs 2 \
    --bf16 \
    --attn_implementation flash_attention_2 \
    --run_name internvl-rec \
    --data_seed 42 \
    --save_steps 100 \
    --num_generations 8 \
    --max_completion_length 64 \
    --max_anyres_num 2 \
    --reward_funcs accuracy format \
    --beta 0.04 \
    --report_to tensorboard \
    --dataset-name this_is_not_used
"#,
    environment: &[],
    run: "checkpoints/rl/internvl-rec",
    says: &[
        "--deepspeed: in place of ZeRO stage 2 with optimizer on cpu",
        "--attn_implementation: attention is one op",
        "--is_reward_customized_from_vlm_module: with --task_type rec accuracy is iou",
    ],
    resolved: &["gradient_checkpointing: false", "max_anyres_num: 2", "data_seed: 42"],
};

const VIDEO: Published = Published {
    of: "GRPO for Qwen-VL on videos",
    script: r#"
grpo-rt train \
    --model_name_or_path "Qwen/Qwen2.5-VL-3B-Instruct" \
    --dataset_use "assy07_grpo" \
    --output_dir "./output/grpo_model" \
    --num_train_epochs 3 \
    --per_device_train_batch_size 1 \
    --grpo_alpha 0.5 \
    --grpo_beta 0.1 \
    --format_reward_weight 0.3 \
    --accuracy_reward_weight 0.7 \
    --grpo_sample_size 4 \
    --generation_temperature 0.7 \
    --generation_top_p 0.9 \
    --generation_max_length 24 \
    --tune_mm_llm True \
    --tune_mm_vision False \
    --tune_mm_mlp True
"#,
    environment: &[],
    run: "output/grpo_model",
    says: &["--dataset_use: prompts, rewards and loss of the video trainer"],
    resolved: &[
        "loss_type: \"reward_weighted\"",
        "num_generations: 4",
        "tune_mm_mlp: true",
        "format_reward_weight: 0.3",
    ],
};

const TRL: Published = Published {
    of: "TRL's grpo_vlm.py, as a training platform starts it",
    script: r#"
grpo-rt train \
    --model_name_or_path Qwen/Qwen2.5-VL-3B-Instruct \
    --output_dir output-checkpoint/grpo-Qwen2.5-VL-3B-Instruct \
    --learning_rate 1e-5 \
    --gradient_checkpointing \
    --dtype bfloat16 \
    --max_prompt_length 2048 \
    --max_completion_length 1024 \
    --use_vllm \
    --vllm_mode colocate \
    --use_peft \
    --lora_target_modules "q_proj" "v_proj" \
    --log_completions \
    --logging_steps 200
"#,
    // The script holds its data set; a command cannot.
    environment: &[("GRPO_RT_DATASET_NAME", "data/saved")],
    run: "output-checkpoint/grpo-Qwen2.5-VL-3B-Instruct",
    says: &["--use_vllm, --vllm_mode: completions are generated by this program's own engine"],
    resolved: &["gradient_checkpointing: true", "max_prompt_length: 2048", "logging_steps: 200"],
};

const YAML: Published = Published {
    of: "GRPO with Qwen-VL on MI300X: configs/qwen_grpo.yaml",
    script: "grpo-rt train --config configs/qwen_grpo.yaml\n",
    environment: &[],
    run: "outputs/qwen-vl-grpo/v1-baseline",
    says: &[
        "use_vllm: completions are generated",
        "vllm_gpu_memory_utilization, vllm_enable_sleep_mode: rollout and training use one planned block",
    ],
    resolved: &["run_id: \"v1-baseline\"", "learning_rate: 5.0e-6", "dataset_split: \"testmini\""],
};

/// The file of [`YAML`], as it is published.
const QWEN_GRPO_YAML: &str = r#"run_id: "v1-baseline"           # Unique ID for tracking
output_dir: "outputs/qwen-vl-grpo"
model_name: "Qwen/Qwen2.5-VL-7B-Instruct"

# Training
learning_rate: 5.0e-6
max_steps: 100
batch_size: 8
gradient_accumulation_steps: 2

# Generation
num_generations: 8
max_completion_length: 512

# Dataset
dataset_name: "AI4Math/MathVista"
dataset_split: "testmini"

# vLLM (Critical for Performance)
use_vllm: true
vllm_gpu_memory_utilization: 0.7
vllm_enable_sleep_mode: true    # Important for preventing OOM
"#;

/// VLM-R1's local_scripts/zero2.json with the optimizer on the host, as the InternVL project has it.
const ZERO2: &str = r#"{"fp16": {"enabled": "auto"}, "bf16": {"enabled": "auto"},
  "zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu", "pin_memory": true}},
  "gradient_accumulation_steps": "auto", "gradient_clipping": "auto",
  "train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto"}"#;
const ZERO3: &str = r#"{"bf16": {"enabled": "auto"}, "zero_optimization": {"stage": 3},
  "train_micro_batch_size_per_gpu": "auto"}"#;

/// A folder as the users of these projects have it: models and a data set in the cache of the hub, data
/// files, configurations.
fn lab() -> &'static Path {
    static LAB: OnceLock<PathBuf> = OnceLock::new();
    LAB.get_or_init(|| {
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("published");
        let _ = std::fs::remove_dir_all(&dir);
        let data = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data");
        for folder in ["bin", "configs", "local_scripts", "data"] {
            std::fs::create_dir_all(dir.join(folder)).unwrap();
        }
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_grpo-rt"), dir.join("bin/grpo-rt")).unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.join(name), text).unwrap();
        write("configs/qwen_grpo.yaml", QWEN_GRPO_YAML);
        write("configs/deepspeed_zero3.json", ZERO3);
        write("local_scripts/zero2.json", ZERO2);
        copy(&data.join("datasets/saved"), &dir.join("data/saved"));
        copy(&data.join("samples/refcoco"), &dir.join("data"));
        copy(&data.join("samples/video"), &dir.join("data/video"));
        write(
            "datasets.yaml",
            "assy07_grpo:\n  annotation_path: data/video/assembly.jsonl\n  data_path: data/video\n",
        );
        copy(&data.join("samples/mathvista"), &snapshot(&dir, "datasets--AI4Math--MathVista"));
        for (family, name) in [
            ("qwen2_vl", "Qwen--Qwen2-VL-7B-Instruct"),
            ("qwen2_5_vl", "Qwen--Qwen2.5-VL-3B-Instruct"),
            ("qwen2_5_vl", "Qwen--Qwen2.5-VL-7B-Instruct"),
            ("internvl_chat", "OpenGVLab--InternVL2_5-1B"),
        ] {
            let model = snapshot(&dir, &format!("models--{name}"));
            let line = format!(
                "init --family {family} --preset tiny --vocab_size 384 --seed 3 --quiet \
                 --dataset_name data/refcoco_train.jsonl data/video/assembly.jsonl \
                 --overwrite_output_dir --output_dir {}",
                model.display()
            );
            program::run_in(&dir, &line);
        }
        dir
    })
}

/// A new snapshot in the cache of the hub, as its client lays it out.
fn snapshot(dir: &Path, repository: &str) -> PathBuf {
    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
    let repository = dir.join("hf/hub").join(repository);
    std::fs::create_dir_all(repository.join("refs")).unwrap();
    std::fs::write(repository.join("refs/main"), COMMIT).unwrap();
    let snapshot = repository.join("snapshots").join(COMMIT);
    std::fs::create_dir_all(&snapshot).unwrap();
    snapshot
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(|e| e.unwrap().path()) {
        let target = to.join(entry.file_name().unwrap());
        if entry.is_dir() {
            copy(&entry, &target);
        } else {
            std::fs::copy(&entry, &target).unwrap();
        }
    }
}

/// Runs a script by bash where the user of the project would.
fn bash(script: &str, environment: &[(&str, &str)]) -> Output {
    let dir = lab();
    let script = script.replace("/path/to/your/huggingface/dataset", "data/saved");
    let path = format!("{}:{}", dir.join("bin").display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", &script]).current_dir(dir);
    for (name, _) in
        std::env::vars().filter(|(n, _)| n.starts_with("GRPO_RT_") || n.starts_with("HF_"))
    {
        command.env_remove(name);
    }
    command.env("PATH", path).env("HF_HOME", dir.join("hf")).env("HF_HUB_OFFLINE", "1");
    command.envs(environment.iter().copied()).output().unwrap()
}

/// Three steps of a published command.
fn runs(p: &Published) {
    let script = match p.script.contains("--config") {
        // The file's own max_steps is above the environment's place; a flag goes before it.
        true => p.script.replace('\n', " --max_steps 3 --max_completion_length 16\n"),
        false => p.script.to_string(),
    };
    let environment: Vec<(&str, &str)> =
        p.environment.iter().copied().chain([("GRPO_RT_MAX_STEPS", "3")]).collect();
    let output = bash(&script, &environment);
    let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}: {said}", p.of);
    for part in p.says {
        assert!(said.contains(part), "{}: `{part}` is not in\n{said}", p.of);
    }
    let run = lab().join(p.run);
    let resolved = std::fs::read_to_string(run.join("config.resolved.yaml")).unwrap();
    for line in p.resolved {
        assert!(resolved.lines().any(|l| l == *line), "{}: `{line}` is not in\n{resolved}", p.of);
    }
    let state = std::fs::read_to_string(run.join("checkpoint-3/trainer_state.json")).unwrap();
    let state: Value = serde_json::from_str(&state).unwrap();
    assert_eq!(state["global_step"], 3, "{}", p.of);
    for row in state["log_history"].as_array().unwrap() {
        // Only the first pass over completions has something to compare with.
        let difference = row.get("sampling/logp_diff_max").and_then(Value::as_f64);
        assert!(difference.is_none_or(|d| d == 0.0), "{}: {row}", p.of);
        assert!(row["loss"].is_number(), "{}: {row}", p.of);
    }
    let first = &state["log_history"][0];
    assert!(first["reward"].is_number(), "{}: {first}", p.of);
    assert_eq!(first["sampling/logp_diff_max"], 0.0, "{}: {first}", p.of);
    let adapter = resolved.contains("use_peft: true");
    let weights = if adapter { "adapter_model.safetensors" } else { "model.safetensors" };
    assert!(run.join(weights).is_file(), "{}: no {weights}", p.of);
}

#[test]
fn vlm_r1() {
    runs(&VLM_R1);
    runs(&VLM_R1_REASONING);
}

#[test]
fn vlm_r1_with_deepspeed_and_with_lora() {
    runs(&VLM_R1_ZERO3);
    runs(&VLM_R1_LORA);
}

#[test]
fn vlm_r1_by_its_script() {
    runs(&VLM_R1_SCRIPT);
    let run = lab().join(VLM_R1_SCRIPT.run);
    for log in ["training.log", "training_debug_format_vqa.txt", "training_debug_accuracy_vqa.txt"]
    {
        let text = std::fs::read_to_string(run.join(log)).unwrap();
        assert!(!text.is_empty(), "{log}");
    }
    let events = std::fs::read_dir(run.join("logs")).unwrap();
    assert!(events.count() > 0, "no TensorBoard events where --logging_dir says");
}

#[test]
fn internvl() {
    runs(&INTERNVL);
    // `accuracy` of this task is not about texts.
    let metrics = std::fs::read_to_string(lab().join(INTERNVL.run).join("metrics.jsonl")).unwrap();
    for name in ["rewards/iou/mean", "rewards/box_format/mean"] {
        assert!(metrics.contains(name), "{name} is not in\n{metrics}");
    }
}

#[test]
fn video_actions() {
    runs(&VIDEO);
}

#[test]
fn trl() {
    runs(&TRL);
}

#[test]
fn a_yaml_file_with_a_run_id() {
    runs(&YAML);
}
