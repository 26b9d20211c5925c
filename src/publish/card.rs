//! README.md of a model: what it is, what it was trained on and how, what it measured, how it is
//! loaded. Texts of others (paths, questions, names) are escaped; paths of this machine are left out.
//! Keys of the front matter: the hub's documentation of model cards.

use crate::base::{Error, Result};
use crate::io::hub::repo_of_snapshot;
use crate::model::merge::recorded_base;
use crate::options::{Kind, OPTIONS, Value as Setting};
use crate::publish::curves;
use crate::settings::CardSettings;
use crate::track::{MetricRow, read_metrics};
use serde_json::Value;
use std::fmt::Write;
use std::path::Path;

/// Name of a card.
pub const FILE: &str = "README.md";
/// Name of its picture.
pub const CURVES: &str = "curves.svg";
/// Stands in cards that may be written again.
pub const MARK: &str =
    "<!-- written by grpo-rt; without this line it is yours and stays as it is -->";

/// Everything a card says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Card {
    /// Name of the model.
    pub name: String,
    /// The model it was trained from: a repository, or a folder's name.
    pub base: Option<String>,
    /// An adapter, not a whole model.
    pub adapter: bool,
    /// An adapter that was made part of its base.
    pub merged: bool,
    /// Identifier of the licence.
    pub license: Option<String>,
    /// Options of the run that differ from their defaults.
    pub settings: Vec<(String, String)>,
    /// Rewards and their weights, if a run named some.
    pub rewards: Vec<String>,
    /// Data sets: a repository, or the name of a file.
    pub data: Vec<String>,
    /// Those of them that are repositories.
    pub repositories: Vec<String>,
    /// Figures of the last steps.
    pub figures: Vec<(String, f64)>,
    /// Optimizer steps.
    pub steps: Option<u64>,
    /// What an evaluation measured: model, reward, mean, interval, samples.
    pub results: Vec<[String; 5]>,
    /// The picture.
    pub curves: Option<String>,
}

/// The last part of a path, as a name.
pub fn name_of(path: &Path) -> String {
    let full = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    full.file_name().map_or("model".into(), |n| n.to_string_lossy().into_owned())
}

/// What others can know of a path or a repository.
fn public(text: &str) -> (String, bool) {
    match repo_of_snapshot(Path::new(text)) {
        Some((id, _)) => (id.as_str().to_string(), true),
        None => (name_of(Path::new(text)), false),
    }
}

impl Card {
    /// What is known of the model in a folder: its files, and those of the run that made it.
    ///
    /// # Errors
    /// If a file of the folder is damaged.
    pub fn of_folder(dir: &Path, settings: &CardSettings) -> Result<Card> {
        let mut card =
            Card { name: name_of(dir), license: settings.license.clone(), ..Card::default() };
        card.adapter = dir.join("adapter_config.json").is_file();
        card.read_settings(&dir.join("config.resolved.yaml"))?;
        if card.adapter && card.base.is_none() {
            card.base =
                recorded_base(dir)?.map(|base| match crate::io::hub::RepoId::parse(&base) {
                    Some(id) => id.as_str().to_string(),
                    None => public(&base).0,
                });
        }
        let metrics = dir.join("metrics.jsonl");
        if metrics.is_file() {
            card.read_metrics(&read_metrics(&metrics)?);
        }
        if let Some(results) = &settings.results {
            card.read_results(results)?;
        }
        Ok(card)
    }

