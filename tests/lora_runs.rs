//! LoRA runs of the real program in float32 and in bfloat16: rollout and training agree to the bit
//! for as long as a run lasts, a run goes on where it stopped, and a frozen vision tower sees an
//! image once.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::{Value, json};

mod program; // the program, as tests run it

use program::run_in;

/// A folder with `mixed.jsonl`, 16 rows with small and large pictures by turns, and the model `warm`,
/// which has seen some answers. Made once for all tests of this file.
fn lab() -> &'static Path {
    static LAB: OnceLock<PathBuf> = OnceLock::new();
    LAB.get_or_init(|| {
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("lora_runs");
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        run_in(&dir, "data make-shapes --output_dir small --num_rows 32 --seed 1 --quiet");
        run_in(
            &dir,
            "data make-shapes --output_dir large --num_rows 8 --seed 2 --image_size 112 --quiet",
        );
        let rows = |name: &str| -> Vec<String> {
            let text = std::fs::read_to_string(dir.join(name).join("train.jsonl")).unwrap();
            let line = |l: &str| {
                let mut row: Value = serde_json::from_str(l).unwrap();
                row["image"] = json!(format!("{name}/{}", row["image"].as_str().unwrap()));
                format!("{row}\n")
            };
            text.lines().map(line).collect()
        };
        let mixed = rows("small").into_iter().zip(rows("large")).flat_map(|(a, b)| [a, b]);
        std::fs::write(dir.join("mixed.jsonl"), mixed.collect::<String>()).unwrap();
        run_in(
            &dir,
            "init --preset tiny --vocab_size 320 --dataset_name small/train.jsonl --seed 1 \
             --output_dir new --quiet",
        );
        run_in(
            &dir,
            "sft --model new --dataset_name small/train.jsonl --max_steps 16 --batch_size 16 \
             --lr 2e-3 --tune_mm_vision --tune_mm_mlp --output_dir warm --quiet",
        );
        dir
    })
}

