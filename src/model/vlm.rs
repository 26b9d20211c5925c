//! A model: configuration, parameters, and the folder it came from. Loads Hugging Face folders and
//! adapters, and writes both back.

use crate::base::{DType, Error, Result};
use crate::io::safetensors::{self, Checkpoint, Sink};
use crate::mem::{Arena, Region};
use crate::model::config::VlmConfig;
use crate::model::families::naming::{Naming, PEFT_PREFIX, detect_naming, name_in};
use crate::model::families::parameters as specs;
use crate::model::lora::LoraConfig;
use crate::model::params::{Param, ParamStore, Training, streamed, turn_over};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// Largest shard of a saved model: the default of transformers.
const MAX_SHARD_BYTES: usize = 50_000_000_000;

/// Files beside the weights that make a folder loadable; copied as they are.
pub const COMPANIONS: [&str; 15] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "README.md",
];

/// A vision-language model whose weights lie in an arena.
#[derive(Debug, Clone)]
pub struct Vlm {
    /// Shapes and token ids.
    pub config: VlmConfig,
    /// Weights that are trained or used.
    pub params: ParamStore,
    /// The folder it was read from.
    pub dir: PathBuf,
    naming: Naming,
    /// Parameters whose matrices lie turned over in the files.
    turned: HashSet<String>,
}

fn is_adapter(p: &Param) -> bool {
    p.name.contains(".lora_")
}

/// Bytes of weights, gradients and optimizer state of a model, from its configuration alone.
pub fn model_bytes(config: &VlmConfig, training: &Training, float: DType) -> usize {
    ParamStore::bytes(&specs(config), training, float)
}

/// Places the parameters of a model without reading their values: to plan with.
///
/// # Errors
/// If the arena is smaller than [`model_bytes`], or an adapter fits no module.
pub fn place(
    config: &VlmConfig,
    training: &Training,
    float: DType,
    arena: &mut Arena,
) -> Result<ParamStore> {
    ParamStore::place(&specs(config), training, float, arena)
}

impl Vlm {
    /// Reads a model folder into an arena, matrices in `float` (F32 or BF16). Adapters start fresh from
    /// `seed`.
    ///
    /// # Errors
    /// If a file is missing, damaged or of another model, or if the arena is too small.
    pub fn load(
        dir: &Path,
        training: &Training,
        float: DType,
        seed: u64,
        arena: &mut Arena,
    ) -> Result<Self> {
        let config = VlmConfig::from_dir(dir)?;
        let file = Checkpoint::open(dir)?;
        let pairs = config.family.names();
        let naming = detect_naming(pairs, file.names()).map_err(|e| e.file(file.source()))?;
        let params = ParamStore::place(&specs(&config), training, float, arena)?;
        let turned = params
            .load(arena, &file, |p| (!is_adapter(p)).then(|| name_in(pairs, naming, &p.name)))?;
        params.init_adapters(arena, seed)?;
        Ok(Vlm { config, params, dir: dir.to_path_buf(), naming, turned })
    }

    /// Places a model and fills it with given values (canonical names): a new random model.
    ///
    /// # Errors
    /// If the arena is too small.
    pub fn create(
        config: VlmConfig,
        arena: &mut Arena,
        mut value: impl FnMut(&Param) -> Vec<f32>,
    ) -> Result<Self> {
        let params = ParamStore::place(&specs(&config), &Training::None, DType::F32, arena)?;
        for p in params.all() {
            p.set(arena, &value(p))?;
        }
        let (naming, turned) = (Naming::Checkpoint, HashSet::new());
        Ok(Vlm { config, params, dir: PathBuf::new(), naming, turned })
    }

    /// Reads an adapter folder into the adapter of this model.
    ///
    /// # Errors
    /// If the folder's adapter has another rank or other modules, or tensors that this model has no
    /// place for.
    pub fn load_adapter(&self, dir: &Path, arena: &mut Arena) -> Result<()> {
        let saved = LoraConfig::from_dir(dir)?;
        let ours = self.params.lora().ok_or_else(|| {
            Error::usage("an adapter was given for a model without adapters").hint("add --use_peft")
        })?;
        if saved.r != ours.r || saved.lora_alpha != ours.lora_alpha {
            return Err(Error::data("the adapter has another rank or scale")
                .file(dir)
                .expected(format!("r {} and lora_alpha {}", ours.r, ours.lora_alpha))
                .found(format!("r {} and lora_alpha {}", saved.r, saved.lora_alpha))
                .hint("give --lora_r and --lora_alpha of the adapter"));
        }
        let file = Checkpoint::open(dir.join("adapter_model.safetensors"))?;
        self.check_adapter(&file)?;
        self.params.load(arena, &file, |p| is_adapter(p).then(|| self.adapter_name(&file, p)))?;
        Ok(())
    }

    /// A tensor that is left out would make another model of it: an error.
    fn check_adapter(&self, file: &Checkpoint) -> Result<()> {
        let factors = self.params.all().iter().filter(|p| is_adapter(p));
        let used: HashSet<String> = factors.map(|p| self.adapter_name(file, p)).collect();
        match file.names().find(|name| !used.contains(*name)) {
            None => Ok(()),
            Some(name) => {
                Err(Error::data("the adapter has a tensor that has no place in the model")
                    .file(file.source())
                    .tensor(name)
                    .expected(
                        "lora_A and lora_B of linear layers that are targets, and nothing else",
                    )
                    .hint("an adapter of convolutions, embeddings or the head cannot be used here"))
            }
        }
    }