    fn read_settings(&mut self, file: &Path) -> Result<()> {
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(Error::io("cannot read the configuration", file, &e)),
        };
        let tree: Value = serde_saphyr::from_str(&text).map_err(|e| {
            Error::data("the configuration is not YAML").file(file).found(e.to_string())
        })?;
        let texts = |key: &str| -> Vec<String> {
            match &tree[key] {
                Value::String(one) => vec![one.clone()],
                Value::Array(many) => {
                    many.iter().filter_map(Value::as_str).map(String::from).collect()
                }
                _ => Vec::new(),
            }
        };
        self.base = texts("model_name_or_path").first().map(|b| public(b).0);
        for path in texts("dataset_name") {
            let (name, repository) = public(&path);
            if repository {
                self.repositories.push(name.clone());
            }
            self.data.push(name);
        }
        self.rewards = texts("reward_funcs");
        let weights = tree["reward_weights"].as_array().cloned().unwrap_or_default();
        for (reward, weight) in self.rewards.iter_mut().zip(weights) {
            *reward += &format!(" (weight {weight})");
        }
        self.settings = changed_settings(&tree);
        Ok(())
    }

    fn read_metrics(&mut self, rows: &[MetricRow]) {
        let steps: Vec<&MetricRow> = rows.iter().filter(|r| !r.is_eval()).collect();
        self.steps = steps.last().map(|r| r.step);
        // One step is noise: means of the last tenth.
        let last = &steps[steps.len() - (steps.len() / 10).max(1).min(steps.len())..];
        for name in ["reward", "reward_std", "kl", "entropy", "completions/mean_length", "loss"] {
            let values: Vec<f64> =
                last.iter().filter_map(|r| r.get(name)).filter(|v| v.is_finite()).collect();
            if !values.is_empty() {
                self.figures.push((name.into(), values.iter().sum::<f64>() / values.len() as f64));
            }
        }
        let evals = rows.iter().rev().find(|r| r.is_eval());
        for (name, value) in evals.iter().flat_map(|r| &r.values) {
            if name.starts_with("eval_reward") && value.is_finite() {
                self.figures.push((name.clone(), *value));
            }
        }
        self.curves = curves::svg(&steps);
    }

    /// Takes over the figures of `results.json`.
    fn read_results(&mut self, path: &Path) -> Result<()> {
        let file = if path.is_dir() { path.join("results.json") } else { path.to_path_buf() };
        let text = std::fs::read_to_string(&file).map_err(|e| {
            Error::io("cannot read the results", &file, &e)
                .key("eval_results")
                .hint("give the folder of `grpo-rt eval --out_dir`")
        })?;
        let json: Value = serde_json::from_str(&text).map_err(|e| {
            Error::data("the results are not JSON").file(&file).found(e.to_string())
        })?;
        for model in json["models"].as_array().into_iter().flatten() {
            let name = model["name"].as_str().unwrap_or("?");
            for reward in model["rewards"].as_array().into_iter().flatten() {
                let number = |v: &Value| v.as_f64().map_or("–".into(), |x| format!("{x:.4}"));
                self.results.push([
                    public(name).0,
                    reward["name"].as_str().unwrap_or("?").to_string(),
                    number(&reward["mean"]),
                    format!("{} to {}", number(&reward["low"]), number(&reward["high"])),
                    reward["judged"].to_string(),
                ]);
            }
        }
        Ok(())
    }

    /// The card.
    pub fn markdown(&self) -> String {
        let base = self.base.as_deref().unwrap_or("its base model");
        let what = match (self.adapter, self.merged) {
            (true, _) => format!("A LoRA adapter for {}", md(base)),
            (_, true) => format!("{} with a LoRA adapter merged into it", md(base)),
            _ => format!("A model trained from {}", md(base)),
        };
        let how = if self.rewards.is_empty() && !self.merged { "" } else { " with GRPO" };
        let mut out = format!("{}{MARK}\n\n# {}\n\n", self.front_matter(), md(&self.name));
        let _ = writeln!(out, "{what}, trained{how} by grpo-rt {}.\n", env!("CARGO_PKG_VERSION"));
        out += &self.usage();
        if !self.data.is_empty() || !self.rewards.is_empty() {
            out += "## Training\n\n";
            let list =
                |names: &[String]| names.iter().map(|n| md(n)).collect::<Vec<_>>().join(", ");
            if !self.data.is_empty() {
                let _ = writeln!(out, "- Data: {}", list(&self.data));
            }
            if !self.rewards.is_empty() {
                let _ = writeln!(out, "- Rewards: {}", list(&self.rewards));
            }
            out += &self.steps.map_or(String::new(), |n| format!("- Optimizer steps: {n}\n"));
            out.push('\n');
        }
        if self.curves.is_some() {
            let _ = writeln!(out, "![Curves of the run]({CURVES})\n");
        }
        let row = |(name, value): &(String, f64)| vec![md(name), format!("{value:.4}")];
        out +=
            &table("Figures of the last steps", &["metric", "mean"], self.figures.iter().map(row));
        let row = |r: &[String; 5]| r.iter().map(|c| md(c)).collect();
        let head = ["model", "reward", "mean", "interval", "samples"];
        out += &table("Evaluation", &head, self.results.iter().map(row));
        let row = |(name, value): &(String, String)| vec![md(name), md(value)];
        out + &table("Settings", &["option", "value"], self.settings.iter().map(row))
    }

    fn front_matter(&self) -> String {
        let quoted = |text: &str| Setting::Text(text.to_string()).to_yaml();
        let list = |key: &str, items: &[String]| match items.is_empty() {
            true => String::new(),
            false => format!(
                "{key}:\n{}",
                items.iter().map(|i| format!("- {}\n", quoted(i))).collect::<String>()
            ),
        };
        let library = if self.adapter { "peft" } else { "transformers" };
        let mut tags = vec!["grpo-rt".to_string()];
        if !self.rewards.is_empty() || self.merged {
            tags.extend(["grpo", "reinforcement-learning", "vision-language"].map(String::from));
        }
        if self.adapter {
            tags.push("lora".into());
        }
        let mut out = format!("---\nlibrary_name: {library}\npipeline_tag: image-text-to-text\n");
        // The hub knows repositories only; a folder's name would lead nowhere.
        if let Some(base) =
            self.base.as_deref().filter(|b| crate::io::hub::RepoId::parse(b).is_some())
        {
            let _ = writeln!(out, "base_model: {}", quoted(base));
            let relation = if self.adapter { "adapter" } else { "finetune" };
            let _ = writeln!(out, "base_model_relation: {relation}");
        }
        if let Some(license) = &self.license {
            let _ = writeln!(out, "license: {}", quoted(license));
        }
        let _ = writeln!(out, "model_name: {}", quoted(&self.name));
        out + &list("datasets", &self.repositories) + &list("tags", &tags) + "---\n\n"
    }

    /// How the model is loaded. Names stand in Python strings.
    fn usage(&self) -> String {
        let python = |text: &str| serde_json::Value::from(text).to_string();
        let base = python(self.base.as_deref().unwrap_or("BASE_MODEL"));
        let this = python(&format!("ORG/{}", self.name));
        let load = match self.adapter {
            false => format!(
                "from transformers import AutoModelForImageTextToText, AutoProcessor\n\n\
                 model = AutoModelForImageTextToText.from_pretrained({this}, dtype=\"auto\")\n\
                 processor = AutoProcessor.from_pretrained({this})\n"
            ),
            true => format!(
                "from peft import PeftModel\nfrom transformers import AutoModelForImageTextToText, \
                 AutoProcessor\n\n\
                 model = AutoModelForImageTextToText.from_pretrained({base}, dtype=\"auto\")\n\
                 model = PeftModel.from_pretrained(model, {this})\n\
                 processor = AutoProcessor.from_pretrained({base})\n"
            ),
        };
        // A name cannot end the block of code: it has no line ends, and back quotes go.
        format!("## How to load it\n\n```python\n{}```\n\n", load.replace('`', "'"))
    }
}

