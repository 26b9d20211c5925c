//! Whole runs of the real program on a tiny model: it learns, its log-probabilities are equal to
//! the bit, nothing depends on chance, a run goes on where it stopped, bad rows do not end it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, OnceLock};

use grpo_rt::grpo::optim::zero_gradients;
use grpo_rt::grpo::pack::{TrainCompletion, TrainGroup, pack};
use grpo_rt::grpo::update::{Reference, UpdateSettings, grpo_micro_batch};
use grpo_rt::io::safetensors::Checkpoint;
use grpo_rt::mem::Recompute;
use grpo_rt::model::params::Param;
use grpo_rt::ops::grpo_loss::GrpoLoss;
use grpo_rt::ops::linear_logprob::HeadSettings;
use grpo_rt::options::{Command as Known, Options};
use grpo_rt::settings::TrainSettings;
use grpo_rt::train::rows::load_rows;
use grpo_rt::train::workspace::Workspace;
use serde_json::{Value, json};

mod program; // the program, as tests run it

/// The program on words separated by spaces, in `dir`, without options from the environment.
fn command(dir: &Path, line: &str) -> Command {
    let mut command = program::program();
    command.args(line.split_whitespace()).current_dir(dir);
    command
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs a command that must work; returns what it said on stderr.
fn run(line: &str) -> String {
    let output = command(lab(), line).output().unwrap();
    assert!(output.status.success(), "{line}: {}", stderr(&output));
    stderr(&output)
}

/// A folder with `shapes/` (48 rows), `wide/` (the same in larger pictures), `mixed.jsonl` (rows of
/// both by turns), `color.jsonl` (four rows), the model `new` and the model `warm`, which has seen
/// some answers. Made once for all tests of this file.
fn lab() -> &'static Path {
    static LAB: OnceLock<PathBuf> = OnceLock::new();
    LAB.get_or_init(|| {
        let dir = program::empty_lab("training");
        let go = |line: &str| {
            let output = command(&dir, line).output().unwrap();
            assert!(output.status.success(), "{line}: {}", stderr(&output));
        };
        go("data make-shapes --output_dir shapes --num_rows 48 --seed 1 --quiet");
        go("data make-shapes --output_dir wide --num_rows 8 --seed 2 --image_size 112 --quiet");
        let rows = |name: &str| -> Vec<Value> {
            let text = std::fs::read_to_string(dir.join(name).join("train.jsonl")).unwrap();
            let line = |l: &str| {
                let mut row: Value = serde_json::from_str(l).unwrap();
                row["image"] = json!(format!("{name}/{}", row["image"].as_str().unwrap()));
                row
            };
            text.lines().map(line).collect()
        };
        let (small, wide) = (rows("shapes"), rows("wide"));
        let mixed = small.iter().zip(&wide).flat_map(|(a, b)| [a, b]);
        write_rows(&dir.join("mixed.jsonl"), mixed);
        let color = small.iter().filter(|r| r["task"] == "color").take(4);
        write_rows(&dir.join("color.jsonl"), color);
        go("init --preset tiny --vocab_size 320 --dataset_name shapes/train.jsonl --seed 1 \
            --output_dir new --quiet");
        go("sft --model new --dataset_name shapes/train.jsonl --max_rows 32 --max_steps 16 \
            --batch_size 16 --lr 2e-3 --tune_mm_vision --tune_mm_mlp --output_dir warm --quiet");
        dir
    })
}

fn write_rows<'a>(file: &Path, rows: impl Iterator<Item = &'a Value>) {
    std::fs::write(file, rows.map(|r| format!("{r}\n")).collect::<String>()).unwrap();
}

type Row = BTreeMap<String, Value>;

