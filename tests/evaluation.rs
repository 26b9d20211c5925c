//! `grpo-rt eval` as a measurement: intervals, pass@k, tables by column, several models in one go, paired
//! comparisons with earlier answers, results and report, and going on after an interruption.

use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

mod program; // the program, as tests run it

fn run(dir: &Path, line: &str) -> Output {
    let mut command = program::program();
    command.args(line.split_whitespace()).current_dir(dir).output().unwrap()
}

fn works(dir: &Path, line: &str) -> String {
    let output = run(dir, line);
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn refused(dir: &Path, line: &str, parts: &[&str]) {
    let output = run(dir, line);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{line}: {error}");
    for part in parts.iter().chain(&["hint"]) {
        assert!(error.contains(part), "{line}: `{part}` is not in\n{error}");
    }
}

fn object(file: impl AsRef<Path>) -> Value {
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

fn lines(file: impl AsRef<Path>) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap();
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// A 0/1 reward that an untrained model sometimes earns.
const REWARD: &str = "def odd(completions, **kwargs):\n    text = lambda c: c if isinstance(c, str) else c[0]['content']\n    return [float(sum(map(ord, text(c))) % 2) for c in completions]\n";

/// Twelve rows of shapes in two sources, one of them hostile, a model, and an adapter that answers otherwise.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    works(dir, "data make-shapes --output_dir s --num_rows 12 --seed 1 --quiet");
    std::fs::write(dir.join("r.py"), REWARD).unwrap();
    let mut rows = lines(dir.join("s/train.jsonl"));
    for (i, row) in rows.iter_mut().enumerate() {
        row["source"] = ["a", "<script>alert(1)</script>", "a"][i % 3].into();
    }
    let text: String = rows.iter().map(|r| format!("{r}\n")).collect();
    std::fs::write(dir.join("s/train.jsonl"), text).unwrap();
    works(
        dir,
        "init --vocab_size 320 --dataset_name s/train.jsonl --seed 1 --output_dir m --quiet",
    );
    let sft = "sft --model m --dataset_name s/train.jsonl --max_steps 12 --batch_size 6 --lr 3e-2 --use_peft \
               --lora_dropout 0 --output_dir run --save_steps 0 --quiet";
    works(dir, sft);
    folder
}

const EVAL: &str = "eval --model m --dataset_name s/train.jsonl --reward_funcs r.py:odd format --max_completion_length 6 \
                    --quiet --bootstrap_samples 500";

#[test]
fn models_are_measured_and_compared_in_one_go() {
    let folder = folder();
    let dir = folder.path();
    let said = works(
        dir,
        &format!(
            "{EVAL} --adapter run --baseline base --group_by source --out_dir e --out all.jsonl"
        ),
    );
    let (results, answers) =
        (object(dir.join("e/results.json")), lines(dir.join("e/answers.jsonl")));
    assert_eq!(answers, lines(dir.join("all.jsonl")));
    assert_eq!((results["main"].as_str(), answers.len()), (Some("run"), 24));
    let models = results["models"].as_array().unwrap();
    assert_eq!([&models[0]["name"], &models[1]["name"]], ["m", "run"]);
    // Figures follow from the answers, to the last digit.
    for model in models {
        let own: Vec<&Value> = answers.iter().filter(|a| a["model"] == model["name"]).collect();
        let scores: Vec<f64> = own.iter().map(|a| a["rewards"]["odd"].as_f64().unwrap()).collect();
        let reward = &model["rewards"][0];
        assert_eq!((&reward["name"], reward["judged"].as_u64()), (&json!("odd"), Some(12)));
        assert_eq!(reward["mean"].as_f64().unwrap(), scores.iter().sum::<f64>() / 12.0);
        assert_eq!(reward["interval"], "wilson");
        let (low, high) = (reward["low"].as_f64().unwrap(), reward["high"].as_f64().unwrap());
        assert!(
            low <= reward["mean"].as_f64().unwrap() && reward["mean"].as_f64().unwrap() <= high
        );
        let groups = model["groups"]["source"].as_array().unwrap();
        assert_eq!((groups[0]["rows"].as_u64(), groups[1]["rows"].as_u64()), (Some(8), Some(4)));
        let tokens: f64 = own.iter().map(|a| a["tokens"].as_f64().unwrap()).sum();
        assert_eq!(model["length"]["mean"].as_f64().unwrap(), tokens / 12.0);
    }
    let odd = |name: &str, row: u64| -> f64 {
        let found = answers.iter().find(|a| a["model"] == name && a["row"] == row).unwrap();
        found["rewards"]["odd"].as_f64().unwrap()
    };
    let wins = (1..=12).filter(|r| odd("run", *r) > odd("m", *r)).count();
    let versus = &results["comparisons"][0];
    let c = &versus["rewards"][0];
    assert_eq!((c["wins"].as_u64(), c["pairs"].as_u64()), (Some(wins as u64), Some(12)));
    assert_eq!(c["test"], "mcnemar");
    let losses = c["losses"].as_u64().unwrap() as i32;
    if losses == 0 {
        let p = (2.0 * 0.5f64.powi(wins as i32)).min(1.0);
        assert!((c["p"].as_f64().unwrap() - p).abs() < 1e-12);
    }
    assert_eq!(versus["changed_rows"].as_array().unwrap().len(), wins + losses as usize);
    assert!(said.contains("run against m:") && said.contains("(mcnemar)"), "{said}");
    assert!(said.contains("source=a odd (8 rows)"), "{said}");

    let page = std::fs::read_to_string(dir.join("e/report.html")).unwrap();
    assert!(!page.contains("<script>alert") && page.contains("&lt;script&gt;alert(1)"), "escaped");
    assert_eq!(page.matches("data:image/jpeg;base64,").count(), 12);
    assert!(
        page.contains("data-show=\"changed\"")
            && !page.contains("http://")
            && !page.contains("https://")
    );
    assert!(page.contains(&format!(
        "data-show=\"changed\" aria-pressed=\"false\">changed ({})",
        wins + losses as usize
    )));

    // The same comparison with answers that lie there, in either form; the model alone as before.
    works(dir, &format!("{EVAL} --out base.jsonl"));
    for earlier in ["base.jsonl", "e"] {
        let line = format!("{EVAL} --adapter run --baseline {earlier} --out_dir again-{earlier}");
        works(dir, &line);
        let again = object(dir.join(format!("again-{earlier}/results.json")));
        let found = &again["comparisons"][0]["rewards"][0];
        match earlier {
            "e" => assert_eq!((&found["wins"], &found["losses"]), (&json!(0), &json!(0)), "itself"),
            _ => assert_eq!(found, c),
        }
    }
    // Answers made up so that three rows are right where the model's are wrong, and the others alike.
    let mut made = lines(dir.join("base.jsonl"));
    let wrong: Vec<usize> = (0..12).filter(|i| made[*i]["rewards"]["odd"] == 0.0).take(3).collect();
    wrong.iter().for_each(|i| made[*i]["rewards"]["odd"] = json!(1.0));
    made.reverse();
    let text: String = made.iter().map(|r| format!("{r}\n")).collect();
    std::fs::write(dir.join("made.jsonl"), text).unwrap();
    works(dir, &format!("{EVAL} --baseline made.jsonl --out_dir made"));
    let found = &object(dir.join("made/results.json"))["comparisons"][0];
    assert_eq!((wrong.len(), &found["rewards"][0]["losses"]), (3, &json!(3)), "{found}");
    assert!((found["rewards"][0]["p"].as_f64().unwrap() - 0.25).abs() < 1e-12);
    let rows: Vec<u64> = found["changed_rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["row"].as_u64().unwrap())
        .collect();
    assert_eq!(rows, wrong.iter().map(|i| *i as u64 + 1).collect::<Vec<_>>());
    let plain = lines(dir.join("base.jsonl"));
    assert!(
        plain[0].get("model").is_none()
            && plain[0]["id"].is_string()
            && plain[0]["tokens"].is_u64()
    );
    let said = works(dir, &format!("{EVAL} --compare run m"));
    assert!(said.contains("run against m:") && said.contains("m (2) against m:"), "{said}");
}

#[test]
fn samples_of_a_row_make_pass_at_k() {
    let folder = folder();
    let dir = folder.path();
    let line = format!("{EVAL} --do_sample --num_samples 4 --pass_at_k 2,1,4 --out_dir e");
    let said = works(dir, &line);
    assert!(said.contains("odd pass@4") && said.contains("odd majority@2"), "{said}");
    let reward = &object(dir.join("e/results.json"))["models"][0]["rewards"][0];
    assert_eq!(
        (reward["interval"].as_str(), reward["judged"].as_u64()),
        (Some("bootstrap"), Some(48))
    );
    let answers = lines(dir.join("e/answers.jsonl"));
    let right: Vec<usize> = answers
        .chunks(4)
        .map(|row| row.iter().filter(|a| a["rewards"]["odd"] == 1.0).count())
        .collect();
    let any = right.iter().filter(|c| **c > 0).count() as f64 / 12.0;
    assert!((reward["pass@4"]["mean"].as_f64().unwrap() - any).abs() < 1e-12);
    let one = right.iter().sum::<usize>() as f64 / 48.0;
    assert!((reward["pass@1"]["mean"].as_f64().unwrap() - one).abs() < 1e-12);
    // 1 - C(4 - c, 2) / 6.
    let choices = |c: &usize| 1.0 - [6.0, 3.0, 1.0, 0.0, 0.0][*c] / 6.0;
    let two = right.iter().map(choices).sum::<f64>() / 12.0;
    assert!((reward["pass@2"]["mean"].as_f64().unwrap() - two).abs() < 1e-12);
}

#[test]
fn an_interrupted_evaluation_goes_on_to_the_same_answers() {
    let folder = folder();
    let dir = folder.path();
    let line = format!(
        "{EVAL} --adapter run --baseline base --do_sample --num_samples 2 --eval_batch_size 4"
    );
    works(dir, &format!("{line} --out_dir whole"));
    let whole = std::fs::read_to_string(dir.join("whole/answers.jsonl")).unwrap();
    let results = object(dir.join("whole/results.json"));
    assert_eq!(whole.lines().count(), 48);
    // In the middle of a row of the first model, at the end of it, and within the second, in half a line.
    for (kept, torn) in [(7, ""), (24, ""), (31, "{\"id\": \"t")] {
        let name = format!("part{kept}");
        std::fs::create_dir(dir.join(&name)).unwrap();
        let text: String = whole.lines().take(kept).map(|l| format!("{l}\n")).collect();
        std::fs::write(dir.join(&name).join("answers.jsonl"), text + torn).unwrap();
        std::fs::copy(
            dir.join("whole/config.resolved.yaml"),
            dir.join(&name).join("config.resolved.yaml"),
        )
        .unwrap();
        works(dir, &format!("{line} --out_dir {name} --resume --threads 1"));
        let again = std::fs::read_to_string(dir.join(&name).join("answers.jsonl")).unwrap();
        assert!(again == whole, "{kept} lines");
        let mut found = object(dir.join(&name).join("results.json"));
        found["settings"] = results["settings"].clone();
        assert_eq!(found, results, "{kept} lines");
    }
    refused(dir, &format!("{line} --out_dir whole"), &["holds an evaluation already", "--resume"]);
    let other = format!("{line} --out_dir whole --resume --seed 9");
    refused(dir, &other, &["other options", "seed: 9"]);
}

#[test]
fn a_run_is_measured_as_it_was_trained() {
    let folder = folder();
    let dir = folder.path();
    let told = "--reward_funcs r.py:odd format --reward_weights 2 1 --question_template Look:{question} --max_pixels 6272";
    let data = "--dataset_name s/train.jsonl --max_completion_length 6 --quiet";
    works(
        dir,
        &format!(
            "train --model m {data} {told} --num_generations 2 --batch_size 4 --max_steps 2 --lr 3e-2 --use_peft \
             --lora_dropout 0 --output_dir out --run_id g --save_steps 0"
        ),
    );
    let short = format!("eval {data} --bootstrap_samples 500");
    let by_name = works(dir, &format!("{short} --run_id g --output_dir out --out a.jsonl"));
    let whole = format!("{short} --model m --adapter out/g {told} --out b.jsonl");
    let figures = |said: &str| -> Vec<String> {
        // The last line has the seconds.
        said.lines().filter(|l| !l.contains("completions")).map(str::to_string).collect()
    };
    assert_eq!(figures(&by_name), figures(&works(dir, &whole)));
    assert_eq!(lines(dir.join("a.jsonl")), lines(dir.join("b.jsonl")));
    // What the command says itself holds, and rewards are taken together.
    let own = works(dir, &format!("{short} --run_id g --output_dir out --reward_funcs format"));
    assert!(own.contains("format") && !own.contains("odd"), "{own}");
    refused(dir, &format!("{short} --run_id g --model m --output_dir out"), &["both name a model"]);
    refused(dir, &short, &["`eval` needs a model", "--run_id"]);
}

#[test]
fn wrong_measurements_are_refused_before_a_model_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    std::fs::create_dir(dir.join("m")).unwrap();
    std::fs::write(dir.join("d.jsonl"), "{\"question\": \"q\", \"answer\": \"a\", \"kind\": 1}\n")
        .unwrap();
    let eval = "eval --model m --dataset_name d.jsonl --reward_funcs exact";
    for (change, parts) in [
        ("--pass_at_k 2", &["pass_at_k", "--num_samples 2 --do_sample"][..]),
        ("--baseline base", &["without its adapter", "--adapter"]),
        ("--baseline m", &["nothing to compare with", "config.json"]),
        ("--baseline gone", &["does not exist", "gone"]),
        ("--resume", &["would do nothing", "--out_dir"]),
    ] {
        refused(dir, &format!("{eval} {change}"), parts);
    }
    let output = run(dir, &format!("{eval} --confidence_level 0.3"));
    assert_eq!(output.status.code(), Some(2));
    std::fs::write(dir.join("x.jsonl"), "{\"no\": 1}\n{\"no\": 2}\n").unwrap();
    let output = run(dir, &format!("{eval} --baseline x.jsonl"));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(3) && error.contains("line 1"), "{error}");
}
