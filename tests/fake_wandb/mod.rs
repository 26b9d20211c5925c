//! A `wandb` module that writes down how it is called, and misbehaves if it is told to; and a Python that
//! finds it. Standard library only.

use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const WANDB: &str = r#"
import json
import os
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
MODE = open(os.path.join(HERE, "mode")).read().strip()
if MODE == "missing":
    raise ImportError("No module named 'wandb'")
if MODE == "broken":
    raise RuntimeError("this client is broken")
__version__ = "0.fake"
run = None
logs = 0


def plain(value):
    if isinstance(value, (Table, Image, Histogram)):
        return {type(value).__name__: plain(value.told)}
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value


def record(call, **told):
    with open(os.path.join(HERE, "calls.jsonl"), "a") as f:
        f.write(json.dumps({"call": call, **plain(told)}) + "\n")


class Image:
    def __init__(self, image):
        self.told = image


class Histogram:
    def __init__(self, np_histogram):
        self.told = np_histogram


class Table:
    def __init__(self, columns, data, allow_mixed_types=False):
        assert all(len(row) == len(columns) for row in data), (columns, data)
        self.told = {"columns": columns, "data": data}


class AlertLevel:
    WARN = "WARN"


class Config:
    def update(self, values, allow_val_change=False):
        record("config", values=values)


class Run:
    def __init__(self, **kw):
        self.id = kw.get("id") or "fresh%d" % os.getpid()
        self.project = kw.get("project", "none")
        self.name = kw.get("name", "none")
        self.entity = ""
        self.url = "https://example.org/" + self.id
        self.dir = kw.get("dir")
        self.summary = Summary()


class Summary:
    def __setitem__(self, name, value):
        record("summary", name=name, value=value)


config = Config()


def init(**kw):
    global run
    if MODE == "refuses":
        raise ValueError("api_key not configured (no-tty)")
    record("init", **kw)
    print("a line of the client")
    run = Run(**kw)
    return run


def define_metric(name, **kw):
    record("define_metric", name=name, **kw)


def log(values):
    global logs
    logs += 1
    if logs > 2 and MODE == "dies":
        os._exit(7)
    if logs > 2 and MODE == "hangs":
        time.sleep(600)
    if logs > 2 and MODE == "fails":
        raise ValueError("the table\nis wrong")
    record("log", values=values)


def alert(title, text, level=None):
    record("alert", title=title, text=text)


def finish(exit_code=None):
    record("finish", exit_code=exit_code)
"#;

const PIL_IMAGE: &str = r#"
def open(file):
    data = file.read()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return len(data)
"#;

/// A folder with the modules and a program `python` that finds them.
pub struct FakeWandb {
    dir: PathBuf,
}

impl FakeWandb {
    /// Made anew in `dir`; `mode` is `fine` or how it misbehaves.
    pub fn new(dir: &Path, mode: &str) -> FakeWandb {
        let _ = std::fs::remove_dir_all(dir);
        std::fs::create_dir_all(dir.join("PIL")).unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.join(name), text).unwrap();
        write("wandb.py", WANDB);
        write("PIL/__init__.py", "");
        write("PIL/Image.py", PIL_IMAGE);
        write("mode", mode);
        let here = dir.display();
        write("python", &format!("#!/bin/sh\nPYTHONPATH={here} exec python3 \"$@\"\n"));
        let runs = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(dir.join("python"), runs).unwrap();
        FakeWandb { dir: dir.to_path_buf() }
    }

    /// The Python.
    pub fn python(&self) -> PathBuf {
        self.dir.join("python")
    }

    /// Every call so far, in order.
    pub fn calls(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.dir.join("calls.jsonl")).unwrap_or_default();
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    /// The calls of one name.
    pub fn calls_of(&self, name: &str) -> Vec<Value> {
        self.calls().into_iter().filter(|c| c["call"] == name).collect()
    }
}
