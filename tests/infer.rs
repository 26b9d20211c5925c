//! `grpo-rt infer` on a small new model: it answers as `eval` does, from a text with images or from a
//! file of messages, and leaves tokens and log-probabilities where it is told to.

use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

mod program; // the program, as tests run it

fn run_in(dir: &Path, words: &[&str]) -> Output {
    let mut command = program::program();
    command.args(words).current_dir(dir).output().unwrap()
}

/// What a command that works prints; `line` is split at spaces, `more` is not.
fn said(dir: &Path, line: &str, more: &[&str]) -> String {
    let words: Vec<&str> = line.split_whitespace().chain(more.iter().copied()).collect();
    let output = run_in(dir, &words);
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn rows(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap();
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

#[test]
fn infer_answers_as_eval_does() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    said(dir, "data make-shapes --output_dir s --num_rows 4 --seed 1 --quiet", &[]);
    said(
        dir,
        "init --vocab_size 320 --dataset_name s/train.jsonl --seed 1 --output_dir m --quiet",
        &[],
    );
    let eval = "eval --model m --dataset_name s/train.jsonl --reward_funcs exact --quiet \
        --max_completion_length 12";
    let system = ["--system_prompt", "Be brief."];
    for (name, change) in
        [("plain", &[][..]), ("system", &system), ("bf16", &["--dtype", "bfloat16"])]
    {
        let out = format!("{name}.jsonl");
        said(dir, eval, &[change, &["--out", &out]].concat());
        for (row, want) in rows(&dir.join("s/train.jsonl")).iter().zip(rows(&dir.join(&out))) {
            let image = format!("s/{}", row["image"].as_str().unwrap());
            let question = want["question"].as_str().unwrap();
            let ask = ["--image", &image, "--prompt", question];
            let line = "infer --model m --max_completion_length 12";
            let text = said(dir, line, &[change, &ask].concat());
            assert_eq!(text, format!("{}\n", want["completion"].as_str().unwrap()), "{name}");
        }
    }

    // A file of messages is the same chat.
    let row = &rows(&dir.join("s/train.jsonl"))[0];
    let want = &rows(&dir.join("plain.jsonl"))[0];
    let content = json!([
        {"type": "image", "image": row["image"]},
        {"type": "text", "text": want["question"]},
    ]);
    let chat = json!([{"role": "user", "content": content}]);
    std::fs::write(dir.join("s/chat.json"), chat.to_string()).unwrap();
    let line = "infer --model m --max_completion_length 12 --messages s/chat.json";
    let text = said(dir, &format!("{line} --out one.jsonl"), &[]);
    assert_eq!(text.trim_end_matches('\n'), want["completion"].as_str().unwrap());
    let one = &rows(&dir.join("one.jsonl"))[0];
    assert_eq!(one["text"], want["completion"]);
    assert_eq!(one["tokens"].as_array().unwrap().len() as u64, want["tokens"]);
    assert_eq!(one["finish_reason"] == "length", want["truncated"] == true);

    // Several samples: one paragraph and one line each, decided by the seed.
    let line = format!("{line} --do_sample --num_samples 3");
    let text = said(dir, &format!("{line} --out many.jsonl"), &[]);
    let many = rows(&dir.join("many.jsonl"));
    assert_eq!(many.len(), 3);
    let texts: Vec<&str> = many.iter().map(|r| r["text"].as_str().unwrap()).collect();
    assert_eq!(text, format!("{}\n", texts.join("\n\n")));
    assert!(texts[0] != texts[1] && texts[1] != texts[2]);
    for r in &many {
        let logps = r["logps"].as_array().unwrap();
        assert_eq!(logps.len(), r["tokens"].as_array().unwrap().len());
        assert!(logps.iter().all(|l| l.as_f64().unwrap() < 0.0));
    }
    assert_eq!(said(dir, &line, &["--max_num_seqs", "1"]), text);
    assert!(said(dir, &line, &["--seed", "7"]) != text);
}

#[test]
fn wrong_questions_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("m")).unwrap();
    std::fs::write(folder.path().join("c.json"), "[]").unwrap();
    for (line, parts) in [
        ("", &["nothing to answer", "--prompt", "--messages"][..]),
        ("--messages c.json --prompt x", &["`prompt` would do nothing", "messages"]),
        ("--messages c.json --image c.json", &["`image` would do nothing"]),
        ("--messages c.json --system_prompt x", &["`system_prompt` would do nothing"]),
        ("--prompt x --image gone.png", &["`image`", "gone.png"]),
        ("--prompt x --num_samples 2", &["--do_sample"]),
        ("--prompt x --top_p 0.5", &["greedy decoding"]),
        ("--prompt x --dataset_name c.json", &["`infer` does not take `dataset_name`"]),
    ] {
        let words = format!("infer --model m {line}");
        let words: Vec<&str> = words.split_whitespace().collect();
        let output = run_in(folder.path(), &words);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{line}: {error}");
        assert!(parts.iter().all(|p| error.contains(p)), "{line}: {error}");
    }
}
