//! The terminal dashboard: its screens as text, and the real program in a pseudo-terminal, which must be
//! given back whatever ends the run.

use grpo_rt::io::completions::{CompletionRecord, PromptMessage, PromptPart};
use grpo_rt::track::health::{Health, NON_FINITE};
use grpo_rt::track::{CompletionTable, DashboardState, Event, Key, MetricRow};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::Color;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

mod program; // the program, as tests run it

/// A run of a hundred steps, at step 40.
fn run(colour: bool) -> DashboardState {
    let mut state = DashboardState::new("easy-vqa", 100, colour);
    for step in 1..=40u64 {
        let t = step as f64;
        let values = [
            ("loss", 0.01 * (t * 0.7).sin()),
            ("reward", t / 40.0),
            ("rewards/accuracy/mean", t / 80.0),
            ("rewards/format/mean", t / 80.0),
            ("kl", 0.001 * t),
            ("entropy", 2.0 - t / 40.0),
            ("completions/mean_length", 100.0 + t),
            ("grad_norm", if step == 7 { f64::NAN } else { 0.5 }),
            ("step_time", 2.0),
            ("time/rollout", 1.25),
            ("time/forward_backward", 0.5),
            ("time/optimizer", 0.03),
            ("time/reference", 0.0),
            ("memory/weights_and_optimizer", 3.2e9),
            ("memory/planned_peak", 5.4e9),
        ];
        let values = values.map(|(n, v)| (n.to_string(), v)).to_vec();
        state.take(&Event::Row(MetricRow { step, epoch: t / 50.0, values }));
    }
    let prompt = vec![PromptMessage {
        role: "user".into(),
        content: vec![PromptPart::Image, PromptPart::Text("How many\ncircles?".into())],
    }];
    let record = |text: &str, advantage| CompletionRecord {
        step: 40,
        prompt: prompt.clone(),
        completion: text.into(),
        rewards: vec![Some(1.0), None],
        extra: Vec::new(),
        advantage,
    };
    state.take(&Event::Completions(CompletionTable {
        step: 40,
        rewards: vec!["accuracy".into(), "format".into()],
        records: vec![record("no", -0.7), record("<answer>\x1b[31mthree</answer>", 0.7)],
        totals: vec![Some(0.0), Some(1.0)],
        group_size: 2,
        ..CompletionTable::default()
    }));
    state.take(&Event::Line("a reward failed: no answer".into()));
    state
}

fn alarmed(mut state: DashboardState) -> DashboardState {
    let mut row = MetricRow::new(40, 0.8);
    row.push(NON_FINITE, 1.0);
    for alert in Health::default().look(&row) {
        state.take(&Event::Alert(alert));
    }
    state
}

fn screen(state: &DashboardState, width: u16, height: u16) -> (String, TestBackend) {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| state.draw(frame)).unwrap();
    let backend = terminal.backend().clone();
    let lines = backend.buffer().content.chunks(usize::from(width));
    let text = lines.map(|line| {
        let line: String = line.iter().map(|cell| cell.symbol()).collect();
        line.trim_end().to_string() + "\n"
    });
    (text.collect(), backend)
}

/// Compares with the file; `GRPO_RT_TEST_UPDATE=1` writes it.
fn is_kept(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/dashboard").join(name);
    if std::env::var_os("GRPO_RT_TEST_UPDATE").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap();
    assert_eq!(kept, text, "{name} is now:\n{text}");
}

#[test]
fn screens_look_as_they_are_kept() {
    is_kept("80x24.txt", &screen(&run(true), 80, 24).0);
    is_kept("120x40_alert.txt", &screen(&alarmed(run(true)), 120, 40).0);
    is_kept("before.txt", &screen(&DashboardState::new("new", 9, true), 80, 24).0);
}

#[test]
fn keys_choose_curves_and_help() {
    let mut state = run(true);
    assert!(screen(&state, 80, 24).0.contains(" reward ─"));
    state.press(Key::Next);
    assert!(screen(&state, 80, 24).0.contains(" loss ─"));
    state.press(Key::Previous);
    state.press(Key::Previous);
    let text = screen(&state, 80, 24).0;
    assert!(text.contains(" step_time ─") && text.contains("> step_time"), "{text}");
    state.press(Key::Help);
    assert!(screen(&state, 80, 24).0.contains("the run goes on, line by line"));
    state.press(Key::Help);
    assert_eq!(screen(&state, 80, 24).0, text);
}

#[test]
fn every_size_is_drawn_and_says_where_the_run_is() {
    for (width, height) in [(1, 1), (20, 5), (49, 13), (50, 14), (64, 18), (80, 24), (300, 100)] {
        let text = screen(&alarmed(run(true)), width, height).0;
        assert_eq!(text.lines().count(), usize::from(height));
        if width >= 40 {
            assert!(text.contains("step 40/100"), "{width}x{height}\n{text}");
            assert!(text.contains("! "), "{width}x{height}: the alert is shown\n{text}");
        }
        screen(&DashboardState::new("x", 0, false), width, height);
    }
}

#[test]
fn no_colour_is_no_colour_and_the_text_is_the_same() {
    let (coloured, plain) =
        (screen(&alarmed(run(true)), 80, 24), screen(&alarmed(run(false)), 80, 24));
    assert_eq!(coloured.0, plain.0);
    let colours = |b: &TestBackend| b.buffer().content.iter().any(|c| c.fg != Color::Reset);
    assert!(colours(&coloured.1) && !colours(&plain.1));
}

