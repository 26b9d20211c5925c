//! Low-rank adapters (LoRA, arXiv 2106.09685) with PEFT's conventions: which modules carry one, how
//! the factors start, and the two files of an adapter folder. The product itself is an argument of
//! the matmul op.

use crate::base::{Error, Philox, Result, RngDomain};
use crate::io::safetensors::Checkpoint;
use crate::model::config::VlmConfig;
use crate::model::families::naming::PEFT_PREFIX;
use crate::model::families::parameters;
use crate::model::spec::{ParamSpec, Part};
use serde_json::{Map, Value, json};
use std::path::Path;

/// Settings of an adapter, by PEFT's names.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraConfig {
    /// Rank of the factors.
    pub r: usize,
    /// The product is scaled by `lora_alpha / r`.
    pub lora_alpha: f64,
    /// Dropout on the adapter's input while training.
    pub lora_dropout: f64,
    /// Which modules carry an adapter.
    pub target_modules: Targets,
    /// Modules that carry none, though their names are targets.
    pub exclude_modules: Option<Pattern>,
}

/// A regular expression that whole module names match, compiled once.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: String,
    whole: regex::Regex,
}

impl Pattern {
    /// Compiles an expression.
    ///
    /// # Errors
    /// Kind data, if it is none of those that this program understands.
    pub fn new(text: impl Into<String>) -> Result<Self> {
        let text = text.into();
        match regex::Regex::new(&format!("^(?:{text})$")) {
            Ok(whole) => Ok(Pattern { text, whole }),
            Err(e) => Err(Error::data("not a regular expression").found(e.to_string())),
        }
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

/// PEFT's `target_modules`.
#[derive(Debug, Clone, PartialEq)]
pub enum Targets {
    /// Last parts of module names (`q_proj`), or whole names.
    Names(Vec<String>),
    /// Modules that a regular expression matches.
    Pattern(Pattern),
}

impl std::fmt::Display for Targets {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Targets::Names(names) => f.write_str(&names.join(", ")),
            Targets::Pattern(p) => write!(f, "the pattern {}", p.text),
        }
    }
}

impl Targets {
    fn cover(&self, module: &str) -> bool {
        match self {
            Targets::Names(names) => names.iter().any(|t| {
                let head = module.strip_suffix(t.as_str());
                head.is_some_and(|head| head.is_empty() || head.ends_with('.'))
            }),
            Targets::Pattern(p) => p.whole.is_match(module),
        }
    }

    fn to_json(&self) -> Value {
        match self {
            Targets::Names(names) => json!(names),
            Targets::Pattern(p) => json!(p.text),
        }
    }

    fn from_json(value: &Value) -> Option<Self> {
        match value {
            Value::String(p) => Pattern::new(p).ok().map(Targets::Pattern),
            Value::Array(a) => {
                let names: Option<_> = a.iter().map(|v| v.as_str().map(str::to_string)).collect();
                names.map(Targets::Names)
            }
            _ => None,
        }
    }
}

/// Keys of `adapter_config.json` that ask for more than two factors of linear layers: anything in them
/// would be left out of the arithmetic.
const REFUSED: [&str; 15] = [
    "use_dora",
    "use_rslora",
    "use_qalora",
    "use_bdlora",
    "fan_in_fan_out",
    "lora_bias",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "target_parameters",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "layers_to_transform",
    "layer_replication",
    "monteclora_config",
];

/// Beginnings of `init_lora_weights` with which PEFT changes the weights under the adapter as it loads.
const MOVES_BASE: [&str; 5] = ["pissa", "olora", "corda", "loftq", "lora_ga"];

/// Words that name linear layers of any family, in place of their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Preset {
    LanguageAttention,
    Language,
    Vision,
    Connector,
}

/// Words that `--lora_target_modules` takes beside names of modules.
const PRESETS: [(&str, Preset); 5] = [
    ("language-attention", Preset::LanguageAttention),
    ("language", Preset::Language),
    ("all-linear", Preset::Language), // PEFT's word; its head and vision tower are left out here
    ("vision", Preset::Vision),
    ("connector", Preset::Connector),
];

