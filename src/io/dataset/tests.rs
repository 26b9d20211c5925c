//! Tests of the row formats: what is accepted, and that every refusal names its place.

use std::path::Path;

use super::*;
use crate::base::ErrorKind;

/// A folder with a.png, b.png and a data file of these lines.
fn folder(lines: &[&str]) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a.png", "b.png"] {
        std::fs::write(dir.path().join(name), b"not decoded here").unwrap();
    }
    std::fs::write(dir.path().join("empty.png"), b"").unwrap();
    let file = dir.path().join("data.jsonl");
    std::fs::write(&file, lines.join("\n")).unwrap();
    let spec = file.display().to_string();
    (dir, spec)
}

fn one(line: &str, options: &DatasetOptions) -> Row {
    let (_dir, spec) = folder(&[line]);
    load(&spec, options).unwrap().rows.remove(0)
}

fn error_of(line: &str) -> String {
    let (_dir, spec) = folder(&["", line]);
    let strict = DatasetOptions { strict: true, ..Default::default() };
    let e = load(&spec, &strict).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Data);
    let text = e.to_string();
    assert!(text.contains("data.jsonl, row 2"), "{text}");
    text
}

fn text(t: &str) -> Part {
    Part::Text(t.to_owned())
}

#[test]
fn vlm_r1_rows() {
    let row = one(
        r#"{"id": 7, "image": ["a.png", "b.png"], "accu_reward_method": "default", "conversations": [
            {"from": "human", "value": "<image>First <image> and?"}, {"from": "gpt", "value": " yes\n"}]}"#
            .replace('\n', " ")
            .as_str(),
        &DatasetOptions::default(),
    );
    assert_eq!((row.id.as_str(), row.row, row.answer.as_str()), ("7", 1, " yes\n"));
    assert_eq!(row.columns["accu_reward_method"], "default");
    let content = vec![Part::Image(0), text("First "), Part::Image(1), text(" and?")];
    assert_eq!(row.messages, [Message { role: "user".into(), content }]);
    assert!(row.images.len() == 2 && row.images[1].ends_with("b.png"));
}

#[test]
fn messages_of_several_turns_with_part_lists() {
    let line = r#"{"images": ["a.png"], "messages": [{"role": "system", "content": "S"},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "one"}]},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": [{"type": "text", "text": "two"}, {"type": "image", "image": "b.png"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "2"}]}]}"#
        .replace('\n', " ");
    let options = DatasetOptions { system_prompt: Some("no".into()), ..Default::default() };
    let row = one(&line, &options);
    let roles: Vec<&str> = row.messages.iter().map(|m| m.role.as_str()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "user"]);
    assert_eq!(row.messages[3].content, [text("two"), Part::Image(1)]);
    assert_eq!(row.answer, "2");
    assert_eq!(row.id, "data-1");
    assert!(row.images[0].ends_with("a.png") && row.images[1].ends_with("b.png"));
}

#[test]
fn plain_rows_with_template_and_system_prompt() {
    let options = DatasetOptions {
        question_template: Some("Q: {question} Think first.".into()),
        system_prompt: Some("Be brief.".into()),
        ..Default::default()
    };
    let row = one(r#"{"image": "a.png", "question": "Which <b>?", "answer": 3}"#, &options);
    assert_eq!(row.messages[0], Message::text("system", "Be brief."));
    let content = vec![Part::Image(0), text("Q: Which <b>? Think first.")];
    assert_eq!(row.messages[1], Message { role: "user".into(), content });
    assert_eq!(row.answer, "3");
    let row = one(r#"{"prompt": "no image", "solution": [1, 2.5]}"#, &DatasetOptions::default());
    assert!(row.images.is_empty());
    assert_eq!(row.answer, "[1,2.5]");
    assert_eq!(row.messages, [Message::text("user", "no image")]);
}

#[test]
fn boxes_as_answers_keep_their_text() {
    let line = r#"{"image": "a.png", "conversations": [{"from": "human", "value": "<image>box?"},
        {"from": "gpt", "value": [10, 20, 30, 40]}]}"#
        .replace('\n', " ");
    assert_eq!(one(&line, &DatasetOptions::default()).answer, "[10,20,30,40]");
}

