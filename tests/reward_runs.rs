//! Whole runs with rewards of one's own that hang, crash and lie, and with judges that are down or talk
//! nonsense: every step is done within its limits, and what happened is in the metrics.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;

mod fake_judge; // a server that does what it is told
mod program; // the program, as tests run it

use fake_judge::{Act, FakeJudge};
use program::run_in;

const REWARDS: &str = r#"
import os, sys, time

def mine(completions, image, log_metric, log_extra, trainer_state, **kwargs):
    log_metric("mine/step", trainer_state.global_step)
    log_extra("picture", image)
    print("scoring", len(completions))
    return [len(c[0]["content"]) % 3 / 2 for c in completions]

calls = 0

def hangs(completions, **kwargs):
    global calls
    calls += 1
    if calls > 1 or len(completions) > 1:
        time.sleep(600)
    return [1.0]

def crashes(completions, **kwargs):
    if len(completions) > 1:
        os._exit(9)
    return [0.5]

def forever(completions, **kwargs):
    with open("pid", "w") as f:
        f.write(str(os.getpid()))
    os.rename("pid", "started")
    while True:
        pass
"#;

/// A folder with pictures, a new model and the rewards.
fn lab() -> &'static Path {
    static LAB: OnceLock<PathBuf> = OnceLock::new();
    LAB.get_or_init(|| {
        let dir = program::lab_with_model("reward_runs", "--num_rows 8", 320);
        std::fs::write(dir.join("rewards.py"), REWARDS).unwrap();
        dir
    })
}

const TRAIN: &str = "train --model new --dataset_name shapes/train.jsonl --num_generations 2 \
    --batch_size 4 --max_completion_length 8 --logging_steps 1 --threads 2 --quiet";

fn column(run: &str, name: &str) -> Vec<f64> {
    let text = std::fs::read_to_string(lab().join(run).join("metrics.jsonl")).unwrap();
    let row = |l: &str| serde_json::from_str::<BTreeMap<String, Value>>(l).unwrap();
    text.lines().filter_map(|l| row(l).get(name).and_then(Value::as_f64)).collect()
}

fn sum(run: &str, name: &str) -> f64 {
    column(run, name).iter().sum()
}

#[test]
fn a_reward_in_python_trains_and_logs() {
    let line = format!(
        "{TRAIN} --reward_funcs rewards.py:mine exact --max_steps 2 --eval_dataset \
         shapes/train.jsonl --output_dir python"
    );
    run_in(lab(), &line);
    assert_eq!(column("python", "mine/step"), [0.0, 1.0]);
    assert_eq!(column("python", "rewards/mine/mean").len(), 2);
    assert_eq!(column("python", "eval_rewards/mine/mean").len(), 1);
    assert_eq!(column("python", "eval_mine/step").len(), 1);
    assert_eq!(sum("python", "rewards/failed"), 0.0);
    let file = std::fs::File::open(lab().join("python/completions/completions_00001.parquet"));
    let reader =
        parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file.unwrap());
    let schema = reader.unwrap().schema().clone();
    let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
    let expected = ["step", "prompt", "completion", "mine", "exact", "picture", "advantage"];
    assert_eq!(names, expected);
}

#[test]
fn hung_and_crashing_rewards_cost_their_samples_and_no_step() {
    let start = Instant::now();
    let line = format!(
        "{TRAIN} --reward_funcs rewards.py:hangs rewards.py:crashes exact --reward_timeout 1 \
         --max_steps 2 --output_dir stuck"
    );
    run_in(lab(), &line);
    // Eight completions in groups of two: two seconds for a group, one or two for its halves, and starts.
    assert!(start.elapsed() < Duration::from_secs(240), "{:?}", start.elapsed());
    assert_eq!(column("stuck", "loss").len(), 2);
    // The first of a group finds a new process, which answers once.
    assert_eq!(sum("stuck", "rewards/hangs/timeouts"), 4.0);
    assert_eq!(sum("stuck", "rewards/crashes/restarts"), 4.0);
    assert_eq!(sum("stuck", "rewards/crashes/errors"), 0.0);
    assert_eq!(column("stuck", "rewards/crashes/mean"), [0.5, 0.5]);
    assert_eq!(sum("stuck", "rewards/failed"), 4.0);
}

#[test]
fn judges_that_are_down_or_talk_nonsense_cost_their_verdicts_and_no_step() {
    let hung = FakeJudge::start(|_, _| Act::Hang);
    let mad = FakeJudge::start(|_, _| Act::Say("what a lovely day"));
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let dead = format!("http://{dead}/v1");
    for (run, url, figure) in [
        ("hung", hung.url.as_str(), "unanswered"),
        ("mad", mad.url.as_str(), "nonsense"),
        ("dead", dead.as_str(), "unanswered"),
    ] {
        let start = Instant::now();
        let line = format!(
            "{TRAIN} --reward_funcs judge exact --judge_url {url} --judge_model m --judge_timeout 1 \
             --max_steps 2 --output_dir judge_{run}"
        );
        run_in(lab(), &line);
        assert!(start.elapsed() < Duration::from_secs(120), "{run}: {:?}", start.elapsed());
        let run = format!("judge_{run}");
        assert_eq!(column(&run, "loss").len(), 2);
        assert!(sum(&run, &format!("rewards/judge/{figure}")) > 0.0, "{run}");
        assert_eq!(column(&run, "rewards/judge/mean"), [0.0; 0], "{run}: no verdict is no 0");
        assert_eq!(sum(&run, "rewards/failed"), 0.0);
        let config =
            std::fs::read_to_string(lab().join(&run).join("config.resolved.yaml")).unwrap();
        assert!(config.contains("judge_key_variable: \"OPENAI_API_KEY\""), "{config}");
    }
}

/// Even a function that holds its interpreter for good does not outlive the program.
#[test]
fn no_process_is_left_behind() {
    let dir = lab().join("alone");
    std::fs::create_dir_all(&dir).unwrap();
    let line = "eval --model ../new --dataset_name ../shapes/train.jsonl --max_completion_length 4 \
        --reward_funcs ../rewards.py:forever --threads 1";
    let mut run = program::program()
        .args(line.split_whitespace())
        .current_dir(&dir)
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let started = dir.join("started");
    let wait = |what: &str, done: &dyn Fn() -> bool| {
        let start = Instant::now();
        while !done() {
            assert!(start.elapsed() < Duration::from_secs(120), "{what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    wait("the reward was never called", &|| started.exists());
    let pid = std::fs::read_to_string(&started).unwrap();
    // Without a chance to clean up.
    run.kill().unwrap();
    run.wait().unwrap();
    // A zombie that nobody waits for is gone, too.
    let gone = || {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        state.is_empty() || state.rsplit(')').next().is_some_and(|s| s.trim().starts_with('Z'))
    };
    wait("the reward's process is still there", &gone);
}
