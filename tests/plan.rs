//! `grpo-rt plan` against what happens: the plan of a tiny model is the arena's peak of a real run
//! with the same settings, to the byte; the published sizes are planned from config.json alone; what
//! cannot fit is refused with what would. docs/planning.md shows what the program prints.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::OnceLock;

use grpo_rt::device::known::{KNOWN_DEVICES, KnownDevice};
use grpo_rt::io::dataset::{DatasetOptions, load};
use grpo_rt::model::config::VlmConfig;
use grpo_rt::model::families::FAMILIES;
use grpo_rt::options::{Command as Known, Options};
use grpo_rt::settings::TrainSettings;
use grpo_rt::train::prompts::PromptEncoder;
use serde_json::{Value, json};

mod devices; // emulated devices

mod program; // the program, as tests run it

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Runs the program on words separated by spaces, without options from the environment.
fn run(dir: &Path, line: &str) -> Output {
    let mut command = program::program();
    command.args(line.split_whitespace()).current_dir(dir).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A plan as JSON, with the exit code.
fn plan(dir: &Path, line: &str) -> (Value, i32) {
    let output = run(dir, &format!("plan --json {line}"));
    let said = text(&output.stdout);
    let json = serde_json::from_str(&said);
    let json = json.unwrap_or_else(|e| panic!("{line}: {e}\n{said}{}", text(&output.stderr)));
    (json, output.status.code().unwrap())
}

fn count(json: &Value) -> usize {
    json.as_u64().unwrap_or_else(|| panic!("not a count: {json}")) as usize
}

/// A folder with a tiny model and eight rows whose prompts are equally long, with a picture each
/// (`data/train.jsonl`) or without (`data/text.jsonl`).
struct Lab {
    dir: PathBuf,
    /// Tokens of a prompt beside its picture.
    beside: usize,
    /// Tokens of a prompt without a picture.
    text: usize,
}

fn lab() -> &'static Lab {
    static LAB: OnceLock<Lab> = OnceLock::new();
    LAB.get_or_init(|| Lab::of("shared", "qwen2_5_vl"))
}

impl Lab {
    /// A folder of this name with a model of a family; made anew.
    fn of(folder: &str, family: &str) -> Lab {
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("plan").join(folder);
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        let init = format!(
            "init --family {family} --preset tiny --vocab_size 320 --dataset_name data/train.jsonl \
             --seed 1 --output_dir model --quiet"
        );
        for line in [
            "data make-shapes --output_dir data --num_rows 8 --seed 3 --image_size 112 --quiet",
            &init,
        ] {
            let output = run(&dir, line);
            assert!(output.status.success(), "{line}: {}", text(&output.stderr));
        }
        let file = dir.join("data/train.jsonl");
        let rows = std::fs::read_to_string(&file).unwrap();
        let question = "What colour is the shape in this picture?";
        let same = |pictures: bool| -> String {
            let row = |l: &str| {
                let mut row: Value = serde_json::from_str(l).unwrap();
                row = json!({"image": row["image"].take(), "question": question, "answer": "red"});
                if !pictures {
                    row.as_object_mut().unwrap().remove("image");
                }
                format!("{row}\n")
            };
            rows.lines().map(row).collect()
        };
        std::fs::write(dir.join("data/text.jsonl"), same(false)).unwrap();
        std::fs::write(&file, same(true)).unwrap();

        let model = dir.join("model");
        let words =
            ["--model", &model.display().to_string(), "--dataset_name", "d", "--output_dir", "o"];
        let words: Vec<String> = words.iter().map(|w| w.to_string()).collect();
        let options = Options::resolve(Known::Train, &words, std::iter::empty()).unwrap();
        let settings = TrainSettings::from_options(&options).unwrap();
        let config = VlmConfig::from_dir(&model).unwrap();
        let encoder = PromptEncoder::open(&settings.model, &config).unwrap();
        let prompts = |file: &str| -> Vec<_> {
            let file = dir.join(file).display().to_string();
            let rows = load(&file, &DatasetOptions::default()).unwrap().rows;
            rows.iter().map(|r| encoder.encode_row(r).unwrap()).collect()
        };
        let text = prompts("data/text.jsonl")[0].len();
        let prompts = prompts("data/train.jsonl");
        let images: std::collections::BTreeSet<u128> =
            prompts.iter().map(|p| p.visuals[0].content).collect();
        assert_eq!((prompts.len(), images.len()), (8, 8), "every row has a picture of its own");
        let beside = prompts[0].len() - prompts[0].visual_tokens();
        assert!(prompts.iter().all(|p| p.len() == beside + p.visual_tokens()));
        Lab { dir, beside, text }
    }
}

