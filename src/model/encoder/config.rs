//! What a folder of sentence-transformers says about its encoder: `config.json`, `modules.json`,
//! `sentence_bert_config.json`, `1_Pooling/config.json`. What would change embeddings and is not done
//! here is an error that names file and key; nothing is read past.

use crate::base::{Error, Result};
use crate::model::config::keys::{Keys, read_json};
use crate::ops::gelu::GeluKind;
use std::path::{Component, Path, PathBuf};

/// How the tokens of a sentence are numbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Places {
    /// 0, 1, 2, ... (BERT).
    FromZero,
    /// From one past the padding token's id on; padding tokens have that id itself (RoBERTa).
    AfterPadding(u32),
}

/// Which tokens make up a sentence's vector, and with what weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// The first.
    First,
    /// The last.
    Last,
    /// All alike.
    Mean,
    /// All alike, their sum divided by the root of their number.
    MeanOverRoot,
    /// The n-th with weight n.
    Weighted,
}

/// Names of [`Pooling`] in `pooling_mode`, and the older keys `pooling_mode_<..>`.
const POOLINGS: [(&str, &str, Option<Pooling>); 6] = [
    ("cls", "cls_token", Some(Pooling::First)),
    ("max", "max_tokens", None),
    ("mean", "mean_tokens", Some(Pooling::Mean)),
    ("mean_sqrt_len_tokens", "mean_sqrt_len_tokens", Some(Pooling::MeanOverRoot)),
    ("weightedmean", "weightedmean_tokens", Some(Pooling::Weighted)),
    ("lasttoken", "lasttoken", Some(Pooling::Last)),
];

impl Pooling {
    /// Weights of the tokens of a sentence of `len`.
    pub fn weights(self, len: usize) -> Vec<f32> {
        let n = len as f64;
        let weight = |i: usize| match self {
            Pooling::First => f64::from(i == 0),
            Pooling::Last => f64::from(i + 1 == len),
            Pooling::Mean => 1.0 / n,
            Pooling::MeanOverRoot => 1.0 / n.sqrt(),
            Pooling::Weighted => (i + 1) as f64 / (n * (n + 1.0) / 2.0),
        };
        (0..len).map(|i| weight(i) as f32).collect()
    }
}

/// An encoder: BERT's layers, then pooling.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderConfig {
    /// Width H.
    pub hidden_size: usize,
    /// Layers.
    pub num_layers: usize,
    /// Heads N.
    pub num_heads: usize,
    /// Width of the inner layer of the MLPs.
    pub intermediate_size: usize,
    /// Rows of the table of tokens.
    pub vocab_size: usize,
    /// Rows of the table of places.
    pub max_positions: usize,
    /// Rows of the table of segments, of which the first is used.
    pub segments: usize,
    /// Of every layer norm.
    pub layer_norm_eps: f64,
    /// Activation of the MLPs.
    pub gelu: GeluKind,
    /// How tokens are numbered.
    pub places: Places,
    /// What makes a sentence of tokens.
    pub pooling: Pooling,
    /// Whether vectors are divided by their length.
    pub normalize: bool,
    /// `max_seq_length`, if the folder says it.
    pub max_tokens: Option<usize>,
    /// `do_lower_case` of sentence_bert_config.json.
    pub lower_case: bool,
    /// Where config.json, the tokenizer and the weights are.
    pub folder: PathBuf,
}

impl EncoderConfig {
    /// Reads the files of a folder.
    ///
    /// # Errors
    /// If one is missing or damaged, or describes something else than BERT's layers with pooling.
    pub fn from_dir(dir: &Path) -> Result<Self> {
        let modules = Modules::from_dir(dir)?;
        no_prompt(dir)?;
        let file = modules.transformer.join("config.json");
        let json = read_json(&file).map_err(|e| {
            e.hint("give the folder of a sentence encoder, as SentenceTransformer(...).save(DIR) writes it")
        })?;
        let mut config = read_transformer(&Keys::of(&json, &file)?, modules.transformer.clone())?;
        config.normalize = modules.normalize;
        if let Some(folder) = &modules.pooling {
            let file = folder.join("config.json");
            let json = read_json(&file)?;
            config.pooling = read_pooling(&Keys::of(&json, &file)?, config.hidden_size)?;
        }
        let names = ["bert", "roberta", "xlm-roberta"].map(|n| format!("sentence_{n}_config.json"));
        let files = names.map(|name| modules.transformer.join(name));
        if let Some(file) = files.iter().find(|f| f.is_file()) {
            let json = read_json(file)?;
            let keys = Keys::of(&json, file)?;
            config.max_tokens = match keys.get("max_seq_length") {
                Some(_) => Some(keys.size("max_seq_length", 1)?),
                None => None,
            };
            config.lower_case = keys.boolean("do_lower_case", false)?;
        }
        Ok(config)
    }

