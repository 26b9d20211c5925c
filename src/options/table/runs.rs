//! Options: runs on disk. Data, no logic.

use super::{NATURAL, Opt, RUN_NAMES, RUNS, of};
use crate::options::Command::{
    RunsCheckpoints, RunsCompare, RunsDelete, RunsFetch, RunsList, RunsLogs, RunsServe, Serve,
};
use crate::options::Kind::{Bool, Choice, List, Path, Text, Word};

#[rustfmt::skip] // one option is one paragraph; a field per line would triple the file
pub(super) const OPTIONS: &[Opt] = &[
    Opt { name: "run", kind: List(&Text), positional: RUN_NAMES,
        help: "Runs by their id or folder; fetch takes RUN:STEP for a checkpoint. The word --run may be left out.",
        ..of(RUNS, RUN_NAMES) },
    Opt { name: "state", kind: List(&Choice(&["running", "done", "failed", "stopped"])),
        help: "Only runs in these states (default: all).", ..of(RUNS, &[RunsList]) },
    Opt { name: "sort", kind: Choice(&["started", "id", "state", "reward", "best", "step", "duration"]), default: "started",
        help: "What runs are sorted by; of the newest, the best and the longest the last line.", ..of(RUNS, &[RunsList]) },
    Opt { name: "html", kind: Path,
        help: "File for a page with the comparison and its curves.", ..of(RUNS, &[RunsCompare]) },
    Opt { name: "yes", kind: Bool, default: "false",
        help: "Remove without asking.", ..of(RUNS, &[RunsDelete]) },
    Opt { name: "follow", kind: Bool, default: "false",
        help: "Go on printing until the run ends.", ..of(RUNS, &[RunsLogs]) },
    Opt { name: "lines", kind: NATURAL, default: "0",
        help: "Only the last lines of the log (0: all).", ..of(RUNS, &[RunsLogs]) },
    Opt { name: "verify", kind: Bool, default: "false",
        help: "Hold every file against its SHA-256 sum.", ..of(RUNS, &[RunsCheckpoints]) },
    Opt { name: "to", kind: Path, required: &[RunsFetch],
        help: "New folder for the copy.", ..of(RUNS, &[RunsFetch]) },
    Opt { name: "host", kind: Word, default: "127.0.0.1",
        help: "Interface to listen on; any but loopback needs --token.", ..of(RUNS, &[RunsServe, Serve]) },
    Opt { name: "port", kind: NATURAL, default: "7070", default_of: &[(Serve, "8000")],
        help: "Port to listen on; 0 takes a free one and prints it.", ..of(RUNS, &[RunsServe, Serve]) },
    Opt { name: "token", aliases: &["api_key"], kind: Text,
        help: "What requests must show: `Authorization: Bearer TOKEN`; a browser asks for it as a password.", ..of(RUNS, &[RunsServe, Serve]) },
];
