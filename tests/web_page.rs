//! The page of runs: `grpo-rt runs serve` over two real runs, its answers, and the page itself in a
//! headless Chromium (without one on the PATH the answers alone are looked at, and the test says so).

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

mod program; // the program, as tests run it
mod small_runs; // two real runs

use program::program;

/// A server that ends with the test.
struct Server {
    child: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Serves the runs in `dir` on a free port.
    fn start(dir: &Path, more: &[&str]) -> Server {
        let mut child = program()
            .args(["runs", "serve", "--output_dir", "out", "--port", "0"])
            .args(more)
            .current_dir(dir)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().rsplit(':').next().and_then(|p| p.parse().ok());
        Server { child, port: port.unwrap_or_else(|| panic!("no address in `{line}`")) }
    }

    /// Head and body of the answer to a request for `path`, with headers of the test's own.
    fn raw(&self, path: &str, headers: &str) -> (String, Vec<u8>) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\n{headers}connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
        (String::from_utf8_lossy(&answer[..end]).to_lowercase(), answer[end + 4..].to_vec())
    }

    fn get(&self, path: &str) -> (String, Vec<u8>) {
        self.raw(path, "host: localhost\r\n")
    }

    fn json(&self, path: &str) -> Value {
        let (head, body) = self.get(path);
        assert!(head.starts_with("http/1.1 200"), "{path}: {head}");
        serde_json::from_slice(&body).unwrap()
    }

    fn keys(&self) -> Vec<String> {
        let all = self.json("/api/runs");
        let mut runs: Vec<&Value> = all["runs"].as_array().unwrap().iter().collect();
        runs.sort_by_key(|r| r["run_id"].as_str().unwrap().to_string());
        runs.iter().map(|r| r["key"].as_str().unwrap().to_string()).collect()
    }
}

/// A run of a name, a prompt, a log and a setting that would like to be markup, without a model.
fn hostile(dir: &Path) {
    let bad = "<img src=x onerror=alert(1)>";
    std::fs::create_dir_all(dir).unwrap();
    let run = serde_json::json!({"run_id": bad, "state": "failed", "error": bad, "started": "2026-01-01T00:00:00Z"});
    std::fs::write(dir.join("run.json"), run.to_string()).unwrap();
    std::fs::write(
        dir.join("config.resolved.yaml"),
        format!("# grpo-rt train: x\nnote: '{bad}'\n"),
    )
    .unwrap();
    let row = serde_json::json!({"step": 1, "epoch": 0.1, "reward": 1.0, bad: 2.0, "loss": null});
    std::fs::write(dir.join("metrics.jsonl"), format!("{row}\n{row}\n")).unwrap();
    let sample = serde_json::json!({
        "step": 1, "prompt": bad, "answer": bad, "images_png": ["PHNjcmlwdD4="],
        "completions": [{"text": bad, "rewards": [[bad, 1.0]], "total": 1.0, "advantage": 0.0, "tokens": 3}],
    });
    std::fs::write(dir.join("samples.jsonl"), format!("{sample}\n")).unwrap();
    std::fs::write(dir.join("run.log"), bad).unwrap();
    let alert = serde_json::json!({"step": 1, "name": "x", "state": "begun", "message": bad, "advice": bad});
    std::fs::write(dir.join("health.jsonl"), format!("{alert}\n")).unwrap();
}

fn shared() -> &'static Path {
    static LAB: OnceLock<PathBuf> = OnceLock::new();
    LAB.get_or_init(|| {
        let dir = small_runs::lab("web_page");
        small_runs::train(&dir);
        hostile(&dir.join("out/zz"));
        dir
    })
}

