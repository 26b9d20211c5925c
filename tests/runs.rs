//! `grpo-rt runs` on real runs: what is listed, shown, compared, copied and removed, and states that are
//! true after a kill. The page is tests/web_page.rs.

use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;

mod program; // the program, as tests run it
mod small_runs; // two real runs

use program::program;
use small_runs::{TRAIN, lab, train};

/// The folder with both runs; tests that change something copy it.
fn shared() -> &'static Path {
    static LAB: OnceLock<PathBuf> = OnceLock::new();
    LAB.get_or_init(|| {
        let dir = lab("runs");
        train(&dir);
        dir
    })
}

fn ask(dir: &Path, words: &[&str]) -> Output {
    program().args(words).current_dir(dir).stdin(Stdio::null()).output().unwrap()
}

/// What the program prints; it must work.
fn told(dir: &Path, line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let done = ask(dir, &words);
    assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// What the program says as it refuses.
fn refused(dir: &Path, line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let done = ask(dir, &words);
    assert!(!done.status.success(), "{line} worked");
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(said.contains("hint"), "{line}: {said}");
    said
}

fn json(dir: &Path, line: &str) -> Value {
    serde_json::from_str(&told(dir, line)).unwrap()
}

/// A copy of the folder's runs that a test may change.
fn copy(name: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&dir);
    copy_tree(&shared().join("out"), &dir.join("out"));
    dir
}

fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_tree(&path, &target);
        } else {
            std::fs::copy(&path, target).unwrap();
        }
    }
}

#[test]
fn runs_are_listed_shown_and_compared() {
    let dir = shared();
    let text = told(dir, "runs list");
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("RUN") && lines.len() == 3, "{text}");
    assert!(text.contains("done") && text.contains("6/6") && text.contains("4/4"), "{text}");
    assert!(!text.contains('\u{1b}'), "no colours in a pipe");
    let narrow =
        program().args(["runs", "list"]).env("COLUMNS", "30").current_dir(dir).output().unwrap();
    let narrow = String::from_utf8(narrow.stdout).unwrap();
    assert!(
        narrow.lines().all(|l| l.chars().count() <= 30) && narrow.contains("alpha"),
        "{narrow}"
    );
    let all = json(dir, "runs list --json --sort id");
    assert_eq!((&all[0]["run_id"], &all[1]["state"]), (&"alpha".into(), &"done".into()));
    assert!(all[0]["last"].is_number() && all[0]["line"].as_array().unwrap().len() == 6);
    assert!(told(dir, "runs list --state failed").contains("none of 2 runs"));

    let text = told(dir, "runs show alpha");
    for part in ["alpha", "step 6/6", "lora_r", "reward", "checkpoints", "metrics.jsonl", "run.log"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    let details = json(dir, "runs show --run_id beta --json");
    let changed = details["changed"].as_array().unwrap();
    assert!(changed.iter().any(|c| c[0] == "learning_rate" && c[1] == "0.0001"), "{changed:?}");
    assert_eq!(details["checkpoints"].as_array().unwrap().len(), 2);

    let text = told(dir, "runs compare alpha beta --html both.html");
    assert!(
        text.contains("learning_rate") && text.contains("reward") && text.contains('▁'),
        "{text}"
    );
    let page = std::fs::read_to_string(dir.join("both.html")).unwrap();
    assert!(page.contains("Settings that differ") && page.matches("<svg").count() > 5);
    let found = json(dir, "runs compare alpha out/beta --json");
    let names: Vec<&str> =
        found["settings"].as_array().unwrap().iter().map(|s| s[0].as_str().unwrap()).collect();
    assert!(names.contains(&"use_peft") && !names.contains(&"run_id"), "{names:?}");
    assert!(refused(dir, "runs compare alpha").contains("at least two"));
    assert!(refused(dir, "runs show").contains("one run"));
    let unknown = refused(dir, "runs show gamma");
    assert!(unknown.contains("alpha, beta"), "{unknown}");
}

#[test]
fn logs_checkpoints_and_reports() {
    let dir = shared();
    let log = told(dir, "runs logs alpha");
    assert!(
        log.contains("step 1/6") && log.contains("step 6/6") && log.trim_end().ends_with("done"),
        "{log}"
    );
    assert_eq!(told(dir, "runs logs alpha --lines 1 --follow").lines().count(), 1);
    let text = told(dir, "runs checkpoints alpha --verify");
    assert!(
        text.contains("adapter") && text.contains("whole") && text.lines().count() == 3,
        "{text}"
    );
    let all = json(dir, "runs checkpoints beta --json");
    assert_eq!((&all[0]["step"], &all[1]["kind"]), (&2.into(), &"full".into()));
    let before = std::fs::read(dir.join("out/alpha/report.html")).unwrap();
    assert!(told(dir, "runs report alpha").contains("report.html"));
    assert_eq!(std::fs::read(dir.join("out/alpha/report.html")).unwrap(), before);
}

