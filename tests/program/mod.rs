//! The program as tests run it: without options from the environment of whoever runs the tests.

use std::path::{Path, PathBuf};
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

/// An empty folder for a file of tests: what a former run of them left is gone.
#[allow(dead_code)] // not every test file needs it
pub fn empty_lab(name: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// Such a folder with rows of drawn shapes, made with the options of `shapes`, in `shapes` and a new tiny model
/// in `new`.
#[allow(dead_code)] // not every test file needs it
pub fn lab_with_model(name: &str, shapes: &str, vocabulary: usize) -> PathBuf {
    let dir = empty_lab(name);
    run_in(&dir, &format!("data make-shapes {shapes} --output_dir shapes --seed 1 --quiet"));
    run_in(
        &dir,
        &format!(
            "init --preset tiny --vocab_size {vocabulary} --dataset_name shapes/train.jsonl --seed 1 \
             --output_dir new --quiet"
        ),
    );
    dir
}

/// Fills the second factors of an adapter in single precision, which are 0 as long as nothing was learned:
/// from now on it does something.
#[allow(dead_code)] // not every test file needs it
pub fn fill_adapter(dir: &Path) {
    let file = dir.join("adapter_model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let head = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let tensors: serde_json::Value = serde_json::from_slice(&bytes[8..head]).unwrap();
    for (_, t) in tensors.as_object().unwrap().iter().filter(|(name, _)| name.contains("lora_B")) {
        assert_eq!(t["dtype"], "F32");
        let at = |i: usize| head + t["data_offsets"][i].as_u64().unwrap() as usize;
        for (i, value) in bytes[at(0)..at(1)].chunks_exact_mut(4).enumerate() {
            value.copy_from_slice(&(((i * 37 % 19) as f32 - 9.0) * 3e-2).to_le_bytes());
        }
    }
    std::fs::write(&file, bytes).unwrap();
}
