//! Rewards that other programs compute, on real processes: TRL's signature, columns, prints, exceptions,
//! hangs, crashes, odd results; and the same rewards in whole training runs.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use grpo_rt::io::dataset::{Message, Part};
use grpo_rt::reward::settings::ProcessSettings;
use grpo_rt::reward::{Progress, RewardSet, RewardSettings, Sample, Scores};
use serde_json::{Map, Value, json};

/// Rewards in Python, one for each thing that can go well or wrong.
const REWARDS: &str = r#"
import asyncio, os, signal, sys, time

def text(completions):
    return [c[0]["content"] for c in completions]

def length(completions, **kwargs):
    return [float(len(t)) for t in text(completions)]

def some(completions, **kwargs):
    return [None if t == "none" else float("nan") if t == "nan" else True for t in text(completions)]

def chatty(completions, **kwargs):
    print("[1, 2, 3]")
    os.write(1, b"straight to the descriptor\n")
    sys.stderr.write("a warning\n")
    return [1] * len(completions)

def reads(completions, **kwargs):
    return [float(len(sys.stdin.read()))] * len(completions)

def seen(prompts, completions, completion_ids, trainer_state, log_extra, log_metric, **columns):
    log_metric("mine/words", len(completions))
    log_metric("reward", 7)
    log_extra("said", text(completions))
    log_extra("columns", [",".join(sorted(columns))] * len(completions))
    log_extra("prompt", prompts)
    log_extra("ids", completion_ids)
    log_extra("state", [[trainer_state.global_step, trainer_state.max_steps, trainer_state.epoch]] * len(completions))
    log_extra("solution", columns["solution"])
    return [0.0] * len(completions)

async def later(completions, **kwargs):
    await asyncio.sleep(0.001)
    return [2.0] * len(completions)

def picky(completions, **kwargs):
    scores = []
    for t in text(completions):
        if t == "bad":
            raise ValueError("cannot\njudge this")
        scores.append(1.0)
    return scores

def hangs(completions, **kwargs):
    if "bad" in text(completions):
        time.sleep(600)
    return [1.0] * len(completions)

def crashes(completions, **kwargs):
    if "bad" in text(completions):
        print("about to go", file=sys.stderr)
        os.kill(os.getpid(), signal.SIGKILL)
    return [1.0] * len(completions)

def leaves(completions, **kwargs):
    if "bad" in text(completions):
        sys.exit(3)
    return [1.0] * len(completions)

def short(completions, **kwargs):
    return [1.0]

def nothing(completions, **kwargs):
    pass

def odd(completions, **kwargs):
    return ["1", float("inf"), object(), 10**400, 0.5][:len(completions)]

def misplaced(completions, log_extra, **kwargs):
    log_extra("c", [1])
    return [1.0] * len(completions)

def asks_for_more(completions, gold, **kwargs):
    return [1.0] * len(completions)

def strict(prompts, completions):
    return [1.0] * len(completions)

def process(completions, **kwargs):
    return [float(os.getpid())] * len(completions)

class Judge:
    def __call__(self, completions, **kwargs):
        return [3.0] * len(completions)

judge_object = Judge()
not_a_function = 3
"#;

struct Lab {
    dir: tempfile::TempDir,
    columns: Map<String, Value>,
    messages: Vec<Message>,
}

impl Lab {
    fn new() -> Lab {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("mine.py"), REWARDS).unwrap();
        let columns = json!({"id": 7, "answer": "red", "image": "a.png", "prompt": "left out"});
        let content = vec![Part::Image(0), Part::Text("Which colour?".into())];
        Lab {
            dir,
            columns: columns.as_object().unwrap().clone(),
            messages: vec![Message { role: "user".into(), content }],
        }
    }

    fn word(&self, function: &str) -> String {
        format!("{}:{function}", self.dir.path().join("mine.py").display())
    }

    fn set_with(&self, words: &[String], process: ProcessSettings) -> RewardSet {
        let told = RewardSettings { process, ..RewardSettings::default() };
        RewardSet::from_names(words, None, &told).unwrap_or_else(|e| panic!("{e}"))
    }

    fn set(&self, function: &str) -> RewardSet {
        self.set_with(&[self.word(function)], ProcessSettings::default())
    }

    fn score(&self, set: &RewardSet, texts: &[&str]) -> Scores {
        let sample = |text: &&'static str| Sample {
            completion: text,
            completion_ids: &[1, 2],
            prompt: "Which colour?",
            answer: "red",
            messages: &self.messages,
            columns: &self.columns,
            images: &[],
            truncated: false,
        };
        let texts: Vec<&'static str> =
            texts.iter().map(|t| &*Box::leak(t.to_string().into_boxed_str())).collect();
        let samples: Vec<Sample> = texts.iter().map(sample).collect();
        set.score_all(&samples)
    }
}

