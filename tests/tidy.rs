//! Laws of the source tree that the compiler does not know: floors, file headers and sizes, vendor
//! words, `unsafe`, dependencies, documented commands. Every violation is printed as `file:line`.
//! Reads the repository, changes nothing.

use std::path::{Path, PathBuf};

use grpo_rt::options::{Command, FOREIGN, OPTIONS};

/// Floors of src/, ground first. A file imports only from lower floors and from its own folder.
const FLOORS: &[(&str, u32)] = &[
    ("base", 0),
    ("device", 1),
    ("io", 1),
    ("mem", 2),
    ("ops", 3),
    ("tape", 4),
    ("model", 5),
    ("rollout", 6),
    ("reward", 6),
    ("grpo", 7),
    ("options", 8),
    ("track", 9),
    ("settings", 10),
    ("publish", 11),
    ("train", 12),
    ("evaluate", 13),
    ("infer", 13),
    ("inspect", 13),
    ("runs", 13),
    ("web", 14),
    ("cli", 15),
];

/// Most lines of a file, and of a file that is mostly a table.
const MAX_LINES: usize = 600;
const MAX_LINES_OF_TABLES: usize = 700;
/// Files that are mostly a table.
const TABLES: &[&str] = &["src/ops/mod.rs"];

/// Words that only the floor of devices may say; elsewhere code is the same for every vendor.
const VENDOR_WORDS: &[&str] = &["cuda", "hip", "nccl", "rccl", "rocm", "nvidia", "amd"];
/// Lines outside src/device that may say one, as (file, text of the line).
const VENDOR_ALLOWED: &[(&str, &str)] = &[];

/// Where `unsafe` may stand: beginnings of paths, each with its reason.
const UNSAFE_ALLOWED: &[(&str, &str)] = &[
    ("src/device", "calls into drivers"),
    ("src/ops/cpu", "vector instructions chosen at run time"),
    ("src/mem/arena.rs", "one allocation seen as many tensors"),
    ("src/ops/io.rs", "byte views of a node's inputs and outputs"),
    ("src/ops/layer_norm.rs", "threads write columns of their own"),
    ("src/ops/rms_norm.rs", "threads write columns of their own"),
    ("src/ops/adamw.rs", "a test binds byte views"),
    ("src/ops/dropout.rs", "a test binds byte views"),
    ("src/tape/exec.rs", "binding of byte views, one node at a time"),
    ("src/io/safetensors.rs", "a file mapped into memory"),
    ("src/io/image", "the JPEG library's C interface"),
];

/// Every direct dependency, with the reason why we do not do its work ourselves.
const DEPENDENCIES: &[(&str, &str)] = &[
    ("arrow-array", "columns of Arrow and Parquet files"),
    ("arrow-buffer", "offsets of nested columns"),
    ("arrow-ipc", "data sets of Hugging Face `save_to_disk`"),
    ("arrow-schema", "types of those columns"),
    ("axum", "the HTTP server of `serve` and `runs serve`"),
    ("base64", "images inside requests"),
    ("bytemuck", "views of bytes as numbers without unsafe code of ours"),
    ("cudarc", "types and constants of NVIDIA's driver interface"),
    ("ctrlc", "a stopped run writes its checkpoint"),
    ("half", "bfloat16 and float16"),
    ("image", "decoders of PNG, WebP, GIF, BMP and JPEG"),
    ("libloading", "drivers are opened at run time, symbol by symbol"),
    ("memmap2", "weights are mapped, not read"),
    ("minijinja", "chat templates are Jinja programs"),
    ("minijinja-contrib", "Python methods that chat templates call"),
    ("mozjpeg", "JPEG pixels equal to Pillow's to the bit"),
    ("num-traits", "references of ops in singles and doubles"),
    ("parquet", "data sets and completions in Parquet"),
    ("ratatui", "the terminal dashboard"),
    ("rayon", "work on all cores"),
    ("regex", "rewards that match patterns"),
    ("safetensors", "tests read our files with the format's own library"),
    ("serde", "the interface of the format crates"),
    ("serde-saphyr", "YAML, with the line of an error"),
    ("serde_json", "JSON of models, tokenizers and data"),
    ("sha2", "checksums of checkpoints, as `sha256sum` makes them"),
    ("tokio", "connections of the HTTP server"),
    ("tokio-stream", "answers that are sent while they are made"),
    ("tokenizers", "token ids equal to those of transformers"),
    ("toml", "TOML configuration files"),
    ("ureq", "questions to a judge over HTTP"),
    ("hip-sys", "a test holds our HIP constants against its"),
    ("criterion", "benches with confidence intervals"),
    ("proptest", "tests that look for their own counterexamples"),
    ("tempfile", "folders of tests that vanish"),
];