fn metrics(run: &str) -> Vec<Row> {
    let text = std::fs::read_to_string(lab().join(run).join("metrics.jsonl")).unwrap();
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn get(row: &Row, name: &str) -> f64 {
    row.get(name).and_then(Value::as_f64).unwrap_or_else(|| panic!("no `{name}` in {row:?}"))
}

fn column(rows: &[Row], name: &str) -> Vec<f64> {
    rows.iter().filter_map(|r| r.get(name)).map(|v| v.as_f64().unwrap()).collect()
}

/// What must not depend on chance: no times, no speeds; peaks of memory belong to a process.
fn lasting(rows: &[Row]) -> Vec<Row> {
    let passing = |name: &str| {
        // A session begins with an empty cache of image features.
        name == "step_time"
            || name.ends_with("/vision_images")
            || ["time/", "perf/", "memory/"].iter().any(|p| name.starts_with(p))
    };
    rows.iter()
        .map(|r| {
            r.iter().filter(|(n, _)| !passing(n)).map(|(n, v)| (n.clone(), v.clone())).collect()
        })
        .collect()
}

fn bytes(file: &str) -> Vec<u8> {
    let file = lab().join(file);
    std::fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Options of a short GRPO run on pictures of two sizes, where groups are of both kinds of fate.
const SHORT: &str = "train --model warm --dataset_name mixed.jsonl --reward_funcs exact,length \
    --num_generations 4 --batch_size 16 --max_completion_length 6 --scale_rewards none --quiet";
const LORA: &str = "--use_peft --lora_r 4 --lora_dropout 0 --lr 1e-2";
const FULL: &str = "--tune_mm_vision --tune_mm_mlp --lr 1e-3";

#[test]
fn supervised_training_learns_a_small_set() {
    run("sft --model new --dataset_name shapes/train.jsonl --max_rows 16 --batch_size 16 \
         --max_steps 20 --lr 2e-3 --tune_mm_vision --tune_mm_mlp --output_dir learn_sft --quiet");
    let loss = column(&metrics("learn_sft"), "loss");
    assert_eq!(loss.len(), 20);
    // A new model guesses among 300 tokens: its loss is about ln 300.
    assert!((4.0..9.0).contains(&loss[0]), "{loss:?}");
    assert!(loss[19] < 0.15 * loss[0], "{loss:?}");
}

#[test]
fn grpo_raises_the_reward() {
    run("sft --model new --dataset_name color.jsonl --batch_size 16 --max_steps 4 --lr 1e-3 \
         --lr_scheduler_type constant --tune_mm_vision --tune_mm_mlp --output_dir guess --quiet");
    run("train --model guess --dataset_name color.jsonl --reward_funcs exact --max_steps 32 \
         --num_generations 8 --batch_size 64 --max_completion_length 4 --scale_rewards none \
         --lr 3e-4 --lr_scheduler_type constant --tune_mm_vision --tune_mm_mlp \
         --output_dir learn_grpo --quiet");
    let reward = column(&metrics("learn_grpo"), "reward");
    let (before, after) = (mean(&reward[..4]), mean(&reward[28..]));
    assert!(after > before + 0.15, "{before} {after} {reward:?}");
}

#[test]
fn the_first_update_is_on_policy_to_the_bit() {
    for (name, change) in [
        ("full", format!("{FULL} --temperature 0.7 --top_p 0.9")),
        ("lora", format!("{LORA} --top_k 20 --min_p 0.01 --micro_batch_tokens 50")),
        ("slices", format!("{FULL} --steps_per_generation 2 --temperature 1.3 --loss_type grpo")),
        ("penalty", format!("{LORA} --repetition_penalty 1.2 --mask_truncated_completions")),
        ("packed", format!("{FULL} --micro_batch_tokens 100000")),
    ] {
        let dir = format!("policy_{name}");
        run(&format!("{SHORT} {change} --num_iterations 2 --max_steps 8 --output_dir {dir}"));
        let rows = metrics(&dir);
        let differences = column(&rows, "sampling/logp_diff_max");
        let updates = if name == "slices" { 4 } else { 2 };
        assert_eq!(differences.len(), 8 / updates, "{name}: once per rollout");
        assert!(differences.iter().all(|d| *d == 0.0), "{name}: {differences:?}");
        // The runs do train, or the differences would say nothing.
        assert!(column(&rows, "grad_norm").iter().filter(|g| **g > 0.0).count() >= 4, "{name}");
        for r in &rows {
            assert_eq!(get(r, "memory/planned_peak"), get(r, "memory/actual_peak"), "{name}");
        }
    }
}

#[test]
fn divergence_from_an_untouched_reference_is_exactly_zero() {
    for (name, change) in [("kl_lora", LORA), ("kl_full", FULL)] {
        run(&format!("{SHORT} {change} --beta 0.05 --max_steps 3 --output_dir {name}"));
        let kl = column(&metrics(name), "kl");
        assert_eq!(kl.len(), 3, "{name}");
        assert!(kl[0] == 0.0 && kl[1] > 0.0 && kl[2] > 0.0, "{name}: {kl:?}");
    }
    run(&format!("{SHORT} {FULL} --max_steps 1 --output_dir kl_none"));
    assert!(column(&metrics("kl_none"), "kl").is_empty());
}

#[test]
fn packing_changes_nothing_but_rounding() {
    let line = format!("{SHORT} {FULL} --lr 1e-5 --adam_epsilon 1e-2 --beta 0.05 --max_steps 3");
    run(&format!("{line} --micro_batch_tokens 100000 --output_dir pack_one"));
    run(&format!("{line} --micro_batch_tokens 1 --output_dir pack_many"));
    let (one, many) = (metrics("pack_one"), metrics("pack_many"));
    for (a, b) in one.iter().zip(&many) {
        for name in ["loss", "grad_norm", "kl", "entropy", "reward"] {
            let (a, b) = (get(a, name), get(b, name));
            assert!((a - b).abs() <= 1e-6 + 1e-5 * a.abs(), "{name}: {a} {b}");
        }
        assert!(get(a, "memory/actual_peak") > get(b, "memory/actual_peak"));
    }
    let open = |name: &str| Checkpoint::open(lab().join(name)).unwrap();
    let (before, one, many) = (open("warm"), open("pack_one"), open("pack_many"));
    let (mut moved, mut apart) = (0.0f32, 0.0f32);
    for name in one.names() {
        let read = |c: &Checkpoint| c.read_f32(name).unwrap().1;
        let (w, a, b) = (read(&before), read(&one), read(&many));
        for i in 0..w.len() {
            moved = moved.max((a[i] - w[i]).abs());
            apart = apart.max((a[i] - b[i]).abs());
        }
    }
    assert!(moved > 1e-7 && apart <= 1e-2 * moved, "moved {moved}, apart {apart}");
}

/// Three completions of one prompt: the log-probabilities, the loss and every gradient of them in
/// one group that shares the prompt, or each with a prompt of its own.
#[test]
fn a_shared_prompt_is_as_good_as_one_each() {
    let dir = lab().display();
    let line = format!(
        "--model {dir}/warm --dataset_name {dir}/mixed.jsonl --output_dir {dir}/none {FULL} \
         --memory_budget 1GiB"
    );
    let words: Vec<String> = line.split_whitespace().map(str::to_string).collect();
    let options = Options::resolve(Known::Train, &words, std::iter::empty()).unwrap();
    let s = TrainSettings::from_options(&options).unwrap();
    let w = Workspace::open(&s.model, &s.machine, 1).unwrap();
    let prompt = Arc::new(w.encoder.encode_row(&load_rows(&s.data).unwrap().rows[1]).unwrap());
    let completions: Vec<TrainCompletion> = [1, 4, 7]
        .iter()
        .enumerate()
        .map(|(i, &n)| TrainCompletion {
            ids: (0..n).map(|t| 70 + 13 * i as u32 + t).collect(),
            old_logps: vec![-6.0; n as usize],
            advantage: [1.5, -1.0, 0.5][i],
            weight: 1.0 / 12.0,
            sample: i as u32,
            ..TrainCompletion::default()
        })
        .collect();
    let group =
        |c: &[TrainCompletion]| TrainGroup { prompt: prompt.clone(), completions: c.to_vec() };
    let settings = UpdateSettings {
        loss: GrpoLoss::clipped(0.2, 0.2),
        head: Arc::new(HeadSettings { temperature: 0.8, forbidden: w.forbidden_tokens() }),
        reference: Reference::None,
        dropout: None,
        recompute: Recompute::Auto,
        // The ratio is 1: no token is clipped, every completion has a gradient.
        on_policy: true,
        known: false,
        bonus: false,
        measured: false,
    };
    let go = |groups: &[TrainGroup]| {
        zero_gradients(&w.model.params, &w.arena).unwrap();
        let params = &w.model.params;
        let r = grpo_micro_batch(&w.learner(0), &pack(groups), &settings).unwrap();
        let read = |p: &Param| p.place.grad.map(|g| w.arena.read::<f32>(g).unwrap()).unwrap();
        let grads: Vec<(String, Vec<f32>)> =
            params.trained().map(|p| (p.name.clone(), read(p))).collect();
        (r, grads)
    };
    let (one, shared) = go(&[group(&completions)]);
    let each: Vec<TrainGroup> = completions.chunks(1).map(group).collect();
    let (three, own) = go(&each);
    assert_eq!(one.logp.len(), 12);
    assert_eq!(one.logp, three.logp, "to the bit");
    assert_eq!(one.entropy, three.entropy, "to the bit");
    assert!((one.loss - three.loss).abs() < 1e-6, "{} {}", one.loss, three.loss);
    let whole = shared.iter().flat_map(|(_, g)| g).fold(0.0f32, |m, x| m.max(x.abs()));
    for ((name, a), (_, b)) in shared.iter().zip(&own) {
        let largest = a.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        let apart = a.iter().zip(b).fold(0.0f32, |m, (x, y)| m.max((x - y).abs()));
        // A bias of the keys has no gradient but rounding: hence the second term.
        let allowed = 1e-4 * largest + 1e-6 * whole;
        assert!(largest > 0.0 && apart <= allowed, "{name}: {largest} {apart}");
    }
}

#[test]
fn the_seed_decides_everything_and_threads_nothing() {
    let line = format!("{SHORT} --use_peft --lora_r 4 --lr 1e-2 --max_steps 3 --beta 0.02");
    for (name, change) in [
        ("same_a", "--threads 1"),
        ("same_b", "--threads 2"),
        ("same_c", "--threads 2"),
        ("other", "--threads 2 --seed 7"),
    ] {
        run(&format!("{line} {change} --output_dir {name}"));
    }
    let weights = |name: &str| bytes(&format!("{name}/adapter_model.safetensors"));
    for name in ["same_b", "same_c"] {
        assert!(weights("same_a") == weights(name), "{name}");
        assert_eq!(lasting(&metrics("same_a")), lasting(&metrics(name)), "{name}");
    }
    assert!(weights("same_a") != weights("other"));
    for name in ["full_a", "full_b"] {
        let threads = if name == "full_a" { 1 } else { 2 };
        run(&format!("{SHORT} {FULL} --max_steps 2 --threads {threads} --output_dir {name}"));
    }
    assert!(bytes("full_a/model.safetensors") == bytes("full_b/model.safetensors"));
    assert_eq!(lasting(&metrics("full_a")), lasting(&metrics("full_b")));
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
fn a_run_goes_on_from_a_checkpoint_to_the_same_bits() {
    // Four updates per rollout: step 3 lies in the middle of one, between and within its passes.
    let line = format!("{SHORT} --num_iterations 2 --steps_per_generation 2 --save_steps 3");
    let dropout = LORA.replace("--lora_dropout 0", "--lora_dropout 0.1");
    for (name, change, weights) in [
        ("lora", format!("{dropout} --beta 0.05"), "adapter_model.safetensors"),
        ("full", format!("{FULL} --beta 0.05"), "model.safetensors"),
    ] {
        let (straight, resumed) = (format!("straight_{name}"), format!("resumed_{name}"));
        let line = format!("{line} {change} --max_steps 6");
        run(&format!("{line} --output_dir {straight}"));
        take(&format!("{straight}/checkpoint-3"), &resumed);
        run(&format!("{line} --resume_from_checkpoint true --output_dir {resumed}"));
        for file in [weights.to_string(), format!("checkpoint-6/{weights}")] {
            let read = |run: &str| bytes(&format!("{run}/{file}"));
            assert!(read(&straight) == read(&resumed), "{name}: {file}");
        }
        for file in ["grpo_rt_optimizer.safetensors", "grpo_rt_state.json"] {
            let read = |run: &str| bytes(&format!("{run}/checkpoint-6/{file}"));
            assert!(read(&straight) == read(&resumed), "{name}: {file}");
        }
        let (a, b) = (lasting(&metrics(&straight)), lasting(&metrics(&resumed)));
        // The rows that led to the checkpoint came with it.
        assert_eq!(a.len(), 6, "{name}");
        assert_eq!(a, b, "{name}");
        // In its own folder: what was logged after the checkpoint is logged anew, not twice.
        run(&format!(
            "{line} --resume_from_checkpoint {straight}/checkpoint-3 --output_dir {straight}"
        ));
        assert_eq!(lasting(&metrics(&straight)), a, "{name}");
    }
    let line = "sft --model new --dataset_name mixed.jsonl --batch_size 3 --max_steps 6 --quiet \
        --save_steps 3 --lr 1e-3 --use_peft --lora_dropout 0.2";
    run(&format!("{line} --output_dir straight_sft"));
    take("straight_sft/checkpoint-3", "resumed_sft");
    run(&format!("{line} --resume_from_checkpoint true --output_dir resumed_sft"));
    let read = |run: &str| bytes(&format!("{run}/adapter_model.safetensors"));
    assert!(read("straight_sft") == read("resumed_sft"));
    assert_eq!(lasting(&metrics("straight_sft")), lasting(&metrics("resumed_sft")));
}

#[test]
fn a_run_leaves_the_documented_files() {
    let line = format!("{SHORT} {LORA} --max_steps 5 --save_steps 1 --save_total_limit 2");
    run(&format!("{line} --eval_dataset color.jsonl --output_dir files"));
    let names = |dir: &str| {
        let entries = std::fs::read_dir(lab().join(dir)).unwrap();
        let name = |e: std::fs::DirEntry| e.file_name().into_string().unwrap();
        let mut all: Vec<String> = entries.map(|e| name(e.unwrap())).collect();
        all.sort();
        all
    };
    let checkpoints: Vec<String> =
        names("files").into_iter().filter(|n| n.contains("checkpoint")).collect();
    assert_eq!(checkpoints, ["checkpoint-4", "checkpoint-5"]);
    let model = [
        "adapter_config.json",
        "adapter_model.safetensors",
        "preprocessor_config.json",
        "tokenizer.json",
    ];
    let own = ["grpo_rt_optimizer.safetensors", "grpo_rt_state.json", "trainer_state.json"];
    for file in model.iter().chain(&own) {
        assert!(names("files/checkpoint-4").iter().any(|n| n == file), "{file}");
    }
    let logs = ["metrics.jsonl", "samples.jsonl", "report.html", "config.resolved.yaml", "runs"];
    for file in model.iter().chain(&logs) {
        assert!(names("files").iter().any(|n| n == file), "{file}");
    }
    assert!(names("files").iter().all(|n| !n.ends_with(".part")));
    let state: Value =
        serde_json::from_slice(&bytes("files/checkpoint-5/trainer_state.json")).unwrap();
    assert_eq!((&state["global_step"], &state["max_steps"]), (&json!(5), &json!(5)));
    // Five steps, and the evaluation after the last.
    assert_eq!(state["log_history"].as_array().unwrap().len(), 6);
    let html = String::from_utf8(bytes("files/report.html")).unwrap();
    assert!(html.contains("reward") && html.contains("data:image/png;base64"));
    let last = metrics("files").pop().unwrap();
    assert!((0.0..=1.0).contains(&get(&last, "eval_rewards/exact/mean")));
    assert_eq!(names("files/completions").len(), 5);
    let file = std::fs::File::open(lab().join("files/completions/completions_00002.parquet"));
    let table =
        parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file.unwrap());
    let mut table = table.unwrap().build().unwrap();
    let batch = table.next().unwrap().unwrap();
    let schema = batch.schema();
    let columns: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
    assert_eq!(columns, ["step", "prompt", "completion", "exact", "length", "advantage"]);
    assert_eq!(batch.num_rows(), 16);
}

#[test]
fn bad_rows_are_counted_and_named() {
    let good = std::fs::read_to_string(lab().join("mixed.jsonl")).unwrap();
    let mut rows: Vec<Value> =
        good.lines().take(8).map(|l| serde_json::from_str(l).unwrap()).collect();
    std::fs::write(lab().join("broken.png"), b"\x89PNG\r\n\x1a\n and then nothing").unwrap();
    rows[1]["image"] = json!("broken.png");
    rows[3]["image"] = json!("gone.png");
    rows[5]["answer"] = json!("");
    write_rows(&lab().join("bad.jsonl"), rows.iter());
    let line = SHORT.replace("mixed.jsonl", "bad.jsonl");
    // Four prompts a step from five good rows: the second step begins a second pass.
    let said = run(&format!("{line} {LORA} --max_steps 2 --no_shuffle_dataset --output_dir bad"));
    for part in ["bad.jsonl, row 2", "broken.png", "row 4", "gone.png", "row 6", "no answer"] {
        assert!(said.contains(part), "`{part}` is not in\n{said}");
    }
    let skipped = column(&metrics("bad"), "data/skipped_rows");
    assert_eq!(skipped, [3.0, 4.0], "the broken image is met in every pass");
    let sft = "sft --model warm --dataset_name bad.jsonl --batch_size 5 --max_steps 1 --quiet";
    run(&format!("{sft} --no_shuffle_dataset --output_dir bad_sft"));
    assert_eq!(column(&metrics("bad_sft"), "data/skipped_rows"), [3.0]);
    // Strict: the first bad row ends it, wherever it is met.
    let eval = "eval --model warm --dataset_name bad.jsonl --reward_funcs exact --quiet";
    let again = "--no_shuffle_dataset --overwrite_output_dir --output_dir strict";
    let (train, sft) = (format!("{line} {LORA} {again}"), format!("{sft} {again}"));
    for line in [train.as_str(), &sft, eval] {
        for (most, row) in [(3, ["broken.png", "row 2"]), (8, ["gone.png", "row 4"])] {
            let line = format!("{line} --strict_data --max_rows {most}");
            let output = command(lab(), &line).output().unwrap();
            let error = stderr(&output);
            assert_eq!(output.status.code(), Some(3), "{line}: {error}");
            assert!(row.iter().all(|part| error.contains(part)), "{line}: {error}");
        }
    }
}

#[test]
fn evaluation_does_not_depend_on_its_batches() {
    let line = "eval --model warm --dataset_name mixed.jsonl --reward_funcs exact --do_sample \
        --num_samples 2 --max_completion_length 6 --quiet";
    for (name, change) in [("a", "--eval_batch_size 2"), ("b", "--eval_batch_size 13")] {
        run(&format!("{line} {change} --out answers_{name}.jsonl"));
    }
    assert!(!bytes("answers_a.jsonl").is_empty());
    assert!(bytes("answers_a.jsonl") == bytes("answers_b.jsonl"));
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_saves_and_goes_on() {
    let line = format!("{SHORT} {LORA} --save_steps 0 --max_steps 400 --output_dir stopped");
    let mut child = command(lab(), &line)
        .stderr(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let file = lab().join("stopped/metrics.jsonl");
    let started = std::time::Instant::now();
    while !std::fs::read_to_string(&file).is_ok_and(|t| t.lines().count() >= 2) {
        assert!(started.elapsed().as_secs() < 60, "the run does not come to its second step");
        assert!(child.try_wait().unwrap().is_none(), "the run ended by itself");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let output = child.wait_with_output().unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("--resume_from_checkpoint true"), "{said}");
    let done = metrics("stopped").len();
    assert!(lab().join(format!("stopped/checkpoint-{done}/grpo_rt_state.json")).is_file());
    assert!(!lab().join("stopped/adapter_model.safetensors").exists(), "the run is not complete");
    let steps = done + 2;
    let line = line.replace("--max_steps 400", &format!("--max_steps {steps}"));
    run(&format!("{line} --resume_from_checkpoint true"));
    let rows = metrics("stopped");
    let numbers: Vec<f64> = rows.iter().map(|r| get(r, "step")).collect();
    assert_eq!(numbers, (1..=steps).map(|s| s as f64).collect::<Vec<_>>());
    assert!(lab().join("stopped/adapter_model.safetensors").is_file());
}
