//! What every command that runs a model sets up first: memory, weights, adapter, and what makes
//! prompts. Decides nothing about training.

use crate::base::{Error, Result, Target};
use crate::device::telemetry::Telemetry;
use crate::device::{self, Device};
use crate::grpo::update::Learner;
use crate::mem::Arena;
use crate::model::config::VlmConfig;
use crate::model::lora::{LoraConfig, resolve_targets};
use crate::model::params::Training;
use crate::model::spec::Part as ModelPart;
use crate::model::vision_store::{VisionStore, VisionWeights};
use crate::model::vlm::Vlm;
use crate::settings::{MachineSettings, ModelSettings, Trained};
use crate::train::prompts::PromptEncoder;
use std::sync::Arc;

/// Memory and model of a command.
#[derive(Debug)]
pub struct Workspace {
    /// All tensors.
    pub arena: Arena,
    /// The model.
    pub model: Vlm,
    /// Rows to prompts.
    pub encoder: PromptEncoder,
    /// Features of images.
    pub vision: VisionStore,
    /// What the device says about itself; `None` on the CPU.
    pub telemetry: Option<Telemetry>,
}

/// What the settings train, as the model understands it.
///
/// # Errors
/// If an adapter folder cannot be read.
pub fn training_of(settings: &ModelSettings, config: &VlmConfig) -> Result<Training> {
    let saved = settings.adapter.as_deref().map(LoraConfig::from_dir).transpose()?;
    Ok(match (&settings.trained, saved) {
        (Trained::Lora(l), None) => {
            let (target_modules, exclude_modules) = resolve_targets(&l.target_modules, config)?;
            Training::Lora(LoraConfig {
                r: l.r,
                lora_alpha: l.alpha,
                lora_dropout: l.dropout,
                target_modules,
                exclude_modules,
            })
        }
        (Trained::Lora(l), Some(saved)) => {
            Training::Lora(LoraConfig { lora_dropout: l.dropout, ..saved })
        }
        (Trained::Nothing, Some(saved)) => Training::Lora(saved),
        (Trained::Nothing, None) => Training::None,
        (Trained::Parts(p), _) => {
            let mut parts = Vec::new();
            if p.llm {
                parts.extend([ModelPart::Language, ModelPart::Head]);
            }
            if p.vision {
                parts.push(ModelPart::Vision);
            }
            if p.projector {
                parts.push(ModelPart::Connector);
            }
            Training::Full(parts)
        }
    })
}

/// Bytes that a command may plan with: most of what is free on the device, or nine tenths of this
/// machine's memory.
pub fn free_bytes(device: Option<&Arc<dyn Device>>) -> usize {
    /// What a driver takes for itself as kernels are loaded.
    const DRIVER: usize = 512 << 20;
    match device.map(|d| d.properties()) {
        Some(p) if p.emulated => p.available.min(default_budget() / 4),
        Some(p) => p.available.saturating_sub(DRIVER),
        None => default_budget(),
    }
}

/// Nine tenths of the machine's memory.
fn default_budget() -> usize {
    const UNKNOWN: usize = 16 << 30;
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text
        .lines()
        .find_map(|l| l.strip_prefix("MemTotal:"))
        .and_then(|l| l.trim().trim_end_matches(" kB").parse::<usize>().ok());
    kib.map_or(UNKNOWN, |k| k * 1024 / 10 * 9)
}

/// Bytes for features of images, where `free` are free beside the weights. Pages that hold none cost
/// nothing but their share of the budget.
pub fn vision_cache(machine: &MachineSettings, free: usize) -> usize {
    const MOST: usize = 256 << 20;
    machine.vision_cache_size.map_or(MOST.min(free / 8), |bytes| bytes as usize)
}

/// What is known of a model before its weights are read.
#[derive(Debug)]
pub struct Prepared {
    /// Sizes of the model.
    pub config: VlmConfig,
    /// What is trained.
    pub training: Training,
    /// Rows to prompts.
    pub encoder: PromptEncoder,
    /// What computes; `None` is the CPU.
    pub device: Option<Arc<dyn Device>>,
}

