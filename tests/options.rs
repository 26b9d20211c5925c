//! Options as users meet them: flags, files, environment, precedence, errors, help, and the files
//! of the repository that are made of options (docs/options.md, configs/). Starts no training.

use std::path::{Path, PathBuf};

use grpo_rt::base::{Error, ErrorKind, Result};
use grpo_rt::grpo::advantage::{Estimator, ScaleRewards};
use grpo_rt::mem::Recompute;
use grpo_rt::ops::grpo_loss::GrpoLoss;
use grpo_rt::options::{
    Command, GROUPS, Kind, OPTIONS, Options, Source, Value, docs_markdown, help, overview,
    wants_help,
};
use grpo_rt::settings::{
    ConvertSettings, DemoSettings, EvalSettings, InitSettings, InspectSettings, LossType,
    MakeShapesSettings, Resume, RunLength, SftSettings, TraceSettings, TrainSettings, Trained,
    TrainedParts, VideoSettings, Warmup, When, check_paths,
};

mod algorithm_options; // what each loss reads

const NEEDED: &str = "--model_name_or_path m --dataset_name d.jsonl --output_dir o ";

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_string).collect()
}
fn parse(command: Command, line: &str) -> Result<Options> {
    Options::resolve(command, &words(line), std::iter::empty())
}
fn train(line: &str) -> Result<Options> {
    parse(Command::Train, &format!("{NEEDED}{line}"))
}
fn with_env(line: &str, environment: &[(&str, &str)]) -> Result<Options> {
    let pairs = environment.iter().map(|(k, v)| (k.to_string(), v.to_string()));
    Options::resolve(Command::Train, &words(&format!("{NEEDED}{line}")), pairs)
}
fn settings(line: &str) -> Result<TrainSettings> {
    TrainSettings::from_options(&train(line)?)
}
fn config(name: &str, text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    (folder, path)
}
/// A usage error that has every part.
fn says(error: Error, about: &str, parts: &[&str]) {
    assert_eq!(error.kind(), ErrorKind::Usage, "{about}: {error}");
    for part in parts {
        assert!(error.to_string().contains(part), "{about}: `{part}` is not in\n{error}");
    }
}
fn refused(line: &str, parts: &[&str]) {
    says(settings(line).expect_err(line), line, parts);
}

#[test]
fn the_table_is_well_formed() {
    let mut seen = std::collections::BTreeSet::new();
    for opt in OPTIONS {
        for name in std::iter::once(&opt.name).chain(opt.aliases) {
            assert!(seen.insert(*name), "`{name}` stands twice");
            let snake = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            assert!(name.chars().all(snake) && !name.starts_with("no_"), "`{name}`");
        }
        assert!(GROUPS.contains(&opt.group), "{}: group", opt.name);
        assert!(!opt.commands.is_empty(), "{}: no command takes it", opt.name);
        assert!(opt.required.iter().all(|c| opt.accepted_by(*c)), "{}: required", opt.name);
        assert!(opt.default_of.iter().all(|(c, _)| opt.accepted_by(*c)), "{}", opt.name);
        assert!(opt.help.ends_with(['.', ')']) && opt.help.len() < 130, "{}: help", opt.name);
    }
    assert_eq!(OPTIONS.iter().filter(|o| o.first).count(), 20);
    for &command in Command::ALL {
        let options = Options::defaults(command);
        for opt in OPTIONS.iter().filter(|o| o.accepted_by(command)) {
            let unset = *options.get(opt.name) == Value::Unset;
            assert_eq!(unset, opt.default_for(command).is_empty(), "{}", opt.name);
        }
    }
}

#[test]
fn defaults_are_those_of_the_field() {
    let s = settings("").unwrap();
    assert_eq!((s.grpo.num_generations, s.grpo.loss_type), (8, LossType::Dapo));
    assert_eq!((s.grpo.loss, s.grpo.kl), (GrpoLoss::clipped(0.2, 0.2), None));
    assert_eq!(s.grpo.estimator, Estimator::Grpo(ScaleRewards::Group));
    assert_eq!(s.training.optimizer.learning_rate, 1e-6);
    assert_eq!(s.training.optimizer.max_grad_norm, Some(1.0));
    assert_eq!(s.training.length, RunLength::Epochs(3.0));
    assert_eq!(s.sampling.max_completion_length, 512);
    assert_eq!((s.rewards.names.len(), s.rewards.weights), (2, vec![1.0, 1.0]));
    let parts = TrainedParts { llm: true, vision: false, projector: false };
    assert_eq!(s.model.trained, Trained::Parts(parts));
    let sft = SftSettings::from_options(&parse(Command::Sft, NEEDED).unwrap()).unwrap();
    assert_eq!(sft.training.optimizer.learning_rate, 2e-5);
}

