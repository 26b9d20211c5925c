//! Floor 8: options, the training loop, checkpoints, metrics, evaluation and the report.

pub mod chats; // chats that are answered once
pub mod checkpoint; // what a run can be continued from
pub mod evaluate; // answers to a split and what they earn
pub mod fit; // does the run fit its memory, and if not, what would
pub mod generation; // prompts to scored completions
pub mod grpo_run; // the training loop
pub mod health; // what goes wrong in a run
pub mod infer; // answers to one chat
pub mod inspect; // what a data set holds and what a model sees of it
pub mod interrupt; // Ctrl-C and other wishes to stop
pub mod merging; // `merge`
pub mod options; // the option table: flags, YAML/TOML keys, help, docs
pub mod plan; // the memory of a run, before there is one
pub mod prompts; // rows and chats to prompts
pub mod publish; // model cards, and uploads by the hub's client
pub mod record; // what is kept of completions
pub mod report; // report.html
pub mod run_dir; // what a run finds in its folder
pub mod run_file; // what a run says about itself, and its lock
pub mod runlog; // the run's folder, metrics, samples, report
pub mod settings; // options, typed and checked against each other
pub mod sft_run; // supervised warm start
pub mod sinks; // console, dashboard, files, TensorBoard, Weights & Biases
pub mod speech; // tokens to text as it is heard
pub mod step; // what both kinds of run share of an optimizer step
pub mod stream; // rows in the order of a run, encoded ahead
pub mod tasks; // prompts, answers and rewards of a task
pub mod trace; // one chat with every activation and gradient
pub mod trainable; // what a run trains, as a table
pub mod workspace; // memory, weights, tokenizer, image processor
pub mod writer; // the thread that writes what a run tells