/// Plans settings and trains with them: all completions run to their full length and are in the loss,
/// as the plan assumes. Returns the plan.
fn planned_and_run(lab: &Lab, name: &str, settings: &str, steps: usize) -> Value {
    let Lab { dir, beside, text: without } = lab;
    let shared = format!("--model model --num_generations 4 {settings}");
    let pictures = format!("--prompt_tokens {beside} --prompt_image_size 112x112");
    let (data, assumed) = match name {
        "text" => ("data/text.jsonl", format!("--prompt_tokens {without} --prompt_images 0")),
        _ => ("data/train.jsonl", pictures),
    };
    let (plan, code) = plan(dir, &format!("{shared} {assumed}"));
    assert_eq!(code, 0, "{name}: {plan:#}");
    let line = format!(
        "train {shared} --dataset_name {data} --reward_funcs exact --ignore_eos \
         --max_steps {steps} --save_steps 0 --threads 1 --quiet --output_dir {name}"
    );
    let output = run(dir, &line);
    assert!(output.status.success(), "{line}: {}", text(&output.stderr));
    let metrics = std::fs::read_to_string(dir.join(name).join("metrics.jsonl")).unwrap();
    let last: Value = serde_json::from_str(metrics.lines().last().unwrap()).unwrap();
    let metric = |name: &str| last[name].as_f64().unwrap() as usize;
    let phase = &plan["peak_phase"];
    assert_eq!(
        (count(&plan["base_bytes"]), count(&plan["peak_bytes"])),
        (metric("memory/weights_and_optimizer"), metric("memory/planned_peak")),
        "{name}: highest in {phase}\n{plan:#}"
    );
    assert_eq!(metric("memory/planned_peak"), metric("memory/actual_peak"), "{name}");
    let again = metric("perf/recomputed_gflop") > 0;
    let planned = plan["micro_batch"]["recomputed_flops"].as_f64().unwrap() > 0.0;
    assert!(planned || !again, "{name}: recomputed without a plan");
    plan
}

#[test]
fn an_adapter_run_is_planned_to_the_byte() {
    let lora = "--use_peft --lora_r 4 --beta 0.05 --batch_size 8 --memory_budget 1GiB";
    for (name, more, highest) in [
        ("lora", "--lora_dropout 0 --max_completion_length 24", "backward"),
        ("dropout", "--dtype bfloat16 --max_completion_length 24", "backward"),
        // One group at a time: the rollout of all of them, with packed weights, is higher.
        (
            "rollout",
            "--micro_batch_tokens 1 --max_completion_length 2 --batch_size 32",
            "encode images",
        ),
        ("alone", "--share_prompt false --lora_dropout 0 --max_completion_length 9", "backward"),
        (
            "pieces",
            "--max_num_batched_tokens 40 --max_num_seqs 3 --max_completion_length 20",
            "backward",
        ),
    ] {
        let plan = planned_and_run(lab(), name, &format!("{lora} {more}"), 1);
        let found = plan["peak_phase"].as_str().unwrap();
        // Forward and backward share their highest byte where the last kept tensor lies on top.
        let shared = highest == "backward" && found == "forward";
        assert!(found == highest || shared, "{name}: {found}");
    }
}

#[test]
fn a_run_of_every_family_is_planned_to_the_byte() {
    for family in FAMILIES {
        let lab = Lab::of(family.name(), family.name());
        let shared = "--beta 0.05 --batch_size 8 --max_completion_length 12 --memory_budget 1GiB";
        planned_and_run(&lab, "lora", &format!("{shared} --use_peft --lora_r 4"), 1);
        let full = format!("{shared} --tune_mm_vision --tune_mm_mlp --dtype bfloat16");
        planned_and_run(&lab, "full", &full, 1);
    }
}

#[test]
fn a_run_of_all_weights_is_planned_to_the_byte() {
    let full = "--beta 0.05 --batch_size 8 --max_completion_length 12 --memory_budget 1GiB";
    planned_and_run(lab(), "language", full, 1);
    let line = format!("{full} --tune_mm_vision --tune_mm_mlp --dtype bfloat16");
    let plan = planned_and_run(lab(), "vision", &line, 1);
    let names: Vec<&str> =
        plan["phases"].as_array().unwrap().iter().filter_map(|p| p["name"].as_str()).collect();
    // The reference's tower is not the one that is trained.
    assert!(names.contains(&"encode again") && names.contains(&"reference"), "{names:?}");
    let line = format!("{full} --num_iterations 2 --steps_per_generation 2");
    planned_and_run(lab(), "iterations", &line, 4);
}

