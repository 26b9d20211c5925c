//! Every family does the whole job: a new tiny model of it learns the shapes task by GRPO, its
//! log-probabilities in rollout and training are equal to the bit, the plan is the arena's peak to the
//! byte, on the CPU and on an emulated GPU.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use grpo_rt::io::text::SpecialTokens;
use grpo_rt::model::families::FAMILIES;
use grpo_rt::options::FAMILY_NAMES;
use serde_json::{Value, json};

mod devices; // emulated and present devices

mod program; // the program, as tests run it

use program::run_in;

/// A folder with `shapes/` (pictures and questions) and `color.jsonl`, four of its rows.
fn lab() -> &'static Path {
    static LAB: OnceLock<PathBuf> = OnceLock::new();
    LAB.get_or_init(|| {
        devices::build_emulator();
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("families");
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        run_in(&dir, "data make-shapes --output_dir shapes --num_rows 48 --seed 1 --quiet");
        let text = std::fs::read_to_string(dir.join("shapes/train.jsonl")).unwrap();
        let color =
            |l: &&str| serde_json::from_str::<Value>(l).is_ok_and(|row| row["task"] == "color");
        let rows: Vec<&str> = text.lines().filter(color).take(4).collect();
        std::fs::write(dir.join("shapes/color.jsonl"), rows.join("\n")).unwrap();
        write_mixed(&dir.join("shapes"), &rows);
        dir
    })
}

/// `stills.jsonl`: a row with one picture, one with two, one with none; `mixed.jsonl`: one with a video,
/// a folder of eight pictures, besides.
fn write_mixed(dir: &Path, rows: &[&str]) {
    let image = |i: usize| {
        let row: Value = serde_json::from_str(rows[i]).unwrap();
        row["image"].as_str().unwrap().to_string()
    };
    std::fs::create_dir(dir.join("clip")).unwrap();
    // InternVL asks for eight frames and refuses a shorter video, as transformers does.
    for i in 0..8 {
        std::fs::copy(dir.join(image(i % 4)), dir.join(format!("clip/{i}.png"))).unwrap();
    }
    let question = "What colour is it?";
    let stills = [
        json!({"image": image(0), "question": question, "answer": "red"}),
        json!({"images": [image(1), image(2)], "question": question, "answer": "blue"}),
        json!({"question": question, "answer": "green"}),
    ];
    let video = json!({"video": "clip", "question": question, "answer": "red"});
    let lines = |rows: &[&Value]| rows.iter().map(|r| format!("{r}\n")).collect::<String>();
    let [one, two, none] = &stills;
    std::fs::write(dir.join("stills.jsonl"), lines(&[one, two, none])).unwrap();
    std::fs::write(dir.join("mixed.jsonl"), lines(&[one, &video, none, two])).unwrap();
}

fn column(run: &str, name: &str) -> Vec<f64> {
    let text = std::fs::read_to_string(lab().join(run).join("metrics.jsonl")).unwrap();
    let row = |l: &str| serde_json::from_str::<BTreeMap<String, Value>>(l).unwrap();
    text.lines().filter_map(|l| row(l).get(name).and_then(Value::as_f64)).collect()
}

/// What holds for every run of every family.
fn holds(run: &str, steps: usize) {
    assert_eq!(column(run, "sampling/logp_diff_max"), vec![0.0; steps], "{run}");
    let (planned, actual) = (column(run, "memory/planned_peak"), column(run, "memory/actual_peak"));
    assert!(planned.len() == steps && planned == actual, "{run}: {planned:?} {actual:?}");
    assert!(column(run, "grad_norm").iter().any(|g| *g > 0.0), "{run}: nothing was learned from");
}

const FULL: &str = "--tune_mm_vision --tune_mm_mlp";

/// Thirty steps of GRPO on a model that has seen a few answers, then three on an emulated GPU.
fn learns(family: &str) {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let go = |line: String| run_in(lab(), &format!("{line} --quiet"));
    go(format!(
        "init --family {family} --preset tiny --vocab_size 320 --dataset_name shapes/train.jsonl \
         --seed 1 --output_dir {family}/new"
    ));
    go(format!(
        "sft --model {family}/new --dataset_name shapes/color.jsonl --batch_size 16 --max_steps 4 \
         --lr 1e-3 --lr_scheduler_type constant {FULL} --output_dir {family}/guess"
    ));
    let train = format!(
        "train --model {family}/guess --dataset_name shapes/color.jsonl --reward_funcs exact \
         --num_generations 8 --max_completion_length 4 --scale_rewards none --save_steps 0 \
         --lr_scheduler_type constant {FULL} --lr 3e-4"
    );
    let learned = format!("{family}/learned");
    go(format!("{train} --batch_size 64 --max_steps 30 --output_dir {learned}"));
    holds(&learned, 30);
    let reward = column(&learned, "reward");
    let (before, after) = (mean(&reward[..4]), mean(&reward[26..]));
    println!("{family}: reward {before:.3} to {after:.3}");
    assert!(after > before + 0.15, "{family}: {before} {after} {reward:?}");

    let emulated = format!("{family}/emulated");
    go(format!(
        "{train} --batch_size 8 --max_steps 3 --memory_budget 128MiB --device emu-cuda \
         --output_dir {emulated}"
    ));
    holds(&emulated, 3);

    // Pictures, none, several and a video in one batch; glm-4v-9b takes no video.
    let (data, prompts) = if family == "glm4v_9b" { ("stills", 3) } else { ("mixed", 4) };
    let mixed = format!("{family}/mixed");
    go(format!(
        "train --model {family}/guess --dataset_name shapes/{data}.jsonl --strict_data \
         --reward_funcs exact,length --num_generations 4 --batch_size {} --max_steps 2 \
         --max_completion_length 4 --scale_rewards none --save_steps 0 {FULL} --lr 1e-4 \
         --beta 0.01 --output_dir {mixed}",
        4 * prompts
    ));
    holds(&mixed, 2);
    let seen = column(&mixed, "rollout/prompt_prefills");
    assert_eq!(seen, vec![prompts as f64; 2], "{family}: a row is missing");
}

#[test]
fn qwen2_vl_learns() {
    learns("qwen2_vl");
}

#[test]
fn qwen2_5_vl_learns() {
    learns("qwen2_5_vl");
}

#[test]
fn qwen3_vl_learns() {
    learns("qwen3_vl");
}

#[test]
fn qwen3_vl_moe_learns() {
    learns("qwen3_vl_moe");
}

#[test]
fn internvl_chat_learns() {
    learns("internvl_chat");
}

#[test]
fn internvl_learns() {
    learns("internvl");
}

#[test]
fn glm4v_9b_learns() {
    learns("glm4v_9b");
}

#[test]
fn glm4v_learns() {
    learns("glm4v");
}

#[test]
fn every_family_has_a_test_here() {
    let names: Vec<&str> = FAMILIES.iter().map(|f| f.name()).collect();
    assert_eq!(names, FAMILY_NAMES, "what `init --family` takes");
    let tests = include_str!("families.rs");
    for family in FAMILIES {
        assert!(SpecialTokens::of(family.name()).is_ok());
        assert!(tests.contains(&format!("learns(\"{}\")", family.name())), "{}", family.name());
    }
}