#[test]
fn flags_have_the_usual_forms() {
    let o = train("--learning-rate 1e-5 --seed=7 --use_peft --no_shuffle_dataset").unwrap();
    assert_eq!((o.float("learning_rate"), o.int("seed")), (Some(1e-5), Some(7)));
    assert!(o.flag("use_peft") && !o.flag("shuffle_dataset"));
    let o = train("--use_peft false --strict_data True --no-tune-mm-llm").unwrap();
    assert!(!o.flag("use_peft") && o.flag("strict_data") && !o.flag("tune_mm_llm"));
    let o = train("--reward_funcs format accuracy --reward_weights -0.5 2 --seed 1").unwrap();
    assert_eq!(o.texts("reward_funcs"), ["format", "accuracy"]);
    assert_eq!(o.floats("reward_weights"), [-0.5, 2.0]);
    let o = train("--reward_funcs=format,accuracy --max_steps -1 --memory_budget 2GiB").unwrap();
    assert_eq!(o.texts("reward_funcs"), ["format", "accuracy"]);
    assert_eq!(o.int("memory_budget"), Some(2 << 30));
    assert_eq!(o.source("max_steps"), &Source::Flag("--max_steps".into()));
}

#[test]
fn recomputation_is_a_bool_or_auto() {
    for (flag, expected) in [
        ("", Recompute::Auto),
        ("--gradient_checkpointing auto", Recompute::Auto),
        ("--gradient_checkpointing", Recompute::Always),
        ("--gradient_checkpointing true", Recompute::Always),
        ("--gradient_checkpointing False", Recompute::Never),
        ("--no_gradient_checkpointing", Recompute::Never),
    ] {
        assert_eq!(settings(flag).unwrap().training.recompute, expected, "{flag}");
    }
    let error = train("--gradient_checkpointing some").unwrap_err();
    says(error, "some", &["gradient_checkpointing", "true, false or auto", "`some`"]);
}

#[test]
fn the_last_flag_wins_and_aliases_are_the_same_option() {
    let o = train("--batch_size 4 --per_device_train_batch_size 16 --seed 1 --seed 2").unwrap();
    assert_eq!(o.int("per_device_train_batch_size"), Some(16));
    assert_eq!(o.int("seed"), Some(2));
    let line = "--model_name m --data_file_paths a.jsonl:b.jsonl --output_dir o \
                --target_modules q_proj,v_proj --use_peft";
    let o = parse(Command::Train, line).unwrap();
    assert_eq!(o.paths("dataset_name"), [Path::new("a.jsonl"), Path::new("b.jsonl")]);
    assert_eq!(o.texts("lora_target_modules"), ["q_proj", "v_proj"]);
}

#[test]
fn text_is_taken_as_it_is_and_none_takes_back_numbers() {
    let mut args = words(NEEDED);
    let template = "--question_template={Question} --- answer, please: a=b";
    args.extend([template, "--stop", "a, b", "\n\n", "--system_prompt", "none"].map(String::from));
    let o = Options::resolve(Command::Train, &args, std::iter::empty()).unwrap();
    assert_eq!(o.text("question_template"), Some("{Question} --- answer, please: a=b"));
    assert_eq!(o.texts("stop"), ["a, b", "\n\n"]);
    assert_eq!(o.text("system_prompt"), Some("none"));
    let (_folder, path) = config("c.yaml", "min_p: 0.1\nthreads: 3\n");
    let o = train(&format!("--config {} --min_p none", path.display())).unwrap();
    assert_eq!((o.get("min_p"), o.count("threads")), (&Value::Unset, Some(3)));
    assert!(train("--seed none").is_err());
    assert_eq!(train("--scale_rewards none").unwrap().text("scale_rewards"), Some("none"));
}