#[test]
fn a_run_in_little_memory_is_planned_to_the_byte() {
    let line = "--use_peft --lora_r 4 --beta 0.05 --batch_size 8 --max_completion_length 40 \
        --vision_cache_size 1MiB";
    let Lab { dir, beside, .. } = lab();
    let assumed = format!("--prompt_tokens {beside} --prompt_image_size 112x112");
    let of = |more: &str| {
        plan(dir, &format!("--model model --num_generations 4 {line} {assumed} {more}")).0
    };
    let plenty = of("--memory_budget 1GiB");
    let (base, peak) = (count(&plenty["base_bytes"]), count(&plenty["peak_bytes"]));
    assert_eq!(plenty["micro_batch"]["recomputed_flops"], 0.0);
    let budget = base + (peak - base) * 6 / 10;
    let tight = planned_and_run(lab(), "tight", &format!("{line} --memory_budget {budget}"), 1);
    assert!(tight["micro_batch"]["recomputed_flops"].as_f64().unwrap() > 0.0, "{tight:#}");
    assert!(count(&tight["peak_bytes"]) <= budget);
    // What is said to be the least starts, and a little less is refused.
    let least = count(&tight["least_bytes"]);
    assert_eq!(of(&format!("--memory_budget {}", least + (1 << 20)))["fits"], true);
    assert_eq!(of(&format!("--memory_budget {}", least - (1 << 20)))["fits"], false);
}

#[test]
fn a_run_on_an_emulated_device_is_planned_to_the_byte() {
    devices::build_emulator();
    for device in ["emu-cuda", "emu-hip"] {
        let line = format!(
            "--device {device} --batch_size 8 --max_completion_length 6 --memory_budget 256MiB \
             --beta 0.05"
        );
        let lora = "--use_peft --lora_r 4 --lora_dropout 0 --dtype bfloat16";
        planned_and_run(lab(), &format!("lora_{device}"), &format!("{line} {lora}"), 1);
        planned_and_run(lab(), &format!("full_{device}"), &format!("{line} --tune_mm_vision"), 1);
    }
}

/// Sizes of the published models, and what of them is trained without an adapter.
const MODELS: [(&str, usize, usize); 2] =
    [("3b", 3_754_622_976, 3_085_938_688), ("7b", 8_292_166_656, 7_615_616_512)];

fn published(size: &str, more: &str) -> (Value, i32) {
    let model = format!("--model tests/data/configs/qwen2_5_vl_{size}.json --dtype bfloat16");
    plan(&root(), &format!("{model} {more}"))
}

#[test]
fn published_models_are_planned_from_their_configuration_alone() {
    for (size, parameters, language) in MODELS {
        for device in KNOWN_DEVICES {
            for adapter in [true, false] {
                let how = if adapter { "--use_peft" } else { "" };
                let (plan, code) = published(size, &format!("--device {} {how}", device.name));
                let name = format!("{size} {how} on {}: {plan:#}", device.name);
                let region = |of: &str| {
                    let all = plan["regions"].as_array().unwrap();
                    all.iter().find(|r| r["name"] == of).map_or(0, |r| count(&r["bytes"]))
                };
                // Two bytes each, and vectors four.
                let weights = region("weights");
                assert!(weights > 2 * parameters && weights < 2 * parameters + (8 << 20), "{name}");
                let trained = count(&plan["model"]["trained"]);
                let near = |bytes: usize, of: usize| bytes >= of && bytes < of + of / 1000;
                assert!(near(region("gradients"), 4 * trained), "{name}");
                assert!(near(region("optimizer moments"), 8 * trained), "{name}");
                if !adapter {
                    assert_eq!(trained, language, "{name}");
                }
                let sum: usize =
                    plan["regions"].as_array().unwrap().iter().map(|r| count(&r["bytes"])).sum();
                assert_eq!(sum, count(&plan["base_bytes"]), "{name}");
                let (budget, peak) =
                    (count(&plan["device"]["budget_bytes"]), count(&plan["peak_bytes"]));
                assert_eq!(budget, device.usable(), "{name}");
                let ends = plan["phases"].as_array().unwrap().iter().map(|p| count(&p["end"]));
                assert_eq!(ends.max(), Some(peak), "{name}");
                // Weights, gradients, moments and masters of 7B take 129 GiB.
                let fits = !(size == "7b" && !adapter && device.name == "h100");
                assert_eq!(
                    (plan["fits"] == true, code),
                    (fits, if fits { 0 } else { 5 }),
                    "{name}"
                );
                assert_eq!(peak <= budget, fits, "{name}");
                if fits {
                    let groups = |f: &Value| f["groups"].as_u64().unwrap_or(0);
                    let (kept, all) = (
                        groups(&plan["largest"]["micro_batch"]),
                        groups(&plan["largest"]["micro_batch_recomputed"]),
                    );
                    assert!(all >= 1 && all >= kept, "{name}");
                    assert!(count(&plan["largest"]["kv_sequences"]) >= 8, "{name}");
                }
            }
        }
    }
}

