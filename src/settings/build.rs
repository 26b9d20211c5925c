//! From [`Options`] to settings: the checks between options. Every error names the option, where
//! its value came from, and a value that would work. Opens no file.

mod data; // rows
mod grpo; // the algorithm
mod infer; // one chat
mod inspect; // data that is looked at or converted
mod logging; // what is reported, and where
mod measure; // what evaluation makes of answers
mod output; // where a run is written, and its checkpoints
mod plan; // a run that is planned
mod publish; // models that leave
mod rewards; // what completions earn
mod serve; // the chat endpoint
mod validation; // evaluation during training

use std::path::PathBuf;

use data::{data, eval_data};
use grpo::grpo;
use logging::logging;
use output::output;
use rewards::rewards;
use validation::validation;

use super::*;
use crate::base::{Error, Result};
use crate::device::MatmulImpl;
use crate::model::vlm::MAX_SHARD_BYTES;
use crate::options::{Command, Options, Value};

impl TrainSettings {
    /// Checks the options of `train` against each other.
    pub fn from_options(o: &Options) -> Result<Self> {
        assert_eq!(o.command(), Command::Train);
        let training = training(o)?;
        Ok(TrainSettings {
            model: model(o)?,
            data: data(o)?,
            eval_data: eval_data(o)?,
            validation: validation(o)?,
            sampling: sampling(o)?,
            rewards: rewards(o)?,
            grpo: grpo(o, &training)?,
            output: output(o)?,
            logging: logging(o)?,
            hub: publish::hub(o)?,
            machine: machine(o)?,
            training,
        })
    }
}

impl SftSettings {
    /// Checks the options of `sft` against each other.
    pub fn from_options(o: &Options) -> Result<Self> {
        assert_eq!(o.command(), Command::Sft);
        Ok(SftSettings {
            model: model(o)?,
            data: data(o)?,
            training: training(o)?,
            output: output(o)?,
            logging: logging(o)?,
            hub: publish::hub(o)?,
            machine: machine(o)?,
        })
    }
}

impl EvalSettings {
    /// Checks the options of `eval` against each other.
    pub fn from_options(o: &Options) -> Result<Self> {
        assert_eq!(o.command(), Command::Eval);
        Ok(EvalSettings {
            model: model_or_run(o)?,
            data: data(o)?,
            sampling: sampling(o)?,
            rewards: rewards(o)?,
            num_samples: num_samples(o)?,
            batch_size: count(o, "eval_batch_size"),
            out: o.path("out"),
            measures: measure::measures(o)?,
            seed: seed(o),
            quiet: o.flag("quiet"),
            machine: machine(o)?,
        })
    }
}

/// Completions per prompt, for commands that are greedy by default.
fn num_samples(o: &Options) -> Result<usize> {
    let num_samples = count(o, "num_samples");
    if num_samples > 1 && !o.flag("do_sample") {
        return Err(o
            .wrong("num_samples", "several samples of one prompt would all be the same")
            .expected("num_samples 1, or do_sample true")
            .hint("add --do_sample"));
    }
    Ok(num_samples)
}

impl InitSettings {
    /// Checks the options of `init`: without a text there is nothing to train the tokenizer on.
    pub fn from_options(o: &Options) -> Result<Self> {
        assert_eq!(o.command(), Command::Init);
        if o.paths("text_files").is_empty() && o.paths("dataset_name").is_empty() {
            return Err(Error::usage("the new tokenizer has nothing to be trained on")
                .expected("text_files, dataset_name or both")
                .hint("add --dataset_name data/train.jsonl, the data the model is for"));
        }
        check_format(o, "dataset_name")?;
        Ok(InitSettings {
            family: text(o, "family"),
            preset: text(o, "preset"),
            vocab_size: count(o, "vocab_size"),
            text_files: o.paths("text_files"),
            data_files: o.paths("dataset_name"),
            split: o.text("dataset_split").map(str::to_string),
            columns: data::columns(o)?,
            output_dir: path(o, "output_dir"),
            overwrite: o.flag("overwrite_output_dir"),
            seed: seed(o),
            threads: o.count("threads"),
            quiet: o.flag("quiet"),
        })
    }
}

