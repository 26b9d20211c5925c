//! Checkpoints that are damaged, disks that are full, folders that cannot be written, processes that
//! die while they save: noticed, named, and nothing lost that was saved before. And which checkpoints
//! there are: after which steps, how many of them, which is the best.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use grpo_rt::io::checkpoints::list_checkpoints as list;
use grpo_rt::train::checkpoint::{Found, inspect, latest};
use serde_json::Value;

mod program; // the program, as tests run it

const SFT: &str = "sft --model new --dataset_name shapes/train.jsonl --batch_size 2 --max_steps 6 \
    --save_steps 2 --use_peft --lora_r 4 --lr 1e-3 --threads 1 --quiet";
const GRPO: &str = "train --model new --dataset_name shapes/train.jsonl --reward_funcs length \
    --num_generations 4 --batch_size 4 --max_completion_length 4 --max_steps 6 --use_peft --lora_r 4 \
    --lora_dropout 0 --lr 1e-2 --val_split_ratio 0.2 --threads 1 --quiet";

/// A folder with data (10 rows), a new model, and `run`: a run with checkpoints of steps 2, 4 and 6.
fn lab() -> &'static Path {
    static LAB: OnceLock<PathBuf> = OnceLock::new();
    LAB.get_or_init(|| {
        let dir = program::lab_with_model("checkpoints", "--num_rows 10 --image_size 56", 300);
        program::run_in(&dir, &format!("{SFT} --output_dir run"));
        dir
    })
}

fn command(line: &str) -> Command {
    let mut command = program::program();
    command.args(line.split_whitespace()).current_dir(lab());
    command
}

/// Runs a command that must fail with this exit code and say these words; returns what it said.
fn refused(output: Output, code: i32, words: &[&str]) -> String {
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "`{word}` is not in: {said}");
    }
    said
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &to);
        } else {
            std::fs::copy(&path, &to).unwrap();
        }
    }
}

fn names(dir: &Path) -> Vec<String> {
    let name = |e: std::fs::DirEntry| e.file_name().into_string().unwrap();
    let mut all: Vec<String> = std::fs::read_dir(dir).unwrap().map(|e| name(e.unwrap())).collect();
    all.sort();
    all
}

fn steps(dir: &Path) -> Vec<usize> {
    list(dir).unwrap().into_iter().map(|(step, _)| step).collect()
}

/// Nothing half-written, and every checkpoint whole.
fn intact(dir: &Path) -> Vec<usize> {
    let litter = |n: &String| n.contains(".part") || n.contains(".tmp-") || n.contains(".old-");
    assert!(!names(dir).iter().any(litter), "{:?}", names(dir));
    for (_, path) in list(dir).unwrap() {
        assert_eq!(inspect(&path).unwrap(), Found::Whole, "{}", path.display());
    }
    steps(dir)
}

