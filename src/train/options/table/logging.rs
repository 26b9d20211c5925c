//! Options: what is reported, and where. Data, no logic.

use super::{COUNT, FILES, LOGGING, Opt, TRAINS, of};
use crate::train::options::Command::Train;
use crate::train::options::Kind::{Bool, Choice, List, Path};

#[rustfmt::skip] // one option is one paragraph; a field per line would triple the file
pub(super) const OPTIONS: &[Opt] = &[
    Opt { name: "logging_steps", kind: COUNT, default: "1",
        help: "Steps between two lines of metrics (TRL: 10).", ..of(LOGGING, TRAINS) },
    Opt { name: "report_to", kind: List(&Choice(&["tensorboard", "jsonl", "none"])), default: "tensorboard,jsonl",
        help: "Where metrics go beside the console.", ..of(LOGGING, TRAINS) },
    Opt { name: "logging_dir", kind: Path,
        help: "Folder of the TensorBoard events (default: runs/ in the folder of the run).", ..of(LOGGING, TRAINS) },
    Opt { name: "log_completions", kind: Bool, default: "false",
        help: "Print sample completions with their rewards at every logged step.", ..of(LOGGING, &[Train]) },
    Opt { name: "num_completions_to_print", kind: COUNT,
        help: "How many completions log_completions prints (default: all).", ..of(LOGGING, &[Train]) },
    Opt { name: "quiet", kind: Bool, default: "false",
        help: "Print warnings, errors and results only.", ..of(LOGGING, FILES) },
];
