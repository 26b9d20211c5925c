//! Floor 14: what is answered over HTTP: the chat endpoint and the pages of runs.

pub mod access; // who may ask
pub mod chat; // OpenAI's chat completions on the engine of training
mod connection; // one connection: a place, and how long it may be idle
pub mod pages; // pages of runs and what they ask for
pub mod server; // listening, limits, the end