/// Options of the run that are not their defaults, without those that name places of this machine.
fn changed_settings(tree: &Value) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for opt in OPTIONS {
        let value = &tree[opt.name];
        let default = opt.default;
        let text = match value {
            Value::Null => continue,
            Value::String(text) => text.clone(),
            Value::Array(items) => {
                let one = |v: &Value| v.as_str().map_or(v.to_string(), str::to_string);
                items.iter().map(one).collect::<Vec<_>>().join(", ")
            }
            other => other.to_string(),
        };
        let place = matches!(opt.kind, Kind::Path | Kind::List(Kind::Path) | Kind::BoolOrPath);
        let bare = |text: &str| text.replace(' ', "");
        let same = match opt.kind.read(default) {
            Some(Setting::Int(n)) => text == n.to_string(),
            Some(Setting::Float(x)) => text.parse() == Ok(x),
            _ => bare(&text) == bare(default),
        };
        if !place && !same && opt.name != "hub_model_id" {
            all.push((opt.name.to_string(), text));
        }
    }
    all
}

/// A section with a table; nothing if it has no rows.
fn table(title: &str, head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let body: String = rows.map(|cells| format!("| {} |\n", cells.join(" | "))).collect();
    if body.is_empty() {
        return body;
    }
    let line = format!("|{}\n", "---|".repeat(head.len()));
    format!("## {title}\n\n| {} |\n{line}{body}\n", head.join(" | "))
}

