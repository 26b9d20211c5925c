//! What trackers are told of a run: event files read back by a reader of our own, Weights & Biases through
//! a client that writes down its calls and misbehaves on demand, alerts in every place they belong.

use grpo_rt::track::health::AlertLog;
use grpo_rt::track::health::{Health, NON_FINITE};
use grpo_rt::track::{Event, MetricRow, Sink, TensorBoardSink, WandbSettings, WandbSink};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

mod events; // a strict reader of event files
mod fake_wandb; // a client that writes down its calls
mod program; // the program, as tests run it

use events::{Read, Shown, read_folder};
use fake_wandb::FakeWandb;
use grpo_rt::track::WandbLimits;
use program::program;

/// A folder with pictures and a new model.
fn lab() -> &'static Path {
    static LAB: OnceLock<PathBuf> = OnceLock::new();
    LAB.get_or_init(|| program::lab_with_model("trackers", "--num_rows 8", 320))
}

const TRAIN: &str = "train --model new --dataset_name shapes/train.jsonl --num_generations 2 \
    --batch_size 4 --max_completion_length 8 --reward_funcs format exact --beta 0.04 --threads 2";

/// Runs the program in the lab; what it said on standard error.
fn said(line: &str, python: &Path, works: bool) -> String {
    let mut command = program();
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WANDB_")) {
        command.env_remove(name);
    }
    let done = command
        .args(line.split_whitespace())
        .arg("--python")
        .arg(python)
        .current_dir(lab())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.success(), works, "{line}: {said}");
    said
}

fn row(step: u64, values: &[(&str, f64)]) -> MetricRow {
    let values = values.iter().map(|(n, v)| (n.to_string(), *v)).collect();
    MetricRow { step, epoch: 0.5, values }
}

fn tags(events: &[Read], wanted: fn(&Shown) -> bool) -> BTreeSet<&str> {
    events.iter().filter(|e| wanted(&e.shown)).map(|e| e.tag.as_str()).collect()
}

/// Scalars of TRL 1.16 with `beta` above 0 and `loss_type dapo`, and the end of the Hugging Face trainer.
const SCALARS: &[&str] = &[
    "loss",
    "grad_norm",
    "learning_rate",
    "num_tokens",
    "step_time",
    "epoch",
    "reward",
    "reward_std",
    "frac_reward_zero_std",
    "entropy",
    "kl",
    "rewards/format/mean",
    "rewards/format/std",
    "rewards/exact/mean",
    "rewards/exact/std",
    "completions/mean_length",
    "completions/min_length",
    "completions/max_length",
    "completions/mean_terminated_length",
    "completions/min_terminated_length",
    "completions/max_terminated_length",
    "completions/clipped_ratio",
    "clip_ratio/low_mean",
    "clip_ratio/low_min",
    "clip_ratio/high_mean",
    "clip_ratio/high_max",
    "clip_ratio/region_mean",
    "sampling/sampling_logp_difference/mean",
    "sampling/sampling_logp_difference/max",
    "train_runtime",
    "train_samples_per_second",
    "train_steps_per_second",
    "total_flos",
    "train_loss",
];

