//! `grpo-rt demo`: from nothing to a trained model and a report. The demo is a list of ordinary
//! command lines ([`STEPS`]); each is printed as a user would type it and goes through the same
//! parser. Nothing here can do what a user cannot.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Map, json};

use super::output::{check_output_dir, print, shell_word};
use super::{Outcome, demo_report, execute};
use crate::base::{Error, Result};
use crate::io::atomic::write_atomic;
use crate::options::{Command, OPTIONS, Options};
use crate::settings::DemoSettings;

/// One command of the demo.
struct Step {
    /// Why it is run, in one line.
    why: &'static str,
    /// What is typed after `grpo-rt`, with `{out}` for the demo's folder.
    line: &'static str,
    /// Key of summary.json for the accuracy that it measures.
    key: Option<&'static str>,
}

const fn step(why: &'static str, line: &'static str) -> Step {
    Step { why, line, key: None }
}

const fn measured(key: &'static str, why: &'static str, line: &'static str) -> Step {
    Step { why, line, key: Some(key) }
}

/// The demo. `--seed`, `--threads`, `--quiet` and `--overwrite_output_dir` of the demo are handed on
/// to every step that takes them.
const STEPS: &[Step] = &[
    step(
        "draw pictures of shapes with questions; test.jsonl has pictures that train.jsonl has not, \
         warmup.jsonl has the training rows as a mixed crowd answers them",
        "data make-shapes --output_dir {out}/shapes --num_rows 8192 --image_size 84",
    ),
    step(
        "make a tiny vision-language model with random weights, and its tokenizer",
        "init --family qwen2_5_vl --preset tiny --vocab_size 512 \
         --dataset_name {out}/shapes/warmup.jsonl --output_dir {out}/model",
    ),
    step(
        "warm it up on the crowd's answers: GRPO needs a model that is right now and then",
        "sft --model_name_or_path {out}/model --dataset_name {out}/shapes/warmup.jsonl \
         --output_dir {out}/sft --tune_mm_vision --tune_mm_mlp --max_steps 1200 \
         --per_device_train_batch_size 32 --learning_rate 4e-4 \
         --lr_scheduler_type constant_with_warmup --warmup_steps 100 \
         --logging_steps 50 --save_steps 0",
    ),
    measured(
        "greedy_before_grpo",
        "how often its best guess is right on pictures it has never seen",
        "eval --model_name_or_path {out}/sft --dataset_name {out}/shapes/test.jsonl \
         --reward_funcs accuracy --max_completion_length 16 --out {out}/eval_before_greedy.jsonl",
    ),
    measured(
        "accuracy_before_grpo",
        "how often it is right when it samples, as it does in training",
        "eval --model_name_or_path {out}/sft --dataset_name {out}/shapes/test.jsonl \
         --reward_funcs accuracy --max_completion_length 16 --do_sample --num_samples 4 \
         --temperature 1.0 --out {out}/eval_before.jsonl",
    ),
    step(
        "train it with GRPO: eight tries per question, the right ones in <answer> tags pay",
        "train --model_name_or_path {out}/sft --dataset_name {out}/shapes/train.jsonl \
         --output_dir {out}/grpo --tune_mm_vision --tune_mm_mlp --reward_funcs accuracy \
         --num_generations 8 --per_device_train_batch_size 128 --max_completion_length 16 \
         --max_steps 400 --learning_rate 1e-4 --lr_scheduler_type constant_with_warmup \
         --warmup_steps 10 --logging_steps 4 --save_steps 0",
    ),
    measured(
        "greedy_after_grpo",
        "the first question again, to the trained model",
        "eval --model_name_or_path {out}/grpo --dataset_name {out}/shapes/test.jsonl \
         --reward_funcs accuracy --max_completion_length 16 --out {out}/eval_after_greedy.jsonl",
    ),
    measured(
        "accuracy_after_grpo",
        "and the second",
        "eval --model_name_or_path {out}/grpo --dataset_name {out}/shapes/test.jsonl \
         --reward_funcs accuracy --max_completion_length 16 --do_sample --num_samples 4 \
         --temperature 1.0 --out {out}/eval_after.jsonl",
    ),
];

