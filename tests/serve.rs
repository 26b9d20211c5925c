//! `grpo-rt serve` on a small new model, over real connections: answers equal those of `infer`, whatever
//! else is asked at the time; what is wrong is refused and named; whoever goes away leaves no page of the
//! cache behind; the end lets answers finish.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

mod program; // the program, as tests run it

/// A folder with pictures and a small new model, made once.
fn lab() -> &'static Path {
    static LAB: OnceLock<PathBuf> = OnceLock::new();
    LAB.get_or_init(|| {
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("serve");
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        program::run_in(&dir, "data make-shapes --output_dir s --num_rows 4 --seed 1 --quiet");
        program::run_in(
            &dir,
            "init --vocab_size 320 --dataset_name s/train.jsonl --seed 1 --output_dir m --quiet",
        );
        dir
    })
}

/// A server that is ended when the test is.
struct Server {
    child: Child,
    address: SocketAddr,
    _said: BufReader<ChildStdout>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(more: &str) -> Server {
    start_with(&format!("--model m {more}"))
}

fn start_with(more: &str) -> Server {
    let line = format!(
        "serve --port 0 --max_model_len 2048 --max_num_seqs 16 --memory_budget 1GiB {more}"
    );
    let mut command = program::program();
    let command = command.args(line.split_whitespace()).current_dir(lab());
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    said.read_line(&mut first).unwrap();
    let address = first.split("http://").nth(1).and_then(|rest| rest.split(' ').next());
    let address = address.unwrap_or_else(|| panic!("{first}")).parse().unwrap();
    Server { child, address, _said: said }
}

/// Status and body of an answer.
fn send(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
    body: &[u8],
) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
         content-length: {}\r\n{headers}\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    // A server that refuses early may not read everything.
    let _ = stream.write_all(body);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let chunked = head.to_lowercase().contains("transfer-encoding: chunked");
    (status, if chunked { unchunked(body) } else { body.to_string() })
}

fn unchunked(mut body: &str) -> String {
    let mut text = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        if size == 0 {
            break;
        }
        text += &rest[..size];
        body = rest[size..].trim_start_matches("\r\n");
    }
    text
}

fn ask(address: SocketAddr, body: &Value) -> (u16, Value) {
    let text = body.to_string();
    let (status, answer) = send(address, "POST", "/v1/chat/completions", "", text.as_bytes());
    (status, serde_json::from_str(&answer).unwrap_or(Value::String(answer)))
}

fn picture(i: usize) -> String {
    let rows = std::fs::read_to_string(lab().join("s/train.jsonl")).unwrap();
    let row: Value = serde_json::from_str(rows.lines().nth(i).unwrap()).unwrap();
    lab().join("s").join(row["image"].as_str().unwrap()).display().to_string()
}

/// A question about a picture.
fn question(i: usize, change: Value) -> Value {
    let url =
        format!("data:image/png;base64,{}", STANDARD.encode(std::fs::read(picture(i)).unwrap()));
    let mut body = json!({
        "model": "m",
        "messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "text", "text": format!("What is this? ({i})")},
        ]}],
        "max_tokens": 12, "seed": 7,
    });
    for (key, value) in change.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

/// What `infer` says to the same question: texts and log-probabilities.
fn inferred(i: usize, more: &str) -> Vec<Value> {
    inferred_by("--model m", i, more)
}

