//! Options: where a run is written, and its checkpoints. Data, no logic.

use super::{COUNT, MAKES, NAMED_RUNS, NATURAL, OUTPUT, Opt, TRAINS, WRITES, of};
use crate::options::Command::{
    Demo, Eval, Infer, Init, MakeShapes, Merge, RunsCheckpoints, RunsCompare, RunsDelete,
    RunsFetch, RunsList, RunsLogs, RunsReport, RunsServe, RunsShow, Serve, Sft, Train,
};
use crate::options::Kind::{Bool, BoolOrPath, Choice, Path, Word};

#[rustfmt::skip] // one option is one paragraph; a field per line would triple the file
pub(super) const OPTIONS: &[Opt] = &[
    Opt { name: "output_dir", kind: Path, first: true,
        default_of: &[(Demo, "grpo-rt-demo"), (RunsList, "."), (RunsShow, "."), (RunsCompare, "."), (RunsReport, "."),
            (RunsDelete, "."), (RunsLogs, "."), (RunsCheckpoints, "."), (RunsFetch, "."), (RunsServe, "."),
            (Infer, "."), (Eval, "."), (Serve, ".")],
        required: &[Train, Sft, Init, MakeShapes, Merge],
        help: "Folder for everything the command writes; of runs: the folder that they are looked for in, three deep.", ..of(OUTPUT, WRITES) },
    Opt { name: "overwrite_output_dir", kind: Bool, default: "false",
        help: "Write into a folder that is not empty.", ..of(OUTPUT, MAKES) },
    Opt { name: "run_id", kind: Word,
        help: "Subfolder of output_dir for this run, and its name for `runs`, `infer` (there also all), `eval`, `serve`.", ..of(OUTPUT, NAMED_RUNS) },
    Opt { name: "save_strategy", kind: Choice(&["steps", "epoch", "best", "no"]), default: "steps",
        help: "When checkpoints are saved: every save_steps, every epoch, at every best evaluation; never.",
        ..of(OUTPUT, TRAINS) },
    Opt { name: "save_steps", kind: NATURAL, default: "500", first: true,
        help: "Steps between checkpoints (0: only after the last step).", ..of(OUTPUT, TRAINS) },
    Opt { name: "save_total_limit", kind: COUNT,
        help: "Checkpoints that are kept; the oldest are removed, never the last or the best (default: all).",
        ..of(OUTPUT, TRAINS) },
    Opt { name: "save_only_model", kind: Bool, default: "false",
        help: "Checkpoints without the optimizer: smaller, and a run cannot be resumed from them.", ..of(OUTPUT, TRAINS) },
    Opt { name: "load_best_model_at_end", kind: Bool, default: "false",
        help: "The model of output_dir is that of the best evaluation instead of the last step.", ..of(OUTPUT, &[Train]) },
    Opt { name: "metric_for_best_model", kind: Word,
        help: "Figure of the evaluation that the best checkpoint is the best in (default: reward; transformers: loss).",
        ..of(OUTPUT, &[Train]) },
    Opt { name: "greater_is_better", kind: Bool,
        help: "Whether more of it is better (default: unless its name ends in loss).", ..of(OUTPUT, &[Train]) },
    Opt { name: "resume_from_checkpoint", kind: BoolOrPath, default: "false", first: true,
        help: "Go on from a checkpoint folder, or (true) from the latest of output_dir, if there is one yet.", ..of(OUTPUT, TRAINS) },
];
