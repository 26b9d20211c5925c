//! Options of other programs: each comes to an option of ours, to a line that says what is here instead,
//! or to an error. None is swallowed. Starts no training.

use std::path::Path;

use grpo_rt::base::{Error, Result};
use grpo_rt::options::{Command, FOREIGN, OPTIONS, Options, Value, docs_markdown};
use grpo_rt::settings::{LossType, TrainSettings};

const NEEDED: &str = "--model_name_or_path m --dataset_name d.jsonl --output_dir o ";

fn options(line: &str) -> Result<Options> {
    let words: Vec<String> = line.split_whitespace().map(str::to_string).collect();
    Options::resolve(Command::Train, &words, std::iter::empty())
}
fn train(line: &str) -> Result<Options> {
    options(&format!("{NEEDED}{line}"))
}
fn refused(line: &str, parts: &[&str]) -> Error {
    let error = train(line).expect_err(line);
    for part in parts {
        assert!(error.to_string().contains(part), "{line}: `{part}` is not in\n{error}");
    }
    assert!(error.hint_text().is_some(), "{line}: no hint");
    error
}

#[test]
fn the_list_is_well_formed() {
    let ours: Vec<&str> =
        OPTIONS.iter().flat_map(|o| std::iter::once(&o.name).chain(o.aliases)).copied().collect();
    let mut seen = std::collections::BTreeSet::new();
    for f in FOREIGN {
        for name in std::iter::once(&f.opt.name).chain(f.opt.aliases) {
            assert!(!ours.contains(name), "`{name}` is an option of ours, too");
            assert!(seen.insert(*name), "`{name}` stands twice");
        }
        assert!(!f.rules.is_empty() && f.opt.help.ends_with('.'), "{}", f.opt.name);
        assert!(docs_markdown().contains(&format!("| `{}`", f.opt.name)), "{}", f.opt.name);
    }
}

/// A switch that is on, and every other option with some value, does something or is refused.
#[test]
fn none_is_swallowed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("zero2.json");
    std::fs::write(&file, "{\"zero_optimization\": {\"stage\": 2}}").unwrap();
    for f in FOREIGN {
        let name = f.opt.name;
        let values: Vec<String> = match name {
            "deepspeed" => vec![file.display().to_string()],
            "local_rank" => vec!["1".into()],
            "do_train" | "skip_memory_metrics" => vec!["false".into()],
            "logging_strategy" => vec!["epoch".into()],
            "lora_task_type" => vec!["SEQ_CLS".into()],
            "train_sampling_strategy" => vec!["sequential".into()],
            "vllm_gpu_memory_utilization" | "label_smoothing_factor" => vec!["0.5".into()],
            _ => ["true", "2", "colocate", "adamw_torch", "x"].map(String::from).to_vec(),
        };
        let base = "--device cuda:0 --use_peft";
        let before = train(base).unwrap();
        let did = |value: &String| match train(&format!("{base} --{name} {value}")) {
            Ok(o) => !o.notes().is_empty() || o.to_yaml() != before.to_yaml(),
            Err(e) => e.hint_text().is_some(),
        };
        assert!(values.iter().any(did), "--{name} does nothing");
    }
}

#[test]
fn what_is_here_instead_is_said_once() {
    let o = train("--use_vllm --vllm_mode colocate --vllm_enable_sleep_mode true --tf32 false")
        .unwrap();
    let [engine, memory] = o.notes() else { panic!("{:?}", o.notes()) };
    assert!(engine.starts_with("--use_vllm, --vllm_mode: completions are generated"), "{engine}");
    assert!(memory.starts_with("--vllm_enable_sleep_mode: ") && memory.contains("one planned"));
    assert!(train("--use_vllm false --fp16 False --load_in_4bit no").unwrap().notes().is_empty());
    assert!(train("").unwrap().notes().is_empty());
}