#[test]
fn refusals_name_key_and_counts() {
    let cases = [
        (r#"{"image": "a.png", "question": "<image> <image>?", "answer": "x"}"#, "key `image`"),
        (r#"{"question": "<image>?", "answer": "x"}"#, "markers: 1"),
        (r#"{"image": "a.png", "question": "?", "answer": " "}"#, "key `answer`"),
        (r#"{"image": "a.png", "question": "?"}"#, "no answer"),
        (r#"{"image": "a.png", "answer": "x"}"#, "no question"),
        (r#"{"image": "c.png", "question": "?", "answer": "x"}"#, "c.png"),
        (r#"{"image": "empty.png", "question": "?", "answer": "x"}"#, "an empty file"),
        (r#"{"image": {"bytes": ""}, "question": "?", "answer": "x"}"#, "found:    an object"),
        (r#"{"image": "https://x/y.png", "question": "?", "answer": "x"}"#, "network"),
        (r#"{"conversations": [{"from": "bot", "value": "?"}]}"#, "conversations[0].from"),
        (r#"{"conversations": [{"from": "gpt", "value": "?"}]}"#, "no question before"),
        (r#"{"messages": [{"role": "user"}], "answer": "x"}"#, "messages[0].value"),
        (r#"["list"]"#, "a list"),
        (r#"{"question": "#, "not JSON"),
    ];
    for (line, part) in cases {
        let e = error_of(line);
        assert!(e.contains(part), "{line}\n{e}");
    }
    assert!(error_of(cases[0].0).contains("found:    1 images"));
}

#[test]
fn bad_rows_are_collected_and_reading_goes_on() {
    let good = r#"{"image": "a.png", "question": "?", "answer": "x"}"#;
    let (dir, spec) = folder(&[]);
    let mut bytes = b"\xEF\xBB\xBF".to_vec();
    bytes.extend_from_slice(format!("{good}\r\n\r\n").as_bytes());
    bytes.extend_from_slice(b"{\"question\": \"\xFF\"}\n");
    bytes.extend_from_slice(good.as_bytes());
    std::fs::write(dir.path().join("data.jsonl"), bytes).unwrap();
    let loaded = load(&format!("{spec}:{spec}"), &DatasetOptions::default()).unwrap();
    assert_eq!(loaded.rows.iter().map(|r| r.row).collect::<Vec<_>>(), [1, 4, 1, 4]);
    assert_eq!(loaded.skipped.len(), 2);
    assert!(loaded.skipped[0].to_string().contains("not UTF-8"));
    let some = DatasetOptions { max_rows: Some(3), ..Default::default() };
    assert_eq!(load(&format!("{spec}:{spec}"), &some).unwrap().rows.len(), 3);
}

#[test]
fn files_folders_and_options_must_agree() {
    let good = r#"{"image": "a.png", "question": "?", "answer": "x"}"#;
    let (images, _) = folder(&[]);
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("rows.jsonl");
    std::fs::write(&file, good).unwrap();
    let spec = file.display().to_string();
    let options = |folders: &str| DatasetOptions {
        image_folders: DatasetOptions::folders(folders),
        ..Default::default()
    };
    let here = images.path().display().to_string();
    assert_eq!(load(&spec, &options(&here)).unwrap().rows.len(), 1);
    let none = load(&spec, &options("")).unwrap_err().to_string();
    assert!(none.contains("no usable row") && none.contains("--image_folders"), "{none}");
    let e = load(&spec, &options("x:y")).unwrap_err();
    assert!(e.exit_code() == 2 && e.to_string().contains("2 folders"));
    let template = DatasetOptions { question_template: Some("hi".into()), ..Default::default() };
    assert!(load(&spec, &template).unwrap_err().to_string().contains("{question}"));
    let e = load("no/such.jsonl", &options("")).unwrap_err();
    assert!(e.exit_code() == 4 && e.to_string().contains("no/such.jsonl"));
    std::fs::write(&file, "\n").unwrap();
    assert!(load(&spec, &options(&here)).is_err());
    assert_eq!(load("", &options("")).unwrap_err().exit_code(), 2);
    assert!(Path::new(&spec).is_file());
}