impl Prepared {
    /// Opens the device and reads configuration, tokenizer, chat template and image processor of a
    /// model folder.
    ///
    /// # Errors
    /// If the device is not there, or a file is missing or broken.
    pub fn read(settings: &ModelSettings, machine: &MachineSettings) -> Result<Self> {
        let device = device::open_with(machine.device, machine.matmul)?;
        let config = VlmConfig::from_dir(&settings.path)?;
        let training = training_of(settings, &config)?;
        let encoder = PromptEncoder::open(settings, &config)?;
        Ok(Prepared { config, training, encoder, device })
    }

    /// What tapes will run on.
    pub fn target(&self) -> Target {
        if self.device.is_some() { Target::Gpu } else { Target::Cpu }
    }

    /// Bytes that the command may plan with: the user's budget, or those of [`free_bytes`].
    pub fn budget(&self, machine: &MachineSettings) -> usize {
        machine.memory_budget.map_or_else(|| free_bytes(self.device.as_ref()), |b| b as usize)
    }

    /// Bounds prompts by the user's limit in tokens, and by what the model's context leaves beside a
    /// completion of `completion` tokens: a longer one is a bad row, not the end of a run.
    ///
    /// # Errors
    /// If the context has no room for any prompt.
    pub fn bound_prompts(&mut self, tokens: Option<usize>, completion: usize) -> Result<()> {
        let context = self.config.text.max_position_embeddings;
        let room = context.checked_sub(completion).filter(|room| *room > 0).ok_or_else(|| {
            Error::usage("completions are as long as the model's context")
                .key("max_completion_length")
                .expected(format!("less than {context} (max_position_embeddings of config.json)"))
                .found(completion.to_string())
                .hint("lower --max_completion_length; prompts need room too")
        })?;
        self.encoder.max_prompt_length = tokens;
        self.encoder.max_positions = Some((room, completion));
        Ok(())
    }

    /// Takes the memory and reads the weights.
    ///
    /// # Errors
    /// If the weights cannot be read or do not fit the budget.
    pub fn open(
        self,
        settings: &ModelSettings,
        machine: &MachineSettings,
        seed: u64,
    ) -> Result<Workspace> {
        let mut arena = Arena::on(self.device.as_ref(), self.budget(machine))?;
        let mut model =
            Vlm::load(&settings.path, &self.training, settings.dtype, seed, &mut arena)?;
        model.max_shard_bytes = settings.max_shard_bytes;
        if let Some(adapter) = &settings.adapter {
            model.load_adapter(adapter, &mut arena)?;
        }
        let bytes = vision_cache(machine, arena.capacity() - arena.shared_base());
        let vision = VisionStore::place(&model.config, &model.params, bytes, &mut arena)?;
        let telemetry = self.device.as_ref().map(|d| Telemetry::of(d.properties()));
        Ok(Workspace { arena, model, encoder: self.encoder, vision, telemetry })
    }
}

impl Workspace {
    /// Opens a model for training or use.
    ///
    /// # Errors
    /// If the model cannot be read or does not fit the budget.
    pub fn open(settings: &ModelSettings, machine: &MachineSettings, seed: u64) -> Result<Self> {
        Prepared::read(settings, machine)?.open(settings, machine, seed)
    }

    /// The model as a pass of training number `step` sees it.
    pub fn learner(&self, step: usize) -> Learner<'_> {
        let mut learner = Learner {
            config: &self.model.config,
            params: &self.model.params,
            arena: &self.arena,
            vision: &self.vision,
            vision_weights: 0,
        };
        if learner.trains_vision() {
            learner.vision_weights = step as VisionWeights;
        }
        learner
    }

    /// Tokens that a completion may never contain: image and video placeholders and their frame, and
    /// rows of the head that the tokenizer has no token for. Sorted.
    pub fn forbidden_tokens(&self) -> Vec<u32> {
        let t = &self.model.config.tokens;
        let tokenizer = &self.encoder.chat.tokenizer;
        let mut ids = t.placeholders();
        ids.extend(tokenizer.token_id("<|vision_pad|>"));
        ids.extend(tokenizer.vocab_size() as u32..self.model.config.text.vocab_size as u32);
        ids.retain(|&i| (i as usize) < self.model.config.text.vocab_size);
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}