#[test]
fn a_run_tells_its_trackers_everything_and_goes_on_in_the_same_run() {
    let fake = FakeWandb::new(&lab().join("fine"), "fine");
    let line = format!(
        "{TRAIN} --report_to tensorboard wandb jsonl --log_completions --num_completions_to_print 3 \
         --run_name mine --project colours --save_steps 2 --output_dir told"
    );
    let text = said(&format!("{line} --max_steps 3"), &fake.python(), true);
    assert!(text.contains("a line of the client"), "{text}");
    assert!(text.contains("train_runtime"), "{text}");
    board(&lab().join("told/runs"));
    client(&fake);

    // The last checkpoint is that of step 3.
    let kept: Value =
        serde_json::from_slice(&std::fs::read(lab().join("told/wandb_run.json")).unwrap()).unwrap();
    let more = format!("{line} --max_steps 5 --resume_from_checkpoint true --quiet");
    said(&more, &fake.python(), true);
    let again = fake.calls_of("init").pop().unwrap();
    assert_eq!((&again["id"], &again["resume"]), (&kept["id"], &json!("allow")));
    assert_eq!(again["project"], "colours");
    let steps: Vec<u64> = fake
        .calls_of("log")
        .iter()
        .filter(|c| c["values"].get("train/loss").is_some())
        .map(|c| c["values"]["train/global_step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, [1, 2, 3, 4, 5]);
    let metrics = std::fs::read_to_string(lab().join("told/metrics.jsonl")).unwrap();
    assert_eq!(metrics.lines().count(), 5);
    assert!(
        metrics.contains("\"trackers/wandb_lost\":0.0") && metrics.contains("\"health/active\":")
    );
}

/// What TensorBoard shows of three steps.
fn board(dir: &Path) {
    let events = read_folder(dir);
    let scalars = tags(&events, |s| matches!(s, Shown::Scalar(_)));
    for name in SCALARS {
        assert!(scalars.contains(format!("train/{name}").as_str()), "{name} in {scalars:?}");
    }
    let at = |tag: &str| -> Vec<u64> {
        events.iter().filter(|e| e.tag == tag).map(|e| e.step).collect()
    };
    assert_eq!(at("train/loss"), [1, 2, 3]);
    assert_eq!(at("train/train_loss"), [3]);
    let texts = tags(&events, |s| matches!(s, Shown::Text(_)));
    for name in ["args", "model_config", "samples", "completions"] {
        assert!(texts.contains(format!("{name}/text_summary").as_str()), "{name} in {texts:?}");
    }
    let text = |tag: &str| match &events.iter().find(|e| e.tag == tag).unwrap().shown {
        Shown::Text(text) => text.clone(),
        other => panic!("{other:?}"),
    };
    assert!(text("args/text_summary").contains("| run_name | `mine` |"));
    assert!(text("model_config/text_summary").contains("model_type"));
    let completions = text("completions/text_summary");
    assert!(completions.contains("## Prompt") && completions.contains("[image]"), "{completions}");
    assert!(completions.contains("| format | exact | reward | advantage |"), "{completions}");
    assert_eq!(completions.matches("| advantage |").count(), 3, "as many as are printed");
    let histograms = tags(&events, |s| matches!(s, Shown::Histogram(..)));
    let expected = ["advantage", "completion_length", "entropy", "log_ratio", "reward"];
    assert_eq!(
        histograms,
        expected.map(|n| format!("histograms/{n}")).iter().map(|s| &**s).collect()
    );
    let pictures = tags(&events, |s| matches!(s, Shown::Image(..)));
    assert!(pictures.contains("samples/image_0"), "{pictures:?}");
    assert!(pictures.contains("completions/prompt_0/image_0"), "{pictures:?}");
    for e in &events {
        if let Shown::Image(width, height, file) = &e.shown {
            let image = image::load_from_memory(file).unwrap();
            assert_eq!((u64::from(image.width()), u64::from(image.height())), (*width, *height));
        }
    }
}

/// What the client was told of three steps.
fn client(fake: &FakeWandb) {
    let calls = fake.calls();
    let names: Vec<&str> = calls.iter().map(|c| c["call"].as_str().unwrap()).collect();
    assert_eq!(names[..3], ["init", "define_metric", "define_metric"]);
    assert_eq!(names.last(), Some(&"finish"));
    assert_eq!(calls.last().unwrap()["exit_code"], 0);
    let init = &calls[0];
    assert_eq!((&init["project"], &init["name"]), (&json!("colours"), &json!("mine")));
    assert_eq!(init["config"]["max_steps"], 3);
    assert!(init["dir"].as_str().unwrap().ends_with("/told"), "{init}");
    let config = fake.calls_of("config");
    assert!(config[0]["values"]["model_config"]["model_type"].is_string());
    let loss = calls.iter().find(|c| c["values"].get("train/loss").is_some()).unwrap();
    assert_eq!(loss["values"]["train/global_step"], 1);
    assert_eq!(loss["values"]["train/epoch"], json!(0.25));

    let tables: Vec<&Value> = calls.iter().map(|c| &c["values"]["completions"]["Table"]).collect();
    let tables: Vec<&Value> = tables.into_iter().filter(|t| !t.is_null()).collect();
    assert_eq!(tables.len(), 3);
    let columns = ["step", "prompt", "completion", "format", "exact", "advantage", "image"];
    assert_eq!(tables[0]["columns"], json!(columns));
    let rows = tables[0]["data"].as_array().unwrap();
    assert_eq!(rows.len(), 4);
    assert_eq!(rows[0][1][0]["role"], "user");
    assert!(rows[0][1][0]["content"].as_array().unwrap().contains(&json!({"type": "image"})));
    assert_eq!(rows[0][2][0]["role"], "assistant");
    assert!(rows[0][6][0]["Image"].as_u64().unwrap() > 50, "{}", rows[0]);
    let bins = calls.iter().find_map(|c| c["values"]["histograms/reward"]["Histogram"].as_array());
    let bins = bins.expect("a distribution");
    assert_eq!(bins[1].as_array().unwrap().len(), bins[0].as_array().unwrap().len() + 1);
    let summary: Vec<Value> = fake.calls_of("summary").iter().map(|c| c["name"].clone()).collect();
    assert!(summary.contains(&json!("train_runtime")) && summary.contains(&json!("train_loss")));
}

#[test]
fn a_client_that_dies_costs_figures_and_no_step() {
    let fake = FakeWandb::new(&lab().join("dies"), "dies");
    let line = format!("{TRAIN} --report_to wandb,jsonl --max_steps 6 --output_dir lost --quiet");
    let text = said(&line, &fake.python(), true);
    assert!(text.contains("warning: wandb is lost, the run goes on without it"), "{text}");
    assert!(text.contains("exit status: 7"), "{text}");
    let metrics = std::fs::read_to_string(lab().join("lost/metrics.jsonl")).unwrap();
    assert_eq!(metrics.lines().count(), 6);
    assert!(fake.calls_of("finish").is_empty());
}

#[test]
fn a_client_that_is_missing_or_refuses_is_an_error_with_a_command() {
    for (mode, what, hint) in [
        ("missing", "the wandb client is not installed", "-m pip install wandb"),
        ("broken", "the wandb client cannot be loaded", "-c 'import wandb'"),
        ("refuses", "the wandb client does not begin a run", "WANDB_MODE=offline"),
    ] {
        let fake = FakeWandb::new(&lab().join(mode), mode);
        let line =
            format!("{TRAIN} --report_to wandb --max_steps 1 --output_dir never_{mode} --quiet");
        let text = said(&line, &fake.python(), false);
        assert!(text.contains(what) && text.contains(hint), "{mode}: {text}");
        assert!(!lab().join(format!("never_{mode}/config.resolved.yaml")).exists(), "{mode}");
    }
    // `all` takes what is there.
    let fake = FakeWandb::new(&lab().join("all"), "missing");
    let line = format!("{TRAIN} --report_to all --max_steps 1 --output_dir all");
    let text = said(&line, &fake.python(), true);
    assert!(text.contains("Weights & Biases is left out"), "{text}");
    assert!(lab().join("all/metrics.jsonl").is_file() && lab().join("all/runs").is_dir());
}

fn settings(fake: &FakeWandb) -> WandbSettings {
    WandbSettings {
        run_name: None,
        project: None,
        python: fake.python(),
        required: true,
        completions: true,
        unique_prompts: false,
        multimodal: true,
    }
}

#[test]
fn a_client_that_hangs_is_left_behind_after_its_limit() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeWandb::new(&dir.path().join("fake"), "hangs");
    let limits = WandbLimits { tell: Duration::from_secs(10), ..WandbLimits::default() };
    let start = Instant::now();
    let mut sink =
        WandbSink::start_within(&settings(&fake), dir.path(), &Map::new(), false, limits).unwrap();
    let lost = sink.lost();
    (1..=5).for_each(|s| sink.log(&row(s, &[("loss", 0.5)])).unwrap());
    sink.close().unwrap();
    assert!(start.elapsed() < Duration::from_secs(200), "{:?}", start.elapsed());
    assert_eq!(fake.calls_of("log").len(), 2);
    assert_eq!(lost.load(Ordering::Relaxed), 3);
    let notices = sink.notices().join("\n");
    assert!(notices.contains("no answer in time"), "{notices}");
    // Telling it more changes nothing but nothing breaks either.
    sink.log(&row(6, &[("loss", 0.5)])).unwrap();
}

#[test]
fn what_a_client_refuses_is_told_a_few_times_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeWandb::new(&dir.path().join("fake"), "fails");
    let mut sink = WandbSink::start(&settings(&fake), dir.path(), &Map::new(), false).unwrap();
    let lost = sink.lost();
    let broken = ("reward", f64::NAN);
    (1..=9).for_each(|s| sink.log(&row(s, &[("loss", 0.5), broken])).unwrap());
    sink.close().unwrap();
    assert_eq!(lost.load(Ordering::Relaxed), 7);
    let told = sink.notices();
    let count = told.iter().filter(|l| l.contains("the table is wrong")).count();
    assert_eq!(count, 3, "{told:?}");
    let first = &fake.calls_of("log")[0]["values"];
    assert_eq!(*first, json!({"train/loss": 0.5, "train/epoch": 0.5, "train/global_step": 1}));
    assert_eq!(fake.calls_of("finish")[0]["exit_code"], 0);
}