impl MakeShapesSettings {
    /// Takes over the options of `data make-shapes`.
    pub fn from_options(o: &Options) -> Result<Self> {
        assert_eq!(o.command(), Command::MakeShapes);
        Ok(MakeShapesSettings {
            output_dir: path(o, "output_dir"),
            overwrite: o.flag("overwrite_output_dir"),
            num_rows: count(o, "num_rows"),
            image_size: count(o, "image_size"),
            seed: seed(o),
            quiet: o.flag("quiet"),
        })
    }
}

impl TraceSettings {
    /// Checks the options of `trace` against each other.
    pub fn from_options(o: &Options) -> Result<Self> {
        assert_eq!(o.command(), Command::Trace);
        Ok(TraceSettings {
            model: model(o)?,
            messages: path(o, "messages"),
            grad: o.flag("grad"),
            out: path(o, "out"),
            threads: o.count("threads"),
            quiet: o.flag("quiet"),
        })
    }
}

impl DemoSettings {
    /// Takes over the options of `demo`.
    pub fn from_options(o: &Options) -> Result<Self> {
        assert_eq!(o.command(), Command::Demo);
        Ok(DemoSettings {
            output_dir: path(o, "output_dir"),
            overwrite: o.flag("overwrite_output_dir"),
            seed: seed(o),
            threads: o.count("threads"),
            quiet: o.flag("quiet"),
        })
    }
}

/// A count that has a default or is required, so that parsing has seen to it.
fn count(o: &Options, name: &str) -> usize {
    o.count(name).unwrap_or_else(|| panic!("`{name}` has neither a default nor a value"))
}
fn float(o: &Options, name: &str) -> f64 {
    o.float(name).unwrap_or_else(|| panic!("`{name}` has neither a default nor a value"))
}
fn text(o: &Options, name: &str) -> String {
    o.text(name).unwrap_or_else(|| panic!("`{name}` has neither a default nor a value")).to_string()
}
fn path(o: &Options, name: &str) -> PathBuf {
    PathBuf::from(text(o, name))
}
fn seed(o: &Options) -> u64 {
    count(o, "seed") as u64
}

/// What the order of rows and drawn shares of them follow from.
fn data_seed(o: &Options) -> u64 {
    o.count("data_seed").map_or(seed(o), |n| n as u64)
}

/// Refuses options that were changed but would do nothing, because `why`.
fn useless(o: &Options, names: &[&str], why: &str, hint: &str) -> Result<()> {
    match names.iter().find(|n| o.changed(n)) {
        Some(name) => Err(o.wrong(name, format!("`{name}` would do nothing: {why}")).hint(hint)),
        None => Ok(()),
    }
}

/// Refuses 0 for numbers that must be above it.
fn above_zero(o: &Options, name: &str) -> Result<f64> {
    let value = float(o, name);
    if value > 0.0 {
        return Ok(value);
    }
    Err(o.wrong(name, format!("wrong value for `{name}`")).expected("a number above 0"))
}

/// Refuses 1 for numbers that must be below it.
fn below_one(o: &Options, name: &str) -> Result<f64> {
    let value = float(o, name);
    if value < 1.0 {
        return Ok(value);
    }
    Err(o.wrong(name, format!("wrong value for `{name}`")).expected("a number from 0 to below 1"))
}

/// The model that is named, or one that a run will name: then its path is empty.
fn model_or_run(o: &Options) -> Result<ModelSettings> {
    match (o.path("model_name_or_path"), o.text("run_id")) {
        (Some(_), None) | (None, Some(_)) => model(o),
        (Some(_), Some(_)) => Err(o
            .wrong("run_id", "`run_id` and `model_name_or_path` both name a model")
            .hint("give one of the two; the run knows the model that it began with")),
        (None, None) => Err(Error::usage(format!("`{}` needs a model", o.command().name()))
            .expected("model_name_or_path, or run_id of a run")
            .hint("add --model_name_or_path DIR, or --run_id NAME; grpo-rt runs list shows runs")),
    }
}

fn model(o: &Options) -> Result<ModelSettings> {
    let (min, max) = (o.count("min_pixels"), o.count("max_pixels"));
    if let (Some(low), Some(high)) = (min, max)
        && low > high
    {
        return Err(o
            .wrong("min_pixels", "`min_pixels` is above `max_pixels`")
            .expected(format!("at most {high}")));
    }
    let trains = matches!(o.command(), Command::Train | Command::Sft);
    Ok(ModelSettings {
        path: o.path("model_name_or_path").unwrap_or_default(),
        dtype: match o.text("dtype") {
            Some("bfloat16") => DType::BF16,
            _ => DType::F32,
        },
        adapter: o.path("adapter"),
        trained: if trains { trained(o)? } else { Trained::Nothing },
        processor: ProcessorOptions {
            min_pixels: min.map(|n| n as u64),
            max_pixels: max.map(|n| n as u64),
            max_tiles: o.count("max_anyres_num"),
            backend: None,
        },
        video: VideoSettings::from_options(o)?,
        max_shard_bytes: o.count("max_shard_size").unwrap_or(MAX_SHARD_BYTES),
    })
}