#[test]
fn models_are_copied_out_whole_or_not_at_all() {
    let dir = copy("runs_fetch");
    let said = told(&dir, "runs fetch alpha --to final");
    assert!(said.contains("adapter"), "{said}");
    let names = |at: &str| -> Vec<String> {
        let all = std::fs::read_dir(dir.join(at)).unwrap();
        all.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    };
    assert!(names("final").contains(&"adapter_model.safetensors".to_string()));
    assert!(
        !names("final").contains(&"metrics.jsonl".to_string()),
        "records are no part of a model"
    );
    told(&dir, "runs fetch beta:2 --to two");
    assert_eq!(names("two").len(), names("out/beta/checkpoint-2").len());
    for file in names("two") {
        let read = |at: &str| std::fs::read(dir.join(at).join(&file)).unwrap();
        assert_eq!(read("two"), read("out/beta/checkpoint-2"), "{file}");
    }
    // The program loads what was fetched.
    let chat = "infer --model two --prompt hello --max_completion_length 3 --threads 2";
    assert!(!told(&dir, chat).is_empty());
    assert!(refused(&dir, "runs fetch beta --to two").contains("not empty"));
    assert!(refused(&dir, "runs fetch beta:3 --to three").contains("2, 4"));

    // A cut file is found, named, and not copied.
    let weights = dir.join("out/beta/checkpoint-4/model.safetensors");
    let length = std::fs::metadata(&weights).unwrap().len();
    std::fs::File::options().write(true).open(&weights).unwrap().set_len(length / 2).unwrap();
    assert!(told(&dir, "runs checkpoints beta").contains("damaged"));
    assert!(refused(&dir, "runs fetch beta:4 --to four").contains("model.safetensors"));
    assert!(!dir.join("four").exists());
    told(&dir, "runs fetch beta:latest --to newest");
    assert_eq!(names("newest").len(), names("out/beta/checkpoint-2").len());

    // Sums, as `sha256sum` makes them, are held against the files.
    let kept = dir.join("out/beta/checkpoint-2");
    let sums = "0".repeat(64) + "  config.json\n";
    std::fs::write(kept.join("SHA256SUMS"), sums).unwrap();
    let said = told(&dir, "runs checkpoints beta --verify");
    assert!(said.contains("config.json") && said.contains("SHA-256"), "{said}");
    assert!(refused(&dir, "runs fetch beta:2 --to sums").contains("damaged"));
}