#[test]
fn a_run_that_fails_ends_as_failed_at_the_client() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeWandb::new(&dir.path().join("fake"), "fine");
    let sink = WandbSink::start(&settings(&fake), dir.path(), &Map::new(), false).unwrap();
    drop(sink);
    assert_eq!(fake.calls_of("finish")[0]["exit_code"], 1);
}

#[test]
fn alerts_are_in_every_place_and_can_stop_a_run() {
    let fake = FakeWandb::new(&lab().join("alerted"), "fine");
    // A model that knows nothing never ends its completions before eight tokens.
    let line = format!(
        "{TRAIN} --report_to all --max_steps 30 --stop_on_alert truncation --output_dir alarmed \
         --logging_first_step --temperature 1"
    );
    let text = said(&line, &fake.python(), false);
    assert!(text.contains("stopped by the alert `truncation`"), "{text}");
    assert!(text.contains("docs/tuning.md#truncation"), "{text}");
    let alerts = AlertLog::new(lab().join("alarmed")).read().unwrap();
    let alert = alerts.iter().find(|a| a.name == "truncation").unwrap();
    assert_eq!(alert.step, 5, "the window of the rule");
    assert!(lab().join("alarmed/checkpoint-5").is_dir());
    let html = std::fs::read_to_string(lab().join("alarmed/report.html")).unwrap();
    assert!(html.contains("<section id=\"health\">") && html.contains("<b>truncation</b>"));
    let events = read_folder(&lab().join("alarmed/runs"));
    assert!(events.iter().any(|e| e.tag == "health/truncation/text_summary"));
    let on = events.iter().find(|e| e.tag == "train/health/truncation").unwrap();
    assert_eq!((on.step, &on.shown), (5, &Shown::Scalar(1.0)));
    assert_eq!(fake.calls_of("alert")[0]["title"], "truncation");

    // The session that goes on knows what was told.
    let more = line
        .replace("--stop_on_alert truncation", "--resume_from_checkpoint true")
        .replace("--max_steps 30", "--max_steps 7");
    said(&more, &fake.python(), true);
    let again = AlertLog::new(lab().join("alarmed")).read().unwrap();
    assert_eq!(again.iter().filter(|a| a.name == "truncation").count(), 1, "{again:?}");
}

