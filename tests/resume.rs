//! Runs that are killed, at any moment and as often as it takes, end with the bits of one that was
//! left alone: weights, optimizer, metrics, completions, samples. Kills are drawn from a seed: after a
//! delay, in the middle of saving, in the middle of a write (a limit on the size of files, whose
//! signal the system sends at the byte where it is reached), and polite ones, by signals that save
//! first. What is compared never depends on when they happened.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use grpo_rt::io::checkpoints::list_checkpoints as list;
use grpo_rt::train::checkpoint::{Found, inspect};
use serde_json::{Map, Value};

mod program; // the program, as tests run it

/// Kills of GRPO runs in all, a half of them each with an adapter and without.
const KILLS: usize = 200;
/// Kills of one run, after which it may end: a chain of sessions that each die young would not.
const KILLS_OF_A_RUN: usize = 25;

/// A folder with data (12 rows) and a new model.
fn lab() -> &'static Path {
    static LAB: OnceLock<PathBuf> = OnceLock::new();
    LAB.get_or_init(|| program::lab_with_model("resume", "--num_rows 12 --image_size 56", 300))
}

/// Several updates on each rollout, each of several micro-batches; coefficients that follow; lines of
/// metrics that checkpoints fall between; evaluations that draw.
const GRPO: &str = "train --model new --dataset_name shapes/train.jsonl --reward_funcs exact,length \
    --num_generations 4 --batch_size 4 --gradient_accumulation_steps 2 --steps_per_generation 4 \
    --num_iterations 2 --max_completion_length 4 --micro_batch_tokens 60 --max_steps 10 \
    --save_steps 1 --save_total_limit 3 --logging_steps 3 --beta 0.05 --kl_target 0.01 \
    --use_adaptive_entropy --entropy_coef 0.01 --dynamic_sampling --val_split_ratio 0.2 \
    --eval_strategy steps --eval_steps 4 --num_generations_eval 2 --metric_for_best_model reward \
    --threads 1 --quiet --resume_from_checkpoint true";
const SFT: &str = "sft --model new --dataset_name shapes/train.jsonl --batch_size 3 --max_steps 12 \
    --save_steps 2 --logging_steps 3 --lr 1e-3 --threads 1 --quiet --resume_from_checkpoint true";
const LORA: &str = "--use_peft --lora_r 4 --lora_dropout 0.1 --lr 1e-2";
const FULL: &str = "--tune_mm_vision --tune_mm_mlp --lr 1e-3 --sync_ref_model --ref_model_sync_steps 3 \
    --ref_model_mixup_alpha 0.5";

