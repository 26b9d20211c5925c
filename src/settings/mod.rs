//! Floor 10: options, typed and checked against each other before any work is done. One struct per concern,
//! and one per command that holds the concerns it needs. Opens no file (but [`check_paths`] asks
//! whether they exist) and never changes a value that was asked for.

mod build; // from options to these structs
mod data; // rows
mod data_sets; // names of data sets
mod grpo; // the algorithm
mod hub; // options that name repositories
mod inspect; // data that is looked at or converted
mod logging; // what is reported, and where
mod output; // where a run is written, and its checkpoints
mod paths; // whether files that are read exist
mod publish; // models that leave
mod rewards; // what completions earn
mod serve; // the chat endpoint
pub mod tasks; // prompts, answers and rewards of a task
mod validation; // evaluation during training
mod video; // how frames are taken

use std::path::PathBuf;

pub use data::DataSettings;
pub use data_sets::resolve_data_sets;
pub use grpo::{EntropySettings, GrpoSettings, KlSettings, LossType, ReferenceSync};
pub use hub::{adapter_in, resolve_repositories};
pub use inspect::{ConvertSettings, InspectSettings};
pub use logging::LoggingSettings;
pub use output::{BestSettings, OutputSettings, Resume, When};
pub use paths::check_paths;
pub use publish::{CardSettings, HubSettings, MergeSettings, PushSettings};
pub use rewards::RewardSettings;
pub use serve::ServeSettings;
pub use validation::ValidationSettings;
pub use video::VideoSettings;

use crate::base::DType;
use crate::device::{DeviceSpec, KnownDevice, MatmulImpl};
use crate::mem::Recompute;
use crate::model::processor::ProcessorOptions;
use crate::options::Options;

/// What `train` needs.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainSettings {
    /// The model and what of it is trained.
    pub model: ModelSettings,
    /// The rows that prompts are made of.
    pub data: DataSettings,
    /// Rows on which rewards are measured.
    pub eval_data: Option<DataSettings>,
    /// When and how that is done.
    pub validation: ValidationSettings,
    /// How completions are drawn.
    pub sampling: SamplingSettings,
    /// Rewards and their weights.
    pub rewards: RewardSettings,
    /// Groups, loss and KL.
    pub grpo: GrpoSettings,
    /// Batches, length of the run, optimizer.
    pub training: TrainingSettings,
    /// Where the run is written and what it starts from.
    pub output: OutputSettings,
    /// What is reported, and where.
    pub logging: LoggingSettings,
    /// Whether and where the model is uploaded at the end.
    pub hub: Option<HubSettings>,
    /// Threads and memory.
    pub machine: MachineSettings,
}

/// What `sft` needs.
#[derive(Debug, Clone, PartialEq)]
pub struct SftSettings {
    /// The model and what of it is trained.
    pub model: ModelSettings,
    /// The rows with prompts and answers.
    pub data: DataSettings,
    /// Batches, length of the run, optimizer.
    pub training: TrainingSettings,
    /// Where the run is written and what it starts from.
    pub output: OutputSettings,
    /// What is reported, and where.
    pub logging: LoggingSettings,
    /// Whether and where the model is uploaded at the end.
    pub hub: Option<HubSettings>,
    /// Threads and memory.
    pub machine: MachineSettings,
}

/// What `eval` needs.
#[derive(Debug, Clone, PartialEq)]
pub struct EvalSettings {
    /// The model; nothing of it is trained.
    pub model: ModelSettings,
    /// The rows that are answered; in file order.
    pub data: DataSettings,
    /// How completions are drawn; greedy without `do_sample`.
    pub sampling: SamplingSettings,
    /// Rewards and their weights.
    pub rewards: RewardSettings,
    /// Completions per prompt, at least 1.
    pub num_samples: usize,
    /// Completions decoded together.
    pub batch_size: usize,
    /// JSONL file for completions and rewards.
    pub out: Option<PathBuf>,
    /// What is made of the answers.
    pub measures: MeasureSettings,
    /// Root of everything random.
    pub seed: u64,
    /// Print results only.
    pub quiet: bool,
    /// Threads and memory.
    pub machine: MachineSettings,
}

