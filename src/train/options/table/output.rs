//! Options: where a run is written, and its checkpoints. Data, no logic.

use super::{COUNT, NATURAL, OUTPUT, Opt, TRAINS, WRITES, of};
use crate::train::options::Command::{Demo, Init, MakeShapes, Merge, Sft, Train};
use crate::train::options::Kind::{Bool, BoolOrPath, Path, Word};

#[rustfmt::skip] // one option is one paragraph; a field per line would triple the file
pub(super) const OPTIONS: &[Opt] = &[
    Opt { name: "output_dir", kind: Path, default_of: &[(Demo, "grpo-rt-demo")], first: true,
        required: &[Train, Sft, Init, MakeShapes, Merge],
        help: "Folder for everything the command writes.", ..of(OUTPUT, WRITES) },
    Opt { name: "overwrite_output_dir", kind: Bool, default: "false",
        help: "Write into a folder that is not empty.", ..of(OUTPUT, WRITES) },
    Opt { name: "run_id", kind: Word,
        help: "Subfolder of output_dir for this run.", ..of(OUTPUT, TRAINS) },
    Opt { name: "save_steps", kind: NATURAL, default: "500", first: true,
        help: "Steps between checkpoints (0: only after the last step).", ..of(OUTPUT, TRAINS) },
    Opt { name: "save_total_limit", kind: COUNT,
        help: "Checkpoints that are kept; the oldest are removed (default: all).", ..of(OUTPUT, TRAINS) },
    Opt { name: "resume_from_checkpoint", kind: BoolOrPath, default: "false", first: true,
        help: "Go on from a checkpoint folder, or (true) from the latest of output_dir.", ..of(OUTPUT, TRAINS) },
];
