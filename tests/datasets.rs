//! Data sets as others write them: folders, Parquet and Arrow files of Hugging Face `datasets` 5.2, and samples
//! of published sets (made by tools/golden/datasets_folders.py and tools/golden/samples.py), read and trained
//! on. Nothing is downloaded.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use grpo_rt::io::dataset::{DatasetOptions, Filter, Loaded, Part, Row, load};
use grpo_rt::io::image::Alpha;
use serde_json::{Value, json};

mod program; // the program, as tests run it

use program::{program, run_in};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn strict() -> DatasetOptions {
    DatasetOptions { strict: true, ..Default::default() }
}

fn read(name: &str, options: &DatasetOptions) -> Loaded {
    load(&data(name).display().to_string(), options).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn text_of(row: &Row) -> String {
    let last = row.messages.last().unwrap();
    let text = |p: &Part| if let Part::Text(t) = p { t.clone() } else { String::new() };
    last.content.iter().map(text).collect()
}

/// Colour of the pixel at (6, 6), inside of every drawn shape.
fn color(row: &Row, image: usize) -> [u8; 3] {
    let image = row.images[image].open(Alpha::Drop).unwrap();
    let at = (6 * image.width + 6) * 3;
    image.rgb[at..at + 3].try_into().unwrap()
}

const RGB: [[u8; 3]; 4] = [[255, 0, 0], [0, 128, 0], [0, 0, 255], [255, 255, 0]];

#[test]
fn every_format_gives_the_rows_that_python_wrote() {
    let wanted: Vec<Value> =
        serde_json::from_slice(&std::fs::read(data("datasets/expected.json")).unwrap()).unwrap();
    for name in ["saved", "hub", "rows.parquet", "rows.arrow", "saved/train"] {
        let rows = read(&format!("datasets/{name}"), &strict()).rows;
        assert_eq!(rows.len(), 8, "{name}");
        for (i, (row, wanted)) in rows.iter().zip(&wanted).enumerate() {
            for (column, value) in wanted.as_object().unwrap() {
                assert_eq!(&row.columns[column], value, "{name}, row {i}, {column}");
            }
            assert_eq!(row.columns.len(), wanted.as_object().unwrap().len(), "{name}");
            assert_eq!(row.images.len(), 1, "{name}");
            assert_eq!(color(row, 0), RGB[i % 4], "{name}, row {i}");
            assert_eq!(text_of(row), wanted["question"].as_str().unwrap());
            assert_eq!(row.answer, wanted["answer"].as_str().unwrap());
        }
        assert!(rows[1].images[0].name().ends_with("#2"), "{}", rows[1].images[0].name());
    }
}

#[test]
fn lists_of_images_and_other_splits() {
    for name in ["saved", "hub"] {
        let more = DatasetOptions { columns: vec![("image".into(), "more".into())], ..strict() };
        let rows = read(&format!("datasets/{name}"), &more).rows;
        for (i, row) in rows.iter().enumerate() {
            assert_eq!(row.images.len(), i % 3, "{name}, row {i}");
            for j in 0..i % 3 {
                assert_eq!(color(row, j), RGB[j % 4], "{name}, row {i}, image {j}");
            }
        }
        let test = DatasetOptions { split: Some("test".into()), ..strict() };
        assert_eq!(read(&format!("datasets/{name}"), &test).rows.len(), 2);
        let measured = DatasetOptions { measures: true, ..strict() };
        assert_eq!(read(&format!("datasets/{name}"), &measured).rows.len(), 2);
    }
    let saved = data("datasets/saved").display().to_string();
    let none = DatasetOptions { split: Some("testmini".into()), ..strict() };
    let e = load(&saved, &none).unwrap_err();
    assert!(e.exit_code() == 2 && e.to_string().contains("one of: train, test"), "{e}");
    let flagged = DatasetOptions { saved_by_datasets: true, ..strict() };
    assert_eq!(load(&saved, &flagged).unwrap().rows.len(), 8);
    let both = format!("{saved}:{}", data("datasets/rows.parquet").display());
    assert_eq!(load(&both, &strict()).unwrap().rows.len(), 16);
}

#[test]
fn filters_and_unknown_columns_of_tables() {
    let with = |text: &str| DatasetOptions {
        filter: Filter::parse(&[text.to_owned()]).unwrap(),
        ..strict()
    };
    for name in ["datasets/saved", "datasets/rows.parquet"] {
        for (filter, rows) in [
            ("source=chartqa", 2),
            ("kind=round", 3),
            ("meta.grade>=6", 2),
            ("score<0.3 and source!=chartqa", 2),
            ("big=4611686018427387907", 1),
            ("ok=null", 1),
        ] {
            let loaded = read(name, &with(filter));
            assert_eq!((loaded.rows.len(), loaded.filtered_rows), (rows, 8 - rows), "{filter}");
        }
        let path = data(name).display().to_string();
        let e = load(&path, &with("sauce=x")).unwrap_err();
        assert!(e.exit_code() == 2 && e.to_string().contains("reference_steps, choices"), "{e}");
        let mapped = DatasetOptions { columns: vec![("image".into(), "photo".into())], ..strict() };
        let e = load(&path, &mapped).unwrap_err();
        assert!(e.exit_code() == 2 && e.to_string().contains("`photo`"), "{e}");
    }
}

#[test]
fn published_samples_are_understood() {
    let rec = DatasetOptions { image_folders: vec![data("samples/refcoco/images")], ..strict() };
    let rows = read("samples/refcoco/refcoco_train.jsonl", &rec).rows;
    assert_eq!(rows.len(), 20);
    assert_eq!(rows[0].answer, "[4,3,22,21]");
    assert_eq!(rows[12].answer, rows[12].columns["solution"].to_string());
    let video = read("samples/video/assembly.jsonl", &strict()).rows;
    assert_eq!(video.len(), 20);
    assert_eq!(video[0].videos[0].meta.frame_counts, [5, 4]);
    assert_eq!(video[0].answer, "<answer>(1) move right (2) move down</answer>");
    let math = read("samples/mathvista", &strict()).rows;
    assert_eq!(math.len(), 20);
    for (i, row) in math.iter().enumerate() {
        // `decoded_image` goes before `image`, which names files that are not there.
        assert_eq!(row.images[0].open(Alpha::Drop).unwrap().width, 64, "row {i}");
        assert_eq!(row.columns["decoded_image"]["bytes"], "(bytes left out)");
    }
    assert_eq!(math[0].columns["choices"], json!(["red", "green", "blue", "yellow"]));
    assert_eq!(
        (math[3].columns["unit"].as_str(), &math[3].columns["precision"]),
        (Some("cm"), &json!(1.0))
    );
    let testmini = DatasetOptions { split: Some("testmini".into()), ..strict() };
    assert_eq!(read("samples/mathvista", &testmini).rows.len(), 20);
}

/// A folder with a tiny model whose tokenizer has seen a table.
fn lab() -> &'static Path {
    static LAB: OnceLock<PathBuf> = OnceLock::new();
    LAB.get_or_init(|| {
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("datasets");
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        let saved = data("datasets/saved");
        let line = format!(
            "init --preset tiny --vocab_size 320 --dataset_name {} --seed 1 --output_dir model --quiet",
            saved.display()
        );
        run_in(&dir, &line);
        dir
    })
}

