//! The option table: the one list from which flags, configuration keys, environment variables,
//! `--help`, the documentation and the spelling suggestions are made. Holds data, no logic. An
//! option stands here only when the program acts on it.

mod chat; // one chat
mod data; // rows, prompts, images and videos
mod evaluation; // measuring a model
mod generation; // how completions are drawn
mod grpo; // the algorithm
mod logging; // what is reported, and where
mod machine;
mod making; // new models and data
mod model; // the model and what of it is trained
mod output; // where a run is written, and its checkpoints
mod plan; // what a plan assumes
mod publish; // models that leave
mod rewards; // what completions earn
mod runs; // runs on disk
mod serve; // the chat endpoint
mod trace; // one pass
mod training; // batches, length of the run, optimizer // device, threads, memory

use super::Command::{
    self, ConvertVivqaX, Demo, Doctor, Eval, Infer, Init, Inspect, MakeShapes, Merge, Ops, Plan,
    Push, RunsCheckpoints, RunsCompare, RunsDelete, RunsFetch, RunsList, RunsLogs, RunsReport,
    RunsServe, RunsShow, Serve, Sft, Trace, Train,
};
use super::Kind::{self, Bool, Float, Int};

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
    /// The commands that take it without its name, as the words that no option claims.
    pub positional: &'static [Command],
    /// A list that is given several times on the command line is all of them together.
    pub gathers: bool,
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
pub(super) const fn of(group: &'static str, commands: &'static [Command]) -> Opt {
    Opt {
        name: "",
        aliases: &[],
        kind: Bool,
        default: "",
        default_of: &[],
        help: "",
        group,
        commands,
        positional: &[],
        gathers: false,
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

/// Names of the tasks, in the order of `settings::tasks::TASKS`.
pub const TASK_NAMES: [&str; 5] = ["vqa", "rec", "vqa_nle", "video_actions", "math"];

const MODEL: &str = "Model";
const DATA: &str = "Data";
const GENERATION: &str = "Generation";
const GRPO: &str = "GRPO";
/// The group of options of rewards.
pub const REWARDS: &str = "Rewards";
const TRAINING: &str = "Training";
const OUTPUT: &str = "Output and checkpoints";
const LOGGING: &str = "Logging";
const MACHINE: &str = "Machine";
const EVALUATION: &str = "Evaluation";
const MAKING: &str = "New models and data";
const PUBLISHING: &str = "Publishing";
const PLANNING: &str = "Plan";
const CHAT: &str = "One chat";
const TRACING: &str = "Trace";
const RUNS: &str = "Runs";
const SERVING: &str = "Chat endpoint";

const TRAINS: &[Command] = &[Train, Sft];
/// What decides the memory of a run.
const TUNES: &[Command] = &[Train, Sft, Plan];
const GROUPED: &[Command] = &[Train, Plan];
/// Commands to which no run can name a model.
const NEEDS_MODEL: &[Command] = &[Train, Sft, Plan, Trace];
/// Commands that read a model folder.
const NAMED: &[Command] = &[Train, Sft, Eval, Infer, Plan, Trace, Inspect, Merge, Serve];
/// Commands that read an adapter.
const ADAPTED: &[Command] = &[Train, Sft, Eval, Infer, Plan, Trace, Merge, Serve];
/// Commands that turn images into tokens.
const PROCESSES: &[Command] = &[Train, Sft, Eval, Infer, Plan, Trace, Inspect, Serve];
const READS: &[Command] = &[Train, Sft, Eval, Inspect];
const FOLDERS: &[Command] = &[Train, Sft, Eval, Inspect, ConvertVivqaX];
/// Commands that make prompts.
const PROMPTS: &[Command] = &[Train, Sft, Eval, Infer, Inspect];
const SYSTEMS: &[Command] = &[Train, Sft, Eval, Infer, Inspect, ConvertVivqaX];
const SAMPLES: &[Command] = &[Train, Eval, Infer];
const DECODES: &[Command] = &[Train, Eval, Infer, Plan];
/// Commands that hold an engine.
const ENGINES: &[Command] = &[Train, Eval, Infer, Plan, Serve];
const SCORES: &[Command] = &[Train, Eval];
/// Commands that fill a folder of their own.
const MAKES: &[Command] = &[Demo, Train, Sft, Init, MakeShapes, ConvertVivqaX, Merge];
/// Commands that have a folder of their own to write to, or look for runs below one.
const WRITES: &[Command] = &[
    Demo,
    Train,
    Sft,
    Init,
    MakeShapes,
    ConvertVivqaX,
    Merge,
    RunsList,
    RunsShow,
    RunsCompare,
    RunsReport,
    RunsDelete,
    RunsLogs,
    RunsCheckpoints,
    RunsFetch,
    RunsServe,
    Infer,
    Eval,
    Serve,
];
/// Commands that name runs.
const RUN_NAMES: &[Command] =
    &[RunsShow, RunsCompare, RunsReport, RunsDelete, RunsLogs, RunsCheckpoints, RunsFetch];
/// Commands that make or name a run.
const NAMED_RUNS: &[Command] = &[
    Train,
    Sft,
    RunsShow,
    RunsCompare,
    RunsReport,
    RunsDelete,
    RunsLogs,
    RunsCheckpoints,
    RunsFetch,
    Infer,
    Eval,
    Serve,
];
const FILES: &[Command] =
    &[Demo, Train, Sft, Eval, Init, MakeShapes, ConvertVivqaX, Trace, Merge, Push];
const CONFIGURED: &[Command] = &[
    Demo,
    Train,
    Sft,
    Eval,
    Infer,
    Plan,
    Init,
    MakeShapes,
    Inspect,
    ConvertVivqaX,
    Trace,
    Merge,
    Push,
    Serve,
];
const BUDGETED: &[Command] = &[Train, Sft, Eval, Infer, Plan, Serve];
/// Commands whose text may be one JSON object.
const PRINTS: &[Command] =
    &[Plan, Inspect, Ops, Doctor, RunsList, RunsShow, RunsCompare, RunsCheckpoints];
/// Commands that compute on a device of the user's choice, or plan for one.
const PLACED: &[Command] = &[Train, Sft, Eval, Infer, Plan, Ops, Serve];
const COMPUTES: &[Command] =
    &[Demo, Train, Sft, Eval, Infer, Init, Inspect, Trace, Doctor, Merge, Serve];

/// Any number.
const SIGNED: Kind = Float { min: f64::MIN, max: f64::MAX };
pub(super) const RATIO: Kind = Float { min: 0.0, max: 1.0 };
pub(super) const POSITIVE: Kind = Float { min: 0.0, max: f64::MAX };
pub(super) const COUNT: Kind = Int { min: 1 };
pub(super) const NATURAL: Kind = Int { min: 0 };

/// Headings in the order of the help and the documentation.
pub const GROUPS: &[&str] = &[
    MODEL, DATA, GENERATION, GRPO, REWARDS, TRAINING, OUTPUT, LOGGING, EVALUATION, PUBLISHING,
    PLANNING, MAKING, CHAT, SERVING, RUNS, TRACING, MACHINE,
];

/// The options by concern, in the order of the help and the documentation.
const CHAPTERS: &[&[Opt]] = &[
    model::OPTIONS,
    data::OPTIONS,
    generation::OPTIONS,
    grpo::OPTIONS,
    rewards::OPTIONS,
    training::OPTIONS,
    output::OPTIONS,
    logging::OPTIONS,
    evaluation::OPTIONS,
    publish::OPTIONS,
    plan::OPTIONS,
    making::OPTIONS,
    chat::OPTIONS,
    serve::OPTIONS,
    runs::OPTIONS,
    trace::OPTIONS,
    machine::OPTIONS,
];

const COUNT_OF_OPTIONS: usize = {
    let (mut count, mut chapter) = (0, 0);
    while chapter < CHAPTERS.len() {
        count += CHAPTERS[chapter].len();
        chapter += 1;
    }
    count
};

/// The chapters one after the other.
const fn joined() -> [Opt; COUNT_OF_OPTIONS] {
    let mut all = [of("", &[]); COUNT_OF_OPTIONS];
    let (mut at, mut chapter) = (0, 0);
    while chapter < CHAPTERS.len() {
        let mut i = 0;
        while i < CHAPTERS[chapter].len() {
            all[at] = CHAPTERS[chapter][i];
            at += 1;
            i += 1;
        }
        chapter += 1;
    }
    all
}

/// Every option of the program. Defaults are those of TRL 1.16 (GRPOConfig, SFTConfig,
/// ModelConfig) unless the help says otherwise.
pub static OPTIONS: &[Opt] = &joined();
