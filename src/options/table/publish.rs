//! Options: models that leave: merged, described, uploaded. Data, no logic.

use super::{Opt, PUBLISHING, TRAINS, of};
use crate::options::Command::{Merge, Push, Sft, Train};
use crate::options::Kind::{Bool, Bytes, Choice, Path, Text, Word};

#[rustfmt::skip] // one option is one paragraph; a field per line would triple the file
pub(super) const OPTIONS: &[Opt] = &[
    Opt { name: "max_shard_size", kind: Bytes, default: "50GB", default_of: &[(Merge, "5GB")],
        help: "Most bytes of a file of weights; larger models become shards with an index.", ..of(PUBLISHING, &[Train, Sft, Merge]) },
    Opt { name: "folder", aliases: &["local_path"], kind: Path, required: &[Push],
        help: "What is uploaded: the folder of a run, a merged model, a checkpoint.", ..of(PUBLISHING, &[Push]) },
    Opt { name: "push_to_hub", kind: Bool, default: "false",
        help: "Upload the model with its card by the hub's client (hf) when the run has ended.", ..of(PUBLISHING, TRAINS) },
    Opt { name: "hub_model_id", aliases: &["repo_id"], kind: Word, required: &[Push],
        help: "Repository on the hub, `org/name` (train: default is the run's folder, under who is logged in).",
        ..of(PUBLISHING, &[Train, Sft, Push]) },
    Opt { name: "hub_private_repo", aliases: &["private"], kind: Bool, default: "true",
        help: "Make a new repository private (TRL: as the account's default is); an existing one stays as it is.",
        ..of(PUBLISHING, &[Train, Sft, Push]) },
    Opt { name: "hub_strategy", kind: Choice(&["end", "every_save", "checkpoint", "all_checkpoints"]), default: "end",
        help: "When push_to_hub uploads: only `end` is done here (TRL: every_save).", ..of(PUBLISHING, TRAINS) },
    Opt { name: "eval_results", kind: Path,
        help: "Folder of `eval --out_dir` (or its results.json) whose figures go into the card.", ..of(PUBLISHING, &[Push, Merge]) },
    Opt { name: "license", kind: Word,
        help: "Licence named in the card, by its identifier on the hub, such as apache-2.0.", ..of(PUBLISHING, &[Push, Merge]) },
    Opt { name: "commit_message", kind: Text, default: "Upload by grpo-rt",
        help: "Title of the commit on the hub.", ..of(PUBLISHING, &[Push]) },
    Opt { name: "dry_run", kind: Bool, default: "false",
        help: "Show what would be uploaded, and upload nothing.", ..of(PUBLISHING, &[Push]) },
];