#[test]
fn the_largest_micro_batch_is_the_largest() {
    let line = "--device h100 --use_peft --lora_dropout 0 --batch_size 64";
    let (plan, _) = published("3b", line);
    let tokens = count(&plan["largest"]["micro_batch"]["tokens"]);
    let groups = count(&plan["largest"]["micro_batch"]["groups"]);
    let recomputed = |tokens: usize| {
        let more = format!("{line} --micro_batch_tokens {tokens}");
        let (plan, code) = published("3b", &more);
        assert_eq!(code, 0, "{plan:#}");
        plan["micro_batch"]["recomputed_flops"].as_f64().unwrap()
    };
    assert!((1..8).contains(&groups), "{plan:#}");
    assert_eq!(recomputed(tokens), 0.0);
    assert!(recomputed(tokens / groups * (groups + 1)) > 0.0);
}

/// A command that fails with `code` and an error with all `parts`.
fn refused(line: &str, code: i32, parts: &[&str]) -> String {
    let output = run(&root(), &format!("plan {line}"));
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{line}: {error}");
    for part in parts {
        assert!(error.contains(part), "{line}: `{part}` is not in\n{error}");
    }
    error
}

#[test]
fn what_cannot_fit_is_refused_with_what_would() {
    let line = "--model tests/data/configs/qwen2_5_vl_7b.json --dtype bfloat16 --device h100";
    let error = refused(line, 5, &["optimizer state", "--use_peft true", "`--device mi300x`"]);
    let hint = error.lines().find(|l| l.trim().starts_with("hint:")).unwrap();
    let ways: Vec<&str> = hint.split('`').skip(1).step_by(2).collect();
    assert!(ways.len() >= 2, "{hint}");
    for way in ways {
        let output = run(&root(), &format!("plan {line} {way}"));
        assert!(output.status.success(), "{way}: {}", text(&output.stderr));
    }
    // The plan is printed all the same.
    let shown = text(&run(&root(), &format!("plan {line}")).stdout);
    assert!(shown.contains("does not fit") && shown.contains("timeline"), "{shown}");
}

#[test]
fn wrong_settings_are_refused_before_anything_is_planned() {
    let model = "--model tests/data/configs/qwen2_5_vl_3b.json";
    for (more, code, parts) in [
        ("--device h900", 2, &["no such device", "h100, h200, mi300x"][..]),
        ("--device h100 --memory_budget 90GiB", 2, &["memory_budget", "less memory"]),
        ("--prompt_image_size 12", 2, &["1024x768"]),
        ("--prompt_images 0 --prompt_image_size 5x5", 2, &["prompt_image_size"]),
        ("--max_prompt_length 900 --prompt_tokens 7", 2, &["prompt_tokens"]),
        ("--max_prompt_length 900", 2, &["max_prompt_length", "999"]),
        ("--prompt_tokens 127999", 2, &["128000", "max_completion_length"]),
        (
            "--num_generations 3 --steps_per_generation 1",
            2,
            &["num_generations", "groups do not fit"],
        ),
        ("--learning_rate 1", 2, &["does not take"]),
        (
            "--device h100 --vision_cache_size 1MiB --dtype bfloat16 --use_peft",
            5,
            &["vision_cache_size"],
        ),
    ] {
        refused(&format!("{model} {more}"), code, parts);
    }
    refused("--model tests/data/configs/none.json", 2, &["does not exist"]);
}