/// The word that stands for the model without its adapter.
pub const BASE: &str = "base";

/// What `eval` makes of answers.
#[derive(Debug, Clone, PartialEq)]
pub struct MeasureSettings {
    /// What the model is compared with: [`BASE`], a model, an adapter, earlier answers.
    pub baseline: Option<PathBuf>,
    /// Further models, adapters and earlier answers.
    pub compare: Vec<PathBuf>,
    /// The k of pass@k, each at most the number of samples.
    pub pass_at_k: Vec<usize>,
    /// Columns whose values get figures of their own.
    pub group_by: Vec<String>,
    /// Of intervals, between 0.5 and 0.999.
    pub confidence: f64,
    /// Draws of bootstrap intervals and permutation tests, at least 1.
    pub draws: usize,
    /// Folder for results, answers and report.
    pub dir: Option<PathBuf>,
    /// Rows of the report, at least 1.
    pub report_rows: usize,
    /// Go on where an evaluation into `dir` was interrupted.
    pub resume: bool,
}

/// What `infer` needs.
#[derive(Debug, Clone, PartialEq)]
pub struct InferSettings {
    /// The model; its path is empty where a run names it. Nothing of it is trained.
    pub model: ModelSettings,
    /// The run whose model answers (`all`: every run), and the folder that it is looked for in.
    pub run: Option<(String, PathBuf)>,
    /// What is answered.
    pub chat: ChatSettings,
    /// Answer with the adapter on and off.
    pub compare: bool,
    /// Print text as it comes; `None` leaves it to the output.
    pub stream: Option<bool>,
    /// How completions are drawn; greedy without `do_sample`.
    pub sampling: SamplingSettings,
    /// Completions, at least 1.
    pub num_samples: usize,
    /// JSONL file for the completions.
    pub out: Option<PathBuf>,
    /// Root of everything random.
    pub seed: u64,
    /// Threads and memory.
    pub machine: MachineSettings,
}

/// Chats that the assistant goes on with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChatSettings {
    /// A JSON file of messages.
    Messages(PathBuf),
    /// One message of the user each.
    Questions {
        /// System message before it.
        system: Option<String>,
        /// Image files, addresses, and folders of which every picture is asked about by itself.
        images: Vec<String>,
        /// Video files or folders of frames, after the images.
        videos: Vec<PathBuf>,
        /// Texts, asked one by one.
        texts: Vec<String>,
    },
    /// Rows of a data file.
    Rows {
        /// System message of rows that have none.
        system: Option<String>,
        /// The file.
        file: PathBuf,
    },
}

/// What `plan` needs.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanSettings {
    /// The run, as `train` takes it; its memory budget is that of the device.
    pub run: Options,
    /// What is planned for.
    pub device: PlanDevice,
    /// What is assumed of every prompt.
    pub prompt: AssumedPrompt,
    /// Print one JSON object.
    pub json: bool,
}

/// What a run is planned for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PlanDevice {
    /// A device of this machine.
    Present(DeviceSpec),
    /// One that need not be there.
    Known(&'static KnownDevice),
}

/// The prompts of a run whose data is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AssumedPrompt {
    /// Images of a prompt.
    pub images: usize,
    /// Width and height of each in pixels, before the model's limits.
    pub size: (usize, usize),
    /// Tokens beside those of images; `None` is what `limit` leaves.
    pub text: Option<usize>,
    /// Tokens of a prompt, those of images included.
    pub limit: Option<usize>,
}

