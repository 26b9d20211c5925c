//! Models, adapters and data sets by their names on the hub: the client's cache is read as it lies, the
//! client fetches what is missing, and nothing else goes to the network. The client here is a script.

use std::path::{Path, PathBuf};
use std::process::Output;

mod program; // the program, as tests run it

const TIED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/qwen2_5_vl/tied");
const SHARDED: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/qwen2_5_vl/tied_bf16_sharded");
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A machine with a cache, and perhaps a client.
struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    fn new() -> Machine {
        let m = Machine { folder: tempfile::tempdir().unwrap() };
        std::fs::create_dir_all(m.dir().join("bin")).unwrap();
        std::fs::create_dir_all(m.dir().join("work")).unwrap();
        m
    }
    fn dir(&self) -> &Path {
        self.folder.path()
    }
    fn repo(&self, name: &str) -> PathBuf {
        self.dir().join("home/hub").join(name)
    }
    /// A repository as the client leaves it: blobs, and links to them under their names.
    fn cache(&self, name: &str, from: &Path, without: &[&str]) {
        let repo = self.repo(name);
        let snapshot = repo.join("snapshots").join(COMMIT);
        for dir in [&repo.join("blobs"), &repo.join("refs"), &snapshot] {
            std::fs::create_dir_all(dir).unwrap();
        }
        std::fs::write(repo.join("refs/main"), COMMIT).unwrap();
        for (i, entry) in std::fs::read_dir(from).unwrap().flatten().enumerate() {
            let file = entry.file_name().into_string().unwrap();
            if !entry.path().is_file() || without.contains(&file.as_str()) {
                continue;
            }
            std::fs::copy(entry.path(), repo.join(format!("blobs/{i}"))).unwrap();
            link(&format!("../../blobs/{i}"), &snapshot.join(&file));
        }
    }
    /// A client that writes down its words and then does what `body` says.
    fn client(&self, body: &str) {
        use std::os::unix::fs::PermissionsExt;
        let file = self.dir().join("bin/hf");
        let log = self.dir().join("words");
        let text = format!("#!/bin/sh\necho \"$@\" >> {}\n{body}\n", log.display());
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    fn words(&self) -> String {
        std::fs::read_to_string(self.dir().join("words")).unwrap_or_default()
    }
    fn run(&self, line: &str, variables: &[(&str, &str)]) -> Output {
        let mut command = program::program();
        for name in [
            "HF_HUB_CACHE",
            "HUGGINGFACE_HUB_CACHE",
            "HF_HUB_OFFLINE",
            "TRANSFORMERS_OFFLINE",
            "XDG_CACHE_HOME",
        ] {
            command.env_remove(name);
        }
        let path = format!("{}:/usr/bin:/bin", self.dir().join("bin").display());
        command.env("HOME", self.dir()).env("HF_HOME", self.dir().join("home")).env("PATH", path);
        command.envs(variables.iter().copied());
        command.args(line.split_whitespace()).current_dir(self.dir().join("work")).output().unwrap()
    }
    fn works(&self, line: &str, variables: &[(&str, &str)]) -> Output {
        let output = self.run(line, variables);
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        output
    }
    fn refused(&self, line: &str, variables: &[(&str, &str)], parts: &[&str]) {
        let output = self.run(line, variables);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{line}");
        for part in parts.iter().chain(&["hint"]) {
            assert!(error.contains(part), "{line}: `{part}` is not in\n{error}");
        }
    }
}

#[cfg(unix)]
fn link(to: &str, at: &Path) {
    std::os::unix::fs::symlink(to, at).unwrap();
}

fn trace(model: &str) -> String {
    format!("trace --model {model} --messages {TIED}/messages_one.json --out t.safetensors --quiet")
}

#[test]
fn what_is_in_the_cache_is_used_without_a_client() {
    let m = Machine::new();
    m.cache("models--Org--Tiny-VL", Path::new(TIED), &[]);
    m.works(&trace("Org/Tiny-VL"), &[]);
    m.works(&trace("Org/Tiny-VL"), &[("HF_HUB_OFFLINE", "1")]);
    m.works(&format!("{} --model_revision {COMMIT}", trace("Org/Tiny-VL")), &[]);
    // Other variables, the same cache.
    let cache = m.dir().join("home/hub").display().to_string();
    m.works(&trace("Org/Tiny-VL"), &[("HF_HUB_CACHE", &cache), ("HF_HOME", "/nowhere")]);
    // A folder of that name wins.
    std::fs::create_dir_all(m.dir().join("work/Org/Tiny-VL")).unwrap();
    m.refused(&trace("Org/Tiny-VL"), &[], &["config.json"]);
}

