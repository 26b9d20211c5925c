//! Options: how completions are drawn. Data, no logic.

use super::{
    COUNT, DECODES, ENGINES, GENERATION, GROUPED, NATURAL, Opt, POSITIVE, RATIO, SAMPLES, of,
};
use crate::options::Command::{Eval, Infer, Inspect, Plan, Serve, Train};
use crate::options::Kind::{Bool, Int, List, Text};

#[rustfmt::skip] // one option is one paragraph; a field per line would triple the file
pub(super) const OPTIONS: &[Opt] = &[
    Opt { name: "num_generations", aliases: &["grpo_sample_size"], kind: Int { min: 2 }, default: "8", first: true,
        help: "Completions per prompt: the size G of a group.", ..of(GENERATION, GROUPED) },
    Opt { name: "max_completion_length", aliases: &["max_new_tokens", "generation_max_length"], kind: COUNT, default: "512", first: true,
        help: "Tokens after which a completion is cut.", ..of(GENERATION, &[Train, Eval, Infer, Plan, Inspect, Serve]) },
    Opt { name: "temperature", aliases: &["generation_temperature"], kind: POSITIVE, default: "1.0",
        help: "Divides the logits before sampling.", ..of(GENERATION, SAMPLES) },
    Opt { name: "top_p", aliases: &["generation_top_p"], kind: RATIO, default: "1.0",
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

    Opt { name: "max_num_seqs", aliases: &["vllm_max_num_seqs"], kind: COUNT, default: "256", default_of: &[(Serve, "64")],
        help: "Completions decoded at a time; when one ends, the next takes its place. Decides memory and speed only.",
        ..of(GENERATION, ENGINES) },
    Opt { name: "max_num_batched_tokens", kind: COUNT, default: "2048",
        help: "Tokens of a pass of the rollout; longer prompts go in pieces. Decides memory and speed only.",
        ..of(GENERATION, ENGINES) },
];