/// What `init` needs.
#[derive(Debug, Clone, PartialEq)]
pub struct InitSettings {
    /// Architecture, such as `qwen2_5_vl`.
    pub family: String,
    /// Size, such as `tiny`.
    pub preset: String,
    /// Entries of the new tokenizer.
    pub vocab_size: usize,
    /// Plain texts the tokenizer is trained on.
    pub text_files: Vec<PathBuf>,
    /// Data files whose texts the tokenizer is trained on.
    pub data_files: Vec<PathBuf>,
    /// Split of folders that have several.
    pub split: Option<String>,
    /// Other names of columns: (ours, the file's).
    pub columns: Vec<(String, String)>,
    /// Folder of the new model.
    pub output_dir: PathBuf,
    /// Write into a folder that is not empty.
    pub overwrite: bool,
    /// Root of the random weights.
    pub seed: u64,
    /// Threads; `None` is all cores.
    pub threads: Option<usize>,
    /// Print results only.
    pub quiet: bool,
}

/// What `data make-shapes` needs.
#[derive(Debug, Clone, PartialEq)]
pub struct MakeShapesSettings {
    /// Folder of the new data set.
    pub output_dir: PathBuf,
    /// Write into a folder that is not empty.
    pub overwrite: bool,
    /// Rows to make.
    pub num_rows: usize,
    /// Width and height of the images in pixels.
    pub image_size: usize,
    /// Root of everything random.
    pub seed: u64,
    /// Print results only.
    pub quiet: bool,
}

/// What `trace` needs.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceSettings {
    /// The model; nothing of it is trained.
    pub model: ModelSettings,
    /// JSON file with the chat messages.
    pub messages: PathBuf,
    /// Run the backward pass too.
    pub grad: bool,
    /// Safetensors file that is written.
    pub out: PathBuf,
    /// Threads; `None` is all cores.
    pub threads: Option<usize>,
    /// Print results only.
    pub quiet: bool,
}

/// What `demo` needs.
#[derive(Debug, Clone, PartialEq)]
pub struct DemoSettings {
    /// Folder for data set, model and run.
    pub output_dir: PathBuf,
    /// Write into a folder that is not empty.
    pub overwrite: bool,
    /// Root of everything random.
    pub seed: u64,
    /// Threads; `None` is all cores.
    pub threads: Option<usize>,
    /// Print results only.
    pub quiet: bool,
}

/// The model and what of it is trained.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSettings {
    /// Folder of the model.
    pub path: PathBuf,
    /// Type the weights are kept and computed in.
    pub dtype: DType,
    /// Folder of a PEFT adapter to load.
    pub adapter: Option<PathBuf>,
    /// What is trained; `Trained::Nothing` for `eval` and `trace`.
    pub trained: Trained,
    /// What is changed of the model's own image processor.
    pub processor: ProcessorOptions,
    /// How frames are taken of videos.
    pub video: VideoSettings,
    /// Largest file of weights that is written, in bytes.
    pub max_shard_bytes: usize,
}

/// What a run trains.
#[derive(Debug, Clone, PartialEq)]
pub enum Trained {
    /// No weight.
    Nothing,
    /// An adapter. Where [`ModelSettings::adapter`] names one, its own configuration decides rank,
    /// scale and layers, and only the dropout of this one is used.
    Lora(LoraSettings),
    /// Weights of the model itself, by part.
    Parts(TrainedParts),
}

/// A LoRA adapter (Hu et al. 2021): `y = W x + alpha / r * B A dropout(x)`.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraSettings {
    /// Rank, at least 1.
    pub r: usize,
    /// Numerator of the scale.
    pub alpha: f64,
    /// Probability that an input is dropped in training, in `[0, 1)`.
    pub dropout: f64,
    /// Names of the linear layers of the language model that get an adapter.
    pub target_modules: Vec<String>,
}

/// Parts of a model that are trained without LoRA; at least one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrainedParts {
    /// The language model.
    pub llm: bool,
    /// The vision tower.
    pub vision: bool,
    /// The projector between the two.
    pub projector: bool,
}

