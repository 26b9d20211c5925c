//! The run's file and its lock: one process at a time, and states that hold after every end.

use super::*;
use crate::options::Command;
use crate::track::MetricRow;

fn options(id: &str) -> Options {
    let words =
        ["--output_dir", "out", "--model_name_or_path", "m", "--dataset_name", "d", "--run_id", id];
    let words: Vec<String> = words.iter().map(|w| w.to_string()).collect();
    Options::resolve(Command::Sft, &words, std::iter::empty()).unwrap()
}

/// A session in `dir` that ends as told.
fn session(dir: &Path, resumed: Option<usize>, end: Result<PathBuf>) -> RunFile {
    let _ = recorded(|life| {
        life.claim(dir)?;
        let mut sink = RunFileSink::begin(&options("v1"), dir, 9, resumed)?;
        let file = RunFile::read(dir)?.unwrap();
        assert_eq!((file.state, super::life(dir, &file)), (Stage::Running, Life::Alive));
        sink.log(&MetricRow::new(4, 0.0))?;
        sink.close()?;
        end
    });
    RunFile::read(dir).unwrap().unwrap()
}

#[test]
fn every_end_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let done = session(d, None, Ok(d.into()));
    assert_eq!(
        (done.run_id.as_str(), done.state, done.step, done.max_steps),
        ("v1", Stage::Done, 4, 9)
    );
    assert!(done.finished.is_some() && super::life(d, &done) == Life::Gone);
    let failed = session(d, None, Err(Error::data("no good").hint("try another")));
    assert_eq!(failed.state, Stage::Failed);
    assert_eq!(failed.error.as_deref(), Some("no good; hint: try another"));
    let stopped =
        session(d, Some(4), Err(Error::new(ErrorKind::Interrupted, "the run was stopped")));
    assert_eq!((stopped.state, stopped.error), (Stage::Stopped, None));
    assert_eq!(stopped.started, failed.started, "a resumed run began when it first did");
}

#[test]
fn a_panic_is_told_too() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path().to_path_buf();
    let thread = std::thread::spawn(move || {
        recorded(|life| {
            life.claim(&d)?;
            RunFileSink::begin(&options("v1"), &d, 9, None)?;
            panic!("for the test")
        })
    });
    assert!(thread.join().is_err());
    let file = RunFile::read(dir.path()).unwrap().unwrap();
    assert_eq!(
        (file.state, file.error.as_deref()),
        (Stage::Failed, Some("the run ended with a panic"))
    );
}

#[test]
fn one_process_at_a_time_and_the_loser_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = Session::default();
    first.claim(dir.path()).unwrap();
    RunFileSink::begin(&options("v1"), dir.path(), 9, None).unwrap();
    let refused = recorded(|life| life.claim(dir.path()).map(|()| PathBuf::new())).unwrap_err();
    assert!(refused.to_string().contains("another process") && refused.hint_text().is_some());
    let file = RunFile::read(dir.path()).unwrap().unwrap();
    assert_eq!(file.state, Stage::Running);
    drop(first);
    assert_eq!(super::life(dir.path(), &file), Life::Gone);
    Session::default().claim(dir.path()).unwrap();
}

#[test]
fn a_session_that_never_began_leaves_the_former_run_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let done = session(dir.path(), None, Ok(dir.path().into()));
    let refused = recorded(|life| {
        life.claim(dir.path())?;
        Err(Error::data("the model is not there"))
    });
    assert!(refused.is_err());
    assert_eq!(RunFile::read(dir.path()).unwrap().unwrap(), done);
}

#[test]
fn a_damaged_file_is_an_error_and_unknown_keys_are_not() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(RUN_FILE), "{\"run_id\": \"a\", \"later\": 1}").unwrap();
    assert_eq!(RunFile::read(dir.path()).unwrap().unwrap().run_id, "a");
    std::fs::write(dir.path().join(RUN_FILE), "{\"run_id\"").unwrap();
    assert!(RunFile::read(dir.path()).unwrap_err().to_string().contains("run.json"));
    assert_eq!(RunFile::read(&dir.path().join("none")).unwrap(), None);
}