    /// D.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_heads
    }

    /// Tokens for which there are places.
    pub fn room(&self) -> usize {
        match self.places {
            Places::FromZero => self.max_positions,
            Places::AfterPadding(padding) => {
                self.max_positions.saturating_sub(padding as usize + 1)
            }
        }
    }
}

/// The folders of the modules that make up an encoder.
struct Modules {
    transformer: PathBuf,
    pooling: Option<PathBuf>,
    normalize: bool,
}

impl Modules {
    /// From `modules.json`; without one, the folder is a transformer's, whose tokens are averaged.
    fn from_dir(dir: &Path) -> Result<Self> {
        let file = dir.join("modules.json");
        let mut found = Modules { transformer: dir.to_owned(), pooling: None, normalize: false };
        if !file.is_file() {
            return Ok(found);
        }
        let json = read_json(&file)?;
        let list = json.as_array().ok_or_else(|| {
            Error::data("the file does not list modules").file(&file).expected("a list")
        })?;
        for (i, module) in list.iter().enumerate() {
            let kind = module["type"].as_str().unwrap_or_default().rsplit('.').next();
            let path = Path::new(module["path"].as_str().unwrap_or_default());
            if !path.components().all(|c| matches!(c, Component::Normal(_))) {
                return Err(Error::data("a module of the sentence encoder is outside its folder")
                    .file(&file)
                    .found(path.display().to_string()));
            }
            match (i, kind) {
                (0, Some("Transformer")) => found.transformer = dir.join(path),
                (1, Some("Pooling")) => found.pooling = Some(dir.join(path)),
                (2, Some("Normalize")) => found.normalize = true,
                _ => {
                    return Err(Error::data("the sentence encoder has a module that is not known")
                        .file(&file)
                        .expected("Transformer, then Pooling, then Normalize or nothing")
                        .found(format!("{} as module {i}", module["type"]))
                        .hint("choose an encoder like all-MiniLM-L6-v2"));
                }
            }
        }
        Ok(found)
    }
}

/// Refuses encoders that put a text of their own before every sentence.
fn no_prompt(dir: &Path) -> Result<()> {
    let file = dir.join("config_sentence_transformers.json");
    if !file.is_file() {
        return Ok(());
    }
    let json = read_json(&file)?;
    let keys = Keys::of(&json, &file)?;
    match keys.get("default_prompt_name") {
        None => Ok(()),
        Some(_) => Err(keys.wrong("default_prompt_name", "none").hint(
            "encoders that want a prompt before each sentence are not supported; choose one without",
        )),
    }
}

fn read_transformer(keys: &Keys, folder: PathBuf) -> Result<EncoderConfig> {
    let places = match keys.string("model_type")? {
        Some("bert") => Places::FromZero,
        Some("roberta" | "xlm-roberta") => {
            Places::AfterPadding(keys.id("pad_token_id")?.unwrap_or(1))
        }
        _ => {
            return Err(keys.wrong("model_type", "bert, roberta or xlm-roberta").hint(
                "other architectures (mpnet, distilbert, ...) are not supported as sentence encoders; all-MiniLM-L6-v2 and paraphrase-multilingual-MiniLM-L12-v2 are",
            ));
        }
    };
    keys.must_be("position_embedding_type", "absolute")?;
    for key in ["is_decoder", "add_cross_attention"] {
        if keys.boolean(key, false)? {
            return Err(keys.wrong(key, "false"));
        }
    }
    let gelu = match keys.string("hidden_act")?.unwrap_or("gelu") {
        "gelu" => GeluKind::Erf,
        "gelu_new" | "gelu_pytorch_tanh" => GeluKind::Tanh,
        "quick_gelu" => GeluKind::Quick,
        _ => {
            return Err(keys.wrong("hidden_act", "gelu, gelu_new, gelu_pytorch_tanh or quick_gelu"));
        }
    };
    // Defaults are those of transformers' BertConfig; RobertaConfig differs in sizes that its files say.
    // The largest are far beyond any encoder, and small enough that no product of them overflows.
    let size = |key: &str, default: usize, most: usize| match keys.size(key, default)? {
        size if size <= most => Ok(size),
        _ => Err(keys.wrong(key, format!("at most {most}"))),
    };
    let hidden_size = size("hidden_size", 768, 1 << 14)?;
    let num_heads = size("num_attention_heads", 12, hidden_size)?;
    if !hidden_size.is_multiple_of(num_heads) {
        return Err(keys.wrong("num_attention_heads", format!("a divisor of {hidden_size}")));
    }
    Ok(EncoderConfig {
        hidden_size,
        num_layers: size("num_hidden_layers", 12, 1 << 8)?,
        num_heads,
        intermediate_size: size("intermediate_size", 3072, 1 << 16)?,
        vocab_size: size("vocab_size", 30522, 1 << 24)?,
        max_positions: size("max_position_embeddings", 512, 1 << 16)?,
        segments: size("type_vocab_size", 2, 1 << 16)?,
        layer_norm_eps: keys.float("layer_norm_eps", 1e-12)?,
        gelu,
        places,
        pooling: Pooling::Mean,
        normalize: false,
        max_tokens: None,
        lower_case: false,
        folder,
    })
}

