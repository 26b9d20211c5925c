//! Options: batches, length of the run, optimizer. Data, no logic.

use super::{COUNT, NATURAL, Opt, POSITIVE, RATIO, READS, TRAINING, TRAINS, TUNES, of};
use crate::options::Command::{
    Demo, Eval, Infer, Init, Inspect, MakeShapes, Plan, Serve, Sft, Train,
};
use crate::options::Kind::{Choice, Int};

#[rustfmt::skip] // one option is one paragraph; a field per line would triple the file
pub(super) const OPTIONS: &[Opt] = &[
    Opt { name: "per_device_train_batch_size", aliases: &["batch_size"], kind: COUNT, default: "8", first: true,
        help: "Completions (sft: rows) per batch; see batch_unit.", ..of(TRAINING, TUNES) },
    Opt { name: "batch_unit", kind: Choice(&["completions", "prompts"]), default: "completions",
        help: "What per_device_train_batch_size counts: completions, as TRL does, or prompts with all of theirs.",
        ..of(TRAINING, &[Train, Plan]) },
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
    Opt { name: "data_seed", kind: NATURAL,
        help: "Seed of the order of rows and of drawn dataset_shares alone (default: seed).", ..of(TRAINING, READS) },
    Opt { name: "seed", kind: NATURAL, default: "42", first: true,
        help: "Everything random follows from it: order, sampling, dropout, new weights.",
        ..of(TRAINING, &[Demo, Train, Sft, Eval, Infer, Serve, Init, MakeShapes, Inspect]) },
];
