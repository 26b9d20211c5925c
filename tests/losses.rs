//! Runs of the real program with every loss and everything that follows a run: each trains, its memory is
//! what was planned, and what has a state goes on from a checkpoint to the same bits. Formulas are
//! `golden_losses`'.

mod program; // the program, as tests run it

use program::{program, run_in};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// A folder with `small/` (rows) and the model `warm`, which has seen some answers.
fn lab() -> &'static Path {
    static LAB: OnceLock<PathBuf> = OnceLock::new();
    LAB.get_or_init(|| {
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("losses");
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        for line in [
            "data make-shapes --output_dir small --num_rows 32 --seed 1 --quiet",
            "init --preset tiny --vocab_size 320 --dataset_name small/train.jsonl --seed 1 \
             --output_dir new --quiet",
            "sft --model new --dataset_name small/train.jsonl --max_steps 16 --batch_size 16 \
             --lr 2e-3 --tune_mm_vision --tune_mm_mlp --output_dir warm --quiet",
        ] {
            run_in(&dir, line);
        }
        dir
    })
}

const TRAIN: &str = "train --model warm --dataset_name small/train.jsonl --reward_funcs exact,length \
    --num_generations 4 --batch_size 8 --max_completion_length 5 --logging_steps 1 --quiet";
const ADAPTER: &str = "--use_peft --lora_r 4 --lr 1e-2";

type Row = BTreeMap<String, Value>;

/// Metrics of a run, without what depends on the time and on the process.
fn metrics(run: &str) -> Vec<Row> {
    let text = std::fs::read_to_string(lab().join(run).join("metrics.jsonl")).unwrap();
    let passing = |name: &str| {
        name == "step_time"
            || name.ends_with("/vision_images")
            || ["time/", "perf/"].iter().any(|p| name.starts_with(p))
    };
    let row = |l: &str| -> Row {
        let row: Row = serde_json::from_str(l).unwrap();
        row.into_iter().filter(|(name, _)| !passing(name)).collect()
    };
    text.lines().map(row).collect()
}

fn number(row: &Row, name: &str) -> f64 {
    row.get(name).and_then(Value::as_f64).unwrap_or_else(|| panic!("no `{name}` in {row:?}"))
}

#[test]
fn every_loss_trains_in_the_memory_that_was_planned() {
    let twice = "--num_iterations 2";
    for (name, change, metric) in [
        ("bnpo", "--loss_type bnpo --delta 2", "clip_ratio/low_mean"),
        (
            "dr",
            "--loss_type dr_grpo --scale_rewards none --dual_clip_ratio 3",
            "clip_ratio/high_max",
        ),
        ("cispo", "--loss_type cispo --beta 0.1", "cispo_clip_ratio"),
        ("sapo", "--loss_type sapo --advantage_estimator rloo", "entropy"),
        ("vespo", "--loss_type vespo --off_policy_mask_threshold 0.1", "vespo/phi_seq_mean"),
        ("luspo", "--loss_type luspo --beta 0.1 --kl_estimator k2", "kl"),
        ("gmpo", "--loss_type gmpo --top_entropy_quantile 0.4", "entropy_threshold"),
        ("plain", "--loss_type reward_weighted --beta 0.1 --kl_in reward", "kl_coef"),
        ("gspo", "--importance_sampling_level sequence_token --entropy_coef 0.01", "policy_loss"),
        (
            "corrected",
            "--lora_dropout 0.2 --vllm_importance_sampling_correction --num_iterations 1",
            "sampling/importance_sampling_ratio/mean",
        ),
        (
            "gdpo",
            "--multi_objective_aggregation normalize_then_sum --drop_dead_groups --dynamic_sampling",
            "dynamic_sampling/batches",
        ),
    ] {
        run_in(
            lab(),
            &format!("{TRAIN} {ADAPTER} {twice} {change} --max_steps 2 --output_dir {name}"),
        );
        let rows = metrics(name);
        assert_eq!(rows.len(), 2, "{name}");
        assert!(number(&rows[0], metric).is_finite(), "{name}");
        assert!(number(&rows[0], "grad_norm") > 0.0, "{name}: nothing was learned");
        for r in &rows {
            let (planned, actual) =
                (number(r, "memory/planned_peak"), number(r, "memory/actual_peak"));
            assert_eq!(planned, actual, "{name}");
        }
        if name != "corrected" {
            assert_eq!(number(&rows[0], "sampling/logp_diff_max"), 0.0, "{name}");
        }
    }
}