fn figure(set: &RewardSet) -> impl Fn(&str) -> f64 {
    let all: BTreeMap<String, f64> = set.figures().into_iter().collect();
    move |name| {
        let (_, value) = all.iter().find(|(n, _)| n.ends_with(&format!("/{name}"))).expect(name);
        *value
    }
}

/// Lines that were printed, once `what` is among them.
fn notices(set: &RewardSet, what: &str) -> Vec<String> {
    let (start, mut lines) = (Instant::now(), Vec::new());
    while !lines.iter().any(|l: &String| l.contains(what)) {
        assert!(start.elapsed() < Duration::from_secs(30), "`{what}` was never said: {lines:?}");
        lines.extend(set.notices());
        std::thread::sleep(Duration::from_millis(5));
    }
    lines
}

#[test]
fn functions_of_one_file_score_beside_built_in_rewards() {
    let lab = Lab::new();
    let words = [lab.word("length"), "exact".into(), lab.word("some"), lab.word("later")];
    let set = lab.set_with(&words, ProcessSettings::default());
    assert_eq!(set.names(), ["length", "exact", "some", "later"]);
    let scores = lab.score(&set, &["red", "none", "nan"]);
    assert!(scores.failures.is_empty(), "{:?}", scores.failures);
    assert_eq!(scores.per_reward[0], [Some(3.0), Some(4.0), Some(3.0)]);
    assert_eq!(scores.per_reward[2], [Some(1.0), None, None]);
    assert_eq!(scores.total, [Some(7.0), Some(6.0), Some(5.0)]);
    let again = lab.score(&set, &["red", "none", "nan"]);
    assert_eq!(again.total, scores.total, "the same processes, the same scores");
    assert_eq!(lab.score(&lab.set("judge_object"), &["x"]).total, [Some(3.0)]);
}

#[test]
fn names_are_made_unique() {
    let lab = Lab::new();
    let other = lab.dir.path().join("other.py");
    std::fs::write(
        &other,
        "def length(**kwargs):\n    return [1.0] * len(kwargs['completions'])\n",
    )
    .unwrap();
    let words = [lab.word("length"), format!("{}:length", other.display())];
    let set = lab.set_with(&words, ProcessSettings::default());
    assert_eq!(set.names(), ["length", "other_length"]);
    assert_eq!(lab.score(&set, &["abc"]).total, [Some(4.0)]);
}

#[test]
fn a_function_sees_what_trl_shows_it() {
    let lab = Lab::new();
    let set = lab.set("seen");
    set.begin(Progress { step: 3, max_steps: 10, epoch: 0.5 });
    let aside = lab.score(&set, &["a", "b\n"]).aside;
    let column = |name: &str| aside.columns.iter().find(|(n, _)| n == name).unwrap().1.clone();
    assert_eq!(column("said"), [json!("a"), json!("b\n")]);
    assert_eq!(column("columns")[0], "answer,id,image,problem,solution");
    assert_eq!(column("ids"), [json!([1, 2]), json!([1, 2])]);
    assert_eq!(column("state")[1], json!([3, 10, 0.5]));
    assert_eq!(column("solution"), [json!("red"), json!("red")]);
    let user = json!([{"role": "user", "content": [
        {"type": "image", "image": "a.png"}, {"type": "text", "text": "Which colour?"}]}]);
    assert_eq!(column("prompt"), [user.clone(), user]);
    assert_eq!(aside.means(), [("mine/words".to_string(), 2.0), ("reward".to_string(), 7.0)]);
}

#[test]
fn prints_are_shown_and_never_taken_for_answers() {
    let lab = Lab::new();
    let set = lab.set("chatty");
    assert_eq!(lab.score(&set, &["a", "b"]).total, [Some(1.0), Some(1.0)]);
    let lines = notices(&set, "a warning");
    for line in ["chatty: [1, 2, 3]", "chatty: straight to the descriptor"] {
        assert!(lines.contains(&line.to_string()), "{lines:?}");
    }
    assert_eq!(lab.score(&lab.set("reads"), &["a"]).total, [Some(0.0)], "input() is empty");
}