fn read_pooling(keys: &Keys, hidden_size: usize) -> Result<Pooling> {
    for key in ["word_embedding_dimension", "embedding_dimension"] {
        keys.must_be_size(key, hidden_size)?;
    }
    let mut chosen: Vec<(&str, Option<Pooling>)> = Vec::new();
    if keys.get("pooling_mode").is_some() {
        let name = keys.string("pooling_mode")?.unwrap_or_default();
        let known = POOLINGS.iter().find(|(known, ..)| *known == name);
        chosen.push(("pooling_mode", known.and_then(|(.., pooling)| *pooling)));
    } else {
        for (name, older, pooling) in POOLINGS {
            if keys.boolean(&format!("pooling_mode_{older}"), false)? {
                chosen.push((name, pooling));
            }
        }
    }
    match chosen[..] {
        [] => Ok(Pooling::Mean),
        [(_, Some(pooling))] => Ok(pooling),
        _ => {
            Err(Error::data("the sentence encoder pools its tokens in a way that is not supported")
                .file(keys.file)
                .key("pooling_mode")
                .expected("one of cls, mean, mean_sqrt_len_tokens, weightedmean, lasttoken")
                .found(match chosen[..] {
                    [(name, _)] if name != "pooling_mode" => name.to_string(),
                    [_] => keys.get("pooling_mode").map(ToString::to_string).unwrap_or_default(),
                    _ => chosen.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" and "),
                }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_of_a_pooling_are_the_formulas() {
        assert_eq!(Pooling::First.weights(3), [1.0, 0.0, 0.0]);
        assert_eq!(Pooling::Last.weights(3), [0.0, 0.0, 1.0]);
        assert_eq!(Pooling::Mean.weights(4), [0.25; 4]);
        assert_eq!(Pooling::MeanOverRoot.weights(4), [0.5; 4]);
        assert_eq!(Pooling::Weighted.weights(2), [1.0 / 3.0, 2.0 / 3.0]);
    }

    /// The error of a folder with these files, on one line.
    fn refused(files: &[(&str, &str)]) -> String {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        EncoderConfig::from_dir(dir.path()).unwrap_err().one_line()
    }

    #[test]
    fn what_would_change_embeddings_is_refused_by_name() {
        let bert = |rest: &str| format!("{{\"model_type\": \"bert\"{rest}}}");
        for (config, said) in [
            (r#"{"model_type": "mpnet"}"#.to_string(), "mpnet"),
            ("{}".to_string(), "model_type"),
            (bert(r#", "position_embedding_type": "relative_key""#), "relative_key"),
            (bert(r#", "is_decoder": true"#), "is_decoder"),
            (bert(r#", "hidden_act": "relu""#), "hidden_act"),
            (bert(r#", "num_attention_heads": 7"#), "a divisor of 768"),
            (bert(r#", "num_hidden_layers": 1000000000000"#), "at most 256"),
            ("[".to_string(), "not JSON"),
        ] {
            let e = refused(&[("config.json", &config)]);
            assert!(e.contains(said) && e.contains("config.json"), "{e}");
        }
        assert!(refused(&[]).contains("SentenceTransformer"));
        let bert = bert("");
        let modules = |list: &str| {
            let named = |kind: &str| format!(r#"{{"type": "s.{kind}", "path": "1_Pooling"}}"#);
            let list: Vec<String> = list.split(' ').map(named).collect();
            format!("[{}]", list.join(","))
        };
        let e = refused(&[("config.json", &bert), ("modules.json", &modules("Pooling"))]);
        assert!(e.contains("s.Pooling") && e.contains("module 0"), "{e}");
        let out = r#"[{"type": "s.Transformer", "path": "../.."}]"#;
        assert!(refused(&[("config.json", &bert), ("modules.json", out)]).contains("outside"));
        let pooling = |config: &str, said: &str| {
            let two = r#"[{"type": "Transformer", "path": ""}, {"type": "Pooling", "path": "1"}]"#;
            let files = [("config.json", bert.as_str()), ("modules.json", two)];
            let e = refused(&[files[0], files[1], ("1/config.json", config)]);
            assert!(e.contains(said), "{e}");
        };
        pooling(r#"{"pooling_mode": "max"}"#, "found: \"max\"");
        pooling(r#"{"pooling_mode_max_tokens": true}"#, "found: max");
        let both = r#"{"pooling_mode_max_tokens": true, "pooling_mode_cls_token": true}"#;
        pooling(both, "cls and max");
        pooling(r#"{"embedding_dimension": 3}"#, "expected: 768");
        let prompt = ("config_sentence_transformers.json", r#"{"default_prompt_name": "query"}"#);
        assert!(refused(&[("config.json", &bert), prompt]).contains("prompt"));
    }
}
