//! What a run leaves, written through the public interface into a folder that
//! `tools/golden/sinks.py` then reads with tensorboard and pandas. The folder is below the build's
//! temporary folder and is emptied first.

use grpo_rt::io::completions::{
    CompletionRecord, PromptMessage, PromptPart, completions_path, write,
};
use grpo_rt::io::tfevents::EventWriter;
use grpo_rt::track::{JsonlSink, MetricRow, Sink, Sinks, TensorBoardSink, read_metrics};
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("sinks")
}

fn row(step: u64, values: &[(&str, f64)]) -> MetricRow {
    let values = values.iter().map(|(n, v)| (n.to_string(), *v)).collect();
    MetricRow { step, epoch: step as f64 / 4.0, values }
}

fn metrics(dir: &Path) {
    let board = TensorBoardSink::create(dir.join("runs"), None).unwrap();
    let jsonl = JsonlSink::open(dir.join("metrics.jsonl")).unwrap();
    let mut sinks = Sinks(vec![Box::new(board), Box::new(jsonl)]);
    for step in 1..=3 {
        let kl = if step == 1 { f64::NAN } else { 0.125 };
        let reward = 0.25 * step as f64;
        let values = [("reward", reward), ("kl", kl), ("rewards/format/mean", 1.0)];
        sinks.log(&row(step, &values)).unwrap();
    }
    sinks.log(&row(3, &[("eval_reward", 0.5)])).unwrap();
    sinks.close().unwrap();

    let rows = read_metrics(dir.join("metrics.jsonl")).unwrap();
    assert_eq!(rows.len(), 4);
    assert_eq!(rows[1], row(2, &[("reward", 0.5), ("kl", 0.125), ("rewards/format/mean", 1.0)]));
    assert!(rows[3].is_eval() && !rows[0].is_eval());
}

fn other_events(dir: &Path) {
    let mut png = Vec::new();
    let picture =
        image::RgbImage::from_fn(3, 2, |x, y| image::Rgb([x as u8 * 80, y as u8 * 200, 9]));
    picture.write_to(&mut std::io::Cursor::new(&mut png), image::ImageFormat::Png).unwrap();

    let mut w = EventWriter::create(dir.join("runs")).unwrap();
    w.text("args", 0, "| a | b |\n|---|---|\n| é | 1 |").unwrap();
    w.histogram("rewards", 1, &[-1.0, 0.0, 0.0, 1.0, f64::NAN, 1.0]).unwrap();
    w.histogram("nothing", 1, &[f64::NAN]).unwrap();
    w.image_png("sample", 1, &png, 3, 2).unwrap();
    w.flush().unwrap();
    let bytes = std::fs::read(w.path()).unwrap();
    let needle = b"nothing";
    assert!(!bytes.windows(needle.len()).any(|s| s == needle), "an empty histogram is not written");
    assert!(bytes.windows(png.len()).any(|s| s == png), "the image is stored as it came");
}

/// A run that is killed after step 3 and resumes from the checkpoint of step 1.
fn resumed_events(dir: &Path) {
    let dir = dir.join("resumed");
    let mut first = TensorBoardSink::create(&dir, None).unwrap();
    (1..=3).for_each(|s| first.log(&row(s, &[("loss", s as f64)])).unwrap());
    first.close().unwrap();
    let mut second = TensorBoardSink::create(&dir, Some(1)).unwrap();
    (2..=3).for_each(|s| second.log(&row(s, &[("loss", 10.0 * s as f64)])).unwrap());
    second.close().unwrap();
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 2);
}

fn completions(dir: &Path) {
    let question = PromptMessage {
        role: "user".into(),
        content: vec![PromptPart::Image, PromptPart::Text("How many? ŵ".into())],
    };
    let system =
        PromptMessage { role: "system".into(), content: vec![PromptPart::Text("Think.".into())] };
    let record = |prompt: &[&PromptMessage], said: &str, rewards: [Option<f64>; 2], advantage| {
        CompletionRecord {
            step: 4,
            prompt: prompt.iter().map(|m| (*m).clone()).collect(),
            completion: said.into(),
            rewards: rewards.to_vec(),
            extra: Vec::new(),
            advantage,
        }
    };
    let records = [
        record(&[&question], "two", [Some(1.0), Some(1.0)], 0.5),
        record(&[&question], "no\n\"tags\"", [Some(0.0), Some(0.0)], -0.5),
        record(&[&system, &question], "", [None, None], 0.0),
    ];
    let names = ["accuracy".to_string(), "format".to_string()];
    let path = completions_path(dir, 4);
    write(&path, &names, &records).unwrap();

    let file = std::fs::File::open(&path).unwrap();
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file)
        .unwrap()
        .build()
        .unwrap();
    let batches: Vec<_> = reader.map(|b| b.unwrap()).collect();
    assert_eq!(batches.iter().map(|b| b.num_rows()).sum::<usize>(), 3);
    let schema = batches[0].schema();
    let columns: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
    assert_eq!(columns, ["step", "prompt", "completion", "accuracy", "format", "advantage"]);
    assert_eq!(batches[0].column(4).null_count(), 1);
}

#[test]
fn a_run_leaves_files_that_the_field_reads() {
    let dir = folder();
    if dir.exists() {
        std::fs::remove_dir_all(&dir).unwrap();
    }
    metrics(&dir);
    other_events(&dir);
    resumed_events(&dir);
    completions(&dir);
    println!("python tools/golden/sinks.py --dir {}", dir.display());
}
