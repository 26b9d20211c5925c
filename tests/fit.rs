//! A run that will not fit its memory is refused before its first step, with settings that fit: the
//! real program is given budgets from plenty to nothing, and what it suggests is given back to it.
//! Completions run to their full length and all of them are in the loss (a penalty needs no reward),
//! so that what was planned for the worst is the worst.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

mod program; // the program, as tests run it

const DEVICE: i32 = 5;

/// A folder with pictures and a small new model, made once.
fn lab() -> &'static Path {
    static LAB: OnceLock<PathBuf> = OnceLock::new();
    LAB.get_or_init(|| {
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("fit");
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        for line in [
            "data make-shapes --output_dir data --num_rows 8 --seed 3 --image_size 112 --quiet",
            "init --preset tiny --vocab_size 320 --dataset_name data/train.jsonl --seed 1 \
             --output_dir model --quiet",
        ] {
            let (code, error) = go(&dir, line);
            assert_eq!(code, 0, "{line}: {error}");
        }
        dir
    })
}

/// Exit code and stderr of the program.
fn go(dir: &Path, line: &str) -> (i32, String) {
    let mut command = program::program();
    let done = command.args(line.split_whitespace()).current_dir(dir).output().unwrap();
    (done.status.code().unwrap(), String::from_utf8(done.stderr).unwrap())
}

/// The number before `bytes` in a line of an error.
fn bytes(error: &str, line: &str) -> usize {
    let text = error.lines().find_map(|l| l.trim().strip_prefix(line));
    let text = text.unwrap_or_else(|| panic!("no {line} in\n{error}"));
    let words: Vec<&str> = text.split_whitespace().collect();
    let at = words.iter().position(|w| *w == "bytes").unwrap();
    words[at - 1].parse().unwrap()
}

/// Runs a command under shares of what it needs. Where it is refused, everything it suggests must
/// start. Returns the options that were suggested.
fn suggestions(name: &str, line: &str, percents: &[usize]) -> BTreeSet<String> {
    let dir = lab();
    let mut seen = BTreeSet::new();
    let run = |n: &str, more: &str| {
        go(dir, &format!("{line} {more} --max_steps 1 --quiet --output_dir {name}_{n}"))
    };
    let (code, error) = run("none", "--memory_budget 1KiB");
    assert_eq!(code, DEVICE, "{error}");
    let needed = bytes(&error, "found:");
    assert!(!dir.join(format!("{name}_none/metrics.jsonl")).exists());
    for percent in percents {
        let budget = needed / 100 * percent;
        let given = format!("--memory_budget {budget}");
        let (code, error) = run(&format!("at{percent}"), &given);
        if *percent > 100 {
            assert_eq!(code, 0, "{line}: {error}");
            continue;
        }
        // More memory lets auto recompute less, so the need of a small budget is the least need.
        assert_eq!(code, DEVICE, "{line} {given}: {error}");
        assert_eq!(bytes(&error, "expected:"), budget, "{error}");
        assert!(bytes(&error, "found:") > budget, "{error}");
        let hint = error.lines().find(|l| l.trim().starts_with("hint:")).unwrap();
        let flags: Vec<&str> = hint.split('`').skip(1).step_by(2).collect();
        assert!(flags.last().is_some_and(|f| f.starts_with("--memory_budget ")), "{hint}");
        for (i, flag) in flags.iter().enumerate() {
            let both = format!("{given} {flag}");
            let (code, error) = run(&format!("at{percent}_{i}"), &both);
            assert_eq!(code, 0, "{line} {both}: {error}");
            seen.extend(
                flag.split_whitespace().filter_map(|w| w.strip_prefix("--")).map(String::from),
            );
        }
        println!("{name} at {percent} %: {}", hint.trim());
    }
    seen
}

const GRPO: &str = "train --model model --dataset_name data/train.jsonl --reward_funcs exact,length \
    --beta 0.1 --ignore_eos --num_generations 4 --batch_size 16 --threads 1";

#[test]
fn what_a_grpo_run_is_told_to_do_works() {
    let full = format!("{GRPO} --tune_mm_vision --tune_mm_mlp --max_completion_length 40");
    let seen =
        suggestions("full", &format!("{full} --gradient_checkpointing false"), &[130, 97, 45, 25]);
    for option in ["micro_batch_tokens", "gradient_checkpointing", "use_peft", "memory_budget"] {
        assert!(seen.contains(option), "{option} is not in {seen:?}");
    }
    let lora = format!("{GRPO} --use_peft --lora_r 4 --max_completion_length 160");
    let seen = suggestions("lora", &lora, &[97, 25]);
    assert!(seen.contains("num_generations") || seen.contains("max_completion_length"), "{seen:?}");
}

#[test]
fn what_a_supervised_run_is_told_to_do_works() {
    let sft = "sft --model model --dataset_name data/train.jsonl --batch_size 8 --threads 1";
    let seen = suggestions("sft", &format!("{sft} --max_prompt_length 120"), &[130, 97, 45, 25]);
    assert!(seen.contains("micro_batch_tokens") && seen.contains("use_peft"), "{seen:?}");
}

#[test]
fn evaluations_are_planned_with_the_run() {
    let dir = lab();
    let wide = "data make-shapes --output_dir wide --num_rows 2 --seed 4 --image_size 336 --quiet";
    assert_eq!(go(dir, wide).0, 0);
    // Small pictures are trained on, large ones are measured.
    let line = "train --model model --dataset_name data/train.jsonl --reward_funcs length \
        --num_generations 2 --batch_size 2 --max_completion_length 4 --max_steps 1 --use_peft \
        --quiet --memory_budget";
    let (code, error) = go(dir, &format!("{line} 1KiB --output_dir e1"));
    assert_eq!(code, DEVICE, "{error}");
    let plain = bytes(&error, "found:");
    let measured = |budget: usize, name: &str| {
        go(dir, &format!("{line} {budget} --eval_dataset wide/train.jsonl --output_dir {name}"))
    };
    let (code, error) = measured(1024, "e2");
    assert_eq!(code, DEVICE, "{error}");
    let more = bytes(&error, "found:");
    assert!(more > plain + plain / 20, "{plain} {more}");
    let (code, error) = measured(plain + (more - plain) / 2, "e3");
    assert_eq!(code, DEVICE, "refused before the first step: {error}");
    assert!(!dir.join("e3/metrics.jsonl").exists() && error.contains("memory_budget"), "{error}");
}