/// Targets for a model, from names of modules and preset words, and what is excluded. Names alone stay
/// what they are, as in PEFT; parts beside the language model become a pattern of whole names.
///
/// # Errors
/// If a name is that of no linear layer of the language model.
pub fn resolve_targets(words: &[String], config: &VlmConfig) -> Result<(Targets, Option<Pattern>)> {
    let preset = |w: &String| PRESETS.iter().find(|(name, _)| name == w).map(|(_, p)| *p);
    let presets: Vec<Preset> = words.iter().filter_map(preset).collect();
    let mut names: Vec<String> = words.iter().filter(|w| preset(w).is_none()).cloned().collect();
    let all = parameters(config);
    check_names(&names, &all)?;
    let mut add = |list: Vec<&str>| {
        let new: Vec<_> = list.iter().filter(|n| !names.iter().any(|m| m == *n)).collect();
        names.extend(new.into_iter().map(|n| n.to_string()));
    };
    for p in &presets {
        match p {
            Preset::LanguageAttention => add(config.text.attention_linears()),
            Preset::Language => {
                add(config.text.attention_linears());
                add(config.text.mlp_linears());
            }
            Preset::Vision | Preset::Connector => {}
        }
    }
    let names = Targets::Names(names);
    let wants = |p: &ParamSpec| match p.part {
        Part::Vision => presets.contains(&Preset::Vision),
        Part::Connector => presets.contains(&Preset::Connector),
        Part::Language => p.name.strip_suffix(".weight").is_some_and(|m| names.cover(m)),
        Part::Head => false,
    };
    if !presets.iter().any(|p| matches!(p, Preset::Vision | Preset::Connector)) {
        // PEFT matches module names anywhere; the vision tower may have modules of the same names.
        let excluded = config.family.vision_modules().join("|");
        return Ok((names, Some(Pattern::new(format!(r".*({excluded})\..*"))?)));
    }
    let mut patterns: Vec<String> = all
        .iter()
        .filter(|p| p.linear && wants(p))
        .filter_map(|p| Some(pattern_of(p.name.strip_suffix(".weight")?)))
        .collect();
    patterns.sort();
    patterns.dedup();
    let pattern = Pattern::new(format!("({})", patterns.join("|")))?;
    Ok((Targets::Pattern(pattern), None))
}

/// A name that fits nothing is a slip of the pen, and PEFT would pass over it.
fn check_names(names: &[String], all: &[ParamSpec]) -> Result<()> {
    let eligible = || all.iter().filter(|p| p.linear && p.part == Part::Language);
    let modules = || eligible().filter_map(|p| p.name.strip_suffix(".weight"));
    for name in names {
        let one = Targets::Names(vec![name.clone()]);
        if modules().any(|m| one.cover(m)) {
            continue;
        }
        let mut known: Vec<&str> = modules().filter_map(|m| m.rsplit('.').next()).collect();
        known.sort_unstable();
        known.dedup();
        let words = PRESETS.map(|(word, _)| word).join(", ");
        return Err(Error::usage("the adapter fits no module of the model")
            .key("lora_target_modules")
            .expected(format!("{words}, or names among {}", known.join(", ")))
            .found(name));
    }
    Ok(())
}

/// A module's name with any number in the places of its layers' numbers. A number at its end stays: in
/// a sequence (`merger.mlp.0`) others are no linear layers, and PEFT refuses a pattern that matches one.
fn pattern_of(module: &str) -> String {
    let (head, last) = module.rsplit_once('.').unwrap_or(("", module));
    let part = |p: &str| match p.bytes().all(|b| b.is_ascii_digit()) {
        true => r"\d+".to_string(),
        false => regex::escape(p),
    };
    let parts = head.split('.').filter(|p| !p.is_empty()).map(part);
    parts.chain([regex::escape(last)]).collect::<Vec<_>>().join(r"\.")
}

impl LoraConfig {
    /// Factor of the low-rank product.
    pub fn scale(&self) -> f64 {
        self.lora_alpha / self.r as f64
    }