/// What a run trains: an adapter, or parts of the model.
fn trained(o: &Options) -> Result<Trained> {
    const LORA: [&str; 4] = ["lora_r", "lora_alpha", "lora_dropout", "lora_target_modules"];
    const PARTS: [&str; 3] = ["tune_mm_llm", "tune_mm_vision", "tune_mm_mlp"];
    if !o.flag("use_peft") && o.path("adapter").is_none() {
        useless(o, &LORA, "no adapter is trained", "add --use_peft, or leave the option out")?;
        return trained_parts(o).map(Trained::Parts);
    }
    useless(o, &PARTS, "a LoRA run trains the adapter only", "leave it or use_peft out")?;
    if o.choice_of_bool("freeze_vision_modules") == Some(false) {
        return Err(o
            .wrong("freeze_vision_modules", "a LoRA run cannot train the vision modules")
            .expected("freeze_vision_modules true, or a run without use_peft"));
    }
    if o.path("adapter").is_some() {
        let own = ["lora_r", "lora_alpha", "lora_target_modules"];
        let hint = "leave the option out, or start without the adapter";
        useless(o, &own, "the adapter's own adapter_config.json decides", hint)?;
    }
    Ok(Trained::Lora(LoraSettings {
        r: count(o, "lora_r"),
        alpha: above_zero(o, "lora_alpha")?,
        dropout: below_one(o, "lora_dropout")?,
        target_modules: o.texts("lora_target_modules"),
    }))
}

fn trained_parts(o: &Options) -> Result<TrainedParts> {
    let frozen = o.choice_of_bool("freeze_vision_modules");
    for name in ["tune_mm_vision", "tune_mm_mlp"] {
        let contrary = frozen == Some(true) && o.flag(name)
            || frozen == Some(false) && o.changed(name) && !o.flag(name);
        if contrary {
            return Err(o
                .wrong(name, format!("`{name}` and `freeze_vision_modules` contradict each other"))
                .hint("give one of the two"));
        }
    }
    let thawed = frozen == Some(false);
    let parts = TrainedParts {
        llm: o.flag("tune_mm_llm"),
        vision: o.flag("tune_mm_vision") || thawed,
        projector: o.flag("tune_mm_mlp") || thawed,
    };
    if !(parts.llm || parts.vision || parts.projector) {
        return Err(o
            .wrong("tune_mm_llm", "nothing is left to train")
            .expected("use_peft, or one of tune_mm_llm, tune_mm_vision, tune_mm_mlp"));
    }
    Ok(parts)
}

/// Tables are refused by name: read as text, every row of them would be a bad one.
fn check_format(o: &Options, name: &str) -> Result<()> {
    const TABLES: [&str; 3] = ["csv", "tsv", "gz"];
    let is_table = |p: &PathBuf| p.extension().is_some_and(|e| TABLES.iter().any(|t| e == *t));
    match o.paths(name).iter().find(|p| is_table(p)) {
        None => Ok(()),
        Some(path) => Err(o
            .wrong(name, "data files of this format are not read")
            .expected("JSON Lines, JSON, Parquet, Arrow, or a folder of `save_to_disk`")
            .found(path.display().to_string())
            .hint("convert it; docs/data.md has the few lines of Python")),
    }
}

fn sampling(o: &Options) -> Result<SamplingSettings> {
    let greedy = o.command() != Command::Train && !o.flag("do_sample");
    if greedy {
        let names = ["temperature", "top_p", "top_k", "min_p"];
        useless(o, &names, "greedy decoding does not sample", "add --do_sample")?;
    }
    let hint = "use --do_sample false for greedy decoding in eval and infer";
    Ok(SamplingSettings {
        greedy,
        max_completion_length: count(o, "max_completion_length"),
        temperature: above_zero(o, "temperature").map_err(|e| e.hint(hint))?,
        top_p: above_zero(o, "top_p")?,
        top_k: count(o, "top_k"),
        min_p: o.float("min_p"),
        repetition_penalty: above_zero(o, "repetition_penalty")?,
        stop: stop_texts(o)?,
        ignore_eos: o.flag("ignore_eos"),
        max_num_seqs: count(o, "max_num_seqs"),
        max_num_batched_tokens: count(o, "max_num_batched_tokens"),
    })
}