#[test]
fn every_event_is_read_back_from_the_event_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = TensorBoardSink::create(dir.path(), Some(4)).unwrap();
    sink.take(&Event::Line("not for it".into())).unwrap();
    sink.log(&row(5, &[("loss", -0.25), ("kl", f64::NAN)])).unwrap();
    let values = vec![1.0, 2.0, 2.0, f64::INFINITY];
    sink.take(&Event::Histogram { name: "reward", step: 5, values }).unwrap();
    let values = json!({"a|b": "x`y", "n": null}).as_object().unwrap().clone();
    sink.take(&Event::Settings { name: "args", values }).unwrap();
    let alert = Health::default().look(&row(5, &[(NON_FINITE, 1.0)])).pop().unwrap();
    sink.take(&Event::Alert(alert)).unwrap();
    let figures = vec![("train_loss".to_string(), 0.5)];
    sink.take(&Event::Summary { step: 9, figures }).unwrap();
    sink.close().unwrap();

    let events = read_folder(dir.path());
    let find = |tag: &str| events.iter().find(|e| e.tag == tag).unwrap_or_else(|| panic!("{tag}"));
    assert_eq!(events[0].shown, Shown::Version("brain.Event:2".into()));
    assert_eq!((events[1].step, &events[1].shown), (5, &Shown::Start));
    assert_eq!(find("train/loss").shown, Shown::Scalar(-0.25));
    assert_eq!(find("train/epoch").shown, Shown::Scalar(0.5));
    assert!(events.iter().all(|e| e.tag != "train/kl"), "NaN is left out");
    assert!(matches!(&find("histograms/reward").shown, Shown::Histogram(n, _) if *n == 3.0));
    let expected = "| option | value |\n|---|---|\n| a|b | `x'y` |\n| n | `null` |\n";
    assert_eq!(find("args/text_summary").shown, Shown::Text(expected.into()));
    assert!(matches!(&find("health/non_finite/text_summary").shown,
        Shown::Text(t) if t.starts_with("**non_finite** begun: ")));
    assert_eq!((find("train/train_loss").step, events.len()), (9, 8));
}
