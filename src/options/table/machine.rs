//! Options: device, threads, memory. Data, no logic.

use super::{
    BUDGETED, COMPUTES, CONFIGURED, COUNT, GROUPED, MACHINE, Opt, PLACED, PRINTS, TUNES, of,
};
use crate::options::Command::{Eval, Infer, Ops, Sft, Train};
use crate::options::Kind::{Bool, BoolOrAuto, Bytes, Choice, Path, Word};

#[rustfmt::skip] // one option is one paragraph; a field per line would triple the file
pub(super) const OPTIONS: &[Opt] = &[
    Opt { name: "config", kind: Path, first: true,
        help: "YAML, TOML or JSON file of options; flags and GRPO_RT_* variables win over it.", ..of(MACHINE, CONFIGURED) },
    Opt { name: "threads", kind: COUNT,
        help: "CPU threads (default: all cores); results do not depend on it.", ..of(MACHINE, COMPUTES) },
    Opt { name: "json", kind: Bool, default: "false",
        help: "Print one JSON object instead of text.", ..of(MACHINE, PRINTS) },
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