#[test]
fn a_run_is_planned_from_its_own_file() {
    let line = "--config configs/qwen2_5_vl_3b_lora.yaml --device h100 --dtype bfloat16 \
        --model tests/data/configs/qwen2_5_vl_3b.json";
    let (plan, code) = plan(&root(), line);
    assert_eq!((code, count(&plan["assumed"]["completions"])), (0, 16), "{plan:#}");
    // 401408 pixels, the limit of the file, are 512 tokens; the assumed image keeps its shape.
    assert!(count(&plan["assumed"]["image_tokens"]) <= 512);
    assert!(plan["phases"].as_array().unwrap().iter().any(|p| p["name"] == "reference"));
}

#[test]
fn a_plan_is_plain_text_of_a_screen_s_width() {
    for line in
        ["--use_peft --device h200", "--device h100", "--prompt_images 0 --memory_budget 8GiB"]
    {
        let line = format!("plan --model tests/data/configs/qwen2_5_vl_7b.json {line}");
        let shown = text(&run(&root(), &line).stdout);
        assert!(shown.lines().all(|l| l.is_ascii() && l.len() <= 100), "{shown}");
        assert_eq!(shown.matches("<- highest").count(), 1, "{shown}");
        for part in
            ["stays for the whole run", "KV cache", "backward", "largest that fits", "budget"]
        {
            assert!(shown.contains(part), "{part}: {shown}");
        }
    }
}

/// One row of the table of docs/planning.md.
fn summary(size: &str, how: &str, device: &KnownDevice) -> String {
    let more = if how == "LoRA" { "--use_peft" } else { "" };
    let (plan, _) = published(size, &format!("--device {} {more}", device.name));
    let gib = |v: &Value| format!("{:.1}", count(v) as f64 / (1u64 << 30) as f64);
    let fitting = |f: &Value| match f["tokens"].as_u64() {
        None => "none".to_string(),
        Some(tokens) if f["more"] == true => format!("{tokens} or more"),
        Some(tokens) => tokens.to_string(),
    };
    let (l, fits) = (&plan["largest"], plan["fits"] == true);
    let again = plan["micro_batch"]["recomputed_flops"].as_f64().unwrap() > 0.0;
    let verdict = match (fits, again) {
        (false, _) => "no",
        (true, true) => "yes, recomputing",
        (true, false) => "yes",
    };
    format!(
        "| {} {how} | {} | {} | {} | {} | {verdict} | {} | {} | {} |\n",
        size.to_uppercase(),
        device.name,
        gib(&plan["device"]["budget_bytes"]),
        gib(&plan["base_bytes"]),
        gib(&plan["peak_bytes"]),
        fitting(&l["micro_batch"]),
        fitting(&l["micro_batch_recomputed"]),
        if fits { l["kv_sequences"].to_string() } else { "none".into() },
    )
}

/// The page with its table and its plans as they are printed now: the table between two comments, and
/// behind every block of shell with a plan what that plan prints.
fn documented(page: &str) -> String {
    let mut table = String::from(
        "| run | device | budget | stays | peak | fits | micro-batch | recomputed | completions |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for (size, ..) in MODELS {
        for how in ["LoRA", "full"] {
            for device in KNOWN_DEVICES {
                table += &summary(size, how, device);
            }
        }
    }
    let (before, rest) = page.split_once("<!-- table -->\n").expect("the table has a beginning");
    let (_, after) = rest.split_once("<!-- end -->\n").expect("the table has an end");
    let mut out = format!("{before}<!-- table -->\n\n{table}\n<!-- end -->\n");
    let mut pieces = after.split("```sh\n");
    out += pieces.next().unwrap();
    for piece in pieces {
        let (command, rest) = piece.split_once("```\n").expect("a block has an end");
        out += &format!("```sh\n{command}```\n");
        let line = command.replace("\\\n", " ");
        match (line.trim().strip_prefix("grpo-rt "), rest.split_once("```text\n")) {
            (Some(line), Some((between, shown))) => {
                let (_, after) = shown.split_once("```\n").expect("a block has an end");
                out +=
                    &format!("{between}```text\n{}```\n{after}", text(&run(&root(), line).stdout));
            }
            _ => out += rest,
        }
    }
    out
}

#[test]
fn the_documentation_shows_what_is_printed() {
    let path = root().join("docs/planning.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let wanted = documented(&page);
    if std::env::var_os("GRPO_RT_TEST_UPDATE").is_some() {
        std::fs::write(&path, &wanted).unwrap();
        return;
    }
    let hint = "run GRPO_RT_TEST_UPDATE=1 cargo test --test plan";
    assert!(page == wanted, "docs/planning.md is not what the program prints: {hint}");
}