/// What the steps have come to so far.
#[derive(Default)]
struct Results {
    /// Accuracy by key, in the order of the steps.
    accuracy: Vec<(&'static str, f64)>,
    /// Folder and options of the GRPO run.
    grpo: Option<(PathBuf, Options)>,
}

/// Runs every step, then writes summary.json and report.html.
///
/// # Errors
/// A folder that is not empty (a former demo's too: it may be somebody's result), and what a step
/// returns.
pub fn demo(options: &Options) -> Result<Outcome> {
    let s = DemoSettings::from_options(options)?;
    check_output_dir(&s.output_dir, s.overwrite)?;
    let start = Instant::now();
    let mut results = Results::default();
    for (i, step) in STEPS.iter().enumerate() {
        let words = words_of(step, &s)?;
        if !s.quiet {
            let line: Vec<String> = words.iter().map(|w| shell_word(w)).collect();
            let number = format!("{}/{}", i + 1, STEPS.len());
            print(&format!("\n# {number}: {}\n$ grpo-rt {}\n", step.why, line.join(" ")));
        }
        run_step(step, &words, &mut results)?;
    }
    finish(&s, &results, start.elapsed().as_secs_f64())?;
    Ok(Outcome::Done)
}

fn run_step(step: &Step, words: &[String], results: &mut Results) -> Result<()> {
    let (command, taken) = Command::split(words)?;
    let options = Options::parse(command, &words[taken..])?;
    let outcome =
        execute(&options).map_err(|e| e.at(format!("demo, grpo-rt {}", command.name())))?;
    match (outcome, step.key) {
        (Outcome::Measured(report), Some(key)) => results.accuracy.push((key, report.accuracy)),
        (Outcome::Run(dir), _) if command == Command::Train => {
            results.grpo = Some((dir, options));
        }
        _ => {}
    }
    Ok(())
}

/// What is typed after `grpo-rt`, word by word.
fn words_of(step: &Step, s: &DemoSettings) -> Result<Vec<String>> {
    let out = s.output_dir.to_str().ok_or_else(|| {
        Error::usage("the output folder's name is not Unicode").file(&s.output_dir)
    })?;
    // Split first: the folder's name may have spaces.
    let mut words: Vec<String> =
        step.line.split_whitespace().map(|w| w.replace("{out}", out)).collect();
    let (command, _) = Command::split(&words)?;
    let mut hand_on = |name: &str, value: Option<String>| {
        let taken = OPTIONS.iter().any(|o| o.name == name && o.accepted_by(command));
        if taken && let Some(value) = value {
            words.push(format!("--{name}"));
            words.extend((!value.is_empty()).then_some(value));
        }
    };
    let switch = |on: bool| on.then(String::new);
    hand_on("seed", Some(s.seed.to_string()));
    hand_on("threads", s.threads.map(|n| n.to_string()));
    hand_on("quiet", switch(s.quiet));
    hand_on("overwrite_output_dir", switch(s.overwrite));
    Ok(words)
}

/// Writes what came out, and says it.
fn finish(s: &DemoSettings, results: &Results, seconds: f64) -> Result<()> {
    let mut summary: Map<String, serde_json::Value> =
        results.accuracy.iter().map(|(key, value)| (key.to_string(), json!(value))).collect();
    summary.insert("seconds".into(), json!(seconds));
    let file = s.output_dir.join("summary.json");
    write_atomic(&file, format!("{:#}\n", json!(summary)).as_bytes())?;
    let report = s.output_dir.join("report.html");
    if let Some((run_dir, options)) = &results.grpo {
        demo_report::write(&report, run_dir, options, &results.accuracy)?;
    }
    print(&closing(results, seconds, &report));
    Ok(())
}

/// The last lines of the demo.
fn closing(results: &Results, seconds: f64, report: &Path) -> String {
    let value = |key: &str| {
        let found = results.accuracy.iter().find(|(k, _)| *k == key);
        found.map_or("-".into(), |(_, v)| format!("{:.1} %", 100.0 * v))
    };
    let line = |name: &str, when: &str| {
        let (sampled, greedy) =
            (value(&format!("accuracy_{when}_grpo")), value(&format!("greedy_{when}_grpo")));
        format!("{name:<14}{sampled:>10}{greedy:>10}\n")
    };
    format!("\n{:<14}{:>10}{:>10}\n", "right answers", "sampled", "greedy")
        + &line("before GRPO", "before")
        + &line("after GRPO", "after")
        + &format!("\n{seconds:.0} s; open {} in a browser\n", report.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{EvalSettings, InitSettings, SftSettings, TrainSettings};

    fn settings(out: &str) -> DemoSettings {
        let (output_dir, overwrite) = (PathBuf::from(out), true);
        DemoSettings { output_dir, overwrite, seed: 3, threads: Some(2), quiet: false }
    }

    #[test]
    fn every_step_is_a_command_that_the_program_accepts() {
        for step in STEPS {
            let words = words_of(step, &settings("my demo")).unwrap();
            let (command, taken) = Command::split(&words).unwrap();
            let options = Options::resolve(command, &words[taken..], std::iter::empty())
                .unwrap_or_else(|e| panic!("{words:?}: {e}"));
            assert_eq!(options.int("seed"), Some(3), "{words:?}");
            match command {
                Command::Train => drop(TrainSettings::from_options(&options).unwrap()),
                Command::Sft => drop(SftSettings::from_options(&options).unwrap()),
                Command::Eval => drop(EvalSettings::from_options(&options).unwrap()),
                Command::Init => drop(InitSettings::from_options(&options).unwrap()),
                _ => assert_eq!(command, Command::MakeShapes),
            }
            assert!(words.iter().any(|w| w.starts_with("my demo/")), "{words:?}");
            assert_eq!(command == Command::Eval, step.key.is_some());
        }
    }

    #[test]
    fn what_is_measured_before_is_measured_after() {
        let keys: Vec<&str> = STEPS.iter().filter_map(|s| s.key).collect();
        for before in keys.iter().filter(|k| k.contains("_before_")) {
            let after = before.replace("_before_", "_after_");
            let line = |key: &str| STEPS.iter().find(|s| s.key == Some(key)).unwrap().line;
            let same = line(before).replace("/sft", "/grpo").replace("eval_before", "eval_after");
            assert_eq!(same, line(&after));
        }
        assert_eq!(keys.len(), 4);
    }

    #[test]
    fn the_closing_lines_have_every_number() {
        let accuracy = vec![("accuracy_before_grpo", 0.5), ("greedy_after_grpo", 0.875)];
        let results = Results { accuracy, grpo: None };
        let text = closing(&results, 61.2, Path::new("d/report.html"));
        for part in ["50.0 %", "87.5 %", "61 s", "d/report.html"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