    /// The module whose weights these are, if it carries an adapter.
    pub fn covered<'s>(&self, weights: &'s ParamSpec) -> Option<&'s str> {
        let module = weights.name.strip_suffix(".weight")?;
        let excluded = self.exclude_modules.as_ref().is_some_and(|p| p.whole.is_match(module));
        (weights.linear && !excluded && self.target_modules.cover(module)).then_some(module)
    }

    /// First value of the `A` factor: uniform in ±1/√inputs (PEFT: `kaiming_uniform_` with a = √5).
    /// `B` starts at 0, so a fresh adapter changes nothing.
    pub fn initial_a(&self, seed: u64, number: u32, inputs: usize) -> Vec<f32> {
        let mut s = Philox::new(seed, RngDomain::Init).stream(1, number);
        let bound = 1.0 / (inputs as f32).sqrt();
        (0..self.r * inputs).map(|_| (2.0 * s.uniform() - 1.0) * bound).collect()
    }

    /// `adapter_config.json` as PEFT reads it.
    pub fn to_json(&self, base_model: &str) -> Value {
        json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base_model,
            "r": self.r,
            "lora_alpha": self.lora_alpha,
            "lora_dropout": self.lora_dropout,
            "target_modules": self.target_modules.to_json(),
            "exclude_modules": self.exclude_modules.as_ref().map(|p| &p.text),
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "use_rslora": false,
            "use_dora": false,
            "modules_to_save": null,
            "rank_pattern": {},
            "alpha_pattern": {},
            "layers_to_transform": null,
            "layers_pattern": null,
        })
    }

    /// Reads an adapter folder's `adapter_config.json`.
    ///
    /// # Errors
    /// If the file is missing, or asks for something that this program does not do (DoRA, rank
    /// patterns, biases).
    pub fn from_dir(dir: &Path) -> Result<LoraConfig> {
        let file = dir.join("adapter_config.json");
        let text = std::fs::read_to_string(&file).map_err(|e| {
            Error::io("cannot read the adapter", &file, &e)
                .hint("an adapter's folder holds adapter_config.json and adapter_model.safetensors")
        })?;
        let map: Map<String, Value> = serde_json::from_str(&text).map_err(|e| {
            Error::data("not an adapter configuration")
                .file(&file)
                .found(e.to_string())
                .hint("the file is damaged or was not copied completely; fetch it again")
        })?;
        let wrong = |key: &str, expected: &str| wrong_key(&file, &map, key, expected);
        check_kind(&map, &wrong)?;
        let number = |key: &str| map.get(key).and_then(Value::as_f64);
        let (target_modules, exclude_modules) = match is_of_python(&map) {
            true => (Targets::Names(modules_with_factors(dir)?), None),
            false => (read_targets(&map, &wrong)?, read_excluded(&map, &wrong)?),
        };
        Ok(LoraConfig {
            r: number("r").filter(|r| *r >= 1.0).ok_or_else(|| wrong("r", "a positive integer"))?
                as usize,
            lora_alpha: number("lora_alpha").ok_or_else(|| wrong("lora_alpha", "a number"))?,
            lora_dropout: number("lora_dropout").unwrap_or(0.0),
            target_modules,
            exclude_modules,
        })
    }
}

type Wrong<'a> = &'a dyn Fn(&str, &str) -> Error;

fn wrong_key(file: &Path, map: &Map<String, Value>, key: &str, expected: &str) -> Error {
    let found = map.get(key).unwrap_or(&Value::Null).to_string();
    Error::data("this adapter cannot be used").file(file).key(key).expected(expected).found(found)
}

/// That the adapter is two factors of linear layers on the weights of the model, and nothing else.
fn check_kind(map: &Map<String, Value>, wrong: Wrong) -> Result<()> {
    if map.get("peft_type").and_then(Value::as_str) != Some("LORA") {
        return Err(wrong("peft_type", "\"LORA\""));
    }
    for key in REFUSED {
        let nothing = match map.get(key) {
            None | Some(Value::Null | Value::Bool(false)) => true,
            Some(Value::Array(a)) => a.is_empty(),
            Some(Value::Object(o)) => o.is_empty(),
            Some(_) => false,
        };
        if !nothing {
            return Err(wrong(key, "null, false or nothing in it"));
        }
    }
    if map.get("bias").is_some_and(|b| b != "none") {
        return Err(wrong("bias", "\"none\""));
    }
    let start = map.get("init_lora_weights").and_then(Value::as_str).unwrap_or_default();
    match MOVES_BASE.iter().any(|word| start.starts_with(word)) {
        false => Ok(()),
        true => Err(wrong("init_lora_weights", "a start that leaves the model's weights alone")
            .hint("save it with PEFT's path_initial_model_for_weight_conversion")),
    }
}