/// Looks at a data set and trains five steps on it, with the rewards of its task; returns a column of
/// the metrics.
fn trains(name: &str, more: &str, measured: &str) -> Vec<f64> {
    let run = name.replace(['/', '.'], "_");
    let look = format!(
        "data inspect --dataset_name {} --strict_data --out {run}.html {more}",
        data(name).display()
    );
    run_in(lab(), &look);
    let line = format!(
        "train --model model --dataset_name {} --strict_data --max_steps 5 \
         --batch_size 4 --num_generations 2 --max_completion_length 6 --threads 2 --quiet \
         --output_dir {run} {more} {measured}",
        data(name).display()
    );
    run_in(lab(), &line);
    let text = std::fs::read_to_string(lab().join(&run).join("metrics.jsonl")).unwrap();
    let row = |l: &str| serde_json::from_str::<Value>(l).unwrap()["data/skipped_rows"].as_f64();
    text.lines().filter_map(row).collect()
}

#[test]
fn every_set_trains() {
    for (name, more) in [
        ("datasets/saved", "--use_huggingface_dataset --task_type vqa"),
        ("datasets/hub", "--dataset_split train --filter source=textvqa"),
        ("samples/mathvista", "--task_type math"),
        ("samples/video/assembly.jsonl", "--task_type video_actions"),
    ] {
        assert_eq!(trains(name, more, ""), [0.0; 5], "{name}");
    }
    assert_eq!(trains("datasets/rows.parquet", "", "--val_split_ratio 0.25"), [0.0; 5]);
    let folder = data("samples/refcoco/images");
    let more = format!("--task_type rec --image_folders {}", folder.display());
    assert_eq!(trains("samples/refcoco/refcoco_train.jsonl", &more, ""), [0.0; 5]);
    // A quarter of eight rows was measured and not trained on.
    let measured =
        std::fs::read_to_string(lab().join("datasets_rows_parquet/metrics.jsonl")).unwrap();
    assert!(measured.contains("eval"), "{measured}");
}

