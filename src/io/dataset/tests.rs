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
    assert!(row.images.len() == 2 && row.images[1].name().ends_with("b.png"));
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
    assert!(row.images[0].name().ends_with("a.png") && row.images[1].name().ends_with("b.png"));
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
        (r#"{"image": {"\u0000bytes": 0}, "question": "?", "answer": "x"}"#, "found:    an object"),
        (r#"{"image": "../a.png", "question": "?", "answer": "x"}"#, "outside of the image folder"),
        (r#"{"image": "a\u0000.png", "question": "?", "answer": "x"}"#, "key `image`"),
        (r#"{"image": "data:image/png;base64,!", "question": "?", "answer": "x"}"#, "not base64"),
        (
            r#"{"image": "a.png", "question": "?", "answer": "x", "max_pixels": 0}"#,
            "key `max_pixels`",
        ),
        (r#"{"question": "?", "answer": "x", "min_pixels": 9, "max_pixels": 8}"#, "at most 8"),
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
fn shares_are_of_the_good_rows_of_a_file() {
    let row =
        |i: usize| format!(r#"{{"image": "a.png", "question": "{i}?", "answer": "{}"}}"#, i % 2);
    let mut lines: Vec<String> = (0..10).map(row).collect();
    lines[0] = "{".into();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let (_dir, spec) = folder(&lines);
    let both = format!("{spec}:{spec}");
    let share = |text: &str| Share::parse(text).unwrap();
    let numbers = |spec: &str, options: &DatasetOptions| -> Vec<usize> {
        load(spec, options).unwrap().rows.iter().map(|r| r.row).collect()
    };
    let first_and_last =
        DatasetOptions { shares: vec![share("first:2"), share("end:1")], ..Default::default() };
    assert_eq!(numbers(&both, &first_and_last), [2, 3, 10]);
    let most = DatasetOptions { max_rows: Some(2), ..first_and_last.clone() };
    assert_eq!(numbers(&both, &most), [2, 3], "the limit is one of all");
    let odd = Filter::parse(&["answer=1".into()]).unwrap();
    let filtered = DatasetOptions { filter: odd, ..first_and_last.clone() };
    assert_eq!(numbers(&both, &filtered), [2, 4, 10], "of those that the filter takes");
    let third = DatasetOptions { shares: vec![share("random:33%")], ..Default::default() };
    let drawn = numbers(&both, &third);
    assert_eq!(drawn.len(), 6);
    assert_eq!(drawn, numbers(&both, &third));
    assert_ne!(drawn, numbers(&both, &DatasetOptions { seed: 1, ..third.clone() }));
    let three = vec![Share::All; 3];
    let error = load(&both, &DatasetOptions { shares: three, ..Default::default() }).unwrap_err();
    assert!(error.to_string().contains("2 (one per file)"), "{error}");
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

#[test]
fn columns_are_renamed_and_rows_filtered() {
    let lines = [
        r#"{"picture": "a.png", "q": "one?", "answer": "1", "source": "x"}"#,
        r#"{"picture": "b.png", "q": "two?", "answer": "2", "source": "y"}"#,
    ];
    let (_dir, spec) = folder(&lines);
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    let options = DatasetOptions {
        columns: vec![pair("image", "picture"), pair("question", "q")],
        filter: Filter::parse(&["source!=x".to_owned()]).unwrap(),
        ..Default::default()
    };
    let loaded = load(&spec, &options).unwrap();
    assert_eq!((loaded.rows.len(), loaded.filtered_rows, loaded.skipped_rows), (1, 1, 0));
    assert_eq!(loaded.rows[0].messages[0].content, [Part::Image(0), text("two?")]);
    // Rewards see both names.
    assert_eq!(loaded.rows[0].columns["q"], loaded.rows[0].columns["question"]);
    let none = Filter::parse(&["source=z".to_owned()]).unwrap();
    let e = load(&spec, &DatasetOptions { filter: none, ..options.clone() }).unwrap_err();
    assert!(e.to_string().contains("2 rows, none of which"), "{e}");
    let missing = DatasetOptions { columns: vec![pair("image", "photo")], ..Default::default() };
    let wrong = Filter::parse(&["sauce=x".to_owned()]).unwrap();
    for (options, word) in [
        (missing, "`photo`"),
        (
            DatasetOptions {
                filter: wrong,
                columns: options.columns.clone(),
                ..Default::default()
            },
            "`sauce`",
        ),
    ] {
        let e = load(&spec, &options).unwrap_err();
        assert!(e.exit_code() == 2 && e.to_string().contains(word), "{e}");
        assert!(e.to_string().contains("picture, q, answer, source"), "{e}");
    }
}

#[test]
fn pictures_in_a_line_stay_in_the_file() {
    let lines = [
        r#"{"image": ["a.png", "data:image/png;base64,YWJj"], "question": "?", "answer": "x", "max_pixels": 784.0}"#,
        r#"{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,Zm9v"}}, {"type": "text", "text": "?"}]}], "answer": "x"}"#,
    ];
    let (dir, spec) = folder(&lines);
    let rows = load(&spec, &DatasetOptions::default()).unwrap().rows;
    assert_eq!(rows[0].images[1].bytes().unwrap(), b"abc");
    assert_eq!(rows[1].images[0].bytes().unwrap(), b"foo");
    assert!(rows[1].images[0].name().ends_with("data.jsonl#2"));
    assert_eq!(rows[0].columns["image"][1], "(bytes left out)");
    assert_eq!(rows[0].pixels, PixelLimits { min: None, max: Some(784) });
    let e = rows[0].images[1].open(Default::default()).unwrap_err().to_string();
    assert!(e.contains("data.jsonl#1"), "{e}");
    std::fs::write(dir.path().join("data.jsonl"), "{}").unwrap();
    assert!(rows[0].images[1].bytes().is_err());
}

#[test]
fn a_list_of_objects_is_read_one_by_one() {
    let (dir, _) = folder(&[]);
    let file = dir.path().join("rows.json");
    let spec = file.display().to_string();
    std::fs::write(
        &file,
        r#" [{"question": "1?", "answer": "x"}, 3, {"question": "2?", "answer": "x",
        "image": "data:image/png;base64,YWJj"}]"#,
    )
    .unwrap();
    let loaded = load(&spec, &DatasetOptions::default()).unwrap();
    assert_eq!((loaded.rows.len(), loaded.skipped_rows), (2, 1));
    assert!(loaded.skipped[0].to_string().contains("row 2"));
    assert_eq!(loaded.rows[1].images[0].bytes().unwrap(), b"abc");
    let one = DatasetOptions { max_rows: Some(1), ..Default::default() };
    assert_eq!(load(&spec, &one).unwrap().rows.len(), 1);
    std::fs::write(&file, r#"[{"question": "1?", "answer": "x"}, {"#).unwrap();
    let e = load(&spec, &DatasetOptions::default()).unwrap_err().to_string();
    assert!(e.contains("not a JSON list") && e.contains("line 1"), "{e}");
}

#[test]
fn folders_of_json_lines_have_splits() {
    let dir = tempfile::tempdir().unwrap();
    for (name, rows) in [("train.jsonl", 3), ("val.jsonl", 2), ("test.jsonl", 1)] {
        let line = "{\"question\": \"?\", \"answer\": \"x\"}\n";
        std::fs::write(dir.path().join(name), line.repeat(rows)).unwrap();
    }
    let spec = dir.path().display().to_string();
    let count = |split: Option<&str>, measures: bool| {
        let split = split.map(str::to_owned);
        let options = DatasetOptions { split, measures, ..Default::default() };
        load(&spec, &options).map(|l| l.rows.len())
    };
    assert_eq!(count(None, false).unwrap(), 3);
    assert_eq!(count(None, true).unwrap(), 2);
    assert_eq!(count(Some("dev"), false).unwrap(), 2);
    assert_eq!(count(Some("test"), false).unwrap(), 1);
    let e = count(Some("testmini"), false).unwrap_err();
    assert!(e.exit_code() == 2 && e.to_string().contains("test, train, validation"), "{e}");
    let file = dir.path().join("val.jsonl").display().to_string();
    let asked = DatasetOptions { split: Some("val".into()), ..Default::default() };
    assert!(load(&file, &asked).unwrap_err().to_string().contains("no splits"));
    let saved = DatasetOptions { saved_by_datasets: true, ..Default::default() };
    let e = load(&spec, &saved).unwrap_err();
    assert!(e.exit_code() == 2 && e.to_string().contains("dataset_dict.json"), "{e}");
}

#[test]
fn texts_of_megabytes_are_bad_rows() {
    let long = "x".repeat(10 << 20);
    let line = format!(r#"{{"question": "{long}", "answer": "x"}}"#);
    let good = r#"{"question": "?", "answer": "x"}"#;
    let (dir, spec) = folder(&[&line, good]);
    let loaded = load(&spec, &DatasetOptions::default()).unwrap();
    assert_eq!((loaded.rows.len(), loaded.skipped_rows), (1, 1));
    let e = loaded.skipped[0].to_string();
    assert!(e.len() < 1000 && e.contains("key `question`") && e.contains("10485760"), "{e}");
    // A line is not even kept.
    let mut bytes = vec![b' '; 65 << 20];
    bytes.extend_from_slice(format!("\n{good}\n").as_bytes());
    std::fs::write(dir.path().join("data.jsonl"), bytes).unwrap();
    let loaded = load(&spec, &DatasetOptions::default()).unwrap();
    assert_eq!((loaded.rows[0].row, loaded.skipped_rows), (2, 1));
    assert!(loaded.skipped[0].to_string().contains("at most 64 MiB"));
}
