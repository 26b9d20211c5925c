//! TensorBoard under the names that the Hugging Face trainer gives: scalars `train/<name>`, `eval/<name>`
//! for `eval_<name>`, texts `args` and `model_config`; and what that trainer has not: completions with
//! their images, distributions, alerts. Values that are NaN are left out, never drawn as zero.

use super::Sink;
use crate::base::Result;
use crate::io::tfevents::EventWriter;
use crate::track::SampleGroup;
use crate::track::health::Turn;
use crate::track::{CompletionTable, Event, MetricRow, Picture};
use serde_json::{Map, Value};
use std::fmt::Write;
use std::path::Path;

/// Groups of a table whose images are shown.
const GROUPS_WITH_IMAGES: usize = 4;

/// Writes events to an event file.
pub struct TensorBoardSink {
    writer: EventWriter,
    completions: usize,
    multimodal: bool,
}

impl TensorBoardSink {
    /// Opens a new event file in `dir`. `resume_after`: the step of the checkpoint that the run
    /// resumes from; TensorBoard then forgets what earlier files of `dir` say about later steps.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn create(dir: impl AsRef<Path>, resume_after: Option<u64>) -> Result<Self> {
        let mut writer = EventWriter::create(dir)?;
        if let Some(step) = resume_after {
            writer.purge_from(step + 1)?;
        }
        writer.flush()?;
        Ok(TensorBoardSink { writer, completions: 0, multimodal: true })
    }

    /// Shows at most so many completions of every table, and images only if `multimodal`.
    pub fn with_completions(mut self, most: usize, multimodal: bool) -> Self {
        (self.completions, self.multimodal) = (most, multimodal);
        self
    }

    fn row(&mut self, row: &MetricRow) -> Result<()> {
        let epoch = if row.is_eval() { "eval_epoch" } else { "epoch" };
        let values = row.values.iter().map(|(n, v)| (n.as_str(), *v));
        for (name, value) in values.chain([(epoch, row.epoch)]).filter(|(_, v)| !v.is_nan()) {
            self.writer.scalar(&tag(name), row.step, value)?;
        }
        Ok(())
    }

    fn pictures(&mut self, tag: &str, step: u64, pictures: &[Picture]) -> Result<()> {
        let shown = if self.multimodal { pictures } else { &[] };
        for (i, png) in shown.iter().filter_map(Picture::png).enumerate() {
            let tag = format!("{tag}/image_{i}");
            self.writer.image_png(&tag, step, &png.bytes, png.width, png.height)?;
        }
        Ok(())
    }

    fn table(&mut self, t: &CompletionTable) -> Result<()> {
        let count = t.records.len().min(self.completions);
        if count == 0 {
            return Ok(());
        }
        self.writer.text("completions", t.step, &table_text(t, count))?;
        let groups = t.pictures.iter().take(count.div_ceil(t.group_size.max(1)));
        for (i, pictures) in groups.take(GROUPS_WITH_IMAGES).enumerate() {
            self.pictures(&format!("completions/prompt_{i}"), t.step, pictures)?;
        }
        Ok(())
    }
}

impl Sink for TensorBoardSink {
    fn take(&mut self, event: &Event) -> Result<()> {
        match event {
            Event::Line(_) => return Ok(()),
            Event::Row(row) => self.row(row)?,
            Event::Group(group, pictures) => {
                self.writer.text("samples", group.step, &group_text(group))?;
                self.pictures("samples", group.step, pictures)?;
            }
            Event::Completions(t) => self.table(t)?,
            Event::Histogram { name, step, values } => {
                self.writer.histogram(&format!("histograms/{name}"), *step, values)?;
            }
            Event::Settings { name, values } => {
                self.writer.text(name, 0, &settings_text(values))?;
            }
            Event::Alert(a) => {
                let turn = if a.state == Turn::Begun { "begun" } else { "over" };
                let text =
                    format!("**{}** {turn}: {}\n\n{} ({})", a.name, a.message, a.advice, a.link);
                self.writer.text(&format!("health/{}", a.name), a.step, &text)?;
            }
            Event::Summary { step, figures } => {
                for (name, value) in figures {
                    self.writer.scalar(&tag(name), *step, *value)?;
                }
            }
        }
        // Events are seconds apart; whoever watches wants to see the last one.
        self.writer.flush()
    }
    fn close(&mut self) -> Result<()> {
        self.writer.flush()
    }
}