#[test]
fn answers_have_what_the_page_shows_and_nothing_else_is_answered() {
    let server = Server::start(shared(), &[]);
    let all = server.json("/api/runs");
    assert_eq!(all["runs"].as_array().unwrap().len(), 3);
    let keys = server.keys();
    // Sorted by name: the hostile one, alpha, beta.
    let (alpha, beta) = (&keys[1], &keys[2]);
    let details = server.json(&format!("/api/runs/{alpha}"));
    assert_eq!(
        (&details["entry"]["state"], &details["entry"]["step"]),
        (&"done".into(), &6.into())
    );
    let thin =
        server.json(&format!("/api/runs/{alpha}/metrics?names=[%22reward%22,%22loss%22]&points=3"));
    assert_eq!((&thin["rows"], thin["step"].as_array().unwrap().len()), (&6.into(), 3));
    assert_eq!(thin["columns"][1]["name"], "loss");
    assert_eq!(thin["columns"][0]["low"].as_array().unwrap().len(), 3);
    let every = server.json(&format!("/api/runs/{alpha}/metrics"));
    assert!(every["columns"].as_array().unwrap().len() > 20);
    let samples = server.json(&format!("/api/runs/{alpha}/samples"));
    let group = &samples["groups"][0];
    assert!(group["images"] == 1 && group["completions"].as_array().unwrap().len() == 2);
    let image = format!("/api/runs/{alpha}/samples/{}/images/0", group["index"]);
    let (head, png) = server.get(&image);
    assert!(head.contains("content-type: image/png") && png.starts_with(b"\x89PNG"), "{head}");
    let log = server.json(&format!("/api/runs/{alpha}/log"));
    assert!(log["text"].as_str().unwrap().contains("step 1/6"));
    let rest = server.json(&format!("/api/runs/{alpha}/log?after={}", log["next"]));
    assert_eq!(rest["text"], "");
    let both = server.json(&format!("/api/compare?runs={alpha},{beta}"));
    assert!(both["settings"].as_array().unwrap().iter().any(|s| s[0] == "learning_rate"));

    let (head, page) = server.get("/");
    assert!(head.contains("content-security-policy: default-src 'none'"), "{head}");
    assert!(head.contains("nosniff") && page.starts_with(b"<!doctype html>"));
    for path in [
        "/api/runs/0000000000000000",
        "/api/runs/..%2f..%2fetc/log",
        "/api/runs/../../etc/passwd",
        "/../Cargo.toml",
        "/run.json",
        &format!("/api/runs/{alpha}/samples/0/images/9"),
        &format!("/api/runs/{alpha}/samples/-1/images/0"),
        // Its bytes are no image, whatever they call themselves.
        &format!("/api/runs/{}/samples/0/images/0", keys[0]),
        &format!("/api/runs/{alpha}/metrics?names=nonsense"),
    ] {
        let (head, _) = server.get(path);
        assert!(head.starts_with("http/1.1 4"), "{path}: {head}");
    }
    let (head, _) = server.raw("/api/runs", "host: rebound.example\r\n");
    assert!(head.starts_with("http/1.1 403"), "{head}");
    let (head, _) = server.raw("/api/runs", "host: localhost\r\norigin: http://other.example\r\n");
    assert!(head.starts_with("http/1.1 403"), "{head}");
}

#[test]
fn other_machines_need_a_token() {
    let open = program()
        .args(["runs", "serve", "--host", "0.0.0.0", "--port", "0", "--output_dir", "out"])
        .current_dir(shared())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&open.stderr);
    assert!(!open.status.success() && said.contains("--token"), "{said}");
    let server = Server::start(shared(), &["--host", "0.0.0.0", "--token", "abc"]);
    let (head, _) = server.get("/");
    assert!(head.starts_with("http/1.1 401") && head.contains("www-authenticate: basic"), "{head}");
    let (head, _) = server.raw("/", "host: box.example\r\nauthorization: Bearer abc\r\n");
    assert!(head.starts_with("http/1.1 200"), "{head}");
}