#[test]
fn every_file_is_checked_against_every_kind_of_damage() {
    let dir = lab().join("damage/checkpoint-6");
    copy(&lab().join("run/checkpoint-6"), &dir);
    assert_eq!(inspect(&dir).unwrap(), Found::Whole);
    let all = names(&dir);
    for name in ["SHA256SUMS", "grpo_rt_state.json", "grpo_rt_optimizer.safetensors"] {
        assert!(all.iter().any(|n| n == name), "{all:?}");
    }
    let mut bits = 77u64;
    let mut next = |n: usize| {
        bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (bits >> 33) as usize % n
    };
    for name in &all {
        let path = dir.join(name);
        let good = std::fs::read(&path).unwrap();
        let damaged = |what: &str, found: &[&str]| {
            let e = inspect(&dir).err().unwrap_or_else(|| panic!("{name}: {what} is not noticed"));
            let line = e.one_line();
            assert_eq!(e.exit_code(), 3, "{name}: {what}: {line}");
            // A damaged list of checksums may accuse a file that is whole, or itself.
            let named = name == "SHA256SUMS" || line.contains(name.as_str());
            assert!(named && line.contains("damaged"), "{name}: {what}: {line}");
            assert!(name == "SHA256SUMS" || found.iter().all(|f| line.contains(f)), "{line}");
        };
        let length = good.len();
        let drawn: Vec<usize> = (0..6).map(|_| next(length)).collect();
        for at in [0, length - 1].into_iter().chain(drawn) {
            let mut bad = good.clone();
            bad[at] ^= 1 << next(8);
            std::fs::write(&path, &bad).unwrap();
            damaged(&format!("a bit of byte {at}"), &["expected: SHA-256", "found: SHA-256"]);
        }
        for length in [0, 1, length / 2, length - 1] {
            std::fs::write(&path, &good[..length]).unwrap();
            damaged(
                &format!("{length} bytes left"),
                &["found: SHA-256", &format!("{length} bytes")],
            );
        }
        std::fs::remove_file(&path).unwrap();
        damaged("missing", &["missing"]);
        std::fs::write(&path, &good).unwrap();
    }
    // Lines that are whole, but not all of them.
    let sums = std::fs::read_to_string(dir.join("SHA256SUMS")).unwrap();
    let fewer: Vec<&str> = sums.lines().filter(|l| !l.contains("optimizer")).collect();
    std::fs::write(dir.join("SHA256SUMS"), fewer.join("\n") + "\n").unwrap();
    assert!(inspect(&dir).unwrap_err().one_line().contains("grpo_rt_optimizer.safetensors"));
    std::fs::write(dir.join("SHA256SUMS"), &sums).unwrap();
    // What somebody put beside our files is theirs.
    std::fs::write(dir.join("NOTES"), "mine").unwrap();
    assert_eq!(inspect(&dir).unwrap(), Found::Whole);
    if let Ok(done) =
        Command::new("sha256sum").args(["-c", "SHA256SUMS"]).current_dir(&dir).output()
    {
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
}

#[test]
fn the_one_before_is_taken_and_a_named_one_is_refused() {
    let dir = lab().join("before");
    copy(&lab().join("run"), &dir);
    let broken = dir.join("checkpoint-6/adapter_model.safetensors");
    let mut bytes = std::fs::read(&broken).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    std::fs::write(&broken, bytes).unwrap();
    // A folder that was never finished, and what killed writers leave.
    std::fs::create_dir_all(dir.join("checkpoint-9")).unwrap();
    std::fs::write(dir.join("checkpoint-9/adapter_config.json"), "{").unwrap();
    std::fs::create_dir_all(dir.join(".checkpoint-8.part")).unwrap();
    std::fs::write(dir.join(".metrics.jsonl.tmp-1-0"), "{").unwrap();
    let named = format!("{SFT} --output_dir before --resume_from_checkpoint before/checkpoint-6");
    let words = ["damaged", "checkpoint-6/adapter_model.safetensors", "SHA-256", "hint"];
    refused(command(&named).output().unwrap(), 3, &words);
    let done = command(&format!("{SFT} --output_dir before --resume_from_checkpoint true"))
        .output()
        .unwrap();
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(done.status.success(), "{said}");
    for word in ["warning", "checkpoint-9", "checkpoint-6", "adapter_model.safetensors"] {
        assert!(said.contains(word), "`{word}` is not in: {said}");
    }
    std::fs::remove_dir_all(dir.join("checkpoint-9")).unwrap();
    assert_eq!(intact(&dir), [2, 4, 6]);
    let read =
        |run: &str| std::fs::read(lab().join(run).join("adapter_model.safetensors")).unwrap();
    assert!(read("before") == read("run"), "from step 4 to the same bits");
    // If none is whole, the run does not begin anew by itself.
    for step in [2, 4, 6] {
        std::fs::write(dir.join(format!("checkpoint-{step}/grpo_rt_state.json")), "{").unwrap();
    }
    let line = format!("{SFT} --output_dir before --resume_from_checkpoint true");
    refused(command(&line).output().unwrap(), 3, &["checkpoint-2", "--overwrite_output_dir"]);
}

#[test]
fn checkpoints_without_checksums_are_taken_with_a_warning() {
    let dir = lab().join("old/checkpoint-4");
    copy(&lab().join("run/checkpoint-4"), &dir);
    std::fs::remove_file(dir.join("SHA256SUMS")).unwrap();
    let file = dir.join("grpo_rt_state.json");
    let mut state: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    for new in ["files", "pending", "best"] {
        state.as_object_mut().unwrap().shift_remove(new);
    }
    std::fs::write(&file, state.to_string()).unwrap();
    assert_eq!(inspect(&dir).unwrap(), Found::Unsummed);
    let done = command(&format!("{SFT} --output_dir old --resume_from_checkpoint true")).output();
    let said = String::from_utf8(done.unwrap().stderr).unwrap();
    assert!(said.contains("without checksums"), "{said}");
    let read =
        |run: &str| std::fs::read(lab().join(run).join("adapter_model.safetensors")).unwrap();
    assert!(read("old") == read("run"));
}

/// A limit on the size of files that writes run into as into a full disk: its signal is ignored, and
/// writes fail.
#[test]
fn writes_that_fail_end_the_run_and_lose_nothing() {
    let dir = lab().join("limited");
    copy(&lab().join("run"), &dir);
    for step in [4, 6] {
        std::fs::remove_dir_all(dir.join(format!("checkpoint-{step}"))).unwrap();
    }
    let line = format!("{SFT} --output_dir limited --resume_from_checkpoint true");
    let before = std::fs::read(dir.join("checkpoint-2/SHA256SUMS")).unwrap();
    let largest = |step: usize| {
        let files = std::fs::read_dir(lab().join(format!("run/checkpoint-{step}"))).unwrap();
        files.map(|f| f.unwrap().metadata().unwrap().len()).max().unwrap()
    };
    // Blocks are of 512 bytes, in some shells of 1024: the optimizer's file is beyond either.
    let blocks = largest(4) / 2048;
    assert!(blocks > 8, "the largest file has {} bytes", largest(4));
    let mut shell = Command::new("sh");
    let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\"");
    let program = command(&line);
    shell.args(["-c", &script, "sh"]).arg(program.get_program()).args(program.get_args());
    for (name, _) in program.get_envs() {
        shell.env_remove(name);
    }
    let output = shell.current_dir(lab()).output().unwrap();
    refused(output, 4, &["cannot", "hint", "ulimit -f"]);
    assert_eq!(intact(&dir), [2]);
    assert!(std::fs::read(dir.join("checkpoint-2/SHA256SUMS")).unwrap() == before);
    // With room again, it goes on as if nothing had been.
    program::run_in(lab(), &line);
    let read =
        |run: &str| std::fs::read(lab().join(run).join("adapter_model.safetensors")).unwrap();
    assert!(read("limited") == read("run"));
    assert_eq!(intact(&dir), [2, 4, 6]);
}

