//! Floor 12: training: a run's folder and checkpoints, prompts to scored completions, the loops, and the memory
//! of a run before there is one.

pub mod checkpoint; // what a run can be continued from
pub mod evaluation; // answers to rows and what they earn
pub mod fit; // does the run fit its memory, and if not, what would
pub mod generation; // prompts to scored completions
pub mod grpo_run; // the training loop
pub mod interrupt; // Ctrl-C and other wishes to stop
pub mod plan; // the memory of a run, before there is one
pub mod prompts; // rows and chats to prompts
pub mod record; // what is kept of completions
pub mod rows; // rows of a data set, bad ones named
pub mod run_dir; // what a run finds in its folder
pub mod run_file; // what a run says about itself, and its lock
pub mod runlog; // the run's folder, metrics, samples, report
pub mod sft_run; // supervised warm start
pub mod step; // what both kinds of run share of an optimizer step
pub mod stream; // rows in the order of a run, encoded ahead
pub mod trace; // one chat with every activation and gradient
pub mod trainable; // what a run trains, as a table
pub mod workspace; // memory, weights, tokenizer, image processor