/// Numbers from a seed (Knuth's MMIX generator).
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// How a session ends before its time.
#[derive(Debug, Clone, Copy)]
enum Kill {
    /// SIGKILL after so long.
    After(Duration),
    /// SIGKILL so long after a checkpoint has begun to be written.
    Saving(Duration),
    /// SIGXFSZ at the first byte of a file beyond so many blocks.
    Writing(u64),
    /// A signal that saves first, after so long.
    Polite(&'static str, Duration),
    /// The same, and SIGKILL so long after it.
    Impatient(Duration, Duration),
}

impl Kill {
    /// Any of them, where an undisturbed run takes `whole`.
    fn any(dice: &mut Dice, whole: Duration) -> Kill {
        let micros = whole.as_micros() as u64;
        let mut within =
            |share: u64| Duration::from_micros(dice.below((micros * share / 100).max(1)));
        let (long, short) = (within(70), within(2));
        match dice.below(10) {
            0..=3 => Kill::After(long),
            4..=5 => Kill::Saving(short),
            6..=7 => Kill::Writing(1 + dice.below(160)),
            8 => Kill::Polite(["TERM", "INT", "HUP"][dice.below(3) as usize], long),
            _ => Kill::Impatient(long, short),
        }
    }
}

/// A session of a run that is killed, or not if it is done before.
fn session(line: &str, dir: &Path, kill: Option<Kill>) -> std::process::ExitStatus {
    let program = program::program();
    let mut command = match kill {
        Some(Kill::Writing(blocks)) => {
            let mut shell = Command::new("sh");
            let limited = format!("ulimit -c 0; ulimit -f {blocks}; exec \"$@\"");
            shell.args(["-c", &limited, "sh"]).arg(program.get_program());
            for (name, _) in program.get_envs() {
                shell.env_remove(name);
            }
            shell
        }
        _ => program,
    };
    let log = dir.with_extension("log");
    let file = std::fs::File::create(&log).unwrap();
    command.args(line.split_whitespace()).current_dir(lab()).stdout(Stdio::null()).stderr(file);
    let mut child = command.spawn().unwrap();
    match kill {
        Some(Kill::After(delay)) => kill_after(&mut child, delay),
        Some(Kill::Saving(delay)) => {
            wait_until(&mut child, || saving(dir));
            kill_after(&mut child, delay);
        }
        Some(Kill::Polite(signal, delay)) => {
            std::thread::sleep(delay);
            send(&child, signal);
        }
        Some(Kill::Impatient(delay, more)) => {
            std::thread::sleep(delay);
            send(&child, "TERM");
            kill_after(&mut child, more);
        }
        Some(Kill::Writing(_)) | None => {}
    }
    let status = child.wait().unwrap();
    let said = std::fs::read_to_string(&log).unwrap();
    // Killed, done, or stopped and saved; never an error or a panic.
    let stopped = status.code() == Some(130);
    assert!(status.success() || status.code().is_none() || stopped, "{kill:?}: {status}: {said}");
    assert!(!said.contains("panicked"), "{kill:?}: {said}");
    status
}

fn kill_after(child: &mut Child, delay: Duration) {
    std::thread::sleep(delay);
    // It may be done by now.
    let _ = child.kill();
}

fn send(child: &Child, signal: &str) {
    let id = child.id().to_string();
    // It may be done by now.
    let _ = Command::new("kill").args([&format!("-{signal}"), &id]).stderr(Stdio::null()).status();
}

/// Whether a checkpoint is being written.
fn saving(dir: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(dir) else { return false };
    let mut names = entries.flatten().map(|e| e.file_name());
    names.any(|n| n.to_string_lossy().starts_with(".checkpoint-"))
}

fn wait_until(child: &mut Child, there: impl Fn() -> bool) {
    let start = Instant::now();
    while !there() && child.try_wait().unwrap().is_none() {
        assert!(start.elapsed().as_secs() < 300, "the run hangs");
        std::thread::sleep(Duration::from_micros(100));
    }
}

/// Columns of a row of metrics that say how long and how fast it went, what memory the process had, and
/// how many images were encoded rather than remembered: those of a session, not of the run. All others
/// are compared.
fn passing(name: &str) -> bool {
    ["step_time", "eval_runtime", "eval_samples_per_second"].contains(&name)
        || ["time/", "perf/", "memory/", "device/"].iter().any(|p| name.starts_with(p))
        || name.ends_with("/vision_images")
}

fn lasting(row: &Map<String, Value>) -> String {
    let kept = row.iter().filter(|(name, _)| !passing(name));
    Value::Object(kept.map(|(n, v)| (n.clone(), v.clone())).collect()).to_string()
}

/// Everything that a run leaves and that is its own: file by file, as bytes or as texts without what
/// passes.
fn remains(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let (last, checkpoint) = list(dir).unwrap().pop().expect("a checkpoint");
    assert_eq!(inspect(&checkpoint).unwrap(), Found::Whole);
    found.insert("last step".to_string(), last.to_string().into_bytes());
    for folder in ["", "completions", checkpoint.file_name().unwrap().to_str().unwrap()] {
        // A supervised run has no completions.
        let Ok(entries) = std::fs::read_dir(dir.join(folder)) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let hidden = name.starts_with('.') || name.ends_with(".part");
            assert!(!hidden, "{} was left behind", path.display());
            // The report has times in it; the folder's name is in the resolved options; checksums
            // are of files with times.
            let own = [
                "report.html",
                "config.resolved.yaml",
                "SHA256SUMS",
                "run.json",
                "run.lock",
                "run.log",
                "train_results.json",
            ];
            if !path.is_file() || own.contains(&name) {
                continue;
            }
            let bytes = std::fs::read(&path).unwrap();
            let bytes = match name {
                "metrics.jsonl" => {
                    let text = String::from_utf8(bytes).unwrap();
                    let row = |l: &str| lasting(&serde_json::from_str(l).unwrap()) + "\n";
                    text.lines().map(row).collect::<String>().into_bytes()
                }
                // The card has the folder's name, as it is and as Markdown wants it.
                "README.md" => {
                    let folder = dir.file_name().unwrap().to_str().unwrap();
                    let text = String::from_utf8(bytes).unwrap();
                    let text = text.replace(folder, "RUN");
                    text.replace(&folder.replace('_', "\\_"), "RUN").into_bytes()
                }
                "trainer_state.json" => {
                    let mut state: Value = serde_json::from_slice(&bytes).unwrap();
                    for row in state["log_history"].as_array_mut().unwrap() {
                        *row = lasting(row.as_object().unwrap()).into();
                    }
                    // A path into the run's folder.
                    let best = state["best_model_checkpoint"]
                        .as_str()
                        .map(|p| Path::new(p).file_name().unwrap().to_string_lossy().into_owned());
                    state["best_model_checkpoint"] = best.into();
                    state.to_string().into_bytes()
                }
                _ => bytes,
            };
            found.insert(format!("{folder}/{name}"), bytes);
        }
    }
    found
}

