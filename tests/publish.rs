//! `grpo-rt push` and the end of a run: the card, what is uploaded and what stays here, and the words that the
//! hub's client gets. The client here is a script that writes down its words and looks at the folder.

use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

mod program; // the program, as tests run it

const TIED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/qwen2_5_vl/tied");

struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    fn new() -> Machine {
        let m = Machine { folder: tempfile::tempdir().unwrap() };
        std::fs::create_dir(m.dir().join("bin")).unwrap();
        let row =
            json!({"image": format!("{TIED}/images/a.png"), "question": "What?", "answer": "red"});
        std::fs::write(m.dir().join("rows.jsonl"), format!("{row}\n")).unwrap();
        m
    }
    fn dir(&self) -> &Path {
        self.folder.path()
    }
    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir().join(name)).unwrap_or_default()
    }
    /// A client of which `user` is logged in, or nobody; uploads end with `code`.
    fn client(&self, user: Option<&str>, code: u8) {
        use std::os::unix::fs::PermissionsExt;
        let who = match user {
            Some(name) => format!("printf '\\033[32mLogged in\\033[0m\\n  user: {name}\\n'"),
            None => "echo 'Not logged in'; exit 1".into(),
        };
        let text = format!(
            "#!/bin/sh\ncase \"$1\" in\nversion) echo 'version: 9.9.9';;\nauth) {who};;\n\
             upload) echo \"$@\" >> {0}/words; ls -L \"$3\" > {0}/listed; exit {code};;\nesac\n",
            self.dir().display()
        );
        let file = self.dir().join("bin/hf");
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    fn run(&self, line: &str) -> Output {
        let mut command = program::program();
        for name in ["HF_HUB_CACHE", "HF_HOME", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"] {
            command.env_remove(name);
        }
        let path = format!("{}:/usr/bin:/bin", self.dir().join("bin").display());
        command.env("HOME", self.dir()).env("PATH", path);
        command.args(line.split_whitespace()).current_dir(self.dir()).output().unwrap()
    }
    fn works(&self, line: &str) -> String {
        let output = self.run(line);
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
    fn refused(&self, line: &str, parts: &[&str]) {
        let output = self.run(line);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{line}");
        for part in parts {
            assert!(error.contains(part), "{line}: `{part}` is not in\n{error}");
        }
    }
}

fn train(change: &str) -> String {
    format!(
        "train --model {TIED} --dataset_name rows.jsonl --reward_funcs exact --max_steps 3 --num_generations 2 \
         --batch_size 2 --max_completion_length 4 --use_peft --output_dir run --quiet {change}"
    )
}

#[test]
fn a_run_leaves_a_card_and_push_uploads_the_model_alone() {
    let m = Machine::new();
    m.works(&train("--seed 7"));
    let card = m.read("run/README.md");
    for part in [
        "library_name: peft",
        "- \"grpo\"",
        "PeftModel",
        "rows.jsonl",
        "exact",
        "| seed | 7 |",
        "curves.svg",
    ] {
        assert!(card.contains(part), "`{part}` is not in\n{card}");
    }
    let private = [env!("CARGO_MANIFEST_DIR"), &m.dir().display().to_string()].map(String::from);
    assert!(private.iter().all(|p| !card.contains(p.as_str())), "paths of the machine\n{card}");
    let svg = m.read("run/curves.svg");
    assert!(svg.starts_with("<svg xmlns=") && svg.contains("polyline"), "{svg}");

    let push = "push --folder run --hub_model_id Org/Mine";
    m.refused(push, &["not installed", "pip install -U huggingface_hub"]);
    let said = m.works(&format!("{push} --dry_run"));
    assert!(said.contains("hf upload Org/Mine run . --private --commit-message"), "{said}");
    assert!(said.contains("adapter_model.safetensors") && said.contains("stays here: "), "{said}");
    m.client(None, 0);
    m.refused(push, &["nobody is logged in", "hf auth login"]);
    assert_eq!(m.read("words"), "", "nothing was uploaded");
    m.client(Some("julia"), 0);
    let said = m.works(push);
    assert!(said.contains("uploaded to Org/Mine"), "{said}");
    let words = m.read("words");
    assert!(words.starts_with("upload Org/Mine /") && words.contains(" . --private "), "{words}");
    let listed = m.read("listed");
    let listed: Vec<&str> = listed.lines().collect();
    for name in [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "curves.svg",
        "tokenizer.json",
    ] {
        assert!(listed.contains(&name), "{name}: {listed:?}");
    }
    for name in [
        "samples.jsonl",
        "report.html",
        "completions",
        "runs",
        "config.resolved.yaml",
        "metrics.jsonl",
    ] {
        assert!(
            m.dir().join("run").join(name).exists() && !listed.contains(&name),
            "{name}: {listed:?}"
        );
    }
    assert!(!listed.iter().any(|n| n.starts_with("checkpoint-")), "{listed:?}");
    let staged = Path::new(words.split(' ').nth(2).unwrap());
    assert!(!staged.exists(), "the folder of links is gone");
    m.works(&format!("{push} --hub_private_repo false --quiet"));
    assert!(!m.read("words").lines().last().unwrap().contains("--private"));
    m.client(Some("julia"), 5);
    m.refused(push, &["the hub's client failed", "upload Org/Mine"]);

    // Licence and results go in; a card without the mark is the user's own.
    let results = json!({"models": [{"name": "a|b", "rewards": [
        {"name": "exact<x>", "mean": 0.5, "low": 0.25, "high": 0.75, "judged": 8}]}]});
    std::fs::write(m.dir().join("results.json"), results.to_string()).unwrap();
    m.works(&format!("{push} --dry_run --license apache-2.0 --eval_results results.json"));
    let card = m.read("run/README.md");
    assert!(
        card.contains("license: \"apache-2.0\"") && card.contains("| 0.2500 to 0.7500 |"),
        "{card}"
    );
    assert!(card.contains("a\\|b") && card.contains("exact&lt;x&gt;"), "{card}");
    std::fs::write(m.dir().join("run/README.md"), "mine\n").unwrap();
    m.works(&format!("{push} --dry_run"));
    assert_eq!(m.read("run/README.md"), "mine\n");
    m.refused("push --folder run --hub_model_id nobody", &["hub_model_id", "org/name"]);
    m.refused("push --folder bin --hub_model_id a/b --dry_run", &["no model", "hint"]);
}

#[test]
fn a_run_uploads_at_its_end_or_is_refused_before_its_first_step() {
    let m = Machine::new();
    let nothing = |m: &Machine| assert!(!m.dir().join("run/metrics.jsonl").exists());
    m.refused(&train("--push_to_hub"), &["not installed"]);
    m.refused(&train("--hub_model_id a/b"), &["would do nothing", "--push_to_hub"]);
    m.client(None, 0);
    m.refused(&train("--push_to_hub"), &["nobody is logged in"]);
    for strategy in ["every_save", "checkpoint", "all_checkpoints"] {
        let line = train(&format!("--push_to_hub --hub_strategy {strategy}"));
        m.refused(&line, &["hub_strategy end", "grpo-rt push"]);
    }
    m.refused(&train("--push_to_hub --hub_strategy sometimes"), &["one of: end"]);
    nothing(&m);
    m.client(Some("julia"), 0);
    m.works(&train("--push_to_hub"));
    let words = m.read("words");
    assert!(words.starts_with("upload julia/run ") && words.contains("End of training"), "{words}");
    // A failed upload leaves the model, and the command for later.
    m.client(Some("julia"), 1);
    let line = train("--push_to_hub --hub_model_id Org/Mine --overwrite_output_dir");
    m.refused(&line, &["grpo-rt push --folder run --hub_model_id Org/Mine"]);
    assert!(m.dir().join("run/adapter_model.safetensors").is_file());
}

#[test]
fn a_merged_model_has_a_card_of_its_own() {
    let m = Machine::new();
    m.works(&train(""));
    m.works("merge --adapter run --output_dir merged --license mit --quiet");
    let card = m.read("merged/README.md");
    for part in
        ["library_name: transformers", "merged into it", "license: \"mit\"", "# merged", "exact"]
    {
        assert!(card.contains(part), "`{part}` is not in\n{card}");
    }
    assert!(!card.contains("curves.svg"), "{card}");
    m.works("push --folder merged --hub_model_id Org/Mine --dry_run");
    assert_eq!(m.read("merged/README.md"), card, "push keeps what merge wrote");
    let front: Value = serde_saphyr::from_str(card.split("---\n").nth(1).unwrap()).unwrap();
    assert_eq!(front["pipeline_tag"], "image-text-to-text");
}
