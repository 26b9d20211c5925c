//! Events as requests to the client: names as the Hugging Face trainer gives them, completions as the table
//! that TRL sends. Sends nothing.

use super::WandbSettings;
use crate::io::completions::{CompletionRecord, PromptPart};
use crate::io::data_url::encode_base64;
use crate::track::SampleGroup;
use crate::track::health::Turn;
use crate::track::sinks::tensorboard::tag;
use crate::track::{CompletionTable, Event, MetricRow, Picture};
use serde_json::{Map, Value, json};

/// Bins of a distribution, as the client draws them.
const BINS: usize = 64;

/// What the client is told of an event; empty if it is not for it.
pub(super) fn requests(event: &Event, s: &WandbSettings) -> Vec<Value> {
    match event {
        Event::Line(_) => Vec::new(),
        Event::Row(row) => vec![log(row)],
        Event::Group(..) if s.completions => Vec::new(),
        Event::Group(group, pictures) => vec![samples(group, pictures, s)],
        Event::Completions(_) if !s.completions => Vec::new(),
        Event::Completions(t) => vec![completions(t, s)],
        Event::Histogram { name, step, values } => {
            histogram(name, *step, values).into_iter().collect()
        }
        // The options went with the start of the run.
        Event::Settings { name: "args", .. } => Vec::new(),
        Event::Settings { name, values } => {
            vec![json!({"op": "config", "values": {*name: values}})]
        }
        Event::Alert(a) if a.state == Turn::Begun => {
            let text = format!("{}\n{}\n{}", a.message, a.advice, a.link);
            vec![json!({"op": "alert", "title": a.name, "text": text})]
        }
        Event::Alert(_) => Vec::new(),
        Event::Summary { figures, .. } => {
            let values: Map<String, Value> = figures
                .iter()
                .filter(|(_, v)| v.is_finite())
                .map(|(n, v)| (n.clone(), json!(v)))
                .collect();
            vec![json!({"op": "summary", "values": values})]
        }
    }
}

fn log(row: &MetricRow) -> Value {
    let epoch = if row.is_eval() { "eval_epoch" } else { "epoch" };
    let values = row.values.iter().map(|(n, v)| (n.as_str(), *v)).chain([(epoch, row.epoch)]);
    // JSON has no other numbers.
    let values: Map<String, Value> =
        values.filter(|(_, v)| v.is_finite()).map(|(n, v)| (tag(n), json!(v))).collect();
    json!({"op": "log", "step": row.step, "values": values})
}

/// Counts and edges of equal bins; nothing of no values.
fn histogram(name: &str, step: u64, values: &[f64]) -> Option<Value> {
    let finite: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
    let low = finite.iter().copied().reduce(f64::min)?;
    let high = finite.iter().copied().reduce(f64::max)?;
    // A single value gets a bin around it.
    let (low, high) = if low < high { (low, high) } else { (low - 0.5, high + 0.5) };
    let width = (high - low) / BINS as f64;
    let mut counts = [0u64; BINS];
    for v in finite {
        counts[(((v - low) / width) as usize).min(BINS - 1)] += 1;
    }
    let edges: Vec<f64> = (0..=BINS).map(|i| low + width * i as f64).collect();
    let histograms = json!({format!("histograms/{name}"): [counts.to_vec(), edges]});
    Some(json!({"op": "log", "step": step, "values": {}, "histograms": histograms}))
}

fn encoded(pictures: &[Picture]) -> Vec<String> {
    pictures.iter().filter_map(Picture::png).map(|png| encode_base64(&png.bytes)).collect()
}

/// TRL's table of completions: the columns of the parquet file, and `image`.
fn completions(t: &CompletionTable, s: &WandbSettings) -> Value {
    let kept: Vec<usize> =
        (0..t.records.len()).filter(|&i| !s.unique_prompts || t.is_first_of_prompt(i)).collect();
    let mut columns: Vec<&str> = vec!["step", "prompt", "completion"];
    columns.extend(t.rewards.iter().map(String::as_str));
    let extra: Vec<&str> =
        t.records.first().map_or(Vec::new(), |r| r.extra.iter().map(|(n, _)| n.as_str()).collect());
    columns.extend(&extra);
    columns.push("advantage");
    let rows: Vec<Value> = kept.iter().map(|&i| row_of(&t.records[i], &extra)).collect();
    let any = s.multimodal && t.pictures.iter().any(|p| !p.is_empty());
    let images: Vec<Vec<String>> =
        if any { t.pictures.iter().map(|p| encoded(p)).collect() } else { Vec::new() };
    let groups: Vec<usize> = kept.iter().map(|i| i / t.group_size.max(1)).collect();
    json!({
        "op": "table", "name": "completions", "step": t.step,
        "columns": columns, "rows": rows, "images": images, "groups": groups,
    })
}

fn row_of(r: &CompletionRecord, extra: &[&str]) -> Value {
    let part = |p: &PromptPart| match p {
        PromptPart::Text(text) => json!({"type": "text", "text": text}),
        PromptPart::Image => json!({"type": "image"}),
        PromptPart::Video => json!({"type": "video"}),
    };
    let prompt: Vec<Value> = r
        .prompt
        .iter()
        .map(|m| json!({"role": m.role, "content": m.content.iter().map(part).collect::<Vec<_>>()}))
        .collect();
    let said = json!([{"role": "assistant", "content": r.completion}]);
    let mut cells = vec![json!(r.step), Value::Array(prompt), said];
    cells.extend(r.rewards.iter().map(|v| json!(v)));
    let of =
        |name: &&str| r.extra.iter().find(|(n, _)| n == name).map_or(Value::Null, |e| e.1.clone());
    cells.extend(extra.iter().map(of));
    cells.push(json!(r.advantage));
    Value::Array(cells)
}

/// A group of the report as a table of its own.
fn samples(g: &SampleGroup, pictures: &[Picture], s: &WandbSettings) -> Value {
    let mut columns: Vec<&str> = vec!["step", "prompt", "answer", "completion"];
    let first = g.completions.first();
    columns.extend(first.iter().flat_map(|c| &c.rewards).map(|(n, _)| n.as_str()));
    columns.extend(["reward", "advantage"]);
    let row = |c: &crate::track::SampleCompletion| {
        let mut cells = vec![json!(g.step), json!(g.prompt), json!(g.answer), json!(c.text)];
        cells.extend(c.rewards.iter().map(|(_, v)| json!(v)));
        cells.extend([json!(c.total), json!(c.advantage)]);
        Value::Array(cells)
    };
    let rows: Vec<Value> = g.completions.iter().map(row).collect();
    let any = s.multimodal && !pictures.is_empty();
    let images = if any { vec![encoded(pictures)] } else { Vec::new() };
    let groups = vec![0; rows.len()];
    json!({
        "op": "table", "name": "samples", "step": g.step,
        "columns": columns, "rows": rows, "images": images, "groups": groups,
    })
}
