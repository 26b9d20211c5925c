//! Options: measuring a model. Data, no logic.

use super::{COUNT, EVALUATION, Opt, RATIO, of};
use crate::train::options::Command::{ConvertVivqaX, Eval, Infer, Inspect, Trace};
use crate::train::options::Kind::{Bool, List, Path, Word};

#[rustfmt::skip] // one option is one paragraph; a field per line would triple the file
pub(super) const OPTIONS: &[Opt] = &[
    Opt { name: "eval_batch_size", aliases: &["per_device_eval_batch_size"], kind: COUNT, default: "8",
        help: "Completions that are decoded together; does not change any of them.", ..of(EVALUATION, &[Eval]) },
    Opt { name: "do_sample", kind: Bool, default: "false",
        help: "Sample instead of taking the most probable token.", ..of(EVALUATION, &[Eval, Infer]) },
    Opt { name: "num_samples", kind: COUNT, default: "1", default_of: &[(Inspect, "8")],
        help: "Completions per prompt (more than 1 needs do_sample); data inspect: sample prompts on the page.",
        ..of(EVALUATION, &[Eval, Infer, Inspect]) },
    Opt { name: "pass_at_k", aliases: &["pass_k"], kind: List(&COUNT),
        help: "Also pass@k and majority@k of every 0/1 reward, for these k up to num_samples.", ..of(EVALUATION, &[Eval]) },
    Opt { name: "group_by", kind: List(&Word),
        help: "Columns of the data: tables of the rewards for each of their values.", ..of(EVALUATION, &[Eval]) },
    Opt { name: "baseline", kind: Path,
        help: "Compare with: `base` (without the adapter), a model, an adapter, or what eval wrote before (paired test).",
        ..of(EVALUATION, &[Eval]) },
    Opt { name: "compare", kind: List(&Path),
        help: "Further models or adapters (or earlier answers), measured in the same go.", ..of(EVALUATION, &[Eval]) },
    Opt { name: "confidence_level", kind: RATIO, default: "0.95",
        help: "Of the intervals, from 0.5 to 0.999.", ..of(EVALUATION, &[Eval]) },
    Opt { name: "bootstrap_samples", kind: COUNT, default: "10000",
        help: "Draws of bootstrap intervals and permutation tests.", ..of(EVALUATION, &[Eval]) },
    Opt { name: "out_dir", kind: Path,
        help: "Folder for results.json, answers.jsonl and report.html.", ..of(EVALUATION, &[Eval]) },
    Opt { name: "report_rows", kind: COUNT, default: "200",
        help: "Rows with their images in report.html; those that changed and wrong ones come first.", ..of(EVALUATION, &[Eval]) },
    Opt { name: "resume", kind: Bool, default: "false",
        help: "Go on where an evaluation into out_dir was interrupted.", ..of(EVALUATION, &[Eval]) },
    Opt { name: "out", aliases: &["output_file", "output_path"], kind: Path, required: &[Trace],
        help: "File: JSONL of completions (eval, infer) or rows (data convert), HTML (data inspect), safetensors (trace).",
        ..of(EVALUATION, &[Eval, Infer, Inspect, ConvertVivqaX, Trace]) },
];
