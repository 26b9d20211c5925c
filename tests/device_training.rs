//! The whole training job on devices: a tiny Qwen2.5-VL takes five GRPO steps on the emulated devices
//! and on those that `GRPO_RT_TEST_DEVICES` names. Its loss curve is the CPU's but for rounding,
//! rollout and training agree to the bit, and the plan is the arena's peak.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::Value;

mod devices; // emulated and present devices

mod program; // the program, as tests run it

use program::run_in;

/// A folder with a data set of 32 rows with pictures and the model `warm`, which has seen some
/// answers, so that not every token is a toss-up that a rounding decides. Made once.
fn lab() -> &'static Path {
    static LAB: OnceLock<PathBuf> = OnceLock::new();
    LAB.get_or_init(|| {
        devices::build_emulator();
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("device_training");
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        run_in(&dir, "data make-shapes --output_dir shapes --num_rows 32 --seed 1 --quiet");
        run_in(
            &dir,
            "init --preset tiny --vocab_size 320 --dataset_name shapes/train.jsonl --seed 1 \
             --output_dir new --quiet",
        );
        run_in(
            &dir,
            "sft --model new --dataset_name shapes/train.jsonl --max_steps 22 --batch_size 16 \
             --lr 2e-3 --tune_mm_vision --tune_mm_mlp --output_dir warm --quiet",
        );
        dir
    })
}

/// Five steps of GRPO; the metrics of each.
fn train(device: &str, change: &str, output: &str) -> Vec<BTreeMap<String, Value>> {
    let line = "train --model warm --dataset_name shapes/train.jsonl --reward_funcs exact,length \
        --num_generations 4 --per_device_train_batch_size 8 --max_completion_length 5 --max_steps 5 \
        --save_steps 0 --beta 0.02 --scale_rewards none --memory_budget 96MiB --quiet";
    run_in(lab(), &format!("{line} {change} --device {device} --output_dir {output}"));
    let text = std::fs::read_to_string(lab().join(output).join("metrics.jsonl")).unwrap();
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn column(rows: &[BTreeMap<String, Value>], name: &str) -> Vec<f64> {
    let value = |r: &BTreeMap<String, Value>| r.get(name).and_then(Value::as_f64);
    rows.iter().map(|r| value(r).unwrap_or_else(|| panic!("no `{name}` in {r:?}"))).collect()
}

/// Runs a job on the CPU and on `device`; `rounding` is how far apart two computations of the same
/// numbers may lie, relative to the largest of a curve of `curves`.
fn same_job(device: &str, name: &str, change: &str, curves: &[&str], rounding: f64) {
    let cpu = train("cpu", change, &format!("{name}_cpu_for_{device}"));
    let rows = train(device, change, &format!("{name}_{device}"));
    assert_eq!(rows.len(), 5);
    assert_eq!(column(&rows, "sampling/logp_diff_max"), [0.0; 5], "{device}: rollout and training");
    assert_eq!(column(&rows, "memory/planned_peak"), column(&rows, "memory/actual_peak"));
    assert_eq!(column(&rows, "reward"), column(&cpu, "reward"), "{device}: other tokens");
    for curve in curves {
        let (got, want) = (column(&rows, curve), column(&cpu, curve));
        let scale = want.iter().fold(0f64, |m, x| m.max(x.abs()));
        let apart = got.iter().zip(&want).fold(0f64, |m, (a, b)| m.max((a - b).abs()));
        println!("{device} {name} {curve}: {apart:.2e} of {scale:.2e}");
        assert!(apart <= rounding * scale, "{device} {name} {curve}: {got:?} for {want:?}");
    }
    assert!(column(&rows, "grad_norm").iter().any(|g| *g > 0.0), "nothing was learned from");
}

/// Full training in singles and an adapter in bf16.
fn both_jobs(device: &str) {
    let full = "--tune_mm_vision --tune_mm_mlp --lr 1e-4 --dtype float32";
    same_job(device, "full", full, &["loss", "kl", "grad_norm", "entropy"], 1e-5);
    // In bf16 a draw falls differently once in some hundred tokens, and the runs part there. With this
    // seed none does; of the seeds 1 to 10, seven were so on both emulated devices.
    let lora = "--use_peft --lora_r 4 --lora_dropout 0 --lr 3e-4 --dtype bfloat16 \
        --temperature 0.8 --seed 6";
    // Not the KL: of a model so near its reference it is the square of a few roundings.
    same_job(device, "lora", lora, &["loss", "grad_norm"], 2.0 / 128.0);
}

#[test]
fn five_steps_on_waves_of_32() {
    both_jobs("emu-cuda");
}

#[test]
fn five_steps_on_waves_of_64() {
    both_jobs("emu-hip");
}

#[test]
fn five_steps_on_the_devices_of_this_machine() {
    devices::present().iter().for_each(|d| both_jobs(&d.properties().spec));
}
