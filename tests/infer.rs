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

/// A folder with pictures, a model, and the model of a run.
fn lab(dir: &Path) {
    said(dir, "data make-shapes --output_dir s --num_rows 4 --seed 1 --quiet", &[]);
    said(
        dir,
        "init --vocab_size 320 --dataset_name s/train.jsonl --seed 1 --output_dir m --quiet",
        &[],
    );
}

/// Answers and errors of a file of results.
fn results(file: &Path) -> (Vec<Value>, Vec<Value>) {
    rows(file).into_iter().partition(|r| r.get("error").is_none())
}

#[test]
fn many_chats_are_asked_and_bad_ones_cost_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    lab(dir);
    std::fs::create_dir(dir.join("p")).unwrap();
    let data = rows(&dir.join("s/train.jsonl"));
    for (i, row) in data.iter().take(3).enumerate() {
        let from = dir.join("s").join(row["image"].as_str().unwrap());
        std::fs::copy(from, dir.join(format!("p/{i}.png"))).unwrap();
    }
    std::fs::write(dir.join("p/broken.png"), "no picture").unwrap();
    std::fs::write(dir.join("p/notes.txt"), "not asked").unwrap();
    let infer = "infer --model m --max_completion_length 8";

    // Every picture of a folder, with every prompt; each answer is that of the picture alone.
    let line = format!("{infer} --image_path p --out all.jsonl");
    let words = ["--prompt", "What is it?", "--prompt", "And now?"];
    let all: Vec<&str> = line.split_whitespace().chain(words).collect();
    let output = run_in(dir, &all);
    let warned = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && warned.contains("p/broken.png"), "{warned}");
    let (answers, errors) = results(&dir.join("all.jsonl"));
    assert_eq!((answers.len(), errors.len()), (6, 2));
    for answer in &answers {
        let media = answer["media"][0].as_str().unwrap();
        let alone = ["--image", media, "--prompt", answer["prompt"].as_str().unwrap()];
        let text = said(dir, infer, &alone);
        assert_eq!(text, format!("{}\n", answer["text"].as_str().unwrap()), "{media}");
    }
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(printed.matches("== ").count(), 6, "{printed}");
    // As it comes, or when it is whole: the same.
    let streamed = run_in(dir, &[&all[..], &["--stream"]].concat());
    assert_eq!(String::from_utf8(streamed.stdout).unwrap(), printed);

    // Nothing but bad ones is an error.
    let words: Vec<&str> =
        infer.split_whitespace().chain(["--image", "p/broken.png", "--prompt", "x"]).collect();
    assert_eq!(run_in(dir, &words).status.code(), Some(3));

    // Rows of a data file need no answer.
    let row =
        |i: usize| json!({"image": format!("p/{i}.png"), "question": "What is it?"}).to_string();
    let text = [row(0), "{}".into(), row(1)].join("\n");
    std::fs::write(dir.join("rows.jsonl"), text).unwrap();
    said(dir, &format!("{infer} --prompts rows.jsonl --out rows_out.jsonl"), &[]);
    let (of_rows, bad) = results(&dir.join("rows_out.jsonl"));
    assert_eq!((of_rows.len(), bad.len()), (2, 1));
    let asked = answers.iter().filter(|a| a["prompt"] == "What is it?");
    for (a, b) in asked.zip(&of_rows) {
        assert_eq!((&a["text"], &a["tokens"]), (&b["text"], &b["tokens"]));
    }
}

#[test]
fn runs_answer_and_keep_what_they_said() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    lab(dir);
    for (run, more) in [("v1-baseline", "--use_peft --lora_r 4"), ("full", "")] {
        let line = format!(
            "train --model m --dataset_name s/train.jsonl --reward_funcs format --max_steps 2 \
             --per_device_train_batch_size 4 --num_generations 2 --max_completion_length 8 \
             --learning_rate 0.05 --output_dir out --run_id {run} --quiet {more}"
        );
        said(dir, &line, &[]);
    }
    program::fill_adapter(&dir.join("out/v1-baseline"));
    // A picture by its address, as published.
    let data = rows(&dir.join("s/train.jsonl"));
    let picture = dir.join("s").join(data[0]["image"].as_str().unwrap());
    let bytes = std::fs::read(&picture).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/image.png", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 2048]).unwrap();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", bytes.len());
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&bytes).unwrap();
    });
    let short = "infer --max_completion_length 8";
    let line = format!("{short} --output_dir out --run_id v1-baseline");
    let ask = ["--image_path", &url, "--prompt", "Solve this."];
    let text = said(dir, &line, &ask);
    server.join().unwrap();
    let kept: Vec<_> =
        std::fs::read_dir(dir.join("out/v1-baseline/inference")).unwrap().flatten().collect();
    assert_eq!(kept.len(), 1);
    let (answers, _) = results(&kept[0].path());
    assert_eq!(text, format!("{}\n", answers[0]["text"].as_str().unwrap()));
    assert_eq!(answers[0]["run_id"], "v1-baseline");
    let file = picture.display().to_string();
    let with_file = ["--image_path", &file, "--prompt", "Solve this."];
    assert_eq!(said(dir, &line, &with_file), text, "the same picture from a file");

    // Adapter on and off, side by side: off is the model that the run began with.
    let compared = said(dir, &format!("{line} --compare_adapter --out both.jsonl"), &with_file);
    assert!(compared.starts_with("-- adapter on\n") && compared.contains("-- adapter off\n"));
    let (both, _) = results(&dir.join("both.jsonl"));
    assert_eq!(both[0]["text"], answers[0]["text"]);
    assert!(both[0]["logps"] != both[1]["logps"], "the adapter does something");
    assert!(both[0]["adapter"].is_string() && both[1]["adapter"].is_null());
    let base = said(dir, &format!("{short} --model m"), &with_file);
    assert_eq!(base, format!("{}\n", both[1]["text"].as_str().unwrap()));

    // All runs, below the current folder.
    let table = said(dir, &format!("{short} --run_id all"), &["--prompt", "Test prompt"]);
    assert!(table.contains("## v1-baseline\n") && table.contains("## full\n"), "{table}");
    assert!(table.contains("first answer\n") && table.contains("full         done"), "{table}");
    let unknown = run_in(dir, &["infer", "--run_id", "v9", "--prompt", "x"]);
    let said = String::from_utf8_lossy(&unknown.stderr);
    assert!(unknown.status.code() == Some(2) && said.contains("v1-baseline"), "{said}");
    let none = run_in(dir, &["infer", "--prompt", "x"]);
    assert!(String::from_utf8_lossy(&none.stderr).contains("--run_id"));
}