#[test]
fn names_of_others_set_ours() {
    let o = train("--bf16 --disable_dropout --model_max_length 900 --base_interval 2").unwrap();
    assert_eq!(o.text("dtype"), Some("bfloat16"));
    assert_eq!((o.float("lora_dropout"), o.count("max_prompt_length")), (Some(0.0), Some(900)));
    assert_eq!(o.float("video_fps"), Some(0.5));
    // In the order of the command line, as with names of ours.
    let o = train("--bf16 --dtype float32").unwrap();
    assert_eq!(o.text("dtype"), Some("float32"));
    // VLM-R1's scripts name a data set that is not used beside the files that are.
    let o = train("--data_file_paths a.jsonl:b.jsonl --dataset_name not_used").unwrap();
    assert_eq!(o.paths("dataset_name"), [Path::new("a.jsonl"), Path::new("b.jsonl")]);
    let o = train("--generation_temperature 0.7 --generation_top_p 0.9 --generation_max_length 64");
    let o = o.unwrap();
    assert_eq!((o.float("temperature"), o.float("top_p")), (Some(0.7), Some(0.9)));
    assert_eq!(o.count("max_completion_length"), Some(64));
}

#[test]
fn what_cannot_be_had_is_refused_with_a_way_out() {
    refused("--fp16", &["float16", "--bf16", "--fp16"]);
    refused("--vllm_mode server", &["no generation server"]);
    refused("--vllm_tensor_parallel_size 2", &["one device"]);
    refused("--load_in_4bit", &["quantised"]);
    refused("--optim adafactor", &["adamw_torch"]);
    refused("--local_rank 3", &["one process", "without torchrun"]);
    refused("--base_interval 0", &["above 0"]);
    assert_eq!(train("--deepspeed no/such.json").unwrap_err().exit_code(), 4);
    assert!(train("--vllm_mode somewhere").unwrap_err().to_string().contains("colocate, server"));
    // A typing error in such a name is found, too.
    assert!(train("--use_vlm").unwrap_err().hint_text().is_some());
}

#[test]
fn the_video_trainer_brings_its_own_defaults() {
    let line = "--model_name_or_path m --dataset_use assy07 --output_dir o ";
    let s = TrainSettings::from_options(&options(line).unwrap()).unwrap();
    assert_eq!((s.grpo.loss_type, s.grpo.num_generations), (LossType::RewardWeighted, 4));
    assert_eq!((s.grpo.alpha, s.grpo.kl.unwrap().beta), (0.5, 0.1));
    assert_eq!((s.sampling.temperature, s.sampling.top_p), (0.7, 0.9));
    assert_eq!(s.rewards.names, ["think_answer_graded", "action_iou"]);
    assert_eq!(s.rewards.weights, [0.3, 0.7]);
    // A batch is of prompts there: one prompt, its four completions, one step.
    let one = format!("{line} --per_device_train_batch_size 1 --format_reward_weight 0.4");
    let s = TrainSettings::from_options(&options(&one).unwrap()).unwrap();
    assert_eq!((s.training.batch_size, s.grpo.prompts_per_generation), (4, 1));
    assert_eq!(s.rewards.weights, [0.4, 0.7]);
    // What is said otherwise goes before them.
    let o = options(&format!("{line} --loss_type grpo --grpo_beta 0.02")).unwrap();
    assert_eq!((o.text("loss_type"), o.float("beta")), (Some("grpo"), Some(0.02)));
    let two = "--reward_funcs format xmlcount accuracy --format_reward_weight 1";
    let error = TrainSettings::from_options(&train(two).unwrap()).unwrap_err();
    assert!(error.to_string().contains("which reward"), "{error}");
}

#[test]
fn files_and_variables_know_them_too() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.yaml");
    std::fs::write(&file, "use_vllm: true\nvllm_gpu_memory_utilization: 0.7\nbf16: true\n")
        .unwrap();
    let o = train(&format!("--config {}", file.display())).unwrap();
    assert!(o.notes()[0].starts_with("use_vllm: ") && o.notes().len() == 2, "{:?}", o.notes());
    assert_eq!(o.get("dtype"), &Value::Text("bfloat16".into()));
    std::fs::write(&file, "seed: 1\nfp16: true\n").unwrap();
    let error = train(&format!("--config {}", file.display())).unwrap_err();
    assert!(error.to_string().contains("line 2"), "{error}");
    let variables = [("GRPO_RT_BF16".to_string(), "1".to_string())];
    let words: Vec<String> = NEEDED.split_whitespace().map(str::to_string).collect();
    let o = Options::resolve(Command::Train, &words, variables.into_iter()).unwrap();
    assert_eq!(o.text("dtype"), Some("bfloat16"));
    // An environment serves several commands.
    let variables = [("GRPO_RT_USE_VLLM".to_string(), "1".to_string())];
    assert!(Options::resolve(Command::Doctor, &[], variables.into_iter()).is_ok());
}