#[test]
fn wrong_flags_say_what_would_be_right() {
    for (line, parts) in [
        ("--lerning_rate 1", &["unknown option", "did you mean `learning_rate`"][..]),
        ("--num_generation 4", &["did you mean `num_generations`"]),
        ("--zzzz 4", &["unknown option `zzzz`", "--help all"]),
        ("--do_sample", &["`train` does not take `do_sample`", "`eval`"]),
        ("--learning_rate fast", &["--learning_rate", "a number of at least 0", "`fast`"]),
        ("--num_generations 1", &["a whole number of at least 2", "`1`"]),
        ("--loss_type gspo", &["one of: dapo, grpo", "`gspo`"]),
        ("--top_p 1.5", &["a number from 0 to 1"]),
        ("--memory_budget lots", &["24GiB", "`lots`"]),
        ("--reward_weights 1 x", &["a list, each element a number", "`x`"]),
        ("--learning_rate", &["found:    nothing"]),
        ("--reward_funcs", &["found:    nothing"]),
        ("--use_peft maybe", &["unexpected argument `maybe`", "true, false"]),
        ("--seed 1 2", &["unexpected argument `2`", "one value after --seed"]),
        ("-seed 1", &["two dashes"]),
        ("--no_use_peft=true", &["takes no value", "--use_peft true"]),
        ("--no_seed", &["unknown option `no_seed`"]),
        ("--", &["unexpected argument `--`"]),
    ] {
        says(train(line).expect_err(line), line, parts);
    }
    let error = parse(Command::Train, "--model_name_or_path m --output_dir o").unwrap_err();
    says(error, "missing", &["`train` needs `dataset_name`", "--dataset_name PATH"]);
    assert!(parse(Command::Demo, "").is_ok() && parse(Command::Doctor, "").is_ok());
}

#[test]
fn runs_need_no_name_before_them() {
    let named = |line: &str| parse(Command::RunsCompare, line).unwrap().texts("run");
    assert_eq!(named("a b"), ["a", "b"]);
    assert_eq!(named("a --html x.html b,c"), ["a", "b,c"], "words are taken as they are");
    assert_eq!(named("--json a"), ["a"]);
    assert_eq!(named("--run a b"), ["a", "b"]);
    let both = parse(Command::RunsLogs, "--follow a --run_id b").unwrap();
    assert_eq!(
        (both.texts("run"), both.text("run_id"), both.flag("follow")),
        (vec!["a".into()], Some("b"), true)
    );
    says(parse(Command::RunsList, "a").unwrap_err(), "list", &["unexpected argument `a`"]);
    says(parse(Command::RunsShow, "-a").unwrap_err(), "dash", &["two dashes"]);
    says(parse(Command::RunsFetch, "a").unwrap_err(), "to", &["needs `to`"]);
    assert!(help(Command::RunsShow, false).contains("usage: grpo-rt runs show RUN ..."));
}

#[test]
fn commands_are_found_by_their_words() {
    let split = |line: &str| Command::split(&words(line));
    assert_eq!(split("train --seed 1").unwrap(), (Command::Train, 1));
    assert_eq!(split("data make_shapes --seed 1").unwrap(), (Command::MakeShapes, 2));
    assert_eq!(split("data convert vivqa_x --out o").unwrap(), (Command::ConvertVivqaX, 3));
    for (line, part) in [
        ("trian", "did you mean `train`"),
        ("data", "data make-shapes"),
        ("data make", "found:    `make`"),
        ("data convert", "`data convert` needs an action"),
        ("data convert --input x", "one of: data convert vivqa-x"),
        ("", "no command given"),
        ("qqqq", "grpo-rt --help"),
    ] {
        says(split(line).unwrap_err(), line, &[part]);
    }
}

#[test]
fn flags_win_over_environment_over_file_over_default() {
    let (_folder, path) = config("c.yaml", "seed: 1\nbeta: 0.1\nepsilon: 0.3\nmin_p: null\n");
    let environment = [("GRPO_RT_SEED", "2"), ("GRPO_RT_BETA", "0.2"), ("OTHER", "x")];
    let o = with_env(&format!("--config {} --seed 3", path.display()), &environment).unwrap();
    assert_eq!(
        (o.int("seed"), o.float("beta"), o.float("epsilon")),
        (Some(3), Some(0.2), Some(0.3))
    );
    assert_eq!(o.source("beta"), &Source::Env("GRPO_RT_BETA".into()));
    assert_eq!(o.source("epsilon"), &Source::File(path.clone(), Some(3)));
    assert_eq!(
        (o.source("learning_rate"), o.source("min_p")),
        (&Source::Default, &Source::Default)
    );
    let o = with_env("", &[("GRPO_RT_CONFIG", path.to_str().unwrap())]).unwrap();
    assert_eq!(o.int("seed"), Some(1));
}