/// A GRPO run of few tokens on the model `warm`.
fn train(change: &str, output: &str) -> Vec<BTreeMap<String, Value>> {
    let line = "train --model warm --dataset_name mixed.jsonl --reward_funcs exact,length \
        --num_generations 4 --max_completion_length 5 --scale_rewards none --use_peft --lora_r 4 \
        --quiet";
    run_in(lab(), &format!("{line} {change} --output_dir {output}"));
    let text = std::fs::read_to_string(lab().join(output).join("metrics.jsonl")).unwrap();
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn column(rows: &[BTreeMap<String, Value>], name: &str) -> Vec<f64> {
    let value = |r: &BTreeMap<String, Value>| r.get(name).and_then(Value::as_f64);
    rows.iter().map(|r| value(r).unwrap_or_else(|| panic!("no `{name}` in {r:?}"))).collect()
}

fn bytes(file: &str) -> Vec<u8> {
    let file = lab().join(file);
    std::fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

fn fifty_steps(dtype: &str) {
    let line =
        "--batch_size 8 --lora_dropout 0 --lr 3e-3 --beta 0.02 --max_steps 50 --save_steps 0";
    let rows = train(&format!("{line} --dtype {dtype}"), &format!("fifty_{dtype}"));
    let apart = column(&rows, "sampling/logp_diff_max");
    assert_eq!(apart, [0.0; 50], "{dtype}");
    // The reference is the model without the adapter, which a new adapter does not change.
    let kl = column(&rows, "kl");
    assert!(kl[0] == 0.0 && kl[49] > 0.0, "{dtype}: {kl:?}");
    let moved = column(&rows, "grad_norm").iter().filter(|g| **g > 0.0).count();
    assert!(moved > 25, "{dtype}: {moved} steps with a gradient");
    assert_eq!(column(&rows, "memory/planned_peak"), column(&rows, "memory/actual_peak"));
}

#[test]
fn fifty_steps_are_on_policy_to_the_bit() {
    fifty_steps("float32");
}

#[test]
fn fifty_steps_are_on_policy_to_the_bit_in_bfloat16() {
    fifty_steps("bfloat16");
}

#[test]
fn a_bfloat16_run_goes_on_from_a_checkpoint_to_the_same_bits() {
    // Four updates per rollout: step 3 lies in the middle of one.
    let line = "--dtype bfloat16 --batch_size 16 --lora_dropout 0.1 --lr 1e-2 --beta 0.05 \
        --num_iterations 2 --steps_per_generation 2 --save_steps 3 --max_steps 6";
    train(line, "straight");
    let (from, to) = (lab().join("straight/checkpoint-3"), lab().join("resumed/checkpoint-3"));
    std::fs::create_dir_all(&to).unwrap();
    for entry in std::fs::read_dir(&from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
    let rows = train(&format!("{line} --resume_from_checkpoint true"), "resumed");
    assert_eq!(column(&rows, "step"), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    for file in [
        "adapter_model.safetensors",
        "checkpoint-6/grpo_rt_optimizer.safetensors",
        "checkpoint-6/grpo_rt_state.json",
    ] {
        let read = |run: &str| bytes(&format!("{run}/{file}"));
        assert!(read("straight") == read("resumed"), "{file}");
    }
    let start = bytes("straight/checkpoint-3/adapter_model.safetensors");
    assert!(start != bytes("straight/adapter_model.safetensors"), "the steps changed something");
}

#[test]
fn threads_change_no_bit_of_a_bfloat16_run() {
    let line = "--dtype bfloat16 --batch_size 16 --lr 1e-2 --beta 0.02 --max_steps 3";
    let one = train(&format!("{line} --threads 1"), "threads_1");
    let two = train(&format!("{line} --threads 2"), "threads_2");
    for name in ["loss", "grad_norm", "kl", "reward"] {
        assert_eq!(column(&one, name), column(&two, name), "{name}");
    }
    let read = |run: &str| bytes(&format!("{run}/adapter_model.safetensors"));
    assert!(read("threads_1") == read("threads_2"));
}

#[test]
fn a_frozen_tower_sees_an_image_once() {
    for dtype in ["float32", "bfloat16"] {
        let line = "--batch_size 16 --lr 1e-3 --num_train_epochs 2";
        let rows = train(&format!("{line} --dtype {dtype}"), &format!("frozen_{dtype}"));
        let seen = column(&rows, "rollout/vision_images");
        assert_eq!(seen.len(), 8, "{dtype}: four prompts a step, 16 rows");
        assert!(seen[..4].iter().all(|n| *n > 0.0), "{dtype}: {seen:?}");
        assert_eq!(seen[4..], [0.0; 4], "{dtype}");
        assert_eq!(column(&rows, "train/vision_images"), [0.0; 8], "{dtype}");
    }
}

#[test]
fn a_prompt_of_its_own_changes_nothing_but_rounding() {
    let line =
        "--batch_size 16 --lora_dropout 0 --lr 1e-4 --adam_epsilon 1e-2 --beta 0.05 --max_steps 3";
    let shared = train(line, "shared");
    let own = train(&format!("{line} --share_prompt false"), "own");
    assert_eq!(column(&shared, "train/prompt_forwards"), [4.0; 3]);
    assert_eq!(column(&own, "train/prompt_forwards"), [16.0; 3]);
    assert_eq!(column(&own, "sampling/logp_diff_max"), [0.0; 3]);
    for name in ["loss", "grad_norm", "kl", "entropy", "reward"] {
        for (a, b) in column(&shared, name).iter().zip(column(&own, name)) {
            assert!((a - b).abs() <= 1e-6 + 1e-5 * a.abs(), "{name}: {a} {b}");
        }
    }
    assert!(column(&shared, "grad_norm").iter().all(|g| *g > 0.0));
}