/// The page at an address after its scripts have run, and what the console said.
fn opened(browser: &Path, server: &Server, hash: &str) -> (String, String) {
    let profile = tempfile::tempdir().unwrap();
    let done = Command::new(browser)
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
        .args(["--enable-logging=stderr", "--v=0", "--no-first-run", "--window-size=1400,1000"])
        .args(["--virtual-time-budget=9000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("http://127.0.0.1:{}/{hash}", server.port))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    let dom = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(dom.contains("<html"), "the browser showed nothing: {said}");
    let console = said.lines().filter(|l| l.contains(":CONSOLE")).collect::<Vec<_>>().join("\n");
    (dom, console)
}

/// A Chromium on the PATH.
fn browser() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let names = ["chromium", "chromium-browser", "google-chrome"];
    std::env::split_paths(&path).flat_map(|d| names.map(|n| d.join(n))).find(|p| p.is_file())
}

#[test]
fn the_page_shows_runs_curves_samples_and_comparisons_without_an_error() {
    let Some(browser) = browser() else {
        eprintln!(
            "no Chromium on the PATH: the page was not opened, only its answers were looked at"
        );
        return;
    };
    let server = Server::start(shared(), &[]);
    let keys = server.keys();
    let (bad, alpha, beta) = (&keys[0], &keys[1], &keys[2]);
    let look = |hash: &str, parts: &[&str]| {
        let (dom, console) = opened(&browser, &server, hash);
        assert_eq!(console, "", "{hash}: the console is not silent");
        for part in parts {
            assert!(dom.contains(part), "{hash}: no `{part}` in\n{dom}");
        }
        dom
    };
    let dom =
        look("#/", &["3 runs", "alpha", "beta", "badge done", "badge failed", "class=\"spark\""]);
    assert!(dom.matches("<polyline").count() >= 2, "courses are drawn");

    let dom = look(&format!("#/{alpha}/curves"), &["Rewards", "Policy", "Smoothing", "of 6"]);
    assert!(dom.matches("<figure").count() > 8 && dom.matches("class=\"line s0\"").count() > 5);
    let dom = look(&format!("#/{alpha}/samples"), &["advantage", "Reference answer", "/images/0"]);
    assert!(dom.matches("class=\"said").count() >= 2);
    look(&format!("#/{alpha}/time"), &["Seconds per step", "<rect", "Memory", "MiB"]);
    look(&format!("#/{alpha}/settings"), &["lora_r", "checkpoint-6", "Every setting"]);
    look(&format!("#/{alpha}/log"), &["step 1/6", "step 6/6"]);

    let dom = look(
        &format!("#/{alpha},{beta}/curves"),
        &["2 runs side by side", "class=\"line s0\"", "class=\"line s1\""],
    );
    assert!(dom.contains("sub legend"), "runs are told apart by colour");
    look(&format!("#/{alpha},{beta}/settings"), &["Settings that differ", "learning_rate"]);

    // What a run calls itself stays text.
    for tab in ["curves", "samples", "settings", "log"] {
        let dom = look(&format!("#/{bad}/{tab}"), &["&lt;img src=x onerror=alert(1)&gt;"]);
        assert!(!dom.contains("<img src=\"x\""), "{tab}: a text became markup");
    }
    look("#/0123456789abcdef/curves", &["This run is gone"]);
}

#[test]
fn reports_and_comparisons_open_in_a_browser_without_an_error() {
    let Some(browser) = browser() else {
        eprintln!("no Chromium on the PATH: the pages were not opened");
        return;
    };
    let dir = shared();
    program::run_in(dir, "runs compare alpha beta --output_dir out --html compare.html");
    program::run_in(
        dir,
        "data inspect --dataset_name shapes/train.jsonl --model new --out inspect.html",
    );
    for (file, part) in [
        ("out/alpha/report.html", "data-series"),
        ("compare.html", "Settings that differ"),
        ("inspect.html", "<h1"),
    ] {
        let profile = tempfile::tempdir().unwrap();
        let done = Command::new(&browser)
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
            .args(["--enable-logging=stderr", "--v=0", "--virtual-time-budget=3000", "--dump-dom"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(format!("file://{}", dir.join(file).display()))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(!said.contains(":CONSOLE"), "{file}: {said}");
        assert!(String::from_utf8_lossy(&done.stdout).contains(part), "{file}");
    }
}