#[test]
fn variables_are_checked_like_flags() {
    let o = with_env("", &[("GRPO_RT_STOP", r#"["a, b", "c"]"#), ("GRPO_RT_BATCH_SIZE", "16")]);
    let o = o.unwrap();
    assert_eq!(o.texts("stop"), ["a, b", "c"]);
    assert_eq!(o.int("per_device_train_batch_size"), Some(16));
    let o = with_env("", &[("GRPO_RT_REWARD_FUNCS", "format,accuracy")]).unwrap();
    assert_eq!(o.texts("reward_funcs"), ["format", "accuracy"]);
    // Of another command: it may be meant for that one.
    assert!(with_env("", &[("GRPO_RT_DO_SAMPLE", "1"), ("GRPO_RT_TEST_UPDATE", "1")]).is_ok());
    for (environment, parts) in [
        (&[("GRPO_RT_SED", "1")][..], &["GRPO_RT_SED", "`seed`"][..]),
        (&[("GRPO_RT_SEED", "x")], &["environment variable GRPO_RT_SEED", "`x`"]),
        (&[("GRPO_RT_LR", "1"), ("GRPO_RT_LEARNING_RATE", "1")], &["two environment variables"]),
    ] {
        says(with_env("", environment).unwrap_err(), environment[0].0, parts);
    }
}

#[test]
fn errors_of_files_have_a_line() {
    for (name, text, parts) in [
        ("c.yaml", "seed: 1\nbeta: much\n", &["line 2", "key `beta`", "`much`"][..]),
        ("c.toml", "seed = 1\n\nlearning_rat = 2\n", &["line 3", "did you mean `learning_rate`"]),
        ("c.json", "{\n\"seed\": 1,\n\"do_sample\": true}", &["line 3", "`eval`"]),
        ("c.yaml", "stop: [a, [b]]\n", &["line 1", "flat"]),
        ("c.yaml", "seed: [1]\n", &["line 1", "a list of 1"]),
        ("c.yaml", "lora:\n  r: 8\n", &["line 1", "unknown option `lora`"]),
        ("c.yaml", "reward_weights: [1, two]\n", &["line 1", "wrong element 2", "`two`"]),
        ("c.yaml", "reward_funcs: []\n", &["line 1", "empty list"]),
        ("c.yaml", "batch_size: 1\nper_device_train_batch_size: 2\n", &["line 2", "twice"]),
        ("c.yaml", "config: other.yaml\n", &["line 1", "names another"]),
    ] {
        let (_folder, path) = config(name, text);
        let error = train(&format!("--config {}", path.display())).expect_err(text);
        says(error, text, parts);
    }
    assert_eq!(train("--config no/such.yaml").unwrap_err().kind(), ErrorKind::Io);
}

#[test]
fn resolved_yaml_reads_back_as_the_same_values() {
    let config_option = OPTIONS.iter().find(|o| o.name == "config").unwrap();
    for &command in Command::ALL.iter().filter(|c| config_option.accepted_by(**c)) {
        let mut line = String::new();
        for opt in OPTIONS.iter().filter(|o| o.accepted_by(command) && o.name != "config") {
            let value = match opt.kind {
                Kind::Bool => "true",
                Kind::Int { .. } | Kind::Bytes => "512",
                Kind::Float { .. } => "0.0625",
                Kind::Choice(words) => words[0],
                Kind::List(Kind::Choice(words)) => words[0],
                Kind::BoolOrAuto => "auto",
                Kind::BoolOrPath | Kind::Path | Kind::PathOrUrl | Kind::Text | Kind::Word => {
                    "a\"{Question}\\ü"
                }
                Kind::List(Kind::Float { .. }) => "0.5 -1e-7",
                Kind::List(Kind::Int { .. }) => "2 4",
                Kind::List(_) => "x #y",
            };
            line += &format!(" --{} {value}", opt.name);
        }
        let o = parse(command, &line).unwrap();
        let (_folder, path) = config("c.yaml", &o.to_yaml());
        let again = parse(command, &format!("--config {}", path.display())).unwrap();
        assert_eq!(again.to_yaml(), o.to_yaml());
    }
    // A resolved file, with every default written out, is no contradiction.
    let (_folder, path) = config("c.yaml", &train("").unwrap().to_yaml());
    let again = parse(Command::Train, &format!("--config {}", path.display())).unwrap();
    assert_eq!(TrainSettings::from_options(&again).unwrap(), settings("").unwrap());
}

#[test]
fn help_shows_twenty_and_all_shows_all() {
    assert_eq!(wants_help(&words("--seed 1")), None);
    assert_eq!(wants_help(&words("--wrong -h")), Some(false));
    assert_eq!(wants_help(&words("--help all")), Some(true));
    let options = |text: &str| text.lines().filter(|l| l.starts_with("  --")).count();
    assert_eq!(options(&help(Command::Train, false)), 20);
    for &command in Command::ALL {
        let taken = OPTIONS.iter().filter(|o| o.accepted_by(command));
        let text = help(command, true);
        assert_eq!(options(&text), taken.count(), "{text}");
        assert!(text.lines().all(|l| l.chars().count() <= 100), "{text}");
        assert!(text.contains(&format!("usage: grpo-rt {}", command.name())));
        assert!(overview().contains(command.about()));
    }
    let sft = help(Command::Sft, false);
    assert!(sft.contains("(default 2e-5)") && sft.contains("more options"), "{sft}");
}

#[test]
fn the_documentation_is_made_from_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/options.md");
    let wanted = docs_markdown();
    if std::env::var_os("GRPO_RT_TEST_UPDATE").is_some() {
        std::fs::write(&path, &wanted).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    let hint = "run GRPO_RT_TEST_UPDATE=1 cargo test --release --test options";
    assert!(found == wanted, "docs/options.md is not what the table says: {hint}");
}

#[test]
fn every_config_of_the_repository_is_right() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            continue; // texts of tasks
        }
        parse(Command::Train, &format!("--config {}", path.display()))
            .and_then(|o| TrainSettings::from_options(&o))
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        count += 1;
    }
    assert!(count >= 2);
}

