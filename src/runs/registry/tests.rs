//! Which folders are runs, by which name they are found, and what state they are in.

use super::*;
use crate::runs::State;

/// A folder with a run's file, or with settings alone if `text` is empty.
fn run(root: &Path, at: &str, text: &str) -> PathBuf {
    let dir = root.join(at);
    std::fs::create_dir_all(&dir).unwrap();
    let settings =
        "# grpo-rt train: every option as it was used\nmodel_name_or_path: base\nrun_id: old\n";
    std::fs::write(dir.join("config.resolved.yaml"), settings).unwrap();
    if !text.is_empty() {
        std::fs::write(dir.join("run.json"), text).unwrap();
    }
    dir
}

#[test]
fn runs_are_found_three_folders_deep_and_never_in_their_own_folders() {
    let tmp = tempfile::tempdir().unwrap();
    let root = tmp.path();
    run(root, "", r#"{"run_id": "top", "state": "done"}"#);
    run(root, "a/b/v1", r#"{"run_id": "v1", "state": "done"}"#);
    for hidden in ["a/b/c/too_deep", "checkpoint-3", "runs/x", ".trash/y", "a/b/v1/checkpoint-1"] {
        run(root, hidden, r#"{"run_id": "hidden", "state": "done"}"#);
    }
    std::fs::create_dir_all(root.join("not_a_run")).unwrap();
    std::os::unix::fs::symlink(root, root.join("a/circle")).unwrap();
    let found: Vec<String> = list(root).unwrap().into_iter().map(|r| r.run_id).collect();
    assert_eq!(found, ["top", "v1"]);
    assert!(list(&root.join("none")).unwrap_err().hint_text().is_some());
}

#[test]
fn states_are_true_whatever_was_written_last() {
    let tmp = tempfile::tempdir().unwrap();
    let root = tmp.path();
    let host = crate::io::tfevents::host_name();
    let alive = format!(r#"{{"run_id": "r", "state": "running", "pid": 1, "host": "{host}"}}"#);
    for (at, text, state, note) in [
        ("dead", alive.as_str(), State::Failed, "without a word"),
        (
            "other",
            r#"{"state": "running", "pid": 1, "host": "elsewhere"}"#,
            State::Failed,
            "without a word",
        ),
        ("bad", r#"{"state": "failed", "error": "no disk"}"#, State::Failed, "no disk"),
        ("halt", r#"{"state": "stopped"}"#, State::Stopped, ""),
        ("broken", r#"{"state"#, State::Stopped, "damaged"),
        ("old", "", State::Stopped, ""),
    ] {
        let dir = run(root, at, text);
        let found = Run::open(&dir).unwrap();
        assert_eq!(found.state, state, "{at}");
        assert!(found.note.unwrap_or_default().contains(note), "{at}");
    }
    let dir = run(root, "finished", "");
    std::fs::write(dir.join("model.safetensors"), "").unwrap();
    let found = Run::open(&dir).unwrap();
    assert_eq!(
        (found.state, found.run_id.as_str(), found.command.as_str()),
        (State::Done, "old", "train")
    );
}

#[test]
fn a_name_of_two_runs_is_refused_with_both_folders() {
    let tmp = tempfile::tempdir().unwrap();
    let root = tmp.path();
    let one = run(root, "a/v1", r#"{"run_id": "v1", "state": "done"}"#);
    let two = run(root, "b/v1", r#"{"run_id": "v1", "state": "done"}"#);
    run(root, "b/v2", r#"{"run_id": "v2", "state": "done"}"#);
    let error = find(root, "v1").unwrap_err().to_string();
    assert!([&one, &two].iter().all(|p| error.contains(&p.display().to_string())), "{error}");
    assert_eq!(find(root, "a/v1").unwrap().dir, one);
    assert_eq!(find(root, &two.display().to_string()).unwrap().dir, two);
    assert_eq!(find(root, "v2").unwrap().run_id, "v2");
    let error = find(root, "v3").unwrap_err().to_string();
    assert!(error.contains("v2") && error.contains("hint"), "{error}");
}

#[test]
fn a_run_without_weights_has_no_model_and_says_so() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = run(tmp.path(), "v1", r#"{"run_id": "v1", "state": "done"}"#);
    let found = Run::open(&dir).unwrap();
    assert!(found.model().unwrap_err().hint_text().is_some());
    std::fs::write(dir.join("adapter_model.safetensors"), "cut").unwrap();
    assert!(found.model().unwrap_err().to_string().contains("adapter_model.safetensors"));
    assert_eq!(found.base_model(&dir).unwrap(), PathBuf::from("base"));
}