fn read_targets(map: &Map<String, Value>, wrong: Wrong) -> Result<Targets> {
    let targets = map.get("target_modules").and_then(Targets::from_json);
    targets.ok_or_else(|| wrong("target_modules", "a list of module names or a regular expression"))
}

fn read_excluded(map: &Map<String, Value>, wrong: Wrong) -> Result<Option<Pattern>> {
    match map.get("exclude_modules") {
        None | Some(Value::Null) => Ok(None),
        Some(value) => excluded_pattern(value)
            .ok_or_else(|| wrong("exclude_modules", "names, or a regular expression")),
    }
}

/// Whether a pattern of names is only understood by Python, whose regular expressions look ahead.
fn is_of_python(map: &Map<String, Value>) -> bool {
    let patterns = ["target_modules", "exclude_modules"].map(|k| map.get(k)?.as_str());
    patterns.into_iter().flatten().any(|p| Pattern::new(p).is_err())
}

/// Whole names of the modules that have factors in an adapter's file.
fn modules_with_factors(dir: &Path) -> Result<Vec<String>> {
    let file = Checkpoint::open(dir.join("adapter_model.safetensors"))?;
    let module =
        |n: &str| n.strip_prefix(PEFT_PREFIX)?.strip_suffix(".lora_A.weight").map(str::to_string);
    Ok(file.names().filter_map(module).collect())
}

/// PEFT's `exclude_modules`: a regular expression, or last parts of names; an empty list excludes none.
fn excluded_pattern(value: &Value) -> Option<Option<Pattern>> {
    Some(match Targets::from_json(value)? {
        Targets::Pattern(p) => Some(p),
        Targets::Names(names) if names.is_empty() => None,
        Targets::Names(names) => {
            let names: Vec<String> = names.iter().map(|n| regex::escape(n)).collect();
            Some(Pattern::new(format!(r"(.*\.)?({})", names.join("|"))).ok()?)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_keeps_the_number_of_a_layer_in_a_sequence() {
        let layers = r"model\.visual\.blocks\.\d+\.attn\.qkv";
        assert_eq!(pattern_of("model.visual.blocks.3.attn.qkv"), layers);
        assert_eq!(pattern_of("visual.merger.mlp.2"), r"visual\.merger\.mlp\.2");
        assert_eq!(pattern_of("mlp1.1"), r"mlp1\.1");
    }

    #[test]
    fn targets_are_whole_last_parts_in_the_language_model() {
        let c = LoraConfig {
            r: 4,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            target_modules: Targets::Names(vec!["q_proj".into(), "gate_proj".into()]),
            exclude_modules: Some(Pattern::new(r".*(visual)\..*").unwrap()),
        };
        let covered = |name: &str, part, linear| {
            let spec =
                ParamSpec { name: format!("{name}.weight"), shape: vec![4, 4], part, linear };
            c.covered(&spec).map(str::to_string)
        };
        let q = "model.language_model.layers.0.self_attn.q_proj";
        assert_eq!(covered(q, Part::Language, true).as_deref(), Some(q));
        for (name, part, linear) in [
            (q, Part::Language, false),
            ("model.language_model.layers.0.self_attn.o_proj", Part::Language, true),
            ("model.visual.blocks.0.mlp.gate_proj", Part::Vision, true),
            ("model.language_model.layers.0.mlp.notgate_proj", Part::Language, true),
        ] {
            assert_eq!(covered(name, part, linear), None);
        }
        // A whole name is a name too, of itself only.
        let whole = Targets::Names(vec!["mlp1.1".into(), "lm.q_proj".into()]);
        assert!(
            whole.cover("mlp1.1") && whole.cover("lm.q_proj") && whole.cover("model.lm.q_proj")
        );
        assert!(!whole.cover("mlp1.11") && !whole.cover("xlm.q_proj"));
        assert_eq!(c.scale(), 2.0);
        assert!(c.initial_a(1, 0, 16).iter().all(|x| x.abs() <= 0.25));
    }
}