#[test]
fn lora_and_parts_exclude_each_other() {
    let lora = |line: &str| match settings(line).unwrap().model.trained {
        Trained::Lora(lora) => lora,
        other => panic!("{other:?}"),
    };
    let l = lora("--use_peft --lora_r 4 --lora_target_modules q_proj");
    assert_eq!((l.r, l.alpha, l.dropout), (4, 32.0, 0.05));
    assert_eq!(l.target_modules, ["q_proj"]);
    assert_eq!(lora("--adapter a --lora_dropout 0").dropout, 0.0);
    refused("--lora_r 4", &["`lora_r` would do nothing", "--use_peft"]);
    refused("--adapter a --lora_r 4", &["adapter_config.json"]);
    refused("--use_peft --tune_mm_vision", &["`tune_mm_vision` would do nothing"]);
    refused("--use_peft --lora_dropout 1", &["from 0 to below 1"]);
    refused("--use_peft --freeze_vision_modules false", &["cannot train the vision"]);
    refused("--freeze_vision_modules --tune_mm_vision", &["contradict"]);
    refused("--no_tune_mm_llm", &["nothing is left to train"]);
    let thawed = settings("--freeze_vision_modules false").unwrap().model.trained;
    let all = TrainedParts { llm: true, vision: true, projector: true };
    assert_eq!(thawed, Trained::Parts(all));
}

#[test]
fn length_and_warmup_are_of_one_mind() {
    let t = settings("--max_steps 10 --warmup_ratio 0.11").unwrap().training;
    assert_eq!(t.length.steps(1000), 10);
    assert_eq!(t.optimizer.warmup.steps(10), 2);
    assert_eq!(RunLength::Epochs(0.5).steps(3), 2);
    let t = settings("--warmup_steps 3 --max_grad_norm 0").unwrap().training;
    assert_eq!((t.optimizer.warmup, t.optimizer.max_grad_norm), (Warmup::Steps(3), None));
    refused("--max_steps 0", &["a run of no steps"]);
    refused("--num_train_epochs 0", &["a number above 0"]);
    refused("--warmup_steps 3 --warmup_ratio 0.1", &["both given"]);
    refused("--lr_scheduler_type constant --warmup_steps 3", &["constant_with_warmup"]);
    refused("--adam_beta2 1", &["from 0 to below 1", "adam_beta2: 1.0"]);
}