#[test]
fn what_is_missing_is_named_with_the_command_to_type() {
    let m = Machine::new();
    let parts = ["Org/Gone", "hf download Org/Gone", "pip install -U huggingface_hub"];
    m.refused(&trace("Org/Gone"), &[], &parts);
    let offline = [("HF_HUB_OFFLINE", "1")];
    m.refused(&trace("Org/Gone"), &offline, &["HF_HUB_OFFLINE", "hf download Org/Gone"]);
    let shards: Vec<String> = std::fs::read_dir(SHARDED)
        .unwrap()
        .flatten()
        .map(|e| e.file_name().into_string().unwrap())
        .filter(|n| n.starts_with("model-"))
        .collect();
    assert!(shards.len() > 1);
    m.cache("models--Org--Shards", Path::new(SHARDED), &[&shards[0]]);
    m.refused(&trace("Org/Shards"), &[], &["Org/Shards", &shards[0], "hf download"]);
    // A link whose blob has not arrived.
    m.cache("models--Org--Torn", Path::new(TIED), &["config.json"]);
    let snapshot = m.repo("models--Org--Torn").join("snapshots").join(COMMIT);
    link("../../blobs/none", &snapshot.join("config.json"));
    m.refused(&trace("Org/Torn"), &[], &["Org/Torn", "config.json"]);
    let line = format!("{} --model_revision v9", trace("Org/Shards"));
    m.refused(&line, &[], &["--revision v9"]);
    m.refused(
        &format!("{} --model_revision ../../x", trace("Org/Shards")),
        &[],
        &["../../x", "model_revision"],
    );
    m.refused(&format!("{} --model_revision main", trace(TIED)), &[], &["would do nothing"]);
}

#[test]
fn the_client_fetches_what_is_missing() {
    let m = Machine::new();
    // The repository lies ready beside the cache; the client moves it there.
    m.cache("models--Org--Tiny", Path::new(TIED), &[]);
    let (ready, place) = (m.dir().join("ready"), m.repo("models--Org--Tiny"));
    std::fs::rename(&place, &ready).unwrap();
    let body =
        format!("echo on stdout\necho on stderr >&2\nmv {} {}", ready.display(), place.display());
    m.client(&body);
    m.refused(&trace("Org/Tiny"), &[("HF_HUB_OFFLINE", "1")], &["HF_HUB_OFFLINE"]);
    assert_eq!(m.words(), "", "offline is offline");
    let output = m.works(&trace("Org/Tiny"), &[]);
    assert_eq!(m.words(), "download Org/Tiny\n");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("on stdout") && said.contains("on stderr"), "{said}");
    assert!(!String::from_utf8_lossy(&output.stdout).contains("on stdout"));
    m.works(&trace("Org/Tiny"), &[]);
    assert_eq!(m.words(), "download Org/Tiny\n", "it is there now");

    m.client("echo no such repository >&2; exit 3");
    m.refused(&trace("Org/None"), &[], &["the hub's client failed", "download Org/None", "3"]);
    m.client("exit 0");
    let line = format!("{} --model_revision v1", trace("Org/None"));
    m.refused(&line, &[], &["was not fetched completely", "hf download Org/None --revision v1"]);
    assert!(m.words().ends_with("download Org/None --revision v1\n"));
}

#[test]
fn data_sets_and_adapters_have_names_too() {
    let m = Machine::new();
    m.cache("models--Org--Tiny", Path::new(TIED), &[]);
    let rows = m.dir().join("rows");
    std::fs::create_dir(&rows).unwrap();
    std::fs::copy(format!("{TIED}/images/a.png"), rows.join("a.png")).unwrap();
    let row = "{\"image\": \"a.png\", \"question\": \"What?\", \"answer\": \"red\"}\n";
    std::fs::write(rows.join("test.jsonl"), row).unwrap();
    m.cache("datasets--Org--Rows", &rows, &[]);
    let sft = "sft --model Org/Tiny --dataset_name Org/Rows --use_peft --max_steps 1 --batch_size 1 \
               --output_dir run --quiet";
    m.works(&format!("{sft} --dataset_split test"), &[]);
    // The adapter names the repository, not a folder of this machine.
    let config = std::fs::read_to_string(m.dir().join("work/run/adapter_config.json")).unwrap();
    assert!(config.contains("\"base_model_name_or_path\": \"Org/Tiny\""), "{config}");
    let card = std::fs::read_to_string(m.dir().join("work/run/README.md")).unwrap();
    assert!(card.contains("base_model: \"Org/Tiny\"") && card.contains("- \"Org/Rows\""), "{card}");
    m.cache("models--Org--Adapter", &m.dir().join("work/run"), &[]);
    m.works("merge --adapter Org/Adapter --output_dir merged --quiet", &[]);
    m.works(&format!("{} --adapter Org/Adapter", trace("Org/Tiny")), &[]);
    let parts = ["Org/Other", "hf download Org/Other --repo-type dataset"];
    m.refused("data inspect --dataset_name Org/Other", &[], &parts);
    // A path that is not there is a path.
    m.refused(
        "data inspect --dataset_name data/rows.jsonl",
        &[],
        &["does not exist", "data/rows.jsonl"],
    );
}