#[test]
fn an_exception_costs_the_samples_that_raise_it() {
    let lab = Lab::new();
    let set = lab.set("picky");
    let scores = lab.score(&set, &["good", "bad", "good"]);
    assert_eq!(scores.total, [Some(1.0), None, Some(1.0)]);
    let said = scores.failures[0].error.one_line();
    assert!(said.contains("`picky` failed"), "{said}");
    assert!(said.contains("ValueError: cannot judge this"), "{said}");
    let line = REWARDS.lines().position(|l| l.contains("raise ValueError")).unwrap() + 1;
    assert!(said.contains(&format!("mine.py, line {line}, in picky")), "{said}");
    let figure = figure(&set);
    assert_eq!((figure("errors"), figure("restarts"), figure("timeouts")), (1.0, 0.0, 0.0));
}

#[test]
fn a_sample_that_hangs_is_lost_alone() {
    let lab = Lab::new();
    let limit = Duration::from_secs(1);
    let process = ProcessSettings { time_limit: limit, ..ProcessSettings::default() };
    let set = lab.set_with(&[lab.word("hangs")], process);
    let start = Instant::now();
    let scores = lab.score(&set, &["good", "bad", "good"]);
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    assert_eq!(scores.total, [Some(1.0), None, Some(1.0)]);
    let said = scores.failures[0].error.one_line();
    assert!(said.contains("took too long") && said.contains("--reward_timeout"), "{said}");
    let figure = figure(&set);
    assert_eq!((figure("timeouts"), figure("restarts"), figure("errors")), (1.0, 2.0, 0.0));
    assert_eq!(lab.score(&set, &["good"]).total, [Some(1.0)]);
}

#[test]
fn a_process_that_ends_is_started_again() {
    let lab = Lab::new();
    for (function, how) in [("crashes", "signal: 9"), ("leaves", "exit status: 3")] {
        let set = lab.set(function);
        let scores = lab.score(&set, &["good", "bad", "good"]);
        assert_eq!(scores.total, [Some(1.0), None, Some(1.0)], "{function}");
        let said = scores.failures[0].error.one_line();
        assert!(said.contains(how), "{said}");
        let figure = figure(&set);
        assert_eq!((figure("errors"), figure("restarts")), (1.0, 2.0), "{function}");
    }
}

#[test]
fn odd_results_are_errors_of_their_samples() {
    let lab = Lab::new();
    let error = |function: &str, texts: &[&str]| {
        let scores = lab.score(&lab.set(function), texts);
        assert_eq!(scores.total[0], None, "{function}");
        scores.failures[0].error.one_line()
    };
    assert!(error("short", &["a", "b"]).contains("1 scores for 2 completions"));
    assert!(error("nothing", &["a"]).contains("a NoneType"));
    assert!(error("misplaced", &["a", "b"]).contains("log_extra(`c`) with 1 values"));
    let more = error("asks_for_more", &["a"]);
    assert!(more.contains("TypeError") && more.contains("gold"), "{more}");
    let set = lab.set("odd");
    let scores = lab.score(&set, &["a", "b", "c", "d", "e"]);
    assert_eq!(scores.total, [None, None, None, None, Some(0.5)]);
    assert!(scores.failures[0].error.one_line().contains("a str: '1'"));
    assert!(scores.failures[1].error.one_line().contains("inf"));
    assert_eq!(figure(&set)("errors"), 4.0);
}

#[test]
fn groups_are_divided_among_workers() {
    let lab = Lab::new();
    let process = ProcessSettings { workers: 2, ..ProcessSettings::default() };
    let set = lab.set_with(&[lab.word("process"), lab.word("length")], process);
    let pids: Vec<u64> = std::thread::scope(|scope| {
        let one = || lab.score(&set, &["a", "b"]);
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(one)).collect();
        let scores = threads.into_iter().map(|t| t.join().unwrap());
        let pid = |s: Scores| {
            assert_eq!(s.per_reward[1], [Some(1.0), Some(1.0)]);
            assert_eq!(s.per_reward[0][0], s.per_reward[0][1], "one group, one process");
            s.per_reward[0][0].unwrap() as u64
        };
        scores.map(pid).collect()
    });
    let distinct: std::collections::BTreeSet<u64> = pids.iter().copied().collect();
    assert!(distinct.len() <= 2, "{distinct:?}");
    drop(set);
    for pid in distinct {
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "{pid} is still there");
    }
}