#[test]
fn prompts_of_tasks_are_shown_to_the_model() {
    let line = format!(
        "eval --model model --dataset_name {} --dataset_split test --task_type vqa --reward_funcs format \
         --max_completion_length 2 --max_rows 2 --quiet --out vqa.jsonl",
        data("datasets/saved").display()
    );
    run_in(lab(), &line);
    let text = std::fs::read_to_string(lab().join("vqa.jsonl")).unwrap();
    let rows: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let question = rows[1]["question"].as_str().unwrap();
    assert!(
        question.contains("?\nA. red\nB. green\nC. blue\nD. yellow\nAnswer with the letter"),
        "{question}"
    );
    assert!(rows[1]["images"][0].as_str().unwrap().ends_with("data-00000-of-00001.arrow#2"));
    // No choices, no empty lines where they would be.
    assert!(!rows[0]["question"].as_str().unwrap().contains("\n\n"));
    let file = lab().join("mine.txt");
    std::fs::write(&file, "Look: {question} Now {choices}!\n").unwrap();
    run_in(
        lab(),
        &line.replace("--out vqa.jsonl", "--out mine.jsonl --question_template mine.txt"),
    );
    let text = std::fs::read_to_string(lab().join("mine.jsonl")).unwrap();
    let first: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    let question = first["question"].as_str().unwrap();
    assert!(question.starts_with("Look: Which") && question.ends_with("? Now !"), "{question}");
}

#[test]
fn options_of_data_contradict_each_other_in_words() {
    let saved = data("datasets/saved").display().to_string();
    for (more, parts) in [
        ("--column image", &["image=decoded_image"][..]),
        ("--column image=a image=b", &["`image` is given two columns"]),
        ("--filter source", &["column=value"]),
        ("--eval_split test", &["--eval_dataset"]),
        ("--val_split_ratio 0.5 --eval_dataset model", &["contradict each other"]),
        ("--val_split_ratio 0.99", &["too few rows"]),
        ("--question_template none.txt", &["none.txt"]),
        ("--task_type vqaa", &["vqa, rec"]),
    ] {
        let line = format!(
            "train --model model --dataset_name {saved} --output_dir never --reward_funcs format --max_steps 1 {more}"
        );
        let done = program().args(line.split_whitespace()).current_dir(lab()).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(2), "{more}: {said}");
        for part in parts {
            assert!(said.contains(part), "{more}: `{part}` is not in\n{said}");
        }
    }
}