    /// PEFT's name of an adapter tensor: module paths of transformers 5, or of 4 if the file has those.
    fn adapter_name(&self, file: &Checkpoint, p: &Param) -> String {
        let now = format!("{PEFT_PREFIX}{}", p.name);
        if file.contains(&now) {
            return now;
        }
        let before = name_in(self.config.family.names(), Naming::Checkpoint, &p.name);
        let before = format!("{PEFT_PREFIX}{before}");
        if file.contains(&before) { before } else { now }
    }

    /// Name of a parameter in the files that this model reads and writes.
    pub fn file_name(&self, canonical: &str) -> String {
        name_in(self.config.family.names(), self.naming, canonical)
    }

    /// Writes the adapter as PEFT does: `adapter_model.safetensors` and `adapter_config.json`.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn save_adapter(&self, dir: &Path, arena: &Arena) -> Result<()> {
        let lora = self.params.lora().ok_or_else(|| Error::internal("no adapter to save"))?;
        let tensors =
            self.params.export(|p| is_adapter(p).then(|| format!("{PEFT_PREFIX}{}", p.name)));
        let (specs, fetch) = streamed(arena, &tensors);
        let metadata = [("format".to_string(), "pt".to_string())].into_iter().collect();
        safetensors::save_with(dir.join("adapter_model.safetensors"), &specs, &metadata, fetch)?;
        let base = std::path::absolute(&self.dir).unwrap_or_else(|_| self.dir.clone());
        let json = lora.to_json(&base.display().to_string());
        let text = serde_json::to_string_pretty(&json).expect("a JSON value prints");
        crate::io::atomic::write_atomic(dir.join("adapter_config.json"), text.as_bytes())
    }

    /// Writes the weights in the naming and layout they were read in and the type they are kept in.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn save_weights(&self, dir: &Path, arena: &Arena) -> Result<()> {
        let tensors = self.params.export(|p| (!is_adapter(p)).then(|| self.file_name(&p.name)));
        let (mut specs, mut fetch) = streamed(arena, &tensors);
        let turned: HashMap<String, &Param> = self
            .turned
            .iter()
            .filter_map(|name| Some((self.file_name(name), self.params.get(name)?)))
            .collect();
        for spec in specs.iter_mut().filter(|s| turned.contains_key(&s.name)) {
            spec.shape.swap(1, 2);
        }
        safetensors::save_sharded_with(dir, &specs, MAX_SHARD_BYTES, |name, sink| {
            match turned.get(name) {
                Some(p) => stream_turned(arena, p, sink),
                None => fetch(name, sink),
            }
        })
    }

    /// Copies configuration, tokenizer and processor files beside saved weights.
    ///
    /// # Errors
    /// If a file cannot be copied.
    pub fn copy_companions(&self, dir: &Path, with_config: bool) -> Result<()> {
        for name in COMPANIONS {
            let from = self.dir.join(name);
            let model_file = matches!(name, "config.json" | "generation_config.json" | "README.md");
            if !from.is_file() || (model_file && !with_config) {
                continue;
            }
            let to = dir.join(name);
            if name == "config.json" {
                write_config(&from, &to, self.params.float_type())?;
            } else {
                std::fs::copy(&from, &to).map_err(|e| Error::io("cannot copy", &from, &e))?;
            }
        }
        match with_config && self.config.raw.get("auto_map").is_some() {
            true => copy_classes(&self.dir, dir),
            false => Ok(()),
        }
    }
}

/// Copies the Python files of a folder with classes of its own (`auto_map`): nothing here reads them, but
/// no other program loads the folder without them.
fn copy_classes(from: &Path, to: &Path) -> Result<()> {
    let wrong = |e: std::io::Error| Error::io("cannot copy the model's classes", from, &e);
    for entry in std::fs::read_dir(from).map_err(wrong)? {
        let path = entry.map_err(wrong)?.path();
        if let Some(name) = path.file_name().filter(|_| path.extension().is_some_and(|e| e == "py"))
        {
            std::fs::copy(&path, to.join(name)).map_err(wrong)?;
        }
    }
    Ok(())
}

/// Hands over a stack `[E, rows, columns]` with each matrix turned over.
fn stream_turned(arena: &Arena, p: &Param, sink: &mut Sink) -> Result<()> {
    let (region, size) = (p.place.value, p.place.value.dtype.size());
    let [rows, columns] = [p.shape[1], p.shape[2]];
    let bytes = rows * columns * size;
    for matrix in 0..p.shape[0] {
        let offset = region.offset + matrix * bytes;
        let matrix = arena.read::<u8>(Region { offset, elements: bytes, dtype: DType::U8 })?;
        sink(&turn_over(&matrix, [rows, columns], size))?;
    }
    Ok(())
}

/// Copies config.json, saying of what type the weights beside it are now.
fn write_config(from: &Path, to: &Path, float: DType) -> Result<()> {
    let text = std::fs::read_to_string(from).map_err(|e| Error::io("cannot read", from, &e))?;
    let mut json: serde_json::Value = serde_json::from_str(&text)
        .map_err(|e| Error::data("config.json is not JSON").file(from).found(e.to_string()))?;
    set_dtype(&mut json, float);
    let text = serde_json::to_string_pretty(&json).expect("a JSON value prints");
    crate::io::atomic::write_atomic(to, text.as_bytes())
}

fn set_dtype(json: &mut serde_json::Value, float: DType) {
    let Some(map) = json.as_object_mut() else { return };
    for (key, value) in map.iter_mut() {
        match key.as_str() {
            "dtype" | "torch_dtype" => *value = float.torch_name().into(),
            "text_config" | "vision_config" | "llm_config" => set_dtype(value, float),
            _ => {}
        }
    }
}