#[test]
fn other_contradictions_are_refused() {
    refused("--temperature 0", &["a number above 0"]);
    refused("--top_p 0", &["a number above 0"]);
    refused("--stop=", &["empty stop text"]);
    refused("--question_template hello", &["{Question}"]);
    refused("--eval_dataset a.csv", &["a.csv", "JSON Lines", "docs/data.md"]);
    refused("--reward_weights 1", &["2 weights, for accuracy, format"]);
    refused("--box_space metres", &["auto, seen, thousand, reference", "`metres`"]);
    let boxes = settings("--box_space thousand").unwrap().rewards.told.box_space;
    assert_eq!(boxes, grpo_rt::reward::BoxSpace::Thousand);
    refused("--reward_funcs a a", &["`a` stands twice"]);
    refused("--image_folders a b", &["1 or 1 folders"]);
    refused("--min_pixels 9 --max_pixels 8", &["at most 8"]);
    refused("--video_min_pixels 9 --video_max_pixels 8", &["`video_max_pixels`", "at most 8"]);
    refused("--video_min_frames 9 --video_max_frames 8", &["`min_frames`", "at most 8"]);
    refused("--video_fps 0", &["a rate above 0"]);
    refused("--video_fps 1001", &["1000 frames per second"]);
    refused("--max_frames 65537", &["at most 65536 frames"]);
    refused("--nframes 8 --video_fps 2", &["`video_fps` would do nothing", "num_frames"]);
    refused("--num_frames 8 --no_dynamic_sample", &["`dynamic_sample` would do nothing"]);
    refused("--report_to none jsonl", &["none alone"]);
    refused("--report_to jsonl --logging_dir l", &["`logging_dir` would do nothing"]);
    refused("--num_completions_to_print 2", &["--log_completions"]);
    refused("--log_completions --quiet --report_to jsonl", &["`quiet`"]);
    refused("--log_unique_prompts", &["--log_completions"]);
    refused("--report_to all wandb", &["all alone"]);
    refused("--project p", &["`project` would do nothing", "--report_to wandb"]);
    refused("--tui --quiet", &["`quiet` shows nothing"]);
    refused("--stop_on_alert all --health_alerts false", &["no alerts are raised"]);
    refused("--stop_on_alert reward", &["reward_collapse"]);
    refused("--run_id a/b", &["one folder name"]);
    refused("--resume_from_checkpoint --overwrite_output_dir", &["resumed and overwritten"]);
    refused("--eval_dataset e.jsonl --dataset_name a b --image_folders c d", &["leave open"]);
}

#[test]
fn videos_are_the_models_or_the_rows_unless_asked_otherwise() {
    assert_eq!(settings("").unwrap().model.video, VideoSettings::default());
    let line =
        "--video_fps 1.5 --min_frames 4 --max_frames 8 --dynamic_sample --video_max_pixels 100352";
    let expected = VideoSettings {
        fps: Some(1.5),
        min_frames: Some(4),
        max_frames: Some(8),
        dynamic_sample: Some(true),
        max_pixels: Some(100352),
        ..Default::default()
    };
    assert_eq!(settings(line).unwrap().model.video, expected);
    let segments = settings("--num_segments 16 --video_min_frame_pixels 784").unwrap().model.video;
    assert_eq!((segments.num_frames, segments.min_pixels), (Some(16), Some(784)));
    // The variable that names ffmpeg is read where videos are, not here.
    with_env("", &[("GRPO_RT_FFMPEG", "/somewhere")]).unwrap();
}

