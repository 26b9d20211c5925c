//! Options: where a run is written, and its checkpoints. Data, no logic.

use super::{COUNT, MAKES, NAMED_RUNS, NATURAL, OUTPUT, Opt, TRAINS, WRITES, of};
use crate::train::options::Command::{
    Demo, Infer, Init, MakeShapes, RunsCheckpoints, RunsCompare, RunsDelete, RunsFetch, RunsList,
    RunsLogs, RunsReport, RunsServe, RunsShow, Serve, Sft, Train,
};
use crate::train::options::Kind::{Bool, BoolOrPath, Path, Word};

#[rustfmt::skip] // one option is one paragraph; a field per line would triple the file
pub(super) const OPTIONS: &[Opt] = &[
    Opt { name: "output_dir", kind: Path, first: true,
        default_of: &[(Demo, "grpo-rt-demo"), (RunsList, "."), (RunsShow, "."), (RunsCompare, "."), (RunsReport, "."),
            (RunsDelete, "."), (RunsLogs, "."), (RunsCheckpoints, "."), (RunsFetch, "."), (RunsServe, "."),
            (Infer, "."), (Serve, ".")],
        required: &[Train, Sft, Init, MakeShapes],
        help: "Folder for everything the command writes; of runs: the folder that they are looked for in, three deep.", ..of(OUTPUT, WRITES) },
    Opt { name: "overwrite_output_dir", kind: Bool, default: "false",
        help: "Write into a folder that is not empty.", ..of(OUTPUT, MAKES) },
    Opt { name: "run_id", kind: Word,
        help: "Subfolder of output_dir for this run, and its name for `runs`, `infer` (there also all) and `serve`.", ..of(OUTPUT, NAMED_RUNS) },
    Opt { name: "save_steps", kind: NATURAL, default: "500", first: true,
        help: "Steps between checkpoints (0: only after the last step).", ..of(OUTPUT, TRAINS) },
    Opt { name: "save_total_limit", kind: COUNT,
        help: "Checkpoints that are kept; the oldest are removed (default: all).", ..of(OUTPUT, TRAINS) },
    Opt { name: "resume_from_checkpoint", kind: BoolOrPath, default: "false", first: true,
        help: "Go on from a checkpoint folder, or (true) from the latest of output_dir.", ..of(OUTPUT, TRAINS) },
];
