//! Options: the model and what of it is trained. Data, no logic.

use super::{ADAPTED, COUNT, MODEL, NAMED, NEEDS_MODEL, Opt, POSITIVE, RATIO, TRAINS, TUNES, of};
use crate::options::Command::Merge;
use crate::options::Kind::{Bool, Choice, List, Path, Text, Word};

#[rustfmt::skip] // one option is one paragraph; a field per line would triple the file
pub(super) const OPTIONS: &[Opt] = &[
    Opt { name: "model_name_or_path", aliases: &["model_name", "model"], kind: Path, first: true, required: NEEDS_MODEL,
        help: "Folder of the model, or its name on the hub (org/name): taken from the cache, else fetched by the hf client.",
        ..of(MODEL, NAMED) },
    Opt { name: "model_revision", kind: Text,
        help: "Branch, tag or commit of a model that is named as on the hub (default: main).", ..of(MODEL, NAMED) },
    Opt { name: "dtype", aliases: &["torch_dtype"], kind: Choice(&["float32", "bfloat16"]), default: "float32",
        default_of: &[(Merge, "")],
        help: "Type of weights and activations; statistics and masters stay float32 (merge: of the files; default: theirs).",
        ..of(MODEL, ADAPTED) },
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
    Opt { name: "adapter", aliases: &["adapter_name_or_path", "adapter_path"], kind: Path, required: &[Merge],
        help: "PEFT LoRA adapter: its folder, a run's, or a name on the hub; training goes on with it (implies use_peft).",
        ..of(MODEL, ADAPTED) },
    Opt { name: "freeze_vision_modules", kind: Bool,
        help: "true keeps the vision tower and its projector as they are, false trains both (default: see tune_mm_*).",
        ..of(MODEL, TUNES) },
    Opt { name: "tune_mm_llm", kind: Bool, default: "true",
        help: "Without LoRA: train the language model.", ..of(MODEL, TUNES) },
    Opt { name: "tune_mm_vision", kind: Bool, default: "false",
        help: "Without LoRA: train the vision tower.", ..of(MODEL, TUNES) },
    Opt { name: "tune_mm_mlp", kind: Bool, default: "false",
        help: "Without LoRA: train the projector between vision tower and language model.", ..of(MODEL, TUNES) },
];
