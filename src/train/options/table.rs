//! The option table: the one list from which flags, configuration keys, environment variables,
//! `--help`, the documentation and the spelling suggestions are made. Holds data, no logic. An
//! option stands here only when the program acts on it.

use super::Command::{
    self, ConvertVivqaX, Demo, Doctor, Eval, Infer, Init, Inspect, MakeShapes, Ops, Plan, Sft,
    Trace, Train,
};
use super::Kind::{
    self, Bool, BoolOrAuto, BoolOrPath, Bytes, Choice, Float, Int, List, Path, Text, Word,
};

/// One option: everything the program says about it.
#[derive(Debug, Clone, Copy)]
pub struct Opt {
    /// The name, in snake case: that of TRL, transformers, PEFT or VLM-R1 where they have one.
    pub name: &'static str,
    /// Other names that are accepted everywhere the name is.
    pub aliases: &'static [&'static str],
    /// What a value may be.
    pub kind: Kind,
    /// The default, as it would be typed; empty for an option that starts unset.
    pub default: &'static str,
    /// Defaults of single commands that differ from `default`.
    pub default_of: &'static [(Command, &'static str)],
    /// What it does, in one line.
    pub help: &'static str,
    /// The heading it is listed under.
    pub group: &'static str,
    /// The commands that take it.
    pub commands: &'static [Command],
    /// The commands that do not run without it.
    pub required: &'static [Command],
    /// One of the twenty that matter first: shown by a plain `--help`.
    pub first: bool,
}

impl Opt {
    /// The default for `command`, as it would be typed; empty if it starts unset.
    pub fn default_for(&self, command: Command) -> &'static str {
        self.default_of.iter().find(|(c, _)| *c == command).map_or(self.default, |(_, d)| d)
    }
    /// Whether `command` takes the option.
    pub fn accepted_by(&self, command: Command) -> bool {
        self.commands.contains(&command)
    }
}

/// An option of a group and its commands, to be filled in.
const fn of(group: &'static str, commands: &'static [Command]) -> Opt {
    Opt {
        name: "",
        aliases: &[],
        kind: Bool,
        default: "",
        default_of: &[],
        help: "",
        group,
        commands,
        required: &[],
        first: false,
    }
}

/// Names of the model families, in the order of `model::families::FAMILIES`.
pub const FAMILY_NAMES: &[&str] = &[
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "qwen3_vl_moe",
    "internvl_chat",
    "internvl",
    "glm4v",
    "glm4v_9b",
];

/// Policy losses, in the order of docs/losses.md.
const LOSS_TYPES: &[&str] = &[
    "dapo",
    "grpo",
    "bnpo",
    "dr_grpo",
    "cispo",
    "sapo",
    "vespo",
    "luspo",
    "gmpo",
    "reward_weighted",
];

/// Names of the tasks, in the order of `train::tasks::TASKS`.
pub const TASK_NAMES: [&str; 5] = ["vqa", "rec", "vqa_nle", "video_actions", "math"];

const MODEL: &str = "Model";
const DATA: &str = "Data";
const GENERATION: &str = "Generation";
const GRPO: &str = "GRPO";
const REWARDS: &str = "Rewards";
const TRAINING: &str = "Training";
const OUTPUT: &str = "Output and checkpoints";
const LOGGING: &str = "Logging";
const MACHINE: &str = "Machine";
const EVALUATION: &str = "Evaluation";
const MAKING: &str = "New models and data";
const PLANNING: &str = "Plan";
const CHAT: &str = "One chat";
const TRACING: &str = "Trace";

const TRAINS: &[Command] = &[Train, Sft];
/// What decides the memory of a run.
const TUNES: &[Command] = &[Train, Sft, Plan];
const GROUPED: &[Command] = &[Train, Plan];
const MODELS: &[Command] = &[Train, Sft, Eval, Infer, Plan, Trace];
/// Commands that turn images into tokens.
const PROCESSES: &[Command] = &[Train, Sft, Eval, Infer, Plan, Trace, Inspect];
const READS: &[Command] = &[Train, Sft, Eval, Inspect];
const FOLDERS: &[Command] = &[Train, Sft, Eval, Inspect, ConvertVivqaX];
/// Commands that make prompts.
const PROMPTS: &[Command] = &[Train, Sft, Eval, Infer, Inspect];
const SYSTEMS: &[Command] = &[Train, Sft, Eval, Infer, Inspect, ConvertVivqaX];
const SAMPLES: &[Command] = &[Train, Eval, Infer];
const DECODES: &[Command] = &[Train, Eval, Infer, Plan];
const SCORES: &[Command] = &[Train, Eval];
const WRITES: &[Command] = &[Demo, Train, Sft, Init, MakeShapes, ConvertVivqaX];
const FILES: &[Command] = &[Demo, Train, Sft, Eval, Init, MakeShapes, ConvertVivqaX, Trace];
const CONFIGURED: &[Command] =
    &[Demo, Train, Sft, Eval, Infer, Plan, Init, MakeShapes, Inspect, ConvertVivqaX, Trace];
const BUDGETED: &[Command] = &[Train, Sft, Eval, Infer, Plan];
/// Commands that compute on a device of the user's choice, or plan for one.
const PLACED: &[Command] = &[Train, Sft, Eval, Infer, Plan, Ops];
const COMPUTES: &[Command] = &[Demo, Train, Sft, Eval, Infer, Init, Inspect, Trace, Doctor];

