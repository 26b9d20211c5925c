//! Checkpoints: the model in the field's files, the trainer's state in Hugging Face's keys, and
//! what an exact continuation needs in files of our own, with checksums of all of them. A checkpoint
//! is there in full or not at all, and one that is damaged is never loaded.

mod load; // back into the model's places
mod save; // into a folder that appears at once
mod shelf; // the checkpoints of a run: which there are, which go
mod state; // where a run stands
mod sums; // SHA256SUMS

pub use load::{Loaded, load, load_model, load_reference};
pub use save::{Shelf, save, save_model};
pub use shelf::{Found, inspect, latest, ours, remove_oldest};
pub use state::{Best, Exact, Figures, RunState, Window};
pub use sums::{SUMS, summed, verify};

/// Our own file beside the usual ones.
const STATE: &str = "grpo_rt_state.json";
/// Moments of AdamW by canonical parameter name.
const OPTIMIZER: &str = "grpo_rt_optimizer.safetensors";
/// A reference that follows the policy, by canonical parameter name.
const REFERENCE: &str = "grpo_rt_reference.safetensors";
/// The state in transformers' keys, with every row of metrics so far.
const TRAINER: &str = "trainer_state.json";
