//! A model: configuration, parameters, and the folder it came from. Loads Hugging Face folders and
//! adapters, and writes both back.

use crate::base::{DType, Error, Result};
use crate::io::hub::repo_of_snapshot;
use crate::io::safetensors::{self, Checkpoint, Sink};
use crate::mem::{Arena, Region};
use crate::model::companions;
use crate::model::config::VlmConfig;
use crate::model::families::naming::{Naming, PEFT_PREFIX, detect_naming, name_in};
use crate::model::families::parameters as specs;
use crate::model::lora::LoraConfig;
use crate::model::params::{Param, ParamStore, Training, streamed, turn_over};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// Largest file of weights of a saved model, in bytes: the default of transformers 5.
pub const MAX_SHARD_BYTES: usize = 50_000_000_000;

/// A vision-language model whose weights lie in an arena.
#[derive(Debug, Clone)]
pub struct Vlm {
    /// Shapes and token ids.
    pub config: VlmConfig,
    /// Weights that are trained or used.
    pub params: ParamStore,
    /// The folder it was read from.
    pub dir: PathBuf,
    /// Largest file of weights that is written, in bytes.
    pub max_shard_bytes: usize,
    naming: Naming,
    /// Parameters whose matrices lie turned over in the files.
    turned: HashSet<String>,
}

fn is_adapter(p: &Param) -> bool {
    p.name.contains(".lora_")
}

/// What an adapter calls its base: the repository of a snapshot in the hub's cache, which others can
/// fetch, else the folder.
fn base_name(dir: &Path) -> String {
    let base = std::path::absolute(dir).unwrap_or_else(|_| dir.to_path_buf());
    match repo_of_snapshot(&base) {
        Some((id, _)) => id.as_str().to_string(),
        None => base.display().to_string(),
    }
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
        let (dir, max_shard_bytes) = (dir.to_path_buf(), MAX_SHARD_BYTES);
        Ok(Vlm { config, params, dir, max_shard_bytes, naming, turned })
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
        let (dir, max_shard_bytes) = (PathBuf::new(), MAX_SHARD_BYTES);
        Ok(Vlm { config, params, dir, max_shard_bytes, naming, turned })
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
        let json = lora.to_json(&base_name(&self.dir));
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
        safetensors::save_sharded_with(dir, &specs, self.max_shard_bytes, |name, sink| match turned
            .get(name)
        {
            Some(p) => stream_turned(arena, p, sink),
            None => fetch(name, sink),
        })
    }

    /// Copies configuration, tokenizer and processor files beside saved weights.
    ///
    /// # Errors
    /// If a file cannot be copied.
    pub fn copy_companions(&self, dir: &Path, with_config: bool) -> Result<()> {
        match with_config {
            true => companions::copy_model(&self.dir, dir, Some(self.params.float_type())),
            false => companions::copy_processor(&self.dir, dir),
        }
    }
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
