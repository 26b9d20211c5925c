//! Options: what is reported, and where. Data, no logic.

use super::{COUNT, FILES, LOGGING, Opt, TRAINS, of};
use crate::options::Command::Train;
use crate::options::Kind::{Bool, Choice, List, Path, Text};

/// Names of the rules of `track::health`, in their order, and `all`.
const ALERTS: &[&str] = &[
    "all",
    "non_finite",
    "reward_collapse",
    "entropy_collapse",
    "length_explosion",
    "repetition",
    "dead_groups",
    "truncation",
    "format_zero",
    "kl_explosion",
    "reward_failures",
];

#[rustfmt::skip] // one option is one paragraph; a field per line would triple the file
pub(super) const OPTIONS: &[Opt] = &[
    Opt { name: "logging_steps", kind: COUNT, default: "1",
        help: "Steps between two lines of metrics (TRL: 10).", ..of(LOGGING, TRAINS) },
    Opt { name: "logging_first_step", kind: Bool, default: "false",
        help: "Log the first step, too.", ..of(LOGGING, TRAINS) },
    Opt { name: "report_to", kind: List(&Choice(&["tensorboard", "wandb", "jsonl", "none", "all"])), default: "tensorboard,jsonl",
        help: "Where metrics go beside the console and metrics.jsonl (none: not there either; all: wandb, too, if it is installed).", ..of(LOGGING, TRAINS) },
    Opt { name: "run_name", kind: Text,
        help: "Name of the run in the trackers (default: its folder's).", ..of(LOGGING, TRAINS) },
    Opt { name: "project", kind: Text,
        help: "Project in Weights & Biases (default: WANDB_PROJECT, else grpo-rt).", ..of(LOGGING, TRAINS) },
    Opt { name: "logging_dir", kind: Path,
        help: "Folder of the TensorBoard events (default: runs/ in the folder of the run).", ..of(LOGGING, TRAINS) },
    Opt { name: "log_completions", kind: Bool, default: "false",
        help: "Print completions with their rewards at every logged step, and show them in the trackers.", ..of(LOGGING, &[Train]) },
    Opt { name: "num_completions_to_print", kind: COUNT,
        help: "How many completions log_completions prints (default: all).", ..of(LOGGING, &[Train]) },
    Opt { name: "log_unique_prompts", kind: Bool, default: "false",
        help: "Print and send only the first completion of each prompt.", ..of(LOGGING, &[Train]) },
    Opt { name: "log_multimodal", kind: Bool, default: "true",
        help: "Show the images of prompts in the trackers.", ..of(LOGGING, &[Train]) },
    Opt { name: "health_alerts", kind: Bool, default: "true",
        help: "Watch for collapse, explosion, repetition, dead groups and the like, and say so.", ..of(LOGGING, TRAINS) },
    Opt { name: "stop_on_alert", kind: List(&Choice(ALERTS)),
        help: "Save and stop as soon as one of these alerts is raised.", ..of(LOGGING, TRAINS) },
    Opt { name: "tui", kind: Bool, default: "false",
        help: "Show the run on the whole terminal: curves, phases, completions, alerts.", ..of(LOGGING, TRAINS) },
    Opt { name: "quiet", kind: Bool, default: "false",
        help: "Print warnings, errors and results only.", ..of(LOGGING, FILES) },
];
