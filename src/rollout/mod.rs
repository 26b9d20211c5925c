//! Floor 6: the rollout engine: many completions of many prompts, decoded together by the same ops
//! that training runs, with the log-probability of every sampled token.

pub mod cache; // rows of keys and values
pub mod engine; // from requests to completions, pass by pass
pub mod layout; // who gets which part of the space above the weights
pub mod need; // memory, before there are weights
pub mod pages; // which rows of the cache belong to whom
pub mod scheduler; // which rows go into the next pass
pub mod sequence; // requests and completions
pub mod session; // requests that come and go while others run

pub use engine::{Engine, EngineSettings, Generated, head_settings};
pub use sequence::{Completion, Finish, Request};
pub use session::{Event, Session};