fn stop_texts(o: &Options) -> Result<Vec<String>> {
    let stop = o.texts("stop");
    if stop.iter().any(String::is_empty) {
        return Err(o.wrong("stop", "an empty stop text would end every completion at once"));
    }
    Ok(stop)
}

fn training(o: &Options) -> Result<TrainingSettings> {
    let length = match o.int("max_steps") {
        Some(-1) => RunLength::Epochs(
            above_zero(o, "num_train_epochs").map_err(|e| e.hint("or max_steps"))?,
        ),
        Some(0) => {
            return Err(o.wrong("max_steps", "a run of no steps").expected("-1, or at least 1"));
        }
        // As in transformers, max_steps wins over num_train_epochs; the help says so.
        _ => RunLength::Steps(count(o, "max_steps")),
    };
    Ok(TrainingSettings {
        batch_size: batch_size(o)?,
        gradient_accumulation_steps: count(o, "gradient_accumulation_steps"),
        length,
        optimizer: optimizer(o)?,
        micro_batch_tokens: count(o, "micro_batch_tokens"),
        recompute: match o.get("gradient_checkpointing") {
            Value::Bool(true) => Recompute::Always,
            Value::Bool(false) => Recompute::Never,
            _ => Recompute::Auto,
        },
        data_seed: data_seed(o),
        seed: seed(o),
    })
}

/// Completions (sft: rows) per batch.
fn batch_size(o: &Options) -> Result<usize> {
    let batch = count(o, "per_device_train_batch_size");
    match o.text("batch_unit") {
        Some("prompts") => batch.checked_mul(count(o, "num_generations")).ok_or_else(|| {
            o.wrong("per_device_train_batch_size", "the batch is too large to count")
        }),
        _ => Ok(batch),
    }
}

fn optimizer(o: &Options) -> Result<OptimizerSettings> {
    let scheduler = match o.text("lr_scheduler_type") {
        Some("cosine") => Scheduler::Cosine,
        Some("constant") => Scheduler::Constant,
        Some("constant_with_warmup") => Scheduler::ConstantWithWarmup,
        _ => Scheduler::Linear,
    };
    if scheduler == Scheduler::Constant {
        let hint = "use --lr_scheduler_type constant_with_warmup";
        useless(o, &["warmup_steps", "warmup_ratio"], "a constant rate has no warm-up", hint)?;
    }
    let (steps, ratio) = (count(o, "warmup_steps"), float(o, "warmup_ratio"));
    if steps > 0 && ratio > 0.0 {
        return Err(o
            .wrong("warmup_ratio", "`warmup_steps` and `warmup_ratio` are both given")
            .hint("give one of the two"));
    }
    let norm = float(o, "max_grad_norm");
    Ok(OptimizerSettings {
        learning_rate: float(o, "learning_rate"),
        vision_learning_rate: o.float("vision_learning_rate"),
        connector_learning_rate: o.float("connector_learning_rate"),
        scheduler,
        warmup: if ratio > 0.0 { Warmup::Ratio(ratio) } else { Warmup::Steps(steps) },
        weight_decay: float(o, "weight_decay"),
        beta1: below_one(o, "adam_beta1")?,
        beta2: below_one(o, "adam_beta2")?,
        epsilon: above_zero(o, "adam_epsilon")?,
        max_grad_norm: (norm > 0.0).then_some(norm),
    })
}

/// The folder of a run.
fn run_dir(o: &Options) -> PathBuf {
    let dir = path(o, "output_dir");
    o.text("run_id").map_or(dir.clone(), |id| dir.join(id))
}

fn machine(o: &Options) -> Result<MachineSettings> {
    Ok(MachineSettings {
        device: o.text("device").unwrap_or("cpu").parse().map_err(|e: Error| e.key("device"))?,
        matmul: MatmulImpl::named(o.text("matmul")),
        threads: o.count("threads"),
        memory_budget: o.count("memory_budget").map(|b| b as u64),
        vision_cache_size: o.count("vision_cache_size").map(|b| b as u64),
    })
}