#[test]
fn output_and_logging_follow_the_run() {
    let s = settings("--run_id r1 --resume_from_checkpoint --save_steps 0").unwrap();
    assert_eq!(s.output.run_dir, Path::new("o/r1"));
    assert_eq!((s.output.resume, s.output.save), (Resume::Latest, When::Last));
    assert_eq!(s.logging.tensorboard_dir.as_deref(), Some(Path::new("o/r1/runs")));
    assert_eq!((s.logging.jsonl, s.logging.print_completions), (true, Some(0)));
    let s = settings("--report_to none --log_completions --resume_from_checkpoint o/c").unwrap();
    assert_eq!((s.logging.tensorboard_dir, s.logging.jsonl), (None, false));
    assert_eq!(s.logging.print_completions, None);
    let line =
        "--report_to wandb --log_completions --num_completions_to_print 3 --quiet --run_name r";
    let l = settings(line).unwrap().logging;
    assert_eq!((l.tensorboard_dir, l.jsonl, l.print_completions), (None, true, Some(0)));
    assert_eq!(l.track_completions, 3);
    let wandb = l.wandb.unwrap();
    assert!(wandb.required && wandb.completions && wandb.multimodal && !wandb.unique_prompts);
    assert_eq!((wandb.run_name.as_deref(), wandb.project), (Some("r"), None));
    let l = settings("--report_to all --stop_on_alert truncation,repetition").unwrap().logging;
    assert!(l.stops_at("repetition") && !l.stops_at("kl_explosion"));
    assert!(l.tensorboard_dir.is_some() && l.wandb.is_some_and(|w| !w.required));
    assert_eq!(s.output.resume, Resume::From("o/c".into()));
    let s = settings("--eval_dataset e/e.jsonl --max_rows 3").unwrap();
    let eval = s.eval_data.unwrap();
    assert_eq!((eval.max_rows, eval.shuffle), (None, false));
    assert_eq!(eval.image_folder(0), Path::new("e"));
    assert_eq!((s.data.max_rows, s.data.shuffle), (Some(3), true));
}

#[test]
fn saving_and_measuring_fit_each_other() {
    let save = |line: &str| settings(line).unwrap().output;
    assert_eq!(save("").save, When::Steps(500));
    assert_eq!(save("--save_strategy epoch").save, When::Epochs);
    assert_eq!((save("--save_strategy no").save, save("").best), (When::Never, None));
    refused("--save_strategy no --save_steps 5", &["`save_steps` would do nothing"]);
    refused("--save_strategy no --save_total_limit 2", &["no checkpoint is saved"]);
    refused("--greater_is_better false", &["metric_for_best_model"]);
    for line in ["--save_strategy best", "--metric_for_best_model kl", "--load_best_model_at_end"] {
        refused(line, &["nothing is measured", "--eval_dataset or --val_split_ratio"]);
    }
    let eval = "--eval_dataset e.jsonl --eval_strategy steps";
    let o = save(&format!("{eval} --eval_steps 4 --save_steps 8 --load_best_model_at_end"));
    let best = o.best.unwrap();
    assert!(o.load_best && best.greater && best.metric == "eval_reward");
    let lower = "--metric_for_best_model eval_some/loss --save_strategy best";
    assert!(!save(&format!("{eval} {lower}")).best.unwrap().greater);
    for wrong in ["--eval_steps 3 --save_steps 8", "--save_strategy epoch", "--save_steps 0"] {
        let line = format!("{eval} {wrong} --load_best_model_at_end");
        refused(&line, &["not saved where rewards are measured", "save_strategy best"]);
    }
    let m = |line: &str| settings(&format!("--eval_dataset e.jsonl {line}")).unwrap().validation;
    let plain = m("--eval_on_start");
    assert!(plain.sampling.greedy && plain.on_start && plain.num_generations == 1);
    assert_eq!((plain.when, plain.batch_size, plain.max_rows), (When::Last, 32, None));
    let drawn = m("--num_generations_eval 3 --eval_top_p 0.5 --temperature 0.7 --eval_max_rows 9");
    assert_eq!((drawn.sampling.greedy, drawn.num_generations, drawn.max_rows), (false, 3, Some(9)));
    assert_eq!((drawn.sampling.temperature, drawn.sampling.top_p), (0.7, 0.5));
    assert_eq!(m("--eval_do_sample --num_generations 4").num_generations, 4);
    assert_eq!(m("--evaluation_strategy epoch").when, When::Epochs);
    refused("--eval_strategy steps", &["no rows to measure on", "--eval_dataset"]);
    let line = "--eval_dataset e.jsonl --eval_do_sample false";
    refused(&format!("{line} --num_generations_eval 2"), &["all the same"]);
    refused(&format!("{line} --eval_temperature 0.5"), &["eval_do_sample is false"]);
    refused("--eval_dataset e.jsonl --eval_steps 5", &["eval_strategy is not steps"]);
    refused("--eval_dataset e.jsonl --eval_temperature 0", &["greedy without this option"]);
    let sft = SftSettings::from_options(
        &parse(
            Command::Sft,
            "--model_name_or_path m --dataset_name d --output_dir o --save_strategy best",
        )
        .unwrap(),
    );
    says(sft.expect_err("best"), "sft", &["steps, epoch or no"]);
}