/// One text file of the repository.
struct File {
    /// Path from the root, with forward slashes.
    path: String,
    text: String,
}

/// What is wrong, as `file:line: what`.
type Violations = Vec<String>;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below `folders` (or the file itself) whose name has one of the `endings`.
fn files(folders: &[&str], endings: &[&str]) -> Vec<File> {
    let mut found = Vec::new();
    let mut todo: Vec<PathBuf> = folders.iter().map(|f| root().join(f)).collect();
    while let Some(path) = todo.pop() {
        if path.is_dir() {
            todo.extend(std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        } else if endings.iter().any(|e| path.to_string_lossy().ends_with(e)) && path.is_file() {
            let name = path.strip_prefix(root()).unwrap().to_string_lossy().replace('\\', "/");
            let text = std::fs::read_to_string(&path)
                .unwrap_or_else(|e| panic!("{name} is not a text file: {e}"));
            found.push(File { path: name, text });
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn rust_files() -> Vec<File> {
    let found = files(&["src", "tests", "benches", "build.rs"], &[".rs"]);
    assert!(found.len() > 20, "the source tree was not found");
    found
}

fn assert_none(law: &str, violations: Violations) {
    let count = violations.len();
    assert!(violations.is_empty(), "{law}: {count} violations\n{}", violations.join("\n"));
}

/// The code of a line: without comments and without the inside of simple strings.
fn code(line: &str) -> String {
    let mut out = String::new();
    let mut chars = line.chars().peekable();
    let mut in_string = false;
    while let Some(c) = chars.next() {
        match c {
            '\\' if in_string => {
                chars.next();
            }
            // The character literals '"' and '\\"' open no string.
            '\'' if !in_string && matches!(chars.peek(), Some('"' | '\\')) => {
                chars.by_ref().skip(1).find(|c| *c == '\'');
            }
            '"' => {
                in_string = !in_string;
                out.push('"');
            }
            '/' if !in_string && chars.peek() == Some(&'/') => break,
            c if !in_string => out.push(c),
            _ => {}
        }
    }
    out
}

/// The words of a text: runs of letters, digits and underscores.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|w| !w.is_empty())
}

fn floor(name: &str) -> Option<u32> {
    FLOORS.iter().find(|(n, _)| *n == name).map(|(_, f)| *f)
}

/// The floor folder of a file of src/: `src/mem/plan.rs` and `src/mem.rs` are of `mem`.
fn folder_of(path: &str) -> Option<&str> {
    path.strip_prefix("src/")?.split(['/', '.']).next().filter(|n| floor(n).is_some())
}

/// Modules between the crate root and the module of a file: 1 for src/mem/mod.rs, 2 for
/// src/mem/plan.rs.
fn depth_of(path: &str) -> usize {
    let parts = path.strip_prefix("src/").map_or(0, |p| p.split('/').count());
    if path.ends_with("/mod.rs") { parts - 1 } else { parts }
}

/// Top-level modules of this crate that a file's code names, with line (1-based).
fn imports(file: &File) -> Vec<(usize, String)> {
    // One text with comments removed, so that `use crate::{...}` may span lines.
    let text: String = file.text.lines().map(|l| code(l) + "\n").collect();
    let up = "super::".repeat(depth_of(&file.path));
    let mut found = Vec::new();
    for prefix in ["crate::", up.as_str()] {
        for (at, _) in text.match_indices(prefix) {
            let before = text[..at].chars().next_back();
            // `$crate::` of a macro counts, `my_crate::` and a longer `super::super::` do not.
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let line = text[..at].matches('\n').count() + 1;
            let rest = &text[at + prefix.len()..];
            let names = match rest.strip_prefix('{') {
                Some(group) => top_names(group),
                None => words(rest).next().into_iter().collect(),
            };
            found.extend(names.into_iter().map(|n| (line, n.to_string())));
        }
    }
    found
}

/// First names in a brace group: `a::b, c::{d, e}, f}` has a, c and f.
fn top_names(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut names) = (0, 0, Vec::new());
    for (i, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                names.extend(words(&group[start..i]).next());
                start = i + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    names
}

#[test]
fn floors_import_only_from_below() {
    let mut wrong = Vec::new();
    for file in rust_files() {
        let Some(own) = folder_of(&file.path) else { continue };
        for (line, name) in imports(&file) {
            let Some(theirs) = floor(&name).filter(|_| name != own) else { continue };
            if theirs >= floor(own).unwrap() {
                let path = &file.path;
                wrong.push(format!("{path}:{line}: `{own}` imports `{name}` (floor {theirs})"));
            }
        }
    }
    assert_none("a file imports only from lower floors", wrong);
}

#[test]
fn every_folder_of_src_has_a_floor() {
    let library = std::fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let mut declared: Vec<&str> =
        library.lines().filter_map(|l| words(l.strip_prefix("pub mod ")?).next()).collect();
    let mut listed: Vec<&str> = FLOORS.iter().map(|(n, _)| *n).collect();
    declared.sort_unstable();
    listed.sort_unstable();
    assert_eq!(declared, listed, "src/lib.rs and the floors of this test differ");
}

#[test]
fn the_floor_scanner_sees_what_it_should() {
    let file = |path: &str, text: &str| File { path: path.into(), text: text.into() };
    let names =
        |f: File| imports(&f).into_iter().map(|(l, n)| format!("{l}{n}")).collect::<Vec<_>>();
    let text = "use crate::{\n    io::{text, image},\n    mem,\n};\n// crate::cli\nfn f() { crate::ops::x(); }";
    assert_eq!(names(file("src/tape/mod.rs", text)), ["1io", "1mem", "6ops"]);
    assert_eq!(names(file("src/mem/plan.rs", "use super::super::cli::X; use super::y;")), ["1cli"]);
    assert_eq!(names(file("src/mem/mod.rs", "use super::ops; let s = \"crate::cli\";")), ["1ops"]);
    assert_eq!(code(r#"let a = "x // \" y"; '"'; b // c"#).trim(), r#"let a = ""; ; b"#);
}

#[test]
fn files_have_a_header_and_a_size() {
    let mut wrong = Vec::new();
    for file in rust_files() {
        let path = &file.path;
        if !file.text.starts_with("//! ") {
            wrong.push(format!("{path}:1: the file does not start with a `//!` paragraph"));
        }
        if file.text.contains(concat!("(to be ", "written)")) {
            wrong.push(format!("{path}:1: the file is not written"));
        }
        let most = if TABLES.contains(&path.as_str()) { MAX_LINES_OF_TABLES } else { MAX_LINES };
        let lines = file.text.lines().count();
        if lines > most {
            wrong.push(format!("{path}:{lines}: more than {most} lines"));
        }
        if !file.text.ends_with('\n') || file.text.ends_with("\n\n") {
            wrong.push(format!("{path}:{lines}: the file does not end with one line end"));
        }
        let stem = Path::new(path).file_stem().unwrap().to_string_lossy().into_owned();
        let folders: Vec<&str> = path.split('/').collect();
        if ["utils", "util", "helpers", "helper", "common", "misc"]
            .iter()
            .any(|n| stem == *n || folders.contains(n))
        {
            wrong.push(format!("{path}:1: a name that says nothing"));
        }
    }
    assert_none("files say what they are and can be read in one sitting", wrong);
}

#[test]
fn vendors_are_named_on_their_floor_only() {
    let mut wrong = Vec::new();
    for file in files(&["src"], &[".rs"]) {
        if file.path.starts_with("src/device/") {
            continue;
        }
        for (i, line) in file.text.lines().enumerate() {
            let lower = line.to_ascii_lowercase();
            let said = words(&lower).flat_map(|w| w.split('_')).find(|w| VENDOR_WORDS.contains(w));
            let allowed = VENDOR_ALLOWED.iter().any(|(f, l)| *f == file.path && *l == line.trim());
            if let Some(word) = said.filter(|_| !allowed) {
                wrong.push(format!("{}:{}: says `{word}`", file.path, i + 1));
            }
        }
    }
    assert_none("vendor words stand in src/device, build.rs and kernels/ only", wrong);
}

#[test]
fn unsafe_code_is_rare_and_reasoned() {
    let mut wrong = Vec::new();
    for file in files(&["src"], &[".rs"]) {
        let lines: Vec<&str> = file.text.lines().collect();
        for (i, line) in lines.iter().enumerate() {
            let code = code(line);
            if !words(&code).any(|w| w == "unsafe") {
                continue;
            }
            let place = format!("{}:{}", file.path, i + 1);
            if !UNSAFE_ALLOWED.iter().any(|(beginning, _)| file.path.starts_with(beginning)) {
                wrong.push(format!("{place}: `unsafe` is not allowed here"));
            }
            let block = code.contains("unsafe {") || code.contains("unsafe impl");
            // The reason is the comment right above, or above the statement the block is part of.
            let reason = lines[i.saturating_sub(8)..=i].iter().any(|l| l.contains("SAFETY:"));
            if block && !reason {
                wrong.push(format!("{place}: no `// SAFETY:` comment above"));
            }
        }
    }
    assert_none("unsafe code stands where it must, with its reason", wrong);
}

#[test]
fn nothing_is_left_undone_or_sloppy() {
    // Put together here, so that this file does not accuse itself.
    let undone = ["todo", "unimplemented", "dbg"].map(|w| format!("{w}!("));
    let marks = [concat!("FIX", "ME"), concat!("TO", "DO"), concat!("XX", "X")];
    let machine = [concat!("/ro", "ot/"), concat!("/wo", "rk/"), concat!("/ho", "me/")];
    let mut wrong = Vec::new();
    let text = &[".rs", ".md", ".toml", ".yaml", ".py", ".sh", ".cu", ".h", ".hip", ".cpp"];
    let places = ["src", "tests", "benches", "build.rs", "docs", "configs", "tools", "kernels"];
    let pages = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "Cargo.toml"];
    let mut all = files(&[&places[..], &pages[..]].concat(), text);
    all.extend(files(&[".ci/run"], &["run"]));
    // Data of tests is as it was made.
    for file in all.iter().filter(|f| !f.path.starts_with("tests/data/")) {
        for (i, line) in file.text.lines().enumerate() {
            let mut say = |what: &str| wrong.push(format!("{}:{}: {what}", file.path, i + 1));
            if line.ends_with([' ', '\t', '\r']) {
                say("white space at the end of the line");
            }
            if let Some(path) = machine.iter().find(|p| line.contains(*p)) {
                say(&format!("a path of one machine: {path}"));
            }
            if file.path.ends_with(".rs")
                && let Some(mark) = undone.iter().find(|m| line.contains(m.as_str()))
            {
                say(mark);
            }
            if let Some(mark) = words(line).find(|w| marks.contains(w)) {
                say(mark);
            }
        }
    }
    assert_none("what is in the tree is finished", wrong);
}

#[test]
fn dependencies_have_a_reason() {
    let text = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let manifest: toml::Table = toml::from_str(&text).unwrap();
    let mut tables: Vec<&toml::Table> = vec![&manifest];
    let targets = manifest.get("target").and_then(|t| t.as_table());
    tables.extend(targets.into_iter().flat_map(|t| t.values()).filter_map(|t| t.as_table()));
    let mut used = Vec::new();
    for table in tables {
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let names = table.get(section).and_then(|s| s.as_table());
            used.extend(names.into_iter().flat_map(|s| s.keys().cloned()));
        }
    }
    let line = |name: &str| text.lines().position(|l| l.starts_with(name)).map_or(1, |i| i + 1);
    let mut wrong = Vec::new();
    for name in &used {
        if !DEPENDENCIES.iter().any(|(n, _)| n == name) {
            wrong.push(format!(
                "Cargo.toml:{}: `{name}` has no reason in tests/tidy.rs",
                line(name)
            ));
        }
    }
    for (name, reason) in DEPENDENCIES {
        assert!(reason.len() > 10, "{name}: the reason is too short");
        if !used.iter().any(|u| u == name) {
            wrong.push(format!("tests/tidy.rs:1: `{name}` is no dependency any more"));
        }
    }
    assert_none("every direct dependency has its reason", wrong);
}

/// Command lines of this program in a text: what follows `grpo-rt` (or `cargo run ... --`) where a
/// line of code starts, with continued lines joined.
fn command_lines(text: &str) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> = Vec::new();
    let mut open = false;
    for (i, line) in text.lines().enumerate() {
        let bare = line.trim_start_matches(['#', '$', '>', ' ', '|']);
        let starts = ["grpo-rt ", "./target/release/grpo-rt ", "target/release/grpo-rt "];
        let run = bare.strip_prefix("cargo run").and_then(|r| r.split_once(" -- ")).map(|(_, r)| r);
        let rest = starts.iter().find_map(|s| bare.strip_prefix(s)).or(run);
        if open {
            let (_, joined) = found.last_mut().unwrap();
            joined.pop();
            joined.push_str(bare);
        } else if let Some(rest) = rest {
            found.push((i + 1, rest.to_string()));
        } else {
            continue;
        }
        open = found.last().is_some_and(|(_, l)| l.ends_with('\\'));
    }
    found
}

#[test]
fn documented_commands_exist() {
    assert!(root().join("README.md").is_file(), "README.md is missing");
    let mut wrong = Vec::new();
    for file in files(&["README.md", "docs", "configs"], &[".md", ".yaml"]) {
        let example = |l: &str| l.chars().next().is_some_and(|c| c.is_ascii_lowercase());
        for (line, command) in command_lines(&file.text) {
            // Prose that starts with the program's name is no command line.
            let fenced = file.path.ends_with(".yaml") || in_fence(&file.text, line);
            if !fenced || !example(&command) {
                continue;
            }
            let place = format!("{}:{line}", file.path);
            let typed: Vec<String> = command.split_whitespace().map(String::from).collect();
            let (known, taken) = match Command::split(&typed) {
                Ok(found) => found,
                Err(error) => {
                    wrong.push(format!("{place}: {}", error.one_line()));
                    continue;
                }
            };
            for flag in typed[taken..].iter().filter_map(|w| w.strip_prefix("--")) {
                let name = flag.split('=').next().unwrap().replace('-', "_");
                let name = name.strip_prefix("no_").unwrap_or(&name);
                let accepted = OPTIONS
                    .iter()
                    .chain(FOREIGN.iter().map(|f| &f.opt))
                    .any(|o| (o.name == name || o.aliases.contains(&name)) && o.accepted_by(known));
                if !accepted && name != "help" {
                    wrong.push(format!("{place}: `{}` has no --{name}", known.name()));
                }
            }
        }
    }
    assert_none("commands in the documentation exist", wrong);
}

/// Whether a line (1-based) of a Markdown text is inside a code fence.
fn in_fence(text: &str, line: usize) -> bool {
    text.lines().take(line - 1).filter(|l| l.trim_start().starts_with("```")).count() % 2 == 1
}

#[test]
fn command_lines_are_found() {
    let text =
        "```\n$ grpo-rt train \\\n    --seed 1\ncargo run --release -- eval --x\n```\ngrpo-rt is";
    let found = command_lines(text);
    assert_eq!(found[0], (2, "train --seed 1".to_string()));
    assert_eq!(found[1], (4, "eval --x".to_string()));
    assert!(in_fence(text, 4) && !in_fence(text, 6));
}

#[test]
fn licences_are_there() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(manifest.contains("license = \"MIT OR Apache-2.0\""));
    for (name, text) in [("LICENSE-MIT", "Permission is hereby"), ("LICENSE-APACHE", "Version 2.0")]
    {
        let found = std::fs::read_to_string(root().join(name)).unwrap();
        assert!(found.contains(text), "{name}:1: is not the licence");
    }
}

/// Fields of the struct that begins at the first brace of `text`: (name, kind), where a kind is a
/// pointer, or a number of a width.
fn struct_fields(
    text: &str,
    kind: impl Fn(&str) -> Option<(String, &'static str)>,
) -> Vec<(String, &'static str)> {
    let body = text.split_once('{').map_or("", |(_, rest)| rest);
    let body = body.split_once('}').map_or("", |(body, _)| body);
    let body: String = body.lines().map(|l| l.split("//").next().unwrap_or(l)).collect();
    body.split([';', ',']).filter_map(|f| kind(f.trim())).collect()
}

/// A field of an argument struct in a kernel's source.
fn kernel_field(field: &str) -> Option<(String, &'static str)> {
    let name = words(field).last()?.to_string();
    let kind = match field {
        f if f.contains('*') => "pointer",
        f if f.starts_with("double") => "f64",
        f if f.starts_with("float") => "f32",
        f if f.starts_with("uint64_t") => "u64",
        f if f.starts_with("int64_t") => "i64",
        f if f.starts_with("uint32_t") => "u32",
        f if f.starts_with("int") => "i32",
        _ => return None,
    };
    Some((name, kind))
}

/// A field of its mirror.
fn mirror_field(field: &str) -> Option<(String, &'static str)> {
    let (name, kind) = field.split_once(':')?;
    let kind = match kind.trim() {
        "DevicePtr" => "pointer",
        "f64" => "f64",
        "f32" => "f32",
        "u64" => "u64",
        "i64" => "i64",
        "u32" => "u32",
        "i32" => "i32",
        _ => return None,
    };
    Some((name.trim().trim_start_matches("pub ").to_string(), kind))
}

#[test]
fn argument_structs_of_kernels_are_mirrored_field_by_field() {
    let structs = |files: &[File]| -> Vec<(String, String)> {
        let mut found = Vec::new();
        for f in files {
            for (at, _) in f.text.match_indices("struct ") {
                let rest = &f.text[at + "struct ".len()..];
                let name = words(rest).next().unwrap_or_default();
                if name.ends_with("Args") && rest[name.len()..].trim_start().starts_with('{') {
                    found.push((name.to_string(), rest.to_string()));
                }
            }
        }
        found
    };
    let kernels = structs(&files(&["kernels/common", "kernels/include"], &[".cu", ".h"]));
    let mirrors = structs(&files(&["src/ops"], &[".rs"]));
    assert!(kernels.len() > 20, "the kernels' argument structs were not found");
    let mut wrong = Vec::new();
    for (name, text) in &kernels {
        let ours = struct_fields(text, kernel_field);
        let Some((_, mirror)) = mirrors.iter().find(|(n, _)| n == name) else {
            wrong.push(format!("{name}: no struct of this name in src/ops"));
            continue;
        };
        let theirs = struct_fields(mirror, mirror_field);
        if ours != theirs || ours.is_empty() {
            wrong.push(format!("{name}: {ours:?} in the kernel, {theirs:?} in src/ops"));
        }
    }
    assert_none("argument structs have the same fields on both sides", wrong);
}