/// A small file system of its own, if this process may make one; unmounted when dropped.
struct Small(PathBuf);

impl Small {
    fn mount(name: &str, kib: usize) -> Option<Small> {
        let dir = lab().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let options = format!("size={kib}k");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&dir);
        let done = mount.stderr(Stdio::null()).status();
        done.is_ok_and(|d| d.success()).then_some(Small(dir))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // A test that has failed has said so.
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// Bytes of a folder on a disk with blocks of 4096.
fn blocks_of(dir: &Path) -> u64 {
    let of = |p: PathBuf| match p.is_dir() {
        true => blocks_of(&p),
        false => p.metadata().unwrap().len().next_multiple_of(4096),
    };
    std::fs::read_dir(dir).unwrap().map(|e| of(e.unwrap().path())).sum()
}

#[test]
fn a_full_disk_ends_the_run_and_loses_nothing() {
    // Room for the first checkpoint and a half of the second.
    let one = blocks_of(&lab().join("run/checkpoint-2"));
    let Some(small) = Small::mount("full", one as usize * 3 / 2 / 1024 + 48) else {
        // Without the right to mount, a limit on files stands for it in the test above.
        assert!(one > 0);
        return;
    };
    let line = format!("{SFT} --output_dir full/run");
    refused(command(&line).output().unwrap(), 4, &["free some space", "whole"]);
    assert_eq!(intact(&small.0.join("run")), [2]);
    // Once more, with the command that a restart would give: nothing changes, nothing is lost.
    let line = format!("{line} --resume_from_checkpoint true");
    refused(command(&line).output().unwrap(), 4, &["free some space"]);
    assert_eq!(intact(&small.0.join("run")), [2]);
    // With more room it goes on to the same bits.
    let grow = Command::new("mount").args(["-o", "remount,size=64m"]).arg(&small.0).status();
    assert!(grow.unwrap().success());
    program::run_in(lab(), &line);
    let read =
        |run: &str| std::fs::read(lab().join(run).join("adapter_model.safetensors")).unwrap();
    assert!(read("full/run") == read("run"));
    // A file system that can only be read: said before the first step.
    let locked = Command::new("mount").args(["-o", "remount,ro"]).arg(&small.0).status();
    assert!(locked.unwrap().success());
    refused(command(&line).output().unwrap(), 4, &["hint", "written"]);
    assert_eq!(intact(&small.0.join("run")), [2, 4, 6]);
}

#[test]
fn a_folder_that_cannot_be_written_is_said_before_the_first_step() {
    // A file in the way, and a file system that nobody writes to, root included.
    std::fs::create_dir_all(lab()).unwrap();
    std::fs::write(lab().join("in_the_way"), "x").unwrap();
    for folder in ["in_the_way/run", "/proc/run"] {
        let output = command(&format!("{SFT} --output_dir {folder}")).output().unwrap();
        refused(output, 4, &["cannot create", folder, "output_dir", "hint"]);
    }
    assert_eq!(std::fs::read_to_string(lab().join("in_the_way")).unwrap(), "x");
}

#[test]
fn a_process_that_dies_while_it_saves_leaves_what_was_saved() {
    let dir = lab().join("dies");
    let line = format!("{SFT} --output_dir dies --resume_from_checkpoint true")
        .replace("--save_steps 2", "--save_steps 1");
    let saving = |step: usize| dir.join(format!(".checkpoint-{step}.part"));
    let mut caught = 0;
    for step in 2..=6 {
        let mut child = command(&line).stderr(Stdio::null()).spawn().unwrap();
        let start = Instant::now();
        while !saving(step).exists() && child.try_wait().unwrap().is_none() {
            assert!(start.elapsed().as_secs() < 300, "the run hangs");
            std::thread::sleep(Duration::from_micros(50));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        caught += usize::from(saving(step).exists());
        let found = latest(&dir, |text| panic!("{text}")).unwrap();
        assert!(found.is_some(), "{:?}", names(&dir));
    }
    println!("{caught} of 5 were killed while they saved");
    program::run_in(lab(), &line);
    assert_eq!(intact(&dir), [1, 2, 3, 4, 5, 6]);
    let read =
        |run: &str| std::fs::read(lab().join(run).join("adapter_model.safetensors")).unwrap();
    assert!(read("dies") == read("run"));
}

#[test]
fn models_alone_are_smaller_and_say_why_they_cannot_be_continued() {
    let line = format!("{SFT} --output_dir models --save_only_model --save_total_limit 2");
    program::run_in(lab(), &line);
    let dir = lab().join("models");
    assert_eq!(steps(&dir), [4, 6]);
    let files = names(&dir.join("checkpoint-6"));
    assert!(files.iter().any(|f| f == "adapter_model.safetensors"), "{files:?}");
    assert!(files.iter().any(|f| f == "trainer_state.json" || f == "SHA256SUMS"), "{files:?}");
    assert!(!files.iter().any(|f| f.starts_with("grpo_rt_")), "{files:?}");
    for from in ["true", "models/checkpoint-6"] {
        let line = format!("{line} --resume_from_checkpoint {from}");
        refused(command(&line).output().unwrap(), 3, &["model alone", "--save_only_model"]);
    }
}

#[test]
fn strategies_decide_what_is_saved() {
    // 10 rows in batches of 2: an epoch has five steps.
    for (name, strategy, expected) in [
        ("by_epoch", "--save_strategy epoch", &[5, 6][..]),
        ("never", "--save_strategy no", &[]),
        ("at_the_end", "--save_steps 0", &[6]),
    ] {
        let line = SFT.replace("--save_steps 2", strategy);
        program::run_in(lab(), &format!("{line} --output_dir {name}"));
        assert_eq!(intact(&lab().join(name)), expected, "{name}");
        assert!(lab().join(name).join("adapter_model.safetensors").is_file());
    }
}

fn state(checkpoint: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(checkpoint.join("trainer_state.json")).unwrap()).unwrap()
}

fn rows(run: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(lab().join(run).join("metrics.jsonl")).unwrap();
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

#[test]
fn the_best_checkpoint_is_kept_named_and_loaded() {
    // Fewer tokens are better, so that the best is not always the last.
    let line = format!(
        "{GRPO} --eval_strategy steps --eval_steps 1 --save_steps 1 --save_total_limit 2 \
         --load_best_model_at_end --metric_for_best_model completions/mean_length \
         --greater_is_better false --num_generations_eval 4 --output_dir best"
    );
    program::run_in(lab(), &line);
    let dir = lab().join("best");
    let lengths: Vec<(u64, f64)> = rows("best")
        .iter()
        .filter_map(|r| Some((r["step"].as_u64()?, r["eval_completions/mean_length"].as_f64()?)))
        .collect();
    assert_eq!(lengths.len(), 6);
    let (best, metric) =
        lengths.iter().copied().reduce(|a, b| if b.1 < a.1 { b } else { a }).unwrap();
    let last = state(&dir.join("checkpoint-6"));
    assert_eq!(last["best_global_step"].as_u64(), Some(best));
    assert_eq!(last["best_metric"].as_f64(), Some(metric));
    let folder = last["best_model_checkpoint"].as_str().unwrap();
    assert!(folder.ends_with(&format!("checkpoint-{best}")), "{folder}");
    let kept = intact(&dir);
    assert!(kept.contains(&6) && kept.contains(&(best as usize)) && kept.len() == 2, "{kept:?}");
    let read = |folder: String| std::fs::read(dir.join(folder).join("adapter_model.safetensors"));
    let best = read(format!("checkpoint-{best}")).unwrap();
    assert!(read(String::new()).unwrap() == best, "the model is the best one");
    // Figures that nothing measures are refused before the first step.
    let wrong = line
        .replace("completions/mean_length", "loss")
        .replace("--output_dir best", "--output_dir none");
    refused(
        command(&wrong).output().unwrap(),
        2,
        &["metric_for_best_model", "reward", "eval_loss"],
    );
}

#[test]
fn evaluations_change_nothing_of_the_training() {
    let plain = GRPO.replace("--val_split_ratio 0.2", "--eval_dataset shapes/train.jsonl");
    let measured = format!("{plain} --eval_strategy steps --eval_steps 2 --eval_on_start");
    program::run_in(lab(), &format!("{plain} --output_dir plain"));
    for (name, change) in [
        ("greedy", "--eval_max_rows 3"),
        ("drawn", "--num_generations_eval 2 --eval_temperature 0.5 --eval_batch_size 3"),
        ("drawn_again", "--num_generations_eval 2 --eval_temperature 0.5 --eval_batch_size 64"),
    ] {
        program::run_in(lab(), &format!("{measured} {change} --output_dir {name}"));
    }
    let read =
        |run: &str| std::fs::read(lab().join(run).join("adapter_model.safetensors")).unwrap();
    let split = |run: &str| {
        let (eval, train): (Vec<Value>, Vec<Value>) =
            rows(run).into_iter().partition(|r| r.get("eval_reward").is_some());
        (eval, train)
    };
    let passing =
        |n: &str| n.contains("runtime") || n.contains("per_second") || n.contains("images");
    let kept = |rows: &[Value], names: &dyn Fn(&str) -> bool| -> Vec<String> {
        let row = |r: &Value| {
            let all = r.as_object().unwrap().iter();
            let of = all.filter(|(n, _)| names(n));
            of.map(|(n, v)| format!("{n} {v}\n")).collect::<String>()
        };
        rows.iter().map(row).collect()
    };
    let training = |n: &str| ["loss", "reward", "grad_norm", "num_tokens", "epoch"].contains(&n);
    let (_, alone) = split("plain");
    for name in ["greedy", "drawn"] {
        assert!(read("plain") == read(name), "{name}");
        let (eval, train) = split(name);
        assert_eq!(kept(&alone, &training), kept(&train, &training), "{name}");
        let at: Vec<u64> = eval.iter().map(|r| r["step"].as_u64().unwrap()).collect();
        assert_eq!(at, [0, 2, 4, 6], "{name}");
        let samples = if name == "greedy" { 3.0 } else { 20.0 };
        assert!(eval.iter().all(|r| r["eval_samples"].as_f64() == Some(samples)), "{name}");
        for figure in ["eval_rewards/length/mean", "eval_completions/clipped_ratio", "eval_runtime"]
        {
            assert!(eval.iter().all(|r| r[figure].is_number()), "{name}: {figure}");
        }
    }
    let lasting = |n: &str| !passing(n);
    let (first, again) = (split("drawn").0, split("drawn_again").0);
    assert_eq!(kept(&first, &lasting), kept(&again, &lasting), "batches decide nothing");
}
