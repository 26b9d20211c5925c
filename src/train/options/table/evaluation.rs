//! Options: measuring a model. Data, no logic.

use super::{COUNT, EVALUATION, Opt, POSITIVE, RATIO, SCORES, of};
use crate::train::options::Command::{ConvertVivqaX, Eval, Infer, Inspect, Trace, Train};
use crate::train::options::Kind::{Bool, Choice, Path};

#[rustfmt::skip] // one option is one paragraph; a field per line would triple the file
pub(super) const OPTIONS: &[Opt] = &[
    Opt { name: "eval_strategy", aliases: &["evaluation_strategy"], kind: Choice(&["no", "steps", "epoch"]), default: "no",
        help: "When rewards are measured on eval_dataset while training (no: after the last step, as always).",
        ..of(EVALUATION, &[Train]) },
    Opt { name: "eval_steps", kind: COUNT, default: "100",
        help: "Optimizer steps between two evaluations (transformers: logging_steps).", ..of(EVALUATION, &[Train]) },
    Opt { name: "eval_on_start", kind: Bool, default: "false",
        help: "Measure before the first step, too.", ..of(EVALUATION, &[Train]) },
    Opt { name: "eval_max_rows", kind: COUNT,
        help: "Measure on the first so many rows (default: all).", ..of(EVALUATION, &[Train]) },
    Opt { name: "num_generations_eval", kind: COUNT,
        help: "Completions per prompt of an evaluation; more than 1 are sampled (default: 1, or num_generations if sampled).",
        ..of(EVALUATION, &[Train]) },
    Opt { name: "eval_do_sample", kind: Bool,
        help: "Sample in evaluations during training (default: greedy, unless an option below or above asks for it).",
        ..of(EVALUATION, &[Train]) },
    Opt { name: "eval_temperature", kind: POSITIVE,
        help: "Temperature of evaluations during training (default: temperature).", ..of(EVALUATION, &[Train]) },
    Opt { name: "eval_top_p", kind: RATIO,
        help: "Nucleus of evaluations during training (default: top_p).", ..of(EVALUATION, &[Train]) },
    Opt { name: "eval_batch_size", aliases: &["per_device_eval_batch_size"], kind: COUNT, default: "8",
        default_of: &[(Train, "32")],
        help: "Completions that are decoded together; does not change any of them.", ..of(EVALUATION, SCORES) },
    Opt { name: "do_sample", kind: Bool, default: "false",
        help: "Sample instead of taking the most probable token.", ..of(EVALUATION, &[Eval, Infer]) },
    Opt { name: "num_samples", kind: COUNT, default: "1", default_of: &[(Inspect, "8")],
        help: "Completions per prompt (more than 1 needs do_sample); data inspect: sample prompts on the page.",
        ..of(EVALUATION, &[Eval, Infer, Inspect]) },
    Opt { name: "out", aliases: &["output_file", "output_path"], kind: Path, required: &[Trace],
        help: "File: JSONL of completions (eval, infer) or rows (data convert), HTML (data inspect), safetensors (trace).",
        ..of(EVALUATION, &[Eval, Infer, Inspect, ConvertVivqaX, Trace]) },
];