/// Any number.
const SIGNED: Kind = Float { min: f64::MIN, max: f64::MAX };
const RATIO: Kind = Float { min: 0.0, max: 1.0 };
const POSITIVE: Kind = Float { min: 0.0, max: f64::MAX };
const COUNT: Kind = Int { min: 1 };
const NATURAL: Kind = Int { min: 0 };

/// Headings in the order of the help and the documentation.
pub const GROUPS: &[&str] = &[
    MODEL, DATA, GENERATION, GRPO, REWARDS, TRAINING, OUTPUT, LOGGING, EVALUATION, PLANNING,
    MAKING, CHAT, TRACING, MACHINE,
];

/// Every option of the program. Defaults are those of TRL 1.16 (GRPOConfig, SFTConfig,
/// ModelConfig) unless the help says otherwise.
#[rustfmt::skip] // one option is one paragraph; a field per line would triple the file
pub static OPTIONS: &[Opt] = &[
    // --- model -----------------------------------------------------------------------------
    Opt { name: "model_name_or_path", aliases: &["model_name", "model"], kind: Path, first: true, required: MODELS,
        help: "Folder of the model: config.json, safetensors, tokenizer and processor files. Nothing is downloaded.",
        ..of(MODEL, PROCESSES) },
    Opt { name: "dtype", aliases: &["torch_dtype"], kind: Choice(&["float32", "bfloat16"]), default: "float32",
        help: "Type of weights and activations; sums and statistics are float32, trained weights keep a float32 master.",
        ..of(MODEL, MODELS) },
    Opt { name: "use_peft", kind: Bool, default: "false", first: true,
        help: "Train a LoRA adapter and leave the weights of the model as they are.", ..of(MODEL, TUNES) },
    Opt { name: "lora_r", aliases: &["lora_rank"], kind: COUNT, default: "16", first: true,
        help: "Rank of the LoRA matrices.", ..of(MODEL, TUNES) },
    Opt { name: "lora_alpha", kind: POSITIVE, default: "32",
        help: "LoRA products are scaled by lora_alpha / lora_r.", ..of(MODEL, TRAINS) },
    Opt { name: "lora_dropout", kind: RATIO, default: "0.05",
        help: "Probability that an input of a LoRA matrix is dropped in training (never in generation).",
        ..of(MODEL, TUNES) },
    Opt { name: "lora_target_modules", aliases: &["target_modules"], kind: List(&Word),
        default: "language",
        help: "Linear layers with an adapter: names as in PEFT, or language, language-attention, vision, connector.",
        ..of(MODEL, TUNES) },
    Opt { name: "print_trainable", kind: Bool, default: "false",
        help: "Say what is trained, part by part, before the first step.", ..of(MODEL, TRAINS) },
    Opt { name: "adapter", aliases: &["adapter_name_or_path", "adapter_path"], kind: Path,
        help: "Folder of a PEFT LoRA adapter to start from; training goes on with it (implies use_peft).",
        ..of(MODEL, MODELS) },
    Opt { name: "freeze_vision_modules", kind: Bool,
        help: "true keeps the vision tower and its projector as they are, false trains both (default: see tune_mm_*).",
        ..of(MODEL, TUNES) },
    Opt { name: "tune_mm_llm", kind: Bool, default: "true",
        help: "Without LoRA: train the language model.", ..of(MODEL, TUNES) },
    Opt { name: "tune_mm_vision", kind: Bool, default: "false",
        help: "Without LoRA: train the vision tower.", ..of(MODEL, TUNES) },
    Opt { name: "tune_mm_mlp", kind: Bool, default: "false",
        help: "Without LoRA: train the projector between vision tower and language model.", ..of(MODEL, TUNES) },

    // --- data ------------------------------------------------------------------------------
    Opt { name: "dataset_name", aliases: &["data_file_paths", "dataset"], kind: List(&Path), first: true, required: READS,
        help: "Data files (JSON Lines, JSON, Parquet, Arrow) or folders; several are joined. `a.jsonl:b.jsonl` is accepted too.",
        ..of(DATA, &[Train, Sft, Eval, Init, Inspect]) },
    Opt { name: "dataset_split", aliases: &["dataset_train_split", "split"], kind: Word,
        help: "Split of a folder that has several (default: train; in eval: validation, then test).",
        ..of(DATA, &[Train, Sft, Eval, Init, Inspect]) },
    Opt { name: "use_huggingface_dataset", kind: Bool, default: "false",
        help: "Insist that dataset_name is a folder of `save_to_disk` (the format is seen from the files anyway).",
        ..of(DATA, READS) },
    Opt { name: "column", aliases: &["columns"], kind: List(&Text),
        help: "Names of columns where they are others than ours: `image=decoded_image`.", ..of(DATA, &[Train, Sft, Eval, Init, Inspect]) },
    Opt { name: "filter", kind: List(&Text),
        help: "Rows that are taken: `source=chartqa`, `year>=2001`; several conditions must all hold.", ..of(DATA, READS) },
    Opt { name: "task_type", kind: Choice(&TASK_NAMES), first: true,
        help: "Prompts, form of answers and rewards of a task, where no option of their own says otherwise.",
        ..of(DATA, READS) },
    Opt { name: "image_folders", aliases: &["image_folder", "image_root"], kind: List(&Path), first: true,
        help: "Folders that paths of images and videos start from: one for all, or one per data file (default: beside the file).",
        ..of(DATA, FOLDERS) },
    Opt { name: "eval_dataset", kind: List(&Path),
        help: "Data files or folders on which rewards are measured greedily after the last step.",
        ..of(DATA, &[Train]) },
    Opt { name: "eval_split", aliases: &["dataset_test_split"], kind: Word,
        help: "Split of eval_dataset (default: validation, then test).", ..of(DATA, &[Train]) },
    Opt { name: "val_split_ratio", kind: RATIO, default: "0.0",
        help: "Share of the rows, drawn by the seed, that is measured after the last step and not trained on.",
        ..of(DATA, &[Train]) },
    Opt { name: "question_template", kind: Text,
        help: "Text or file around every question, with `{question}` and perhaps `{choices}` in it (default: that of task_type).",
        ..of(DATA, READS) },
    Opt { name: "system_prompt", kind: Text,
        help: "System message (or its file) put before every prompt (default: that of task_type, else what the chat template does).", ..of(DATA, SYSTEMS) },
    Opt { name: "strict_data", kind: Bool, default: "false",
        help: "Stop at the first bad row; otherwise bad rows are skipped, counted and named.", ..of(DATA, FOLDERS) },
    Opt { name: "max_rows", kind: COUNT,
        help: "Use only the first rows of the data.", ..of(DATA, READS) },
    Opt { name: "shuffle_dataset", kind: Bool, default: "true",
        help: "Draw the rows in an order that the seed decides, new in every epoch.", ..of(DATA, TRAINS) },
    Opt { name: "min_pixels", kind: COUNT,
        help: "Images of fewer pixels are enlarged (default: the model's preprocessor_config.json).", ..of(DATA, PROCESSES) },
    Opt { name: "max_pixels", kind: COUNT,
        help: "Images of more pixels are reduced (default: the model's preprocessor_config.json).", ..of(DATA, PROCESSES) },
    Opt { name: "max_anyres_num", kind: COUNT,
        help: "InternVL: most tiles of an image, beside that of the whole (default: the model's own).", ..of(DATA, PROCESSES) },
    Opt { name: "video_fps", kind: POSITIVE,
        help: "Frames taken per second of a video (default: the model's video processor; a row's own comes first).",
        ..of(DATA, PROMPTS) },
    Opt { name: "num_frames", aliases: &["nframes", "num_segments"], kind: COUNT,
        help: "Frames taken of every video, instead of a rate (default: the model's video processor).", ..of(DATA, PROMPTS) },
    Opt { name: "min_frames", aliases: &["video_min_frames"], kind: COUNT,
        help: "Least frames taken of a video (default: the model's video processor).", ..of(DATA, PROMPTS) },
    Opt { name: "max_frames", aliases: &["video_max_frames"], kind: COUNT,
        help: "Most frames taken of a video (default: the model's video processor).", ..of(DATA, PROMPTS) },
    Opt { name: "dynamic_sample", kind: Bool,
        help: "Frames follow a clip's length within the limits; false: max_frames always (default: the row's `meta`).",
        ..of(DATA, PROMPTS) },
    Opt { name: "video_min_pixels", aliases: &["video_min_frame_pixels"], kind: COUNT,
        help: "Frames of fewer pixels are enlarged (default: the model's video processor).", ..of(DATA, PROMPTS) },
    Opt { name: "video_max_pixels", aliases: &["video_max_frame_pixels"], kind: COUNT,
        help: "Frames of more pixels are reduced (default: the model's video processor).", ..of(DATA, PROMPTS) },
    Opt { name: "max_prompt_length", kind: COUNT,
        help: "A longer prompt is a bad row; prompts are never cut (default: no limit).", ..of(DATA, &[Train, Sft, Eval, Plan, Inspect]) },

    // --- generation ------------------------------------------------------------------------
    Opt { name: "num_generations", aliases: &["grpo_sample_size"], kind: Int { min: 2 }, default: "8", first: true,
        help: "Completions per prompt: the size G of a group.", ..of(GENERATION, GROUPED) },
    Opt { name: "max_completion_length", aliases: &["max_new_tokens"], kind: COUNT, default: "512", first: true,
        help: "Tokens after which a completion is cut.", ..of(GENERATION, &[Train, Eval, Infer, Plan, Inspect]) },
    Opt { name: "temperature", kind: POSITIVE, default: "1.0",
        help: "Divides the logits before sampling.", ..of(GENERATION, SAMPLES) },
    Opt { name: "top_p", kind: RATIO, default: "1.0",
        help: "Sample from the most probable tokens that together reach this probability.", ..of(GENERATION, DECODES) },
    Opt { name: "top_k", kind: NATURAL, default: "0",
        help: "Sample from this many most probable tokens (0: all).", ..of(GENERATION, DECODES) },
    Opt { name: "min_p", kind: RATIO,
        help: "Sample only tokens with at least this share of the top token's probability.", ..of(GENERATION, DECODES) },
    Opt { name: "repetition_penalty", kind: POSITIVE, default: "1.0",
        help: "Above 1 makes tokens that already occurred less likely.", ..of(GENERATION, DECODES) },
    Opt { name: "stop", kind: List(&Text),
        help: "Texts that end a completion, beside the model's end tokens.", ..of(GENERATION, SAMPLES) },
    Opt { name: "ignore_eos", kind: Bool, default: "false",
        help: "Go on after end tokens, to the full length; for measurements of speed.", ..of(GENERATION, SAMPLES) },

    Opt { name: "max_num_seqs", aliases: &["vllm_max_num_seqs"], kind: COUNT, default: "256",
        help: "Completions decoded at a time; when one ends, the next takes its place. Decides memory and speed only.",
        ..of(GENERATION, DECODES) },
    Opt { name: "max_num_batched_tokens", kind: COUNT, default: "2048",
        help: "Tokens of a pass of the rollout; longer prompts go in pieces. Decides memory and speed only.",
        ..of(GENERATION, DECODES) },

    // --- grpo ------------------------------------------------------------------------------
    Opt { name: "loss_type", kind: Choice(LOSS_TYPES), default: "dapo",
        help: "The policy loss and how it is averaged; docs/losses.md has formulas and papers.", ..of(GRPO, GROUPED) },
    Opt { name: "importance_sampling_level", kind: Choice(&["token", "sequence", "sequence_token"]),
        help: "Over what the probability ratio is taken (default: token; luspo: sequence, GSPO's).", ..of(GRPO, GROUPED) },
    Opt { name: "epsilon", aliases: &["epsilon_low"], kind: POSITIVE,
        help: "Lower clip range of the ratio, and upper where epsilon_high is unset (default: 0.2; gmpo: 0.4).", ..of(GRPO, &[Train]) },
    Opt { name: "epsilon_high", kind: POSITIVE,
        help: "Upper clip range of the ratio (default: epsilon; DAPO has 0.28; the cap of absolute cispo: 5.0).", ..of(GRPO, &[Train]) },
    Opt { name: "delta", kind: POSITIVE,
        help: "Cap of the ratio before clipping, whatever the sign of the advantage (default: none).", ..of(GRPO, &[Train]) },
    Opt { name: "dual_clip_ratio", aliases: &["clip_ratio_c"], kind: POSITIVE,
        help: "Cap of the ratio where the advantage is negative, above 1 + epsilon_high (default: none; verl has 3).", ..of(GRPO, &[Train]) },
    Opt { name: "cispo_clip", kind: Choice(&["absolute", "relative"]), default: "absolute",
        help: "Weights of cispo: absolute, at most epsilon_high (TRL); relative, 1 - epsilon to 1 + epsilon_high.", ..of(GRPO, &[Train]) },
    Opt { name: "sapo_temperature_pos", kind: POSITIVE, default: "1.0",
        help: "Temperature of sapo where the advantage is positive.", ..of(GRPO, &[Train]) },
    Opt { name: "sapo_temperature_neg", kind: POSITIVE, default: "1.05",
        help: "Temperature of sapo where the advantage is not positive.", ..of(GRPO, &[Train]) },
    Opt { name: "vespo_k_pos", kind: POSITIVE, default: "2.0",
        help: "Power of vespo's weight where the advantage is not negative.", ..of(GRPO, &[Train]) },
    Opt { name: "vespo_lambda_pos", kind: POSITIVE, default: "3.0",
        help: "Decay of vespo's weight where the advantage is not negative.", ..of(GRPO, &[Train]) },
    Opt { name: "vespo_k_neg", kind: POSITIVE, default: "3.0",
        help: "Power of vespo's weight where the advantage is negative.", ..of(GRPO, &[Train]) },
    Opt { name: "vespo_lambda_neg", kind: POSITIVE, default: "2.0",
        help: "Decay of vespo's weight where the advantage is negative.", ..of(GRPO, &[Train]) },
    Opt { name: "grpo_alpha", kind: POSITIVE, default: "0.5",
        help: "What reward_weighted multiplies advantages with.", ..of(GRPO, &[Train]) },
    Opt { name: "beta", aliases: &["grpo_beta"], kind: POSITIVE, default: "0.0", first: true,
        help: "Weight of the KL divergence to the reference model (0: no reference pass).", ..of(GRPO, GROUPED) },
    Opt { name: "use_bias_correction_kl", kind: Bool, default: "true",
        help: "Multiply the KL term by the probability ratio, so that its gradient stays unbiased off policy.", ..of(GRPO, &[Train]) },
    Opt { name: "kl_estimator", aliases: &["kl_penalty"], kind: Choice(&["k1", "k2", "k3"]),
        help: "Estimate of the KL by the sampled token (default: k3 in the loss, k1 in the reward).", ..of(GRPO, &[Train]) },
    Opt { name: "kl_in", kind: Choice(&["loss", "reward"]), default: "loss",
        help: "Whether the KL is a term of the loss or is taken off each completion's reward.", ..of(GRPO, GROUPED) },
    Opt { name: "kl_target", kind: POSITIVE,
        help: "Let beta follow the KL, so that it comes to this (default: beta stays).", ..of(GRPO, &[Train]) },
    Opt { name: "kl_horizon", kind: POSITIVE, default: "10000",
        help: "Completions over which kl_target changes beta by as much as the KL is off, 20 % at most.", ..of(GRPO, &[Train]) },
    Opt { name: "scale_rewards", kind: Choice(&["group", "batch", "none"]),
        help: "Whose standard deviation divides advantages (default: group; reward_weighted: none).", ..of(GRPO, &[Train]) },
    Opt { name: "advantage_estimator", kind: Choice(&["grpo", "rloo", "reinforce_plus_plus", "reinforce_plus_plus_baseline", "pass_k"]), default: "grpo",
        help: "What a completion's reward is compared with.", ..of(GRPO, &[Train]) },
    Opt { name: "multi_objective_aggregation", kind: Choice(&["sum_then_normalize", "normalize_then_sum"]), default: "sum_then_normalize",
        help: "Normalize the sum of the rewards, or each reward before they are summed (GDPO).", ..of(GRPO, &[Train]) },
    Opt { name: "entropy_coef", kind: POSITIVE, default: "0.0",
        help: "Reward of the mean entropy of the tokens, in the loss.", ..of(GRPO, GROUPED) },
    Opt { name: "use_adaptive_entropy", kind: Bool, default: "false",
        help: "Change entropy_coef after every update, and apply it only while entropy is below entropy_target.", ..of(GRPO, GROUPED) },
    Opt { name: "entropy_coef_min", kind: POSITIVE, default: "0.0",
        help: "Least entropy_coef of the adaptive one.", ..of(GRPO, &[Train]) },
    Opt { name: "entropy_coef_max", kind: POSITIVE, default: "1.0",
        help: "Largest entropy_coef of the adaptive one.", ..of(GRPO, &[Train]) },
    Opt { name: "entropy_coef_delta", kind: POSITIVE, default: "0.005",
        help: "Change of the adaptive entropy_coef after an update.", ..of(GRPO, &[Train]) },
    Opt { name: "entropy_target", kind: POSITIVE, default: "0.2",
        help: "Entropy below which the adaptive entropy_coef is applied and grows.", ..of(GRPO, &[Train]) },
    Opt { name: "top_entropy_quantile", kind: RATIO, default: "1.0",
        help: "Share of tokens, those of the highest entropy, whose policy terms count.", ..of(GRPO, GROUPED) },
    Opt { name: "dynamic_sampling", kind: Bool, default: "false",
        help: "Replace groups whose rewards are all equal by those of further prompts.", ..of(GRPO, &[Train]) },
    Opt { name: "dynamic_sampling_max_batches", kind: COUNT, default: "3",
        help: "Generation batches that dynamic_sampling may draw for one; then it takes what there is.", ..of(GRPO, &[Train]) },
    Opt { name: "drop_dead_groups", kind: Bool, default: "false",
        help: "Leave groups whose rewards are all equal out of the loss, its KL and its denominators.", ..of(GRPO, &[Train]) },
    Opt { name: "sync_ref_model", kind: Bool, default: "false",
        help: "Let the reference of the KL follow the policy.", ..of(GRPO, GROUPED) },
    Opt { name: "ref_model_mixup_alpha", kind: RATIO, default: "0.6",
        help: "Share of the policy in the reference when it is moved.", ..of(GRPO, &[Train]) },
    Opt { name: "ref_model_sync_steps", kind: COUNT, default: "512",
        help: "Steps between moves of the reference.", ..of(GRPO, &[Train]) },
    Opt { name: "off_policy_mask_threshold", aliases: &["off_policy_sequence_mask_delta"], kind: POSITIVE,
        help: "Drop bad completions whose log-probability fell by more than this per token (default: never).", ..of(GRPO, GROUPED) },
    Opt { name: "vllm_importance_sampling_correction", aliases: &["rollout_importance_sampling_correction"], kind: Bool, default: "false",
        help: "Weigh samples by the ratio of the training pass to the rollout, which here differ only by dropout.", ..of(GRPO, GROUPED) },
    Opt { name: "vllm_importance_sampling_mode", aliases: &["rollout_importance_sampling_mode"],
        kind: Choice(&["sequence_mask", "sequence_truncate", "token_mask", "token_truncate"]), default: "sequence_mask",
        help: "Over what that ratio is taken, and whether one out of range is dropped or cut.", ..of(GRPO, GROUPED) },
    Opt { name: "vllm_importance_sampling_clip_max", aliases: &["rollout_importance_sampling_clip_max"], kind: POSITIVE, default: "3.0",
        help: "Largest such ratio.", ..of(GRPO, &[Train]) },
    Opt { name: "vllm_importance_sampling_clip_min", aliases: &["rollout_importance_sampling_clip_min"], kind: POSITIVE,
        help: "Least such ratio (default: none).", ..of(GRPO, &[Train]) },
    Opt { name: "num_iterations", kind: COUNT, default: "1",
        help: "Optimizer passes over every generation batch (mu in the GRPO paper).", ..of(GRPO, GROUPED) },
    Opt { name: "steps_per_generation", kind: COUNT,
        help: "Batches per generation (default: gradient_accumulation_steps).", ..of(GRPO, GROUPED) },
    Opt { name: "mask_truncated_completions", kind: Bool, default: "false",
        help: "Leave completions that were cut out of the loss.", ..of(GRPO, &[Train]) },

    // --- rewards ---------------------------------------------------------------------------
    Opt { name: "reward_funcs", kind: List(&Word), default: "accuracy,format", first: true,
        help: "Rewards of a completion: names, file.py:function, module:function, program:path (default: those of task_type, else of VLM-R1).", ..of(REWARDS, SCORES) },
    Opt { name: "reward_weights", kind: List(&Float { min: f64::MIN, max: f64::MAX }),
        help: "One weight per reward function (default: all 1).", ..of(REWARDS, SCORES) },

    Opt { name: "answer_format", kind: Choice(&["think_answer", "reasoning_answer", "answer_explain", "json"]),
        help: "Where completions have reasoning and answer, docs/rewards.md (default: that of task_type, else think_answer).",
        ..of(REWARDS, SCORES) },
    Opt { name: "reward_compat", kind: Choice(&["none", "vlm_r1", "mllm_evaluator", "trl"]), default: "none",
        help: "Reproduce the rewards of a published project with their known holes, for comparison.", ..of(REWARDS, SCORES) },
    Opt { name: "accu_reward_method", kind: Word, default: "default",
        help: "How `accuracy` compares; a row's column of this name goes before it (VLM-R1's).", ..of(REWARDS, SCORES) },
    Opt { name: "box_space", kind: Choice(&["auto", "seen", "thousand", "reference"]), default: "auto",
        help: "The model's boxes: in pixels that it sees, in 0 to 1000, or as the reference boxes are (auto: by family).",
        ..of(REWARDS, SCORES) },
    Opt { name: "soft_overlong_cache", aliases: &["soft_cache_length"], kind: COUNT,
        help: "Tokens before max_completion_length from which on `soft_overlong` and `length` punish (default: a fifth of it).",
        ..of(REWARDS, SCORES) },
    Opt { name: "cosine_max_length", aliases: &["cosine_max_len"], kind: COUNT,
        help: "Tokens at which the curve of `cosine_scaled` ends (default: max_completion_length).", ..of(REWARDS, SCORES) },
    Opt { name: "cosine_min_length_value_wrong", aliases: &["cosine_min_len_value_wrong"], kind: SIGNED, default: "-1.0",
        help: "`cosine_scaled` of a wrong answer of no length.", ..of(REWARDS, SCORES) },
    Opt { name: "cosine_max_length_value_wrong", aliases: &["cosine_max_len_value_wrong"], kind: SIGNED, default: "-0.5",
        help: "`cosine_scaled` of a wrong answer of full length.", ..of(REWARDS, SCORES) },
    Opt { name: "cosine_min_length_value_correct", aliases: &["cosine_min_len_value_correct"], kind: SIGNED, default: "1.0",
        help: "`cosine_scaled` of a correct answer of no length.", ..of(REWARDS, SCORES) },
    Opt { name: "cosine_max_length_value_correct", aliases: &["cosine_max_len_value_correct"], kind: SIGNED, default: "0.5",
        help: "`cosine_scaled` of a correct answer of full length.", ..of(REWARDS, SCORES) },
    Opt { name: "repetition_n_grams", kind: COUNT, default: "3",
        help: "Words of the n-grams that `repetition` counts.", ..of(REWARDS, SCORES) },
    Opt { name: "repetition_max_penalty", kind: SIGNED, default: "-1.0",
        help: "`repetition` of a text that says one thing over and over.", ..of(REWARDS, SCORES) },
    Opt { name: "sentence_encoder", kind: Path,
        help: "Folder of a sentence encoder (MiniLM) for `reasoning` and `explanation` (default: words are compared).",
        ..of(REWARDS, SCORES) },
    Opt { name: "match_threshold", kind: RATIO,
        help: "Similarity above which two reasoning steps match (default: the encoder's own).", ..of(REWARDS, SCORES) },
    Opt { name: "match_order_weight", kind: RATIO, default: "0.0",
        help: "Share of Match-F1 that depends on the order of the steps (0: none; 0.3 was proposed).", ..of(REWARDS, SCORES) },
    Opt { name: "judge_url", kind: Text,
        help: "Base address of an OpenAI-compatible endpoint that judges answers, such as http://localhost:11434/v1.",
        ..of(REWARDS, SCORES) },
    Opt { name: "judge_model", kind: Text, help: "Name of the judging model.", ..of(REWARDS, SCORES) },
    Opt { name: "judge_key_variable", kind: Word, default: "OPENAI_API_KEY",
        help: "Variable of the environment that holds the endpoint's key, if it wants one.", ..of(REWARDS, SCORES) },
    Opt { name: "judge_timeout", kind: POSITIVE, default: "30",
        help: "Seconds that one question to the judge may take, all attempts together.", ..of(REWARDS, SCORES) },
    Opt { name: "judge_retries", kind: NATURAL, default: "2",
        help: "Attempts after the first, each after a longer pause.", ..of(REWARDS, SCORES) },
    Opt { name: "judge_concurrency", kind: COUNT, default: "8",
        help: "Questions that are open at a time.", ..of(REWARDS, SCORES) },
    Opt { name: "python", kind: Path, default: "python3",
        help: "Python that runs rewards of your own (`--reward_funcs file.py:function`).", ..of(REWARDS, SCORES) },
    Opt { name: "reward_workers", kind: COUNT, default: "1",
        help: "Processes per reward of your own.", ..of(REWARDS, SCORES) },
    Opt { name: "reward_timeout", kind: POSITIVE, default: "30",
        help: "Seconds that a reward of your own may take for one completion; then its process is ended and started again.",
        ..of(REWARDS, SCORES) },

    // --- training --------------------------------------------------------------------------
    Opt { name: "per_device_train_batch_size", aliases: &["batch_size"], kind: COUNT, default: "8", first: true,
        help: "Completions (sft: rows) per batch.", ..of(TRAINING, TUNES) },
    Opt { name: "gradient_accumulation_steps", kind: COUNT, default: "1", first: true,
        help: "Batches per optimizer step.", ..of(TRAINING, TUNES) },
    Opt { name: "max_steps", kind: Int { min: -1 }, default: "-1", first: true,
        help: "Optimizer steps of the run; wins over num_train_epochs (-1: the epochs decide).", ..of(TRAINING, TRAINS) },
    Opt { name: "num_train_epochs", kind: POSITIVE, default: "3.0",
        help: "Passes over the data, where max_steps is -1.", ..of(TRAINING, TRAINS) },
    Opt { name: "learning_rate", aliases: &["lr"], kind: POSITIVE, default: "1e-6", default_of: &[(Sft, "2e-5")], first: true,
        help: "Peak learning rate of AdamW.", ..of(TRAINING, TRAINS) },
    Opt { name: "vision_learning_rate", aliases: &["vit_lr", "vision_tower_lr"], kind: POSITIVE,
        help: "Peak learning rate of the vision tower (default: learning_rate).", ..of(TRAINING, TRAINS) },
    Opt { name: "connector_learning_rate", aliases: &["aligner_lr", "mm_projector_lr"], kind: POSITIVE,
        help: "Peak learning rate of what joins tower and language model (default: learning_rate).", ..of(TRAINING, TRAINS) },
    Opt { name: "lr_scheduler_type", kind: Choice(&["linear", "cosine", "constant", "constant_with_warmup"]), default: "linear",
        help: "Course of the learning rate after warm-up.", ..of(TRAINING, TRAINS) },
    Opt { name: "warmup_steps", kind: NATURAL, default: "0",
        help: "Steps over which the learning rate rises from 0.", ..of(TRAINING, TRAINS) },
    Opt { name: "warmup_ratio", kind: RATIO, default: "0.0",
        help: "Share of all steps over which the learning rate rises from 0.", ..of(TRAINING, TRAINS) },
    Opt { name: "weight_decay", kind: POSITIVE, default: "0.0",
        help: "Decoupled weight decay of AdamW (not on norms and biases).", ..of(TRAINING, TRAINS) },
    Opt { name: "adam_beta1", kind: RATIO, default: "0.9",
        help: "Decay of AdamW's first moment.", ..of(TRAINING, TRAINS) },
    Opt { name: "adam_beta2", kind: RATIO, default: "0.999",
        help: "Decay of AdamW's second moment.", ..of(TRAINING, TRAINS) },
    Opt { name: "adam_epsilon", kind: POSITIVE, default: "1e-8",
        help: "Added to AdamW's denominator.", ..of(TRAINING, TRAINS) },
    Opt { name: "max_grad_norm", kind: POSITIVE, default: "1.0",
        help: "Longer gradients are scaled down to this norm (0: never).", ..of(TRAINING, TRAINS) },
    Opt { name: "seed", kind: NATURAL, default: "42", first: true,
        help: "Everything random follows from it: order, sampling, dropout, new weights.",
        ..of(TRAINING, &[Demo, Train, Sft, Eval, Infer, Init, MakeShapes]) },

    // --- output ----------------------------------------------------------------------------
    Opt { name: "output_dir", kind: Path, default_of: &[(Demo, "grpo-rt-demo")], first: true,
        required: &[Train, Sft, Init, MakeShapes],
        help: "Folder for everything the command writes.", ..of(OUTPUT, WRITES) },
    Opt { name: "overwrite_output_dir", kind: Bool, default: "false",
        help: "Write into a folder that is not empty.", ..of(OUTPUT, WRITES) },
    Opt { name: "run_id", kind: Word,
        help: "Subfolder of output_dir for this run.", ..of(OUTPUT, TRAINS) },
    Opt { name: "save_steps", kind: NATURAL, default: "500", first: true,
        help: "Steps between checkpoints (0: only after the last step).", ..of(OUTPUT, TRAINS) },
    Opt { name: "save_total_limit", kind: COUNT,
        help: "Checkpoints that are kept; the oldest are removed (default: all).", ..of(OUTPUT, TRAINS) },
    Opt { name: "resume_from_checkpoint", kind: BoolOrPath, default: "false", first: true,
        help: "Go on from a checkpoint folder, or (true) from the latest of output_dir.", ..of(OUTPUT, TRAINS) },

    // --- logging ---------------------------------------------------------------------------
    Opt { name: "logging_steps", kind: COUNT, default: "1",
        help: "Steps between two lines of metrics (TRL: 10).", ..of(LOGGING, TRAINS) },
    Opt { name: "report_to", kind: List(&Choice(&["tensorboard", "jsonl", "none"])), default: "tensorboard,jsonl",
        help: "Where metrics go beside the console.", ..of(LOGGING, TRAINS) },
    Opt { name: "logging_dir", kind: Path,
        help: "Folder of the TensorBoard events (default: runs/ in the folder of the run).", ..of(LOGGING, TRAINS) },
    Opt { name: "log_completions", kind: Bool, default: "false",
        help: "Print sample completions with their rewards at every logged step.", ..of(LOGGING, &[Train]) },
    Opt { name: "num_completions_to_print", kind: COUNT,
        help: "How many completions log_completions prints (default: all).", ..of(LOGGING, &[Train]) },
    Opt { name: "quiet", kind: Bool, default: "false",
        help: "Print warnings, errors and results only.", ..of(LOGGING, FILES) },

    // --- evaluation ------------------------------------------------------------------------
    Opt { name: "eval_batch_size", aliases: &["per_device_eval_batch_size"], kind: COUNT, default: "8",
        help: "Completions that are decoded together; does not change any of them.", ..of(EVALUATION, &[Eval]) },
    Opt { name: "do_sample", kind: Bool, default: "false",
        help: "Sample instead of taking the most probable token.", ..of(EVALUATION, &[Eval, Infer]) },
    Opt { name: "num_samples", kind: COUNT, default: "1", default_of: &[(Inspect, "8")],
        help: "Completions per prompt (more than 1 needs do_sample); data inspect: sample prompts on the page.",
        ..of(EVALUATION, &[Eval, Infer, Inspect]) },
    Opt { name: "out", aliases: &["output_file", "output_path"], kind: Path, required: &[Trace],
        help: "File: JSONL of completions (eval, infer) or rows (data convert), HTML (data inspect), safetensors (trace).",
        ..of(EVALUATION, &[Eval, Infer, Inspect, ConvertVivqaX, Trace]) },

    // --- plan ------------------------------------------------------------------------------
    Opt { name: "prompt_tokens", kind: COUNT, default: "512",
        help: "Tokens of the assumed prompt beside those of its images (max_prompt_length decides, if given).",
        ..of(PLANNING, &[Plan]) },
    Opt { name: "prompt_images", kind: NATURAL, default: "1",
        help: "Images of the assumed prompt.", ..of(PLANNING, &[Plan]) },
    Opt { name: "prompt_image_size", kind: Word, default: "1024x768",
        help: "Width and height of each of them in pixels, before min_pixels and max_pixels.", ..of(PLANNING, &[Plan]) },

    // --- new models and data ---------------------------------------------------------------
    Opt { name: "family", kind: Choice(FAMILY_NAMES), default: "qwen2_5_vl",
        help: "Architecture of the new model.", ..of(MAKING, &[Init]) },
    Opt { name: "preset", kind: Word, default: "tiny",
        help: "Size of the new model.", ..of(MAKING, &[Init]) },
    Opt { name: "vocab_size", kind: Int { min: 300 }, default: "1024",
        help: "Size of the new tokenizer's vocabulary (256 bytes and the special tokens are always in it).", ..of(MAKING, &[Init]) },
    Opt { name: "text_files", kind: List(&Path),
        help: "Text files that the new tokenizer is trained on, beside the texts of dataset_name.", ..of(MAKING, &[Init]) },
    Opt { name: "input", aliases: &["input_files"], kind: List(&Path), required: &[ConvertVivqaX],
        help: "Published files to convert, each to rows of its own.", ..of(MAKING, &[ConvertVivqaX]) },
    Opt { name: "num_rows", kind: COUNT, default: "512",
        help: "Rows to make.", ..of(MAKING, &[MakeShapes]) },
    Opt { name: "image_size", kind: Int { min: 28 }, default: "56",
        help: "Width and height of the images.", ..of(MAKING, &[MakeShapes]) },

    // --- one chat --------------------------------------------------------------------------
    Opt { name: "prompt", kind: Text,
        help: "Text of the user's message, after its images.", ..of(CHAT, &[Infer]) },
    Opt { name: "image", aliases: &["images"], kind: List(&Path),
        help: "Image files of the user's message.", ..of(CHAT, &[Infer]) },
    Opt { name: "video", aliases: &["videos"], kind: List(&Path),
        help: "Video files, or folders of frames, of the user's message.", ..of(CHAT, &[Infer]) },
    Opt { name: "messages", kind: Path, required: &[Trace],
        help: "JSON file with the messages of a chat; paths in it start from its folder.", ..of(CHAT, &[Infer, Trace]) },

    // --- trace -----------------------------------------------------------------------------
    Opt { name: "grad", kind: Bool, default: "false",
        help: "Run the backward pass too and write every gradient.", ..of(TRACING, &[Trace]) },

    // --- machine ---------------------------------------------------------------------------
    Opt { name: "config", kind: Path, first: true,
        help: "YAML, TOML or JSON file of options; flags and GRPO_RT_* variables win over it.", ..of(MACHINE, CONFIGURED) },
    Opt { name: "threads", kind: COUNT,
        help: "CPU threads (default: all cores); results do not depend on it.", ..of(MACHINE, COMPUTES) },
    Opt { name: "json", kind: Bool, default: "false",
        help: "Print one JSON object instead of text.", ..of(MACHINE, &[Plan, Inspect, Ops, Doctor]) },
    Opt { name: "op", kind: Word,
        help: "One op of the table alone (default: all).", ..of(MACHINE, &[Ops]) },
    Opt { name: "bench", kind: Bool, default: "false",
        help: "Measure the ops at sizes of real models instead of checking them.", ..of(MACHINE, &[Ops]) },
    Opt { name: "device", kind: Word, default: "cpu", first: true,
        help: "What computes: cpu, or a name that `grpo-rt doctor` gives; plan knows h100, h200 and mi300x too.",
        ..of(MACHINE, PLACED) },
    Opt { name: "matmul", kind: Choice(&["own", "vendor"]), default: "own",
        help: "Whose plain matrix products a device runs; with the vendor's, rollout and training agree but for rounding.",
        ..of(MACHINE, &[Train, Sft, Eval, Infer, Ops]) },
    Opt { name: "memory_budget", kind: Bytes,
        help: "Bytes the program may plan with, such as 24GiB (default: most of the free memory).", ..of(MACHINE, BUDGETED) },
    Opt { name: "vision_cache_size", kind: Bytes,
        help: "Bytes that keep image features, so that an image seen again is not encoded again (default: up to 256MiB).",
        ..of(MACHINE, BUDGETED) },
    Opt { name: "share_prompt", kind: Bool, default: "true",
        help: "Forward a prompt once for all completions of its group; false gives each its own, for comparison.",
        ..of(MACHINE, GROUPED) },
    Opt { name: "micro_batch_tokens", kind: COUNT, default: "4096",
        help: "Tokens of a packed micro-batch; decides memory and speed, not results.", ..of(MACHINE, TUNES) },
    Opt { name: "gradient_checkpointing", kind: BoolOrAuto, default: "auto",
        help: "Recompute activations, to the same bits, not keep them: auto, only what memory_budget demands; or all; or none.",
        ..of(MACHINE, TUNES) },
];