fn inferred_by(model: &str, i: usize, more: &str) -> Vec<Value> {
    let out = lab().join(format!("infer-{i}-{}-{}.jsonl", model.len(), more.len()));
    let mut command = program::program();
    let line = format!("infer {model} --max_completion_length 12 --seed 7 {more}");
    let words = line.split_whitespace().map(String::from);
    let asked = ["--image".into(), picture(i), "--prompt".into(), format!("What is this? ({i})")];
    let out_words = ["--out".to_string(), out.display().to_string()];
    let done =
        command.args(words.chain(asked).chain(out_words)).current_dir(lab()).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let text = std::fs::read_to_string(&out).unwrap();
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// A number of the metrics page.
fn metric(address: SocketAddr, name: &str) -> u64 {
    let (_, text) = send(address, "GET", "/metrics", "", b"");
    let line = text.lines().find_map(|l| l.strip_prefix(&format!("grpo_rt_{name} ")));
    line.unwrap_or_else(|| panic!("{name}: {text}")).trim().parse().unwrap()
}

/// Waits until nothing is held any more.
fn settle(address: SocketAddr) {
    let end = Instant::now() + Duration::from_secs(60);
    let names = ["requests_open", "completions_running", "completions_waiting", "kv_pages_used"];
    loop {
        let held: Vec<u64> = names.iter().map(|name| metric(address, name)).collect();
        if held.iter().all(|n| *n == 0) {
            return;
        }
        assert!(Instant::now() < end, "{names:?}: {held:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Text and finish reason of every choice of a stream.
fn streamed(text: &str, n: usize) -> (Vec<String>, Vec<String>, Option<Value>) {
    let (mut texts, mut reasons, mut usage) =
        (vec![String::new(); n], vec![String::new(); n], None);
    let mut ended = false;
    for line in text.lines().filter(|l| !l.is_empty() && !l.starts_with(':')) {
        assert!(!ended, "after the end: {line}");
        let data = line.strip_prefix("data: ").unwrap_or_else(|| panic!("{line}"));
        if data == "[DONE]" {
            ended = true;
            continue;
        }
        let piece: Value = serde_json::from_str(data).unwrap();
        assert_eq!(piece["object"], "chat.completion.chunk");
        usage = piece.get("usage").filter(|u| !u.is_null()).cloned().or(usage);
        for choice in piece["choices"].as_array().unwrap() {
            let i = choice["index"].as_u64().unwrap() as usize;
            texts[i] += choice["delta"]["content"].as_str().unwrap_or("");
            reasons[i] += choice["finish_reason"].as_str().unwrap_or("");
        }
    }
    assert!(ended, "no end: {text}");
    (texts, reasons, usage)
}

#[test]
fn answers_are_those_of_infer_in_any_company() {
    let server = start("");
    let at = server.address;
    let sampled = inferred(0, "--do_sample --num_samples 3 --temperature 0.9 --top_p 0.95");
    let greedy = inferred(1, "");
    let body = question(0, json!({"temperature": 0.9, "top_p": 0.95, "n": 3, "logprobs": true}));
    let check = |answer: &Value| {
        for (choice, want) in answer["choices"].as_array().unwrap().iter().zip(&sampled) {
            assert_eq!(choice["message"]["content"], want["text"]);
            let logps: Vec<f64> = choice["logprobs"]["content"]
                .as_array()
                .unwrap()
                .iter()
                .map(|t| t["logprob"].as_f64().unwrap())
                .collect();
            let want: Vec<f64> =
                want["logps"].as_array().unwrap().iter().map(|l| l.as_f64().unwrap()).collect();
            assert_eq!(logps, want, "to the bit");
        }
    };
    let (status, answer) = ask(at, &body);
    assert_eq!(status, 200, "{answer}");
    check(&answer);
    let tokens: u64 = sampled.iter().map(|r| r["tokens"].as_array().unwrap().len() as u64).sum();
    assert_eq!(answer["usage"]["completion_tokens"], tokens);
    assert_eq!(
        answer["choices"][0]["finish_reason"] == "length",
        sampled[0]["finish_reason"] == "length"
    );

    // A stream is the same text in pieces.
    let mut body_in_pieces = body.clone();
    body_in_pieces["stream"] = true.into();
    body_in_pieces["stream_options"] = json!({"include_usage": true});
    let text = body_in_pieces.to_string();
    let (_, stream) = send(at, "POST", "/v1/chat/completions", "", text.as_bytes());
    let (texts, reasons, usage) = streamed(&stream, 3);
    let want: Vec<&str> = sampled.iter().map(|r| r["text"].as_str().unwrap()).collect();
    assert_eq!(texts, want);
    assert!(reasons.iter().all(|r| ["stop", "length"].contains(&r.as_str())));
    assert_eq!(usage.unwrap()["completion_tokens"], tokens);

    // A stop text ends the answer before itself.
    let whole = greedy[0]["text"].as_str().unwrap();
    let stop: String = whole.chars().skip(3).take(2).collect();
    let (_, cut) = ask(at, &question(1, json!({"temperature": 0, "stop": stop})));
    assert_eq!(cut["choices"][0]["message"]["content"], whole[..whole.find(&stop).unwrap()]);
    assert_eq!(cut["choices"][0]["finish_reason"], "stop");

    // Sixty-four at a time; every eighth goes away in the middle, every eighth is nonsense.
    std::thread::scope(|scope| {
        for i in 0..64 {
            let (body, check, greedy) = (&body, &check, &greedy);
            scope.spawn(move || match i % 8 {
                3 => {
                    let text = question(2, json!({"stream": true, "max_tokens": 1500})).to_string();
                    let mut stream = TcpStream::connect(at).unwrap();
                    let head = format!(
                        "POST /v1/chat/completions HTTP/1.1\r\nhost: {at}\r\ncontent-length: {}\r\n\r\n",
                        text.len()
                    );
                    stream.write_all(head.as_bytes()).unwrap();
                    stream.write_all(text.as_bytes()).unwrap();
                    if i % 16 == 3 {
                        // After the first words; the others before.
                        let _ = stream.read(&mut [0; 64]).unwrap();
                    }
                }
                5 => {
                    let wrong = question(1, json!({"temperature": "hot"}));
                    assert_eq!(ask(at, &wrong).0, 400);
                }
                6 => {
                    let (status, answer) = ask(at, &question(1, json!({"temperature": 0})));
                    assert_eq!(status, 200, "{answer}");
                    assert_eq!(answer["choices"][0]["message"]["content"], greedy[0]["text"]);
                }
                _ => {
                    let (status, answer) = ask(at, body);
                    assert_eq!(status, 200, "{answer}");
                    check(&answer);
                }
            });
        }
    });
    settle(at);
    assert_eq!(metric(at, "requests_failed_total"), 0);
    assert!(metric(at, "requests_refused_total") >= 8 && metric(at, "kv_pages_total") > 0);
}

#[test]
fn what_is_wrong_is_refused_and_named() {
    let server = start("--max_body 100kB --token s3cret --allow_image_urls");
    let at = server.address;
    let key = "authorization: Bearer s3cret\r\n";
    let post = |body: &str| {
        let (status, text) = send(at, "POST", "/v1/chat/completions", key, body.as_bytes());
        let answer: Value = serde_json::from_str(&text).unwrap_or_default();
        (status, answer["error"]["param"].clone(), answer["error"]["message"].to_string())
    };
    assert_eq!(send(at, "GET", "/v1/models", "", b"").0, 401);
    assert_eq!(send(at, "GET", "/v1/models", "authorization: Bearer s3cre\r\n", b"").0, 401);
    assert_eq!(send(at, "GET", "/health", "", b"").0, 200);
    let (status, models) = send(at, "GET", "/v1/models", key, b"");
    assert!(status == 200 && models.contains("\"id\":\"m\""), "{models}");
    assert_eq!(send(at, "GET", "/v1/models/m", key, b"").0, 200);
    assert_eq!(send(at, "GET", "/v1/models/other", key, b"").0, 404);
    assert_eq!(send(at, "GET", "/nowhere", key, b"").0, 404);
    assert_eq!(send(at, "GET", "/v1/chat/completions", key, b"").0, 405);
    assert_eq!(post("{").0, 400);
    assert_eq!(post(&"x".repeat(100_001)).0, 413);
    let ask = |change: Value| {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
        for (key, value) in change.as_object().unwrap() {
            body[key] = value.clone();
        }
        post(&body.to_string())
    };
    let image = |url: &str| json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]});
    for (change, status, param) in [
        (json!({"model": "other"}), 404, "model"),
        (json!({"tools": [{"type": "function"}]}), 400, "tools"),
        (json!({"max_tokens": 5000}), 400, "max_tokens"),
        (image("data:image/png;base64,AAAA"), 400, "messages"),
        (image("data:image/png;base64,%%"), 400, "messages"),
        (image("http://127.0.0.1:1/x.png"), 400, "messages"),
        (image("file:///etc/passwd"), 400, "messages[0].content[0].image_url.url"),
        (json!({"messages": [{"role": "user", "content": "word ".repeat(5000)}]}), 400, "messages"),
    ] {
        let (found, named, message) = ask(change.clone());
        assert_eq!((found, named.as_str()), (status, Some(param)), "{change}: {message}");
    }
    // A picture that says it is enormous costs nothing but its refusal.
    let mut bomb = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
    bomb.extend([0, 1, 0, 0, 0, 1, 0, 0, 8, 2, 0, 0, 0, 0, 0, 0, 0]);
    let url = format!("data:image/png;base64,{}", STANDARD.encode(bomb));
    assert_eq!(ask(image(&url)).0, 400);
    assert_eq!(ask(json!({"max_tokens": 3})).0, 200);
    settle_with(at, key);
}

/// As [`settle`], with a token.
fn settle_with(at: SocketAddr, key: &str) {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let (_, text) = send(at, "GET", "/metrics", key, b"");
        if text.contains("\ngrpo_rt_kv_pages_used 0\n")
            && text.contains("\ngrpo_rt_requests_open 0\n")
        {
            return;
        }
        assert!(Instant::now() < end, "{text}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_run_is_served_with_its_adapter_on_and_off() {
    let line = "train --model m --dataset_name s/train.jsonl --reward_funcs format --max_steps 2 \
                --per_device_train_batch_size 4 --num_generations 2 --max_completion_length 8 \
                --learning_rate 0.05 --output_dir out --run_id v1 --use_peft --lora_r 4 --quiet";
    program::run_in(lab(), line);
    program::fill_adapter(&lab().join("out/v1"));
    let mut server = start_with("--run_id v1 --output_dir out");
    let at = server.address;
    let base = &inferred(1, "--do_sample")[0];
    let run = &inferred_by("--run_id v1 --output_dir out", 1, "--do_sample")[0];
    assert_ne!(base["logps"], run["logps"], "the adapter does something");
    let asked = |model: &str| question(1, json!({"model": model, "logprobs": true}));
    std::thread::scope(|scope| {
        // Both at a time: a pass has rows of both.
        for i in 0..8 {
            let (name, want) = if i % 2 == 0 { ("v1", run) } else { ("v1-base", base) };
            scope.spawn(move || {
                let (status, answer) = ask(at, &asked(name));
                assert_eq!(status, 200, "{answer}");
                let choice = &answer["choices"][0];
                assert_eq!(choice["message"]["content"], want["text"], "{name}");
                let logps: Vec<&Value> = choice["logprobs"]["content"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|t| &t["logprob"])
                    .collect();
                let want: Vec<&Value> = want["logps"].as_array().unwrap().iter().collect();
                assert_eq!(logps, want, "{name}");
            });
        }
    });
    settle(at);
    assert!(server.child.try_wait().unwrap().is_none(), "it is still there");
}

#[test]
fn a_full_queue_says_so() {
    let server = start("--max_queue 1");
    let at = server.address;
    let long = question(0, json!({"max_tokens": 1500, "stream": true, "temperature": 1.5}));
    let text = long.to_string();
    let mut first = TcpStream::connect(at).unwrap();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {at}\r\ncontent-length: {}\r\n\r\n",
        text.len()
    );
    first.write_all(head.as_bytes()).unwrap();
    first.write_all(text.as_bytes()).unwrap();
    let _ = first.read(&mut [0; 64]).unwrap();
    if metric(at, "requests_open") == 1 {
        let (status, answer) = ask(at, &question(1, json!({})));
        // The first may have ended in the meantime.
        assert!(status == 503 || status == 200, "{answer}");
    }
    drop(first);
    settle(at);
    assert_eq!(ask(at, &question(1, json!({}))).0, 200);
}

#[test]
fn a_port_in_use_is_said_at_once() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let mut command = program::program();
    let words = ["serve", "--model", "m", "--port", &port];
    let done = command.args(words).current_dir(lab()).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.code() == Some(4) && said.contains("--port 0"), "{said}");
    let mut command = program::program();
    let words = ["serve", "--model", "m", "--port", "0", "--host", "0.0.0.0"];
    let done = command.args(words).current_dir(lab()).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.code() == Some(2) && said.contains("--token"), "{said}");
}

#[cfg(unix)]
#[test]
fn the_end_lets_answers_finish() {
    let mut server = start("--drain_seconds 60");
    let at = server.address;
    let pid = server.child.id().to_string();
    let body =
        question(0, json!({"stream": true, "max_tokens": 200, "temperature": 1.5})).to_string();
    let mut stream = TcpStream::connect(at).unwrap();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {at}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body.as_bytes()).unwrap();
    let mut begin = [0; 64];
    stream.read_exact(&mut begin).unwrap();
    let killed = std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap();
    assert!(killed.success());
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("data: [DONE]"), "the answer was cut off: {rest}");
    assert!(server.child.wait().unwrap().success());
    assert!(TcpStream::connect(at).is_err(), "nobody listens any more");
}