/// Copies a checkpoint into the folder of a new run.
fn take(from: &str, run: &str) {
    let (from, to) = (lab().join(from), lab().join(run));
    let to = to.join(from.file_name().unwrap());
    std::fs::create_dir_all(&to).unwrap();
    for entry in std::fs::read_dir(&from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

#[test]
fn what_follows_a_run_goes_on_from_a_checkpoint_to_the_same_bits() {
    let line = format!(
        "{TRAIN} --num_iterations 2 --beta 0.05 --kl_target 0.01 --kl_horizon 20 --sync_ref_model \
         --ref_model_sync_steps 2 --use_adaptive_entropy --entropy_coef 0.02 --entropy_target 9 \
         --top_entropy_quantile 0.6 --dynamic_sampling --loss_type cispo --save_steps 3 --max_steps 6"
    );
    let full =
        "--tune_mm_vision --tune_mm_mlp --lr 1e-3 --vision_learning_rate 1e-4 --mm_projector_lr 0";
    for (name, change, weights) in
        [("lora", ADAPTER, "adapter_model.safetensors"), ("full", full, "model.safetensors")]
    {
        let (straight, resumed) = (format!("straight_{name}"), format!("resumed_{name}"));
        let line = format!("{line} {change}");
        run_in(lab(), &format!("{line} --output_dir {straight}"));
        take(&format!("{straight}/checkpoint-3"), &resumed);
        run_in(lab(), &format!("{line} --resume_from_checkpoint true --output_dir {resumed}"));
        let state = ["grpo_rt_state.json", "grpo_rt_reference.safetensors"];
        for file in state.into_iter().chain(["grpo_rt_optimizer.safetensors", weights]) {
            let read = |run: &str| {
                let file = lab().join(run).join("checkpoint-6").join(file);
                std::fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
            };
            assert!(read(&straight) == read(&resumed), "{name}: {file}");
        }
        let without = |rows: Vec<Row>| -> Vec<Row> {
            let memory = |n: &str| n.starts_with("memory/");
            rows.into_iter().map(|r| r.into_iter().filter(|(n, _)| !memory(n)).collect()).collect()
        };
        let (a, b) = (without(metrics(&straight)), without(metrics(&resumed)));
        // The rows that led to the checkpoint came with it.
        assert_eq!(a, b, "{name}");
        // The coefficients moved, and a reference that has just been moved is nearer.
        assert!(number(&a[0], "kl_coef") != number(&a[5], "kl_coef"), "{name}");
        assert!(number(&a[0], "entropy_coef") < number(&a[5], "entropy_coef"), "{name}");
        assert_eq!(number(&a[0], "kl"), 0.0, "{name}: an untouched reference");
        assert!(number(&a[1], "kl") > 0.0, "{name}");
        if name == "full" {
            assert!(number(&a[0], "learning_rate/vision") < number(&a[0], "learning_rate"));
            assert_eq!(number(&a[0], "learning_rate/connector"), 0.0);
        }
    }
}

#[test]
fn a_rate_for_a_part_that_is_not_trained_is_refused() {
    let line = format!("{TRAIN} {ADAPTER} --vit_lr 1e-5 --max_steps 1 --output_dir refused");
    let done =
        program().args(line.split_whitespace()).current_dir(lab()).output().expect("it runs");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(!done.status.success() && said.contains("vision_learning_rate"), "{said}");
}