/// The name of a metric in the trackers, as the Hugging Face trainer rewrites it.
pub(super) fn tag(name: &str) -> String {
    match name.strip_prefix("eval_") {
        Some(rest) => format!("eval/{rest}"),
        None => format!("train/{name}"),
    }
}

/// Settings as a table.
fn settings_text(values: &Map<String, Value>) -> String {
    let mut table = String::from("| option | value |\n|---|---|\n");
    for (name, value) in values {
        let value = match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let _ = writeln!(table, "| {name} | `{}` |", cell(&value));
    }
    table
}

/// A text that stays within one cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace(['\n', '\r'], " ").replace('`', "'")
}

/// A text as it is, between fences longer than any in it.
fn fenced(text: &str) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    format!("{fence}\n{text}\n{fence}\n")
}

fn score(value: Option<f64>) -> String {
    value.map_or("none".into(), |v| format!("{v:.3}"))
}

/// Names and scores as a table of one line.
fn scores(names: &[&str], values: &[String]) -> String {
    let names: Vec<String> = names.iter().map(|n| cell(n)).collect();
    let lines = "---|".repeat(names.len());
    format!("| {} |\n|{lines}\n| {} |\n\n", names.join(" | "), values.join(" | "))
}

/// A prompt and what was said to it.
fn group_text(g: &SampleGroup) -> String {
    let mut out = format!("### Prompt\n\n{}\n", fenced(&g.prompt));
    if !g.answer.is_empty() {
        let _ = write!(out, "### Reference answer\n\n{}\n", fenced(&g.answer));
    }
    for (i, c) in g.completions.iter().enumerate() {
        let mut names: Vec<&str> = c.rewards.iter().map(|(n, _)| n.as_str()).collect();
        let mut values: Vec<String> = c.rewards.iter().map(|(_, v)| score(*v)).collect();
        names.extend(["reward", "advantage", "tokens"]);
        values.extend([score(c.total), format!("{:+.3}", c.advantage), c.tokens.to_string()]);
        let _ = write!(out, "### Completion {}\n\n{}", i + 1, scores(&names, &values));
        out += &fenced(&c.text);
    }
    out
}

/// The first completions of a table, under their prompts.
fn table_text(t: &CompletionTable, count: usize) -> String {
    let mut out = String::new();
    for (i, r) in t.records.iter().enumerate().take(count) {
        if i % t.group_size.max(1) == 0 {
            let said: Vec<String> = r.prompt.iter().map(|m| m.to_string()).collect();
            let _ = write!(out, "## Prompt\n\n{}\n", fenced(&said.join("\n")));
        }
        let mut names: Vec<&str> = t.rewards.iter().map(String::as_str).collect();
        let mut values: Vec<String> = r.rewards.iter().map(|v| score(*v)).collect();
        for (name, value) in &r.extra {
            names.push(name);
            values.push(cell(&value.to_string()));
        }
        names.extend(["reward", "advantage"]);
        let total = t.totals.get(i).copied().flatten();
        values.extend([score(total), format!("{:+.3}", r.advantage)]);
        out += &scores(&names, &values);
        out += &fenced(&r.completion);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_models_stay_between_their_fences() {
        assert_eq!(fenced("a"), "```\na\n```\n");
        assert_eq!(fenced("a ```` b"), "`````\na ```` b\n`````\n");
        assert_eq!(cell("a|b\n`c`"), "a\\|b 'c'");
        assert_eq!(
            scores(&["x", "y"], &["1".into(), "none".into()]),
            "| x | y |\n|---|---|\n| 1 | none |\n\n"
        );
    }
}