/// How completions are drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingSettings {
    /// Take the most probable token; then the numbers below do nothing, except the penalty.
    pub greedy: bool,
    /// Most tokens of a completion, at least 1.
    pub max_completion_length: usize,
    /// Divides the logits; above 0.
    pub temperature: f64,
    /// Probability of the kept nucleus, in `(0, 1]`.
    pub top_p: f64,
    /// Number of kept tokens; 0 is all.
    pub top_k: usize,
    /// Least share of the top token's probability, in `[0, 1]`.
    pub min_p: Option<f64>,
    /// Above 0; 1 does nothing.
    pub repetition_penalty: f64,
    /// Texts that end a completion.
    pub stop: Vec<String>,
    /// Go on after end tokens.
    pub ignore_eos: bool,
    /// Completions decoded at a time, at least 1.
    pub max_num_seqs: usize,
    /// Rows of a pass of the rollout, at least 1.
    pub max_num_batched_tokens: usize,
}

/// Length of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RunLength {
    /// Optimizer steps, at least 1.
    Steps(usize),
    /// Passes over the data, above 0.
    Epochs(f64),
}

impl RunLength {
    /// Optimizer steps of the run when one epoch has `per_epoch`; at least 1.
    pub fn steps(self, per_epoch: usize) -> usize {
        match self {
            RunLength::Steps(n) => n,
            // transformers rounds up: Trainer.set_initial_training_values.
            RunLength::Epochs(e) => ((e * per_epoch as f64).ceil() as usize).max(1),
        }
    }
}

/// Course of the learning rate after warm-up (names of transformers).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheduler {
    /// To 0 in a straight line.
    Linear,
    /// To 0 along half a cosine.
    Cosine,
    /// Stays, without warm-up.
    Constant,
    /// Stays, after warm-up.
    ConstantWithWarmup,
}

/// Length of the warm-up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Warmup {
    /// Optimizer steps.
    Steps(usize),
    /// Share of all steps, in `[0, 1]`.
    Ratio(f64),
}

impl Warmup {
    /// Warm-up steps of a run of `total` steps.
    pub fn steps(self, total: usize) -> usize {
        match self {
            Warmup::Steps(n) => n,
            // transformers rounds up: TrainingArguments.get_warmup_steps.
            Warmup::Ratio(r) => (r * total as f64).ceil() as usize,
        }
    }
}

/// AdamW and the course of its learning rate.
#[derive(Debug, Clone, PartialEq)]
pub struct OptimizerSettings {
    /// Peak learning rate.
    pub learning_rate: f64,
    /// That of the vision tower, if it is another one.
    pub vision_learning_rate: Option<f64>,
    /// That of the connector, if it is another one.
    pub connector_learning_rate: Option<f64>,
    /// Its course.
    pub scheduler: Scheduler,
    /// Its rise from 0.
    pub warmup: Warmup,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Decay of the first moment, in `[0, 1)`.
    pub beta1: f64,
    /// Decay of the second moment, in `[0, 1)`.
    pub beta2: f64,
    /// Added to the denominator; above 0.
    pub epsilon: f64,
    /// Longest gradient; `None` never scales.
    pub max_grad_norm: Option<f64>,
}

/// Batches, length of the run, optimizer.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainingSettings {
    /// Completions (sft: rows) per batch, at least 1.
    pub batch_size: usize,
    /// Batches per optimizer step, at least 1.
    pub gradient_accumulation_steps: usize,
    /// Length of the run.
    pub length: RunLength,
    /// The optimizer.
    pub optimizer: OptimizerSettings,
    /// Most tokens of a packed micro-batch.
    pub micro_batch_tokens: usize,
    /// Which activations are recomputed instead of kept.
    pub recompute: Recompute,
    /// Root of everything random.
    pub seed: u64,
    /// Root of the order of rows.
    pub data_seed: u64,
}

/// Threads and memory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MachineSettings {
    /// What computes.
    pub device: DeviceSpec,
    /// Whose kernels compute the plain matrix products there.
    pub matmul: MatmulImpl,
    /// CPU threads; `None` is all cores.
    pub threads: Option<usize>,
    /// Bytes that may be planned with; `None` leaves it to the program.
    pub memory_budget: Option<u64>,
    /// Bytes of it that keep features of images; `None` leaves it to the program.
    pub vision_cache_size: Option<u64>,
}
