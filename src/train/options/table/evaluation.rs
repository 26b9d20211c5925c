//! Options: measuring a model. Data, no logic.

use super::{COUNT, EVALUATION, Opt, of};
use crate::train::options::Command::{ConvertVivqaX, Eval, Infer, Inspect, Trace};
use crate::train::options::Kind::{Bool, Path};

#[rustfmt::skip] // one option is one paragraph; a field per line would triple the file
pub(super) const OPTIONS: &[Opt] = &[
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
];