#[test]
fn a_run_is_removed_and_what_is_not_its_own_stays() {
    let dir = copy("runs_delete");
    for theirs in ["notes.txt", "completions/mine.csv", "runs/plot.png", "README.md"] {
        std::fs::write(dir.join("out/alpha").join(theirs), "mine").unwrap();
    }
    let unasked = refused(&dir, "runs delete alpha");
    assert!(unasked.contains("--yes") && dir.join("out/alpha/metrics.jsonl").exists(), "{unasked}");
    let said = told(&dir, "runs delete alpha --yes");
    for named in ["notes.txt", "mine.csv", "plot.png", "README.md", "its folder stays"] {
        assert!(said.contains(named), "{named}: {said}");
    }
    let mut left: Vec<String> = std::fs::read_dir(dir.join("out/alpha"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, ["README.md", "completions", "notes.txt", "runs"]);
    assert!(told(&dir, "runs delete beta --yes").contains("with its folder"));
    assert!(!dir.join("out/beta").exists());
    assert!(told(&dir, "runs list").contains("no runs"));
}

/// A run that will not end by itself, seen at its first step.
fn endless(dir: &Path, id: &str) -> Child {
    let line = format!("{TRAIN} --run_id {id} --max_steps 1000000 --save_steps 0");
    let child = program()
        .args(line.split_whitespace())
        .current_dir(dir)
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let metrics = dir.join("out").join(id).join("metrics.jsonl");
    let begin = Instant::now();
    while std::fs::metadata(&metrics).map_or(0, |m| m.len()) == 0 {
        assert!(begin.elapsed() < Duration::from_secs(300), "the run does not begin");
        std::thread::sleep(Duration::from_millis(50));
    }
    child
}

#[test]
fn states_are_true_after_a_kill() {
    let dir = lab("runs_kill");
    let state = |id: &str| {
        let all = json(&dir, "runs list --json");
        let run = all.as_array().unwrap().iter().find(|r| r["run_id"] == id).cloned().unwrap();
        (run["state"].as_str().unwrap().to_string(), run["note"].as_str().unwrap_or("").to_string())
    };
    let mut first = endless(&dir, "one");
    assert_eq!(state("one").0, "running");
    // Nobody else writes into its folder, resumes it or removes it.
    let line = format!("{TRAIN} --run_id one --max_steps 2 --overwrite_output_dir");
    assert!(refused(&dir, &line).contains("another process"));
    assert!(refused(&dir, "runs delete one --yes").contains("running"));
    assert_eq!(state("one").0, "running");
    first.kill().unwrap();
    first.wait().unwrap();
    let (now, why) = state("one");
    assert_eq!((now.as_str(), why.contains("without a word")), ("failed", true));
    assert!(told(&dir, "runs logs one --follow").contains("step 1/"), "it ends, as the run has");

    let mut second = endless(&dir, "two");
    let pid = second.id().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert_eq!(second.wait().unwrap().code(), Some(130));
    assert_eq!(state("two"), ("stopped".into(), String::new()));

    // An error is told with its words: here a picture that ends too early, some steps into the run.
    let rows = std::fs::read_to_string(dir.join("shapes/train.jsonl")).unwrap();
    let rows: Vec<&str> = rows.lines().take(6).collect();
    let last: Value = serde_json::from_str(rows[5]).unwrap();
    let picture = std::fs::read(dir.join("shapes").join(last["image"].as_str().unwrap())).unwrap();
    std::fs::write(dir.join("shapes/half.png"), &picture[..picture.len() * 2 / 3]).unwrap();
    let mut half = last.clone();
    half["image"] = "half.png".into();
    let rows = format!("{}\n{half}\n", rows[..5].join("\n"));
    std::fs::write(dir.join("shapes/half.jsonl"), rows).unwrap();
    let line = TRAIN.replace("train.jsonl", "half.jsonl");
    let more = "--run_id three --max_steps 8 --strict_data --no_shuffle_dataset";
    refused_or_failed(&dir, &format!("{line} {more}"));
    let (now, why) = state("three");
    assert_eq!(now, "failed");
    assert!(why.contains("half.png"), "{why}");
    assert!(told(&dir, "runs logs three").contains("failed: "));
}

fn refused_or_failed(dir: &Path, line: &str) {
    let words: Vec<&str> = line.split_whitespace().collect();
    assert!(!ask(dir, &words).status.success(), "{line} worked");
}

#[test]
fn hostile_names_and_damaged_files_are_told_and_harm_nothing() {
    let dir = copy("runs_hostile");
    let name = "a b;\u{1b}[31m<script>'\"";
    std::fs::rename(dir.join("out/alpha"), dir.join("out").join(name)).unwrap();
    let file = dir.join("out").join(name).join("run.json");
    let mut run: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    run["run_id"] = name.into();
    std::fs::write(&file, run.to_string()).unwrap();
    std::fs::write(dir.join("out/beta/run.json"), "{\"run_id\": \"be").unwrap();
    std::fs::write(dir.join("out/beta/metrics.jsonl"), b"\xff\xfe{}\nnot json\n{\"step\":1}\n")
        .unwrap();
    std::fs::write(dir.join("out/beta/config.resolved.yaml"), "a: [").unwrap();
    let text = told(&dir, "runs list");
    assert!(!text.contains('\u{1b}') && text.contains("a b;") && text.contains("beta"), "{text}");
    assert!(text.contains("damaged"), "{text}");
    told(&dir, "runs show beta");
    let shown = ask(&dir, &["runs", "show", name]);
    assert!(shown.status.success() && !shown.stdout.contains(&0x1b));
    let compared = ask(&dir, &["runs", "compare", name, "beta", "--html", "c.html"]);
    assert!(compared.status.success(), "{}", String::from_utf8_lossy(&compared.stderr));
    let page = std::fs::read_to_string(dir.join("c.html")).unwrap();
    assert!(!page.contains("<script>'"), "a name became markup");
    let gone = ask(&dir, &["runs", "delete", name, "--yes"]);
    assert!(gone.status.success() && !dir.join("out").join(name).exists());
}