#[test]
fn what_cannot_start_is_a_usage_error() {
    let lab = Lab::new();
    std::fs::write(lab.dir.path().join("broken.py"), "x = 1\ndef f(:\n").unwrap();
    std::fs::write(lab.dir.path().join("stops.py"), "import os\nos._exit(5)\n").unwrap();
    let in_dir = |name: &str| lab.dir.path().join(name).display().to_string();
    let refused = [
        (lab.word("gone"), "has no `gone`"),
        (lab.word("not_a_function"), "a int, not a function"),
        (lab.word("strict"), "add **kwargs"),
        (in_dir("broken.py:f"), "SyntaxError"),
        (in_dir("broken.py:f"), "broken.py, line 2"),
        (in_dir("stops.py:f"), "exit status: 5"),
        ("no.such.module:f".into(), "ModuleNotFoundError"),
        (format!("program:{}", in_dir("mine.py")), "executable"),
        (format!("program:{}", in_dir("gone")), "cannot be started"),
    ];
    for (word, why) in refused {
        let e = RewardSet::from_names(&[&word], None, &RewardSettings::default());
        let e = e.err().unwrap_or_else(|| panic!("{word} must be refused"));
        assert_eq!(e.exit_code(), 2, "{word}");
        assert!(e.one_line().contains(why), "{word}: {}", e.one_line());
    }
    let process = ProcessSettings { python: in_dir("python").into(), ..Default::default() };
    let told = RewardSettings { process, ..RewardSettings::default() };
    let e = RewardSet::from_names(&[lab.word("length")], None, &told).err().unwrap();
    assert!(e.exit_code() == 2 && e.one_line().contains("--python"), "{}", e.one_line());
}

/// Writes a program. Another process does it: what this one has open for writing, a fork of another test
/// would hold open while the program is started.
fn program_file(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "printf %s \"$1\" > \"$0\" && chmod +x \"$0\""]).arg(&path).arg(text);
    assert!(shell.status().unwrap().success());
    format!("program:{}", path.display())
}

#[test]
fn any_program_that_speaks_json_lines_is_a_reward() {
    let lab = Lab::new();
    let text = "#!/usr/bin/env python3\n\
        import json, sys\n\
        for line in sys.stdin:\n\
        \x20   request = json.loads(line)\n\
        \x20   said = [s['completion'] for s in request['samples']]\n\
        \x20   if 'bad' in said:\n\
        \x20       answer = {'error': 'no', 'where': 'here'}\n\
        \x20   elif 'junk' in said:\n\
        \x20       answer = 3\n\
        \x20   else:\n\
        \x20       answer = {'id': request['id'], 'scores': [len(t) for t in said],\n\
        \x20                 'metrics': {'m': 1}, 'extra': {'said': said}}\n\
        \x20   print(json.dumps(answer), flush=True)\n";
    let word = program_file(lab.dir.path(), "count.py", text);
    let set = lab.set_with(&[word], ProcessSettings::default());
    assert_eq!(set.names(), ["count"]);
    let scores = lab.score(&set, &["abc", "bad", "a", "junk"]);
    assert_eq!(scores.total, [Some(3.0), None, Some(1.0), None]);
    let said: Vec<String> = scores.failures.iter().map(|f| f.error.one_line()).collect();
    assert!(said[0].contains("failed (here); found: no"), "{said:?}");
    assert!(said[1].contains("neither an object nor a list: 3"), "{said:?}");
    let columns = [json!("abc"), Value::Null, json!("a"), Value::Null];
    assert_eq!(scores.aside.columns, [("said".to_string(), columns.to_vec())]);
    // The shortest one there is.
    let word =
        program_file(lab.dir.path(), "one.sh", "#!/bin/sh\nwhile read -r l; do echo '[1]'; done\n");
    let set = lab.set_with(&[word], ProcessSettings::default());
    assert_eq!(lab.score(&set, &["x"]).total, [Some(1.0)]);
}

#[test]
fn a_program_that_never_stops_talking_is_ended() {
    let lab = Lab::new();
    let word = program_file(
        lab.dir.path(),
        "yes.sh",
        "#!/bin/sh\nread -r l\nexec tr '\\0' x </dev/zero\n",
    );
    let set = lab.set_with(&[word], ProcessSettings::default());
    let scores = lab.score(&set, &["x"]);
    assert!(scores.failures[0].error.one_line().contains("more than 64 MiB"));
}
