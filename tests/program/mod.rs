//! The program as tests run it: without options from the environment of whoever runs the tests.

use std::path::Path;
use std::process::Command;

/// The program, with no variable that it would take for an option.
#[allow(dead_code)] // not every test file needs both
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_grpo-rt"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("GRPO_RT_")) {
        command.env_remove(name);
    }
    // No test waits for a network.
    command.env("HF_HUB_OFFLINE", "1");
    command
}

/// Runs words separated by spaces in a folder; it must work.
#[allow(dead_code)] // not every test file needs both
pub fn run_in(dir: &Path, line: &str) {
    let done = program().args(line.split_whitespace()).current_dir(dir).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{line}: {}: {said}", done.status);
}
