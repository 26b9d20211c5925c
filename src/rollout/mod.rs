//! Floor 6: the rollout engine: many completions of many prompts, decoded together by the same ops
//! that training runs, with the log-probability of every sampled token.

pub mod cache; // rows of keys and values
pub mod engine; // prefill, decode, stop
pub mod need; // memory, before there are weights
pub mod sequence; // one completion in the making

pub use engine::{Engine, RolloutSettings};
pub use sequence::{Completion, Finish};