/// Runs a command in a pseudo-terminal of 24 lines and does with it what the first argument says; prints
/// what came of it as JSON.
const PTY: &str = r#"
import fcntl, json, os, pty, re, select, signal, struct, subprocess, sys, termios, time

act, metrics, command = sys.argv[1], sys.argv[2], sys.argv[3:]
master, slave = pty.openpty()
fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
before = termios.tcgetattr(slave)

def child():
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)

process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, preexec_fn=child)
seen = b""
deadline = time.time() + 240

def pump(until):
    global seen
    while not until():
        if time.time() > deadline:
            process.kill()
            sys.exit("too late: " + repr(seen[-2000:]))
        if select.select([master], [], [], 0.05)[0]:
            seen += os.read(master, 65536)

def rows():
    try:
        return open(metrics).read().count("\n")
    except OSError:
        return 0

gone = lambda: process.poll() is not None
raw_while_shown = None
if act != "nothing":
    pump(lambda: gone() or (b"\x1b[?1049h" in seen and rows() >= 2))
    raw_while_shown = not termios.tcgetattr(slave)[3] & termios.ICANON
if act == "leave":
    os.write(master, b" ?q")
    pump(lambda: gone() or (b"\x1b[?1049l" in seen and b"step " in seen.split(b"\x1b[?1049l")[1]))
    os.write(master, b"\x03")
if act == "stop":
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    process.send_signal(signal.SIGWINCH)
    # Lines that the first size did not have are drawn. A key in the same instant may wait for the next.
    resized = len(seen)
    pump(lambda: gone() or re.search(rb"\x1b\[(2[5-9]|3\d|40);\d+H", seen[resized:]))
    os.write(master, b"\x03")
if act == "twice":
    os.write(master, b"\x03\x03")
if act == "term":
    process.send_signal(signal.SIGTERM)
if act == "break":
    folder = os.path.join(os.path.dirname(metrics), "completions")
    for i in range(1000):
        try:
            os.rename(folder, f"{folder}.{i}")
            open(folder, "x").close()
            break
        except OSError:
            time.sleep(0.01)
pump(gone)
while select.select([master], [], [], 0.2)[0]:
    seen += os.read(master, 65536)
after = termios.tcgetattr(slave)
print(json.dumps({
    "code": process.returncode,
    "taken": seen.count(b"\x1b[?1049h"),
    "given_back": seen.count(b"\x1b[?1049l"),
    "raw_while_shown": raw_while_shown,
    "same": before == after,
    "after": seen.split(b"\x1b[?1049l")[-1].decode(errors="replace"),
}))
"#;

fn lab() -> &'static Path {
    static LAB: OnceLock<PathBuf> = OnceLock::new();
    LAB.get_or_init(|| program::lab_with_model("dashboard", "--num_rows 8", 320))
}

/// A run in the pseudo-terminal; what the script says of it.
fn in_terminal(act: &str, steps: usize) -> serde_json::Value {
    let line = format!(
        "train --model new --dataset_name shapes/train.jsonl --num_generations 2 --batch_size 4 \
         --max_completion_length 8 --reward_funcs format exact --threads 1 --save_steps 0 --tui \
         --max_steps {steps} --output_dir {act}"
    );
    let mut command = Command::new("python3");
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("GRPO_RT_")) {
        command.env_remove(name);
    }
    let done = command
        .args(["-c", PTY, act, &format!("{act}/metrics.jsonl"), env!("CARGO_BIN_EXE_grpo-rt")])
        .args(line.split_whitespace())
        .env("TERM", "xterm")
        .current_dir(lab())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{act}: {said}");
    serde_json::from_slice(&done.stdout).unwrap_or_else(|e| panic!("{act}: {e}: {said}"))
}

#[test]
fn the_terminal_is_given_back_whatever_ends_the_run() {
    for (act, steps, code, after) in [
        ("nothing", 3, 0, "step 3/3"),
        ("stop", 4000, 130, "--resume_from_checkpoint true"),
        ("twice", 4000, 130, ""),
        ("term", 4000, 130, "--resume_from_checkpoint true"),
        ("leave", 4000, 130, "the run goes on, line by line"),
        ("break", 4000, 4, "completions"),
    ] {
        let found = in_terminal(act, steps);
        assert_eq!(found["code"], code, "{act}: {found}");
        assert_eq!(
            (&found["taken"], &found["given_back"]),
            (&1.into(), &1.into()),
            "{act}: {found}"
        );
        assert_eq!(found["same"], true, "{act}: the terminal's settings: {found}");
        assert!(found["after"].as_str().unwrap().contains(after), "{act}: {found}");
        if act != "nothing" {
            assert_eq!(found["raw_while_shown"], true, "{act}: {found}");
        }
    }
}

#[test]
fn without_a_terminal_the_run_is_shown_line_by_line() {
    let line = "train --model new --dataset_name shapes/train.jsonl --num_generations 2 --batch_size 4 \
        --max_completion_length 8 --reward_funcs exact --max_steps 2 --tui --output_dir piped";
    let done =
        program::program().args(line.split_whitespace()).current_dir(lab()).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
    assert!(said.contains("--tui: no terminal here") && said.contains("step 2/2"), "{said}");
    assert!(!said.contains('\x1b'), "{said}");
}