fn compare(left_alone: &BTreeMap<String, Vec<u8>>, killed: &Path, how: &[Kill]) {
    let killed_remains = remains(killed);
    let names = |r: &BTreeMap<String, Vec<u8>>| r.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(left_alone), names(&killed_remains), "{}: {how:?}", killed.display());
    for (name, bytes) in left_alone {
        let other = &killed_remains[name];
        if bytes == other {
            continue;
        }
        let text = |b: &[u8]| String::from_utf8_lossy(&b[..b.len().min(4000)]).into_owned();
        panic!("{name} of {}: {how:?}\n{}\n{}", killed.display(), text(bytes), text(other));
    }
}

/// Kills runs of `line` until `kills` have been done; every one of them must end like one that was left
/// alone.
fn kill_runs(name: &str, line: &str, kills: usize, seed: u64) {
    let straight = lab().join(format!("{name}_alone"));
    let start = Instant::now();
    assert!(session(&format!("{line} --output_dir {name}_alone"), &straight, None).success());
    let whole = start.elapsed();
    let expected = remains(&straight);
    let mut dice = Dice(seed);
    let (mut done, mut run, mut silent) = (0, 0, 0);
    while done < kills {
        let folder = format!("{name}_{run}");
        let (dir, line) = (lab().join(&folder), format!("{line} --output_dir {folder}"));
        let mut how = Vec::new();
        loop {
            let kill = Kill::any(&mut dice, whole);
            let kill = (how.len() < KILLS_OF_A_RUN && done < kills).then_some(kill);
            let status = session(&line, &dir, kill);
            if status.success() {
                silent += usize::from(kill.is_some());
                break;
            }
            done += 1;
            how.extend(kill);
        }
        compare(&expected, &dir, &how);
        std::fs::remove_dir_all(&dir).unwrap();
        run += 1;
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("{name}: {done} kills of {run} runs, {silent} came too late, {seconds:.0} s");
}

#[test]
fn killed_adapter_runs_end_with_the_same_bits() {
    kill_runs("lora", &format!("{GRPO} {LORA}"), KILLS / 2, 11);
}

#[test]
fn killed_full_runs_end_with_the_same_bits() {
    kill_runs("full", &format!("{GRPO} {FULL}"), KILLS / 2, 12);
}

#[test]
fn killed_supervised_runs_end_with_the_same_bits() {
    kill_runs("sft", &format!("{SFT} --use_peft --lora_dropout 0.2"), KILLS / 10, 13);
}

#[test]
fn a_run_that_is_only_ever_asked_to_stop_loses_no_step() {
    let line = format!("{GRPO} {LORA} --save_strategy no").replace("--save_steps 1 ", "");
    let line = line.replace("--save_total_limit 3 ", "");
    let start = Instant::now();
    let alone = lab().join("asked_alone");
    assert!(session(&format!("{line} --output_dir asked_alone"), &alone, None).success());
    let whole = start.elapsed();
    assert!(list(&alone).unwrap().is_empty(), "--save_strategy no");
    let dir = lab().join("asked");
    let (mut stops, mut reached) = (0, 0);
    while stops < 12 {
        let delay = whole * 3 / 5;
        let kill = Kill::Polite(["TERM", "HUP", "INT"][stops % 3], delay);
        if session(&format!("{line} --output_dir asked"), &dir, Some(kill)).success() {
            break;
        }
        stops += 1;
        let last = list(&dir).unwrap().pop().map_or(0, |(step, _)| step);
        assert!(last >= reached, "a stop went back from {reached} to {last}");
        reached = last;
    }
    assert!(session(&format!("{line} --output_dir asked"), &dir, None).success());
    let read = |dir: &Path, file: &str| std::fs::read(dir.join(file)).unwrap();
    for file in ["adapter_model.safetensors", "samples.jsonl"] {
        assert!(read(&alone, file) == read(&dir, file), "{file} after {stops} stops");
    }
    let metrics = |dir: &Path| {
        let text = String::from_utf8(read(dir, "metrics.jsonl")).unwrap();
        let rows = text.lines().map(|l| lasting(&serde_json::from_str(l).unwrap()));
        rows.collect::<Vec<_>>()
    };
    assert_eq!(metrics(&alone), metrics(&dir), "after {stops} stops");
}

#[test]
fn one_command_serves_from_the_first_start_to_the_last() {
    let line = format!("{SFT} --output_dir again").replace("--save_steps 2", "--save_steps 6");
    let dir = lab().join("again");
    std::fs::create_dir_all(&dir).unwrap();
    // Killed before its first checkpoint, with metrics in the folder.
    let mut child = program::program();
    let child = child.args(line.split_whitespace()).current_dir(lab()).stderr(Stdio::null());
    let mut child = child.spawn().unwrap();
    let rows = || std::fs::read_to_string(dir.join("metrics.jsonl")).unwrap_or_default();
    wait_until(&mut child, || rows().lines().count() > 0);
    child.kill().unwrap();
    child.wait().unwrap();
    if list(&dir).unwrap().is_empty() {
        // Another run's folder is not taken over.
        let other = line.replace("--dataset_name shapes/train.jsonl", "--dataset_name shapes");
        let said = program::program().args(other.split_whitespace()).current_dir(lab()).output();
        let said = String::from_utf8(said.unwrap().stderr).unwrap();
        assert!(said.contains("another run") && said.contains("dataset_name"), "{said}");
    }
    for _ in 0..2 {
        // Once to the end, and once when it is done.
        program::run_in(lab(), &line);
        assert_eq!(rows().lines().count(), 4, "{}", rows());
    }
    // Without the wish to go on, the folder is not touched.
    let line = line.replace("--resume_from_checkpoint true", "");
    let said = program::program().args(line.split_whitespace()).current_dir(lab()).output();
    let said = String::from_utf8(said.unwrap().stderr).unwrap();
    assert!(said.contains("holds a run already"), "{said}");
}