/// A text that is nothing but text in Markdown and in the HTML inside it, on one line, not too long.
pub fn md(text: &str) -> String {
    const MOST: usize = 400;
    let mut out = String::with_capacity(text.len());
    for c in text.chars().take(MOST) {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '\n' | '\r' | '\t' => out.push(' '),
            c if c.is_control()
                || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') => {}
            c if "\\`*_{}[]()#|~!$".contains(c) => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    if text.chars().nth(MOST).is_some() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_stay_text() {
        let hostile = "a|b`c<script>alert(1)</script>[x](javascript:y)\n# no\u{202e}\u{1b}";
        let text = md(hostile);
        assert!(!text.contains(['<', '\n', '\u{202e}', '\u{1b}']), "{text}");
        assert!(text.contains("\\|") && text.contains("\\`") && text.contains("\\[x\\]"), "{text}");
        let card = Card {
            name: "x\"\n---\nlicense: mit".into(),
            base: Some("a`\n\"b".into()),
            adapter: true,
            settings: vec![("system_prompt".into(), hostile.into())],
            rewards: vec![hostile.into()],
            data: vec![hostile.into()],
            repositories: vec!["o/n".into()],
            ..Card::default()
        };
        let text = card.markdown();
        let front = text.split("---\n").nth(1).unwrap();
        let yaml: Value = serde_saphyr::from_str(front).unwrap();
        assert_eq!(yaml["model_name"], "x\"\n---\nlicense: mit");
        assert_eq!((&yaml["license"], &yaml["library_name"]), (&Value::Null, &Value::from("peft")));
        assert_eq!(yaml["datasets"][0], "o/n");
        assert!(!text.contains("<script>") && text.matches("```").count() == 2, "{text}");
        assert!(text.contains("PeftModel") && text.contains(MARK));
    }

    #[test]
    fn settings_are_those_that_were_changed_and_no_places() {
        let tree: Value = serde_json::json!({
            "lora_r": 8, "learning_rate": 1e-6, "output_dir": "/runs/of/someone", "seed": 7,
            "reward_funcs": ["exact"], "dataset_name": ["/data/x.jsonl"], "max_rows": null,
        });
        let all = changed_settings(&tree);
        let names: Vec<&str> = all.iter().map(|s| s.0.as_str()).collect();
        assert!(names.contains(&"lora_r") && names.contains(&"seed"), "{names:?}");
        assert!(!names.contains(&"output_dir") && !names.contains(&"dataset_name"), "{names:?}");
        assert!(!names.contains(&"learning_rate") && !names.contains(&"max_rows"), "{names:?}");
    }
}
