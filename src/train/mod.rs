//! Floor 8: options, the training loop, checkpoints, metrics, evaluation and the report.

pub mod options; // the option table: flags, YAML/TOML keys, help, docs
pub mod report; // report.html
pub mod settings; // options, typed and checked against each other
pub mod sinks; // console, metrics.jsonl, TensorBoard