#[test]
fn the_other_commands_have_settings() {
    let eval = |line: &str| {
        let line = format!("--model_name_or_path m --dataset_name d.jsonl {line}");
        EvalSettings::from_options(&parse(Command::Eval, &line).unwrap())
    };
    let s = eval("").unwrap();
    assert!(s.sampling.greedy && s.num_samples == 1 && s.model.trained == Trained::Nothing);
    assert!(!s.data.shuffle);
    let s = eval("--do_sample --num_samples 4 --temperature 0.7").unwrap();
    assert_eq!((s.sampling.greedy, s.num_samples, s.sampling.temperature), (false, 4, 0.7));
    for line in ["--num_samples 4", "--temperature 0.7", "--top_k 5"] {
        says(eval(line).unwrap_err(), line, &["--do_sample"]);
    }
    let o = parse(Command::Init, "--output_dir o --dataset_name d.jsonl --seed 3").unwrap();
    let s = InitSettings::from_options(&o).unwrap();
    assert_eq!((s.family.as_str(), s.seed, s.data_files.len()), ("qwen2_5_vl", 3, 1));
    let o = parse(Command::MakeShapes, "--output_dir o --num_rows 5").unwrap();
    assert_eq!(MakeShapesSettings::from_options(&o).unwrap().num_rows, 5);
    let o = parse(Command::Inspect, "--dataset_name d.jsonl --out p.html --json").unwrap();
    let s = InspectSettings::from_options(&o).unwrap();
    assert_eq!((s.model, s.num_samples, s.page), (None, 8, Some("p.html".into())));
    let line = "--input a/x.json b/y.json --image_folders c --output_dir o --system_prompt=";
    let s = ConvertSettings::from_options(&parse(Command::ConvertVivqaX, line).unwrap()).unwrap();
    let outs: Vec<&Path> = s.files.iter().map(|(_, out)| out.as_path()).collect();
    assert_eq!(outs, [Path::new("o/x.jsonl"), Path::new("o/y.jsonl")]);
    assert_eq!((s.image_folders.len(), s.system_prompt), (2, None));
    let o = parse(Command::Trace, "--model m --messages x.json --out t.safetensors --grad");
    let s = TraceSettings::from_options(&o.unwrap()).unwrap();
    assert!(s.grad && s.out == Path::new("t.safetensors"));
    let s = DemoSettings::from_options(&parse(Command::Demo, "").unwrap()).unwrap();
    assert_eq!(s.output_dir, Path::new("grpo-rt-demo"));
}

#[test]
fn missing_paths_are_found_before_any_work() {
    let (folder, data) = config("d.jsonl", "");
    let check = |model: &str, data: &str| {
        let line = format!("--model {model} --dataset_name {data} --output_dir new");
        check_paths(&parse(Command::Train, &line).unwrap())
    };
    let (model, data) = (folder.path().to_str().unwrap(), data.to_str().unwrap());
    check(model, data).unwrap();
    says(check(model, "x.jsonl").unwrap_err(), "data", &["`dataset_name`", "x.jsonl"]);
    let hint = ["hf download Qwen/Qwen2.5-VL-3B-Instruct"];
    says(check("Qwen/Qwen2.5-VL-3B-Instruct", data).unwrap_err(), "model", &hint);
}

#[test]
fn an_encoder_needs_a_reward_that_asks_it() {
    let steps = |line: &str| settings(line).unwrap().rewards.told.steps;
    let told = steps("--reward_funcs reasoning --sentence_encoder e --match_order_weight 0.3");
    assert_eq!(told.sentence_encoder.as_deref(), Some(std::path::Path::new("e")));
    assert_eq!((told.match_threshold, told.match_order_weight), (None, 0.3));
    assert!(steps("--reward_funcs explanation --sentence_encoder e").sentence_encoder.is_some());
    refused("--sentence_encoder e", &["`sentence_encoder` would do nothing", "reasoning"]);
    let line = "--reward_funcs explanation --match_threshold 0.5";
    refused(line, &["`match_threshold` would do nothing"]);
    refused("--match_order_weight 0.3", &["`match_order_weight` would do nothing"]);
}
